/*
 * kernels/cpu/wide_mixer.c - DeltaNet and attention on 16 lanes, bit for bit those of ref.c; compiled for AVX2 and
 * AVX-512.
 *
 * Every sum of ref.c runs over rows or keys in ascending order, one lane per column: so strips of columns stay in
 * registers while the order runs through memory, which is read and written once.
 */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd16.h"
#include "kernels/kv_codec.h"
#include "kernels/numeric.h"

#include <assert.h>

#if defined(__AVX512F__)
#define INSTALL hs_cpu_mixer_avx512_install
enum { STRIP = 4, QUERIES = 4 };
#else
#define INSTALL hs_cpu_mixer_avx2_install
enum { STRIP = 2, QUERIES = 2 };
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

/* ---- attention ------------------------------------------------------------------------------ */

static void load_kv(float *out, const uint8_t *page, hs_dtype dtype, size_t offset, size_t row, uint32_t rows,
                    uint32_t dim)
{
    for (uint32_t j = 0; j < rows; j++, offset += row, out += dim)
        for (uint32_t d = 0; d < dim; d += LANES)
            v16_store(out + d, dtype == HS_F32 ? v16_load((const float *)(const void *)page + offset + d)
                                               : v16_half((const uint16_t *)(const void *)page + offset + d));
}

/* 16 values from weight 64 upper + 16 i of a block on, less its norm. */
INLINE v16 coded_lanes(hs_dtype dtype, const uint8_t *low, const uint8_t *high, const float *level, uint32_t i,
                       uint32_t upper)
{
    if (dtype == HS_I8)
        return v16_int8(low + 64 * upper + LANES * i);
    if (dtype == HS_Q4)
        return v16_pick(level, v16_nibbles(low + LANES * i, 4 * (int)upper));
    v16i code = v16_pairs(low + 8 * i, 4 * (int)upper);
    return v16_pick(level, dtype == HS_Q3 ? v16_add_signs(code, high + 4 * i, (int)upper) : code);
}

/* hs_kv_decode. `dtype` is a constant wherever this is called. */
INLINE void decode_blocks(hs_dtype dtype, const uint8_t *page, const hs_kv_planes *p, size_t first, uint32_t n,
                          float *u)
{
    uint32_t low_bytes = hs_kv_low_bytes(dtype), high_bytes = hs_kv_high_bytes(dtype);
    const uint8_t *low = page + p->low + first * low_bytes, *high = page + p->high + first * high_bytes;
    const uint16_t *norms = (const uint16_t *)(const void *)(page + p->norms) + first;
    float level[16] = {0};
    if (dtype != HS_I8)
        hs_kv_levels(dtype, level);
    for (uint32_t b = 0; b < n; b++, u += HS_BLOCK, low += low_bytes, high += high_bytes) {
        v16 norm = v16_set(hs_half(norms[b]) * (dtype == HS_I8 ? 0.125f : 1.0f));
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t upper = 0; upper < 2; upper++)
                v16_store(u + 64 * upper + LANES * i, v16_mul(coded_lanes(dtype, low, high, level, i, upper), norm));
    }
}

static void load_coded(float *u, const uint8_t *page, const hs_kv_planes *p, uint32_t kv_head, uint32_t head_dim)
{
    uint32_t n = HS_GRID * (head_dim / HS_BLOCK);
    size_t first = (size_t)kv_head * n;
    switch (p->dtype) {
    case HS_I8: decode_blocks(HS_I8, page, p, first, n, u); return;
    case HS_Q4: decode_blocks(HS_Q4, page, p, first, n, u); return;
    case HS_Q3: decode_blocks(HS_Q3, page, p, first, n, u); return;
    default: decode_blocks(HS_Q2, page, p, first, n, u);
    }
}

