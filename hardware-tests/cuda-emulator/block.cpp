// Threads of a block take turns. The scheduler lets each run until it waits for others, at a barrier or in a shuffle, and lets those go on
// whose wait is over. In which order threads run is not defined on a GPU, so it is not here: CUDA_EMULATOR_ORDER says `forward`, `reverse`,
// or `ahead` (a warp runs as far as it can before the next one starts), and a kernel must give the same in all of them. A missing barrier
// shows in at least one. Blocks come in another order with each of them, too, one after the other.
//
// A fiber runs thread after thread, and only when one waits does it stay with it: another one goes on with the rest. So a kernel that never
// waits is a plain loop, whatever its text has in it, and one that does has a fiber for each thread that waits.
//
// A barrier that some threads of the block never reach, and a shuffle whose mask names lanes that are not there, are undefined on
// a GPU and mostly hang it. Here they are errors that say who waits where.

#include "block.h"

#include "faults.h"
#include "fiber.h"
#include "hopper.h"
#include "stream.h"
#include "threads.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace emulator {
namespace {
enum class State { Unstarted, Ready, AtBarrier, InExchange, Watching, Late, Done };

struct Copy {
    unsigned char *to;
    const void *from;
    int bytes;
    bool is_there;
};

struct Thread {
    State state;
    Fiber *fiber;
    // What it watches for.
    bool (*holds)(const void *about);
    const void *about;
    // Asynchronous copies that are ordered and not done, and how many of them each group ends behind.
    std::vector<Copy> copies;
    std::vector<size_t> groups;
};

// Lanes of a warp that wait for each other.
struct Exchange {
    unsigned mask, here;
    Take take;
    void *own[WARP_LANES];
};

enum class Order { Forward, Reverse, Ahead };

constexpr size_t MOST_SHARED = 227 << 10, RED_ZONE = 1024;
// No number in any float type, at whatever address it is read from.
constexpr unsigned char RED[2] = {0xff, 0x7f};

std::vector<Thread> threads;
std::vector<std::vector<Exchange>> exchanges;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber *> idle;
std::vector<uint3> indices;
uint3 indices_of;
alignas(1024) unsigned char shared_memory[MOST_SHARED + 2 * RED_ZONE];

const Entry *kernel;
void *const *arguments;
Here *here;
int device;
size_t dynamic_bytes;
bool is_early_copy;
Order how;
Outcome failure;

Fiber *running;
int current, count, done, at_barrier, said, said_before;
// Threads that the running fiber starts one after the other: from here on, so many, this far apart.
int next_start, starts_left, start_step;

Order order_of_threads()
{
    const char *named = std::getenv("CUDA_EMULATOR_ORDER");
    std::string name = named ? named : "forward";
    return name == "reverse" ? Order::Reverse : name == "ahead" ? Order::Ahead : Order::Forward;
}

void enter(int number)
{
    current = number;
    here->thread_index = indices[number];
    here->lane = number % WARP_LANES;
}

void run_fiber()
{
    for (;;) {
        while (starts_left > 0) {
            int number = next_start;
            next_start += start_step;
            starts_left--;
            enter(number);
            kernel->run(arguments);
            // What it copied and never waited for is never done.
            threads[current].state = State::Done;
            done++;
        }
        idle.push_back(running);
        running->suspend();
    }
}

// Hands over to the scheduler; comes back when the wait is over.
void wait(State state)
{
    threads[current].state = state;
    threads[current].fiber = running;
    running->suspend();
}

} // namespace

int own_thread() { return current; }

void fail(const std::string &why, Status status)
{
    uint3 at = here->thread_index;
    failure = {status, "thread " + std::to_string(at.x) + " " + std::to_string(at.y) + " " + std::to_string(at.z) + ": " + why};
    running->suspend();
    std::abort();
}

void wait_until(bool (*holds)(const void *about), const void *about)
{
    if (holds(about))
        return;
    threads[current].holds = holds, threads[current].about = about;
    wait(State::Watching);
}
void wait_for_all_others() { wait(State::Late); }

SharedMemory shared_memory_of_block() { return {shared_memory, here->dynamic_shared, dynamic_bytes}; }
int device_of_block() { return device; }
bool is_early_block() { return is_early_copy; }
bool are_products_first() { return how != Order::Reverse; }

void meet(unsigned mask, Take take, void *own)
{
    int lane = current % WARP_LANES, first = current - lane;
    if (!(mask >> lane & 1))
        fail("its mask of lanes, " + std::to_string(mask) + ", is without itself, lane " + std::to_string(lane));
    auto &waiting = exchanges[current / WARP_LANES];
    auto found = std::find_if(waiting.begin(), waiting.end(), [=](const Exchange &e) { return e.mask == mask; });
    if (found == waiting.end())
        found = waiting.insert(found, Exchange{mask, 0, take, {}});
    if (found->take != take)
        fail("lanes of its warp wait in one kind of exchange (a shuffle, a vote, a product), and it comes with another one");
    found->here |= 1u << lane;
    found->own[lane] = own;
    threads[current].state = State::InExchange;
    if (found->here == mask) {
        Exchange all = *found;
        waiting.erase(found);
        for (int i = 0; i < WARP_LANES; i++)
            if (mask >> i & 1) {
                take(i, all.own[i], all.own);
                threads[first + i].state = State::Ready;
            }
    }
    wait(threads[current].state);
}

