// Convolutions of one to three spatial axes (fewer are given as axes of one element in front), of tensors that lie however their strides say.
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

struct Window {
    // Of the input, in elements: image, three spatial axes, channel.
    int x_stride[5];
    int length[3], kernel[3], stride[3], dilation[3], pad[3];
    int rows, outputs, group_inputs, group_outputs;
    Divide out[3];  // lengths of the result's spatial axes
    Divide taps[3]; // channels of a group, width and height of the kernel
};

// A place in the result: the image, and where its window begins.
struct Place {
    int image, begin[3];
};

__device__ __forceinline__ Place place_of(const Window &w, int row)
{
    unsigned rest = row;
    unsigned by_w = quotient(rest, w.out[2]), x = rest - by_w * w.out[2].by;
    unsigned by_h = quotient(by_w, w.out[1]), y = by_w - by_h * w.out[1].by;
    unsigned image = quotient(by_h, w.out[0]), z = by_h - image * w.out[0].by;
    return Place{(int)image, {(int)z, (int)y, (int)x}};
}

extern "C" __global__ void __launch_bounds__(256) conv(Result out, const LEFT *x, const RIGHT *weights, Window w, const LEFT *zero)
{
    __shared__ SUM tile_x[CONV_STEP][CONV_TILE + 4], tile_w[CONV_STEP][CONV_TILE + 4];
    int row0 = blockIdx.y * CONV_TILE, column0 = blockIdx.x * CONV_TILE, group = blockIdx.z;
    int own_row = threadIdx.x / 16 * CONV_EACH, own_column = threadIdx.x % 16 * CONV_EACH;
    int depths = w.kernel[0] * w.kernel[1] * w.kernel[2] * w.group_inputs;
    SUM from = CENTRED ? (SUM)load(*zero) : (SUM)0;
    // What this thread reads of the input: one depth of a step, and four rows.
    int depth_in_step = threadIdx.x % CONV_STEP;
    Place places[CONV_EACH];
    i64 images[CONV_EACH];
    bool is_row[CONV_EACH];
#pragma unroll
    for (int j = 0; j < CONV_EACH; j++) {
        int row = row0 + threadIdx.x / CONV_STEP + j * CONV_STEP;
        is_row[j] = row < w.rows;
        places[j] = place_of(w, is_row[j] ? row : 0);
        images[j] = (i64)places[j].image * w.x_stride[0];
        for (int a = 0; a < 3; a++)
            places[j].begin[a] = places[j].begin[a] * w.stride[a] - w.pad[a];
    }
    SUM sums[CONV_EACH][CONV_EACH] = {};
    for (int step = 0; step < depths; step += CONV_STEP) {
        int depth = step + depth_in_step;
        unsigned tap = quotient(depth, w.taps[0]);
        int channel = depth - tap * w.taps[0].by + group * w.group_inputs;
        unsigned by_w = quotient(tap, w.taps[1]), kx = tap - by_w * w.taps[1].by;
        unsigned kz = quotient(by_w, w.taps[2]), ky = by_w - kz * w.taps[2].by;
        int shift[3] = {(int)kz * w.dilation[0], (int)ky * w.dilation[1], (int)kx * w.dilation[2]};
#pragma unroll
        for (int j = 0; j < CONV_EACH; j++) {
            bool is_inside = is_row[j] && depth < depths;
            i64 at = images[j] + (i64)channel * w.x_stride[4];
            for (int a = 0; a < 3; a++) {
                int place = places[j].begin[a] + shift[a];
                is_inside = is_inside && place >= 0 && place < w.length[a];
                at += (i64)place * w.x_stride[1 + a];
            }
            tile_x[depth_in_step][threadIdx.x / CONV_STEP + j * CONV_STEP] = is_inside ? (SUM)load(x[at]) - from : (SUM)0;
        }
        for (int i = threadIdx.x; i < CONV_TILE * CONV_STEP; i += blockDim.x) {
            int column = column0 + i % CONV_TILE, row = step + i / CONV_TILE;
            bool is_inside = column < w.group_outputs && row < depths;
            tile_w[i / CONV_TILE][i % CONV_TILE] = is_inside ? (SUM)load(weights[(i64)row * w.outputs + group * w.group_outputs + column]) : (SUM)0;
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
