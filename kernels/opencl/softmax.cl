// Softmax over rows that are contiguous: src/int8/softmax.rs. The exponentials are looked up: 256 floats in the constants.
// Unit of work: a row.

enum { S_X = 0, S_Y = 2, S_LENGTH = 4, S_X_ROW, S_Y_ROW, S_MASK, S_TABLE, S_STEPS = S_TABLE + 2, S_ZERO, S_LOW, S_HIGH, S_WORDS };

FPGA_TASK softmax(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    __local float table[256];
    int length = WORD(S_LENGTH);
    // With its sign bit flipped a signed integer is in the order of unsigned ones.
    uchar flip = (uchar)WORD(S_MASK) ^ 0x80;
    for (int i = 0; i < 256; i++)
        table[i] = ((__global const float *)(constants + OFFSET(S_TABLE)))[i];
    TICK(256)
    for (int row = first; row < last; row++) {
        __global const uchar *x = arena + OFFSET(S_X) + (long)row * WORD(S_X_ROW);
        __global uchar *y = arena + OFFSET(S_Y) + (long)row * WORD(S_Y_ROW);
        int greatest = 0;
        TICK(3 * length)
        for (int i = 0; i < length; i++)
            greatest = max(greatest, (int)(uchar)(x[i] ^ flip));
        float sum = 0.0f;
        for (int i = 0; i < length; i++)
            sum += table[255 - greatest + (uchar)(x[i] ^ flip)];
        for (int i = 0; i < length; i++) {
            float entry = table[255 - greatest + (uchar)(x[i] ^ flip)] * FLOAT(S_STEPS);
            float value = divide(entry, sum);
            y[i] = (uchar)((convert_int_rte(clamp(value, FLOAT(S_LOW), FLOAT(S_HIGH))) + WORD(S_ZERO)) & 0xff);
        }
    }
    ENGINE_END
}
