/*
 * offload/residency.c - loads what is always there, makes slots for the rest, and lets them go.
 */
#include "offload/residency_private.h"

#include "base/size.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum { GROUPS_MAX = 1024, PAGE = 4096 };

static hs_slots_options slots_options(const hs_table *t, uint32_t *extents)
{
    hs_slots_options o = {.extents = extents, .policy = HS_POLICY_LFRU};
    for (uint32_t g = 0; g < t->n_groups; g++)
        if (hs_group_may_stream(t, &t->group[g]))
            o.capacity += extents[o.groups++] = t->group[g].count;
    return o;
}

uint64_t hs_residency_slots_bytes(const hs_table *t, uint32_t slots)
{
    uint32_t extents[GROUPS_MAX];
    hs_footprint f = hs_footprint_of(t);
    if (slots == 0 || f.slot_bytes == 0)
        return f.streamed_bytes;
    hs_slots_options o = slots_options(t, extents);
    return hs_slab_bytes(f.slot_bytes, slots, f.streamed) + hs_slots_bytes(&o) + hs_rival_bytes(&o) +
           f.streamed * 2ull + READS_MAX * sizeof(reading) + 65536;
}

hs_residency_options hs_residency_options_default(void)
{
    return (hs_residency_options){.verify = true,
                                  .policy = HS_POLICY_LFRU,
                                  .half_life = 16,
                                  .rival = true,
                                  .stream = hs_stream_options_default()};
}

/* ---- opening -------------------------------------------------------------------------------- */

static uint64_t group_bytes(const hs_group *g)
{
    return hs_align_up(g->bytes * g->count, PAGE);
}

/* The next piece of the block above. */
static uint8_t *place_above(hs_residency *r, const hs_group *g)
{
    uint8_t *p = r->above + r->above_bytes;
    r->above_bytes += group_bytes(g);
    return p;
}

/* Loads extents into ordinary memory, or past it into the backend's. */
static hlwq_status load_group(hs_residency *r, uint32_t g, hs_pool *pool, const hs_residency_options *o, bool above,
                              uint64_t *done, uint64_t total, hlwq_error *err)
{
    const hs_group *group = &r->table->group[g];
    hs_mem_tag tag = hs_group_is_experts(group) ? HS_MEM_EXPERTS : HS_MEM_WEIGHTS;
    hs_backend *be = r->backend;
    hlwq_status st = HLWQ_OK;
    uint8_t *up = above ? place_above(r, group) : NULL;
    void *p = NULL;
    HS_TRY(hs_mem_alloc(r->mem, tag, group->bytes * (above ? 1 : group->count), "weights", &p, err));
    for (uint32_t e = 0; e < group->count && st == HLWQ_OK; e++) {
        uint8_t *to = (uint8_t *)p + (above ? 0 : e * group->bytes);
        st = hs_store_load(r->store, g, e, pool, o->verify, to, err);
        if (st == HLWQ_OK && above)
            st = be->ops->put(be, up + e * group->bytes, to, group->bytes, err);
        *done += group->bytes;
        if (st == HLWQ_OK && o->progress && !o->progress(o->user, *done, total))
            st = hs_fail(err, HLWQ_ERR_CANCELLED, "loading was stopped");
    }
    if (!above) {
        if (r->upper.slots && r->index[g] != UINT32_MAX)
            be->ops->lend(be, p, group->bytes * group->count);
        r->host[g] = p;
        r->data[g] = p;
        return st;
    }
    hs_mem_free(r->mem, p);
    r->data[g] = up;
    if (st == HLWQ_OK && hs_group_is_experts(group) && r->index[g] != UINT32_MAX && be->ops->place)
        st = be->ops->place(be, r->index[g], 0, group->count, up, group->bytes, err);
    return st;
}

typedef enum home { NOWHERE, BELOW, ABOVE, BOTH } home;

/* Where a group is from the start: nowhere if it is streamed. */
static home home_of(const hs_residency *r, const hs_group *g, const hs_residency_options *o)
{
    const hs_table *t = r->table;
    bool streamed = r->index[g - t->group] != UINT32_MAX;
    if (!hs_group_is_used(t, g) || (r->slots && streamed))
        return NOWHERE;
    if (g->kind == HS_GROUP_EMBED)
        return o->own_memory && t->config.tied ? BOTH : BELOW; /* the head is the same matrix, and a stage's */
    return !o->own_memory || (streamed && r->upper.slots) ? BELOW : ABOVE;
}

