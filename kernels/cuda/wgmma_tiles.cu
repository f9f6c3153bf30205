// A product of tiles on Hopper: what matrix products and convolutions have in common, whatever the left tile is copied from.
//
// A block has three warpgroups. One thread of the first has tiles copied into stages of shared memory, as far ahead as there are free ones; the other
// two multiply what lies there, each half of the rows, and are not held up by addresses or by a barrier of the whole block. Blocks stay and take tile after
// tile, so that the next tile's copies are on their way while sums are written. A tile has M rows, and 64 or 128 columns: N.
//
// A stage has 128 bytes of depth: 128 elements of 8 bits, integers or floats, 64 elements of 16 bits, or 32 floats, which a copy rounds to the 19 bits that the product takes. The
// left tile is [M][depth]; the right one [N][depth], or, where RIGHT_ROWS, one of [depth][64] for every 64 columns. 16 bits alone can lie so.
//
// Of sums of floats of 8 bits tensor cores keep 13 bits of the fraction, and cut off what is added beneath them. So those of a stage are sums by themselves,
// and added to the others as floats are while the other warpgroup multiplies; registers are there for this where a thread has no more than 64 sums.

#define MULTIPLIERS 2
#define THREADS ((MULTIPLIERS + 1) * WARPGROUP)
// Registers of a thread: a block begins with 168 for each, the one that has tiles copied needs few, and the others hold sums.
#define KEPT_REGISTERS 40
#define TAKEN_REGISTERS 232
// Tiles that are taken after each other are of so many rows of tiles, so that what they read is still in the L2 cache.
#define TILE_ROWS 8

template <class Sum> struct IsWhole {
    static const bool VALUE = false;
};
template <> struct IsWhole<int> {
    static const bool VALUE = true;
};

template <class Element, class Right, bool RIGHT_ROWS> struct WideProduct;
#define WIDE_PRODUCT(Element, Right, Sum_, RIGHT_ROWS, wgmma)                                                                                \
    template <> struct WideProduct<Element, Right, RIGHT_ROWS> {                                                                             \
        typedef Sum_ Sum;                                                                                                                    \
        template <int SUMS> static __device__ __forceinline__ void into(Sum(&d)[SUMS], u64 a, u64 b, bool is_more)                           \
        {                                                                                                                                    \
            wgmma(d, a, b, is_more);                                                                                                         \
        }                                                                                                                                    \
    };
WIDE_PRODUCT(f16, f16, float, false, wgmma_f16)
WIDE_PRODUCT(bf16, bf16, float, false, wgmma_bf16)
WIDE_PRODUCT(float, float, float, false, wgmma_tf32)
WIDE_PRODUCT(f8e4m3, f8e4m3, float, false, wgmma_e4m3)
WIDE_PRODUCT(f8e5m2, f8e5m2, float, false, wgmma_e5m2)
WIDE_PRODUCT(f8e4m3, f8e5m2, float, false, wgmma_e4m3e5m2)
WIDE_PRODUCT(f8e5m2, f8e4m3, float, false, wgmma_e5m2e4m3)
WIDE_PRODUCT(i8, i8, int, false, wgmma_s8)
WIDE_PRODUCT(u8, u8, int, false, wgmma_u8)
WIDE_PRODUCT(u8, i8, int, false, wgmma_u8s8)
WIDE_PRODUCT(i8, u8, int, false, wgmma_s8u8)
WIDE_PRODUCT(f16, f16, float, true, wgmma_f16_rows)
WIDE_PRODUCT(bf16, bf16, float, true, wgmma_bf16_rows)
#undef WIDE_PRODUCT

