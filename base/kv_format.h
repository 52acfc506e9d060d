/*
 * base/kv_format.h - how keys and values are kept: formats, and the bytes of a page.
 *
 * Plain (F16, F32): a page of 64 positions is K [64][heads][head dim], then V the same.
 *
 * Coded: each vector of a head is cut into blocks of 128 and rotated as weights are (kernels/kv_codec.h).  A page is
 * the planes of K, then those of V; each plane is [heads][64][head dim / 128] blocks:
 *
 *   low plane    Q4: 64 B a block, Q2 Q3: 32 B, as in base/dtype.h; I8 ("q8"): 128 B, the integers in order
 *   high plane   Q3: 16 B of sign bits, as in base/dtype.h
 *   norms        fp16, one a block
 */
#ifndef HS_BASE_KV_FORMAT_H
#define HS_BASE_KV_FORMAT_H

#include "base/dtype.h"

enum { HS_KV_PAGE = 64 }; /* positions */

typedef struct hs_kv_format {
    hs_dtype k, v; /* both F16, both F32, or each one of I8, Q4, Q3, Q2 */
} hs_kv_format;

static inline bool hs_kv_is_coded(hs_kv_format f)
{
    return f.k != HS_F16 && f.k != HS_F32;
}

/* Bytes of the parts of one block of 128. */
static inline uint32_t hs_kv_low_bytes(hs_dtype coded)
{
    return coded == HS_I8 ? 128 : coded == HS_Q4 ? 64 : 32;
}

static inline uint32_t hs_kv_high_bytes(hs_dtype coded)
{
    return coded == HS_Q3 ? 16 : 0;
}

/* Where the planes of K, or of V, lie in a coded page. */
typedef struct hs_kv_planes {
    hs_dtype dtype;
    uint64_t low, high, norms; /* from the page's first byte */
    uint64_t end;
} hs_kv_planes;

typedef struct hs_kv_layout {
    hs_kv_planes k, v;
    uint64_t bytes;
} hs_kv_layout;

static inline hs_kv_planes hs_kv_planes_of(hs_dtype coded, uint64_t first, uint64_t blocks)
{
    hs_kv_planes p;
    p.dtype = coded;
    p.low = first;
    p.high = p.low + blocks * hs_kv_low_bytes(coded);
    p.norms = p.high + blocks * hs_kv_high_bytes(coded);
    p.end = p.norms + blocks * 2;
    return p;
}

/* Of a coded page; width = heads * head dim, a multiple of 128. Every plane begins on a multiple of 64 bytes. */
static inline hs_kv_layout hs_kv_layout_of(hs_kv_format f, uint32_t width)
{
    uint64_t blocks = (uint64_t)HS_KV_PAGE * (width / HS_BLOCK);
    hs_kv_layout l;
    l.k = hs_kv_planes_of(f.k, 0, blocks);
    l.v = hs_kv_planes_of(f.v, l.k.end, blocks);
    l.bytes = l.v.end;
    return l;
}

#endif
