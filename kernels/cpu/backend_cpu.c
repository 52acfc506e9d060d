/*
 * kernels/cpu/backend_cpu.c - the stages of a network on the CPU.
 *
 * Each stage reads as its formula: norm, products, the part that is its own, products, add.  Inner loops are in
 * hs_cpu_ops; this file only splits work over the pool, always so that one output is computed by one thread.
 */
#include "kernels/cpu/work.h"
#include "kernels/kv_codec.h"
#include "kernels/numeric.h"

#include <assert.h>
#include <stdlib.h>

/* ---- parts shared by stages ----------------------------------------------------------------- */

typedef struct norm_job {
    hs_cpu *c;
    const float *x, *w;
    float eps, *out;
} norm_job;

static void norm_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    norm_job *j = user;
    size_t hidden = j->c->lim.hidden;
    (void)worker;
    for (uint32_t t = first; t < last; t++)
        j->c->ops->rms_norm(j->x + t * hidden, j->w, (uint32_t)hidden, j->eps, j->out + t * hidden);
}

void hs_cpu_norm_rows(hs_cpu *c, const float *x, const float *w, float eps, uint32_t n, float *out)
{
    norm_job j = {c, x, w, eps, out};
    hs_pool_run(c->pool, n, 4, norm_some, &j);
}

/* u = norm(x), as the input of several matrices. */
static hs_input normed(hs_cpu *c, const float *x, const float *w, float eps, uint32_t n)
{
    hs_cpu_norm_rows(c, x, w, eps, n, c->u);
    return (hs_input){.x = c->u, .cols = c->lim.hidden, .n = n, .form = {&c->uq[0], &c->uq[1], &c->uq[2]}};
}

hs_input hs_cpu_input_of_one(const hs_cpu *c, const float *x, uint32_t cols, uint32_t n)
{
    return (hs_input){.x = x, .cols = cols, .n = n, .form = {&c->outq, &c->outq, &c->outq}};
}

typedef struct add_job {
    float *x;
    const float *y;
    uint32_t width;
} add_job;

static void add_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    add_job *j = user;
    (void)worker;
    for (size_t i = (size_t)first * j->width; i < (size_t)last * j->width; i++)
        j->x[i] += j->y[i];
}

void hs_cpu_add_product(hs_cpu *c, const hs_matrix *w, const float *a, uint32_t n, float *x)
{
    hs_input in = hs_cpu_input_of_one(c, a, w->cols, n);
    c->task[0] = (hs_task){w, &in, NULL, n, c->y, c->lim.hidden};
    hs_cpu_run(c, 1);
    add_job j = {x, c->y, c->lim.hidden};
    hs_pool_run(c->pool, n, 8, add_some, &j);
}

void hs_cpu_row(const hs_matrix *m, uint32_t r, float *out)
{
    if (hs_dtype_packed(m->dtype))
        hs_decode_row(m->dtype, m->book, m->low, m->rows, m->cols, r, out);
    else
        hs_to_f32(out, m->low + (size_t)r * m->cols * hs_dtype_bytes(m->dtype), m->dtype, m->cols);
}

static hlwq_status cpu_embed(hs_backend *be, const hs_matrix *table, const int32_t *ids, uint32_t n, float *x,
                             hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    (void)err;
    for (uint32_t t = 0; t < n; t++) {
        assert(ids[t] >= 0 && (uint32_t)ids[t] < table->rows);
        hs_cpu_row(table, (uint32_t)ids[t], x + (size_t)t * c->lim.hidden);
    }
    return HLWQ_OK;
}

/* ---- gated attention ------------------------------------------------------------------------ */

