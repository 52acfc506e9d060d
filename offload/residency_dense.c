/*
 * offload/residency_dense.c - a dense model's layers, which come one after another: which of them stay where, and what
 * is read and copied up before it is needed.
 */
#include "offload/residency_private.h"

enum { AHEAD = 2 /* layers that are read at once before they are needed */ };

/*
 * A dense model's layers come in a circle, where every policy that looks back fails.  All slots but a ring keep their
 * layers for good, spread evenly so that copies and the disk have time between them; the others pass through the ring.
 * Of a ring above, one slot is in use and one is copied into; below one more is being read.
 */
uint32_t hs_residency_kept(uint32_t upper_slots)
{
    return upper_slots > HS_RING ? upper_slots - HS_RING : 0;
}

static uint32_t ring_below(const hs_residency *r)
{
    return r->upper.slots && hs_slots_capacity(r->slots) > HS_RING ? HS_RING + 1 : HS_RING;
}

static uint64_t kept_above(const hs_residency *r)
{
    return r->upper.slots ? hs_residency_kept(hs_slots_capacity(r->upper.slots)) : 0;
}

static bool spread(uint64_t kept, uint64_t of, uint64_t i)
{
    return (i + 1) * kept / of > i * kept / of;
}

static bool stays_above(const hs_residency *r, uint32_t layer)
{
    return spread(kept_above(r), r->groups, layer);
}

/* Of those that do not stay above. */
static bool stays(const hs_residency *r, uint32_t layer)
{
    uint64_t above = kept_above(r), of = r->groups - above, kept = hs_slots_capacity(r->slots) - ring_below(r);
    return !stays_above(r, layer) && spread(kept < of ? kept : of, of, layer - layer * above / r->groups);
}

static bool is_above(const hs_residency *r, uint32_t layer)
{
    return r->upper.slots && hs_slots_find(r->upper.slots, layer, 0) >= 0;
}

void hs_residency_read_ahead(hs_residency *r)
{
    uint32_t here = r->index[r->group], under_way = 0, ring = ring_below(r);
    uint32_t ahead = !stays(r, here) && hs_slots_find(r->slots, here, 0) >= 0;
    hs_slots_value(r->slots, here, 0, stays(r, here) ? 1.0 : -(double)(r->position + r->groups));
    for (uint32_t k = 1; k < r->groups && under_way < AHEAD; k++) {
        uint32_t next = (here + k) % r->groups;
        int32_t slot = hs_slots_find(r->slots, next, 0);
        if (stays_above(r, next) && is_above(r, next)) { /* below it was needed once */
            hs_slots_value(r->slots, next, 0, -(double)(r->position + r->groups + k));
            continue;
        }
        hs_slots_value(r->slots, next, 0, stays(r, next) ? 1.0 : -(double)(r->position + k));
        if (!stays(r, next) && (slot >= 0 || ahead < ring))
            ahead++;
        else if (!stays(r, next))
            return; /* the ring is full of layers that are needed sooner */
        if (slot >= 0) {
            under_way += !hs_slots_is_ready(r->slots, slot);
            continue;
        }
        if (hs_residency_start_read(r, r->layers[next], 0) < 0)
            return;
        under_way++;
    }
}

/* ---- a layer that is copied up before it is needed ------------------------------------------- */

hs_cut hs_residency_cut(const hs_residency *r, uint32_t group)
{
    if (r->last_tokens > HS_SPLIT_TOKENS || !r->backend->ops->split || stays_above(r, r->index[group]))
        return (hs_cut){0};
    return hs_split_cut(&r->table->group[group], r->upper.beside >= 0 ? r->upper.beside : r->share.share);
}

/* A layer that passes through makes room before those that were used longer ago: these come again sooner. */
void hs_residency_value_above(hs_residency *r, uint32_t layer)
{
    hs_slots_value(r->upper.slots, layer, 0, stays_above(r, layer) ? 1.0 : -(double)r->position);
}

void hs_residency_forget_ahead(hs_residency *r)
{
    if (!r->ahead.there)
        return;
    uint32_t layer = r->index[r->ahead.group];
    hs_slots_unpin(r->upper.slots, r->ahead.above);
    if (r->ahead.cut.bytes) {
        hs_slots_drop(r->upper.slots, r->ahead.above);
        if (r->slots)
            hs_slots_unpin(r->slots, hs_slots_find(r->slots, layer, 0));
    }
    r->ahead.there = false;
}

void hs_residency_come_from_ahead(hs_residency *r)
{
    hs_slots_unpin(r->upper.slots, r->ahead.above);
    r->cut = r->ahead.cut;
    r->upper.beside_count += r->cut.bytes > 0;
    r->ahead.there = false;
}

hlwq_status hs_residency_copy_ahead(hs_residency *r, hlwq_error *err)
{
    uint32_t here = r->index[r->group], next = here, k = 1;
    if (!r->dense || r->ahead.there || hs_slots_capacity(r->upper.slots) < HS_RING)
        return HLWQ_OK;
    for (; k < r->groups; k++) {
        next = (here + k) % r->groups;
        if (!is_above(r, next))
            break;
    }
    int32_t below = r->slots ? hs_slots_find(r->slots, next, 0) : -1, slot;
    if (k == r->groups || (r->slots && (below < 0 || !hs_slots_is_ready(r->slots, below))))
        return HLWQ_OK;
    uint32_t group = r->layers[next];
    hs_cut cut = hs_residency_cut(r, group);
    hs_residency_value_above(r, next);
    HS_TRY(hs_residency_take_up(r, group, 0, &cut, false, &slot, err));
    if (slot < 0)
        return HLWQ_OK;
    if (r->slots && cut.bytes)
        hs_slots_pin(r->slots, below);
    r->ahead.there = true;
    r->ahead.group = group;
    r->ahead.above = slot;
    r->ahead.cut = cut;
    return HLWQ_OK;
}
