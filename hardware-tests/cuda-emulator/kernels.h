// Which kernels there are, and what they take.
#pragma once

#include "memory.h"

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace emulator {
// A kernel with its arguments, copied when it was ordered, as a driver copies them.
struct Bound {
    std::function<void()> body;
    // Which argument, from 0 on, is a pointer to what is no device memory; -1 for none. Looked at when the kernel runs.
    std::function<int()> wrong_pointer;
};

using Kernel = std::function<Bound(void **)>;

inline std::map<std::string, Kernel> &kernels()
{
    static std::map<std::string, Kernel> all;
    return all;
}

template <class T> bool is_wrong(const T &argument)
{
    if constexpr (std::is_pointer_v<T>)
        return argument != nullptr && !is_device(reinterpret_cast<Address>(argument), 1);
    return false;
}

template <class... Arguments, size_t... Is> Bound bound_to(void (*kernel)(Arguments...), void **given, std::index_sequence<Is...>)
{
    std::tuple<Arguments...> copied{*static_cast<Arguments *>(given[Is])...};
    return {[kernel, copied] { std::apply(kernel, copied); },
            [copied] {
                int wrong = -1;
                ((is_wrong(std::get<Is>(copied)) && wrong < 0 ? wrong = static_cast<int>(Is) : 0), ...);
                return wrong;
            }};
}

struct Registration {
    template <class... Arguments> Registration(const char *name, void (*kernel)(Arguments...))
    {
        kernels()[name] = [kernel](void **given) { return bound_to(kernel, given, std::index_sequence_for<Arguments...>{}); };
    }
};
} // namespace emulator

// One line for each kernel of a file; the build writes them.
#define EMULATED_KERNEL(name) static emulator::Registration registration_of_##name(#name, name);
