// What both kernels of attention share: where heads lie, which keys a row looks at, and what becomes of a score.
//
// A key that is masked with -infinity is not looked at, whatever its score.

// Strides, in elements; elements of a row lie together.
struct Heads {
    int batch, head, row;
};
struct Mask {
    int batch, head, row, key;
    int keys; // those behind are not looked at
};
// A row looks at keys from `position - before` to `position + after` (-1: no bound); its position is row + offset.
struct Bounds {
    int before, after, offset;
};
struct Sizes {
    int heads, group, rows, keys, width, values;
};

__device__ __forceinline__ i64 begin_of(const Heads &heads, int head) { return (i64)blockIdx.z * heads.batch + (i64)head * heads.head; }

// Which keys a row looks at. Where there are lengths, they are those below the batch's, and the last row's position is the last of them.
struct Range {
    int first, end;
};
template <bool BOUNDED> __device__ __forceinline__ Range range_of(const Bounds &bounds, const i64 *lengths, const Sizes &n, int row)
{
    Range range = {0, n.keys};
    if (!BOUNDED)
        return range;
    int position = row + bounds.offset;
    if (lengths) {
        int length = (int)lengths[blockIdx.z];
        position = row + length - n.rows;
        range.end = length < n.keys ? length : n.keys;
    }
    if (bounds.before >= 0 && position - bounds.before > range.first)
        range.first = position - bounds.before;
    if (bounds.after >= 0 && position + bounds.after + 1 < range.end)
        range.end = position + bounds.after + 1;
    return range;
}

// What is added to a score; -infinity for a key that is not looked at. A mask of truth values (MASKED is 2) says which keys are.
template <class T, int MASKED, class Element>
__device__ __forceinline__ T bias_of(const Element *mask, const Mask &m, const Range &range, int row, int key)
{
    if (key < range.first || key >= range.end || (MASKED && key >= m.keys))
        return -INFINITY;
    if (!MASKED)
        return 0;
    Element own = mask[(i64)blockIdx.z * m.batch + (i64)blockIdx.y * m.head + (i64)row * m.row + (i64)key * m.key];
    if (MASKED == 2)
        return load(own) ? (T)0 : (T)-INFINITY;
    return (T)load(own);
}

template <bool CAPPED, class T> __device__ __forceinline__ T capped(T score, float cap) { return CAPPED ? soft_cap(score, (T)cap) : score; }

template <class T> struct Greatest {
    static __device__ __forceinline__ T identity() { return -INFINITY; }
    static __device__ __forceinline__ T join(T a, T b) { return larger(a, b); }
};
