/*
 * cache/kv.c - a block cut into pages.
 */
#include "cache/kv.h"

#include "base/size.h"

struct hs_kv {
    hs_mem *mem;
    uint32_t layers, pages; /* pages per layer */
    hs_dtype dtype;
    void *page[]; /* [layers][pages] */
};

static uint64_t page_bytes(uint32_t width, hs_dtype dtype)
{
    return 2 * (uint64_t)HS_KV_PAGE * width * hs_dtype_bytes(dtype);
}

static uint64_t page_count(uint32_t positions)
{
    return hs_ceil_div(positions, HS_KV_PAGE);
}

uint64_t hs_kv_bytes(uint32_t layers, uint32_t width, hs_dtype dtype, uint32_t positions)
{
    return layers * page_count(positions) * (page_bytes(width, dtype) + sizeof(void *));
}

uint64_t hs_kv_block_bytes(uint32_t layers, uint32_t width, hs_dtype dtype, uint32_t positions)
{
    uint64_t total;
    return hs_mul_u64(layers * page_count(positions), page_bytes(width, dtype), &total) ? total : UINT64_MAX;
}

hlwq_status hs_kv_open(hs_kv **out, hs_mem *mem, uint32_t layers, uint32_t width, hs_dtype dtype, uint32_t positions,
                       void *block, hlwq_error *err)
{
    void *p;
    uint64_t pages = page_count(positions);
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_KV, sizeof(hs_kv) + layers * pages * sizeof(void *), "KV page table", &p, err));
    hs_kv *kv = p;
    kv->mem = mem;
    kv->layers = layers;
    kv->pages = (uint32_t)pages;
    kv->dtype = dtype;
    for (uint64_t i = 0; i < layers * pages; i++)
        kv->page[i] = (uint8_t *)block + i * page_bytes(width, dtype);
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

hs_dtype hs_kv_dtype(const hs_kv *kv)
{
    return kv->dtype;
}
