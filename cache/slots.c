/*
 * cache/slots.c - the slot table.  A victim is found by looking at every slot: some thousands of comparisons for each
 * of the few misses of a token, which is less than a per cent of what reading the miss takes.
 */
#include "cache/slots.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <strings.h>

enum { EMPTY, FILLING, READY };

typedef struct slot {
    uint32_t key; /* of the extent */
    uint32_t group, pins;
    uint8_t state;
    uint64_t filled; /* order of claims */
} slot;

struct hs_slots {
    hs_mem *mem;
    hs_slots_options o;
    uint32_t made, keys, next_free;
    uint64_t order, tick;
    uint64_t step; /* calls of hs_slots_tick */
    hs_slots_stats stats;
    slot *slot;       /* [made] */
    int32_t *held;    /* [keys]: slot or -1 */
    double *worth;    /* [keys]: log2 of the LFRU sum, the count of LFU, or GIVEN */
    uint64_t *last;   /* [keys]: order of the last use */
    uint64_t *used;   /* [keys]: 1 + tick of the last use */
    uint8_t *proven;  /* [keys]: it was used twice within `admit` ticks */
    uint32_t *first;  /* [groups]: key of extent 0 */
    uint32_t *in_use; /* [groups]: slots that hold one of the group */
    uint64_t *seen;   /* [groups]: step of the last use */
};

/* A draft head that does not pay is not used for so long; layers always are. */
enum { IDLE_STEPS = 16 };

static const char *const name[HS_POLICY_COUNT] = {"lfru", "lru", "lfu", "fifo", "given"};

const char *hs_policy_name(hs_policy policy)
{
    return name[policy];
}

bool hs_policy_of(const char *text, hs_policy *policy)
{
    for (int i = 0; i < HS_POLICY_GIVEN; i++)
        if (strcasecmp(text, name[i]) == 0) {
            *policy = (hs_policy)i;
            return true;
        }
    return false;
}

static uint32_t keys_of(const hs_slots_options *o)
{
    uint32_t keys = 0;
    for (uint32_t g = 0; g < o->groups; g++)
        keys += o->extents[g];
    return keys;
}

uint64_t hs_slots_bytes(const hs_slots_options *o)
{
    return sizeof(hs_slots) + o->capacity * sizeof(slot) + keys_of(o) * (uint64_t)(8 + 8 + 8 + 4 + 1) +
           o->groups * 16u + 256;
}

static uint8_t *carve(uint8_t **at, uint64_t bytes)
{
    uint8_t *p = *at;
    *at += (bytes + 15) / 16 * 16;
    return p;
}

hlwq_status hs_slots_open(hs_slots **out, hs_mem *mem, const hs_slots_options *o, hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, hs_slots_bytes(o), "cache table", &p, err));
    uint8_t *at = p;
    hs_slots *s = (hs_slots *)(void *)carve(&at, sizeof *s);
    s->mem = mem;
    s->o = *o;
    s->made = o->capacity;
    s->keys = keys_of(o);
    s->slot = (slot *)(void *)carve(&at, o->capacity * sizeof(slot));
    s->worth = (double *)(void *)carve(&at, s->keys * sizeof(double));
    s->last = (uint64_t *)(void *)carve(&at, s->keys * sizeof(uint64_t));
    s->used = (uint64_t *)(void *)carve(&at, s->keys * sizeof(uint64_t));
    s->proven = carve(&at, s->keys);
    s->held = (int32_t *)(void *)carve(&at, s->keys * sizeof(int32_t));
    s->first = (uint32_t *)(void *)carve(&at, o->groups * sizeof(uint32_t));
    s->in_use = (uint32_t *)(void *)carve(&at, o->groups * sizeof(uint32_t));
    s->seen = (uint64_t *)(void *)carve(&at, o->groups * sizeof(uint64_t));
    assert(at <= (uint8_t *)p + hs_slots_bytes(o));
    for (uint32_t g = 0, key = 0; g < o->groups; key += o->extents[g++])
        s->first[g] = key;
    for (uint32_t k = 0; k < s->keys; k++) {
        s->held[k] = -1;
        s->worth[k] = o->policy == HS_POLICY_LFRU ? -INFINITY : 0.0;
    }
    s->o.extents = NULL; /* the caller's */
    *out = s;
    return HLWQ_OK;
}

