/*
 * kernels/cpu/avx512.h - what the AVX-512 products share: decoding of codes, sums across lanes, transposes.
 *
 * Codes become bytes that vpdpbusd takes as its unsigned side: 128 + k for a positive level, 128 + ~k for a negative
 * one, so that sum u x = sum k x + 128 sum x.  Q6 has two bytes: k = 128 hi + lo, 128 + hi and lo.  Planes are those of
 * base/dtype.h.
 *
 * A bit of a plane reaches its place in the code with one vpmultishiftqb per 64 weights, and vpternlog puts it above
 * the low bits: masks would take three instructions.  vpermb ignores the bits above its 64 entries; the tables repeat
 * below that.
 *
 * INT4's codes are that unsigned side as they are.
 */
#ifndef HS_KERNELS_CPU_AVX512_H
#define HS_KERNELS_CPU_AVX512_H

#include "kernels/cpu/few.h"
#include "kernels/int4.h"

#include <immintrin.h>

_Static_assert(HS_INT4_ZERO == 8, "products shift sums by 3 for it");

typedef struct tables512 {
    __m512i main; /* by code bits: magnitude, then sign; Q6: 128 + hi */
    __m512i low;  /* Q6: lo */
} tables512;

INLINE tables512 tables512_of(hs_dtype type, const hs_codebook *book)
{
    if (hs_dtype_int4(type))
        return (tables512){_mm512_setzero_si512(), _mm512_setzero_si512()};
    return (tables512){_mm512_loadu_si512(book->biased), _mm512_loadu_si512(book->biased_low)};
}

INLINE __m512i lookup512(__m512i table, __m512i code)
{
    return _mm512_permutexvar_epi8(code, table);
}

/* Bits of `low` where mask is one, of `high` elsewhere. */
INLINE __m512i merge512(__m512i low, __m512i high, __m512i mask)
{
    return _mm512_ternarylogic_epi64(low, high, mask, 0xE4);
}

/* sum (2k + 1) q from sum u q: u = 128 + k, or 128 (128 + hi) + lo for Q6. */
INLINE __m512i isum512(hs_dtype type, __m512i dot, __m512i sum)
{
    const __m512i off = _mm512_set1_epi32(type == HS_Q6 ? 2 * 128 * 128 - 1 : 255);
    return _mm512_sub_epi32(_mm512_slli_epi32(dot, 1), _mm512_mullo_epi32(sum, off));
}

/* Lane sums of eight vectors, in order. */
INLINE __m256i sum8(const __m512i *v)
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
INLINE void transpose512(__m512i *r)
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

/* Token by token. */
void hs_avx512_gemv(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                    uint32_t last, float *y, size_t stride);

/* For two to six tokens: whether it can, and then all rows. */
bool hs_avx512_quads(const hs_matrix *w, uint32_t n);
void hs_avx512_quad(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                    uint32_t last, float *y, size_t stride);

#endif
