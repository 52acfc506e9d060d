/*
 * loader/formats/int_groups.h - what GPTQ and compressed-tensors share: codes, zero points and indexes packed into
 * 32-bit words, fields from the lowest bit up.
 */
#ifndef HS_LOADER_FORMATS_INT_GROUPS_H
#define HS_LOADER_FORMATS_INT_GROUPS_H

#include "loader/hf_private.h"

/* The config's "quantization_config", or quantize_config.json beside it. */
typedef struct hs_int_config {
    char method[32]; /* "gptq", "compressed-tensors"; "" = nothing said */
    bool less_one;   /* GPTQ's checkpoint_format: "gptq", which is the default, and not "gptq_v2" */
    uint32_t bits;   /* 0 = not said */
    uint32_t n_sizes;
    uint32_t size[8]; /* group sizes, of whatever modules; -1 is left out */
} hs_int_config;

/* Refuses other methods that name their tensors the same way, and sizes that are none. */
hlwq_status hs_int_config_read(hs_hf *hf, hs_int_config *config, hlwq_error *err);

/* One sentence about a tensor and its number. */
hlwq_status hs_int_wrong(const hs_hf *hf, const hs_raw *r, const char *what, uint64_t got, uint64_t want,
                         hlwq_error *err);

/* What index and zero points hold: group, ordered, symmetric, and with them the dtype. Reads both. */
hlwq_status hs_int_settle(hs_hf *hf, hs_tensor *t, hlwq_error *err);

/* "GPTQ 4 bit, group 128, desc_act; 3 of 24 matrices as F32", NULL if no tensor is of these families. */
hlwq_status hs_int_describe(hs_hf *hf, const hs_log *log, const char **format, hlwq_error *err);

#endif
