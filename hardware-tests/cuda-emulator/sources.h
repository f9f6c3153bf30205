// What must be found in a text before it is compiled.
#pragma once

#include <string>

namespace emulator {
// The lines that enter the kernels of a text into its library's table.
std::string registrations(const std::string &text);
} // namespace emulator
