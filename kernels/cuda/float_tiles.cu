// Products of tiles of floats as they are: no tensor core rounds them, and every sum is of floats.
//
// A step has 16 floats. Of its warp's part a lane has every eighth row and four columns beside each other of every sixteen: the eight rows that a warp reads
// at once lie in different banks, as do its four lots of columns, and what is read is multiplied eight times.

template <int M, int N, int WARPS_M, int WARPS_N, bool RIGHT_ROWS> struct FloatTiles : Stages<float, float, float, M, N, WARPS_M, WARPS_N, RIGHT_ROWS, M / WARPS_M / 8, N / WARPS_N / 16> {
    typedef Stages<float, float, float, M, N, WARPS_M, WARPS_N, RIGHT_ROWS, M / WARPS_M / 8, N / WARPS_N / 16> Base;
    typedef Vector<float, 4> Piece;
    using Base::EACH_M;
    using Base::EACH_N;
    using Base::WIDE;
    using Base::lane;
    using Base::own_column;
    using Base::own_row;
    using Base::sums;

    static __device__ __forceinline__ int row_of(int i) { return own_row() + i * 8 + lane() / 4; }
    static __device__ __forceinline__ int column_of(int j) { return own_column() + j * 16 + lane() % 4 * 4; }

    // Adds a stage's products, four of the depth at a time.
    __device__ __forceinline__ void multiply(const unsigned char *stage)
    {
        const unsigned char *right = stage + M * STEP_BYTES;
#pragma unroll
        for (int piece = 0; piece < STEP_BYTES / PIECE_BYTES; piece++) {
            Piece a[EACH_M];
#pragma unroll
            for (int i = 0; i < EACH_M; i++)
                a[i] = *(const Piece *)(stage + deep_place(row_of(i), piece));
#pragma unroll
            for (int j = 0; j < EACH_N; j++)
#pragma unroll
                for (int part = 0; part < 4; part++) {
                    // Of four columns one depth, or of four depths one column.
                    Piece b = *(const Piece *)(right + (RIGHT_ROWS ? wide_place<float>(piece * 4 + part, WIDE, column_of(j) / 4) : deep_place(column_of(j) + part, piece)));
#pragma unroll
                    for (int i = 0; i < EACH_M; i++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            if (RIGHT_ROWS)
                                sums[i][j][e] += a[i].at[part] * b.at[e];
                            else
                                sums[i][j][part] += a[i].at[e] * b.at[e];
                }
        }
    }

    // Calls `write(four, row, column)` for every four sums beside each other.
    template <class Write> __device__ __forceinline__ void for_fours(Write write) const
    {
#pragma unroll
        for (int i = 0; i < EACH_M; i++)
#pragma unroll
            for (int j = 0; j < EACH_N; j++)
                write(sums[i][j], row_of(i), column_of(j));
    }
};
