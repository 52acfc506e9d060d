/*
 * cache/rival.c - the other policy, played on some of the groups.
 */
#include "cache/rival.h"

#include <math.h>
#include <string.h>

enum {
    WATCHED = 4,  /* groups, spread evenly: a page of bookkeeping instead of a second cache table */
    WARM = 64,    /* ticks before the first comparison */
    WINDOW = 128, /* ticks of one */
};

struct hs_rival {
    hs_mem *mem;
    hs_slots *slots, *shadow;
    uint32_t groups, watched, keys;
    uint32_t *first; /* [groups + 1]: key of extent 0 */
    uint32_t *count; /* [keys]: uses so far */
    hs_policy policy;
    uint64_t tick, next;                /* the end of this window */
    uint64_t lookups, hits, rival_hits; /* in this window */
    hs_rival_stats stats;
};

static uint32_t watched_of(const hs_slots_options *o)
{
    return o->groups < WATCHED ? o->groups : WATCHED;
}

/* The group that the shadow calls i. */
static uint32_t group_of(const hs_rival *r, uint32_t i)
{
    return i * r->groups / r->watched;
}

static uint32_t keys_of(const hs_slots_options *o)
{
    uint32_t keys = 0;
    for (uint32_t g = 0; g < o->groups; g++)
        keys += o->extents[g];
    return keys;
}

static hs_slots_options shadow_options(const hs_slots_options *o, uint32_t *extents)
{
    hs_slots_options s = *o;
    s.groups = watched_of(o);
    s.extents = extents;
    s.capacity = 0;
    for (uint32_t i = 0; i < s.groups; i++)
        s.capacity += extents[i] = o->extents[i * o->groups / s.groups];
    s.policy = HS_POLICY_GIVEN;
    return s;
}

uint64_t hs_rival_bytes(const hs_slots_options *o)
{
    uint32_t extents[WATCHED];
    hs_slots_options s = shadow_options(o, extents);
    return sizeof(hs_rival) + (o->groups + 1 + keys_of(o)) * (uint64_t)sizeof(uint32_t) + hs_slots_bytes(&s) + 512;
}

hlwq_status hs_rival_open(hs_rival **out, hs_mem *mem, hs_slots *slots, const hs_slots_options *o, hlwq_error *err)
{
    void *p;
    uint32_t extents[WATCHED], keys = keys_of(o);
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, sizeof(hs_rival) + (o->groups + 1 + keys) * sizeof(uint32_t),
                        "cache comparison", &p, err));
    hs_rival *r = p;
    *r = (hs_rival){.mem = mem, .slots = slots, .groups = o->groups, .watched = watched_of(o), .keys = keys};
    r->first = (uint32_t *)(r + 1);
    r->count = r->first + o->groups + 1;
    for (uint32_t g = 0; g < o->groups; g++)
        r->first[g + 1] = r->first[g] + o->extents[g];
    r->policy = o->policy;
    r->next = WARM;
    hs_slots_options s = shadow_options(o, extents);
    hlwq_status st = hs_slots_open(&r->shadow, mem, &s, err);
    if (st != HLWQ_OK) {
        hs_rival_close(r);
        return st;
    }
    hs_rival_resize(r);
    *out = r;
    return HLWQ_OK;
}

void hs_rival_close(hs_rival *r)
{
    if (!r)
        return;
    hs_slots_close(r->shadow);
    hs_mem_free(r->mem, r);
}

void hs_rival_resize(hs_rival *r)
{
    uint32_t share = hs_slots_capacity(r->slots) / r->groups;
    uint32_t most = 0;
    for (uint32_t i = 0; i < r->watched; i++)
        most += r->first[group_of(r, i) + 1] - r->first[group_of(r, i)];
    uint32_t want = share * r->watched < most ? share * r->watched : most;
    hs_slots_set_floor(r->shadow, share);
    (void)hs_slots_resize(r->shadow, want); /* nothing of it is ever pinned for long */
}

/* What a fixed set would hold: the most used first, and of equals always the same. */
static double value(const hs_rival *r, uint32_t key)
{
    return (double)r->count[key] - (double)key / r->keys;
}

void hs_rival_use(hs_rival *r, uint32_t group, uint32_t extent, bool hit)
{
    uint32_t i = 0;
    r->count[r->first[group] + extent]++;
    while (i < r->watched && group_of(r, i) != group)
        i++;
    if (i == r->watched || hs_slots_capacity(r->shadow) == 0)
        return;
    r->lookups++;
    r->hits += hit;
    int32_t slot = hs_slots_use(r->shadow, i, extent);
    r->rival_hits += slot >= 0;
    if (slot < 0) {
        slot = hs_slots_claim(r->shadow, i, extent);
        if (slot < 0)
            return;
        hs_slots_ready(r->shadow, slot);
    }
    hs_slots_unpin(r->shadow, slot);
}

/* Gives the fixed set to whoever plays it now: the shadow's groups, or all of them. */
static void fix_shadow(hs_rival *r)
{
    for (uint32_t i = 0; i < r->watched; i++)
        for (uint32_t key = r->first[group_of(r, i)]; key < r->first[group_of(r, i) + 1]; key++)
            hs_slots_value(r->shadow, i, key - r->first[group_of(r, i)], value(r, key));
}

static void change_places(hs_rival *r)
{
    r->stats.fixed = !r->stats.fixed;
    r->stats.switches++;
    hs_slots_set_policy(r->slots, r->stats.fixed ? HS_POLICY_GIVEN : r->policy);
    hs_slots_set_policy(r->shadow, r->stats.fixed ? r->policy : HS_POLICY_GIVEN);
    for (uint32_t g = 0; r->stats.fixed && g < r->groups; g++)
        for (uint32_t key = r->first[g]; key < r->first[g + 1]; key++)
            hs_slots_value(r->slots, g, key - r->first[g], value(r, key));
}

void hs_rival_tick(hs_rival *r, uint32_t ticks)
{
    r->tick += ticks;
    hs_slots_tick(r->shadow, ticks);
    if (r->tick < r->next)
        return;
    if (r->next > WARM) {
        r->stats.lookups += r->lookups;
        r->stats.hits += r->hits;
        r->stats.rival_hits += r->rival_hits;
        if (r->rival_hits > r->hits + r->hits / 50 + 8) /* by more than chance */
            change_places(r);
    }
    if (!r->stats.fixed)
        fix_shadow(r);
    r->lookups = r->hits = r->rival_hits = 0;
    r->next = r->tick + WINDOW;
}

hs_rival_stats hs_rival_get_stats(const hs_rival *r)
{
    return r->stats;
}
