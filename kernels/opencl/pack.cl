// Packs an activation as the right operand of a matrix product: [column / 16][k][16] bytes, K rounded up to even with zeros, each element
// as signed (u8 less 128).
//
// With both operands less 128 the product changes by terms that are known once their sums are: the column's sum times what the
// left one lacks goes into the bias here; the row's sum times what the right one lacks is the matrix kernel's `row_factor`.
// Unit of work: 16 columns of one matrix; matrices are numbered by image and group.

enum {
    P_X = 0, P_X_IMAGE = 2, P_X_GROUP, P_X_DEPTH, P_X_COLUMN, P_MASK,
    P_DEPTH, P_COLUMNS, P_GROUPS,
    P_W, P_W_IMAGE = P_W + 2, P_W_GROUP,
    P_BIAS, P_BIAS_IMAGE = P_BIAS + 2, P_BIAS_GROUP, P_COLUMN_FACTOR, P_CONSTANT,
    P_WORDS
};

FPGA_TASK pack(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int depth = WORD(P_DEPTH), even = (depth + 1) & ~1, columns = WORD(P_COLUMNS), tiles = (columns + LANES - 1) / LANES;
    uchar mask = (uchar)WORD(P_MASK);
    for (int work = first; work < last; work++) {
        int tile = work % tiles, group = work / tiles % WORD(P_GROUPS), image = work / tiles / WORD(P_GROUPS);
        __global const uchar *x = arena + OFFSET(P_X) + (long)image * WORD(P_X_IMAGE) + (long)group * WORD(P_X_GROUP);
        __global uchar *w = arena + OFFSET(P_W) + (long)image * WORD(P_W_IMAGE) + (long)group * WORD(P_W_GROUP) + (long)tile * even * LANES;
        __global int *bias = (__global int *)(arena + OFFSET(P_BIAS) + (long)image * WORD(P_BIAS_IMAGE) + (long)group * WORD(P_BIAS_GROUP)) + tile * LANES;
        int sums[LANES];
        for (int i = 0; i < LANES; i++)
            sums[i] = 0;
        // The lanes are side by side; one step more writes the bias.
        TICK(even + 1)
        for (int k = 0; k < even; k++) {
            for (int i = 0; i < LANES; i++) {
                int column = tile * LANES + i;
                uchar value = k < depth && column < columns ? x[(long)k * WORD(P_X_DEPTH) + (long)column * WORD(P_X_COLUMN)] ^ mask : 0;
                w[(long)k * LANES + i] = value;
                sums[i] += (char)value;
            }
        }
        for (int i = 0; i < LANES; i++)
            bias[i] = sums[i] * WORD(P_COLUMN_FACTOR) + WORD(P_CONSTANT);
    }
    ENGINE_END
}
