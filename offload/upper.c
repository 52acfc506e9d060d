/*
 * offload/upper.c - one block of a backend's memory, cut into slots.
 *
 * Nothing here waits.  A slot may be claimed while its last readers are only queued: the copy into it is told to come
 * after them, and its next readers to come after the copy.  A backend that finds experts by itself hears of a slot when
 * stages wait for its copy or that is done, and before it is claimed for another: a stage that is asked for later does
 * not find it, and those asked for earlier were its readers, which the release of the slot has marked.
 */
#include "offload/upper.h"

#include "base/size.h"
#include "offload/slab.h"

hlwq_status hs_upper_open(hs_upper *u, hs_mem *mem, hs_backend *backend, const hs_slots_options *o, uint32_t kept,
                          uint64_t slot_bytes, double beside, hlwq_error *err)
{
    void *p;
    uint32_t chunks = (uint32_t)hs_ceil_div(o->capacity - kept, hs_slab_per_chunk(slot_bytes));
    *u = (hs_upper){.mem = mem,
                    .backend = backend,
                    .slot_bytes = slot_bytes,
                    .beside = beside,
                    .kept = kept,
                    .capacity = o->capacity,
                    .chunks = chunks};
    HS_TRY(hs_slots_open(&u->slots, mem, o, err));
    hlwq_status st = backend->ops->alloc(backend, HS_MEM_EXPERTS, kept * slot_bytes, "slots", &p, err);
    if (st != HLWQ_OK) {
        hs_upper_close(u);
        return st;
    }
    u->memory = p;
    st = hs_mem_alloc(mem, HS_MEM_TABLE,
                      o->capacity * (2 * sizeof *u->copy + sizeof *u->holds) + chunks * sizeof *u->chunk, "slots", &p,
                      err);
    uint64_t made = 0; /* the memory is cleared by then */
    if (st == HLWQ_OK) {
        u->free_at = p;
        u->copy = u->free_at + o->capacity;
        u->chunk = (uint8_t **)(void *)(u->copy + o->capacity);
        u->holds = (hs_upper_holds *)(void *)(u->chunk + chunks);
        st = backend->ops->mark(backend, &made, err);
    }
    for (uint32_t i = 0; i < o->capacity && st == HLWQ_OK; i++)
        u->free_at[i] = made;
    if (st == HLWQ_OK)
        (void)hs_slots_resize(u->slots, kept);
    else
        hs_upper_close(u);
    return st;
}

void hs_upper_close(hs_upper *u)
{
    hs_slots_close(u->slots);
    for (uint32_t i = 0; i < u->chunks && u->chunk; i++)
        u->backend->ops->free(u->backend, u->chunk[i]);
    if (u->backend)
        u->backend->ops->free(u->backend, u->memory);
    if (u->mem)
        hs_mem_free(u->mem, u->free_at);
    *u = (hs_upper){0};
}

static uint8_t *memory_of(const hs_upper *u, int32_t slot)
{
    uint32_t i = (uint32_t)slot, per = hs_slab_per_chunk(u->slot_bytes);
    if (i < u->kept)
        return u->memory + i * u->slot_bytes;
    return u->chunk[(i - u->kept) / per] + (i - u->kept) % per * u->slot_bytes;
}

const uint8_t *hs_upper_data(const hs_upper *u, int32_t slot)
{
    return memory_of(u, slot);
}

/* That the slot's extent is found there, or no more. */
static hlwq_status tell(hs_upper *u, int32_t slot, bool there, hlwq_error *err)
{
    hs_upper_holds *h = &u->holds[slot];
    hs_backend *be = u->backend;
    if (!u->tells || h->told == there)
        return HLWQ_OK;
    h->told = there;
    return be->ops->place(be, h->group, h->extent, 1, there ? hs_upper_data(u, slot) : NULL, 0, err);
}

hlwq_status hs_upper_landed(hs_upper *u, int32_t slot, uint64_t copy, hlwq_error *err)
{
    return u->copy[slot] == copy && hs_slots_is_ready(u->slots, slot) ? tell(u, slot, true, err) : HLWQ_OK;
}

