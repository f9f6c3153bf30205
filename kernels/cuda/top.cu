// The first k elements of each row in the ORDER of ahead.cu, one after the other, and their columns to `places`, where it is wanted: [rows][k]. A block
// a row.
//
// The host generates `input(in, i)` for element i = row * columns + column, in REGISTER, and `result(out, value, i)` for i = row * k + place, which writes.
// top_by_rank: each element counts those ahead of it: columns² steps. top_by_turn: one after the other is looked for: k * columns steps, and k times
//   the threads tell each other.
// Grid: (rows); block: a multiple of 32.

extern "C" __global__ void __launch_bounds__(256) top_by_rank(Input in, Result out, i64 *places, unsigned columns, unsigned k)
{
    unsigned begin = blockIdx.x * columns;
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
        REGISTER x = input(in, begin + i);
        unsigned rank = 0;
        for (unsigned j = 0; j < columns; j++)
            rank += comes_before<ORDER>(input(in, begin + j), j, x, i, 0);
        if (rank >= k)
            continue;
        result(out, x, blockIdx.x * k + rank);
        if (places)
            places[(i64)blockIdx.x * k + rank] = i;
    }
}

extern "C" __global__ void __launch_bounds__(256) top_by_turn(Input in, Result out, i64 *places, unsigned columns, unsigned k)
{
    unsigned begin = blockIdx.x * columns;
    REGISTER before = 0;
    int before_column = NOBODY;
    for (unsigned turn = 0; turn < k; turn++) {
        REGISTER value = 0;
        int column = NOBODY;
        for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) {
            REGISTER x = input(in, begin + i);
            bool is_left = before_column == NOBODY || comes_before<ORDER>(before, before_column, x, i, 0);
            if (is_left && comes_before<ORDER>(x, i, value, column, 0))
                value = x, column = i;
        }
        first_of_block<ORDER>(value, column, 0);
        if (threadIdx.x == 0) {
            result(out, value, blockIdx.x * k + turn);
            if (places)
                places[(i64)blockIdx.x * k + turn] = column;
        }
        before = value, before_column = column;
    }
}
