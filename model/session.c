/*
 * model/session.c - one text: its states, its tokens, its sampler.
 *
 * Tokens are fed in pieces that end on the absolute grid of HS_GRID positions, so how a prompt was cut into calls shows
 * only where a call itself ends off the grid.  A cancel is seen between pieces, when all layers agree on the position;
 * a failure inside a piece leaves them disagreeing, so the session then refuses everything but reset.
 */
#include "model/prefix.h"

#include "base/clock.h"
#include "base/size.h"
#include "model/constraint.h"

#include <stdio.h>
#include <stdlib.h>

hlwq_session_options hlwq_session_options_default(const hlwq_engine *engine)
{
    hlwq_session_options o = {
        .kv = HLWQ_KV_F16,
        .sampling = {.temperature = 0.7f, .top_k = 20, .top_p = 0.95f, .repetition_penalty = 1.0f},
    };
    if (engine) {
        const hs_generation *g = hs_store_generation(engine->store);
        o.context = (uint32_t)hs_min_u64(engine->net.config->context_max, 8192);
        o.sampling.temperature = g->temperature;
        o.sampling.top_k = g->top_k;
        o.sampling.top_p = g->top_p;
        o.sampling.min_p = g->min_p;
        o.sampling.repetition_penalty = g->repetition_penalty;
    }
    return o;
}

static hlwq_status open_parts(hlwq_session *s, const hlwq_session_options *o, hlwq_error *err)
{
    hlwq_engine *e = s->engine;
    const hs_config *c = e->net.config;
    hs_kv_format kv;
    HS_TRY(hs_kv_format_named(&kv, o->kv, c, err));
    uint64_t states = hs_states_bytes(c, kv, s->positions, e->net.batch) -
                      (e->vram ? 0 : hs_states_filed_bytes(c, kv, s->positions, e->spilling.hot)),
             above = e->vram ? hs_speculate_state_bytes(&e->draft, c, kv, s->positions, e->net.batch) : 0,
             beyond = e->vram ? hs_speculate_beyond_bytes(&e->draft, c, kv, s->positions, e->net.batch) : 0, /* pages */
        need = states + hs_speculate_bytes(&e->draft, c, kv, s->positions, e->net.batch),
             cap = hs_mem_cap_bytes(e->mem), left = hs_engine_unpromised(e);
    if (e->vram) /* most of it is there, and has a cap of its own */
        need = need - states - above + hs_states_below_bytes(c, kv, s->positions, &e->spilling) +
               hs_states_table_bytes(c, kv, s->positions);
    if (need > left)
        return hs_fail(
            err, HLWQ_ERR_BUDGET,
            "a context of %u tokens needs %.1f MiB, but --ram leaves %.1f MiB; lower --ctx or raise --ram to %.0fM",
            s->positions, (double)need / 1048576.0, (double)left / 1048576.0,
            (double)(cap - left + need) / 1048576.0 + 4.0);
    if (e->vram) {
        uint64_t first, grows = hs_states_growth(c, kv, s->positions, 0, &first);
        uint64_t pages = beyond + hs_states_beyond_bytes(c, kv, s->positions, e->net.batch, e->spilling.hot) -
                         hs_states_growth_beyond(c, kv, s->positions, e->spilling.hot);
        HS_TRY(hs_engine_clear_above(e, states - hs_min_u64(states, grows) + above + pages, err));
    }
    HS_TRY(hs_states_init(&s->states, c, e->mem, e->backend, kv, s->positions, e->net.batch, err));
    HS_TRY(hs_states_spill(&s->states, &e->spilling, err));
    above += beyond + hs_states_growth_of(&s->states) +
             (e->vram ? hs_states_growth_beyond(c, kv, s->positions, e->spilling.hot) : 0);
    if (e->vram && above > hs_engine_unpromised_above(e))
        return hs_fail(
            err, HLWQ_ERR_BUDGET,
            "keys and values of %u tokens need %.1f MiB on the card, but --vram leaves %.1f MiB; lower --ctx "
            "or raise --vram",
            s->positions, (double)above / 1048576.0, (double)hs_engine_unpromised_above(e) / 1048576.0);
    hs_engine_promise(e, &s->states);
    void *p;
    HS_TRY(hs_mem_alloc(e->mem, HS_MEM_OTHER, (uint64_t)s->positions * sizeof(int32_t), "tokens", &p, err));
    s->tokens = p;
    HS_TRY(hs_mem_alloc(e->mem, HS_MEM_ACT, (uint64_t)c->vocab * sizeof(float), "logits", &p, err));
    s->logits = p;
    uint32_t usable = e->text.inner ? hs_tokenizer_count(e->text.inner) : c->vocab;
    HS_TRY(hs_sampler_open(&s->sampler, e->mem, c->vocab, usable, &o->sampling, err));
    if (e->draft.depth)
        HS_TRY(hs_speculate_open(&s->ahead, &e->draft, &e->net, &s->states, s->sampler, e->mem, kv, s->positions, err));
    s->hash = XXH3_createState();
    if (!s->hash)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a session");
    return HLWQ_OK;
}