/* Scores of `count` queries with keys j and j + 1 (the second may be past the end; it is not used then). */
INLINE void scores(uint32_t count, const float *const *q, const float *keys, uint32_t dim, float scale,
                   float (*weight)[HS_GRID], uint32_t j)
{
    v16 a[QUERIES][2];
    for (uint32_t h = 0; h < count; h++)
        a[h][0] = a[h][1] = v16_zero();
    for (uint32_t d = 0; d < dim; d += LANES) {
        v16 k0 = v16_load(keys + (size_t)j * dim + d), k1 = v16_load(keys + (size_t)(j + 1) * dim + d);
        for (uint32_t h = 0; h < count; h++) {
            v16 x = v16_load(q[h] + d);
            a[h][0] = v16_fma(x, k0, a[h][0]);
            a[h][1] = v16_fma(x, k1, a[h][1]);
        }
    }
    for (uint32_t h = 0; h < count; h++) {
        weight[h][j] = v16_sum(a[h][0]) * scale;
        weight[h][j + 1] = v16_sum(a[h][1]) * scale;
    }
}

/* One block of positions for `count` queries: folded into their states (max, sum, acc). */
INLINE void attend_block(uint32_t count, const float *const *q, float *const *state, const float *keys,
                         const float *values, uint32_t seen, uint32_t dim, float scale, bool first_block)
{
    float weight[QUERIES][HS_GRID], m[QUERIES], sum[QUERIES], old[QUERIES], new[QUERIES];
    for (uint32_t j = 0; j < seen; j += 2)
        scores(count, q, keys, dim, scale, weight, j);
    for (uint32_t h = 0; h < count; h++) {
        m[h] = -INFINITY;
        sum[h] = 0.0f;
        for (uint32_t j = 0; j < seen; j++)
            m[h] = weight[h][j] > m[h] ? weight[h][j] : m[h];
        for (uint32_t j = seen; j < HS_GRID; j++)
            weight[h][j] = 0.0f;
        for (uint32_t j = 0; j < seen; j += LANES)
            v16_store(weight[h] + j, v16_exp(v16_sub(v16_load(weight[h] + j), v16_set(m[h]))));
    }
    for (uint32_t j = 0; j < seen; j++)
        for (uint32_t h = 0; h < count; h++)
            sum[h] += weight[h][j];
    for (uint32_t h = 0; h < count; h++) {
        float *st = state[h];
        if (first_block) {
            st[0] = m[h];
            st[1] = sum[h];
            continue;
        }
        float top = st[0] > m[h] ? st[0] : m[h];
        old[h] = hs_exp(st[0] - top);
        new[h] = hs_exp(m[h] - top);
        st[0] = top;
        st[1] = fmaf(st[1], old[h], sum[h] * new[h]);
    }
    for (uint32_t d = 0; d < dim; d += WIDE) {
        v16 a[QUERIES][2];
        for (uint32_t h = 0; h < count; h++)
            a[h][0] = a[h][1] = v16_zero();
        for (uint32_t j = 0; j < seen; j++) {
            v16 v0 = v16_load(values + (size_t)j * dim + d), v1 = v16_load(values + (size_t)j * dim + d + LANES);
            for (uint32_t h = 0; h < count; h++) {
                v16 w = v16_set(weight[h][j]);
                a[h][0] = v16_fma(w, v0, a[h][0]);
                a[h][1] = v16_fma(w, v1, a[h][1]);
            }
        }
        for (uint32_t h = 0; h < count; h++)
            for (uint32_t i = 0; i < 2; i++) {
                float *acc = state[h] + 2 + d + LANES * i;
                v16 part = a[h][i];
                if (!first_block)
                    part = v16_fma(v16_load(acc), v16_set(old[h]), v16_mul(part, v16_set(new[h])));
                v16_store(acc, part);
            }
    }
}

