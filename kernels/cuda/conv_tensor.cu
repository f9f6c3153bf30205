// Convolutions of one to three spatial axes on tensor cores: a product whose left matrix, a row for each place of the result, is never written down:
// its pieces are copied from the images while earlier ones are multiplied. Sums are floats, or integers where elements are.
//
// x: [n][d][h][w][c] of ELEMENT by strides, channels together; weights: [outputs][kd][kh][kw][c of a group] of RIGHT, without gaps; types are as in
// gemm_tensor.cu. Every pixel begins at a multiple of 16 bytes, and a group's channels are a multiple of 16 bytes, so that a piece is of one pixel. Beyond
// an image are zeros, or, where BEYOND is 1, the 16 bytes at `beyond`: what stands for zero among integers may be another one. Row r of the result is the
// r-th place in [n][od][oh][ow]; the host generates `result(out, value, row, channel)` and `result2(out, value, next, row, channel)`, which write one
// element or two beside each other; it defines TILE_M, TILE_N, WARPS_M, WARPS_N (tensor_tiles.cu).
// Grid: (outputs of a group / TILE_N, rows / TILE_M, rounded up; groups); block: (32 * WARPS_M * WARPS_N); dynamic shared memory: STAGES *
// (TILE_M + TILE_N) * STEP_BYTES.

typedef Tiles<ELEMENT, RIGHT, TILE_M, TILE_N, WARPS_M, WARPS_N, 0> Own;

// As conv.cu has it.
struct Window {
    int x_stride[5];
    int length[3], kernel[3], stride[3], dilation[3], pad[3];
    int rows, outputs, group_inputs, group_outputs;
    Divide out[3];  // lengths of the result's spatial axes
    Divide taps[3]; // channels of a group, width and height of the kernel
};

// A row's pieces: a thread copies the same piece of every EACH_ROW-th row.
#define PIECES (STEP_BYTES / PIECE_BYTES)
#define EACH_ROW (Own::THREADS / PIECES)
#define EACH_PLACE (TILE_M / EACH_ROW)

// Where the window of a row begins; a row that is none begins where no image is.
struct Begin {
    int image, z, y, x;
};
__device__ __forceinline__ Begin begin_of(const Window &w, int row)
{
    if (row >= w.rows)
        return Begin{0, -(1 << 30), 0, 0};
    unsigned by_w = quotient(row, w.out[2]), x = row - by_w * w.out[2].by;
    unsigned by_h = quotient(by_w, w.out[1]), y = by_w - by_h * w.out[1].by;
    unsigned image = quotient(by_h, w.out[0]), z = by_h - image * w.out[0].by;
    return Begin{(int)image * w.x_stride[0], (int)z * w.stride[0] - w.pad[0], (int)y * w.stride[1] - w.pad[1], (int)x * w.stride[2] - w.pad[2]};
}

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, BLOCKS) conv_tensor(Result out, const ELEMENT *x, const RIGHT *weights, const ELEMENT *beyond, Window w)
{
    DYNAMIC_SHARED(stages);
    int row0 = blockIdx.y * TILE_M, column0 = blockIdx.x * TILE_N, group = blockIdx.z;
    int depths = w.kernel[0] * w.kernel[1] * w.kernel[2] * w.group_inputs, steps = (depths + Own::STEP - 1) / Own::STEP;
    int own_place = threadIdx.x / PIECES, own_piece = threadIdx.x % PIECES;
    x += group * w.group_inputs;
    weights += (i64)group * w.group_outputs * depths;
    Begin begins[EACH_PLACE];
#pragma unroll
    for (int i = 0; i < EACH_PLACE; i++)
        begins[i] = begin_of(w, row0 + own_place + i * EACH_ROW);
    Own own;
    own.clear();
    // The first STAGES - 1 steps are on their way before the first is multiplied; groups without a copy keep the count.
#pragma unroll 1
    for (int step = 1 - STAGES; step < steps; step++) {
        if (step >= 0) {
            copy_async_wait<STAGES - 2>();
            // Everybody's copies are there, and everybody is done with the stage that is written next.
            __syncthreads();
        }
        int ahead = step + STAGES - 1;
        if (ahead < steps) {
            unsigned char *stage = stages + ahead % STAGES * Own::STAGE_BYTES;
            int depth = ahead * Own::STEP + own_piece * Own::ELEMENTS;
            unsigned tap = quotient(depth, w.taps[0]), by_w = quotient(tap, w.taps[1]), by_h = quotient(by_w, w.taps[2]);
            int channel = depth - tap * w.taps[0].by;
            int right = (int)(tap - by_w * w.taps[1].by) * w.dilation[2], down = (int)(by_w - by_h * w.taps[2].by) * w.dilation[1], in = (int)by_h * w.dilation[0];
#pragma unroll
            for (int i = 0; i < EACH_PLACE; i++) {
                int pz = begins[i].z + in, py = begins[i].y + down, px = begins[i].x + right;
                bool is_there = depth < depths && (unsigned)pz < (unsigned)w.length[0] && (unsigned)py < (unsigned)w.length[1] && (unsigned)px < (unsigned)w.length[2];
                int at = begins[i].image + pz * w.x_stride[1] + py * w.x_stride[2] + px * w.x_stride[3] + channel;
                copy_async_16(stage + deep_place(own_place + i * EACH_ROW, own_piece), is_there ? x + at : beyond, is_there || BEYOND);
            }
            Own::copy_right(stage, weights, depths, column0, w.group_outputs, ahead * Own::STEP, depths);
        }
        copy_async_commit();
        if (step >= 0)
            own.multiply(stages + step % STAGES * Own::STAGE_BYTES);
    }
    own.for_pairs([&](Own::Sum value, Own::Sum next, int own_row, int own_column) {
        int row = row0 + own_row, column = column0 + own_column, channel = group * w.group_outputs + column;
        if (row >= w.rows || column >= w.group_outputs)
            return;
        if (column + 1 < w.group_outputs)
            result2(out, value, next, row, channel);
        else
            result(out, value, row, channel);
    });
}
