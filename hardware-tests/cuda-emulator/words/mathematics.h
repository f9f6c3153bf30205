// The functions of CUDA's mathematics: the C library has most of them, and its header gives C++ the overloads for float; here is the rest.
//
// A GPU's fast functions (`__expf`) are less exact than the ones that stand for them here, so a bound of a test that holds on a GPU holds here.
#pragma once

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Two names for each: the one for float ends with an f.
#define EMULATED_FUNCTION(name, value)                                                                                                    \
    inline double name(double x) { return value; }                                                                                        \
    inline float name##f(float given)                                                                                                     \
    {                                                                                                                                     \
        double x = given;                                                                                                                 \
        return (float)(value);                                                                                                            \
    }                                                                                                                                     \
    inline float name(float x) { return name##f(x); }

namespace emulator {
// sin(pi x) and cos(pi x), exact where they are 0 and 1.
inline double sine_of_pi(double x)
{
    double r = fmod(x, 2.0), side = 1.0;
    if (r < 0)
        r = -r, side = -1.0;
    if (r >= 1)
        r -= 1, side = -side;
    return r == 0 ? copysign(0.0, x) : side * sin(M_PI * (r > 0.5 ? 1 - r : r));
}
inline double cosine_of_pi(double x)
{
    double r = fmod(fabs(x), 2.0);
    r = r > 1 ? 2 - r : r;
    return r == 0.5 ? 0.0 : r < 0.25 ? cos(M_PI * r) : r > 0.75 ? -cos(M_PI * (1 - r)) : sin(M_PI * (0.5 - r));
}
// The inverse of erfc, by Newton's method from a start that is near enough.
inline double inverse_erfc(double y)
{
    if (!(y > 0 && y < 2))
        return y == 0 ? HUGE_VAL : y == 2 ? -HUGE_VAL : NAN;
    double p = y < 1 ? y : 2 - y, t = sqrt(-2 * log(p / 2));
    double x = M_SQRT1_2 * (t - (2.30753 + t * 0.27061) / (1 + t * (0.99229 + t * 0.04481)));
    for (int i = 0; i < 4; i++) {
        double off = erfc(x) - p;
        x += off / (1.1283791670955126 * exp(-x * x) - x * off);
    }
    return y < 1 ? x : -x;
}
inline double inverse_erf(double y)
{
    // Near 0 one minus it would lose its digits.
    if (fabs(y) > 0.5)
        return inverse_erfc(1 - y);
    double x = y * 0.886226925452758;
    for (int i = 0; i < 5; i++)
        x -= (erf(x) - y) / (1.1283791670955126 * exp(-x * x));
    return x;
}
inline double scaled_erfc(double x)
{
    if (x < 25)
        return exp(x * x) * erfc(x);
    double q = 0.5 / (x * x);
    return 0.5641895835477563 / x * (1 - q * (1 - 3 * q * (1 - 5 * q)));
}
inline double bessel_i(int n, double x)
{
    double term = n == 0 ? 1 : x / 2, sum = term;
    for (int k = 1; k < 1000 && fabs(term) > 1e-17 * fabs(sum); k++)
        sum += term *= x * x / 4 / k / (k + n);
    return sum;
}
} // namespace emulator

EMULATED_FUNCTION(rsqrt, 1.0 / sqrt(x))
EMULATED_FUNCTION(rcbrt, 1.0 / cbrt(x))
EMULATED_FUNCTION(sinpi, emulator::sine_of_pi(x))
EMULATED_FUNCTION(cospi, emulator::cosine_of_pi(x))
EMULATED_FUNCTION(erfinv, emulator::inverse_erf(x))
EMULATED_FUNCTION(erfcinv, emulator::inverse_erfc(x))
EMULATED_FUNCTION(erfcx, emulator::scaled_erfc(x))
EMULATED_FUNCTION(normcdf, 0.5 * erfc(-x * M_SQRT1_2))
EMULATED_FUNCTION(normcdfinv, -M_SQRT2 * emulator::inverse_erfc(2 * x))
EMULATED_FUNCTION(cyl_bessel_i0, emulator::bessel_i(0, x))
EMULATED_FUNCTION(cyl_bessel_i1, emulator::bessel_i(1, x))
#undef EMULATED_FUNCTION

inline double rhypot(double x, double y) { return 1 / hypot(x, y); }
inline float rhypotf(float x, float y) { return (float)(1 / hypot((double)x, (double)y)); }
inline double norm3d(double x, double y, double z) { return sqrt(x * x + y * y + z * z); }
inline float norm3df(float x, float y, float z) { return (float)norm3d(x, y, z); }
inline double rnorm3d(double x, double y, double z) { return 1 / norm3d(x, y, z); }
inline float rnorm3df(float x, float y, float z) { return (float)rnorm3d(x, y, z); }
inline double norm4d(double x, double y, double z, double w) { return sqrt(x * x + y * y + z * z + w * w); }
inline float norm4df(float x, float y, float z, float w) { return (float)norm4d(x, y, z, w); }
inline double rnorm4d(double x, double y, double z, double w) { return 1 / norm4d(x, y, z, w); }
inline float rnorm4df(float x, float y, float z, float w) { return (float)rnorm4d(x, y, z, w); }
inline void sincospi(double x, double *s, double *c) { *s = sinpi(x), *c = cospi(x); }
inline void sincospif(float x, float *s, float *c) { *s = sinpif(x), *c = cospif(x); }
inline double fdivide(double a, double b) { return a / b; }
inline float fdividef(float a, float b) { return a / b; }

// The fast ones.
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
inline float __fdividef(float a, float b) { return a / b; }
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)

