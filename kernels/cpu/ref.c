/*
 * kernels/cpu/ref.c - every inner loop in plain C: the oracle that faster sets are compared with, bit for bit.
 *
 * Orders of summation are those of docs/numerics.md.  This file is compiled twice, for any x86-64 and for machines
 * with AVX2 and FMA (where fmaf is one instruction and the compiler vectorises the 16-lane loops); fmaf rounds once
 * either way, so the bits do not depend on which.  HS_REF_TABLE names the table of each.
 */
#include "kernels/cpu/ops.h"
#include "kernels/int4.h"
#include "kernels/kv_codec.h"
#include "kernels/numeric.h"

#include <assert.h>
#include <math.h>

#ifndef HS_REF_TABLE
#define HS_REF_TABLE hs_cpu_ref_base
#endif

enum { LANES = 16, SEGMENT = 8 * HS_BLOCK, HALF = HS_BLOCK / 2 };

/* ---- sums in the fixed order ---------------------------------------------------------------- */

/* Lanes l and l + 8, then l and l + 4, and so on. */
static inline float tree(const float *lane)
{
    float a[8], b[4];
    for (int i = 0; i < 8; i++)
        a[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++)
        b[i] = a[i] + a[i + 4];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

/* sum a[i] b[i]: element i goes to lane i mod 16 by fma, ascending; then the tree. */
static inline float dot(const float *restrict a, const float *restrict b, uint32_t n)
{
    float lane[LANES] = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = fmaf(a[i + l], b[i + l], lane[l]);
    for (int l = 0; i + l < n; l++)
        lane[l] = fmaf(a[i + l], b[i + l], lane[l]);
    return tree(lane);
}

/* The same for rows longer than a segment: segments of 1,024 elements added in ascending order. */
static inline float dot_segments(const float *a, const float *b, uint32_t n)
{
    float total = 0.0f;
    for (uint32_t i = 0; i < n; i += SEGMENT)
        total += dot(a + i, b + i, n - i < SEGMENT ? n - i : SEGMENT);
    return total;
}

/* y += a x */
static inline void axpy(float *restrict y, float a, const float *restrict x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = fmaf(a, x[i], y[i]);
}

/* ---- q8 activations and matrices ------------------------------------------------------------ */

/* v [n] to codes and one scale. */
static inline void quantise(const float *v, int n, int8_t *q, float *scale, int32_t *sum)
{
    float amax = 0.0f;
    bool bad = false;
    for (int j = 0; j < n; j++) {
        float a = fabsf(v[j]);
        bad |= !(a <= 3.4e38f);
        amax = a > amax ? a : amax;
    }
    /* Too small for its reciprocal to be finite: zero. Infinity or NaN: the scale says so and nothing converts. */
    bool tiny = amax < 1e-30f;
    float inverse = bad || tiny ? 0.0f : 127.0f / amax;
    int32_t total = 0;
    for (int j = 0; j < n; j++) {
        float r = bad ? 0.0f : v[j] * inverse;
        int32_t k = (int32_t)((r + 0x1.8p23f) - 0x1.8p23f); /* nearest even */
        q[j] = (int8_t)k;
        total += k;
    }
    *scale = bad ? NAN : tiny ? 0.0f : amax / 127.0f;
    *sum = total;
}

static void ref_q8(const float *x, uint32_t cols, int8_t *q, float *scale, int32_t *sum)
{
    for (uint32_t b = 0, c = 0; c < cols; b++, c += HS_BLOCK) {
        float v[HS_BLOCK] = {0};
        memcpy(v, x + c, sizeof(float) * (cols - c < HS_BLOCK ? cols - c : HS_BLOCK));
        for (uint32_t half = 1; half < HS_BLOCK; half *= 2)
            for (uint32_t i = 0; i < HS_BLOCK; i += 2 * half)
                for (uint32_t j = i; j < i + half; j++) {
                    float a = v[j], d = v[j + half];
                    v[j] = a + d;
                    v[j + half] = a - d;
                }
        quantise(v, HS_BLOCK, q + b * HS_BLOCK, &scale[b], &sum[b]);
    }
}

static void ref_q8_flat(const float *x, uint32_t cols, int8_t *q, float *scale, int32_t *sum)
{
    uint32_t padded = (cols + HS_BLOCK - 1) / HS_BLOCK * HS_BLOCK;
    for (uint32_t h = 0, c = 0; c < padded; h++, c += HALF) {
        float v[HALF] = {0};
        if (c < cols)
            memcpy(v, x + c, sizeof(float) * (cols - c < HALF ? cols - c : HALF));
        quantise(v, HALF, q + c, &scale[h], &sum[h]);
    }
}

/* Signed 2k + 1 for each ascending code: twice the level over its step. */
static void code_values(const hs_codebook *book, int16_t *value)
{
    int half = 1 << (book->bits - 1);
    for (int c = 0; c < 2 * half; c++)
        value[c] = (int16_t)(c >= half ? 2 * book->k[c - half] + 1 : -(2 * book->k[half - 1 - c] + 1));
}

/* Exact: |value| < 2^15, |q| <= 127, 128 terms. */
static inline int32_t block_sum(const int16_t *restrict w, const int8_t *restrict q, uint32_t n)
{
    int32_t s = 0;
    for (uint32_t j = 0; j < n; j++)
        s += (int32_t)w[j] * (int32_t)q[j];
    return s;
}

static void gemm_rotated(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                         uint32_t last, float *y, size_t stride)
{
    int16_t value[64], v[8][HS_BLOCK];
    float total[HS_BATCH_MAX];
    code_values(w->book, value);
    for (uint32_t r = first; r < last; r++) {
        for (uint32_t t = 0; t < n; t++)
            total[t] = 0.0f;
        for (uint32_t b0 = 0; b0 < w->blocks; b0 += 8) {
            uint32_t nb = w->blocks - b0 < 8 ? w->blocks - b0 : 8;
            float norm[8];
            for (uint32_t b = 0; b < nb; b++) {
                size_t at = (size_t)r * w->blocks + b0 + b;
                uint8_t code[HS_BLOCK];
                uint16_t h;
                hs_unpack_block(w->dtype, w->low + at * w->low_block, w->high ? w->high + at * w->high_block : NULL,
                                code);
                for (int j = 0; j < HS_BLOCK; j++)
                    v[b][j] = value[code[j]];
                memcpy(&h, w->norms + at * 2, 2);
                norm[b] = hs_half(h);
            }
            for (uint32_t t = 0; t < n; t++) {
                size_t row = (token ? token[t] : t) * (size_t)a->blocks + b0;
                float seg = 0.0f;
                for (uint32_t b = 0; b < nb; b++)
                    seg = fmaf(norm[b] * a->scale[row + b],
                               (float)block_sum(v[b], a->q + (row + b) * HS_BLOCK, HS_BLOCK), seg);
                total[t] += seg;
            }
        }
        for (uint32_t t = 0; t < n; t++)
            y[t * stride + r] = total[t] * w->book->scale;
    }
}

/* Integers less their zero points, and the scales of half blocks, of one segment of a row. */
static void int4_segment(const hs_matrix *w, size_t block, uint32_t nb, int16_t (*v)[HS_BLOCK], float *scale)
{
    uint32_t per = w->groups / w->blocks;
    for (uint32_t b = 0; b < nb; b++) {
        uint8_t code[HS_BLOCK];
        hs_int4_unpack_block(w->low + (block + b) * w->low_block, code);
        for (uint32_t half = 0; half < 2; half++) {
            size_t at = (block + b) * per + half * per / 2;
            uint16_t h;
            memcpy(&h, w->norms + at * 2, 2);
            scale[2 * b + half] = hs_half(h);
            int zero = w->zeros ? w->zeros[at] : HS_INT4_ZERO;
            for (uint32_t j = half * HALF; j < (half + 1) * HALF; j++)
                v[b][j] = (int16_t)(code[j] - zero);
        }
    }
}

static void gemm_int4(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                      uint32_t last, float *y, size_t stride)
{
    int16_t v[8][HS_BLOCK];
    float total[HS_BATCH_MAX], scale[16];
    for (uint32_t r = first; r < last; r++) {
        for (uint32_t t = 0; t < n; t++)
            total[t] = 0.0f;
        for (uint32_t b0 = 0; b0 < w->blocks; b0 += 8) {
            uint32_t nb = w->blocks - b0 < 8 ? w->blocks - b0 : 8;
            int4_segment(w, (size_t)r * w->blocks + b0, nb, v, scale);
            for (uint32_t t = 0; t < n; t++) {
                size_t row = ((token ? token[t] : t) * (size_t)w->blocks + b0) * 2;
                float seg = 0.0f;
                for (uint32_t h = 0; h < 2 * nb; h++)
                    seg = fmaf(scale[h] * a->scale[row + h],
                               (float)block_sum(v[0] + h * HALF, a->q + (row + h) * HALF, HALF), seg);
                total[t] += seg;
            }
        }
        for (uint32_t t = 0; t < n; t++)
            y[t * stride + r] = total[t];
    }
}

static void ref_gemm(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                     uint32_t last, float *y, size_t stride)
{
    assert(n <= HS_BATCH_MAX && a->cols == w->cols);
    (hs_dtype_int4(w->dtype) ? gemm_int4 : gemm_rotated)(w, a, token, n, first, last, y, stride);
}

static inline void row_to_f32(const hs_matrix *w, uint32_t r, uint32_t first, uint32_t n, float *out)
{
    size_t at = (size_t)r * w->cols + first;
    if (w->dtype == HS_F32) {
        memcpy(out, w->low + at * 4, n * sizeof(float));
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, w->low + (at + i) * 2, 2);
        out[i] = w->dtype == HS_BF16 ? hs_bf16_to_f32(h) : hs_half(h);
    }
}

