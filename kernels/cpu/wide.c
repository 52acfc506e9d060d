/*
 * kernels/cpu/wide.c - the vector loops of a step on 16 lanes, bit for bit those of ref.c; compiled for AVX2 and
 * AVX-512.
 *
 * Unquantised products keep several rows and tokens in flight, because one sum of the contract is a chain of dependent
 * additions: its latency, not the memory, bounds a single row.  Shapes that are not multiples of 16 go to ref.c.
 */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd16.h"
#include "kernels/numeric.h"

#include <assert.h>

#if defined(__AVX512F__)
#define INSTALL hs_cpu_wide_avx512_install
enum { TILE_ROWS = 4, TILE_TOKENS = 4 };
#else
#define INSTALL hs_cpu_wide_avx2_install
enum { TILE_ROWS = 2, TILE_TOKENS = 2 };
#endif

enum { LANES = 16, SEGMENT = 8 * HS_BLOCK, ROWS_ALONE = 8, TOKENS_EXACT = 4 };

#define INLINE static inline __attribute__((always_inline))

/* ---- unquantised products ------------------------------------------------------------------- */

INLINE v16 weight(hs_dtype dtype, const uint8_t *row, size_t i)
{
    if (dtype == HS_F32)
        return v16_load((const float *)(const void *)(row + 4 * i));
    return dtype == HS_BF16 ? v16_bf16(row + 2 * i) : v16_half(row + 2 * i);
}

/* Rows r.. and tokens x[0..tokens-1]: y[t * stride + r]. */
INLINE void plain_tile(hs_dtype dtype, uint32_t rows, uint32_t tokens, const uint8_t *w, size_t row_bytes,
                       uint32_t cols, const float *const *x, float *const *y)
{
    float total[ROWS_ALONE][TOKENS_EXACT] = {{0}};
    for (uint32_t c = 0; c < cols; c += SEGMENT) {
        uint32_t end = cols - c < SEGMENT ? cols : c + SEGMENT;
        v16 acc[ROWS_ALONE][TOKENS_EXACT];
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t t = 0; t < tokens; t++)
                acc[r][t] = v16_zero();
        for (uint32_t i = c; i < end; i += LANES) {
            v16 in[TOKENS_EXACT];
            for (uint32_t t = 0; t < tokens; t++)
                in[t] = v16_load(x[t] + i);
            for (uint32_t r = 0; r < rows; r++) {
                v16 v = weight(dtype, w + r * row_bytes, i);
                for (uint32_t t = 0; t < tokens; t++)
                    acc[r][t] = v16_fma(v, in[t], acc[r][t]);
            }
        }
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t t = 0; t < tokens; t++)
                total[r][t] += v16_sum(acc[r][t]);
    }
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t t = 0; t < tokens; t++)
            y[t][r] = total[r][t];
}

INLINE void plain(hs_dtype dtype, const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n,
                  uint32_t first, uint32_t last, float *y, size_t stride)
{
    size_t row_bytes = (size_t)w->cols * (dtype == HS_F32 ? 4 : 2);
    uint32_t step = n == 1 ? ROWS_ALONE : TILE_ROWS;
    for (uint32_t r = first; r < last; r += step) {
        const uint8_t *row = w->low + r * row_bytes;
        bool full = last - r >= step;
        for (uint32_t k = 0; k < n; k += TILE_TOKENS) {
            uint32_t m = n - k < TILE_TOKENS ? n - k : TILE_TOKENS;
            const float *x[TILE_TOKENS];
            float *out[TILE_TOKENS];
            for (uint32_t i = 0; i < m; i++) {
                x[i] = a->x + (token ? token[k + i] : k + i) * (size_t)a->cols;
                out[i] = y + (k + i) * stride + r;
            }
            if (full && n == 1)
                plain_tile(dtype, ROWS_ALONE, 1, row, row_bytes, w->cols, x, out);
            else if (full && m == TILE_TOKENS)
                plain_tile(dtype, TILE_ROWS, TILE_TOKENS, row, row_bytes, w->cols, x, out);
            else
                for (uint32_t i = 0; i < m; i++)
                    for (uint32_t j = 0; j < (full ? step : last - r); j++) {
                        float *one = out[i] + j;
                        plain_tile(dtype, 1, 1, row + j * row_bytes, row_bytes, w->cols, &x[i], &one);
                    }
        }
    }
}

