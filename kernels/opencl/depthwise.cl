// Depthwise convolution: every channel has a kernel of its own. The lanes are 16 channels; there is no sum over channels to share.
//
// Weights: [channel / 16][tap][16] bytes; bias and factors one a channel, rounded up to 16; integers as in matrix.cl, but that those of 16
// bits are not split: a product of 16 by 8 bits fits 24, and a window has few.
// Unit of work: a row of output pixels of one image.

enum {
    D_X = 0, D_X_IMAGE = 2, D_X_ROW, D_X_PIXEL, D_X_TYPE, D_HEIGHT, D_WIDTH, D_CHANNELS,
    D_KERNEL_H, D_KERNEL_W, D_STRIDE_H, D_STRIDE_W, D_DILATION_H, D_DILATION_W, D_PAD_H, D_PAD_W, D_PAD_VALUE, D_OUT_H, D_OUT_W,
    D_Y, D_Y_IMAGE = D_Y + 2, D_Y_ROW, D_Y_PIXEL, D_Y_TYPE,
    D_W, D_BIAS = D_W + 2, D_FACTOR = D_BIAS + 2, D_ZERO = D_FACTOR + 2, D_LOW, D_HIGH,
    D_WORDS
};

FPGA_TASK depthwise(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int channels = WORD(D_CHANNELS), taps = WORD(D_KERNEL_H) * WORD(D_KERNEL_W), width = WORD(D_OUT_W);
    int x_pixel = WORD(D_X_PIXEL), kernel_w = WORD(D_KERNEL_W);
    int x_type = WORD(D_X_TYPE), y_type = WORD(D_Y_TYPE), x_bytes = is_wide(x_type) ? 2 : 1, y_bytes = is_wide(y_type) ? 2 : 1;
    int16 flip = sign_flip(x_type);
    float low = FLOAT(D_LOW), high = FLOAT(D_HIGH);
    // One a channel: int, and long for inputs of 16 bits.
    __global const uchar *bias = constants + OFFSET(D_BIAS);
    for (int work = first; work < last; work++) {
        int image = work / WORD(D_OUT_H), row = work % WORD(D_OUT_H);
        __global const uchar *x = arena + OFFSET(D_X) + (long)image * WORD(D_X_IMAGE);
        __global uchar *y = arena + OFFSET(D_Y) + (long)image * WORD(D_Y_IMAGE) + (long)row * WORD(D_Y_ROW);
        for (int c = 0; c < channels; c += LANES) {
            __global const char *w = (__global const char *)(constants + OFFSET(D_W)) + (long)c * taps;
            float16 factor = vload16(0, (__global const float *)(constants + OFFSET(D_FACTOR)) + c);
            for (int column = 0; column < width; column++) {
                int16 sum = 0;
                TICK(taps + 1)
                for (int i = 0; i < WORD(D_KERNEL_H); i++) {
                    int in_row = row * WORD(D_STRIDE_H) - WORD(D_PAD_H) + i * WORD(D_DILATION_H);
                    for (int j = 0; j < kernel_w; j++) {
                        int in_column = column * WORD(D_STRIDE_W) - WORD(D_PAD_W) + j * WORD(D_DILATION_W);
                        int16 v = WORD(D_PAD_VALUE);
                        if (in_row >= 0 && in_row < WORD(D_HEIGHT) && in_column >= 0 && in_column < WORD(D_WIDTH))
                            v = load_lanes(x + (long)in_row * WORD(D_X_ROW) + (long)in_column * x_pixel + (long)c * x_bytes, x_type) - flip;
                        sum += v * convert_int16(vload16(i * kernel_w + j, w));
                    }
                }
                int16 q;
                if (is_wide(x_type))
                    q = requantize_long(convert_long16(sum) + vload16(0, (__global const long *)bias + c), factor, low, high, WORD(D_ZERO));
                else
                    q = requantize(sum + vload16(0, (__global const int *)bias + c), factor, low, high, WORD(D_ZERO));
                store_lanes(q, y + (long)column * WORD(D_Y_PIXEL) + (long)c * y_bytes, channels - c, y_type);
            }
        }
    }
    ENGINE_END
}
