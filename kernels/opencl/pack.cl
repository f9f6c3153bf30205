// Packs an activation as the right operand of a matrix product: [plane][column / 16][k][16] bytes, K rounded up to even with zeros. Each
// element is signed (u8 less 128); of 16 bits there are two planes, the high bytes and the low ones less 128, as matrix.cl has its left operand.
//
// With both operands as signed bytes the product changes by terms that are known once their sums are: the column's sum times what the
// left one lacks goes into the bias here; the row's sum times what the right one lacks is the matrix kernel's `row_factor`.
// Unit of work: 16 columns of one matrix; matrices are numbered by image and group.

enum {
    P_X = 0, P_X_IMAGE = 2, P_X_GROUP, P_X_DEPTH, P_X_COLUMN, P_X_TYPE,
    P_DEPTH, P_COLUMNS, P_GROUPS,
    P_W, P_W_IMAGE = P_W + 2, P_W_GROUP, P_W_PLANE,
    P_BIAS, P_BIAS_IMAGE = P_BIAS + 2, P_BIAS_GROUP, P_BIAS_IS_LONG, P_COLUMN_FACTOR, P_CONSTANT,
    P_WORDS = P_CONSTANT + 2
};

FPGA_TASK pack(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    int depth = WORD(P_DEPTH), even = (depth + 1) & ~1, columns = WORD(P_COLUMNS), tiles = (columns + LANES - 1) / LANES;
    int type = WORD(P_X_TYPE), flip = sign_flip(type), plane = WORD(P_W_PLANE);
    for (int work = first; work < last; work++) {
        int tile = work % tiles, group = work / tiles % WORD(P_GROUPS), image = work / tiles / WORD(P_GROUPS);
        __global const uchar *x = arena + OFFSET(P_X) + (long)image * WORD(P_X_IMAGE) + (long)group * WORD(P_X_GROUP);
        __global uchar *w = arena + OFFSET(P_W) + (long)image * WORD(P_W_IMAGE) + (long)group * WORD(P_W_GROUP) + (long)tile * even * LANES;
        __global uchar *bias = arena + OFFSET(P_BIAS) + (long)image * WORD(P_BIAS_IMAGE) + (long)group * WORD(P_BIAS_GROUP);
        long sums[LANES];
        for (int i = 0; i < LANES; i++)
            sums[i] = 0;
        // The lanes are side by side; one step more writes the bias.
        TICK(even + 1)
        for (int k = 0; k < even; k++) {
            for (int i = 0; i < LANES; i++) {
                int column = tile * LANES + i, is_there = k < depth && column < columns;
                int bits = is_there ? load_one(x + (long)k * WORD(P_X_DEPTH) + (long)column * WORD(P_X_COLUMN), type) ^ flip : 0;
                if (is_wide(type)) {
                    char high = (char)(bits >> 8), low = (char)(is_there ? (bits & 0xff) - 128 : 0);
                    w[(long)k * LANES + i] = (uchar)high;
                    w[(long)plane + (long)k * LANES + i] = (uchar)low;
                    sums[i] += 256 * high + low;
                } else {
                    w[(long)k * LANES + i] = (uchar)bits;
                    sums[i] += (char)bits;
                }
            }
        }
        for (int i = 0; i < LANES; i++) {
            long start = sums[i] * WORD(P_COLUMN_FACTOR) + (long)OFFSET(P_CONSTANT);
            if (WORD(P_BIAS_IS_LONG))
                ((__global long *)bias)[tile * LANES + i] = start;
            else
                ((__global int *)bias)[tile * LANES + i] = (int)start;
        }
    }
    ENGINE_END
}
