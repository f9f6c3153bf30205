// A product of tiles on tensor cores: what matrix products and convolutions have in common, whatever their left matrix is read from.
//
// A block computes M x N sums in steps of 64 bytes of depth: 64 elements of 8 bits, integers or floats, whose sums are the same; 32 of 16 bits; or 16 floats, rounded to the
// 19 bits that the product takes. What a step needs lies in one stage of shared memory, the left tile before the right one, and is copied there while earlier stages are multiplied. A
// tile's rows are pieces of 16 bytes, which change places from row to row so that the eight that a warp reads at once lie in different banks.
//
// The left tile is [M][depth]; the right one [N][depth], or [depth][N] where RIGHT_ROWS, which elements of 8 bits never are: what turns matrices round
// on their way into registers moves 16 bits at once. The right elements may be of another type of 8 bits than the left ones. Each of WARPS_M * WARPS_N warps has its part of the result.

#define STEP_BYTES 64
#define PIECE_BYTES 16
#define STAGES 3
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

// Where a piece of a tile's row lies, in bytes from the tile's start. Rows of 64 bytes: two fill all banks.
__device__ __forceinline__ int deep_place(int row, int piece) { return row * STEP_BYTES + (piece ^ (row >> 1 & 3)) * PIECE_BYTES; }
// Rows of a multiple of 128 bytes. Floats are read one by one, eight beside each other in four rows.
template <class Element> __device__ __forceinline__ int wide_place(int row, int row_bytes, int piece)
{
    int shift = sizeof(Element) == 2 ? row & 7 : (row & 3) * 2;
    return row * row_bytes + (piece ^ shift) * PIECE_BYTES;
}

template <class Element, class Right, int M, int N, int WARPS_M, int WARPS_N, bool RIGHT_ROWS> struct Tiles {
    static_assert(sizeof(Element) == sizeof(Right) && !(sizeof(Element) == 1 && RIGHT_ROWS), "sides that no product takes");
    typedef TensorProduct<Element, Right> Product;
    typedef typename Product::Sum Sum;
    static const int THREADS = 32 * WARPS_M * WARPS_N;
    static const int ELEMENTS = PIECE_BYTES / (int)sizeof(Element); // of a piece
    static const int STEP = STEP_BYTES / (int)sizeof(Element);
    static const int WIDE = N * (int)sizeof(Element); // bytes of a row of [depth][N]
    static const int STAGE_BYTES = (M + N) * STEP_BYTES;
    static const int EACH_M = M / WARPS_M / 16, EACH_N = N / WARPS_N / 8;

    Sum sums[EACH_M][EACH_N][4];

    static __device__ __forceinline__ int lane() { return threadIdx.x % 32; }
    static __device__ __forceinline__ int own_row() { return threadIdx.x / 32 / WARPS_N * (M / WARPS_M); }
    static __device__ __forceinline__ int own_column() { return threadIdx.x / 32 % WARPS_N * (N / WARPS_N); }

    // Begins to copy ROWS rows of a matrix whose depth lies together; zeros beyond it.
    template <int ROWS, class T> static __device__ __forceinline__ void copy_deep(unsigned char *tile, const T *from, int stride, int row0, int rows, int depth0, int depths)
    {
#pragma unroll
        for (int i = threadIdx.x; i < ROWS * STEP_BYTES / PIECE_BYTES; i += THREADS) {
            int row = i / 4, piece = i % 4, depth = depth0 + piece * ELEMENTS;
            bool is_there = row0 + row < rows && depth < depths;
            copy_async_16(tile + deep_place(row, piece), is_there ? from + (i64)(row0 + row) * stride + depth : from, is_there);
        }
    }

    // The right tile of a matrix whose columns lie together.
    static __device__ __forceinline__ void copy_wide(unsigned char *tile, const Right *from, int stride, int column0, int columns, int depth0, int depths)
    {
#pragma unroll
        for (int i = threadIdx.x; i < STEP * WIDE / PIECE_BYTES; i += THREADS) {
            int row = i / (WIDE / PIECE_BYTES), piece = i % (WIDE / PIECE_BYTES), column = column0 + piece * ELEMENTS;
            bool is_there = depth0 + row < depths && column < columns;
            copy_async_16(tile + wide_place<Element>(row, WIDE, piece), is_there ? from + (i64)(depth0 + row) * stride + column : from, is_there);
        }
    }

    static __device__ __forceinline__ void copy_right(unsigned char *stage, const Right *from, int stride, int column0, int columns, int depth0, int depths)
    {
        if (RIGHT_ROWS)
            copy_wide(stage + M * STEP_BYTES, from, stride, column0, columns, depth0, depths);
        else
            copy_deep<N>(stage + M * STEP_BYTES, from, stride, column0, columns, depth0, depths);
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < EACH_M; i++)
#pragma unroll
            for (int j = 0; j < EACH_N; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[i][j][e] = 0;
    }

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