void hs_slots_close(hs_slots *s)
{
    if (!s)
        return;
    assert(hs_slots_pinned(s) == 0);
    hs_mem_free(s->mem, s);
}

void hs_slots_tick(hs_slots *s, uint32_t ticks)
{
    s->tick += ticks;
    s->step++;
}

static uint32_t key_of(const hs_slots *s, uint32_t group, uint32_t extent)
{
    assert(group < s->o.groups && s->first[group] + extent < s->keys);
    return s->first[group] + extent;
}

/* log2(2^a + 2^b) */
static double add_log2(double a, double b)
{
    double high = a > b ? a : b, low = a > b ? b : a;
    return high + log2(1.0 + exp2(low - high));
}

int32_t hs_slots_use(hs_slots *s, uint32_t group, uint32_t extent)
{
    uint32_t key = key_of(s, group, extent);
    int32_t at = s->held[key];
    s->stats.lookups++;
    s->seen[group] = s->step;
    s->last[key] = ++s->order;
    s->proven[key] = s->o.admit && s->used[key] && s->tick + 1 - s->used[key] <= s->o.admit;
    s->used[key] = s->tick + 1;
    if (s->o.policy == HS_POLICY_LFRU)
        s->worth[key] = add_log2(s->worth[key], (double)s->tick / s->o.half_life);
    else if (s->o.policy == HS_POLICY_LFU)
        s->worth[key] += 1.0;
    if (at < 0) {
        s->stats.misses++;
        return -1;
    }
    if (s->slot[at].state == READY)
        s->stats.hits++;
    else
        s->stats.misses++;
    s->slot[at].pins++;
    return at;
}

void hs_slots_missed(hs_slots *s, int32_t at)
{
    hs_slots_unpin(s, at);
    s->stats.hits--;
    s->stats.misses++;
}

int32_t hs_slots_find(const hs_slots *s, uint32_t group, uint32_t extent)
{
    return s->held[key_of(s, group, extent)];
}

/* Whether a is worth less than b: a strict order. */
static bool less(const hs_slots *s, const slot *a, const slot *b)
{
    double x = s->worth[a->key], y = s->worth[b->key];
    if (s->proven[a->key] != s->proven[b->key])
        return s->proven[b->key];
    switch (s->o.policy) {
    case HS_POLICY_FIFO: return a->filled < b->filled;
    case HS_POLICY_LRU: return s->last[a->key] < s->last[b->key];
    default: return x != y ? x < y : s->last[a->key] < s->last[b->key];
    }
}

/* Slots that others may not take from a group, now. */
static uint32_t floor_of(const hs_slots *s, uint32_t group)
{
    return s->step - s->seen[group] > IDLE_STEPS ? 0 : s->o.floor;
}

static int32_t victim(const hs_slots *s, uint32_t group)
{
    int32_t best = -1;
    for (uint32_t i = 0; i < s->o.capacity; i++) {
        const slot *c = &s->slot[i];
        if (c->state != READY || c->pins || (c->group != group && s->in_use[c->group] <= floor_of(s, c->group)))
            continue;
        if (best < 0 || less(s, c, &s->slot[best]))
            best = (int32_t)i;
    }
    return best;
}

static void empty(hs_slots *s, slot *c)
{
    s->held[c->key] = -1;
    s->in_use[c->group]--;
    c->state = EMPTY;
}

