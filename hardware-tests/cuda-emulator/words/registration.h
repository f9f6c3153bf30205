// Enters the kernels of a text into its library's table. The driver finds their names in the text, and writes one line for each behind it.
#pragma once

#include "kernel.h"

#include <utility>

namespace emulator {
inline Here here;
inline Library library{nullptr, &here};

// The kernel is a template's argument, so that calling it is a call and no more.
template <auto kernel, class Signature = decltype(kernel)> struct Caller;
template <auto kernel, class... Arguments> struct Caller<kernel, void (*)(Arguments...)> {
    static constexpr int count = sizeof...(Arguments);
    static constexpr const Parameter *parameters = layout<Arguments...>.all;

    template <size_t... Is> static void call(void *const *given, std::index_sequence<Is...>)
    {
        kernel(*static_cast<std::remove_reference_t<Arguments> *>(given[Is])...);
    }
    static void run(void *const *given) { call(given, std::index_sequence_for<Arguments...>{}); }
};

struct Registration {
    Entry entry;

    Registration(const Entry &of) : entry(of)
    {
        entry.next = library.first;
        library.first = &entry;
    }
};

constexpr int first_of(int first = 0, int = 0, int = 0) { return first; }
} // namespace emulator

// The name, and what its launch bounds say.
#define EMULATED_KERNEL(name, ...)                                                                                                        \
    static emulator::Registration registration_of_##name({#name, emulator::first_of(__VA_ARGS__), emulator::Caller<&name>::count,         \
                                                          emulator::Caller<&name>::parameters, emulator::Caller<&name>::run, nullptr});

// Nobody in the library calls it: it must be there all the same.
extern "C" __attribute__((visibility("default"), used)) inline emulator::Library *emulated_module() { return &emulator::library; }
