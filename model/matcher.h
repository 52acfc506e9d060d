/*
 * model/matcher.h - follows a text through a grammar, and says which tokens may come next.
 *
 * A place in the grammar is a stack: a node, and below it the nodes where the rules that were entered go on.  A state
 * is the set of all stacks that the text so far can be at; states are numbered as they are first met, and what a byte
 * does to a state is remembered, so that a state is just a number to copy and compare.
 *
 * The tokens that a node allows without leaving its rule do not depend on what lies below; they are found once, by a
 * walk over the vocabulary, and kept.  What remains for each token of a text are those few that leave the rule.
 *
 * Not thread-safe. Memory grows with the states met, up to a limit that is an error.
 */
#ifndef HS_MODEL_MATCHER_H
#define HS_MODEL_MATCHER_H

#include "model/grammar.h"
#include "model/vocab.h"

typedef struct hs_matcher hs_matcher;

enum { HS_MATCH_DEAD = 0 }; /* the state of a text that the grammar does not have */

/* `grammar` is closed off; it and `vocab` are lent. */
hlwq_status hs_matcher_open(hs_matcher **matcher, hs_mem *mem, const hs_grammar *grammar, const hs_vocab *vocab,
                            hlwq_error *err);
void hs_matcher_close(hs_matcher *matcher); /* NULL is fine */

uint32_t hs_matcher_start(const hs_matcher *m);
hlwq_status hs_matcher_feed(hs_matcher *m, uint32_t *state, const char *text, size_t bytes, hlwq_error *err);

bool hs_matcher_complete(const hs_matcher *m, uint32_t state); /* the text is one of the grammar's */
bool hs_matcher_over(const hs_matcher *m, uint32_t state);     /* and no longer one is */

/* Bits of the tokens that may come next: mask [hs_matcher_words]. */
uint32_t hs_matcher_words(const hs_matcher *m);
hlwq_status hs_matcher_mask(hs_matcher *m, uint32_t state, uint64_t *mask, hlwq_error *err);

typedef struct hs_matcher_stats {
    uint64_t states, stacks, walks; /* walks over the whole vocabulary */
    uint64_t bytes;
} hs_matcher_stats;
hs_matcher_stats hs_matcher_get_stats(const hs_matcher *m);

#endif
