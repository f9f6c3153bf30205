// What only Hopper has, in PTX (sm_90a): copies of whole tiles, barriers that such copies arrive at, and products of a warpgroup's 128 threads that
// read both of their sides from shared memory.
//
// The emulated driver has a twin of it, words/hopper.h. What is written here of shared memory is as the PTX ISA has it ("Asynchronous Warpgroup
// Level Matrix Instructions", "Tensors", "mbarrier").
//
// A tile lies in rows of 128 bytes, swizzled: the piece of 16 bytes at place p of row r lies at place p ^ r % 8, so that the eight that are read at
// once lie in different banks. Copies and products do that by the bits of the address, so a tile begins at a multiple of 1024 bytes.

// What a copy reads: the host has the driver encode it, and gives it by value: `const __grid_constant__ TensorMap`.
struct __align__(64) TensorMap {
    u64 opaque[16];
};

#define SPAN_BYTES 128
#define WARPGROUP 128

#ifndef CUDA_EMULATOR
#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#error "hopper.cu is for sm_90a alone"
#endif

// The dynamic shared memory of a block, for swizzled tiles.
#define TILES_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ unsigned shared_address(const void *shared) { return (unsigned)__cvta_generic_to_shared(shared); }

// Barriers that are waited for by phase: a phase is over when so many have arrived, and as many bytes were copied as were expected.
__device__ __forceinline__ void barrier_begin(u64 *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Whoever began barriers lets copies see them; others see them behind __syncthreads.
__device__ __forceinline__ void barriers_begun()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(u64 *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and has the phase last until so many bytes were copied.
__device__ __forceinline__ void barrier_expect(u64 *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

// Waits for the end of the phase of that parity: the first one's is 0. The one before the first is over.
__device__ __forceinline__ void barrier_wait(u64 *barrier, unsigned parity)
{
    unsigned is_over;
    do
        asm volatile("{\n.reg .pred over;\nmbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\nselp.u32 %0, 1, 0, over;\n}"
                     : "=r"(is_over)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    while (!is_over);
}

// What this thread wrote to shared memory is seen by copies and products from here on.
__device__ __forceinline__ void shared_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Copies the box of a tensor that begins at these coordinates, the first one the fastest; zeros where the tensor is not. All bytes of the box count.
__device__ __forceinline__ void copy_box(void *shared, const TensorMap &map, u64 *barrier, int at0, int at1, int at2, int at3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
                 "l"((u64)&map), "r"(shared_address(barrier)), "r"(at0), "r"(at1), "r"(at2), "r"(at3)
                 : "memory");
}

// Copies the channels from there on of windows' pixels, one pixel after the other: window after window as they begin in the tensor, the first at this place,
// in this image; the pixel is that far from where its window begins. Zeros where no image is.
__device__ __forceinline__ void copy_windows(void *shared, const TensorMap &map, u64 *barrier, int channel, int x, int y, int image, int right, int down)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(
                     shared_address(shared)),
                 "l"((u64)&map), "r"(shared_address(barrier)), "r"(channel), "r"(x), "r"(y), "r"(image), "h"((unsigned short)right), "h"((unsigned short)down)
                 : "memory");
}

// Before the products of a warpgroup, and whenever their sums were touched since the last ones.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all groups but the N newest are done: before that, nobody touches the sums, or what is multiplied.
// The compiler takes sums for there as soon as they are ordered: here they are made anew for it.
__device__ __forceinline__ void made_anew(float &sum) { asm volatile("" : "+f"(sum)::"memory"); }
__device__ __forceinline__ void made_anew(int &sum) { asm volatile("" : "+r"(sum)::"memory"); }
template <int N, class Sum, int EACH, int SUMS> __device__ __forceinline__ void wgmma_wait(Sum (&sums)[EACH][SUMS])
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < SUMS; j++)
            made_anew(sums[i][j]);
}

