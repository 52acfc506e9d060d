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
hs_input hs_cpu_normed(hs_cpu *c, const float *x, const float *w, float eps, uint32_t n)
{
    hs_cpu_norm_rows(c, x, w, eps, n, c->u);
    return (hs_input){.x = c->u, .cols = c->lim.hidden, .n = n, .form = {&c->uq[0], &c->uq[1]}};
}

hs_input hs_cpu_input_of_one(const hs_cpu *c, const float *x, uint32_t cols, uint32_t n)
{
    return (hs_input){.x = x, .cols = cols, .n = n, .form = {&c->outq, &c->outq}};
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

/* Row r of a table. */
static void decode_row(const hs_matrix *m, uint32_t r, float *out)
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
        decode_row(table, (uint32_t)ids[t], x + (size_t)t * c->lim.hidden);
    }
    return HLWQ_OK;
}

/* ---- feed-forward --------------------------------------------------------------------------- */

static hlwq_status cpu_dense(hs_backend *be, const float *norm, float eps, const hs_ffn *w, uint32_t n, float *x,
                             hlwq_error *err)
{
    hs_cpu *c = hs_cpu_of(be);
    (void)err;
    hs_input u = hs_cpu_normed(c, x, norm, eps, n);
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
    c->normed = hs_cpu_normed(c, x, w->norm, w->eps, n);
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
    hs_input u = hs_cpu_normed(c, x, norm, eps, n);
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
    hs_input a = {.x = u, .cols = c->lim.hidden, .n = n, .form = {&c->uq[0], &c->uq[1]}};
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
    .attention = hs_cpu_attention,
    .deltanet = hs_cpu_deltanet,
    .attention_rows = hs_cpu_attention_rows,
    .deltanet_rows = hs_cpu_deltanet_rows,
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
    c->scales = hs_q8_scales(forms >> HS_Q8_FLAT & 1 ? HS_Q8_FLAT : HS_Q8_ROTATED);
    c->u = take(k, b * m->hidden, f);
    for (int form = 0; form < HS_Q8_FORMS; form++)
        c->uq[form] = take_q8(k, forms >> form & 1 ? b : 0, m->hidden, c->scales);
    uint64_t joint = m->joins ? 2 * (uint64_t)m->hidden : 0;
    c->proj = take(k, b * max3(m->q_width + 2 * (uint64_t)m->kv_width, m->channels + m->v_width + 2 * heads, joint), f);
    c->mix = take(k, b * m->channels, f);
    c->out = take(k, b * max3(m->v_width, attention, 0), f);
    c->carry = take(k, m->head_dim ? b * 2 * (attention / m->head_dim) : 0, f);
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
