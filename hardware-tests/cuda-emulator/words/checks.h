// What the compiler looks at while a kernel runs, and calls when it is wrong: addresses that a type may not have, an index beyond an array whose
// length is known, a division by zero. These are the names that it calls; its own library of them is not needed.
#pragma once

#include "registration.h"

#include <stdio.h>

namespace emulator {
struct Place {
    const char *file;
    unsigned line, column;
};
struct Type {
    unsigned short kind, info;
    char name[1];
};
struct Misaligned {
    Place place;
    const Type *type;
    unsigned char log_of_alignment, kind;
};
struct BeyondArray {
    Place place;
    const Type *array, *index;
};
struct Division {
    Place place;
    const Type *type;
};

inline void fail_at(const Place &place, int status, const char *what, const Type *type, unsigned long long number)
{
    char why[512];
    snprintf(why, sizeof why, "%s:%u: %s %s: %lld", place.file, place.line, what, type->name, (long long)number);
    here.runtime->fail(why, status);
}
} // namespace emulator

#define EMULATED_CHECK extern "C" __attribute__((used, noinline, visibility("hidden"))) inline void
EMULATED_CHECK __ubsan_handle_type_mismatch_v1(emulator::Misaligned *at, uintptr_t pointer)
{
    emulator::fail_at(at->place, 716, "an address that is not aligned for", at->type, pointer & 0xff);
}
EMULATED_CHECK __ubsan_handle_out_of_bounds(emulator::BeyondArray *at, uintptr_t index)
{
    emulator::fail_at(at->place, 700, "an index beyond", at->array, index);
}
EMULATED_CHECK __ubsan_handle_divrem_overflow(emulator::Division *at, uintptr_t, uintptr_t)
{
    emulator::fail_at(at->place, 719, "a division by zero, or one too large for", at->type, 0);
}
#undef EMULATED_CHECK
