// The driver's interface (cuda.h), as far as `cudarc` calls it: each function is a line or two over streams, memory and kernels.
//
// Strict where drivers are: handles that are none, sizes that no launch can have, memory that nobody allocated, calls that a capture
// forbids. After an error on the device every call fails with it, as a lost context does.

#include "block.h"
#include "kernels.h"
#include "stream.h"

#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

using namespace emulator;

#define API extern "C" __attribute__((visibility("default"))) int

namespace {
// One call at a time: what threads order at once, they order one after the other.
struct Alone {
    static std::recursive_mutex &mutex()
    {
        static std::recursive_mutex one;
        return one;
    }
    std::lock_guard<std::recursive_mutex> lock{mutex()};
};

constexpr unsigned MOST_THREADS = 1024, MOST_SHARED_BYTES = 232448;
bool is_started = false;

struct Function {
    std::string name;
    Kernel kernel;
};

// A stream that is one, while the context is alive.
Status good(Stream *stream) { return stream ? lost() : INVALID_HANDLE; }

Status launch(const std::string &name, const Bound &bound, uint3 grid, uint3 block)
{
    if (int wrong = bound.wrong_pointer(); wrong >= 0)
        return lose(ILLEGAL_ADDRESS, name + ": argument " + std::to_string(wrong) + " points to no device memory");
    grid_size = grid;
    block_size = block;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block_index = {x, y, z};
                std::string at = name + ", block " + std::to_string(x) + " " + std::to_string(y) + " " + std::to_string(z) + ": ";
                if (std::string why = run_block(bound.body); !why.empty())
                    return lose(LAUNCH_FAILED, at + why);
            }
    if (std::string why = damage(); !why.empty())
        return lose(ILLEGAL_ADDRESS, name + ": " + why);
    return SUCCESS;
}

// A copy from or to host memory. What is not pinned a driver reads before it returns, and waits for before it writes.
Status to_device(Address to, const void *from, size_t bytes, Stream *stream)
{
    if (Status status = good(stream))
        return status;
    if (!is_device(to, bytes))
        return INVALID_VALUE;
    auto copy = [=](const void *source) {
        return [=] {
            if (!is_device(to, bytes))
                return lose(ILLEGAL_ADDRESS, "a copy to memory that was freed meanwhile");
            std::memcpy(reinterpret_cast<void *>(to), source, bytes);
            return SUCCESS;
        };
    };
    if (is_pinned(from, bytes))
        return order(stream, copy(from));
    if (stream->capture)
        return forbid_in_capture("a copy from memory that is not pinned");
    auto staged = std::make_shared<std::string>(static_cast<const char *>(from), bytes);
    return order(stream, [staged, work = copy(staged->data())] { return work(); });
}

Status to_host(void *to, Address from, size_t bytes, Stream *stream)
{
    if (Status status = good(stream))
        return status;
    if (!is_device(from, bytes))
        return INVALID_VALUE;
    bool pinned = is_pinned(to, bytes);
    if (!pinned && stream->capture)
        return forbid_in_capture("a copy to memory that is not pinned");
    Status status = order(stream, [=] {
        if (!is_device(from, bytes))
            return lose(ILLEGAL_ADDRESS, "a copy from memory that was freed meanwhile");
        std::memcpy(to, reinterpret_cast<void *>(from), bytes);
        return SUCCESS;
    });
    return pinned || status ? status : finish(stream);
}
} // namespace

