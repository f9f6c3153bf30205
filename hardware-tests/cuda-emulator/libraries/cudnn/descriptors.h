// cuDNN's descriptors: objects of a kind with attributes, which are set before they are finalised and read afterwards.
//
// What a kind has, and what each attribute must be, is one table (`ATTRIBUTES`); what fits together is looked at when a descriptor is finalised.
// Numbers are the library's own (cudnn_graph.h).
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

enum Status : int {
    SUCCESS = 0,
    NOT_INITIALIZED = 1001,
    BAD_PARAM = 2000,
    NULL_POINTER = 2002,
    MISALIGNED_POINTER = 2003,
    NOT_FINALIZED = 2004,
    SIZE_INSUFFICIENT = 2006,
    SHAPE_MISMATCH = 2008,
    DUPLICATED_ENTRIES = 2009,
    ATTRIBUTE_TYPE = 2010,
    DESCRIPTOR_TYPE = 2012,
    NOT_SUPPORTED = 3000,
    GRAPH_PATTERN = 3001,
    NOT_SUPPORTED_DATA_TYPE = 3003,
    NOT_SUPPORTED_LAYOUT = 3004,
    EXECUTION_FAILED = 5000,
};

enum Kind : int {
    POINTWISE = 0,
    CONVOLUTION = 1,
    ENGINE = 2,
    CONFIG = 3,
    HEURISTICS = 4,
    PLAN = 5,
    KNOB = 7,
    CONVOLVE = 10,
    POINTWISE_OPERATION = 13,
    GRAPH = 15,
    PACK = 16,
    TENSOR = 17,
};

// Types of attributes, and their bytes.
enum ValueType : int {
    T_HANDLE = 0,
    T_DATA_TYPE = 1,
    T_BOOLEAN = 2,
    T_INT64 = 3,
    T_FLOAT = 4,
    T_POINTER = 6,
    T_CONVOLUTION_MODE = 7,
    T_HEURISTICS_MODE = 8,
    T_KNOB = 9,
    T_NAN = 10,
    T_NOTE = 11,
    T_POINTWISE_MODE = 14,
    T_DESCRIPTOR = 15,
    T_BEHAVIOUR = 19,
};
inline size_t bytes_of(int type)
{
    return type == T_BOOLEAN ? 1 : type == T_HANDLE || type == T_INT64 || type == T_POINTER || type == T_DESCRIPTOR ? 8 : 4;
}

enum Name : int {
    POINTWISE_MODE = 0,
    POINTWISE_PRECISION = 1,
    POINTWISE_NAN = 2,
    CONVOLUTION_TYPE = 100,
    CONVOLUTION_MODE = 101,
    CONVOLUTION_DILATIONS = 102,
    CONVOLUTION_STRIDES = 103,
    CONVOLUTION_AFTER = 104,
    CONVOLUTION_BEFORE = 105,
    CONVOLUTION_AXES = 106,
    HEURISTICS_MODE = 200,
    HEURISTICS_GRAPH = 201,
    HEURISTICS_RESULTS = 202,
    CONFIG_ENGINE = 300,
    CONFIG_KNOBS = 302,
    PLAN_HANDLE = 400,
    PLAN_CONFIG = 401,
    PLAN_WORKSPACE = 402,
    KNOB_TYPE = 600,
    KNOB_VALUE = 601,
    CONVOLVE_ALPHA = 700,
    CONVOLVE_BETA = 701,
    CONVOLVE_CONVOLUTION = 702,
    CONVOLVE_W = 703,
    CONVOLVE_X = 704,
    CONVOLVE_Y = 705,
    OPERATION_POINTWISE = 750,
    OPERATION_X = 751,
    OPERATION_B = 752,
    OPERATION_Y = 753,
    GRAPH_HANDLE = 800,
    GRAPH_OPERATIONS = 801,
    TENSOR_ALIGNMENT = 900,
    TENSOR_TYPE = 901,
    TENSOR_LENGTHS = 902,
    TENSOR_STRIDES = 903,
    TENSOR_UID = 906,
    TENSOR_VIRTUAL = 907,
    PACK_UIDS = 1000,
    PACK_POINTERS = 1001,
    PACK_WORKSPACE = 1003,
    ENGINE_INDEX = 1301,
    ENGINE_NOTES = 1303,
    ENGINE_BEHAVIOUR = 1305,
};

