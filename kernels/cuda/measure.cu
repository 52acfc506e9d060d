/*
 * kernels/cuda/measure.cu - what the graphics card is, and how fast bytes move on it and to it.
 */
#include "kernels/cuda/gpu.h"

extern "C" {
#include "kernels/backend.h"
}

#include <stdio.h>

namespace
{

enum { ROUNDS = 5 };

struct copies {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    void *from, *to, *host; /* on the card, on the card, pinned; `bytes` each */
    size_t bytes;
};

static cudaError_t open_copies(copies *c, size_t bytes)
{
    cudaError_t code = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    c->bytes = bytes;
    if (code == cudaSuccess)
        code = cudaEventCreate(&c->begin);
    if (code == cudaSuccess)
        code = cudaEventCreate(&c->end);
    if (code == cudaSuccess)
        code = cudaMalloc(&c->from, bytes);
    if (code == cudaSuccess)
        code = cudaMalloc(&c->to, bytes);
    if (code == cudaSuccess)
        code = cudaHostAlloc(&c->host, bytes, cudaHostAllocDefault);
    if (code == cudaSuccess) {
        memset(c->host, 1, bytes);
        code = cudaMemsetAsync(c->from, 0, bytes, c->stream);
    }
    return code;
}

static void close_copies(copies *c)
{
    if (c->host)
        (void)cudaFreeHost(c->host);
    if (c->to)
        (void)cudaFree(c->to);
    if (c->from)
        (void)cudaFree(c->from);
    if (c->end)
        (void)cudaEventDestroy(c->end);
    if (c->begin)
        (void)cudaEventDestroy(c->begin);
    if (c->stream)
        (void)cudaStreamDestroy(c->stream);
}

/* Bytes a second of the fastest of a few copies to `to`. */
static cudaError_t time_copies(copies *c, const void *from, cudaMemcpyKind kind, double *rate)
{
    float best = 0;
    for (int i = 0; i < ROUNDS; i++) {
        float ms = 0;
        cudaError_t code = cudaEventRecord(c->begin, c->stream);
        if (code == cudaSuccess)
            code = cudaMemcpyAsync(c->to, from, c->bytes, kind, c->stream);
        if (code == cudaSuccess)
            code = cudaEventRecord(c->end, c->stream);
        if (code == cudaSuccess)
            code = cudaEventSynchronize(c->end);
        if (code == cudaSuccess)
            code = cudaEventElapsedTime(&ms, c->begin, c->end);
        if (code != cudaSuccess)
            return code;
        if (ms > 0 && (best <= 0 || ms < best))
            best = ms;
    }
    *rate = best > 0 ? (double)c->bytes / (1e-3 * (double)best) : 0;
    return cudaSuccess;
}

} // namespace

extern "C" hlwq_status hs_backend_cuda_measure(hs_card_facts *f, uint64_t bytes, hlwq_error *err)
{
    cudaDeviceProp properties;
    size_t free_bytes = 0, total = 0;
    copies c = {};
    *f = hs_card_facts();
    const hs_limits any = hs_limits();
    HS_TRY(hs_backend_cuda_probe(&any, err));
    int device = 0;
    cudaError_t code = cudaGetDevice(&device);
    if (code == cudaSuccess)
        code = cudaGetDeviceProperties(&properties, device);
    if (code == cudaSuccess)
        code = cudaMemGetInfo(&free_bytes, &total);
    if (code == cudaSuccess) {
        snprintf(f->name, sizeof f->name, "%s", properties.name);
        f->major = (uint32_t)properties.major;
        f->minor = (uint32_t)properties.minor;
        f->total_bytes = total;
        f->free_bytes = free_bytes;
        bytes = bytes < free_bytes / 4 ? bytes : free_bytes / 4;
        code = open_copies(&c, (size_t)(bytes / 4096 * 4096));
    }
    if (code == cudaSuccess)
        code = time_copies(&c, c.from, cudaMemcpyDeviceToDevice, &f->memory_bytes_per_second);
    if (code == cudaSuccess)
        code = time_copies(&c, c.host, cudaMemcpyHostToDevice, &f->upload_bytes_per_second);
    f->memory_bytes_per_second *= 2; /* read and written */
    close_copies(&c);
    if (code == cudaSuccess)
        return HLWQ_OK;
    (void)cudaGetLastError();
    return hs_fail(err, code == cudaErrorMemoryAllocation ? HLWQ_ERR_NOMEM : HLWQ_ERR_IO,
                   "the graphics card could not be measured: %s", cudaGetErrorString(code));
}
