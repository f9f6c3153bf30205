// What copies tiles by itself within a block on Hopper, as late as it may be, and the barriers that such copies arrive at.
//
// Copies and products (wgmma.cpp) see shared memory as the asynchronous proxy does: through a second copy of it, which copies write, and which gets what
// threads have written only when one of them says so (`shared_written`).
//
// Who waits for a barrier is woken when its phase is over. Copies that are late are done one by one when no thread can go on, the oldest first.

#include "hopper.h"

#include "stream.h"
#include "tensor_map.h"
#include "threads.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <vector>

namespace emulator {
namespace {
constexpr int SHARED_BYTES = 256 << 10, MOST_BYTES = (1 << 20) - 1;

struct Barrier {
    int arrivals, pending, bytes;
    unsigned phase;
    // Copies know of it.
    bool is_begun;
};

struct TileCopy {
    TensorMap map;
    unsigned char *to;
    void *barrier;
    int at[5];
    int offsets[3];
};

std::map<void *, Barrier> barriers;
std::deque<TileCopy> copies;
// How many registers each thread has said that it has.
std::vector<int> registers_of;
int threads_of_block;
bool is_used;
// Shared memory as copies and products see it.
alignas(1024) unsigned char seen[SHARED_BYTES];
} // namespace

void use_hopper()
{
    if (is_used)
        return;
    if (capability() != 90)
        fail("it does what compute capability 9.0 alone has, on a device of another one");
    is_used = true;
    barriers.clear();
    copies.clear();
    registers_of.assign(threads_of_block, 0);
    begin_products(threads_of_block);
    std::memset(seen, 0xff, sizeof seen);
}

namespace {
unsigned place_of(const void *shared) { return static_cast<unsigned>(static_cast<const unsigned char *>(shared) - shared_memory_of_block().begin); }

// Whether these bytes lie in the block's dynamic shared memory.
bool is_shared(const void *at, size_t bytes)
{
    SharedMemory memory = shared_memory_of_block();
    auto *from = static_cast<const unsigned char *>(at);
    return from >= memory.dynamic && from + bytes <= memory.dynamic + memory.dynamic_bytes;
}

unsigned shared_address(const void *shared)
{
    if (!is_shared(shared, 0))
        fail("the address of what is no dynamic shared memory of its block", ILLEGAL_ADDRESS);
    return place_of(shared);
}

std::string name_of(const void *barrier) { return "the barrier at byte " + std::to_string(static_cast<const unsigned char *>(barrier) - shared_memory_of_block().dynamic); }

Barrier &barrier_at(void *barrier)
{
    use_hopper();
    auto found = barriers.find(barrier);
    if (found == barriers.end())
        fail(name_of(barrier) + " is none: nobody has begun it");
    return found->second;
}

void begin(void *barrier, int arrivals)
{
    use_hopper();
    if (!is_shared(barrier, 8) || reinterpret_cast<uintptr_t>(barrier) % 8 != 0)
        fail("a barrier of copies lies in no shared memory, or at no multiple of 8 bytes", MISALIGNED_ADDRESS);
    if (arrivals < 1 || arrivals > MOST_BYTES)
        fail(name_of(barrier) + " is to wait for " + std::to_string(arrivals) + " arrivals");
    if (barriers.count(barrier))
        fail(name_of(barrier) + " is begun a second time");
    barriers[barrier] = {arrivals, arrivals, 0, 0, false};
}

void begun()
{
    use_hopper();
    for (auto &[at, barrier] : barriers)
        barrier.is_begun = true;
}

void end_phase_if_over(Barrier &barrier)
{
    if (barrier.pending > 0 || barrier.bytes != 0)
        return;
    barrier.phase++;
    barrier.pending = barrier.arrivals;
}

void arrive(void *at, int bytes)
{
    Barrier &barrier = barrier_at(at);
    if (bytes < 0 || barrier.bytes + bytes > MOST_BYTES)
        fail(name_of(at) + " is to expect more bytes than a barrier counts");
    if (barrier.pending == 0)
        fail("one more arrives at " + name_of(at) + " than its " + std::to_string(barrier.arrivals));
    barrier.bytes += bytes;
    barrier.pending--;
    end_phase_if_over(barrier);
}

// A barrier and the phase that somebody waits for the end of.
struct Wait {
    const Barrier *barrier;
    unsigned parity;
};

void wait(void *at, unsigned parity)
{
    if (parity > 1)
        fail(name_of(at) + " is waited for by a parity of " + std::to_string(parity));
    Wait own{&barrier_at(at), parity};
    wait_until(
        [](const void *about) {
            auto *own = static_cast<const Wait *>(about);
            return (own->barrier->phase & 1) != own->parity;
        },
        &own);
}

void written()
{
    use_hopper();
    SharedMemory memory = shared_memory_of_block();
    std::memcpy(seen + place_of(memory.dynamic), memory.dynamic, memory.dynamic_bytes);
}

} // namespace

size_t swizzled(size_t at, int span_bytes)
{
    // By the bits of the address: those that say which row of 128 bytes.
    size_t rows = span_bytes == 128 ? 7 : span_bytes == 64 ? 3 : span_bytes == 32 ? 1 : 0;
    return at ^ ((at >> 7 & rows) << 4);
}
const unsigned char *seen_by_copies() { return seen; }

namespace {
float to_tf32(float x)
{
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7f800000) != 0x7f800000)
        bits += 0xfff + (bits >> 13 & 1);
    bits &= ~0x1fffu;
    std::memcpy(&x, &bits, 4);
    return x;
}

