// Tensor maps: what copies of tiles read, as the driver encodes it for them. What it refuses is what cuda.h documents, each with a line that says why.

#include "driver.h"
#include "tensor_map.h"

#include <cstring>
#include <string>

using namespace emulator;

namespace {
// By their numbers in cuda.h: 8 bits, 16, 32, 32, 64, 64, f16, f32, f64, bf16, f32 without subnormals, tf32, tf32 without subnormals.
constexpr int ELEMENT_BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
constexpr int TF32 = 11;
constexpr int SPAN_BYTES[] = {0, 32, 64, 128};

struct Given {
    int type;
    unsigned rank;
    const void *address;
    const uint64_t *lengths, *strides;
    const unsigned *steps;
    int interleave, swizzle, promotion, fill;
};

// What is wrong; nothing if nothing. What is right is put into the map.
std::string encode(const Given &given, TensorMap &map)
{
    auto is_one_of = [](int value, int many) { return value >= 0 && value < many; };
    if (!is_one_of(given.type, 13) || !is_one_of(given.swizzle, 4) || !is_one_of(given.promotion, 4) || !is_one_of(given.fill, 2))
        return "a type, a swizzle, a promotion or a fill that cuda.h does not have";
    if (given.interleave != 0 || given.fill != 0)
        return "interleaved tensors and a fill other than zeros are not emulated";
    if (given.rank < 1 || given.rank > 5)
        return std::to_string(given.rank) + " axes: expected 1 to 5";
    if (reinterpret_cast<Address>(given.address) % 16 != 0)
        return "the tensor begins at no multiple of 16 bytes";
    map.is_one = TENSOR_MAP;
    map.rank = given.rank;
    map.element_bytes = ELEMENT_BYTES[given.type];
    map.is_tf32 = given.type >= TF32;
    map.swizzle_bytes = SPAN_BYTES[given.swizzle];
    map.address = reinterpret_cast<Address>(given.address);
    for (unsigned axis = 0; axis < given.rank; axis++) {
        if (given.lengths[axis] < 1 || given.lengths[axis] > 0xffffffff)
            return "axis " + std::to_string(axis) + " has " + std::to_string(given.lengths[axis]) + " elements";
        if (given.steps[axis] < 1 || given.steps[axis] > 8)
            return "axis " + std::to_string(axis) + " is traversed by " + std::to_string(given.steps[axis]) + " elements: expected 1 to 8";
        map.lengths[axis] = given.lengths[axis];
        map.steps[axis] = given.steps[axis];
    }
    for (unsigned axis = 0; axis + 1 < given.rank; axis++) {
        if (given.strides[axis] % 16 != 0 || given.strides[axis] >= 1ull << 40)
            return "stride " + std::to_string(axis) + " is " + std::to_string(given.strides[axis]) + " bytes: expected a multiple of 16 below 2^40";
        if (given.strides[axis] / 16 > 0xffffffff)
            return "a stride is more than the emulator keeps";
        map.strides_16[axis] = given.strides[axis] / 16;
    }
    return "";
}

std::string wrong_span(const TensorMap &map, unsigned inner)
{
    unsigned bytes = inner * map.element_bytes;
    if (bytes % 16 != 0)
        return "the box's inner axis has " + std::to_string(bytes) + " bytes: expected a multiple of 16";
    if (map.swizzle_bytes && bytes > map.swizzle_bytes)
        return "the box's inner axis has " + std::to_string(bytes) + " bytes, and the swizzle spans " + std::to_string(map.swizzle_bytes);
    return "";
}

Status finish(void *to, const TensorMap &map, const std::string &wrong, const char *function)
{
    if (reinterpret_cast<uintptr_t>(to) % 64 != 0)
        return say(std::string(function) + ": the map lies at no multiple of 64 bytes"), INVALID_VALUE;
    if (!wrong.empty())
        return say(std::string(function) + ": " + wrong), INVALID_VALUE;
    std::memset(to, 0, 128);
    std::memcpy(to, &map, sizeof map);
    return SUCCESS;
}
} // namespace

API cuTensorMapEncodeTiled(void *to, int type, unsigned rank, void *address, const uint64_t *lengths, const uint64_t *strides, const unsigned *box,
                           const unsigned *steps, int interleave, int swizzle, int promotion, int fill)
{
    TensorMap map{};
    std::string wrong = encode({type, rank, address, lengths, strides, steps, interleave, swizzle, promotion, fill}, map);
    for (unsigned axis = 0; wrong.empty() && axis < rank; axis++) {
        if (box[axis] < 1 || box[axis] > 256)
            wrong = "axis " + std::to_string(axis) + " of the box has " + std::to_string(box[axis]) + " elements: expected 1 to 256";
        map.box[axis] = box[axis];
    }
    if (wrong.empty())
        wrong = wrong_span(map, box[0]);
    return finish(to, map, wrong, "cuTensorMapEncodeTiled");
}

API cuTensorMapEncodeIm2col(void *to, int type, unsigned rank, void *address, const uint64_t *lengths, const uint64_t *strides, const int *lower, const int *upper,
                            unsigned channels, unsigned pixels, const unsigned *steps, int interleave, int swizzle, int promotion, int fill)
{
    TensorMap map{};
    std::string wrong = encode({type, rank, address, lengths, strides, steps, interleave, swizzle, promotion, fill}, map);
    if (wrong.empty() && rank < 3)
        wrong = std::to_string(rank) + " axes: expected channels, one to three of an image, and images";
    map.is_im2col = true;
    map.channels = channels, map.pixels = pixels;
    // The fewer bits each has, the more axes there are.
    const int most = wrong.empty() ? 1 << (16 / (rank - 2) - 1) : 0;
    for (unsigned axis = 0; wrong.empty() && axis < rank - 2; axis++) {
        if (lower[axis] < -most || lower[axis] >= most || upper[axis] < -most || upper[axis] >= most)
            wrong = "the corners of axis " + std::to_string(axis) + " are " + std::to_string(lower[axis]) + " and " + std::to_string(upper[axis]) +
                    ": expected numbers from " + std::to_string(-most) + " to " + std::to_string(most - 1);
        map.lower[axis] = lower[axis], map.upper[axis] = upper[axis];
    }
    if (wrong.empty() && (channels < 1 || channels > 256 || pixels < 1 || pixels > 1024))
        wrong = std::to_string(channels) + " channels of " + std::to_string(pixels) + " pixels: expected at most 256 and 1024";
    if (wrong.empty())
        wrong = wrong_span(map, channels);
    return finish(to, map, wrong, "cuTensorMapEncodeIm2col");
}
