/*
 * kernels/cpu/avx512.c - packed products with AVX-512 VNNI and VBMI, bit for bit those of ref.c.
 *
 * One to three tokens: a row's blocks are dotted in registers, eight block sums at a time leave through one shuffle tree, and
 * the fma chain runs on 16 rows at once after a transpose.  DRAM-bound: planes are read in order with software prefetch.
 *
 * More tokens: 32 rows of one block are decoded once into a tile whose lanes are rows (dword s of the tile holds weights
 * 4s..4s+3 of each row), so that no sum crosses lanes: a token's four activations are broadcast against it.
 */
#include "kernels/cpu/avx512_decode.h"
#include "kernels/cpu/ops.h"

#include <assert.h>

enum {
    AHEAD = 8192,  /* bytes of prefetch: 0.94 of the read rate on Zen 5, shorter distances are slower */
    CHUNK = 64,    /* blocks of a row between two transposes */
    FEW = 3,       /* tokens that go through the one-token path */
    TILE_ROWS = 32,
    TILE_TOKENS = 8
};

/* ---- shuffles ------------------------------------------------------------------------------- */

/* Lane sums of eight vectors, in order. */
static inline __m256i sum8(const __m512i *v)
{
    __m512i t0 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i t1 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    __m512i t2 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[4], v[5]), _mm512_unpackhi_epi32(v[4], v[5]));
    __m512i t3 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[6], v[7]), _mm512_unpackhi_epi32(v[6], v[7]));
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi64(t0, t1), _mm512_unpackhi_epi64(t0, t1));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi64(t2, t3), _mm512_unpackhi_epi64(t2, t3));
    __m512i c = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    __m256i l = _mm512_castsi512_si256(c), h = _mm512_extracti64x4_epi64(c, 1);
    return _mm256_add_epi32(_mm256_permute2x128_si256(l, h, 0x20), _mm256_permute2x128_si256(l, h, 0x31));
}

/* 16 x 16 dwords: row i, column j to row j, column i. */
static inline void transpose(__m512i *r)
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        __m512i c = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd), d = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, b, 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(a, b, 0xdd);
        t[i + 4] = _mm512_shuffle_i32x4(c, d, 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}

/* ---- few tokens ----------------------------------------------------------------------------- */

/* Block sums and factors of 16 rows over one chunk, before the transpose. */
typedef struct chunk {
    int32_t isum[16][CHUNK];
    float factor[16][CHUNK]; /* norm * activation scale */
} chunk;

static inline __attribute__((always_inline)) __m512i block_dot(uint32_t bits, const hs_tables512 *t, const uint8_t *low,
                                                               const uint8_t *high, const int8_t *x)
{
    __m512i a, b, x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64);
    hs_codes512(bits, low, high, &a, &b);
    __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), hs_lookup512(t->main, a), x0);
    s = _mm512_dpbusd_epi32(s, hs_lookup512(t->main, b), x1);
    if (bits == 6) { /* 128 hi + lo */
        __m512i l = _mm512_dpbusd_epi32(_mm512_setzero_si512(), hs_lookup512(t->low, a), x0);
        l = _mm512_dpbusd_epi32(l, hs_lookup512(t->low, b), x1);
        s = _mm512_add_epi32(_mm512_slli_epi32(s, 7), l);
    }
    return s;
}

/* sum (2k + 1) q from sum u q: u = 128 + k, or 128 (128 + hi) + lo for Q6. */
static inline __m512i isum_of(uint32_t bits, __m512i dot, __m512i sum)
{
    const __m512i off = _mm512_set1_epi32(bits == 6 ? 2 * 128 * 128 - 1 : 255);
    return _mm512_sub_epi32(_mm512_slli_epi32(dot, 1), _mm512_mullo_epi32(sum, off));
}

