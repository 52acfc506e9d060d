/*
 * base/mem.h - all memory that grows with the model or the context, charged to a tag.
 *
 * An hs_mem is one budget.  Every block remembers its tag and size, so freeing returns the right
 * amount; over the cap is an error with the numbers in it, never a warning.  Thread-safe.
 * Blocks are 64-byte aligned; large ones are page-aligned, zeroed by the system.
 */
#ifndef HS_BASE_MEM_H
#define HS_BASE_MEM_H

#include "base/error.h"

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

/* 0 = no cap. NULL when the system has no memory. */
hs_mem *hs_mem_open(uint64_t cap_bytes);

/* The option that raises the cap, for errors: "--ram" unless said, NULL = none. `option` is lent. */
void hs_mem_set_option(hs_mem *mem, const char *option);

/* Asserts that every block was freed. */
void hs_mem_close(hs_mem *mem);

/* For memory that others allocate, such as a graphics card's: charged here, and to be discharged by the same amount. */
hlwq_status hs_mem_charge(hs_mem *mem, hs_mem_tag tag, uint64_t bytes, const char *what, hlwq_error *err);
void hs_mem_discharge(hs_mem *mem, hs_mem_tag tag, uint64_t bytes);

/* Zeroed block of `bytes`; `what` names it in the error. bytes 0 gives a valid pointer. */
hlwq_status hs_mem_alloc(hs_mem *mem, hs_mem_tag tag, uint64_t bytes, const char *what, void **out, hlwq_error *err);
void hs_mem_free(hs_mem *mem, void *block); /* NULL is fine */

const char *hs_mem_tag_name(hs_mem_tag tag);
uint64_t hs_mem_tag_bytes(const hs_mem *mem, hs_mem_tag tag);
uint64_t hs_mem_now_bytes(const hs_mem *mem);
uint64_t hs_mem_peak_bytes(const hs_mem *mem);
uint64_t hs_mem_cap_bytes(const hs_mem *mem);

/* 0 = no cap. What is held already stays, even above it. */
void hs_mem_set_cap(hs_mem *mem, uint64_t cap_bytes);

/*
 * Tests: the n-th allocation from now (0 = the next) fails with NOMEM. UINT64_MAX = never.  mem NULL: of every hs_mem
 * together, those still to be opened included; has_failed says whether that one has come.
 */
void hs_mem_fail_at(hs_mem *mem, uint64_t n);
bool hs_mem_has_failed(void);

#endif
