/*
 * offload/footprint.h - what a model's weights take: what is always there, and what could be streamed.
 */
#ifndef HS_OFFLOAD_FOOTPRINT_H
#define HS_OFFLOAD_FOOTPRINT_H

#include "loader/schema.h"

enum { HS_RING = 2 /* slots that the layers of a dense model pass through */ };

typedef struct hs_footprint {
    uint64_t trunk_bytes;    /* always resident */
    uint64_t embed_bytes;    /* of these, the embeddings: in ordinary memory */
    uint64_t stage_bytes;    /* what stages read of these: all but the embeddings, unless they are the head too */
    uint64_t slot_bytes;     /* of the largest streamed extent */
    uint64_t streamed_bytes; /* of all of them */
    uint32_t streamed;       /* extents that could be streamed */
    uint32_t groups;         /* in so many groups */
    uint32_t slots_min;      /* fewest slots that work */
} hs_footprint;

hs_footprint hs_footprint_of(const hs_table *table);

/* All but the MTP head where nobody drafts with it. */
bool hs_group_is_used(const hs_table *table, const hs_group *group);

/* Routed experts, the draft head's among them; of a dense model, its layers. */
bool hs_group_may_stream(const hs_table *table, const hs_group *group);

#endif
