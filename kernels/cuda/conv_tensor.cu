// Convolutions of one to three spatial axes on tensor cores: a product whose left matrix, a row for each place of the result, is never written down:
// its pieces are copied from the images while earlier ones are multiplied. Sums are floats, or integers where elements are.
//
// x: [n][d][h][w][c] of ELEMENT by strides, channels together; weights: [outputs][kd][kh][kw][c of a group] of RIGHT, without gaps; types are as in
// gemm_tensor.cu. Every pixel begins at a multiple of 16 bytes, and a group's channels are a multiple of 16 bytes, so that a piece is of one pixel. Beyond
// an image are zeros, or, where BEYOND is 1, the 16 bytes at `beyond`: what stands for zero among integers may be another one. Row r of the result is the
// r-th place in [n][od][oh][ow]; the host generates `result4(out, four, count, row, channel)`, which writes four elements beside each other, or as
// many as there are; it defines TILE_M, TILE_N, WARPS_M, WARPS_N (tensor_tiles.cu), and SPLIT (parts.cu).
// Grid: (outputs of a group / TILE_N, rows / TILE_M, rounded up; groups, times the parts of the depth where SPLIT is 1: parts.cu); block: (32 * WARPS_M *
// WARPS_N); dynamic shared memory: STAGES * (TILE_M + TILE_N) * STEP_BYTES.

typedef Tiles<ELEMENT, RIGHT, TILE_M, TILE_N, WARPS_M, WARPS_N, 0> Own;

// A row's pieces: a thread copies the same piece of every EACH_ROW-th row.
#define PIECES (STEP_BYTES / PIECE_BYTES)
#define EACH_ROW (Own::THREADS / PIECES)
#define EACH_PLACE (TILE_M / EACH_ROW)

// Where the window of a row begins; a row that is none begins where no image is.
__device__ __forceinline__ Place begin_of_row(const Window &w, int row)
{
    if (row >= w.rows)
        return Place{0, -(1 << 30), 0, 0};
    Place begin = begin_of(w, row);
    begin.image *= w.x_stride[0];
    return begin;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, BLOCKS) conv_tensor(Result out, const ELEMENT *x, const RIGHT *weights, const ELEMENT *beyond, Window w, Parts parts)
{
    DYNAMIC_SHARED(stages);
    int depths = w.kernel[0] * w.kernel[1] * w.kernel[2] * w.group_inputs;
    Part part = own_part<SPLIT>(parts, (depths + Own::STEP - 1) / Own::STEP);
    int row0 = blockIdx.y * TILE_M, column0 = blockIdx.x * TILE_N, group = part.z;
    int own_place = threadIdx.x / PIECES, own_piece = threadIdx.x % PIECES;
    x += group * w.group_inputs;
    weights += (i64)group * w.group_outputs * depths;
    Place begins[EACH_PLACE];
#pragma unroll
    for (int i = 0; i < EACH_PLACE; i++)
        begins[i] = begin_of_row(w, row0 + own_place + i * EACH_ROW);
    Own own;
    own.clear();
    // The first STAGES - 1 steps are on their way before the first is multiplied; groups without a copy keep the count.
#pragma unroll 1
    for (int step = part.begin + 1 - STAGES; step < part.end; step++) {
        if (step >= part.begin) {
            copy_async_wait<STAGES - 2>();
            // Everybody's copies are there, and everybody is done with the stage that is written next.
            __syncthreads();
        }
        int ahead = step + STAGES - 1;
        if (ahead < part.end) {
            unsigned char *stage = stages + ahead % STAGES * Own::STAGE_BYTES;
            int depth = ahead * Own::STEP + own_piece * Own::ELEMENTS;
            unsigned tap = quotient(depth, w.taps[0]);
            int channel = depth - tap * w.taps[0].by;
            Place shift = shift_of(w, tap);
#pragma unroll
            for (int i = 0; i < EACH_PLACE; i++) {
                int pz = begins[i].z + shift.z, py = begins[i].y + shift.y, px = begins[i].x + shift.x;
                bool is_there = depth < depths && is_inside(w, pz, py, px);
                int at = begins[i].image + pz * w.x_stride[1] + py * w.x_stride[2] + px * w.x_stride[3] + channel;
                copy_async_16(stage + deep_place(own_place + i * EACH_ROW, own_piece), is_there ? x + at : beyond, is_there || BEYOND);
            }
            Own::copy_right(stage, weights, depths, column0, w.group_outputs, ahead * Own::STEP, depths);
        }
        copy_async_commit();
        if (step >= part.begin)
            own.multiply(stages + step % STAGES * Own::STAGE_BYTES);
    }
    if (!is_whole<SPLIT>(own, parts, part))
        return;
    own.for_fours([&](const Own::Sum (&four)[4], int own_row, int own_column) {
        int row = row0 + own_row, column = column0 + own_column;
        if (row < w.rows && column < w.group_outputs)
            result4(out, four, w.group_outputs - column, row, group * w.group_outputs + column);
    });
}
