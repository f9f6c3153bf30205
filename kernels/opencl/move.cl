// Copies a strided view of up to six axes into another, each element through a table if there is one: transposes, slices, parts of a
// concatenation, requantisation, activations, casts between 8 and 16 bits. Unit of work: an index of the outermost axis.
//
// `from_indices` says that the outermost index is looked up (a gather of rows): 64-bit integers in the arena, negative ones from the end; what is
// outside of the axis reads its last element, since a device has no way to refuse (the host checks before).

enum {
    V_X = 0, V_Y = 2, V_SHAPE = 4, V_X_STRIDES = 10, V_Y_STRIDES = 16, V_TABLE = 22, V_HAS_TABLE = 24, V_X_BYTES, V_Y_BYTES, V_TABLE_FIRST,
    V_INDICES, V_HAS_INDICES = V_INDICES + 2, V_LENGTH,
    V_WORDS
};

FPGA_TASK move(ENGINE_ARGUMENTS)
{
    ENGINE_BEGIN
    __global const uchar *table = constants + OFFSET(V_TABLE);
    int has_table = WORD(V_HAS_TABLE), wide_x = WORD(V_X_BYTES) == 2, wide_y = WORD(V_Y_BYTES) == 2, n5 = WORD(V_SHAPE + 5);
    int x5 = WORD(V_X_STRIDES + 5), y5 = WORD(V_Y_STRIDES + 5);
    // Elements that lie side by side in both are so many bytes.
    int is_run = !has_table && wide_x == wide_y && x5 == WORD(V_X_BYTES) && y5 == x5, run_bytes = n5 * x5;
    __local uchar local_table[256];
    if (has_table && !wide_x && !wide_y)
        for (int i = 0; i < 256; i++) {
            TICK(1)
            local_table[i] = table[i];
        }
    for (int i0 = first; i0 < last; i0++) {
        long row = i0;
        if (WORD(V_HAS_INDICES)) {
            long index = ((__global const long *)(arena + OFFSET(V_INDICES)))[i0], length = WORD(V_LENGTH);
            row = clamp(index < 0 ? index + length : index, 0L, length - 1);
        }
        for (int i1 = 0; i1 < WORD(V_SHAPE + 1); i1++)
            for (int i2 = 0; i2 < WORD(V_SHAPE + 2); i2++)
                for (int i3 = 0; i3 < WORD(V_SHAPE + 3); i3++)
                    for (int i4 = 0; i4 < WORD(V_SHAPE + 4); i4++) {
                        __global const uchar *x = arena + OFFSET(V_X) + row * WORD(V_X_STRIDES) + (long)i1 * WORD(V_X_STRIDES + 1) + (long)i2 * WORD(V_X_STRIDES + 2) + (long)i3 * WORD(V_X_STRIDES + 3) + (long)i4 * WORD(V_X_STRIDES + 4);
                        __global uchar *y = arena + OFFSET(V_Y) + (long)i0 * WORD(V_Y_STRIDES) + (long)i1 * WORD(V_Y_STRIDES + 1) + (long)i2 * WORD(V_Y_STRIDES + 2) + (long)i3 * WORD(V_Y_STRIDES + 3) + (long)i4 * WORD(V_Y_STRIDES + 4);
                        if (is_run) {
                            TICK((run_bytes + LANES - 1) / LANES)
                            for (int i = 0; i < run_bytes; i += LANES)
                                store_bytes(vload16(0, x + i), y + i, run_bytes - i);
                        } else if (!wide_x && !wide_y) {
                            TICK(n5)
                            for (int i = 0; i < n5; i++) {
                                uchar v = x[(long)i * x5];
                                y[(long)i * y5] = has_table ? local_table[v] : v;
                            }
                        } else {
                            TICK(n5)
                            for (int i = 0; i < n5; i++) {
                                ushort v = wide_x ? *(__global const ushort *)(x + (long)i * x5) : x[(long)i * x5];
                                if (has_table)
                                    v = wide_y ? ((__global const ushort *)table)[v] : table[v];
                                if (wide_y)
                                    *(__global ushort *)(y + (long)i * y5) = v;
                                else
                                    y[(long)i * y5] = (uchar)v;
                            }
                        }
                    }
    }
    ENGINE_END
}