hlwq_status hs_session_reset(hlwq_session *s, hlwq_error *err)
{
    hs_prefix_cut(s, 0);
    (void)hs_states_trim(&s->states, 0, NULL);
    hlwq_status st = hs_states_reset(&s->states, err);
    if (s->ahead)
        hs_speculate_reset(s->ahead);
    s->broken = s->unreset = st != HLWQ_OK;
    s->constraint = NULL;
    s->n = 0;
    s->whole = true;
    s->has_logits = s->has_best = false;
    s->utf8 = (hs_utf8_stream){0};
    s->stats = (hlwq_session_stats){0};
    XXH3_64bits_reset(s->hash);
    atomic_store(&s->cancel, false);
    return st;
}

hlwq_status hlwq_session_open(hlwq_engine *engine, const hlwq_session_options *options, hlwq_session **session,
                              hlwq_error *err)
{
    *session = NULL;
    const hs_config *c = engine->net.config;
    uint32_t positions = options->context ? options->context : (uint32_t)hs_min_u64(c->context_max, 8192);
    if (positions > c->context_max)
        return hs_fail(err, HLWQ_ERR_ARG, "a context of %u tokens was asked for, the model was made for %u", positions,
                       c->context_max);
    hlwq_session *s = calloc(1, sizeof *s);
    if (!s)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a session");
    s->engine = engine;
    s->positions = positions;
    s->kv = options->kv;
    s->seek_whole = options->whole;
    s->tokens_only = options->tokens_only;
    engine->sessions++;
    hlwq_status st = open_parts(s, options, err);
    if (st != HLWQ_OK) {
        hlwq_session_close(s);
        return st;
    }
    st = hs_session_reset(s, err);
    if (st != HLWQ_OK) {
        hlwq_session_close(s);
        return st;
    }
    *session = s;
    return HLWQ_OK;
}

void hlwq_session_close(hlwq_session *s)
{
    if (!s)
        return;
    hs_mem *mem = s->engine->mem;
    hs_prefix_cut(s, 0);
    hs_speculate_close(s->ahead);
    hs_sampler_close(s->sampler);
    hs_mem_free(mem, s->logits);
    hs_mem_free(mem, s->tokens);
    hs_engine_withdraw(s->engine, &s->states);
    hs_states_close(&s->states);
    XXH3_freeState(s->hash);
    free(s->text);
    s->engine->sessions--;
    free(s);
}

hlwq_status hlwq_session_set_sampling(hlwq_session *s, const hlwq_sampling *sampling, hlwq_error *err)
{
    return hs_sampler_set(s->sampler, sampling, err);
}

