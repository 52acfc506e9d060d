/*
 * kernels/cpu/simd16.h - vectors of 16 floats: one AVX-512 register, or two of AVX2.
 *
 * The contract sums in 16 lanes, so code written with these types gives the bits of ref.c on either.  No operation here
 * reorders, contracts or flushes anything.
 */
#ifndef HS_KERNELS_CPU_SIMD16_H
#define HS_KERNELS_CPU_SIMD16_H

#include <immintrin.h>
#include <stdint.h>

/* clang-format off */
#if defined(__AVX512F__)

typedef __m512 v16;

static inline v16 v16_zero(void) { return _mm512_setzero_ps(); }
static inline v16 v16_set(float x) { return _mm512_set1_ps(x); }
static inline v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
static inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
static inline v16 v16_fnma(v16 a, v16 b, v16 c) { return _mm512_fnmadd_ps(a, b, c); }
static inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); } /* a > b ? a : b, so b where one is NaN */
static inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
static inline v16 v16_abs(v16 a) { return _mm512_abs_ps(a); }
static inline v16 v16_half(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline v16 v16_bf16(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline void v16_store_half(void *p, v16 a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

/* Element i of the result is element i ^ d. */
static inline v16 v16_flip1(v16 a) { return _mm512_permute_ps(a, 0xB1); }
static inline v16 v16_flip2(v16 a) { return _mm512_permute_ps(a, 0x4E); }
static inline v16 v16_flip4(v16 a) { return _mm512_shuffle_f32x4(a, a, 0xB1); }
static inline v16 v16_flip8(v16 a) { return _mm512_shuffle_f32x4(a, a, 0x4E); }

/* a where a bit of `mask` is clear, -a where it is set; masks are constants. */
static inline __attribute__((always_inline)) v16 v16_negate(v16 a, uint16_t mask)
{
    return _mm512_castsi512_ps(_mm512_mask_xor_epi32(_mm512_castps_si512(a), mask, _mm512_castps_si512(a),
                                                     _mm512_set1_epi32((int)0x80000000)));
}

/* Lanes l and l + 8, then l and l + 4, l and l + 2, l and l + 1. */
static inline float v16_sum(v16 a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

static inline float v16_largest(v16 a) { return _mm512_reduce_max_ps(a); } /* no NaN */

/* True where no lane fails |a| <= limit: false for infinity and NaN. */
static inline int v16_all_within(v16 a, float limit)
{
    return _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(limit), _CMP_LE_OQ) == 0xFFFF;
}

static inline uint32_t v16_equal(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

/* Nearest even, to int8; the sum of the 16. */
static inline int32_t v16_store_int8(int8_t *p, v16 a)
{
    __m512i k = _mm512_cvtps_epi32(a);
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(k));
    return _mm512_reduce_add_epi32(k);
}

/* p[4i + j] of 16 groups of four. */
static inline void v16_load_fours(const float *p, v16 *out)
{
    const __m512i first = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 28, 24, 20, 16, 12, 8, 4, 0);
    v16 a = v16_load(p), b = v16_load(p + 16), c = v16_load(p + 32), d = v16_load(p + 48);
    for (int j = 0; j < 4; j++) {
        __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32(j));
        v16 low = _mm512_permutex2var_ps(a, at, b), high = _mm512_permutex2var_ps(c, at, d);
        out[j] = _mm512_insertf32x8(low, _mm512_castps512_ps256(high), 1);
    }
}

/* 16 small integers; what they pick from a table of 16; int8 as floats. */
typedef __m512i v16i;
static inline v16 v16_pick(const float *table, v16i at) { return _mm512_permutexvar_ps(at, v16_load(table)); }
static inline v16 v16_int8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* p[l] >> shift & 15 */
static inline v16i v16_nibbles(const uint8_t *p, int shift)
{
    __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm512_and_si512(_mm512_srl_epi32(x, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32(15));
}
/* p[l % 8] >> (shift + l / 8 * 2) & 3 */
static inline v16i v16_pairs(const uint8_t *p, int shift)
{
    __m128i eight = _mm_loadl_epi64((const __m128i *)(const void *)p);
    __m512i x = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(eight, eight));
    __m512i by = _mm512_add_epi32(_mm512_set_epi32(2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0),
                                  _mm512_set1_epi32(shift));
    return _mm512_and_si512(_mm512_srlv_epi32(x, by), _mm512_set1_epi32(3));
}
/* Bit 2 of lane l from bit 7 - l / 2 of p[2 (l % 2) + upper]. */
static inline v16i v16_add_signs(v16i code, const uint8_t *p, int upper)
{
    const __m512i place = _mm512_set_epi32(16, 0, 17, 1, 18, 2, 19, 3, 20, 4, 21, 5, 22, 6, 23, 7);
    uint32_t word;
    __builtin_memcpy(&word, p, 4);
    __m512i bit = _mm512_srlv_epi32(_mm512_set1_epi32((int)(word >> 8 * upper)), place);
    return _mm512_or_si512(code, _mm512_and_si512(_mm512_slli_epi32(bit, 2), _mm512_set1_epi32(4)));
}

/* exp of numeric.h, lane by lane. */
static inline v16 v16_exp(v16 x)
{
    v16 c = v16_max(v16_set(-88.0f), v16_min(v16_set(89.0f), x)), magic = v16_set(0x1.8p23f);
    v16 n = v16_sub(v16_add(v16_mul(c, v16_set(0x1.715476p+0f)), magic), magic);
    v16 r = v16_fnma(n, v16_set(1.42860677e-06f), v16_fnma(n, v16_set(0.693145751953125f), c));
    v16 p = v16_fma(v16_set(0.000198527618f), r, v16_set(0.00139304355f));
    p = v16_fma(p, r, v16_set(0.00833336078f));
    p = v16_fma(p, r, v16_set(0.0416664854f));
    p = v16_fma(p, r, v16_set(0.166666672f));
    p = v16_fma(p, r, v16_set(0.5f));
    p = v16_add(v16_fma(v16_mul(r, r), p, r), v16_set(1.0f));
    __m512i k = _mm512_cvttps_epi32(n), bias = _mm512_set1_epi32(127);
    __m512i h = _mm512_srai_epi32(_mm512_add_epi32(k, _mm512_srli_epi32(k, 31)), 1); /* towards zero, as C divides */
    v16 s0 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(h, bias), 23));
    v16 s1 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(k, h), bias), 23));
    v16 y = v16_mul(v16_mul(p, s0), s1);
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, v16_set(-87.33654f), _CMP_LT_OQ), v16_zero());
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, v16_set(88.72283f), _CMP_GT_OQ), v16_set(__builtin_inff()));
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