void put(const TileCopy &copy, size_t at, const unsigned char *from)
{
    const TensorMap &map = copy.map;
    size_t place = swizzled(place_of(copy.to) + at, map.swizzle_bytes);
    if (!from)
        std::memset(seen + place, 0, map.element_bytes);
    else if (map.is_tf32) {
        float value;
        std::memcpy(&value, from, 4);
        value = to_tf32(value);
        std::memcpy(seen + place, &value, 4);
    } else
        std::memcpy(seen + place, from, map.element_bytes);
    std::memcpy(shared_memory_of_block().begin + place, seen + place, map.element_bytes);
}

// The element at these places, one for each axis; null where the tensor is not.
const unsigned char *element(const TensorMap &map, const long long *at)
{
    long long bytes = at[0] * map.element_bytes;
    for (int axis = 0; axis < map.rank; axis++) {
        if (at[axis] < 0 || at[axis] >= static_cast<long long>(map.lengths[axis]))
            return nullptr;
        bytes += axis ? at[axis] * map.strides_16[axis - 1] * 16 : 0;
    }
    return reinterpret_cast<const unsigned char *>(map.address) + bytes;
}

size_t elements_of(const TensorMap &map)
{
    size_t count = map.is_im2col ? static_cast<size_t>(map.channels) * map.pixels : 1;
    for (int axis = 0; !map.is_im2col && axis < map.rank; axis++)
        count *= map.box[axis];
    return count;
}

void copy_box(const TileCopy &copy)
{
    const TensorMap &map = copy.map;
    long long in[5] = {}, at[5];
    for (size_t i = 0, all = elements_of(map); i < all; i++) {
        for (int axis = 0; axis < map.rank; axis++)
            at[axis] = copy.at[axis] + in[axis] * map.steps[axis];
        put(copy, i * map.element_bytes, element(map, at));
        for (int axis = 0; axis < map.rank && ++in[axis] == map.box[axis]; axis++)
            in[axis] = 0;
    }
}

// Pixel after pixel, as windows begin: within the corners, by the steps, from one image to the next; each as far from there as the offsets say.
void copy_windows(const TileCopy &copy)
{
    const TensorMap &map = copy.map;
    const int spatial = map.rank - 2;
    long long begin[5], at[5];
    std::copy(copy.at, copy.at + map.rank, begin);
    for (int pixel = 0; pixel < map.pixels; pixel++) {
        for (int axis = 0; axis < map.rank; axis++)
            at[axis] = begin[axis] + (axis >= 1 && axis <= spatial ? copy.offsets[axis - 1] : 0);
        for (int channel = 0; channel < map.channels; channel++) {
            at[0] = begin[0] + channel;
            put(copy, (static_cast<size_t>(pixel) * map.channels + channel) * map.element_bytes, element(map, at));
        }
        int axis = 1;
        for (; axis <= spatial; axis++) {
            begin[axis] += map.steps[axis];
            if (begin[axis] < static_cast<long long>(map.lengths[axis]) + map.upper[axis - 1])
                break;
            begin[axis] = map.lower[axis - 1];
        }
        if (axis > spatial)
            begin[spatial + 1]++;
    }
}

