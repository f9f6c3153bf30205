// A depth in parts, for results of fewer tiles than a device has room for: blocks of their own sum up each part, and the block that is done last with a
// tile adds the parts up. It does so in their order, not in that in which they came, so that a result is the same at every run.
//
// Where `SPLIT` is false a block has the whole depth, and nothing here costs anything. Else the grid's third axis has `count` blocks for each matrix
// or group, `sums` has room for the tiles of all parts, [tile][part][four sums of a thread][thread], and `arrived` a number for each tile: how many of
// its parts are there. These numbers are zero when a kernel begins, and again when it ends, so that nobody needs to set them in between.

struct Parts {
    void *sums;
    unsigned *arrived;
    int count, steps; // of each part, but for the last, which may have fewer
};

// This block's part: which matrix or group it is of, and its steps of the depth.
struct Part {
    int z, number, begin, end;
};
template <bool SPLIT> __device__ __forceinline__ Part own_part(const Parts &parts, int steps)
{
    if (!SPLIT)
        return Part{(int)blockIdx.z, 0, 0, steps};
    int z = blockIdx.z / parts.count, number = blockIdx.z - z * parts.count, begin = number * parts.steps;
    return Part{z, number, begin, min(begin + parts.steps, steps)};
}

// Whether this block has a tile's result after all: the last one to arrive has the sums of all parts then.
template <bool SPLIT, class Own> __device__ __forceinline__ bool is_whole(Own &own, const Parts &parts, const Part &part)
{
    if (!SPLIT)
        return true;
    typedef Vector<typename Own::Sum, 4> Four;
    const int FOURS = Own::EACH_M * Own::EACH_N * Own::THREADS; // of a tile
    int tile = (part.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    Four *sums = (Four *)parts.sums + (i64)tile * parts.count * FOURS + threadIdx.x;
#pragma unroll
    for (int i = 0; i < Own::EACH_M; i++)
#pragma unroll
        for (int j = 0; j < Own::EACH_N; j++) {
            Four own_sums;
#pragma unroll
            for (int e = 0; e < 4; e++)
                own_sums.at[e] = own.sums[i][j][e];
            sums[part.number * FOURS + (i * Own::EACH_N + j) * Own::THREADS] = own_sums;
        }
    __shared__ unsigned before;
    // What the block has written is to be seen by who sees that it has arrived, and so is what others have written by who comes last: one thread sees to
    // both for all that it meets at a barrier (causality order, PTX ISA, "Memory Consistency Model").
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        before = atomicAdd(parts.arrived + tile, 1u);
        __threadfence();
    }
    __syncthreads();
    if (before + 1 != (unsigned)parts.count)
        return false;
    own.clear();
#pragma unroll 2
    for (int number = 0; number < parts.count; number++)
#pragma unroll
        for (int i = 0; i < Own::EACH_M; i++)
#pragma unroll
            for (int j = 0; j < Own::EACH_N; j++) {
                Four others = sums[number * FOURS + (i * Own::EACH_N + j) * Own::THREADS];
#pragma unroll
                for (int e = 0; e < 4; e++)
                    own.sums[i][j][e] += others.at[e];
            }
    if (threadIdx.x == 0)
        parts.arrived[tile] = 0;
    return true;
}
