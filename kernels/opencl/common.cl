// What all kernels of the engine share. The host joins the files into one source, this one first.
//
// The engine is an overlay: these kernels are synthesised once and driven with descriptors ever after. A descriptor is a
// row of 32-bit words that says everything about one operator of a model: where its tensors lie, their strides, its window, its
// parameters. All descriptors of a model lie in device memory; a launch names one and a range of its work.
//
//   arena      tensors: inputs, outputs and everything between; one a lane
//   constants  packed weights, biases, factors, tables; written once, at load
//   words      descriptors
//   at         where this operator's descriptor begins in `words`
//   first,last the part of the operator's work that this launch does, in the blocks that each kernel defines; so several compute units share one operator
//
// Every kernel is a single work-item task. Vectors of 16 lanes are rows of 16 processing elements, unrolled loops are more of
// them side by side, __local arrays are on-chip memory. Arithmetic is in the integers and the order of roundings of src/int8: nothing
// here divides floats, takes roots, or lets a multiplication and an addition be contracted.

#pragma OPENCL FP_CONTRACT OFF

#ifdef cl_intel_channels // Intel's compiler for boards, and its emulator
#define FPGA_TASK __attribute__((max_global_work_dim(0))) __kernel void
#else
#define FPGA_TASK __attribute__((reqd_work_group_size(1, 1, 1))) __kernel void
#endif

#define ENGINE_ARGUMENTS                                                                                                \
    __global uchar *restrict arena, __global const uchar *restrict constants, __global const int *restrict words, int at,  \
        int first, int last

// What a board's pipelines would take, counted: built with ENGINE_COUNT, every step of an innermost loop is a TICK, and a kernel adds its
// ticks to a number that lies before the arena. src/fpga/estimate is held to it. Otherwise none of it is there.
#ifdef ENGINE_COUNT
#define ENGINE_BEGIN                                         \
    __global ulong *counted = (__global ulong *)arena;       \
    ulong counter = 0, *ticks = &counter;                    \
    arena += ENGINE_COUNT;
#define ENGINE_END *counted += counter;
#define TICKS_PARAMETER ulong *ticks,
#define TICKS ticks,
#define TICK(n) *ticks += (ulong)(n);
#else
#define ENGINE_BEGIN
#define ENGINE_END
#define TICKS_PARAMETER
#define TICKS
#define TICK(n)
#endif

// Words of the descriptor; offsets are in bytes and take two words.
#define WORD(i) words[at + (i)]
#define OFFSET(i) ((size_t)((ulong)(uint)WORD(i) | ((ulong)(uint)WORD((i) + 1) << 32)))
// A float is a word's bits.
#define FLOAT(i) as_float(WORD(i))

// Lanes of a vector: channels, mostly.
#define LANES 16

// Types of tensors, as descriptors name them. Strides are in bytes.
enum { TYPE_U8, TYPE_I8, TYPE_U16, TYPE_I16, TYPE_I32, TYPE_I64 };

static int is_signed(int type) { return type & 1; }

static int is_wide(int type) { return type >= TYPE_U16; }

// What an integer's bits are flipped by, to be a signed number of as many: u8 less 128, u16 less 32768.
static int sign_flip(int type) { return is_signed(type) ? 0 : is_wide(type) ? 0x8000 : 0x80; }

// 16 integers that lie side by side, with their sign.
static int16 load_lanes(__global const uchar *from, int type)
{
    if (is_wide(type)) {
        ushort16 v = vload16(0, (__global const ushort *)from);
        return is_signed(type) ? convert_int16(as_short16(v)) : convert_int16(v);
    }
    uchar16 v = vload16(0, from);
    return is_signed(type) ? convert_int16(as_char16(v)) : convert_int16(v);
}

static int load_one(__global const uchar *from, int type)
{
    if (is_wide(type)) {
        ushort v = *(__global const ushort *)from;
        return is_signed(type) ? (int)(short)v : (int)v;
    }
    return is_signed(type) ? (int)(char)*from : (int)*from;
}

static void store_one(int value, __global uchar *to, int type)
{
    if (is_wide(type))
        *(__global ushort *)to = (ushort)(value & 0xffff);
    else
        *to = (uchar)(value & 0xff);
}

// Rounds half to even what is below 2^22: with 1.5 * 2^23 added, the lowest bit of the mantissa is the one before the point. One emulator's
// compiler gets the conversion of float vectors to integers wrong on some processors, and every device has an adder.
static int16 round_half_even(float16 v) { return as_int16(v + 12582912.0f) - 0x4b400000; }

// How an accumulator becomes an integer of the output: clamp(round_half_even(acc * factor), low, high) + zero, where low and
// high are less the zero point, so that the clamp may come before the conversion and none can overflow.
#ifndef INTEGER_REQUANT
static int16 requantize(int16 sum, float16 factor, float low, float high, int zero)
{
    float16 steps = convert_float16_rte(sum) * factor;
    return round_half_even(clamp(steps, low, high)) + zero;
}

