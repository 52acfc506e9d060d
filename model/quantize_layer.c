/*
 * model/quantize_layer.c - chooses the codes of one layer, in the order in which a token meets its matrices.
 *
 * Every matrix is fitted to what it will read in the finished file, errors of earlier matrices included, and is asked
 * for the outputs that the checkpoint has at that place: so each makes up for part of what went wrong before it.  The
 * matrices that add to the residual stream are also asked to bring that back to the checkpoint's.
 */
#include "model/quantize.h"

#include "base/clock.h"
#include "kernels/numeric.h"

#include <assert.h>
#include <string.h>

enum { EXPERTS_SAID = 16 };

/* ---- what a matrix reads -------------------------------------------------------------------- */

static uint32_t padded(uint32_t cols)
{
    return (cols + HS_BLOCK - 1) / HS_BLOCK * HS_BLOCK;
}

static void begin_reads(hs_quantize *q, uint32_t cols)
{
    hs_reads *r = &q->reads;
    r->n = padded(cols);
    memset(r->h, 0, (size_t)r->n * r->n * sizeof(float));
    memset(r->shift, 0, (size_t)r->n * r->n * sizeof(float));
    memset(r->wanted, 0, (size_t)q->calib.config->hidden * r->n * sizeof(float));
}

/* One row in the basis of the codes. */
static void to_basis(const hs_quantize *q, const float *x, uint32_t cols, float weight, float *out)
{
    if (hs_dtype_int4(q->dtype))
        hs_gram_pad(x, cols, weight, out);
    else
        hs_gram_rotate(x, cols, weight, out);
}

/* `count` rows of either way; each counts weight^2, NULL = 1. */
static void add_reads(hs_quantize *q, const float *source, const float *result, uint32_t cols, const float *weight,
                      uint32_t count)
{
    hs_reads *r = &q->reads;
    for (uint32_t i = 0; i < count; i++) {
        float w = weight ? weight[i] : 1.0f;
        to_basis(q, source + (size_t)i * cols, cols, w, r->rows[HS_WAY_SOURCE] + (size_t)i * r->n);
        to_basis(q, result + (size_t)i * cols, cols, w, r->rows[HS_WAY_RESULT] + (size_t)i * r->n);
    }
    hs_gram_add(q->pool, r->h, r->n, r->rows[HS_WAY_RESULT], r->rows[HS_WAY_RESULT], count);
    hs_gram_add(q->pool, r->shift, r->n, r->rows[HS_WAY_RESULT], r->rows[HS_WAY_SOURCE], count);
}

/* Rows of the residual stream are `lag` short of the checkpoint's where the rows just added were read. */
static void add_lag(hs_quantize *q, const float *lag, uint32_t count)
{
    hs_reads *r = &q->reads;
    hs_gram_add_cross(q->pool, r->wanted, q->calib.config->hidden, r->n, lag, r->rows[HS_WAY_RESULT], count);
}

static bool is_fitted(const hs_fit_target *t)
{
    return hs_dtype_packed(hs_group_find(t->group, t->role)->dtype) && !hs_dtype_packed(t->source->dtype);
}

/* Targets less what is read, and the factor: for `n` matrices that read the same. */
static hlwq_status end_reads(hs_quantize *q, const hs_fit_target *target, uint32_t n, hlwq_error *err)
{
    hs_reads *r = &q->reads;
    hs_gram_mirror(r->h, r->n);
    if (q->o->awq && is_fitted(target))
        HS_TRY(hs_quantize_scale(q, target, n, err));
    if (q->o->awq == HLWQ_AWQ_ROUND)
        return HLWQ_OK;
    for (size_t i = 0; i < (size_t)r->n * r->n; i++)
        r->shift[i] = (r->shift[i] - r->h[i]) * q->o->follow;
    for (size_t i = 0; i < (size_t)q->calib.config->hidden * r->n; i++)
        r->wanted[i] *= q->o->catch_up;
    hs_gram_factor(q->pool, r->h, r->n, q->o->damping, r->t, r->d);
    return HLWQ_OK;
}

