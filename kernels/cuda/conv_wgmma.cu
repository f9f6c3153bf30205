// Convolutions of one or two spatial axes on Hopper's tensor cores: a product whose left tile is copied from the images as windows are cut out of them,
// what padding there is and all: zeros. Sums are floats, or integers where elements are.
//
// x: [n][h][w][c] of ELEMENT (types are as in gemm_wgmma.cu), as a tensor that copies of windows read: channels, w, h, n; weights: the same, of RIGHT, of
// [outputs][taps][c of a group]: channels, outputs, taps, and one element. What is beyond a group's channels is zeros, or another group's where they fill a stage. Row r of the
// result is the r-th place in [n][oh][ow]; the host generates `result4(out, four, count, row, channel)`, which writes four elements beside each
// other, or as many as there are; it defines TILE_N, PARTS and STAGES (wgmma_tiles.cu), and RIGHT_ROWS as 0.
// Grid: as many blocks as the device holds, or fewer; block: 384; dynamic shared memory: STAGES * (STAGE_BYTES + 16).

typedef WideTiles<ELEMENT, RIGHT, TILE_N, PARTS, STAGES, RIGHT_ROWS> Own;

struct WideWindow {
    int rows, group_outputs, group_inputs, groups;
    // Of h and w.
    int kernel[2], stride[2], dilation[2], pad[2];
    Divide out[2];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    conv_wgmma(Result out, const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weights, WideWindow w)
{
    TILES_SHARED(stages);
    Own::begin(stages);
    int rows = (w.rows + Own::M - 1) / Own::M, columns = (w.group_outputs + Own::N - 1) / Own::N, parts = (w.group_inputs + Own::STEP - 1) / Own::STEP;
    Turn<STAGES> turn;
    if (threadIdx.x < WARPGROUP) {
        registers_give<KEPT_REGISTERS>();
        if (threadIdx.x != 0)
            return;
        for (int place = blockIdx.x; place < rows * columns * w.groups; place += gridDim.x) {
            TileAt tile = tile_at(place, rows, columns);
            // Where the first row's window begins; the copy goes on from there.
            unsigned row = tile.row * Own::M, by_w = quotient(row, w.out[1]), image = quotient(by_w, w.out[0]);
            int left = (int)(row - by_w * w.out[1].by) * w.stride[1] - w.pad[1], top = (int)(by_w - image * w.out[0].by) * w.stride[0] - w.pad[0];
            int channel0 = tile.z * w.group_inputs, column = tile.z * w.group_outputs + tile.column * Own::N;
            for (int down = 0; down < w.kernel[0]; down++)
                for (int right = 0; right < w.kernel[1]; right++)
                    for (int part = 0; part < parts; part++)
                        Own::fill(stages, turn, weights, column, part * Own::STEP, down * w.kernel[1] + right, 0, [&](unsigned char *to, u64 *barrier) {
                            copy_windows(to, x, barrier, channel0 + part * Own::STEP, left, top, image, right * w.dilation[1], down * w.dilation[0]);
                        });
        }
        return;
    }
    registers_take<TAKEN_REGISTERS>();
    Own own;
    for (int place = blockIdx.x; place < rows * columns * w.groups; place += gridDim.x) {
        TileAt tile = tile_at(place, rows, columns);
        own.multiply(stages, turn, w.kernel[0] * w.kernel[1] * parts);
        own.for_fours([&](const Own::Sum (&four)[4], int own_row, int own_column) {
            int row = tile.row * Own::M + own_row, column = tile.column * Own::N + own_column;
            if (row < w.rows && column < w.group_outputs)
                result4(out, four, w.group_outputs - column, row, tile.z * w.group_outputs + column);
        });
    }
}
