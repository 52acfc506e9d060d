/*
 * cache/kv.h - keys and values of one session: pages of 64 positions for each full-attention layer.
 *
 * Pages come as a text grows, in rows: a row is one more page of every layer.  Memory for rows is the caller's, who
 * adds and drops it; nothing here allocates but the table.  base/kv_format.h says what is in a page.
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

/*
 * All pages lie in `block`, of hs_kv_block_bytes; or those of a coded cache that are plain in `ring`, of
 * hs_kv_ring_bytes, and rows of the others are added later.  Either is lent.
 */
hlwq_status hs_kv_open_ring(hs_kv **kv, hs_mem *mem, const hs_kv_shape *shape, void *ring, hlwq_error *err);
hlwq_status hs_kv_open(hs_kv **kv, hs_mem *mem, const hs_kv_shape *shape, void *block, hlwq_error *err);
void hs_kv_close(hs_kv *kv); /* NULL is fine */

/* `rows` more rows, in `block` of as many hs_kv_row_bytes: lent until they, and all after them, are dropped. */
void hs_kv_add(hs_kv *kv, void *block, uint32_t rows);
void hs_kv_drop(hs_kv *kv, uint32_t rows); /* so many are left */
uint32_t hs_kv_rows(const hs_kv *kv);      /* that it has now */

/* Instead of rows that are added: where one page of a layer is, for now. */
void hs_kv_set(hs_kv *kv, uint32_t layer, uint32_t row, void *page);

/* Rows that a text of `positions` needs. */
uint32_t hs_kv_rows_for(const hs_kv_shape *shape, uint32_t positions);
uint64_t hs_kv_row_bytes(const hs_kv_shape *shape);
uint64_t hs_kv_ring_bytes(const hs_kv_shape *shape); /* 0 of a plain cache */

/* Bytes of all its pages; and with the table of them. UINT64_MAX if they overflow. */
uint64_t hs_kv_block_bytes(const hs_kv_shape *shape);
uint64_t hs_kv_bytes(const hs_kv_shape *shape);

/* Pages of one attention layer, in order of position: plain, several in one place if the cache is coded. */
void *const *hs_kv_pages(const hs_kv *kv, uint32_t layer);

/* The same in codes, all but the last two; NULL if the cache is plain. */
void *const *hs_kv_coded_pages(const hs_kv *kv, uint32_t layer);

uint32_t hs_kv_ring(const hs_kv *kv); /* plain page b of a layer is in place b % ring */
hs_kv_format hs_kv_format_of(const hs_kv *kv);
uint32_t hs_kv_layers(const hs_kv *kv);
uint64_t hs_kv_page_bytes(const hs_kv *kv, bool coded); /* 0 for codes of a plain cache */

#endif
