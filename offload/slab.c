/*
 * offload/slab.c - chunks of 64 MiB, or of one slot where that is larger.
 */
#include "offload/slab.h"

#include "base/size.h"

#include <assert.h>

enum { CHUNK_BYTES = 64 << 20, PAGE = 4096 };

uint32_t hs_slab_per_chunk(uint64_t slot_bytes)
{
    return slot_bytes >= CHUNK_BYTES ? 1 : (uint32_t)(CHUNK_BYTES / slot_bytes);
}

static uint32_t chunks_of(uint64_t slot_bytes, uint32_t slots)
{
    return (slots + hs_slab_per_chunk(slot_bytes) - 1) / hs_slab_per_chunk(slot_bytes);
}

hlwq_status hs_slab_init(hs_slab *s, hs_mem *mem, uint64_t slot_bytes, uint32_t slots, hlwq_error *err)
{
    void *p;
    *s = (hs_slab){.mem = mem,
                   .slot_bytes = slot_bytes,
                   .per_chunk = hs_slab_per_chunk(slot_bytes),
                   .n_chunks = chunks_of(slot_bytes, slots)};
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, s->n_chunks * sizeof *s->chunk, "slots", &p, err));
    s->chunk = p;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, s->n_chunks * sizeof *s->buffer, "slots", &p, err));
    s->buffer = p;
    return HLWQ_OK;
}

void hs_slab_close(hs_slab *s)
{
    for (uint32_t i = 0; i < s->n_chunks && s->chunk; i++)
        hs_mem_free(s->mem, s->chunk[i]);
    if (s->mem) {
        hs_mem_free(s->mem, s->chunk);
        hs_mem_free(s->mem, s->buffer);
    }
    *s = (hs_slab){0};
}

hlwq_status hs_slab_fit(hs_slab *s, uint32_t slots, hlwq_error *err)
{
    for (uint32_t i = 0; i < s->n_chunks; i++) {
        uint32_t first = i * s->per_chunk;
        if (first < slots && !s->chunk[i]) {
            void *p;
            uint64_t n = hs_min_u64(s->per_chunk, slots - first);
            HS_TRY(hs_mem_alloc(s->mem, HS_MEM_EXPERTS, n * s->slot_bytes + PAGE, "slots", &p, err));
            s->chunk[i] = p;
            s->buffer[i] = (struct iovec){(void *)hs_align_up((uintptr_t)p, PAGE), n * s->slot_bytes};
        } else if (first >= slots && s->chunk[i]) {
            hs_mem_free(s->mem, s->chunk[i]);
            s->chunk[i] = NULL;
        }
    }
    return HLWQ_OK;
}

uint64_t hs_slab_bytes(uint64_t slot_bytes, uint32_t slots, uint32_t slots_max)
{
    uint64_t tables = chunks_of(slot_bytes, slots_max) * (sizeof(uint8_t *) + sizeof(struct iovec)) + 4 * PAGE;
    return slots * slot_bytes + chunks_of(slot_bytes, slots) * (uint64_t)(3 * PAGE) + tables;
}

uint8_t *hs_slab_slot(const hs_slab *s, uint32_t slot)
{
    assert(s->chunk[slot / s->per_chunk]);
    return (uint8_t *)s->buffer[slot / s->per_chunk].iov_base + slot % s->per_chunk * s->slot_bytes;
}

const struct iovec *hs_slab_buffers(hs_slab *s, uint32_t *n)
{
    *n = 0;
    while (*n < s->n_chunks && s->chunk[*n]) /* chunks are taken from the first on */
        ++*n;
    return s->buffer;
}