#define STAMP(NAME, DTYPE)                                                                                             \
    static void plain_##NAME(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,   \
                             uint32_t last, float *y, size_t stride)                                                   \
    {                                                                                                                  \
        plain(DTYPE, w, a, token, n, first, last, y, stride);                                                          \
    }

STAMP(f32, HS_F32)
STAMP(f16, HS_F16)
STAMP(bf16, HS_BF16)

static void wide_gemm_plain(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                            uint32_t last, float *y, size_t stride)
{
    assert(a->cols == w->cols);
    if (w->cols % LANES)
        hs_cpu_ref_fma.gemm_plain(w, a, token, n, first, last, y, stride);
    else if (w->dtype == HS_F32)
        plain_f32(w, a, token, n, first, last, y, stride);
    else if (w->dtype == HS_F16)
        plain_f16(w, a, token, n, first, last, y, stride);
    else
        plain_bf16(w, a, token, n, first, last, y, stride);
}

static void wide_gemm_exact(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                            uint32_t last, float *y, size_t stride, float *row)
{
    if (w->cols % LANES) {
        hs_cpu_ref_fma.gemm_exact(w, a, token, n, first, last, y, stride, row);
        return;
    }
    for (uint32_t r = first; r < last; r++) {
        hs_exact_row(w, r, row);
        for (uint32_t k = 0; k < n; k += TOKENS_EXACT) {
            uint32_t m = n - k < TOKENS_EXACT ? n - k : TOKENS_EXACT;
            const float *x[TOKENS_EXACT];
            float *out[TOKENS_EXACT];
            for (uint32_t i = 0; i < m; i++) {
                x[i] = a->x + (token ? token[k + i] : k + i) * (size_t)a->cols;
                out[i] = y + (k + i) * stride + r;
            }
            if (m == TOKENS_EXACT)
                plain_tile(HS_F32, 1, TOKENS_EXACT, (const uint8_t *)row, 0, w->cols, x, out);
            else
                for (uint32_t i = 0; i < m; i++)
                    plain_tile(HS_F32, 1, 1, (const uint8_t *)row, 0, w->cols, &x[i], &out[i]);
        }
    }
}

/* ---- q8 ------------------------------------------------------------------------------------- */

/* One butterfly of each pair (j, j + d) inside a register: a + b, a - b. */
#define PAIRS(v, d, mask) v16_add(v16_flip##d(v), v16_negate(v, mask))

/* LANES * n values to codes and one scale; n is a constant. */
INLINE void quantise(const v16 *v, int n, int8_t *q, float *scale, int32_t *sum)
{
    v16 most = v16_abs(v[0]);
    bool bad = !v16_all_within(v[0], 3.4e38f);
    for (int i = 1; i < n; i++) {
        most = v16_max(most, v16_abs(v[i]));
        bad |= !v16_all_within(v[i], 3.4e38f);
    }
    if (bad) {
        memset(q, 0, (size_t)(LANES * n));
        *scale = NAN;
        *sum = 0;
        return;
    }
    float amax = v16_largest(most);
    bool tiny = amax < 1e-30f;
    v16 inverse = v16_set(tiny ? 0.0f : 127.0f / amax);
    int32_t total = 0;
    for (int i = 0; i < n; i++)
        total += v16_store_int8(q + LANES * i, v16_mul(v[i], inverse));
    *scale = tiny ? 0.0f : amax / 127.0f;
    *sum = total;
}

/* A block of the row, with zeros past the end; `padded` is room for one. */
INLINE const float *whole_block(const float *x, uint32_t cols, float *padded)
{
    if (cols >= HS_BLOCK)
        return x;
    memset(padded, 0, HS_BLOCK * sizeof *padded);
    memcpy(padded, x, cols * sizeof *padded);
    return padded;
}

