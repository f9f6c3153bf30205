// The twin of kernels/cuda/hopper.cu: the same functions, for a processor. What they do is the driver's (hopper.cpp).
//
// As late as it may be is when they do it: sums are NaN until they are waited for, and so is what copies are on their way to; what is multiplied is read when
// the product is waited for. Copies and products see what copies wrote, and what threads wrote only when they have said so.
#pragma once

#define TILES_SHARED(name) DYNAMIC_SHARED(name)

inline unsigned shared_address(const void *shared) { return emulator::here.runtime->hopper->shared_address(shared); }

inline void barrier_begin(unsigned long long *barrier, int arrivals) { emulator::here.runtime->hopper->begin(barrier, arrivals); }
inline void barriers_begun() { emulator::here.runtime->hopper->begun(); }
inline void barrier_arrive(unsigned long long *barrier) { emulator::here.runtime->hopper->arrive(barrier, 0); }
inline void barrier_expect(unsigned long long *barrier, int bytes) { emulator::here.runtime->hopper->arrive(barrier, bytes); }
inline void barrier_wait(unsigned long long *barrier, unsigned parity) { emulator::here.runtime->hopper->wait(barrier, parity); }
inline void shared_written() { emulator::here.runtime->hopper->written(); }

template <class Map> void copy_box(void *shared, const Map &map, unsigned long long *barrier, int at0, int at1, int at2, int at3)
{
    const int at[4] = {at0, at1, at2, at3};
    emulator::here.runtime->hopper->copy(shared, &map, barrier, 4, at, nullptr);
}

template <class Map> void copy_windows(void *shared, const Map &map, unsigned long long *barrier, int channel, int x, int y, int image, int right, int down)
{
    const int at[4] = {channel, x, y, image};
    const unsigned short offsets[2] = {(unsigned short)right, (unsigned short)down};
    emulator::here.runtime->hopper->copy(shared, &map, barrier, 4, at, offsets);
}

inline void wgmma_fence() { emulator::here.runtime->hopper->fence(); }
inline void wgmma_commit() { emulator::here.runtime->hopper->commit(); }
template <int N, class Sum, int EACH, int SUMS> void wgmma_wait(Sum (&)[EACH][SUMS]) { emulator::here.runtime->hopper->wait_for_products(N); }

// Of 64 columns, and of 128.
#define EMULATED_WGMMA(name, Sum, kind, right_rows)                                                                                       \
    template <int SUMS> void name(Sum (&d)[SUMS], unsigned long long a, unsigned long long b, bool is_more)                             \
    {                                                                                                                                     \
        static_assert(SUMS == 32 || SUMS == 64, "sums that no product has");                                                              \
        emulator::here.runtime->hopper->multiply(emulator::WgmmaKind::kind, right_rows, d, SUMS, a, b, is_more);                          \
    }
EMULATED_WGMMA(wgmma_f16, float, F16, false)
EMULATED_WGMMA(wgmma_bf16, float, Bf16, false)
EMULATED_WGMMA(wgmma_tf32, float, Tf32, false)
EMULATED_WGMMA(wgmma_e4m3, float, E4M3, false)
EMULATED_WGMMA(wgmma_e5m2, float, E5M2, false)
EMULATED_WGMMA(wgmma_e4m3e5m2, float, E4M3E5M2, false)
EMULATED_WGMMA(wgmma_e5m2e4m3, float, E5M2E4M3, false)
EMULATED_WGMMA(wgmma_s8, int, S8, false)
EMULATED_WGMMA(wgmma_u8, int, U8, false)
EMULATED_WGMMA(wgmma_u8s8, int, U8S8, false)
EMULATED_WGMMA(wgmma_s8u8, int, S8U8, false)
EMULATED_WGMMA(wgmma_f16_rows, float, F16, true)
EMULATED_WGMMA(wgmma_bf16_rows, float, Bf16, true)
#undef EMULATED_WGMMA

template <int N> void registers_give() { emulator::here.runtime->hopper->registers(N); }
template <int N> void registers_take() { emulator::here.runtime->hopper->registers(N); }
