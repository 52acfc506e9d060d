/*
 * stage_split.cu - a layer of which the CPU computes some rows, from weights that never come to the card.
 *
 * What a matrix makes of its input is exchanged where all of it is needed: the CPU's rows of a mixer's inputs and of
 * gate and up go up, and what the output matrices read comes down, so both sides make the same q8 of the same fp32
 * values.  Rows are computed alike wherever that is, so how they are split does not show.  The host waits for what it
 * is to read: four times a layer.  Staging memory is written after such a wait, behind which all copies from it that
 * were asked for before are done.
 */
#include "kernels/cuda/backend.h"

#include <assert.h>

static __global__ void add_rows_kernel(float *x, uint32_t stride, const float *y, uint32_t cols, uint32_t n)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n * cols)
        x[(uint64_t)(i / cols) * stride + i % cols] += y[i];
}

cudaError_t gpu_load_split(void)
{
    return gpu_load(add_rows_kernel);
}

void gpu_split(hs_backend *be, const hs_split *split)
{
    cuda_of(be)->split = split;
}

/* Rows of `cols` values to ordinary memory, beside what `stream` goes on with. */
static hlwq_status fetch(hs_cuda *c, float *to, const float *from, size_t stride, uint32_t cols, uint32_t n,
                         hlwq_error *err)
{
    CUDA_DO("activations", cudaEventRecord(c->chosen, c->stream));
    CUDA_DO("activations", cudaStreamWaitEvent(c->back, c->chosen, 0));
    for (uint32_t t = 0; t < n; t++)
        CUDA_DO("activations", cudaMemcpyAsync(to + t * stride, from + t * stride, cols * sizeof(float),
                                               cudaMemcpyDeviceToHost, c->back));
    return HLWQ_OK;
}

static hlwq_status send(hs_cuda *c, float *to, size_t to_stride, const float *from, size_t stride, uint32_t cols,
                        uint32_t n, hlwq_error *err)
{
    for (uint32_t t = 0; t < n; t++)
        CUDA_DO("activations", cudaMemcpyAsync(to + t * to_stride, from + t * stride, cols * sizeof(float),
                                               cudaMemcpyHostToDevice, c->stream));
    return HLWQ_OK;
}

static hs_matrix after(const hs_matrix *w, const hs_matrix *first)
{
    return hs_matrix_rows(w, first->rows, w->rows - first->rows);
}

hlwq_status gpu_mixer_in(hs_cuda *c, const gpu_part *part, uint32_t count, uint32_t n, hlwq_error *err)
{
    const hs_split *split = c->split;
    hs_matrix rest[4];
    gpu_part own[4];
    uint32_t rows = 0, owns = 0, at = 0;
    assert(count <= 4);
    for (uint32_t i = 0; split && i < count; i++) {
        rows += split->in[i].rows;
        rest[owns] = after(part[i].w, &split->in[i]);
        if (rest[owns].rows == 0)
            continue;
        own[owns] = gpu_part{&rest[owns], part[i].y + split->in[i].rows, part[i].stride};
        owns++;
    }
    if (rows == 0)
        return gpu_products(c, part, count, c->u, &c->uq, n, false, err);
    assert(n <= HS_SPLIT_TOKENS && !c->steps.on);
    HS_TRY(fetch(c, c->host_u, c->u, c->lim.hidden, c->lim.hidden, n, err));
    HS_TRY(gpu_products(c, own, owns, c->u, &c->uq, n, false, err));
    CUDA_DO("activations", cudaStreamSynchronize(c->back));
    hs_backend_cpu_products(c->cpu, split->in, count, c->host_u, n, c->host_h);
    for (uint32_t i = 0; i < count; i++) {
        HS_TRY(send(c, part[i].y, part[i].stride, c->host_h + at, rows, split->in[i].rows, n, err));
        at += split->in[i].rows;
    }
    return HLWQ_OK;
}

/* x += W a: the first rows from `from`, which holds a once `back` is done with what it was asked for. */
static hlwq_status add_output(hs_cuda *c, const hs_matrix *w, const hs_matrix *first, const float *a, gpu_q8 *q,
                              const float *from, uint32_t n, float *x, hlwq_error *err)
{
    const hs_matrix rest = after(w, first);
    uint32_t rows = first->rows, hidden = c->lim.hidden;
    q->form = GPU_NO_FORM;
    if (rest.rows)
        HS_TRY(gpu_product_of(c, &rest, a, q, n, x + rows, hidden, true, err));
    if (rows == 0)
        return HLWQ_OK;
    CUDA_DO("activations", cudaStreamSynchronize(c->back));
    hs_backend_cpu_products(c->cpu, first, 1, from, n, c->host_y);
    HS_TRY(send(c, c->y, rows, c->host_y, rows, rows, n, err));
    CUDA_DO("activations", gpu_launch(add_rows_kernel, dim3((n * rows + 255) / 256), dim3(256), 0, c->stream, x, hidden,
                                      c->y, rows, n));
    return HLWQ_OK;
}

hlwq_status gpu_mixer_out(hs_cuda *c, const hs_matrix *w, uint32_t n, float *x, hlwq_error *err)
{
    static const hs_matrix none = {};
    const hs_matrix *first = c->split ? &c->split->out : &none;
    if (first->rows)
        HS_TRY(fetch(c, c->host_h, c->out, w->cols, w->cols, n, err));
    return add_output(c, w, first, c->out, &c->outq, c->host_h, n, x, err);
}

/* What gate and up make of the card's rows, in c->gate [n][all rows]. */
static hlwq_status hidden_here(hs_cuda *c, const hs_ffn *w, const hs_ffn *beside, uint32_t n, hlwq_error *err)
{
    uint32_t all = w->gate.rows, rows = beside->gate.rows;
    const hs_matrix gate = after(&w->gate, &beside->gate), up = after(&w->up, &beside->up);
    const gpu_part in[] = {{&gate, c->gate + rows, all}, {&up, c->up_rows + rows, all}};
    if (rows == all)
        return HLWQ_OK;
    HS_TRY(gpu_products(c, in, 2, c->u, &c->uq, n, false, err));
    CUDA_DO("a feed-forward", gpu_run_swiglu(c->gate, c->up_rows, (uint64_t)n * all, c->stream));
    return HLWQ_OK;
}

hlwq_status gpu_dense_split(hs_cuda *c, const float *norm, float eps, const hs_ffn *w, uint32_t n, float *x,
                            hlwq_error *err)
{
    const hs_ffn *beside = &c->split->ffn;
    uint32_t all = w->gate.rows, rows = beside->gate.rows, hidden = c->lim.hidden;
    assert(n <= HS_SPLIT_TOKENS && rows <= all && rows == beside->up.rows && !c->steps.on);
    HS_TRY(gpu_norm(c, x, norm, eps, n, gpu_form_of(&w->gate), err));
    if (rows)
        HS_TRY(fetch(c, c->host_u, c->u, hidden, hidden, n, err));
    HS_TRY(hidden_here(c, w, beside, n, err));
    if (rows)
        CUDA_DO("activations", cudaStreamSynchronize(c->back));
    if (beside->down.rows)
        HS_TRY(fetch(c, c->host_h + rows, c->gate + rows, all, all - rows, n, err));
    if (rows) {
        hs_backend_cpu_hidden(c->cpu, beside, c->host_u, n, c->host_h, all);
        HS_TRY(send(c, c->gate, all, c->host_h, all, rows, n, err));
    }
    return add_output(c, &w->down, &beside->down, c->gate, &c->hq, c->host_h, n, x, err);
}
