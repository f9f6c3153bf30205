// A convolution as a product of tiles: its left matrix, a row for each place of the result, is never written down. Its pieces are copied from the images while
// earlier ones are multiplied.
//
// Every pixel begins at a multiple of 16 bytes, and a group's channels are a multiple of 16 bytes, so that a piece is of one pixel. Beyond an image are
// zeros, or, where HAS_BEYOND, the 16 bytes at `beyond`.

template <class Own, bool HAS_BEYOND, class Left, class Right>
__device__ __forceinline__ void multiply_windows(Own &own, unsigned char *stages, const Part &part, const Window &w, const Left *x, const Left *beyond, const Right *weights, int depths)
{
    // A row's pieces: a thread copies the same piece of every EACH_ROW-th row.
    const int PIECES = STEP_BYTES / PIECE_BYTES, EACH_ROW = Own::THREADS / PIECES, EACH_PLACE = Own::ROWS / EACH_ROW;
    int own_place = threadIdx.x / PIECES, own_piece = threadIdx.x % PIECES;
    Place begins[EACH_PLACE];
#pragma unroll
    for (int i = 0; i < EACH_PLACE; i++) {
        int row = Own::row0() + own_place + i * EACH_ROW;
        // A row that is none begins where no image is.
        begins[i] = row < w.rows ? begin_of(w, row) : Place{0, -(1 << 30), 0, 0};
        begins[i].image *= w.x_stride[0];
    }
    Own::run(own, stages, part, [&](unsigned char *stage, int step) {
        int depth = step * Own::STEP + own_piece * Own::ELEMENTS;
        unsigned tap = quotient(depth, w.taps[0]);
        int channel = depth - tap * w.taps[0].by;
        Place shift = shift_of(w, tap);
#pragma unroll
        for (int i = 0; i < EACH_PLACE; i++) {
            int pz = begins[i].z + shift.z, py = begins[i].y + shift.y, px = begins[i].x + shift.x;
            bool is_there = depth < depths && is_inside(w, pz, py, px);
            int at = begins[i].image + pz * w.x_stride[1] + py * w.x_stride[2] + px * w.x_stride[3] + channel;
            copy_async_16(stage + deep_place(own_place + i * EACH_ROW, own_piece), is_there ? x + at : beyond, is_there || HAS_BEYOND);
        }
        Own::copy_right(stage, weights, depths, Own::column0(), w.group_outputs, step * Own::STEP, depths);
    });
}
