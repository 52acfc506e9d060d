/*
 * kernels/cpu/attention.c - the gated attention stage on the CPU: of one text's tokens, or of one token each of
 * several.
 */
#include "kernels/cpu/work.h"
#include "kernels/kv_codec.h"

#include <assert.h>
#include <math.h>

/* cos and sin of position * inv_freq: the product in fp32 as the model was trained, then the functions in double. */
static void rope_table(hs_cpu *c, const hs_attention *w, uint32_t first, uint32_t n)
{
    uint32_t half = w->rotary_dims / 2;
    if (c->rope_table == w->inv_freq && c->rope_first == first && c->rope_n == n)
        return;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t j = 0; j < half; j++) {
            double angle = (double)((float)(first + t) * w->inv_freq[j]);
            c->rope[(size_t)t * w->rotary_dims + j] = (float)cos(angle) * w->rope_scale;
            c->rope[(size_t)t * w->rotary_dims + half + j] = (float)sin(angle) * w->rope_scale;
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
    uint32_t from, end;       /* pages that are attended to now; end 0 = all */
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
        hs_kv_view kv = *j->kv;
        kv.from = j->from;
        kv.end = j->end;
        kv.carry = j->c->carry + 2 * ((size_t)t * w->q_heads + (size_t)head * group * n);
        uint32_t pages = (j->first + t + n - 1) / HS_GRID + 1;
        if (j->from >= pages)
            continue; /* done before */
        j->c->ops->attend(&kv, w->kv_heads, head, d, group, j->first + t, n, q, j->width, 2 * (size_t)d, out, out_width,
                          scale, hs_cpu_scratch(j->c, worker));
        for (uint32_t k = 0; k < n && (!j->end || j->end >= pages); k++)
            for (uint32_t h = 0; h < group; h++)
                j->c->ops->gate(out + k * out_width + (size_t)h * d, q + (size_t)k * j->width + (size_t)h * 2 * d + d,
                                d);
    }
}

/* Pages that are not in memory first, as they come, then the others. */
static hlwq_status attend_all(attn_job *j, hlwq_error *err)
{
    uint32_t last = j->first + j->n - 1, rows = last / HS_ATTEND_TOKENS - j->first / HS_ATTEND_TOKENS + 1;
    for (j->from = 0; j->from <= last / HS_GRID; j->from = j->end) {
        j->end = last / HS_GRID + 1;
        if (j->from < j->kv->away)
            HS_TRY(j->kv->next(j->kv->user, j->from, &j->end, err));
        hs_pool_run(j->c->pool, j->w->kv_heads * rows, 1, attend_some, j);
    }
    return HLWQ_OK;
}

hlwq_status hs_cpu_attention(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, uint32_t first, uint32_t n,
                             float *x, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    assert(n <= c->lim.batch);
    hs_input u = hs_cpu_normed(c, x, w->norm, w->eps, n);
    attn_job j = {c, w, kv, first, n, w->q.rows + w->k.rows + w->v.rows, 0, 0};
    c->task[0] = (hs_task){&w->q, &u, NULL, n, c->proj, j.width};
    c->task[1] = (hs_task){&w->k, &u, NULL, n, c->proj + w->q.rows, j.width};
    c->task[2] = (hs_task){&w->v, &u, NULL, n, c->proj + w->q.rows + w->k.rows, j.width};
    hs_cpu_run(c, 3);
    rope_table(c, w, first, n);
    hs_pool_run(c->pool, n, 1, prepare_tokens, &j);
    uint32_t coded = hs_kv_coded_count(first ? first - 1 : 0), codes = hs_kv_coded_count(first + n - 1) - coded;
    if (kv->coded && codes)
        hs_pool_run(c->pool, codes * HS_GRID, 4, code_some, &j);
    HS_TRY(attend_all(&j, err));
    hs_cpu_add_product(c, &w->o, c->out, n, x);
    return HLWQ_OK;
}

/*
 * Rows of several texts.  Products read their weights once for all rows.  What lies between them belongs to a text:
 * there each row is a batch of one, with buffers that begin at its row, so it goes through the functions above and
 * nothing of its neighbours can show in it.
 */
typedef struct rows_job {
    hs_cpu c[HS_ROWS_MAX];
    attn_job attn[HS_ROWS_MAX];
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

hlwq_status hs_cpu_attention_rows(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, const uint32_t *position,
                                  uint32_t n, float *x, hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    rows_job j = {.heads = w->kv_heads};
    uint32_t width = w->q.rows + w->k.rows + w->v.rows;
    (void)err;
    assert(n <= HS_ROWS_MAX && n <= c->lim.batch);
    hs_input u = hs_cpu_normed(c, x, w->norm, w->eps, n);
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
        j.attn[t] = (attn_job){&j.c[t], w, &kv[t], position[t], 1, width, 0, 0};
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
