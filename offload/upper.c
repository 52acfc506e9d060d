/*
 * offload/upper.c - one block of a backend's memory, cut into slots.
 */
#include "offload/upper.h"

hlwq_status hs_upper_open(hs_upper *u, hs_mem *mem, hs_backend *backend, const hs_slots_options *o, uint64_t slot_bytes,
                          double beside, hlwq_error *err)
{
    void *p;
    *u = (hs_upper){.mem = mem, .backend = backend, .slot_bytes = slot_bytes, .beside = beside};
    HS_TRY(hs_slots_open(&u->slots, mem, o, err));
    hlwq_status st = backend->ops->alloc(backend, HS_MEM_EXPERTS, o->capacity * slot_bytes, "slots", &p, err);
    if (st != HLWQ_OK) {
        hs_upper_close(u);
        return st;
    }
    u->memory = p;
    return HLWQ_OK;
}

void hs_upper_close(hs_upper *u)
{
    hs_slots_close(u->slots);
    if (u->backend)
        u->backend->ops->free(u->backend, u->memory);
    *u = (hs_upper){0};
}

const uint8_t *hs_upper_data(const hs_upper *u, int32_t slot)
{
    return u->memory + (uint32_t)slot * u->slot_bytes;
}

hlwq_status hs_upper_take(hs_upper *u, uint32_t group, uint32_t extent, const uint8_t *data, uint64_t bytes,
                          bool if_better, int32_t *slot, hlwq_error *err)
{
    *slot = if_better ? hs_slots_claim_if_better(u->slots, group, extent) : hs_slots_claim(u->slots, group, extent);
    if (*slot < 0)
        return HLWQ_OK;
    hlwq_status st = u->backend->ops->put(u->backend, u->memory + (uint32_t)*slot * u->slot_bytes, data, bytes, err);
    if (st != HLWQ_OK) {
        hs_slots_abandon(u->slots, *slot);
        *slot = -1;
        return st;
    }
    hs_slots_ready(u->slots, *slot);
    u->uploads++;
    return HLWQ_OK;
}
