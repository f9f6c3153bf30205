// Layer normalisation over the last axis, of a sum where there is a residual: y = (s - mean(s)) / sqrt(mean((s - mean(s))^2) + epsilon)
// * scale + bias, s = x + residual (Ba et al. 2016, equation 3). One row a block; the row is read again rather than kept, it is in the cache.
//
// x, residual, y, sum: [rows][columns], f32; residual and sum may be null, and sum, where it is not, gets s. scale, bias: [columns].
// Grid: (rows, 1, 1); block: a multiple of 32 threads.

extern "C" __global__ void layer_norm(float *y, float *sum, const float *x, const float *residual, const float *scale, const float *bias,
                                      int columns, float epsilon)
{
    size_t begin = (size_t)blockIdx.x * columns;
    float total = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        total += x[begin + i] + (residual ? residual[begin + i] : 0.0f);
    float mean = block_sum(total) / columns;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float centred = x[begin + i] + (residual ? residual[begin + i] : 0.0f) - mean;
        squares += centred * centred;
    }
    float factor = rsqrtf(block_sum(squares) / columns + epsilon);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float value = x[begin + i] + (residual ? residual[begin + i] : 0.0f);
        if (sum)
            sum[begin + i] = value;
        y[begin + i] = (value - mean) * factor * scale[i] + bias[i];
    }
}
