// Threads as fibers. The scheduler lets each run until it waits for others, at a barrier or in a shuffle, and lets those go on whose
// wait is over. In which order threads run is not defined on a GPU, so it is not here: CUDA_EMULATOR_ORDER says `forward`, `reverse`, or
// `ahead` (a warp runs as far as it can before the next one starts), and a kernel must give the same in all of them. A missing
// barrier shows in at least one.
//
// A barrier that some threads of the block never reach, and a shuffle whose mask names lanes that are not there, are undefined on
// a GPU and mostly hang it. Here they are errors that say who waits where.

#include "block.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace emulator {
thread_local uint3 thread_index, block_index, block_size, grid_size;

namespace {
enum class State { Ready, AtBarrier, InShuffle, Done };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    uint3 index;
    State state;
    unsigned mask;
    // What a lane gives alternates between two places: a lane may be at the next shuffle before another has read this one.
    uint64_t given[2];
    int turn;
};

constexpr size_t STACK_BYTES = 128 << 10;
constexpr int WARP = 32;

thread_local std::vector<Fiber> fibers;
thread_local ucontext_t scheduler;
thread_local int current, threads;
thread_local const std::function<void()> *kernel;

enum class Order { Forward, Reverse, Ahead };

Order order()
{
    const char *named = std::getenv("CUDA_EMULATOR_ORDER");
    std::string name = named ? named : "forward";
    return name == "reverse" ? Order::Reverse : name == "ahead" ? Order::Ahead : Order::Forward;
}

void start()
{
    (*kernel)();
    fibers[current].state = State::Done;
    swapcontext(&fibers[current].context, &scheduler);
}

// Hands over to the scheduler; comes back when the wait is over.
void wait(State state)
{
    int self = current;
    fibers[self].state = state;
    swapcontext(&fibers[self].context, &scheduler);
}

void prepare(int number)
{
    Fiber &fiber = fibers[number];
    if (fiber.stack.empty())
        fiber.stack.resize(STACK_BYTES);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
    unsigned n = static_cast<unsigned>(number);
    fiber.index = {n % block_size.x, n / block_size.x % block_size.y, n / (block_size.x * block_size.y)};
    fiber.state = State::Ready;
    fiber.turn = 0;
}

bool run(int number)
{
    if (fibers[number].state != State::Ready)
        return false;
    current = number;
    thread_index = fibers[number].index;
    swapcontext(&scheduler, &fibers[number].context);
    return true;
}

// Lets the lanes of a warp go on whose shuffle is complete: every lane of their mask is there, and names the same lanes.
bool release_shuffles(int warp)
{
    bool any = false;
    int first = warp * WARP, last = std::min(first + WARP, threads);
    for (int i = first; i < last; i++) {
        if (fibers[i].state != State::InShuffle)
            continue;
        unsigned here = 0;
        for (int j = first; j < last; j++)
            if (fibers[j].state == State::InShuffle && fibers[j].mask == fibers[i].mask && fibers[j].turn == fibers[i].turn)
                here |= 1u << (j - first);
        if ((here & fibers[i].mask) != fibers[i].mask)
            continue;
        for (int j = first; j < last; j++)
            if (here >> (j - first) & fibers[i].mask & 1)
                fibers[j].state = State::Ready;
        any = true;
    }
    return any;
}

int count(State state)
{
    int found = 0;
    for (int i = 0; i < threads; i++)
        found += fibers[i].state == state;
    return found;
}

std::string numbers(State state)
{
    std::string text;
    int shown = 0;
    for (int i = 0; i < threads && shown < 8; i++)
        if (fibers[i].state == state)
            text += (shown++ ? ", " : "") + std::to_string(i);
    return text;
}
} // namespace

int lane() { return current % WARP; }

void barrier()
{
    wait(State::AtBarrier);
    thread_index = fibers[current].index;
}

uint64_t exchange(unsigned mask, uint64_t value, int from_lane)
{
    int self = current, first = self / WARP * WARP, turn = fibers[self].turn;
    fibers[self].given[turn] = value;
    fibers[self].mask = mask;
    wait(State::InShuffle);
    fibers[self].turn ^= 1;
    thread_index = fibers[self].index;
    // A lane outside of the mask gives nothing that is defined: what is read is its poison.
    int from = first + from_lane;
    bool is_there = from_lane >= 0 && from_lane < WARP && from < threads && (mask >> from_lane & 1);
    return is_there ? fibers[from].given[turn] : ~uint64_t{0};
}

std::string run_block(const std::function<void()> &body)
{
    threads = static_cast<int>(block_size.x * block_size.y * block_size.z);
    if (fibers.size() < static_cast<size_t>(threads))
        fibers.resize(threads);
    kernel = &body;
    for (int i = 0; i < threads; i++)
        prepare(i);
    const Order how = order();
    const int warps = (threads + WARP - 1) / WARP;
    for (;;) {
        bool ran = false;
        for (int step = 0; step < warps; step++) {
            int warp = how == Order::Reverse ? warps - 1 - step : step;
            do {
                for (int k = 0; k < WARP; k++) {
                    int number = warp * WARP + (how == Order::Reverse ? WARP - 1 - k : k);
                    if (number < threads)
                        ran |= run(number);
                }
            } while (how == Order::Ahead && release_shuffles(warp));
        }
        int done = count(State::Done), waiting = count(State::AtBarrier);
        if (done == threads)
            return "";
        bool released = false;
        for (int warp = 0; warp < warps; warp++)
            released |= release_shuffles(warp);
        if (waiting > 0 && waiting + done == threads) {
            if (done > 0)
                return std::to_string(waiting) + " of " + std::to_string(threads) + " threads are at a barrier (" + numbers(State::AtBarrier) +
                       ", …) and the others have ended";
            for (int i = 0; i < threads; i++)
                fibers[i].state = State::Ready;
            released = true;
        }
        if (!ran && !released)
            return "its threads wait for each other: at a barrier " + numbers(State::AtBarrier) + "; in a shuffle " + numbers(State::InShuffle);
    }
}
} // namespace emulator