static void mixer_attend(const hs_kv_view *kv, uint32_t kv_heads, uint32_t kv_head, uint32_t head_dim, uint32_t group,
                         uint32_t first, uint32_t n, const float *q, size_t q_stride, size_t q_head_stride, float *out,
                         size_t out_stride, float scale, float *scratch)
{
    if (head_dim % WIDE) {
        hs_cpu_ref_fma.attend(kv, kv_heads, kv_head, head_dim, group, first, n, q, q_stride, q_head_stride, out,
                              out_stride, scale, scratch);
        return;
    }
    float *keys = scratch, *values = keys + (size_t)HS_GRID * head_dim, *states = values + (size_t)HS_GRID * head_dim;
    size_t row = (size_t)kv_heads * head_dim, state_floats = 2 + (size_t)head_dim, at = (size_t)kv_head * head_dim;
    float *rotated = hs_attend_rotated(scratch, head_dim, group);
    uint32_t last = first + n - 1, coded = kv->coded ? hs_kv_coded_count(last) : 0;
    assert(n <= HS_ATTEND_TOKENS && (!coded || first / HS_GRID == last / HS_GRID));
    for (uint32_t i = 0; coded && i < n * group; i++) {
        memcpy(rotated + (size_t)i * head_dim, q + i / group * q_stride + i % group * q_head_stride,
               head_dim * sizeof *q);
        hs_kv_rotate(rotated + (size_t)i * head_dim, head_dim);
    }
    if (!hs_attend_resume(kv, last, n, group, head_dim, out, out_stride, states))
        return;
    for (uint32_t b = kv->from; b < hs_attend_end(kv, last); b++) {
        uint32_t held = last - b * HS_GRID < HS_GRID ? last - b * HS_GRID + 1 : HS_GRID;
        for (uint32_t i = 0; coded && b == coded && i < n * group; i++)
            hs_kv_rotate(states + i * state_floats + 2, head_dim);
        if (b < coded) {
            load_coded(keys, kv->coded[b], &kv->layout.k, kv_head, head_dim);
            load_coded(values, kv->coded[b], &kv->layout.v, kv_head, head_dim);
        } else {
            load_kv(keys, kv->page[b], kv->dtype, at, row, held, head_dim);
            load_kv(values, kv->page[b], kv->dtype, HS_GRID * row + at, row, held, head_dim);
        }
        for (uint32_t t = 0; t < n; t++) {
            if (first + t < b * HS_GRID)
                continue;
            uint32_t seen = first + t - b * HS_GRID + 1;
            seen = seen < HS_GRID ? seen : HS_GRID;
            for (uint32_t h = 0; h < group; h += QUERIES) {
                uint32_t count = group - h < QUERIES ? group - h : QUERIES;
                const float *qs[QUERIES];
                float *st[QUERIES];
                for (uint32_t i = 0; i < count; i++) {
                    qs[i] = b < coded ? rotated + ((size_t)t * group + h + i) * head_dim
                                      : q + t * q_stride + (h + i) * q_head_stride;
                    st[i] = states + ((size_t)t * group + h + i) * state_floats;
                }
                if (count == QUERIES)
                    attend_block(QUERIES, qs, st, keys, values, seen, head_dim, scale, b == 0);
                else
                    for (uint32_t i = 0; i < count; i++)
                        attend_block(1, qs + i, st + i, keys, values, seen, head_dim, scale, b == 0);
            }
        }
    }
    if (hs_attend_pause(kv, last, n, group, head_dim, out, out_stride, states))
        return;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < group; h++) {
            const float *st = states + ((size_t)t * group + h) * state_floats;
            v16 sum = v16_set(st[1]);
            for (uint32_t d = 0; d < head_dim; d += LANES)
                v16_store(out + t * out_stride + (size_t)h * head_dim + d, v16_div(v16_load(st + 2 + d), sum));
        }
}

void INSTALL(hs_cpu_ops *ops)
{
    ops->delta_step = mixer_delta_step;
    ops->delta_chunk = mixer_delta_chunk;
    ops->attend = mixer_attend;
}
