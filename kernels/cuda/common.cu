// What all kernels share. The host joins the files that a kernel needs into one source, this one first; there are no headers to include.
//
// Kernels are plain CUDA C++. NVRTC compiles them for a GPU; hardware-tests/cuda-emulator compiles the same text for a processor and runs
// it there. So there is nothing in them that only one of the two has, but where a macro says so.
//
// A tensor's elements are stored as one type and computed with as another (its register type): 16-bit floats are computed with as float,
// small integers as int. `load` and `store` go from one to the other.

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef long long i64;
typedef unsigned long long u64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#ifdef CUDA_EMULATOR
#define HOST_OR_DEVICE inline
HOST_OR_DEVICE float f16_to_float(u16 bits)
{
    _Float16 half;
    __builtin_memcpy(&half, &bits, 2);
    return half;
}
HOST_OR_DEVICE u16 float_to_f16(float x)
{
    _Float16 half = x;
    u16 bits;
    __builtin_memcpy(&bits, &half, 2);
    return bits;
}
#else
#define INFINITY __int_as_float(0x7f800000)
__device__ __forceinline__ float f16_to_float(u16 bits)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ __forceinline__ u16 float_to_f16(float x)
{
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

#define NAN_VALUE __int_as_float(0x7fffffff)

__device__ __forceinline__ float bf16_to_float(u16 bits) { return __uint_as_float((unsigned)bits << 16); }

// To the nearest, the even one of two; what is no number stays none.
__device__ __forceinline__ u16 float_to_bf16(float x)
{
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return 0x7fff;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

__device__ __forceinline__ float load(f16 x) { return f16_to_float(x.bits); }
__device__ __forceinline__ float load(bf16 x) { return bf16_to_float(x.bits); }
__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ int load(i8 x) { return x; }
__device__ __forceinline__ int load(u8 x) { return x; }
__device__ __forceinline__ int load(i16 x) { return x; }
__device__ __forceinline__ int load(u16 x) { return x; }
__device__ __forceinline__ int load(int x) { return x; }
__device__ __forceinline__ unsigned load(unsigned x) { return x; }
__device__ __forceinline__ i64 load(i64 x) { return x; }
__device__ __forceinline__ u64 load(u64 x) { return x; }
__device__ __forceinline__ bool load(bool x) { return x; }

template <class To> struct Store {
    template <class From> static __device__ __forceinline__ To from(From x) { return (To)x; }
};
template <> struct Store<f16> {
    template <class From> static __device__ __forceinline__ f16 from(From x) { return f16{float_to_f16((float)x)}; }
};
template <> struct Store<bf16> {
    template <class From> static __device__ __forceinline__ bf16 from(From x) { return bf16{float_to_bf16((float)x)}; }
};
template <class To, class From> __device__ __forceinline__ To store(From x) { return Store<To>::from(x); }

// So many elements, to be moved at once: they lie at a multiple of their size.
template <class T, int N> struct __align__(sizeof(T) * N) Vector {
    T at[N];
};

// Division by a number that the host knows, without dividing (Granlund and Montgomery 1994): exact for dividends below 2^31.
struct Divide {
    unsigned by, magic, shift;
};
__device__ __forceinline__ unsigned quotient(unsigned n, const Divide &d) { return (unsigned)((__umulhi(n, d.magic) + (u64)n) >> d.shift); }

// The element that this thread begins with, and how many threads there are.
__device__ __forceinline__ unsigned first_element() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ unsigned all_threads() { return gridDim.x * blockDim.x; }