hlwq_status hs_upper_take(hs_upper *u, uint32_t group, uint32_t extent, const uint8_t *data, const hs_span *span,
                          uint32_t spans, bool if_better, int32_t *slot, hlwq_error *err)
{
    *slot = if_better ? hs_slots_claim_if_better(u->slots, group, extent) : hs_slots_claim(u->slots, group, extent);
    if (*slot < 0)
        return HLWQ_OK;
    hlwq_status st = tell(u, *slot, false, err);
    uint8_t *to = memory_of(u, *slot);
    uint64_t after = u->free_at[*slot] > u->all_free_at ? u->free_at[*slot] : u->all_free_at;
    u->holds[*slot] = (hs_upper_holds){group, extent, false};
    for (uint32_t i = 0; i < spans && st == HLWQ_OK; i++)
        st = u->backend->ops->upload(u->backend, to + span[i].offset, data + span[i].offset, span[i].bytes, after,
                                     &u->copy[*slot], err);
    if (st != HLWQ_OK) {
        hs_slots_abandon(u->slots, *slot);
        *slot = -1;
        return st;
    }
    hs_slots_ready(u->slots, *slot);
    u->uploads++;
    for (uint32_t i = 0; i < spans; i++)
        u->upload_bytes += span[i].bytes;
    return HLWQ_OK;
}

/* Slots of a chunk: the last one may be short. */
static uint32_t chunk_slots(const hs_upper *u, uint32_t chunk)
{
    uint32_t per = hs_slab_per_chunk(u->slot_bytes), left = u->capacity - u->kept - chunk * per;
    return left < per ? left : per;
}

/* A slot that is given up holds nothing any more, and stages hear of it before its memory is gone. */
static hlwq_status give_up(hs_upper *u, uint32_t from, hlwq_error *err)
{
    for (uint32_t i = from; i < hs_slots_capacity(u->slots); i++)
        if (u->holds[i].told)
            HS_TRY(tell(u, (int32_t)i, false, err));
    if (!hs_slots_resize(u->slots, from))
        return hs_fail(err, HLWQ_ERR_BUDGET, "a slot on the card is still in use");
    return HLWQ_OK;
}

hlwq_status hs_upper_resize(hs_upper *u, uint32_t slots, hlwq_error *err)
{
    hs_backend *be = u->backend;
    uint32_t there = u->kept;
    hlwq_status st = HLWQ_OK;
    slots = slots < u->capacity ? slots : u->capacity;
    for (uint32_t i = 0; i < u->chunks; i++) {
        uint32_t n = chunk_slots(u, i);
        if (st == HLWQ_OK && there == u->kept + i * hs_slab_per_chunk(u->slot_bytes) && there + n <= slots) {
            void *p = u->chunk[i];
            if (!p)
                st = be->ops->alloc(be, HS_MEM_EXPERTS, n * u->slot_bytes, "slots", &p, err);
            u->chunk[i] = p;
            there += p ? n : 0;
            continue;
        }
        if (hs_slots_capacity(u->slots) > there)
            HS_TRY(give_up(u, there, err));
        be->ops->free(be, u->chunk[i]);
        u->chunk[i] = NULL;
    }
    uint64_t made = 0; /* new memory is cleared by then */
    if (there > hs_slots_capacity(u->slots))
        HS_TRY(be->ops->mark(be, &made, err));
    for (uint32_t i = hs_slots_capacity(u->slots); i < there; i++)
        u->free_at[i] = made;
    (void)hs_slots_resize(u->slots, there);
    return st;
}

uint64_t hs_upper_copy(const hs_upper *u, int32_t slot)
{
    return u->copy[slot];
}

hlwq_status hs_upper_await(hs_upper *u, uint32_t group, const int32_t *extent, uint32_t n, hlwq_error *err)
{
    uint64_t last = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t copy = u->copy[hs_slots_find(u->slots, group, (uint32_t)extent[i])];
        last = copy > last ? copy : last;
    }
    HS_TRY(u->backend->ops->await(u->backend, last, err));
    for (uint32_t i = 0; i < n; i++)
        HS_TRY(tell(u, hs_slots_find(u->slots, group, (uint32_t)extent[i]), true, err));
    return HLWQ_OK;
}

hlwq_status hs_upper_used(hs_upper *u, hlwq_error *err)
{
    return u->backend->ops->mark(u->backend, &u->all_free_at, err);
}

void hs_upper_release(hs_upper *u, uint32_t group, const int32_t *extent, uint32_t n)
{
    uint64_t now = 0;
    if (n) /* without one the card has failed, and nothing is copied any more either */
        (void)u->backend->ops->mark(u->backend, &now, NULL);
    for (uint32_t i = 0; i < n; i++) {
        int32_t slot = hs_slots_find(u->slots, group, (uint32_t)extent[i]);
        u->free_at[slot] = now;
        hs_slots_unpin(u->slots, slot);
    }
}
