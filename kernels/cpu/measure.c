/*
 * kernels/cpu/measure.c - what this machine's memory gives when it is only read, the yardstick of every speed we print,
 * and what the products make of it.
 */
#include "kernels/measure.h"

#include "base/clock.h"
#include "kernels/cpu/ops.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { BAND = 1 << 20 };

typedef struct reading {
    const uint8_t *data;
    atomic_uint_fast64_t sum; /* used, so that the reads are */
} reading;

typedef uint64_t vec __attribute__((vector_size(64)));

/* The widest loads that the processor has: narrower ones do not reach the memory's rate. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GNUC__) &&     \
    !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static void
read_bands(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    reading *r = user;
    vec a = {0}, b = {0}, c = {0}, d = {0};
    (void)worker;
    for (uint32_t i = first; i < last; i++) {
        const uint8_t *p = r->data + (size_t)i * BAND;
        for (size_t k = 0; k < BAND; k += 256) {
            const vec *v = (const vec *)(const void *)(p + k);
            __builtin_prefetch(p + k + 8192);
            __builtin_prefetch(p + k + 8256);
            __builtin_prefetch(p + k + 8320);
            __builtin_prefetch(p + k + 8384);
            a ^= v[0];
            b ^= v[1];
            c ^= v[2];
            d ^= v[3];
        }
    }
    a ^= b ^ c ^ d;
    atomic_fetch_add(&r->sum, a[0] ^ a[7]);
}

static int ascending(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

hlwq_status hs_read_bandwidth(hs_mem *mem, hs_pool *pool, uint64_t bytes, double *rate, hlwq_error *err)
{
    enum { ROUNDS = 7 };
    double seconds[ROUNDS];
    void *p;
    bytes = bytes / BAND * BAND;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, bytes + 65536, "bandwidth measurement", &p, err));
    memset(p, 1, bytes);
    reading r = {.data = p};
    for (int i = 0; i < ROUNDS; i++) {
        double start = hs_now_seconds();
        hs_pool_run(pool, (uint32_t)(bytes / BAND), 8, read_bands, &r);
        seconds[i] = hs_now_seconds() - start;
    }
    qsort(seconds, ROUNDS, sizeof *seconds, ascending);
    *rate = (double)bytes / seconds[ROUNDS / 2];
    hs_mem_free(mem, p);
    return HLWQ_OK;
}

/* ---- products ------------------------------------------------------------------------------- */

typedef struct products {
    const hs_cpu_ops *ops;
    const hs_matrix *w; /* [copies] */
    hs_act act;
    uint32_t tokens, bands; /* of one matrix */
    float *y;               /* [copies][tokens][rows] would be large: [tokens][rows], overwritten */
} products;

enum { BAND_ROWS = 64 };

static void multiply_bands(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    products *p = user;
    (void)worker;
    for (uint32_t i = first; i < last; i++) {
        const hs_matrix *w = &p->w[i / p->bands];
        uint32_t row = i % p->bands * BAND_ROWS, end = w->rows - row < BAND_ROWS ? w->rows : row + BAND_ROWS;
        p->ops->gemm(w, &p->act, NULL, p->tokens, row, end, p->y, w->rows);
    }
}

/* Random codes and norms near one; random activations. */
static void fill(uint8_t *data, const hs_planes *planes, uint64_t copies, uint64_t each)
{
    uint64_t x = 88172645463325252u;
    for (uint64_t c = 0; c < copies; c++) {
        uint64_t *words = (uint64_t *)(void *)(data + c * each);
        for (uint64_t i = 0; i < each / 8; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            words[i] = x;
        }
        uint16_t *norm = (uint16_t *)(void *)(data + c * each + planes->norms);
        for (uint64_t i = 0; i < planes->norms_bytes / 2; i++)
            norm[i] = (uint16_t)(0x3800 | (norm[i] & 0x3FF));
        for (uint64_t i = 0; i < planes->zeros_bytes; i++)
            data[c * each + planes->zeros + i] &= 15;
    }
}

typedef struct workspace {
    uint8_t *weights;
    hs_matrix *matrix;
    float *x, *scale, *y;
    int8_t *q;
    int32_t *sum;
} workspace;

