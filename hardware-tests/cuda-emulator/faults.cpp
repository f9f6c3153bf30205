// A kernel that reads far beside its memory would end the process; a GPU loses the context instead. So while kernels run, such faults are
// caught. The handler leaves by a switch to the scheduler's stack, as any thread of a block does, so it lets the signal come again (SA_NODEFER).
// Faults of other OS threads go to whoever had the signal before.

#include "faults.h"

#include <pthread.h>
#include <signal.h>

namespace emulator {
namespace {
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS};
struct sigaction before[2];
void (*found)(const char *, void *);
pthread_t of_kernel;

void handle(int number, siginfo_t *info, void *)
{
    if (pthread_equal(pthread_self(), of_kernel) && found)
        found(number == SIGBUS ? "an access that the memory refuses" : "an access to where no memory is", info->si_addr);
    // Somebody else's: it happens again, and is theirs then.
    sigaction(number, &before[number == SIGSEGV ? 0 : 1], nullptr);
}
} // namespace

Faults::Faults(void (*to)(const char *, void *))
{
    found = to;
    of_kernel = pthread_self();
    struct sigaction own {};
    own.sa_sigaction = handle;
    own.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    for (int i = 0; i < 2; i++)
        sigaction(SIGNALS[i], &own, &before[i]);
}

Faults::~Faults()
{
    for (int i = 0; i < 2; i++)
        sigaction(SIGNALS[i], &before[i], nullptr);
    found = nullptr;
}
} // namespace emulator