void hlwq_session_get_sampling(const hlwq_session *s, hlwq_sampling *sampling)
{
    *sampling = *hs_sampler_options(s->sampler);
}

void hlwq_session_set_constraint(hlwq_session *s, hlwq_constraint *constraint)
{
    s->constraint = constraint;
    s->place = constraint ? hs_constraint_start(constraint) : 0;
    s->sampled = -1;
}

hlwq_status hlwq_session_follow(hlwq_session *s, const char *text, size_t bytes, hlwq_error *err)
{
    return s->constraint ? hs_constraint_follow(s->constraint, &s->place, text, bytes, err) : HLWQ_OK;
}

bool hlwq_session_satisfied(const hlwq_session *s)
{
    return !s->constraint || hs_constraint_complete(s->constraint, s->place);
}

void hlwq_session_reset(hlwq_session *s)
{
    (void)hs_session_reset(s, NULL);
}

uint32_t hlwq_session_position(const hlwq_session *s)
{
    return s->n;
}

const int32_t *hlwq_session_tokens(const hlwq_session *s)
{
    return s->tokens;
}

const float *hlwq_session_logits(const hlwq_session *s)
{
    return s->has_logits ? s->logits : NULL;
}

void hlwq_session_cancel(hlwq_session *s)
{
    atomic_store(&s->cancel, true);
}

void hlwq_session_get_stats(const hlwq_session *s, hlwq_session_stats *stats)
{
    *stats = s->stats;
    stats->logits_hash = XXH3_64bits_digest(s->hash);
    hs_lower_stats away = hs_states_spilled(&s->states);
    stats->spilled_bytes = away.file.written_bytes;
    stats->spill_read_bytes = away.file.read_bytes;
    stats->spill_wait_seconds = (double)away.file.wait_ns * 1e-9;
    stats->lowered_bytes = away.down_bytes;
    stats->raised_bytes = away.up_bytes;
}

void hlwq_session_speculation(const hlwq_session *s, hlwq_speculation *out)
{
    *out = (hlwq_speculation){0};
    if (s->ahead)
        hs_speculate_stats(s->ahead, out);
}

static hlwq_status check_input(hlwq_session *s, const int32_t *ids, size_t count, hlwq_error *err)
{
    uint32_t vocab = s->engine->net.config->vocab;
    if (s->unreset) { /* for what has become better, or a sentence that says what has not */
        hlwq_constraint *constraint = s->constraint;
        HS_TRY(hs_session_reset(s, err));
        s->constraint = constraint;
    }
    if (s->broken)
        return hs_fail(err, HLWQ_ERR_ARG, "the session failed in the middle of a token and must be reset");
    if (count > s->positions - s->n)
        return hs_fail(err, HLWQ_ERR_BUDGET, "%zu tokens do not fit: the context holds %u and has %u left; raise --ctx",
                       count, s->positions, s->positions - s->n);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return hs_fail(err, HLWQ_ERR_ARG, "token id %d is outside the vocabulary of %u", ids[i], vocab);
    return HLWQ_OK;
}

/* `n` more tokens have been fed in one go. */
static void grow(hlwq_session *s, uint32_t n)
{
    s->whole = s->whole && s->n % HS_GRID == 0;
    s->n += n;
}

/* Whether the choice after n tokens can be made where its logits are. */
static bool chosen_there(const hlwq_session *s, uint32_t n, hs_selection *choice)
{
    return s->tokens_only && !s->ahead && !s->constraint && s->engine->backend->ops->choose &&
           hs_sampler_choice(s->sampler, s->tokens, n, n, choice);
}

