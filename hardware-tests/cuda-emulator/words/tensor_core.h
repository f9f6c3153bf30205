// The twin of kernels/cuda/tensor_core.cu: the same functions, for a processor. Which lane holds which element of a matrix is as the PTX ISA
// says, element by element.
//
// All of them are stricter than a GPU: all 32 lanes must come, rows and copies must be aligned, `global` must be device memory. A copy is
// done when it is waited for, not before (block.cpp); a matrix's row is read when the lane that names it comes, so that what another lane is
// yet to write is not in it.
#pragma once

#include "float8.h"

namespace emulator {
inline float from_f16(unsigned bits)
{
    // An exponent of 5 bits, put where one of 8 is: the factor makes up for the difference, and takes care of subnormal numbers.
    float magnitude = __uint_as_float((bits & 0x7fff) << 13) * 0x1p112f;
    if ((bits & 0x7c00) == 0x7c00)
        magnitude = __uint_as_float(0x7f800000 | (bits & 0x3ff) << 13);
    return __uint_as_float(__float_as_uint(magnitude) | (bits & 0x8000) << 16);
}
inline float from_bf16(unsigned bits) { return __uint_as_float(bits << 16); }

// What matrices are made of: how many elements lie in 32 bits, what they are, and what their products add up to.
struct F16 {
    using Sum = float;
    static constexpr bool IS_NARROW = false;
    static constexpr int A = 2, B = 2;
    static float a(unsigned bits, int i) { return from_f16(bits >> 16 * i & 0xffff); }
    static float b(unsigned bits, int i) { return a(bits, i); }
};
struct Bf16 : F16 {
    static float a(unsigned bits, int i) { return from_bf16(bits >> 16 * i & 0xffff); }
    static float b(unsigned bits, int i) { return a(bits, i); }
};
struct Tf32 {
    using Sum = float;
    static constexpr bool IS_NARROW = false;
    static constexpr int A = 1, B = 1;
    static float a(unsigned bits, int) { return __uint_as_float(bits & ~0x1fffu); }
    static float b(unsigned bits, int) { return a(bits, 0); }
};
struct S8 {
    using Sum = int;
    static constexpr bool IS_NARROW = false;
    static constexpr int A = 4, B = 4;
    static int a(unsigned bits, int i) { return (int8_t)(bits >> 8 * i); }
    static int b(unsigned bits, int i) { return (int8_t)(bits >> 8 * i); }
};
struct U8S8 : S8 {
    static int a(unsigned bits, int i) { return (uint8_t)(bits >> 8 * i); }
};
struct S8U8 : S8 {
    static int b(unsigned bits, int i) { return (uint8_t)(bits >> 8 * i); }
};
struct U8 : U8S8 {
    static int b(unsigned bits, int i) { return (uint8_t)(bits >> 8 * i); }
};

// Floats of 8 bits, with so many bits of a fraction on each side; devices before 8.9 do not have them.
template <int LEFT, int RIGHT> struct Float8 {
    using Sum = float;
    static constexpr bool IS_NARROW = true;
    static constexpr int A = 4, B = 4;
    static float a(unsigned bits, int i) { return from_float8(bits >> 8 * i & 0xff, LEFT); }
    static float b(unsigned bits, int i) { return from_float8(bits >> 8 * i & 0xff, RIGHT); }
};

template <class Sum> struct Fragments {
    unsigned a[4], b[2];
    Sum d[4];
};

// A product of 16 x K and K x 8. In a row of a, and in a column of b, a register of each of four lanes lies side by side; then their next one.
// All of it is computed when the first lane takes its part: nobody else runs until all have taken. Sums are in the order of k, a row's eight at once.
template <class Kind>
__attribute__((no_sanitize("bounds", "alignment"))) void take_product(int lane, void *own, void *const *of_lane)
{
    using Sum = typename Kind::Sum;
    typedef Sum Row __attribute__((vector_size(8 * sizeof(Sum))));
    constexpr int EACH = Kind::A, DEPTH = 8 * EACH;
    static Sum a[16][DEPTH];
    static Row b[DEPTH], d[16];
    if (lane == 0) {
        if (Kind::IS_NARROW && here.runtime->capability() < 89)
            here.runtime->fail("a product of floats of 8 bits, which compute capability 8.9 is the first to have", 719);
        for (int from = 0; from < WARP_LANES; from++) {
            auto *given = static_cast<const Fragments<Sum> *>(of_lane[from]);
            int group = from / 4, column = from % 4 * 2, first = from % 4 * EACH;
            for (int i = 0; i < EACH; i++) {
                for (int part = 0; part < 4; part++)
                    a[group + part % 2 * 8][first + i + part / 2 * 4 * EACH] = Kind::a(given->a[part], i);
                for (int part = 0; part < 2; part++)
                    b[first + i + part * 4 * EACH][group] = Kind::b(given->b[part], i);
            }
            for (int i = 0; i < 4; i++)
                d[group + i / 2 * 8][column + i % 2] = given->d[i];
        }
        for (int row = 0; row < 16; row++) {
            if constexpr (Kind::IS_NARROW) {
                for (int column = 0; column < 8; column++) {
                    Sum products[DEPTH];
                    for (int k = 0; k < DEPTH; k++)
                        products[k] = a[row][k] * b[k][column];
                    d[row][column] = narrow_sum(d[row][column], products, DEPTH);
                }
                continue;
            }
            Row sums = d[row];
            for (int k = 0; k < DEPTH; k++)
                sums += a[row][k] * b[k];
            d[row] = sums;
        }
    }
    for (int i = 0; i < 4; i++)
        static_cast<Fragments<Sum> *>(own)->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

template <class Kind, class Sum> void multiply(Sum (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    Fragments<Sum> mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    memcpy(mine.d, d, sizeof d);
    here.runtime->meet(0xffffffffu, take_product<Kind>, &mine);
    memcpy(d, mine.d, sizeof d);
}

// Matrices of 8 rows of 16 bytes; lane 8 * i + r names row r of matrix i.
template <int MATRICES> struct Rows {
    unsigned short row[8];
    unsigned got[MATRICES];
};

template <int MATRICES, bool TRANSPOSED> void take_matrices(int lane, void *own, void *const *of_lane)
{
    for (int i = 0; i < MATRICES; i++) {
        unsigned pair[2];
        for (int half = 0; half < 2; half++) {
            int row = lane / 4, column = lane % 4 * 2 + half;
            if (TRANSPOSED) {
                int other = row;
                row = column, column = other;
            }
            pair[half] = static_cast<const Rows<MATRICES> *>(of_lane[i * 8 + row])->row[column];
        }
        static_cast<Rows<MATRICES> *>(own)->got[i] = pair[0] | pair[1] << 16;
    }
}

template <int MATRICES, bool TRANSPOSED, int N> void load_matrices(unsigned (&r)[N], const void *shared_row)
{
    Rows<MATRICES> mine = {};
    if (here.lane < 8 * MATRICES) {
        if (reinterpret_cast<uintptr_t>(shared_row) % 16 != 0)
            here.runtime->fail("load_matrix: a row's address is no multiple of 16 bytes", 716);
        memcpy(mine.row, shared_row, 16);
    }
    here.runtime->meet(0xffffffffu, take_matrices<MATRICES, TRANSPOSED>, &mine);
    memcpy(r, mine.got, sizeof mine.got);
}
} // namespace emulator

inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::F16>(d, a, b); }
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::Bf16>(d, a, b); }
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::Tf32>(d, a, b); }
inline void mma_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::S8>(d, a, b); }
inline void mma_u8s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::U8S8>(d, a, b); }
inline void mma_s8u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::S8U8>(d, a, b); }
inline void mma_u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::U8>(d, a, b); }
inline void mma_e4m3(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::Float8<3, 3>>(d, a, b); }
inline void mma_e5m2(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::Float8<2, 2>>(d, a, b); }
inline void mma_e4m3e5m2(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::Float8<3, 2>>(d, a, b); }
inline void mma_e5m2e4m3(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { emulator::multiply<emulator::Float8<2, 3>>(d, a, b); }

inline void load_matrix_x4(unsigned (&r)[4], const void *shared_row) { emulator::load_matrices<4, false>(r, shared_row); }
inline void load_matrix_x4_transposed(unsigned (&r)[4], const void *shared_row) { emulator::load_matrices<4, true>(r, shared_row); }
inline void load_matrix_x2(unsigned (&r)[2], const void *shared_row) { emulator::load_matrices<2, false>(r, shared_row); }
inline void load_matrix_x2_transposed(unsigned (&r)[2], const void *shared_row) { emulator::load_matrices<2, true>(r, shared_row); }

inline void copy_async_16(void *shared, const void *global, bool is_there) { emulator::here.runtime->copy_async(shared, global, 16, is_there); }
inline void copy_async_4(void *shared, const void *global, bool is_there) { emulator::here.runtime->copy_async(shared, global, 4, is_there); }
inline void copy_async_commit() { emulator::here.runtime->commit_copies(); }
template <int N> void copy_async_wait() { emulator::here.runtime->wait_for_copies(N); }
