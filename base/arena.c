/*
 * base/arena.c - a list of chunks; each is at least twice as useful as its header.
 */
#include "base/arena.h"

#include "base/size.h"

#include <inttypes.h>
#include <string.h>

struct hs_arena_chunk {
    hs_arena_chunk *before;
    uint64_t used, size; /* of data[] */
    uint64_t pad;
    uint8_t data[];
};

#define CHUNK (64u << 10)

void hs_arena_init(hs_arena *a, hs_mem *mem, hs_mem_tag tag)
{
    *a = (hs_arena){.mem = mem, .tag = tag};
}

void hs_arena_close(hs_arena *a)
{
    while (a->last) {
        hs_arena_chunk *c = a->last;
        a->last = c->before;
        hs_mem_free(a->mem, c);
    }
}

hlwq_status hs_arena_alloc(hs_arena *a, uint64_t bytes, void **out, hlwq_error *err)
{
    uint64_t need;
    *out = NULL;
    if (!hs_align_u64(bytes, 16, &need))
        return hs_fail(err, HLWQ_ERR_NOMEM, "%" PRIu64 " bytes is larger than any memory", bytes);
    if (!a->last || a->last->size - a->last->used < need) {
        void *p;
        uint64_t size = hs_max_u64(need, CHUNK);
        HS_TRY(hs_mem_alloc(a->mem, a->tag, size + sizeof(hs_arena_chunk), hs_mem_tag_name(a->tag), &p, err));
        hs_arena_chunk *c = p;
        c->before = a->last;
        c->size = size;
        a->last = c;
    }
    *out = a->last->data + a->last->used;
    a->last->used += need;
    return HLWQ_OK;
}

hlwq_status hs_arena_array(hs_arena *a, uint64_t n, uint64_t item_bytes, void **out, hlwq_error *err)
{
    uint64_t bytes;
    *out = NULL;
    if (!hs_mul_u64(n, item_bytes, &bytes))
        return hs_fail(err, HLWQ_ERR_NOMEM, "%" PRIu64 " items of %" PRIu64 " bytes are larger than any memory", n,
                       item_bytes);
    return hs_arena_alloc(a, bytes, out, err);
}

hlwq_status hs_arena_text(hs_arena *a, const char *text, uint64_t bytes, char **out, hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_arena_alloc(a, bytes + 1, &p, err));
    memcpy(p, text, bytes);
    *out = p;
    return HLWQ_OK;
}
