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

// Products (wgmma.cpp), and what they have in common with copies (hopper.cpp).
void begin_products(int threads);
std::string undone_products();
void fence_products();
void multiply(WgmmaKind kind, bool right_rows, void *d, int sums, unsigned long long a, unsigned long long b, bool is_more);
void commit_products();
void wait_for_products(int but_newest);
// Before anything else: most blocks have nothing of all this, and devices of other generations never.
void use_hopper();
// Where what is swizzled by that many bytes lies.
size_t swizzled(size_t at, int span_bytes);
// Shared memory as copies and products see it, from the same address on as threads do.
const unsigned char *seen_by_copies();
} // namespace emulator
