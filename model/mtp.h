/*
 * model/mtp.h - the draft head of one text: its keys and values, and the hidden states that it has not seen yet.
 *
 * It reads pairs of a hidden state and the token after it.  Drafts beyond the first are fed its own output, which is
 * only a guess: such pairs are overwritten by the true ones when those are known.  What it says is never part of a
 * result, so a pair that is missing costs acceptance and nothing else.
 */
#ifndef HS_MODEL_MTP_H
#define HS_MODEL_MTP_H

#include "model/network.h"

typedef struct hs_mtp hs_mtp;

hlwq_status hs_mtp_open(hs_mtp **mtp, hs_network *net, hs_mem *mem, hs_kv_format kv, uint32_t positions,
                        hlwq_error *err);
void hs_mtp_close(hs_mtp *mtp); /* NULL is fine */
void hs_mtp_reset(hs_mtp *mtp);
uint64_t hs_mtp_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t batch);
uint64_t hs_mtp_pages_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions,
                            uint32_t batch); /* of them, in the backend's memory */

/* net->x holds what hs_forward left of tokens[first .. first + n - 1]: takes in all pairs that are complete now. */
hlwq_status hs_mtp_prompt(hs_mtp *mtp, const int32_t *tokens, uint32_t first, uint32_t n, hlwq_error *err);

/* The same for a window of n <= HS_WINDOW_MAX tokens, of which the first `kept` turn out to be the text's. */
hlwq_status hs_mtp_note(hs_mtp *mtp, uint32_t n, hlwq_error *err);
void hs_mtp_keep(hs_mtp *mtp, uint32_t kept);

/* Tokens came that it knows no hidden states of: a gap. */
void hs_mtp_forget(hs_mtp *mtp);

/* Whether it knows the hidden state before the next token. */
bool hs_mtp_ready(const hs_mtp *mtp);

/*
 * Logits [vocab] of the token after tokens[n], the newest, whose own hidden state is not known yet; then further, before
 * the network does anything else.
 */
hlwq_status hs_mtp_draft(hs_mtp *mtp, const int32_t *tokens, uint32_t n, float *logits, hlwq_error *err);
hlwq_status hs_mtp_draft_on(hs_mtp *mtp, int32_t id, float *logits, hlwq_error *err);

#endif
