// Graphs of operations: what each descriptor must be to be finalised, and the one pattern that is emulated, a convolution with sums and ReLUs behind it.
#pragma once

#include "../numbers.h"
#include "descriptors.h"

#include <set>

// `cudnnDataType_t` as numbers.h calls it; -1 for what is not emulated.
inline int element(int type) { return type == 0 ? R_32F : type == 2 ? R_16F : type == 9 ? R_16BF : -1; }
constexpr int FLOAT = 0;
enum : int { ADD = 0, RELU = 100 };

struct Tensor {
    int64_t uid, align;
    int type;
    bool is_virtual;
    std::vector<int64_t> lengths, strides;

    explicit Tensor(const Descriptor &of)
        : uid(of.one<int64_t>(TENSOR_UID)), align(of.one<int64_t>(TENSOR_ALIGNMENT)), type(element(of.one<int>(TENSOR_TYPE))),
          is_virtual(of.one<uint8_t>(TENSOR_VIRTUAL)), lengths(of.list<int64_t>(TENSOR_LENGTHS)), strides(of.list<int64_t>(TENSOR_STRIDES))
    {
    }
    size_t bytes() const
    {
        int64_t last = 0;
        for (size_t i = 0; i < lengths.size(); i++)
            last += (lengths[i] - 1) * strides[i];
        return (last + 1) * size_of(type);
    }
    int64_t count() const
    {
        int64_t all = 1;
        for (int64_t length : lengths)
            all *= length;
        return all;
    }
};

inline Status check_tensor(const Descriptor &of)
{
    if (element(of.one<int>(TENSOR_TYPE)) < 0)
        return refuse(NOT_SUPPORTED_DATA_TYPE, "a tensor of type " + std::to_string(of.one<int>(TENSOR_TYPE)));
    Tensor tensor(of);
    if (tensor.lengths.size() != tensor.strides.size() || tensor.lengths.size() < 3)
        return refuse(BAD_PARAM, "a tensor of " + std::to_string(tensor.lengths.size()) + " lengths and " + std::to_string(tensor.strides.size()) + " strides");
    for (size_t i = 0; i < tensor.lengths.size(); i++)
        if (tensor.lengths[i] < 1 || tensor.strides[i] < 1)
            return refuse(BAD_PARAM, "a tensor with a length or a stride that is not positive");
    if (tensor.align < 1 || tensor.align % size_of(tensor.type) || (tensor.align & (tensor.align - 1)))
        return refuse(BAD_PARAM, "an alignment of " + std::to_string(tensor.align) + " bytes");
    return SUCCESS;
}

inline Status check_convolution(const Descriptor &of)
{
    int64_t axes = of.one<int64_t>(CONVOLUTION_AXES);
    if (axes != 2 && axes != 3)
        return refuse(NOT_SUPPORTED, "a convolution over " + std::to_string(axes) + " axes");
    for (int name : {CONVOLUTION_BEFORE, CONVOLUTION_AFTER, CONVOLUTION_DILATIONS, CONVOLUTION_STRIDES}) {
        auto all = of.list<int64_t>(name);
        if (int64_t(all.size()) != axes)
            return refuse(BAD_PARAM, "attribute " + std::to_string(name) + " has " + std::to_string(all.size()) + " numbers for " + std::to_string(axes) + " axes");
        for (int64_t value : all)
            if (value < (name == CONVOLUTION_BEFORE || name == CONVOLUTION_AFTER ? 0 : 1))
                return refuse(BAD_PARAM, "attribute " + std::to_string(name) + " is " + std::to_string(value));
    }
    if (of.one<int>(CONVOLUTION_TYPE) != FLOAT || of.one<int>(CONVOLUTION_MODE) != 1)
        return refuse(NOT_SUPPORTED, "sums that are no floats of 32 bits, or a convolution that is no correlation");
    return SUCCESS;
}

inline Status check_pointwise(const Descriptor &of)
{
    int mode = of.one<int>(POINTWISE_MODE);
    if ((mode != ADD && mode != RELU) || of.one<int>(POINTWISE_PRECISION) != FLOAT)
        return refuse(NOT_SUPPORTED, "pointwise " + std::to_string(mode) + ", or not in floats of 32 bits");
    return SUCCESS;
}

