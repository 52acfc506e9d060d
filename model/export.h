/*
 * model/export.h - a model as a Hugging Face directory that other programs load.
 */
#ifndef HS_MODEL_EXPORT_H
#define HS_MODEL_EXPORT_H

#include "offload/store.h"

typedef enum hs_export_kind { HS_EXPORT_BF16, HS_EXPORT_COMPRESSED, HS_EXPORT_GPTQ } hs_export_kind;

typedef struct hs_export {
    hs_export_kind kind;
    hs_dtype format; /* I4, I4Z, I4G64 or I4G64Z of matrices that are not integers yet; GPTQ: without zeros */
    bool overwrite;
    bool (*progress)(void *user, uint64_t done, uint64_t total); /* may be NULL; false stops */
    void *user;
} hs_export;

/* Writes config, tokenizer and weights into `dir`, which is made; config.json comes last. */
hlwq_status hs_export_write(hs_store *store, hs_mem *mem, hs_pool *pool, const char *dir, const hs_export *options,
                            hlwq_error *err);

#endif