hlwq_status hs_product_case_open(const hs_product_case *c, hs_codebook *book, hs_planes *planes, hlwq_error *err)
{
    float level[64];
    if (!hs_dtype_packed(c->dtype) || c->tokens == 0 || c->tokens > HS_BATCH_MAX || c->rows == 0 ||
        !hs_planes_of(c->dtype, c->rows, c->cols, planes))
        return hs_fail(err, HLWQ_ERR_ARG, "a product of %u x %u weights with %u tokens cannot be measured", c->rows,
                       c->cols, c->tokens);
    if (!hs_dtype_rotated(c->dtype))
        return HLWQ_OK;
    hs_book_levels(HS_BOOK_CONVERGED, hs_dtype_bits(c->dtype), level);
    return hs_codebook_init(book, hs_dtype_bits(c->dtype), level, err);
}

static hlwq_status take(hs_mem *mem, uint64_t bytes, void *out, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, bytes, "kernel measurement", &p, err));
    memcpy(out, &p, sizeof p);
    return HLWQ_OK;
}

static hlwq_status measure(hs_mem *mem, hs_pool *pool, const hs_product_case *c, workspace *s, double *seconds,
                           uint64_t *bytes, hlwq_error *err)
{
    enum { ROUNDS = 7 };
    hs_cpu_ops ops;
    hs_codebook book;
    hs_planes planes;
    double took[ROUNDS];
    HS_TRY(hs_cpu_choose(&ops, c->isa, err));
    HS_TRY(hs_product_case_open(c, &book, &planes, err));

    uint64_t each = (planes.bytes + 4095) / 4096 * 4096, copies = c->resident_bytes / each + 1;
    const hs_q8_form form = hs_q8_form_of(c->dtype);
    uint32_t blocks = planes.blocks, scales = blocks * hs_q8_scales(form);
    HS_TRY(take(mem, copies * each + 65536, &s->weights, err)); /* prefetch runs past the end */
    HS_TRY(take(mem, copies * sizeof *s->matrix, &s->matrix, err));
    HS_TRY(take(mem, (uint64_t)c->tokens * c->cols * sizeof *s->x, &s->x, err));
    HS_TRY(take(mem, (uint64_t)c->tokens * blocks * HS_BLOCK, &s->q, err));
    HS_TRY(take(mem, (uint64_t)c->tokens * scales * sizeof *s->scale, &s->scale, err));
    HS_TRY(take(mem, (uint64_t)c->tokens * scales * sizeof *s->sum, &s->sum, err));
    HS_TRY(take(mem, (uint64_t)c->tokens * c->rows * sizeof *s->y, &s->y, err));
    fill(s->weights, &planes, copies, each);
    for (uint64_t i = 0; i < copies; i++)
        s->matrix[i] = hs_matrix_at(c->dtype, c->rows, c->cols, &planes, s->weights + i * each, &book);
    for (uint64_t i = 0; i < (uint64_t)c->tokens * c->cols; i++)
        s->x[i] = (float)((i * 2654435761u >> 8) % 2001) * 0.001f - 1.0f;
    for (uint32_t t = 0; t < c->tokens; t++)
        hs_q8_row(&ops, form, s->x + (size_t)t * c->cols, c->cols, s->q + (size_t)t * blocks * HS_BLOCK,
                  s->scale + (size_t)t * scales, s->sum + (size_t)t * scales);

    products p = {
        .ops = &ops, .w = s->matrix, .tokens = c->tokens, .y = s->y, .bands = (c->rows + BAND_ROWS - 1) / BAND_ROWS};
    p.act = (hs_act){c->cols, blocks, s->x, s->q, s->scale, s->sum};
    for (int i = -1; i < ROUNDS; i++) {
        double start = hs_now_seconds();
        hs_pool_run(pool, (uint32_t)copies * p.bands, 1, multiply_bands, &p);
        took[i < 0 ? 0 : i] = hs_now_seconds() - start;
    }
    qsort(took, ROUNDS, sizeof *took, ascending);
    *seconds = took[ROUNDS / 2] / (double)copies;
    *bytes = planes.bytes;
    return HLWQ_OK;
}

hlwq_status hs_measure_product(hs_mem *mem, hs_pool *pool, const hs_product_case *c, double *seconds, uint64_t *bytes,
                               hlwq_error *err)
{
    workspace s = {0};
    hlwq_status st = measure(mem, pool, c, &s, seconds, bytes, err);
    hs_mem_free(mem, s.y);
    hs_mem_free(mem, s.sum);
    hs_mem_free(mem, s.scale);
    hs_mem_free(mem, s.q);
    hs_mem_free(mem, s.x);
    hs_mem_free(mem, s.matrix);
    hs_mem_free(mem, s.weights);
    return st;
}
