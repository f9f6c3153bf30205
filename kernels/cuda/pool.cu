// Poolings of one to three spatial axes, a thread a result; tensors are as in conv.cu; the window's `taps` are outputs. The host generates
// `result(out, value, row, channel)`, which writes.
//
// max_pool: `places`, where it is wanted, gets where in the whole input each maximum was, in row-major order of [n][c][d][h][w] or, `by_columns`,
//   with the spatial axes the other way round. average_pool: padding counts if `with_padding`. lp_pool: the p-th root of the sum of p-th powers.
// Grid: enough for all results; block: any.

// Calls `each(element, place)` for every element of the window of a result that is inside; `row` and `output` are its place.
template <class Each> __device__ __forceinline__ void for_window(const Window &w, const LEFT *x, unsigned row, unsigned output, Each each)
{
    Place begin = begin_of(w, row);
    const LEFT *channel = x + (i64)begin.image * w.x_stride[0] + (i64)output * w.x_stride[4];
    // Not unrolled: what the places take in registers is worth more.
#pragma unroll 1
    for (int kz = 0; kz < w.kernel[0]; kz++)
#pragma unroll 1
        for (int ky = 0; ky < w.kernel[1]; ky++)
#pragma unroll 1
            for (int kx = 0; kx < w.kernel[2]; kx++) {
                int z = begin.z + kz * w.dilation[0], y = begin.y + ky * w.dilation[1], p = begin.x + kx * w.dilation[2];
                bool is_there = is_inside(w, z, y, p);
                bool is_padding = !is_there && z < w.length[0] + w.end_pad[0] && y < w.length[1] + w.end_pad[1] && p < w.length[2] + w.end_pad[2];
                if (is_there || is_padding)
                    each(is_there ? (SUM)load(channel[element_at(w, z, y, p)]) : (SUM)0, is_there, begin.image, z, y, p);
            }
}

extern "C" __global__ void __launch_bounds__(256, 4) max_pool(Result out, i64 *places, const LEFT *x, Window w, int by_columns, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads()) {
        unsigned row = quotient(i, w.taps[0]), output = i - row * w.taps[0].by;
        SUM most = LOWEST;
        i64 place = -1;
        for_window(w, x, row, output, [&](SUM value, bool is_there, unsigned image, int z, int y, int p) {
            if (!is_there || !(place < 0 || value > most || value != value))
                return;
            most = value;
            i64 channel = (i64)image * w.outputs + output, plane = (i64)w.length[0] * w.length[1] * w.length[2];
            place = by_columns ? ((i64)p * w.length[1] + y) * w.length[0] + z : ((i64)z * w.length[1] + y) * w.length[2] + p;
            place += channel * plane;
        });
        result(out, most, row, output);
        if (places) {
            // Places lie row-major, channels before pixels.
            unsigned plane = w.out[0].by * w.out[1].by * w.out[2].by, image = row / plane;
            places[((i64)image * w.outputs + output) * plane + row % plane] = place;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) average_pool(Result out, const LEFT *x, Window w, int with_padding, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads()) {
        unsigned row = quotient(i, w.taps[0]), output = i - row * w.taps[0].by;
        SUM sum = 0;
        int counted = 0;
        for_window(w, x, row, output, [&](SUM value, bool is_there, unsigned, int, int, int) {
            sum += value;
            counted += is_there || with_padding;
        });
        result(out, sum / (SUM)(counted > 0 ? counted : 1), row, output);
    }
}

extern "C" __global__ void __launch_bounds__(256) lp_pool(Result out, const LEFT *x, Window w, float p, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads()) {
        unsigned row = quotient(i, w.taps[0]), output = i - row * w.taps[0].by;
        SUM sum = 0;
        for_window(w, x, row, output, [&](SUM value, bool is_there, unsigned, int, int, int) { sum += is_there ? power(absolute(value), (SUM)p) : (SUM)0; });
        result(out, power(sum, (SUM)1 / (SUM)p), row, output);
    }
}
