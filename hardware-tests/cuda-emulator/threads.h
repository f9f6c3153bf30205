// What operations of many threads, and those that go on by themselves, ask of the scheduler (block.cpp).
#pragma once

#include "memory.h"
#include "words/kernel.h"

#include <string>

namespace emulator {
// The number within its block of the thread that runs.
int own_thread();
// Ends the kernel, with the thread's name.
[[noreturn]] void fail(const std::string &why, Status status = LAUNCH_FAILED);
// Lanes of the warp come together (words/kernel.h).
void meet(unsigned mask, Take take, void *own);
// Waits until that holds.
void wait_until(bool (*holds)(const void *about), const void *about);
// Waits until no other thread can go on.
void wait_for_all_others();

// The block's shared memory: it begins with what its kernel must not touch, as addresses of a GPU's do.
struct SharedMemory {
    unsigned char *begin, *dynamic;
    size_t dynamic_bytes;
};
SharedMemory shared_memory_of_block();
int device_of_block();
// What goes on by itself is done at once (CUDA_EMULATOR_TIME=early), and else as late as it may be.
bool is_early_block();
// Of what may be late, products come before copies; else the other way round: each finds what relies on the other.
bool are_products_first();
} // namespace emulator
