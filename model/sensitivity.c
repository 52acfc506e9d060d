/*
 * model/sensitivity.c - the trial.
 */
#include "model/sensitivity.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

enum { LOGIT_ROWS = 64 };

hs_kind hs_kind_of(hs_role role)
{
    switch (role) {
    case HS_Q: return HS_KIND_Q;
    case HS_K:
    case HS_V: return HS_KIND_KV;
    case HS_O: return HS_KIND_O;
    case HS_QKV: return HS_KIND_QKV;
    case HS_Z: return HS_KIND_Z;
    case HS_OUT: return HS_KIND_OUT;
    case HS_GATE:
    case HS_UP: return HS_KIND_GATE_UP;
    case HS_DOWN: return HS_KIND_DOWN;
    case HS_SHARED_GATE:
    case HS_SHARED_UP:
    case HS_SHARED_DOWN: return HS_KIND_SHARED;
    default: return HS_KIND_COUNT;
    }
}

const char *hs_kind_name(hs_kind kind)
{
    static const char *const name[HS_KIND_COUNT] = {"q", "k v", "o", "qkv", "z", "out", "gate up", "down", "shared"};
    return name[kind];
}

double hs_width_error(uint32_t bits)
{
    static const double mse[] = {0.117482, 0.0345478, 0.00950090, 0.00250515, 0.000644};
    return mse[bits - 2] / mse[1];
}

/* Texts on their way: the checkpoint's, what it is after the layer in hand, and those that left it in some layer. */
typedef struct trial {
    hs_quantize *q;
    uint32_t windows;
    size_t floats;         /* of one */
    float *x, *next, *try; /* [windows][window][hidden] */
    float **left;          /* [layers] likewise */
    hs_ffn *expert;        /* [experts] of a mixed layer */
    double moved[HS_LAYERS_MAX];
    uint8_t *norm, *head; /* extents of the source */
    float *logits;        /* [2][LOGIT_ROWS][vocab] */
} trial;

static bool layer_has(const hs_layer *l, hs_kind kind)
{
    switch (kind) {
    case HS_KIND_Q:
    case HS_KIND_KV:
    case HS_KIND_O: return l->full;
    case HS_KIND_QKV:
    case HS_KIND_Z:
    case HS_KIND_OUT: return !l->full;
    case HS_KIND_SHARED: return l->moe && l->mixture.shared.gate.rows > 0;
    default: return true;
    }
}

/* The source's layer with the result's matrices of one kind. */
static hs_layer mixed(const trial *t, hs_kind kind)
{
    const hs_layer_work *w = &t->q->work;
    hs_layer l = w->source;
    const hs_layer *r = &w->result;
    uint32_t experts = t->q->from.config->experts;
    for (uint32_t e = 0; e < experts; e++) {
        t->expert[e] = w->source_expert[e];
        if (kind == HS_KIND_GATE_UP) {
            t->expert[e].gate = w->result_expert[e].gate;
            t->expert[e].up = w->result_expert[e].up;
        } else if (kind == HS_KIND_DOWN)
            t->expert[e].down = w->result_expert[e].down;
    }
    switch (kind) {
    case HS_KIND_Q: l.attention.q = r->attention.q; break;
    case HS_KIND_KV:
        l.attention.k = r->attention.k;
        l.attention.v = r->attention.v;
        break;
    case HS_KIND_O: l.attention.o = r->attention.o; break;
    case HS_KIND_QKV: l.delta.qkv = r->delta.qkv; break;
    case HS_KIND_Z: l.delta.z = r->delta.z; break;
    case HS_KIND_OUT: l.delta.out = r->delta.out; break;
    case HS_KIND_GATE_UP:
        l.dense.gate = r->dense.gate;
        l.dense.up = r->dense.up;
        break;
    case HS_KIND_DOWN: l.dense.down = r->dense.down; break;
    default: l.mixture.shared = r->mixture.shared;
    }
    return l;
}

