// One block of a kernel's grid, run thread by thread.
#pragma once

#include "language.h"

#include <functional>
#include <string>

namespace emulator {
// Runs a kernel's body for every thread of the block whose index and size are set. Returns what went wrong, or nothing.
std::string run_block(const std::function<void()> &body);
} // namespace emulator
