/*
 * model/speculate.c - drafts, windows, and the price that decides how far ahead to draft.
 */
#include "model/speculate.h"

#include "base/clock.h"
#include "base/size.h"
#include "model/lookup.h"
#include "model/mtp.h"
#include "model/price.h"

#include <assert.h>
#include <math.h>
#include <string.h>

_Static_assert((int)HS_PRICE_DEPTHS == (int)HS_WINDOW_MAX, "a window is a token and drafts");

enum { PRETEND_SEED = 4711 };

struct hs_speculate {
    hs_draft_mode mode;
    hs_network *net;
    hs_states *states;
    hs_sampler *sampler;
    hs_mem *mem;
    uint32_t positions, linear; /* linear: DeltaNet layers */
    hs_mtp *mtp;                /* NULL = no such drafts */
    hs_delta_window *window;    /* [linear] */
    void *block;                /* theirs, in the backend's memory */
    float *logits;              /* [depth + 1][vocab] of the window */
    float *draft_logits;        /* [vocab] */

    int32_t id[HS_WINDOW_MAX]; /* the window's tokens */
    uint32_t count, used;      /* of them; asked for. count 0 = no window */
    bool missed;               /* another token was chosen than the next one */
    hs_draft_source source;
    double draft_ns, pass_ns;
    hs_price price;
    hlwq_speculation stats;
};

/* ---- memory --------------------------------------------------------------------------------- */

static uint32_t linear_layers(const hs_config *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->layers; i++)
        n += !c->full[i];
    return n;
}

/* Floats of one layer's window: rows of raw, of mix, of gates. */
static uint64_t raw_floats(const hs_config *c, uint32_t tokens)
{
    return hs_align_up((uint64_t)(c->conv_taps - 1 + tokens) * hs_conv_channels(c), 16);
}

static uint64_t mix_floats(const hs_config *c, uint32_t tokens)
{
    return hs_align_up((uint64_t)tokens * hs_conv_channels(c), 16);
}

static uint64_t gate_floats(const hs_config *c, uint32_t tokens)
{
    return hs_align_up(2ull * tokens * c->v_heads, 16);
}

static uint64_t block_bytes(const hs_config *c, uint32_t tokens)
{
    return linear_layers(c) * (raw_floats(c, tokens) + mix_floats(c, tokens) + gate_floats(c, tokens)) * sizeof(float);
}

static uint64_t logits_bytes(const hs_config *c, uint32_t tokens)
{
    return (uint64_t)(tokens + 1) * c->vocab * sizeof(float); /* the window's, and a draft's */
}

uint64_t hs_speculate_bytes(const hs_draft_mode *mode, const hs_config *c, hs_kv_format kv, uint32_t positions,
                            uint32_t batch)
{
    uint32_t tokens = mode->depth + 1;
    if (mode->depth == 0)
        return 0;
    return sizeof(hs_speculate) + block_bytes(c, tokens) + c->layers * sizeof(hs_delta_window) +
           logits_bytes(c, tokens) + (mode->mtp ? hs_mtp_bytes(c, kv, positions, batch) : 0);
}

uint64_t hs_speculate_state_bytes(const hs_draft_mode *mode, const hs_config *c, hs_kv_format kv, uint32_t positions,
                                  uint32_t batch)
{
    if (mode->depth == 0)
        return 0;
    return block_bytes(c, mode->depth + 1) + (mode->mtp ? hs_mtp_pages_bytes(c, kv, positions, batch) : 0);
}

uint64_t hs_speculate_beyond_bytes(const hs_draft_mode *mode, const hs_config *c, hs_kv_format kv, uint32_t positions,
                                   uint32_t batch)
{
    uint64_t all = hs_speculate_state_bytes(mode, c, kv, positions, batch);
    uint64_t block = all ? block_bytes(c, mode->depth + 1) : 0;
    return hs_card_block_bytes(block) - block + hs_card_block_bytes(all - block) - (all - block);
}

