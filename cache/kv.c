/*
 * cache/kv.c - blocks cut into pages.
 */
#include "cache/kv.h"

#include "base/size.h"

#include <assert.h>

struct hs_kv {
    hs_mem *mem;
    uint32_t layers, pages, coded; /* pages of a layer */
    uint32_t rows;                 /* of those that grow, there are */
    uint32_t ring;                 /* places of plain pages */
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

uint64_t hs_kv_ring_bytes(const hs_kv_shape *s)
{
    return hs_kv_is_coded(s->format) ? s->layers * plain_count(s) * plain_bytes(s) : 0;
}

uint64_t hs_kv_row_bytes(const hs_kv_shape *s)
{
    return s->layers * (hs_kv_is_coded(s->format) ? hs_kv_layout_of(s->format, s->width).bytes : plain_bytes(s));
}

uint32_t hs_kv_rows_for(const hs_kv_shape *s, uint32_t positions)
{
    hs_kv_shape part = *s;
    part.positions = positions < s->positions ? positions : s->positions;
    return (uint32_t)(hs_kv_is_coded(s->format) ? coded_count(&part) : page_count(&part));
}

uint64_t hs_kv_block_bytes(const hs_kv_shape *s)
{
    uint64_t rows, total;
    if (!hs_mul_u64(hs_kv_rows_for(s, s->positions), hs_kv_row_bytes(s), &rows))
        return UINT64_MAX;
    return hs_add_u64(hs_kv_ring_bytes(s), rows, &total) ? total : UINT64_MAX;
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

hlwq_status hs_kv_open_ring(hs_kv **out, hs_mem *mem, const hs_kv_shape *s, void *ring, hlwq_error *err)
{
    void *p;
    uint64_t plain = plain_count(s);
    assert(!hs_kv_is_coded(s->format) || s->width % HS_BLOCK == 0);
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_KV, table_bytes(s), "KV page table", &p, err));
    hs_kv *kv = p;
    kv->mem = mem;
    kv->layers = s->layers;
    kv->pages = (uint32_t)page_count(s);
    kv->coded = (uint32_t)coded_count(s);
    kv->ring = (uint32_t)plain;
    kv->format = s->format;
    kv->plain_bytes = plain_bytes(s);
    kv->coded_bytes = hs_kv_is_coded(s->format) ? hs_kv_layout_of(s->format, s->width).bytes : 0;
    for (uint64_t i = 0; hs_kv_is_coded(s->format) && i < (uint64_t)s->layers * kv->pages; i++)
        kv->page[i] = (uint8_t *)ring + (i / kv->pages * plain + i % kv->pages % plain) * kv->plain_bytes;
    *out = kv;
    return HLWQ_OK;
}

hlwq_status hs_kv_open(hs_kv **out, hs_mem *mem, const hs_kv_shape *s, void *block, hlwq_error *err)
{
    HS_TRY(hs_kv_open_ring(out, mem, s, block, err));
    hs_kv_add(*out, (uint8_t *)block + hs_kv_ring_bytes(s), hs_kv_rows_for(s, s->positions));
    return HLWQ_OK;
}

/* The table that rows are entered in, and its width. */
static void **growing(hs_kv *kv, uint32_t *width, uint64_t *bytes)
{
    bool coded = hs_kv_is_coded(kv->format);
    *width = coded ? kv->coded : kv->pages;
    *bytes = coded ? kv->coded_bytes : kv->plain_bytes;
    return kv->page + (coded ? (size_t)kv->layers * kv->pages : 0);
}

void hs_kv_add(hs_kv *kv, void *block, uint32_t rows)
{
    uint32_t width;
    uint64_t bytes;
    void **table = growing(kv, &width, &bytes);
    assert(rows <= width - kv->rows);
    for (uint32_t l = 0; l < kv->layers; l++)
        for (uint32_t i = 0; i < rows; i++)
            table[(size_t)l * width + kv->rows + i] = (uint8_t *)block + ((uint64_t)l * rows + i) * bytes;
    kv->rows += rows;
}

void hs_kv_drop(hs_kv *kv, uint32_t rows)
{
    uint32_t width;
    uint64_t bytes;
    void **table = growing(kv, &width, &bytes);
    for (uint32_t l = 0; l < kv->layers; l++)
        for (uint32_t i = rows; i < kv->rows; i++)
            table[(size_t)l * width + i] = NULL;
    kv->rows = kv->rows < rows ? kv->rows : rows;
}

void hs_kv_set(hs_kv *kv, uint32_t layer, uint32_t row, void *page)
{
    uint32_t width;
    uint64_t bytes;
    void **table = growing(kv, &width, &bytes);
    assert(layer < kv->layers && row < width);
    table[(size_t)layer * width + row] = page;
}

uint32_t hs_kv_rows(const hs_kv *kv)
{
    return kv->rows;
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

uint32_t hs_kv_ring(const hs_kv *kv)
{
    return kv->ring;
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