static hlwq_status fit(hs_quantize *q, const hs_fit_target *target, bool lags, hlwq_error *err)
{
    const hs_reads *r = &q->reads;
    const hs_part *part = hs_group_find(target->group, target->role);
    hs_fit_error e = {0};
    if (!is_fitted(target))
        return HLWQ_OK; /* stays as it was stored */
    hs_fit f = {.source = target->source,
                .column = q->o->awq ? r->column : NULL,
                .h = r->h,
                .t = r->t,
                .d = r->d,
                .shift = q->o->follow > 0 ? r->shift : NULL,
                .wanted = lags && q->o->catch_up > 0 ? r->wanted : NULL,
                .sweeps = q->o->sweeps,
                .dtype = part->dtype,
                .book = hs_dtype_rotated(part->dtype) ? hs_store_book(q->result, part->book) : NULL,
                .part = target->extent + part->offset};
    hlwq_status st = q->o->awq == HLWQ_AWQ_ROUND ? hs_quantize_round(q, target, err)
                                                 : hs_fit_matrix(&f, q->pool, q->scratch, &e, err);
    if (st != HLWQ_OK) {
        char name[128];
        hs_part_name(name, sizeof name, target->group, 0, target->role);
        return hs_fail_in(err, st, "%s", name);
    }
    q->error[target->role] += e.left;
    q->whole[target->role] += e.whole;
    return HLWQ_OK;
}

/* ---- the mixer ------------------------------------------------------------------------------ */

/* Normed rows of the residual streams of tokens first..; both ways. */
static void normed(hs_quantize *q, const float *norm, const uint32_t *token, uint32_t first, uint32_t count, hs_way way,
                   float *out)
{
    size_t hidden = q->calib.config->hidden;
    for (uint32_t i = 0; i < count; i++) {
        size_t t = token ? token[first + i] : first + i;
        hs_calibration_norm(q->calib.config, q->calib.x[way] + t * hidden, norm, out + i * hidden);
    }
}

static void read_normed(hs_quantize *q, const float *norm, const uint32_t *token, const float *weight, uint32_t count)
{
    uint32_t hidden = q->calib.config->hidden, step = HS_BATCH_MAX;
    float *source = q->u, *result = q->u + (size_t)step * hidden;
    for (uint32_t at = 0; at < count; at += step) {
        uint32_t n = count - at < step ? count - at : step;
        normed(q, norm, token, at, n, HS_WAY_SOURCE, source);
        normed(q, norm, token, at, n, HS_WAY_RESULT, result);
        add_reads(q, source, result, hidden, weight ? weight + at : NULL, n);
    }
}

/* What goes into the output projection, on either way; the source's goes on through the mixer. */
static hlwq_status read_mixed(hs_quantize *q, const hs_matrix *source, const hs_matrix *now, hlwq_error *err)
{
    hs_calibration *c = &q->calib;
    hs_layer_work *w = &q->work;
    size_t hidden = c->config->hidden, floats = (size_t)c->window * hidden;
    float *lag = q->u;
    for (uint32_t i = 0; i < c->windows; i++) {
        float *x = c->x[HS_WAY_SOURCE] + i * floats, *y = c->x[HS_WAY_RESULT] + i * floats;
        for (size_t k = 0; k < floats; k++)
            lag[k] = x[k] - y[k];
        hs_calibration_watch(c, source, q->hidden_rows[HS_WAY_SOURCE]);
        HS_TRY(hs_calibration_mixer(c, &w->source, x, err));
        memcpy(c->trial, y, floats * sizeof(float));
        hs_calibration_watch(c, now, q->hidden_rows[HS_WAY_RESULT]);
        HS_TRY(hs_calibration_mixer(c, &w->now, c->trial, err));
        assert(c->seen_rows == c->window);
        add_reads(q, q->hidden_rows[HS_WAY_SOURCE], q->hidden_rows[HS_WAY_RESULT], source->cols, NULL, c->window);
        add_lag(q, lag, c->window);
    }
    hs_calibration_watch(c, NULL, NULL);
    return HLWQ_OK;
}

/* The matrices that read what was gathered; `lags` where they add to the residual stream. */
static hlwq_status fit_together(hs_quantize *q, const hs_fit_target *target, uint32_t n, bool lags, hlwq_error *err)
{
    HS_TRY(end_reads(q, target, n, err));
    for (uint32_t i = 0; i < n; i++)
        HS_TRY(fit(q, &target[i], lags, err));
    return HLWQ_OK;
}

static hlwq_status fit_inputs(hs_quantize *q, hlwq_error *err)
{
    hs_layer_work *w = &q->work;
    const hs_layer *s = &w->source;
    const hs_fit_target full[] = {{&s->attention.q, w->to_group, HS_Q, w->to},
                                  {&s->attention.k, w->to_group, HS_K, w->to},
                                  {&s->attention.v, w->to_group, HS_V, w->to}};
    const hs_fit_target delta[] = {{&s->delta.qkv, w->to_group, HS_QKV, w->to},
                                   {&s->delta.z, w->to_group, HS_Z, w->to}};
    return s->full ? fit_together(q, full, 3, false, err) : fit_together(q, delta, 2, false, err);
}

