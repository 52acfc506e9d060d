/*
 * offload/residency.c - loads what is always there; keeps slots filled for the rest.
 *
 * A slot that is being read is pinned once by the read itself and once by every use that waits for it.
 */
#include "offload/residency.h"

#include "base/clock.h"
#include "base/size.h"
#include "offload/slab.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

enum {
    GUESSES = 1,     /* extents of the next layer that are read on a guess */
    JUDGE = 64,      /* guesses between two judgements */
    QUIET = 64,      /* tokens without guesses after a bad one */
    AHEAD = 2,       /* layers of a dense model that are read at once before they are needed */
    READS_MAX = 256, /* extents being read at once */
    GROUPS_MAX = 1024
};

/* One extent being read. */
typedef struct reading {
    hs_transfer transfer;
    int32_t slot;
    uint32_t group, extent; /* of the table */
    struct reading *next;
} reading;

struct hs_residency {
    hs_store *store;
    hs_mem *mem;
    const hs_table *table;
    bool verify, always, dense; /* always: checksums at every read, not only the first */
    uint8_t **data;             /* [n_groups], extents one after another; NULL = not always there */
    uint32_t *index;            /* [n_groups]: number among the streamed groups, or UINT32_MAX */
    uint32_t *layers;           /* [groups]: the group of each, in order */
    uint32_t groups;

    /* Streaming; slots is NULL while everything is resident. */
    hs_slots *slots;
    hs_rival *rival; /* NULL = nothing to compare with */
    hs_stream *stream;
    hs_slab slab;
    hlwq_status changed; /* the file was found to be another, and this says so */
    hlwq_error change;
    uint64_t wait_ns, position;
    uint64_t guessed, guessed_right, judged, judged_right, quiet_until, tokens;
    uint8_t *on_guess; /* [slots_made]: read on a guess and not used yet */
    uint32_t slots_made;
    reading *read, *spare; /* [READS_MAX]; those not in use */
    uint64_t *checked;     /* bit per streamed extent: its checksum was right once */
    uint32_t *first_bit;   /* [groups] */

    /* The use under way. */
    bool begun, given; /* given: `ready` is what next gave out */
    uint32_t group, n_ready, n_missing, n_waiting;
    int32_t *ready, *missing, *waiting; /* extents: can be used; without a slot; being read */
    uint8_t *seen;                      /* [extents of the group] */
};

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

static hlwq_status load_all(hs_residency *r, hs_pool *pool, const hs_residency_options *o, hlwq_error *err)
{
    const hs_table *t = r->table;
    hs_footprint f = hs_footprint_of(t);
    uint64_t done = 0, total = f.trunk_bytes + (r->slots ? 0 : f.streamed_bytes);
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_group *group = &t->group[g];
        void *p;
        if (!hs_group_is_used(group) || hs_residency_streams(r, g))
            continue;
        hs_mem_tag tag = group->kind == HS_GROUP_EXPERTS ? HS_MEM_EXPERTS : HS_MEM_WEIGHTS;
        HS_TRY(hs_mem_alloc(r->mem, tag, group->bytes * group->count, "weights", &p, err));
        r->data[g] = p;
        for (uint32_t e = 0; e < group->count; e++) {
            HS_TRY(hs_store_load(r->store, g, e, pool, o->verify, r->data[g] + e * group->bytes, err));
            done += group->bytes;
            if (o->progress && !o->progress(o->user, done, total))
                return hs_fail(err, HLWQ_ERR_CANCELLED, "loading was stopped");
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

static hlwq_status open_parts(hs_residency *r, hs_pool *pool, const hs_residency_options *o, hlwq_error *err)
{
    const hs_table *t = r->table;
    uint32_t most = 1;
    HS_TRY(take(r, t->n_groups * sizeof *r->data, &r->data, err));
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
    HS_TRY(take(r, most * 3 * sizeof(int32_t) + most, &r->ready, err));
    r->missing = r->ready + most;
    r->waiting = r->missing + most;
    r->seen = (uint8_t *)(r->waiting + most);
    hs_footprint f = hs_footprint_of(t);
    if (o->slots && o->slots < f.streamed)
        HS_TRY(open_slots(r, o, err));
    return load_all(r, pool, o, err);
}

hlwq_status hs_residency_open(hs_residency **out, hs_store *store, hs_mem *mem, hs_pool *pool,
                              const hs_residency_options *options, hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, sizeof(hs_residency), "residency", &p, err));
    hs_residency *r = p;
    r->store = store;
    r->mem = mem;
    r->table = hs_store_table(store);
    r->verify = options->verify;
    r->always = options->always;
    r->dense = r->table->config.experts == 0;
    hlwq_status st = open_parts(r, pool, options, err);
    if (st != HLWQ_OK) {
        hs_residency_close(r);
        return st;
    }
    *out = r;
    return HLWQ_OK;
}

