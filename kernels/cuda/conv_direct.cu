// Convolutions with a thread for each result: for groups of few outputs (depthwise convolutions), whose products are too narrow for a tile, and
// for transposed convolutions. Tensors, `Window`, `zero` and `result` are as in conv.cu.

#ifndef CENTRED
#define CENTRED 0
#endif

struct Window {
    int x_stride[5];
    int length[3], kernel[3], stride[3], dilation[3], pad[3];
    int rows, outputs, group_inputs, group_outputs;
    Divide out[3];
    Divide taps[3]; // outputs, outputs of a group, nothing
};

extern "C" __global__ void __launch_bounds__(256) conv_direct(Result out, const LEFT *x, const RIGHT *weights, Window w, unsigned count, const LEFT *zero)
{
    SUM from = CENTRED ? (SUM)load(*zero) : (SUM)0;
    for (unsigned i = first_element(); i < count; i += all_threads()) {
        unsigned row = quotient(i, w.taps[0]), output = i - row * w.taps[0].by;
        int group = quotient(output, w.taps[1]);
        unsigned by_w = quotient(row, w.out[2]), ox = row - by_w * w.out[2].by;
        unsigned by_h = quotient(by_w, w.out[1]), oy = by_w - by_h * w.out[1].by;
        unsigned image = quotient(by_h, w.out[0]), oz = by_h - image * w.out[0].by;
        const LEFT *channels = x + (i64)image * w.x_stride[0] + (i64)group * w.group_inputs * w.x_stride[4];
        const RIGHT *own = weights + output;
        SUM sum = 0;
        for (int kz = 0; kz < w.kernel[0]; kz++)
            for (int ky = 0; ky < w.kernel[1]; ky++)
                for (int kx = 0; kx < w.kernel[2]; kx++, own += (i64)w.group_inputs * w.outputs) {
                    int z = (int)oz * w.stride[0] + kz * w.dilation[0] - w.pad[0];
                    int y = (int)oy * w.stride[1] + ky * w.dilation[1] - w.pad[1];
                    int p = (int)ox * w.stride[2] + kx * w.dilation[2] - w.pad[2];
                    if (z < 0 || z >= w.length[0] || y < 0 || y >= w.length[1] || p < 0 || p >= w.length[2])
                        continue;
                    const LEFT *at = channels + (i64)z * w.x_stride[1] + (i64)y * w.x_stride[2] + (i64)p * w.x_stride[3];
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
        unsigned by_w = quotient(row, w.out[2]), ox = row - by_w * w.out[2].by;
        unsigned by_h = quotient(by_w, w.out[1]), oy = by_w - by_h * w.out[1].by;
        unsigned image = quotient(by_h, w.out[0]), oz = by_h - image * w.out[0].by;
        const LEFT *channels = x + (i64)image * w.x_stride[0] + (i64)group * w.group_inputs * w.x_stride[4];
        int inputs = w.outputs / w.group_outputs * w.group_inputs;
        SUM sum = 0;
        for (int kz = 0; kz < w.kernel[0]; kz++)
            for (int ky = 0; ky < w.kernel[1]; ky++)
                for (int kx = 0; kx < w.kernel[2]; kx++) {
                    int z = source_of(oz, kz, w.stride[0], w.dilation[0], w.pad[0], w.length[0]);
                    int y = source_of(oy, ky, w.stride[1], w.dilation[1], w.pad[1], w.length[1]);
                    int p = source_of(ox, kx, w.stride[2], w.dilation[2], w.pad[2], w.length[2]);
                    if (z < 0 || y < 0 || p < 0)
                        continue;
                    const LEFT *at = channels + (i64)z * w.x_stride[1] + (i64)y * w.x_stride[2] + (i64)p * w.x_stride[3];
                    i64 tap = ((i64)kz * w.kernel[1] + ky) * w.kernel[2] + kx;
                    const RIGHT *by = weights + (tap * inputs + (i64)group * w.group_inputs) * w.group_outputs + own;
                    for (int c = 0; c < w.group_inputs; c++)
                        sum += (SUM)load(at[(i64)c * w.x_stride[4]]) * (SUM)load(by[(i64)c * w.group_outputs]);
                }
        result(out, sum, row, output);
    }
}
