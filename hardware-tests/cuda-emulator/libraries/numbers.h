// Floats of 32 and 16 bits as libraries read and write them, and of 8 as they read them.
#pragma once

#include "../words/float8.h"

#include <cstdint>
#include <cstring>

// What `cudaDataType_t` calls them.
enum Type : int { R_32F = 0, R_16F = 2, R_16BF = 14, R_8F_E4M3 = 28, R_8F_E5M2 = 29 };

// Bytes of one; zero for a type that is not emulated.
inline uint64_t size_of(int type)
{
    bool is_short = type == R_16F || type == R_16BF, is_float8 = type == R_8F_E4M3 || type == R_8F_E5M2;
    return type == R_32F ? 4 : is_short ? 2 : is_float8 ? 1 : 0;
}

inline uint32_t bits_of(float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float float_of(uint32_t bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float from_f16(uint32_t bits)
{
    uint32_t sign = (bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00)
        return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // Exact, whether normal or not: the scale is a power of two.
    float magnitude = float_of(rest << 13) * float_of(0x77800000);
    return float_of(sign | bits_of(magnitude));
}
// The nearest one, of two the even one.
inline uint16_t to_f16(float value)
{
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return sign | 0x7e00;
    if (rest >= 0x477ff000)
        return sign | 0x7c00;
    if (rest < 0x38800000) {
        // Adding a number whose last digit is that of the smallest half rounds to it.
        float magic = 0.5f;
        return sign | (bits_of(float_of(rest) + magic) - bits_of(magic));
    }
    return sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
}
inline uint16_t to_bf16(float value)
{
    uint32_t bits = bits_of(value);
    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
// Ten digits behind the first one, rounded away from zero where both are as near.
inline float as_tf32(float value)
{
    uint32_t bits = bits_of(value);
    return value - value != 0 ? value : float_of((bits + 0x1000) & 0xffffe000);
}

inline float load(uint64_t at, int type, uint64_t place)
{
    if (type == R_32F)
        return reinterpret_cast<const float *>(at)[place];
    if (size_of(type) == 1)
        return emulator::from_float8(reinterpret_cast<const uint8_t *>(at)[place], type == R_8F_E4M3 ? 3 : 2);
    uint32_t bits = reinterpret_cast<const uint16_t *>(at)[place];
    return type == R_16F ? from_f16(bits) : float_of(bits << 16);
}
inline void store(uint64_t at, int type, uint64_t place, float value)
{
    if (type == R_32F)
        reinterpret_cast<float *>(at)[place] = value;
    else
        reinterpret_cast<uint16_t *>(at)[place] = type == R_16F ? to_f16(value) : to_bf16(value);
}
