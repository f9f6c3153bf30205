// Floats of 8 bits, and what tensor cores keep of sums of their products: what kernels' words (tensor_core.h) and the driver (wgmma.cpp) have in common.
#pragma once

#include <stdint.h>

namespace emulator {
inline float float_of(uint32_t bits)
{
    float number;
    __builtin_memcpy(&number, &bits, 4);
    return number;
}
inline uint32_t bits_of(float number)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &number, 4);
    return bits;
}

// With so many bits of a fraction: 3 (e4m3) or 2 (e5m2). The exponent is put where one of 8 bits is; the factor makes up for the difference.
inline float from_float8(unsigned code, int fraction)
{
    unsigned magnitude = code & 0x7f, most = fraction == 3 ? 0x7e : 0x7b;
    uint32_t bits = bits_of(float_of(magnitude << (23 - fraction)) * (fraction == 3 ? 0x1p120f : 0x1p112f));
    if (magnitude > most)
        bits = magnitude == 0x7c ? 0x7f800000 : 0x7fffffff;
    return float_of(bits | (code & 0x80) << 24);
}

// A sum and products, as those GPUs add them up that keep the least of them: of all, what lies beneath the 13th bit behind the leading one of the largest is
// cut off. So large sums lose what is small, unless they are added up otherwise.
inline float narrow_sum(float sum, const float *products, int count)
{
    uint32_t largest = bits_of(sum) & 0x7fffffff;
    for (int i = 0; i < count; i++) {
        uint32_t magnitude = bits_of(products[i]) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    int exponent = static_cast<int>(largest >> 23);
    // Nothing to cut off, or no number.
    if (exponent <= 13 || exponent == 0xff) {
        for (int i = 0; i < count; i++)
            sum += products[i];
        return sum;
    }
    const float unit = float_of(static_cast<uint32_t>(exponent - 13) << 23), many = 1 / unit;
    int whole = static_cast<int>(sum * many);
    for (int i = 0; i < count; i++)
        whole += static_cast<int>(products[i] * many);
    return static_cast<float>(whole) * unit;
}
} // namespace emulator