struct Attribute {
    int kind, name, type;
    int64_t most;
    // Whether it can be set, and whether it must be.
    bool is_set, is_needed;
    // What its descriptors must be.
    int of = -1;
};
// An operation is one of two kinds, which a graph looks at itself.
constexpr Attribute ATTRIBUTES[] = {
    {TENSOR, TENSOR_TYPE, T_DATA_TYPE, 1, true, true},
    {TENSOR, TENSOR_LENGTHS, T_INT64, 8, true, true},
    {TENSOR, TENSOR_STRIDES, T_INT64, 8, true, true},
    {TENSOR, TENSOR_UID, T_INT64, 1, true, true},
    {TENSOR, TENSOR_ALIGNMENT, T_INT64, 1, true, true},
    {TENSOR, TENSOR_VIRTUAL, T_BOOLEAN, 1, true, false},
    {CONVOLUTION, CONVOLUTION_AXES, T_INT64, 1, true, true},
    {CONVOLUTION, CONVOLUTION_TYPE, T_DATA_TYPE, 1, true, true},
    {CONVOLUTION, CONVOLUTION_MODE, T_CONVOLUTION_MODE, 1, true, true},
    {CONVOLUTION, CONVOLUTION_BEFORE, T_INT64, 3, true, true},
    {CONVOLUTION, CONVOLUTION_AFTER, T_INT64, 3, true, true},
    {CONVOLUTION, CONVOLUTION_DILATIONS, T_INT64, 3, true, true},
    {CONVOLUTION, CONVOLUTION_STRIDES, T_INT64, 3, true, true},
    {POINTWISE, POINTWISE_MODE, T_POINTWISE_MODE, 1, true, true},
    {POINTWISE, POINTWISE_PRECISION, T_DATA_TYPE, 1, true, true},
    {POINTWISE, POINTWISE_NAN, T_NAN, 1, true, false},
    {CONVOLVE, CONVOLVE_ALPHA, T_FLOAT, 1, true, true},
    {CONVOLVE, CONVOLVE_BETA, T_FLOAT, 1, true, true},
    {CONVOLVE, CONVOLVE_CONVOLUTION, T_DESCRIPTOR, 1, true, true, CONVOLUTION},
    {CONVOLVE, CONVOLVE_W, T_DESCRIPTOR, 1, true, true, TENSOR},
    {CONVOLVE, CONVOLVE_X, T_DESCRIPTOR, 1, true, true, TENSOR},
    {CONVOLVE, CONVOLVE_Y, T_DESCRIPTOR, 1, true, true, TENSOR},
    {POINTWISE_OPERATION, OPERATION_POINTWISE, T_DESCRIPTOR, 1, true, true, POINTWISE},
    {POINTWISE_OPERATION, OPERATION_X, T_DESCRIPTOR, 1, true, true, TENSOR},
    {POINTWISE_OPERATION, OPERATION_B, T_DESCRIPTOR, 1, true, false, TENSOR},
    {POINTWISE_OPERATION, OPERATION_Y, T_DESCRIPTOR, 1, true, true, TENSOR},
    {GRAPH, GRAPH_HANDLE, T_HANDLE, 1, true, true},
    {GRAPH, GRAPH_OPERATIONS, T_DESCRIPTOR, 16, true, true},
    {HEURISTICS, HEURISTICS_GRAPH, T_DESCRIPTOR, 1, true, true, GRAPH},
    {HEURISTICS, HEURISTICS_MODE, T_HEURISTICS_MODE, 1, true, true},
    {HEURISTICS, HEURISTICS_RESULTS, T_DESCRIPTOR, 64, false, false, CONFIG},
    {CONFIG, CONFIG_ENGINE, T_DESCRIPTOR, 1, false, false, ENGINE},
    {CONFIG, CONFIG_KNOBS, T_DESCRIPTOR, 64, false, false, KNOB},
    {KNOB, KNOB_TYPE, T_KNOB, 1, false, false},
    {KNOB, KNOB_VALUE, T_INT64, 1, false, false},
    {ENGINE, ENGINE_INDEX, T_INT64, 1, false, false},
    {ENGINE, ENGINE_NOTES, T_NOTE, 32, false, false},
    {ENGINE, ENGINE_BEHAVIOUR, T_BEHAVIOUR, 32, false, false},
    {PLAN, PLAN_HANDLE, T_HANDLE, 1, true, true},
    {PLAN, PLAN_CONFIG, T_DESCRIPTOR, 1, true, true, CONFIG},
    {PLAN, PLAN_WORKSPACE, T_INT64, 1, false, false},
    {PACK, PACK_UIDS, T_INT64, 16, true, true},
    {PACK, PACK_POINTERS, T_POINTER, 16, true, true},
    {PACK, PACK_WORKSPACE, T_POINTER, 1, true, true},
};
inline const Attribute *attribute(int kind, int name)
{
    for (const Attribute &known : ATTRIBUTES)
        if (known.kind == kind && known.name == name)
            return &known;
    return nullptr;
}

