// A fiber: a stack of its own, and a switch to it that is no system call.
#pragma once

#include <cstddef>

namespace emulator {
class Fiber {
  public:
    // Runs `main` once it is resumed; `main` never returns.
    explicit Fiber(void (*main)());
    ~Fiber();
    Fiber(const Fiber &) = delete;
    // Goes on with the fiber, until it suspends itself.
    void resume();
    // Called inside of it: back to whoever resumed it.
    void suspend();
    // Forgets where it was: the next resume begins `main` anew.
    void restart();

  private:
    struct State;
    State *state;
};
} // namespace emulator