static void collect(hs_residency *r, hs_transfer *t, hlwq_status *st, hlwq_error *err);

void hs_residency_close(hs_residency *r)
{
    if (!r)
        return;
    assert(!r->begun);
    hlwq_status st = HLWQ_OK;
    hlwq_error err;
    if (r->stream) {
        for (hs_transfer *t; (t = hs_stream_next(r->stream, true));)
            collect(r, t, &st, &err);
        hs_stream_close(r->stream);
    }
    hs_rival_close(r->rival);
    hs_slots_close(r->slots);
    hs_slab_close(&r->slab);
    for (uint32_t g = 0; g < r->table->n_groups && r->data; g++)
        hs_mem_free(r->mem, r->data[g]);
    hs_mem_free(r->mem, r->read);
    hs_mem_free(r->mem, r->on_guess);
    hs_mem_free(r->mem, r->checked);
    hs_mem_free(r->mem, r->first_bit);
    hs_mem_free(r->mem, r->ready);
    hs_mem_free(r->mem, r->layers);
    hs_mem_free(r->mem, r->index);
    hs_mem_free(r->mem, r->data);
    hs_mem_free(r->mem, r);
}

bool hs_residency_streams(const hs_residency *r, uint32_t group)
{
    return r->slots && r->index[group] != UINT32_MAX;
}

const uint8_t *hs_residency_trunk(const hs_residency *r, uint32_t group)
{
    assert(group < r->table->n_groups && r->data[group]);
    return r->data[group];
}

