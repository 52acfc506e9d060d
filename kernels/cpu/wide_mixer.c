/*
 * kernels/cpu/wide_mixer.c - DeltaNet on 16 lanes, bit for bit that of ref.c; compiled for AVX2 and AVX-512.
 *
 * Every sum of ref.c runs over rows or keys in ascending order, one lane per column: so strips of columns stay in
 * registers while the order runs through memory, which is read and written once.
 */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd16.h"
#include "kernels/numeric.h"

#include <assert.h>

#if defined(__AVX512F__)
#define INSTALL hs_cpu_mixer_avx512_install
enum { STRIP = 4 };
#else
#define INSTALL hs_cpu_mixer_avx2_install
enum { STRIP = 2 };
#endif

enum { LANES = 16, TOKENS = 4, WIDE = 2 * LANES };

#define INLINE static inline __attribute__((always_inline))

/* ---- Gated DeltaNet, one token -------------------------------------------------------------- */

/* Columns j.. of one head: the state is decayed, read and written in one pass over its rows after one that only reads.
 */
INLINE void step_strip(uint32_t width, float *s, const float *q, const float *k, const float *v, float decay,
                       float beta, uint32_t k_dim, uint32_t v_dim, float *o)
{
    v16 d[STRIP], out[STRIP], g = v16_set(decay);
    for (uint32_t i = 0; i < width; i++)
        d[i] = out[i] = v16_zero();
    for (uint32_t r = 0; r < k_dim; r++) {
        v16 kr = v16_set(k[r]);
        for (uint32_t i = 0; i < width; i++)
            d[i] = v16_fma(kr, v16_mul(v16_load(s + (size_t)r * v_dim + LANES * i), g), d[i]);
    }
    for (uint32_t i = 0; i < width; i++)
        d[i] = v16_mul(v16_set(beta), v16_sub(v16_load(v + LANES * i), d[i]));
    for (uint32_t r = 0; r < k_dim; r++) {
        v16 kr = v16_set(k[r]), qr = v16_set(q[r]);
        for (uint32_t i = 0; i < width; i++) {
            float *at = s + (size_t)r * v_dim + LANES * i;
            v16 x = v16_fma(kr, d[i], v16_mul(v16_load(at), g));
            v16_store(at, x);
            out[i] = v16_fma(qr, x, out[i]);
        }
    }
    for (uint32_t i = 0; i < width; i++)
        v16_store(o + LANES * i, out[i]);
}

static void mixer_delta_step(float *s, const float *q, const float *k, const float *v, float g, float beta,
                             uint32_t k_dim, uint32_t v_dim, float *o, float *scratch)
{
    if (v_dim % (LANES * STRIP)) {
        hs_cpu_ref_fma.delta_step(s, q, k, v, g, beta, k_dim, v_dim, o, scratch);
        return;
    }
    float decay = hs_exp(g);
    for (uint32_t j = 0; j < v_dim; j += LANES * STRIP)
        step_strip(STRIP, s + j, q, k, v + j, decay, beta, k_dim, v_dim, o + j);
}

/* ---- Gated DeltaNet, chunk ------------------------------------------------------------------ */

typedef struct chunk {
    const float *q, *k, *v;
    size_t qk_stride, v_stride;
    uint32_t n, k_dim, v_dim;
    const float *sum_g;    /* [n] */
    float *delta;          /* [n][v_dim]: N */
    float *solve, *attend; /* [n][HS_GRID]: -beta (k_i . k_j) D_ij, (q_i . k_j) D_ij */
} chunk;

