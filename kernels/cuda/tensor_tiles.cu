// Products of tiles on tensor cores.
//
// A step has 64 elements of 8 bits, integers or floats, whose sums are the same; 32 of 16 bits; or 16 floats, rounded to the 19 bits that the product takes.
// Elements of 8 bits never lie as [depth][N]: what turns matrices round on their way into registers moves 16 bits at once. The right elements may be of another
// type of 8 bits than the left ones.

// Of a kernel that a multiprocessor should hold: what rounds floats, or adds them up apart, has no room for two.
#define BLOCKS (TensorProduct<ELEMENT, RIGHT>::IS_ROOMY ? 2 : 1)

template <class Left, class Right = Left> struct TensorProduct;
template <> struct TensorProduct<f16> {
    static const bool IS_ROOMY = true;
    typedef float Sum;
    static __device__ __forceinline__ void into(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_f16(d, a, b); }
};
template <> struct TensorProduct<bf16> {
    static const bool IS_ROOMY = true;
    typedef float Sum;
    static __device__ __forceinline__ void into(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_bf16(d, a, b); }
};
template <> struct TensorProduct<float> {
    static const bool IS_ROOMY = false;
    typedef float Sum;
    static __device__ __forceinline__ void into(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_tf32(d, a, b); }
};
template <> struct TensorProduct<i8> {
    static const bool IS_ROOMY = true;
    typedef int Sum;
    static __device__ __forceinline__ void into(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_s8(d, a, b); }
};
template <> struct TensorProduct<u8> {
    static const bool IS_ROOMY = true;
    typedef int Sum;
    static __device__ __forceinline__ void into(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_u8(d, a, b); }
};
template <> struct TensorProduct<u8, i8> {
    static const bool IS_ROOMY = true;
    typedef int Sum;
    static __device__ __forceinline__ void into(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_u8s8(d, a, b); }
};
template <> struct TensorProduct<i8, u8> {
    static const bool IS_ROOMY = true;
    typedef int Sum;
    static __device__ __forceinline__ void into(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_s8u8(d, a, b); }
};

#if HAS_FLOAT8
#if __CUDA_ARCH__ == 900
// Hopper multiplies warps' floats of 8 bits as floats of 16, with all bits of their sums.
#define FLOAT8_INTO(mma) mma(d, a, b)
#else
// A product's sum is one by itself, and added to the others as floats are: where tensor cores keep fewer bits, nothing of a large sum is lost.
#define FLOAT8_INTO(mma)                                                                                                                     \
    float own[4] = {0, 0, 0, 0};                                                                                                             \
    mma(own, a, b);                                                                                                                          \
    for (int i = 0; i < 4; i++)                                                                                                              \
        d[i] += own[i]
#endif
#define FLOAT8_PRODUCT(Left, Right, mma)                                                                                                     \
    template <> struct TensorProduct<Left, Right> {                                                                                          \
        static const bool IS_ROOMY = false;                                                                                                  \
        typedef float Sum;                                                                                                                   \
        static __device__ __forceinline__ void into(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { FLOAT8_INTO(mma); }     \
    };
FLOAT8_PRODUCT(f8e4m3, f8e4m3, mma_e4m3)
FLOAT8_PRODUCT(f8e5m2, f8e5m2, mma_e5m2)
FLOAT8_PRODUCT(f8e4m3, f8e5m2, mma_e4m3e5m2)
FLOAT8_PRODUCT(f8e5m2, f8e4m3, mma_e5m2e4m3)
#undef FLOAT8_PRODUCT
#undef FLOAT8_INTO
#endif

// Floats to the nearest of the numbers that a product has (it would cut them off, all of them towards zero); others are taken as they are.
template <class Element, int N> __device__ __forceinline__ void round_all(unsigned (&fragment)[N])
{
    if (sizeof(Element) != 4)
        return;
#pragma unroll
    for (int i = 0; i < N; i++)
        fragment[i] += (fragment[i] & 0x7f800000) == 0x7f800000 ? 0 : 0x1000;
}

template <class Element, class Right, int M, int N, int WARPS_M, int WARPS_N, bool RIGHT_ROWS>
struct Tiles : Stages<Element, Right, typename TensorProduct<Element, Right>::Sum, M, N, WARPS_M, WARPS_N, RIGHT_ROWS, M / WARPS_M / 16, N / WARPS_N / 8> {
    static_assert(sizeof(Element) == sizeof(Right) && !(sizeof(Element) == 1 && RIGHT_ROWS), "sides that no product takes");
    typedef TensorProduct<Element, Right> Product;
    typedef Stages<Element, Right, typename Product::Sum, M, N, WARPS_M, WARPS_N, RIGHT_ROWS, M / WARPS_M / 16, N / WARPS_N / 8> Base;
    typedef typename Product::Sum Sum;
    using Base::EACH_M;
    using Base::EACH_N;
    using Base::WIDE;
    using Base::lane;
    using Base::own_column;
    using Base::own_row;
    using Base::sums;

    // The right tile's fragments of 16 columns, for half a step.
    static __device__ __forceinline__ void load_right(unsigned (&b)[4], const unsigned char *tile, int column0, int half)
    {
        int part = lane() / 8, line = lane() % 8;
        if (!RIGHT_ROWS) {
            load_matrix_x4(b, tile + deep_place(column0 + part / 2 * 8 + line, half * 2 + part % 2));
        } else if (sizeof(Element) == 2) {
            load_matrix_x4_transposed(b, tile + wide_place<Element>(half * 16 + part % 2 * 8 + line, WIDE, column0 / 8 + part / 2));
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = half * 8 + i % 2 * 4 + lane() % 4, column = column0 + i / 2 * 8 + lane() / 4;
                b[i] = *(const unsigned *)(tile + wide_place<Element>(row, WIDE, column / 4) + column % 4 * 4);
            }
        }
    }

    // Adds a stage's products.
    __device__ __forceinline__ void multiply(const unsigned char *stage)
    {
        int part = lane() / 8, line = lane() % 8;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            unsigned a[EACH_M][4];
#pragma unroll
            for (int i = 0; i < EACH_M; i++) {
                load_matrix_x4(a[i], stage + deep_place(own_row() + i * 16 + part % 2 * 8 + line, half * 2 + part / 2));
                round_all<Element>(a[i]);
            }
#pragma unroll
            for (int j = 0; j < EACH_N; j += 2) {
                unsigned b[4];
                load_right(b, stage + M * STEP_BYTES, own_column() + j * 8, half);
                round_all<Element>(b);
                unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
                for (int i = 0; i < EACH_M; i++) {
                    Product::into(sums[i][j], a[i], first);
                    Product::into(sums[i][j + 1], a[i], second);
                }
            }
        }
    }

    // Calls `write(four, row, column)` for every four sums beside each other.
    template <class Write> __device__ __forceinline__ void for_fours(Write write) const
    {
#pragma unroll
        for (int i = 0; i < EACH_M; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < EACH_N; j += 2) {
                    const Sum *one = sums[i][j] + half * 2, *two = sums[i][j + 1] + half * 2;
                    Sum four[4];
                    four_of(four, one[0], one[1], two[0], two[1]);
                    write(four, own_row() + i * 16 + half * 8 + lane() / 4, own_column() + j * 8 + four_column());
                }
    }
};