/* cos and sin of position * inv_freq: the product in fp32 as the model was trained, then the functions in double. */
static void rope_table(hs_cpu *c, const hs_attention *w, uint32_t first, uint32_t n)
{
    uint32_t half = w->rotary_dims / 2;
    if (c->rope_table == w->inv_freq && c->rope_first == first && c->rope_n == n)
        return;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t j = 0; j < half; j++) {
            double angle = (double)((float)(first + t) * w->inv_freq[j]);
            c->rope[(size_t)t * w->rotary_dims + j] = (float)cos(angle);
            c->rope[(size_t)t * w->rotary_dims + half + j] = (float)sin(angle);
        }
    c->rope_table = w->inv_freq;
    c->rope_first = first;
    c->rope_n = n;
}

typedef struct attn_job {
    hs_cpu *c;
    const hs_attention *w;
    const hs_kv_view *kv;
    uint32_t first, n, width; /* width: of a row of proj */
} attn_job;

static void store_kv(const hs_cpu *c, const hs_kv_view *kv, uint32_t kv_dim, uint32_t pos, uint32_t at, uint32_t n,
                     const float *k, const float *v)
{
    uint8_t *page = kv->page[pos / HS_GRID];
    size_t row = (size_t)(pos % HS_GRID) * kv_dim + at, values = (size_t)HS_GRID * kv_dim;
    if (kv->dtype == HS_F32) {
        memcpy(page + row * 4, k, n * sizeof(float));
        memcpy(page + (values + row) * 4, v, n * sizeof(float));
        return;
    }
    uint16_t *h = (uint16_t *)(void *)page;
    c->ops->to_half(h + row, k, n);
    c->ops->to_half(h + values + row, v, n);
}

/* Per token: norm and rotate the queries and keys, append to the cache. */
static void prepare_tokens(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    attn_job *j = user;
    const hs_attention *w = j->w;
    uint32_t d = w->head_dim;
    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        float *row = j->c->proj + (size_t)t * j->width;
        float *k = row + w->q.rows, *v = k + w->k.rows;
        const float *table = j->c->rope + (size_t)t * w->rotary_dims;
        for (uint32_t h = 0; h < w->q_heads; h++) { /* query rows come first in each head, its gate after */
            float *q = row + (size_t)h * 2 * d;
            j->c->ops->rms_norm(q, w->q_norm, d, w->eps, q);
            j->c->ops->rotate(q, table, w->rotary_dims);
        }
        for (uint32_t h = 0; h < w->kv_heads; h++) {
            float *kh = k + (size_t)h * d;
            j->c->ops->rms_norm(kh, w->k_norm, d, w->eps, kh);
            j->c->ops->rotate(kh, table, w->rotary_dims);
            store_kv(j->c, j->kv, w->kv_heads * d, j->first + t, h * d, d, kh, v + (size_t)h * d);
        }
    }
}

/* Items are positions of the pages that this batch codes. */
static void code_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    attn_job *j = user;
    (void)worker;
    for (uint32_t i = first; i < last; i++) {
        uint32_t page = hs_kv_coded_count(j->first ? j->first - 1 : 0) + i / HS_GRID;
        hs_kv_encode_position(j->kv->page[page], j->kv->coded[page], &j->kv->layout, j->w->kv_heads, j->w->head_dim,
                              i % HS_GRID);
    }
}

/* Items are (kv head, tokens between two multiples of HS_ATTEND_TOKENS): none crosses the grid. */
static void attend_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    attn_job *j = user;
    const hs_attention *w = j->w;
    uint32_t d = w->head_dim, group = w->q_heads / w->kv_heads;
    float scale = 1.0f / sqrtf((float)d);
    for (uint32_t i = first; i < last; i++) {
        uint32_t head = i % w->kv_heads, row = j->first / HS_ATTEND_TOKENS + i / w->kv_heads;
        uint32_t from = row * HS_ATTEND_TOKENS > j->first ? row * HS_ATTEND_TOKENS : j->first, t = from - j->first;
        uint32_t edge = (row + 1) * HS_ATTEND_TOKENS - from, n = edge < j->n - t ? edge : j->n - t;
        size_t out_width = (size_t)w->q_heads * d;
        const float *q = j->c->proj + (size_t)t * j->width + (size_t)head * group * 2 * d;
        float *out = j->c->out + t * out_width + (size_t)head * group * d;
        j->c->ops->attend(j->kv, w->kv_heads, head, d, group, j->first + t, n, q, j->width, 2 * (size_t)d, out,
                          out_width, scale, hs_cpu_scratch(j->c, worker));
        for (uint32_t k = 0; k < n; k++)
            for (uint32_t h = 0; h < group; h++)
                j->c->ops->gate(out + k * out_width + (size_t)h * d, q + (size_t)k * j->width + (size_t)h * 2 * d + d,
                                d);
    }
}

