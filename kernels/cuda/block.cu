// Reductions over a warp and over a block of whole warps: every thread must be there, and every thread gets the result.
//
// A reduction is a type with an `identity()` and a `join(a, b)`.

#define WARP 32
#define EVERY_LANE 0xffffffffu

template <class T> struct Sum {
    static __device__ __forceinline__ T identity() { return (T)0; }
    static __device__ __forceinline__ T join(T a, T b) { return a + b; }
};
template <class T> struct Product {
    static __device__ __forceinline__ T identity() { return (T)1; }
    static __device__ __forceinline__ T join(T a, T b) { return a * b; }
};

template <class Reduction, class T> __device__ __forceinline__ T warp_reduced(T value)
{
    for (int by = WARP / 2; by > 0; by /= 2)
        value = Reduction::join(value, __shfl_xor_sync(EVERY_LANE, value, by));
    return value;
}

template <class Reduction, class T> __device__ __forceinline__ T block_reduced(T value)
{
    __shared__ T partial[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    value = warp_reduced<Reduction>(value);
    if (lane == 0)
        partial[warp] = value;
    __syncthreads();
    value = warp_reduced<Reduction>(lane < (int)blockDim.x / WARP ? partial[lane] : Reduction::identity());
    // Before anybody writes to it again.
    __syncthreads();
    return value;
}
