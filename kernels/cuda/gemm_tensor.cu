// A matrix product on tensor cores with what is done to its result: result(a * b). Sums are floats, or integers where elements are.
//
// a: [batch][m][k] of ELEMENT, b: [batch][k][n] where RIGHT_ROWS is 1, else [batch][n][k], of RIGHT: both f16, both bf16, both float as TF32, each of them i8
// or u8, or each of them f8e4m3 or f8e5m2; of 8 bits rows lie together only on the left. What is together lies together, the other stride is given, in elements. Every row begins at a multiple of 16 bytes, and has a multiple of 16 bytes; where a matrix of the batch begins
// `left_begin(batches, z)` and `right_begin(batches, z)` say. The host generates these, and `result4(out, four, count, z,
// row, column)`, which writes four elements beside each other, or as many as there are; it defines TILE_M, TILE_N, WARPS_M, WARPS_N (tiles.cu), and SPLIT (parts.cu).
// Grid: (n / TILE_N, m / TILE_M, rounded up; batch, times the parts of the depth where SPLIT is 1: parts.cu); block: (32 * WARPS_M * WARPS_N); dynamic shared
// memory: STAGES * (TILE_M + TILE_N) * STEP_BYTES.

typedef Tiles<ELEMENT, RIGHT, TILE_M, TILE_N, WARPS_M, WARPS_N, RIGHT_ROWS> Own;

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, BLOCKS) gemm_tensor(Result out, const ELEMENT *a, const RIGHT *b, Batches batches, int left_stride, int right_stride, int m, int n, int k, Parts parts)
{
    DYNAMIC_SHARED(stages);
    Part part = own_part<SPLIT>(parts, (k + Own::STEP - 1) / Own::STEP);
    a += left_begin(batches, part.z);
    b += right_begin(batches, part.z);
    Own own;
    multiply_matrices(own, stages, part, a, left_stride, m, b, right_stride, n, k);
    write_whole<SPLIT>(own, parts, part, m, n, [&](const Own::Sum (&four)[4], int count, int row, int column) { result4(out, four, count, part.z, row, column); });
}
