/*
 * offload/store_wide.h - parts made from tensors that are widened to fp32 row by row.
 */
#ifndef HS_OFFLOAD_STORE_WIDE_H
#define HS_OFFLOAD_STORE_WIDE_H

#include "base/shelf.h"
#include "base/threads.h"
#include "kernels/hlwq.h"
#include "loader/hf.h"

/* The whole part at `out`, F32 or coded anew in its packed type. `book` for rotated types; `pool` may be NULL. */
hlwq_status hs_store_wide(const hs_hf *hf, hs_shelf *shelf, const hs_source *source, const hs_part *part,
                          const hs_codebook *book, hs_pool *pool, uint8_t *out, hlwq_error *err);

#endif
