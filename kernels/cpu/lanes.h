/*
 * kernels/cpu/lanes.h - the widest registers, and rows of keys or values as they are read from any form into them.
 *
 * Attention spends its time on products of fp32 that the contract fixes one by one, so a form is turned into fp32 on
 * the way into a register and used there for several queries: the units that convert, shift and permute are others than
 * those that multiply.  A row of a plain page is what it is; of a coded one, each block of 128 is level * norm, and a
 * table of the 16 products of its norm is what codes pick from.  Q8 has the one factor there.
 */
#ifndef HS_KERNELS_CPU_LANES_H
#define HS_KERNELS_CPU_LANES_H

#include "kernels/cpu/simd16.h"

#include "kernels/kv_codec.h"

#include <string.h>

#define HS_INLINE static inline __attribute__((always_inline))

/* x is in a register from here on: not read anew by each instruction that uses it. */
#define vec_keep(x) __asm__("" : "+v"(x))

/* 64 keys, or values, of one head in a page. */
typedef struct hs_rows {
    hs_dtype dtype;
    const uint8_t *low, *high; /* high: Q3's plane of signs */
    const uint8_t *norms;
    size_t pitch;       /* bytes from a row of low to the next */
    const float *table; /* [64][blocks][HS_TABLE_FLOATS]; Q8: [64][blocks] */
    uint32_t blocks;    /* of 128 in a row; 0 = plain */
} hs_rows;

/* clang-format off */
#if defined(__AVX512F__)

enum { HS_VEC = 16 };
typedef __m512 hs_vec;

static inline hs_vec vec_zero(void) { return _mm512_setzero_ps(); }
static inline hs_vec vec_set(float x) { return _mm512_set1_ps(x); }
static inline hs_vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vec_store(float *p, hs_vec a) { _mm512_storeu_ps(p, a); }
static inline hs_vec vec_add(hs_vec a, hs_vec b) { return _mm512_add_ps(a, b); }
static inline hs_vec vec_mul(hs_vec a, hs_vec b) { return _mm512_mul_ps(a, b); }
static inline hs_vec vec_fma(hs_vec a, hs_vec b, hs_vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline hs_vec vec_half(const uint8_t *p) { return v16_half(p); }
static inline hs_vec vec_int8(const uint8_t *p) { return v16_int8(p); }

/*
 * A block's codes are put in order once, when its page is opened: beside its table 16 words, word l with the codes of
 * 16 i + l: four bits each, lower (i < 4) and upper ones in turn.  Tables repeat, so bits above a code need not be cleared.
 */
enum { HS_TABLE_FLOATS = 32 };

HS_INLINE hs_vec vec_code(hs_dtype dtype, const uint8_t *low, const uint8_t *high, const float *table, uint32_t group,
                          uint32_t upper, uint32_t half)
{
    (void)dtype, (void)low, (void)high, (void)half;
    __m512i x = _mm512_loadu_si512((const uint8_t *)(const void *)(table + 16) + group);
    return _mm512_permutexvar_ps(upper ? _mm512_srli_epi32(x, 4) : x, _mm512_loadu_ps(table));
}

static inline void vec_order_q4(const uint8_t *low, float *to)
{
    const __m512i at = _mm512_set_epi64(0x3F2F1F0F3E2E1E0E, 0x3D2D1D0D3C2C1C0C, 0x3B2B1B0B3A2A1A0A, 0x3929190938281808,
                                    0x3727170736261606, 0x3525150534241404, 0x3323130332221202, 0x3121110130201000);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi8(at, _mm512_loadu_si512(low)));
}

/* Byte 8 g + l % 8; words 8.. have their codes two bits higher. */
static inline __m512i vec_pairs(const uint8_t *low)
{
    const __m512i at = _mm512_set_epi64(0x1F170F071E160E06, 0x1D150D051C140C04, 0x1B130B031A120A02, 0x1911090118100800,
                                    0x1F170F071E160E06, 0x1D150D051C140C04, 0x1B130B031A120A02, 0x1911090118100800);
    const __m512i by = _mm512_set_epi32(2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i x = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)low));
    return _mm512_srlv_epi32(_mm512_permutexvar_epi8(at, x), by);
}

