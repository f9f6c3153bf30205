// The blocks of a kernel's grid, run thread by thread.
#pragma once

#include "words/kernel.h"

#include <string>

namespace emulator {
struct Grid {
    uint3 blocks, threads;
    unsigned shared_bytes;
    int device;
};

// Runs a kernel. Returns what went wrong, and where; nothing if nothing did.
std::string run_grid(const Entry &kernel, Here &here, void *const *arguments, const Grid &grid);
} // namespace emulator
