/*
 * cache/kv.c - a block cut into pages.
 */
#include "cache/kv.h"

#include "base/size.h"

#include <assert.h>

struct hs_kv {
    hs_mem *mem;
    uint32_t layers, pages, coded; /* pages of a layer */
    hs_kv_format format;
    uint64_t plain_bytes, coded_bytes; /* of a page */
    void *page[];                      /* [layers][pages], then [layers][coded] */
};

static uint64_t plain_bytes(const hs_kv_shape *s)
{
    return 2 * (uint64_t)HS_KV_PAGE * s->width * (s->format.k == HS_F32 ? 4 : 2);
}

static uint64_t page_count(const hs_kv_shape *s)
{
    return hs_ceil_div(s->positions, HS_KV_PAGE);
}

/* Pages that are ever read in codes. */
static uint64_t coded_count(const hs_kv_shape *s)
{
    return hs_kv_is_coded(s->format) && page_count(s) > 2 ? page_count(s) - 2 : 0;
}

/* Places for plain pages: a batch that begins in the middle of a page touches one more than it fills. */
static uint64_t plain_count(const hs_kv_shape *s)
{
    uint64_t ring = hs_ceil_div(s->batch, HS_KV_PAGE) + 2;
    return hs_kv_is_coded(s->format) ? hs_min_u64(page_count(s), ring) : page_count(s);
}

uint64_t hs_kv_block_bytes(const hs_kv_shape *s)
{
    uint64_t plain, coded = 0, total;
    if (!hs_mul_u64(s->layers * plain_count(s), plain_bytes(s), &plain))
        return UINT64_MAX;
    if (coded_count(s) && !hs_mul_u64(s->layers * coded_count(s), hs_kv_layout_of(s->format, s->width).bytes, &coded))
        return UINT64_MAX;
    return hs_add_u64(plain, coded, &total) ? total : UINT64_MAX;
}

static uint64_t table_bytes(const hs_kv_shape *s)
{
    return sizeof(hs_kv) + s->layers * (page_count(s) + coded_count(s)) * sizeof(void *);
}

uint64_t hs_kv_bytes(const hs_kv_shape *s)
{
    uint64_t total;
    return hs_add_u64(hs_kv_block_bytes(s), table_bytes(s), &total) ? total : UINT64_MAX;
}

hlwq_status hs_kv_open(hs_kv **out, hs_mem *mem, const hs_kv_shape *s, void *block, hlwq_error *err)
{
    void *p;
    uint64_t pages = page_count(s), plain = plain_count(s), coded = coded_count(s);
    assert(!hs_kv_is_coded(s->format) || s->width % HS_BLOCK == 0);
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_KV, table_bytes(s), "KV page table", &p, err));
    hs_kv *kv = p;
    kv->mem = mem;
    kv->layers = s->layers;
    kv->pages = (uint32_t)pages;
    kv->coded = (uint32_t)coded;
    kv->format = s->format;
    kv->plain_bytes = plain_bytes(s);
    kv->coded_bytes = hs_kv_is_coded(s->format) ? hs_kv_layout_of(s->format, s->width).bytes : 0;
    uint8_t *at = block;
    void **entry = kv->page;
    for (uint64_t l = 0; l < s->layers; l++, at += plain * plain_bytes(s))
        for (uint64_t i = 0; i < pages; i++)
            *entry++ = at + i % plain * plain_bytes(s);
    uint64_t bytes = coded ? hs_kv_layout_of(s->format, s->width).bytes : 0;
    for (uint64_t i = 0; i < s->layers * coded; i++, at += bytes)
        *entry++ = at;
    *out = kv;
    return HLWQ_OK;
}

void hs_kv_close(hs_kv *kv)
{
    if (!kv)
        return;
    hs_mem_free(kv->mem, kv);
}

void *const *hs_kv_pages(const hs_kv *kv, uint32_t layer)
{
    return kv->page + (size_t)layer * kv->pages;
}

void *const *hs_kv_coded_pages(const hs_kv *kv, uint32_t layer)
{
    return kv->coded ? kv->page + (size_t)kv->layers * kv->pages + (size_t)layer * kv->coded : NULL;
}

hs_kv_format hs_kv_format_of(const hs_kv *kv)
{
    return kv->format;
}

uint32_t hs_kv_layers(const hs_kv *kv)
{
    return kv->layers;
}

uint64_t hs_kv_page_bytes(const hs_kv *kv, bool coded)
{
    return coded ? kv->coded_bytes : kv->plain_bytes;
}
