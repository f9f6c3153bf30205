// What all kernels share. The host joins the files that a kernel needs into one source, this one first; there are no headers to include.
//
// Kernels are plain CUDA C++. NVRTC compiles them for a GPU; hardware-tests/cuda-emulator compiles the same text for a processor and runs
// it there. So there is nothing in them that only one of the two has, but where a macro says so.
//
// A tensor's elements are stored as one type and computed with as another (its register type): floats of 16 and 8 bits are computed with as float,
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
struct f8e4m3 {
    u8 bits;
};
struct f8e5m2 {
    u8 bits;
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

// Floats of 8 bits, to the bit as src/tensor/float8.rs has them. In both formats 0x7f is no number; MOST is the code of the greatest one.
struct E4M3 {
    static const int FRACTION = 3, BIAS = 7, MOST = 0x7e;
};
struct E5M2 {
    static const int FRACTION = 2, BIAS = 15, MOST = 0x7b;
};

// Exactly. The exponent is put where one of 8 bits is: the factor makes up for the difference, and takes care of subnormal numbers. What is beyond the
// greatest number has the exponent of what is infinite, or no number.
template <class Format> __device__ __forceinline__ float float8_to_float(u8 code)
{
    unsigned magnitude = code & 0x7f, special = magnitude > (unsigned)Format::MOST ? 0x7f800000 : 0, sign = (unsigned)(code & 0x80) << 24;
    float number = __uint_as_float(magnitude << (23 - Format::FRACTION)) * (Format::BIAS == 7 ? 0x1p120f : 0x1p112f);
    return __uint_as_float(__float_as_uint(number) | special | sign);
}

// To the nearest, the even one of two; beyond the range, infinity too, the greatest one; what is no number stays none.
template <class Format> __device__ __forceinline__ u8 float_to_float8(float x)
{
    unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffff, sign = bits >> 24 & 0x80, code;
    const unsigned cut = 23 - Format::FRACTION, most = Format::MOST;
    if (magnitude > 0x7f800000)
        return (u8)(sign | 0x7f);
    // Multiples of the least number, which may round up to the least normal one: its code comes next.
    if (magnitude < (unsigned)(128 - Format::BIAS) << 23)
        code = (unsigned)rintf(__uint_as_float(magnitude) * (float)(1 << (Format::BIAS - 1 + Format::FRACTION)));
    else
        code = ((magnitude + (1u << (cut - 1)) - 1 + (magnitude >> cut & 1)) >> cut) - ((127 - Format::BIAS) << Format::FRACTION);
    return (u8)(sign | (code < most ? code : most));
}

#if __CUDA_ARCH__ >= 890
// The same in one instruction, but for the sign of what is no number.
#define FLOAT_TO_FLOAT8(Format, instruction)                                                                                                 \
    template <> __device__ __forceinline__ u8 float_to_float8<Format>(float x)                                                               \
    {                                                                                                                                        \
        u16 two;                                                                                                                             \
        asm(instruction " %0, %1, %2;" : "=h"(two) : "f"(0.0f), "f"(x));                                                                     \
        unsigned bits = __float_as_uint(x);                                                                                                  \
        return (u8)((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 24 & 0x80) | 0x7f : two);                                                    \
    }
FLOAT_TO_FLOAT8(E4M3, "cvt.rn.satfinite.e4m3x2.f32")
FLOAT_TO_FLOAT8(E5M2, "cvt.rn.satfinite.e5m2x2.f32")
#undef FLOAT_TO_FLOAT8
#endif

__device__ __forceinline__ float load(f8e4m3 x) { return float8_to_float<E4M3>(x.bits); }
__device__ __forceinline__ float load(f8e5m2 x) { return float8_to_float<E5M2>(x.bits); }
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
template <> struct Store<f8e4m3> {
    template <class From> static __device__ __forceinline__ f8e4m3 from(From x) { return f8e4m3{float_to_float8<E4M3>((float)x)}; }
};
template <> struct Store<f8e5m2> {
    // What is infinite has been said to be so (pointwise.cu), and stays it.
    template <class From> static __device__ __forceinline__ f8e5m2 from(From x)
    {
        unsigned bits = __float_as_uint((float)x);
        return f8e5m2{(bits & 0x7fffffff) == 0x7f800000 ? (u8)(bits >> 24 & 0x80 | 0x7c) : float_to_float8<E5M2>((float)x)};
    }
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
