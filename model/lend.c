/*
 * model/lend.c - memory planned for keys and values that no text has reached yet is lent to the cache of experts.
 *
 * The plan holds the whole context, so that it can always be reached.  What a session has not taken of that goes to
 * slots; when it takes a step of pages, slots are given up first, a chunk of them at a time, so that the rest of the
 * chunk serves the next steps.  Never below what the plan has without lending: that much is always there.
 */
#include "model/engine.h"

#include "base/size.h"
#include "offload/slab.h"

/* Slots that `ram_bytes` leave while sessions hold `held` bytes of pages. */
static uint32_t slots_beside(const hlwq_engine *e, uint64_t ram_bytes, uint64_t held)
{
    hs_plan p = e->plan;
    const hs_lending *l = &e->lending;
    p.session_bytes -= l->planned_bytes > held ? l->planned_bytes - held : 0;
    uint32_t n = hs_plan_slots(&p, hs_store_table(e->store), ram_bytes ? ram_bytes : UINT64_MAX);
    return l->slots_asked && l->slots_asked < n ? l->slots_asked : n;
}

/* Slots that there are once every session is full. */
static uint32_t slots_at_last(const hlwq_engine *e)
{
    return slots_beside(e, e->plan.ram_bytes, UINT64_MAX);
}

uint32_t hs_engine_slots(const hlwq_engine *e, uint64_t ram_bytes)
{
    return slots_beside(e, ram_bytes, e->lending.held_bytes);
}

static hlwq_status resize(hlwq_engine *e, uint32_t slots, hlwq_error *err)
{
    HS_TRY(hs_residency_resize(e->residency, slots, err));
    e->plan.slots = slots;
    e->plan.slots_bytes = hs_residency_slots_bytes(hs_store_table(e->store), slots);
    return HLWQ_OK;
}

/* So many, or fewer that end with a chunk: what is left of a chunk serves the steps to come. */
static uint32_t whole_chunks(const hlwq_engine *e, uint32_t slots)
{
    uint32_t down = slots - slots % hs_slab_per_chunk(e->plan.weights.slot_bytes);
    return down >= slots_at_last(e) && down >= e->plan.weights.slots_min ? down : slots;
}

static hlwq_status take(void *user, uint64_t bytes, hlwq_error *err)
{
    hlwq_engine *e = user;
    hlwq_status st = HLWQ_OK;
    e->lending.held_bytes += bytes;
    uint32_t slots = e->plan.slots ? hs_engine_slots(e, e->plan.ram_bytes) : 0;
    if (slots < e->plan.slots)
        st = resize(e, whole_chunks(e, slots), err);
    if (st != HLWQ_OK)
        e->lending.held_bytes -= bytes;
    return st;
}

/* Slots come back when two chunks of them fit: a text that is begun again would take one back at once. */
static void give(void *user, uint64_t bytes)
{
    hlwq_engine *e = user;
    e->lending.held_bytes -= bytes;
    if (!e->plan.slots)
        return;
    uint32_t slots = hs_engine_slots(e, e->plan.ram_bytes), chunk = hs_slab_per_chunk(e->plan.weights.slot_bytes);
    if (slots >= e->plan.slots + 2 * chunk || (slots > e->plan.slots && slots == e->plan.weights.streamed))
        (void)resize(e, slots, NULL); /* it only saves time */
}

void hs_engine_lend(hlwq_engine *e)
{
    if (!e->plan.slots)
        return;
    uint32_t slots = whole_chunks(e, slots_beside(e, e->plan.ram_bytes, e->lending.first_bytes));
    if (slots >= e->plan.weights.streamed) /* all of them, but as slots: some will be given up */
        slots = e->plan.weights.streamed - 1;
    e->plan.slots = slots > e->plan.slots ? slots : e->plan.slots;
    e->plan.slots_bytes = hs_residency_slots_bytes(hs_store_table(e->store), e->plan.slots);
}

/* ---- the same on a card ---------------------------------------------------------------------- */

