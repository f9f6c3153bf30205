// What all kernels share. The host joins the files into one source, this one first; there are no headers to include.
//
// Kernels are plain CUDA C++. NVRTC compiles them for a GPU; hardware-tests/cuda-emulator compiles the same text for a processor and runs
// it there. So there is nothing in them that only one of the two has, but where a macro says so.

#define WARP 32
#define EVERY_LANE 0xffffffffu

#ifndef INFINITY // NVRTC has no math.h
#define INFINITY __int_as_float(0x7f800000)
#endif

// The sum, and the largest, over a warp; every lane gets it.
__device__ __forceinline__ float warp_sum(float value)
{
    for (int by = WARP / 2; by > 0; by /= 2)
        value += __shfl_xor_sync(EVERY_LANE, value, by);
    return value;
}

__device__ __forceinline__ float warp_max(float value)
{
    for (int by = WARP / 2; by > 0; by /= 2)
        value = fmaxf(value, __shfl_xor_sync(EVERY_LANE, value, by));
    return value;
}

// The same over a block of whole warps. All threads must be there; all get it.
__device__ __forceinline__ float block_sum(float value)
{
    __shared__ float partial[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    value = warp_sum(value);
    if (lane == 0)
        partial[warp] = value;
    __syncthreads();
    value = warp_sum(lane < (int)blockDim.x / WARP ? partial[lane] : 0.0f);
    // Before anybody writes to it again.
    __syncthreads();
    return value;
}

__device__ __forceinline__ float block_max(float value)
{
    __shared__ float partial[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    value = warp_max(value);
    if (lane == 0)
        partial[warp] = value;
    __syncthreads();
    value = warp_max(lane < (int)blockDim.x / WARP ? partial[lane] : -INFINITY);
    __syncthreads();
    return value;
}