#else

typedef struct v16 {
    __m256 a, b;
} v16;


static inline v16 v16_two(__m256 a, __m256 b) { return (v16){a, b}; }
static inline v16 v16_zero(void) { return v16_two(_mm256_setzero_ps(), _mm256_setzero_ps()); }
static inline v16 v16_set(float x) { return v16_two(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline v16 v16_load(const float *p) { return v16_two(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
static inline void v16_store(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline v16 v16_add(v16 x, v16 y) { return v16_two(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
static inline v16 v16_sub(v16 x, v16 y) { return v16_two(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
static inline v16 v16_mul(v16 x, v16 y) { return v16_two(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
static inline v16 v16_div(v16 x, v16 y) { return v16_two(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
static inline v16 v16_fma(v16 x, v16 y, v16 z)
{
    return v16_two(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
static inline v16 v16_fnma(v16 x, v16 y, v16 z)
{
    return v16_two(_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b));
}
static inline v16 v16_max(v16 x, v16 y) { return v16_two(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
static inline v16 v16_min(v16 x, v16 y) { return v16_two(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
static inline __m256 v8_abs(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
static inline v16 v16_abs(v16 x) { return v16_two(v8_abs(x.a), v8_abs(x.b)); }
static inline v16 v16_half(const void *p)
{
    return v16_two(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1)));
}
static inline v16 v16_bf16(const void *p)
{
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p + 1));
    return v16_two(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)));
}
static inline void v16_store_half(void *p, v16 x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)p + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
static inline __m256 v8_flip4(__m256 x) { return _mm256_permute2f128_ps(x, x, 1); }
static inline v16 v16_flip1(v16 x) { return v16_two(_mm256_permute_ps(x.a, 0xB1), _mm256_permute_ps(x.b, 0xB1)); }
static inline v16 v16_flip2(v16 x) { return v16_two(_mm256_permute_ps(x.a, 0x4E), _mm256_permute_ps(x.b, 0x4E)); }
static inline v16 v16_flip4(v16 x) { return v16_two(v8_flip4(x.a), v8_flip4(x.b)); }
static inline v16 v16_flip8(v16 x) { return v16_two(x.b, x.a); }
static inline __attribute__((always_inline)) v16 v16_negate(v16 x, uint16_t mask)
{
    const __m256i bit = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1), sign = _mm256_set1_epi32((int)0x80000000);
    __m256i m0 = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask & 0xFF), bit), bit);
    __m256i m1 = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask >> 8), bit), bit);
    return v16_two(_mm256_xor_ps(x.a, _mm256_castsi256_ps(_mm256_and_si256(m0, sign))),
                   _mm256_xor_ps(x.b, _mm256_castsi256_ps(_mm256_and_si256(m1, sign))));
}
static inline float v16_sum(v16 x)
{
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
static inline float v16_largest(v16 x)
{
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}
static inline int v16_all_within(v16 x, float limit)
{
    __m256 l = _mm256_set1_ps(limit);
    __m256 ok = _mm256_and_ps(_mm256_cmp_ps(v8_abs(x.a), l, _CMP_LE_OQ), _mm256_cmp_ps(v8_abs(x.b), l, _CMP_LE_OQ));
    return _mm256_movemask_ps(ok) == 0xFF;
}
static inline uint32_t v16_equal(v16 x, v16 y)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)) |
           (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)) << 8;
}
static inline int32_t v16_store_int8(int8_t *p, v16 x)
{
    __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b), s = _mm256_add_epi32(a, b);
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    __m128i k = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)(void *)p, k);
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xB1)));
}
static inline void v16_load_fours(const float *p, v16 *out)
{
    const __m256i at = _mm256_set_epi32(28, 24, 20, 16, 12, 8, 4, 0);
    for (int j = 0; j < 4; j++)
        out[j] = v16_two(_mm256_i32gather_ps(p + j, at, 4), _mm256_i32gather_ps(p + 32 + j, at, 4));
}

