// Modules, their functions, and launches.

#include "block.h"
#include "driver.h"
#include "module.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

using namespace emulator;

namespace {
// What is loaded. Work that is ordered keeps its module too, so one that is unloaded goes when nothing uses it.
std::map<Module *, std::shared_ptr<Module>> &modules = *new std::map<Module *, std::shared_ptr<Module>>;

// The handles of functions that were given out and whose modules are loaded.
std::set<const void *> &handles = *new std::set<const void *>;

// The function of a handle; null for what is none.
Function *function_of(void *handle) { return handles.count(handle) ? static_cast<Function *>(handle) : nullptr; }

// Arguments as a driver takes them: copied when the launch is ordered, each to its place.
struct alignas(128) Chunk {
    unsigned char bytes[128];
};
struct Arguments {
    std::vector<Chunk> memory;
    std::vector<void *> places;

    Arguments(const Entry &kernel, void *const *given)
    {
        const Parameter *last = kernel.count ? &kernel.parameters[kernel.count - 1] : nullptr;
        memory.resize(last ? (last->offset + last->bytes) / sizeof(Chunk) + 1 : 0);
        for (int i = 0; i < kernel.count; i++) {
            places.push_back(memory[0].bytes + kernel.parameters[i].offset);
            std::memcpy(places[i], given[i], kernel.parameters[i].bytes);
        }
    }
};

// What is wrong with the pointers among them; nothing if nothing.
std::string wrong_pointer(const Entry &kernel, const Arguments &arguments, int device)
{
    for (int i = 0; i < kernel.count; i++)
        for (int k = 0; k < kernel.parameters[i].pointers; k++) {
            Address at = 0;
            std::memcpy(&at, static_cast<char *>(arguments.places[i]) + k * sizeof(void *), sizeof(void *));
            int of = at ? device_of(at, 1) : device;
            if (of != device)
                return "argument " + std::to_string(i) + (kernel.parameters[i].pointers > 1 ? ", pointer " + std::to_string(k) + "," : "") +
                       " points to " + (of < 0 ? "no device memory" : "memory of device " + std::to_string(of));
        }
    return "";
}

// What a kernel takes longer, for those who measure something beside it: times of an emulation are the machine's mood.
void take_longer()
{
    if (const char *named = std::getenv("CUDA_EMULATOR_KERNEL_MS"))
        std::this_thread::sleep_for(std::chrono::milliseconds(std::clamp(std::atoi(named), 0, 1000)));
}

Status launch(const Module &module, const Entry &kernel, const Arguments &arguments, const Grid &grid)
{
    std::string name = kernel.name;
    if (is_to_fail("launch"))
        return lose(grid.device, ILLEGAL_ADDRESS, name + ": fails, as CUDA_EMULATOR_FAIL says");
    if (std::string why = wrong_pointer(kernel, arguments, grid.device); !why.empty())
        return lose(grid.device, ILLEGAL_ADDRESS, name + ": " + why);
    take_longer();
    Outcome outcome = run_grid(kernel, *module.library->here, arguments.places.data(), grid);
    // Memory that was written beside comes first: it may be why the rest went wrong.
    if (std::string where = damage(); !where.empty())
        return lose(grid.device, ILLEGAL_ADDRESS, name + ": " + where);
    return outcome.status ? lose(grid.device, outcome.status, name + ", " + outcome.why) : SUCCESS;
}

int most_threads(const Entry &kernel) { return kernel.most_threads > 0 ? std::min(kernel.most_threads, MOST_THREADS) : MOST_THREADS; }
} // namespace

