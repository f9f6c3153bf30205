// Orders of a row's elements, and the first of those that a block's threads have. Of equals the one with the lower column comes first. The orders
// are orders of all values: what is no number has its place, too.

struct LargestFirst { // as NumPy's argmax
    template <class T> static __device__ __forceinline__ bool ahead(T a, T b) { return a > b || (a != a && b == b); }
};
struct SmallestFirst { // as NumPy's argmin
    template <class T> static __device__ __forceinline__ bool ahead(T a, T b) { return a < b || (a != a && b == b); }
};
struct Ascending { // as NumPy sorts
    template <class T> static __device__ __forceinline__ bool ahead(T a, T b) { return a < b || (a == a && b != b); }
};

// The column of what is not there.
#define NOBODY (-1)

// Whether x of column i comes before y of column j; with `last`, of equals the one with the higher column does.
template <class Order, class T> __device__ __forceinline__ bool comes_before(T x, int i, T y, int j, int last)
{
    if (i == NOBODY || j == NOBODY)
        return i != NOBODY;
    return Order::ahead(x, y) || (!Order::ahead(y, x) && (last ? i > j : i < j));
}

// The first of what all threads of a block of whole warps have, to all of them.
template <class Order, class T> __device__ __forceinline__ void first_of_block(T &value, int &column, int last)
{
    __shared__ T values[WARP];
    __shared__ int columns[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int round = 0; round < 2; round++) {
        for (int by = WARP / 2; by > 0; by /= 2) {
            T other = __shfl_xor_sync(EVERY_LANE, value, by);
            int at = __shfl_xor_sync(EVERY_LANE, column, by);
            if (comes_before<Order>(other, at, value, column, last))
                value = other, column = at;
        }
        if (round == 1)
            break;
        if (lane == 0)
            values[warp] = value, columns[warp] = column;
        __syncthreads();
        bool is_there = lane < (int)blockDim.x / WARP;
        value = values[is_there ? lane : 0];
        column = is_there ? columns[lane] : NOBODY;
    }
    // Before anybody writes to it again.
    __syncthreads();
}
