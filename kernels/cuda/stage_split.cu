/*
 * stage_split.cu - a feed-forward of which the CPU computes some rows, from weights that never come to the card.
 *
 * Down needs all of what gate and up make, so that is exchanged in the middle: the CPU's part goes up, the card's comes
 * down, and both have the same fp32 values, from which both make the same q8.  Rows are computed alike wherever that
 * is, so how they are split does not show.  The host waits twice, for the activations and for the card's part.
 */
#include "kernels/cuda/backend.h"

#include <assert.h>

static __global__ void add_rows_kernel(float *x, uint32_t stride, const float *y, uint32_t cols, uint32_t n)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n * cols)
        x[(uint64_t)(i / cols) * stride + i % cols] += y[i];
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

/* What gate and up make of the card's rows, in c->gate [n][all rows]. */
static hlwq_status hidden_here(hs_cuda *c, const hs_ffn *w, uint32_t beside, uint32_t n, hlwq_error *err)
{
    uint32_t all = w->gate.rows;
    const hs_matrix gate = hs_matrix_rows(&w->gate, beside, all - beside);
    const hs_matrix up = hs_matrix_rows(&w->up, beside, all - beside);
    const gpu_part in[] = {{&gate, c->gate + beside, all}, {&up, c->up_rows + beside, all}};
    if (beside == all)
        return HLWQ_OK;
    HS_TRY(gpu_products(c, in, 2, c->u, &c->uq, n, false, err));
    CUDA_DO("a feed-forward", gpu_run_swiglu(c->gate, c->up_rows, (uint64_t)n * all, c->stream));
    return HLWQ_OK;
}

hlwq_status gpu_stage_dense_split(hs_backend *be, const float *norm, float eps, const hs_ffn *w, const hs_split *split,
                                  uint32_t n, float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    uint32_t all = w->gate.rows, rows = split->rows, hidden = c->lim.hidden, down = split->down_rows;
    assert(n <= HS_SPLIT_TOKENS && rows <= all && down <= hidden);
    HS_TRY(gpu_norm(c, x, norm, eps, n, gpu_form_of(&w->gate), err));
    HS_TRY(fetch(c, c->host_u, c->u, hidden, hidden, n, err));
    HS_TRY(hidden_here(c, w, rows, n, err));
    CUDA_DO("activations", cudaStreamSynchronize(c->back)); /* staging memory of the layer before is free, too */
    HS_TRY(fetch(c, c->host_h + rows, c->gate + rows, all, all - rows, n, err));
    if (rows) {
        const hs_ffn first = {
            hs_matrix_rows(&split->beside.gate, 0, rows), hs_matrix_rows(&split->beside.up, 0, rows), {}};
        hs_backend_cpu_hidden(c->cpu, &first, c->host_u, n, c->host_h, all);
        for (uint32_t t = 0; t < n; t++)
            CUDA_DO("activations", cudaMemcpyAsync(c->gate + (size_t)t * all, c->host_h + (size_t)t * all,
                                                   rows * sizeof(float), cudaMemcpyHostToDevice, c->stream));
    }
    if (down < hidden) {
        const hs_matrix rest = hs_matrix_rows(&w->down, down, hidden - down);
        c->hq.form = GPU_NO_FORM;
        HS_TRY(gpu_product_of(c, &rest, c->gate, &c->hq, n, x + down, hidden, true, err));
    }
    CUDA_DO("activations", cudaStreamSynchronize(c->back));
    if (down == 0)
        return HLWQ_OK;
    const hs_matrix first = hs_matrix_rows(&split->beside.down, 0, down);
    hs_backend_cpu_down(c->cpu, &first, c->host_h, n, c->host_y, down);
    CUDA_DO("activations",
            cudaMemcpyAsync(c->y, c->host_y, (size_t)n * down * sizeof(float), cudaMemcpyHostToDevice, c->stream));
    CUDA_DO("a feed-forward", gpu_launch(add_rows_kernel, dim3((n * down + 255) / 256), dim3(256), 0, c->stream, x,
                                         hidden, c->y, down, n));
    return HLWQ_OK;
}
