// Tiles of two matrices in shared memory, and the way of their elements into it: what products of tiles have in common, whatever multiplies them and whatever
// the left matrix is read from.
//
// A block computes M x N sums in steps of 64 bytes of depth: 64 elements of 8 bits, 32 of 16 bits, or 16 floats. What a step needs lies in one stage of shared
// memory, the left tile before the right one, and is copied there while earlier stages are multiplied. A tile's rows are pieces of 16 bytes, which change
// places from row to row so that the eight that a warp reads at once lie in different banks.
//
// The left tile is [M][depth]; the right one [N][depth], or [depth][N] where RIGHT_ROWS. Each of WARPS_M * WARPS_N warps has its part of the result: EACH_M
// times EACH_N times four sums a thread. Which these are, and `multiply(stage)`, is up to who multiplies.

#define STEP_BYTES 64
#define PIECE_BYTES 16
#define STAGES 3

// Where a piece of a tile's row lies, in bytes from the tile's start. Rows of 64 bytes: two fill all banks.
__device__ __forceinline__ int deep_place(int row, int piece) { return row * STEP_BYTES + (piece ^ (row >> 1 & 3)) * PIECE_BYTES; }
// Rows of a multiple of 128 bytes. Tensor cores' floats are read one by one, eight beside each other in four rows.
template <class Element> __device__ __forceinline__ int wide_place(int row, int row_bytes, int piece)
{
    int shift = sizeof(Element) == 2 ? row & 7 : (row & 3) * 2;
    return row * row_bytes + (piece ^ shift) * PIECE_BYTES;
}

template <class Element, class Right, class Sum_, int M, int N, int WARPS_M, int WARPS_N, bool RIGHT_ROWS_, int EACH_M_, int EACH_N_> struct Stages {
    typedef Sum_ Sum;
    static const bool RIGHT_ROWS = RIGHT_ROWS_;
    static const int ROWS = M, COLUMNS = N, THREADS = 32 * WARPS_M * WARPS_N;
    static const int ELEMENTS = PIECE_BYTES / (int)sizeof(Element); // of a piece
    static const int STEP = STEP_BYTES / (int)sizeof(Element);
    static const int WIDE = N * (int)sizeof(Element); // bytes of a row of [depth][N]
    static const int STAGE_BYTES = (M + N) * STEP_BYTES;
    static const int EACH_M = EACH_M_, EACH_N = EACH_N_;

    Sum sums[EACH_M][EACH_N][4];

    static __device__ __forceinline__ int lane() { return threadIdx.x % 32; }
    static __device__ __forceinline__ int own_row() { return threadIdx.x / 32 / WARPS_N * (M / WARPS_M); }
    static __device__ __forceinline__ int own_column() { return threadIdx.x / 32 % WARPS_N * (N / WARPS_N); }

    // Begins to copy HEIGHT rows of a matrix whose depth lies together; zeros beyond it.
    template <int HEIGHT, class T> static __device__ __forceinline__ void copy_deep(unsigned char *tile, const T *from, int stride, int row0, int rows, int depth0, int depths)
    {
#pragma unroll
        for (int i = threadIdx.x; i < HEIGHT * STEP_BYTES / PIECE_BYTES; i += THREADS) {
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

    // Sums up a part of the depth: `copy(stage, step)` begins to copy what a step needs.
    template <class Own, class Copy> static __device__ __forceinline__ void run(Own &own, unsigned char *stages, const Part &part, Copy copy)
    {
        own.clear();
        // The first STAGES - 1 steps are on their way before the first is multiplied; groups without a copy keep the count.
#pragma unroll 1
        for (int step = part.begin + 1 - STAGES; step < part.end; step++) {
            if (step >= part.begin) {
                copy_async_wait<STAGES - 2>();
                // Everybody's copies are there, and everybody is done with the stage that is written next.
                __syncthreads();
            }
            int ahead = step + STAGES - 1;
            if (ahead < part.end)
                copy(stages + ahead % STAGES * STAGE_BYTES, ahead);
            copy_async_commit();
            if (step >= part.begin)
                own.multiply(stages + step % STAGES * STAGE_BYTES);
        }
    }

    static __device__ __forceinline__ int row0() { return blockIdx.y * ROWS; }
    static __device__ __forceinline__ int column0() { return blockIdx.x * COLUMNS; }
};

// Sums up a part of the depth of two matrices that lie in memory.
template <class Own, class Left, class Right> __device__ __forceinline__ void multiply_matrices(Own &own, unsigned char *stages, const Part &part, const Left *a, int left_stride, int m, const Right *b, int right_stride, int n, int k)
{
    Own::run(own, stages, part, [&](unsigned char *stage, int step) {
        Own::template copy_deep<Own::ROWS>(stage, a, left_stride, Own::row0(), m, step * Own::STEP, k);
        Own::copy_right(stage, b, right_stride, Own::column0(), n, step * Own::STEP, k);
    });
}

// Calls `write(four, count, row, column)` for what the result of so many rows and columns has of this block's sums, if it is the one that has them all.
template <bool SPLIT, class Own, class Write> __device__ __forceinline__ void write_whole(Own &own, const Parts &parts, const Part &part, int rows, int columns, Write write)
{
    if (!is_whole<SPLIT>(own, parts, part))
        return;
    own.for_fours([&](const typename Own::Sum (&four)[4], int own_row, int own_column) {
        int row = Own::row0() + own_row, column = Own::column0() + own_column;
        if (row < rows && column < columns)
            write(four, columns - column, row, column);
    });
}
