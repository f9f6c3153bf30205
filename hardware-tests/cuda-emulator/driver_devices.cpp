// Devices and their contexts. There are as many as CUDA_EMULATOR_DEVICES says (one), each with a context and with memory of its own.

#include "driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

using namespace emulator;

namespace {
bool is_started = false;
// A context's handle is the address of its device's place here.
char contexts[MOST_DEVICES];

// Says at the end of the process what was not freed. What is ordered still is done first, frees among it.
struct AtEnd {
    ~AtEnd()
    {
        if (!is_started || !Alone::mutex().try_lock())
            return;
        for (int device = 0; device < MOST_DEVICES; device++)
            finish_all(device);
        report();
    }
} at_end;

int number_from(const char *variable, int otherwise, int least, int most)
{
    const char *named = std::getenv(variable);
    int number = named ? std::atoi(named) : otherwise;
    return number < least ? least : number > most ? most : number;
}

int device_count() { return number_from("CUDA_EMULATOR_DEVICES", 1, 0, MOST_DEVICES); }

int device_of_context(void *context)
{
    auto at = reinterpret_cast<uintptr_t>(context), first = reinterpret_cast<uintptr_t>(contexts);
    return at >= first && at < first + MOST_DEVICES ? static_cast<int>(at - first) : -1;
}

bool is_one(int device) { return device >= 0 && device < device_count(); }
} // namespace

int emulator::capability() { return number_from("CUDA_EMULATOR_CAPABILITY", 90, 50, 999); }

API cuInit(unsigned flags)
{
    Alone alone;
    if (device_count() == 0)
        return 100; // No device.
    is_started = true;
    return flags ? INVALID_VALUE : SUCCESS;
}
API cuDriverGetVersion(int *version) { return *version = number_from("CUDA_EMULATOR_VERSION", 13000, 1000, 99999), SUCCESS; }
API cuDeviceGetCount(int *count) { return *count = device_count(), is_started ? SUCCESS : NOT_INITIALIZED; }
API cuDeviceGet(int *device, int number) { return *device = number, !is_started ? NOT_INITIALIZED : is_one(number) ? SUCCESS : INVALID_DEVICE; }
API cuDeviceGetName(char *name, int length, int device)
{
    return std::snprintf(name, length, "CUDA emulator (emulated)"), is_one(device) ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = memory_bytes(), is_one(device) ? SUCCESS : INVALID_DEVICE; }
API cuDeviceGetUuid_v2(char *uuid, int device) { return std::memset(uuid, 0xe0 + device, 16), is_one(device) ? SUCCESS : INVALID_DEVICE; }
API cuDeviceGetUuid(char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
API cuDeviceGetPCIBusId(char *text, int length, int device)
{
    return std::snprintf(text, length, "0000:%02x:00.0", device), is_one(device) ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetAttribute(int *value, int which, int device)
{
    switch (which) {
    case 1: *value = MOST_THREADS; break; // threads a block, and in each direction
    case 2: *value = 1024; break;
    case 3: *value = 1024; break;
    case 4: *value = 64; break;
    case 5: *value = 0x7fffffff; break; // blocks of a grid, in each direction
    case 6: *value = 65535; break;
    case 7: *value = 65535; break;
    case 8: *value = FREE_SHARED_BYTES; break; // shared memory a block
    case 10: *value = 32; break;               // lanes of a warp
    case 12: *value = 65536; break;            // registers a block
    case 13: *value = 1000000; break;          // kHz
    case 16: *value = 2; break;                // multiprocessors
    case 31: *value = 1; break;                // kernels at the same time
    case 36: *value = 1000000; break;          // kHz of the memory
    case 37: *value = 256; break;              // bits of its bus
    case 38: *value = 4 << 20; break;          // L2 cache
    case 39: *value = 2048; break;             // threads a multiprocessor
    case 40: *value = 2; break;                // copies at the same time
    case 41: *value = 1; break;                // one address space
    case 75: *value = capability() / 10; break; // compute capability
    case 76: *value = capability() % 10; break;
    case 81: *value = 228 << 10; break;          // shared memory a multiprocessor
    case 82: *value = 65536; break;              // registers a multiprocessor
    case 97: *value = MOST_SHARED_BYTES; break;  // shared memory a block, for who asks
    case 106: *value = 32; break;                // blocks a multiprocessor
    case 111: *value = 1024; break;              // shared memory that a block costs besides
    case 115: *value = 1; break;                 // memory pools
    default: *value = 0;
    }
    return is_one(device) ? SUCCESS : INVALID_DEVICE;
}

API cuDevicePrimaryCtxRetain(void **context, int device)
{
    if (!is_one(device))
        return INVALID_DEVICE;
    return *context = &contexts[device], SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void *context)
{
    int device = device_of_context(context);
    if (context && device < 0)
        return INVALID_CONTEXT;
    return set_current_device(device), SUCCESS;
}
API cuCtxGetCurrent(void **context) { return *context = current_device() < 0 ? nullptr : &contexts[current_device()], SUCCESS; }
API cuCtxGetDevice(int *device) { return *device = current_device(), current_device() < 0 ? INVALID_CONTEXT : SUCCESS; }
API cuCtxSetFlags(unsigned) { return lost(current_device()); }
API cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, lost(current_device()); }
API cuCtxSynchronize()
{
    Alone alone;
    if (Status status = forbid_in_capture("cuCtxSynchronize"))
        return status;
    return current_device() < 0 ? INVALID_CONTEXT : finish_all(current_device());
}

API cuGetErrorName(int code, const char **name)
{
    switch (code) {
    case SUCCESS: *name = "CUDA_SUCCESS"; break;
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; break;
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case INVALID_SOURCE: *name = "CUDA_ERROR_INVALID_SOURCE"; break;
    case INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case NOT_READY: *name = "CUDA_ERROR_NOT_READY"; break;
    case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case LAUNCH_OUT_OF_RESOURCES: *name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"; break;
    case HOST_MEMORY_ALREADY_REGISTERED: *name = "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"; break;
    case HOST_MEMORY_NOT_REGISTERED: *name = "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"; break;
    case ASSERT_FAILED: *name = "CUDA_ERROR_ASSERT"; break;
    case MISALIGNED_ADDRESS: *name = "CUDA_ERROR_MISALIGNED_ADDRESS"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    case CAPTURE_UNSUPPORTED: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
    case CAPTURE_INVALIDATED: *name = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
    }
    return SUCCESS;
}
API cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }
