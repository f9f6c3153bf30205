// Layer normalisation over rows that are contiguous, on integers alone: src/int8/layer_norm.rs says why and how.
// Constants: factors (int) and biases (long), one an element of a row. Unit of work: a row.

enum {
    N_X = 0, N_Y = 2, N_LENGTH = 4, N_X_ROW, N_Y_ROW, N_X_TYPE, N_Y_TYPE, N_X_ZERO, N_EPSILON, N_VARIANCE_BITS = N_EPSILON + 2, N_NORMAL_BITS,
    N_FACTOR_BITS, N_FACTORS, N_BIASES = N_FACTORS + 2, N_ZERO = N_BIASES + 2, N_LOW, N_HIGH,
    N_WORDS
};

// floor(sqrt(v)), a bit at a time.
static ulong root(ulong v)
{
    ulong result = 0;
    for (ulong bit = 1UL << 62; bit != 0; bit >>= 2) {
        if (v >= result + bit) {
            v -= result + bit;
            result = (result >> 1) + bit;
        } else {
            result >>= 1;
        }
    }
    return result;
}

static long halve_to_even(long value, int by)
{
    ulong magnitude = (ulong)(value < 0 ? -value : value);
    if (by > 0) {
        ulong whole = magnitude >> by, rest = magnitude & ((1UL << by) - 1), middle = 1UL << (by - 1);
        magnitude = whole + (rest > middle || (rest == middle && (whole & 1)));
    }
    return value < 0 ? -(long)magnitude : (long)magnitude;
}

FPGA_TASK layer_norm(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int length = WORD(N_LENGTH), zero = WORD(N_X_ZERO), x_type = WORD(N_X_TYPE), y_type = WORD(N_Y_TYPE);
    int x_bytes = is_wide(x_type) ? 2 : 1, y_bytes = is_wide(y_type) ? 2 : 1;
    int normal_bits = WORD(N_NORMAL_BITS), shift_out = normal_bits + WORD(N_FACTOR_BITS);
    __global const int *factors = (__global const int *)(constants + OFFSET(N_FACTORS));
    __global const long *biases = (__global const long *)(constants + OFFSET(N_BIASES));
    for (int row = first; row < last; row++) {
        __global const uchar *x = arena + OFFSET(N_X) + (long)row * WORD(N_X_ROW);
        __global uchar *y = arena + OFFSET(N_Y) + (long)row * WORD(N_Y_ROW);
        long sum = 0, squares = 0;
        // Two passes, and a bit of the root at a time between them.
        TICK(2 * length + 32)
        for (int i = 0; i < length; i++) {
            long q = load_one(x + i * x_bytes, x_type) - zero;
            sum += q;
            squares += q * q;
        }
        ulong variance = ((ulong)(length * squares - sum * sum) << WORD(N_VARIANCE_BITS)) + OFFSET(N_EPSILON);
        int shift = 0;
        while (variance != 0 && (variance << shift) < (1UL << 60))
            shift += 2;
        ulong divisor = max(root(variance << shift), 1UL);
        long reciprocal = variance == 0 ? 0 : (long)((1UL << 62) / divisor);
        int surplus = 62 - WORD(N_VARIANCE_BITS) / 2 - shift / 2 - normal_bits;
        for (int i = 0; i < length; i++) {
            long q = load_one(x + i * x_bytes, x_type) - zero;
            long product = (length * q - sum) * reciprocal;
            long normal = surplus > 0 ? (product + (1L << (surplus - 1))) >> surplus : product << -surplus;
            long steps = halve_to_even(normal * factors[i] + biases[i], shift_out) + WORD(N_ZERO);
            store_one((int)clamp(steps, (long)WORD(N_LOW), (long)WORD(N_HIGH)), y + i * y_bytes, y_type);
        }
    }
    ENGINE_END
}
