/*
 * base/arena.h - many small things that die together.
 *
 * Grows in chunks taken from an hs_mem, so it obeys the budget.  Not thread-safe.
 */
#ifndef HS_BASE_ARENA_H
#define HS_BASE_ARENA_H

#include "base/mem.h"

typedef struct hs_arena_chunk hs_arena_chunk;

typedef struct hs_arena {
    hs_mem *mem;
    hs_mem_tag tag;
    hs_arena_chunk *last;
} hs_arena;

void hs_arena_init(hs_arena *arena, hs_mem *mem, hs_mem_tag tag);
void hs_arena_close(hs_arena *arena); /* frees all; the arena is empty and usable again */

/* Zeroed, 16-byte aligned. */
hlwq_status hs_arena_alloc(hs_arena *arena, uint64_t bytes, void **out, hlwq_error *err);

/* Array of `n` items, the product checked. */
hlwq_status hs_arena_array(hs_arena *arena, uint64_t n, uint64_t item_bytes, void **out, hlwq_error *err);

/* Zero-terminated copy of `bytes` bytes. */
hlwq_status hs_arena_text(hs_arena *arena, const char *text, uint64_t bytes, char **out, hlwq_error *err);

#endif
