/*
 * tests/lab/card.cu - what a driver takes of a card's memory, and how long it takes for what a step is made of: numbers
 * that kernels/cuda/card.cu, kernels/card.c and offload/rates.h assume.  Needs nothing but the toolkit, whose compiler
 * knows the runtime by itself:
 *
 *   nvcc -O2 -std=c++17 -arch=native -o card tests/lab/card.cu && ./card
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define DO(call)                                                                                                       \
    do {                                                                                                               \
        cudaError_t do_ = (call);                                                                                      \
        if (do_ != cudaSuccess) {                                                                                      \
            printf("line %d: %s\n", __LINE__, cudaGetErrorString(do_));                                                \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static __global__ void nothing(uint32_t *p)
{
    if (p && *p == 0xFFFFFFFFu)
        *p = 0;
}

static __global__ void deep(uint32_t *p, uint32_t n)
{
    volatile uint32_t far[512];
    for (uint32_t i = 0; i < n; i++)
        far[i * 7 % 512] = i;
    if (p)
        *p = far[n % 512];
}

/* Answers each value of *question in *answer, `n` times. */
static __global__ void echo(volatile uint32_t *question, uint32_t *answer, uint32_t n)
{
    for (uint32_t i = 1; i <= n; i++) {
        while (*question < i)
            __nanosleep(200);
        __threadfence_system();
        *(volatile uint32_t *)answer = i;
        __threadfence_system();
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static size_t before;

static void took(const char *what)
{
    size_t left = 0, total = 0;
    DO(cudaMemGetInfo(&left, &total));
    printf("%-58s %10.3f MiB, %.1f free\n", what, ((double)before - (double)left) / 1048576, (double)left / 1048576);
    before = left;
}

static void graph_of(cudaStream_t s, int nodes)
{
    char what[64];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    DO(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    for (int i = 0; i < nodes; i++)
        nothing<<<1, 128, 0, s>>>(NULL);
    DO(cudaStreamEndCapture(s, &graph));
    DO(cudaGraphInstantiate(&exec, graph, 0));
    DO(cudaGraphUpload(exec, s));
    DO(cudaStreamSynchronize(s));
    snprintf(what, sizeof what, "a graph of %d launches", nodes);
    took(what);
    for (int i = 0; i < 3; i++) {
        double start = now();
        DO(cudaGraphLaunch(exec, s));
        double told = now();
        DO(cudaStreamSynchronize(s));
        printf("  %d launches in a graph: %.1f us until told, %.1f us in all\n", nodes, told - start, now() - start);
    }
}

int main(void)
{
    static const size_t size[] = {1, 512, 64 << 10, (1 << 20) + 1, 2 << 20, (2 << 20) + 1, 7340032, 64 << 20};
    const size_t pinned = (size_t)4 << 30;
    cudaDeviceProp card;
    cudaStream_t s[4];
    cudaEvent_t event[140];
    void *p;
    DO(cudaGetDeviceProperties(&card, 0));
    printf("%s, sm_%d%d, %d multiprocessors of %d threads, %.1f MiB\n", card.name, card.major, card.minor,
           card.multiProcessorCount, card.maxThreadsPerMultiProcessor, (double)card.totalGlobalMem / 1048576);
    before = card.totalGlobalMem;
    took("the context, and what others have");
    DO(cudaDeviceSetLimit(cudaLimitStackSize, 256));
    took("a stack of 256 bytes instead of what there was");
    for (cudaStream_t &each : s)
        DO(cudaStreamCreateWithFlags(&each, cudaStreamNonBlocking));
    for (cudaEvent_t &each : event)
        DO(cudaEventCreateWithFlags(&each, cudaEventDisableTiming));
    took("4 streams, 140 events");
    nothing<<<1, 128, 0, s[0]>>>(NULL);
    DO(cudaStreamSynchronize(s[0]));
    took("the first launch");
    deep<<<1, 32, 0, s[0]>>>(NULL, 1);
    DO(cudaStreamSynchronize(s[0]));
    took("a launch with 2 KiB of local memory a thread");
    for (size_t bytes : size)
        for (int i = 0; i < 2; i++) {
            char what[64];
            DO(cudaMalloc(&p, bytes));
            snprintf(what, sizeof what, "cudaMalloc of %zu", bytes);
            took(what);
        }
    graph_of(s[0], 20);
    graph_of(s[0], 760);
    DO(cudaHostAlloc(&p, 64 << 20, cudaHostAllocMapped));
    took("64 MiB of pinned memory");
    uint32_t *flag = static_cast<uint32_t *>(p);
    flag[0] = flag[64] = 0;
    echo<<<1, 1, 0, s[1]>>>(flag, flag + 64, 1000);
    double start = now();
    for (uint32_t i = 1; i <= 1000; i++) {
        __atomic_store_n(flag, i, __ATOMIC_RELEASE);
        while (__atomic_load_n(flag + 64, __ATOMIC_ACQUIRE) < i)
            ;
    }
    printf("  there and back through flags in pinned memory: %.2f us\n", (now() - start) / 1000);
    void *there = mmap(NULL, pinned, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (there == MAP_FAILED)
        return 0;
    memset(there, 1, pinned);
    start = now();
    DO(cudaHostRegister(there, pinned, cudaHostRegisterDefault));
    printf("  registering 4 GiB: %.0f ms\n", (now() - start) / 1000);
    took("4 GiB of registered memory");
    for (int i = 0; i < 3; i++) {
        start = now();
        nothing<<<1, 128, 0, s[0]>>>(NULL);
        double told = now();
        DO(cudaStreamSynchronize(s[0]));
        printf("  one launch: %.1f us until told, %.1f us until done\n", told - start, now() - start);
    }
    return 0;
}
