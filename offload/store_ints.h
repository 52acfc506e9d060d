/*
 * offload/store_ints.h - parts made from integers in groups, as GPTQ and compressed-tensors store them.
 */
#ifndef HS_OFFLOAD_STORE_INTS_H
#define HS_OFFLOAD_STORE_INTS_H

#include "base/shelf.h"
#include "base/threads.h"
#include "kernels/hlwq.h"
#include "loader/hf.h"

/*
 * The whole part at `out`, from the source's first row on, a multiple of 32: the same integers where its dtype is INT4,
 * sorted by group where it is ordered; otherwise dequantised to F32, or coded anew in its packed type.  `book` for
 * rotated types; `pool` may be NULL.
 */
hlwq_status hs_store_ints(const hs_hf *hf, hs_shelf *shelf, const hs_source *source, const hs_part *part,
                          const hs_codebook *book, hs_pool *pool, uint8_t *out, hlwq_error *err);

#endif
