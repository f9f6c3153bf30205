// CUDA C++ as kernels see it, for a host's compiler: the words of the language, and what they do here.
//
// Threads of a block take turns on one OS thread (block.cpp), and one kernel runs at a time. So `__shared__` is a static, an atomic is an
// ordinary operation, and a barrier or a shuffle hands over to the scheduler. Everything else is ordinary C++. What a name of CUDA would
// clash with in the host's headers is a macro; all others are functions, so that a kernel may have a variable of that name.
#pragma once

#define CUDA_EMULATOR 1

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "registration.h"
#include "checks.h"
#include "vectors.h"
#include "mathematics.h"

#define threadIdx emulator::here.thread_index
#define blockIdx emulator::here.block_index
#define blockDim emulator::here.block_size
#define gridDim emulator::here.grid_size
#define warpSize 32

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __constant__
#define __managed__
#define __align__(bytes) __attribute__((aligned(bytes)))
// `__restrict__` is the compiler's own word.

// The dynamic shared memory of the block. On a GPU: extern __shared__ __align__(128) unsigned char name[].
#define DYNAMIC_SHARED(name) unsigned char *const name = emulator::here.dynamic_shared

#define __syncthreads() ((void)emulator::here.runtime->barrier(0))
#define __syncthreads_count(says) emulator::here.runtime->barrier((says) != 0)
#define __syncthreads_or(says) (emulator::here.runtime->barrier((says) != 0) != 0)
#define __syncthreads_and(says) (emulator::here.runtime->barrier((says) == 0) == 0)
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)
#undef assert
#define assert(holds) ((holds) ? (void)0 : emulator::here.runtime->fail("assert(" #holds ") does not hold", 710))
#define __trap() emulator::here.runtime->fail("__trap()", 719)

namespace emulator {
template <class T> struct Shuffled {
    T value, got;
    int from;
};

template <class T> void take_shuffled(int, void *own, void *const *of_lane)
{
    auto *mine = static_cast<Shuffled<T> *>(own);
    int from = mine->from;
    if (from >= 0 && from < WARP_LANES && of_lane[from])
        mine->got = static_cast<const Shuffled<T> *>(of_lane[from])->value;
    else // A lane outside of the mask gives nothing that is defined.
        memset(static_cast<void *>(&mine->got), 0xff, sizeof(T));
}

template <class T> T shuffle(unsigned mask, T value, int from)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a shuffle takes what has 8 bytes at most");
    Shuffled<T> mine{value, value, from};
    here.runtime->meet(mask, take_shuffled<T>, &mine);
    return mine.got;
}

struct Voted {
    bool says;
    unsigned ballot;
};

inline void take_votes(int, void *own, void *const *of_lane)
{
    unsigned ballot = 0;
    for (int lane = 0; lane < WARP_LANES; lane++)
        if (of_lane[lane] && static_cast<const Voted *>(of_lane[lane])->says)
            ballot |= 1u << lane;
    static_cast<Voted *>(own)->ballot = ballot;
}

inline unsigned vote(unsigned mask, bool says)
{
    Voted mine{says, 0};
    here.runtime->meet(mask, take_votes, &mine);
    return mine.ballot;
}
inline void take_nothing(int, void *, void *const *) {}

// The lanes of a shuffle of some width: the warp falls into parts of so many lanes.
inline int first_of_part(int width) { return here.lane / width * width; }
} // namespace emulator

template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32)
{
    return emulator::shuffle(mask, value, emulator::first_of_part(width) + (from & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32)
{
    // From a part further on nothing is taken, from one before it something is.
    int from = emulator::here.lane ^ by;
    return emulator::shuffle(mask, value, from >= emulator::first_of_part(width) + width ? emulator::here.lane : from);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int from = emulator::here.lane + static_cast<int>(by);
    return emulator::shuffle(mask, value, from < emulator::first_of_part(width) + width ? from : emulator::here.lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32)
{
    int from = emulator::here.lane - static_cast<int>(by);
    return emulator::shuffle(mask, value, from >= emulator::first_of_part(width) ? from : emulator::here.lane);
}
inline unsigned __ballot_sync(unsigned mask, int says) { return emulator::vote(mask, says != 0); }
inline int __any_sync(unsigned mask, int says) { return emulator::vote(mask, says != 0) != 0; }
inline int __all_sync(unsigned mask, int says) { return emulator::vote(mask, says == 0) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::here.runtime->meet(mask, emulator::take_nothing, nullptr); }

namespace emulator {
template <class T, class F> T replace(T *at, F with)
{
    T old = *at;
    *at = with(old);
    return old;
}
} // namespace emulator

#define EMULATED_ATOMIC(name, T, value)                                                                                                   \
    inline T name(T *at, T given) { return emulator::replace(at, [given](T old) { return (T)(value); }); }
EMULATED_ATOMIC(atomicAdd, int, old + given)
EMULATED_ATOMIC(atomicAdd, unsigned, old + given)
EMULATED_ATOMIC(atomicAdd, unsigned long long, old + given)
EMULATED_ATOMIC(atomicAdd, float, old + given)
EMULATED_ATOMIC(atomicAdd, double, old + given)
EMULATED_ATOMIC(atomicSub, int, old - given)
EMULATED_ATOMIC(atomicSub, unsigned, old - given)
EMULATED_ATOMIC(atomicMax, int, old > given ? old : given)
EMULATED_ATOMIC(atomicMax, unsigned, old > given ? old : given)
EMULATED_ATOMIC(atomicMax, long long, old > given ? old : given)
EMULATED_ATOMIC(atomicMax, unsigned long long, old > given ? old : given)
EMULATED_ATOMIC(atomicMin, int, old < given ? old : given)
EMULATED_ATOMIC(atomicMin, unsigned, old < given ? old : given)
EMULATED_ATOMIC(atomicMin, long long, old < given ? old : given)
EMULATED_ATOMIC(atomicMin, unsigned long long, old < given ? old : given)
EMULATED_ATOMIC(atomicExch, int, given)
EMULATED_ATOMIC(atomicExch, unsigned, given)
EMULATED_ATOMIC(atomicExch, float, given)
EMULATED_ATOMIC(atomicExch, unsigned long long, given)
EMULATED_ATOMIC(atomicOr, int, old | given)
EMULATED_ATOMIC(atomicOr, unsigned, old | given)
EMULATED_ATOMIC(atomicAnd, int, old & given)
EMULATED_ATOMIC(atomicAnd, unsigned, old & given)
EMULATED_ATOMIC(atomicXor, unsigned, old ^ given)
#undef EMULATED_ATOMIC

#define EMULATED_EXCHANGE(T)                                                                                                              \
    inline T atomicCAS(T *at, T expected, T given) { return emulator::replace(at, [=](T old) { return old == expected ? given : old; }); }
EMULATED_EXCHANGE(int)
EMULATED_EXCHANGE(unsigned)
EMULATED_EXCHANGE(unsigned short)
EMULATED_EXCHANGE(unsigned long long)
#undef EMULATED_EXCHANGE

template <class T> T __ldg(const T *at) { return *at; }
template <class T> T __ldcg(const T *at) { return *at; }
template <class T> T __ldcs(const T *at) { return *at; }
template <class T> void __stcg(T *at, T value) { *at = value; }
template <class T> void __stcs(T *at, T value) { *at = value; }

#include "tensor_core.h"
#include "hopper.h"