static hlwq_status cpu_attention(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, uint32_t first,
                                 uint32_t n, float *x, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    (void)err;
    assert(n <= c->lim.batch);
    hs_input u = normed(c, x, w->norm, w->eps, n);
    attn_job j = {c, w, kv, first, n, w->q.rows + w->k.rows + w->v.rows};
    c->task[0] = (hs_task){&w->q, &u, NULL, n, c->proj, j.width};
    c->task[1] = (hs_task){&w->k, &u, NULL, n, c->proj + w->q.rows, j.width};
    c->task[2] = (hs_task){&w->v, &u, NULL, n, c->proj + w->q.rows + w->k.rows, j.width};
    hs_cpu_run(c, 3);
    rope_table(c, w, first, n);
    hs_pool_run(c->pool, n, 1, prepare_tokens, &j);
    uint32_t coded = hs_kv_coded_count(first ? first - 1 : 0), codes = hs_kv_coded_count(first + n - 1) - coded;
    if (kv->coded && codes)
        hs_pool_run(c->pool, codes * HS_GRID, 4, code_some, &j);
    uint32_t rows = (first + n - 1) / HS_ATTEND_TOKENS - first / HS_ATTEND_TOKENS + 1;
    hs_pool_run(c->pool, w->kv_heads * rows, 1, attend_some, &j);
    hs_cpu_add_product(c, &w->o, c->out, n, x);
    return HLWQ_OK;
}

/* ---- Gated DeltaNet ------------------------------------------------------------------------- */

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
            float softplus = s > 20.0f ? s : log1pf(hs_exp(s));
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
    hs_input u = normed(c, x, w->norm, w->eps, n);
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

static hlwq_status cpu_deltanet(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t first,
                                uint32_t n, float *x, hlwq_error *err)
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

/* ---- rows of several texts ------------------------------------------------------------------ */

/*
 * Products read their weights once for all rows.  What lies between them belongs to a text: there each row is a batch
 * of one, with buffers that begin at its row, so it goes through the functions above and nothing of its neighbours can
 * show in it.
 */
typedef struct rows_job {
    hs_cpu c[HS_ROWS_MAX];
    attn_job attn[HS_ROWS_MAX];
    hs_delta_job delta[HS_ROWS_MAX];
    uint32_t heads;
} rows_job;

static void prepare_rows(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    rows_job *j = user;
    for (uint32_t r = first; r < last; r++)
        prepare_tokens(&j->attn[r], 0, 1, worker);
}

/* Items are (text, kv head). */
static void attend_rows(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    rows_job *j = user;
    for (uint32_t i = first; i < last; i++)
        attend_some(&j->attn[i / j->heads], i % j->heads, i % j->heads + 1, worker);
}

