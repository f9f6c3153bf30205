// Softmax over rows that are contiguous: src/int8/softmax.rs. The exponentials are looked up: in the constants, 256 floats for integers of 8
// bits and 65,536 for those of 16, of which the former are kept on the chip. Unit of work: a row.

enum { S_X = 0, S_Y = 2, S_LENGTH = 4, S_X_ROW, S_Y_ROW, S_X_TYPE, S_Y_TYPE, S_TABLE, S_STEPS = S_TABLE + 2, S_ZERO, S_LOW, S_HIGH, S_WORDS };

FPGA_TASK softmax(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    __local float near_table[256];
    __global const float *table = (__global const float *)(constants + OFFSET(S_TABLE));
    int length = WORD(S_LENGTH), x_type = WORD(S_X_TYPE), y_type = WORD(S_Y_TYPE), wide = is_wide(x_type);
    int x_bytes = wide ? 2 : 1, y_bytes = is_wide(y_type) ? 2 : 1, last_entry = wide ? 0xffff : 0xff;
    if (!wide)
        for (int i = 0; i < 256; i++) {
            TICK(1)
            near_table[i] = table[i];
        }
    for (int row = first; row < last; row++) {
        __global const uchar *x = arena + OFFSET(S_X) + (long)row * WORD(S_X_ROW);
        __global uchar *y = arena + OFFSET(S_Y) + (long)row * WORD(S_Y_ROW);
        int greatest = -32768;
        TICK(3 * length)
        for (int i = 0; i < length; i++)
            greatest = max(greatest, load_one(x + i * x_bytes, x_type));
        // Where the greatest is looked up in the last entry.
        int up = last_entry - greatest;
        float sum = 0.0f;
        for (int i = 0; i < length; i++) {
            int entry = up + load_one(x + i * x_bytes, x_type);
            sum += wide ? table[entry] : near_table[entry];
        }
        for (int i = 0; i < length; i++) {
            int entry = up + load_one(x + i * x_bytes, x_type);
            float value = divide((wide ? table[entry] : near_table[entry]) * FLOAT(S_STEPS), sum);
            store_one(convert_int_rte(clamp(value, FLOAT(S_LOW), FLOAT(S_HIGH))) + WORD(S_ZERO), y + i * y_bytes, y_type);
        }
    }
    ENGINE_END
}