typedef struct v16i {
    __m256i a, b;
} v16i;
static inline __m256 v8_pick(const float *table, __m256i at)
{
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), at);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), at);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
}
static inline v16 v16_pick(const float *table, v16i at) { return v16_two(v8_pick(table, at.a), v8_pick(table, at.b)); }
static inline __m128i v8_bytes(const void *p) { return _mm_loadl_epi64((const __m128i *)p); }
static inline v16 v16_int8(const void *p)
{
    const uint8_t *q = (const uint8_t *)p;
    return v16_two(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v8_bytes(q))),
                   _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v8_bytes(q + 8))));
}
static inline __m256i v8_bits(__m256i x, int shift, int mask)
{
    return _mm256_and_si256(_mm256_srl_epi32(x, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(mask));
}
static inline v16i v16_nibbles(const uint8_t *p, int shift)
{
    return (v16i){v8_bits(_mm256_cvtepu8_epi32(v8_bytes(p)), shift, 15),
                  v8_bits(_mm256_cvtepu8_epi32(v8_bytes(p + 8)), shift, 15)};
}
static inline v16i v16_pairs(const uint8_t *p, int shift)
{
    __m256i x = _mm256_cvtepu8_epi32(v8_bytes(p));
    return (v16i){v8_bits(x, shift, 3), v8_bits(x, shift + 2, 3)};
}
static inline v16i v16_add_signs(v16i code, const uint8_t *p, int upper)
{
    const __m256i place = _mm256_set_epi32(20, 4, 21, 5, 22, 6, 23, 7), four = _mm256_set1_epi32(4);
    uint32_t word;
    __builtin_memcpy(&word, p, 4);
    __m256i a = _mm256_srlv_epi32(_mm256_set1_epi32((int)(word >> 8 * upper)), place);
    __m256i b = _mm256_srlv_epi32(_mm256_set1_epi32((int)(word >> 8 * upper)),
                                  _mm256_sub_epi32(place, four));
    return (v16i){_mm256_or_si256(code.a, _mm256_and_si256(_mm256_slli_epi32(a, 2), four)),
                  _mm256_or_si256(code.b, _mm256_and_si256(_mm256_slli_epi32(b, 2), four))};
}

static inline __m256 v8_exp(__m256 x)
{
    __m256 c = _mm256_max_ps(_mm256_set1_ps(-88.0f), _mm256_min_ps(_mm256_set1_ps(89.0f), x));
    __m256 magic = _mm256_set1_ps(0x1.8p23f);
    __m256 n = _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(c, _mm256_set1_ps(0x1.715476p+0f)), magic), magic);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145751953125f), c);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-06f), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(0.000198527618f), r, _mm256_set1_ps(0.00139304355f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.00833336078f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.0416664854f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.166666672f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), _mm256_set1_ps(1.0f));
    __m256i k = _mm256_cvttps_epi32(n), bias = _mm256_set1_epi32(127);
    __m256i h = _mm256_srai_epi32(_mm256_add_epi32(k, _mm256_srli_epi32(k, 31)), 1);
    __m256 s0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(h, bias), 23));
    __m256 s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, h), bias), 23));
    __m256 y = _mm256_mul_ps(_mm256_mul_ps(p, s0), s1);
    y = _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-87.33654f), _CMP_LT_OQ), y);
    y = _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_inff()), _mm256_cmp_ps(x, _mm256_set1_ps(88.72283f), _CMP_GT_OQ));
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
static inline v16 v16_exp(v16 x) { return v16_two(v8_exp(x.a), v8_exp(x.b)); }

#endif

/* clang-format on */
static inline v16 v16_neg(v16 x)
{
    return v16_negate(x, 0xFFFF);
}

static inline v16 v16_sigmoid(v16 x)
{
    return v16_div(v16_set(1.0f), v16_add(v16_set(1.0f), v16_exp(v16_neg(x))));
}

static inline v16 v16_silu(v16 x)
{
    return v16_div(x, v16_add(v16_set(1.0f), v16_exp(v16_neg(x))));
}

#endif
