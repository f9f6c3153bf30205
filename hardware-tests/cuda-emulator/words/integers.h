// The integer functions of CUDA C++, and `min` and `max`, which it has for every pair of types.
#pragma once

inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
// Of 0 they count all the bits.
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x)
{
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++)
        reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which)
{
    unsigned long long both = (unsigned long long)b << 32 | a;
    unsigned taken = 0;
    for (int i = 0; i < 4; i++)
        taken |= (unsigned)(both >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return taken;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((unsigned long long)high << 32 | low) << (by & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((unsigned long long)high << 32 | low) >> (by & 31));
}

// Four products of bytes, and a sum.
inline int __dp4a(int a, int b, int sum)
{
    unsigned total = (unsigned)sum;
    for (int i = 0; i < 4; i++)
        total += (unsigned)((int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i));
    return (int)total;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum)
{
    for (int i = 0; i < 4; i++)
        sum += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
    return sum;
}

#define EMULATED_CHOICES(T)                                                                                                               \
    inline T min(T a, T b) { return b < a ? b : a; }                                                                                      \
    inline T max(T a, T b) { return a < b ? b : a; }
EMULATED_CHOICES(int)
EMULATED_CHOICES(unsigned)
EMULATED_CHOICES(long)
EMULATED_CHOICES(unsigned long)
EMULATED_CHOICES(long long)
EMULATED_CHOICES(unsigned long long)
#undef EMULATED_CHOICES
// A number beats none, as with fmin.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
// The pairs that CUDA has.
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
