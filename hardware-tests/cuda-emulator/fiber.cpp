// A switch saves the registers that a called function must keep, on the stack that it leaves, and takes those of the other one. That is a
// dozen instructions on x86-64 and on aarch64; elsewhere the C library does it, with a system call each time.
//
// Stacks are reserved, not filled: a kernel touches a few pages of its. Below each lies a page that nobody may touch.

#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace emulator {
namespace {
constexpr size_t STACK_BYTES = 256 << 10;

char *new_stack()
{
    size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void *at = mmap(nullptr, STACK_BYTES + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at, guard, PROT_NONE) != 0) {
        std::perror("CUDA emulator: no memory for the stack of a thread of a block");
        std::abort();
    }
    return static_cast<char *>(at) + guard;
}

void drop_stack(char *stack)
{
    size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    munmap(stack - guard, STACK_BYTES + guard);
}
} // namespace

#if defined(__x86_64__) || defined(__aarch64__)

// Saves where this stack is at `*from`, and goes on where `to` was saved.
extern "C" void emulator_switch(void **from, void *to) __attribute__((visibility("hidden")));

#if defined(__x86_64__)
// Words on the stack; the last one stands where a caller would have left its return address, which is what a function expects.
constexpr size_t FRAME = 8, RETURN_TO = 6;
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");
#else
constexpr size_t FRAME = 20, RETURN_TO = 11;
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, %function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch, . - emulator_switch
)");
#endif

struct Fiber::State {
    char *stack = new_stack();
    void (*main)();
    void *inside = nullptr, *outside = nullptr;
    // Stacks that all began at the same place of a page would share few places of the cache.
    size_t offset = made++ % 64 * 192;
    static size_t made;
};
size_t Fiber::State::made = 0;

void Fiber::restart()
{
    // As if it had been left just before its first instruction.
    auto *saved = reinterpret_cast<uintptr_t *>(state->stack + STACK_BYTES - state->offset) - FRAME;
    for (size_t i = 0; i < FRAME; i++)
        saved[i] = 0;
    saved[RETURN_TO] = reinterpret_cast<uintptr_t>(state->main);
    state->inside = saved;
}

void Fiber::resume() { emulator_switch(&state->outside, state->inside); }
void Fiber::suspend() { emulator_switch(&state->inside, state->outside); }

#else

struct Fiber::State {
    char *stack = new_stack();
    void (*main)();
    ucontext_t inside, outside;
};

void Fiber::restart()
{
    getcontext(&state->inside);
    state->inside.uc_stack.ss_sp = state->stack;
    state->inside.uc_stack.ss_size = STACK_BYTES;
    state->inside.uc_link = nullptr;
    makecontext(&state->inside, state->main, 0);
}

void Fiber::resume() { swapcontext(&state->outside, &state->inside); }
void Fiber::suspend() { swapcontext(&state->inside, &state->outside); }

#endif

Fiber::Fiber(void (*main)()) : state(new State)
{
    state->main = main;
    restart();
}

Fiber::~Fiber()
{
    drop_stack(state->stack);
    delete state;
}
} // namespace emulator