// With a rounding of their own: to the nearest.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frsqrt_rn(float a) { return rsqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double a) { return sqrt(a); }

// To integers, as a GPU does it: what is too large becomes the largest, and no number becomes 0.
namespace emulator {
template <class T> T to_integer(double x, double least, double beyond, T smallest, T largest)
{
    return x != x ? 0 : x < least ? smallest : x >= beyond ? largest : (T)x;
}
inline int to_int(double x) { return to_integer<int>(x, -2147483648.0, 2147483648.0, INT32_MIN, INT32_MAX); }
inline unsigned to_unsigned(double x) { return to_integer<unsigned>(x, 0.0, 4294967296.0, 0, UINT32_MAX); }
inline long long to_long(double x) { return to_integer<long long>(x, -0x1p63, 0x1p63, INT64_MIN, INT64_MAX); }
inline unsigned long long to_unsigned_long(double x) { return to_integer<unsigned long long>(x, 0.0, 0x1p64, 0, UINT64_MAX); }
} // namespace emulator
#define EMULATED_CONVERSIONS(T, word)                                                                                                     \
    inline int __##word##2int_rn(T x) { return emulator::to_int(rint(x)); }                                                               \
    inline int __##word##2int_rz(T x) { return emulator::to_int(trunc(x)); }                                                              \
    inline int __##word##2int_rd(T x) { return emulator::to_int(floor(x)); }                                                              \
    inline int __##word##2int_ru(T x) { return emulator::to_int(ceil(x)); }                                                               \
    inline unsigned __##word##2uint_rn(T x) { return emulator::to_unsigned(rint(x)); }                                                    \
    inline unsigned __##word##2uint_rz(T x) { return emulator::to_unsigned(trunc(x)); }                                                   \
    inline long long __##word##2ll_rn(T x) { return emulator::to_long(rint(x)); }                                                         \
    inline long long __##word##2ll_rz(T x) { return emulator::to_long(trunc(x)); }                                                        \
    inline unsigned long long __##word##2ull_rn(T x) { return emulator::to_unsigned_long(rint(x)); }                                      \
    inline unsigned long long __##word##2ull_rz(T x) { return emulator::to_unsigned_long(trunc(x)); }
EMULATED_CONVERSIONS(float, float)
EMULATED_CONVERSIONS(double, double)
#undef EMULATED_CONVERSIONS
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline double __int2double_rn(int x) { return x; }
inline float __double2float_rn(double x) { return (float)x; }

// The same bits as another type.
namespace emulator {
template <class To, class From> To same_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emulator
inline int __float_as_int(float x) { return emulator::same_bits<int>(x); }
inline float __int_as_float(int x) { return emulator::same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emulator::same_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulator::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::same_bits<double>(x); }

#include "integers.h"
