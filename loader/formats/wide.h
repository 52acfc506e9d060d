/*
 * loader/formats/wide.h - formats whose matrices have no packed form here: they are read row by row and widened to
 * fp32.
 *
 * Scaled FP8, EOQ v1 and v2 and .eoq files (absmax codes), and the block types of GGUF.
 */
#ifndef HS_LOADER_FORMATS_WIDE_H
#define HS_LOADER_FORMATS_WIDE_H

#include "loader/hf_private.h"

/* Block-scaled FP8: M.weight F8_E4M3 [out, in] and M.weight_scale_inv, one a square of 128. */
hlwq_status hs_fp8_tensor(hs_hf *hf, const hs_raw *weight, const hs_raw *scale, hs_tensor *out, hlwq_error *err);

/* EOQ v1 and v2: P.codes and P.scales F16, one a block of 128 weights in row-major order. */
hlwq_status hs_eoq_tensor(hs_hf *hf, const hs_raw *codes, const hs_raw *scales, hs_tensor *out, hlwq_error *err);

/* Block types of GGUF: weights and bytes of a block, and a name; false for those that are not read. */
bool hs_ggml_type(uint32_t type, uint32_t *weights, uint32_t *bytes, const char **name);

/* `n` weights, a multiple of the block's, to fp32. */
void hs_ggml_widen(uint32_t type, const uint8_t *block, uint64_t n, float *out);

#endif
