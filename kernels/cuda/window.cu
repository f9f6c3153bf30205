// Windows of one to three spatial axes over images (fewer axes are given as axes of one element in front): what convolutions and poolings have in common.

struct Window {
    // Of the input, in elements: image, three spatial axes, channel.
    int x_stride[5];
    int length[3], kernel[3], stride[3], dilation[3], pad[3], end_pad[3];
    int rows, outputs, group_inputs, group_outputs;
    Divide out[3];  // lengths of the result's spatial axes
    Divide taps[3]; // what a family divides by besides
};

// A place: the image, and three spatial axes.
struct Place {
    int image, z, y, x;
};

// Row r of the result is the r-th place in [n][od][oh][ow].
__device__ __forceinline__ Place place_of(const Window &w, unsigned row)
{
    unsigned by_w = quotient(row, w.out[2]), x = row - by_w * w.out[2].by;
    unsigned by_h = quotient(by_w, w.out[1]), y = by_w - by_h * w.out[1].by;
    unsigned image = quotient(by_h, w.out[0]), z = by_h - image * w.out[0].by;
    return Place{(int)image, (int)z, (int)y, (int)x};
}

// Where the window of a place in the result begins in the input.
__device__ __forceinline__ Place begin_of(const Window &w, unsigned row)
{
    Place place = place_of(w, row);
    return Place{place.image, place.z * w.stride[0] - w.pad[0], place.y * w.stride[1] - w.pad[1], place.x * w.stride[2] - w.pad[2]};
}

// How far a tap is from where its window begins; taps are counted by kernels whose width and height are taps[1] and taps[2].
__device__ __forceinline__ Place shift_of(const Window &w, unsigned tap)
{
    unsigned by_w = quotient(tap, w.taps[1]), by_h = quotient(by_w, w.taps[2]);
    return Place{0, (int)by_h * w.dilation[0], (int)(by_w - by_h * w.taps[2].by) * w.dilation[1], (int)(tap - by_w * w.taps[1].by) * w.dilation[2]};
}

__device__ __forceinline__ bool is_inside(const Window &w, int z, int y, int x)
{
    return (unsigned)z < (unsigned)w.length[0] && (unsigned)y < (unsigned)w.length[1] && (unsigned)x < (unsigned)w.length[2];
}

// The element of the first channel, from the first one of its image.
__device__ __forceinline__ i64 element_at(const Window &w, int z, int y, int x)
{
    return (i64)z * w.x_stride[1] + (i64)y * w.x_stride[2] + (i64)x * w.x_stride[3];
}
