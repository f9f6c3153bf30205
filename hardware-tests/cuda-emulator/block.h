// The blocks of a kernel's grid, run thread by thread.
#pragma once

#include "memory.h"
#include "words/kernel.h"

#include <string>

namespace emulator {
struct Grid {
    uint3 blocks, threads;
    unsigned shared_bytes;
    int device;
};

// What went wrong, and where.
struct Outcome {
    Status status = SUCCESS;
    std::string why;
};

Outcome run_grid(const Entry &kernel, Here &here, void *const *arguments, const Grid &grid);
} // namespace emulator