static void wide_q8(const float *x, uint32_t cols, int8_t *q, float *scale, int32_t *sum)
{
    for (uint32_t b = 0, c = 0; c < cols; b++, c += HS_BLOCK) {
        float padded[HS_BLOCK];
        const float *from = whole_block(x + c, cols - c, padded);
        v16 v[8];
        for (int i = 0; i < 8; i++) {
            v[i] = v16_load(from + LANES * i);
            v[i] = PAIRS(v[i], 1, 0xAAAA);
            v[i] = PAIRS(v[i], 2, 0xCCCC);
            v[i] = PAIRS(v[i], 4, 0xF0F0);
            v[i] = PAIRS(v[i], 8, 0xFF00);
        }
        for (int d = 1; d < 8; d *= 2)
            for (int i = 0; i < 8; i++)
                if (!(i & d)) {
                    v16 a = v[i], e = v[i + d];
                    v[i] = v16_add(a, e);
                    v[i + d] = v16_sub(a, e);
                }
        quantise(v, 8, q + b * HS_BLOCK, &scale[b], &sum[b]);
    }
}

static void wide_q8_flat(const float *x, uint32_t cols, int8_t *q, float *scale, int32_t *sum)
{
    for (uint32_t b = 0, c = 0; c < cols; b++, c += HS_BLOCK) {
        float padded[HS_BLOCK];
        const float *from = whole_block(x + c, cols - c, padded);
        v16 v[8];
        for (int i = 0; i < 8; i++)
            v[i] = v16_load(from + LANES * i);
        quantise(v, 4, q + c, &scale[2 * b], &sum[2 * b]);
        quantise(v + 4, 4, q + c + 64, &scale[2 * b + 1], &sum[2 * b + 1]);
    }
}

/* ---- norms and activations ------------------------------------------------------------------ */

static float sum_of_squares(const float *x, uint32_t n)
{
    v16 s = v16_zero();
    for (uint32_t i = 0; i < n; i += LANES) {
        v16 v = v16_load(x + i);
        s = v16_fma(v, v, s);
    }
    return v16_sum(s);
}

static void wide_rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    if (n % LANES) {
        hs_cpu_ref_fma.rms_norm(x, w, n, eps, y);
        return;
    }
    v16 r = v16_set(1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps)), one = v16_set(1.0f);
    for (uint32_t i = 0; i < n; i += LANES)
        v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), r), v16_add(one, v16_load(w + i))));
}

static void wide_l2_norm(const float *x, uint32_t n, float eps, float scale, float *y)
{
    if (n % LANES) {
        hs_cpu_ref_fma.l2_norm(x, n, eps, scale, y);
        return;
    }
    v16 r = v16_set(1.0f / sqrtf(sum_of_squares(x, n) + eps)), s = v16_set(scale);
    for (uint32_t i = 0; i < n; i += LANES)
        v16_store(y + i, v16_mul(v16_mul(v16_load(x + i), r), s));
}

static void wide_gated_norm(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y)
{
    if (n % LANES) {
        hs_cpu_ref_fma.gated_norm(o, w, z, n, eps, y);
        return;
    }
    v16 r = v16_set(1.0f / sqrtf(sum_of_squares(o, n) / (float)n + eps));
    for (uint32_t i = 0; i < n; i += LANES)
        v16_store(y + i, v16_mul(v16_mul(v16_load(w + i), v16_mul(v16_load(o + i), r)), v16_silu(v16_load(z + i))));
}

static void wide_swiglu(const float *gate, const float *up, uint32_t n, float *h)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v16_store(h + i, v16_mul(v16_silu(v16_load(gate + i)), v16_load(up + i)));
    if (i < n)
        hs_cpu_ref_fma.swiglu(gate + i, up + i, n - i, h + i);
}

static void wide_gate(float *o, const float *g, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v16_store(o + i, v16_mul(v16_load(o + i), v16_sigmoid(v16_load(g + i))));
    if (i < n)
        hs_cpu_ref_fma.gate(o + i, g + i, n - i);
}

static void wide_rotate(float *v, const float *table, uint32_t rotary_dims)
{
    uint32_t half = rotary_dims / 2;
    if (half % LANES) {
        hs_cpu_ref_fma.rotate(v, table, rotary_dims);
        return;
    }
    for (uint32_t j = 0; j < half; j += LANES) {
        v16 a = v16_load(v + j), b = v16_load(v + j + half), c = v16_load(table + j), s = v16_load(table + j + half);
        v16_store(v + j, v16_fma(a, c, v16_neg(v16_mul(b, s))));
        v16_store(v + j + half, v16_fma(b, c, v16_mul(a, s)));
    }
}

static void wide_to_half(uint16_t *h, const float *x, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v16_store_half(h + i, v16_load(x + i));
    if (i < n)
        hs_cpu_ref_fma.to_half(h + i, x + i, n - i);
}

