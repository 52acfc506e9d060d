/*
 * cache/kv.c - one block per session, cut into pages.
 */
#include "cache/kv.h"

#include "base/size.h"

struct hs_kv {
    hs_mem *mem;
    uint32_t layers, pages; /* pages per layer */
    hs_dtype dtype;
    void *block;
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

hlwq_status hs_kv_open(hs_kv **out, hs_mem *mem, uint32_t layers, uint32_t width, hs_dtype dtype, uint32_t positions,
                       hlwq_error *err)
{
    void *p;
    uint64_t pages = page_count(positions), total;
    *out = NULL;
    if (!hs_mul_u64(layers * pages, page_bytes(width, dtype), &total))
        return hs_fail(err, HLWQ_ERR_BUDGET, "a context of %u positions is larger than any memory", positions);
    HS_TRY(hs_mem_alloc(mem, HS_MEM_KV, sizeof(hs_kv) + layers * pages * sizeof(void *), "KV page table", &p, err));
    hs_kv *kv = p;
    kv->mem = mem;
    kv->layers = layers;
    kv->pages = (uint32_t)pages;
    kv->dtype = dtype;
    hlwq_status st = hs_mem_alloc(mem, HS_MEM_KV, total, "KV cache", &kv->block, err);
    if (st != HLWQ_OK) {
        hs_mem_free(mem, kv);
        return st;
    }
    for (uint64_t i = 0; i < layers * pages; i++)
        kv->page[i] = (uint8_t *)kv->block + i * page_bytes(width, dtype);
    *out = kv;
    return HLWQ_OK;
}

void hs_kv_close(hs_kv *kv)
{
    if (!kv)
        return;
    hs_mem_free(kv->mem, kv->block);
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