/* Rows of q and k against the state: delta = beta (v - exp(G) S^T k), o = exp(G) S^T q, for `count` tokens from i. */
INLINE void against_state(const chunk *c, const float *s, uint32_t i, uint32_t count, const float *beta, float *o,
                          size_t o_stride)
{
    for (uint32_t j = 0; j < c->v_dim; j += WIDE) {
        v16 row[TOKENS][2], out[TOKENS][2];
        for (uint32_t t = 0; t < count; t++)
            row[t][0] = row[t][1] = out[t][0] = out[t][1] = v16_zero();
        for (uint32_t r = 0; r < c->k_dim; r++) {
            v16 a = v16_load(s + (size_t)r * c->v_dim + j), b = v16_load(s + (size_t)r * c->v_dim + j + LANES);
            for (uint32_t t = 0; t < count; t++) {
                v16 k = v16_set(c->k[(i + t) * c->qk_stride + r]), q = v16_set(c->q[(i + t) * c->qk_stride + r]);
                row[t][0] = v16_fma(k, a, row[t][0]);
                row[t][1] = v16_fma(k, b, row[t][1]);
                out[t][0] = v16_fma(q, a, out[t][0]);
                out[t][1] = v16_fma(q, b, out[t][1]);
            }
        }
        for (uint32_t t = 0; t < count; t++) {
            v16 decay = v16_set(hs_exp(c->sum_g[i + t])), b = v16_set(beta[t]);
            for (uint32_t h = 0; h < 2; h++) {
                size_t at = j + LANES * h;
                v16 v = v16_load(c->v + (i + t) * c->v_stride + at);
                v16_store(c->delta + (size_t)(i + t) * c->v_dim + at, v16_mul(b, v16_fnma(decay, row[t][h], v)));
                v16_store(o + t * o_stride + at, v16_mul(out[t][h], decay));
            }
        }
    }
}

/* Coefficients of token i with tokens 0..i. */
static void coefficients(const chunk *c, uint32_t i, float beta)
{
    const float *ki = c->k + i * c->qk_stride, *qi = c->q + i * c->qk_stride;
    float decay[HS_GRID];
    for (uint32_t j = 0; j <= i; j += LANES)
        v16_store(decay + j, v16_exp(v16_sub(v16_set(c->sum_g[i]), v16_load(c->sum_g + j))));
    for (uint32_t j = 0; j <= i; j += 2) {
        const float *k0 = c->k + j * c->qk_stride, *k1 = j + 1 <= i ? k0 + c->qk_stride : k0;
        v16 a0 = v16_zero(), a1 = a0, b0 = a0, b1 = a0;
        for (uint32_t r = 0; r < c->k_dim; r += LANES) {
            v16 x = v16_load(ki + r), z = v16_load(qi + r), y0 = v16_load(k0 + r), y1 = v16_load(k1 + r);
            a0 = v16_fma(x, y0, a0);
            a1 = v16_fma(x, y1, a1);
            b0 = v16_fma(z, y0, b0);
            b1 = v16_fma(z, y1, b1);
        }
        float *m = c->solve + (size_t)i * HS_GRID + j, *p = c->attend + (size_t)i * HS_GRID + j;
        m[0] = -(beta * v16_sum(a0) * decay[j]);
        p[0] = v16_sum(b0) * decay[j];
        if (j + 1 <= i) {
            m[1] = -(beta * v16_sum(a1) * decay[j + 1]);
            p[1] = v16_sum(b1) * decay[j + 1];
        }
    }
}

/* Forward substitution and the chunk's part of the output, a strip of columns at a time. */
static void within_chunk(const chunk *c, float *o, size_t o_stride)
{
    for (uint32_t j = 0; j < c->v_dim; j += WIDE)
        for (uint32_t i = 0; i < c->n; i++) {
            float *ni = c->delta + (size_t)i * c->v_dim + j, *oi = o + i * o_stride + j;
            const float *m = c->solve + (size_t)i * HS_GRID, *p = c->attend + (size_t)i * HS_GRID;
            v16 n0 = v16_load(ni), n1 = v16_load(ni + LANES), o0 = v16_load(oi), o1 = v16_load(oi + LANES);
            for (uint32_t t = 0; t < i; t++) {
                const float *nt = c->delta + (size_t)t * c->v_dim + j;
                v16 a = v16_load(nt), b = v16_load(nt + LANES), mt = v16_set(m[t]), pt = v16_set(p[t]);
                n0 = v16_fma(mt, a, n0);
                n1 = v16_fma(mt, b, n1);
                o0 = v16_fma(pt, a, o0);
                o1 = v16_fma(pt, b, o1);
            }
            v16 last = v16_set(p[i]);
            v16_store(ni, n0);
            v16_store(ni + LANES, n1);
            v16_store(oi, v16_fma(last, n0, o0));
            v16_store(oi + LANES, v16_fma(last, n1, o1));
        }
}