static hlwq_status open_parts(hs_speculate *sp, hs_kv_format kv, hlwq_error *err)
{
    void *p;
    const hs_config *c = sp->net->config;
    hs_backend *be = sp->net->backend;
    uint32_t tokens = sp->mode.depth + 1;
    HS_TRY(hs_mem_alloc(sp->mem, HS_MEM_STATE, c->layers * sizeof(hs_delta_window), "windows", &p, err));
    sp->window = p;
    HS_TRY(be->ops->alloc(be, HS_MEM_STATE, block_bytes(c, tokens), "windows", &sp->block, err));
    float *at = sp->block;
    for (uint32_t i = 0; i < sp->linear; i++) {
        sp->window[i].raw = at;
        sp->window[i].mix = at + raw_floats(c, tokens);
        sp->window[i].gates = sp->window[i].mix + mix_floats(c, tokens);
        at = sp->window[i].gates + gate_floats(c, tokens);
    }
    HS_TRY(hs_mem_alloc(sp->mem, HS_MEM_ACT, logits_bytes(c, tokens), "logits", &p, err));
    sp->logits = p;
    sp->draft_logits = sp->logits + (size_t)tokens * c->vocab;
    for (uint32_t i = 0; i < c->vocab; i++)
        sp->draft_logits[i] = NAN; /* what the draft head leaves out is no number, and never chosen */
    return sp->mode.mtp ? hs_mtp_open(&sp->mtp, sp->net, sp->mem, kv, sp->positions, err) : HLWQ_OK;
}

hlwq_status hs_speculate_open(hs_speculate **out, const hs_draft_mode *mode, hs_network *net, hs_states *states,
                              hs_sampler *sampler, hs_mem *mem, hs_kv_format kv, uint32_t positions, hlwq_error *err)
{
    void *p;
    assert(mode->depth >= 1 && mode->depth < HS_WINDOW_MAX && hs_backend_speculates(net->backend));
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, sizeof(hs_speculate), "speculation", &p, err));
    hs_speculate *sp = p;
    *sp = (hs_speculate){.mode = *mode,
                         .net = net,
                         .states = states,
                         .sampler = sampler,
                         .mem = mem,
                         .positions = positions,
                         .linear = linear_layers(net->config)};
    hlwq_status st = open_parts(sp, kv, err);
    if (st != HLWQ_OK) {
        hs_speculate_close(sp);
        return st;
    }
    hs_speculate_reset(sp);
    *out = sp;
    return HLWQ_OK;
}

void hs_speculate_close(hs_speculate *sp)
{
    if (!sp)
        return;
    hs_mtp_close(sp->mtp);
    hs_mem_free(sp->mem, sp->logits);
    sp->net->backend->ops->free(sp->net->backend, sp->block);
    hs_mem_free(sp->mem, sp->window);
    hs_mem_free(sp->mem, sp);
}

void hs_speculate_reset(hs_speculate *sp)
{
    sp->count = sp->used = 0;
    sp->stats = (hlwq_speculation){.depth_max = sp->mode.depth};
    hs_price_init(&sp->price, sp->mode.depth, !sp->mode.priced);
    if (sp->mtp)
        hs_mtp_reset(sp->mtp);
}

/* ---- drafts --------------------------------------------------------------------------------- */

static bool ends_text(const hs_config *c, int32_t id)
{
    for (uint32_t i = 0; i < c->n_stop; i++)
        if (c->stop[i] == id)
            return true;
    return false;
}

/* Drafts of the MTP head after tokens[n], chosen as the session would choose: with its seed, so that equal logits give
 * equal tokens. They go to tokens[n + 1 ..]; returns how many. */
