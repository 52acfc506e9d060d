/*
 * model/draft_vocab.h - a draft head over some tokens only.
 *
 * The head's product is most of what a draft costs where the vocabulary is large, and most of the vocabulary is rarely
 * right.  Tokens that are left out are never drafted; what the model itself chooses does not change.
 */
#ifndef HS_MODEL_DRAFT_VOCAB_H
#define HS_MODEL_DRAFT_VOCAB_H

#include "model/network.h"
#include "model/tokenizer.h"

/*
 * Binds net->draft_head to `rows` rows of the head: of the lowest ids, which a byte-pair tokenizer gave to the pieces
 * most frequent in its own text; with `text` to copies of rows, of the tokens most frequent there before those.
 */
hlwq_status hs_draft_vocab_open(hs_network *net, hs_mem *mem, const hs_tokenizer *tokenizer, uint32_t rows,
                                const char *text, size_t bytes, hlwq_error *err);
void hs_draft_vocab_close(hs_network *net, hs_mem *mem); /* where there is none, too */

/* Bytes that it charges: for copies, so only if tokens are counted in a text, and 0 where `rows` are all. */
uint64_t hs_draft_vocab_bytes(const hs_table *table, uint32_t rows, bool counted);

#endif
