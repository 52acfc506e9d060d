/*
 * cache/slots.h - which extents are held in which slots, and which one makes room.
 *
 * Bookkeeping only: no memory of weights, no I/O, no threads.  A slot goes EMPTY -> FILLING -> READY; a pinned slot
 * is in use and is never taken.  Every group (a layer) keeps `floor` slots that other groups may not take, unless it
 * was idle for 16 calls of hs_slots_tick; the rest is one pool.  Uses are counted for extents whether they are held or
 * not, so that one which comes back is known.
 *
 * Policies, by what a slot is worth: LFRU a sum of 2^(tick / half-life) over its uses, that is, frequency that halves
 * every half-life; LRU the last use; LFU the number of uses, then the last; FIFO when it was filled; GIVEN what
 * hs_slots_value said.
 */
#ifndef HS_CACHE_SLOTS_H
#define HS_CACHE_SLOTS_H

#include "base/mem.h"

typedef enum hs_policy {
    HS_POLICY_LFRU,
    HS_POLICY_LRU,
    HS_POLICY_LFU,
    HS_POLICY_FIFO,
    HS_POLICY_GIVEN,
    HS_POLICY_COUNT
} hs_policy;

const char *hs_policy_name(hs_policy policy);
bool hs_policy_of(const char *name, hs_policy *policy); /* all but GIVEN */

typedef struct hs_slots_options {
    uint32_t groups;
    const uint32_t *extents; /* [groups] */
    uint32_t capacity;       /* slots; hs_slots_resize may lower it and raise it back */
    uint32_t floor;
    hs_policy policy;
    double half_life; /* ticks */
    uint32_t admit;   /* ticks: an extent whose use before the last is longer ago goes first; 0 = all are alike */
} hs_slots_options;

typedef struct hs_slots_stats {
    uint64_t lookups, hits, misses, evictions, filled;
} hs_slots_stats;

typedef struct hs_slots hs_slots;

hlwq_status hs_slots_open(hs_slots **slots, hs_mem *mem, const hs_slots_options *options, hlwq_error *err);
void hs_slots_close(hs_slots *slots); /* asserts that nothing is pinned; NULL is fine */
uint64_t hs_slots_bytes(const hs_slots_options *options);

/* Time for half-lives: one tick a token. */
void hs_slots_tick(hs_slots *s, uint32_t ticks);

/* A use of an extent: counted (a hit if READY), and pinned if READY or FILLING. Returns its slot or -1. */
int32_t hs_slots_use(hs_slots *s, uint32_t group, uint32_t extent);

/* That use was a miss, though the slot is READY: who wanted it could not have it yet. It is unpinned. */
void hs_slots_missed(hs_slots *s, int32_t slot);

/* The slot that holds it or will; -1 if none. Counts nothing. */
int32_t hs_slots_find(const hs_slots *s, uint32_t group, uint32_t extent);

/*
 * A slot for an extent that has none, FILLING and pinned once, made by evicting the least worth; -1 if every slot that
 * the group may take is pinned.
 */
int32_t hs_slots_claim(hs_slots *s, uint32_t group, uint32_t extent);

/* The same, but -1 also where what would be evicted is worth as much or more. */
int32_t hs_slots_claim_if_better(hs_slots *s, uint32_t group, uint32_t extent);

void hs_slots_ready(hs_slots *s, int32_t slot);   /* FILLING -> READY */
void hs_slots_abandon(hs_slots *s, int32_t slot); /* FILLING -> EMPTY, whoever had it pinned */
void hs_slots_drop(hs_slots *s, int32_t slot);    /* READY -> EMPTY; nobody has it pinned */
bool hs_slots_is_ready(const hs_slots *s, int32_t slot);
void hs_slots_pin(hs_slots *s, int32_t slot);
void hs_slots_unpin(hs_slots *s, int32_t slot);

/* What the extent is worth from now on (GIVEN). */
void hs_slots_value(hs_slots *s, uint32_t group, uint32_t extent, double value);

/* From now on; what slots were worth by the old policy is forgotten. */
void hs_slots_set_policy(hs_slots *s, hs_policy policy);

/* Slots below `capacity` (0: none) stay; those from it on are evicted. False, and nothing done, if one of them is
 * pinned. */
bool hs_slots_resize(hs_slots *s, uint32_t capacity);
uint32_t hs_slots_capacity(const hs_slots *s);
void hs_slots_set_floor(hs_slots *s, uint32_t floor);
uint32_t hs_slots_pinned(const hs_slots *s);

hs_slots_stats hs_slots_get_stats(const hs_slots *s);

#endif
