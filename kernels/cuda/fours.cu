// Results of tensor cores are written by fours.
//
// A product leaves a lane two sums beside each other of every eight columns. Written so, a row is pieces of 16 bytes at most, half of what memory moves at
// once. So two lanes that are neighbours exchange a pair of two tiles of eight columns: an even lane then has four columns of the first tile beside each other, an
// odd one four of the second.

// This lane's four of two tiles' pairs, and where they begin among their sixteen columns. All lanes of a warp come.
template <class Sum> __device__ __forceinline__ void four_of(Sum (&four)[4], Sum first0, Sum first1, Sum second0, Sum second1)
{
    bool is_odd = threadIdx.x % 2 == 1;
    Sum got0 = __shfl_xor_sync(0xffffffffu, is_odd ? first0 : second0, 1), got1 = __shfl_xor_sync(0xffffffffu, is_odd ? first1 : second1, 1);
    four[0] = is_odd ? got0 : first0;
    four[1] = is_odd ? got1 : first1;
    four[2] = is_odd ? second0 : got0;
    four[3] = is_odd ? second1 : got1;
}
__device__ __forceinline__ int four_column() { return threadIdx.x % 2 * 8 + threadIdx.x % 4 / 2 * 4; }

// Of N elements so many as there are, `stride` from each other; W at once, which then lie beside each other and at a multiple of them.
template <int W, class T, int N> __device__ __forceinline__ void load_some(T (&to)[N], const T *from, int stride, int count)
{
#pragma unroll
    for (int i = 0; i < N; i += W)
        if (W > 1 && i + W <= count) {
            Vector<T, W> part = *(const Vector<T, W> *)(from + i);
#pragma unroll
            for (int j = 0; j < W; j++)
                to[i + j] = part.at[j];
        } else {
#pragma unroll
            for (int j = 0; j < W; j++)
                to[i + j] = i + j < count ? from[(i + j) * stride] : T();
        }
}
template <int W, class T, int N> __device__ __forceinline__ void store_some(T *to, const T (&from)[N], int stride, int count)
{
#pragma unroll
    for (int i = 0; i < N; i += W)
        if (W > 1 && i + W <= count) {
            Vector<T, W> part;
#pragma unroll
            for (int j = 0; j < W; j++)
                part.at[j] = from[i + j];
            *(Vector<T, W> *)(to + i) = part;
        } else {
#pragma unroll
            for (int j = 0; j < W; j++)
                if (i + j < count)
                    to[(i + j) * stride] = from[i + j];
        }
}
