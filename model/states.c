/*
 * model/states.c - DeltaNet states in one block, keys and values in steps of some MiB.
 *
 * A step is an eighth of the pages, but 1 to 16 MiB of them, or a quarter more where that fills whole pages of a card:
 * large enough to come from the system and not from malloc, and to be backed with large pages; small enough that what
 * is taken and not yet used is little.
 */
#include "model/states.h"
#include "model/session_file.h"

#include "base/size.h"

#include <assert.h>
#include <string.h>

static uint32_t full_layers(const hs_config *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->layers; i++)
        n += c->full[i];
    return n;
}

/* Floats of S and of the convolution window of one DeltaNet layer, each a multiple of 16. */
static uint64_t s_floats(const hs_config *c)
{
    return hs_align_up((uint64_t)c->v_heads * c->k_dim * c->v_dim, 16);
}

static uint64_t conv_floats(const hs_config *c)
{
    return c->conv_taps ? hs_align_up((uint64_t)hs_conv_channels(c) * (c->conv_taps - 1), 16) : 0;
}

static uint64_t delta_bytes(const hs_config *c)
{
    return (c->layers - full_layers(c)) * (s_floats(c) + conv_floats(c)) * sizeof(float);
}

static hs_kv_shape kv_shape(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t batch)
{
    return (hs_kv_shape){full_layers(c), c->kv_heads * c->head_dim, kv, positions, batch};
}

/* Whether stages work on memory that is not ordinary. */
static bool apart(const hs_backend *backend)
{
    return backend->ops->lend != NULL;
}

uint64_t hs_kv_step_bytes = 1 << 20;

enum { STEP_MAX = 16 << 20, STEPS = 8, STEP_EXTRA = 2 * 4096 /* what the allocator adds */ };

/* So many rows, or up to a quarter more, of which the least is lost where a card takes whole pages. */
static uint64_t filling(uint64_t some, uint64_t row)
{
    uint64_t best = some;
    for (uint64_t n = some + 1; n <= some + some / 4 + 1; n++)
        if (hs_card_block_bytes(n * row) * best < hs_card_block_bytes(best * row) * n)
            best = n;
    return best;
}

/* Rows that are taken at once. */
static uint32_t step_rows(const hs_kv_shape *shape)
{
    uint64_t rows = hs_kv_rows_for(shape, shape->positions), row = hs_kv_row_bytes(shape);
    if (!row)
        return (uint32_t)rows;
    uint64_t some = hs_max_u64(hs_ceil_div(rows, STEPS), hs_ceil_div(hs_kv_step_bytes, row));
    some = hs_min_u64(some, hs_max_u64(STEP_MAX / row, 1));
    return (uint32_t)hs_min_u64(rows, filling(some, row));
}

static uint64_t steps_for(const hs_kv_shape *shape, uint32_t rows)
{
    uint32_t n = step_rows(shape);
    return n ? hs_ceil_div(rows, n) : 0;
}

uint64_t hs_states_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t batch)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, batch);
    return hs_kv_bytes(&shape) + delta_bytes(c) + c->layers * (sizeof(hs_delta_state) + sizeof(uint32_t));
}

uint64_t hs_session_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t batch)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, batch);
    return hs_states_bytes(c, kv, positions, batch) + positions * sizeof(int32_t) + (uint64_t)c->vocab * 32 + 65536 +
           hs_session_file_bytes() + steps_for(&shape, hs_kv_rows_for(&shape, positions)) * STEP_EXTRA;
}

/* What a block on a card takes beyond its bytes. */
static uint64_t beyond(uint64_t bytes)
{
    return bytes ? hs_card_block_bytes(bytes) - bytes : 0;
}

uint64_t hs_states_growth_beyond(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t hot)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, HS_GRID);
    uint64_t row = hs_kv_row_bytes(&shape), some = step_rows(&shape), rows = hs_kv_rows_for(&shape, positions);
    rows = hot ? hs_min_u64(rows, hot) : rows;
    return some ? rows / some * beyond(some * row) + beyond(rows % some * row) : 0;
}

