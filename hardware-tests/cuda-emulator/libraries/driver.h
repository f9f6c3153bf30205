// What libraries use of the emulated driver: their work is work of its streams.
#pragma once

#include <cstddef>

extern "C" {
int cuCtxGetDevice(int *device);
int cuLaunchHostFunc(void *stream, void (*function)(void *), void *of);
int cuStreamIsCapturing(void *stream, int *status);
int cuda_emulator_device_of(unsigned long long at, size_t bytes);
int cuda_emulator_lose(int device, const char *why);
}