inline Status check_convolve(const Descriptor &of)
{
    Tensor x(*of.named(CONVOLVE_X)), w(*of.named(CONVOLVE_W)), y(*of.named(CONVOLVE_Y));
    const Descriptor &how = *of.named(CONVOLVE_CONVOLUTION);
    if (of.one<float>(CONVOLVE_ALPHA) != 1 || of.one<float>(CONVOLVE_BETA) != 0)
        return refuse(NOT_SUPPORTED, "a convolution with factors");
    size_t axes = how.one<int64_t>(CONVOLUTION_AXES);
    if (x.lengths.size() != axes + 2 || w.lengths.size() != axes + 2 || y.lengths.size() != axes + 2)
        return refuse(SHAPE_MISMATCH, "tensors of another number of axes than the convolution");
    if (x.lengths[1] % w.lengths[1] || w.lengths[0] % (x.lengths[1] / w.lengths[1]))
        return refuse(SHAPE_MISMATCH, "channels that are no whole groups");
    if (y.lengths[0] != x.lengths[0] || y.lengths[1] != w.lengths[0])
        return refuse(SHAPE_MISMATCH, "a result of other images or channels");
    for (size_t a = 0; a < axes; a++) {
        auto at = [&](int name) { return how.list<int64_t>(name)[a]; };
        int64_t span = (w.lengths[2 + a] - 1) * at(CONVOLUTION_DILATIONS) + 1;
        int64_t room = x.lengths[2 + a] + at(CONVOLUTION_BEFORE) + at(CONVOLUTION_AFTER) - span;
        if (room < 0 || y.lengths[2 + a] != room / at(CONVOLUTION_STRIDES) + 1)
            return refuse(SHAPE_MISMATCH, "a result of " + std::to_string(y.lengths[2 + a]) + " along axis " + std::to_string(a));
    }
    if (x.type != w.type)
        return refuse(NOT_SUPPORTED_DATA_TYPE, "images and weights of different types");
    return SUCCESS;
}

inline Status check_pointwise_operation(const Descriptor &of)
{
    bool is_sum = of.named(OPERATION_POINTWISE)->one<int>(POINTWISE_MODE) == ADD;
    if (is_sum != of.has(OPERATION_B))
        return refuse(BAD_PARAM, "a sum of one tensor, or a ReLU of two");
    Tensor x(*of.named(OPERATION_X)), y(*of.named(OPERATION_Y));
    if (x.lengths != y.lengths)
        return refuse(SHAPE_MISMATCH, "a pointwise operation that changes the shape");
    if (!is_sum)
        return SUCCESS;
    Tensor b(*of.named(OPERATION_B));
    bool fits = b.lengths.size() == y.lengths.size();
    for (size_t i = 0; fits && i < b.lengths.size(); i++)
        fits = b.lengths[i] == 1 || b.lengths[i] == y.lengths[i];
    return fits ? SUCCESS : refuse(SHAPE_MISMATCH, "what is added does not repeat to the result");
}

inline Status check_graph(const Descriptor &of)
{
    std::map<int64_t, const Descriptor *> tensors;
    const Descriptor *made = nullptr;
    auto &all = of.values.at(GRAPH_OPERATIONS).named;
    for (size_t i = 0; i < all.size(); i++) {
        const Descriptor &operation = *all[i];
        bool is_first = operation.kind == CONVOLVE;
        if (!is_first && operation.kind != POINTWISE_OPERATION)
            return refuse(DESCRIPTOR_TYPE, "a graph of what is no operation");
        if (is_first != (i == 0))
            return refuse(GRAPH_PATTERN, "a graph that is not one convolution and what follows it");
        for (int name : {CONVOLVE_X, CONVOLVE_W, CONVOLVE_Y, OPERATION_X, OPERATION_B, OPERATION_Y}) {
            Shared tensor = operation.named(name);
            if (!tensor)
                continue;
            auto [known, is_new] = tensors.emplace(Tensor(*tensor).uid, tensor.get());
            if (!is_new && known->second != tensor.get())
                return refuse(DUPLICATED_ENTRIES, "two tensors are number " + std::to_string(Tensor(*tensor).uid));
            bool is_given = name == CONVOLVE_X || name == CONVOLVE_W || name == OPERATION_B;
            if (is_given && Tensor(*tensor).is_virtual)
                return refuse(BAD_PARAM, "a virtual tensor that nobody makes");
        }
        if (!is_first && operation.named(OPERATION_X).get() != made)
            return refuse(GRAPH_PATTERN, "an operation that does not go on with what the one before made");
        made = operation.named(is_first ? CONVOLVE_Y : OPERATION_Y).get();
        bool is_last = i + 1 == all.size();
        if (Tensor(*made).is_virtual == is_last)
            return refuse(GRAPH_PATTERN, is_last ? "a result that is virtual" : "a tensor between two operations that is not virtual");
        if (!is_last && Tensor(*made).type != R_32F)
            return refuse(NOT_SUPPORTED_DATA_TYPE, "a virtual tensor that is no floats of 32 bits");
    }
    return SUCCESS;
}

// Whether an engine takes it: channels closest together in everything that is as large as images are.
inline Status check_layout(const Descriptor &graph)
{
    for (const Shared &operation : graph.values.at(GRAPH_OPERATIONS).named)
        for (int name : {CONVOLVE_X, CONVOLVE_W, CONVOLVE_Y, OPERATION_X, OPERATION_B, OPERATION_Y})
            if (Shared tensor = operation->named(name); tensor && Tensor(*tensor).lengths[1] > 1 && Tensor(*tensor).strides[1] != 1)
                return refuse(NOT_SUPPORTED_LAYOUT, "a tensor whose channels are not closest together");
    return SUCCESS;
}
