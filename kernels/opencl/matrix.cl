// Convolutions and matrix products: y[pixel][output] = requantize(sum over k of x'[pixel][k] * w[k][output] + bias[output]).
//
// One array of ROWS x LANES processing elements computes both. A block of ROWS output pixels is staged once in on-chip memory, as rows of
// the elements that their windows cover (`staged[row][k]`), widened to 16 bits; then packed weights stream past it, LANES outputs at a
// time. A matrix product is a convolution whose window is one element. Pixels are numbered over images, rows and columns, so
// that small maps fill the array as well as large ones.
//
// Integers: u8 inputs come in less 128 (x' = x ^ 0x80, as signed), so products are of 8 x 8 bits signed; the host puts what that
// changes into the bias. Two products are added in 16 bits before they are widened; that is exact unless both weights and both inputs
// can be -128, for which the descriptor says `wide`. (A processor that stands in for a board adds them in 32 bits, with one instruction.)
//
// Integers of 16 bits are two planes of 8: x' = 256 * high + low + 128, with high = x' >> 8 and low = (x' & 255) - 128. A row holds both, the
// high one first, each for half of the capacity; the array goes over each pair of planes of x and w in turn, and the sums are put together in
// 64 bits. Wider multipliers would be idle by half whenever integers have 8 bits.
//
// A residual is added to what was computed before it is written, as elementwise.cl adds: `M_ADD_TYPE` is its type, or -1 for none.
//
// Layouts. x: channels are contiguous, images, rows and pixels have strides. Weights: [image][group][plane][output / 16][k][16] bytes, k =
// (row of the kernel, column, channel), K rounded up to even with zeros. Bias: [group][outputs rounded up to 16], int; long where
// either operand has two planes. Factors: likewise, float. Unit of work: a block of pixels times a share of the outputs
// (`column_shares` of them), pixels first.

#ifndef ROWS
#define ROWS 14
#endif
#ifndef K_CAPACITY
#define K_CAPACITY 4608
#endif
// Rows are apart by a few elements more, so that they do not meet in one bank; copies go over the end by up to a vector.
#define K_PITCH (K_CAPACITY + 2 * LANES)
// What half of a row holds of a plane, an even number, and where the low plane begins.
#define K_PLANE (K_CAPACITY / 4 * 2)
#define K_LOW (K_PLANE + LANES)

enum {
    M_X = 0, M_X_IMAGE = 2, M_X_ROW, M_X_PIXEL, M_X_GROUP, M_X_TYPE,
    M_HEIGHT, M_WIDTH, M_CHANNELS,
    M_KERNEL_H, M_KERNEL_W, M_STRIDE_H, M_STRIDE_W, M_DILATION_H, M_DILATION_W, M_PAD_H, M_PAD_W, M_PAD_VALUE,
    M_OUT_H, M_OUT_W, M_PIXELS, M_GROUPS, M_OUTPUTS,
    M_Y, M_Y_IMAGE = M_Y + 2, M_Y_ROW, M_Y_PIXEL, M_Y_GROUP, M_Y_TYPE,
    M_W, M_W_IMAGE = M_W + 2, M_W_GROUP, M_W_PLANE, M_W_PLANES, M_W_IN_ARENA,
    M_BIAS, M_BIAS_IMAGE = M_BIAS + 2, M_BIAS_GROUP, M_BIAS_IN_ARENA,
    M_FACTOR, M_FACTOR_GROUP = M_FACTOR + 2,
    M_ZERO, M_LOW, M_HIGH, M_WIDE, M_ROW_FACTOR, M_COLUMN_SHARES, M_IMAGES,
    M_ADD, M_ADD_IMAGE = M_ADD + 2, M_ADD_ROW, M_ADD_PIXEL, M_ADD_GROUP, M_ADD_TYPE, M_ADD_IS_LEFT, M_ADD_F0, M_ADD_F1, M_ADD_F2, M_ADD_LOW, M_ADD_HIGH,
    M_WORDS
};

// The weights of two elements of the window, LANES outputs each, and the sums with their products added: sums + w0 * x[0] + w1 * x[1].
#if defined(__AVX512BW__)
#define PAIRS_ARE_EXACT 1
typedef short weight_pair __attribute__((ext_vector_type(32)));

