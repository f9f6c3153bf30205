// What goes on by itself within a block on Hopper: copies of tiles, and products of warpgroups, each as late as it may be.
//
// Copies and products see shared memory as the asynchronous proxy does: through a second copy of it, which copies write, and which gets what threads have
// written only when one of them says so (`shared_written`). A product's sums are taken away when it is ordered and put back when it is waited for, and NaN
// in between; it reads what it multiplies no sooner than that.
//
// Who waits for a barrier is woken when its phase is over. Copies that are late are done one by one when no thread can go on, the oldest first; a
// thread that waits for products goes on when no other one can.

#include "hopper.h"

#include "stream.h"
#include "tensor_map.h"
#include "threads.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

namespace emulator {
namespace {
constexpr int WARPS = 4, GROUP = WARPS * WARP_LANES, SHARED_BYTES = 256 << 10, MOST_BYTES = (1 << 20) - 1;

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

// What a warp's lanes order alike.
struct Product {
    WgmmaKind kind;
    bool right_rows, is_more;
    int sums;
    unsigned long long a, b;

    bool operator==(const Product &o) const
    {
        return kind == o.kind && right_rows == o.right_rows && is_more == o.is_more && sums == o.sums && a == o.a && b == o.b;
    }
};

// A thread's sums that products are at.
struct Sums {
    float *at;
    std::vector<float> values;
    int products;
};

struct Thread {
    std::deque<std::pair<Product, float *>> ordered;
    std::vector<Sums> sums;
    // How many products each group has, and how many came since the last one.
    std::deque<size_t> groups;
    size_t in_group = 0, done = 0;
    bool is_fenced = false;
    int registers = 0;
};

std::map<void *, Barrier> barriers;
std::deque<TileCopy> copies;
std::vector<Thread> threads;
// What the warps of a warpgroup have multiplied, of those products that not all of them have.
struct Group {
    std::deque<Product> products;
    size_t first = 0;
};
std::vector<Group> groups;
int threads_of_block;
bool is_used;
// Shared memory as copies and products see it.
alignas(1024) unsigned char seen[SHARED_BYTES];

// Most blocks have nothing of all this.
void use()
{
    if (is_used)
        return;
    if (capability() != 90)
        fail("it does what compute capability 9.0 alone has, on a device of another one");
    is_used = true;
    barriers.clear();
    copies.clear();
    threads.assign(threads_of_block, {});
    groups.assign(threads_of_block / GROUP + 1, {});
    std::memset(seen, 0xff, sizeof seen);
}

Thread &own_of_threads()
{
    use();
    return threads[own_thread()];
}

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
    use();
    auto found = barriers.find(barrier);
    if (found == barriers.end())
        fail(name_of(barrier) + " is none: nobody has begun it");
    return found->second;
}

void begin(void *barrier, int arrivals)
{
    use();
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
    use();
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
    use();
    SharedMemory memory = shared_memory_of_block();
    std::memcpy(seen + place_of(memory.dynamic), memory.dynamic, memory.dynamic_bytes);
}

size_t swizzled(size_t at, int span_bytes)
{
    // By the bits of the address: those that say which row of 128 bytes.
    size_t rows = span_bytes == 128 ? 7 : span_bytes == 64 ? 3 : span_bytes == 32 ? 1 : 0;
    return at ^ ((at >> 7 & rows) << 4);
}

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

void fence() { own_of_threads().is_fenced = true; }

void commit()
{
    Thread &own = own_of_threads();
    own.groups.push_back(own.in_group);
    own.in_group = 0;
}

// A matrix as its descriptor says: 8 rows of 128 bytes, swizzled, again and again.
struct Matrix {
    unsigned begin, part_bytes, rows_bytes;

