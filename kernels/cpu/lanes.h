/*
 * kernels/cpu/lanes.h - the widest registers, and rows of keys or values as they are read from any form into them.
 *
 * Attention spends its time on products of fp32 that the contract fixes one by one, so a form is turned into fp32 on the
 * way into a register and used there for several queries: the units that convert, shift and permute are others than
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
    size_t pitch;              /* bytes from a row of low to the next */
    const float *table;        /* [64][blocks][16]; Q8: [64][blocks] */
    uint32_t blocks;           /* of 128 in a row; 0 = plain */
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

/* Of a block: 16 of its 128 weights, 64 upper + 16 group on. Tables repeat, so bits above a code need not be cleared. */
HS_INLINE hs_vec vec_q4(const uint8_t *low, const float *table, uint32_t group, uint32_t upper, uint32_t half)
{
    (void)half;
    __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(low + 16 * group)));
    return _mm512_permutexvar_ps(upper ? _mm512_srli_epi32(x, 4) : x, _mm512_loadu_ps(table));
}

/* Lane l: the eight bits of p from bit 8 (l % 8) + 4 upper + 2 (l / 8) on, p being eight bytes. */
HS_INLINE __m512i vec_pairs(const uint8_t *p, uint32_t upper)
{
    const __m512i at = _mm512_set_epi64(0x0000003A00000032, 0x0000002A00000022, 0x0000001A00000012, 0x0000000A00000002,
                                        0x0000003800000030, 0x0000002800000020, 0x0000001800000010, 0x0000000800000000);
    int64_t word;
    memcpy(&word, p, 8);
    return _mm512_multishift_epi64_epi8(upper ? _mm512_add_epi8(at, _mm512_set1_epi8(4)) : at, _mm512_set1_epi64(word));
}

HS_INLINE hs_vec vec_q2(const uint8_t *low, const float *table, uint32_t group, uint32_t upper, uint32_t half)
{
    (void)half;
    return _mm512_permutexvar_ps(vec_pairs(low + 8 * group, upper), _mm512_loadu_ps(table));
}

/* Lane l's sign is bit 7 - l / 2 of byte 2 (l % 2) + upper; it becomes bit 2 of the code. */
HS_INLINE hs_vec vec_q3(const uint8_t *low, const uint8_t *high, const float *table, uint32_t group, uint32_t upper,
                        uint32_t half)
{
    const __m512i by = _mm512_set_epi32(14, 30, 15, 31, 16, 0, 17, 1, 18, 2, 19, 3, 20, 4, 21, 5);
    int32_t word;
    (void)half;
    memcpy(&word, high + 4 * group, 4);
    __m512i turn = upper ? _mm512_add_epi32(by, _mm512_set1_epi32(8)) : by;
    __m512i sign = _mm512_rorv_epi32(_mm512_set1_epi32(word), turn);
    __m512i code = _mm512_ternarylogic_epi32(_mm512_set1_epi32(4), sign, vec_pairs(low + 8 * group, upper), 0xCA);
    return _mm512_permutexvar_ps(code, _mm512_loadu_ps(table));
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

/* Values 64 upper + 16 group + 8 half on of block `block` (of 16 group, where plain) in row j. `dtype` is a constant. */
HS_INLINE hs_vec hs_row_lanes(hs_dtype dtype, const hs_rows *r, uint32_t j, uint32_t block, uint32_t group,
                              uint32_t upper, uint32_t half)
{
    size_t at = (size_t)j * r->blocks + block;
    const uint8_t *row = r->low + j * r->pitch;
    switch (dtype) {
    case HS_F32: return vec_load((const float *)(const void *)row + 128 * block + 64 * upper + 16 * group + 8 * half);
    case HS_F16: return vec_half(row + 2 * (128 * block + 64 * upper + 16 * group + 8 * half));
    case HS_I8:
        return vec_mul(vec_int8(row + 128 * block + 64 * upper + 16 * group + 8 * half), vec_set(r->table[at]));
    case HS_Q4: return vec_q4(row + 64 * block, r->table + 16 * at, group, upper, half);
    case HS_Q3: return vec_q3(row + 32 * block, r->high + 16 * at, r->table + 16 * at, group, upper, half);
    default: return vec_q2(row + 32 * block, r->table + 16 * at, group, upper, half);
    }
}

#endif