uint64_t hs_states_beyond_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t batch, uint32_t hot)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, batch);
    uint64_t all = hs_kv_rows_for(&shape, positions), rows = hot ? hs_min_u64(all, hot) : all;
    uint64_t table = hs_card_block_bytes(all * shape.layers * sizeof(uint64_t)),
             window = rows < all ? hs_lower_window_bytes(hs_kv_row_bytes(&shape) / full_layers(c)) : 0;
    return table + beyond(delta_bytes(c)) + beyond(hs_kv_ring_bytes(&shape)) + beyond(window) +
           hs_states_growth_beyond(c, kv, positions, hot);
}

static bool coded_type(uint32_t bits, hs_dtype *dtype)
{
    *dtype = bits == 8 ? HS_I8 : hs_dtype_of_bits(bits);
    return bits == 8 || (bits >= 2 && bits <= 4);
}

hlwq_status hs_kv_format_named(hs_kv_format *f, hlwq_kv name, const hs_config *c, hlwq_error *err)
{
    uint32_t bits = (uint32_t)name;
    if (name == HLWQ_KV_F16 || name == HLWQ_KV_F32) {
        f->k = f->v = name == HLWQ_KV_F32 ? HS_F32 : HS_F16;
        return HLWQ_OK;
    }
    if (bits > 0xFF || !coded_type(bits >> 4, &f->k) || !coded_type(bits & 15, &f->v))
        return hs_fail(err, HLWQ_ERR_ARG, "%u is not a way to keep keys and values", bits);
    if (c->head_dim % HS_BLOCK)
        return hs_fail(
            err, HLWQ_ERR_UNSUPPORTED,
            "keys and values can be coded in blocks of %d only, and this model's heads have %u; use --kv f16", HS_BLOCK,
            c->head_dim);
    return HLWQ_OK;
}

hs_kv_view hs_kv_view_of(const hs_kv *kv, uint32_t layer, uint32_t width)
{
    hs_kv_format f = hs_kv_format_of(kv);
    hs_kv_view view = {
        .page = hs_kv_pages(kv, layer), .dtype = f.k == HS_F32 ? HS_F32 : HS_F16, .ring = hs_kv_ring(kv)};
    if (hs_kv_is_coded(f)) {
        view.coded = hs_kv_coded_pages(kv, layer);
        view.layout = hs_kv_layout_of(f, width);
    }
    return view;
}

static const char *kv_type_name(hs_dtype d)
{
    return d == HS_I8 ? "q8" : d == HS_Q4 ? "q4" : d == HS_Q3 ? "q3" : d == HS_Q2 ? "q2" : hs_dtype_name(d);
}

uint64_t hs_states_growth(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t hot, uint64_t *first)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, HS_GRID);
    uint64_t rows = hs_kv_rows_for(&shape, positions), row = hs_kv_row_bytes(&shape);
    rows = hot ? hs_min_u64(rows, hot) : rows;
    *first = hs_min_u64(rows, step_rows(&shape)) * row;
    return rows * row;
}

uint32_t hs_states_rows(const hs_config *c, hs_kv_format kv, uint32_t positions, uint64_t *row_bytes)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, HS_GRID);
    *row_bytes = hs_kv_row_bytes(&shape);
    return hs_kv_rows_for(&shape, positions);
}

uint64_t hs_states_filed_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t hot)
{
    uint64_t row, rows = hs_states_rows(c, kv, positions, &row);
    if (!hot || rows <= hot)
        return 0;
    uint64_t filed = (rows - hot) * row;
    uint64_t extra = hs_spill_bytes(row / full_layers(c)) + (uint64_t)hot * full_layers(c) * sizeof(void *);
    return filed > extra ? filed - extra : 0;
}

static hs_lower_options lower_options(const hs_kv_shape *shape, const hs_spilling *o)
{
    uint32_t rows = hs_kv_rows_for(shape, shape->positions), below = o->hot && o->hot < rows ? rows - o->hot : 0;
    return (hs_lower_options){.layers = shape->layers,
                              .rows = below,
                              .memory_rows =
                                  o->dir && o->memory_rows < below ? (uint32_t)hs_max_u64(o->memory_rows, 1) : below,
                              .step_rows = step_rows(shape),
                              .page_bytes = shape->layers ? hs_kv_row_bytes(shape) / shape->layers : 0,
                              .dir = o->dir && o->memory_rows < below ? o->dir : NULL};
}