/* One piece: all layers, then the bookkeeping. */
static hlwq_status feed(hlwq_session *s, const int32_t *ids, uint32_t n, bool last, float *logits, hlwq_error *err)
{
    size_t vocab = s->engine->net.config->vocab;
    hs_logits_mode mode = logits ? HS_LOGITS_ALL : last ? HS_LOGITS_LAST : HS_LOGITS_NONE;
    hs_selection choice;
    HS_TRY(hs_states_reach(&s->states, s->n + n, err)); /* where it fails the session is as it was */
    memmove(s->tokens + s->n, ids, n * sizeof *ids);
    bool there = mode == HS_LOGITS_LAST && chosen_there(s, s->n + n, &choice);
    float *out = logits ? logits : there ? NULL : s->logits;
    hlwq_status st = hs_forward(&s->engine->net, &s->states, ids, s->n, n, mode, out, NULL, err);
    if (st == HLWQ_OK && there)
        st = hs_forward_choose(&s->engine->net, &choice, &s->best, s->logits, err);
    if (st != HLWQ_OK) {
        s->broken = true;
        return st;
    }
    grow(s, n);
    s->has_best = there && s->best != HS_UNDECIDED;
    s->has_logits = there ? !s->has_best : s->has_logits;
    if (mode != HS_LOGITS_NONE && !there) {
        XXH3_64bits_update(s->hash, out, (mode == HS_LOGITS_ALL ? n : 1) * vocab * sizeof(float));
        if (logits)
            memcpy(s->logits, logits + (n - 1) * vocab, vocab * sizeof(float));
        s->has_logits = true;
    }
    return HLWQ_OK;
}

/* What drafts are made from takes in a piece that was fed; last of all, since it computes in the same memory. */
static hlwq_status fed(hlwq_session *s, uint32_t n, hlwq_error *err)
{
    hlwq_status st = s->ahead ? hs_speculate_fed(s->ahead, s->tokens, s->n - n, n, err) : HLWQ_OK;
    s->broken = s->broken || st != HLWQ_OK;
    return st;
}

/* The window that is open ends here: states are those of the text. */
static hlwq_status settle(hlwq_session *s, hlwq_error *err)
{
    hlwq_status st = s->ahead ? hs_speculate_settle(s->ahead, err) : HLWQ_OK;
    s->broken = s->broken || st != HLWQ_OK;
    return st;
}

/* Token `id` now stands at `position`: if it was sampled for there, the constraint moves on. */
static void follow_constraint(hlwq_session *s, int32_t id, uint32_t position)
{
    if (s->constraint && s->sampled >= 0 && s->sampled == id && s->sampled_at == position)
        s->place = s->place_after;
    s->sampled = -1;
}

/* Feeds a token that was chosen, or finds that it was fed ahead. */
static hlwq_status step_ahead(hlwq_session *s, int32_t id, hlwq_error *err)
{
    size_t bytes = s->engine->net.config->vocab * sizeof(float);
    const float *logits;
    bool computed;
    HS_TRY(check_input(s, &id, 1, err));
    if (atomic_exchange(&s->cancel, false))
        return hs_fail(err, HLWQ_ERR_CANCELLED, "stopped after %u tokens", s->n);
    hs_engine_look_around(s->engine);
    HS_TRY(hs_states_reach(&s->states, (uint32_t)hs_min_u64(s->positions, s->n + HS_WINDOW_MAX), err));
    s->tokens[s->n] = id;
    hlwq_status st = hs_speculate_next(s->ahead, s->tokens, s->n, &logits, &computed, err);
    s->broken = st != HLWQ_OK;
    HS_TRY(st);
    grow(s, 1);
    follow_constraint(s, id, s->n - 1);
    memcpy(s->logits, logits, bytes);
    XXH3_64bits_update(s->hash, logits, bytes);
    s->has_logits = true;
    s->has_best = false;
    return HLWQ_OK;
}

static double waited_seconds(const hlwq_session *s)
{
    return (double)hs_residency_get_stats(s->engine->residency).wait_ns * 1e-9;
}

