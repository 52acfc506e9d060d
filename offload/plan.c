/*
 * offload/plan.c - the trunk and the context first, then as large a batch as a tenth of the budget allows, then slots.
 */
#include "offload/plan.h"

#include "base/size.h"
#include "kernels/backend.h"

#include <inttypes.h>

/*
 * What is not counted one by one: structures, code, libraries, stacks; and a hundredth of the cap for page tables and
 * what else the system charges to a process, so that a control group of exactly the cap holds it.
 */
enum {
    MARGIN = 4 << 20,
    SHARE = 100,
    CARD_MARGIN = 2 << 20, /* a page of the card's that small blocks begin */
    CARD_SLOTS_MIN = 2
};

static uint64_t without_slots(const hs_plan *p, uint64_t cap)
{
    return (p->on_card ? p->weights.embed_bytes : p->weights.trunk_bytes) + p->fixed_bytes + p->session_bytes +
           p->activation_bytes + MARGIN + cap / SHARE;
}

uint32_t hs_plan_slots(const hs_plan *p, const hs_table *table, uint64_t ram_bytes)
{
    uint64_t fixed = without_slots(p, ram_bytes);
    uint32_t low = 0, high = p->weights.streamed; /* the most that fit: between */
    while (low < high) {
        uint32_t middle = high - (high - low) / 2;
        if (fixed + hs_residency_slots_bytes(table, middle) <= ram_bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576.0;
}

/* The most slots whose block is not larger than that. */
static uint32_t slots_within(const hs_footprint *f, uint64_t bytes)
{
    uint64_t n = f->slot_bytes ? hs_min_u64(bytes / f->slot_bytes, f->streamed) : 0;
    while (n && hs_card_block_bytes(n * f->slot_bytes) > bytes)
        n--;
    return (uint32_t)n;
}

/* The card: what stages read every token, the context, activations; then slots. */
static hlwq_status plan_card(hs_plan *p, const hs_plan_input *in, const char *what, hlwq_error *err)
{
    hs_card_plan *c = &p->card;
    const hs_footprint *f = &p->weights;
    uint64_t cap = in->vram_bytes ? in->vram_bytes : UINT64_MAX;
    uint64_t trunk = hs_card_block_bytes(f->stage_bytes);
    uint64_t least = in->reserve_bytes + trunk + in->state_bytes + in->recorded_bytes + CARD_MARGIN;
    *c = (hs_card_plan){.vram_bytes = in->vram_bytes,
                        .reserve_bytes = in->reserve_bytes,
                        .trunk_bytes = trunk,
                        .state_bytes = in->state_bytes,
                        .recorded_bytes = in->recorded_bytes};
    uint64_t slots_min = hs_card_block_bytes(hs_min_u64(CARD_SLOTS_MIN, f->streamed) * f->slot_bytes);
    uint64_t all = hs_card_block_bytes(f->streamed_bytes);
    c->smallest_bytes = least + in->card_bytes(in->user, HS_GRID) + slots_min;
    for (;;) {
        c->activation_bytes = in->card_bytes(in->user, p->batch);
        uint64_t fixed = least + c->activation_bytes;
        if (in->card_slots == 0 && fixed + all <= cap) {
            c->slots = 0;
            c->slots_bytes = all;
        } else if (fixed + slots_min <= cap) {
            c->slots = slots_within(f, cap - fixed);
            if (in->card_slots && in->card_slots < c->slots)
                c->slots = in->card_slots;
            c->slots_bytes = hs_card_block_bytes(c->slots * f->slot_bytes);
        } else if (in->batch || p->batch == HS_GRID)
            return hs_fail(err, HLWQ_ERR_BUDGET,
                           "%s does not run on a card with %.1f MiB: weights that are always needed take %.1f, the "
                           "context %.1f, activations %.1f, recorded steps %.1f, CUDA and others %.1f; the smallest "
                           "--vram that works is %" PRIu64 "M",
                           what, mib(cap), mib(trunk), mib(in->state_bytes), mib(c->activation_bytes),
                           mib(in->recorded_bytes), mib(in->reserve_bytes), (c->smallest_bytes + 1048575) / 1048576);
        if (c->slots_bytes && (in->batch || p->batch == HS_GRID || c->slots == 0 || c->activation_bytes <= cap / 10))
            break;
        if (in->batch || p->batch == HS_GRID)
            break;
        p->batch /= 2;
    }
    c->total_bytes = least + c->activation_bytes + c->slots_bytes;
    return HLWQ_OK;
}

hlwq_status hs_plan_make(hs_plan *p, const hs_plan_input *in, const char *what, hlwq_error *err)
{
    *p = (hs_plan){.weights = hs_footprint_of(in->table),
                   .ram_bytes = in->ram_bytes,
                   .fixed_bytes = in->fixed_bytes,
                   .session_bytes = in->session_bytes,
                   .batch = in->batch ? in->batch : HS_BATCH_MAX,
                   .on_card = in->card};
    if (in->card)
        HS_TRY(plan_card(p, in, what, err));
    bool all_above = in->card && p->card.slots == 0;
    uint64_t cap = in->ram_bytes ? in->ram_bytes : UINT64_MAX;
    p->activation_bytes = in->activation_bytes(in->user, HS_GRID);
    uint64_t least = without_slots(p, 0) + hs_residency_slots_bytes(in->table, p->weights.slots_min);
    p->smallest_bytes = least + least / (SHARE - 1) + 1;
    p->activation_bytes = in->activation_bytes(in->user, p->batch);
    uint64_t all = without_slots(p, in->ram_bytes) + (all_above ? 0 : p->weights.streamed_bytes);
    if ((in->slots == 0 || all_above) && all <= cap) {
        p->slots_bytes = all_above ? 0 : p->weights.streamed_bytes;
        p->total_bytes = all;
        return HLWQ_OK;
    }
    while (in->batch == 0 && p->batch > HS_GRID && p->activation_bytes > cap / 10) {
        p->batch /= 2;
        p->activation_bytes = in->activation_bytes(in->user, p->batch);
    }
    p->slots = hs_plan_slots(p, in->table, cap);
    while (in->batch == 0 && p->batch > HS_GRID && p->slots < p->weights.slots_min) {
        p->batch /= 2;
        p->activation_bytes = in->activation_bytes(in->user, p->batch);
        p->slots = hs_plan_slots(p, in->table, cap);
    }
    if (in->slots && in->slots < p->slots)
        p->slots = in->slots;
    if (p->slots < p->weights.slots_min || p->weights.streamed == 0)
        return hs_fail(err, HLWQ_ERR_BUDGET,
                       "%s does not run in %.1f MiB: weights that are always needed take %.1f, the context %.1f, "
                       "activations %.1f; the smallest --ram that works is %" PRIu64 "M",
                       what, mib(cap), mib(p->weights.trunk_bytes), mib(p->session_bytes), mib(p->activation_bytes),
                       (p->smallest_bytes + 1048575) / 1048576);
    p->slots_bytes = hs_residency_slots_bytes(in->table, p->slots);
    p->total_bytes = without_slots(p, in->ram_bytes) + p->slots_bytes;
    return HLWQ_OK;
}
