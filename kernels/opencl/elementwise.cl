// Sums and products of two tensors, element by element, over four axes with strides; a stride of 0 repeats (broadcasts).
// The last axis of the result is contiguous. Formulas: src/int8/elementwise.rs. Unit of work: an index of the outermost axis.
//
// add: q = clamp(round_half_even(fma(a, ra, fma(b, rb, fixed))))
// mul: q = clamp(round_half_even((a - a_zero)(b - b_zero) * factor + zero))

enum {
    E_A = 0, E_B = 2, E_Y = 4, E_SHAPE = 6, E_A_STRIDES = 10, E_B_STRIDES = 14, E_Y_STRIDES = 18,
    E_A_MASK = 22, E_B_MASK, E_F0, E_F1, E_F2, E_A_ZERO, E_B_ZERO, E_LOW, E_HIGH, E_IS_PRODUCT,
    E_WORDS
};

// An integer with its sign: u8 as it is, i8 extended.
static int16 integers(uchar16 v, int is_signed) { return is_signed ? convert_int16(as_char16(v)) : convert_int16(v); }

// 16 elements along the last axis, or one of them repeated.
static uchar16 load_axis(__global const uchar *from, int i, int stride)
{
    return stride == 1 ? vload16(0, from + i) : (uchar16)from[(long)i * stride];
}

FPGA_TASK elementwise(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int n1 = WORD(E_SHAPE + 1), n2 = WORD(E_SHAPE + 2), n3 = WORD(E_SHAPE + 3);
    float f0 = FLOAT(E_F0), f1 = FLOAT(E_F1), f2 = FLOAT(E_F2), low = FLOAT(E_LOW), high = FLOAT(E_HIGH);
    int a_signed = WORD(E_A_MASK) == 0, b_signed = WORD(E_B_MASK) == 0, a3 = WORD(E_A_STRIDES + 3), b3 = WORD(E_B_STRIDES + 3);
    for (int i0 = first; i0 < last; i0++)
        for (int i1 = 0; i1 < n1; i1++)
            for (int i2 = 0; i2 < n2; i2++) {
                __global const uchar *a = arena + OFFSET(E_A) + (long)i0 * WORD(E_A_STRIDES) + (long)i1 * WORD(E_A_STRIDES + 1) + (long)i2 * WORD(E_A_STRIDES + 2);
                __global const uchar *b = arena + OFFSET(E_B) + (long)i0 * WORD(E_B_STRIDES) + (long)i1 * WORD(E_B_STRIDES + 1) + (long)i2 * WORD(E_B_STRIDES + 2);
                __global uchar *y = arena + OFFSET(E_Y) + (long)i0 * WORD(E_Y_STRIDES) + (long)i1 * WORD(E_Y_STRIDES + 1) + (long)i2 * WORD(E_Y_STRIDES + 2);
                for (int i = 0; i < n3; i += LANES) {
                    TICK(1)
                    int16 p = integers(load_axis(a, i, a3), a_signed), q = integers(load_axis(b, i, b3), b_signed);
                    float16 value;
                    if (WORD(E_IS_PRODUCT)) {
                        float16 product = convert_float16_rte((p - WORD(E_A_ZERO)) * (q - WORD(E_B_ZERO)));
                        value = product * f0 + f2;
                    } else {
                        value = fma(convert_float16_rte(p), (float16)f0, fma(convert_float16_rte(q), (float16)f1, (float16)f2));
                    }
                    int16 rounded = round_half_even(clamp(value, low, high));
                    store_lanes(convert_uchar16(rounded & 0xff), y + i, n3 - i);
                }
            }
    ENGINE_END
}