static inline void vec_order_q2(const uint8_t *low, float *to)
{
    _mm512_storeu_si512(to, vec_pairs(low));
}

/* Signs of word l: bit 7 - l / 2 of byte 4 g + 2 (l % 2) + upper. They become bits 2 and 6 of byte g. */
static inline void vec_order_q3(const uint8_t *low, const uint8_t *high, float *to)
{
    const __m512i at = _mm512_set_epi64(0x0E0A06020C080400, 0x0E0A06020C080400, 0x0E0A06020C080400, 0x0E0A06020C080400,
                                    0x0E0A06020C080400, 0x0E0A06020C080400, 0x0E0A06020C080400, 0x0E0A06020C080400);
    const __m512i turn = _mm512_set_epi32(30, 30, 31, 31, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5);
    const __m512i turn_upper = _mm512_set_epi32(26, 26, 27, 27, 28, 28, 29, 29, 30, 30, 31, 31, 0, 0, 1, 1);
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)high));
    __m512i lower = _mm512_rorv_epi32(_mm512_permutexvar_epi8(at, x), turn);
    __m512i upper = _mm512_permutexvar_epi8(_mm512_add_epi8(at, _mm512_set1_epi8(1)), x);
    upper = _mm512_rorv_epi32(upper, turn_upper);
    x = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x04040404), lower, vec_pairs(low), 0xCA);
    x = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x40404040), upper, x, 0xCA);
    _mm512_storeu_si512(to, x);
}

static inline void hs_order_codes(hs_dtype dtype, const uint8_t *low, const uint8_t *high, float *to)
{
    if (dtype == HS_Q4)
        vec_order_q4(low, to);
    else if (dtype == HS_Q3)
        vec_order_q3(low, high, to);
    else
        vec_order_q2(low, to);
}

/* Sums of 16 as v16_sum makes them, of all at once: lane 4 c + e is that of a[4 e + c]. */
HS_INLINE hs_vec vec_sums(const hs_vec *a)
{
    hs_vec b[8], c[4], d[2];
    for (int i = 0; i < 8; i++)
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xEE));
    for (int i = 0; i < 4; i++)
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xDD));
    for (int i = 0; i < 2; i++)
        d[i] = _mm512_add_ps(_mm512_shuffle_ps(c[2 * i], c[2 * i + 1], 0x44),
                             _mm512_shuffle_ps(c[2 * i], c[2 * i + 1], 0xEE));
    return _mm512_add_ps(_mm512_shuffle_ps(d[0], d[1], 0x88), _mm512_shuffle_ps(d[0], d[1], 0xDD));
}

#else

enum { HS_VEC = 8 };
typedef __m256 hs_vec;

static inline hs_vec vec_zero(void) { return _mm256_setzero_ps(); }
static inline hs_vec vec_set(float x) { return _mm256_set1_ps(x); }
static inline hs_vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vec_store(float *p, hs_vec a) { _mm256_storeu_ps(p, a); }
static inline hs_vec vec_add(hs_vec a, hs_vec b) { return _mm256_add_ps(a, b); }
static inline hs_vec vec_mul(hs_vec a, hs_vec b) { return _mm256_mul_ps(a, b); }
static inline hs_vec vec_fma(hs_vec a, hs_vec b, hs_vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline hs_vec vec_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline hs_vec vec_int8(const uint8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v8_bytes(p))); }

/* Eight of the 16: from 8 half on. */
HS_INLINE hs_vec vec_q4(const uint8_t *low, const float *table, uint32_t group, uint32_t upper, uint32_t half)
{
    __m256i x = _mm256_cvtepu8_epi32(v8_bytes(low + 16 * group + 8 * half));
    return v8_pick(table, upper ? _mm256_srli_epi32(x, 4) : x);
}

