/*
 * kernels/cuda/sim/ptx_shared.cc - who touched which byte of shared memory since the last barrier.
 *
 * Two accesses to a byte by different threads, one of them a write, need a __syncthreads between them, or a
 * __syncwarp of the whole warp if both are of one warp; shuffles and votes order no memory.  Without one it is a race,
 * and a fault.  Writing what is there already is none, nor are atomics among themselves.  Four bytes have one record
 * of their last writer and last readers, with the bytes it was about: two threads that write different bytes of four
 * are not mistaken for a race, but the first one may be forgotten.
 * Also which bytes have a value at all, and which wait for a cp.async.
 */
#include "kernels/cuda/sim/ptx.h"

enum { NOBODY = 0, MANY = 0xFFFF, ALL_WARPS = 0xFF };
struct ptx_touch {
    uint32_t w_block, w_warp, r_block, r_warp; /* barriers and __syncwarps before it */
    uint16_t w_thread, r_thread;               /* counted from 1 */
    uint8_t w_bytes, r_bytes, r_of_warp, has, pending, atomic;
};

void ptx_shared_fresh(ptx_block *b)
{
    uint64_t n = b->shared_bytes / 4 + 1;
    if (n > b->touch_cap) {
        free(b->touch);
        b->touch = static_cast<ptx_touch *>(sim_alloc(n * sizeof *b->touch));
        b->touch_cap = n;
    }
    memset(b->touch, 0, n * sizeof *b->touch);
}

static bool before(const ptx_warp *w, uint32_t order_block, uint32_t order_warp, uint32_t of_warp)
{
    return order_block < w->block->order || (of_warp == w->id && order_warp < w->order);
}

[[noreturn]] static void race(ptx_warp *w, uint32_t lane, uint64_t at, const char *what, uint32_t other)
{
    if (other == MANY)
        ptx_fault(w, 1u << lane, cudaErrorLaunchFailure,
                  "a race: it %s byte %llu of shared memory, as several others did", what, (unsigned long long)at);
    ptx_fault(w, 1u << lane, cudaErrorLaunchFailure, "a race: it %s byte %llu of shared memory, as thread %u did", what,
              (unsigned long long)at, other - 1);
}

static void note_read(ptx_warp *w, ptx_touch *t, uint16_t me, uint8_t bytes)
{
    bool fresh = t->r_thread == NOBODY || t->r_block != w->block->order;
    if (fresh || t->r_thread == me) {
        t->r_thread = me;
        t->r_of_warp = (uint8_t)w->id;
        t->r_bytes = fresh ? bytes : (uint8_t)(t->r_bytes | bytes);
    } else {
        t->r_thread = t->r_of_warp == w->id && t->r_warp != w->order ? me : (uint16_t)MANY;
        t->r_of_warp = t->r_of_warp == w->id ? t->r_of_warp : (uint8_t)ALL_WARPS;
        t->r_bytes |= bytes;
    }
    t->r_block = w->block->order;
    t->r_warp = w->order;
}

static bool touch_word(ptx_warp *w, uint32_t lane, ptx_touch *t, uint64_t at, uint8_t bytes, ptx_access how, bool same)
{
    uint16_t me = (uint16_t)(w->id * 32 + lane + 1);
    if (t->pending & bytes)
        ptx_fault(w, 1u << lane, cudaErrorLaunchFailure, "byte %llu of shared memory waits for a cp.async",
                  (unsigned long long)at);
    bool overlaps = (t->w_bytes & bytes) && t->w_thread != NOBODY && t->w_thread != me;
    bool harmless = how == PTX_ADDS && t->atomic;
    if (overlaps && !harmless && !(how == PTX_WRITES && same) &&
        !before(w, t->w_block, t->w_warp, (t->w_thread - 1u) / 32))
        race(w, lane, at, how == PTX_READS ? "reads and another wrote" : "writes", t->w_thread);
    if (how == PTX_READS) {
        note_read(w, t, me, bytes);
        return (t->has & bytes) == bytes;
    }
    bool read = (t->r_bytes & bytes) && t->r_thread != NOBODY && t->r_thread != me;
    if (read && !same && !before(w, t->r_block, t->r_warp, t->r_of_warp))
        race(w, lane, at, "writes and another read", t->r_thread);
    bool mine = t->w_thread == me && t->w_block == w->block->order && t->w_warp == w->order;
    t->w_bytes = mine ? (uint8_t)(t->w_bytes | bytes) : bytes;
    t->w_thread = me;
    t->w_block = w->block->order;
    t->w_warp = w->order;
    t->atomic = how == PTX_ADDS;
    bool had = (t->has & bytes) == bytes;
    t->has |= bytes;
    return had;
}

bool ptx_shared_touch(ptx_warp *w, uint32_t lane, uint64_t at, uint32_t bytes, ptx_access how, const void *value)
{
    const uint8_t *memory = w->block->shared + at;
    bool same = how == PTX_WRITES && value && !memcmp(memory, value, bytes), has = true;
    while (bytes) {
        uint32_t skip = at % 4, n = 4 - skip < bytes ? 4 - skip : bytes;
        has &= touch_word(w, lane, &w->block->touch[at / 4], at, (uint8_t)(((1u << n) - 1) << skip), how, same);
        at += n;
        bytes -= n;
    }
    return has;
}

void ptx_shared_pend(ptx_warp *w, uint32_t lane, uint64_t at, uint32_t bytes, bool pending)
{
    for (uint64_t k = at / 4; k < (at + bytes) / 4; k++) {
        if (pending && w->block->touch[k].pending)
            ptx_fault(w, 1u << lane, cudaErrorLaunchFailure, "byte %llu of shared memory already waits for a cp.async",
                      (unsigned long long)k * 4);
        w->block->touch[k].pending = pending ? 15 : 0;
    }
}
