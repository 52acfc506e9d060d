/*
 * offload/upper.h - slots in a backend's own memory (a graphics card's), above those in ordinary memory.
 */
#ifndef HS_OFFLOAD_UPPER_H
#define HS_OFFLOAD_UPPER_H

#include "cache/slots.h"
#include "kernels/backend.h"

/* What a slot was filled with, and whether the backend's own table says so. */
typedef struct hs_upper_holds {
    uint32_t group, extent;
    bool told;
} hs_upper_holds;

typedef struct hs_upper {
    hs_mem *mem;
    hs_backend *backend;
    hs_slots *slots;
    uint8_t *memory; /* of the first `kept` slots, which always are there */
    uint8_t **chunk; /* [chunks]: of those after them, hs_slab_per_chunk each; NULL = not now */
    uint32_t kept, capacity, chunks;
    uint64_t slot_bytes;
    uint64_t *free_at;     /* [capacity]: the mark after which nothing reads what the slot held, */
    uint64_t all_free_at;  /* and the one for those that stages have found by themselves */
    uint64_t *copy;        /* [capacity]: what filled it */
    hs_upper_holds *holds; /* [capacity] */
    bool tells;            /* the backend has a table */
    double beside; /* share of the experts that are not here which the CPU computes; below 0: by what is usual */
    uint64_t uploads, upload_bytes; /* extents; of them */
    uint64_t beside_count;
} hs_upper;

/* `kept` slots, and room in the tables for options->capacity. */
hlwq_status hs_upper_open(hs_upper *u, hs_mem *mem, hs_backend *backend, const hs_slots_options *options, uint32_t kept,
                          uint64_t slot_bytes, double beside, hlwq_error *err);
void hs_upper_close(hs_upper *u); /* idempotent for zeroed structs */

/*
 * Up to `slots` slots from now on, whole chunks of those that are not always there: memory is taken, or given back.
 * Nothing is in use, and no copy under way.
 */
hlwq_status hs_upper_resize(hs_upper *u, uint32_t slots, hlwq_error *err);

const uint8_t *hs_upper_data(const hs_upper *u, int32_t slot);

/* Bytes of an extent. */
typedef struct hs_span {
    uint64_t offset, bytes;
} hs_span;

/*
 * Begins to copy spans of an extent up.  The slot, ready and pinned once: stages may use it after hs_upper_await.
 * `data` must stay until the copy is done (*copy).  -1 if every slot is in use, or, with `if_better`, holds what is
 * worth more.
 */
hlwq_status hs_upper_take(hs_upper *u, uint32_t group, uint32_t extent, const uint8_t *data, const hs_span *span,
                          uint32_t spans, bool if_better, int32_t *slot, hlwq_error *err);
uint64_t hs_upper_copy(const hs_upper *u, int32_t slot);

/* The copy is done: stages may find by themselves what the slot was filled with then, if it still holds that. */
hlwq_status hs_upper_landed(hs_upper *u, int32_t slot, uint64_t copy, hlwq_error *err);

/* Stages from now on find these extents, which are all held. */
hlwq_status hs_upper_await(hs_upper *u, uint32_t group, const int32_t *extent, uint32_t n, hlwq_error *err);

/* Stages asked for so far may read any of the slots. */
hlwq_status hs_upper_used(hs_upper *u, hlwq_error *err);

/* Stages asked for so far were the last to use these; each is unpinned once. */
void hs_upper_release(hs_upper *u, uint32_t group, const int32_t *extent, uint32_t n);

#endif