static hlwq_status eval(hlwq_session *s, const int32_t *ids, size_t count, float *logits, hlwq_error *err)
{
    HS_TRY(check_input(s, ids, count, err));
    HS_TRY(settle(s, err));
    size_t vocab = s->engine->net.config->vocab;
    for (size_t done = 0; done < count;) {
        if (atomic_exchange(&s->cancel, false))
            return hs_fail(err, HLWQ_ERR_CANCELLED, "stopped after %u tokens", s->n);
        hs_engine_look_around(s->engine);
        uint32_t edge = s->engine->net.batch - s->n % HS_GRID; /* the piece ends on the grid */
        uint32_t n = (uint32_t)hs_min_u64(count - done, edge);
        HS_TRY(feed(s, ids + done, n, done + n == count, logits ? logits + done * vocab : NULL, err));
        HS_TRY(fed(s, n, err));
        done += n;
    }
    return HLWQ_OK;
}

hlwq_status hlwq_session_eval(hlwq_session *s, const int32_t *ids, size_t count, float *logits, hlwq_error *err)
{
    double start = hs_now_seconds();
    double waited = waited_seconds(s);
    hlwq_status st = eval(s, ids, count, logits, err);
    s->stats.prompt_seconds += hs_now_seconds() - start;
    s->stats.prompt_wait_seconds += waited_seconds(s) - waited;
    if (st == HLWQ_OK)
        s->stats.prompt_tokens += count;
    return st;
}

hlwq_status hlwq_session_prompt(hlwq_session *s, const char *text, hlwq_error *err)
{
    int32_t *ids;
    size_t n;
    if (!s->engine->text.inner)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s has no tokenizer", hs_store_path(s->engine->store));
    HS_TRY(hs_tokenizer_encode(s->engine->text.inner, text, strlen(text), false, &ids, &n, err));
    hlwq_status st = hlwq_session_eval(s, ids, n, NULL, err);
    free(ids);
    return st;
}

static bool ends_text(const hs_config *c, int32_t id)
{
    for (uint32_t i = 0; i < c->n_stop; i++)
        if (c->stop[i] == id)
            return true;
    return false;
}

/* The next token, or the end of the text where a constraint leaves nothing else. */
static hlwq_status sample(hlwq_session *s, int32_t *next, hlwq_error *err)
{
    const hs_config *c = s->engine->net.config;
    const uint64_t *allowed = NULL;
    uint32_t n = 0;
    *next = c->n_stop ? c->stop[0] : -1;
    if (s->has_best) { /* the logits are gone: what was asked for when there were any holds */
        *next = s->best;
        s->sampled = -1;
        return s->best < 0 ? hs_sampler_no_number(s->n, err) : HLWQ_OK;
    }
    if (s->constraint) {
        if (hs_constraint_over(s->constraint, s->place))
            return HLWQ_OK;
        HS_TRY(hs_constraint_allowed(s->constraint, s->place, c->stop, c->n_stop, &allowed, err));
        n = hs_constraint_tokens(s->constraint);
    }
    HS_TRY(hs_sampler_next(s->sampler, s->logits, s->tokens, s->n, s->n, allowed, n, next, err));
    s->sampled = -1;
    if (s->constraint && !ends_text(c, *next)) {
        s->place_after = s->place;
        HS_TRY(hs_constraint_advance(s->constraint, &s->place_after, *next, err));
        s->sampled = *next;
        s->sampled_at = s->n;
    }
    return HLWQ_OK;
}

hlwq_status hlwq_session_next(hlwq_session *s, int32_t *id, hlwq_error *err)
{
    *id = -1;
    if (!s->has_logits && !s->has_best)
        return hs_fail(err, HLWQ_ERR_ARG, "there is no text to continue: feed a prompt first");
    double start = hs_now_seconds();
    double waited = waited_seconds(s);
    int32_t next;
    HS_TRY(sample(s, &next, err));
    if (next < 0 || ends_text(s->engine->net.config, next))
        return HLWQ_OK;
    HS_TRY(s->ahead ? step_ahead(s, next, err) : eval(s, &next, 1, NULL, err));
    follow_constraint(s, next, s->n - 1);
    s->stats.decode_seconds += hs_now_seconds() - start;
    s->stats.decode_wait_seconds += waited_seconds(s) - waited;
    s->stats.decoded_tokens++;
    *id = s->tokens[s->n - 1];
    return HLWQ_OK;
}

