/*
 * offload/residency_private.h - what opening (residency.c) and using (residency_use.c) share.
 */
#ifndef HS_OFFLOAD_RESIDENCY_PRIVATE_H
#define HS_OFFLOAD_RESIDENCY_PRIVATE_H

#include "offload/residency.h"
#include "offload/slab.h"
#include "offload/split.h"
#include "offload/upper.h"

enum { READS_MAX = 256 /* extents being read at once */ };
enum { FLIGHTS = 64, HS_RESIDENCY_ADMIT = 2 }; /* extents being copied up at once; begun after a layer of experts */
/* One of them, the slot that it fills, and the slot below that it is read from; -1 = memory that stays. */
typedef struct flight {
    uint64_t copy;
    int32_t above, below;
} flight;

/* What was computed beside, to be copied up when the step is over: a group of the table, and of it. */
typedef struct later {
    uint32_t group;
    int32_t extent;
} later;

/* One extent being read. */
typedef struct reading {
    hs_transfer transfer;
    int32_t slot;
    uint32_t group, extent; /* of the table */
    struct reading *next;
} reading;

struct hs_residency {
    hs_store *store;
    hs_mem *mem;
    const hs_table *table;
    bool verify, always, dense; /* always: checksums at every read, not only the first */
    hs_backend *backend;        /* whose memory the trunk is in */
    uint8_t **data;             /* [n_groups], extents one after another, where stages find them; NULL = not always */
    uint8_t *above;             /* one block of the backend's own memory for all that stays there */
    uint64_t above_bytes;       /* of it, given out */
    uint8_t **host;             /* [n_groups], likewise in ordinary memory; may be the same */
    uint32_t *index;            /* [n_groups]: number among the streamed groups, or UINT32_MAX */
    uint32_t *layers;           /* [groups]: the group of each, in order */
    uint32_t groups;

    hs_upper upper; /* slots NULL = none: everything is in the backend's memory, or that is ordinary memory */

    flight flight[FLIGHTS]; /* flight[i % FLIGHTS] for first_flight <= i < end_flight, the oldest first */
    uint64_t first_flight, end_flight;

    /* Streaming; slots is NULL while all of that is in ordinary memory, or above. */
    hs_slots *slots;
    hs_rival *rival;       /* NULL = nothing to compare with */
    hs_rival *upper_rival; /* likewise, of the slots above */
    hs_stream *stream;
    hs_slab slab;
    hlwq_status changed; /* the file was found to be another, and this says so */
    hlwq_error change;
    uint64_t wait_ns, position;
    uint64_t guessed, guessed_right, judged, judged_right, quiet_until, tokens;
    uint8_t *on_guess; /* [slots_made]: read on a guess and not used yet */
    uint32_t slots_made;
    bool own_memory;
    uint64_t piece_bytes;              /* that every step reads */
    uint64_t card_bytes, memory_bytes; /* read so far, above and below */
    reading *read, *spare;             /* [READS_MAX]; those not in use */
    uint64_t *checked;                 /* bit per streamed extent: its checksum was right once */
    uint32_t *first_bit;               /* [groups] */

    /* A dense model's layer that is copied up before it is needed: pinned above, and below where it is cut. */
    struct {
        bool there;
        uint32_t group; /* of the table */
        int32_t above;
        hs_cut cut;
    } ahead;
    hs_split_share share; /* of layers that come up in part */
    hs_beside experts;    /* of a mixture, that the CPU computes */
    uint64_t token_began_ns;
    bool token_is_one; /* that token was a lone one */

    /* The use under way. */
    hs_cut cut;           /* what the CPU computes; the layer stays below until the end then, and not above */
    bool begun, given;    /* given: `ready` is what next gave out */
    bool apart;           /* what is above is not this use's business: it was found there */
    uint32_t given_above; /* or so many of `here` are, the first ones */
    uint32_t n_found;     /* of `here` were there before; those after them are on their way */
    bool sorted;          /* how many of `ready` stay below was decided: `beside` */
    uint32_t group, last_tokens, n_here, n_ready, n_missing, n_waiting, beside;
    double each;                               /* tokens that chose one extent */
    int32_t *here, *ready, *missing, *waiting; /* extents: above; can be used below; without a slot; being read */
    uint8_t *seen;                             /* [extents of the group]: one of seen */

    bool unsettled; /* there were uses apart since hs_residency_settle */
    later *later;   /* [n_later of 2 * groups] */
    uint32_t n_later, first_later;
};

/* Copies up that are done let go of what they read; with `all`, that is waited for. */
hlwq_status hs_residency_land(hs_residency *r, bool all, hlwq_error *err);

/*
 * Asks for an extent that has no slot; its slot, or -1 if every slot, or read, is in use.  The claim's pin is the
 * read's.
 */
int32_t hs_residency_start_read(hs_residency *r, uint32_t group, uint32_t extent);

/* Begins to copy up what is not cut of an extent that can be used below; it stays there until that is done. */
hlwq_status hs_residency_take_up(hs_residency *r, uint32_t group, int32_t extent, const hs_cut *cut, bool if_better,
                                 int32_t *slot, hlwq_error *err);

/* Takes in a finished read: a ready slot, or an empty one and the first error. */
void hs_residency_collect(hs_residency *r, hs_transfer *t, hlwq_status *st, hlwq_error *err);

/* ---- residency_dense.c ----------------------------------------------------------------------- */

/* Layers after the one in use begin to be read. */
void hs_residency_read_ahead(hs_residency *r);

/* What of a layer the CPU is to compute, when so many tokens as now come to it. */
hs_cut hs_residency_cut(const hs_residency *r, uint32_t group);

/* What a layer is worth above, from now on. */
void hs_residency_value_above(hs_residency *r, uint32_t layer);

/* The next layer that is not above begins to come up, if it is in ordinary memory. */
hlwq_status hs_residency_copy_ahead(hs_residency *r, hlwq_error *err);

/* The layer in use was copied up ahead: its pins are the use's now, but for the one that the use took itself. */
void hs_residency_come_from_ahead(hs_residency *r);

/* What was copied up ahead is let go, whoever would have used it. */
void hs_residency_forget_ahead(hs_residency *r);

#endif