/* One row over nb blocks from block b0. */
static inline __attribute__((always_inline)) void row_sums(uint32_t bits, const hs_matrix *w, const hs_tables512 *t, size_t at,
                                                           uint32_t nb, const int8_t *q, const float *scale, const int32_t *sum,
                                                           int32_t *isum, float *factor)
{
    const uint32_t low_block = bits <= 3 ? 32 : 64, high_block = bits == 6 ? 32 : bits == 3 || bits == 5 ? 16 : 0;
    const uint8_t *low = w->low + at * low_block, *high = high_block ? w->high + at * high_block : NULL;
    for (uint32_t g = 0; g < nb; g += 8) {
        __m512i v[8];
        const uint8_t *l = low + (size_t)g * low_block, *h = high_block ? high + (size_t)g * high_block : NULL;
        const int8_t *x = q + (size_t)g * HS_BLOCK;
        if (nb - g >= 8) {
#pragma GCC unroll 8
            for (uint32_t b = 0; b < 8; b++) {
                if (b % (64 / low_block) == 0)
                    _mm_prefetch((const char *)l + b * low_block + AHEAD, _MM_HINT_T0);
                if (high_block && b % (64 / (high_block ? high_block : 64)) == 0)
                    _mm_prefetch((const char *)h + b * high_block + AHEAD / 4, _MM_HINT_T0);
                v[b] = block_dot(bits, t, l + b * low_block, high_block ? h + b * high_block : NULL, x + b * HS_BLOCK);
            }
        } else {
            for (uint32_t b = 0; b < 8; b++)
                v[b] = g + b < nb ? block_dot(bits, t, l + b * low_block, high_block ? h + b * high_block : NULL, x + b * HS_BLOCK)
                                  : _mm512_setzero_si512();
        }
        _mm256_storeu_si256((__m256i *)(void *)(isum + g), sum8(v));
    }
    const uint8_t *norms = w->norms + at * 2;
    for (uint32_t i = 0; i < nb; i += 16) {
        __mmask16 in = nb - i >= 16 ? 0xFFFF : (__mmask16)((1u << (nb - i)) - 1);
        __m512 n = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(in, norms + 2 * i));
        __m512i s = _mm512_maskz_loadu_epi32(in, sum + i), d = _mm512_maskz_loadu_epi32(in, isum + i);
        _mm512_storeu_ps(factor + i, _mm512_mul_ps(n, _mm512_maskz_loadu_ps(in, scale + i)));
        _mm512_storeu_si512(isum + i, isum_of(bits, d, s));
    }
}

/* Continues 16 rows' totals over a chunk: the fma chain of each segment, then its sum. */
static inline __m512 chain(const chunk *c, uint32_t nb, __m512 total)
{
    for (uint32_t g = 0; g < nb; g += 16) {
        __m512i p[16], f[16];
        for (int i = 0; i < 16; i++) {
            p[i] = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_loadu_si512(c->isum[i] + g)));
            f[i] = _mm512_castps_si512(_mm512_loadu_ps(c->factor[i] + g));
        }
        transpose(p);
        transpose(f);
        for (uint32_t s = 0; s < 16 && g + s < nb; s += 8) {
            __m512 seg = _mm512_setzero_ps();
            for (uint32_t b = s; b < s + 8; b++) /* blocks past the end have the factor and the sum zero */
                seg = _mm512_fmadd_ps(_mm512_castsi512_ps(f[b]), _mm512_castsi512_ps(p[b]), seg);
            total = _mm512_add_ps(total, seg);
        }
    }
    return total;
}

static inline __attribute__((always_inline)) void gemv(uint32_t bits, const hs_matrix *w, const hs_act *a, size_t token,
                                                       uint32_t first, uint32_t last, float *y)
{
    const hs_tables512 t = hs_tables512_of(w->book);
    const __m512 scale = _mm512_set1_ps(w->book->scale);
    chunk c;
    for (uint32_t r = first; r < last; r += 16) {
        uint32_t rows = last - r < 16 ? last - r : 16;
        __m512 total = _mm512_setzero_ps();
        for (uint32_t b = 0; b < w->blocks; b += CHUNK) {
            uint32_t nb = w->blocks - b < CHUNK ? w->blocks - b : CHUNK;
            size_t x = token * a->blocks + b;
            for (uint32_t i = 0; i < rows; i++)
                row_sums(bits, w, &t, (size_t)(r + i) * w->blocks + b, nb, a->q + x * HS_BLOCK, a->scale + x, a->sum + x,
                         c.isum[i], c.factor[i]);
            for (uint32_t i = rows; i < 16; i++) {
                memset(c.isum[i], 0, sizeof c.isum[i]);
                memset(c.factor[i], 0, sizeof c.factor[i]);
            }
            total = chain(&c, nb, total);
        }
        _mm512_mask_storeu_ps(y + r, (__mmask16)((1u << rows) - 1), _mm512_mul_ps(total, scale));
    }
}

