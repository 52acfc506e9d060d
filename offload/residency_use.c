/*
 * offload/residency_use.c - one group at a time: what is there first, the rest as it is read.
 *
 * A slot that is being read is pinned once by the read itself and once by every use that waits for it.
 */
#include "offload/residency_private.h"

#include "base/clock.h"

#include <assert.h>
#include <string.h>

enum {
    GUESSES = 1,                /* extents of the next layer that are read on a guess */
    JUDGE = 64,                 /* guesses between two judgements */
    QUIET = 64,                 /* tokens without guesses after a bad one */
    ADMIT = HS_RESIDENCY_ADMIT, /* experts of a layer that are copied up after they were computed beside, */
    ADMIT_BUSY = 8,             /* but none while so many are on their way */
    CARRY = 8                   /* experts of a prompt that are computed at once while as many are copied up */
};

/* ---- reading -------------------------------------------------------------------------------- */

int32_t hs_residency_start_read(hs_residency *r, uint32_t group, uint32_t extent)
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

void hs_residency_collect(hs_residency *r, hs_transfer *t, hlwq_status *st, hlwq_error *err)
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

/* ---- copying up ------------------------------------------------------------------------------ */

static uint32_t flights(const hs_residency *r)
{
    return (uint32_t)(r->end_flight - r->first_flight);
}

static hlwq_status land_first(hs_residency *r, hlwq_error *err)
{
    const flight *f = &r->flight[r->first_flight++ % FLIGHTS];
    if (f->below >= 0)
        hs_slots_unpin(r->slots, f->below);
    return hs_upper_landed(&r->upper, f->above, f->copy, err);
}

static bool landed(hs_residency *r, bool wait)
{
    hs_backend *be = r->backend;
    return be->ops->uploaded(be, r->flight[r->first_flight % FLIGHTS].copy, wait);
}

hlwq_status hs_residency_land(hs_residency *r, bool all, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    while (flights(r) && landed(r, all)) {
        hlwq_status one = land_first(r, st == HLWQ_OK ? err : NULL);
        st = st == HLWQ_OK ? one : st;
    }
    return st;
}

hlwq_status hs_residency_take_up(hs_residency *r, uint32_t group, int32_t extent, const hs_cut *cut, bool if_better,
                                 int32_t *slot, hlwq_error *err)
{
    hs_span span[HS_SPANS_MAX];
    const hs_group *g = &r->table->group[group];
    uint32_t index = r->index[group], e = (uint32_t)extent;
    const uint8_t *data = hs_residency_data(r, group, e);
    if (flights(r) == FLIGHTS && landed(r, true))
        HS_TRY(land_first(r, err));
    uint32_t spans = hs_split_spans(g, cut, span);
    HS_TRY(hs_upper_take(&r->upper, index, e, data, span, spans, if_better, slot, err));
    if (*slot < 0)
        return HLWQ_OK;
    flight f = {hs_upper_copy(&r->upper, *slot), *slot, r->slots ? hs_slots_find(r->slots, index, e) : -1};
    if (f.below >= 0)
        hs_slots_pin(r->slots, f.below);
    r->flight[r->end_flight++ % FLIGHTS] = f;
    return HLWQ_OK;
}

/* ---- using a group -------------------------------------------------------------------------- */

static void count_read(hs_residency *r, bool above, uint64_t bytes)
{
    *(above ? &r->card_bytes : &r->memory_bytes) += bytes;
}

void hs_residency_used(hs_residency *r, uint32_t group, uint32_t n)
{
    count_read(r, r->own_memory, n * r->table->group[group].bytes);
}