// d = a * b, + d where `is_more`: 64 x 64 sums or 64 x 128, by how many a thread has, of 32 bytes of depth. Lane 4 * g + t of warp w has of rows 16w + g and
// 16w + g + 8 (d[4j], d[4j + 1]; d[4j + 2], d[4j + 3]) the columns 8j + 2t and 8j + 2t + 1. All threads of the warpgroup must take part.
#define EIGHT(in, at) in(d[at]), in(d[at + 1]), in(d[at + 2]), in(d[at + 3]), in(d[at + 4]), in(d[at + 5]), in(d[at + 6]), in(d[at + 7])
#define FIRST_32(in) EIGHT(in, 0), EIGHT(in, 8), EIGHT(in, 16), EIGHT(in, 24)
#define ALL_64(in) FIRST_32(in), EIGHT(in, 32), EIGHT(in, 40), EIGHT(in, 48), EIGHT(in, 56)
// The same as the instruction names them; behind them come both sides, and whether there are more.
#define NAMES_32                                                                                                                             \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, " \
    "%29, %30, %31"
#define NAMES_64                                                                                                                             \
    NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "    \
             "%56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_OF(Sum, SUMS, kind, instruction, names, sides, more, scales, ...)                                                              \
    __device__ __forceinline__ void kind(Sum (&d)[SUMS], u64 a, u64 b, bool is_more)                                                         \
    {                                                                                                                                        \
        asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, " more ", 0;\nwgmma.mma_async.sync.aligned.m64" instruction " {" names "}, "    \
                     sides ", more" scales ";\n}"                                                                                          \
                     : __VA_ARGS__                                                                                                           \
                     : "l"(a), "l"(b), "r"((int)is_more));                                                                                   \
    }
// For 64 columns, and for 128.
#define WGMMA_INTO(Sum, in, kind, instruction, scales)                                                                                       \
    WGMMA_OF(Sum, 32, kind, "n64" instruction, NAMES_32, "%32, %33", "%34", scales, FIRST_32(in))                                            \
    WGMMA_OF(Sum, 64, kind, "n128" instruction, NAMES_64, "%64, %65", "%66", scales, ALL_64(in))
WGMMA_INTO(float, "+f", wgmma_f16, "k16.f32.f16.f16", ", 1, 1, 0, 0")
WGMMA_INTO(float, "+f", wgmma_bf16, "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
WGMMA_INTO(float, "+f", wgmma_tf32, "k8.f32.tf32.tf32", ", 1, 1")
// Of such a sum fewer bits are kept than a float has: 13 of its fraction.
WGMMA_INTO(float, "+f", wgmma_e4m3, "k32.f32.e4m3.e4m3", ", 1, 1")
WGMMA_INTO(float, "+f", wgmma_e5m2, "k32.f32.e5m2.e5m2", ", 1, 1")
WGMMA_INTO(float, "+f", wgmma_e4m3e5m2, "k32.f32.e4m3.e5m2", ", 1, 1")
WGMMA_INTO(float, "+f", wgmma_e5m2e4m3, "k32.f32.e5m2.e4m3", ", 1, 1")
// Integers, whose sums are exact.
WGMMA_INTO(int, "+r", wgmma_s8, "k32.s32.s8.s8", "")
WGMMA_INTO(int, "+r", wgmma_u8, "k32.s32.u8.u8", "")
WGMMA_INTO(int, "+r", wgmma_u8s8, "k32.s32.u8.s8", "")
WGMMA_INTO(int, "+r", wgmma_s8u8, "k32.s32.s8.u8", "")
// Of a right side whose columns lie together.
WGMMA_INTO(float, "+f", wgmma_f16_rows, "k16.f32.f16.f16", ", 1, 1, 0, 1")
WGMMA_INTO(float, "+f", wgmma_bf16_rows, "k16.f32.bf16.bf16", ", 1, 1, 0, 1")
#undef WGMMA_INTO
#undef WGMMA_OF
#undef NAMES_64
#undef NAMES_32
#undef ALL_64
#undef FIRST_32
#undef EIGHT

// How many registers a thread has from here on: all threads of a warpgroup give some back, or take what others gave.
template <int N> __device__ __forceinline__ void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

#endif

// How a product finds a swizzled tile: its address; bytes from a part that lies together to the next one, and from eight of its rows to the next eight.
__device__ __forceinline__ u64 matrix_of(const void *shared, int part_bytes, int rows_bytes)
{
    const u64 swizzled_128 = (u64)1 << 62;
    return swizzled_128 | (u64)(rows_bytes >> 4) << 32 | (u64)(part_bytes >> 4) << 16 | (shared_address(shared) & 0x3ffff) >> 4;
}