// Sums of 64 bits as the nearest floats. Shifted until 30 bits are left, of which the last says whether any that went was set, they round
// as the whole does; a conversion of 64 bits is by way of doubles on some devices, and rounds twice.
static float16 nearest_float(long16 sum)
{
    ulong16 magnitude = abs(sum);
    long16 surplus = max(34 - as_long16(clz(magnitude)), (long16)0);
    ulong16 kept = magnitude >> as_ulong16(surplus);
    long16 lost = (kept << as_ulong16(surplus)) != magnitude; // all ones where some did
    int16 mantissa = convert_int16(kept) | (convert_int16(lost) & 1);
    int16 sign = convert_int16(sum < (long16)0);
    // A power of two as the bits of its exponent.
    return convert_float16_rte((mantissa ^ sign) - sign) * as_float16((convert_int16(surplus) + 127) << 23);
}

// requantize for sums of 64 bits.
static int16 requantize_long(long16 sum, float16 factor, float low, float high, int zero)
{
    return round_half_even(clamp(nearest_float(sum) * factor, low, high)) + zero;
}
#else
// The same without a float unit: the sum rounded to 24 bits, its product with the factor's mantissa rounded to 24 bits, and that to an
// integer, half to even each time, which is what the multiplication of two floats and a rounding do.
static ulong shift_half_even(ulong value, uint by)
{
    if (by == 0)
        return value;
    if (by > 63)
        return 0;
    ulong whole = value >> by, rest = value & ((1UL << by) - 1), middle = 1UL << (by - 1);
    return whole + (rest > middle || (rest == middle && (whole & 1)));
}

static int requantize_one(long sum, uint factor, int low, int high, int zero)
{
    ulong magnitude = sum < 0 ? (ulong)-sum : (ulong)sum;
    uint surplus = magnitude >> 24 ? 64 - (uint)clz(magnitude) - 24 : 0;
    ulong mantissa = shift_half_even(magnitude, surplus) * (ulong)((factor & 0x7fffff) | 0x800000);
    int exponent = (int)surplus + (int)(factor >> 23 & 0xff) - 150;
    uint more = mantissa >> 24 ? 64 - (uint)clz(mantissa) - 24 : 0;
    mantissa = shift_half_even(mantissa, more);
    exponent += (int)more;
    long steps = exponent >= 0 ? (long)(mantissa << min(exponent, 38)) : (long)shift_half_even(mantissa, (uint)-exponent);
    steps = sum < 0 ? -steps : steps;
    return (int)clamp(steps, (long)low, (long)high) + zero;
}

static int16 requantize(int16 sum, float16 factor, float low, float high, int zero)
{
    int sums[16], out[16];
    float factors[16];
    vstore16(sum, 0, sums);
    vstore16(factor, 0, factors);
    for (int i = 0; i < 16; i++)
        out[i] = requantize_one(sums[i], as_uint(factors[i]), (int)low, (int)high, zero);
    return vload16(0, out);
}

static int16 requantize_long(long16 sum, float16 factor, float low, float high, int zero)
{
    long sums[16];
    int out[16];
    float factors[16];
    vstore16(sum, 0, sums);
    vstore16(factor, 0, factors);
    for (int i = 0; i < 16; i++)
        out[i] = requantize_one(sums[i], as_uint(factors[i]), (int)low, (int)high, zero);
    return vload16(0, out);
}
#endif

// The sum of two quantised tensors: fma(a, f0, fma(b, f1, f2)), see src/int8/elementwise.rs.
static int16 add_lanes(int16 a, int16 b, float f0, float f1, float f2, float low, float high)
{
    float16 sum = fma(convert_float16_rte(a), (float16)f0, fma(convert_float16_rte(b), (float16)f1, (float16)f2));
    return round_half_even(clamp(sum, low, high));
}

// a / b for normal, positive a and b, rounded to the nearest float: long division of the mantissas, so that it is exact on
// devices whose division is not.
static float divide(float a, float b)
{
    uint x = as_uint(a), y = as_uint(b);
    if (x == 0)
        return 0.0f;
    ulong high = (ulong)(x & 0x7fffff | 0x800000) << 32, low = y & 0x7fffff | 0x800000;
    ulong quotient = high / low;
    quotient |= (quotient * low != high); // the rest, as a bit below the ones that count
    int exponent = (int)(x >> 23 & 0xff) - (int)(y >> 23 & 0xff) - 32;
    // The quotient has 32 or 33 bits; 24 of them are kept.
    uint surplus = quotient >> 32 ? 9 : 8;
    ulong middle = 1UL << (surplus - 1), rest = quotient & ((1UL << surplus) - 1);
    ulong mantissa = quotient >> surplus;
    mantissa += rest > middle || (rest == middle && (mantissa & 1));
    return ldexp((float)(uint)mantissa, exponent + (int)surplus);
}

// The first `count` of 16 bytes.
static void store_bytes(uchar16 value, __global uchar *to, int count)
{
    if (count >= LANES) {
        vstore16(value, 0, to);
        return;
    }
    uchar lanes[LANES];
    vstore16(value, 0, lanes);
    for (int i = 0; i < count; i++)
        to[i] = lanes[i];
}

// The first `count` of 16 integers, which fit their type.
static void store_lanes(int16 value, __global uchar *to, int count, int type)
{
    if (!is_wide(type)) {
        store_bytes(convert_uchar16(value & 0xff), to, count);
        return;
    }
    ushort16 narrow = convert_ushort16(value & 0xffff);
    if (count >= LANES) {
        vstore16(narrow, 0, (__global ushort *)to);
        return;
    }
    ushort lanes[LANES];
    vstore16(narrow, 0, lanes);
    for (int i = 0; i < count; i++)
        ((__global ushort *)to)[i] = lanes[i];
}