/* All windows through one layer. */
static hlwq_status through(trial *t, const hs_layer *layer, const hs_ffn *expert, const float *from, float *to,
                           hlwq_error *err)
{
    hs_calibration *c = &t->q->calib;
    size_t floats = (size_t)c->window * c->config->hidden;
    if (to != from)
        memcpy(to, from, t->floats * sizeof *to);
    for (uint32_t w = 0; w < t->windows; w++) {
        HS_TRY(hs_calibration_mixer(c, layer, to + w * floats, err));
        HS_TRY(hs_calibration_feed_forward(c, layer, expert, to + w * floats, err));
    }
    return HLWQ_OK;
}

static double apart(const trial *t, const float *a, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < t->floats; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum;
}

static hlwq_status measure_layer(trial *t, uint32_t layer, double *moved, hlwq_error *err)
{
    const hs_layer_work *w = &t->q->work;
    HS_TRY(through(t, &w->source, w->source_expert, t->x, t->next, err));
    for (int k = 0; k < HS_KIND_COUNT; k++) {
        moved[k] = 0;
        if (!layer_has(&w->source, (hs_kind)k))
            continue;
        hs_layer l = mixed(t, (hs_kind)k);
        HS_TRY(through(t, &l, t->expert, t->x, t->try, err));
        moved[k] = apart(t, t->try, t->next);
    }
    for (uint32_t i = 0; i < layer; i++)
        HS_TRY(through(t, &w->source, w->source_expert, t->left[i], t->left[i], err));
    HS_TRY(through(t, &w->result, w->result_expert, t->x, t->left[layer], err));
    t->moved[layer] = apart(t, t->left[layer], t->next);
    float *swap = t->x;
    t->x = t->next;
    t->next = swap;
    return HLWQ_OK;
}

/* Sum over rows of KL(p || q). */
static double divergence(const float *p, const float *q, uint32_t rows, uint32_t vocab)
{
    double kl = 0;
    for (uint32_t r = 0; r < rows; r++, p += vocab, q += vocab) {
        double top_p = p[0], top_q = q[0], sum_p = 0, sum_q = 0, cross = 0;
        for (uint32_t v = 1; v < vocab; v++) {
            top_p = p[v] > top_p ? p[v] : top_p;
            top_q = q[v] > top_q ? q[v] : top_q;
        }
        for (uint32_t v = 0; v < vocab; v++) {
            double e = exp(p[v] - top_p);
            sum_p += e;
            sum_q += exp(q[v] - top_q);
            cross += e * ((double)p[v] - q[v]);
        }
        kl += cross / sum_p - (top_p + log(sum_p)) + (top_q + log(sum_q));
    }
    return kl;
}

/* kl [layers]: of the texts that left in each, a token. */
static hlwq_status compare(trial *t, double *kl, hlwq_error *err)
{
    hs_quantize *q = t->q;
    const hs_config *c = q->from.config;
    uint32_t g, rows = t->windows * q->calib.window;
    const hs_group *group = hs_quantize_group(q->from.table, HS_GROUP_GLOBAL, 0, &g);
    HS_TRY(hs_quantize_load(q, q->source, g, &t->norm, err));
    const float *norm = (const float *)(const void *)(t->norm + hs_group_find(group, HS_FINAL_NORM)->offset);
    group = hs_quantize_group(q->from.table, c->tied ? HS_GROUP_EMBED : HS_GROUP_HEAD, 0, &g);
    HS_TRY(hs_quantize_load(q, q->source, g, &t->head, err));
    const hs_part *p = hs_group_find(group, c->tied ? HS_EMBED : HS_HEAD);
    hs_matrix head = hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, t->head + p->offset, NULL);
    HS_TRY(hs_quantize_take(q, 2ull * LOGIT_ROWS * c->vocab, sizeof(float), "logits", &t->logits, err));
    float *logits = t->logits, *other = logits + (size_t)LOGIT_ROWS * c->vocab;
    for (uint32_t i = 0; i < c->layers; i++)
        kl[i] = 0;
    for (uint32_t at = 0; at < rows; at += LOGIT_ROWS) {
        uint32_t n = rows - at < LOGIT_ROWS ? rows - at : LOGIT_ROWS;
        size_t first = (size_t)at * c->hidden;
        HS_TRY(q->backend->ops->head(q->backend, norm, c->eps, &head, n, t->x + first, NULL, logits, err));
        for (uint32_t i = 0; i < c->layers; i++) {
            HS_TRY(q->backend->ops->head(q->backend, norm, c->eps, &head, n, t->left[i] + first, NULL, other, err));
            kl[i] += divergence(logits, other, n, c->vocab) / rows;
        }
    }
    return HLWQ_OK;
}

