// Convolutions with a thread for each result: for groups of few outputs (depthwise convolutions), whose products are too narrow for a tile, and
// for transposed convolutions. Tensors, `zero` and `result` are as in conv.cu; the window's `taps` are outputs and outputs of a group.

#ifndef CENTRED
#define CENTRED 0
#endif
// Products of a thread that are read for at once. Of bytes a compiler would have more of them than it has registers for.
#define AT_ONCE (sizeof(LEFT) == 1 || sizeof(RIGHT) == 1 ? 2 : 4)

extern "C" __global__ void __launch_bounds__(256) conv_direct(Result out, const LEFT *x, const RIGHT *weights, Window w, unsigned count, const LEFT *zero)
{
    SUM from = CENTRED ? (SUM)load(*zero) : (SUM)0;
    for (unsigned i = first_element(); i < count; i += all_threads()) {
        unsigned row = quotient(i, w.taps[0]), output = i - row * w.taps[0].by;
        int group = quotient(output, w.taps[1]);
        Place begin = begin_of(w, row);
        const LEFT *channels = x + (i64)begin.image * w.x_stride[0] + (i64)group * w.group_inputs * w.x_stride[4];
        const RIGHT *own = weights + output;
        SUM sum = 0;
        for (int kz = 0; kz < w.kernel[0]; kz++)
            for (int ky = 0; ky < w.kernel[1]; ky++)
                for (int kx = 0; kx < w.kernel[2]; kx++, own += (i64)w.group_inputs * w.outputs) {
                    int z = begin.z + kz * w.dilation[0], y = begin.y + ky * w.dilation[1], p = begin.x + kx * w.dilation[2];
                    if (!is_inside(w, z, y, p))
                        continue;
                    const LEFT *at = channels + element_at(w, z, y, p);
#pragma unroll AT_ONCE
                    for (int c = 0; c < w.group_inputs; c++)
                        sum += ((SUM)load(at[(i64)c * w.x_stride[4]]) - from) * (SUM)load(own[(i64)c * w.outputs]);
                }
        result(out, sum, row, output);
    }
}

// The input's place whose window has this one under tap k, or -1.
__device__ __forceinline__ int source_of(int place, int tap, int stride, int dilation, int pad, int length)
{
    int from = place + pad - tap * dilation;
    if (from < 0 || from % stride != 0 || from / stride >= length)
        return -1;
    return from / stride;
}

extern "C" __global__ void __launch_bounds__(256) conv_transposed(Result out, const LEFT *x, const RIGHT *weights, Window w, unsigned count)
{
    for (unsigned i = first_element(); i < count; i += all_threads()) {
        unsigned row = quotient(i, w.taps[0]), output = i - row * w.taps[0].by;
        int group = quotient(output, w.taps[1]), own = output - group * w.taps[1].by;
        Place place = place_of(w, row);
        const LEFT *channels = x + (i64)place.image * w.x_stride[0] + (i64)group * w.group_inputs * w.x_stride[4];
        int inputs = w.outputs / w.group_outputs * w.group_inputs;
        SUM sum = 0;
        for (int kz = 0; kz < w.kernel[0]; kz++)
            for (int ky = 0; ky < w.kernel[1]; ky++)
                for (int kx = 0; kx < w.kernel[2]; kx++) {
                    int z = source_of(place.z, kz, w.stride[0], w.dilation[0], w.pad[0], w.length[0]);
                    int y = source_of(place.y, ky, w.stride[1], w.dilation[1], w.pad[1], w.length[1]);
                    int p = source_of(place.x, kx, w.stride[2], w.dilation[2], w.pad[2], w.length[2]);
                    if (z < 0 || y < 0 || p < 0)
                        continue;
                    const LEFT *at = channels + element_at(w, z, y, p);
                    i64 tap = ((i64)kz * w.kernel[1] + ky) * w.kernel[2] + kx;
                    const RIGHT *by = weights + (tap * inputs + (i64)group * w.group_inputs) * w.group_outputs + own;
#pragma unroll AT_ONCE
                    for (int c = 0; c < w.group_inputs; c++)
                        sum += (SUM)load(at[(i64)c * w.x_stride[4]]) * (SUM)load(by[(i64)c * w.group_outputs]);
                }
        result(out, sum, row, output);
    }
}
