// Convolutions of one to three spatial axes on tensor cores: a product whose left matrix, a row for each place of the result, is never written down:
// its pieces are copied from the images while earlier ones are multiplied. Sums are floats, or integers where elements are.
//
// x: [n][d][h][w][c] of ELEMENT by strides, channels together; weights: [outputs][kd][kh][kw][c of a group] of RIGHT, without gaps; types are as in
// gemm_tensor.cu. Every pixel begins at a multiple of 16 bytes, and a group's channels are a multiple of 16 bytes, so that a piece is of one pixel. Beyond
// an image are zeros, or, where BEYOND is 1, the 16 bytes at `beyond`: what stands for zero among integers may be another one. Row r of the result is the
// r-th place in [n][od][oh][ow]; the host generates `result4(out, four, count, row, channel)`, which writes four elements beside each other, or as
// many as there are; it defines TILE_M, TILE_N, WARPS_M, WARPS_N (tiles.cu), and SPLIT (parts.cu).
// Grid: (outputs of a group / TILE_N, rows / TILE_M, rounded up; groups, times the parts of the depth where SPLIT is 1: parts.cu); block: (32 * WARPS_M *
// WARPS_N); dynamic shared memory: STAGES * (TILE_M + TILE_N) * STEP_BYTES.

typedef Tiles<ELEMENT, RIGHT, TILE_M, TILE_N, WARPS_M, WARPS_N, 0> Own;

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, BLOCKS) conv_tensor(Result out, const ELEMENT *x, const RIGHT *weights, const ELEMENT *beyond, Window w, Parts parts)
{
    DYNAMIC_SHARED(stages);
    int depths = w.kernel[0] * w.kernel[1] * w.kernel[2] * w.group_inputs;
    Part part = own_part<SPLIT>(parts, (depths + Own::STEP - 1) / Own::STEP);
    int channel0 = part.z * w.group_outputs;
    x += part.z * w.group_inputs;
    weights += (i64)channel0 * depths;
    Own own;
    multiply_windows<Own, BEYOND>(own, stages, part, w, x, beyond, weights, depths);
    write_whole<SPLIT>(own, parts, part, w.rows, w.group_outputs, [&](const Own::Sum (&four)[4], int count, int row, int column) { result4(out, four, count, row, channel0 + column); });
}
