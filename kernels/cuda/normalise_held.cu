// Rows of up to 1024 floats that are brought to a common measure: a warp has a row and keeps it in its registers, so that it is read once, four elements
// at a time, and no warp waits for another. normalise.cu has the same kernels for all other rows, and the formulas' sources.
//
// The host generates `inputs(in, i, four)` for the four elements from i = row * columns + column on, and `result4(out, four, count, i)`, which writes them. It
// defines FOURS: how many fours of a row a lane has, columns / 128, rounded up; columns are a multiple of four.
// Grid: (rows / warps of a block, rounded up); block: a multiple of 32, at most 256.

struct Row {
    float x[FOURS][4];
    unsigned row, begin, columns;

    static __device__ __forceinline__ unsigned column(int j) { return (j * WARP + threadIdx.x % WARP) * 4; }

    // Calls `each(four, column)` for every four that are this lane's.
    template <class Each> __device__ __forceinline__ void for_fours(Each each)
    {
#pragma unroll
        for (int j = 0; j < FOURS; j++)
            if (column(j) < columns)
                each(x[j], column(j));
    }

    // What a reduction makes of `of(element)` over the whole row.
    template <class Reduction, class Of> __device__ __forceinline__ float reduced(Of of)
    {
        float all = Reduction::identity();
        for_fours([&](float(&four)[4], unsigned) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                all = Reduction::join(all, of(four[e]));
        });
        return warp_reduced<Reduction>(all);
    }

    // Whether this warp has a row, which is read then.
    __device__ __forceinline__ bool read(const Input &in, unsigned rows, unsigned own_columns)
    {
        row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
        columns = own_columns;
        begin = row * columns;
        if (row >= rows)
            return false;
        for_fours([&](float(&four)[4], unsigned at) { inputs(in, begin + at, four); });
        return true;
    }

    // Writes `of(element)` for each.
    template <class Of> __device__ __forceinline__ void write(const Result &out, Of of)
    {
        for_fours([&](float(&four)[4], unsigned at) {
            float made[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                made[e] = of(four[e]);
            result4(out, made, 4, begin + at);
        });
    }
};

struct Highest {
    static __device__ __forceinline__ float identity() { return -INFINITY; }
    static __device__ __forceinline__ float join(float a, float b) { return larger(a, b); }
};

extern "C" __global__ void __launch_bounds__(256) softmax(Input in, Result out, unsigned columns, int as_logarithm, unsigned rows)
{
    Row own;
    if (!own.read(in, rows, columns))
        return;
    float most = own.reduced<Highest>([](float x) { return x; });
    float sum = own.reduced<Sum<float>>([&](float x) { return exponential(x - most); });
    float factor = as_logarithm ? logarithm(sum) : 1 / sum;
    own.write(out, [&](float x) { return as_logarithm ? x - most - factor : exponential(x - most) * factor; });
}

extern "C" __global__ void __launch_bounds__(256) normalise(Input in, Result out, float *means, float *factors, unsigned columns, float epsilon, int centred, unsigned rows)
{
    Row own;
    if (!own.read(in, rows, columns))
        return;
    float mean = centred ? own.reduced<Sum<float>>([](float x) { return x; }) / columns : 0;
    float squares = own.reduced<Sum<float>>([&](float x) { return (x - mean) * (x - mean); });
    float factor = 1 / square_root(squares / columns + epsilon);
    own.write(out, [&](float x) { return (x - mean) * factor; });
    if (threadIdx.x % WARP == 0) {
        if (means)
            means[own.row] = mean;
        if (factors)
            factors[own.row] = factor;
    }
}

extern "C" __global__ void __launch_bounds__(256) divide_by_norm(Input in, Result out, unsigned columns, int order, unsigned rows)
{
    Row own;
    if (!own.read(in, rows, columns))
        return;
    float norm = own.reduced<Sum<float>>([&](float x) { return order == 1 ? absolute(x) : x * x; });
    norm = order == 1 ? norm : square_root(norm);
    own.write(out, [&](float x) { return norm == 0 ? 0.0f : x / norm; });
}
