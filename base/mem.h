/*
 * base/mem.h - all memory that grows with the model or the context, charged to a tag in a pool.
 *
 * An hs_mem is one budget.  Every block remembers its tag and size, so freeing returns the right
 * amount; over the cap is an error with the numbers in it, never a warning.  Thread-safe.
 * Blocks are 64-byte aligned; large ones are page-aligned, zeroed by the system.
 */
#ifndef HS_BASE_MEM_H
#define HS_BASE_MEM_H

#include "base/error.h"

typedef enum hs_mem_pool { HS_POOL_VRAM, HS_POOL_RAM, HS_POOL_SCRATCH, HS_POOL_COUNT } hs_mem_pool;

typedef enum hs_mem_tag {
    HS_MEM_WEIGHTS, /* resident weights */
    HS_MEM_EXPERTS, /* expert slots */
    HS_MEM_KV,      /* KV pages */
    HS_MEM_STATE,   /* DeltaNet and convolution states */
    HS_MEM_ACT,     /* activations of one step */
    HS_MEM_IO,      /* transfer buffers */
    HS_MEM_TOKENIZER,
    HS_MEM_TABLE, /* tensor tables, indexes, configuration */
    HS_MEM_OTHER,
    HS_MEM_TAG_COUNT
} hs_mem_tag;

typedef struct hs_mem hs_mem;

/* `ram_cap_bytes` bounds RAM + SCRATCH together, 0 = no cap. NULL when the system has no memory. */
hs_mem *hs_mem_open(uint64_t ram_cap_bytes);

/* Asserts that every block was freed. */
void hs_mem_close(hs_mem *mem);

/* Zeroed block of `bytes`; `what` names it in the error. bytes 0 gives a valid pointer. */
hlwq_status hs_mem_alloc(hs_mem *mem, hs_mem_tag tag, uint64_t bytes, const char *what, void **out, hlwq_error *err);
void hs_mem_free(hs_mem *mem, void *block); /* NULL is fine */

const char *hs_mem_tag_name(hs_mem_tag tag);
uint64_t hs_mem_tag_bytes(const hs_mem *mem, hs_mem_tag tag);
uint64_t hs_mem_now_bytes(const hs_mem *mem);
uint64_t hs_mem_peak_bytes(const hs_mem *mem);
uint64_t hs_mem_cap_bytes(const hs_mem *mem);

/* 0 = no cap. What is held already stays, even above it. */
void hs_mem_set_cap(hs_mem *mem, uint64_t ram_cap_bytes);

/*
 * Tests: the n-th allocation from now (0 = the next) fails with NOMEM. UINT64_MAX = never.  mem NULL: of every hs_mem
 * together, those still to be opened included; has_failed says whether that one has come.
 */
void hs_mem_fail_at(hs_mem *mem, uint64_t n);
bool hs_mem_has_failed(void);

#endif
