/*
 * model/bpe.h - merging the bytes of one piece into tokens, lowest rank first, leftmost first.
 */
#ifndef HS_MODEL_BPE_H
#define HS_MODEL_BPE_H

#include "base/arena.h"

/* A merge rule by the ids of its halves. */
typedef struct hs_merge {
    int32_t left, right, result;
    uint32_t rank;
} hs_merge;

/* Open-addressing table of merges; `slot` has `mask + 1` places, left < 0 = empty. */
typedef struct hs_merges {
    hs_merge *slot;
    uint32_t mask, n;
} hs_merges;

hlwq_status hs_merges_init(hs_merges *m, uint32_t n, hs_arena *arena, hlwq_error *err);
/* The first rule for a pair wins; false if there was one. */
bool hs_merges_add(hs_merges *m, int32_t left, int32_t right, int32_t result, uint32_t rank);
const hs_merge *hs_merges_find(const hs_merges *m, int32_t left, int32_t right);

/* Working memory of one encode call; grows with the longest piece. */
typedef struct hs_bpe_work {
    struct hs_bpe_node *node;
    struct hs_bpe_pair *heap;
    size_t capacity;
} hs_bpe_work;

void hs_bpe_work_close(hs_bpe_work *w);

/*
 * Merges ids[0..n-1] in place, returns how many remain; SIZE_MAX if there was no memory.  n log n.
 */
size_t hs_bpe_merge(const hs_merges *m, hs_bpe_work *w, int32_t *ids, size_t n);

#endif
