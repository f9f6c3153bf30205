// Copies of tiles, their barriers, and products of warpgroups (words/hopper.h), as far as they concern a whole block.
#pragma once

#include "words/kernel.h"

#include <string>

namespace emulator {
extern const HopperRuntime hopper_runtime;

// Before a block's threads run.
void begin_hopper(int threads);
// No thread can go on: does something that was late, if there is anything.
bool advance_hopper();
// What the block leaves undone at its end; nothing if nothing.
std::string undone_by_hopper();
// The barriers that are waited for, when nobody can go on any more.
std::string waits_of_hopper();
} // namespace emulator
