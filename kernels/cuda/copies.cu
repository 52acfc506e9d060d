/*
 * copies.cu - memory of the card, its streams, and what moves between it and ordinary memory.
 *
 * Copies of weights run on a stream of their own.  What may overtake what is told by points: a copy into a slot comes
 * after the mark at which its last reader was queued, a stage after the copy it reads.  pinned.cu has the memory that
 * they come from.
 */
#include "kernels/cuda/backend.h"

#include <stdlib.h>

/* The runtime remembers an error until it is asked for; whoever asks next is a launch that went well. */
hlwq_status gpu_failed(cudaError_t code, const char *what, hlwq_error *err)
{
    (void)cudaGetLastError();
    if (code == cudaErrorMemoryAllocation)
        return hs_fail(err, HLWQ_ERR_NOMEM, "the graphics card has no memory for %s", what);
    return hs_fail(err, HLWQ_ERR_IO, "the graphics card failed at %s: %s", what, cudaGetErrorString(code));
}

/* ---- streams and points ---------------------------------------------------------------------- */

static hlwq_status open_points(gpu_points *p, hlwq_error *err)
{
    for (int i = 0; i < POINTS; i++)
        CUDA_DO("opening an event", cudaEventCreateWithFlags(&p->event[i], cudaEventDisableTiming));
    return HLWQ_OK;
}

static void close_points(gpu_points *p)
{
    for (int i = 0; i < POINTS; i++)
        if (p->event[i])
            (void)cudaEventDestroy(p->event[i]);
}

hlwq_status gpu_open_streams(hs_cuda *c, hlwq_error *err)
{
    CUDA_DO("opening a stream", cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    CUDA_DO("opening a stream", cudaStreamCreateWithFlags(&c->up, cudaStreamNonBlocking));
    CUDA_DO("opening a stream", cudaStreamCreateWithFlags(&c->back, cudaStreamNonBlocking));
    CUDA_DO("opening an event", cudaEventCreateWithFlags(&c->chosen, cudaEventDisableTiming));
    CUDA_DO("opening a stream", cudaStreamCreateWithFlags(&c->recorder, cudaStreamNonBlocking));
    HS_TRY(open_points(&c->stages, err));
    return open_points(&c->copies, err);
}

void gpu_close_streams(hs_cuda *c)
{
    cudaStream_t all[] = {c->stream, c->up, c->back, c->recorder};
    close_points(&c->stages);
    close_points(&c->copies);
    if (c->chosen)
        (void)cudaEventDestroy(c->chosen);
    for (cudaStream_t s : all)
        if (s)
            (void)cudaStreamDestroy(s);
}

static hlwq_status add_point(gpu_points *p, cudaStream_t s, uint64_t *point, hlwq_error *err)
{
    CUDA_DO("an event", cudaEventRecord(p->event[(p->made + 1) % POINTS], s));
    *point = ++p->made;
    return HLWQ_OK;
}

/* Work that is queued on `s` from now on comes after the point. */
static hlwq_status after_point(const gpu_points *p, cudaStream_t s, uint64_t point, hlwq_error *err)
{
    if (point > p->done)
        CUDA_DO("an event", cudaStreamWaitEvent(s, p->event[point % POINTS], 0));
    return HLWQ_OK;
}

hlwq_status gpu_wait(hs_cuda *c, hlwq_error *err)
{
    gpu_end_turns(c);
    CUDA_DO("computing", cudaStreamSynchronize(c->stream));
    c->stages.done = c->stages.made;
    return HLWQ_OK;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Pages that small blocks share are nobody's alone. */
static hs_mem_tag charged_to(const block *b)
{
    return b->small ? HS_MEM_OTHER : b->tag;
}

static hlwq_status charge(hs_cuda *c, const block *b, const char *what, hlwq_error *err)
{
    uint64_t bytes = b->bytes;
    if (b->small)
        bytes = hs_card_shared_bytes(c->small_bytes + b->bytes) - hs_card_shared_bytes(c->small_bytes);
    HS_TRY(hs_mem_charge(c->vram, charged_to(b), bytes, what, err));
    c->small_bytes += b->small ? b->bytes : 0;
    return HLWQ_OK;
}

static void discharge(hs_cuda *c, const block *b)
{
    uint64_t bytes = b->bytes;
    if (b->small) {
        bytes = hs_card_shared_bytes(c->small_bytes) - hs_card_shared_bytes(c->small_bytes - b->bytes);
        c->small_bytes -= b->bytes;
    }
    hs_mem_discharge(c->vram, charged_to(b), bytes);
}

hlwq_status gpu_alloc(hs_backend *be, hs_mem_tag tag, uint64_t bytes, const char *what, void **out, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    *out = NULL;
    if (c->n_held == c->room_held) {
        uint32_t room = c->room_held ? 2 * c->room_held : 64;
        block *grown = static_cast<block *>(realloc(c->held, room * sizeof(block)));
        if (!grown)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %s", what);
        c->held = grown;
        c->room_held = room;
    }
    block b = {NULL, hs_card_block_bytes(bytes ? bytes : 1), tag, bytes <= HS_CARD_PAGE_BYTES / 2};
    gpu_end_run(c);
    HS_TRY(charge(c, &b, what, err));
    cudaError_t code = cudaMalloc(&b.p, b.bytes);
    if (code == cudaErrorMemoryAllocation && gpu_forget_runs(c)) { /* they can be recorded again */
        (void)cudaGetLastError();
        code = cudaMalloc(&b.p, b.bytes);
    }
    if (code == cudaSuccess) {
        code = cudaMemsetAsync(b.p, 0, b.bytes, c->stream);
        if (code != cudaSuccess)
            (void)cudaFree(b.p);
    }
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        discharge(c, &b);
        return gpu_failed(code, what, err);
    }
    c->held[c->n_held++] = b;
    *out = b.p;
    return HLWQ_OK;
}

void gpu_free(hs_backend *be, void *p)
{
    hs_cuda *c = cuda_of(be);
    for (uint32_t i = c->n_held; p && i-- > 0;)
        if (c->held[i].p == p) {
            gpu_end_run(c);
            if (c->held[i].tag != HS_MEM_KV && c->held[i].tag != HS_MEM_STATE) /* texts', which no run names */
                (void)gpu_forget_runs(c);
            (void)cudaStreamSynchronize(c->up);
            (void)cudaStreamSynchronize(c->stream);
            (void)cudaFree(p);
            discharge(c, &c->held[i]);
            c->held[i] = c->held[--c->n_held];
            return;
        }
}

hlwq_status gpu_put(hs_backend *be, void *to, const void *from, uint64_t bytes, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_end_run(c);
    CUDA_DO("copying to it", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, c->stream));
    return gpu_wait(c, err);
}

