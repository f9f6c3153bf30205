// The sum of a row's elements up to each of them: `exclusive` without itself, `reverse` from the row's end. A block a row.
//
// The host generates `input(in, i)` for element i = row * columns + column, in REGISTER, and `result(out, value, i)`, which writes. Sums are in REGISTER.
// Grid: (rows); block: 256 at most.

extern "C" __global__ void __launch_bounds__(256) cumulate(Input in, Result out, unsigned columns, int exclusive, int reverse)
{
    __shared__ REGISTER sums[256];
    unsigned begin = blockIdx.x * columns, each = (columns + blockDim.x - 1) / blockDim.x;
    unsigned first = threadIdx.x * each, end = first + each < columns ? first + each : columns;
    // Each thread adds up its own part, then begins with what is before it.
    REGISTER own = 0;
    for (unsigned i = first; i < end; i++)
        own += input(in, begin + (reverse ? columns - 1 - i : i));
    sums[threadIdx.x] = own;
    __syncthreads();
    REGISTER sum = 0;
    for (unsigned j = 0; j < threadIdx.x; j++)
        sum += sums[j];
    for (unsigned i = first; i < end; i++) {
        unsigned at = begin + (reverse ? columns - 1 - i : i);
        REGISTER x = input(in, at);
        result(out, exclusive ? sum : sum + x, at);
        sum += x;
    }
}