API cuInit(unsigned flags)
{
    Alone alone;
    is_started = true;
    return flags ? INVALID_VALUE : SUCCESS;
}
API cuDriverGetVersion(int *version) { Alone alone; return *version = 13000, SUCCESS; }
API cuDeviceGetCount(int *count) { Alone alone; return *count = 1, is_started ? SUCCESS : NOT_INITIALIZED; }
API cuDeviceGet(int *device, int number) { Alone alone; return *device = 0, number ? INVALID_DEVICE : SUCCESS; }
API cuDeviceGetName(char *name, int length, int) { Alone alone; return std::snprintf(name, length, "CUDA emulator (emulated)"), SUCCESS; }
API cuDeviceTotalMem_v2(size_t *bytes, int) { Alone alone; return *bytes = memory_bytes(), SUCCESS; }
API cuDeviceGetUuid_v2(char *uuid, int) { Alone alone; return std::memset(uuid, 0xe0, 16), SUCCESS; }
API cuDeviceGetUuid(char *uuid, int device) { Alone alone; return cuDeviceGetUuid_v2(uuid, device); }
API cuDeviceGetPCIBusId(char *text, int length, int) { Alone alone; return std::snprintf(text, length, "0000:00:00.0"), SUCCESS; }
API cuDeviceGetAttribute(int *value, int which, int)
{
    Alone alone;
    switch (which) {
    case 1: *value = MOST_THREADS; break; // threads a block
    case 8: *value = 48 << 10; break;     // shared memory a block
    case 10: *value = 32; break;          // lanes of a warp
    case 16: *value = 2; break;           // multiprocessors
    case 75: *value = 9; break;           // compute capability
    case 76: *value = 0; break;
    case 97: *value = MOST_SHARED_BYTES; break;
    case 115: *value = 1; break; // memory pools
    default: *value = 0;
    }
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void **context, int) { Alone alone; return *context = &is_started, SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { Alone alone; return SUCCESS; }
API cuCtxSetCurrent(void *) { Alone alone; return SUCCESS; }
API cuCtxGetCurrent(void **context) { Alone alone; return *context = &is_started, SUCCESS; }
API cuCtxSynchronize()
{
    Alone alone;
    if (Status status = forbid_in_capture("cuCtxSynchronize"))
        return status;
    return finish_all();
}

API cuMemGetInfo_v2(size_t *free_bytes, size_t *all)
{
    Alone alone;
    *all = memory_bytes();
    *free_bytes = *all - allocated_bytes();
    return lost();
}
API cuMemAlloc_v2(Address *at, size_t bytes)
{
    Alone alone;
    if (Status status = forbid_in_capture("cuMemAlloc"))
        return status;
    return lost() ? lost() : allocate(at, bytes);
}
API cuMemFree_v2(Address at)
{
    Alone alone;
    if (Status status = forbid_in_capture("cuMemFree"))
        return status;
    finish_all();
    return release(at);
}
API cuMemAllocAsync(Address *at, size_t bytes, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (Status status = good(stream))
        return status;
    if (stream->capture)
        return forbid_in_capture("an allocation");
    return allocate(at, bytes);
}
API cuMemFreeAsync(Address at, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (!stream)
        return INVALID_HANDLE;
    if (lost())
        return release(at);
    return order(stream, [at] { return release(at); });
}
API cuMemHostAlloc(void **at, size_t bytes, unsigned) { Alone alone; return allocate_pinned(at, bytes); }
API cuMemFreeHost(void *at)
{
    Alone alone;
    finish_all();
    return release_pinned(at);
}
API cuDeviceGetDefaultMemPool(void **pool, int) { Alone alone; return *pool = &is_started, SUCCESS; }
API cuDeviceGetMemPool(void **pool, int) { Alone alone; return *pool = &is_started, SUCCESS; }
API cuMemPoolSetAttribute(void *, int, void *) { Alone alone; return SUCCESS; }
API cuMemPoolTrimTo(void *, size_t) { Alone alone; return SUCCESS; }

API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) { Alone alone; return to_device(to, from, bytes, stream_of(stream)); }
API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) { Alone alone; return to_host(to, from, bytes, stream_of(stream)); }
API cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes)
{
    Alone alone;
    Status status = to_device(to, from, bytes, stream_of(nullptr));
    return status ? status : finish(stream_of(nullptr));
}
API cuMemcpyDtoH_v2(void *to, Address from, size_t bytes)
{
    Alone alone;
    Status status = to_host(to, from, bytes, stream_of(nullptr));
    return status ? status : finish(stream_of(nullptr));
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (Status status = good(stream))
        return status;
    if (!is_device(to, bytes) || !is_device(from, bytes))
        return INVALID_VALUE;
    return order(stream, [=] {
        if (!is_device(to, bytes) || !is_device(from, bytes))
            return lose(ILLEGAL_ADDRESS, "a copy of memory that was freed meanwhile");
        std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes);
        return SUCCESS;
    });
}
API cuMemsetD8Async(Address at, unsigned char value, size_t bytes, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (Status status = good(stream))
        return status;
    if (!is_device(at, bytes))
        return INVALID_VALUE;
    return order(stream, [=] {
        if (!is_device(at, bytes))
            return lose(ILLEGAL_ADDRESS, "memory that was freed meanwhile is set");
        std::memset(reinterpret_cast<void *>(at), value, bytes);
        return SUCCESS;
    });
}

API cuStreamCreate(void **stream, unsigned flags) { Alone alone; return *stream = make_stream(!(flags & 1)), lost(); }
API cuStreamCreateWithPriority(void **stream, unsigned flags, int) { Alone alone; return cuStreamCreate(stream, flags); }
API cuStreamDestroy_v2(void *stream) { Alone alone; return drop_stream(static_cast<Stream *>(stream)); }
API cuStreamSynchronize(void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream ? finish(stream) : INVALID_HANDLE;
}
API cuStreamWaitEvent(void *handle, void *event, unsigned)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream && event ? wait_for(stream, static_cast<Event *>(event)) : INVALID_HANDLE;
}

