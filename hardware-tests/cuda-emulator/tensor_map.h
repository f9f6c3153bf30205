// A tensor as copies of tiles read it: what the driver makes of what the host says (driver_tensors.cpp), and copies understand (hopper.cpp).
#pragma once

#include "memory.h"

namespace emulator {
constexpr uint32_t TENSOR_MAP = 0x70616d74;

struct TensorMap {
    uint32_t is_one; // TENSOR_MAP
    uint8_t rank, element_bytes, swizzle_bytes;
    bool is_tf32, is_im2col;
    uint8_t steps[5];
    Address address;
    // The first axis lies together.
    uint32_t lengths[5], strides_16[4];
    uint16_t box[5];
    // Of im2col: where in the axes between channels and images windows begin, from the first element and from the last one; so many channels and pixels.
    int16_t lower[3], upper[3];
    uint16_t channels, pixels;
};
static_assert(sizeof(TensorMap) <= 128, "a tensor map has 128 bytes");
} // namespace emulator
