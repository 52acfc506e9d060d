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

/* Every tensor of the schema present with its shape, none left over; settles tying and MTP. */
hlwq_status hs_hf_check(hs_hf *hf, const hs_log *log, hlwq_error *err);

#endif
