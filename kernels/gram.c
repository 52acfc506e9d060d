/*
 * kernels/gram.c - sums of products and their factor.
 *
 * Sums are float, over at most the rows of one call, then added to h: calls of a few hundred rows keep the error far
 * below the damping.
 */
#include "kernels/gram.h"

#include "base/dtype.h"
#include "kernels/hlwq.h"
#include "kernels/lanes.h"

#include <assert.h>

#define INVERSE_SQRT_128 0x1.6a09e6p-4f

enum { TILE = 8, PANEL = 64 };

/* Waking threads costs more than so many multiplications. */
#define WORTH_THREADS 2e6

static void spread(hs_pool *pool, uint32_t n, uint32_t band, double work, hs_pool_fn fn, void *job)
{
    if (work < WORTH_THREADS)
        fn(job, 0, n, 0);
    else
        hs_pool_run(pool, n, band, fn, job);
}

static uint32_t padded(uint32_t cols)
{
    return (cols + HS_BLOCK - 1) / HS_BLOCK * HS_BLOCK;
}

void hs_gram_pad(const float *x, uint32_t cols, float scale, float *out)
{
    for (uint32_t i = 0; i < padded(cols); i++)
        out[i] = i < cols ? x[i] * scale : 0.0f;
}

void hs_gram_rotate(const float *x, uint32_t cols, float scale, float *out)
{
    hs_gram_pad(x, cols, scale * INVERSE_SQRT_128, out);
    for (uint32_t i = 0; i < padded(cols); i += HS_BLOCK)
        hs_wht(out + i, HS_BLOCK);
}

typedef struct add_job {
    float *h;
    uint32_t n, width, rows;
    const float *a, *b;
    bool half;
} add_job;

/* Rows i..i + 7 of h, columns j..j + 15. */
HS_WIDE_CLONES static void add_tile(const add_job *job, uint32_t i, uint32_t j)
{
    hs_lanes acc[TILE] = {{0}};
    for (uint32_t t = 0; t < job->rows; t++) {
        const float *a = job->a + (size_t)t * job->width + i;
        hs_lanes b;
        memcpy(&b, job->b + (size_t)t * job->n + j, sizeof b);
        for (uint32_t k = 0; k < TILE; k++)
            acc[k] += b * a[k];
    }
    for (uint32_t k = 0; k < TILE; k++) {
        hs_lanes h;
        float *at = job->h + (size_t)(i + k) * job->n + j;
        memcpy(&h, at, sizeof h);
        h += acc[k];
        memcpy(at, &h, sizeof h);
    }
}

static void add_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    const add_job *job = user;
    (void)worker;
    for (uint32_t tile = first; tile < last; tile++)
        for (uint32_t j = job->half ? tile * TILE / HS_LANES * HS_LANES : 0; j < job->n; j += HS_LANES)
            add_tile(job, tile * TILE, j);
}

void hs_gram_add_cross(hs_pool *pool, float *h, uint32_t rows, uint32_t n, const float *a, const float *b,
                       uint32_t tokens)
{
    add_job job = {h, n, rows, tokens, a, b, a == b};
    assert(rows % TILE == 0 && n % HS_LANES == 0);
    spread(pool, rows / TILE, 1, (double)rows * n * tokens, add_some, &job);
}

void hs_gram_add(hs_pool *pool, float *h, uint32_t n, const float *a, const float *b, uint32_t rows)
{
    hs_gram_add_cross(pool, h, n, n, a, b, rows);
}

void hs_gram_scale(float *m, uint32_t rows, uint32_t n, const float *factor)
{
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t b = 0; b < n; b += HS_BLOCK) {
            float *x = m + (size_t)r * n + b;
            hs_wht(x, HS_BLOCK);
            for (uint32_t i = 0; i < HS_BLOCK; i++)
                x[i] *= factor[b + i] / HS_BLOCK;
            hs_wht(x, HS_BLOCK);
        }
}

void hs_gram_transpose(float *m, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++) {
            float above = m[(size_t)j * n + i];
            m[(size_t)j * n + i] = m[(size_t)i * n + j];
            m[(size_t)i * n + j] = above;
        }
}

void hs_gram_mirror(float *h, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++)
            h[(size_t)i * n + j] = h[(size_t)j * n + i];
}

/* ---- the factor ----------------------------------------------------------------------------- */

typedef struct factor_job {
    float *t;
    const float *d;
    uint32_t n, from, to; /* rows from..to-1 are a finished panel */
} factor_job;

/* Row i less what the panel's rows say about it. */
HS_WIDE_CLONES static void subtract_panel(const factor_job *job, uint32_t i, uint32_t from)
{
    float *row = job->t + (size_t)i * job->n;
    for (uint32_t k = from; k < job->to; k++) {
        const float *other = job->t + (size_t)k * job->n;
        float s = other[i] / job->d[k];
        for (uint32_t j = 0; j <= i; j++)
            row[j] -= s * other[j];
    }
}

static void subtract_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    const factor_job *job = user;
    (void)worker;
    for (uint32_t i = first; i < last; i++)
        subtract_panel(job, i, job->from);
}

/* From the last row upwards. False where a pivot is not positive. */
static bool factor(hs_pool *pool, uint32_t n, float *t, float *d)
{
    float least = 1e-7f * t[(size_t)(n - 1) * n + n - 1];
    for (uint32_t to = n; to > 0;) {
        uint32_t from = to > PANEL ? to - PANEL : 0;
        for (uint32_t k = to; k-- > from;) {
            factor_job own = {t, d, n, k + 1, to};
            subtract_panel(&own, k, k + 1);
            d[k] = t[(size_t)k * n + k];
            if (!(d[k] > least) || !(d[k] > 0.0f))
                return false;
        }
        factor_job job = {t, d, n, from, to};
        spread(pool, from, 8, (double)from * from * PANEL / 2, subtract_some, &job);
        to = from;
    }
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t j = 0; j < n; j++)
            t[(size_t)k * n + j] = j < k ? t[(size_t)k * n + j] / d[k] : 0.0f;
    return true;
}

float hs_gram_factor(hs_pool *pool, float *h, uint32_t n, float damping, float *t, float *d)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += h[(size_t)i * n + i];
    float mean = sum > 0 ? (float)(sum / n) : 1.0f, done = 0.0f;
    for (float want = damping;; want *= 10.0f) {
        for (uint32_t i = 0; i < n; i++)
            h[(size_t)i * n + i] += (want - done) * mean;
        done = want;
        memcpy(t, h, (size_t)n * n * sizeof *t);
        if (factor(pool, n, t, d) || want > 1e6f)
            return want;
    }
}