// Why the last call of this thread was refused.
inline thread_local std::string last_error;
inline Status refuse(Status status, const std::string &why)
{
    std::fprintf(stderr, "cuDNN emulator: %s\n", why.c_str());
    last_error = why;
    return status;
}

struct Descriptor;
using Shared = std::shared_ptr<Descriptor>;

struct Values {
    std::vector<uint8_t> bytes;
    // Of descriptors; who names one keeps it.
    std::vector<Shared> named;
};

struct Descriptor {
    int kind;
    bool is_final = false;
    // Of a plan: its code is there.
    bool is_loaded = false;
    std::map<int, Values> values;

    bool has(int name) const { return values.count(name); }
    template <class T> std::vector<T> list(int name) const
    {
        auto found = values.find(name);
        std::vector<T> all(found == values.end() ? 0 : found->second.bytes.size() / sizeof(T));
        if (!all.empty())
            std::memcpy(all.data(), found->second.bytes.data(), all.size() * sizeof(T));
        return all;
    }
    template <class T> T one(int name, T otherwise = T{}) const
    {
        auto all = list<T>(name);
        return all.empty() ? otherwise : all[0];
    }
    template <class T> void put(int name, std::vector<T> all)
    {
        auto *first = reinterpret_cast<const uint8_t *>(all.data());
        values[name].bytes.assign(first, first + all.size() * sizeof(T));
    }
    Shared named(int name) const
    {
        auto found = values.find(name);
        return found == values.end() || found->second.named.empty() ? nullptr : found->second.named[0];
    }
};

struct Handle {
    int device;
    void *stream = nullptr;
};

// What is alive, so that a descriptor or handle that is none, or was destroyed, is refused.
inline std::mutex &one_at_a_time = *new std::mutex;
inline std::map<void *, Shared> &descriptors = *new std::map<void *, Shared>;
inline std::map<void *, std::unique_ptr<Handle>> &handles = *new std::map<void *, std::unique_ptr<Handle>>;

inline Shared descriptor(void *at)
{
    auto found = descriptors.find(at);
    return found == descriptors.end() ? nullptr : found->second;
}
inline Handle *handle(void *at)
{
    auto found = handles.find(at);
    return found == handles.end() ? nullptr : found->second.get();
}
