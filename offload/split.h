/*
 * offload/split.h - how a dense model's layer that does not stay on the card is shared out between it and the CPU.
 *
 * The CPU computes the first rows of the mixer's projections and of the feed-forward's matrices from ordinary memory;
 * the rest of the layer is copied up while the layer before it is computed.  The share is given, or begins where the
 * CPU and the copies take equally long, and is adjusted while running.
 */
#ifndef HS_OFFLOAD_SPLIT_H
#define HS_OFFLOAD_SPLIT_H

#include "loader/schema.h"
#include "offload/upper.h"

enum { HS_CUT_ROLES = 10, HS_SPANS_MAX = 4 * HS_CUT_ROLES + 1 };

/* What of a layer the CPU computes: the first rows of these matrices. */
typedef struct hs_cut {
    uint32_t rows[HS_CUT_ROLES]; /* of hs_cut_role[] */
    uint64_t bytes;              /* of them; 0 = nothing */
} hs_cut;

extern const hs_role hs_cut_role[HS_CUT_ROLES];

/* The cut of a share of 0..1: of matrices that are packed and do not gather their inputs. */
hs_cut hs_split_cut(const hs_group *layer, double share);
uint32_t hs_cut_rows(const hs_cut *cut, hs_role role);

/* What of the layer is copied up without those rows: spans [HS_SPANS_MAX] in order; returns how many. */
uint32_t hs_split_spans(const hs_group *layer, const hs_cut *cut, hs_span *span);

/* Bytes of a model's streamed groups, and which of them a share of 1 has the CPU compute. */
void hs_split_bytes(const hs_table *table, uint64_t *all, uint64_t *shared);

enum { HS_SPLIT_PERIOD = 8 };

/*
 * The share that is best, tried by steps: a period of tokens with what is best so far, then one with a step more or
 * less, which stays if it was clearly faster.  Steps get shorter where neither is, and then rest for a while.
 */
typedef struct hs_split_share {
    double share, best, step;
    uint64_t ns[HS_SPLIT_PERIOD], best_ns; /* of this period's tokens; what a token took with `best` */
    uint32_t tokens, lost, rest;           /* of ns; trials in a row that were lost; periods without one */
} hs_split_share;

hs_split_share hs_split_first(double share);

/* A token took so long at s->share. */
void hs_split_learn(hs_split_share *s, uint64_t token_ns);

#endif
