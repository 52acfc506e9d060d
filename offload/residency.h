/*
 * offload/residency.h - which extents are in memory, and the right to use them for a while.
 *
 * Either everything is resident from the start; or the trunk is, and the streamed groups - the routed experts of each
 * layer, or of a dense model the layers themselves - share a number of slots that are filled from the file as they are
 * needed.  Which it is shows in time, never in what the weights are.
 *
 * A backend with memory of its own has the trunk there, but for the embeddings, and slots of its own above those in
 * ordinary memory: an expert that is in neither comes from the file to memory, and is copied up, or computed beside the
 * backend by the CPU.
 *
 * A group is used between begin and end: next gives what is ready first and waits for the rest while that is computed.
 * One group at a time.
 */
#ifndef HS_OFFLOAD_RESIDENCY_H
#define HS_OFFLOAD_RESIDENCY_H

#include "cache/rival.h"
#include "kernels/backend.h"
#include "offload/beside.h"
#include "offload/footprint.h"
#include "offload/split.h"
#include "offload/store.h"
#include "stream/stream.h"

typedef struct hs_residency hs_residency;

typedef struct hs_residency_options {
    bool verify;               /* checksums when an extent first comes in */
    bool always;               /* with verify: every time */
    hlwq_progress_fn progress; /* may be NULL */
    void *user;
    uint32_t slots;        /* for the streamed groups; 0 = everything resident */
    bool own_memory;       /* the backend's memory is not ordinary memory */
    uint32_t upper_slots;  /* then: slots there; 0 = everything is there */
    uint32_t upper_most;   /* that hs_residency_resize_upper may raise them to; 0 = no more than these */
    double beside;         /* share of what is not there that the CPU computes; below 0: as is best */
    double first_share;    /* of a dense model's layers, where it is looked for */
    hs_beside_rates rates; /* of a mixture's experts, likewise; and so many of a layer that will be missing */
    double missing;
    hs_policy policy;
    double half_life; /* tokens */
    uint32_t admit;   /* tokens, as hs_slots_options has it */
    bool rival;       /* LFRU is compared with a fixed set while running, and gives way where that is better */
    hs_stream_options stream;
} hs_residency_options;

/* Policy LFRU, half-life 16 tokens, compared with a fixed set; everything resident. */
hs_residency_options hs_residency_options_default(void);

/* Loads what is always there, outside the MTP groups. All are lent and must outlive it. */
hlwq_status hs_residency_open(hs_residency **r, hs_store *store, hs_mem *mem, hs_pool *pool, hs_backend *backend,
                              const hs_residency_options *options, hlwq_error *err);
void hs_residency_close(hs_residency *r); /* asserts that nothing is in use; NULL is fine */

/* Bytes that `slots` slots take beside the trunk (0 = everything resident): memory, tables, transfers. */
uint64_t hs_residency_slots_bytes(const hs_table *table, uint32_t slots);

/* Of so many slots on a card, those in which a dense model's layers stay; the others pass through the rest. */
uint32_t hs_residency_kept(uint32_t upper_slots);

bool hs_residency_streams(const hs_residency *r, uint32_t group);

/* The one extent of a group that is always there: for stages, and in ordinary memory (embeddings only). */
const uint8_t *hs_residency_trunk(const hs_residency *r, uint32_t group);
const uint8_t *hs_residency_host(const hs_residency *r, uint32_t group);

/* Time passes: n tokens are about to be computed. */
void hs_residency_tokens(hs_residency *r, uint32_t n);

/*
 * `extent` [n] may repeat.  `found` [n], or NULL: those that are not 0 are in use above already, nobody asks for them;
 * the others are given out in ordinary memory, and what that has for the memory above waits until hs_residency_settle.
 */
void hs_residency_begin(hs_residency *r, uint32_t group, const int32_t *extent, const uint64_t *found, uint32_t n);

/* Whether what is not above is computed beside, all of it, for so many tokens at once. */
bool hs_residency_all_beside(const hs_residency *r, uint32_t tokens);

/* All stages of these tokens were asked for: what came into use with `found` is let go, and copies up begin. */
hlwq_status hs_residency_settle(hs_residency *r, hlwq_error *err);

/* Extents that can be used now, until the next call, all in one place; *n 0 = that was all. */
hlwq_status hs_residency_next(hs_residency *r, const int32_t **extent, uint32_t *n, hs_place *place, hlwq_error *err);
const uint8_t *hs_residency_data(const hs_residency *r, uint32_t group, uint32_t extent);

/* Of experts that are told to a backend's own table: where it is said to look, and the row; NULL = they are not. */
const uint8_t *hs_residency_table(const hs_residency *r, uint32_t group, uint32_t *row);

/*
 * Of a dense model's layer that was just given: what of it the CPU computes, from *below in ordinary memory; the rest
 * is where hs_residency_data says.  NULL: nothing.
 */
const hs_cut *hs_residency_split(const hs_residency *r, const uint8_t **below);

/*
 * Extents of a group to come that will probably be used, likeliest first: reads some of those that are not in memory
 * while nothing else is to be read.  Guesses are counted, and left alone for a while where too few come true.
 */
void hs_residency_expect(hs_residency *r, uint32_t group, const int32_t *extent, uint32_t n);
bool hs_residency_guesses(const hs_residency *r);       /* whether it takes any, for these tokens */
bool hs_residency_wants_guesses(const hs_residency *r); /* now: nothing of the group in use is to come */

/* Stages read n extents of a group that is always there, and nobody asked for them by name. */
void hs_residency_used(hs_residency *r, uint32_t group, uint32_t n);

/* Also after a failure: nothing stays in use. */
void hs_residency_end(hs_residency *r);

/* Fewer or more slots from now on, within slots_min and what was opened; memory is given back or taken. */
hlwq_status hs_residency_resize(hs_residency *r, uint32_t slots, hlwq_error *err);

/* Likewise in the backend's own memory, between what was opened and upper_most, by whole chunks. */
hlwq_status hs_residency_resize_upper(hs_residency *r, uint32_t slots, hlwq_error *err);
uint32_t hs_residency_upper_slots(const hs_residency *r); /* now; 0 = none */

typedef struct hs_residency_stats {
    uint32_t slots; /* 0 = everything resident */
    uint64_t slot_bytes;
    hs_slots_stats cache;
    uint32_t upper_slots; /* 0 = none, or everything is there */
    hs_slots_stats upper;
    uint64_t uploads, beside;                        /* experts copied up; computed by the CPU */
    double share;                                    /* of what is not there: the CPU's, of a lone token */
    uint64_t card_bytes, upload_bytes, memory_bytes; /* weights that stages read above; copied up; read below */
    hs_rival_stats rival, upper_rival;
    hs_stream_stats io;
    uint64_t wait_ns;                /* nothing to compute until a read was done */
    uint64_t guessed, guessed_right; /* extents read on a guess; of them used before they made room */
    const char *engine, *reason;
} hs_residency_stats;
hs_residency_stats hs_residency_get_stats(const hs_residency *r);

/* Tests: of the stream in use; NULL if everything is resident. */
hs_stream *hs_residency_stream(hs_residency *r);

#endif