static hlwq_status cpu_attention_rows(hs_backend *be, const hs_attention *w, const hs_kv_view *kv,
                                      const uint32_t *position, uint32_t n, float *x, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    rows_job j = {.heads = w->kv_heads};
    uint32_t width = w->q.rows + w->k.rows + w->v.rows;
    (void)err;
    assert(n <= HS_ROWS_MAX && n <= c->lim.batch);
    hs_input u = normed(c, x, w->norm, w->eps, n);
    c->task[0] = (hs_task){&w->q, &u, NULL, n, c->proj, width};
    c->task[1] = (hs_task){&w->k, &u, NULL, n, c->proj + w->q.rows, width};
    c->task[2] = (hs_task){&w->v, &u, NULL, n, c->proj + w->q.rows + w->k.rows, width};
    hs_cpu_run(c, 3);
    for (uint32_t t = 0; t < n; t++) {
        j.c[t] = *c;
        j.c[t].proj += (size_t)t * width;
        j.c[t].out += (size_t)t * w->q_heads * w->head_dim;
        j.c[t].rope += (size_t)t * w->rotary_dims;
        j.c[t].rope_n = 0;
        rope_table(&j.c[t], w, position[t], 1);
        j.attn[t] = (attn_job){&j.c[t], w, &kv[t], position[t], 1, width};
    }
    c->rope_n = 0; /* its table has been written over */
    hs_pool_run(c->pool, n, 1, prepare_rows, &j);
    for (uint32_t t = 0; t < n; t++) {
        uint32_t coded = hs_kv_coded_count(position[t] ? position[t] - 1 : 0);
        uint32_t codes = hs_kv_coded_count(position[t]) - coded;
        if (kv[t].coded && codes)
            hs_pool_run(c->pool, codes * HS_GRID, 4, code_some, &j.attn[t]);
    }
    hs_pool_run(c->pool, n * w->kv_heads, 1, attend_rows, &j);
    hs_cpu_add_product(c, &w->o, c->out, n, x);
    return HLWQ_OK;
}

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

static hlwq_status cpu_deltanet_rows(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t n,
                                     float *x, hlwq_error *err)
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

/* ---- feed-forward --------------------------------------------------------------------------- */

static hlwq_status cpu_dense(hs_backend *be, const float *norm, float eps, const hs_ffn *w, uint32_t n, float *x,
                             hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    (void)err;
    hs_input u = normed(c, x, norm, eps, n);
    hs_ffn_job job = {.w = w, .m = n};
    hs_cpu_ffn(c, &u, &job, 1, c->y);
    add_job j = {x, c->y, c->lim.hidden};
    hs_pool_run(c->pool, n, 8, add_some, &j);
    return HLWQ_OK;
}

static void choose(const hs_cpu *c, const hs_mixture *w, uint32_t n, hs_routing *routing)
{
    for (uint32_t t = 0; t < n; t++)
        c->ops->top_k(c->logit + (size_t)t * w->experts, w->experts, w->used, routing->id + (size_t)t * w->used,
                      routing->weight + (size_t)t * w->used);
}

static hlwq_status cpu_route(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                             hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    (void)err;
    c->normed = normed(c, x, w->norm, w->eps, n);
    c->task[0] = (hs_task){&w->router, &c->normed, NULL, n, c->logit, w->experts};
    uint32_t tasks = 1;
    if (w->shared.gate.rows)
        c->task[tasks++] = (hs_task){&w->shared_mix, &c->normed, NULL, n, c->shared, 1};
    hs_cpu_run(c, tasks);
    choose(c, w, n, routing);
    return HLWQ_OK;
}

static hlwq_status cpu_guess(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                             hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    (void)err;
    hs_cpu_norm_rows(c, x, w->norm, w->eps, n, c->y);
    hs_input a = hs_cpu_input_of_one(c, c->y, c->lim.hidden, n);
    c->task[0] = (hs_task){&w->router, &a, NULL, n, c->logit, w->experts};
    hs_cpu_run(c, 1);
    choose(c, w, n, routing);
    return HLWQ_OK;
}

typedef struct combine_job {
    hs_cpu *c;
    const hs_mixture *w;
    const hs_routing *routing;
    uint32_t n;
    float *x;
} combine_job;

static void combine(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    combine_job *j = user;
    hs_cpu *c = j->c;
    uint32_t used = j->w->used, hidden = c->lim.hidden;
    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        const float *y[HS_EXPERTS_PER_TOKEN_MAX + 1];
        float p[HS_EXPERTS_PER_TOKEN_MAX + 1];
        uint32_t n = used;
        for (uint32_t r = 0; r < used; r++) {
            y[r] = c->expert_y + (size_t)c->slot[t * used + r] * hidden;
            p[r] = j->routing->weight[t * used + r];
        }
        if (j->w->shared.gate.rows) {
            y[n] = c->expert_y + ((size_t)j->n * used + t) * hidden;
            p[n++] = hs_sigmoid(c->shared[t]);
        }
        c->ops->combine(j->x + (size_t)t * hidden, y, p, n, hidden);
    }
}