static hlwq_status take_above(hs_residency *r, const hs_residency_options *o, hlwq_error *err)
{
    uint64_t bytes = 0;
    void *p;
    for (uint32_t g = 0; g < r->table->n_groups; g++)
        bytes += home_of(r, &r->table->group[g], o) >= ABOVE ? group_bytes(&r->table->group[g]) : 0;
    if (!bytes)
        return HLWQ_OK;
    HS_TRY(r->backend->ops->alloc(r->backend, HS_MEM_WEIGHTS, bytes, "weights", &p, err));
    r->above = p;
    return HLWQ_OK;
}

static hlwq_status load_all(hs_residency *r, hs_pool *pool, const hs_residency_options *o, hlwq_error *err)
{
    const hs_table *t = r->table;
    hs_footprint f = hs_footprint_of(t);
    uint64_t done = 0, total = f.trunk_bytes + (r->slots ? 0 : f.streamed_bytes);
    HS_TRY(take_above(r, o, err));
    for (uint32_t g = 0; g < t->n_groups; g++) {
        home where = home_of(r, &t->group[g], o);
        if (where == NOWHERE)
            continue;
        HS_TRY(load_group(r, g, pool, o, where == ABOVE, &done, total, err));
        if (where == BOTH) {
            r->data[g] = place_above(r, &t->group[g]);
            HS_TRY(r->backend->ops->put(r->backend, r->data[g], r->host[g], t->group[g].bytes, err));
        }
    }
    return HLWQ_OK;
}

static hlwq_status take(hs_residency *r, uint64_t bytes, void *out, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_mem_alloc(r->mem, HS_MEM_TABLE, bytes, "residency", &p, err));
    memcpy(out, &p, sizeof p);
    return HLWQ_OK;
}

/* The system looks up the pages of slots once instead of at every read, where it does that at all. */
static void register_slots(hs_residency *r)
{
    uint32_t n;
    const struct iovec *buffer = hs_slab_buffers(&r->slab, &n);
    (void)hs_stream_buffers(r->stream, buffer, n);
    for (uint32_t i = 0; i < n && r->upper.slots; i++)
        r->backend->ops->lend(r->backend, buffer[i].iov_base, buffer[i].iov_len);
}

/*
 * Slots that each layer keeps.  Under a third of all experts a cache of its own for each layer is best: in one pool,
 * what a layer used for this token pushes out what the next layers will use.  Above that the pool wins a little.
 * docs/caching.md has the sweep.
 */
static uint32_t floor_for(const hs_residency *r, uint32_t slots)
{
    uint32_t streamed = hs_footprint_of(r->table).streamed;
    if (r->dense)
        return 0;
    return slots * 3ull < streamed ? slots / r->groups : slots / (2 * r->groups);
}

static hlwq_status open_slots(hs_residency *r, const hs_residency_options *o, hlwq_error *err)
{
    hs_footprint f = hs_footprint_of(r->table);
    uint32_t extents[GROUPS_MAX], bits = 0;
    assert(r->groups <= GROUPS_MAX);
    if (!hs_store_is_container(r->store))
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "%s is larger than the budget, and only a container can be streamed; "
                       "write one with `hlwq-stream convert`",
                       hs_store_path(r->store));
    if (o->slots < f.slots_min)
        return hs_fail(err, HLWQ_ERR_BUDGET, "%u slots; at least %u are needed", o->slots, f.slots_min);
    hs_slots_options so = slots_options(r->table, extents);
    HS_TRY(take(r, r->groups * sizeof(uint32_t), &r->first_bit, err));
    for (uint32_t i = 0; i < r->groups; i++) {
        r->first_bit[i] = bits;
        bits += extents[i];
    }
    HS_TRY(take(r, (bits + 63) / 64 * sizeof(uint64_t), &r->checked, err));
    r->slots_made = f.streamed; /* tables for all, memory for some: the budget may rise */
    HS_TRY(take(r, READS_MAX * sizeof *r->read, &r->read, err));
    HS_TRY(take(r, r->slots_made, &r->on_guess, err));
    for (uint32_t i = 0; i < READS_MAX; i++) {
        r->read[i].next = r->spare;
        r->spare = &r->read[i];
    }
    HS_TRY(hs_slab_init(&r->slab, r->mem, f.slot_bytes, r->slots_made, err));
    HS_TRY(hs_slab_fit(&r->slab, o->slots, err));
    so.policy = r->dense ? HS_POLICY_GIVEN : o->policy; /* a dense model's layers come in a circle: the next is known */
    so.half_life = o->half_life;
    so.admit = o->admit;
    HS_TRY(hs_slots_open(&r->slots, r->mem, &so, err));
    hs_slots_resize(r->slots, o->slots);
    hs_slots_set_floor(r->slots, floor_for(r, o->slots));
    if (o->rival && so.policy == HS_POLICY_LFRU)
        HS_TRY(hs_rival_open(&r->rival, r->mem, r->slots, &so, err));
    hs_stream_options stream = o->stream;
    stream.file = hs_store_file(r->store);
    HS_TRY(hs_stream_open(&r->stream, r->mem, hs_store_path(r->store), &stream, err));
    register_slots(r);
    return HLWQ_OK;
}