static weight_pair pair_of(short16 w0, short16 w1)
{
    return __builtin_shufflevector(w0, w1, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

static int16 add_pair(int16 sums, weight_pair w, __local const short *x)
{
    return sums + __builtin_ia32_pmaddwd512(w, __builtin_astype((int16)as_int(vload2(0, x)), weight_pair));
}
#elif defined(__AVX2__)
#define PAIRS_ARE_EXACT 1
typedef struct { short16 lo, hi; } weight_pair;

static weight_pair pair_of(short16 w0, short16 w1)
{
    weight_pair w;
    w.lo.even = w0.lo, w.lo.odd = w1.lo, w.hi.even = w0.hi, w.hi.odd = w1.hi;
    return w;
}

static int16 add_pair(int16 sums, weight_pair w, __local const short *x)
{
    short16 both = as_short16((int8)as_int(vload2(0, x)));
    return sums + (int16)(__builtin_ia32_pmaddwd256(w.lo, both), __builtin_ia32_pmaddwd256(w.hi, both));
}
#else
#define PAIRS_ARE_EXACT 0
typedef struct { short16 w0, w1; } weight_pair;

static weight_pair pair_of(short16 w0, short16 w1)
{
    weight_pair w = {w0, w1};
    return w;
}

static int16 add_pair(int16 sums, weight_pair w, __local const short *x)
{
    return sums + convert_int16((short16)(w.w0 * x[0] + w.w1 * x[1]));
}
#endif

// Copies a run of elements that are contiguous in x into a row, as far as it lies within [k0, k1).
static void stage_run(TICKS_PARAMETER __local short *row, int k, int length, __global const uchar *from, int type, int k0, int k1)
{
    int begin = max(k, k0), end = min(k + length, k1);
    if (is_wide(type)) {
        __global const ushort *wide = (__global const ushort *)from + (begin - k);
        ushort16 flip = (ushort16)(ushort)sign_flip(type);
        for (int i = begin; i < end; i += LANES, wide += LANES) {
            TICK(1)
            short16 v = as_short16(vload16(0, wide) ^ flip);
            vstore16(v >> (short16)8, 0, row + (i - k0));
            vstore16((v & (short16)255) - (short16)128, 0, row + K_LOW + (i - k0));
        }
        return;
    }
    uchar16 mask = (uchar16)(uchar)sign_flip(type);
    from += begin - k;
    // Whole vectors: what goes over the end is overwritten by the next run, or lies behind the last one.
    for (int i = begin; i < end; i += LANES, from += LANES) {
        TICK(1)
        vstore16(convert_short16(as_char16(vload16(0, from) ^ mask)), 0, row + (i - k0));
    }
}

static void stage_padding(TICKS_PARAMETER __local short *row, int k, int length, short value, int type, int k0, int k1)
{
    int begin = max(k, k0), end = min(k + length, k1);
    short16 high = is_wide(type) ? (short)(value >> 8) : value, low = (short)((value & 255) - 128);
    // Whole vectors, as runs are.
    for (int i = begin; i < end; i += LANES) {
        TICK(1)
        vstore16(high, 0, row + (i - k0));
        if (is_wide(type))
            vstore16(low, 0, row + K_LOW + (i - k0));
    }
}

// Stages elements [k0, k1) of the window of one output pixel.
static void stage_pixel(TICKS_PARAMETER __local short *row, __global const uchar *x, __global const int *words, int at, int out_row, int out_column, int k0, int k1)
{
    int channels = WORD(M_CHANNELS), height = WORD(M_HEIGHT), width = WORD(M_WIDTH), pixel = WORD(M_X_PIXEL);
    int kernel_w = WORD(M_KERNEL_W), dilation_w = WORD(M_DILATION_W);
    int top = out_row * WORD(M_STRIDE_H) - WORD(M_PAD_H), left = out_column * WORD(M_STRIDE_W) - WORD(M_PAD_W);
    int type = WORD(M_X_TYPE), bytes = is_wide(type) ? 2 : 1;
    short pad = (short)WORD(M_PAD_VALUE);
    // A row of the kernel is one run where its pixels follow each other without a gap.
    int is_run = pixel == channels * bytes && dilation_w == 1;
    for (int i = 0, k = 0; i < WORD(M_KERNEL_H); i++, k += kernel_w * channels) {
        int y = top + i * WORD(M_DILATION_H);
        if (k >= k1 || k + kernel_w * channels <= k0)
            continue;
        if (y < 0 || y >= height) {
            stage_padding(TICKS row, k, kernel_w * channels, pad, type, k0, k1);
            continue;
        }
        __global const uchar *line = x + (long)y * WORD(M_X_ROW);
        if (is_run) {
            int before = clamp(-left, 0, kernel_w), inside = clamp(width - left, before, kernel_w) - before;
            if (before > 0)
                stage_padding(TICKS row, k, before * channels, pad, type, k0, k1);
            stage_run(TICKS row, k + before * channels, inside * channels, line + (long)(left + before) * pixel, type, k0, k1);
            if (before + inside < kernel_w)
                stage_padding(TICKS row, k + (before + inside) * channels, (kernel_w - before - inside) * channels, pad, type, k0, k1);
            continue;
        }
        for (int j = 0; j < kernel_w; j++) {
            int column = left + j * dilation_w;
            if (column < 0 || column >= width)
                stage_padding(TICKS row, k + j * channels, channels, pad, type, k0, k1);
            else
                stage_run(TICKS row, k + j * channels, channels, line + (long)column * pixel, type, k0, k1);
        }
    }
}

FPGA_TASK matrix(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    __local short staged[ROWS * K_PITCH];
    int pixels = WORD(M_PIXELS), out_w = WORD(M_OUT_W), per_image = WORD(M_OUT_H) * out_w;
    int outputs = WORD(M_OUTPUTS), columns = (outputs + LANES - 1) / LANES;
    int depth = WORD(M_KERNEL_H) * WORD(M_KERNEL_W) * WORD(M_CHANNELS), even = (depth + 1) & ~1;
    int x_planes = is_wide(WORD(M_X_TYPE)) ? 2 : 1, planes = x_planes * WORD(M_W_PLANES), y_type = WORD(M_Y_TYPE);
    int capacity = x_planes == 2 ? K_PLANE : K_CAPACITY;
    int chunks = max((even + capacity - 1) / capacity, 1), wide = WORD(M_WIDE), row_factor = WORD(M_ROW_FACTOR);
    int y_bytes = y_type == TYPE_I64 ? 8 : y_type == TYPE_I32 ? 4 : is_wide(y_type) ? 2 : 1;
    int blocks = (pixels + ROWS - 1) / ROWS, shares = WORD(M_COLUMN_SHARES), groups = WORD(M_GROUPS);
    float low = FLOAT(M_LOW), high = FLOAT(M_HIGH);
    __global const uchar *weights = (WORD(M_W_IN_ARENA) ? (__global const uchar *)arena : constants) + OFFSET(M_W);
    __global const uchar *biases = (WORD(M_BIAS_IN_ARENA) ? (__global const uchar *)arena : constants) + OFFSET(M_BIAS);

    for (int work = first; work < last; work++) {
        // Work is numbered by image (where each has weights of its own), group, share of the outputs, block of pixels.
        int block = work % blocks, share = work / blocks % shares, group = work / blocks / shares % groups;
        int image = work / blocks / shares / groups;
        __global const uchar *x = arena + OFFSET(M_X) + (long)group * WORD(M_X_GROUP);
        __global uchar *y = arena + OFFSET(M_Y) + (long)group * WORD(M_Y_GROUP);
        __global const char *w = (__global const char *)(weights + (long)image * WORD(M_W_IMAGE) + (long)group * WORD(M_W_GROUP));
        __global const uchar *bias = biases + (long)image * WORD(M_BIAS_IMAGE) + (long)group * WORD(M_BIAS_GROUP);
        __global const float *factor = (__global const float *)(constants + OFFSET(M_FACTOR) + (long)group * WORD(M_FACTOR_GROUP));
        __global const uchar *add = arena + OFFSET(M_ADD) + (long)group * WORD(M_ADD_GROUP);
        int valid = min(pixels - block * ROWS, ROWS), add_type = WORD(M_ADD_TYPE);
        long row_sum[ROWS];
        for (int column = columns * share / shares; column < columns * (share + 1) / shares; column++) {
            int16 acc[ROWS];
            long16 total[ROWS];
            if (planes > 1) {
                long16 start = vload16(column, (__global const long *)bias);
                for (int r = 0; r < ROWS; r++)
                    total[r] = start;
            } else {
                int16 start = vload16(column, (__global const int *)bias);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    acc[r] = start;
            }
            for (int chunk = 0; chunk < chunks; chunk++) {
                int k0 = chunk * capacity, k1 = min(even, k0 + capacity);
                // What fits on the chip is staged once for all outputs.
                if (chunks > 1 || column == columns * share / shares) {
                    for (int r = 0; r < ROWS; r++) {
                        // Behind the last pixel the last one is computed again and not stored.
                        int p = block * ROWS + min(r, valid - 1), in = image + p / per_image, q = p % per_image;
                        stage_pixel(TICKS staged + r * K_PITCH, x + (long)in * WORD(M_X_IMAGE), words, at, q / out_w, q % out_w, k0, min(k1, depth));
                        if (k1 > depth) {
                            staged[r * K_PITCH + depth - k0] = 0;
                            if (x_planes == 2)
                                staged[r * K_PITCH + K_LOW + depth - k0] = 0;
                        }
                        if (row_factor) {
                            int high = 0, low = 0;
                            TICK(min(k1, depth) - k0)
                            for (int k = k0; k < min(k1, depth); k++) {
                                high += staged[r * K_PITCH + k - k0];
                                if (x_planes == 2)
                                    low += staged[r * K_PITCH + K_LOW + k - k0];
                            }
                            long sum = x_planes == 2 ? (long)high * 256 + low : high;
                            row_sum[r] = chunk == 0 ? sum : row_sum[r] + sum;
                        }
                    }
                }
                for (int plane = 0; plane < planes; plane++) {
                    int low_x = plane % x_planes, low_w = plane / x_planes;
                    __global const char *v = w + (long)low_w * WORD(M_W_PLANE) + ((size_t)column * even + k0) * LANES;
                    __local const short *row = staged + (low_x ? K_LOW : 0);
                    // Registers of the array's own, whatever else reads the sums.
                    int16 sums[ROWS];
#pragma unroll
                    for (int r = 0; r < ROWS; r++)
                        sums[r] = planes > 1 ? (int16)0 : acc[r];
                    TICK(wide ? k1 - k0 : (k1 - k0) / 2)
                    if (!wide || PAIRS_ARE_EXACT) {
                        for (int k = 0; k < k1 - k0; k += 2) {
                            weight_pair pair = pair_of(convert_short16(vload16(k, v)), convert_short16(vload16(k + 1, v)));
#pragma unroll
                            for (int r = 0; r < ROWS; r++)
                                sums[r] = add_pair(sums[r], pair, row + r * K_PITCH + k);
                        }
                    } else {
                        for (int k = 0; k < k1 - k0; k++) {
                            short16 w0 = convert_short16(vload16(k, v));
#pragma unroll
                            for (int r = 0; r < ROWS; r++)
                                sums[r] += convert_int16((short16)(w0 * row[r * K_PITCH + k]));
                        }
                    }
                    if (planes > 1) {
                        // A high plane is worth 256 of a low one.
                        long16 shift = 8 * (x_planes - 1 - low_x + WORD(M_W_PLANES) - 1 - low_w);
                        for (int r = 0; r < ROWS; r++)
                            total[r] += convert_long16(sums[r]) << as_ulong16(shift);
                    } else {
#pragma unroll
                        for (int r = 0; r < ROWS; r++)
                            acc[r] = sums[r];
                    }
                }
            }
            float16 scale = vload16(column, factor);
            int left = outputs - column * LANES;
            TICK(valid)
            for (int r = 0; r < valid; r++) {
                int p = block * ROWS + r, in = image + p / per_image, q = p % per_image;
                __global uchar *to = y + (long)in * WORD(M_Y_IMAGE) + (long)(q / out_w) * WORD(M_Y_ROW) + (long)(q % out_w) * WORD(M_Y_PIXEL);
                to += (long)column * LANES * y_bytes;
                int16 result;
                if (planes > 1) {
                    long16 sum = row_factor ? total[r] + row_sum[r] * row_factor : total[r];
                    if (y_type == TYPE_I64) {
                        long lanes[LANES];
                        vstore16(sum, 0, lanes);
                        for (int i = 0; i < min(left, LANES); i++)
                            ((__global long *)to)[i] = lanes[i];
                        continue;
                    }
                    result = requantize_long(sum, scale, low, high, WORD(M_ZERO));
                } else {
                    int16 sum = row_factor ? acc[r] + (int)row_sum[r] * row_factor : acc[r];
                    if (y_type == TYPE_I32) {
                        int lanes[LANES];
                        vstore16(sum, 0, lanes);
                        for (int i = 0; i < min(left, LANES); i++)
                            ((__global int *)to)[i] = lanes[i];
                        continue;
                    }
                    result = requantize(sum, scale, low, high, WORD(M_ZERO));
                }
                if (add_type >= 0) {
                    __global const uchar *from = add + (long)in * WORD(M_ADD_IMAGE) + (long)(q / out_w) * WORD(M_ADD_ROW) + (long)(q % out_w) * WORD(M_ADD_PIXEL);
                    int16 other = load_lanes(from + (long)column * LANES * (is_wide(add_type) ? 2 : 1), add_type);
                    int16 a = WORD(M_ADD_IS_LEFT) ? other : result, b = WORD(M_ADD_IS_LEFT) ? result : other;
                    result = add_lanes(a, b, FLOAT(M_ADD_F0), FLOAT(M_ADD_F1), FLOAT(M_ADD_F2), FLOAT(M_ADD_LOW), FLOAT(M_ADD_HIGH));
                }
                store_lanes(result, to, left, y_type);
            }
        }
    }
    ENGINE_END
}
