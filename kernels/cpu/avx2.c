/*
 * kernels/cpu/avx2.c - packed products with AVX2 and FMA, bit for bit those of ref.c.
 *
 * There is no unsigned-by-signed dot product of four, so |x| is the unsigned side of vpmaddubsw and the level's k,
 * negated where x is negative, the signed one: 127 * 127 * 2 fits 16 bits, which is why k stays below 127.  The eight
 * block sums of a segment leave through one tree of horizontal additions.
 */
#include "kernels/cpu/ops.h"

#include <assert.h>
#include <immintrin.h>

enum { AHEAD = 4096, TOKENS = 4 };

/* Tables of 16 bytes, twice: k by magnitude. Q6: k = 128 hi + lo by five bits, so two tables of each. */
typedef struct tables {
    __m256i main[2], low[2];
} tables;

static inline __m256i twice(const uint8_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static tables tables_of(const hs_codebook *book)
{
    uint8_t main[32] = {0}, low[32] = {0};
    for (uint32_t m = 0; m < 1u << (book->bits - 1); m++) {
        main[m] = (uint8_t)(book->bits == 6 ? book->k[m] >> 7 : book->k[m]);
        low[m] = (uint8_t)(book->k[m] & 127);
    }
    return (tables){{twice(main), twice(main + 16)}, {twice(low), twice(low + 16)}};
}

/* Bytes of 0xFF where the plane has a one, for weights 32h..32h+31 of the 128. */
static inline __m256i bits_of(const uint8_t *plane, int h)
{
    /* The lane of 16 weights 16i.. of the first 64 reads bytes 4i and 4i + 2; of the last 64, the bytes after those. */
    const __m256i pattern =
        _mm256_set_epi8(6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0);
    const __m256i bit =
        _mm256_set_epi64x(0x0101020204040808, 0x1010202040408080, 0x0101020204040808, 0x1010202040408080);
    __m256i at = _mm256_add_epi8(pattern, _mm256_set1_epi8((char)(8 * (h & 1) + (h >> 1))));
    __m256i p = _mm256_shuffle_epi8(twice(plane), at);
    return _mm256_cmpeq_epi8(_mm256_and_si256(p, bit), bit);
}

/* Signed k of weights 32h..32h+31; for Q6 hi, and *lo with its own sign rule (complement of 7 bits). */
static inline __attribute__((always_inline)) __m256i values(uint32_t bits, const tables *t, const uint8_t *low,
                                                            const uint8_t *high, int h, __m256i *lo)
{
    __m256i m, negative;
    if (bits <= 3) {
        /* Bytes 16 (h & 1).. hold weights of 32 (h & 1)..: k, k + 8 in turn; the upper half of the block two bits
         * higher up. */
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(low + 16 * (h & 1)));
        __m256i v = _mm256_permute4x64_epi64(_mm256_castsi128_si256(b), 0x50); /* 0 0 1 1 */
        int up = 4 * (h >> 1);
        v = _mm256_srlv_epi64(v, _mm256_set_epi64x(2 + up, up, 2 + up, up));
        v = _mm256_and_si256(v, _mm256_set1_epi8(3));
        if (bits == 2) {
            m = _mm256_and_si256(v, _mm256_set1_epi8(1));
            negative = _mm256_cmpeq_epi8(_mm256_and_si256(v, _mm256_set1_epi8(2)), _mm256_set1_epi8(2));
        } else {
            m = v;
            negative = bits_of(high, h);
        }
    } else {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(low + 32 * (h & 1)));
        v = _mm256_and_si256(h >> 1 ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
        if (bits == 4) {
            m = _mm256_and_si256(v, _mm256_set1_epi8(7));
            negative = _mm256_cmpeq_epi8(_mm256_and_si256(v, _mm256_set1_epi8(8)), _mm256_set1_epi8(8));
        } else {
            m = v;
            negative = bits_of(bits == 6 ? high + 16 : high, h);
        }
    }
    if (bits != 6)
        return _mm256_xor_si256(_mm256_shuffle_epi8(t->main[0], m), negative);
    __m256i upper = bits_of(high, h);
    __m256i hi = _mm256_blendv_epi8(_mm256_shuffle_epi8(t->main[0], m), _mm256_shuffle_epi8(t->main[1], m), upper);
    *lo = _mm256_blendv_epi8(_mm256_shuffle_epi8(t->low[0], m), _mm256_shuffle_epi8(t->low[1], m), upper);
    *lo = _mm256_xor_si256(*lo, _mm256_and_si256(negative, _mm256_set1_epi8(127)));
    return _mm256_xor_si256(hi, negative);
}

/* sum k x over 32 weights, as eight partial sums. */
static inline __m256i dot32(__m256i k, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(k, x));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

