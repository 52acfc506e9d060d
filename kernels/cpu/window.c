/*
 * kernels/cpu/window.c - what speculation asks of the CPU: DeltaNet steps that can be taken back, and the input of a
 * draft head.
 *
 * A window is computed from a copy of one head's state in a worker's scratch (64 KiB, which stays in its cache), so the
 * state itself is read once and a rejected token has touched nothing.  Tokens that are kept take their steps again, in
 * the state: the same operations on the same numbers, hence the same bits as had they come one at a time.
 */
#include "kernels/cpu/work.h"

#include <assert.h>

typedef struct window_job {
    hs_delta_job delta; /* inputs are where `mix`, beta and g say */
    const float *mix, *beta, *g;
    size_t g_stride;
    uint32_t kept;
} window_job;

static void step(const window_job *j, float *s, uint32_t t, uint32_t h, float *o, float *scratch)
{
    const hs_delta *w = j->delta.w;
    const float *q, *k, *v;
    size_t at = t * j->g_stride + h;
    hs_cpu_delta_at(w, j->mix, j->delta.channels, t, h, &q, &k, &v);
    j->delta.c->ops->delta_step(s, q, k, v, j->g[at], j->beta[at], w->k_dim, w->v_dim, o, scratch);
}

/* Items are value heads. */
static void try_heads(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    window_job *j = user;
    const hs_delta *w = j->delta.w;
    hs_cpu *c = j->delta.c;
    size_t v_width = (size_t)w->v_heads * w->v_dim, floats = (size_t)w->k_dim * w->v_dim;
    float *copy = hs_cpu_scratch(c, worker), *scratch = copy + floats;
    for (uint32_t h = first; h < last; h++) {
        float *s = j->delta.s + h * floats;
        for (uint32_t t = 0; t < j->delta.n; t++) {
            float *o = c->out + t * v_width + (size_t)h * w->v_dim;
            if (t == 1)
                memcpy(copy, s, floats * sizeof *s);
            step(j, t ? copy : s, t, h, o, scratch);
            c->ops->gated_norm(o, w->out_norm, j->delta.z + t * v_width + (size_t)h * w->v_dim, w->v_dim, w->eps, o);
        }
    }
}

static void keep_heads(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    window_job *j = user;
    const hs_delta *w = j->delta.w;
    float *o = hs_cpu_scratch(j->delta.c, worker), *scratch = o + w->v_dim;
    for (uint32_t h = first; h < last; h++)
        for (uint32_t t = 1; t < j->kept; t++)
            step(j, j->delta.s + (size_t)h * w->k_dim * w->v_dim, t, h, o, scratch);
}

hlwq_status hs_cpu_deltanet_window(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                   const hs_delta_window *window, uint32_t n, float *x, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    size_t channels = w->qkv.rows, before = (w->taps - 1) * channels;
    window_job j = {.delta = {.c = c, .w = w, .s = state->s, .conv = window->raw, .n = n}};
    (void)err;
    assert(n <= HS_WINDOW_MAX);
    hs_cpu_delta_products(&j.delta, x);
    memcpy(window->raw, state->conv, before * sizeof(float));
    memcpy(window->raw + before, j.delta.qkv, n * channels * sizeof(float));
    hs_cpu_delta_mix(&j.delta);
    memcpy(window->mix, c->mix, n * channels * sizeof(float));
    for (uint32_t t = 0; t < n; t++) {
        float *gates = window->gates + (size_t)t * 2 * w->v_heads;
        memcpy(gates, j.delta.b + (size_t)t * w->v_heads, w->v_heads * sizeof(float));
        memcpy(gates + w->v_heads, j.delta.a + (size_t)t * w->v_heads, w->v_heads * sizeof(float));
    }
    j.mix = window->mix;
    j.beta = window->gates;
    j.g = window->gates + w->v_heads;
    j.g_stride = 2 * (size_t)w->v_heads;
    hs_pool_run(c->pool, w->v_heads, 1, try_heads, &j);
    hs_cpu_add_product(c, &w->out, c->out, n, x);
    return HLWQ_OK;
}

hlwq_status hs_cpu_deltanet_keep(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                 const hs_delta_window *window, uint32_t kept, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    size_t channels = w->qkv.rows, rows = w->taps - 1;
    (void)err;
    assert(kept >= 1 && kept <= HS_WINDOW_MAX);
    for (size_t i = 0; i < rows; i++) { /* the last taps - 1 inputs; ascending, so that none is overwritten unread */
        const float *from = i + kept < rows ? state->conv + (i + kept) * channels : window->raw + (i + kept) * channels;
        memcpy(state->conv + i * channels, from, channels * sizeof(float));
    }
    window_job j = {.delta = {.c = c, .w = w, .s = state->s, .channels = w->qkv.rows},
                    .mix = window->mix,
                    .beta = window->gates,
                    .g = window->gates + w->v_heads,
                    .g_stride = 2 * (size_t)w->v_heads,
                    .kept = kept};
    if (kept > 1)
        hs_pool_run(c->pool, w->v_heads, 1, keep_heads, &j);
    return HLWQ_OK;
}

hlwq_status hs_cpu_norm(hs_backend *be, const float *norm, float eps, uint32_t n, const float *x, float *y,
                        hlwq_error *err)
{
    (void)err;
    hs_cpu_norm_rows(hs_cpu_of(be), x, norm, eps, n, y);
    return HLWQ_OK;
}

hlwq_status hs_cpu_join(hs_backend *be, const hs_joint *w, uint32_t n, const float *h, float *x, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    uint32_t hidden = c->lim.hidden;
    (void)err;
    assert(c->lim.joins && n <= c->lim.batch && w->fc.cols == 2 * hidden);
    for (uint32_t t = 0; t < n; t++) {
        float *row = c->proj + (size_t)t * 2 * hidden;
        c->ops->rms_norm(x + (size_t)t * hidden, w->embed_norm, hidden, w->eps, row);
        c->ops->rms_norm(h + (size_t)t * hidden, w->hidden_norm, hidden, w->eps, row + hidden);
    }
    hs_input in = hs_cpu_input_of_one(c, c->proj, 2 * hidden, n);
    c->task[0] = (hs_task){&w->fc, &in, NULL, n, x, hidden};
    hs_cpu_run(c, 1);
    return HLWQ_OK;
}