    explicit Matrix(unsigned long long bits)
        : begin((bits & 0x3fff) << 4), part_bytes((bits >> 16 & 0x3fff) << 4), rows_bytes((bits >> 32 & 0x3fff) << 4)
    {
        unsigned base = bits >> 49 & 7, swizzle = bits >> 62;
        if (swizzle != 1)
            fail("a matrix is swizzled otherwise than by 128 bytes (" + std::to_string(swizzle) + "), which the emulator does not know");
        if (base != 0 || begin % 1024 >= 128)
            fail("a swizzled matrix begins at byte " + std::to_string(begin) + ": expected one of the first row of 1024 bytes", MISALIGNED_ADDRESS);
        // Bits that no field has.
        if (bits & ~(0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | 7ull << 49 | 3ull << 62))
            fail("a matrix's descriptor has bits that mean nothing");
    }

    const unsigned char *at(unsigned place) const
    {
        SharedMemory memory = shared_memory_of_block();
        size_t found = swizzled(begin + place, 128), first = memory.dynamic - memory.begin;
        if (found < first || found + 16 > first + memory.dynamic_bytes)
            fail("a product reads byte " + std::to_string(found) + " of shared memory, which its block does not have", ILLEGAL_ADDRESS);
        return seen + found;
    }
    // Depth lies together.
    const unsigned char *deep(int row, int byte) const { return at(row % 8 * 128 + row / 8 * rows_bytes + byte / 16 * 16) + byte % 16; }
    // Columns do: 64 of them, then the next 64.
    const unsigned char *wide(int column, int depth) const
    {
        int byte = column % 64 * 2;
        return at(byte / 16 * 16 + column / 64 * part_bytes + depth % 8 * 128 + depth / 8 * rows_bytes) + byte % 16;
    }
};

float number(WgmmaKind kind, const unsigned char *at)
{
    uint32_t bits = 0;
    std::memcpy(&bits, at, kind == WgmmaKind::Tf32 ? 4 : 2);
    float value;
    if (kind == WgmmaKind::F16) {
        // As words/tensor_core.h has it.
        uint32_t magnitude = (bits & 0x7fff) << 13, is_special = (bits & 0x7c00) == 0x7c00;
        magnitude |= is_special ? 0x7f800000 : 0;
        std::memcpy(&value, &magnitude, 4);
        value *= is_special ? 1 : 0x1p112f;
        return bits & 0x8000 ? -value : value;
    }
    bits = kind == WgmmaKind::Bf16 ? bits << 16 : bits & ~0x1fffu;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Sums of a warp: 16 rows of a product, added to those of the lanes.
void multiply_warp(int first, const Product &product, Sums *(&of_lane)[WARP_LANES])
{
    static float a[16][16], b[16][256], d[16][256];
    const int columns = product.sums * 2, bytes = product.kind == WgmmaKind::Tf32 ? 4 : 2, depths = 32 / bytes;
    const Matrix left(product.a), right(product.b);
    for (int k = 0; k < depths; k++) {
        for (int row = 0; row < 16; row++)
            a[row][k] = number(product.kind, left.deep(first % GROUP / WARP_LANES * 16 + row, k * bytes));
        for (int column = 0; column < columns; column++)
            b[k][column] = number(product.kind, product.right_rows ? right.wide(column, k) : right.deep(column, k * bytes));
    }
    auto each = [&](auto what) {
        for (int lane = 0; lane < WARP_LANES; lane++)
            for (int i = 0; i < product.sums; i++)
                what(of_lane[lane]->values[i], d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2]);
    };
    each([&](float &own, float &sum) { sum = product.is_more ? own : 0; });
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < depths; k++)
            for (int column = 0; column < columns; column++)
                d[row][column] += a[row][k] * b[k][column];
    each([&](float &own, float &sum) { own = sum; });
}

Sums &sums_at(Thread &thread, const float *at)
{
    return *std::find_if(thread.sums.begin(), thread.sums.end(), [=](const Sums &sums) { return sums.at == at; });
}