/* They come in whole chunks, and these in whole pages of the card. */
uint32_t hs_engine_slots_above(const hlwq_engine *e)
{
    const hs_lending *l = &e->lending;
    uint64_t held = hs_max_u64(l->above_held_bytes, l->above_first_bytes), slot = e->plan.weights.slot_bytes;
    uint64_t room = l->above_planned_bytes > held && slot ? l->above_planned_bytes - held : 0;
    if (!room)
        return e->plan.card.slots;
    uint64_t per = hs_slab_per_chunk(slot), chunk = hs_card_block_bytes(per * slot), last = room % chunk / slot;
    while (last && hs_card_block_bytes(last * slot) > room % chunk)
        last--;
    return (uint32_t)hs_min_u64(e->plan.card.slots + room / chunk * per + last, e->plan.weights.streamed);
}

void hs_engine_lend_above(hlwq_engine *e)
{
    if (e->plan.card.slots)
        (void)hs_residency_resize_upper(e->residency, hs_engine_slots_above(e), NULL); /* it only saves time */
}

static uint64_t lent_above(const hlwq_engine *e)
{
    uint32_t slots = e->plan.card.slots ? hs_residency_upper_slots(e->residency) : 0;
    return slots > e->plan.card.slots ? (slots - e->plan.card.slots) * e->plan.weights.slot_bytes : 0;
}

hlwq_status hs_engine_clear_above(hlwq_engine *e, uint64_t bytes, hlwq_error *err)
{
    if (!lent_above(e) || hs_mem_cap_bytes(e->vram) >= hs_mem_now_bytes(e->vram) + bytes)
        return HLWQ_OK;
    return hs_residency_resize_upper(e->residency, e->plan.card.slots, err);
}

static hlwq_status take_above(void *user, uint64_t bytes, hlwq_error *err)
{
    hlwq_engine *e = user;
    hlwq_status st = HLWQ_OK;
    e->lending.above_held_bytes += bytes;
    if (lent_above(e) && hs_engine_slots_above(e) < hs_residency_upper_slots(e->residency))
        st = hs_residency_resize_upper(e->residency, hs_engine_slots_above(e), err);
    if (st != HLWQ_OK)
        e->lending.above_held_bytes -= bytes;
    return st;
}

/* As in ordinary memory, slots come back when two chunks of them fit, or all that there are. */
static void give_above(void *user, uint64_t bytes)
{
    hlwq_engine *e = user;
    e->lending.above_held_bytes -= bytes;
    if (!e->plan.card.slots)
        return;
    uint32_t now = hs_residency_upper_slots(e->residency), slots = hs_engine_slots_above(e);
    if (slots >= now + 2 * hs_slab_per_chunk(e->plan.weights.slot_bytes) ||
        e->lending.above_held_bytes <= e->lending.above_first_bytes)
        hs_engine_lend_above(e);
}

static uint64_t growth_here(const hlwq_engine *e, const hs_states *states)
{
    return e->vram ? hs_states_growth_below(states) : hs_states_growth_of(states);
}

void hs_engine_promise(hlwq_engine *e, hs_states *states)
{
    hs_room here = {take, give, e}, above = {take_above, give_above, e};
    hs_states_set_room(states, &here, &above);
    e->lending.promised_bytes += growth_here(e, states);
    e->lending.above_promised_bytes += e->vram ? hs_states_growth_of(states) : 0;
}

void hs_engine_withdraw(hlwq_engine *e, const hs_states *states)
{
    if (!states->room.user)
        return;
    e->lending.promised_bytes -= growth_here(e, states);
    e->lending.above_promised_bytes -= e->vram ? hs_states_growth_of(states) : 0;
}

uint64_t hs_engine_unpromised_above(const hlwq_engine *e)
{
    const hs_lending *l = &e->lending;
    uint64_t cap = hs_mem_cap_bytes(e->vram), used = hs_mem_now_bytes(e->vram);
    used += l->above_promised_bytes > l->above_held_bytes ? l->above_promised_bytes - l->above_held_bytes : 0;
    used -= hs_min_u64(used, lent_above(e));
    return cap > used ? cap - used : 0;
}

uint64_t hs_engine_unpromised(const hlwq_engine *e)
{
    const hs_table *t = hs_store_table(e->store);
    const hs_lending *l = &e->lending;
    uint64_t cap = hs_mem_cap_bytes(e->mem), used = hs_mem_now_bytes(e->mem);
    used += l->promised_bytes > l->held_bytes ? l->promised_bytes - l->held_bytes : 0;
    if (e->plan.slots) /* what is lent comes back */
        used -= hs_min_u64(used, e->plan.slots_bytes - hs_residency_slots_bytes(t, slots_at_last(e)));
    return cap > used ? cap - used : 0;
}
