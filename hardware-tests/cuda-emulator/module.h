// Modules: texts in CUDA C++, compiled into libraries when they are loaded.
#pragma once

#include "memory.h"
#include "words/kernel.h"

#include <map>
#include <memory>
#include <string>

namespace emulator {
// A kernel of a module, as a handle names it.
struct Function {
    struct Module *module;
    const Entry *entry;
    int most_dynamic_shared;
};

struct Module : std::enable_shared_from_this<Module> {
    int device;
    void *handle;
    const Library *library;
    std::map<std::string, Function> functions;

    ~Module();
};

// Compiles what was not compiled before, and loads it. Says why where it cannot.
Status load_module(const char *text, int device, std::shared_ptr<Module> *module);
} // namespace emulator
