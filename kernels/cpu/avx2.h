/*
 * kernels/cpu/avx2.h - what the AVX2 products share: decoding of codes, transposes.
 *
 * Levels become signed bytes k, |k| < 127; Q6's become k = 128 hi + lo.
 */
#ifndef HS_KERNELS_CPU_AVX2_H
#define HS_KERNELS_CPU_AVX2_H

#include "kernels/cpu/few.h"

#include <immintrin.h>

/* Tables of 16 bytes, twice: signed k by code (Q2, Q4) or by magnitude. Q6: k = 128 hi + lo by five bits, two each. */
typedef struct tables {
    __m256i main[2], low[2];
} tables;

INLINE __m256i twice(const uint8_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE tables tables_of(const hs_codebook *book)
{
    const __m256i bias = _mm256_set1_epi8((char)0x80);
    return (tables){{_mm256_xor_si256(twice(book->biased), bias), _mm256_xor_si256(twice(book->biased + 16), bias)},
                    {twice(book->biased_low), twice(book->biased_low + 16)}};
}

/* Bytes of 0xFF where the plane has a one, for weights 32h..32h+31 of the 128. */
INLINE __m256i bits_of(const uint8_t *plane, int h)
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

/* The same for the weights that Q3's low plane has at bits 2t: 8 of each 16, in the order of `spread`. */
INLINE __m256i spread_bits_of(const uint8_t *plane, int t)
{
    const __m256i pattern = _mm256_set_epi8(14, 12, 14, 12, 14, 12, 14, 12, 10, 8, 10, 8, 10, 8, 10, 8, 6, 4, 6, 4, 6,
                                            4, 6, 4, 2, 0, 2, 0, 2, 0, 2, 0);
    const __m256i bit = _mm256_set1_epi64x(t & 1 ? 0x0101020204040808 : 0x1010202040408080);
    __m256i p = _mm256_shuffle_epi8(twice(plane), _mm256_add_epi8(pattern, _mm256_set1_epi8((char)(t >> 1))));
    return _mm256_cmpeq_epi8(_mm256_and_si256(p, bit), bit);
}

/* A block of activations as Q2's and Q3's low plane has the weights: vector t has 8 of each 16. */
INLINE void spread(const int8_t *x, int8_t *out)
{
    for (int half = 0; half < 2; half++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(x + 64 * half));
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(x + 64 * half + 32));
        __m256i even = _mm256_permute4x64_epi64(_mm256_unpacklo_epi64(a, b), 0xD8);
        __m256i odd = _mm256_permute4x64_epi64(_mm256_unpackhi_epi64(a, b), 0xD8);
        _mm256_storeu_si256((__m256i *)(void *)(out + 64 * half), even);
        _mm256_storeu_si256((__m256i *)(void *)(out + 64 * half + 32), odd);
    }
}

/* Signed k of the weights that meet vector h of the activations; for Q6 hi, and *lo with the complement of 7 bits. */
INLINE __m256i values(hs_dtype type, const tables *t, const uint8_t *low, const uint8_t *high, int h, __m256i *lo)
{
    if (type <= HS_Q3) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)low);
        v = _mm256_and_si256(h ? _mm256_srli_epi16(v, 2 * h) : v, _mm256_set1_epi8(3));
        v = _mm256_shuffle_epi8(t->main[0], v);
        return type == HS_Q2 ? v : _mm256_xor_si256(v, spread_bits_of(high, h));
    }
    __m256i m = _mm256_loadu_si256((const __m256i *)(const void *)(low + 32 * (h & 1)));
    m = _mm256_and_si256(h >> 1 ? _mm256_srli_epi16(m, 4) : m, _mm256_set1_epi8(15));
    if (type == HS_Q4)
        return _mm256_shuffle_epi8(t->main[0], m);
    if (type == HS_Q5)
        return _mm256_xor_si256(_mm256_shuffle_epi8(t->main[0], m), bits_of(high, h));
    __m256i upper = bits_of(high, h), negative = bits_of(high + 16, h);
    __m256i hi = _mm256_blendv_epi8(_mm256_shuffle_epi8(t->main[0], m), _mm256_shuffle_epi8(t->main[1], m), upper);
    *lo = _mm256_blendv_epi8(_mm256_shuffle_epi8(t->low[0], m), _mm256_shuffle_epi8(t->low[1], m), upper);
    *lo = _mm256_xor_si256(*lo, _mm256_and_si256(negative, _mm256_set1_epi8(127)));
    return _mm256_xor_si256(hi, negative);
}

INLINE void transpose8(__m256 *r)
{
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* ---- many tokens ---------------------------------------------------------------------------- */

enum {
    TILE_ROWS = 16,
    TILES = BAND_ROWS / TILE_ROWS,
    CHUNK_TOKENS = 128 /* that one decoding serves */
};

typedef struct sums {
    _Alignas(32) float seg[CHUNK_TOKENS][BAND_ROWS], total[CHUNK_TOKENS][BAND_ROWS];
} sums;

/* Ends a segment: eight blocks, or the last ones. */
INLINE void end_segment(sums *s, uint32_t n, uint32_t rows)
{
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < rows; i += 8) {
            _mm256_store_ps(s->total[k] + i,
                            _mm256_add_ps(_mm256_load_ps(s->total[k] + i), _mm256_load_ps(s->seg[k] + i)));
            _mm256_store_ps(s->seg[k] + i, _mm256_setzero_ps());
        }
}

INLINE void begin_totals(sums *s, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        memset(s->seg[k], 0, sizeof s->seg[k]);
        memset(s->total[k], 0, sizeof s->total[k]);
    }
}

/* y: of the first token and row. */
INLINE void store_totals(const sums *s, uint32_t n, uint32_t rows, float scale, float *y, size_t stride)
{
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < rows; i += 8) {
            float out[8];
            _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_load_ps(s->total[k] + i), _mm256_set1_ps(scale)));
            memcpy(y + k * stride + i, out, (rows - i < 8 ? rows - i : 8) * sizeof *out);
        }
}

/* Token by token; and many tokens against INT4. */
void hs_avx2_gemv(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                  float *y, size_t stride);
void hs_avx2_int4(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                  float *y, size_t stride);

#endif
