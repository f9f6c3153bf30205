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
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_SOURCE = 300,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    ASSERT_FAILED = 710,
    HOST_MEMORY_ALREADY_REGISTERED = 712,
    HOST_MEMORY_NOT_REGISTERED = 713,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

constexpr int MOST_DEVICES = 8;

// Says something on standard error, for whoever reads a test's output.
void say(const std::string &what);

// CUDA_EMULATOR_FAIL=launch:3,alloc:2: whether the next of these is the one that is to fail.
bool is_to_fail(const char *what);

Status allocate(int device, Address *at, size_t bytes);
Status release(Address at);
Status allocate_pinned(void **at, size_t bytes);
Status release_pinned(void *at);
Status pin(void *at, size_t bytes);
Status unpin(void *at);

// The device in one of whose allocations these bytes lie; -1 if they lie in none that is alive.
int device_of(Address at, size_t bytes);
bool is_pinned(const void *at, size_t bytes);
// Where bytes around an allocation were written; nothing if nowhere.
std::string damage();
size_t allocated_bytes(int device);
size_t memory_bytes();
// Says what is allocated still, where there is anything; or writes it to the file that CUDA_EMULATOR_REPORT names.
void report();
} // namespace emulator
