// Attention on tensor cores, for elements of 16 bits: as attention.cu computes it, and with its arguments.
//
// q: [batch][heads][rows][WIDTH], k and v: [batch][heads][keys][WIDTH] of ELEMENT (f16 or bf16), by strides, every row at a multiple of 16 bytes; WIDTH is 32,
// 64, 96 or 128. `group` heads of q share one of k and v. Sums and scores are floats, weights are rounded to ELEMENT before they are multiplied. The host
// generates `result4(out, four, count, batch, head, row, column)`, which writes four elements beside each other, and defines MASKED, MASK, CAPPED and BOUNDED as attention.cu has them.
//
// A block computes 64 rows of a head, each of its four warps 16 of them: its queries and its part of the result stay in registers, as do the weights,
// which lie in a product's result as the next one wants them. Keys come 64 at a time: the next keys are copied while values are multiplied, the next
// values while keys are. Grid: (rows / 64, rounded up; heads; batch); block: (128); dynamic shared memory: 2 * 64 * WIDTH * 2 bytes.

#define ATTENTION_TILE 64
#define PIECE_BYTES 16
#define PIECES (WIDTH * 2 / PIECE_BYTES)
#define STEPS (WIDTH / 16)
#define SLICES (ATTENTION_TILE / 16)

template <class Element> struct TensorProduct;
template <> struct TensorProduct<f16> {
    static __device__ __forceinline__ void into(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_f16(d, a, b); }
};
template <> struct TensorProduct<bf16> {
    static __device__ __forceinline__ void into(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_bf16(d, a, b); }
};

// Where a piece of a row lies: eight rows that a warp reads at once lie in different banks.
__device__ __forceinline__ int place_of(int row, int piece)
{
    int shift = PIECES % 8 == 0 ? row & 7 : row >> 1 & 3;
    return (row * PIECES + (piece ^ shift)) * PIECE_BYTES;
}

__device__ __forceinline__ void copy_rows(unsigned char *tile, const ELEMENT *from, int stride, int row0, int rows)
{
#pragma unroll
    for (int i = threadIdx.x; i < ATTENTION_TILE * PIECES; i += 128) {
        int row = i / PIECES, piece = i % PIECES;
        bool is_there = row0 + row < rows;
        copy_async_16(tile + place_of(row, piece), is_there ? from + (i64)(row0 + row) * stride + piece * (PIECE_BYTES / 2) : from, is_there);
    }
    copy_async_commit();
}

__device__ __forceinline__ unsigned both(float low, float high) { return store<ELEMENT>(low).bits | (unsigned)store<ELEMENT>(high).bits << 16; }

