/*
 * kernels/cpu/beside.c - rows of a feed-forward that another backend computes the rest of.
 */
#include "kernels/cpu/work.h"

#include <assert.h>

void hs_backend_cpu_hidden(hs_backend *be, const hs_ffn *w, const float *u, uint32_t n, float *h, size_t stride)
{
    hs_cpu *c = hs_cpu_of(be);
    uint32_t width = w->gate.rows;
    hs_input in = {.x = u, .cols = c->lim.hidden, .n = n, .form = {&c->uq[0], &c->uq[1], &c->uq[2]}};
    assert(n <= c->lim.batch && width <= c->lim.ffn_width && w->up.rows == width);
    c->task[0] = (hs_task){&w->gate, &in, NULL, n, c->gate, width};
    c->task[1] = (hs_task){&w->up, &in, NULL, n, c->up, width};
    hs_cpu_run(c, 2);
    for (uint32_t t = 0; t < n; t++)
        c->ops->swiglu(c->gate + (size_t)t * width, c->up + (size_t)t * width, width, h + t * stride);
}

void hs_backend_cpu_down(hs_backend *be, const hs_matrix *down, const float *h, uint32_t n, float *y, size_t stride)
{
    hs_cpu *c = hs_cpu_of(be);
    hs_input in = {.x = h, .cols = down->cols, .n = n, .form = {&c->hq, &c->hq, &c->hq}};
    assert(n <= c->lim.batch && down->cols <= c->lim.ffn_width);
    c->task[0] = (hs_task){down, &in, NULL, n, y, stride};
    hs_cpu_run(c, 1);
}
