// A matrix product of floats as they are with what is done to its result: result(a * b). In all else it is gemm_tensor.cu: what lies how, what the host
// generates and defines, the grid, the block and its shared memory.

typedef FloatTiles<TILE_M, TILE_N, WARPS_M, WARPS_N, RIGHT_ROWS> Own;

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, 1) gemm_float(Result out, const float *a, const float *b, Batches batches, int left_stride, int right_stride, int m, int n, int k, Parts parts)
{
    DYNAMIC_SHARED(stages);
    Part part = own_part<SPLIT>(parts, (k + Own::STEP - 1) / Own::STEP);
    a += left_begin(batches, part.z);
    b += right_begin(batches, part.z);
    Own own;
    multiply_matrices(own, stages, part, a, left_stride, m, b, right_stride, n, k);
    write_whole<SPLIT>(own, parts, part, m, n, [&](const Own::Sum (&four)[4], int count, int row, int column) { result4(out, four, count, part.z, row, column); });
}