/* ---- many tokens ---------------------------------------------------------------------------- */

/* 32 rows of one block with rows as lanes; dword s of half h: weights 4s..4s+3 of rows 16h..16h+15. */
typedef struct tile {
    __m512i main[32][2];
    __m512i low[32][2]; /* Q6 */
    __m512 norm[2];
} tile;

static inline __attribute__((always_inline)) void decode_tile(uint32_t bits, const hs_matrix *w, const hs_tables512 *t,
                                                              uint32_t first, uint32_t rows, uint32_t block, tile *out)
{
    const uint32_t low_block = bits <= 3 ? 32 : 64, high_block = bits == 6 ? 32 : bits == 3 || bits == 5 ? 16 : 0;
    for (uint32_t h = 0; h < 2; h++) {
        __m512i a[16], b[16], c[16], d[16];
        uint16_t norm[16] = {0};
        for (uint32_t i = 0; i < 16; i++) {
            uint32_t row = 16 * h + i;
            a[i] = b[i] = c[i] = d[i] = _mm512_setzero_si512();
            if (row >= rows)
                continue;
            size_t at = (size_t)(first + row) * w->blocks + block;
            __m512i x, z;
            hs_codes512(bits, w->low + at * low_block, high_block ? w->high + at * high_block : NULL, &x, &z);
            a[i] = hs_lookup512(t->main, x);
            b[i] = hs_lookup512(t->main, z);
            if (bits == 6) {
                c[i] = hs_lookup512(t->low, x);
                d[i] = hs_lookup512(t->low, z);
            }
            memcpy(&norm[i], w->norms + at * 2, 2);
        }
        transpose(a);
        transpose(b);
        for (int s = 0; s < 16; s++) {
            out->main[s][h] = a[s];
            out->main[16 + s][h] = b[s];
        }
        if (bits == 6) {
            transpose(c);
            transpose(d);
            for (int s = 0; s < 16; s++) {
                out->low[s][h] = c[s];
                out->low[16 + s][h] = d[s];
            }
        }
        out->norm[h] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)norm));
    }
}

/* Sums of n <= 8 tokens against one tile, added to their segments: seg [token][2] of 16 rows. */
static inline __attribute__((always_inline)) void multiply_tile(uint32_t bits, const tile *w, const int8_t *const *x,
                                                                const float *scale, const int32_t *sum, uint32_t n,
                                                                __m512 (*seg)[2])
{
    __m512i d[TILE_TOKENS][2], l[TILE_TOKENS][2];
    for (uint32_t t = 0; t < n; t++)
        d[t][0] = d[t][1] = l[t][0] = l[t][1] = _mm512_setzero_si512();
    for (int s = 0; s < 32; s++) {
        __m512i w0 = w->main[s][0], w1 = w->main[s][1];
        for (uint32_t t = 0; t < n; t++) {
            int32_t four;
            memcpy(&four, x[t] + 4 * s, 4);
            __m512i q = _mm512_set1_epi32(four);
            d[t][0] = _mm512_dpbusd_epi32(d[t][0], w0, q);
            d[t][1] = _mm512_dpbusd_epi32(d[t][1], w1, q);
        }
    }
    if (bits == 6)
        for (int s = 0; s < 32; s++)
            for (uint32_t t = 0; t < n; t++) {
                int32_t four;
                memcpy(&four, x[t] + 4 * s, 4);
                __m512i q = _mm512_set1_epi32(four);
                l[t][0] = _mm512_dpbusd_epi32(l[t][0], w->low[s][0], q);
                l[t][1] = _mm512_dpbusd_epi32(l[t][1], w->low[s][1], q);
            }
    for (uint32_t t = 0; t < n; t++)
        for (int h = 0; h < 2; h++) {
            __m512i dot = bits == 6 ? _mm512_add_epi32(_mm512_slli_epi32(d[t][h], 7), l[t][h]) : d[t][h];
            __m512 isum = _mm512_cvtepi32_ps(isum_of(bits, dot, _mm512_set1_epi32(sum[t])));
            seg[t][h] = _mm512_fmadd_ps(_mm512_mul_ps(w->norm[h], _mm512_set1_ps(scale[t])), isum, seg[t][h]);
        }
}