uint64_t hs_states_below_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, const hs_spilling *o)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, HS_GRID);
    hs_lower_options l = lower_options(&shape, o);
    if (!l.rows)
        return 0;
    return hs_lower_bytes(&l) + l.memory_rows * hs_kv_row_bytes(&shape) +
           (uint64_t)o->hot * shape.layers * sizeof(void *) + 4096;
}

uint64_t hs_states_lowered_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t hot)
{
    uint64_t row, rows = hs_states_rows(c, kv, positions, &row);
    if (!hot || rows <= hot)
        return 0;
    uint64_t lowered = (rows - hot) * row, windows = hs_lower_window_bytes(row / full_layers(c));
    return lowered > windows ? lowered - windows : 0;
}

uint64_t hs_states_growth_of(const hs_states *s)
{
    return s->mem ? s->rows_max * hs_kv_row_bytes(&s->shape) : 0;
}

uint64_t hs_states_growth_below(const hs_states *s)
{
    return s->lower ? hs_lower_memory_rows(s->lower) * hs_kv_row_bytes(&s->shape) : 0;
}

uint64_t hs_states_table_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions)
{
    hs_kv_shape shape = kv_shape(c, kv, positions, HS_GRID);
    uint64_t rows = hs_kv_rows_for(&shape, positions);
    return hs_kv_bytes(&shape) - hs_kv_block_bytes(&shape) + rows * shape.layers * sizeof(uint64_t) +
           steps_for(&shape, (uint32_t)rows) * sizeof(void *) + c->layers * (sizeof(hs_delta_state) + 4);
}

/* A backend's own table of pages, and what it says. */
static hlwq_status take_table(hs_states *s, hlwq_error *err)
{
    void *p;
    uint64_t bytes = (uint64_t)s->rows_max * s->shape.layers * sizeof *s->listed;
    if (!bytes)
        return HLWQ_OK;
    HS_TRY(hs_mem_alloc(s->mem, HS_MEM_KV, bytes, "KV page table", &p, err));
    s->listed = p;
    return s->backend->ops->alloc(s->backend, HS_MEM_KV, bytes, "KV page table", &s->table, err);
}

static hlwq_status take_memory(hs_states *s, const hs_config *c, hlwq_error *err)
{
    void *p;
    hs_backend *be = s->backend;
    HS_TRY(hs_mem_alloc(s->mem, HS_MEM_STATE, c->layers * (sizeof(hs_delta_state) + sizeof(uint32_t)), "state table",
                        &p, err));
    s->delta = p;
    s->index = (uint32_t *)(void *)(s->delta + c->layers);
    s->block_bytes = delta_bytes(c);
    HS_TRY(be->ops->alloc(be, HS_MEM_STATE, s->block_bytes, "DeltaNet states", &s->block, err));
    if (hs_kv_ring_bytes(&s->shape))
        HS_TRY(be->ops->alloc(be, HS_MEM_KV, hs_kv_ring_bytes(&s->shape), "KV cache", &s->ring, err));
    HS_TRY(hs_kv_open_ring(&s->kv, s->mem, &s->shape, s->ring, err));
    s->rows_max = hs_kv_rows_for(&s->shape, s->positions);
    s->step_rows = step_rows(&s->shape);
    s->steps_max = (uint32_t)steps_for(&s->shape, hs_kv_rows_for(&s->shape, s->positions));
    HS_TRY(hs_mem_alloc(s->mem, HS_MEM_KV, s->steps_max * sizeof *s->step, "KV page table", &p, err));
    s->step = p;
    return apart(be) ? take_table(s, err) : HLWQ_OK;
}