static hlwq_status draft_mtp(hs_speculate *sp, int32_t *tokens, uint32_t n, uint32_t depth, uint32_t *made,
                             hlwq_error *err)
{
    for (*made = 0; *made < depth; (*made)++) {
        int32_t id;
        uint32_t next = n + 1 + *made;
        if (*made == 0)
            HS_TRY(hs_mtp_draft(sp->mtp, tokens, n, sp->draft_logits, err));
        else
            HS_TRY(hs_mtp_draft_on(sp->mtp, tokens[next - 1], sp->draft_logits, err));
        if (hs_sampler_next(sp->sampler, sp->draft_logits, tokens, next, next, NULL, 0, &id, NULL) != HLWQ_OK)
            return HLWQ_OK; /* no number among them: nothing to try */
        if (ends_text(sp->net->config, id))
            return HLWQ_OK;
        tokens[next] = id;
    }
    return HLWQ_OK;
}

static uint32_t draft_lookup(const hs_speculate *sp, int32_t *tokens, uint32_t n, uint32_t at, uint32_t depth)
{
    uint32_t made = 0;
    for (; made < depth && at + made <= n && !ends_text(sp->net->config, tokens[at + made]); made++)
        tokens[n + 1 + made] = tokens[at + made];
    return made;
}

/* Makes drafts after tokens[n] from the source that promises most; returns how many. */
static hlwq_status draft(hs_speculate *sp, int32_t *tokens, uint32_t n, uint32_t *made, hlwq_error *err)
{
    double best = 0, rate;
    uint32_t room = sp->positions - n - 1, depth = 0, at = 0, d;
    uint32_t same = sp->mode.lookup ? hs_lookup(tokens, n + 1, &at) : 0;
    *made = 0;
    if (sp->mtp && hs_mtp_ready(sp->mtp)) {
        depth = hs_price_depth(&sp->price, HS_DRAFT_MTP, &best);
        sp->source = HS_DRAFT_MTP;
    }
    if (same) {
        hs_draft_source source = same >= HS_PRICE_LONG ? HS_DRAFT_LOOKUP_LONG : HS_DRAFT_LOOKUP;
        d = hs_price_depth(&sp->price, source, &rate);
        if (d && (depth == 0 || rate > best || (sp->price.free_run && source == HS_DRAFT_LOOKUP_LONG))) {
            depth = d;
            sp->source = source;
        }
    }
    depth = depth < room ? depth : room;
    if (depth && sp->source == HS_DRAFT_MTP)
        return draft_mtp(sp, tokens, n, depth, made, err);
    if (depth)
        *made = draft_lookup(sp, tokens, n, at, depth);
    return HLWQ_OK;
}

/* ---- windows -------------------------------------------------------------------------------- */

hlwq_status hs_speculate_fed(hs_speculate *sp, const int32_t *tokens, uint32_t first, uint32_t n, hlwq_error *err)
{
    assert(sp->count == 0);
    return sp->mtp ? hs_mtp_prompt(sp->mtp, tokens, first, n, err) : HLWQ_OK;
}

void hs_speculate_missed(hs_speculate *sp)
{
    assert(sp->count == 0);
    if (sp->mtp)
        hs_mtp_forget(sp->mtp);
}

static void count(const hs_speculate *sp, hlwq_speculation *s)
{
    uint32_t drafts = sp->count - 1, lookup = sp->source != HS_DRAFT_MTP;
    s->passes++;
    s->plain += drafts == 0;
    s->drafted[lookup] += drafts;
    s->accepted[lookup] += sp->used - 1;
    s->draft_seconds += sp->draft_ns * 1e-9;
    s->pass_seconds += sp->pass_ns * 1e-9;
}

static void count_for_all(const hs_speculate *sp)
{
    hlwq_speculation own, *all = &sp->net->speculated;
    hs_speculate_stats(sp, &own);
    count(sp, all);
    all->depth_max = own.depth_max;
    all->depth = own.depth;
    all->expected_gain = own.expected_gain;
}

static hlwq_status begin_keep(const hs_speculate *sp, hlwq_error *err)
{
    bool on;
    hs_backend *be = sp->net->backend;
    hs_bases text = hs_states_bases(sp->states);
    text.window = sp->block;
    const hs_step step = {.kind = HS_STEP_KEEP, .n = sp->used, .text = &text};
    return be->ops->step ? be->ops->step(be, &step, &on, err) : HLWQ_OK;
}