static hlwq_status open_upper(hs_residency *r, const hs_residency_options *o, hlwq_error *err)
{
    uint32_t extents[GROUPS_MAX];
    hs_slots_options so = slots_options(r->table, extents);
    so.capacity = o->upper_most > o->upper_slots && !r->dense ? o->upper_most : o->upper_slots;
    so.policy = r->dense ? HS_POLICY_GIVEN : o->policy;
    so.half_life = o->half_life;
    so.floor = r->dense ? 0 : floor_for(r, o->upper_slots);
    HS_TRY(hs_upper_open(&r->upper, r->mem, r->backend, &so, o->upper_slots, hs_footprint_of(r->table).slot_bytes,
                         o->beside, err));
    r->upper.tells = !r->dense && r->backend->ops->place;
    if (o->rival && so.policy == HS_POLICY_LFRU)
        HS_TRY(hs_rival_open(&r->upper_rival, r->mem, r->upper.slots, &so, err));
    return HLWQ_OK;
}

static hlwq_status open_parts(hs_residency *r, hs_pool *pool, const hs_residency_options *o, hlwq_error *err)
{
    const hs_table *t = r->table;
    uint32_t most = 1;
    HS_TRY(take(r, t->n_groups * sizeof *r->data, &r->data, err));
    HS_TRY(take(r, t->n_groups * sizeof *r->host, &r->host, err));
    HS_TRY(take(r, t->n_groups * sizeof *r->index, &r->index, err));
    HS_TRY(take(r, t->n_groups * sizeof *r->layers, &r->layers, err));
    for (uint32_t g = 0; g < t->n_groups; g++) {
        r->index[g] = UINT32_MAX;
        if (hs_group_may_stream(t, &t->group[g])) {
            r->index[g] = r->groups;
            r->layers[r->groups++] = g;
        }
        most = t->group[g].count > most ? t->group[g].count : most;
    }
    HS_TRY(take(r, most * 4 * sizeof(int32_t) + most, &r->here, err));
    r->ready = r->here + most;
    r->missing = r->ready + most;
    r->waiting = r->missing + most;
    r->seen = (uint8_t *)(r->waiting + most);
    HS_TRY(take(r, HS_RESIDENCY_ADMIT * r->groups * sizeof *r->later, &r->later, err));
    hs_footprint f = hs_footprint_of(t);
    r->piece_bytes = f.stage_bytes;
    if (o->own_memory && o->upper_slots && o->upper_slots < f.streamed)
        HS_TRY(open_upper(r, o, err));
    if (o->slots && o->slots < f.streamed)
        HS_TRY(open_slots(r, o, err));
    if (r->dense && !r->slots && !r->upper.slots)
        r->piece_bytes += f.streamed_bytes;
    return load_all(r, pool, o, err);
}

hlwq_status hs_residency_open(hs_residency **out, hs_store *store, hs_mem *mem, hs_pool *pool, hs_backend *backend,
                              const hs_residency_options *options, hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, sizeof(hs_residency), "residency", &p, err));
    hs_residency *r = p;
    r->store = store;
    r->mem = mem;
    r->backend = backend;
    r->table = hs_store_table(store);
    r->verify = options->verify;
    r->always = options->always;
    r->dense = r->table->config.experts == 0;
    r->own_memory = options->own_memory;
    r->share = hs_split_first(options->first_share);
    r->experts = hs_beside_first(options->beside, &options->rates, options->missing);
    hlwq_status st = open_parts(r, pool, options, err);
    if (st != HLWQ_OK) {
        hs_residency_close(r);
        return st;
    }
    *out = r;
    return HLWQ_OK;
}