/* Empty slots that the group may have: its own share, and of the others' what their floors leave. */
static int32_t free_slot(hs_slots *s, uint32_t group)
{
    uint64_t kept = 0, used = 0;
    for (uint32_t g = 0; g < s->o.groups; g++) {
        used += s->in_use[g];
        uint32_t floor = floor_of(s, g);
        if (g != group && s->in_use[g] < floor)
            kept += floor - s->in_use[g];
    }
    if (used + kept >= s->o.capacity)
        return -1;
    for (uint32_t i = 0; i < s->o.capacity; i++) {
        uint32_t at = (s->next_free + i) % s->o.capacity;
        if (s->slot[at].state == EMPTY) {
            s->next_free = (at + 1) % s->o.capacity;
            return (int32_t)at;
        }
    }
    return -1;
}

static int32_t claim(hs_slots *s, uint32_t group, uint32_t extent, bool if_better)
{
    uint32_t key = key_of(s, group, extent);
    assert(s->held[key] < 0);
    int32_t at = free_slot(s, group);
    if (at < 0) {
        const slot it = {.key = key, .filled = s->order + 1};
        at = victim(s, group);
        if (at < 0 || (if_better && !less(s, &s->slot[at], &it)))
            return -1;
        empty(s, &s->slot[at]);
        s->stats.evictions++;
    }
    s->slot[at] = (slot){.key = key, .group = group, .pins = 1, .state = FILLING, .filled = ++s->order};
    s->held[key] = at;
    s->in_use[group]++;
    return at;
}

int32_t hs_slots_claim(hs_slots *s, uint32_t group, uint32_t extent)
{
    return claim(s, group, extent, false);
}

int32_t hs_slots_claim_if_better(hs_slots *s, uint32_t group, uint32_t extent)
{
    return claim(s, group, extent, true);
}

void hs_slots_ready(hs_slots *s, int32_t at)
{
    assert(s->slot[at].state == FILLING);
    s->slot[at].state = READY;
    s->stats.filled++;
}

void hs_slots_abandon(hs_slots *s, int32_t at)
{
    slot *c = &s->slot[at];
    assert(c->state == FILLING);
    c->pins = 0;
    empty(s, c);
}

void hs_slots_drop(hs_slots *s, int32_t at)
{
    slot *c = &s->slot[at];
    assert(c->state == READY && c->pins == 0);
    empty(s, c);
}

bool hs_slots_is_ready(const hs_slots *s, int32_t at)
{
    return s->slot[at].state == READY;
}

void hs_slots_pin(hs_slots *s, int32_t at)
{
    assert(s->slot[at].state != EMPTY);
    s->slot[at].pins++;
}

void hs_slots_unpin(hs_slots *s, int32_t at)
{
    assert(s->slot[at].pins > 0);
    s->slot[at].pins--;
}

void hs_slots_value(hs_slots *s, uint32_t group, uint32_t extent, double value)
{
    s->worth[key_of(s, group, extent)] = value;
}

void hs_slots_set_policy(hs_slots *s, hs_policy policy)
{
    s->o.policy = policy;
    for (uint32_t k = 0; k < s->keys; k++)
        s->worth[k] = policy == HS_POLICY_LFRU ? -INFINITY : 0.0;
}

bool hs_slots_resize(hs_slots *s, uint32_t capacity)
{
    assert(capacity <= s->made);
    for (uint32_t i = capacity; i < s->o.capacity; i++)
        if (s->slot[i].pins || s->slot[i].state == FILLING)
            return false;
    for (uint32_t i = capacity; i < s->o.capacity; i++)
        if (s->slot[i].state == READY) {
            empty(s, &s->slot[i]);
            s->stats.evictions++;
        }
    s->o.capacity = capacity;
    s->next_free = 0;
    return true;
}

void hs_slots_set_floor(hs_slots *s, uint32_t floor)
{
    s->o.floor = floor;
}

uint32_t hs_slots_capacity(const hs_slots *s)
{
    return s->o.capacity;
}

uint32_t hs_slots_pinned(const hs_slots *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->made; i++)
        n += s->slot[i].pins != 0;
    return n;
}

hs_slots_stats hs_slots_get_stats(const hs_slots *s)
{
    return s->stats;
}