/* S <- exp(G_n) S + sum_j exp(G_n - G_j) k_j N_j^T, rows r..r + rows - 1; scaled keys in kd [n][rows]. */
INLINE void next_state(const chunk *c, float *s, uint32_t r, uint32_t rows, const float *weight, float decay)
{
    float kd[HS_GRID][TOKENS];
    for (uint32_t j = 0; j < c->n; j++)
        for (uint32_t i = 0; i < rows; i++)
            kd[j][i] = c->k[j * c->qk_stride + r + i] * weight[j];
    for (uint32_t col = 0; col < c->v_dim; col += WIDE) {
        v16 a[TOKENS][2], d = v16_set(decay);
        for (uint32_t i = 0; i < rows; i++) {
            const float *at = s + (size_t)(r + i) * c->v_dim + col;
            a[i][0] = v16_mul(v16_load(at), d);
            a[i][1] = v16_mul(v16_load(at + LANES), d);
        }
        for (uint32_t j = 0; j < c->n; j++) {
            const float *nj = c->delta + (size_t)j * c->v_dim + col;
            v16 x = v16_load(nj), y = v16_load(nj + LANES);
            for (uint32_t i = 0; i < rows; i++) {
                v16 f = v16_set(kd[j][i]);
                a[i][0] = v16_fma(f, x, a[i][0]);
                a[i][1] = v16_fma(f, y, a[i][1]);
            }
        }
        for (uint32_t i = 0; i < rows; i++) {
            float *at = s + (size_t)(r + i) * c->v_dim + col;
            v16_store(at, a[i][0]);
            v16_store(at + LANES, a[i][1]);
        }
    }
}

static void mixer_delta_chunk(float *s, const float *q, const float *k, const float *v, const float *g,
                              const float *beta, size_t qk_stride, size_t v_stride, size_t g_stride, uint32_t n,
                              uint32_t k_dim, uint32_t v_dim, float *o, size_t o_stride, float *scratch)
{
    if (v_dim % WIDE || k_dim % LANES) {
        hs_cpu_ref_fma.delta_chunk(s, q, k, v, g, beta, qk_stride, v_stride, g_stride, n, k_dim, v_dim, o, o_stride,
                                   scratch);
        return;
    }
    assert(n <= HS_GRID);
    float *sum_g = scratch, total = 0.0f, b[HS_GRID], weight[HS_GRID];
    memset(sum_g, 0, HS_GRID * sizeof *sum_g);
    for (uint32_t i = 0; i < n; i++) {
        total += g[i * g_stride];
        sum_g[i] = total;
        b[i] = beta[i * g_stride];
    }
    chunk c = {q, k, v, qk_stride, v_stride, n, k_dim, v_dim, sum_g, sum_g + HS_GRID, NULL, NULL};
    c.solve = c.delta + (size_t)HS_GRID * v_dim;
    c.attend = c.solve + (size_t)HS_GRID * HS_GRID;
    uint32_t i = 0;
    for (; i + TOKENS <= n; i += TOKENS)
        against_state(&c, s, i, TOKENS, b + i, o + i * o_stride, o_stride);
    for (; i < n; i++)
        against_state(&c, s, i, 1, b + i, o + i * o_stride, o_stride);
    for (i = 0; i < n; i++)
        coefficients(&c, i, b[i]);
    within_chunk(&c, o, o_stride);
    float decay = hs_exp(total);
    for (i = 0; i < n; i++)
        weight[i] = hs_exp(total - sum_g[i]);
    for (uint32_t r = 0; r < k_dim; r += TOKENS)
        next_state(&c, s, r, TOKENS, weight, decay);
}

void INSTALL(hs_cpu_ops *ops)
{
    ops->delta_step = mixer_delta_step;
    ops->delta_chunk = mixer_delta_chunk;
}
