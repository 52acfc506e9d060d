/*
 * offload/store_codes.h - rotated codes of other writers, a block at a time.
 */
#ifndef HS_OFFLOAD_STORE_CODES_H
#define HS_OFFLOAD_STORE_CODES_H

#include "kernels/hlwq.h"
#include "loader/hf.h"

/* The 128 codes of a block of an HLWQ tensor, `raw` being hs_hf_block_bytes of the file. */
void hs_store_unpack_codes(const hs_tensor *t, const uint8_t *raw, uint8_t *code);

/*
 * EOQ v3 does not say from which end its bits run: what its codes decode to says it, as the levels of a rotated block
 * have a mean square of 1.  Sets the packing of such tensors; refuses codes that are sound in neither way.
 */
hlwq_status hs_store_settle_order(hs_hf *hf, const hs_levels *book, hlwq_error *err);

#endif
