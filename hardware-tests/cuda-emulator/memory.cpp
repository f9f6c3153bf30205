// Allocations are poisoned with ones (a NaN in every float type), so that whoever reads what nobody wrote gets a NaN; they stand
// between red zones (NaN as well), so that whoever writes beside them is found after the kernel; what was freed is gone from the books, so
// that a kernel that is given it is refused. Further out, on both sides, are pages that nobody may touch: a kernel that runs far beside its memory
// is a fault that is caught there, and not what it would overwrite of this process.

#include "memory.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include <sys/mman.h>
#include <unistd.h>

namespace emulator {
namespace {
constexpr size_t RED_ZONE_BYTES = 512, GUARD_BYTES = 16 << 20;
constexpr unsigned char POISON = 0xff;

struct Region {
    size_t bytes;
    // -1 for host memory.
    int device;
    // Pinned memory that is the caller's own.
    bool is_registered = false;
};

using Regions = std::map<Address, Region>;
// Never destroyed: at the end of a process there may still be something to say about them.
Regions &allocated = *new Regions, &pinned = *new Regions;
size_t used[MOST_DEVICES];

const std::array<unsigned char, RED_ZONE_BYTES> RED = [] {
    std::array<unsigned char, RED_ZONE_BYTES> zone{};
    for (size_t i = 0; i < zone.size(); i++)
        zone[i] = i % 2 ? 0x7f : 0xff;
    return zone;
}();

const Region *region_of(const Regions &regions, Address at, size_t bytes)
{
    auto next = regions.upper_bound(at);
    if (next == regions.begin())
        return nullptr;
    auto &[start, region] = *--next;
    return at - start <= region.bytes && bytes <= region.bytes - (at - start) ? &region : nullptr;
}

// An allocation and its red zones, in whole pages.
size_t page_bytes(size_t bytes)
{
    static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return (bytes + 2 * RED_ZONE_BYTES + page - 1) / page * page;
}

unsigned char *bytes_at(Address at) { return reinterpret_cast<unsigned char *>(at); }

size_t first_written(const unsigned char *zone)
{
    size_t i = 0;
    while (i < RED_ZONE_BYTES && zone[i] == RED[i])
        i++;
    return i;
}
} // namespace

void say(const std::string &what) { std::fprintf(stderr, "CUDA emulator: %s\n", what.c_str()); }

bool is_to_fail(const char *what)
{
    static std::map<std::string, unsigned long> seen;
    const char *named = std::getenv("CUDA_EMULATOR_FAIL");
    std::string all = named ? std::string(",") + named : "", key = std::string(",") + what + ":";
    size_t at = all.find(key);
    unsigned long number = ++seen[what];
    return at != std::string::npos && std::strtoul(all.c_str() + at + key.size(), nullptr, 10) == number;
}

size_t memory_bytes()
{
    const char *named = std::getenv("CUDA_EMULATOR_MEMORY_MB");
    return (named ? std::strtoull(named, nullptr, 10) : 2048) << 20;
}

size_t allocated_bytes(int device) { return used[device]; }

Status allocate(int device, Address *at, size_t bytes)
{
    if (bytes == 0)
        return INVALID_VALUE;
    if (is_to_fail("alloc")) {
        say("an allocation of " + std::to_string(bytes) + " bytes fails, as CUDA_EMULATOR_FAIL says");
        return OUT_OF_MEMORY;
    }
    if (bytes > memory_bytes() || used[device] > memory_bytes() - bytes)
        return OUT_OF_MEMORY;
    size_t whole = page_bytes(bytes);
    void *mapped = mmap(nullptr, whole + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return OUT_OF_MEMORY;
    auto *start = static_cast<unsigned char *>(mapped) + GUARD_BYTES;
    if (mprotect(start, whole, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapped, whole + 2 * GUARD_BYTES);
        return OUT_OF_MEMORY;
    }
    std::memcpy(start, RED.data(), RED_ZONE_BYTES);
    std::memset(start + RED_ZONE_BYTES, POISON, bytes);
    std::memcpy(start + RED_ZONE_BYTES + bytes, RED.data(), RED_ZONE_BYTES);
    *at = reinterpret_cast<Address>(start + RED_ZONE_BYTES);
    allocated[*at] = {bytes, device};
    used[device] += bytes;
    return SUCCESS;
}

Status release(Address at)
{
    if (at == 0)
        return SUCCESS;
    auto found = allocated.find(at);
    if (found == allocated.end()) {
        say("what is freed is no allocation, or was freed before");
        return INVALID_VALUE;
    }
    used[found->second.device] -= found->second.bytes;
    munmap(bytes_at(at) - RED_ZONE_BYTES - GUARD_BYTES, page_bytes(found->second.bytes) + 2 * GUARD_BYTES);
    allocated.erase(found);
    return SUCCESS;
}

Status allocate_pinned(void **at, size_t bytes)
{
    *at = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*at || bytes == 0)
        return bytes == 0 ? INVALID_VALUE : OUT_OF_MEMORY;
    pinned[reinterpret_cast<Address>(*at)] = {bytes, -1};
    return SUCCESS;
}

Status release_pinned(void *at)
{
    auto found = pinned.find(reinterpret_cast<Address>(at));
    if (found == pinned.end() || found->second.is_registered)
        return INVALID_VALUE;
    pinned.erase(found);
    std::free(at);
    return SUCCESS;
}

Status pin(void *at, size_t bytes)
{
    auto start = reinterpret_cast<Address>(at);
    if (!at || bytes == 0)
        return INVALID_VALUE;
    auto next = pinned.lower_bound(start);
    if (region_of(pinned, start, 1) || (next != pinned.end() && next->first < start + bytes))
        return HOST_MEMORY_ALREADY_REGISTERED;
    pinned[start] = {bytes, -1, true};
    return SUCCESS;
}

Status unpin(void *at)
{
    auto found = pinned.find(reinterpret_cast<Address>(at));
    if (found == pinned.end() || !found->second.is_registered)
        return HOST_MEMORY_NOT_REGISTERED;
    pinned.erase(found);
    return SUCCESS;
}

int device_of(Address at, size_t bytes)
{
    const Region *region = region_of(allocated, at, bytes);
    return region ? region->device : -1;
}

bool is_pinned(const void *at, size_t bytes) { return region_of(pinned, reinterpret_cast<Address>(at), bytes); }

std::string damage()
{
    auto of = [](const Region &region) { return " an allocation of " + std::to_string(region.bytes) + " bytes was written"; };
    for (auto &[at, region] : allocated) {
        const unsigned char *data = bytes_at(at), *before = data - RED_ZONE_BYTES, *behind = data + region.bytes;
        if (std::memcmp(behind, RED.data(), RED_ZONE_BYTES) != 0)
            return "byte " + std::to_string(first_written(behind)) + " behind" + of(region);
        if (std::memcmp(before, RED.data(), RED_ZONE_BYTES) != 0)
            return "byte " + std::to_string(RED_ZONE_BYTES - first_written(before)) + " before" + of(region);
    }
    return "";
}

void report()
{
    size_t bytes = 0, host_bytes = 0, registered = 0;
    for (size_t of : used)
        bytes += of;
    for (auto &[at, region] : pinned)
        (region.is_registered ? registered : host_bytes) += region.bytes;
    std::string text = "device " + std::to_string(bytes) + " bytes in " + std::to_string(allocated.size()) + " allocations; pinned " +
                       std::to_string(host_bytes) + " bytes; registered " + std::to_string(registered) + " bytes";
    if (const char *to = std::getenv("CUDA_EMULATOR_REPORT")) {
        if (std::FILE *file = std::fopen(to, "w")) {
            std::fprintf(file, "%s\n", text.c_str());
            std::fclose(file);
        } else
            say(std::string("cannot write CUDA_EMULATOR_REPORT, ") + to);
    } else if (bytes + host_bytes + registered > 0)
        say("still allocated at the end: " + text);
}
} // namespace emulator
