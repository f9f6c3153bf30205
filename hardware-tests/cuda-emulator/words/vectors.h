// The vector types of CUDA C++, aligned as on a GPU, so that a struct with them has the same layout here and there.
#pragma once

#define EMULATED_VECTORS(T, name, of_2, of_4)                                                                                             \
    struct name##1 {                                                                                                                      \
        T x;                                                                                                                              \
    };                                                                                                                                    \
    struct alignas(of_2) name##2 {                                                                                                        \
        T x, y;                                                                                                                           \
    };                                                                                                                                    \
    struct alignas(of_4) name##4 {                                                                                                        \
        T x, y, z, w;                                                                                                                     \
    };                                                                                                                                    \
    inline name##1 make_##name##1(T x) { return {x}; }                                                                                    \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                                            \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define EMULATED_VECTOR_3(T, name)                                                                                                        \
    struct name##3 {                                                                                                                      \
        T x, y, z;                                                                                                                        \
    };                                                                                                                                    \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }

EMULATED_VECTORS(signed char, char, 2, 4)
EMULATED_VECTORS(unsigned char, uchar, 2, 4)
EMULATED_VECTORS(short, short, 4, 8)
EMULATED_VECTORS(unsigned short, ushort, 4, 8)
EMULATED_VECTORS(int, int, 8, 16)
EMULATED_VECTORS(unsigned, uint, 8, 16)
EMULATED_VECTORS(long long, longlong, 16, 16)
EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATED_VECTORS(float, float, 8, 16)
EMULATED_VECTORS(double, double, 16, 16)
EMULATED_VECTOR_3(int, int)
EMULATED_VECTOR_3(float, float)
EMULATED_VECTOR_3(double, double)
// `uint3` is there already: it is what a thread's index is.
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
#undef EMULATED_VECTORS
#undef EMULATED_VECTOR_3

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