static hlwq_status fit_mixer(hs_quantize *q, hlwq_error *err)
{
    hs_calibration *c = &q->calib;
    hs_layer_work *w = &q->work;
    const hs_layer *s = &w->source;
    begin_reads(q, c->config->hidden);
    read_normed(q, s->full ? s->attention.norm : s->delta.norm, NULL, NULL, c->tokens);
    HS_TRY(fit_inputs(q, err));
    w->now = w->result;
    w->now.attention.o = s->attention.o;
    w->now.delta.out = s->delta.out;
    const hs_matrix *out = s->full ? &s->attention.o : &s->delta.out;
    begin_reads(q, out->cols);
    HS_TRY(read_mixed(q, out, s->full ? &w->now.attention.o : &w->now.delta.out, err));
    const hs_fit_target back = {out, w->to_group, s->full ? HS_O : HS_OUT, w->to};
    HS_TRY(fit_together(q, &back, 1, true, err));
    for (uint32_t i = 0; i < c->windows; i++)
        HS_TRY(
            hs_calibration_mixer(c, &w->result, c->x[HS_WAY_RESULT] + (size_t)i * c->window * c->config->hidden, err));
    return HLWQ_OK;
}

/* ---- feed-forwards -------------------------------------------------------------------------- */

/* One feed-forward: where its parts are, and who reads it. */
typedef struct module {
    const hs_ffn *source, *result;
    const hs_group *group;
    uint8_t *extent;
    hs_role gate, up, down;
    const uint32_t *token; /* NULL = all */
    const float *weight;   /* [count], NULL = 1 */
    uint32_t count;
    const float *norm;
    bool blend;
} module;

/* As if `some` tokens more had been seen, like those of the whole layer. */
static void blend(hs_quantize *q, double some)
{
    hs_reads *r = &q->reads;
    float part = (float)(some / q->calib.tokens);
    for (size_t i = 0; i < (size_t)r->n * r->n; i++) {
        r->h[i] += part * q->shared_inputs[i];
        r->shift[i] += part * q->shared_inputs[i];
    }
}

static hlwq_status fit_module(hs_quantize *q, const module *m, hlwq_error *err)
{
    hs_calibration *c = &q->calib;
    uint32_t hidden = c->config->hidden, width = m->source->gate.rows, step = HS_BATCH_MAX;
    begin_reads(q, hidden);
    read_normed(q, m->norm, m->token, m->weight, m->count);
    hs_gram_mirror(q->reads.h, q->reads.n);
    if (m->blend)
        blend(q, q->o->blend_tokens);
    const hs_fit_target in[] = {{&m->source->gate, m->group, m->gate, m->extent},
                                {&m->source->up, m->group, m->up, m->extent}};
    HS_TRY(fit_together(q, in, 2, false, err));

    hs_ffn now = *m->result;
    now.down = m->source->down;
    begin_reads(q, width);
    float *lag = q->u + (size_t)step * hidden;
    for (uint32_t at = 0; at < m->count; at += step) {
        uint32_t n = m->count - at < step ? m->count - at : step;
        normed(q, m->norm, m->token, at, n, HS_WAY_SOURCE, q->u);
        hs_calibration_hidden(c, m->source, q->u, n, q->hidden_rows[HS_WAY_SOURCE]);
        normed(q, m->norm, m->token, at, n, HS_WAY_RESULT, q->u);
        hs_calibration_hidden(c, &now, q->u, n, q->hidden_rows[HS_WAY_RESULT]);
        for (uint32_t i = 0; i < n; i++) {
            size_t t = m->token ? m->token[at + i] : at + i;
            float p = m->weight ? m->weight[at + i] : 1.0f;
            for (uint32_t k = 0; k < hidden; k++)
                lag[(size_t)i * hidden + k] =
                    p * (c->x[HS_WAY_SOURCE][t * hidden + k] - c->x[HS_WAY_RESULT][t * hidden + k]);
        }
        add_reads(q, q->hidden_rows[HS_WAY_SOURCE], q->hidden_rows[HS_WAY_RESULT], width,
                  m->weight ? m->weight + at : NULL, n);
        add_lag(q, lag, n);
    }
    const hs_fit_target back = {&m->source->down, m->group, m->down, m->extent};
    return fit_together(q, &back, 1, true, err);
}

static float dot(const float *a, const float *b, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return (float)sum;
}

