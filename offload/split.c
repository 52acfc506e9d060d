/*
 * offload/split.c - rows and bytes of a layer that is split, and how large the CPU's share of them is to be.
 */
#include "offload/split.h"

#include "offload/footprint.h"

#include <math.h>
#include <stdlib.h>

enum {
    GRAIN = 16, /* rows: planes begin at multiples of 32 bytes */
    REST = 16   /* periods without trials once none of the shortest steps was faster */
};

static const double STEP = 1.0 / 16, STEP_LEAST = 1.0 / 64, STEP_MOST = 1.0 / 8;
static const double GAIN = 0.99; /* a trial's time, of what was best, with which it stays */

const hs_role hs_cut_role[HS_CUT_ROLES] = {HS_Q, HS_K, HS_V, HS_O, HS_QKV, HS_Z, HS_OUT, HS_UP, HS_GATE, HS_DOWN};

static bool may_split(const hs_part *p)
{
    return p && hs_dtype_packed(p->dtype) && !p->ordered && !p->scaled;
}

static uint32_t rows_of(const hs_part *p, double share)
{
    uint32_t rows = (uint32_t)(share * p->rows / GRAIN + 0.5) * GRAIN;
    return share >= 1.0 || rows > p->rows ? p->rows : rows;
}

/* The CPU makes its rows of silu(gate u) * up u whole, or none of them. */
static bool by_itself(const hs_group *g, hs_role role)
{
    hs_role other = role == HS_GATE ? HS_UP : HS_GATE;
    return (role != HS_GATE && role != HS_UP) || may_split(hs_group_find(g, other));
}

hs_cut hs_split_cut(const hs_group *g, double share)
{
    hs_cut cut = {0};
    for (int i = 0; i < HS_CUT_ROLES; i++) {
        const hs_part *p = hs_group_find(g, hs_cut_role[i]);
        if (!may_split(p) || !by_itself(g, hs_cut_role[i]))
            continue;
        const hs_planes *l = &p->planes;
        cut.rows[i] = rows_of(p, share);
        cut.bytes += (l->low_bytes + l->high_bytes + l->norms_bytes + l->zeros_bytes) / p->rows * cut.rows[i];
    }
    return cut;
}

uint32_t hs_cut_rows(const hs_cut *cut, hs_role role)
{
    for (int i = 0; i < HS_CUT_ROLES; i++)
        if (hs_cut_role[i] == role)
            return cut->rows[i];
    return 0;
}

/* Adds a hole, in order of offsets. */
static uint32_t add(hs_span *hole, uint32_t n, uint64_t offset, uint64_t bytes)
{
    uint32_t i = n;
    if (bytes == 0)
        return n;
    for (; i && hole[i - 1].offset > offset; i--)
        hole[i] = hole[i - 1];
    hole[i] = (hs_span){offset, bytes};
    return n + 1;
}

uint32_t hs_split_spans(const hs_group *g, const hs_cut *cut, hs_span *span)
{
    hs_span hole[4 * HS_CUT_ROLES];
    uint32_t holes = 0, spans = 0;
    uint64_t at = 0;
    for (int i = 0; i < HS_CUT_ROLES; i++) {
        const hs_part *p = cut->rows[i] ? hs_group_find(g, hs_cut_role[i]) : NULL;
        if (!p)
            continue;
        const hs_planes *l = &p->planes;
        holes = add(hole, holes, p->offset + l->low, l->low_bytes / p->rows * cut->rows[i]);
        holes = add(hole, holes, p->offset + l->high, l->high_bytes / p->rows * cut->rows[i]);
        holes = add(hole, holes, p->offset + l->norms, l->norms_bytes / p->rows * cut->rows[i]);
        holes = add(hole, holes, p->offset + l->zeros, l->zeros_bytes / p->rows * cut->rows[i]);
    }
    for (uint32_t i = 0; i <= holes; i++) {
        uint64_t end = i < holes ? hole[i].offset : g->bytes;
        if (end > at)
            span[spans++] = (hs_span){at, end - at};
        at = i < holes ? hole[i].offset + hole[i].bytes : end;
    }
    return spans;
}

/* ---- the share ------------------------------------------------------------------------------ */

void hs_split_bytes(const hs_table *t, uint64_t *all, uint64_t *shared)
{
    *all = *shared = 0;
    for (uint32_t g = 0; g < t->n_groups; g++)
        if (hs_group_may_stream(t, &t->group[g])) {
            *all += t->group[g].bytes * t->group[g].count;
            *shared += hs_split_cut(&t->group[g], 1.0).bytes * t->group[g].count;
        }
}

hs_split_share hs_split_first(double share)
{
    return (hs_split_share){.share = share, .best = share, .step = -STEP};
}

static double within(double share)
{
    return fmax(0.0, fmin(1.0, share));
}

/* The next trial: a step from the best, or back where that is the end. */
static void try(hs_split_share *s)
{
    s->share = within(s->best + s->step);
    if (s->share != s->best)
        return;
    s->step = -s->step;
    s->share = within(s->best + s->step);
}

static int ascending(const void *x, const void *y)
{
    uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a < b ? -1 : a > b;
}

void hs_split_learn(hs_split_share *s, uint64_t token_ns)
{
    s->ns[s->tokens++] = token_ns;
    if (s->tokens < HS_SPLIT_PERIOD)
        return;
    s->tokens = 0;
    qsort(s->ns, HS_SPLIT_PERIOD, sizeof *s->ns, ascending); /* one slow token is something else */
    uint64_t took = s->ns[HS_SPLIT_PERIOD / 2 - 1];
    if (s->share == s->best) {
        s->best_ns = took;
        if (s->rest)
            s->rest--;
        else
            try(s);
        return;
    }
    if ((double)took < GAIN * (double)s->best_ns) {
        s->best = s->share;
        s->best_ns = took;
        s->lost = 0;
        s->step = fmax(-STEP_MOST, fmin(STEP_MOST, 2 * s->step));
        try(s);
        return;
    }
    s->share = s->best;
    s->step = -s->step;
    if (++s->lost % 2)
        return;
    s->step /= 2;
    if (fabs(s->step) < STEP_LEAST) {
        s->step = copysign(STEP, s->step);
        s->rest = REST;
    }
}
