// Allocations are poisoned with ones (a NaN in every float type), so that whoever reads what nobody wrote gets a NaN; they stand
// between red zones, so that whoever writes beside them is found after the kernel; what was freed is gone from the books, so that a
// kernel that is given it is refused.

#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace emulator {
namespace {
constexpr size_t RED_ZONE_BYTES = 512, ALIGN = 256;
constexpr unsigned char POISON = 0xff, RED = 0xa5;

std::map<Address, size_t> device, pinned;
size_t used;

bool lies_within(const std::map<Address, size_t> &regions, Address at, size_t bytes)
{
    auto next = regions.upper_bound(at);
    if (next == regions.begin())
        return false;
    auto [start, length] = *--next;
    return at - start <= length && bytes <= length - (at - start);
}
} // namespace

void say(const std::string &what) { std::fprintf(stderr, "CUDA emulator: %s\n", what.c_str()); }

size_t memory_bytes()
{
    const char *named = std::getenv("CUDA_EMULATOR_MEMORY_MB");
    return (named ? std::strtoull(named, nullptr, 10) : 2048) << 20;
}

size_t allocated_bytes() { return used; }

Status allocate(Address *at, size_t bytes)
{
    if (bytes == 0)
        return INVALID_VALUE;
    if (bytes > memory_bytes() || used > memory_bytes() - bytes)
        return OUT_OF_MEMORY;
    size_t whole = (bytes + 2 * RED_ZONE_BYTES + ALIGN - 1) / ALIGN * ALIGN;
    auto *start = static_cast<unsigned char *>(std::aligned_alloc(ALIGN, whole));
    if (!start)
        return OUT_OF_MEMORY;
    std::memset(start, RED, whole);
    std::memset(start + RED_ZONE_BYTES, POISON, bytes);
    *at = reinterpret_cast<Address>(start + RED_ZONE_BYTES);
    device[*at] = bytes;
    used += bytes;
    return SUCCESS;
}

Status release(Address at)
{
    if (at == 0)
        return SUCCESS;
    auto found = device.find(at);
    if (found == device.end()) {
        say("what is freed is no allocation, or was freed before");
        return INVALID_VALUE;
    }
    used -= found->second;
    std::memset(reinterpret_cast<void *>(at), POISON, found->second);
    std::free(reinterpret_cast<unsigned char *>(at) - RED_ZONE_BYTES);
    device.erase(found);
    return SUCCESS;
}

Status allocate_pinned(void **at, size_t bytes)
{
    *at = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*at || bytes == 0)
        return bytes == 0 ? INVALID_VALUE : OUT_OF_MEMORY;
    pinned[reinterpret_cast<Address>(*at)] = bytes;
    return SUCCESS;
}

Status release_pinned(void *at)
{
    if (!pinned.erase(reinterpret_cast<Address>(at)))
        return INVALID_VALUE;
    std::free(at);
    return SUCCESS;
}

bool is_device(Address at, size_t bytes) { return lies_within(device, at, bytes); }

bool is_pinned(const void *at, size_t bytes) { return lies_within(pinned, reinterpret_cast<Address>(at), bytes); }

std::string damage()
{
    for (auto [at, bytes] : device) {
        auto *data = reinterpret_cast<unsigned char *>(at);
        for (size_t i = 0; i < RED_ZONE_BYTES; i++) {
            if (data[bytes + i] != RED)
                return "byte " + std::to_string(i) + " behind an allocation of " + std::to_string(bytes) + " bytes was written";
            if (data[-1 - static_cast<std::ptrdiff_t>(i)] != RED)
                return "byte " + std::to_string(i + 1) + " before an allocation of " + std::to_string(bytes) + " bytes was written";
        }
    }
    return "";
}
} // namespace emulator