static void ref_gemm_plain(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                           uint32_t last, float *y, size_t stride)
{
    assert(n <= HS_BATCH_MAX && a->cols == w->cols);
    float row[SEGMENT], total[HS_BATCH_MAX];
    for (uint32_t r = first; r < last; r++) {
        for (uint32_t t = 0; t < n; t++)
            total[t] = 0.0f;
        for (uint32_t c = 0; c < w->cols; c += SEGMENT) {
            uint32_t len = w->cols - c < SEGMENT ? w->cols - c : SEGMENT;
            row_to_f32(w, r, c, len, row);
            for (uint32_t t = 0; t < n; t++)
                total[t] += dot(row, a->x + (token ? token[t] : t) * (size_t)a->cols + c, len);
        }
        for (uint32_t t = 0; t < n; t++)
            y[t * stride + r] = total[t];
    }
}

static void ref_gemm_exact(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                           uint32_t last, float *y, size_t stride, float *row)
{
    for (uint32_t r = first; r < last; r++) {
        hs_exact_row(w, r, row);
        for (uint32_t t = 0; t < n; t++)
            y[t * stride + r] = dot_segments(row, a->x + (token ? token[t] : t) * (size_t)a->cols, w->cols);
    }
}

/* ---- norms and activations ------------------------------------------------------------------ */

