/*
 * offload/store_decode.h - rows of a container as fp32, a few at a time: for comparisons.
 */
#ifndef HS_OFFLOAD_STORE_DECODE_H
#define HS_OFFLOAD_STORE_DECODE_H

#include "base/threads.h"
#include "kernels/hlwq.h"
#include "loader/container.h"

/* As hs_store_rows. `book` of rotated parts; `pool` may be NULL. */
hlwq_status hs_store_decode(const hs_container *c, hs_mem *mem, uint32_t group, uint32_t extent, const hs_part *part,
                            const hs_codebook *book, uint64_t first, uint64_t rows, hs_pool *pool, float *out,
                            hlwq_error *err);

#endif