const uint8_t *hs_residency_data(const hs_residency *r, uint32_t group, uint32_t extent)
{
    const hs_group *g = &r->table->group[group];
    assert(extent < g->count);
    if (!hs_residency_streams(r, group))
        return r->data[group] + (uint64_t)extent * g->bytes;
    int32_t slot = hs_slots_find(r->slots, r->index[group], extent);
    assert(slot >= 0 && hs_slots_is_ready(r->slots, slot));
    return hs_slab_slot(&r->slab, (uint32_t)slot);
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Asks for an extent that has no slot; its slot, or -1 if every slot, or read, is in use. The claim's pin is the
 * read's. */
static int32_t start_read(hs_residency *r, uint32_t group, uint32_t extent)
{
    const hs_group *g = &r->table->group[group];
    int32_t slot = r->spare ? hs_slots_claim(r->slots, r->index[group], extent) : -1;
    if (slot < 0)
        return -1;
    r->on_guess[slot] = 0;
    reading *s = r->spare;
    r->spare = s->next;
    *s = (reading){.slot = slot, .group = group, .extent = extent};
    s->transfer = (hs_transfer){.offset = hs_store_extent_offset(r->store, group, extent),
                                .bytes = g->bytes,
                                .to = hs_slab_slot(&r->slab, (uint32_t)slot),
                                .buffer = 1 + (uint32_t)slot / r->slab.per_chunk,
                                .user = (uint64_t)(s - r->read)};
    hs_stream_read(r->stream, &s->transfer);
    return slot;
}

/* Takes in a finished read: a ready slot, or an empty one and the first error. */
static void collect(hs_residency *r, hs_transfer *t, hlwq_status *st, hlwq_error *err)
{
    reading *s = &r->read[t->user];
    int32_t slot = s->slot;
    uint32_t bit = r->first_bit[r->index[s->group]] + s->extent;
    hlwq_status got = t->status;
    hlwq_error why = t->error;
    s->next = r->spare;
    r->spare = s;
    if (got == HLWQ_OK && r->verify && (r->always || !(r->checked[bit / 64] >> bit % 64 & 1))) {
        got = hs_store_check(r->store, s->group, s->extent, t->to, &why);
        r->checked[bit / 64] |= (uint64_t)(got == HLWQ_OK) << bit % 64;
    }
    if (got == HLWQ_OK) {
        hs_slots_ready(r->slots, slot);
        hs_slots_unpin(r->slots, slot);
        return;
    }
    if (*st == HLWQ_OK) {
        *st = got;
        *err = why;
    }
    hs_slots_abandon(r->slots, slot);
}

/*
 * A dense model's layers come in a circle, where every policy that looks back fails.  All slots but a ring of HS_RING
 * keep their layers for good, spread evenly so that the disk has time between them; the others pass through the ring.
 */
static bool stays(const hs_residency *r, uint32_t layer)
{
    uint64_t kept = hs_slots_capacity(r->slots) - HS_RING;
    return (layer + 1) * kept / r->groups > layer * kept / r->groups;
}

static void read_ahead(hs_residency *r)
{
    uint32_t here = r->index[r->group], under_way = 0, ahead = !stays(r, here);
    hs_slots_value(r->slots, here, 0, stays(r, here) ? 1.0 : -(double)(r->position + r->groups));
    for (uint32_t k = 1; k < r->groups && under_way < AHEAD; k++) {
        uint32_t next = (here + k) % r->groups;
        int32_t slot = hs_slots_find(r->slots, next, 0);
        hs_slots_value(r->slots, next, 0, stays(r, next) ? 1.0 : -(double)(r->position + k));
        if (!stays(r, next) && (slot >= 0 || ahead < HS_RING))
            ahead++;
        else if (!stays(r, next))
            return; /* the ring is full of layers that are needed sooner */
        if (slot >= 0) {
            under_way += !hs_slots_is_ready(r->slots, slot);
            continue;
        }
        if (start_read(r, r->layers[next], 0) < 0)
            return;
        under_way++;
    }
}

/* ---- using a group -------------------------------------------------------------------------- */

void hs_residency_tokens(hs_residency *r, uint32_t n)
{
    r->tokens += n;
    if (!r->slots)
        return;
    hs_slots_tick(r->slots, n);
    if (r->rival)
        hs_rival_tick(r->rival, n);
    r->changed = hs_store_unchanged(r->store, &r->change);
}

bool hs_residency_wants_guesses(const hs_residency *r)
{
    return r->slots && !r->dense && r->tokens >= r->quiet_until && r->n_missing + r->n_waiting == 0;
}

void hs_residency_expect(hs_residency *r, uint32_t group, const int32_t *extent, uint32_t n)
{
    uint32_t under_way = 0;
    for (uint32_t i = 0; i < n && under_way < GUESSES; i++) {
        if (hs_slots_find(r->slots, r->index[group], (uint32_t)extent[i]) >= 0)
            continue;
        int32_t slot = start_read(r, group, (uint32_t)extent[i]);
        if (slot < 0)
            return;
        r->on_guess[slot] = 1;
        r->guessed++;
        under_way++;
    }
    if (r->guessed - r->judged < JUDGE)
        return;
    /* A guess that comes true saves a wait; one that does not costs a read, of time in which the disk had little to do.
     */
    if ((r->guessed_right - r->judged_right) * 2 < r->guessed - r->judged)
        r->quiet_until = r->tokens + QUIET;
    r->judged = r->guessed;
    r->judged_right = r->guessed_right;
}

void hs_residency_begin(hs_residency *r, uint32_t group, const int32_t *extent, uint32_t n)
{
    const hs_group *g = &r->table->group[group];
    bool streams = hs_residency_streams(r, group);
    assert(!r->begun && group < r->table->n_groups);
    r->begun = true;
    r->group = group;
    r->n_ready = r->n_missing = r->n_waiting = 0;
    memset(r->seen, 0, g->count);
    for (uint32_t i = 0; i < n; i++) {
        assert(extent[i] >= 0 && (uint32_t)extent[i] < g->count);
        r->seen[extent[i]] = 1;
    }
    for (uint32_t e = 0; e < g->count; e++) { /* ascending: as they lie in the file */
        if (!r->seen[e])
            continue;
        int32_t slot = streams ? hs_slots_use(r->slots, r->index[group], e) : 0;
        if (streams && r->rival)
            hs_rival_use(r->rival, r->index[group], e, slot >= 0 && hs_slots_is_ready(r->slots, slot));
        if (streams && slot >= 0) {
            r->guessed_right += r->on_guess[slot];
            r->on_guess[slot] = 0;
        }
        if (slot < 0)
            r->missing[r->n_missing++] = (int32_t)e;
        else if (!streams || hs_slots_is_ready(r->slots, slot))
            r->ready[r->n_ready++] = (int32_t)e;
        else
            r->waiting[r->n_waiting++] = (int32_t)e;
    }
    r->position++;
}

static void ask_for_missing(hs_residency *r)
{
    uint32_t n = 0;
    for (int32_t slot; n < r->n_missing && (slot = start_read(r, r->group, (uint32_t)r->missing[n])) >= 0; n++) {
        hs_slots_pin(r->slots, slot); /* the read has a pin; this use takes one too */
        r->waiting[r->n_waiting++] = r->missing[n];
    }
    memmove(r->missing, r->missing + n, (r->n_missing - n) * sizeof *r->missing);
    r->n_missing -= n;
}

/* What was ready is not used any more. */
static void let_go(hs_residency *r)
{
    for (uint32_t i = 0; i < r->n_ready; i++)
        hs_slots_unpin(r->slots, hs_slots_find(r->slots, r->index[r->group], (uint32_t)r->ready[i]));
    r->n_ready = 0;
}

/* Moves what has come in from waiting to ready; a failed read has left no slot, and nothing waits for it. */
static void sort_waiting(hs_residency *r)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->n_waiting; i++) {
        int32_t slot = hs_slots_find(r->slots, r->index[r->group], (uint32_t)r->waiting[i]);
        if (slot >= 0 && hs_slots_is_ready(r->slots, slot))
            r->ready[r->n_ready++] = r->waiting[i];
        else if (slot >= 0)
            r->waiting[kept++] = r->waiting[i];
    }
    r->n_waiting = kept;
}

