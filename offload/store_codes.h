/*
 * offload/store_codes.h - rotated codes of other writers, a block at a time.
 */
#ifndef HS_OFFLOAD_STORE_CODES_H
#define HS_OFFLOAD_STORE_CODES_H

#include "kernels/hlwq.h"
#include "loader/hf.h"

/* The 128 codes of a block of an HLWQ tensor, `raw` being hs_hf_block_bytes of the file. */
void hs_store_unpack_codes(const hs_tensor *t, const uint8_t *raw, uint8_t *code);

#endif
