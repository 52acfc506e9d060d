/*
 * kernels/cuda/pages.h - where a page of the cache is, for the kernels that write and read them.
 */
#ifndef HS_KERNELS_CUDA_PAGES_H
#define HS_KERNELS_CUDA_PAGES_H

#include "kernels/cuda/device.h"

/* Row t of attention: the position of its query, and where the pages of its text are. */
typedef struct gpu_row {
    uint32_t position;
    uint8_t *page, *coded;
    const uint64_t *table;
} gpu_row;

static __device__ __forceinline__ uint32_t gpu_position_of(const gpu_attention &a, uint32_t t)
{
    return a.at ? a.at[t] : a.first + t;
}

static __device__ __forceinline__ gpu_row gpu_row_of(const gpu_attention &a, uint32_t t)
{
    gpu_row r = {gpu_position_of(a, t), a.page, a.coded, a.table};
    if (a.at) {
        const hs_bases text = a.text[t];
        r.page = gpu_behind(text.ring, a.page);
        r.coded = gpu_behind(text.pages, a.coded);
        r.table = gpu_behind(text.pages, a.table);
    }
    return r;
}

static __device__ __forceinline__ uint64_t gpu_plain_bytes(const gpu_attention &a)
{
    return 2ull * HS_GRID * a.kv_heads * a.head_dim * (a.half ? 2 : 4);
}

/* A page of the kind that grows: looked up, or in a row. */
static __device__ __forceinline__ uint8_t *gpu_listed_page(const gpu_attention &a, const gpu_row &r, uint32_t page)
{
    return reinterpret_cast<uint8_t *>(r.table[(uint64_t)page * a.table_step]);
}

static __device__ __forceinline__ uint8_t *gpu_plain_page(const gpu_attention &a, const gpu_row &r, uint32_t page)
{
    if (a.table_step && a.coded_bytes == 0)
        return gpu_listed_page(a, r, page);
    return r.page + page % a.ring * gpu_plain_bytes(a);
}

static __device__ __forceinline__ uint8_t *gpu_coded_page(const gpu_attention &a, const gpu_row &r, uint32_t page)
{
    return a.table_step ? gpu_listed_page(a, r, page) : r.coded + page * a.coded_bytes;
}

/* Where it is read. */
static __device__ __forceinline__ const uint8_t *gpu_page_in(const gpu_attention &a, const gpu_row &r, uint32_t page,
                                                             bool coded)
{
    if (a.window)
        return a.window + (page - a.from) * (coded ? a.coded_bytes : gpu_plain_bytes(a));
    return coded ? gpu_coded_page(a, r, page) : gpu_plain_page(a, r, page);
}

#endif
