/*
 * model/fit.c - a plan for a full context: where it does not fit beside the least of everything else, old rows of pages
 * go elsewhere.
 */
#include "model/engine.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

/* Rows that a batch needs in memory: its own, those before it that it reads as they are, and one that it ends in. */
static uint32_t hot_min(const hs_plan_input *in)
{
    return in->batch ? in->batch / HS_GRID + 2 : HS_HOT_MIN;
}

/* What the plan holds with rows of every session where e->spilling says. */
static hlwq_status plan_spilling(hlwq_engine *e, const hs_plan_input *all, hlwq_error *err)
{
    const hs_config *c = &all->table->config;
    const hs_spilling *o = &e->spilling;
    hs_plan_input in = *all;
    if (e->vram) {
        in.state_bytes -= e->planned * (hs_states_lowered_bytes(c, e->kv, e->context, o->hot) +
                                        hs_states_beyond_bytes(c, e->kv, e->context, HS_GRID, 0));
        in.state_bytes += e->planned * hs_states_beyond_bytes(c, e->kv, e->context, HS_GRID, o->hot);
        in.session_bytes += e->planned * hs_states_below_bytes(c, e->kv, e->context, o);
    } else {
        in.session_bytes -= e->planned * hs_states_filed_bytes(c, e->kv, e->context, o->hot);
    }
    return hs_plan_make(&e->plan, &in, hs_store_path(e->store), err);
}

static hlwq_status keep_dir(hlwq_engine *e, const char *dir, hlwq_error *err)
{
    e->spill_dir = malloc(strlen(dir) + 1);
    if (!e->spill_dir)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for an engine");
    memcpy(e->spill_dir, dir, strlen(dir) + 1);
    e->spilling.dir = e->spill_dir;
    return HLWQ_OK;
}

/* Half of what a cap leaves above the least, in rows: each of those is read at every token, experts where chosen. */
static uint32_t half_of(const hlwq_engine *e, uint64_t cap, uint64_t least, uint64_t row, uint32_t most)
{
    uint64_t left = cap > least ? cap - least : 0;
    return (uint32_t)hs_min_u64(left / 2 / (e->planned * row), most);
}

/* A card that is too small for a full context: old rows in ordinary memory, and, where that is short too, in a file. */
static hlwq_status fit_card(hlwq_engine *e, const hs_plan_input *in, const char *spill, hlwq_error *err)
{
    const hs_config *c = &in->table->config;
    uint64_t row;
    uint32_t rows = hs_states_rows(c, e->kv, e->context, &row);
    e->spilling = (hs_spilling){.hot = hot_min(in), .memory_rows = rows};
    hlwq_status st = plan_spilling(e, in, err);
    bool below = st == HLWQ_ERR_BUDGET && e->plan.card.total_bytes; /* it is ordinary memory that is short */
    if (below && !spill && err) {
        hlwq_error why = *err;
        return hs_fail(err, st, "%s; --kv-spill DIR keeps old keys and values in a file", why.message);
    }
    if (below && spill) {
        HS_TRY(keep_dir(e, spill, err));
        e->spilling.memory_rows = 1;
        st = plan_spilling(e, in, err);
    }
    HS_TRY(st);
    uint64_t least = e->plan.card.smallest_bytes + 2 * HS_CARD_PAGE_BYTES; /* more rows may begin a page more */
    e->spilling.hot += half_of(e, in->vram_bytes, least, row, rows - hot_min(in) - 1);
    if (e->spilling.dir)
        e->spilling.memory_rows += half_of(e, in->ram_bytes, e->plan.smallest_bytes, row,
                                           rows - e->spilling.hot > 2 ? rows - e->spilling.hot - 2 : 0);
    else
        e->spilling.memory_rows = rows - e->spilling.hot;
    return plan_spilling(e, in, err);
}

hlwq_status hs_engine_fit(hlwq_engine *e, const hs_plan_input *in, const char *spill, hlwq_error *err)
{
    const hs_config *c = &in->table->config;
    uint64_t row;
    uint32_t rows = hs_states_rows(c, e->kv, e->context, &row);
    hlwq_status st = hs_plan_make(&e->plan, in, hs_store_path(e->store), err);
    if (st != HLWQ_ERR_BUDGET || rows <= hot_min(in))
        return st;
    if (e->vram)
        return e->plan.card.total_bytes ? st : fit_card(e, in, spill, err);
    if (!spill)
        return st;
    e->spilling.hot = hot_min(in);
    HS_TRY(plan_spilling(e, in, err));
    e->spilling.hot += half_of(e, in->ram_bytes, e->plan.smallest_bytes, row, rows - hot_min(in) - 1);
    HS_TRY(keep_dir(e, spill, err));
    return plan_spilling(e, in, err);
}

void hs_engine_begin_lending(hlwq_engine *e, uint32_t slots_asked)
{
    const hs_config *c = &hs_store_table(e->store)->config;
    const hs_spilling *o = &e->spilling;
    uint64_t first, row, growth = hs_states_growth(c, e->kv, e->context, o->hot, &first);
    e->lending = (hs_lending){.slots_asked = slots_asked};
    if (e->vram) {
        uint32_t rows = hs_states_rows(c, e->kv, e->context, &row), below = o->hot && o->hot < rows ? rows - o->hot : 0;
        e->lending.above_planned_bytes = e->planned * growth;
        e->lending.above_first_bytes = e->planned * first;
        growth = hs_min_u64(below, o->memory_rows) * row;
        first = 0;
    }
    e->lending.planned_bytes = e->planned * growth;
    e->lending.first_bytes = e->planned * first;
}

uint64_t hs_engine_filed_bytes(const hlwq_engine *e)
{
    const hs_config *c = &hs_store_table(e->store)->config;
    uint64_t row;
    uint32_t rows = hs_states_rows(c, e->kv, e->context, &row), hot = e->spilling.hot;
    if (!e->spilling.dir || !hot || hot >= rows)
        return 0;
    if (!e->vram)
        return e->planned * hs_states_filed_bytes(c, e->kv, e->context, hot);
    return e->planned * (rows - hot - hs_min_u64(rows - hot, e->spilling.memory_rows)) * row;
}
