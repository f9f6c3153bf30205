// Pools over windows, channels in the lanes. Unit of work: a row of outputs of one image (for a global pool: an image).
//
// max:     the greatest of the window; padding is never it
// average: dequantised elements summed one after another, divided by their number and by the output's scale, the zero point added
// global:  the integers summed, times one factor
// Formulas: src/int8/pool.rs.

enum {
    L_X = 0, L_X_IMAGE = 2, L_X_ROW, L_X_PIXEL, L_X_TYPE, L_HEIGHT, L_WIDTH, L_CHANNELS,
    L_KERNEL_H, L_KERNEL_W, L_STRIDE_H, L_STRIDE_W, L_DILATION_H, L_DILATION_W, L_PAD_H, L_PAD_W, L_OUT_H, L_OUT_W,
    L_Y, L_Y_IMAGE = L_Y + 2, L_Y_ROW, L_Y_PIXEL, L_Y_TYPE, L_KIND, L_X_ZERO, L_X_SCALE, L_Y_SCALE, L_Y_ZERO, L_LOW, L_HIGH, L_COUNT_PADDING,
    L_WORDS
};
enum { POOL_MAX, POOL_AVERAGE, POOL_GLOBAL };

// sum / count / scale + zero, with every division rounded: the sum may be negative, the others are not.
static float average(float sum, int count, float scale, int zero)
{
    float magnitude = divide(divide(fabs(sum), (float)count), scale);
    return (sum < 0.0f ? -magnitude : magnitude) + (float)zero;
}

FPGA_TASK pool(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int channels = WORD(L_CHANNELS), x_type = WORD(L_X_TYPE), y_type = WORD(L_Y_TYPE), kind = WORD(L_KIND);
    int x_bytes = is_wide(x_type) ? 2 : 1, y_bytes = is_wide(y_type) ? 2 : 1;
    float low = FLOAT(L_LOW), high = FLOAT(L_HIGH);
    for (int work = first; work < last; work++) {
        int image = work / WORD(L_OUT_H), row = work % WORD(L_OUT_H);
        __global const uchar *x = arena + OFFSET(L_X) + (long)image * WORD(L_X_IMAGE);
        for (int column = 0; column < WORD(L_OUT_W); column++) {
            __global uchar *y = arena + OFFSET(L_Y) + (long)image * WORD(L_Y_IMAGE) + (long)row * WORD(L_Y_ROW) + (long)column * WORD(L_Y_PIXEL);
            // The part of the window that lies within the image.
            int top = row * WORD(L_STRIDE_H) - WORD(L_PAD_H), left = column * WORD(L_STRIDE_W) - WORD(L_PAD_W);
            for (int c = 0; c < channels; c += LANES) {
                int16 greatest = -32768;
                int16 sums = 0;
                float16 total = 0.0f;
                int count = 0;
                for (int i = 0; i < WORD(L_KERNEL_H); i++)
                    for (int j = 0; j < WORD(L_KERNEL_W); j++) {
                        TICK(1)
                        int in_row = top + i * WORD(L_DILATION_H), in_column = left + j * WORD(L_DILATION_W);
                        if (in_row < 0 || in_row >= WORD(L_HEIGHT) || in_column < 0 || in_column >= WORD(L_WIDTH))
                            continue;
                        int16 q = load_lanes(x + (long)in_row * WORD(L_X_ROW) + (long)in_column * WORD(L_X_PIXEL) + (long)c * x_bytes, x_type);
                        count++;
                        if (kind == POOL_MAX) {
                            greatest = max(greatest, q);
                        } else {
                            q -= WORD(L_X_ZERO);
                            sums += q;
                            total += convert_float16_rte(q) * FLOAT(L_X_SCALE);
                        }
                    }
                int16 out;
                if (kind == POOL_MAX) {
                    out = greatest;
                } else if (kind == POOL_GLOBAL) {
                    out = requantize(sums, (float16)FLOAT(L_X_SCALE), low, high, WORD(L_Y_ZERO));
                } else {
                    float lanes[LANES];
                    int results[LANES];
                    vstore16(total, 0, lanes);
                    int divisor = WORD(L_COUNT_PADDING) ? WORD(L_KERNEL_H) * WORD(L_KERNEL_W) : count;
                    TICK(LANES)
                    for (int i = 0; i < LANES; i++) {
                        float value = c + i < channels && divisor > 0 ? average(lanes[i], divisor, FLOAT(L_Y_SCALE), WORD(L_Y_ZERO)) : 0.0f;
                        results[i] = convert_int_rte(clamp(value, low, high));
                    }
                    out = vload16(0, results);
                }
                TICK(1)
                store_lanes(out, y + (long)c * y_bytes, channels - c, y_type);
            }
        }
    }
    ENGINE_END
}