static void wide_combine(float *x, const float *const *y, const float *p, uint32_t count, uint32_t n)
{
    if (n % (2 * LANES)) {
        hs_cpu_ref_fma.combine(x, y, p, count, n);
        return;
    }
    for (uint32_t i = 0; i < n; i += 2 * LANES) {
        v16 a = v16_zero(), b = v16_zero();
        for (uint32_t r = 0; r < count; r++) {
            v16 f = v16_set(p[r]);
            a = v16_fma(f, v16_load(y[r] + i), a);
            b = v16_fma(f, v16_load(y[r] + i + LANES), b);
        }
        v16_store(x + i, v16_add(v16_load(x + i), a));
        v16_store(x + i + LANES, v16_add(v16_load(x + i + LANES), b));
    }
}

/* Four taps, as every model of the family has; others go to ref.c. */
static void wide_conv(const float *c, const float *w, uint32_t taps, uint32_t channels, uint32_t first, uint32_t last,
                      uint32_t n, float *state, float *y)
{
    if (taps != 4 || (last - first) % LANES) {
        hs_cpu_ref_fma.conv(c, w, taps, channels, first, last, n, state, y);
        return;
    }
    for (uint32_t ch = first; ch < last; ch += LANES) {
        v16 tap[4], past[3];
        v16_load_fours(w + (size_t)ch * 4, tap);
        for (int i = 0; i < 3; i++)
            past[i] = v16_load(state + (size_t)i * channels + ch);
        for (uint32_t t = 0; t < n; t++) {
            v16 in = v16_load(c + (size_t)t * channels + ch);
            v16 s = v16_fma(tap[0], past[0], v16_zero());
            s = v16_fma(tap[1], past[1], s);
            s = v16_fma(tap[2], past[2], s);
            s = v16_fma(tap[3], in, s);
            v16_store(y + (size_t)t * channels + ch, v16_silu(s));
            past[0] = past[1];
            past[1] = past[2];
            past[2] = in;
        }
        for (int i = 0; i < 3; i++)
            v16_store(state + (size_t)i * channels + ch, past[i]);
    }
}

/* ---- router --------------------------------------------------------------------------------- */

static void wide_top_k(const float *l, uint32_t experts, uint32_t used, int32_t *id, float *weight)
{
    enum { EXPERTS_HERE = 1024 };
    float left[EXPERTS_HERE];
    bool plain_case = experts % LANES == 0 && experts <= EXPERTS_HERE;
    for (uint32_t e = 0; plain_case && e < experts; e += LANES) {
        v16 v = v16_load(l + e);
        plain_case = v16_all_within(v, 3.4e38f);
        v16_store(left + e, v);
    }
    if (!plain_case) {
        hs_cpu_ref_fma.top_k(l, experts, used, id, weight);
        return;
    }
    float total = 0.0f;
    for (uint32_t r = 0; r < used; r++) {
        v16 most = v16_load(left);
        for (uint32_t e = LANES; e < experts; e += LANES)
            most = v16_max(most, v16_load(left + e));
        v16 best = v16_set(v16_largest(most));
        uint32_t e = 0, mask;
        while (!(mask = v16_equal(v16_load(left + e), best)))
            e += LANES;
        e += (uint32_t)__builtin_ctz(mask);
        id[r] = (int32_t)e;
        left[e] = -INFINITY;
        weight[r] = hs_exp(l[e] - l[id[0]]);
        total += weight[r];
    }
    for (uint32_t r = 0; r < used; r++)
        weight[r] /= total;
}

void INSTALL(hs_cpu_ops *ops)
{
    ops->q8 = wide_q8;
    ops->q8_flat = wide_q8_flat;
    ops->gemm_plain = wide_gemm_plain;
    ops->gemm_exact = wide_gemm_exact;
    ops->rms_norm = wide_rms_norm;
    ops->l2_norm = wide_l2_norm;
    ops->gated_norm = wide_gated_norm;
    ops->swiglu = wide_swiglu;
    ops->gate = wide_gate;
    ops->rotate = wide_rotate;
    ops->to_half = wide_to_half;
    ops->combine = wide_combine;
    ops->conv = wide_conv;
    ops->top_k = wide_top_k;
}
