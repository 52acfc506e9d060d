/*
 * kernels/cpu/work.c - splits products into bands of 64 rows over the pool.  Each output is computed by one thread in
 * the order that ops fixes, so the split never shows in the bits.
 */
#include "kernels/cpu/work.h"

#include <assert.h>

typedef struct q8_rows {
    const hs_cpu_ops *ops;
    const hs_act *act;
    const hs_q8_buffer *out;
} q8_rows;

static void q8_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    q8_rows *r = user;
    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        size_t at = (size_t)t * r->act->blocks;
        r->ops->q8(r->act->x + (size_t)t * r->act->cols, r->act->cols, r->out->q + at * HS_BLOCK, r->out->scale + at,
                   r->out->sum + at);
    }
}

hs_act hs_cpu_act(hs_cpu *c, const float *x, uint32_t cols, uint32_t n, const hs_q8_buffer *buffer)
{
    hs_act a = {.cols = cols, .blocks = (cols + HS_BLOCK - 1) / HS_BLOCK, .x = x};
    if (buffer && !c->exact) {
        q8_rows r = {c->ops, &a, buffer};
        hs_pool_run(c->pool, n, 4, q8_some, &r);
        a.q = buffer->q;
        a.scale = buffer->scale;
        a.sum = buffer->sum;
    }
    return a;
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
        if (!hs_dtype_packed(t->w->dtype))
            c->ops->gemm_plain(t->w, &t->act, t->token, t->n, row, end, t->y, t->stride);
        else if (c->exact)
            c->ops->gemm_exact(t->w, &t->act, t->token, t->n, row, end, t->y, t->stride, hs_cpu_scratch(c, worker));
        else
            c->ops->gemm(t->w, &t->act, t->token, t->n, row, end, t->y, t->stride);
    }
}

void hs_cpu_run(hs_cpu *c, uint32_t n_tasks)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < n_tasks; i++) {
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

static size_t job_blocks(const hs_cpu *c, const hs_ffn_job *j)
{
    return (size_t)j->slot * ((c->lim.ffn_width + HS_BLOCK - 1) / HS_BLOCK);
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
    (void)worker;
    for (uint32_t row = first; row < last; row++) {
        while (row >= j->row + j->m)
            j++;
        uint32_t width = j->w->gate.rows, blocks = (width + HS_BLOCK - 1) / HS_BLOCK, m = row - j->row;
        float *h = job_rows(c, c->gate, j) + (size_t)m * width;
        c->ops->swiglu(h, job_rows(c, c->up, j) + (size_t)m * width, width, h);
        size_t at = job_blocks(c, j) + (size_t)m * blocks;
        if (hs_dtype_packed(j->w->down.dtype) && !c->exact)
            c->ops->q8(h, width, c->hq.q + at * HS_BLOCK, c->hq.scale + at, c->hq.sum + at);
    }
}

void hs_cpu_ffn(hs_cpu *c, const hs_act *u, hs_ffn_job *job, uint32_t n_jobs, float *y)
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
        c->task[2 * i] = (hs_task){&j->w->gate, *u, j->token, j->m, job_rows(c, c->gate, j), width};
        c->task[2 * i + 1] = (hs_task){&j->w->up, *u, j->token, j->m, job_rows(c, c->up, j), width};
    }
    hs_cpu_run(c, 2 * n_jobs);

    glue g = {c, job};
    hs_pool_run(c->pool, rows, 4, glue_rows, &g);

    for (uint32_t i = 0; i < n_jobs; i++) {
        const hs_ffn_job *j = &job[i];
        size_t at = job_blocks(c, j);
        uint32_t width = j->w->gate.rows;
        hs_act h = {.cols = width,
                    .blocks = (width + HS_BLOCK - 1) / HS_BLOCK,
                    .x = job_rows(c, c->gate, j),
                    .q = c->hq.q + at * HS_BLOCK,
                    .scale = c->hq.scale + at,
                    .sum = c->hq.sum + at};
        c->task[i] = (hs_task){&j->w->down, h, NULL, j->m, y + (size_t)j->slot * c->lim.hidden, c->lim.hidden};
    }
    hs_cpu_run(c, n_jobs);
}
