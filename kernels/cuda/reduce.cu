// Reductions: y[row] = finish(join over the row's columns of input(row, column)).
//
// The host generates `input(in, i)` for element i = row * columns + column, in REGISTER; `result(out, value, row)`, which writes; and defines
// REDUCTION (block.cu, or below) and FINISH(value, columns).
// reduce_rows: a block a row, for rows that lie together. Grid: (rows); block: a multiple of 32.
// reduce_columns: a thread a row, for rows that lie beside each other. Grid: enough for rows; block: any.

template <class T> struct Largest {
    static __device__ __forceinline__ T identity() { return LOWEST; }
    static __device__ __forceinline__ T join(T a, T b) { return larger(a, b); }
};
template <class T> struct Smallest {
    static __device__ __forceinline__ T identity() { return HIGHEST; }
    static __device__ __forceinline__ T join(T a, T b) { return smaller(a, b); }
};

extern "C" __global__ void __launch_bounds__(256) reduce_rows(Input in, Result out, unsigned rows, unsigned columns)
{
    unsigned row = blockIdx.x;
    REGISTER value = REDUCTION::identity();
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x)
        value = REDUCTION::join(value, input(in, row * columns + i));
    value = block_reduced<REDUCTION>(value);
    if (threadIdx.x == 0)
        result(out, FINISH(value, columns), row);
}

extern "C" __global__ void __launch_bounds__(256) reduce_columns(Input in, Result out, unsigned rows, unsigned columns)
{
    for (unsigned row = first_element(); row < rows; row += all_threads()) {
        REGISTER value = REDUCTION::identity();
        for (unsigned i = 0; i < columns; i++)
            value = REDUCTION::join(value, input(in, row * columns + i));
        result(out, FINISH(value, columns), row);
    }
}
