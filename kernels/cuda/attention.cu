// Attention: softmax(q * transposed k * scale + bias) * v, without the product of all rows with all keys in memory (Milakov and Gimelshein 2018; Dao
// et al. 2022, algorithm 1): keys are visited in tiles, and what was summed up is scaled down whenever a greater score turns up.
//
// q: [batch][heads][rows][width], k: [batch][heads][keys][width], v: [batch][heads][keys][values] of ELEMENT, by strides; `group` heads of q share one
// of k and v. Sums are in REGISTER. The host generates `result(out, value, batch, head, row, column)`, which writes, and defines
//   MASKED    0: no mask; 1: a mask of MASK is added to the scores; 2: a mask of truth values says which keys are looked at
//   CAPPED    1: scores become cap * tanh(score / cap) before the mask is added
//   BOUNDED   1: rows look at some keys only (attention_scores.cu)
//   EACH      values / 16, rounded up, at most 16: columns of the result that a thread computes
// A row that looks at no key is `empty`: 0, or not a number. A block computes 64 rows of a head, 64 keys a step.
// Grid: (rows / 64, rounded up; heads; batch); block: (256).

#define ATTENTION_TILE 64
#define ATTENTION_STEP 16

extern "C" __global__ void __launch_bounds__(256) attention(Result out, const ELEMENT *q, const ELEMENT *k, const ELEMENT *v, const MASK *mask, const i64 *lengths, Heads of_q, Heads of_k, Heads of_v, Mask of_mask, Bounds bounds, Sizes n, float scale, float cap, float empty)
{
    __shared__ REGISTER tile_q[ATTENTION_STEP][ATTENTION_TILE + 4], tile_k[ATTENTION_STEP][ATTENTION_TILE + 4], tile_v[ATTENTION_STEP][EACH * 16];
    __shared__ REGISTER weights[ATTENTION_TILE][ATTENTION_TILE + 4];
    int head = blockIdx.y, row0 = blockIdx.x * ATTENTION_TILE;
    q += begin_of(of_q, head);
    k += begin_of(of_k, head / n.group);
    v += begin_of(of_v, head / n.group);
    // Rows that follow each other, and every 16th key or column: 16 neighbouring threads have the same rows.
    int own_row = threadIdx.x / 16 * 4, own_column = threadIdx.x % 16;
    REGISTER sums[4][EACH] = {}, most[4], total[4] = {};
    Range own[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        most[i] = -INFINITY;
        own[i] = range_of<BOUNDED>(bounds, lengths, n, row0 + own_row + i);
    }
    Range first = range_of<BOUNDED>(bounds, lengths, n, row0), last = range_of<BOUNDED>(bounds, lengths, n, row0 + ATTENTION_TILE - 1);
    for (int key0 = first.first / ATTENTION_TILE * ATTENTION_TILE; key0 < last.end; key0 += ATTENTION_TILE) {
        REGISTER scores[4][4] = {};
        for (int step = 0; step < n.width; step += ATTENTION_STEP) {
            for (int i = threadIdx.x; i < ATTENTION_TILE * ATTENTION_STEP; i += blockDim.x) {
                int line = i / ATTENTION_STEP, depth = i % ATTENTION_STEP, at = step + depth;
                bool is_row = row0 + line < n.rows && at < n.width, is_key = key0 + line < n.keys && at < n.width;
                tile_q[depth][line] = is_row ? (REGISTER)load(q[(i64)(row0 + line) * of_q.row + at]) : (REGISTER)0;
                tile_k[depth][line] = is_key ? (REGISTER)load(k[(i64)(key0 + line) * of_k.row + at]) : (REGISTER)0;
            }
            __syncthreads();
#pragma unroll
            for (int depth = 0; depth < ATTENTION_STEP; depth++)
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        scores[i][j] += tile_q[depth][own_row + i] * tile_k[depth][own_column + 16 * j];
            // Before the next step is written over this one.
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            REGISTER greatest = most[i];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int row = row0 + own_row + i, key = key0 + own_column + 16 * j;
                REGISTER bias = row < n.rows ? bias_of<REGISTER, MASKED>(mask, of_mask, own[i], row, key) : (REGISTER)-INFINITY;
                scores[i][j] = bias == (REGISTER)-INFINITY ? bias : capped<CAPPED>(scores[i][j] * scale, cap) + bias;
                greatest = larger(greatest, scores[i][j]);
            }
            for (int by = 8; by > 0; by /= 2)
                greatest = larger(greatest, __shfl_xor_sync(0xffffffffu, greatest, by));
            // Nothing that was looked at yet: there is nothing to scale, either.
            REGISTER centre = greatest == (REGISTER)-INFINITY ? (REGISTER)0 : greatest;
            REGISTER factor = exponential(most[i] - centre), sum = 0;
            most[i] = greatest;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                REGISTER weight = exponential(scores[i][j] - centre);
                sum += weight;
                weights[own_column + 16 * j][own_row + i] = weight;
            }
            total[i] = total[i] * factor + sum;
#pragma unroll
            for (int j = 0; j < EACH; j++)
                sums[i][j] *= factor;
        }
        for (int step = 0; step < ATTENTION_TILE && key0 + step < n.keys; step += ATTENTION_STEP) {
            for (int i = threadIdx.x; i < ATTENTION_STEP * EACH * 16; i += blockDim.x) {
                int line = i / (EACH * 16), column = i % (EACH * 16), key = key0 + step + line;
                tile_v[line][column] = key < n.keys && column < n.values ? (REGISTER)load(v[(i64)key * of_v.row + column]) : (REGISTER)0;
            }
            __syncthreads();
#pragma unroll 4
            for (int depth = 0; depth < ATTENTION_STEP; depth++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        sums[i][j] += weights[step + depth][own_row + i] * tile_v[depth][own_column + 16 * j];
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        for (int by = 8; by > 0; by /= 2)
            total[i] += __shfl_xor_sync(0xffffffffu, total[i], by);
        REGISTER factor = total[i] == 0 ? (REGISTER)empty : 1 / total[i];
        int row = row0 + own_row + i;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            int column = own_column + 16 * j;
            if (row < n.rows && column < n.values)
                result(out, sums[i][j] * factor, blockIdx.z, head, row, column);
        }
    }
}
