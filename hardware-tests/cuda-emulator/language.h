// CUDA C++ as kernels see it, for a host's compiler: the words of the language, and what they do here.
//
// A thread of a block is a fiber (block.h). All fibers of a block share one OS thread, so `__shared__` is a static of that thread; a
// barrier and a shuffle hand over to the scheduler. Everything else is ordinary C++.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

struct uint3 {
    unsigned x, y, z;
};

namespace emulator {
extern thread_local uint3 thread_index, block_index, block_size, grid_size;
void barrier();
// The value that another lane of the mask gives, once all of its lanes are here.
uint64_t exchange(unsigned mask, uint64_t value, int from_lane);
int lane();

template <class T> T shuffle(unsigned mask, T value, int from_lane)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = exchange(mask, bits, from_lane);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}
} // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size
#define warpSize 32

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local

#define __expf(x) expf(x)

#define __syncthreads() emulator::barrier()
#define __syncwarp(mask) ((void)emulator::shuffle(mask, 0, emulator::lane()))
#define __shfl_sync(mask, value, from) emulator::shuffle(mask, value, (from) & 31)
#define __shfl_xor_sync(mask, value, by) emulator::shuffle(mask, value, emulator::lane() ^ (by))
#define __shfl_down_sync(mask, value, by) \
    emulator::shuffle(mask, value, emulator::lane() + (by) < 32 ? emulator::lane() + (by) : emulator::lane())

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
