/*
 * model/vocab.h - the texts of a vocabulary as a prefix tree, for asking of all tokens at once which may come next.
 *
 * Nodes lie in the order of a walk: a node, then everything below it.  Added tokens are not in it: what a constraint
 * describes is text, and no text makes a special token.  Immutable, so threads may share one.
 */
#ifndef HS_MODEL_VOCAB_H
#define HS_MODEL_VOCAB_H

#include "model/tokenizer.h"

enum { HS_VOCAB_TOKEN_MAX = 1024 }; /* bytes; longer tokens are left out */

typedef struct hs_vocab_node {
    uint32_t end;   /* the first node that is not below this one */
    int32_t token;  /* the id whose text ends here; -1 */
    uint16_t depth; /* bytes from the root, which is not a node */
    uint8_t byte;
} hs_vocab_node;

typedef struct hs_vocab {
    hs_mem *mem;
    hs_vocab_node *node;
    uint32_t n_nodes, n_tokens; /* largest id + 1 */
    uint32_t longest;           /* bytes of a token */
    uint64_t *present;          /* [(n_tokens + 63) / 64] bits: ids that are in the tree */
} hs_vocab;

hlwq_status hs_vocab_open(hs_vocab **vocab, hs_mem *mem, const hs_tokenizer *tokenizer, hlwq_error *err);
void hs_vocab_close(hs_vocab *vocab); /* NULL is fine */

#endif