API cuModuleLoadData(void **module, const void *image)
{
    int device = current_device();
    {
        Alone alone;
        if (Status status = lost(device))
            return status;
    }
    if (!image)
        return INVALID_VALUE;
    // Others may go on while it is compiled.
    std::shared_ptr<Module> made;
    if (Status status = load_module(static_cast<const char *>(image), device, &made))
        return status;
    Alone alone;
    *module = made.get();
    modules[made.get()] = made;
    return SUCCESS;
}
API cuModuleUnload(void *handle)
{
    Alone alone;
    auto module = modules.find(static_cast<Module *>(handle));
    if (module == modules.end())
        return INVALID_HANDLE;
    for (auto &[name, function] : module->second->functions)
        handles.erase(&function);
    modules.erase(module);
    return SUCCESS;
}
API cuModuleGetFunction(void **function, void *handle, const char *name)
{
    Alone alone;
    auto module = modules.find(static_cast<Module *>(handle));
    if (module == modules.end())
        return INVALID_HANDLE;
    auto found = module->second->functions.find(name);
    if (found == module->second->functions.end())
        return say(std::string("the module has no kernel '") + name + "'"), NOT_FOUND;
    handles.insert(*function = &found->second);
    return SUCCESS;
}

API cuFuncSetAttribute(void *handle, int which, int value)
{
    Alone alone;
    Function *function = function_of(handle);
    if (!function)
        return INVALID_HANDLE;
    if (which == 8 && (value < 0 || value > MOST_SHARED_BYTES))
        return INVALID_VALUE;
    if (which == 8)
        function->most_dynamic_shared = value;
    return SUCCESS;
}
API cuFuncGetAttribute(int *value, int which, void *handle)
{
    Alone alone;
    Function *function = function_of(handle);
    if (!function)
        return INVALID_HANDLE;
    *value = which == 0 ? most_threads(*function->entry) : which == 4 ? 32 : which == 5 || which == 6 ? 90 : which == 8 ? function->most_dynamic_shared : 0;
    return SUCCESS;
}
API cuFuncGetParamInfo(void *handle, size_t number, size_t *offset, size_t *bytes)
{
    Alone alone;
    Function *function = function_of(handle);
    if (!function)
        return INVALID_HANDLE;
    const Entry &kernel = *function->entry;
    if (number >= static_cast<size_t>(kernel.count))
        return INVALID_VALUE;
    *offset = kernel.parameters[number].offset;
    if (bytes)
        *bytes = kernel.parameters[number].bytes;
    return SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, void *handle, int threads, size_t shared_bytes, unsigned)
{
    Alone alone;
    Function *function = function_of(handle);
    if (!function)
        return INVALID_HANDLE;
    if (threads <= 0)
        return INVALID_VALUE;
    bool fits = threads <= most_threads(*function->entry) && shared_bytes <= static_cast<size_t>(function->most_dynamic_shared);
    int warps = (threads + 31) / 32, by_shared = static_cast<int>((228 << 10) / (shared_bytes + 1024));
    *blocks = fits ? std::min({32, 64 / warps, by_shared}) : 0;
    return SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *handle, int threads, size_t shared_bytes)
{
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, threads, shared_bytes, 0);
}

API cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                   unsigned shared_bytes, void *stream_handle, void **arguments, void **)
{
    Alone alone;
    Stream *stream = stream_of(stream_handle);
    if (Status status = good(stream))
        return status;
    Function *function = function_of(handle);
    if (!function || function->module->device != stream->device)
        return say("what is launched is no kernel, or one of another device's module"), INVALID_HANDLE;
    const Entry &kernel = *function->entry;
    Grid grid{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream->device};
    auto is_empty = [](uint3 size) { return size.x == 0 || size.y == 0 || size.z == 0; };
    if (is_empty(grid.blocks) || is_empty(grid.threads) || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535 || block_z > 64)
        return INVALID_VALUE;
    if (static_cast<uint64_t>(block_x) * block_y * block_z > static_cast<uint64_t>(most_threads(kernel)))
        return say(std::string(kernel.name) + ": more threads a block than its " + std::to_string(most_threads(kernel))), LAUNCH_OUT_OF_RESOURCES;
    if (shared_bytes > static_cast<unsigned>(function->most_dynamic_shared))
        return say(std::string(kernel.name) + ": more dynamic shared memory than the function's " + std::to_string(function->most_dynamic_shared) +
                   " bytes"),
               INVALID_VALUE;
    if (kernel.count > 0 && !arguments)
        return INVALID_VALUE;
    auto copied = std::make_shared<Arguments>(kernel, arguments);
    return order(stream, [=, &kernel, module = function->module->shared_from_this()] { return launch(*module, kernel, *copied, grid); });
}