void hs_residency_tokens(hs_residency *r, uint32_t n)
{
    count_read(r, r->own_memory, r->piece_bytes);
    uint64_t now = hs_now_ns();
    if (r->token_is_one && n == 1 && r->dense)
        hs_split_learn(&r->share, now - r->token_began_ns);
    else if (r->token_is_one && n == 1)
        hs_beside_learn(&r->experts, now - r->token_began_ns);
    r->token_began_ns = now;
    r->token_is_one = n == 1;
    r->tokens += n;
    r->last_tokens = n;
    if (r->upper.slots)
        hs_slots_tick(r->upper.slots, n);
    if (r->upper_rival)
        hs_rival_tick(r->upper_rival, n);
    if (!r->slots)
        return;
    hs_slots_tick(r->slots, n);
    if (r->rival)
        hs_rival_tick(r->rival, n);
    r->changed = hs_store_unchanged(r->store, &r->change);
}

bool hs_residency_all_beside(const hs_residency *r, uint32_t tokens)
{
    return r->upper.slots && !r->dense && hs_beside_all(&r->experts, tokens);
}

bool hs_residency_guesses(const hs_residency *r)
{
    return r->slots && !r->dense && r->tokens >= r->quiet_until;
}

bool hs_residency_wants_guesses(const hs_residency *r)
{
    return hs_residency_guesses(r) && r->n_missing + r->n_waiting == 0;
}

