// A matrix product with what is done to its result: y = activation(a * b + bias + residual), f32 throughout. The product that is there when no library
// is, and the one that libraries are checked against.
//
// a: [batch][m][k], b: [batch][k][n], y and residual: [batch][m][n]; strides between matrices in elements (0 repeats one); bias: [n]. bias and residual may
// be null. A block computes 64 x 64 elements, each of its 256 threads 4 x 4 of them, in steps of 16 products that lie in shared memory.
// Grid: (n / 64 and m / 64, rounded up; batch); block: (256, 1, 1).

#define GEMM_TILE 64
#define GEMM_STEP 16
#define GEMM_EACH 4

// As `Epilogue` of the graph names them.
enum { ACTIVATION_NONE, ACTIVATION_RELU, ACTIVATION_GELU, ACTIVATION_SIGMOID, ACTIVATION_TANH, ACTIVATION_SILU };

__device__ __forceinline__ float activated(float x, int activation)
{
    switch (activation) {
    case ACTIVATION_RELU: return fmaxf(x, 0.0f);
    case ACTIVATION_GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case ACTIVATION_SIGMOID: return 1.0f / (1.0f + expf(-x));
    case ACTIVATION_TANH: return tanhf(x);
    case ACTIVATION_SILU: return x / (1.0f + expf(-x));
    default: return x;
    }
}

extern "C" __global__ void __launch_bounds__(256) gemm_f32(float *y, const float *a, const float *b, const float *bias, const float *residual, int m,
                                                           int n, int k, long long a_stride, long long b_stride, int activation)
{
    __shared__ float left[GEMM_STEP][GEMM_TILE + 4], right[GEMM_STEP][GEMM_TILE + 4];
    a += blockIdx.z * a_stride;
    b += blockIdx.z * b_stride;
    size_t made = (size_t)blockIdx.z * m * n;
    int row0 = blockIdx.y * GEMM_TILE, column0 = blockIdx.x * GEMM_TILE;
    int own_row = threadIdx.x / 16 * GEMM_EACH, own_column = threadIdx.x % 16 * GEMM_EACH;
    float sums[GEMM_EACH][GEMM_EACH] = {};
    for (int step = 0; step < k; step += GEMM_STEP) {
        for (int i = threadIdx.x; i < GEMM_TILE * GEMM_STEP; i += blockDim.x) {
            int row = row0 + i / GEMM_STEP, depth = step + i % GEMM_STEP;
            left[i % GEMM_STEP][i / GEMM_STEP] = row < m && depth < k ? a[(size_t)row * k + depth] : 0.0f;
        }
        for (int i = threadIdx.x; i < GEMM_TILE * GEMM_STEP; i += blockDim.x) {
            int column = column0 + i % GEMM_TILE, depth = step + i / GEMM_TILE;
            right[i / GEMM_TILE][i % GEMM_TILE] = column < n && depth < k ? b[(size_t)depth * n + column] : 0.0f;
        }
        __syncthreads();
        for (int depth = 0; depth < GEMM_STEP; depth++)
            for (int i = 0; i < GEMM_EACH; i++)
                for (int j = 0; j < GEMM_EACH; j++)
                    sums[i][j] += left[depth][own_row + i] * right[depth][own_column + j];
        // Before the next step is written over this one.
        __syncthreads();
    }
    for (int i = 0; i < GEMM_EACH; i++)
        for (int j = 0; j < GEMM_EACH; j++) {
            int row = row0 + own_row + i, column = column0 + own_column + j;
            if (row >= m || column >= n)
                continue;
            size_t at = made + (size_t)row * n + column;
            float value = sums[i][j] + (bias ? bias[column] : 0.0f) + (residual ? residual[at] : 0.0f);
            y[at] = activated(value, activation);
        }
}
