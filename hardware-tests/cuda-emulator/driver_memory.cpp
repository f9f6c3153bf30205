// Memory, copies and fills.

#include "driver.h"

#include <cstring>
#include <memory>
#include <string>

using namespace emulator;

namespace {
char pool;

// Whether a stream may have these bytes of device memory. Those of another device an allocation has, but not this context.
Status may_have(Stream *stream, Address at, size_t bytes)
{
    int device = device_of(at, bytes);
    if (device >= 0 && device != stream->device)
        return lose(stream->device, ILLEGAL_ADDRESS,
                    "a copy on device " + std::to_string(stream->device) + " of memory of device " + std::to_string(device));
    return device < 0 ? INVALID_VALUE : SUCCESS;
}

// When the work is done: it may have been freed since.
Status is_there_still(int device, Address at, size_t bytes)
{
    return device_of(at, bytes) >= 0 ? SUCCESS : lose(device, ILLEGAL_ADDRESS, "a copy from or to memory that was freed meanwhile");
}

void *place(Address at) { return reinterpret_cast<void *>(at); }

// A copy from or to host memory. What is not pinned a driver reads before it returns, and waits for before it writes.
Status to_device(Address to, const void *from, size_t bytes, Stream *stream)
{
    if (Status status = good(stream))
        return status;
    if (Status status = may_have(stream, to, bytes))
        return status;
    auto copy = [to, bytes, device = stream->device](const void *source) {
        return [=] {
            if (Status status = is_there_still(device, to, bytes))
                return status;
            std::memcpy(place(to), source, bytes);
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
    if (Status status = may_have(stream, from, bytes))
        return status;
    bool pinned = is_pinned(to, bytes);
    if (!pinned && stream->capture)
        return forbid_in_capture("a copy to memory that is not pinned");
    Status status = order(stream, [=, device = stream->device] {
        if (Status status = is_there_still(device, from, bytes))
            return status;
        std::memcpy(to, place(from), bytes);
        return SUCCESS;
    });
    return pinned || status ? status : finish(stream);
}

// `is_peer`: from or to another device.
Status within_device(Address to, Address from, size_t bytes, Stream *stream, bool is_peer)
{
    if (Status status = good(stream))
        return status;
    for (Address at : {to, from})
        if (Status status = is_peer ? device_of(at, bytes) < 0 ? INVALID_VALUE : SUCCESS : may_have(stream, at, bytes))
            return status;
    return order(stream, [=, device = stream->device] {
        for (Address at : {to, from})
            if (Status status = is_there_still(device, at, bytes))
                return status;
        std::memmove(place(to), place(from), bytes);
        return SUCCESS;
    });
}

template <class T> Status fill(Address at, T value, size_t count, Stream *stream)
{
    if (Status status = good(stream))
        return status;
    if (at % sizeof(T) != 0)
        return INVALID_VALUE;
    if (Status status = may_have(stream, at, count * sizeof(T)))
        return status;
    return order(stream, [=, device = stream->device] {
        if (Status status = is_there_still(device, at, count * sizeof(T)))
            return status;
        for (size_t i = 0; i < count; i++)
            static_cast<T *>(place(at))[i] = value;
        return SUCCESS;
    });
}

// For the calls that return when it is done.
Status done(Status status) { return status ? status : finish(stream_of(nullptr)); }
} // namespace

API cuMemGetInfo_v2(size_t *free_bytes, size_t *all)
{
    Alone alone;
    if (Status status = lost(current_device()))
        return status;
    *all = memory_bytes();
    *free_bytes = *all - allocated_bytes(current_device());
    return SUCCESS;
}
API cuMemAlloc_v2(Address *at, size_t bytes)
{
    Alone alone;
    if (Status status = forbid_in_capture("cuMemAlloc"))
        return status;
    Status status = lost(current_device());
    return status ? status : allocate(current_device(), at, bytes);
}
API cuMemFree_v2(Address at)
{
    Alone alone;
    if (Status status = forbid_in_capture("cuMemFree"))
        return status;
    if (int device = device_of(at, 0); device >= 0)
        finish_all(device);
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
    return allocate(stream->device, at, bytes);
}
API cuMemFreeAsync(Address at, void *handle)
{
    Alone alone;
    Stream *stream = stream_of(handle);
    if (!stream)
        return INVALID_HANDLE;
    if (lost(stream->device))
        return release(at);
    return order(stream, [at] { return release(at); });
}
API cuMemHostAlloc(void **at, size_t bytes, unsigned) { Alone alone; return allocate_pinned(at, bytes); }
API cuMemFreeHost(void *at)
{
    Alone alone;
    for (int device = 0; device < MOST_DEVICES; device++)
        finish_all(device);
    return release_pinned(at);
}
API cuMemHostRegister_v2(void *at, size_t bytes, unsigned) { Alone alone; return pin(at, bytes); }
API cuMemHostUnregister(void *at)
{
    Alone alone;
    for (int device = 0; device < MOST_DEVICES; device++)
        finish_all(device);
    return unpin(at);
}
API cuDeviceGetDefaultMemPool(void **given, int) { return *given = &pool, SUCCESS; }
API cuDeviceGetMemPool(void **given, int) { return *given = &pool, SUCCESS; }
API cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
API cuMemPoolTrimTo(void *, size_t) { return SUCCESS; }

API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) { Alone alone; return to_device(to, from, bytes, stream_of(stream)); }
API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) { Alone alone; return to_host(to, from, bytes, stream_of(stream)); }
API cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) { Alone alone; return done(to_device(to, from, bytes, stream_of(nullptr))); }
API cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) { Alone alone; return done(to_host(to, from, bytes, stream_of(nullptr))); }
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream)
{
    Alone alone;
    return within_device(to, from, bytes, stream_of(stream), false);
}
API cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) { Alone alone; return within_device(to, from, bytes, stream_of(nullptr), false); }
API cuMemcpyPeerAsync(Address to, void *, Address from, void *, size_t bytes, void *stream)
{
    Alone alone;
    return within_device(to, from, bytes, stream_of(stream), true);
}

API cuMemsetD8Async(Address at, unsigned char value, size_t count, void *stream) { Alone alone; return fill(at, value, count, stream_of(stream)); }
API cuMemsetD32Async(Address at, unsigned value, size_t count, void *stream) { Alone alone; return fill(at, value, count, stream_of(stream)); }
API cuMemsetD8_v2(Address at, unsigned char value, size_t count) { Alone alone; return fill(at, value, count, stream_of(nullptr)); }
API cuMemsetD32_v2(Address at, unsigned value, size_t count) { Alone alone; return fill(at, value, count, stream_of(nullptr)); }
