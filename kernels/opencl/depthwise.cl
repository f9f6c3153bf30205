// Depthwise convolution: every channel has a kernel of its own. The lanes are 16 channels; there is no sum over channels to share.
//
// Weights: [channel / 16][tap][16] bytes; bias and factors one a channel, rounded up to 16; integers as in matrix.cl.
// Unit of work: a row of output pixels of one image.

enum {
    D_X = 0, D_X_IMAGE = 2, D_X_ROW, D_X_PIXEL, D_MASK, D_HEIGHT, D_WIDTH, D_CHANNELS,
    D_KERNEL_H, D_KERNEL_W, D_STRIDE_H, D_STRIDE_W, D_DILATION_H, D_DILATION_W, D_PAD_H, D_PAD_W, D_PAD_VALUE, D_OUT_H, D_OUT_W,
    D_Y, D_Y_IMAGE = D_Y + 2, D_Y_ROW, D_Y_PIXEL,
    D_W, D_BIAS = D_W + 2, D_FACTOR = D_BIAS + 2, D_ZERO = D_FACTOR + 2, D_LOW, D_HIGH,
    D_WORDS
};

FPGA_TASK depthwise(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int channels = WORD(D_CHANNELS), taps = WORD(D_KERNEL_H) * WORD(D_KERNEL_W), width = WORD(D_OUT_W);
    int x_pixel = WORD(D_X_PIXEL), kernel_w = WORD(D_KERNEL_W);
    char16 mask = (char16)(char)WORD(D_MASK);
    for (int work = first; work < last; work++) {
        int image = work / WORD(D_OUT_H), row = work % WORD(D_OUT_H);
        __global const uchar *x = arena + OFFSET(D_X) + (long)image * WORD(D_X_IMAGE);
        __global uchar *y = arena + OFFSET(D_Y) + (long)image * WORD(D_Y_IMAGE) + (long)row * WORD(D_Y_ROW);
        for (int c = 0; c < channels; c += LANES) {
            __global const char *w = (__global const char *)(constants + OFFSET(D_W)) + (long)c * taps;
            int16 bias = vload16(0, (__global const int *)(constants + OFFSET(D_BIAS)) + c);
            float16 factor = vload16(0, (__global const float *)(constants + OFFSET(D_FACTOR)) + c);
            for (int column = 0; column < width; column++) {
                int16 sum = bias;
                TICK(taps + 1)
                for (int i = 0; i < WORD(D_KERNEL_H); i++) {
                    int in_row = row * WORD(D_STRIDE_H) - WORD(D_PAD_H) + i * WORD(D_DILATION_H);
                    for (int j = 0; j < kernel_w; j++) {
                        int in_column = column * WORD(D_STRIDE_W) - WORD(D_PAD_W) + j * WORD(D_DILATION_W);
                        short16 v = (short16)(short)WORD(D_PAD_VALUE);
                        if (in_row >= 0 && in_row < WORD(D_HEIGHT) && in_column >= 0 && in_column < WORD(D_WIDTH))
                            v = convert_short16(as_char16(vload16(0, x + (long)in_row * WORD(D_X_ROW) + (long)in_column * x_pixel + c)) ^ mask);
                        // One product of 8 by 8 bits fits 16, whatever the numbers are.
                        sum += convert_int16((short16)(v * convert_short16(vload16(i * kernel_w + j, w))));
                    }
                }
                int16 q = requantize(sum, factor, FLOAT(D_LOW), FLOAT(D_HIGH), WORD(D_ZERO));
                store_lanes(convert_uchar16(q & 0xff), y + (long)column * WORD(D_Y_PIXEL) + c, channels - c);
            }
        }
    }
    ENGINE_END
}
