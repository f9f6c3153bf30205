// Convolutions of one to three spatial axes, of tensors that lie however their strides say. The window's `taps` are channels of a group, width and height
// of the kernel.
//
// x: [n][d][h][w][c] of LEFT by strides; weights: [kd][kh][kw][c of a group][outputs] of RIGHT, without gaps; sums in SUM. Row r of the result is the
// r-th place in [n][od][oh][ow]; the host generates `result(out, value, row, channel)`, which writes. Where CENTRED is 1, elements of x count from `zero`.
// conv: a product whose left matrix is never written down: a block computes 64 places of 64 channels of one group, as gemm.cu does.
//   Grid: (outputs of a group / 64, rows / 64, rounded up; groups); block: (256).
// conv_direct: a thread a result, for groups of few outputs. conv_transposed: the same for the transposed convolution, where `stride` is the
//   step between two inputs' places in the result. Grid: enough for all results; block: any.

#ifndef CENTRED
#define CENTRED 0
#endif
#define CONV_TILE 64
#define CONV_STEP 16
#define CONV_EACH 4

extern "C" __global__ void __launch_bounds__(256) conv(Result out, const LEFT *x, const RIGHT *weights, Window w, const LEFT *zero)
{
    __shared__ SUM tile_x[CONV_STEP][CONV_TILE + 4], tile_w[CONV_STEP][CONV_TILE + 4];
    int row0 = blockIdx.y * CONV_TILE, column0 = blockIdx.x * CONV_TILE, group = blockIdx.z;
    int own_row = threadIdx.x / 16 * CONV_EACH, own_column = threadIdx.x % 16 * CONV_EACH;
    int depths = w.kernel[0] * w.kernel[1] * w.kernel[2] * w.group_inputs;
    SUM from = CENTRED ? (SUM)load(*zero) : (SUM)0;
    // What this thread reads of the input: one depth of a step, and four rows.
    int depth_in_step = threadIdx.x % CONV_STEP;
    Place begins[CONV_EACH];
    bool is_row[CONV_EACH];
#pragma unroll
    for (int j = 0; j < CONV_EACH; j++) {
        int row = row0 + threadIdx.x / CONV_STEP + j * CONV_STEP;
        is_row[j] = row < w.rows;
        begins[j] = begin_of(w, is_row[j] ? row : 0);
    }
    SUM sums[CONV_EACH][CONV_EACH] = {};
    for (int step = 0; step < depths; step += CONV_STEP) {
        int depth = step + depth_in_step;
        unsigned tap = quotient(depth, w.taps[0]);
        int channel = depth - tap * w.taps[0].by + group * w.group_inputs;
        Place shift = shift_of(w, tap);
#pragma unroll
        for (int j = 0; j < CONV_EACH; j++) {
            int z = begins[j].z + shift.z, y = begins[j].y + shift.y, p = begins[j].x + shift.x;
            i64 at = (i64)begins[j].image * w.x_stride[0] + element_at(w, z, y, p) + (i64)channel * w.x_stride[4];
            bool is_there = is_row[j] && depth < depths && is_inside(w, z, y, p);
            tile_x[depth_in_step][threadIdx.x / CONV_STEP + j * CONV_STEP] = is_there ? (SUM)load(x[at]) - from : (SUM)0;
        }
        for (int i = threadIdx.x; i < CONV_TILE * CONV_STEP; i += blockDim.x) {
            int column = column0 + i % CONV_TILE, row = step + i / CONV_TILE;
            bool is_there = column < w.group_outputs && row < depths;
            tile_w[i / CONV_TILE][i % CONV_TILE] = is_there ? (SUM)load(weights[(i64)row * w.outputs + group * w.group_outputs + column]) : (SUM)0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < CONV_STEP; k++)
#pragma unroll
            for (int i = 0; i < CONV_EACH; i++)
#pragma unroll
                for (int j = 0; j < CONV_EACH; j++)
                    sums[i][j] += tile_x[k][own_row + i] * tile_w[k][own_column + j];
        // Before the next step is written over this one.
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < CONV_EACH; i++)
#pragma unroll
        for (int j = 0; j < CONV_EACH; j++) {
            int row = row0 + own_row + i, column = column0 + own_column + j;
            if (row < w.rows && column < w.group_outputs)
                result(out, sums[i][j], row, group * w.group_outputs + column);
        }
}
