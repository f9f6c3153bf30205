// What a module's library and the driver have to say to each other. Both sides include this: the driver, and every text that it compiles.
//
// A library is bound to nothing: it holds a table of its kernels, and the place where a thread finds out who it is; the driver gives it a
// table of what only a scheduler can do. So libraries are loaded, used and unloaded by themselves, and two that define the same names do
// not meet. Nothing here allocates or needs the standard library's code: a library then links in milliseconds.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <type_traits>

struct uint3 {
    unsigned x, y, z;
};

namespace emulator {
constexpr int WARP_LANES = 32;

// What the lanes of a warp exchange: each gives a place of its own; when all are there, `take` is called for each of them, with everybody's
// place (null for a lane outside of the mask). It reads what others gave and writes what this one gets: never the same field.
using Take = void (*)(int lane, void *own, void *const *of_lane);

// What is multiplied by a warpgroup.
enum class WgmmaKind { F16, Bf16, Tf32, E4M3, E5M2, E4M3E5M2, E5M2E4M3, S8, U8, U8S8, S8U8 };

// What only Hopper has (words/hopper.h).
struct HopperRuntime {
    unsigned (*shared_address)(const void *shared);
    void (*begin)(void *barrier, int arrivals);
    void (*begun)();
    void (*arrive)(void *barrier, int expected_bytes);
    void (*wait)(void *barrier, unsigned parity);
    void (*written)();
    // Offsets are those of a window: null for a box.
    void (*copy)(void *shared, const void *map, void *barrier, int rank, const int *at, const unsigned short *offsets);
    void (*fence)();
    void (*multiply)(WgmmaKind kind, bool right_rows, void *d, int sums, unsigned long long a, unsigned long long b, bool is_more);
    void (*commit)();
    void (*wait_for_products)(int but_newest);
    void (*registers)(int count);
};

struct Runtime {
    // At the block's barrier; how many of its threads said something other than zero.
    int (*barrier)(int says);
    void (*meet)(unsigned mask, Take take, void *own);
    void (*copy_async)(void *shared, const void *global, int bytes, bool is_there);
    void (*commit_copies)();
    void (*wait_for_copies)(int but_newest);
    // What its device claims: 90 for 9.0.
    int (*capability)();
    // Ends the kernel with an error of the driver (cuda.h); does not come back.
    void (*fail)(const char *why, int status);
    const HopperRuntime *hopper;
};

// Who runs: set by the driver before it lets a thread go on.
struct Here {
    uint3 thread_index, block_index, block_size, grid_size;
    int lane;
    unsigned char *dynamic_shared;
    const Runtime *runtime;
};

// A parameter of a kernel: where it lies in a GPU's parameter memory, and how many pointers it begins with.
struct Parameter {
    size_t offset, bytes;
    int pointers;
};

struct Entry {
    const char *name;
    // Of its launch bounds; 0 for none.
    int most_threads;
    int count;
    const Parameter *parameters;
    // One thread of it, with its arguments at these places.
    void (*run)(void *const *arguments);
    Entry *next;
};

// What a library exports, as `emulated_module`.
struct Library {
    Entry *first;
    Here *here;
};

template <class T, class = void> struct Pointers {
    static constexpr int count = std::is_pointer<T>::value ? 1 : 0;
};
// A struct that says that it begins with pointers: `static const int POINTERS = 3; const void *at[POINTERS];`.
template <class T> struct Pointers<T, decltype((void)T::POINTERS)> {
    static constexpr int count = T::POINTERS;
    static_assert(sizeof(T) >= count * sizeof(void *), "a struct with POINTERS begins with that many pointers");
};

template <class... Arguments> struct Layout {
    Parameter all[sizeof...(Arguments) + 1] = {};

    constexpr Layout()
    {
        size_t offset = 0;
        int i = 0;
        ((offset = (offset + alignof(Arguments) - 1) / alignof(Arguments) * alignof(Arguments),
          all[i++] = Parameter{offset, sizeof(Arguments), Pointers<Arguments>::count}, offset += sizeof(Arguments)),
         ...);
    }
};
template <class... Arguments> inline constexpr Layout<Arguments...> layout{};
} // namespace emulator
