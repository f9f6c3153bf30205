// Products of warpgroups, as late as they may be: a product's sums are taken away when it is ordered and put back when it is waited for, and NaN in between; it
// reads what it multiplies no sooner than that, as copies have left it. A thread that waits for products goes on when no other one can.
//
// Each warp has its 16 rows of every product when it waits for it, and must have ordered the same ones as the other three of its warpgroup.

#include "hopper.h"
#include "threads.h"
#include "words/float8.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

namespace emulator {
namespace {
constexpr int WARPS = 4, GROUP = WARPS * WARP_LANES;

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

// A thread's sums that products are at: floats or integers, as words of 32 bits.
struct Sums {
    void *at;
    std::vector<uint32_t> values;
    int products;
};

struct Thread {
    std::deque<std::pair<Product, void *>> ordered;
    std::vector<Sums> sums;
    // How many products each group has, and how many came since the last one.
    std::deque<size_t> groups;
    size_t in_group = 0, done = 0;
    bool is_fenced = false;
};

std::vector<Thread> threads;
// What the warps of a warpgroup have multiplied, of those products that not all of them have.
struct Group {
    std::deque<Product> products;
    size_t first = 0;
};
std::vector<Group> groups;

Thread &own_of_threads()
{
    use_hopper();
    return threads[own_thread()];
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
        return seen_by_copies() + found;
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

bool is_integer(WgmmaKind kind) { return kind >= WgmmaKind::S8; }
bool is_float8(WgmmaKind kind) { return kind >= WgmmaKind::E4M3 && !is_integer(kind); }

int bytes_of(WgmmaKind kind) { return kind == WgmmaKind::Tf32 ? 4 : kind >= WgmmaKind::E4M3 ? 1 : 2; }

int integer(WgmmaKind kind, bool is_left, const unsigned char *at)
{
    bool is_signed = kind == WgmmaKind::S8 || kind == (is_left ? WgmmaKind::S8U8 : WgmmaKind::U8S8);
    return is_signed ? static_cast<signed char>(*at) : *at;
}

float number(WgmmaKind kind, bool is_left, const unsigned char *at)
{
    if (is_float8(kind)) {
        bool is_e4m3 = kind == WgmmaKind::E4M3 || kind == (is_left ? WgmmaKind::E4M3E5M2 : WgmmaKind::E5M2E4M3);
        return from_float8(*at, is_e4m3 ? 3 : 2);
    }
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

// Both sides of a warp's product, 16 rows of the left one: `number(is_left, at)` reads an element.
template <class Number> struct Sides {
    Number a[16][32], b[32][256];
    int columns, depths;

    template <class Read> void read(int first, const Product &product, Read number)
    {
        const int bytes = bytes_of(product.kind);
        const Matrix left(product.a), right(product.b);
        columns = product.sums * 2, depths = 32 / bytes;
        for (int k = 0; k < depths; k++) {
            for (int row = 0; row < 16; row++)
                a[row][k] = number(true, left.deep(first % GROUP / WARP_LANES * 16 + row, k * bytes));
            for (int column = 0; column < columns; column++)
                b[k][column] = number(false, product.right_rows ? right.wide(column, k) : right.deep(column, k * bytes));
        }
    }
};

// Calls `what(own, row, column)` for every sum of a warp's lanes.
template <class Number, class What> void for_sums(const Product &product, Sums *(&of_lane)[WARP_LANES], What what)
{
    for (int lane = 0; lane < WARP_LANES; lane++)
        for (int i = 0; i < product.sums; i++) {
            uint32_t &word = of_lane[lane]->values[i];
            Number own;
            std::memcpy(&own, &word, 4);
            what(own, lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2);
            std::memcpy(&word, &own, 4);
        }
}

// Sums of a warp: 16 rows of a product, added to those of the lanes.
void multiply_floats(int first, const Product &product, Sums *(&of_lane)[WARP_LANES])
{
    static Sides<float> sides;
    static float d[16][256];
    sides.read(first, product, [&](bool is_left, const unsigned char *at) { return number(product.kind, is_left, at); });
    for_sums<float>(product, of_lane, [&](float &own, int row, int column) { d[row][column] = product.is_more ? own : 0; });
    for (int row = 0; is_float8(product.kind) && row < 16; row++)
        for (int column = 0; column < sides.columns; column++) {
            float products[32];
            for (int k = 0; k < sides.depths; k++)
                products[k] = sides.a[row][k] * sides.b[k][column];
            d[row][column] = narrow_sum(d[row][column], products, sides.depths);
        }
    for (int row = 0; !is_float8(product.kind) && row < 16; row++)
        for (int k = 0; k < sides.depths; k++)
            for (int column = 0; column < sides.columns; column++)
                d[row][column] += sides.a[row][k] * sides.b[k][column];
    for_sums<float>(product, of_lane, [&](float &own, int row, int column) { own = d[row][column]; });
}

// The same of integers, whose sums begin again where they are too large.
void multiply_integers(int first, const Product &product, Sums *(&of_lane)[WARP_LANES])
{
    static Sides<int> sides;
    sides.read(first, product, [&](bool is_left, const unsigned char *at) { return integer(product.kind, is_left, at); });
    for_sums<uint32_t>(product, of_lane, [&](uint32_t &own, int row, int column) {
        uint32_t sum = product.is_more ? own : 0;
        for (int k = 0; k < sides.depths; k++)
            sum += static_cast<uint32_t>(sides.a[row][k] * sides.b[k][column]);
        own = sum;
    });
}

Sums &sums_at(Thread &thread, const void *at)
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
    if (is_integer(product.kind))
        multiply_integers(first, product, of_lane);
    else
        multiply_floats(first, product, of_lane);
    for (int lane = 0; lane < WARP_LANES; lane++) {
        Thread &thread = threads[first + lane];
        thread.ordered.pop_front();
        thread.done++;
        of_lane[lane]->products--;
        if (of_lane[lane]->products == 0) {
            std::memcpy(of_lane[lane]->at, of_lane[lane]->values.data(), of_lane[lane]->values.size() * 4);
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

} // namespace

void fence_products() { own_of_threads().is_fenced = true; }

void commit_products()
{
    Thread &own = own_of_threads();
    own.groups.push_back(own.in_group);
    own.in_group = 0;
}

void multiply(WgmmaKind kind, bool right_rows, void *d, int sums, unsigned long long a, unsigned long long b, bool is_more)
{
    Thread &own = own_of_threads();
    if (static_cast<int>(threads.size()) < own_thread() / GROUP * GROUP + GROUP)
        fail("a product of a warpgroup in one that has no 128 threads");
    if (!own.is_fenced)
        fail("a product without wgmma_fence since sums were waited for");
    auto found = std::find_if(own.sums.begin(), own.sums.end(), [=](const Sums &sums) { return sums.at == d; });
    if (found == own.sums.end()) {
        found = own.sums.insert(found, Sums{d, std::vector<uint32_t>(sums), 0});
        std::memcpy(found->values.data(), d, sums * 4);
        std::memset(d, 0xff, sums * 4);
    }
    if (found->values.size() != static_cast<size_t>(sums))
        fail("a product of another shape than those that its sums are of");
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

void begin_products(int count)
{
    threads.assign(count, {});
    groups.assign(count / GROUP + 1, {});
}

std::string undone_products()
{
    for (size_t i = 0; i < threads.size(); i++) {
        if (!threads[i].ordered.empty())
            return "thread " + std::to_string(i) + " has ended, and its products are not waited for";
        if (threads[i].done != threads[i / GROUP * GROUP].done)
            return "not all warps of a warpgroup have taken part in its products";
    }
    return "";
}
} // namespace emulator
