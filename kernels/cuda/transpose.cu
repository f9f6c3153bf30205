// A matrix transposed by tiles, so that both sides are read and written in whole lines: y[column][row] = x[row][column], for each matrix of a batch.
//
// x: [batch][rows][columns]; y: [batch][columns][rows]; elements of 4 bytes. Grid: (columns / 32 and rows / 32, rounded up; batch);
// block: (32, 8, 1).

#define TILE 32
#define TILE_ROWS 8

extern "C" __global__ void transpose_4(unsigned *y, const unsigned *x, int rows, int columns)
{
    // A column more than the tile has, so that the threads of a warp meet different banks.
    __shared__ unsigned tile[TILE][TILE + 1];
    size_t matrix = (size_t)blockIdx.z * rows * columns;
    int column = blockIdx.x * TILE + threadIdx.x, row = blockIdx.y * TILE + threadIdx.y;
    for (int i = 0; i < TILE; i += TILE_ROWS)
        if (row + i < rows && column < columns)
            tile[threadIdx.y + i][threadIdx.x] = x[matrix + (size_t)(row + i) * columns + column];
    __syncthreads();
    column = blockIdx.y * TILE + threadIdx.x;
    row = blockIdx.x * TILE + threadIdx.y;
    for (int i = 0; i < TILE; i += TILE_ROWS)
        if (row + i < columns && column < rows)
            y[matrix + (size_t)(row + i) * rows + column] = tile[threadIdx.x][threadIdx.y + i];
}
