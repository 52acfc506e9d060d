/*
 * cache/kv.h - keys and values of one session: pages of 64 positions for each full-attention layer.
 *
 * All of it is charged when a session opens, so a long text cannot pass the budget later; the system backs a page
 * with memory only when it is first written.  base/kv_format.h says what is in a page.
 *
 * A coded cache keeps every page but the last two in codes, and the newest ones also as fp16, in a ring: a position p
 * reads page b in codes if b + 2 <= p / 64, as fp16 if not.  While a batch is computed both forms of its pages are
 * needed, so the ring has room for the pages of a batch and the two before it.
 */
#ifndef HS_CACHE_KV_H
#define HS_CACHE_KV_H

#include "base/kv_format.h"
#include "base/mem.h"

typedef struct hs_kv hs_kv;

typedef struct hs_kv_shape {
    uint32_t layers; /* with attention */
    uint32_t width;  /* kv heads * head dim; a multiple of 128 if coded */
    hs_kv_format format;
    uint32_t positions; /* at least so many */
    uint32_t batch;     /* most tokens of one step */
} hs_kv_shape;

/* Pages lie in `block`, of hs_kv_block_bytes, which is lent. */
hlwq_status hs_kv_open(hs_kv **kv, hs_mem *mem, const hs_kv_shape *shape, void *block, hlwq_error *err);
void hs_kv_close(hs_kv *kv); /* NULL is fine */

/* Bytes of its pages; and with the table of them. UINT64_MAX if they overflow. */
uint64_t hs_kv_block_bytes(const hs_kv_shape *shape);
uint64_t hs_kv_bytes(const hs_kv_shape *shape);

/* Pages of one attention layer, in order of position: plain, several in one place if the cache is coded. */
void *const *hs_kv_pages(const hs_kv *kv, uint32_t layer);

/* The same in codes, all but the last two; NULL if the cache is plain. */
void *const *hs_kv_coded_pages(const hs_kv *kv, uint32_t layer);

hs_kv_format hs_kv_format_of(const hs_kv *kv);
uint32_t hs_kv_layers(const hs_kv *kv);
uint64_t hs_kv_page_bytes(const hs_kv *kv, bool coded); /* 0 for codes of a plain cache */

#endif
