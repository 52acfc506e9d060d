/*
 * kernels/cpu/avx512_quad.c - packed products for two to six tokens with AVX-512, bit for bit those of ref.c.
 *
 * A vector holds 16 bytes of the low plane of each of four rows, so a token's sums of a block lie in four lanes of a
 * row: two joins of neighbours leave four blocks of four rows, where whole rows in a vector take four joins.  A token
 * more costs two vpdpbusd a block and little else; four rows are read in a run each.  The fma chain of a segment runs
 * on 16 rows, after transposes of 4 x 4 inside the lanes.
 */
#include "kernels/cpu/avx512.h"

enum {
    QUAD_TOKENS = 6,
    QUAD_ROWS = 16,   /* of a chain */
    AHEAD = 16 * 1024 /* bytes of prefetch at least, on the low plane, to the second level */
};

/* Operand of vpmultishiftqb for weights 16j.., j odd or even, of four rows: see bit_places of avx512_gemv.c. */
INLINE __m512i bit_places(uint32_t j, int place)
{
    const __m128i even = _mm_set_epi64x(0x1000110112021303, 0x1404150516061707);
    const __m128i odd = _mm_set_epi64x(0x3020312132223323, 0x3424352536263727);
    return _mm512_sub_epi8(_mm512_broadcast_i32x4(j % 2 ? odd : even), _mm512_set1_epi8((char)place));
}

INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* 16 bytes of each of four rows. */
INLINE __m512i rows_of(const uint8_t *p, size_t stride)
{
    __m512i v = _mm512_broadcast_i32x4(load128(p));
    v = _mm512_mask_broadcast_i32x4(v, 0x00F0, load128(p + stride));
    v = _mm512_mask_broadcast_i32x4(v, 0x0F00, load128(p + 2 * stride));
    return _mm512_mask_broadcast_i32x4(v, 0xF000, load128(p + 3 * stride));
}

/* Four rows of a matrix, from one block on. */
typedef struct rows4 {
    const uint8_t *low, *high;
    size_t low_stride, high_stride;
} rows4;

/* Places of a plane's bits in the low 4 or 5 bits' code: merged above `under`. */
INLINE void add_bits(__m512i plane, uint32_t j, int place, int under, __m512i *a, __m512i *b)
{
    const __m512i below = _mm512_set1_epi8((char)under);
    *a = merge512(*a, _mm512_multishift_epi64_epi8(bit_places(j, place), plane), below);
    *b = merge512(*b, _mm512_multishift_epi64_epi8(bit_places(j, place - 8), plane), below);
}

/* One block of four rows against each of m tokens: four partial sums a row. */
INLINE void quad(hs_dtype type, const tables512 *t, const rows4 *w, uint32_t block, const int8_t *const *x, uint32_t m,
                 __m512i *out)
{
    const uint32_t low_block = low_block_of(type), high_block = high_block_of(type);
    const uint8_t *low = w->low + (size_t)block * low_block, *high = w->high + (size_t)block * high_block;
    const __m512i sixteenth = _mm512_set1_epi16(1 << 12); /* a multiplication: the shifter's pipes have enough to do */
    __m512i main[QUAD_TOKENS], less[QUAD_TOKENS], bits[2], signs[2];
    for (uint32_t k = 0; k < m; k++)
        main[k] = less[k] = _mm512_setzero_si512();
    if (high_block) {
        __m512i p = rows_of(high, w->high_stride);
        bits[0] = _mm512_unpacklo_epi64(p, p);
        bits[1] = _mm512_unpackhi_epi64(p, p);
    }
    if (type == HS_Q6) {
        __m512i p = rows_of(high + 16, w->high_stride);
        signs[0] = _mm512_unpacklo_epi64(p, p);
        signs[1] = _mm512_unpackhi_epi64(p, p);
    }
    for (uint32_t j = 0; j < 4; j++) {
        __m512i a = rows_of(low + 16 * j, w->low_stride), b = _mm512_mulhi_epu16(a, sixteenth);
        if (high_block)
            add_bits(bits[j / 2], j, 4, 15, &a, &b);
        if (type == HS_Q6)
            add_bits(signs[j / 2], j, 5, 31, &a, &b);
        __m512i first = lookup512(t->main, a), second = lookup512(t->main, b);
        __m512i first_low = a, second_low = b;
        if (type == HS_Q6) {
            first_low = lookup512(t->low, a);
            second_low = lookup512(t->low, b);
        }
        for (uint32_t k = 0; k < m; k++) {
            const int8_t *q = x[k] + (size_t)block * HS_BLOCK + 16 * j;
            __m512i qa = _mm512_broadcast_i32x4(load128(q)), qb = _mm512_broadcast_i32x4(load128(q + 64));
            main[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(main[k], first, qa), second, qb);
            if (type == HS_Q6)
                less[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(less[k], first_low, qa), second_low, qb);
        }
    }
    for (uint32_t k = 0; k < m; k++) /* Q6: 128 hi + lo */
        out[k] = type == HS_Q6 ? _mm512_add_epi32(_mm512_slli_epi32(main[k], 7), less[k]) : main[k];
}

