/*
 * offload/slab.h - the memory of slots: chunks, so that a smaller budget can give some back to the system.
 */
#ifndef HS_OFFLOAD_SLAB_H
#define HS_OFFLOAD_SLAB_H

#include "base/mem.h"

#include <sys/uio.h>

typedef struct hs_slab {
    hs_mem *mem;
    uint64_t slot_bytes;
    uint32_t per_chunk, n_chunks;
    uint8_t **chunk;      /* [n_chunks]; NULL = given back */
    struct iovec *buffer; /* [n_chunks]: those there are, as hs_slab_buffers gives them */
} hs_slab;

/* Room for the tables of `slots` slots at most; no memory for slots yet. slot_bytes is a multiple of 4096. */
hlwq_status hs_slab_init(hs_slab *s, hs_mem *mem, uint64_t slot_bytes, uint32_t slots, hlwq_error *err);
void hs_slab_close(hs_slab *s); /* idempotent for zeroed structs */

/* Memory for slots 0..slots-1, and none for chunks beyond. A last chunk that is there already does not grow. */
hlwq_status hs_slab_fit(hs_slab *s, uint32_t slots, hlwq_error *err);

/* Slots of a chunk: memory is taken and given back by chunks. */
uint32_t hs_slab_per_chunk(uint64_t slot_bytes);

/* What `slots` slots take, tables included. */
uint64_t hs_slab_bytes(uint64_t slot_bytes, uint32_t slots, uint32_t slots_max);

/* 4096-byte aligned. */
uint8_t *hs_slab_slot(const hs_slab *s, uint32_t slot);

/* The chunks that are there, in order; those given back are empty. Chunk of a slot: slot / per_chunk. */
const struct iovec *hs_slab_buffers(hs_slab *s, uint32_t *n);

#endif
