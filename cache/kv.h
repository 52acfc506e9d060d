/*
 * cache/kv.h - keys and values of one session: pages of 64 positions for each full-attention layer.
 *
 * All of it is charged when a session opens, so a long text cannot pass the budget later; the system backs a page
 * with memory only when it is first written.  A page holds K [64][width], then V [64][width].
 */
#ifndef HS_CACHE_KV_H
#define HS_CACHE_KV_H

#include "base/dtype.h"
#include "base/mem.h"

enum { HS_KV_PAGE = 64 }; /* positions */

typedef struct hs_kv hs_kv;

/*
 * `layers` attention layers, `width` = kv heads * head dim, F16 or F32, at least `positions` positions.  Pages lie in
 * `block`, of hs_kv_block_bytes, which is lent.
 */
hlwq_status hs_kv_open(hs_kv **kv, hs_mem *mem, uint32_t layers, uint32_t width, hs_dtype dtype, uint32_t positions,
                       void *block, hlwq_error *err);
void hs_kv_close(hs_kv *kv); /* NULL is fine */

/* Bytes of its pages; and with the table of them. */
uint64_t hs_kv_block_bytes(uint32_t layers, uint32_t width, hs_dtype dtype, uint32_t positions);
uint64_t hs_kv_bytes(uint32_t layers, uint32_t width, hs_dtype dtype, uint32_t positions);

/* Pages of one attention layer, in order of position. */
void *const *hs_kv_pages(const hs_kv *kv, uint32_t layer);
hs_dtype hs_kv_dtype(const hs_kv *kv);

#endif
