/*
 * cache/rival.h - would a cache that never changes do better?
 *
 * A caching policy can lose to keeping a fixed set of extents: those used most so far.  A few groups are watched; for
 * these a second slot table plays the policy that is not in use.  Where it hits more over a window, the two change
 * places, and the comparison goes on.  Bookkeeping only.
 */
#ifndef HS_CACHE_RIVAL_H
#define HS_CACHE_RIVAL_H

#include "cache/slots.h"

typedef struct hs_rival hs_rival;

/* Beside `slots`, made with `o`, which it may give another policy. Both are lent. */
hlwq_status hs_rival_open(hs_rival **r, hs_mem *mem, hs_slots *slots, const hs_slots_options *o, hlwq_error *err);
void hs_rival_close(hs_rival *r); /* NULL is fine */
uint64_t hs_rival_bytes(const hs_slots_options *o);

/* After every hs_slots_use: what it found. */
void hs_rival_use(hs_rival *r, uint32_t group, uint32_t extent, bool hit);

/* With every hs_slots_tick, and after a resize of `slots`. */
void hs_rival_tick(hs_rival *r, uint32_t ticks);
void hs_rival_resize(hs_rival *r);

typedef struct hs_rival_stats {
    bool fixed;                         /* the fixed set is in use now */
    uint32_t switches;                  /* so often they changed places */
    uint64_t lookups, hits, rival_hits; /* of the groups watched, after warming up */
} hs_rival_stats;
hs_rival_stats hs_rival_get_stats(const hs_rival *r);

#endif