HS_INLINE __m256i vec_pairs(const uint8_t *p, uint32_t upper, uint32_t half)
{
    return _mm256_srli_epi32(_mm256_cvtepu8_epi32(v8_bytes(p)), (int)(4 * upper + 2 * half));
}

/* Permutes take three bits of an index, and the tables of Q2 and Q3 repeat after those. */
HS_INLINE hs_vec vec_q2(const uint8_t *low, const float *table, uint32_t group, uint32_t upper, uint32_t half)
{
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), vec_pairs(low + 8 * group, upper, half));
}

/* The sign of lane l of a half: bit 7 - (l + 8 half) / 2 of byte 2 (l % 2) + upper, to bit 2. */
HS_INLINE hs_vec vec_q3(const uint8_t *low, const uint8_t *high, const float *table, uint32_t group, uint32_t upper,
                        uint32_t half)
{
    const __m256i right = _mm256_set_epi32(18, 2, 19, 3, 20, 4, 21, 5);
    __m256i pairs = _mm256_and_si256(vec_pairs(low + 8 * group, upper, half), _mm256_set1_epi32(3));
    uint32_t word;
    memcpy(&word, high + 4 * group, 4);
    word >>= 8 * upper;
    word <<= 4 * half;
    __m256i sign = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)word), right), _mm256_set1_epi32(4));
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), _mm256_or_si256(pairs, sign));
}

enum { HS_TABLE_FLOATS = 16 };

HS_INLINE hs_vec vec_code(hs_dtype dtype, const uint8_t *low, const uint8_t *high, const float *table, uint32_t group,
                          uint32_t upper, uint32_t half)
{
    return dtype == HS_Q4   ? vec_q4(low, table, group, upper, half)
           : dtype == HS_Q3 ? vec_q3(low, high, table, group, upper, half)
                            : vec_q2(low, table, group, upper, half);
}

/* Codes are read where they lie. */
static inline void hs_order_codes(hs_dtype dtype, const uint8_t *low, const uint8_t *high, float *to)
{
    (void)dtype, (void)low, (void)high, (void)to;
}

/* Sums of eight, those of lanes l and l + 8: lane 4 c + e is that of a[2 e + c]. */
HS_INLINE hs_vec vec_sums(const hs_vec *a)
{
    hs_vec b[4], c[2];
    for (int i = 0; i < 4; i++)
        b[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x20),
                             _mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x31));
    for (int i = 0; i < 2; i++)
        c[i] = _mm256_add_ps(_mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0x44),
                             _mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0xEE));
    return _mm256_add_ps(_mm256_shuffle_ps(c[0], c[1], 0x88), _mm256_shuffle_ps(c[0], c[1], 0xDD));
}

#endif
/* clang-format on */

/* Values 64 upper + 16 group + 8 half on of block `block` (of 16 group, where plain) in row j. `dtype` is a constant.
 */
HS_INLINE hs_vec hs_row_lanes(hs_dtype dtype, const hs_rows *r, uint32_t j, uint32_t block, uint32_t group,
                              uint32_t upper, uint32_t half)
{
    size_t at = (size_t)j * r->blocks + block;
    const uint8_t *row = r->low + j * r->pitch;
    switch (dtype) {
    case HS_F32: return vec_load((const float *)(const void *)row + 128 * block + 64 * upper + 16 * group + 8 * half);
    case HS_F16: return vec_half(row + 2 * (128 * block + 64 * upper + 16 * group + 8 * half));
    case HS_I8: return vec_mul(vec_int8(row + 128 * block + 64 * upper + 16 * group + 8 * half), vec_set(r->table[at]));
    default:
        return vec_code(dtype, row + hs_kv_low_bytes(dtype) * block, r->high + hs_kv_high_bytes(dtype) * at,
                        r->table + HS_TABLE_FLOATS * at, group, upper, half);
    }
}

#endif