/* Of two vectors, one of both: of each pair of lanes, the sums of a's and of b's. */
INLINE __m512i join_pairs(__m512i a, __m512i b)
{
    __m512i kept = _mm512_mask_blend_epi32(0xAAAA, a, b), given = _mm512_mask_blend_epi32(0xAAAA, b, a);
    return _mm512_add_epi32(kept, _mm512_shuffle_epi32(given, _MM_PERM_CDAB));
}

/* The same of pairs of pairs. */
INLINE __m512i join_fours(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* One token's inputs, from a block on. */
typedef struct vector {
    const float *scale;
    const int32_t *sum;
} vector;

/* Of 16 rows and up to SPAN blocks, by fours of blocks and then fours of rows: lane 4r + u is row r, block u. */
typedef struct spans {
    __m512 norm[SPAN / 4][4];
    __m512 sum[QUAD_TOKENS][SPAN / 4][4];
} spans;

/* Norms of four blocks of four rows. */
INLINE __m512 norms_of(const uint8_t *p, size_t stride)
{
    __m128i a = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(const void *)p),
                                   _mm_loadl_epi64((const __m128i *)(const void *)(p + stride)));
    __m128i b = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(const void *)(p + 2 * stride)),
                                   _mm_loadl_epi64((const __m128i *)(const void *)(p + 3 * stride)));
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1));
}

/* `n` blocks from `first` of rows r..r + 3, number `which` of the 16. */
INLINE void four_rows(hs_dtype type, const hs_matrix *w, const tables512 *t, uint32_t r, uint32_t first, uint32_t n,
                      const int8_t *const *x, const vector *in, uint32_t m, uint32_t which, spans *s)
{
    const size_t at = (size_t)r * w->blocks + first, low_stride = (size_t)w->blocks * low_block_of(type),
                 high_stride = (size_t)w->blocks * high_block_of(type);
    const rows4 rows = {w->low + at * low_block_of(type),
                        high_block_of(type) ? w->high + at * high_block_of(type) : w->low, low_stride, high_stride};
    const uint8_t *norms = w->norms + at * 2;
    const size_t ahead = (AHEAD + 4 * low_stride - 1) / (4 * low_stride) * 4; /* rows: those that are read then */
    const uint8_t *low_ahead = rows.low + ahead * low_stride, *high_ahead = rows.high + ahead * high_stride;
    for (uint32_t b = 0; b < n; b += 4) {
        __m512i got[4][QUAD_TOKENS];
        for (uint32_t i = 0; i < 4; i++) {
            for (uint32_t k = 0; k < 4; k++)
                _mm_prefetch((const char *)low_ahead + k * low_stride + (size_t)(b + i) * low_block_of(type),
                             _MM_HINT_T1);
            if (high_block_of(type) == 32 ? i % 2 == 0 : high_block_of(type) && i == 0)
                for (uint32_t k = 0; k < 4; k++)
                    _mm_prefetch((const char *)high_ahead + k * high_stride + (size_t)(b + i) * high_block_of(type),
                                 _MM_HINT_T1);
            quad(type, t, &rows, b + i, x, m, got[i]);
        }
        s->norm[b / 4][which] = norms_of(norms + b * 2, (size_t)w->blocks * 2);
        for (uint32_t k = 0; k < m; k++) {
            __m512i dot = join_fours(join_pairs(got[0][k], got[1][k]), join_pairs(got[2][k], got[3][k]));
            __m512i sum = _mm512_broadcast_i32x4(load128(in[k].sum + b));
            s->sum[k][b / 4][which] = _mm512_cvtepi32_ps(isum512(type, dot, sum));
        }
    }
}

/* v[i] is of rows 4i..: lane 4r + u of it is row 4i + r, block u.  After: vector u, lane 4r + i: row 4i + r. */
INLINE void transpose4(const __m512 *v, __m512 *out)
{
    __m512 a = _mm512_unpacklo_ps(v[0], v[1]), b = _mm512_unpackhi_ps(v[0], v[1]);
    __m512 c = _mm512_unpacklo_ps(v[2], v[3]), d = _mm512_unpackhi_ps(v[2], v[3]);
    out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
    out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(c)));
    out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
    out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b), _mm512_castps_pd(d)));
}

