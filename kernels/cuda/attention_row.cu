// Attention, a row of queries a block: for few rows, for elements and widths that the tiles of attention.cu do not take, and where the scores are
// wanted, too.
//
// q: [batch][heads][rows][width], k: [batch][heads][keys][width], v: [batch][heads][keys][values] of ELEMENT, by strides; `group` heads of q share one
// of k and v. Sums are in REGISTER. The host generates `result(out, value, batch, head, row, column)`, which writes, and defines
//   MASKED    0: no mask; 1: a mask of MASK is added to the scores; 2: a mask of truth values says which keys are looked at
//   CAPPED    1: scores become cap * tanh(score / cap) before the mask is added
//   BOUNDED   1: rows look at some keys only (attention_scores.cu)
//   EACH      values / 128, rounded up: columns of the result that a thread computes
//   SCORES    1: scores are written, too, to [batch][heads][rows][keys] of ELEMENT without gaps: `what` is 0 for those of the product, 1 with the cap,
//             2 with the mask, 3 for the probabilities
// A row that looks at no key is `empty`: 0, or not a number. Grid: (rows; heads; batch); block: (128).

#define ATTENTION_KEYS 128

extern "C" __global__ void __launch_bounds__(128, 8) attention_row(Result out, const ELEMENT *q, const ELEMENT *k, const ELEMENT *v, const MASK *mask, const i64 *lengths, Heads of_q, Heads of_k, Heads of_v, Mask of_mask, Bounds bounds, Sizes n, float scale, float cap, float empty, ELEMENT *scores, int what)
{
    __shared__ REGISTER biased[ATTENTION_KEYS];
    int head = blockIdx.y, row = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    q += begin_of(of_q, head) + (i64)row * of_q.row;
    k += begin_of(of_k, head / n.group);
    v += begin_of(of_v, head / n.group);
    Range range = range_of<BOUNDED>(bounds, lengths, n, row);
    REGISTER sums[EACH] = {}, most = -INFINITY, total = 0;
#if SCORES
    // All are written; probabilities in a second visit, when their sum is known.
    int first = 0, end = n.keys, visits = what == 3 ? 2 : 1;
    REGISTER level = 0;
    scores += (((i64)blockIdx.z * n.heads + head) * n.rows + row) * n.keys;
#else
    int first = range.first / ATTENTION_KEYS * ATTENTION_KEYS, end = range.end, visits = 1;
#endif
#pragma unroll 1
    for (int visit = 0; visit < visits; visit++) {
#pragma unroll 1
        for (int key0 = first; key0 < end; key0 += ATTENTION_KEYS) {
            // A warp a key, whose lanes share its elements.
            for (int i = warp; i < ATTENTION_KEYS; i += ATTENTION_KEYS / WARP) {
                int key = key0 + i;
                REGISTER score = 0;
                if (key < n.keys)
                    for (int at = lane; at < n.width; at += WARP)
                        score += (REGISTER)load(q[at]) * (REGISTER)load(k[(i64)key * of_k.row + at]);
                score = warp_reduced<Sum<REGISTER>>(score) * scale;
                if (lane != 0)
                    continue;
                REGISTER bias = key < n.keys ? bias_of<REGISTER, MASKED>(mask, of_mask, range, row, key) : (REGISTER)-INFINITY;
                REGISTER with_cap = capped<CAPPED>(score, cap), whole = bias == (REGISTER)-INFINITY ? bias : with_cap + bias;
                biased[i] = whole;
#if SCORES
                if (key < n.keys && what < 3)
                    scores[key] = store<ELEMENT>(what == 0 ? score : what == 1 ? with_cap : whole);
#endif
            }
            __syncthreads();
            REGISTER score = biased[threadIdx.x];
#if SCORES
            if (visit == 1) {
                if (key0 + threadIdx.x < n.keys)
                    scores[key0 + threadIdx.x] = store<ELEMENT>(score == (REGISTER)-INFINITY ? (REGISTER)0 : exponential(score - level));
                __syncthreads();
                continue;
            }
#endif
            REGISTER greatest = larger(most, block_reduced<Greatest<REGISTER>>(score));
            // Nothing that was looked at yet: there is nothing to scale, either.
            REGISTER centre = greatest == (REGISTER)-INFINITY ? (REGISTER)0 : greatest;
            REGISTER by = exponential(most - centre), weight = exponential(score - centre);
            most = greatest;
            total = total * by + block_reduced<Sum<REGISTER>>(weight);
            biased[threadIdx.x] = weight;
            __syncthreads();
            int count = n.keys - key0 < ATTENTION_KEYS ? n.keys - key0 : ATTENTION_KEYS;
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                int column = threadIdx.x + blockDim.x * j;
                sums[j] *= by;
                if (column < n.values)
                    for (int i = 0; i < count; i++)
                        sums[j] += biased[i] * (REGISTER)load(v[(i64)(key0 + i) * of_v.row + column]);
            }
            // Before the next tile's scores are written over these.
            __syncthreads();
        }
#if SCORES
        level = most + logarithm(total);
#endif
    }
    REGISTER factor = total == 0 ? (REGISTER)empty : 1 / total;
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        int column = threadIdx.x + blockDim.x * j;
        if (column < n.values)
            result(out, sums[j] * factor, blockIdx.z, head, row, column);
    }
}
