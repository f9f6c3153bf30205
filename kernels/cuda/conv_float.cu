// Convolutions of floats as they are: conv_tensor.cu in all but what multiplies.

typedef FloatTiles<TILE_M, TILE_N, WARPS_M, WARPS_N, 0> Own;

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, 1) conv_float(Result out, const float *x, const float *weights, const float *beyond, Window w, Parts parts)
{
    DYNAMIC_SHARED(stages);
    int depths = w.kernel[0] * w.kernel[1] * w.kernel[2] * w.group_inputs;
    Part part = own_part<SPLIT>(parts, (depths + Own::STEP - 1) / Own::STEP);
    int row0 = blockIdx.y * TILE_M, column0 = blockIdx.x * TILE_N, group = part.z;
    x += group * w.group_inputs;
    weights += (i64)group * w.group_outputs * depths;
    Own own;
    multiply_windows<Own, BEYOND>(own, stages, part, w, x, row0, beyond, weights, column0, depths);
    if (!is_whole<SPLIT>(own, parts, part))
        return;
    own.for_fours([&](const Own::Sum (&four)[4], int own_row, int own_column) {
        int row = row0 + own_row, column = column0 + own_column;
        if (row < w.rows && column < w.group_outputs)
            result4(out, four, w.group_outputs - column, row, group * w.group_outputs + column);
    });
}