namespace {
void fail_with(const char *why, int status) { fail(why, static_cast<Status>(status)); }
void fault(const char *what, void *address)
{
    char at[32];
    std::snprintf(at, sizeof at, ", %p", address);
    fail(std::string(what) + at, ILLEGAL_ADDRESS);
}

int barrier(int says)
{
    at_barrier++;
    said += says;
    wait(State::AtBarrier);
    return said_before;
}

void fulfil(const Copy &copy)
{
    if (copy.is_there)
        std::memcpy(copy.to, copy.from, copy.bytes);
    else
        std::memset(copy.to, 0, copy.bytes);
}

void copy_async(void *shared, const void *global, int bytes, bool is_there)
{
    auto *to = static_cast<unsigned char *>(shared);
    auto from = reinterpret_cast<Address>(global);
    if (reinterpret_cast<Address>(shared) % bytes != 0 || (is_there && from % bytes != 0))
        fail("an asynchronous copy of " + std::to_string(bytes) + " bytes from or to what is no multiple of that", MISALIGNED_ADDRESS);
    if (is_there && device_of(from, bytes) != device)
        fail("an asynchronous copy of what is no memory of this device", ILLEGAL_ADDRESS);
    bool is_dynamic = to >= shared_memory && to < shared_memory + sizeof shared_memory;
    if (!is_dynamic && device_of(reinterpret_cast<Address>(shared), 1) >= 0)
        fail("an asynchronous copy to what is no shared memory", ILLEGAL_ADDRESS);
    Copy copy{to, global, bytes, is_there};
    if (is_early_copy)
        return fulfil(copy);
    std::memset(to, 0xff, bytes);
    threads[current].copies.push_back(copy);
}

void commit_copies() { threads[current].groups.push_back(threads[current].copies.size()); }

void wait_for_copies(int but_newest)
{
    auto &copies = threads[current].copies;
    auto &groups = threads[current].groups;
    if (groups.size() <= static_cast<size_t>(but_newest))
        return;
    size_t over = groups.size() - but_newest, until = groups[over - 1];
    for (size_t i = 0; i < until; i++)
        fulfil(copies[i]);
    copies.erase(copies.begin(), copies.begin() + until);
    groups.erase(groups.begin(), groups.begin() + over);
    for (size_t &end : groups)
        end -= until;
}

const Runtime runtime{barrier, meet, copy_async, commit_copies, wait_for_copies, capability, fail_with, &hopper_runtime};

std::string numbers(State state)
{
    std::string text;
    int shown = 0;
    for (int i = 0; i < count && shown < 8; i++)
        if (threads[i].state == state)
            text += (shown++ ? ", " : "") + std::to_string(i);
    return shown ? text : "none";
}

// Lets threads of a warp run that can, in their order. Whether any did.
bool run_warp(int warp)
{
    const int first = warp * WARP_LANES, lanes = std::min(WARP_LANES, count - first);
    const int step = how == Order::Reverse ? -1 : 1;
    bool ran = false;
    for (int k = 0, number = step > 0 ? first : first + lanes - 1; k < lanes; k++, number += step) {
        Thread &thread = threads[number];
        if (thread.state == State::Unstarted) {
            next_start = number, starts_left = lanes - k, start_step = step;
            if (idle.empty()) {
                fibers.push_back(std::make_unique<Fiber>(run_fiber));
                idle.push_back(fibers.back().get());
            }
            running = idle.back();
            idle.pop_back();
        } else if (thread.state == State::Ready || (thread.state == State::Watching && thread.holds(thread.about))) {
            running = thread.fiber;
            enter(number);
        } else
            continue;
        running->resume();
        ran = true;
        if (failure.status)
            return true;
    }
    return ran;
}

// No thread can go on: those that wait for that do, or something that goes on by itself. Whether there is either.
bool advance()
{
    if (!are_products_first() && advance_hopper())
        return true;
    bool is_late = false;
    for (int i = 0; i < count; i++)
        if (threads[i].state == State::Late) {
            threads[i].state = State::Ready;
            is_late = true;
        }
    return is_late || advance_hopper();
}

Outcome run_block()
{
    begin_hopper(count);
    for (int i = 0; i < count; i++) {
        threads[i].state = State::Unstarted;
        threads[i].copies.clear();
        threads[i].groups.clear();
    }
    const int warps = (count + WARP_LANES - 1) / WARP_LANES;
    done = at_barrier = said = 0;
    for (;;) {
        bool ran = false;
        for (int i = 0; i < warps; i++) {
            int warp = how == Order::Reverse ? warps - 1 - i : i;
            while (run_warp(warp)) {
                ran = true;
                if (failure.status)
                    return failure;
                if (how != Order::Ahead)
                    break;
            }
        }
        if (done == count) {
            if (std::string undone = undone_by_hopper(); !undone.empty())
                return {LAUNCH_FAILED, undone};
            return {};
        }
        if (at_barrier > 0 && at_barrier + done == count) {
            if (done > 0)
                return {LAUNCH_FAILED, std::to_string(at_barrier) + " of " + std::to_string(count) + " threads are at a barrier (" +
                                           numbers(State::AtBarrier) + ", …) and the others have ended"};
            for (int i = 0; i < count; i++)
                threads[i].state = State::Ready;
            said_before = said;
            at_barrier = said = 0;
        } else if (!ran && !advance()) {
            std::string watching = numbers(State::Watching) == "none" ? "" : "; for a barrier of copies " + numbers(State::Watching) + " (" + waits_of_hopper() + ")";
            return {LAUNCH_FAILED, "its threads wait for each other: at a barrier " + numbers(State::AtBarrier) + "; in an exchange of a warp " +
                                       numbers(State::InExchange) + watching + "; ended " + numbers(State::Done)};
        }
    }
}

void fill_red(unsigned char *at)
{
    for (size_t i = 0; i < RED_ZONE; i++)
        at[i] = RED[i % 2];
}

// Where the zone was written; its size for nowhere.
size_t first_written(const unsigned char *at)
{
    size_t i = 0;
    while (i < RED_ZONE && at[i] == RED[i % 2])
        i++;
    return i;
}

void prepare(const Grid &grid)
{
    const uint3 size = grid.threads;
    count = static_cast<int>(size.x * size.y * size.z);
    if (threads.size() < static_cast<size_t>(count))
        threads.resize(count);
    exchanges.resize(std::max<size_t>(exchanges.size(), (count + WARP_LANES - 1) / WARP_LANES));
    if (std::memcmp(&indices_of, &size, sizeof size) != 0) {
        indices.clear();
        for (unsigned n = 0; n < static_cast<unsigned>(count); n++)
            indices.push_back({n % size.x, n / size.x % size.y, n / (size.x * size.y)});
        indices_of = size;
    }
    how = order_of_threads();
    is_early_copy = is_early();
    device = grid.device;
    here->grid_size = grid.blocks;
    here->block_size = size;
    here->dynamic_shared = shared_memory + RED_ZONE;
    here->runtime = &runtime;
    dynamic_bytes = grid.shared_bytes;
    fill_red(shared_memory);
    fill_red(here->dynamic_shared + grid.shared_bytes);
}

// The number of the block that comes in its turn: the first one first, the last one, or every other one before the rest.
uint64_t block_at(uint64_t turn, uint64_t blocks)
{
    const uint64_t even = (blocks + 1) / 2;
    switch (how) {
    case Order::Reverse:
        return blocks - 1 - turn;
    case Order::Ahead:
        return turn < even ? 2 * turn : 2 * (turn - even) + 1;
    default:
        return turn;
    }
}

// What an error leaves behind: fibers in the middle of something.
void clear()
{
    idle.clear();
    for (auto &fiber : fibers) {
        fiber->restart();
        idle.push_back(fiber.get());
    }
    for (auto &waiting : exchanges)
        waiting.clear();
    failure = {};
    starts_left = 0;
}
} // namespace