// The oldest product of a warp, which all of its lanes must have ordered alike, and so must the other warps.
void multiply_oldest(int first)
{
    const Product product = threads[first].ordered.front().first;
    size_t number = threads[first].done;
    Group &group = groups[first / GROUP];
    if (number - group.first == group.products.size())
        group.products.push_back(product);
    if (!(group.products[number - group.first] == product))
        fail("the warps of its warpgroup multiply different matrices");
    Sums *of_lane[WARP_LANES];
    for (int lane = 0; lane < WARP_LANES; lane++) {
        Thread &thread = threads[first + lane];
        if (thread.ordered.empty() || thread.done != number || !(thread.ordered.front().first == product))
            fail("the lanes of its warp do not order the same product");
        of_lane[lane] = &sums_at(thread, thread.ordered.front().second);
    }
    multiply_warp(first, product, of_lane);
    for (int lane = 0; lane < WARP_LANES; lane++) {
        Thread &thread = threads[first + lane];
        thread.ordered.pop_front();
        thread.done++;
        of_lane[lane]->products--;
        if (of_lane[lane]->products == 0) {
            std::copy(of_lane[lane]->values.begin(), of_lane[lane]->values.end(), of_lane[lane]->at);
            thread.sums.erase(thread.sums.begin() + (of_lane[lane] - thread.sums.data()));
        }
    }
    auto is_behind = [&](int warp) { return threads[first / GROUP * GROUP + warp * WARP_LANES].done <= group.first; };
    while (!group.products.empty() && !is_behind(0) && !is_behind(1) && !is_behind(2) && !is_behind(3)) {
        group.products.pop_front();
        group.first++;
    }
}

// How many products are to be done.
void take_products(int lane, void *own, void *const *of_lane)
{
    if (lane != 0)
        return;
    for (int i = 0; i < WARP_LANES; i++)
        if (*static_cast<size_t *>(of_lane[i]) != *static_cast<size_t *>(own))
            fail("the lanes of its warp do not wait for the same products");
    for (size_t i = 0; i < *static_cast<size_t *>(own); i++)
        multiply_oldest(own_thread() / WARP_LANES * WARP_LANES);
}

void multiply(WgmmaKind kind, bool right_rows, float *d, int sums, unsigned long long a, unsigned long long b, bool is_more)
{
    Thread &own = own_of_threads();
    if (static_cast<int>(threads.size()) < own_thread() / GROUP * GROUP + GROUP)
        fail("a product of a warpgroup in one that has no 128 threads");
    if (!own.is_fenced)
        fail("a product without wgmma_fence since sums were waited for");
    auto found = std::find_if(own.sums.begin(), own.sums.end(), [=](const Sums &sums) { return sums.at == d; });
    if (found == own.sums.end()) {
        found = own.sums.insert(found, Sums{d, std::vector<float>(d, d + sums), 0});
        std::memset(static_cast<void *>(d), 0xff, sums * sizeof(float));
    }
    found->products++;
    own.ordered.push_back({Product{kind, right_rows, is_more, sums, a, b}, d});
    own.in_group++;
}

void wait_for_products(int but_newest)
{
    Thread &own = own_of_threads();
    size_t count = 0;
    while (own.groups.size() > static_cast<size_t>(but_newest)) {
        count += own.groups.front();
        own.groups.pop_front();
    }
    own.is_fenced = false;
    if (count == 0)
        return;
    if (!is_early_block())
        wait_for_all_others();
    meet(0xffffffffu, take_products, &count);
}

void registers(int count)
{
    if (count % 8 != 0 || count < 24 || count > 256)
        fail("a thread is to have " + std::to_string(count) + " registers: expected a multiple of 8 from 24 to 256");
    own_of_threads().registers = count;
    int all = 0;
    for (const Thread &thread : threads)
        all += thread.registers;
    if (all > 65536)
        fail("the threads of its block are to have " + std::to_string(all) + " registers, of 65536");
}
} // namespace

const HopperRuntime hopper_runtime{shared_address, begin, begun, arrive, wait, written, copy, fence, multiply, commit, wait_for_products, registers};

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
    for (size_t i = 0; i < threads.size(); i++) {
        if (!threads[i].ordered.empty())
            return "thread " + std::to_string(i) + " has ended, and its products are not waited for";
        if (threads[i].done != threads[i / GROUP * GROUP].done)
            return "not all warps of a warpgroup have taken part in its products";
    }
    return "";
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