/* How much the shared expert of each token counts. */
static void weigh_shared(hs_quantize *q)
{
    const hs_mixture *m = &q->work.source.mixture;
    uint32_t hidden = q->calib.config->hidden;
    float *mix = q->u + hidden;
    hs_to_f32(mix, m->shared_mix.low, m->shared_mix.dtype, hidden);
    for (uint32_t t = 0; t < q->calib.tokens; t++) {
        hs_calibration_norm(q->calib.config, q->calib.x[HS_WAY_RESULT] + (size_t)t * hidden, m->norm, q->u);
        q->token_weight[t] = hs_sigmoid(dot(mix, q->u, hidden));
    }
}

/* All tokens' inputs, unweighted, for experts that see few. */
static void read_shared_inputs(hs_quantize *q)
{
    begin_reads(q, q->calib.config->hidden);
    read_normed(q, q->work.source.ffn_norm, NULL, NULL, q->calib.tokens);
    hs_gram_mirror(q->reads.h, q->reads.n);
    memcpy(q->shared_inputs, q->reads.h, (size_t)q->reads.n * q->reads.n * sizeof(float));
}

static hlwq_status fit_experts(hs_quantize *q, hlwq_error *err)
{
    hs_layer_work *w = &q->work;
    hs_calibration *c = &q->calib;
    uint32_t used = c->config->experts_used, picks = c->tokens * used;
    uint64_t start = hs_now_ns();
    HS_TRY(hs_calibration_route(c, &w->result, err));
    hs_sort_picks(c->pick, picks, used, c->config->experts, q->start, q->token, q->slot);
    for (uint32_t i = 0; i < picks; i++)
        q->token_weight[q->slot[i]] = c->weight[i];
    for (uint32_t e = 0; e < c->config->experts; e++) {
        uint32_t first = q->start[e], count = q->start[e + 1] - first;
        q->unseen += count == 0;
        q->starved += count > 0 && count < c->config->hidden;
        module m = {.source = &w->source_expert[e],
                    .result = &w->result_expert[e],
                    .group = w->to_experts_group,
                    .extent = w->to_experts + e * w->to_experts_group->bytes,
                    .gate = HS_GATE,
                    .up = HS_UP,
                    .down = HS_DOWN,
                    .token = q->token + first,
                    .weight = q->token_weight + first,
                    .count = count,
                    .norm = w->source.ffn_norm,
                    .blend = true};
        HS_TRY(fit_module(q, &m, err));
        if ((e + 1) % EXPERTS_SAID == 0) /* a layer of a large model takes many minutes */
            hs_log_line(&q->log, HLWQ_LOG_DEBUG, "%u of %u experts: %.1f s", e + 1, c->config->experts,
                        (double)(hs_now_ns() - start) * 1e-9);
    }
    return HLWQ_OK;
}

static hlwq_status fit_feed_forward(hs_quantize *q, hlwq_error *err)
{
    hs_layer_work *w = &q->work;
    const hs_layer *s = &w->source;
    module m = {.group = w->to_group, .extent = w->to, .count = q->calib.tokens, .norm = s->ffn_norm};
    if (!s->moe) {
        m.source = &s->dense;
        m.result = &w->result.dense;
        m.gate = HS_GATE;
        m.up = HS_UP;
        m.down = HS_DOWN;
        HS_TRY(fit_module(q, &m, err));
    } else {
        read_shared_inputs(q);
        HS_TRY(fit_experts(q, err));
        if (s->mixture.shared.gate.rows) {
            weigh_shared(q);
            m.source = &s->mixture.shared;
            m.result = &w->result.mixture.shared;
            m.gate = HS_SHARED_GATE;
            m.up = HS_SHARED_UP;
            m.down = HS_SHARED_DOWN;
            m.weight = q->token_weight;
            HS_TRY(fit_module(q, &m, err));
        }
    }
    hs_calibration *c = &q->calib;
    for (uint32_t i = 0; i < c->windows; i++) {
        size_t at = (size_t)i * c->window * c->config->hidden;
        HS_TRY(hs_calibration_feed_forward(c, s, w->source_expert, c->x[HS_WAY_SOURCE] + at, err));
        HS_TRY(hs_calibration_feed_forward(c, &w->result, w->result_expert, c->x[HS_WAY_RESULT] + at, err));
    }
    return HLWQ_OK;
}

hlwq_status hs_quantize_layer(hs_quantize *q, hlwq_error *err)
{
    memset(q->error, 0, sizeof q->error);
    memset(q->whole, 0, sizeof q->whole);
    memset(q->alpha, 0, sizeof q->alpha);
    memset(q->alphas, 0, sizeof q->alphas);
    q->starved = q->unseen = 0;
    HS_TRY(fit_mixer(q, err));
    return fit_feed_forward(q, err);
}