Outcome run_grid(const Entry &entry, Here &of_library, void *const *given, const Grid &grid)
{
    kernel = &entry, here = &of_library, arguments = given;
    prepare(grid);
    Faults caught(fault);
    const unsigned char *behind = here->dynamic_shared + grid.shared_bytes;
    const uint3 size = grid.blocks;
    const uint64_t blocks = uint64_t(size.x) * size.y * size.z;
    for (uint64_t turn = 0; turn < blocks; turn++) {
        const uint64_t number = block_at(turn, blocks);
        const unsigned x = number % size.x, y = number / size.x % size.y, z = number / (uint64_t(size.x) * size.y);
        here->block_index = {x, y, z};
        std::memset(here->dynamic_shared, 0xff, grid.shared_bytes);
        Outcome outcome = run_block();
        // What was written beside it comes first: it may be why the rest went wrong.
        if (first_written(behind) < RED_ZONE)
            outcome = {ILLEGAL_ADDRESS, "byte " + std::to_string(first_written(behind)) + " behind its " +
                                            std::to_string(grid.shared_bytes) + " bytes of dynamic shared memory was written"};
        else if (first_written(shared_memory) < RED_ZONE)
            outcome = {ILLEGAL_ADDRESS, "memory before its dynamic shared memory was written"};
        if (outcome.status) {
            clear();
            outcome.why = "block " + std::to_string(x) + " " + std::to_string(y) + " " + std::to_string(z) + ": " + outcome.why;
            return outcome;
        }
    }
    return {};
}
} // namespace emulator