void hs_residency_expect(hs_residency *r, uint32_t group, const int32_t *extent, uint32_t n)
{
    uint32_t under_way = 0;
    for (uint32_t i = 0; i < n && under_way < GUESSES; i++) {
        if (hs_slots_find(r->slots, r->index[group], (uint32_t)extent[i]) >= 0 ||
            (r->upper.slots && hs_slots_find(r->upper.slots, r->index[group], (uint32_t)extent[i]) >= 0))
            continue;
        int32_t slot = hs_residency_start_read(r, group, (uint32_t)extent[i]);
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

static bool look_above(hs_residency *r, uint32_t e)
{
    bool there = hs_slots_use(r->upper.slots, r->index[r->group], e) >= 0;
    if (r->upper_rival)
        hs_rival_use(r->upper_rival, r->index[r->group], e, there);
    return there;
}

/* Where an extent of the group in use is in ordinary memory: among the ready, the waiting or the missing. */
static void look_below(hs_residency *r, uint32_t e)
{
    uint32_t index = r->index[r->group];
    if (!r->slots || index == UINT32_MAX) {
        r->ready[r->n_ready++] = (int32_t)e;
        return;
    }
    int32_t slot = hs_slots_use(r->slots, index, e);
    bool ready = slot >= 0 && hs_slots_is_ready(r->slots, slot);
    if (r->rival)
        hs_rival_use(r->rival, index, e, ready);
    if (slot >= 0) {
        r->guessed_right += r->on_guess[slot];
        r->on_guess[slot] = 0;
    }
    if (slot < 0)
        r->missing[r->n_missing++] = (int32_t)e;
    else if (ready)
        r->ready[r->n_ready++] = (int32_t)e;
    else
        r->waiting[r->n_waiting++] = (int32_t)e;
}

enum { SEEN = 1, FOUND = 2 };

/* Stages that were asked for already read it: the use itself is over, and hs_residency_settle says when they are. */
static bool found_above(hs_residency *r, uint32_t e)
{
    uint32_t index = r->index[r->group];
    bool found = r->seen[e] == FOUND;
    int32_t slot = hs_slots_use(r->upper.slots, index, e);
    assert(slot >= 0 || !found); /* nothing leaves while uses are not settled */
    if (r->upper_rival)
        hs_rival_use(r->upper_rival, index, e, found);
    if (!found && slot >= 0) /* a copy is under way to it */
        hs_slots_missed(r->upper.slots, slot);
    if (!found)
        return false;
    hs_slots_unpin(r->upper.slots, slot);
    count_read(r, true, r->table->group[r->group].bytes);
    return true;
}

void hs_residency_begin(hs_residency *r, uint32_t group, const int32_t *extent, const uint64_t *found, uint32_t n)
{
    const hs_group *g = &r->table->group[group];
    bool above = r->upper.slots && r->index[group] != UINT32_MAX;
    assert(!r->begun && group < r->table->n_groups);
    r->begun = true;
    r->apart = found != NULL;
    r->unsettled |= r->apart;
    r->sorted = false;
    r->group = group;
    r->given_above = 0;
    r->n_here = r->n_ready = r->n_missing = r->n_waiting = 0;
    r->cut = (hs_cut){0};
    bool early = r->ahead.there && r->ahead.group == group; /* with many tokens the card computes all of it */
    if (early && r->ahead.cut.bytes && r->last_tokens > HS_SPLIT_TOKENS)
        hs_residency_forget_ahead(r);
    memset(r->seen, 0, g->count);
    for (uint32_t i = 0; i < n; i++) {
        assert(extent[i] >= 0 && (uint32_t)extent[i] < g->count);
        r->seen[extent[i]] = found && found[i] ? FOUND : SEEN;
    }
    for (uint32_t e = 0; e < g->count; e++) { /* ascending: as they lie in the file */
        if (!r->seen[e])
            continue;
        bool here = above && !r->apart && look_above(r, e);
        if (here)
            r->here[r->n_here++] = (int32_t)e;
        else if (!r->apart || !found_above(r, e))
            look_below(r, e);
    }
    if (early && r->ahead.there)
        hs_residency_come_from_ahead(r);
    r->n_found = r->n_here;
    uint32_t to_come = r->n_here + r->n_ready + r->n_missing + r->n_waiting;
    r->each = to_come ? (double)n / to_come : 0;
    r->position++;
}

static hlwq_status ask_for_missing(hs_residency *r, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    uint32_t n = 0;
    for (int32_t slot; n < r->n_missing; n++) {
        slot = hs_residency_start_read(r, r->group, (uint32_t)r->missing[n]);
        while (slot < 0 && r->spare && flights(r) && r->n_waiting + r->n_ready + r->n_here == 0) {
            (void)landed(r, true); /* what is copied up keeps the slot, and nothing else goes on */
            st = st == HLWQ_OK ? land_first(r, err) : st;
            slot = hs_residency_start_read(r, r->group, (uint32_t)r->missing[n]);
        }
        if (slot < 0)
            break;
        hs_slots_pin(r->slots, slot); /* the read has a pin; this use takes one too */
        r->waiting[r->n_waiting++] = r->missing[n];
    }
    memmove(r->missing, r->missing + n, (r->n_missing - n) * sizeof *r->missing);
    r->n_missing -= n;
    return st;
}

static void unpin_below(hs_residency *r, int32_t extent)
{
    if (r->slots)
        hs_slots_unpin(r->slots, hs_slots_find(r->slots, r->index[r->group], (uint32_t)extent));
}

/* What was ready is not used any more. */
static void let_go(hs_residency *r)
{
    for (uint32_t i = 0; i < r->n_ready; i++)
        unpin_below(r, r->ready[i]);
    r->n_ready = 0;
    r->sorted = false;
}

static void let_go_above(hs_residency *r, uint32_t n)
{
    if (n == 0)
        return;
    hs_upper_release(&r->upper, r->index[r->group], r->here, n);
    if (r->cut.bytes) { /* a part of a layer is nothing to find again */
        hs_slots_drop(r->upper.slots, hs_slots_find(r->upper.slots, r->index[r->group], (uint32_t)r->here[0]));
        unpin_below(r, r->here[0]);
        r->cut = (hs_cut){0};
    }
    memmove(r->here, r->here + n, (r->n_here - n) * sizeof *r->here);
    r->n_here -= n;
    r->given_above = 0;
}

/* Of the ready ones, those that the CPU computes; a layer of a dense model is computed above only. */
static uint32_t beside_of(hs_residency *r)
{
    return r->dense ? 0 : hs_beside_of(&r->experts, r->n_ready, r->last_tokens, r->each, FLIGHTS);
}

/*
 * Begins to copy up those of the ready ones that are not to be computed beside: some more than are given out next, so
 * that they come while those are computed.  A layer of a dense model passes through the slots in a circle.
 */
static hlwq_status carry_up(hs_residency *r, hlwq_error *err)
{
    if (!r->sorted)
        r->beside = beside_of(r);
    r->sorted = true;
    hs_cut cut = {0};
    if (r->dense) {
        hs_residency_value_above(r, r->index[r->group]);
        cut = hs_residency_cut(r, r->group);
    }
    while (r->n_ready > r->beside && r->n_here - r->n_found < 2 * CARRY) {
        int32_t slot, extent = r->ready[r->n_ready - 1];
        HS_TRY(hs_residency_take_up(r, r->group, extent, &cut, false, &slot, err));
        if (slot < 0)
            return HLWQ_OK;
        r->n_ready--;
        r->cut = cut;
        r->upper.beside_count += cut.bytes > 0;
        if (cut.bytes == 0)
            unpin_below(r, extent);
        r->here[r->n_here++] = extent;
    }
    return HLWQ_OK;
}

/*
 * What was computed beside and is worth more than something above is copied up now: at most so many a layer, and none
 * where others are copied up to be computed there, who would wait for these.
 */
static hlwq_status admit(hs_residency *r, hlwq_error *err)
{
    uint32_t taken = 0;
    if (!hs_beside_all(&r->experts, r->last_tokens))
        return HLWQ_OK;
    for (uint32_t i = 0; i < r->n_ready && taken < ADMIT && flights(r) < ADMIT_BUSY; i++) {
        const hs_cut whole = {0};
        int32_t slot;
        HS_TRY(hs_residency_take_up(r, r->group, r->ready[i], &whole, true, &slot, err));
        if (slot >= 0) {
            hs_slots_unpin(r->upper.slots, slot);
            taken++;
        }
    }
    return HLWQ_OK;
}

static void admit_later(hs_residency *r)
{
    for (uint32_t i = 0; i < r->n_ready && i < ADMIT && r->n_later < ADMIT * r->groups; i++)
        r->later[r->n_later++] = (later){r->group, r->ready[i]};
}

static hlwq_status admit_one(hs_residency *r, later l, hlwq_error *err)
{
    const hs_cut whole = {0};
    int32_t slot = -1, below = 0;
    uint32_t index = r->index[l.group], e = (uint32_t)l.extent;
    if (r->slots)
        below = hs_slots_find(r->slots, index, e);
    bool gone = below < 0 || (r->slots && !hs_slots_is_ready(r->slots, below));
    if (!gone && hs_slots_find(r->upper.slots, index, e) < 0)
        HS_TRY(hs_residency_take_up(r, l.group, l.extent, &whole, true, &slot, err));
    if (slot >= 0)
        hs_slots_unpin(r->upper.slots, slot);
    return HLWQ_OK;
}

/*
 * Copies from slots below keep them, so there are few of these; from memory that stays as many as are kept count of.
 * Where that is fewer than there are to copy, each layer's are the first in turn.
 */
hlwq_status hs_residency_settle(hs_residency *r, hlwq_error *err)
{
    uint32_t n = r->n_later, most = r->slots ? ADMIT_BUSY : FLIGHTS;
    if (!r->unsettled)
        return HLWQ_OK;
    r->unsettled = false;
    r->n_later = 0;
    HS_TRY(hs_upper_used(&r->upper, err));
    HS_TRY(hs_residency_land(r, false, err));
    uint32_t i = 0;
    for (; i < n && flights(r) < most; i++)
        HS_TRY(admit_one(r, r->later[(r->first_later + i) % n], err));
    r->first_later = i < n ? (r->first_later + i) % n : 0;
    return HLWQ_OK;
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
        hs_residency_collect(r, t, &st, err);
        sort_waiting(r);
        if (st != HLWQ_OK)
            return st;
    }
}

/* Where reads on a guess hold every slot: waits for one of them to come in, which frees it. */
static hlwq_status outlast_guesses(hs_residency *r, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    while (r->n_missing && r->n_waiting + r->n_ready + r->n_here == 0) {
        uint64_t mark = hs_now_ns();
        hs_transfer *t = hs_stream_next(r->stream, true);
        r->wait_ns += hs_now_ns() - mark;
        if (!t)
            return HLWQ_OK;
        hs_residency_collect(r, t, &st, err);
        HS_TRY(st);
        HS_TRY(ask_for_missing(r, err));
    }
    return HLWQ_OK;
}

/* The next ones above: those found there, then those that come up, some at a time. */
static hlwq_status next_above(hs_residency *r, hlwq_error *err)
{
    if (r->n_ready)
        HS_TRY(carry_up(r, err));
    r->given_above = r->n_found ? r->n_found : r->n_here < CARRY ? r->n_here : CARRY;
    r->n_found = 0;
    HS_TRY(hs_upper_await(&r->upper, r->index[r->group], r->here, r->given_above, err));
    return r->given_above ? hs_residency_copy_ahead(r, err) : HLWQ_OK;
}

hlwq_status hs_residency_next(hs_residency *r, const int32_t **extent, uint32_t *n, hs_place *place, hlwq_error *err)
{
    assert(r->begun);
    *extent = r->ready;
    *n = 0;
    *place = HS_PLACE_HERE;
    if (!hs_residency_streams(r, r->group)) {
        *n = r->n_ready;
        r->n_ready = 0;
        hs_residency_used(r, r->group, *n);
        return HLWQ_OK;
    }
    let_go_above(r, r->given_above);
    if (!r->apart)
        HS_TRY(hs_residency_land(r, false, err));
    if (r->given && r->apart)
        admit_later(r);
    else if (r->given && r->upper.slots)
        HS_TRY(admit(r, err));
    if (r->given)
        let_go(r);
    r->given = false;
    if (r->changed != HLWQ_OK) {
        if (err)
            *err = r->change;
        return r->changed;
    }
    if (r->slots) {
        HS_TRY(ask_for_missing(r, err));
        HS_TRY(outlast_guesses(r, err));
    }
    if (r->slots && r->dense)
        hs_residency_read_ahead(r);
    if (r->n_ready == 0)
        r->sorted = false;
    if (r->n_here == 0 && r->n_waiting && !r->sorted)
        HS_TRY(arrivals(r, err));
    if (r->upper.slots && !r->apart)
        HS_TRY(next_above(r, err));
    if (r->given_above) {
        *extent = r->here;
        *n = r->given_above;
        count_read(r, true, *n * r->table->group[r->group].bytes - r->cut.bytes);
        count_read(r, false, r->cut.bytes);
        return HLWQ_OK;
    }
    *n = r->n_ready;
    *place = r->upper.slots ? HS_PLACE_HOST : HS_PLACE_HERE;
    r->upper.beside_count += r->upper.slots ? r->n_ready : 0;
    r->given = true;
    count_read(r, false, *n * r->table->group[r->group].bytes);
    if ((*n == 0 && r->n_missing) || (*n && r->upper.slots && r->dense)) /* floors leave each group at least one slot */
        return hs_fail(err, HLWQ_ERR_BUDGET, "%s: no slot is free", hs_store_path(r->store));
    return HLWQ_OK;
}

const hs_cut *hs_residency_split(const hs_residency *r, const uint8_t **below)
{
    if (r->cut.bytes == 0)
        return NULL;
    *below =
        r->slots ? hs_slab_slot(&r->slab, (uint32_t)hs_slots_find(r->slots, r->index[r->group], 0)) : r->data[r->group];
    return &r->cut;
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
        hs_residency_collect(r, t, &st, &err);
        sort_waiting(r);
    }
    let_go_above(r, r->n_here);
    let_go(r);
}
