// A matrix product with what is done to its result: result(a * b). The product that takes anything, and the one that others are checked against.
//
// a: [batch][m][k] of LEFT, b: [batch][k][n] of RIGHT, each with strides (in elements) between rows and between columns; where a matrix of the batch
// begins `left_begin(batches, z)` and `right_begin(batches, z)` say. The host generates these and `result(out, value, z, row, column)`, which
// writes. Sums are in SUM. A block computes 64 x 64 elements, each of its 256 threads 4 x 4 of them, in steps of 16 products that lie in shared memory.
// Grid: (n / 64, m / 64, rounded up; batch); block: (256).

#define GEMM_TILE 64
#define GEMM_STEP 16
#define GEMM_EACH 4

struct Matrix {
    int row_stride, column_stride;
};

extern "C" __global__ void __launch_bounds__(256) gemm(Result out, const LEFT *a, const RIGHT *b, Batches batches, Matrix left, Matrix right, int m, int n, int k)
{
    __shared__ SUM tile_a[GEMM_STEP][GEMM_TILE + 4], tile_b[GEMM_STEP][GEMM_TILE + 4];
    a += left_begin(batches, blockIdx.z);
    b += right_begin(batches, blockIdx.z);
    int row0 = blockIdx.y * GEMM_TILE, column0 = blockIdx.x * GEMM_TILE;
    int own_row = threadIdx.x / 16 * GEMM_EACH, own_column = threadIdx.x % 16 * GEMM_EACH;
    SUM sums[GEMM_EACH][GEMM_EACH] = {};
    for (int step = 0; step < k; step += GEMM_STEP) {
        for (int i = threadIdx.x; i < GEMM_TILE * GEMM_STEP; i += blockDim.x) {
            // Neighbouring threads read neighbouring elements, whichever way the matrix lies.
            int major = i / GEMM_STEP, minor = i % GEMM_STEP;
            if (left.column_stride != 1)
                major = i % GEMM_TILE, minor = i / GEMM_TILE;
            int row = row0 + major, depth = step + minor;
            tile_a[minor][major] = row < m && depth < k ? (SUM)load(a[(i64)row * left.row_stride + (i64)depth * left.column_stride]) : (SUM)0;
        }
        for (int i = threadIdx.x; i < GEMM_TILE * GEMM_STEP; i += blockDim.x) {
            int major = i / GEMM_TILE, minor = i % GEMM_TILE;
            if (right.column_stride != 1)
                major = i % GEMM_STEP, minor = i / GEMM_STEP;
            int column = column0 + minor, depth = step + major;
            tile_b[major][minor] = column < n && depth < k ? (SUM)load(b[(i64)depth * right.row_stride + (i64)column * right.column_stride]) : (SUM)0;
        }
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < GEMM_STEP; depth++)
#pragma unroll
            for (int i = 0; i < GEMM_EACH; i++)
#pragma unroll
                for (int j = 0; j < GEMM_EACH; j++)
                    sums[i][j] += tile_a[depth][own_row + i] * tile_b[depth][own_column + j];
        // Before the next step is written over this one.
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < GEMM_EACH; i++)
#pragma unroll
        for (int j = 0; j < GEMM_EACH; j++) {
            int row = row0 + own_row + i, column = column0 + own_column + j;
            if (row < m && column < n)
                result(out, sums[i][j], blockIdx.z, row, column);
        }
}
