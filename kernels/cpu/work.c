/*
 * kernels/cpu/work.c - splits products into bands of 64 rows over the pool.  Each output is computed by one thread in
 * the order that ops fixes, so the split never shows in the bits.
 */
#include "kernels/cpu/work.h"

#include <assert.h>

/* Of an input whose one reader's form is made by other means; the last bit is nobody's form. */
enum { EVERY_FORM = (2 << HS_Q8_FORMS) - 1 };

static uint32_t blocks_of(uint32_t cols)
{
    return (cols + HS_BLOCK - 1) / HS_BLOCK;
}

typedef struct q8_rows {
    const hs_cpu_ops *ops;
    const hs_input *in;
    hs_q8_form form;
} q8_rows;

static void q8_row(const hs_cpu_ops *ops, const hs_input *in, hs_q8_form form, uint32_t row)
{
    const hs_q8_buffer *out = in->form[form];
    size_t block = (size_t)row * blocks_of(in->cols), at = block * hs_q8_scales(form);
    hs_q8_row(ops, form, in->x + (size_t)row * in->cols, in->cols, out->q + block * HS_BLOCK, out->scale + at,
              out->sum + at);
}

static void q8_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    q8_rows *r = user;
    (void)worker;
    for (uint32_t t = first; t < last; t++)
        q8_row(r->ops, r->in, r->form, t);
}

/* True if products with these weights read 8-bit activations. */
static bool reads_q8(const hs_cpu *c, hs_dtype weights)
{
    return hs_dtype_packed(weights) && !c->exact;
}

/* Row `row` of the input of a matrix that gathers: in the order of its columns, scaled, by way of `scratch`. */
static void gather_row(const hs_cpu_ops *ops, const hs_input *in, const hs_matrix *w, uint32_t row,
                       const hs_q8_buffer *out, uint32_t to, float *scratch)
{
    const float *x = in->x + (size_t)row * in->cols;
    hs_q8_form form = hs_q8_form_of(w->dtype);
    size_t block = (size_t)to * blocks_of(in->cols), at = block * hs_q8_scales(form);
    for (uint32_t i = 0; i < in->cols; i++)
        scratch[i] = x[w->order ? hs_input_of(w, i) : i];
    for (uint32_t i = 0; w->factor && i < in->cols; i++)
        scratch[i] *= w->factor[i];
    hs_q8_row(ops, form, scratch, in->cols, out->q + block * HS_BLOCK, out->scale + at, out->sum + at);
}

static void gather_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    hs_cpu *c = user;
    uint32_t i = 0;
    for (uint32_t row = first; row < last; row++) {
        while (!c->own[i].q8.q || row >= c->own[i].first + c->task[i].n)
            i++;
        const hs_task *t = &c->task[i];
        uint32_t k = row - c->own[i].first;
        gather_row(c->ops, t->in, t->w, t->token ? t->token[k] : k, &c->own[i].q8, k, hs_cpu_scratch(c, worker));
    }
}

/* True if a task reads rows of its own: no two modules of a model are known to share an order or factors. */
static bool gathers(const hs_cpu *c, const hs_task *t)
{
    return hs_matrix_gathers(t->w) && reads_q8(c, t->w->dtype) && t->in->made != EVERY_FORM;
}

static void gather(hs_cpu *c, uint32_t n_tasks)
{
    uint32_t rows = 0;
    uint64_t at = 0;
    for (uint32_t i = 0; i < n_tasks; i++) {
        const hs_task *t = &c->task[i];
        c->own[i] = (hs_own_rows){{0}, rows};
        if (!gathers(c, t))
            continue;
        c->own[i].q8 =
            (hs_q8_buffer){c->room.q + at * HS_BLOCK, c->room.scale + at * c->scales, c->room.sum + at * c->scales};
        rows += t->n;
        at += (uint64_t)t->n * blocks_of(t->in->cols);
        assert(at <= c->room_blocks);
    }
    if (rows)
        hs_pool_run(c->pool, rows, 4, gather_some, c);
}

/* The input of a task in the form that its matrix needs. */
static void make_form(hs_cpu *c, const hs_task *t)
{
    if (!reads_q8(c, t->w->dtype) || gathers(c, t))
        return;
    hs_q8_form form = hs_q8_form_of(t->w->dtype);
    if (t->in->made & 1u << form)
        return;
    q8_rows r = {c->ops, t->in, form};
    hs_pool_run(c->pool, t->in->n, 4, q8_some, &r);
    t->in->made |= 1u << form;
}

/* q, scale and sum say nothing where the matrix does not read them. */
static hs_act act_of(const hs_task *t, const hs_own_rows *own)
{
    const hs_input *in = t->in;
    const hs_q8_buffer *q8 = own->q8.q ? &own->q8 : in->form[hs_q8_form_of(t->w->dtype)];
    return (hs_act){in->cols, blocks_of(in->cols), in->x, q8->q, q8->scale, q8->sum};
}