hlwq_status hs_states_init(hs_states *s, const hs_config *c, hs_mem *mem, hs_backend *backend, hs_kv_format kv,
                           uint32_t positions, uint32_t batch, hlwq_error *err)
{
    uint32_t linear = c->layers - full_layers(c);
    hs_kv_shape shape = kv_shape(c, kv, positions, batch);
    if (~backend->ops->kv_formats & (1u << kv.k | 1u << kv.v))
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "the %s backend cannot keep keys as %s and values as %s yet; use --kv f16 or --device cpu",
                       backend->ops->name, kv_type_name(kv.k), kv_type_name(kv.v));
    *s = (hs_states){.mem = mem, .backend = backend, .shape = shape, .kv_width = shape.width, .positions = positions};
    hlwq_status st = take_memory(s, c, err);
    if (st != HLWQ_OK) {
        hs_states_close(s);
        return st;
    }
    float *at = s->block;
    for (uint32_t i = 0; i < linear; i++) {
        s->delta[i].s = at;
        s->delta[i].conv = at + s_floats(c);
        at += s_floats(c) + conv_floats(c);
    }
    for (uint32_t i = 0, f = 0, l = 0; i < c->layers; i++)
        s->index[i] = c->full[i] ? f++ : l++;
    return HLWQ_OK;
}

/* ---- pages as a text grows ------------------------------------------------------------------ */

/* Rows of a step: the last may be shorter. */
static uint32_t rows_of(const hs_states *s, uint32_t step)
{
    uint32_t first = step * s->step_rows;
    return s->rows_max - first < s->step_rows ? s->rows_max - first : s->step_rows;
}

static uint64_t page_bytes(const hs_states *s)
{
    return hs_kv_row_bytes(&s->shape) / s->shape.layers;
}

/* Rows from..to-1 are elsewhere now. */
static void changed(hs_states *s, uint32_t from, uint32_t to)
{
    s->stale = s->stale < s->fresh && s->stale < from ? s->stale : from;
    s->fresh = s->fresh > to ? s->fresh : to;
}

/* Stages from now on find rows where they are. */
static hlwq_status tell(hs_states *s, hlwq_error *err)
{
    hs_backend *be = s->backend;
    uint32_t layers = s->shape.layers, from = s->stale, to = s->fresh;
    if (from >= to || !s->table)
        return HLWQ_OK;
    for (uint32_t l = 0; l < layers; l++) {
        void *const *page = hs_kv_is_coded(s->shape.format) ? hs_kv_coded_pages(s->kv, l) : hs_kv_pages(s->kv, l);
        for (uint32_t r = from; r < to; r++)
            s->listed[(size_t)r * layers + l] = (uintptr_t)page[r];
    }
    size_t at = (size_t)from * layers, n = (size_t)(to - from) * layers;
    HS_TRY(be->ops->put(be, (uint64_t *)s->table + at, s->listed + at, n * sizeof *s->listed, err));
    s->stale = s->fresh = 0;
    return HLWQ_OK;
}

/* A step more. */
static hlwq_status take_step(hs_states *s, hlwq_error *err)
{
    uint32_t rows = rows_of(s, s->steps), layers = s->shape.layers;
    uint64_t bytes = rows * hs_kv_row_bytes(&s->shape);
    void *block;
    if (s->room.take)
        HS_TRY(s->room.take(s->room.user, bytes, err));
    hlwq_status st = s->backend->ops->alloc(s->backend, HS_MEM_KV, bytes, "keys and values", &block, err);
    if (st != HLWQ_OK) {
        if (s->room.give)
            s->room.give(s->room.user, bytes);
        return st;
    }
    for (uint32_t i = 0; s->slot && i < rows * layers; i++)
        s->slot[(size_t)s->steps * s->step_rows * layers + i] =
            (uint8_t *)block + ((uint64_t)(i % layers) * rows + i / layers) * page_bytes(s);
    if (!s->slot) {
        changed(s, hs_kv_rows(s->kv), hs_kv_rows(s->kv) + rows);
        hs_kv_add(s->kv, block, rows);
    }
    s->step[s->steps++] = block;
    return HLWQ_OK;
}

static void give_step(hs_states *s)
{
    uint64_t bytes = rows_of(s, --s->steps) * hs_kv_row_bytes(&s->shape);
    s->backend->ops->free(s->backend, s->step[s->steps]);
    if (s->room.give)
        s->room.give(s->room.user, bytes);
}

static void **slots_of(const hs_states *s, uint32_t row)
{
    return s->slot + (size_t)(row % s->rows_max) * s->shape.layers;
}

static void set_row(hs_states *s, uint32_t row, bool here)
{
    for (uint32_t l = 0; l < s->shape.layers; l++)
        hs_kv_set(s->kv, l, row, here ? slots_of(s, row)[l] : NULL);
    if (here)
        changed(s, row, row + 1);
}

