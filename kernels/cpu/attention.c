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
    float *room;              /* rows of proj that no token has */
    size_t room_floats;
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

/*
 * One token over many pages.  Each page is a piece of work by itself, so any number of threads shares them, and each
 * thread reads its memory from front to back, all heads of a page at once; what pages give is folded in their order
 * afterwards.  Windows of pages at a time: what they give lies in the rows of proj that lone tokens leave free.
 */
typedef struct page_job {
    attn_job *a;
    const float *rotated, *plain; /* queries, as the kernel takes them */
    float *part;                  /* [pages of the window][q_heads][2 + head_dim] */
    uint32_t coded, from, end;    /* the window */
} page_job;

enum { PAGES_LEAST = 8, PAGES_BAND = 4, PAGES_MOST = 256 };

static size_t part_floats(const hs_attention *w)
{
    return (size_t)w->q_heads * (2 + (size_t)w->head_dim);
}

static void attend_pages(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    page_job *j = user;
    const hs_attention *w = j->a->w;
    j->a->c->ops->attend_pages(j->a->kv, w->kv_heads, w->head_dim, w->q_heads / w->kv_heads, j->a->first,
                               j->from + first, j->from + last, j->rotated, j->plain, 1.0f / sqrtf((float)w->head_dim),
                               j->part + first * part_floats(w), hs_cpu_scratch(j->a->c, worker));
}

/* Items are query heads. */
static void fold_pages(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    page_job *j = user;
    hs_cpu *c = j->a->c;
    uint32_t d = j->a->w->head_dim;
    (void)worker;
    for (uint32_t h = first; h < last; h++) {
        float *state = c->carry + 2 * (size_t)h, *acc = c->out + (size_t)h * d;
        const float *part = j->part + h * (2 + (size_t)d);
        for (uint32_t b = j->from; b < j->end; b++, part += part_floats(j->a->w)) {
            if (j->coded && b == j->coded)
                hs_kv_rotate(acc, d);
            c->ops->attend_fold(part, d, b == 0, state, acc);
        }
        if (j->end <= j->a->first / HS_GRID)
            continue;
        for (uint32_t i = 0; i < d; i++)
            acc[i] /= state[1];
        c->ops->gate(acc, c->proj + (size_t)h * 2 * d + d, d);
    }
}

/* How many pages a window may have; 0 = attend_some does it. */
static uint32_t window_pages(const attn_job *j)
{
    const hs_cpu *c = j->c;
    size_t queries = 2 * (size_t)j->w->q_heads * j->w->head_dim, room = j->room_floats;
    uint32_t threads = hs_pool_threads(c->pool);
    if (j->n > 1 || !c->ops->attend_pages || j->w->head_dim % 32 || j->first / HS_GRID + 1 < PAGES_LEAST ||
        room < queries + PAGES_LEAST * part_floats(j->w))
        return 0;
    /* What pages give should stay in the second cache until it is folded; threads wait for each other in between. */
    size_t most = (room - queries) / part_floats(j->w), want = (size_t)PAGES_BAND * (threads == 1 ? 2 : 4 * threads);
    want = want < PAGES_MOST ? want : PAGES_MOST;
    return (uint32_t)(most < want ? most : want);
}

static void attend_windows(attn_job *a, uint32_t window)
{
    hs_cpu *c = a->c;
    const hs_attention *w = a->w;
    size_t queries = (size_t)w->q_heads * w->head_dim;
    float *rotated = a->room, *plain = rotated + queries;
    page_job j = {a, rotated, plain, plain + queries, a->kv->coded ? hs_kv_coded_count(a->first) : 0, 0, 0};
    uint32_t group = w->q_heads / w->kv_heads, end = a->first / HS_GRID + 1;
    for (int i = 0; i < 2; i++)
        c->ops->attend_lay(w->q_heads, group, w->head_dim, c->proj, 2 * (size_t)w->head_dim, i == 0,
                           i ? plain : rotated, hs_cpu_scratch(c, 0));
    end = a->end && a->end < end ? a->end : end;
    for (j.from = a->from; j.from < end; j.from = j.end) {
        j.end = end - j.from < window ? end : j.from + window;
        hs_pool_run(c->pool, j.end - j.from, PAGES_BAND, attend_pages, &j);
        hs_pool_run(c->pool, w->q_heads, 1, fold_pages, &j);
    }
}

/* Pages that are not in memory first, as they come, then the others. */
static hlwq_status attend_all(attn_job *j, hlwq_error *err)
{
    uint32_t window = window_pages(j);
    uint32_t last = j->first + j->n - 1, rows = last / HS_ATTEND_TOKENS - j->first / HS_ATTEND_TOKENS + 1;
    for (j->from = 0; j->from <= last / HS_GRID; j->from = j->end) {
        j->end = last / HS_GRID + 1;
        if (j->from < j->kv->away)
            HS_TRY(j->kv->next(j->kv->user, j->from, &j->end, err));
        if (window)
            attend_windows(j, window);
        else
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
    attn_job j = {c, w, kv, first, n, w->q.rows + w->k.rows + w->v.rows, 0, 0, NULL, 0};
    j.room = c->proj + (size_t)n * j.width;
    j.room_floats = (size_t)(c->lim.batch - n) * j.width;
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
        if (!j->attn[i / j->heads].end)
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
        j.attn[t] = (attn_job){&j.c[t],
                               w,
                               &kv[t],
                               position[t],
                               1,
                               width,
                               0,
                               0,
                               c->proj + (size_t)n * width,
                               (size_t)(c->lim.batch - n) * width};
    }
    c->rope_n = 0; /* its table has been written over */
    hs_pool_run(c->pool, n, 1, prepare_rows, &j);
    for (uint32_t t = 0; t < n; t++) {
        uint32_t coded = hs_kv_coded_count(position[t] ? position[t] - 1 : 0);
        uint32_t codes = hs_kv_coded_count(position[t]) - coded;
        if (kv[t].coded && codes)
            hs_pool_run(c->pool, codes * HS_GRID, 4, code_some, &j.attn[t]);
    }
    for (uint32_t t = 0; t < n; t++) { /* long texts one after the other */
        uint32_t window = window_pages(&j.attn[t]);
        if (window)
            attend_windows(&j.attn[t], window);
        j.attn[t].end = window;
    }
    hs_pool_run(c->pool, n * w->kv_heads, 1, attend_rows, &j);
    hs_cpu_add_product(c, &w->o, c->out, n, x);
    return HLWQ_OK;
}