API cuEventCreate(void **event, unsigned) { Alone alone; return *event = new Event, SUCCESS; }
API cuEventRecord(void *event, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream && event ? record(static_cast<Event *>(event), stream) : INVALID_HANDLE;
}
API cuEventSynchronize(void *handle)
{
    Alone alone;
    auto *event = static_cast<Event *>(handle);
    return event->stream ? advance(event->stream, event->after) : SUCCESS;
}
API cuEventQuery(void *handle)
{
    Alone alone;
    if (lost())
        return lost();
    return is_complete(static_cast<Event *>(handle)) ? SUCCESS : NOT_READY;
}
API cuEventElapsedTime_v2(float *ms, void *from, void *to)
{
    Alone alone;
    auto *begin = static_cast<Event *>(from), *end = static_cast<Event *>(to);
    if (!begin->stream || !end->stream)
        return INVALID_HANDLE;
    if (!is_complete(begin) || !is_complete(end))
        return NOT_READY;
    *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
    return SUCCESS;
}
API cuEventDestroy_v2(void *handle)
{
    Alone alone;
    // Its record may still be ordered, and writes to it: it is done first.
    auto *event = static_cast<Event *>(handle);
    if (event->stream && !event->capture)
        advance(event->stream, event->after);
    delete event;
    return SUCCESS;
}

// Kernels are built into this library: a module is whatever was given, and has all of them.
API cuModuleLoadData(void **module, const void *image) { Alone alone; return *module = &is_started, image ? lost() : INVALID_VALUE; }
API cuModuleUnload(void *) { Alone alone; return SUCCESS; }
API cuModuleGetFunction(void **function, void *, const char *name)
{
    Alone alone;
    auto found = kernels().find(name);
    if (found == kernels().end())
        return say(std::string("there is no kernel '") + name + "'"), NOT_FOUND;
    *function = new Function{name, found->second};
    return SUCCESS;
}
API cuFuncSetAttribute(void *, int, int) { Alone alone; return SUCCESS; }
API cuFuncGetAttribute(int *value, int, void *) { Alone alone; return *value = 0, SUCCESS; }
API cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                   unsigned shared_bytes, void *stream_handle, void **arguments, void **)
{
    Alone alone;
    Stream *stream = stream_of(stream_handle);
    if (Status status = good(stream))
        return status;
    uint3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    auto is_empty = [](uint3 size) { return size.x == 0 || size.y == 0 || size.z == 0; };
    if (is_empty(grid) || is_empty(block) || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || block.z > 64)
        return INVALID_VALUE;
    if (static_cast<uint64_t>(block.x) * block.y * block.z > MOST_THREADS || shared_bytes > MOST_SHARED_BYTES)
        return LAUNCH_OUT_OF_RESOURCES;
    auto *function = static_cast<Function *>(handle);
    Bound bound = function->kernel(arguments);
    std::string name = function->name;
    return order(stream, [=] { return launch(name, bound, grid, block); });
}

API cuStreamBeginCapture_v2(void *handle, int)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream ? begin_capture(stream) : INVALID_HANDLE;
}
API cuStreamEndCapture(void *handle, void **graph)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    return stream ? end_capture(stream, reinterpret_cast<Graph **>(graph)) : INVALID_HANDLE;
}
API cuStreamIsCapturing(void *handle, int *status)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    *status = stream && stream->capture ? stream->capture->is_valid ? 1 : 2 : 0;
    return stream ? SUCCESS : INVALID_HANDLE;
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long)
{
    Alone alone;
    return *executable = new Graph(*static_cast<Graph *>(graph)), SUCCESS;
}
API cuGraphUpload(void *, void *) { Alone alone; return SUCCESS; }
API cuGraphLaunch(void *executable, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (Status status = good(stream))
        return status;
    for (const Work &work : static_cast<Graph *>(executable)->works)
        if (Status status = order(stream, work))
            return status;
    return SUCCESS;
}
API cuGraphDestroy(void *graph) { Alone alone; return delete static_cast<Graph *>(graph), SUCCESS; }
API cuGraphExecDestroy(void *graph) { Alone alone; return delete static_cast<Graph *>(graph), SUCCESS; }

API cuGetErrorName(int code, const char **name)
{
    Alone alone;
    switch (code) {
    case SUCCESS: *name = "CUDA_SUCCESS"; break;
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    case CAPTURE_UNSUPPORTED: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
    case CAPTURE_INVALIDATED: *name = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
    }
    return SUCCESS;
}
API cuGetErrorString(int code, const char **text) { Alone alone; return cuGetErrorName(code, text); }
