// Where indices lead: what gathers and scatters have in common.
//
// The host generates `index(indices, k * count + i)`: the k-th of N indices for element i of count. A negative index counts from its axis's end. One outside
// of its axis leads to the axis's first or last element: ONNX does not say what it is, and nothing is touched beside the tensor.

// The axes that indices are of: their lengths, and how far apart two of their elements are.
template <int N> struct Axes {
    int length[N], stride[N];
};

__device__ __forceinline__ i64 inside(i64 index, int length)
{
    i64 from_start = index < 0 ? index + length : index;
    return from_start < 0 ? 0 : from_start >= length ? length - 1 : from_start;
}

template <class Indices, int N> __device__ __forceinline__ i64 steps(const Indices &indices, const Axes<N> &axes, unsigned i, unsigned count)
{
    i64 sum = 0;
#pragma unroll
    for (int k = 0; k < N; k++)
        sum += inside(index(indices, k * count + i), axes.length[k]) * axes.stride[k];
    return sum;
}