static inline float inverse_rms(const float *x, uint32_t n, float eps)
{
    return 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
}

static void ref_rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    float r = inverse_rms(x, n, eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * r * (1.0f + w[i]);
}

static void ref_l2_norm(const float *x, uint32_t n, float eps, float scale, float *y)
{
    float r = 1.0f / sqrtf(dot(x, x, n) + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * r * scale;
}

static void ref_gated_norm(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y)
{
    float r = inverse_rms(o, n, eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = w[i] * (o[i] * r) * hs_silu(z[i]);
}

static void ref_swiglu(const float *gate, const float *up, uint32_t n, float *h)
{
    for (uint32_t i = 0; i < n; i++)
        h[i] = hs_silu(gate[i]) * up[i];
}

static void ref_gate(float *o, const float *g, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        o[i] *= hs_sigmoid(g[i]);
}

static void ref_rotate(float *v, const float *table, uint32_t rotary_dims)
{
    uint32_t half = rotary_dims / 2;
    for (uint32_t j = 0; j < half; j++) {
        float a = v[j], b = v[j + half], c = table[j], s = table[half + j];
        v[j] = fmaf(a, c, -(b * s));
        v[j + half] = fmaf(b, c, a * s);
    }
}

static void ref_to_half(uint16_t *h, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        h[i] = hs_f32_to_f16(x[i]);
}

static void ref_combine(float *x, const float *const *y, const float *p, uint32_t count, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (uint32_t r = 0; r < count; r++)
            sum = fmaf(p[r], y[r][i], sum);
        x[i] += sum;
    }
}

/* ---- Gated DeltaNet ------------------------------------------------------------------------- */

static void ref_conv(const float *c, const float *w, uint32_t taps, uint32_t channels, uint32_t first, uint32_t last,
                     uint32_t n, float *state, float *y)
{
    uint32_t kept = taps - 1;
    for (uint32_t ch = first; ch < last; ch++) {
        const float *wc = w + (size_t)ch * taps;
        float *past = state + ch; /* [kept], channels apart, oldest first */
        for (uint32_t t = 0; t < n; t++) {
            float sum = 0.0f;
            for (uint32_t j = 0; j < taps; j++) {
                uint32_t back = kept - j; /* tokens before t */
                float in =
                    back <= t ? c[(size_t)(t - back) * channels + ch] : past[(size_t)(kept - back + t) * channels];
                sum = fmaf(wc[j], in, sum);
            }
            y[(size_t)t * channels + ch] = hs_silu(sum);
        }
        /* The last taps - 1 raw inputs, ascending so that nothing is overwritten before it is read. */
        for (uint32_t i = 0; i < kept; i++)
            past[(size_t)i * channels] =
                i + n >= kept ? c[(size_t)(i + n - kept) * channels + ch] : past[(size_t)(i + n) * channels];
    }
}

static void ref_delta_step(float *s, const float *q, const float *k, const float *v, float g, float beta,
                           uint32_t k_dim, uint32_t v_dim, float *o, float *scratch)
{
    float decay = hs_exp(g);
    float *d = scratch;
    memset(d, 0, v_dim * sizeof *d);
    for (uint32_t i = 0; i < k_dim; i++) {
        float *row = s + (size_t)i * v_dim;
        for (uint32_t j = 0; j < v_dim; j++)
            row[j] *= decay;
        axpy(d, k[i], row, v_dim);
    }
    for (uint32_t j = 0; j < v_dim; j++)
        d[j] = beta * (v[j] - d[j]);
    memset(o, 0, v_dim * sizeof *o);
    for (uint32_t i = 0; i < k_dim; i++) {
        float *row = s + (size_t)i * v_dim;
        axpy(row, k[i], d, v_dim);
        axpy(o, q[i], row, v_dim);
    }
}

/*
 * With G_i = g_1 + .. + g_i and D_ij = exp(G_i - G_j), j <= i (never exp(-G_j) alone, it overflows):
 *   N_i = beta_i (v_i - exp(G_i) S^T k_i) - sum_{j<i} beta_i (k_i . k_j) D_ij N_j
 *   o_i = exp(G_i) S^T q_i + sum_{j<=i} (q_i . k_j) D_ij N_j
 *   S  <- exp(G_n) S + sum_j exp(G_n - G_j) k_j N_j^T
 */
static void ref_delta_chunk(float *s, const float *q, const float *k, const float *v, const float *g, const float *beta,
                            size_t qk_stride, size_t v_stride, size_t g_stride, uint32_t n, uint32_t k_dim,
                            uint32_t v_dim, float *o, size_t o_stride, float *scratch)
{
    assert(n <= HS_GRID);
    float *sum_g = scratch, *row = sum_g + HS_GRID, *delta = row + v_dim;
    float total = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        total += g[i * g_stride];
        sum_g[i] = total;
    }
    for (uint32_t i = 0; i < n; i++) {
        const float *ki = k + i * qk_stride, *qi = q + i * qk_stride;
        float *ni = delta + (size_t)i * v_dim, *oi = o + i * o_stride, decay = hs_exp(sum_g[i]);
        float b = beta[i * g_stride];
        memset(row, 0, v_dim * sizeof *row);
        memset(oi, 0, v_dim * sizeof *oi);
        for (uint32_t r = 0; r < k_dim; r++) {
            axpy(row, ki[r], s + (size_t)r * v_dim, v_dim);
            axpy(oi, qi[r], s + (size_t)r * v_dim, v_dim);
        }
        for (uint32_t j = 0; j < v_dim; j++) {
            ni[j] = b * fmaf(-decay, row[j], v[i * v_stride + j]);
            oi[j] *= decay;
        }
        for (uint32_t j = 0; j < i; j++) {
            float d = hs_exp(sum_g[i] - sum_g[j]);
            axpy(ni, -(b * dot(ki, k + j * qk_stride, k_dim) * d), delta + (size_t)j * v_dim, v_dim);
        }
        for (uint32_t j = 0; j <= i; j++) {
            float d = hs_exp(sum_g[i] - sum_g[j]);
            axpy(oi, dot(qi, k + j * qk_stride, k_dim) * d, delta + (size_t)j * v_dim, v_dim);
        }
    }
    float decay = hs_exp(total);
    for (size_t r = 0; r < (size_t)k_dim * v_dim; r++)
        s[r] *= decay;
    for (uint32_t j = 0; j < n; j++) {
        float d = hs_exp(total - sum_g[j]);
        for (uint32_t r = 0; r < k_dim; r++)
            axpy(s + (size_t)r * v_dim, k[j * qk_stride + r] * d, delta + (size_t)j * v_dim, v_dim);
    }
}