// A stage, and in which of its turns: the parity of the phase that its barriers are in.
template <int STAGES> struct Turn {
    int stage = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void next()
    {
        stage++;
        if (stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// The tile of the result that comes at that place in the order in which they are taken.
struct TileAt {
    int row, column, z;
};
__device__ __forceinline__ TileAt tile_at(int place, int rows, int columns)
{
    int z = place / (rows * columns), own = place - z * rows * columns;
    int band = own / (TILE_ROWS * columns), row0 = band * TILE_ROWS, height = min(rows - row0, TILE_ROWS);
    int in_band = own - row0 * columns;
    return TileAt{row0 + in_band % height, in_band / height, z};
}

template <class Element, class Right, int COLUMNS, int PARTS, int STAGES, bool RIGHT_ROWS> struct WideTiles {
    typedef WideProduct<Element, Right, RIGHT_ROWS> Product;
    static const int M = MULTIPLIERS * PARTS * 64, N = COLUMNS;
    static const int SUMS = N / 2; // of a thread, for each part
    static const int STEP = SPAN_BYTES / (int)sizeof(Element); // elements of depth
    static const int LEFT_BYTES = M * SPAN_BYTES, STAGE_BYTES = (M + N) * SPAN_BYTES;
    static const int ROWS_BYTES = STEP * SPAN_BYTES; // of 64 columns of the right tile, where they lie together

    typedef typename Product::Sum Sum;
    static const bool BY_STAGE = sizeof(Element) == 1 && !IsWhole<Sum>::VALUE; // of floats of 8 bits sums are a stage's, and added up in `all`
    static_assert(sizeof(Element) == sizeof(Right) && !(BY_STAGE && PARTS * SUMS > 64), "sides, or as many of their sums, that no warpgroup has room for");

    Sum sums[PARTS][SUMS], all[PARTS][SUMS];

    // The stages' barriers: that a tile is there, and that it was used.
    static __device__ __forceinline__ u64 *there(unsigned char *stages, int stage) { return (u64 *)(stages + STAGES * STAGE_BYTES) + stage; }
    static __device__ __forceinline__ u64 *used(unsigned char *stages, int stage) { return there(stages, STAGES + stage); }

    // Before anything else, by all threads.
    static __device__ __forceinline__ void begin(unsigned char *stages)
    {
        // Tiles that lie otherwise would be read wrongly.
        if (shared_address(stages) % 1024 != 0)
            __trap();
        if (threadIdx.x == 0) {
            for (int stage = 0; stage < STAGES; stage++) {
                barrier_begin(there(stages, stage), 1);
                barrier_begin(used(stages, stage), MULTIPLIERS * WARPGROUP / 32);
            }
            barriers_begun();
        }
        __syncthreads();
    }

    // Has a stage filled as soon as it is free: `copy_left(tile, barrier)` copies the left tile; the right one is of that place in a tensor.
    template <class CopyLeft>
    static __device__ __forceinline__ void fill(unsigned char *stages, Turn<STAGES> &turn, const TensorMap &right, int column, int depth, int inner, int outer, CopyLeft copy_left)
    {
        unsigned char *stage = stages + turn.stage * STAGE_BYTES;
        u64 *barrier = there(stages, turn.stage);
        barrier_wait(used(stages, turn.stage), turn.parity ^ 1);
        barrier_expect(barrier, STAGE_BYTES);
        copy_left(stage, barrier);
        if (RIGHT_ROWS) {
#pragma unroll
            for (int part = 0; part < N / 64; part++)
                copy_box(stage + LEFT_BYTES + part * ROWS_BYTES, right, barrier, column + part * 64, depth, inner, outer);
        } else {
            copy_box(stage + LEFT_BYTES, right, barrier, depth, column, inner, outer);
        }
        turn.next();
    }

    static __device__ __forceinline__ int own_row() { return (threadIdx.x / WARPGROUP - 1) * (PARTS * 64); }

    // Orders the products of a stage; they are added to the sums that there are where `is_more`.
    __device__ __forceinline__ void order(unsigned char *stage, bool is_more)
    {
        u64 left = matrix_of(stage + own_row() * SPAN_BYTES, 0, 8 * SPAN_BYTES);
        u64 right = matrix_of(stage + LEFT_BYTES, RIGHT_ROWS ? ROWS_BYTES : 0, 8 * SPAN_BYTES);
        wgmma_fence();
        // By 32 bytes of depth: as addresses are written, two further on; where columns lie together, sixteen rows.
#pragma unroll
        for (int part = 0; part < 4; part++)
#pragma unroll
            for (int i = 0; i < PARTS; i++)
                Product::into(sums[i], left + i * (64 * SPAN_BYTES >> 4) + part * 2, right + part * (RIGHT_ROWS ? 16 * SPAN_BYTES >> 4 : 2), is_more || part > 0);
        wgmma_commit();
    }

    // Sums the products of so many stages. A stage is given back when the products of the next one are ordered, so that the tensor cores never wait.
    __device__ __forceinline__ void multiply(unsigned char *stages, Turn<STAGES> &turn, int steps)
    {
        if (BY_STAGE) {
            multiply_by_stage(stages, turn, steps);
            return;
        }
        int last = 0;
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            barrier_wait(there(stages, turn.stage), turn.parity);
            order(stages + turn.stage * STAGE_BYTES, step > 0);
            wgmma_wait<1>(sums);
            if (step > 0 && threadIdx.x % 32 == 0)
                barrier_arrive(used(stages, last));
            last = turn.stage;
            turn.next();
        }
        wgmma_wait<0>(sums);
        if (threadIdx.x % 32 == 0)
            barrier_arrive(used(stages, last));
    }

    // The same where a stage's sums are sums by themselves.
    __device__ __forceinline__ void multiply_by_stage(unsigned char *stages, Turn<STAGES> &turn, int steps)
    {
#pragma unroll
        for (int i = 0; i < PARTS * SUMS; i++)
            all[i / SUMS][i % SUMS] = 0;
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            barrier_wait(there(stages, turn.stage), turn.parity);
            order(stages + turn.stage * STAGE_BYTES, false);
            wgmma_wait<0>(sums);
            if (threadIdx.x % 32 == 0)
                barrier_arrive(used(stages, turn.stage));
#pragma unroll
            for (int i = 0; i < PARTS * SUMS; i++)
                all[i / SUMS][i % SUMS] += sums[i / SUMS][i % SUMS];
            turn.next();
        }
    }

    // Calls `write(four, row, column)` for every four sums beside each other.
    template <class Write> __device__ __forceinline__ void for_fours(Write write) const
    {
        int row = own_row() + threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4;
        const Sum(&of)[PARTS][SUMS] = BY_STAGE ? all : sums;
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < N / 8; j += 2) {
                    const Sum *one = of[i] + j * 4 + half * 2, *two = one + 4;
                    Sum four[4];
                    four_of(four, one[0], one[1], two[0], two[1]);
                    write(four, row + i * 64 + half * 8, j * 8 + four_column());
                }
    }
};
