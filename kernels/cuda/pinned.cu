/*
 * pinned.cu - ordinary memory that copies to the card read: pinned a piece after another, in the background.
 *
 * Pinning takes some 0.1 s a GiB (others' measurements), and the driver holds locks meanwhile that launches and
 * questions of other threads need.  So what is large is registered by a thread of its own while the program goes on,
 * PIN_CHUNK at a time: it may stand still for 25 ms now and then.  A copy from memory that is not pinned yet, or that
 * the system does not let us pin, goes through a small ring that is: the host copies a piece aside, and waits only for
 * the piece that was there a ring ago.  No copy crosses the border of two chunks, which are registered apart.  Which
 * way bytes take changes none.
 *
 * The lock guards the list of regions; the thread registers without it, and a region that is being registered is not
 * taken from the list until that is done.
 */
#include "kernels/cuda/backend.h"

#include <stdlib.h>

enum { RING_PIECES = GPU_RING_BYTES / GPU_RING_PIECE };

/* Smaller regions are pinned at once; tests have pieces of a size of their own. */
uint64_t gpu_pin_chunk = 256ull << 20, gpu_pin_at_once = 64ull << 20;

static bool pin(uint8_t *p, uint64_t bytes)
{
    if (cudaHostRegister(p, bytes, cudaHostRegisterDefault) == cudaSuccess)
        return true;
    (void)cudaGetLastError();
    return false;
}

static uint64_t chunk_bytes(const gpu_region *r, uint64_t from)
{
    return r->bytes - from < r->chunk ? r->bytes - from : r->chunk;
}

static gpu_region *region_of(gpu_pins *pins, const void *p)
{
    const uint8_t *at = static_cast<const uint8_t *>(p);
    for (uint32_t i = 0; i < pins->n; i++)
        if (at >= pins->region[i].p && at < pins->region[i].p + pins->region[i].bytes)
            return &pins->region[i];
    return NULL;
}

/* The next region with something left to pin; NULL = none. */
static gpu_region *waiting_region(gpu_pins *pins)
{
    for (uint32_t i = 0; i < pins->n; i++) {
        gpu_region *r = &pins->region[i];
        if (!r->over && r->pinned < r->bytes)
            return r;
    }
    return NULL;
}

static void *pin_regions(void *user)
{
    gpu_pins *pins = static_cast<gpu_pins *>(user);
    (void)cudaSetDevice(pins->device); /* a thread begins with the first */
    pthread_mutex_lock(&pins->lock);
    while (!pins->quit) {
        gpu_region *r = waiting_region(pins);
        if (!r) {
            pthread_cond_wait(&pins->changed, &pins->lock);
            continue;
        }
        uint8_t *p = r->p, *from = p + r->pinned;
        uint64_t bytes = chunk_bytes(r, r->pinned);
        pins->busy = p;
        pthread_mutex_unlock(&pins->lock);
        bool done = pin(from, bytes);
        pthread_mutex_lock(&pins->lock);
        pins->busy = NULL;
        r = region_of(pins, p); /* the list may have grown */
        r->pinned += done ? bytes : 0;
        r->over |= !done;
        pthread_cond_broadcast(&pins->changed);
    }
    pthread_mutex_unlock(&pins->lock);
    return NULL;
}

/* Memory that nobody can pin is copied from nevertheless. */
void gpu_lend(hs_backend *be, void *p, uint64_t bytes)
{
    gpu_pins *pins = &cuda_of(be)->pins;
    pthread_mutex_lock(&pins->lock);
    if (pins->n == pins->room) {
        uint32_t room = pins->room ? 2 * pins->room : 16;
        gpu_region *grown = static_cast<gpu_region *>(realloc(pins->region, room * sizeof *grown));
        if (!grown) {
            pthread_mutex_unlock(&pins->lock);
            return;
        }
        pins->region = grown;
        pins->room = room;
    }
    gpu_region *r = &pins->region[pins->n++];
    *r = gpu_region{static_cast<uint8_t *>(p), bytes, bytes <= gpu_pin_at_once ? bytes : gpu_pin_chunk, 0, false};
    if (bytes <= gpu_pin_at_once) {
        r->over = true;
        r->pinned = bytes && pin(r->p, bytes) ? bytes : 0;
    } else if (!pins->started) {
        pins->started = pthread_create(&pins->thread, NULL, pin_regions, pins) == 0;
    }
    pthread_cond_broadcast(&pins->changed);
    pthread_mutex_unlock(&pins->lock);
}

