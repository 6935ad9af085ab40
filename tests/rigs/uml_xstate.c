/*
 * Lets User Mode Linux run on processors whose register state outgrew its buffers.
 *
 * UML 6.1 switches its processes' registers with PTRACE_GETREGSET/PTRACE_SETREGSET(NT_X86_XSTATE) and a buffer of fixed size.
 * The host's kernel takes a set request only at the full size of the state, which AMX made 11,008 bytes: UML dies at its
 * first process. vmrun preloads this file there: it asks and answers in full size, and hands UML the part it knows. What is
 * beyond (AMX tiles) no program in the guest can use, since it would have to ask the guest's kernel for it first.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum {
    FULL = 1 << 16,       /* more than any state */
    XSTATE_BV = 512,      /* where the standard format says which components are present (Intel SDM 1, 13.4.2) */
};
/* x87, SSE, AVX, and the three of AVX-512: they end at byte 2,688, which UML's buffer holds. */
static const uint64_t KNOWN = 0xe7;

static long (*next)(int, pid_t, void *, void *);
/* Static: UML calls from small stacks of its own, and from one thread at a time. */
static uint8_t state[FULL] __attribute__((aligned(64)));

__attribute__((constructor)) static void find_next(void)
{
    next = (long (*)(int, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
}

static long get(pid_t pid, struct iovec *want)
{
    struct iovec full = { .iov_base = state, .iov_len = FULL };
    long outcome = next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &full);

    if (outcome == 0) {
        if (want->iov_len > full.iov_len)
            want->iov_len = full.iov_len;
        memcpy(want->iov_base, state, want->iov_len);
    }
    return outcome;
}

static long set(pid_t pid, const struct iovec *have)
{
    struct iovec full = { .iov_base = state, .iov_len = FULL };
    uint64_t present;

    /* For the size, and for the components that UML does not hold. */
    if (next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &full) != 0)
        return -1;
    if (have->iov_len < full.iov_len) {
        memcpy(state, have->iov_base, have->iov_len);
        memcpy(&present, state + XSTATE_BV, sizeof(present));
        present &= KNOWN;
        memcpy(state + XSTATE_BV, &present, sizeof(present));
    } else {
        full = *have;
    }
    return next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &full);
}

long ptrace(enum __ptrace_request request, ...)
{
    __builtin_va_list arguments;
    pid_t pid;
    void *address, *data;

    __builtin_va_start(arguments, request);
    pid = __builtin_va_arg(arguments, pid_t);
    address = __builtin_va_arg(arguments, void *);
    data = __builtin_va_arg(arguments, void *);
    __builtin_va_end(arguments);
    if (address == (void *)NT_X86_XSTATE && request == PTRACE_GETREGSET)
        return get(pid, data);
    if (address == (void *)NT_X86_XSTATE && request == PTRACE_SETREGSET)
        return set(pid, data);
    return next(request, pid, address, data);
}