void fulfil(const TileCopy &copy)
{
    copy.map.is_im2col ? copy_windows(copy) : copy_box(copy);
    // It was there when the copy was ordered, and a block's barriers stay.
    Barrier &barrier = barriers[copy.barrier];
    barrier.bytes -= static_cast<int>(elements_of(copy.map) * copy.map.element_bytes);
    end_phase_if_over(barrier);
}

void copy(void *shared, const void *given, void *at_barrier, int rank, const int *at, const unsigned short *offsets)
{
    TileCopy copy{};
    std::memcpy(&copy.map, given, sizeof copy.map);
    const TensorMap &map = copy.map;
    if (reinterpret_cast<uintptr_t>(given) % 64 != 0)
        fail("a tensor map lies at no multiple of 64 bytes", MISALIGNED_ADDRESS);
    if (map.is_one != TENSOR_MAP)
        fail("a copy by what is no tensor map of the driver's", ILLEGAL_ADDRESS);
    if (map.rank != rank || map.is_im2col != (offsets != nullptr))
        fail("a copy of " + std::to_string(rank) + " axes" + (offsets ? " by im2col" : "") + ", and the tensor map has " + std::to_string(map.rank) +
             (map.is_im2col ? " by im2col" : ""));
    size_t extent = map.element_bytes * static_cast<size_t>(map.lengths[0]), bytes = elements_of(map) * map.element_bytes;
    for (int axis = 1; axis < map.rank; axis++)
        extent += (map.lengths[axis] - 1ull) * map.strides_16[axis - 1] * 16;
    if (device_of(map.address, extent) != device_of_block())
        fail("a copy of a tensor that does not lie in this device's memory", ILLEGAL_ADDRESS);
    if (!is_shared(shared, bytes))
        fail("a copy of " + std::to_string(bytes) + " bytes to what is not its block's dynamic shared memory", ILLEGAL_ADDRESS);
    // What a swizzle repeats after. Without one, 128 bytes.
    unsigned whole = std::max(128, map.swizzle_bytes * 8);
    if (place_of(shared) % whole != 0)
        fail("a copy to a place that is no multiple of " + std::to_string(whole) + " bytes", MISALIGNED_ADDRESS);
    if (!barrier_at(at_barrier).is_begun)
        fail("a copy arrives at " + name_of(at_barrier) + ", and nobody has let copies see it");
    copy.to = static_cast<unsigned char *>(shared), copy.barrier = at_barrier;
    std::copy(at, at + rank, copy.at);
    for (int axis = 0; offsets && axis < rank - 2; axis++)
        copy.offsets[axis] = offsets[axis];
    if (is_early_block())
        return fulfil(copy);
    std::memset(shared, 0xff, bytes);
    std::memset(seen + place_of(shared), 0xff, bytes);
    copies.push_back(copy);
}

void registers(int count)
{
    if (count % 8 != 0 || count < 24 || count > 256)
        fail("a thread is to have " + std::to_string(count) + " registers: expected a multiple of 8 from 24 to 256");
    use_hopper();
    registers_of[own_thread()] = count;
    int all = std::accumulate(registers_of.begin(), registers_of.end(), 0);
    if (all > 65536)
        fail("the threads of its block are to have " + std::to_string(all) + " registers, of 65536");
}
} // namespace

const HopperRuntime hopper_runtime{shared_address, begin, begun, arrive, wait, written, copy, fence_products, multiply, commit_products, wait_for_products, registers};

void begin_hopper(int count)
{
    threads_of_block = count;
    is_used = false;
}

bool advance_hopper()
{
    if (!is_used || copies.empty())
        return false;
    TileCopy oldest = copies.front();
    copies.pop_front();
    fulfil(oldest);
    return true;
}

std::string undone_by_hopper()
{
    if (!is_used)
        return "";
    if (!copies.empty())
        return "its threads have ended, and a copy is on its way to its shared memory";
    return undone_products();
}

std::string waits_of_hopper()
{
    std::string all;
    for (const auto &[at, barrier] : barriers)
        if (barrier.pending != barrier.arrivals || barrier.bytes != 0)
            all += (all.empty() ? "" : "; ") + name_of(at) + ": " + std::to_string(barrier.pending) + " of " + std::to_string(barrier.arrivals) +
                   " arrivals and " + std::to_string(barrier.bytes) + " bytes are missing";
    return all.empty() ? "nobody has arrived at any" : all;
}
} // namespace emulator