/* The oldest row that is here goes away. */
static hlwq_status send_row(hs_states *s, hlwq_error *err)
{
    void *const *slot = slots_of(s, s->low);
    if (s->lower)
        return hs_lower_take(s->lower, slot, err);
    for (uint32_t l = 0; l < s->shape.layers; l++)
        HS_TRY(hs_spill_put(s->spill, l, s->low, 0, slot[l], page_bytes(s), err));
    return HLWQ_OK;
}

/* Rows up to `want` in memory; the oldest make room. */
static hlwq_status show_rows(hs_states *s, uint32_t want, hlwq_error *err)
{
    for (; s->high < want; s->high++) {
        if (s->high - s->low == s->rows_max) {
            HS_TRY(send_row(s, err));
            set_row(s, s->low++, false);
        }
        set_row(s, s->high, true);
    }
    return HLWQ_OK;
}

hlwq_status hs_states_reach(hs_states *s, uint32_t positions, hlwq_error *err)
{
    uint32_t want = hs_kv_rows_for(&s->shape, positions);
    while (s->steps * s->step_rows < (want < s->rows_max ? want : s->rows_max))
        HS_TRY(take_step(s, err));
    if (s->slot)
        HS_TRY(show_rows(s, want, err));
    return tell(s, err);
}

/* Row `row` comes back, and is the oldest that is here. */
static hlwq_status bring_row(hs_states *s, uint32_t row, hlwq_error *err)
{
    void *const *slot = slots_of(s, row);
    if (s->lower)
        HS_TRY(hs_lower_cut(s->lower, row + 1, slot, err));
    for (uint32_t l = 0; s->spill && l < s->shape.layers; l++)
        HS_TRY(hs_spill_get(s->spill, l, row, 0, slot[l], page_bytes(s), err));
    set_row(s, row, true);
    s->low = row;
    return HLWQ_OK;
}

/* The rows of a text that was cut to `want` of them, of which the last one goes on if it is `part`. */
static hlwq_status cut_rows(hs_states *s, uint32_t want, bool part, hlwq_error *err)
{
    for (uint32_t r = want > s->low ? want : s->low; r < s->high; r++)
        set_row(s, r, false);
    s->high = want;
    if (want > s->low)
        return HLWQ_OK;
    s->low = want;
    if (part)
        HS_TRY(bring_row(s, want - 1, err));
    return s->lower ? hs_lower_cut(s->lower, s->low, NULL, err) : HLWQ_OK;
}

hlwq_status hs_states_trim(hs_states *s, uint32_t positions, hlwq_error *err)
{
    uint32_t want = hs_kv_rows_for(&s->shape, positions);
    bool spills = s->slot != NULL, part = positions % HS_KV_PAGE && !hs_kv_is_coded(s->shape.format);
    if (spills && want < s->high)
        HS_TRY(cut_rows(s, want, part, err));
    else if (spills && want && want == s->high && want == s->low && positions % HS_KV_PAGE)
        HS_TRY(cut_rows(s, want, part, err));
    if (spills && want && s->low)
        return HLWQ_OK; /* any place may be in use */
    uint64_t keep = steps_for(&s->shape, want);
    if (apart(s->backend) && !keep)
        keep = 1; /* the next text will want it, and taking it is dear */
    if (s->steps > keep && !spills)
        hs_kv_drop(s->kv, (uint32_t)keep * s->step_rows);
    while (s->steps > keep)
        give_step(s);
    return HLWQ_OK;
}

/* ---- rows that are away --------------------------------------------------------------------- */

struct hs_feed {
    hs_states *states;
    uint32_t layer;
};

static hlwq_status next_pages(void *user, uint32_t from, uint32_t *end, hlwq_error *err)
{
    struct hs_feed *f = user;
    hs_states *s = f->states;
    uint8_t *data;
    if (s->lower)
        HS_TRY(hs_lower_window(s->lower, f->layer, from, end, &data, err));
    else
        HS_TRY(hs_spill_window(s->spill, f->layer, from, s->low, end, &data, err));
    for (uint32_t r = from; r < *end; r++)
        hs_kv_set(s->kv, f->layer, r, data + (r - from) * page_bytes(s));
    return HLWQ_OK;
}