static hlwq_status open_trial(trial *t, uint32_t first_window, hlwq_error *err)
{
    hs_quantize *q = t->q;
    const hs_config *c = q->from.config;
    t->floats = (size_t)t->windows * q->calib.window * c->hidden;
    HS_TRY(hs_quantize_take(q, t->floats, sizeof(float), "a trial's activations", &t->x, err));
    HS_TRY(hs_quantize_take(q, t->floats, sizeof(float), "a trial's activations", &t->next, err));
    HS_TRY(hs_quantize_take(q, t->floats, sizeof(float), "a trial's activations", &t->try, err));
    HS_TRY(hs_quantize_take(q, c->experts, sizeof(hs_ffn), "experts", &t->expert, err));
    HS_TRY(hs_quantize_take(q, c->layers, sizeof(float *), "a trial", &t->left, err));
    for (uint32_t i = 0; i < c->layers; i++)
        HS_TRY(hs_quantize_take(q, t->floats, sizeof(float), "a trial's activations", &t->left[i], err));
    size_t from = (size_t)first_window * q->calib.window * c->hidden;
    memcpy(t->x, q->calib.x[HS_WAY_SOURCE] + from, t->floats * sizeof(float));
    return HLWQ_OK;
}

static void close_trial(trial *t)
{
    hs_quantize *q = t->q;
    for (uint32_t i = 0; t->left && i < q->from.config->layers; i++)
        hs_mem_free(q->mem, t->left[i]);
    void *const block[] = {t->x, t->next, t->try, t->expert, t->left, t->norm, t->head, t->logits};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        hs_mem_free(q->mem, block[i]);
}

static hlwq_status run_trial(trial *t, double *kl, hlwq_error *err)
{
    hs_quantize *q = t->q;
    uint32_t layers = q->from.config->layers;
    double moved[HS_KIND_COUNT], whole[HS_LAYERS_MAX];
    for (uint32_t i = 0; i < layers; i++) {
        uint64_t start = hs_now_ns();
        hlwq_status st = hs_quantize_load_layer(q, i, err);
        if (st == HLWQ_OK)
            st = hs_quantize_layer(q, err);
        if (st == HLWQ_OK)
            st = measure_layer(t, i, moved, err);
        hs_quantize_drop_layer(q);
        HS_TRY(st);
        memcpy(kl + i * HS_KIND_COUNT, moved, sizeof moved);
        hs_log_line(&q->log, HLWQ_LOG_INFO, "trial of layer %u: %.1f s", i, (double)(hs_now_ns() - start) * 1e-9);
    }
    HS_TRY(compare(t, whole, err));
    for (uint32_t i = 0; i < layers; i++)
        for (int k = 0; k < HS_KIND_COUNT; k++)
            kl[i * HS_KIND_COUNT + k] *= t->moved[i] > 0 ? whole[i] / t->moved[i] : 0;
    return HLWQ_OK;
}

hlwq_status hs_measure_sensitivity(hs_quantize *q, uint32_t windows_apart, double *kl, hlwq_error *err)
{
    trial t = {.q = q, .windows = windows_apart};
    hs_calibration *c = &q->calib;
    c->windows -= windows_apart;
    c->tokens = c->windows * c->window;
    hlwq_status st = open_trial(&t, c->windows, err);
    if (st == HLWQ_OK)
        st = run_trial(&t, kl, err);
    close_trial(&t);
    return st;
}