/* ---- attention ------------------------------------------------------------------------------ */

static void load_kv(float *out, const uint8_t *page, hs_dtype dtype, size_t offset, size_t row, uint32_t rows,
                    uint32_t dim)
{
    for (uint32_t j = 0; j < rows; j++, offset += row, out += dim) {
        if (dtype == HS_F32) {
            memcpy(out, page + offset * 4, dim * sizeof(float));
            continue;
        }
        const uint16_t *h = (const uint16_t *)(const void *)page + offset;
        for (uint32_t d = 0; d < dim; d++)
            out[d] = hs_half(h[d]);
    }
}

/*
 * Blocks of HS_GRID positions on the absolute grid.  In each block: its own maximum m, weights exp(s - m) and their
 * sum, the weighted values in ascending order; then blocks are folded in ascending order, both sides scaled to the
 * larger maximum.  Coded blocks come first: scored with rotated queries, folded as rotated values, and un-rotated once
 * before the first plain block.
 */
static void ref_attend(const hs_kv_view *kv, uint32_t kv_heads, uint32_t kv_head, uint32_t head_dim, uint32_t group,
                       uint32_t first, uint32_t n, const float *q, size_t q_stride, size_t q_head_stride, float *out,
                       size_t out_stride, float scale, float *scratch)
{
    float *keys = scratch, *values = keys + (size_t)HS_GRID * head_dim, *weight = values + (size_t)HS_GRID * head_dim;
    float *part = weight + HS_GRID, *state = part + head_dim; /* state: max, sum, acc[head_dim] */
    size_t row = (size_t)kv_heads * head_dim, state_floats = 2 + (size_t)head_dim;
    float *rotated = hs_attend_rotated(scratch, head_dim, group);
    uint32_t last = first + n - 1, coded = kv->coded ? hs_kv_coded_count(last) : 0, blocks = head_dim / HS_BLOCK;
    assert(n <= HS_ATTEND_TOKENS && (!coded || first / HS_GRID == last / HS_GRID));
    for (uint32_t i = 0; coded && i < n * group; i++) {
        memcpy(rotated + (size_t)i * head_dim, q + i / group * q_stride + i % group * q_head_stride,
               head_dim * sizeof *q);
        hs_kv_rotate(rotated + (size_t)i * head_dim, head_dim);
    }
    if (!hs_attend_resume(kv, last, n, group, head_dim, out, out_stride, state))
        return;
    for (uint32_t b = kv->from; b < hs_attend_end(kv, last); b++) {
        uint32_t held = last - b * HS_GRID < HS_GRID ? last - b * HS_GRID + 1 : HS_GRID;
        size_t at = (size_t)kv_head * head_dim, block = (size_t)kv_head * HS_GRID * blocks;
        for (uint32_t i = 0; coded && b == coded && i < n * group; i++)
            hs_kv_rotate(state + i * state_floats + 2, head_dim);
        if (b < coded) {
            hs_kv_decode(kv->coded[b], &kv->layout.k, block, HS_GRID * blocks, keys);
            hs_kv_decode(kv->coded[b], &kv->layout.v, block, HS_GRID * blocks, values);
        } else {
            load_kv(keys, kv->page[b], kv->dtype, at, row, held, head_dim);
            load_kv(values, kv->page[b], kv->dtype, HS_GRID * row + at, row, held, head_dim);
        }
        for (uint32_t t = 0; t < n; t++) {
            if (first + t < b * HS_GRID)
                continue;
            uint32_t seen = first + t - b * HS_GRID + 1; /* causal */
            seen = seen < HS_GRID ? seen : HS_GRID;
            for (uint32_t h = 0; h < group; h++) {
                const float *qh =
                    b < coded ? rotated + ((size_t)t * group + h) * head_dim : q + t * q_stride + h * q_head_stride;
                float *st = state + ((size_t)t * group + h) * state_floats, *acc = st + 2;
                float m = -INFINITY, sum = 0.0f;
                for (uint32_t j = 0; j < seen; j++) {
                    weight[j] = dot(qh, keys + (size_t)j * head_dim, head_dim) * scale;
                    m = weight[j] > m ? weight[j] : m;
                }
                memset(part, 0, head_dim * sizeof *part);
                for (uint32_t j = 0; j < seen; j++) {
                    weight[j] = hs_exp(weight[j] - m);
                    sum += weight[j];
                    axpy(part, weight[j], values + (size_t)j * head_dim, head_dim);
                }
                if (b == 0) {
                    st[0] = m;
                    st[1] = sum;
                    memcpy(acc, part, head_dim * sizeof *acc);
                    continue;
                }
                float top = st[0] > m ? st[0] : m, old = hs_exp(st[0] - top), new = hs_exp(m - top);
                st[0] = top;
                st[1] = fmaf(st[1], old, sum * new);
                for (uint32_t d = 0; d < head_dim; d++)
                    acc[d] = fmaf(acc[d], old, part[d] * new);
            }
        }
    }
    if (hs_attend_pause(kv, last, n, group, head_dim, out, out_stride, state))
        return;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < group; h++) {
            const float *st = state + ((size_t)t * group + h) * state_floats;
            for (uint32_t d = 0; d < head_dim; d++)
                out[t * out_stride + (size_t)h * head_dim + d] = st[2 + d] / st[1];
        }
}

