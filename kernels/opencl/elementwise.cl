// Sums and products of two tensors, element by element, over four axes with strides; a stride of 0 repeats (broadcasts).
// The last axis of the result is contiguous. Formulas: src/int8/elementwise.rs. Unit of work: an index of the outermost axis.
//
// add: q = clamp(round_half_even(fma(a, ra, fma(b, rb, fixed))))
// mul: q = clamp(round_half_even((a - a_zero)(b - b_zero) * factor + zero))

enum {
    E_A = 0, E_B = 2, E_Y = 4, E_SHAPE = 6, E_A_STRIDES = 10, E_B_STRIDES = 14, E_Y_STRIDES = 18,
    E_A_TYPE = 22, E_B_TYPE, E_Y_TYPE, E_F0, E_F1, E_F2, E_A_ZERO, E_B_ZERO, E_LOW, E_HIGH, E_IS_PRODUCT,
    E_WORDS
};

// 16 elements along the last axis, or its one repeated.
static int16 load_axis(__global const uchar *from, int i, int stride, int type)
{
    return stride != 0 ? load_lanes(from + (long)i * stride, type) : (int16)load_one(from, type);
}

// Products of two integers of 17 bits as the nearest floats: 32 bits hold their magnitude, not their sign.
static float16 float_product(int16 p, int16 q)
{
    float16 magnitude = convert_float16_rte(abs(p) * abs(q));
    return as_float16(as_int16(magnitude) | ((p ^ q) & (int16)0x80000000));
}

FPGA_TASK elementwise(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int n1 = WORD(E_SHAPE + 1), n2 = WORD(E_SHAPE + 2), n3 = WORD(E_SHAPE + 3);
    float f0 = FLOAT(E_F0), f1 = FLOAT(E_F1), f2 = FLOAT(E_F2), low = FLOAT(E_LOW), high = FLOAT(E_HIGH);
    int a_type = WORD(E_A_TYPE), b_type = WORD(E_B_TYPE), y_type = WORD(E_Y_TYPE), y_bytes = is_wide(y_type) ? 2 : 1, a3 = WORD(E_A_STRIDES + 3), b3 = WORD(E_B_STRIDES + 3);
    for (int i0 = first; i0 < last; i0++)
        for (int i1 = 0; i1 < n1; i1++)
            for (int i2 = 0; i2 < n2; i2++) {
                __global const uchar *a = arena + OFFSET(E_A) + (long)i0 * WORD(E_A_STRIDES) + (long)i1 * WORD(E_A_STRIDES + 1) + (long)i2 * WORD(E_A_STRIDES + 2);
                __global const uchar *b = arena + OFFSET(E_B) + (long)i0 * WORD(E_B_STRIDES) + (long)i1 * WORD(E_B_STRIDES + 1) + (long)i2 * WORD(E_B_STRIDES + 2);
                __global uchar *y = arena + OFFSET(E_Y) + (long)i0 * WORD(E_Y_STRIDES) + (long)i1 * WORD(E_Y_STRIDES + 1) + (long)i2 * WORD(E_Y_STRIDES + 2);
                for (int i = 0; i < n3; i += LANES) {
                    TICK(1)
                    int16 p = load_axis(a, i, a3, a_type), q = load_axis(b, i, b3, b_type);
                    int16 result;
                    if (WORD(E_IS_PRODUCT))
                        result = round_half_even(clamp(float_product(p - WORD(E_A_ZERO), q - WORD(E_B_ZERO)) * f0 + f2, low, high));
                    else
                        result = add_lanes(p, q, f0, f1, f2, low, high);
                    store_lanes(result, y + (long)i * y_bytes, n3 - i, y_type);
                }
            }
    ENGINE_END
}
