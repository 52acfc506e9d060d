/*
 * model/pretokenize.h - Unicode before merging: NFC, and the split of text into pieces by a model's pattern.
 */
#ifndef HS_MODEL_PRETOKENIZE_H
#define HS_MODEL_PRETOKENIZE_H

#include "base/arena.h"

/* The pattern of GPT-2's ByteLevel pre-tokenizer. */
extern const char hs_pattern_gpt2[];

typedef struct hs_splitter hs_splitter;

/* Compiles a pattern. Known patterns are trusted; any other runs with tight limits. *s is freed with hs_splitter_close.
 */
hlwq_status hs_splitter_open(hs_splitter **s, const char *pattern, const char *what, hlwq_error *err);
void hs_splitter_close(hs_splitter *s); /* NULL is fine */

/* Working memory of one encode call; a splitter itself is shared between threads. */
typedef struct hs_split_work hs_split_work;
hlwq_status hs_split_work_open(hs_split_work **w, const hs_splitter *s, hlwq_error *err);
void hs_split_work_close(hs_split_work *w); /* NULL is fine */

typedef hlwq_status (*hs_split_fn)(void *user, const char *piece, size_t bytes, hlwq_error *err);

/* Calls fn with every match and every gap of valid UTF-8 `text`, in order. */
hlwq_status hs_splitter_run(const hs_splitter *s, hs_split_work *w, const char *text, size_t bytes, hs_split_fn fn,
                            void *user, hlwq_error *err);

/* NFC of valid UTF-8, malloc'ed; *out NULL when the text is NFC already (ASCII is seen at a glance). */
hlwq_status hs_nfc(const char *text, size_t bytes, char **out, size_t *out_bytes, hlwq_error *err);

/* Bytes at the front of text that are valid UTF-8. */
size_t hs_utf8_valid(const char *text, size_t bytes);

#endif