/* ---- router --------------------------------------------------------------------------------- */

static void ref_top_k(const float *l, uint32_t experts, uint32_t used, int32_t *id, float *weight)
{
    float total = 0.0f;
    for (uint32_t r = 0; r < used; r++) {
        int32_t best = -1;
        for (uint32_t e = 0; e < experts; e++) {
            bool taken = false;
            for (uint32_t i = 0; i < r; i++)
                taken |= id[i] == (int32_t)e;
            if (!taken && (best < 0 || l[e] > l[best]))
                best = (int32_t)e;
        }
        id[r] = best;
        weight[r] = hs_exp(l[best] - l[id[0]]);
        total += weight[r];
    }
    for (uint32_t r = 0; r < used; r++)
        weight[r] /= total;
}

const hs_cpu_ops HS_REF_TABLE = {
    .name = "ref",
    .q8 = ref_q8,
    .q8_flat = ref_q8_flat,
    .gemm = ref_gemm,
    .gemm_plain = ref_gemm_plain,
    .gemm_exact = ref_gemm_exact,
    .rms_norm = ref_rms_norm,
    .l2_norm = ref_l2_norm,
    .gated_norm = ref_gated_norm,
    .swiglu = ref_swiglu,
    .gate = ref_gate,
    .rotate = ref_rotate,
    .to_half = ref_to_half,
    .combine = ref_combine,
    .conv = ref_conv,
    .delta_step = ref_delta_step,
    .delta_chunk = ref_delta_chunk,
    .attend = ref_attend,
    .top_k = ref_top_k,
};
