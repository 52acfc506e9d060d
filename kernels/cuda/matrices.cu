/*
 * matrices.cu - products of a network's matrices: what kernels are told of them, in which form their inputs are, and
 * which of them share a launch.
 */
#include "kernels/cuda/backend.h"

extern "C" {
#include "kernels/hlwq.h"
}

#include <assert.h>

gpu_format gpu_format_of(const hs_matrix *m)
{
    gpu_format w = {};
    if (hs_dtype_int4(m->dtype)) {
        w.blocks = m->blocks;
        w.bits = hs_dtype_group(m->dtype) == 64 ? GPU_I4G64 : GPU_I4;
        w.scale = 1.0f;
        return w;
    }
    uint32_t bits = hs_dtype_bits(m->dtype), half = 1u << (bits - 1);
    w.blocks = m->blocks;
    w.bits = bits;
    w.scale = m->book->scale;
    uint8_t byte[64] = {};
    for (uint32_t i = 0; i < half; i++) {
        byte[i] = (uint8_t)(bits == 6 ? m->book->k[i] / 128 : m->book->k[i]);
        byte[32 + i] = (uint8_t)(m->book->k[i] % 128);
    }
    if (bits == 2) /* the code's sign is its upper bit: negative levels stand in the same table */
        for (uint32_t i = 0; i < 2; i++)
            byte[2 + i] = (uint8_t)~byte[i];
    memcpy(w.table, byte, sizeof byte);
    return w;
}

/* The form of activations that its products read, whether its own or one that it shares with others. */
static gpu_form any_form_of(const hs_matrix *m)
{
    if (!hs_dtype_packed(m->dtype))
        return GPU_NO_FORM;
    return hs_dtype_int4(m->dtype) ? GPU_FLAT : GPU_ROTATED;
}

gpu_form gpu_form_of(const hs_matrix *m)
{
    return hs_matrix_gathers(m) ? GPU_NO_FORM : any_form_of(m);
}

/* Rows of activations from `row` on. */
gpu_q8 gpu_rows_from(const gpu_q8 *q, uint64_t row, uint32_t cols)
{
    uint64_t blocks = row * ((cols + HS_BLOCK - 1) / HS_BLOCK);
    return gpu_q8{q->q + blocks * 32, q->of + blocks * (q->form == GPU_FLAT ? 2 : 1), q->form};
}

/* x [n][cols] in that form, if it is not yet. */
hlwq_status gpu_in_form(hs_cuda *c, gpu_form form, const float *x, uint32_t cols, uint32_t n, gpu_q8 *q,
                        hlwq_error *err)
{
    if (form == GPU_NO_FORM || q->form == form)
        return HLWQ_OK;
    q->form = form;
    CUDA_DO("activations", gpu_run_q8(const_cast<float *>(x), NULL, cols, n, *q, c->stream));
    return HLWQ_OK;
}

/* n rows of x in the order of its columns and scaled as it wants them: those that `list` names, or all from the first.
 */
static hlwq_status gathered(hs_cuda *c, const hs_matrix *w, const float *x, const uint32_t *list, uint32_t n, gpu_q8 *q,
                            hlwq_error *err)
{
    *q = c->ownq;
    q->form = any_form_of(w);
    CUDA_DO("activations", gpu_run_gather_q8(x, list, w->order, w->factor, w->cols, n, *q, c->stream));
    return HLWQ_OK;
}

/* Whether one launch can take both. */
bool gpu_alike(const hs_matrix *a, const hs_matrix *b)
{
    return hs_dtype_packed(a->dtype) && !hs_matrix_gathers(a) && !hs_matrix_gathers(b) && a->dtype == b->dtype &&
           a->book == b->book && a->cols == b->cols;
}

gpu_job gpu_job_of(const hs_matrix *w, float *y, uint32_t stride, uint32_t first, uint32_t m, uint32_t row)
{
    gpu_job j = {};
    j.low = w->low;
    j.high = w->high ? w->high : w->low;
    j.norms = reinterpret_cast<const uint16_t *>(w->norms);
    j.zeros = w->zeros;
    j.y = y;
    j.stride = stride;
    j.rows = w->rows;
    j.first = first;
    j.m = m;
    j.row = row;
    return j;
}

/*
 * Each y (+)= W a, with a's plain form and whichever q holds; neighbours that are alike share a launch.  `list`: which
 * rows of x, where all of the matrices gather.
 */
hlwq_status gpu_products_of(hs_cuda *c, const gpu_part *parts, uint32_t count, const float *x, const uint32_t *list,
                            gpu_q8 *q, uint32_t n, bool add, hlwq_error *err)
{
    for (uint32_t i = 0, k; i < count; i += k) {
        const gpu_part *first = &parts[i];
        gpu_product p = {};
        k = 1;
        if (!hs_dtype_packed(first->w->dtype)) {
            CUDA_DO("a product", gpu_run_plain(first->w, x, n, first->y, first->stride, add, c->stream));
            continue;
        }
        while (i + k < count && k < JOBS_INLINE && gpu_alike(first->w, first[k].w))
            k++;
        assert(!list || hs_matrix_gathers(first->w));
        if (hs_matrix_gathers(first->w)) {
            HS_TRY(gathered(c, first->w, x, list, n, &p.a, err));
        } else {
            HS_TRY(gpu_in_form(c, gpu_form_of(first->w), x, first->w->cols, n, q, err));
            p.a = *q;
        }
        p.w = gpu_format_of(first->w);
        p.jobs = k;
        p.m = n;
        p.add = add;
        for (uint32_t j = 0; j < k; j++) {
            p.own[j] = gpu_job_of(first[j].w, first[j].y, first[j].stride, 0, n, 0);
            p.rows = first[j].w->rows > p.rows ? first[j].w->rows : p.rows;
        }
        CUDA_DO("a product", gpu_run_product(&p, c->stream));
    }
    return HLWQ_OK;
}

hlwq_status gpu_products(hs_cuda *c, const gpu_part *parts, uint32_t count, const float *x, gpu_q8 *q, uint32_t n,
                         bool add, hlwq_error *err)
{
    return gpu_products_of(c, parts, count, x, NULL, q, n, add, err);
}

hlwq_status gpu_product_of(hs_cuda *c, const hs_matrix *w, const float *x, gpu_q8 *q, uint32_t n, float *y,
                           uint32_t stride, bool add, hlwq_error *err)
{
    const gpu_part one = {w, y, stride};
    return gpu_products(c, &one, 1, x, q, n, add, err);
}

/* u = norm(x), and the form that is read first. */
hlwq_status gpu_norm(hs_cuda *c, const float *x, const float *w, float eps, uint32_t n, gpu_form form, hlwq_error *err)
{
    gpu_q8 none = {};
    c->uq.form = form;
    c->u_rows = n;
    CUDA_DO("a norm", gpu_run_norm(x, w, c->lim.hidden, n, eps, c->u, c->lim.hidden, form == GPU_NO_FORM ? none : c->uq,
                                   c->stream));
    return HLWQ_OK;
}
