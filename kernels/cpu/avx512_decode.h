/*
 * kernels/cpu/avx512_decode.h - one block of codes to 128 bytes that vpdpbusd takes as its unsigned side.
 *
 * Byte of weight j: 128 + k for a positive level, 128 + ~k for a negative one (so sum u x = sum k x + 128 sum x).  Q6 has
 * two bytes: k = 128 hi + lo, 128 + hi and lo.  Layouts are those of base/dtype.h.
 */
#ifndef HS_KERNELS_CPU_AVX512_DECODE_H
#define HS_KERNELS_CPU_AVX512_DECODE_H

#include "kernels/matrix.h"

#include <immintrin.h>

typedef struct hs_tables512 {
    __m512i main; /* by code bits: magnitude, then sign; Q6: 128 + hi */
    __m512i low;  /* Q6: lo */
} hs_tables512;

static inline hs_tables512 hs_tables512_of(const hs_codebook *book)
{
    uint8_t main[64], low[64];
    uint32_t half = 1u << (book->bits - 1);
    for (uint32_t i = 0; i < 64; i++) {
        int32_t k = book->k[i & (half - 1)];
        k = i & half ? ~k : k;
        main[i] = (uint8_t)(128 + (book->bits == 6 ? k >> 7 : k));
        low[i] = (uint8_t)(k & 127);
    }
    return (hs_tables512){_mm512_loadu_si512(main), _mm512_loadu_si512(low)};
}

/* A bit plane of 16 bytes in chunk order as masks of weights 0..63 and 64..127. */
static inline void hs_bits512(const uint8_t *plane, __mmask64 *first, __mmask64 *second)
{
    /* Lane i of 16 bytes holds weights 16i..16i+15: byte 4i + 2 (c & 1), bit 7 - c / 2. */
    const __m512i byte = _mm512_set_epi8(14, 12, 14, 12, 14, 12, 14, 12, 14, 12, 14, 12, 14, 12, 14, 12, 10, 8, 10, 8, 10, 8, 10,
                                         8, 10, 8, 10, 8, 10, 8, 10, 8, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 2, 0, 2,
                                         0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0);
    const __m512i bit = _mm512_set_epi64(0x0101020204040808, 0x1010202040408080, 0x0101020204040808, 0x1010202040408080,
                                          0x0101020204040808, 0x1010202040408080, 0x0101020204040808, 0x1010202040408080);
    __m512i p = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)plane));
    *first = _mm512_test_epi8_mask(_mm512_shuffle_epi8(p, byte), bit);
    *second = _mm512_test_epi8_mask(_mm512_shuffle_epi8(p, _mm512_add_epi8(byte, _mm512_set1_epi8(1))), bit);
}

/* Code bits of weights 0..63 and 64..127. */
static inline __attribute__((always_inline)) void hs_codes512(uint32_t bits, const uint8_t *low, const uint8_t *high, __m512i *a,
                                                              __m512i *b)
{
    __mmask64 k0, k1;
    if (bits <= 3) {
        const __m512i twice = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0), three = _mm512_set1_epi8(3);
        __m512i v = _mm512_permutexvar_epi64(twice,
                                             _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)low)));
        *a = _mm512_and_si512(_mm512_srlv_epi64(v, _mm512_set_epi64(2, 0, 2, 0, 2, 0, 2, 0)), three);
        *b = _mm512_and_si512(_mm512_srlv_epi64(v, _mm512_set_epi64(6, 4, 6, 4, 6, 4, 6, 4)), three);
    } else {
        const __m512i fifteen = _mm512_set1_epi8(15);
        __m512i v = _mm512_loadu_si512(low);
        *a = _mm512_and_si512(v, fifteen);
        *b = _mm512_and_si512(_mm512_srli_epi16(v, 4), fifteen);
    }
    if (bits == 3 || bits >= 5) {
        const __m512i next = _mm512_set1_epi8(bits == 3 ? 4 : 16);
        hs_bits512(high, &k0, &k1);
        *a = _mm512_mask_add_epi8(*a, k0, *a, next);
        *b = _mm512_mask_add_epi8(*b, k1, *b, next);
    }
    if (bits == 6) {
        const __m512i sign = _mm512_set1_epi8(32);
        hs_bits512(high + 16, &k0, &k1);
        *a = _mm512_mask_add_epi8(*a, k0, *a, sign);
        *b = _mm512_mask_add_epi8(*b, k1, *b, sign);
    }
}

static inline __m512i hs_lookup512(__m512i table, __m512i code)
{
    return _mm512_permutexvar_epi8(code, table);
}

#endif