/* Moves what has arrived from waiting to ready; waits for something if nothing is there. */
static hlwq_status arrivals(hs_residency *r, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    for (;;) {
        bool block = r->n_ready == 0 && r->n_waiting > 0;
        uint64_t mark = block ? hs_now_ns() : 0;
        hs_transfer *t = hs_stream_next(r->stream, block);
        if (block)
            r->wait_ns += hs_now_ns() - mark;
        if (!t && block)
            return hs_fail(err, HLWQ_ERR_IO, "%s: a read was lost", hs_store_path(r->store));
        if (!t)
            return HLWQ_OK;
        collect(r, t, &st, err);
        sort_waiting(r);
        if (st != HLWQ_OK)
            return st;
    }
}

hlwq_status hs_residency_next(hs_residency *r, const int32_t **extent, uint32_t *n, hlwq_error *err)
{
    assert(r->begun);
    *extent = r->ready;
    *n = 0;
    if (!hs_residency_streams(r, r->group)) {
        *n = r->n_ready;
        r->n_ready = 0;
        return HLWQ_OK;
    }
    if (r->given) { /* what was used until now */
        let_go(r);
        r->given = false;
    }
    if (r->changed != HLWQ_OK) {
        if (err)
            *err = r->change;
        return r->changed;
    }
    ask_for_missing(r);
    if (r->dense)
        read_ahead(r);
    if (r->n_waiting)
        HS_TRY(arrivals(r, err));
    *n = r->n_ready;
    r->given = true;
    if (*n == 0 && r->n_missing) /* floors leave each group at least one slot */
        return hs_fail(err, HLWQ_ERR_BUDGET, "%s: no slot is free", hs_store_path(r->store));
    return HLWQ_OK;
}

void hs_residency_end(hs_residency *r)
{
    hlwq_status st = HLWQ_OK;
    hlwq_error err;
    assert(r->begun);
    r->begun = r->given = false;
    if (!hs_residency_streams(r, r->group)) {
        r->n_ready = 0;
        return;
    }
    /* After a failure: what this use waits for is let finish. */
    while (r->n_waiting) {
        hs_transfer *t = hs_stream_next(r->stream, true);
        if (!t)
            break;
        collect(r, t, &st, &err);
        sort_waiting(r);
    }
    let_go(r);
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
        collect(r, t, &st, err);
    uint32_t now = hs_slots_capacity(r->slots), keep = now < slots ? now : slots;
    if (slots == now)
        return HLWQ_OK;
    keep -= keep % r->slab.per_chunk; /* the last chunk may be a short one, or will be: it is given up first */
    if (!hs_slots_resize(r->slots, keep))
        return hs_fail(err, HLWQ_ERR_BUDGET, "a slot is still in use");
    (void)hs_stream_buffers(r->stream, NULL, 0);
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

hs_residency_stats hs_residency_get_stats(const hs_residency *r)
{
    hs_residency_stats s = {.engine = "none", .reason = "everything is resident"};
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