/* Continues the totals over n blocks: the fma chain of each segment of eight, then its sum. */
INLINE void chain(const spans *s, uint32_t n, const vector *in, uint32_t m, __m512 *total)
{
    __m512 seg[QUAD_TOKENS];
    for (uint32_t k = 0; k < m; k++)
        seg[k] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < n; b += 4) {
        __m512 norm[4], sum[4];
        transpose4(s->norm[b / 4], norm);
        for (uint32_t k = 0; k < m; k++) {
            transpose4(s->sum[k][b / 4], sum);
            for (uint32_t u = 0; u < 4; u++)
                seg[k] = _mm512_fmadd_ps(_mm512_mul_ps(norm[u], _mm512_set1_ps(in[k].scale[b + u])), sum[u], seg[k]);
            if (b % 8 == 4 || b + 4 == n) {
                total[k] = _mm512_add_ps(total[k], seg[k]);
                seg[k] = _mm512_setzero_ps();
            }
        }
    }
}

/* m tokens against rows r..r + 15. */
INLINE void band(hs_dtype type, const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t m, uint32_t r,
                 const tables512 *t, float *y, size_t stride)
{
    const __m512i rows = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    const __m512 scale = _mm512_set1_ps(w->book->scale);
    __m512 total[QUAD_TOKENS];
    spans s;
    for (uint32_t k = 0; k < m; k++)
        total[k] = _mm512_setzero_ps();
    for (uint32_t first = 0; first < w->blocks; first += SPAN) {
        uint32_t n = w->blocks - first < SPAN ? w->blocks - first : SPAN;
        const int8_t *x[QUAD_TOKENS];
        vector in[QUAD_TOKENS];
        for (uint32_t k = 0; k < m; k++) {
            size_t at = (token ? token[k] : k) * (size_t)a->blocks + first;
            x[k] = a->q + at * HS_BLOCK;
            in[k] = (vector){a->scale + at, a->sum + at};
        }
        for (uint32_t i = 0; i < 4; i++)
            four_rows(type, w, t, r + 4 * i, first, n, x, in, m, i, &s);
        chain(&s, n, in, m, total);
    }
    for (uint32_t k = 0; k < m; k++)
        _mm512_storeu_ps(y + k * stride + r, _mm512_mul_ps(_mm512_permutexvar_ps(rows, total[k]), scale));
}

/* Rows first..last - 1, a multiple of QUAD_ROWS. */
typedef void quad_fn(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t first, uint32_t last,
                     float *y, size_t stride);

#define STAMP(TYPE, M)                                                                                                 \
    static void quad_##TYPE##_##M(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t first,          \
                                  uint32_t last, float *y, size_t stride)                                              \
    {                                                                                                                  \
        const tables512 t = tables512_of(HS_##TYPE, w->book);                                                          \
        for (uint32_t r = first; r < last; r += QUAD_ROWS)                                                             \
            band(HS_##TYPE, w, a, token, M, r, &t, y, stride);                                                         \
    }
#define STAMP_TYPE(TYPE) STAMP(TYPE, 2) STAMP(TYPE, 3) STAMP(TYPE, 4) STAMP(TYPE, 5) STAMP(TYPE, 6)
STAMP_TYPE(Q4)
STAMP_TYPE(Q5)
STAMP_TYPE(Q6)
#define ROW(TYPE)                                                                                                      \
    {                                                                                                                  \
        quad_##TYPE##_2, quad_##TYPE##_3, quad_##TYPE##_4, quad_##TYPE##_5, quad_##TYPE##_6                            \
    }

/* From a cache, two and four tokens are as fast by whole rows; from memory they are not. */
bool hs_avx512_quads(const hs_matrix *w, uint32_t n)
{
    return w->dtype >= HS_Q4 && w->dtype <= HS_Q6 && w->blocks % 4 == 0 && n >= 2 && n <= QUAD_TOKENS;
}

void hs_avx512_quad(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                    uint32_t last, float *y, size_t stride)
{
    static quad_fn *const of[3][QUAD_TOKENS - 1] = {ROW(Q4), ROW(Q5), ROW(Q6)};
    uint32_t whole = first + (last - first) / QUAD_ROWS * QUAD_ROWS;
    of[w->dtype - HS_Q4][n - 2](w, a, token, first, whole, y, stride);
    if (whole < last)
        hs_avx512_gemv(w, a, token, n, whole, last, y, stride);
}
