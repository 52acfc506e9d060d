/*
 * model/session.h - what hlwq_session holds, for the files of this folder that work on it.
 */
#ifndef HS_MODEL_SESSION_H
#define HS_MODEL_SESSION_H

#include "model/engine.h"

#include <stdatomic.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hlwq_session {
    hlwq_engine *engine;
    hs_states states;
    hs_sampler *sampler;
    hs_speculate *ahead;         /* NULL = does not speculate */
    hlwq_constraint *constraint; /* lent; NULL = none */
    uint32_t place;              /* in it */
    uint32_t place_after;        /* once token `sampled` stands at position `sampled_at` */
    uint32_t sampled_at;
    int32_t sampled;
    hs_utf8_stream utf8;
    int32_t *tokens; /* [positions] */
    float *logits;   /* [vocab] */
    char *text;      /* of the last hlwq_session_text */
    size_t text_capacity;
    uint32_t n, positions;
    hlwq_kv kv;
    bool has_logits, broken;
    bool unreset;     /* resetting it failed */
    bool tokens_only; /* hlwq_session_options.tokens_only */
    bool has_best;    /* no logits, but what they would have made of the choice: */
    int32_t best;
    bool whole;      /* every piece so far began on the grid: the bits of a text read at once */
    bool seek_whole; /* hlwq_session_options.whole */
    atomic_bool cancel;
    XXH3_state_t *hash;
    hlwq_session_stats stats;
};

/* As hlwq_session_reset, and says what failed. */
hlwq_status hs_session_reset(hlwq_session *s, hlwq_error *err);

#endif
