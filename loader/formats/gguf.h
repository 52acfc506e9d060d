/*
 * loader/formats/gguf.h - GGUF files of the architectures qwen35 and qwen35moe.
 *
 * Config and tokenizer are written as the texts that a model directory has; tensors get their canonical names.  What
 * the converter of those files changes is undone: norms have 1 added, A_log is -exp, and with more value heads than key
 * heads everything of value heads stands in another order.
 */
#ifndef HS_LOADER_FORMATS_GGUF_H
#define HS_LOADER_FORMATS_GGUF_H

#include "loader/hf_private.h"

typedef struct hs_gguf_value {
    const char *key;
    uint32_t type, item; /* GGUF's numbers; item of arrays */
    uint64_t n;          /* items of an array, bytes of a string */
    const uint8_t *data; /* of the text that was parsed */
    uint64_t bytes;
} hs_gguf_value;

typedef struct hs_gguf_tensor {
    const char *name;
    uint32_t rank, type;
    uint64_t dim[4]; /* as elsewhere: the innermost last */
    uint64_t offset, bytes;
    uint32_t file; /* of a model in pieces; hs_gguf_parse leaves 0 */
} hs_gguf_tensor;

typedef struct hs_gguf {
    uint32_t n_values, n_tensors;
    hs_gguf_value *value;
    hs_gguf_tensor *tensor;
} hs_gguf;

/* True if the file begins as GGUF does. */
bool hs_gguf_is(const char *path);

/* Metadata and tensors; `text` holds the beginning of a file of file_bytes. Every range is inside the file. */
hlwq_status hs_gguf_parse(hs_gguf *g, const uint8_t *text, uint64_t bytes, uint64_t file_bytes, const char *path,
                          hs_arena *arena, hlwq_error *err);

/* Opens as hs_hf_open does a directory. */
hlwq_status hs_gguf_open(hs_hf *hf, hs_mem *mem, const char *path, const hs_log *log, hlwq_error *err);

#endif
