// A matrix product on Hopper's tensor cores with what is done to its result: result(a * b). Sums are floats, or integers where elements are.
//
// a: [batch][m][k], b: [batch][k][n] where RIGHT_ROWS is 1, else [batch][n][k], of ELEMENT and RIGHT (both f16, both bf16; not where RIGHT_ROWS both float
// as TF32, each of them f8e4m3 or f8e5m2, or each of them i8 or u8), as tensors that copies read: the axis that lies together first, then the other one, then the two axes of the batch; an axis of the batch that a side does not have
// has one element there. The host generates `result4(out, four, count, z, row, column)`, which writes four elements beside each other, or
// as many as there are; it defines TILE_N, PARTS and STAGES (wgmma_tiles.cu).
// Grid: as many blocks as the device holds, or fewer; block: 384; dynamic shared memory: STAGES * (STAGE_BYTES + 16).

typedef WideTiles<ELEMENT, RIGHT, TILE_N, PARTS, STAGES, RIGHT_ROWS> Own;

// The axes of the batch: the length of the inner one, and whether each side has it, the inner one first.
struct BatchAxes {
    int inner;
    int left[2], right[2];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    gemm_wgmma(Result out, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, BatchAxes axes, int m, int n, int k, int batch)
{
    TILES_SHARED(stages);
    Own::begin(stages);
    int rows = (m + Own::M - 1) / Own::M, columns = (n + Own::N - 1) / Own::N, steps = (k + Own::STEP - 1) / Own::STEP;
    Turn<STAGES> turn;
    if (threadIdx.x < WARPGROUP) {
        registers_give<KEPT_REGISTERS>();
        if (threadIdx.x != 0)
            return;
        for (int place = blockIdx.x; place < rows * columns * batch; place += gridDim.x) {
            TileAt tile = tile_at(place, rows, columns);
            int outer = tile.z / axes.inner, inner = tile.z - outer * axes.inner;
            for (int step = 0; step < steps; step++)
                Own::fill(stages, turn, b, tile.column * Own::N, step * Own::STEP, inner * axes.right[0], outer * axes.right[1], [&](unsigned char *to, u64 *barrier) {
                    copy_box(to, a, barrier, step * Own::STEP, tile.row * Own::M, inner * axes.left[0], outer * axes.left[1]);
                });
        }
        return;
    }
    registers_take<TAKEN_REGISTERS>();
    Own own;
    for (int place = blockIdx.x; place < rows * columns * batch; place += gridDim.x) {
        TileAt tile = tile_at(place, rows, columns);
        own.multiply(stages, turn, steps);
        own.for_fours([&](const Own::Sum (&four)[4], int own_row, int own_column) {
            int row = tile.row * Own::M + own_row, column = tile.column * Own::N + own_column;
            if (row < m && column < n)
                result4(out, four, n - column, tile.z, row, column);
        });
    }
}
