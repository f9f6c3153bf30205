// What emulated libraries (libraries/) ask of the driver that no real one answers: they compute on the host, and must be as strict as kernels are.

#include "driver.h"

using namespace emulator;

// The device in one of whose allocations these bytes lie; -1 if they lie in none that is alive.
API cuda_emulator_device_of(Address at, size_t bytes)
{
    Alone alone;
    return device_of(at, bytes);
}

// Ends a device's context with an illegal address, as a kernel does that reads where no memory is.
API cuda_emulator_lose(int device, const char *why)
{
    Alone alone;
    return lose(device, ILLEGAL_ADDRESS, why);
}