hlwq_status hs_speculate_settle(hs_speculate *sp, hlwq_error *err)
{
    hs_backend *be = sp->net->backend;
    const hs_config *c = sp->net->config;
    uint32_t drafts = sp->count - 1;
    if (sp->count == 0)
        return HLWQ_OK;
    uint64_t start = hs_now_ns();
    if (drafts)
        HS_TRY(begin_keep(sp, err));
    for (uint32_t i = 0; i < c->layers && drafts; i++) {
        uint32_t l = sp->states->index[i];
        if (!c->full[i])
            HS_TRY(be->ops->deltanet_keep(be, &sp->net->layer[i].delta, &sp->states->delta[l], &sp->window[l], sp->used,
                                          err));
    }
    if (sp->mtp)
        hs_mtp_keep(sp->mtp, sp->used);
    sp->pass_ns += (double)(hs_now_ns() - start);
    hs_price_note(&sp->price, sp->source, drafts, sp->used - 1, sp->missed, sp->draft_ns, sp->pass_ns);
    count(sp, &sp->stats);
    count_for_all(sp);
    sp->count = sp->used = 0;
    return HLWQ_OK;
}

static hlwq_status compute(hs_speculate *sp, int32_t *tokens, uint32_t n, hlwq_error *err)
{
    uint32_t drafts;
    uint64_t start = hs_now_ns();
    HS_TRY(draft(sp, tokens, n, &drafts, err));
    uint64_t drafted = hs_now_ns();
    sp->states->window = drafts ? sp->window : NULL;
    hlwq_status st = hs_forward(sp->net, sp->states, tokens + n, n, drafts + 1, HS_LOGITS_ALL, sp->logits, NULL, err);
    sp->states->window = NULL;
    if (st == HLWQ_OK && sp->mtp)
        st = hs_mtp_note(sp->mtp, drafts + 1, err);
    HS_TRY(st);
    memcpy(sp->id, tokens + n, (drafts + 1) * sizeof *tokens);
    sp->count = drafts + 1;
    sp->used = 1;
    sp->missed = false;
    sp->draft_ns = (double)(drafted - start);
    sp->pass_ns = (double)(hs_now_ns() - drafted);
    return HLWQ_OK;
}

hlwq_status hs_speculate_next(hs_speculate *sp, int32_t *tokens, uint32_t n, const float **logits, bool *computed,
                              hlwq_error *err)
{
    assert(n < sp->positions);
    if (sp->mode.pretend > 0 && sp->used < sp->count && hs_sampler_uniform(PRETEND_SEED, n) < sp->mode.pretend)
        tokens[n] = sp->id[sp->used];
    *computed = !(sp->used < sp->count && sp->id[sp->used] == tokens[n]);
    if (*computed) {
        sp->missed = sp->used < sp->count;
        HS_TRY(hs_speculate_settle(sp, err));
        HS_TRY(compute(sp, tokens, n, err));
    } else
        sp->used++;
    *logits = sp->logits + (size_t)(sp->used - 1) * sp->net->config->vocab;
    return HLWQ_OK;
}

void hs_speculate_stats(const hs_speculate *sp, hlwq_speculation *out)
{
    double rate, plain = hs_price_rate(&sp->price, HS_DRAFT_MTP, 0), best = plain;
    *out = sp->stats;
    for (int s = 0; s < HS_DRAFT_SOURCES; s++) {
        if (!sp->price.source[s].tried) /* what it promises is only hoped for */
            continue;
        for (uint32_t k = 1; k <= sp->mode.depth; k++) {
            rate = hs_price_rate(&sp->price, (hs_draft_source)s, k);
            if (!sp->price.source[s].losing && rate > best) {
                best = rate;
                out->depth = k;
            }
        }
    }
    out->expected_gain = plain > 0 ? best / plain : 1;
}
