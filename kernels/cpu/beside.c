/*
 * kernels/cpu/beside.c - rows of a layer that another backend computes the rest of.
 */
#include "kernels/cpu/work.h"

#include <assert.h>

void hs_backend_cpu_hidden(hs_backend *be, const hs_ffn *w, const float *u, uint32_t n, float *h, size_t stride)
{
    hs_cpu *c = hs_cpu_of(be);
    uint32_t width = w->gate.rows;
    hs_input in = {.x = u, .cols = c->lim.hidden, .n = n, .form = {&c->uq[0], &c->uq[1]}};
    assert(n <= c->lim.batch && width <= c->lim.ffn_width && w->up.rows == width);
    c->task[0] = (hs_task){&w->gate, &in, NULL, n, c->gate, width};
    c->task[1] = (hs_task){&w->up, &in, NULL, n, c->up, width};
    hs_cpu_run(c, 2);
    for (uint32_t t = 0; t < n; t++)
        c->ops->swiglu(c->gate + (size_t)t * width, c->up + (size_t)t * width, width, h + t * stride);
}

void hs_backend_cpu_products(hs_backend *be, const hs_matrix *w, uint32_t count, const float *x, uint32_t n, float *y)
{
    hs_cpu *c = hs_cpu_of(be);
    const hs_limits *m = &c->lim;
    uint32_t width = 0, tasks = 0, cols = 0, attention = m->q_width / 2;
    for (uint32_t i = 0; i < count; i++) {
        width += w[i].rows;
        cols = w[i].rows ? w[i].cols : cols;
    }
    hs_input in = {.x = x, .cols = cols, .n = n, .form = {&c->uq[0], &c->uq[1]}};
    if (cols != m->hidden) {
        const hs_q8_buffer *room = cols <= m->v_width || cols <= attention ? &c->outq : &c->hq;
        for (int form = 0; form < HS_Q8_FORMS; form++)
            in.form[form] = room;
        assert(count == 1 && (room == &c->outq || cols <= m->ffn_width));
    }
    assert(n <= m->batch && count <= 4);
    for (uint32_t i = 0; i < count; i++) {
        if (w[i].rows)
            c->task[tasks++] = (hs_task){&w[i], &in, NULL, n, y, width};
        y += w[i].rows;
    }
    hs_cpu_run(c, tasks);
}