static void bands(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    hs_cpu *c = user;
    uint32_t i = 0;
    for (uint32_t band = first; band < last; band++) {
        while (c->task_band[i + 1] <= band)
            i++;
        const hs_task *t = &c->task[i];
        uint32_t row = (band - c->task_band[i]) * HS_BAND;
        uint32_t end = t->w->rows - row < HS_BAND ? t->w->rows : row + HS_BAND;
        hs_act act = act_of(t, &c->own[i]);
        if (!hs_dtype_packed(t->w->dtype))
            c->ops->gemm_plain(t->w, &act, t->token, t->n, row, end, t->y, t->stride);
        else if (c->exact)
            c->ops->gemm_exact(t->w, &act, t->token, t->n, row, end, t->y, t->stride, hs_cpu_scratch(c, worker));
        else
            c->ops->gemm(t->w, &act, c->own[i].q8.q ? NULL : t->token, t->n, row, end, t->y, t->stride);
    }
}

void hs_cpu_run(hs_cpu *c, uint32_t n_tasks)
{
    uint32_t total = 0;
    for (uint32_t i = 0; c->watch.see && i < n_tasks; i++)
        c->watch.see(c->watch.user, c->task[i].w, c->task[i].in->x, c->task[i].token, c->task[i].n);
    gather(c, n_tasks);
    for (uint32_t i = 0; i < n_tasks; i++) {
        make_form(c, &c->task[i]);
        c->task_band[i] = total;
        total += (c->task[i].w->rows + HS_BAND - 1) / HS_BAND;
    }
    c->task_band[n_tasks] = total;
    hs_pool_run(c->pool, total, 1, bands, c);
}

/* Where job j keeps its hidden rows: [m][width] from row `slot` of buffers with ffn_width columns. */
static float *job_rows(const hs_cpu *c, float *buffer, const hs_ffn_job *j)
{
    return buffer + (size_t)j->slot * c->lim.ffn_width;
}

/* And their q8 form. */
static hs_q8_buffer job_q8(const hs_cpu *c, const hs_ffn_job *j)
{
    size_t at = (size_t)j->slot * blocks_of(c->lim.ffn_width);
    return (hs_q8_buffer){c->hq.q + at * HS_BLOCK, c->hq.scale + at * c->scales, c->hq.sum + at * c->scales};
}

typedef struct glue {
    hs_cpu *c;
    const hs_ffn_job *job;
} glue;

/* SwiGLU and q8 of hidden rows first..last-1 of all jobs in turn. */
static void glue_rows(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    glue *g = user;
    hs_cpu *c = g->c;
    const hs_ffn_job *j = g->job;
    for (uint32_t row = first; row < last; row++) {
        while (row >= j->row + j->m)
            j++;
        uint32_t width = j->w->gate.rows, m = row - j->row;
        float *h = job_rows(c, c->gate, j) + (size_t)m * width;
        c->ops->swiglu(h, job_rows(c, c->up, j) + (size_t)m * width, width, h);
        if (!reads_q8(c, j->w->down.dtype))
            continue;
        if (hs_matrix_gathers(&j->w->down)) /* both while h is warm */
            gather_row(c->ops, &j->hidden, &j->w->down, m, &j->room, m, hs_cpu_scratch(c, worker));
        else
            q8_row(c->ops, &j->hidden, hs_q8_form_of(j->w->down.dtype), m);
    }
}

void hs_cpu_ffn(hs_cpu *c, hs_input *u, hs_ffn_job *job, uint32_t n_jobs, float *y)
{
    uint32_t rows = 0;
    if (n_jobs == 0)
        return;
    for (uint32_t i = 0; i < n_jobs; i++) {
        hs_ffn_job *j = &job[i];
        assert(j->w->gate.rows <= c->lim.ffn_width);
        j->row = rows;
        rows += j->m;
        uint32_t width = j->w->gate.rows;
        j->room = job_q8(c, j);
        j->hidden = (hs_input){job_rows(c, c->gate, j), width, j->m, EVERY_FORM, {&j->room, &j->room}};
        c->task[2 * i] = (hs_task){&j->w->gate, u, j->token, j->m, job_rows(c, c->gate, j), width};
        c->task[2 * i + 1] = (hs_task){&j->w->up, u, j->token, j->m, job_rows(c, c->up, j), width};
    }
    hs_cpu_run(c, 2 * n_jobs);

    glue g = {c, job};
    hs_pool_run(c->pool, rows, 4, glue_rows, &g);

    for (uint32_t i = 0; i < n_jobs; i++) {
        hs_ffn_job *j = &job[i];
        c->task[i] = (hs_task){&j->w->down, &j->hidden, NULL, j->m, y + (size_t)j->slot * c->lim.hidden, c->lim.hidden};
    }
    hs_cpu_run(c, n_jobs);
}
