// Where in each row its first element is, in the ORDER of ahead.cu; with `last`, the last one of those that equal it.
//
// The host generates `input(in, i)` for element i = row * columns + column, in REGISTER, and `result(out, column, row)`, which writes.
// arg_rows: a block a row, for rows that lie together. Grid: (rows); block: a multiple of 32.
// arg_columns: a thread a row, for rows that lie beside each other. Grid: enough for rows; block: any.

extern "C" __global__ void __launch_bounds__(256) arg_rows(Input in, Result out, unsigned rows, unsigned columns, int last)
{
    unsigned begin = blockIdx.x * columns;
    REGISTER value = 0;
    int column = NOBODY;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
        REGISTER x = input(in, begin + i);
        if (comes_before<ORDER>(x, i, value, column, last))
            value = x, column = i;
    }
    first_of_block<ORDER>(value, column, last);
    if (threadIdx.x == 0)
        result(out, (i64)column, blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(256) arg_columns(Input in, Result out, unsigned rows, unsigned columns, int last)
{
    for (unsigned row = first_element(); row < rows; row += all_threads()) {
        REGISTER value = 0;
        int column = NOBODY;
        for (unsigned i = 0; i < columns; i++) {
            REGISTER x = input(in, row * columns + i);
            if (comes_before<ORDER>(x, i, value, column, last))
                value = x, column = i;
        }
        result(out, (i64)column, row);
    }
}
