/*
 * model/tokenizer.h - byte-level BPE from a tokenizer.json: text to ids and back.
 *
 * Steps: cut at added tokens, NFC, split by the model's pattern, merge by rank.  Immutable after opening, so it
 * may be shared between threads.  Linear in the text but for an n log n merge inside one piece.
 */
#ifndef HS_MODEL_TOKENIZER_H
#define HS_MODEL_TOKENIZER_H

#include "base/arena.h"

typedef struct hs_tokenizer hs_tokenizer;

#define HS_TOKENIZER_MAX (256u << 20) /* bytes of tokenizer.json */

/*
 * `text` is tokenizer.json; `config_text` tokenizer_config.json or NULL (added tokens that only it has).
 * `vocab_limit`: ids must be below it; 0 = no limit.  `what` is a path for sentences.
 */
hlwq_status hs_tokenizer_parse(hs_tokenizer **tokenizer, hs_mem *mem, const char *text, size_t bytes,
                               const char *config_text, size_t config_bytes, uint32_t vocab_limit, const char *what,
                               hlwq_error *err);
void hs_tokenizer_free(hs_tokenizer *tokenizer); /* NULL is fine */

uint32_t hs_tokenizer_count(const hs_tokenizer *tokenizer); /* largest id + 1 */

/* *ids is malloc'ed. Added tokens are recognised outside the `n` spans, which ascend; none may cross an edge of one. */
hlwq_status hs_tokenizer_encode_prompt(const hs_tokenizer *tokenizer, const char *text, size_t bytes,
                                       const hlwq_span *plain, size_t n, int32_t **ids, size_t *count, hlwq_error *err);

/* The same with the whole text as a span, or none of it with `special`. */
hlwq_status hs_tokenizer_encode(const hs_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                int32_t **ids, size_t *count, hlwq_error *err);

/* The raw bytes of one id (added tokens as their text); NULL and 0 for ids that decode to nothing. */
const char *hs_tokenizer_bytes(const hs_tokenizer *tokenizer, int32_t id, size_t *bytes);
bool hs_tokenizer_is_special(const hs_tokenizer *tokenizer, int32_t id);
int32_t hs_tokenizer_id(const hs_tokenizer *tokenizer, const char *token); /* an added token's id by its text; -1 */

/* The pieces of NFC text, for tests: calls fn with each piece of `text` after splitting by the pattern. */
typedef void (*hs_piece_fn)(void *user, const char *piece, size_t bytes);
hlwq_status hs_tokenizer_split(const hs_tokenizer *tokenizer, const char *text, size_t bytes, hs_piece_fn fn,
                               void *user, hlwq_error *err);

/* Bytes in, whole UTF-8 characters out: holds back an incomplete sequence until it is complete or hopeless. */
typedef struct hs_utf8_stream {
    unsigned char held[4];
    uint32_t n;
} hs_utf8_stream;

/* Appends to `out` (capacity at least 3 * (bytes + 4) + 1) what became complete; returns bytes written. One U+FFFD
 * per maximal invalid piece.  bytes 0 with in NULL flushes. */
size_t hs_utf8_feed(hs_utf8_stream *stream, const char *in, size_t bytes, char *out);

#endif