extern "C" __global__ void __launch_bounds__(128, 2) attention_tensor(Result out, const ELEMENT *q, const ELEMENT *k, const ELEMENT *v, const MASK *mask, const i64 *lengths, Heads of_q, Heads of_k, Heads of_v, Mask of_mask, Bounds bounds, Sizes n, float scale, float cap, float empty)
{
    DYNAMIC_SHARED(tile_k);
    unsigned char *tile_v = tile_k + ATTENTION_TILE * WIDTH * 2;
    int head = blockIdx.y, row0 = blockIdx.x * ATTENTION_TILE, lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
    int part = lane / 8, line = lane % 8;
    q += begin_of(of_q, head);
    k += begin_of(of_k, head / n.group);
    v += begin_of(of_v, head / n.group);
    // Queries come by way of the keys' place.
    unsigned queries[STEPS][4];
    copy_rows(tile_k, q, of_q.row, row0, n.rows);
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        load_matrix_x4(queries[i], tile_k + place_of(warp_row + part % 2 * 8 + line, i * 2 + part / 2));
    __syncthreads();
    // The two rows of this thread.
    int rows[2] = {row0 + warp_row + lane / 4, row0 + warp_row + lane / 4 + 8};
    Range own[2] = {range_of<BOUNDED>(bounds, lengths, n, rows[0]), range_of<BOUNDED>(bounds, lengths, n, rows[1])};
    float sums[WIDTH / 8][4], most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            sums[j][e] = 0;
    int first = range_of<BOUNDED>(bounds, lengths, n, row0).first / ATTENTION_TILE * ATTENTION_TILE;
    int end = range_of<BOUNDED>(bounds, lengths, n, row0 + ATTENTION_TILE - 1).end;
    copy_rows(tile_k, k, of_k.row, first, n.keys);
    copy_rows(tile_v, v, of_v.row, first, n.keys);
#pragma unroll 1
    for (int key0 = first; key0 < end; key0 += ATTENTION_TILE) {
        copy_async_wait<1>();
        __syncthreads();
        float scores[ATTENTION_TILE / 8][4];
#pragma unroll
        for (int j = 0; j < ATTENTION_TILE / 8; j += 2) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                scores[j][e] = scores[j + 1][e] = 0;
#pragma unroll
            for (int i = 0; i < STEPS; i++) {
                unsigned b[4];
                load_matrix_x4(b, tile_k + place_of(j * 8 + part / 2 * 8 + line, i * 2 + part % 2));
                unsigned one[2] = {b[0], b[1]}, two[2] = {b[2], b[3]};
                TensorProduct<ELEMENT>::into(scores[j], queries[i], one);
                TensorProduct<ELEMENT>::into(scores[j + 1], queries[i], two);
            }
        }
        // Everybody is done with the keys; beyond the last ones, zeros are copied that nobody reads.
        __syncthreads();
        copy_rows(tile_k, k, of_k.row, key0 + ATTENTION_TILE, n.keys);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float greatest = most[r];
#pragma unroll
            for (int j = 0; j < ATTENTION_TILE / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int key = key0 + j * 8 + lane % 4 * 2 + e;
                    float bias = rows[r] < n.rows ? bias_of<float, MASKED>(mask, of_mask, own[r], rows[r], key) : -INFINITY;
                    float score = capped<CAPPED>(scores[j][r * 2 + e] * scale, cap) + bias;
                    scores[j][r * 2 + e] = score = bias == -INFINITY ? bias : score;
                    greatest = larger(greatest, score);
                }
            for (int by = 2; by > 0; by /= 2)
                greatest = larger(greatest, __shfl_xor_sync(0xffffffffu, greatest, by));
            // Nothing that was looked at yet: there is nothing to scale, either.
            float centre = greatest == -INFINITY ? 0 : greatest, factor = exponential(most[r] - centre);
            most[r] = greatest;
            total[r] *= factor;
#pragma unroll
            for (int j = 0; j < ATTENTION_TILE / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    scores[j][r * 2 + e] = exponential(scores[j][r * 2 + e] - centre);
                    total[r] += scores[j][r * 2 + e];
                }
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) {
                sums[j][r * 2] *= factor;
                sums[j][r * 2 + 1] *= factor;
            }
        }
        copy_async_wait<1>();
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
            const float(&low)[4] = scores[2 * i], (&high)[4] = scores[2 * i + 1];
            unsigned weights[4] = {both(low[0], low[1]), both(low[2], low[3]), both(high[0], high[1]), both(high[2], high[3])};
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j += 2) {
                unsigned b[4];
                load_matrix_x4_transposed(b, tile_v + place_of(i * 16 + part % 2 * 8 + line, j + part / 2));
                unsigned one[2] = {b[0], b[1]}, two[2] = {b[2], b[3]};
                TensorProduct<ELEMENT>::into(sums[j], weights, one);
                TensorProduct<ELEMENT>::into(sums[j + 1], weights, two);
            }
        }
        __syncthreads();
        copy_rows(tile_v, v, of_v.row, key0 + ATTENTION_TILE, n.keys);
    }
    copy_async_wait<0>();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        for (int by = 2; by > 0; by /= 2)
            total[r] += __shfl_xor_sync(0xffffffffu, total[r], by);
        float factor = total[r] == 0 ? empty : 1 / total[r];
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j += 2) {
            const float *one = sums[j] + r * 2, *two = sums[j + 1] + r * 2;
            float four[4];
            four_of(four, one[0] * factor, one[1] * factor, two[0] * factor, two[1] * factor);
            if (rows[r] < n.rows)
                result4(out, four, 4, blockIdx.z, head, rows[r], j * 8 + four_column());
        }
    }
}
