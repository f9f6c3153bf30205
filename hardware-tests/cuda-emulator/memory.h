// Device memory, as strict as host memory can be made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {
using Address = unsigned long long;

// What the driver calls its errors (cuda.h); those that are used here.
enum Status : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

// Says something on standard error, for whoever reads a test's output.
void say(const std::string &what);

Status allocate(Address *at, size_t bytes);
Status release(Address at);
Status allocate_pinned(void **at, size_t bytes);
Status release_pinned(void *at);

// Whether so many bytes from there lie within one allocation that is alive.
bool is_device(Address at, size_t bytes);
bool is_pinned(const void *at, size_t bytes);
// Where bytes around an allocation were written; nothing if nowhere.
std::string damage();
size_t allocated_bytes();
size_t memory_bytes();
} // namespace emulator
