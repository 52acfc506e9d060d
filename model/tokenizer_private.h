/*
 * model/tokenizer_private.h - what tokenizer.c and tokenizer_parse.c share.
 */
#ifndef HS_MODEL_TOKENIZER_PRIVATE_H
#define HS_MODEL_TOKENIZER_PRIVATE_H

#include "model/bpe.h"
#include "model/pretokenize.h"
#include "model/tokenizer.h"

typedef struct hs_token {
    const char *text; /* raw bytes; NULL = no such id */
    uint32_t bytes;
    bool special;
} hs_token;

typedef struct hs_added {
    const char *text;
    uint32_t bytes;
    int32_t id;
} hs_added;

struct hs_tokenizer {
    hs_mem *mem;
    hs_arena arena;
    uint32_t n_tokens;
    hs_token *token; /* by id */
    uint32_t *table; /* ids + 1 of vocabulary tokens by the hash of their bytes; 0 = empty */
    uint32_t table_mask;
    hs_merges merges;
    int32_t byte_id[256];
    uint32_t n_added;
    hs_added *added; /* by first byte, longest first */
    uint32_t added_start[257];
    hs_splitter *splitter;
    bool nfc, ignore_merges;
};

/* Id of a vocabulary token by its bytes; -1. */
int32_t hs_tokens_find(const hs_tokenizer *t, const char *text, size_t bytes);

#endif
