// Convolutions of floats as they are: conv_tensor.cu in all but what multiplies.

typedef FloatTiles<TILE_M, TILE_N, WARPS_M, WARPS_N, 0> Own;

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, 1) conv_float(Result out, const float *x, const float *weights, const float *beyond, Window w, Parts parts)
{
    DYNAMIC_SHARED(stages);
    int depths = w.kernel[0] * w.kernel[1] * w.kernel[2] * w.group_inputs;
    Part part = own_part<SPLIT>(parts, (depths + Own::STEP - 1) / Own::STEP);
    int channel0 = part.z * w.group_outputs;
    x += part.z * w.group_inputs;
    weights += (i64)channel0 * depths;
    Own own;
    multiply_windows<Own, BEYOND>(own, stages, part, w, x, beyond, weights, depths);
    write_whole<SPLIT>(own, parts, part, w.rows, w.group_outputs, [&](const Own::Sum (&four)[4], int count, int row, int column) { result4(out, four, count, row, channel0 + column); });
}