static hlwq_status cpu_experts(hs_backend *be, const hs_mixture *w, const hs_ffn *expert,
                               const hs_expert_source *source, uint32_t n, const hs_routing *routing, float *x,
                               hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    uint32_t picks = n * w->used, ready;
    bool shared = w->shared.gate.rows > 0;
    hs_sort_picks(routing->id, picks, w->used, w->experts, c->start, c->list, c->slot);
    do {
        const int32_t *id;
        uint32_t jobs = 0;
        hs_place place;
        HS_TRY(source->next(source->user, &id, &ready, &place, err));
        for (uint32_t i = 0; i < ready; i++) {
            uint32_t from = c->start[id[i]], m = c->start[id[i] + 1] - from;
            c->job[jobs++] = (hs_ffn_job){.w = &expert[id[i]], .token = c->list + from, .m = m, .slot = from};
        }
        if (shared) /* with the first of them, while others are being read */
            c->job[jobs++] = (hs_ffn_job){.w = &w->shared, .m = n, .slot = picks};
        shared = false;
        hs_cpu_ffn(c, &c->normed, c->job, jobs, c->expert_y);
    } while (ready);

    combine_job j = {c, w, routing, n, x};
    hs_pool_run(c->pool, n, 4, combine, &j);
    return HLWQ_OK;
}

static hlwq_status cpu_head(hs_backend *be, const float *norm, float eps, const hs_matrix *head, uint32_t n,
                            const float *x, float *hidden, float *logits, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    (void)err;
    hs_input u = normed(c, x, norm, eps, n);
    if (hidden)
        memcpy(hidden, c->u, (size_t)n * c->lim.hidden * sizeof *hidden);
    c->task[0] = (hs_task){head, &u, NULL, n, logits, head->rows};
    hs_cpu_run(c, 1);
    return HLWQ_OK;
}

void hs_backend_cpu_watch(hs_backend *be, const hs_watch *watch)
{
    hs_cpu_of(be)->watch = *watch;
}

void hs_backend_cpu_lane(hs_backend *be, const float *u, uint32_t n, const hs_ffn *expert, const int32_t *id,
                         uint32_t n_ids, const uint32_t *start, const uint32_t *list, float *y)
{
    hs_cpu *c = hs_cpu_of(be);
    hs_input a = {.x = u, .cols = c->lim.hidden, .n = n, .form = {&c->uq[0], &c->uq[1], &c->uq[2]}};
    for (uint32_t i = 0; i < n_ids; i++)
        c->job[i] = (hs_ffn_job){.w = &expert[id[i]],
                                 .token = list + start[id[i]],
                                 .m = start[id[i] + 1] - start[id[i]],
                                 .slot = start[id[i]]};
    hs_cpu_ffn(c, &a, c->job, n_ids, y);
}

/* ---- memory --------------------------------------------------------------------------------- */

static hlwq_status cpu_alloc(hs_backend *be, hs_mem_tag tag, uint64_t bytes, const char *what, void **out,
                             hlwq_error *err)
{
    return hs_mem_alloc(hs_cpu_of(be)->mem, tag, bytes, what, out, err);
}

static void cpu_free(hs_backend *be, void *p)
{
    hs_mem_free(hs_cpu_of(be)->mem, p);
}

static hlwq_status cpu_copy(hs_backend *be, void *to, const void *from, uint64_t bytes, hlwq_error *err)
{
    (void)be;
    (void)err;
    memcpy(to, from, bytes);
    return HLWQ_OK;
}

static hlwq_status cpu_clear(hs_backend *be, void *p, uint64_t bytes, hlwq_error *err)
{
    (void)be;
    (void)err;
    memset(p, 0, bytes);
    return HLWQ_OK;
}

