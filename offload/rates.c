/*
 * offload/rates.c - a few quick measurements, and the arithmetic of a token that the CPU and the card share.
 */
#include "offload/rates.h"

#include "base/size.h"
#include "kernels/measure.h"
#include "offload/footprint.h"

#include <math.h>

enum {
    ROWS_MOST = 4096, /* of a matrix that is measured: more are no faster */
    EIGHT_LESS = 4    /* of the bytes: eight tokens are computed, not read */
};

static const double UNKNOWN = 0.75; /* a share where no rates are known: 38-60 GB/s for the CPU beside 12-25 of PCIe */

/* The part of streamed layers that most bytes of them are like: the widest that a cut takes rows of. */
static const hs_part *widest(const hs_table *t)
{
    const hs_part *best = NULL;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        if (!hs_group_may_stream(t, &t->group[g]))
            continue;
        hs_cut cut = hs_split_cut(&t->group[g], 1.0);
        for (int i = 0; i < HS_CUT_ROLES; i++) {
            const hs_part *p = cut.rows[i] ? hs_group_find(&t->group[g], hs_cut_role[i]) : NULL;
            if (p && (!best || p->planes.bytes > best->planes.bytes))
                best = p;
        }
    }
    return best;
}

hlwq_status hs_rates_product(hs_mem *mem, hs_pool *pool, const hs_table *t, uint32_t tokens, uint64_t bytes,
                             double *rate, hlwq_error *err)
{
    const hs_part *p = widest(t);
    double seconds;
    uint64_t each;
    *rate = 0;
    if (!p)
        return HLWQ_OK;
    uint32_t rows = p->rows < ROWS_MOST ? p->rows : ROWS_MOST;
    hs_product_case c = {.dtype = p->dtype, .rows = rows, .cols = p->cols, .tokens = tokens, .resident_bytes = bytes};
    HS_TRY(hs_measure_product(mem, pool, &c, &seconds, &each, err));
    *rate = seconds > 0 ? (double)each / seconds : 0;
    return HLWQ_OK;
}

/* Both sides of the copies are charged as what they are: memory, for a moment. */
static void measure_copies(hs_mem *mem, hs_mem *vram, uint64_t bytes, hs_rates *r)
{
    hs_card_facts card;
    if (hs_mem_charge(mem, HS_MEM_IO, bytes, "measuring copies", NULL) != HLWQ_OK)
        return;
    const uint64_t above = 2 * hs_card_shared_bytes(bytes); /* whole pages */
    if (hs_mem_charge(vram, HS_MEM_IO, above, "measuring copies", NULL) == HLWQ_OK) {
        if (hs_backend_cuda_measure(&card, bytes, NULL) == HLWQ_OK && card.upload_bytes_per_second > 0) {
            r->upload = card.upload_bytes_per_second;
            r->card = card.memory_bytes_per_second;
        }
        hs_mem_discharge(vram, HS_MEM_IO, above);
    }
    hs_mem_discharge(mem, HS_MEM_IO, bytes);
}

static uint64_t room(const hs_mem *mem)
{
    uint64_t cap = hs_mem_cap_bytes(mem), now = hs_mem_now_bytes(mem);
    return !cap ? UINT64_MAX : cap > now ? cap - now : 0;
}

hs_rates hs_rates_measure(hs_mem *mem, hs_mem *vram, hs_pool *pool, const hs_table *t, uint64_t bytes)
{
    hs_rates r = {.upload = HS_RATE_UPLOAD_ASSUMED, .card = HS_RATE_CARD_ASSUMED};
    uint64_t all, shared;
    hs_split_bytes(t, &all, &shared);
    bytes = hs_min_u64(bytes, hs_min_u64(all, room(mem) / 4));
    if (hs_rates_product(mem, pool, t, 1, bytes, &r.product, NULL) != HLWQ_OK ||
        hs_read_bandwidth(mem, pool, hs_max_u64(bytes, 1 << 20), &r.memory, NULL) != HLWQ_OK)
        r.product = r.memory = 0;
    if (t->config.experts &&
        hs_rates_product(mem, pool, t, HS_BESIDE_TOKENS, bytes / EIGHT_LESS, &r.eight, NULL) != HLWQ_OK)
        r.eight = 0;
    uint64_t copied = hs_min_u64(bytes, room(vram) / 4) / 4096 * 4096;
    if (copied)
        measure_copies(mem, vram, copied, &r);
    return r;
}

/* What the CPU still multiplies with while copies read the same memory; a slow memory is not all of the copies'. */
static double product_beside_copies(const hs_rates *r)
{
    return fmin(r->product, fmax(r->memory - r->upload, r->product / 2));
}

hs_split_time hs_rates_split(const hs_table *t, const hs_rates *r, uint32_t kept, uint64_t trunk_bytes, double share)
{
    hs_split_time s = {.share = share};
    uint64_t all, shared;
    hs_split_bytes(t, &all, &shared);
    double layers = hs_footprint_of(t).streamed, part = fmax(0, 1 - kept / layers); /* of the layers, that pass */
    double product = product_beside_copies(r), bytes = (double)all * part, most = (double)shared * part;
    s.card = r->card > 0 ? ((double)trunk_bytes + (double)all - bytes) / r->card : 0;
    if (share < 0 && most > 0 && product > 0 && r->upload > 0) /* (B - s S) / upload = s S / product + card */
        s.share = fmax(0, fmin(1, (bytes / r->upload - s.card) / (most * (1 / product + 1 / r->upload))));
    else if (share < 0)
        s.share = most > 0 ? UNKNOWN : 0;
    s.cpu = s.share > 0 && product > 0 ? most * s.share / product : 0;
    s.copies = r->upload > 0 ? (bytes - most * s.share) / r->upload : 0;
    double exchanges = s.share > 0 ? layers * part * HS_RATE_EXCHANGES * HS_RATE_EXCHANGE_SECONDS : 0;
    s.all = fmax(s.copies, s.cpu + s.card + exchanges);
    return s;
}

hs_beside_rates hs_rates_beside(const hs_table *t, const hs_rates *r)
{
    const hs_footprint f = hs_footprint_of(t);
    const double bytes = f.streamed ? (double)f.streamed_bytes / f.streamed : 0, product = product_beside_copies(r);
    if (!t->config.experts || r->product <= 0 || r->upload <= 0)
        return (hs_beside_rates){0};
    return (hs_beside_rates){.alone = bytes / r->product,
                             .one = bytes / product,
                             .eight = r->eight > 0 ? bytes / r->eight : 0,
                             .copy = bytes / r->upload};
}

double hs_rates_missing(const hs_table *t, uint32_t kept)
{
    const uint32_t of = hs_footprint_of(t).streamed;
    return t->config.experts_used * (of ? fmax(0, 1 - (double)kept / of) : 0);
}