void gpu_take_back(hs_backend *be, void *p)
{
    hs_cuda *c = cuda_of(be);
    gpu_pins *pins = &c->pins;
    (void)cudaStreamSynchronize(c->up); /* it may still be read */
    pthread_mutex_lock(&pins->lock);
    gpu_region *r = region_of(pins, p);
    if (r)
        r->over = true;
    while (pins->busy == p)
        pthread_cond_wait(&pins->changed, &pins->lock);
    r = region_of(pins, p);
    for (uint64_t at = 0; r && at < r->pinned; at += r->chunk)
        if (cudaHostUnregister(r->p + at) != cudaSuccess)
            (void)cudaGetLastError();
    if (r)
        *r = pins->region[--pins->n];
    pthread_mutex_unlock(&pins->lock);
}

/* How much from `p` on is in one piece, at most `bytes`; *pinned: the card reads it where it is. */
static uint64_t piece_at(gpu_pins *pins, const uint8_t *p, uint64_t bytes, bool *pinned)
{
    pthread_mutex_lock(&pins->lock);
    const gpu_region *r = region_of(pins, p);
    *pinned = false;
    if (r) {
        uint64_t at = (uint64_t)(p - r->p), chunk = at / r->chunk * r->chunk, left = chunk + chunk_bytes(r, chunk) - at;
        *pinned = at < r->pinned;
        bytes = bytes < left ? bytes : left;
    }
    pthread_mutex_unlock(&pins->lock);
    return bytes;
}

static hlwq_status through_ring(hs_cuda *c, uint8_t *to, const uint8_t *from, uint64_t bytes, hlwq_error *err)
{
    gpu_pins *pins = &c->pins;
    for (uint64_t at = 0, n; at < bytes; at += n) {
        uint32_t i = pins->pieces++ % RING_PIECES;
        uint8_t *aside = c->ring + i * (uint64_t)GPU_RING_PIECE;
        n = bytes - at < GPU_RING_PIECE ? bytes - at : (uint64_t)GPU_RING_PIECE;
        if (pins->pieces > RING_PIECES)
            CUDA_DO("copying to it", cudaEventSynchronize(pins->read[i]));
        memcpy(aside, from + at, n);
        CUDA_DO("copying to it", cudaMemcpyAsync(to + at, aside, n, cudaMemcpyHostToDevice, c->up));
        CUDA_DO("copying to it", cudaEventRecord(pins->read[i], c->up));
    }
    return HLWQ_OK;
}

hlwq_status gpu_copy_up(hs_cuda *c, void *to, const void *from, uint64_t bytes, hlwq_error *err)
{
    uint8_t *t = static_cast<uint8_t *>(to);
    const uint8_t *f = static_cast<const uint8_t *>(from);
    for (uint64_t at = 0, n; at < bytes; at += n) {
        bool pinned;
        n = piece_at(&c->pins, f + at, bytes - at, &pinned);
        if (!pinned)
            HS_TRY(through_ring(c, t + at, f + at, n, err));
        else
            CUDA_DO("copying to it", cudaMemcpyAsync(t + at, f + at, n, cudaMemcpyHostToDevice, c->up));
    }
    return HLWQ_OK;
}

hlwq_status gpu_open_pins(hs_cuda *c, hlwq_error *err)
{
    pthread_mutex_init(&c->pins.lock, NULL);
    pthread_cond_init(&c->pins.changed, NULL);
    c->pins.opened = true;
    CUDA_DO("asking for it", cudaGetDevice(&c->pins.device));
    for (cudaEvent_t &each : c->pins.read)
        CUDA_DO("opening an event", cudaEventCreateWithFlags(&each, cudaEventDisableTiming));
    return HLWQ_OK;
}

void gpu_close_pins(hs_cuda *c)
{
    gpu_pins *pins = &c->pins;
    if (!pins->opened)
        return;
    pthread_mutex_lock(&pins->lock);
    pins->quit = true;
    pthread_cond_broadcast(&pins->changed);
    pthread_mutex_unlock(&pins->lock);
    if (pins->started)
        pthread_join(pins->thread, NULL);
    while (pins->n)
        gpu_take_back(&c->base, pins->region[0].p);
    for (cudaEvent_t each : pins->read)
        if (each)
            (void)cudaEventDestroy(each);
    pthread_cond_destroy(&pins->changed);
    pthread_mutex_destroy(&pins->lock);
    free(pins->region);
}