hlwq_status gpu_get(hs_backend *be, void *to, const void *from, uint64_t bytes, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_end_run(c);
    CUDA_DO("copying from it", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream));
    return gpu_wait(c, err);
}

hlwq_status gpu_clear(hs_backend *be, void *p, uint64_t bytes, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_end_run(c);
    CUDA_DO("clearing memory", cudaMemsetAsync(p, 0, bytes, c->stream));
    return HLWQ_OK;
}

/* ---- copies beside the stages ---------------------------------------------------------------- */

hlwq_status gpu_mark(hs_backend *be, uint64_t *mark, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_end_run(c);
    if (add_point(&c->stages, c->stream, mark, NULL) == HLWQ_OK)
        return HLWQ_OK;
    *mark = c->stages.made;
    return gpu_wait(c, err); /* what is done needs no mark */
}

hlwq_status gpu_upload(hs_backend *be, void *to, const void *from, uint64_t bytes, uint64_t after, uint64_t *copy,
                       hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    HS_TRY(after_point(&c->stages, c->up, after, err));
    HS_TRY(gpu_copy_up(c, to, from, bytes, err));
    return add_point(&c->copies, c->up, copy, err);
}

hlwq_status gpu_await(hs_backend *be, uint64_t copy, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    if (copy <= c->awaited)
        return HLWQ_OK;
    gpu_end_run(c);
    HS_TRY(after_point(&c->copies, c->stream, copy, err));
    c->awaited = copy;
    return HLWQ_OK;
}

/* A card that has failed reads nothing any more. */
bool gpu_uploaded(hs_backend *be, uint64_t copy, bool wait)
{
    hs_cuda *c = cuda_of(be);
    cudaEvent_t event = c->copies.event[copy % POINTS];
    if (copy <= c->copies.done)
        return true;
    if (!wait && cudaEventQuery(event) != cudaSuccess) {
        (void)cudaGetLastError(); /* not ready is remembered like an error */
        return false;
    }
    if (wait && cudaEventSynchronize(event) != cudaSuccess) {
        (void)cudaStreamSynchronize(c->up);
        (void)cudaGetLastError();
    }
    c->copies.done = copy;
    return true;
}