/* ---- several at once ------------------------------------------------------------------------ */

hlwq_status hlwq_session_sample(hlwq_session *s, int32_t *id, bool *ends, hlwq_error *err)
{
    *id = -1;
    *ends = false;
    if (!s->has_logits && !s->has_best)
        return hs_fail(err, HLWQ_ERR_ARG, "there is no text to continue: feed a prompt first");
    HS_TRY(sample(s, id, err));
    *ends = *id < 0 || ends_text(s->engine->net.config, *id);
    return HLWQ_OK;
}

static hlwq_status check_rows(hlwq_session *const *sessions, const int32_t *ids, uint32_t n, hlwq_error *err)
{
    if (n > HLWQ_ROWS_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "%u sessions, at most %d take a step together", n, HLWQ_ROWS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        HS_TRY(check_input(sessions[i], &ids[i], 1, err));
        if (sessions[i]->engine != sessions[0]->engine)
            return hs_fail(err, HLWQ_ERR_ARG, "session %u is of another engine", i);
        for (uint32_t k = 0; k < i; k++)
            if (sessions[k] == sessions[i])
                return hs_fail(err, HLWQ_ERR_ARG, "session %u is named twice", i);
    }
    return HLWQ_OK;
}

/* What a session remembers of a token that all layers have seen. */
static void keep_row(hlwq_session *s, int32_t id, const float *logits, double seconds, double waited)
{
    size_t bytes = s->engine->net.config->vocab * sizeof(float);
    s->tokens[s->n] = id;
    grow(s, 1);
    follow_constraint(s, id, s->n - 1);
    if (logits != s->logits)
        memcpy(s->logits, logits, bytes);
    XXH3_64bits_update(s->hash, logits, bytes);
    s->has_logits = true;
    s->has_best = false;
    s->stats.decode_seconds += seconds;
    s->stats.decode_wait_seconds += waited;
    s->stats.decoded_tokens++;
}

/* One session by itself can be ahead of what is asked for. */
static hlwq_status step_alone(hlwq_session *s, int32_t id, hlwq_error *err)
{
    double start = hs_now_seconds(), waited = waited_seconds(s);
    HS_TRY(step_ahead(s, id, err));
    s->stats.decode_seconds += hs_now_seconds() - start;
    s->stats.decode_wait_seconds += waited_seconds(s) - waited;
    s->stats.decoded_tokens++;
    return HLWQ_OK;
}

hlwq_status hlwq_sessions_step(hlwq_session *const *sessions, const int32_t *ids, uint32_t n, hlwq_error *err)
{
    hs_states *states[HLWQ_ROWS_MAX];
    uint32_t position[HLWQ_ROWS_MAX];
    if (n == 0)
        return HLWQ_OK;
    HS_TRY(check_rows(sessions, ids, n, err));
    hlwq_engine *e = sessions[0]->engine;
    float *logits = sessions[0]->logits;
    if (n > 1) {
        HS_TRY(hs_engine_rows(e, err));
        logits = e->rows;
    }
    double start = hs_now_seconds(), waited = waited_seconds(sessions[0]);
    if (n == 1 && sessions[0]->ahead)
        return step_alone(sessions[0], ids[0], err);
    for (uint32_t i = 0; i < n; i++) {
        HS_TRY(settle(sessions[i], err));
        HS_TRY(hs_states_reach(&sessions[i]->states, sessions[i]->n + 1, err));
        states[i] = &sessions[i]->states;
        position[i] = sessions[i]->n;
    }
    hs_engine_look_around(e);
    hlwq_status st = hs_forward_rows(&e->net, states, ids, position, n, logits, err);
    double seconds = hs_now_seconds() - start;
    waited = waited_seconds(sessions[0]) - waited;
    for (uint32_t i = 0; i < n; i++)
        if (sessions[i]->ahead)
            hs_speculate_missed(sessions[i]->ahead);
    for (uint32_t i = 0; i < n; i++)
        if (st == HLWQ_OK)
            keep_row(sessions[i], ids[i], logits + i * (size_t)e->net.config->vocab, seconds, waited);
        else
            sessions[i]->broken = true;
    return st;
}

