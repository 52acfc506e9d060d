/*
 * loader/hf_private.h - what the files hf*.c share.
 */
#ifndef HS_LOADER_HF_PRIVATE_H
#define HS_LOADER_HF_PRIVATE_H

#include "loader/hf.h"
#include "loader/safetensors.h"

/* A tensor as a file has it. */
typedef struct hs_raw {
    hs_st_entry entry;
    uint32_t file;
} hs_raw;

/* Opens the shards and lists their tensors: *raw in the hf's arena. */
hlwq_status hs_hf_read_shards(hs_hf *hf, hs_raw **raw, uint32_t *n, hlwq_error *err);

/* Turns file tensors into the logical ones of hf->tensor, sorted; refuses formats that are not read. */
hlwq_status hs_hf_list_tensors(hs_hf *hf, const hs_raw *raw, uint32_t n, const hs_log *log, hlwq_error *err);

/* A name without the prefix of the checkpoint's class. */
const char *hs_hf_canonical(const char *name);

/* Vision, and tables that engines dumped beside the weights; of a name with its prefix or without. */
bool hs_hf_skipped(const char *name);

/* hf->format of what was listed; a warning where matrices are widened. */
hlwq_status hs_hf_name_format(hs_hf *hf, const hs_log *log, hlwq_error *err);

/* The number of a book in hf->book, added if none has the same levels. */
hlwq_status hs_hf_book(hs_hf *hf, const hs_levels *levels, uint32_t *book, hlwq_error *err);

/* The file tensor "base" + "suffix" among the sorted ones, NULL if there is none. */
const hs_raw *hs_hf_raw(const hs_raw *raw, uint32_t n, const char *base, size_t base_bytes, const char *suffix);

/* True if `name` ends so; *base is the length of what is before. */
bool hs_hf_ends(const char *name, const char *suffix, size_t *base);

/* Every tensor of the schema present with its shape, none left over; settles tying and MTP. */
hlwq_status hs_hf_check(hs_hf *hf, const hs_log *log, hlwq_error *err);

#endif
