// Faults of the processor while a kernel runs: accesses to where there is no memory.
#pragma once

namespace emulator {
// While one of these is there, a fault of this OS thread calls `found` with what it is, on the stack that it came on; that must not return.
class Faults {
  public:
    explicit Faults(void (*found)(const char *what, void *address));
    ~Faults();
    Faults(const Faults &) = delete;
};
} // namespace emulator