hlwq_status hs_states_spill(hs_states *s, const hs_spilling *o, hlwq_error *err)
{
    void *p;
    uint32_t layers = s->shape.layers;
    assert(s->steps == 0 && !s->slot && (o->hot >= s->shape.batch / HS_KV_PAGE + 2 || !o->hot));
    if (!layers || !o->hot || o->hot >= s->rows_max)
        return HLWQ_OK;
    HS_TRY(hs_mem_alloc(s->mem, HS_MEM_KV, o->hot * (uint64_t)layers * sizeof(void *), "KV page table", &p, err));
    s->slot = p;
    HS_TRY(hs_mem_alloc(s->mem, HS_MEM_KV, layers * sizeof *s->feed, "KV page table", &p, err));
    s->feed = p;
    for (uint32_t l = 0; l < layers; l++)
        s->feed[l] = (struct hs_feed){s, l};
    hs_lower_options below = lower_options(&s->shape, o);
    if (apart(s->backend))
        HS_TRY(hs_lower_open(&s->lower, s->mem, s->backend, &below, err));
    else
        HS_TRY(hs_spill_open(&s->spill, s->mem, o->dir, layers, s->rows_max, page_bytes(s), err));
    s->rows_max = o->hot;
    return HLWQ_OK;
}

void hs_states_set_room(hs_states *s, const hs_room *room, const hs_room *above)
{
    s->room = apart(s->backend) ? *above : *room;
    if (s->lower)
        hs_lower_set_room(s->lower, room);
}

bool hs_states_away(const hs_states *s, uint32_t row)
{
    return s->slot && row < s->low;
}

hlwq_status hs_states_get(const hs_states *s, uint32_t layer, uint32_t row, uint64_t offset, void *out, uint64_t bytes,
                          hlwq_error *err)
{
    return s->lower ? hs_lower_get(s->lower, layer, row, offset, out, bytes, err)
                    : hs_spill_get(s->spill, layer, row, offset, out, bytes, err);
}

hlwq_status hs_states_put(const hs_states *s, uint32_t layer, uint32_t row, uint64_t offset, const void *data,
                          uint64_t bytes, hlwq_error *err)
{
    return s->lower ? hs_lower_put(s->lower, layer, row, offset, data, bytes, err)
                    : hs_spill_put(s->spill, layer, row, offset, data, bytes, err);
}

hs_lower_stats hs_states_spilled(const hs_states *s)
{
    hs_lower_stats none = {0};
    if (s->lower)
        return hs_lower_get_stats(s->lower);
    if (s->spill)
        none.file = hs_spill_get_stats(s->spill);
    return none;
}

void hs_states_close(hs_states *s)
{
    if (!s->mem)
        return;
    while (s->steps)
        give_step(s);
    hs_spill_close(s->spill);
    hs_lower_close(s->lower);
    s->backend->ops->free(s->backend, s->table);
    hs_mem_free(s->mem, s->listed);
    hs_kv_close(s->kv);
    hs_mem_free(s->mem, s->feed);
    hs_mem_free(s->mem, s->slot);
    hs_mem_free(s->mem, s->step);
    s->backend->ops->free(s->backend, s->ring);
    s->backend->ops->free(s->backend, s->block);
    hs_mem_free(s->mem, s->delta);
    *s = (hs_states){0};
}

hlwq_status hs_states_reset(hs_states *s, hlwq_error *err)
{
    return s->backend->ops->clear(s->backend, s->block, s->block_bytes, err);
}

hs_bases hs_states_bases(const hs_states *s)
{
    return (hs_bases){
        .states = s->block, .window = s->window ? s->window[0].raw : NULL, .pages = s->table, .ring = s->ring};
}

hs_kv_view hs_states_kv(const hs_states *s, uint32_t layer)
{
    hs_kv_view view = hs_kv_view_of(s->kv, layer, s->kv_width);
    if (s->table) {
        view.table = (const uint64_t *)s->table + layer;
        view.table_step = s->shape.layers;
    }
    if (s->slot) {
        view.away = s->low;
        view.next = next_pages;
        view.user = &s->feed[layer];
    }
    return view;
}
