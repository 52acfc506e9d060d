/*
 * offload/split.c - rows and bytes of a layer that is split.
 */
#include "offload/split.h"

enum {
    GRAIN = 16, /* rows: planes begin at multiples of 32 bytes */
    PERIOD = 8  /* tokens between two steps of the share */
};

/*
 * Where learning begins: ordinary memory of 38-60 GB/s for the CPU beside 12-25 GB/s of PCIe; steps of a sixteenth.
 */
static const double FIRST_SHARE = 0.75, STEP = 1.0 / 16;

static bool may_split(const hs_part *p)
{
    return p && hs_dtype_packed(p->dtype) && !p->ordered && !p->scaled;
}

static uint32_t rows_of(const hs_part *p, double share)
{
    uint32_t rows = (uint32_t)(share * p->rows / GRAIN + 0.5) * GRAIN;
    return share >= 1.0 || rows > p->rows ? p->rows : rows;
}

void hs_split_rows(const hs_group *g, double share, uint32_t *rows, uint32_t *down_rows)
{
    const hs_part *gate = hs_group_find(g, HS_GATE), *up = hs_group_find(g, HS_UP), *down = hs_group_find(g, HS_DOWN);
    *rows = *down_rows = 0;
    if (!may_split(gate) || !may_split(up) || !may_split(down))
        return;
    *rows = rows_of(gate, share);
    *down_rows = rows_of(down, share);
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

uint32_t hs_split_spans(const hs_group *g, uint32_t rows, uint32_t down_rows, hs_span *span)
{
    static const hs_role role[] = {HS_GATE, HS_UP, HS_DOWN};
    hs_span hole[3 * 4];
    uint32_t holes = 0, spans = 0;
    uint64_t at = 0;
    for (int i = 0; i < 3 && rows + down_rows; i++) {
        const hs_part *p = hs_group_find(g, role[i]);
        const hs_planes *l = &p->planes;
        uint64_t first = role[i] == HS_DOWN ? down_rows : rows;
        holes = add(hole, holes, p->offset + l->low, l->low_bytes / p->rows * first);
        holes = add(hole, holes, p->offset + l->high, l->high_bytes / p->rows * first);
        holes = add(hole, holes, p->offset + l->norms, l->norms_bytes / p->rows * first);
        holes = add(hole, holes, p->offset + l->zeros, l->zeros_bytes / p->rows * first);
    }
    for (uint32_t i = 0; i <= holes; i++) {
        uint64_t end = i < holes ? hole[i].offset : g->bytes;
        if (end > at)
            span[spans++] = (hs_span){at, end - at};
        at = i < holes ? hole[i].offset + hole[i].bytes : end;
    }
    return spans;
}

hs_split_share hs_split_first(void)
{
    return (hs_split_share){.share = FIRST_SHARE, .step = STEP};
}

void hs_split_learn(hs_split_share *s, uint64_t token_ns)
{
    s->ns += token_ns;
    if (++s->tokens < PERIOD)
        return;
    if (s->before_ns && s->ns > s->before_ns)
        s->step = -s->step;
    s->before_ns = s->ns;
    s->ns = s->tokens = 0;
    s->share += s->step;
    if (s->share > 1.0 || s->share < 0.0) {
        s->share = s->share > 1.0 ? 1.0 : 0.0;
        s->step = -s->step;
    }
}