/* ---- life ----------------------------------------------------------------------------------- */

static void cpu_close(hs_backend *be)
{
    hs_cpu *c = hs_cpu_of(be);
    hs_mem *mem = c->mem;
    hs_mem_free(mem, c->block);
    hs_mem_free(mem, c);
}

static const hs_backend_ops cpu_ops = {
    .name = "cpu",
    .kv_formats = 1u << HS_F16 | 1u << HS_F32 | 1u << HS_I8 | 1u << HS_Q4 | 1u << HS_Q3 | 1u << HS_Q2,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .put = cpu_copy,
    .get = cpu_copy,
    .clear = cpu_clear,
    .embed = cpu_embed,
    .attention = cpu_attention,
    .deltanet = cpu_deltanet,
    .attention_rows = cpu_attention_rows,
    .deltanet_rows = cpu_deltanet_rows,
    .dense = cpu_dense,
    .route = cpu_route,
    .guess = cpu_guess,
    .experts = cpu_experts,
    .head = cpu_head,
    .deltanet_window = hs_cpu_deltanet_window,
    .deltanet_keep = hs_cpu_deltanet_keep,
    .norm = hs_cpu_norm,
    .join = hs_cpu_join,
};

static uint64_t max3(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t m = a > b ? a : b;
    return m > c ? m : c;
}

/* Hands out pieces of the one block, or only counts them while it is NULL. */
typedef struct carve {
    uint8_t *base;
    uint64_t bytes;
} carve;

static void *take(carve *k, uint64_t n, uint64_t item)
{
    void *p = k->base ? k->base + k->bytes : NULL;
    k->bytes += (n * item + 63) & ~(uint64_t)63;
    return p;
}

static hs_q8_buffer take_q8(carve *k, uint64_t rows, uint64_t cols, uint32_t scales)
{
    uint64_t blocks = rows * ((cols + HS_BLOCK - 1) / HS_BLOCK);
    hs_q8_buffer b;
    b.q = take(k, blocks, HS_BLOCK);
    b.scale = take(k, blocks, scales * sizeof(float));
    b.sum = take(k, blocks, scales * sizeof(int32_t));
    return b;
}

/* The forms of q8 that a model's matrices need, as bits. */
static uint32_t forms_of(const hs_limits *m)
{
    uint32_t forms = 0;
    for (int d = 0; d < HS_DTYPE_COUNT; d++)
        if (hs_dtype_packed((hs_dtype)d) && m->dtypes >> d & 1)
            forms |= 1u << hs_q8_form_of((hs_dtype)d);
    return forms;
}

static uint32_t batch_of(const hs_limits *m)
{
    return m->batch && m->batch < HS_BATCH_MAX ? m->batch : HS_BATCH_MAX;
}

