/*
 * kernels/cpu/deltanet.c - the Gated DeltaNet stage on the CPU: of one text's tokens, or of one token each of several.
 */
#include "kernels/cpu/work.h"
#include "kernels/numeric.h"

#include <assert.h>

static void convolve(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    hs_delta_job *j = user;
    (void)worker;
    j->c->ops->conv(j->qkv, j->w->conv, j->w->taps, j->channels, first, last, j->n, j->conv, j->c->mix);
}

/* Per token: unit keys and queries, beta, log-decay. */
static void delta_prepare(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    hs_delta_job *j = user;
    const hs_delta *w = j->w;
    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        float *row = j->c->mix + (size_t)t * j->channels, scale = 1.0f / sqrtf((float)w->k_dim);
        for (uint32_t h = 0; h < w->k_heads; h++) {
            float *q = row + (size_t)h * w->k_dim, *k = q + (size_t)w->k_heads * w->k_dim;
            j->c->ops->l2_norm(q, w->k_dim, 1e-6f, scale, q);
            j->c->ops->l2_norm(k, w->k_dim, 1e-6f, 1.0f, k);
        }
        for (uint32_t h = 0; h < w->v_heads; h++) {
            size_t at = (size_t)t * w->v_heads + h;
            float s = j->a[at] + w->dt_bias[h];
            float softplus = s > 20.0f ? s : hs_log1p(hs_exp(s));
            j->b[at] = hs_sigmoid(j->b[at]);
            j->a[at] = -hs_exp(w->a_log[h]) * softplus;
        }
    }
}

/* Items are value heads. */
static void delta_heads(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    hs_delta_job *j = user;
    const hs_delta *w = j->w;
    const hs_cpu_ops *ops = j->c->ops;
    uint32_t v_width = w->v_heads * w->v_dim;
    float *scratch = hs_cpu_scratch(j->c, worker);
    for (uint32_t h = first; h < last; h++) {
        float *s = j->s + (size_t)h * w->k_dim * w->v_dim;
        uint32_t n;
        for (uint32_t t = 0; t < j->n; t += n) { /* pieces end on the absolute grid */
            uint32_t to_edge = HS_GRID - (j->first + t) % HS_GRID;
            n = j->n - t < to_edge ? j->n - t : to_edge;
            const float *q, *k, *v;
            hs_cpu_delta_at(w, j->c->mix, j->channels, t, h, &q, &k, &v);
            const float *g = j->a + (size_t)t * w->v_heads + h, *beta = j->b + (size_t)t * w->v_heads + h;
            float *o = j->c->out + (size_t)t * v_width + (size_t)h * w->v_dim;
            if (n == 1)
                ops->delta_step(s, q, k, v, *g, *beta, w->k_dim, w->v_dim, o, scratch);
            else
                ops->delta_chunk(s, q, k, v, g, beta, j->channels, j->channels, w->v_heads, n, w->k_dim, w->v_dim, o,
                                 v_width, scratch);
        }
        for (uint32_t t = 0; t < j->n; t++) {
            float *o = j->c->out + (size_t)t * v_width + (size_t)h * w->v_dim;
            ops->gated_norm(o, w->out_norm, j->z + (size_t)t * v_width + (size_t)h * w->v_dim, w->v_dim, w->eps, o);
        }
    }
}

void hs_cpu_delta_products(hs_delta_job *j, const float *x)
{
    hs_cpu *c = j->c;
    const hs_delta *w = j->w;
    uint32_t n = j->n;
    assert(n <= c->lim.batch);
    hs_input u = hs_cpu_normed(c, x, w->norm, w->eps, n);
    size_t b = c->lim.batch;
    float *z = c->proj + b * w->qkv.rows;
    j->channels = w->qkv.rows;
    j->qkv = c->proj;
    j->z = z;
    j->b = z + b * w->z.rows;
    j->a = j->b + b * w->v_heads;
    c->task[0] = (hs_task){&w->qkv, &u, NULL, n, c->proj, w->qkv.rows};
    c->task[1] = (hs_task){&w->z, &u, NULL, n, z, w->z.rows};
    c->task[2] = (hs_task){&w->b, &u, NULL, n, j->b, w->v_heads};
    c->task[3] = (hs_task){&w->a, &u, NULL, n, j->a, w->v_heads};
    hs_cpu_run(c, 4);
}

void hs_cpu_delta_mix(hs_delta_job *j)
{
    hs_pool_run(j->c->pool, j->channels, 64, convolve, j);
    hs_pool_run(j->c->pool, j->n, 4, delta_prepare, j);
}

hlwq_status hs_cpu_deltanet(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t first, uint32_t n,
                            float *x, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    hs_delta_job j = {.c = c, .w = w, .s = state->s, .conv = state->conv, .first = first, .n = n};
    (void)err;
    hs_cpu_delta_products(&j, x);
    hs_cpu_delta_mix(&j);
    hs_pool_run(c->pool, w->v_heads, 1, delta_heads, &j);
    hs_cpu_add_product(c, &w->out, c->out, n, x);
    return HLWQ_OK;
}

/* Rows of several texts, as in attention.c: what lies between the products goes through the functions above, row by
 * row. */
typedef struct rows_job {
    hs_cpu c[HS_ROWS_MAX];
    hs_delta_job delta[HS_ROWS_MAX];
    uint32_t heads;
} rows_job;

static void mix_rows(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    rows_job *j = user;
    for (uint32_t r = first; r < last; r++) {
        convolve(&j->delta[r], 0, j->delta[r].channels, worker);
        delta_prepare(&j->delta[r], 0, 1, worker);
    }
}

/* Items are (text, value head). */
static void delta_heads_rows(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    rows_job *j = user;
    for (uint32_t i = first; i < last; i++)
        delta_heads(&j->delta[i / j->heads], i % j->heads, i % j->heads + 1, worker);
}

hlwq_status hs_cpu_deltanet_rows(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t n, float *x,
                                 hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    rows_job j = {.heads = w->v_heads};
    (void)err;
    assert(n <= HS_ROWS_MAX);
    hs_delta_job all = {.c = c, .w = w, .n = n};
    hs_cpu_delta_products(&all, x);
    for (uint32_t t = 0; t < n; t++) {
        j.c[t] = *c;
        j.c[t].mix += (size_t)t * all.channels;
        j.c[t].out += (size_t)t * w->v_heads * w->v_dim;
        j.delta[t] = all;
        j.delta[t].c = &j.c[t];
        j.delta[t].s = state[t].s;
        j.delta[t].conv = state[t].conv;
        j.delta[t].n = 1;
        j.delta[t].qkv += (size_t)t * all.channels;
        j.delta[t].z += (size_t)t * w->z.rows;
        j.delta[t].b += (size_t)t * w->v_heads;
        j.delta[t].a += (size_t)t * w->v_heads;
    }
    hs_pool_run(c->pool, n, 1, mix_rows, &j);
    hs_pool_run(c->pool, n * w->v_heads, 1, delta_heads_rows, &j);
    hs_cpu_add_product(c, &w->out, c->out, n, x);
    return HLWQ_OK;
}
