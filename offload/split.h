/*
 * offload/split.h - how a dense model's layer that does not stay on the card is shared out between it and the CPU.
 *
 * The CPU computes the first rows of the feed-forward's matrices from ordinary memory; the rest of the layer is copied
 * up.  The share is given, or found while running: it moves by small steps, back again where tokens have become slower.
 */
#ifndef HS_OFFLOAD_SPLIT_H
#define HS_OFFLOAD_SPLIT_H

#include "loader/schema.h"
#include "offload/upper.h"

enum { HS_SPANS_MAX = 16 };

/* Rows of gate and up, and of down, for a share of 0..1; 0 where the layer's matrices cannot be split. */
void hs_split_rows(const hs_group *layer, double share, uint32_t *rows, uint32_t *down_rows);

/* What of the layer is copied up without those rows: spans [HS_SPANS_MAX] in order; returns how many. */
uint32_t hs_split_spans(const hs_group *layer, uint32_t rows, uint32_t down_rows, hs_span *span);

/* The share that is best: hs_split_learn is told how long each token took at the share that was. */
typedef struct hs_split_share {
    double share, step;
    uint64_t ns, before_ns; /* of the tokens of this period; of the period before, 0 = none */
    uint32_t tokens;
} hs_split_share;

hs_split_share hs_split_first(void);
void hs_split_learn(hs_split_share *s, uint64_t token_ns);

#endif