static void lay_out(hs_cpu *c, uint32_t threads, carve *k)
{
    const hs_limits *m = &c->lim;
    uint64_t b = m->batch, f = sizeof(float), picks = b * m->used;
    uint64_t attention = (uint64_t)m->q_width / 2, heads = m->v_heads;
    uint64_t wide = max3(m->hidden, m->ffn_width, max3(m->v_width, attention, 0));
    uint32_t forms = forms_of(m);
    c->scales = forms >> HS_Q8_FLAT64 & 1 ? 2 : 1;
    c->u = take(k, b * m->hidden, f);
    for (int form = 0; form < HS_Q8_FORMS; form++)
        c->uq[form] = take_q8(k, forms >> form & 1 ? b : 0, m->hidden, c->scales);
    uint64_t joint = m->joins ? 2 * (uint64_t)m->hidden : 0;
    c->proj = take(k, b * max3(m->q_width + 2 * (uint64_t)m->kv_width, m->channels + m->v_width + 2 * heads, joint), f);
    c->mix = take(k, b * m->channels, f);
    c->out = take(k, b * max3(m->v_width, attention, 0), f);
    c->outq = take_q8(k, b, max3(m->v_width, attention, m->joins ? joint : m->hidden), c->scales);
    c->y = take(k, b * m->hidden, f);
    c->gate = take(k, b * m->ffn_rows * m->ffn_width, f);
    c->up = take(k, b * m->ffn_rows * m->ffn_width, f);
    c->hq = take_q8(k, b * m->ffn_rows, m->ffn_width, c->scales);
    c->expert_y = take(k, m->experts ? b * m->ffn_rows * m->hidden : 0, f);
    c->logit = take(k, b * m->experts, f);
    c->shared = take(k, b, f);
    c->list = take(k, picks, sizeof(uint32_t));
    c->slot = take(k, picks, sizeof(uint32_t));
    c->start = take(k, m->experts + 2, sizeof(uint32_t));
    c->job = take(k, m->experts + 1, sizeof(hs_ffn_job));
    c->task = take(k, 2 * ((uint64_t)m->experts + 1) + 4, sizeof(hs_task));
    c->own = take(k, 2 * ((uint64_t)m->experts + 1) + 4, sizeof(hs_own_rows));
    c->task_band = take(k, 2 * ((uint64_t)m->experts + 1) + 5, sizeof(uint32_t));
    c->rope = take(k, b * m->head_dim, f);
    uint64_t room = m->ordered ? max3((4 > 2 * m->ffn_rows ? 4 : 2 * m->ffn_rows) * (uint64_t)HS_BLOCK *
                                          ((m->hidden + HS_BLOCK - 1) / HS_BLOCK),
                                      m->v_width > joint ? m->v_width : joint, attention)
                               : 0; /* several read the normed input, one what a mixer gives */
    c->room = take_q8(k, b, room, c->scales);
    c->room_blocks = b * ((room + HS_BLOCK - 1) / HS_BLOCK);
    if (m->ordered) /* rows of weights before and after sorting */
        wide *= 2;
    c->worker_floats = max3(hs_attend_floats(m->head_dim, m->group), hs_delta_chunk_floats(m->k_dim, m->v_dim), wide);
    c->worker_floats = max3(c->worker_floats, hs_cpu_window_floats(m->k_dim, m->v_dim), m->ordered ? 2 * joint : joint);
    c->worker_floats = (c->worker_floats + 15) & ~(size_t)15;
    c->worker = take(k, threads * c->worker_floats, f);
}

uint64_t hs_backend_cpu_bytes(const hs_limits *limits, uint32_t threads)
{
    hs_cpu c = {.lim = *limits};
    c.lim.batch = batch_of(limits);
    carve k = {NULL, 0};
    lay_out(&c, threads, &k);
    return k.bytes;
}

hlwq_status hs_backend_cpu_open(hs_backend **be, hs_mem *mem, hs_pool *pool, const hs_limits *limits,
                                const hs_cpu_options *options, hlwq_error *err)
{
    hs_cpu_ops set;
    void *p;
    *be = NULL;
    HS_TRY(hs_cpu_choose(&set, NULL, err));
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, sizeof(hs_cpu), "backend", &p, err));
    hs_cpu *c = p;
    c->base.ops = &cpu_ops;
    c->mem = mem;
    c->pool = pool;
    c->set = set;
    c->ops = &c->set;
    c->lim = *limits;
    c->lim.batch = batch_of(limits);
    c->exact = options->exact;
    uint64_t bytes = hs_backend_cpu_bytes(limits, hs_pool_threads(pool));
    hlwq_status st = hs_mem_alloc(mem, HS_MEM_ACT, bytes, "activations", &c->block, err);
    if (st != HLWQ_OK) {
        hs_mem_free(mem, c);
        return st;
    }
    carve k = {c->block, 0};
    lay_out(c, hs_pool_threads(pool), &k);
    *be = &c->base;
    return HLWQ_OK;
}

const char *hs_backend_cpu_isa(void)
{
    hs_cpu_ops set;
    return hs_cpu_choose(&set, NULL, NULL) == HLWQ_OK ? set.name : "none";
}
