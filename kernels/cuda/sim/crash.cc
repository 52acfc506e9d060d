/*
 * kernels/cuda/sim/crash.cc - says whose access it was before a SIGSEGV takes its course.
 *
 * Two mistakes end here: host code that uses a device pointer, and a kernel that leaves device memory.  A sentence is
 * written, the former handler is put back, and the access is tried again.  AddressSanitizer has its own report.
 */
#include "kernels/cuda/sim/private.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static struct sigaction before;

static void on_segv(int, siginfo_t *info, void *)
{
    char text[512];
    int n = 0;
    if (hs_sim_self && sim_running) {
        const sim_thread *t = sim_self();
        const sim_launch *l = sim_running->launch;
        uint3 b = sim_running->at.block_index, i = t->seen.index;
        n = snprintf(text, sizeof text,
                     "hlwq-stream: gpusim: kernel %s (launched at %s:%d): block (%u,%u,%u) thread (%u,%u,%u): illegal "
                     "access to %p\n",
                     l->name, l->place.file, l->place.line, b.x, b.y, b.z, i.x, i.y, i.z, info->si_addr);
    } else if (sim_in_arena(info->si_addr)) {
        n = snprintf(text, sizeof text, "hlwq-stream: gpusim: the host uses device memory at %p\n", info->si_addr);
    }
    if (n > 0 && write(2, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1) < 0)
        n = 0; /* nothing to be done */
    sigaction(SIGSEGV, &before, nullptr);
}

void sim_watch_crashes(void)
{
#ifndef SIM_ASAN
    struct sigaction now, ours = {};
    ours.sa_sigaction = on_segv;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (sigaction(SIGSEGV, nullptr, &now) != 0 || now.sa_sigaction == on_segv)
        return;
    before = now;
    sigaction(SIGSEGV, &ours, nullptr);
#else
    (void)on_segv;
#endif
}