/* What was lent of a group that copies up read. */
static void take_back(hs_residency *r, uint32_t g)
{
    if (r->upper.slots && r->host[g] && r->index[g] != UINT32_MAX)
        r->backend->ops->take_back(r->backend, r->host[g]);
}

/* No slot is read or copied from after this. */
static void unregister_slots(hs_residency *r)
{
    uint32_t n;
    const struct iovec *buffer = hs_slab_buffers(&r->slab, &n);
    (void)hs_residency_land(r, true, NULL);
    if (r->stream)
        (void)hs_stream_buffers(r->stream, NULL, 0);
    for (uint32_t i = 0; i < n && r->upper.slots; i++)
        r->backend->ops->take_back(r->backend, buffer[i].iov_base);
}

void hs_residency_close(hs_residency *r)
{
    if (!r)
        return;
    assert(!r->begun);
    hlwq_status st = HLWQ_OK;
    hlwq_error err;
    hs_residency_forget_ahead(r);
    if (r->stream) {
        for (hs_transfer *t; (t = hs_stream_next(r->stream, true));)
            hs_residency_collect(r, t, &st, &err);
        unregister_slots(r);
        hs_stream_close(r->stream);
    }
    for (uint32_t g = 0; g < r->table->n_groups && r->host; g++)
        take_back(r, g);
    (void)hs_residency_land(r, true, NULL);
    hs_rival_close(r->rival);
    hs_rival_close(r->upper_rival);
    hs_slots_close(r->slots);
    hs_slab_close(&r->slab);
    hs_upper_close(&r->upper);
    r->backend->ops->free(r->backend, r->above);
    for (uint32_t g = 0; g < r->table->n_groups && r->host; g++)
        hs_mem_free(r->mem, r->host[g]);
    hs_mem_free(r->mem, r->read);
    hs_mem_free(r->mem, r->on_guess);
    hs_mem_free(r->mem, r->checked);
    hs_mem_free(r->mem, r->first_bit);
    hs_mem_free(r->mem, r->here);
    hs_mem_free(r->mem, r->later);
    hs_mem_free(r->mem, r->layers);
    hs_mem_free(r->mem, r->index);
    hs_mem_free(r->mem, r->host);
    hs_mem_free(r->mem, r->data);
    hs_mem_free(r->mem, r);
}

bool hs_residency_streams(const hs_residency *r, uint32_t group)
{
    return (r->slots || r->upper.slots) && r->index[group] != UINT32_MAX;
}

const uint8_t *hs_residency_trunk(const hs_residency *r, uint32_t group)
{
    assert(group < r->table->n_groups && r->data[group]);
    return r->data[group];
}

const uint8_t *hs_residency_host(const hs_residency *r, uint32_t group)
{
    assert(group < r->table->n_groups && r->host[group]);
    return r->host[group];
}

const uint8_t *hs_residency_table(const hs_residency *r, uint32_t group, uint32_t *row)
{
    *row = r->index[group];
    if (r->dense || *row == UINT32_MAX || !r->backend->ops->place)
        return NULL;
    return r->upper.slots ? r->upper.memory : r->host[group] ? NULL : r->data[group];
}

const uint8_t *hs_residency_data(const hs_residency *r, uint32_t group, uint32_t extent)
{
    const hs_group *g = &r->table->group[group];
    assert(extent < g->count);
    bool apart = r->begun && r->apart && r->group == group;
    if (r->upper.slots && r->index[group] != UINT32_MAX && !apart) {
        int32_t above = hs_slots_find(r->upper.slots, r->index[group], extent);
        if (above >= 0 && hs_slots_is_ready(r->upper.slots, above))
            return hs_upper_data(&r->upper, above);
    }
    if (!r->slots || r->index[group] == UINT32_MAX)
        return r->data[group] + (uint64_t)extent * g->bytes;
    int32_t slot = hs_slots_find(r->slots, r->index[group], extent);
    assert(slot >= 0 && hs_slots_is_ready(r->slots, slot));
    return hs_slab_slot(&r->slab, (uint32_t)slot);
}

