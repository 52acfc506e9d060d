/*
 * kernels/cuda/pages.h - where a page of the cache is, for the kernels that write and read them.
 */
#ifndef HS_KERNELS_CUDA_PAGES_H
#define HS_KERNELS_CUDA_PAGES_H

#include "kernels/cuda/device.h"

/* The position of the first query. */
static __device__ __forceinline__ uint32_t gpu_first_of(const gpu_attention &a)
{
    return a.at ? *a.at : a.first;
}

static __device__ __forceinline__ uint64_t gpu_plain_bytes(const gpu_attention &a)
{
    return 2ull * HS_GRID * a.kv_heads * a.head_dim * (a.half ? 2 : 4);
}

/* A page of the kind that grows: looked up, or in a row. */
static __device__ __forceinline__ uint8_t *gpu_listed_page(const gpu_attention &a, uint32_t page)
{
    return reinterpret_cast<uint8_t *>(a.table[(uint64_t)page * a.table_step]);
}

static __device__ __forceinline__ uint8_t *gpu_plain_page(const gpu_attention &a, uint32_t page)
{
    if (a.table && a.coded_bytes == 0)
        return gpu_listed_page(a, page);
    return a.page + page % a.ring * gpu_plain_bytes(a);
}

static __device__ __forceinline__ uint8_t *gpu_coded_page(const gpu_attention &a, uint32_t page)
{
    return a.table ? gpu_listed_page(a, page) : a.coded + page * a.coded_bytes;
}

/* Where it is read. */
static __device__ __forceinline__ const uint8_t *gpu_page_in(const gpu_attention &a, uint32_t page, bool coded)
{
    if (a.window)
        return a.window + (page - a.from) * (coded ? a.coded_bytes : gpu_plain_bytes(a));
    return coded ? gpu_coded_page(a, page) : gpu_plain_page(a, page);
}

#endif