static inline __attribute__((always_inline)) void gemm(uint32_t bits, const hs_matrix *w, const hs_act *a,
                                                       const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                                                       float *y, size_t stride)
{
    const hs_tables512 tables = hs_tables512_of(w->book);
    const __m512 scale = _mm512_set1_ps(w->book->scale);
    __m512 seg[HS_BATCH_MAX][2], total[HS_BATCH_MAX][2];
    tile t;
    for (uint32_t r = first; r < last; r += TILE_ROWS) {
        uint32_t rows = last - r < TILE_ROWS ? last - r : TILE_ROWS;
        for (uint32_t k = 0; k < n; k++)
            total[k][0] = total[k][1] = _mm512_setzero_ps();
        for (uint32_t b = 0; b < w->blocks; b++) {
            decode_tile(bits, w, &tables, r, rows, b, &t);
            if (b % 8 == 0)
                for (uint32_t k = 0; k < n; k++)
                    seg[k][0] = seg[k][1] = _mm512_setzero_ps();
            for (uint32_t k = 0; k < n; k += TILE_TOKENS) {
                uint32_t m = n - k < TILE_TOKENS ? n - k : TILE_TOKENS;
                const int8_t *x[TILE_TOKENS];
                float s[TILE_TOKENS];
                int32_t sum[TILE_TOKENS];
                for (uint32_t i = 0; i < m; i++) {
                    size_t at = (token ? token[k + i] : k + i) * (size_t)a->blocks + b;
                    x[i] = a->q + at * HS_BLOCK;
                    s[i] = a->scale[at];
                    sum[i] = a->sum[at];
                }
                if (m == TILE_TOKENS) /* constant count: everything stays in registers */
                    multiply_tile(bits, &t, x, s, sum, TILE_TOKENS, seg + k);
                else if (m >= 4) {
                    multiply_tile(bits, &t, x, s, sum, 4, seg + k);
                    multiply_tile(bits, &t, x + 4, s + 4, sum + 4, m - 4, seg + k + 4);
                } else
                    multiply_tile(bits, &t, x, s, sum, m, seg + k);
            }
            if (b % 8 == 7 || b + 1 == w->blocks)
                for (uint32_t k = 0; k < n; k++)
                    for (int h = 0; h < 2; h++)
                        total[k][h] = _mm512_add_ps(total[k][h], seg[k][h]);
        }
        for (uint32_t k = 0; k < n; k++)
            for (uint32_t h = 0; h < 2 && 16 * h < rows; h++) {
                uint32_t left = rows - 16 * h;
                __mmask16 in = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
                _mm512_mask_storeu_ps(y + k * stride + r + 16 * h, in, _mm512_mul_ps(total[k][h], scale));
            }
    }
}

/* ---- the table ------------------------------------------------------------------------------ */

#define STAMP(BITS)                                                                                                    \
    static void gemm_q##BITS(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,   \
                             uint32_t last, float *y, size_t stride)                                                   \
    {                                                                                                                  \
        if (n > FEW) {                                                                                                 \
            gemm(BITS, w, a, token, n, first, last, y, stride);                                                        \
            return;                                                                                                    \
        }                                                                                                              \
        for (uint32_t t = 0; t < n; t++)                                                                               \
            gemv(BITS, w, a, token ? token[t] : t, first, last, y + t * stride);                                       \
    }

STAMP(2)
STAMP(3)
STAMP(4)
STAMP(5)
STAMP(6)

static void avx512_gemm(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                        float *y, size_t stride)
{
    assert(n <= HS_BATCH_MAX && a->cols == w->cols);
    switch (w->dtype) {
    case HS_Q2: gemm_q2(w, a, token, n, first, last, y, stride); return;
    case HS_Q3: gemm_q3(w, a, token, n, first, last, y, stride); return;
    case HS_Q4: gemm_q4(w, a, token, n, first, last, y, stride); return;
    case HS_Q5: gemm_q5(w, a, token, n, first, last, y, stride); return;
    case HS_Q6: gemm_q6(w, a, token, n, first, last, y, stride); return;
    default: assert(!"packed");
    }
}

void hs_cpu_avx512_install(hs_cpu_ops *ops)
{
    ops->name = "avx512";
    ops->gemm = avx512_gemm;
}
