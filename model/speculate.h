/*
 * model/speculate.h - computes tokens that are likely to come before they are chosen.
 *
 * A window is the newest token and drafts after it, fed at once.  Its logits are what feeding its tokens one by one
 * would have given, bit for bit, so all that speculation does is to know them early: the caller chooses each token from
 * its logits as always, greedily or by chance, and where the choice is the token of the window, the next logits are
 * there already.  Where it is not, the rest of the window is forgotten.  So text, seeds and penalties are those of a
 * session that does not speculate.
 *
 * DeltaNet states take in a window's tokens when the window ends (settle), keys and values are overwritten.
 */
#ifndef HS_MODEL_SPECULATE_H
#define HS_MODEL_SPECULATE_H

#include "model/network.h"
#include "model/sampler.h"

typedef struct hs_speculate hs_speculate;

/* What an engine was opened for; all zero = no speculation. */
typedef struct hs_draft_mode {
    bool mtp, lookup;
    bool priced;    /* else always `depth` drafts, where there is a source */
    uint32_t depth; /* most drafts of a window, below HS_WINDOW_MAX */
    double pretend; /* benchmarks: a draft is taken for right with this probability; 0 = where it is */
} hs_draft_mode;

/* All lent. */
hlwq_status hs_speculate_open(hs_speculate **sp, const hs_draft_mode *mode, hs_network *net, hs_states *states,
                              hs_sampler *sampler, hs_mem *mem, hs_kv_format kv, uint32_t positions, hlwq_error *err);
void hs_speculate_close(hs_speculate *sp); /* NULL is fine */
void hs_speculate_reset(hs_speculate *sp);

/* Bytes that hs_speculate_open charges. */
uint64_t hs_speculate_bytes(const hs_draft_mode *mode, const hs_config *config, hs_kv_format kv, uint32_t positions,
                            uint32_t batch);

/* How many of them are in the backend's memory. */
uint64_t hs_speculate_state_bytes(const hs_draft_mode *mode, const hs_config *config, hs_kv_format kv,
                                  uint32_t positions, uint32_t batch);

/* What these take more on a card, in whole pages. */
uint64_t hs_speculate_beyond_bytes(const hs_draft_mode *mode, const hs_config *config, hs_kv_format kv,
                                   uint32_t positions, uint32_t batch);

/* hs_forward has just fed tokens[first .. first + n - 1], outside a window. */
hlwq_status hs_speculate_fed(hs_speculate *sp, const int32_t *tokens, uint32_t first, uint32_t n, hlwq_error *err);

/* Tokens were fed by other means: what followed from the last one that was known does not hold any more. */
void hs_speculate_missed(hs_speculate *sp);

/*
 * The logits [vocab] after tokens[n], which is chosen but not fed; valid until the next call.  tokens has room for
 * `positions`, and what is beyond n may be used.  *computed false: they were known already.  With `pretend`, tokens[n]
 * may be changed.
 */
hlwq_status hs_speculate_next(hs_speculate *sp, int32_t *tokens, uint32_t n, const float **logits, bool *computed,
                              hlwq_error *err);

/* Ends a window: states are those after the last token that was asked for. Before anything else uses them. */
hlwq_status hs_speculate_settle(hs_speculate *sp, hlwq_error *err);

void hs_speculate_stats(const hs_speculate *sp, hlwq_speculation *out);

#endif