static inline __m256i load_x(const int8_t *x, int h)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(x + 32 * h));
}

/* Lane sums of eight vectors, in order. */
static inline __m256i sum8(const __m256i *v)
{
    __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/* Rows first..last-1 for n <= TOKENS tokens: a block is decoded once for all of them. */
static inline __attribute__((always_inline)) void rows_of(uint32_t bits, const hs_matrix *w, const hs_act *a,
                                                          const size_t *token, uint32_t n, uint32_t first,
                                                          uint32_t last, float *const *y)
{
    const uint32_t low_block = bits <= 3 ? 32 : 64, high_block = bits == 6 ? 32 : bits == 3 || bits == 5 ? 16 : 0;
    const tables t = tables_of(w->book);
    for (uint32_t r = first; r < last; r++) {
        float total[TOKENS] = {0};
        for (uint32_t b0 = 0; b0 < w->blocks; b0 += 8) {
            uint32_t nb = w->blocks - b0 < 8 ? w->blocks - b0 : 8;
            size_t at = (size_t)r * w->blocks + b0;
            __m256i d[TOKENS][8];
            for (uint32_t b = 0; b < 8; b++) {
                for (uint32_t k = 0; k < n; k++)
                    d[k][b] = _mm256_setzero_si256();
                if (b >= nb)
                    continue;
                const uint8_t *low = w->low + (at + b) * low_block,
                              *high = high_block ? w->high + (at + b) * high_block : NULL;
                _mm_prefetch((const char *)low + AHEAD, _MM_HINT_T0);
                for (int h = 0; h < 4; h++) {
                    __m256i lo, v = values(bits, &t, low, high, h, &lo);
                    for (uint32_t k = 0; k < n; k++) {
                        __m256i x = load_x(a->q + (token[k] * a->blocks + b0 + b) * HS_BLOCK, h), s = dot32(v, x);
                        if (bits == 6)
                            s = _mm256_add_epi32(_mm256_slli_epi32(s, 7), dot32(lo, x));
                        d[k][b] = _mm256_add_epi32(d[k][b], s);
                    }
                }
            }
            __m256 norm = _mm256_setzero_ps();
            uint16_t half[8] = {0};
            memcpy(half, w->norms + at * 2, nb * 2);
            norm = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)half));
            for (uint32_t k = 0; k < n; k++) {
                float isum[8], factor[8], scale[8] = {0}, seg = 0.0f;
                int32_t sum[8] = {0};
                size_t x = token[k] * a->blocks + b0;
                memcpy(scale, a->scale + x, nb * sizeof *scale);
                memcpy(sum, a->sum + x, nb * sizeof *sum);
                __m256i dot = sum8(d[k]);
                dot = _mm256_add_epi32(_mm256_add_epi32(dot, dot),
                                       _mm256_loadu_si256((const __m256i *)(const void *)sum));
                _mm256_storeu_ps(isum, _mm256_cvtepi32_ps(dot));
                _mm256_storeu_ps(factor, _mm256_mul_ps(norm, _mm256_loadu_ps(scale)));
                for (uint32_t b = 0; b < nb; b++)
                    seg = __builtin_fmaf(factor[b], isum[b], seg);
                total[k] += seg;
            }
        }
        for (uint32_t k = 0; k < n; k++)
            y[k][r] = total[k] * w->book->scale;
    }
}

static inline __attribute__((always_inline)) void gemm(uint32_t bits, const hs_matrix *w, const hs_act *a,
                                                       const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                                                       float *y, size_t stride)
{
    for (uint32_t k = 0; k < n; k += TOKENS) {
        uint32_t m = n - k < TOKENS ? n - k : TOKENS;
        size_t at[TOKENS];
        float *out[TOKENS];
        for (uint32_t i = 0; i < m; i++) {
            at[i] = token ? token[k + i] : k + i;
            out[i] = y + (k + i) * stride;
        }
        if (m == TOKENS) /* constant counts stay in registers */
            rows_of(bits, w, a, at, TOKENS, first, last, out);
        else if (m == 1)
            rows_of(bits, w, a, at, 1, first, last, out);
        else
            rows_of(bits, w, a, at, m, first, last, out);
    }
}

#define STAMP(BITS)                                                                                                    \
    static void gemm_q##BITS(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,   \
                             uint32_t last, float *y, size_t stride)                                                   \
    {                                                                                                                  \
        gemm(BITS, w, a, token, n, first, last, y, stride);                                                            \
    }

STAMP(2)
STAMP(3)
STAMP(4)
STAMP(5)
STAMP(6)

static void avx2_gemm(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                      uint32_t last, float *y, size_t stride)
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

void hs_cpu_avx2_install(hs_cpu_ops *ops)
{
    ops->name = "avx2";
    ops->gemm = avx2_gemm;
}
