// What the parts of the driver's interface share. Each function of it (cuda.h), as far as `cudarc` calls it, is a line or two over streams,
// memory and kernels: driver_devices.cpp, driver_memory.cpp, driver_kernels.cpp, driver_streams.cpp.
//
// Strict where drivers are: handles that are none, sizes that no launch can have, memory that nobody allocated, calls that a capture
// forbids. After an error on a device every call fails with it, as a lost context does.
#pragma once

#include "memory.h"
#include "stream.h"

#include <mutex>

#define API extern "C" __attribute__((visibility("default"))) int

namespace emulator {
constexpr int MOST_THREADS = 1024, MOST_SHARED_BYTES = 227 << 10, FREE_SHARED_BYTES = 48 << 10;

// One call at a time: what threads order at once, they order one after the other.
struct Alone {
    static std::recursive_mutex &mutex()
    {
        static std::recursive_mutex &one = *new std::recursive_mutex;
        return one;
    }
    std::lock_guard<std::recursive_mutex> lock{mutex()};
};

// A stream that is one, while its context is alive.
inline Status good(Stream *stream) { return stream ? lost(stream->device) : INVALID_HANDLE; }
} // namespace emulator
