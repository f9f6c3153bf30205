// Rows that are brought to a common measure, one row a block; a row is read again rather than kept, it is in the cache.
//
// The host generates `input(in, i)` for element i = row * columns + column, in REGISTER (float or double), and `result(out, value, i)`, which
// writes. Sums are in REGISTER. Grid: (rows); block: a multiple of 32.

struct Highest {
    static __device__ __forceinline__ REGISTER identity() { return -INFINITY; }
    static __device__ __forceinline__ REGISTER join(REGISTER a, REGISTER b) { return larger(a, b); }
};

// exp(x - max) / sum(exp(x - max)), or its logarithm. A row of which nothing is left (all -infinity) has no distribution: NaN.
extern "C" __global__ void __launch_bounds__(256) softmax(Input in, Result out, unsigned columns, int as_logarithm)
{
    unsigned begin = blockIdx.x * columns;
    REGISTER most = -INFINITY;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x)
        most = larger(most, input(in, begin + i));
    most = block_reduced<Highest>(most);
    REGISTER sum = 0;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x)
        sum += exponential(input(in, begin + i) - most);
    sum = block_reduced<Sum<REGISTER>>(sum);
    REGISTER factor = as_logarithm ? logarithm(sum) : 1 / sum;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
        REGISTER x = input(in, begin + i) - most;
        result(out, as_logarithm ? x - factor : exponential(x) * factor, begin + i);
    }
}

// (x - mean) / sqrt(variance + epsilon) (Ba et al. 2016, equation 3), or without the mean x / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019).
// Means and factors, where they are wanted, go to `means` and `factors`, one a row.
extern "C" __global__ void __launch_bounds__(256) normalise(Input in, Result out, REGISTER *means, REGISTER *factors, unsigned columns, float epsilon, int centred)
{
    unsigned begin = blockIdx.x * columns;
    REGISTER mean = 0;
    if (centred) {
        for (unsigned i = threadIdx.x; i < columns; i += blockDim.x)
            mean += input(in, begin + i);
        mean = block_reduced<Sum<REGISTER>>(mean) / columns;
    }
    REGISTER squares = 0;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
        REGISTER x = input(in, begin + i) - mean;
        squares += x * x;
    }
    REGISTER factor = 1 / square_root(block_reduced<Sum<REGISTER>>(squares) / columns + (REGISTER)epsilon);
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x)
        result(out, (input(in, begin + i) - mean) * factor, begin + i);
    if (threadIdx.x == 0) {
        if (means)
            means[blockIdx.x] = mean;
        if (factors)
            factors[blockIdx.x] = factor;
    }
}

// x / norm, the first or the second one; a row of zeros stays one.
extern "C" __global__ void __launch_bounds__(256) divide_by_norm(Input in, Result out, unsigned columns, int order)
{
    unsigned begin = blockIdx.x * columns;
    REGISTER norm = 0;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
        REGISTER x = input(in, begin + i);
        norm += order == 1 ? absolute(x) : x * x;
    }
    norm = block_reduced<Sum<REGISTER>>(norm);
    norm = order == 1 ? norm : square_root(norm);
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x)
        result(out, norm == 0 ? (REGISTER)0 : input(in, begin + i) / norm, begin + i);
}
