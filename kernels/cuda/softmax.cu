// Softmax over the last axis: y = exp(x - max) / sum(exp(x - max)), one row a block.
//
// x, y: [rows][columns], f32; they may be the same. Grid: (rows, 1, 1); block: a multiple of 32 threads.

extern "C" __global__ void softmax_rows(float *y, const float *x, int columns)
{
    const float *row = x + (size_t)blockIdx.x * columns;
    float *to = y + (size_t)blockIdx.x * columns;
    float largest = -INFINITY;
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        largest = fmaxf(largest, row[i]);
    largest = block_max(largest);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        sum += expf(row[i] - largest);
    sum = block_sum(sum);
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        to[i] = expf(row[i] - largest) / sum;
}
