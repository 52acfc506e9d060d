/* What the tests of the GPU simulator share: options, buffers, and running something in a child. */
#ifndef HS_TESTS_CUDA_SIM_TEST_H
#define HS_TESTS_CUDA_SIM_TEST_H

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/sim/sim.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

#ifdef __CUDACC__
/* On a device there is nothing to configure; without one there is nothing to test. */
extern "C" void hs_sim_configure(const hs_sim_options *)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0)
        return;
    print_message("there is no graphics card\n");
    exit(77);
}

extern "C" hs_sim_options hs_sim_from_environment(void)
{
    hs_sim_options none = {};
    return none;
}

extern "C" uint64_t hs_sim_leaks(void)
{
    return 0;
}

extern "C" hs_sim_stats hs_sim_read_stats(void)
{
    hs_sim_stats none = {};
    return none;
}
#endif

#define OK(call) assert_int_equal(call, cudaSuccess)

/* CMocka's macros pass and initialise things as C does. */
#define TEST(fn)                                                                                                       \
    {                                                                                                                  \
#fn, fn, nullptr, nullptr, nullptr                                                                             \
    }

static inline hs_sim_options plain_options(void)
{
    hs_sim_options o = {};
    o.vram_bytes = 64 << 20;
    o.pinned_bytes = 64 << 20;
    o.node_bytes = 4096;
    o.page_bytes = 2 << 20;
    o.arch = 89;
    o.devices = 1;
    o.patience_ms = 50;
    o.protect = true;
    o.ptx = hs_sim_from_environment().ptx;
    o.quiet = !o.ptx; /* of nvcc's code every diagnosis is news */
    return o;
}

static inline void start(uint64_t seed, hs_sim_order order)
{
    hs_sim_options o = plain_options();
    o.seed = seed;
    o.order = order;
    hs_sim_configure(&o);
}

template <class T> static inline T *device(size_t n)
{
    T *p;
    OK(cudaMalloc(&p, n * sizeof(T)));
    return p;
}

template <class T> static inline T *host_pinned(size_t n)
{
    T *p;
    OK(cudaHostAlloc(&p, n * sizeof(T), cudaHostAllocMapped));
    return p;
}

/*
 * On a device cudaMemcpy may return while its bytes are still on their way there, and then only streams that wait for
 * the default one see them; the simulator's has arrived.
 */
static inline cudaStream_t stream(void)
{
#ifdef __CUDACC__
    unsigned flags = cudaStreamDefault;
#else
    unsigned flags = cudaStreamNonBlocking;
#endif
    cudaStream_t s;
    OK(cudaStreamCreateWithFlags(&s, flags));
    return s;
}

static inline cudaEvent_t event(void)
{
    cudaEvent_t e;
    OK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    return e;
}

template <class T> static inline T *to_device(const T *p, size_t n)
{
    T *d = device<T>(n);
    OK(cudaMemcpy(d, p, n * sizeof(T), cudaMemcpyHostToDevice));
    return d;
}

template <class T> static inline void to_host(T *p, const T *d, size_t n)
{
    OK(cudaMemcpy(p, d, n * sizeof(T), cudaMemcpyDeviceToHost));
}

static inline bool fault_says(const char *text)
{
    hs_sim_stats s = hs_sim_read_stats();
    if (s.faults && strstr(s.last_fault, text))
        return true;
    print_message("last fault: %s\n", s.last_fault);
    return false;
}

/* The child's wait status; what it wrote to stderr goes to `said`. */
static inline int in_child(void (*fn)(void), char *said, size_t room)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(fd[0]);
        dup2(fd[1], 2);
        signal(SIGSEGV, SIG_DFL); /* CMocka's handlers would go on with the next test */
        signal(SIGABRT, SIG_DFL);
        alarm(60);
        fn();
        _exit(0);
    }
    close(fd[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < room && (got = read(fd[0], said + n, room - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = 0;
    char rest[256];
    while (read(fd[0], rest, sizeof rest) > 0)
        continue;
    close(fd[0]);
    int status;
    waitpid(pid, &status, 0);
    return status;
}

#endif