/* The logits of one piece, as many rows at a time as there is room for. */
static hlwq_status show_rows(hlwq_session *s, uint32_t n, size_t done, hlwq_logits_fn each, void *user, hlwq_error *err)
{
    hlwq_engine *e = s->engine;
    size_t vocab = e->net.config->vocab;
    uint32_t room = e->rows ? HLWQ_ROWS_MAX : 1;
    float *logits = e->rows ? e->rows : s->logits;
    for (uint32_t at = 0; at < n; at += room) {
        uint32_t m = n - at < room ? n - at : room;
        HS_TRY(hs_forward_head(&e->net, at, m, logits, NULL, err));
        XXH3_64bits_update(s->hash, logits, m * vocab * sizeof(float));
        for (uint32_t i = 0; i < m; i++)
            if (!each(user, done + at + i, logits + i * vocab))
                return hs_fail(err, HLWQ_ERR_CANCELLED, "stopped after %u tokens", s->n);
        if (logits != s->logits)
            memcpy(s->logits, logits + (m - 1) * vocab, vocab * sizeof(float));
    }
    s->has_logits = true;
    s->has_best = false;
    return HLWQ_OK;
}

hlwq_status hlwq_session_eval_each(hlwq_session *s, const int32_t *ids, size_t count, hlwq_logits_fn each, void *user,
                                   hlwq_error *err)
{
    double start = hs_now_seconds(), waited = waited_seconds(s);
    HS_TRY(check_input(s, ids, count, err));
    HS_TRY(settle(s, err));
    for (size_t done = 0; done < count;) {
        if (atomic_exchange(&s->cancel, false))
            return hs_fail(err, HLWQ_ERR_CANCELLED, "stopped after %u tokens", s->n);
        hs_engine_look_around(s->engine);
        uint32_t edge = s->engine->net.batch - s->n % HS_GRID;
        uint32_t n = (uint32_t)hs_min_u64(count - done, edge);
        HS_TRY(feed(s, ids + done, n, false, NULL, err));
        hlwq_status st = show_rows(s, n, done, each, user, err);
        if (st == HLWQ_OK || st == HLWQ_ERR_CANCELLED)
            HS_TRY(fed(s, n, st == HLWQ_OK ? err : NULL));
        if (st != HLWQ_OK && st != HLWQ_ERR_CANCELLED)
            s->broken = true;
        HS_TRY(st);
        done += n;
    }
    s->stats.prompt_seconds += hs_now_seconds() - start;
    s->stats.prompt_wait_seconds += waited_seconds(s) - waited;
    s->stats.prompt_tokens += count;
    return HLWQ_OK;
}

const char *hlwq_session_text(hlwq_session *s, int32_t id)
{
    size_t bytes = 0;
    const char *raw = NULL;
    if (id >= 0 && s->engine->text.inner)
        raw = hs_tokenizer_bytes(s->engine->text.inner, id, &bytes);
    size_t need = 3 * (bytes + 4) + 1;
    if (need > s->text_capacity) {
        char *p = realloc(s->text, need);
        if (!p)
            return "";
        s->text = p;
        s->text_capacity = need;
    }
    size_t n = raw || id < 0 ? hs_utf8_feed(&s->utf8, raw, bytes, s->text) : 0;
    s->text[n] = 0;
    return s->text;
}