/* ---- the rest ------------------------------------------------------------------------------- */

hlwq_status hs_residency_resize(hs_residency *r, uint32_t slots, hlwq_error *err)
{
    assert(!r->begun);
    hs_footprint f = hs_footprint_of(r->table);
    hlwq_status st = HLWQ_OK;
    if (!r->slots)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "everything is resident: there are no slots to give back");
    slots = slots < r->slots_made ? slots : r->slots_made;
    if (slots < f.slots_min)
        return hs_fail(err, HLWQ_ERR_BUDGET, "%u slots; at least %u are needed", slots, f.slots_min);
    for (hs_transfer *t; (t = hs_stream_next(r->stream, true));) /* reads ahead */
        hs_residency_collect(r, t, &st, err);
    uint32_t now = hs_slots_capacity(r->slots), keep = now < slots ? now : slots;
    if (slots == now)
        return HLWQ_OK;
    hs_residency_forget_ahead(r);
    (void)hs_residency_land(r, true, NULL);
    keep -= keep % r->slab.per_chunk; /* the last chunk may be a short one, or will be: it is given up first */
    if (!hs_slots_resize(r->slots, keep))
        return hs_fail(err, HLWQ_ERR_BUDGET, "a slot is still in use");
    unregister_slots(r);
    HS_TRY(hs_slab_fit(&r->slab, keep, err));
    st = hs_slab_fit(&r->slab, slots, err);
    if (st != HLWQ_OK) { /* as many as there is memory for */
        uint32_t n;
        (void)hs_slab_buffers(&r->slab, &n);
        slots = n * r->slab.per_chunk;
    }
    if (slots < f.slots_min)
        return st;
    if (!hs_slots_resize(r->slots, slots))
        return hs_fail(err, HLWQ_ERR_BUDGET, "a slot is still in use");
    hs_slots_set_floor(r->slots, floor_for(r, slots));
    if (r->rival)
        hs_rival_resize(r->rival);
    register_slots(r);
    return st;
}

hlwq_status hs_residency_resize_upper(hs_residency *r, uint32_t slots, hlwq_error *err)
{
    assert(!r->begun);
    if (!r->upper.slots)
        return HLWQ_OK;
    HS_TRY(hs_residency_land(r, true, err));
    hlwq_status st = hs_upper_resize(&r->upper, slots, err);
    hs_slots_set_floor(r->upper.slots, r->dense ? 0 : floor_for(r, hs_slots_capacity(r->upper.slots)));
    if (r->upper_rival)
        hs_rival_resize(r->upper_rival);
    return st;
}

uint32_t hs_residency_upper_slots(const hs_residency *r)
{
    return r->upper.slots ? hs_slots_capacity(r->upper.slots) : 0;
}

hs_residency_stats hs_residency_get_stats(const hs_residency *r)
{
    hs_residency_stats s = {.engine = "none", .reason = "everything is resident"};
    if (r->upper.slots) {
        s.upper_slots = hs_slots_capacity(r->upper.slots);
        s.upper = hs_slots_get_stats(r->upper.slots);
        s.uploads = r->upper.uploads;
        s.beside = r->upper.beside_count;
        s.share = r->upper.beside >= 0 ? r->upper.beside : r->dense ? r->share.best : r->experts.best;
        s.upload_bytes = r->upper.upload_bytes;
    }
    if (r->upper_rival)
        s.upper_rival = hs_rival_get_stats(r->upper_rival);
    s.card_bytes = r->card_bytes;
    s.memory_bytes = r->memory_bytes;
    if (r->slots) {
        s.slots = hs_slots_capacity(r->slots);
        s.slot_bytes = r->slab.slot_bytes;
        s.cache = hs_slots_get_stats(r->slots);
        if (r->rival)
            s.rival = hs_rival_get_stats(r->rival);
        s.io = hs_stream_get_stats(r->stream);
        s.wait_ns = r->wait_ns;
        s.guessed = r->guessed;
        s.guessed_right = r->guessed_right;
        s.engine = hs_io_name(hs_stream_engine(r->stream));
        s.reason = hs_stream_reason(r->stream);
    }
    return s;
}

hs_stream *hs_residency_stream(hs_residency *r)
{
    return r->stream;
}
