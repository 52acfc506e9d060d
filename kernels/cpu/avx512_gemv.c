/*
 * kernels/cpu/avx512_gemv.c - packed products for a few tokens with AVX-512 (VNNI, VBMI, GFNI), bit for bit those of
 * ref.c.
 *
 * Bound by reading the weights once.  Sixteen blocks of a row are dotted in registers; their sums leave through a tree
 * of blends, so that one shuffle joins two vectors; and the fma chain of a segment runs on 16 rows at once after a
 * transpose.  On Zen 4, where shuffles, vpermb and vpmultishiftqb share two of four pipes, that balances them.
 */
#include "kernels/cpu/avx512.h"

enum {
    AHEAD =
        16384 /* bytes of prefetch on the low plane, to the second level: the same to the first is a quarter slower */
};

/* Where the bit of each of 64 weights lies in its quadword of a plane, less `place`: the operand of vpmultishiftqb. */
INLINE __m512i bit_places(int place)
{
    /* Weight 16i + j of the first half: byte 4i + 2 (j & 1), bit 7 - j / 2; quadword i / 2. The second half: a byte
     * further. */
    const __m512i first =
        _mm512_set_epi64(0x3020312132223323, 0x3424352536263727, 0x1000110112021303, 0x1404150516061707,
                         0x3020312132223323, 0x3424352536263727, 0x1000110112021303, 0x1404150516061707);
    return _mm512_sub_epi8(first, _mm512_set1_epi8((char)place));
}

/* The same for quadwords that hold weights 16i..16i + 7, i = 0..3 of two blocks, as Q3's low plane has them. */
INLINE __m512i pair_places(int place)
{
    const int64_t even = 0x1404150516061707, odd = 0x3424352536263727;
    return _mm512_sub_epi8(_mm512_set_epi64(odd, even, odd, even, odd, even, odd, even), _mm512_set1_epi8((char)place));
}

/* Lanes 0 and 1: the first 8 bytes of a plane twice each; lanes 2 and 3: the last 8. */
INLINE __m512i load_plane(const uint8_t *plane)
{
    __m512i first = _mm512_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)(const void *)plane));
    return _mm512_mask_broadcastq_epi64(first, 0xF0, _mm_loadl_epi64((const __m128i *)(const void *)(plane + 8)));
}

/* 16-bit words to the right, by a multiplication: the shifter's pipes have enough to do. */
INLINE __m512i shift_words(__m512i v, int n)
{
    return _mm512_mulhi_epu16(v, _mm512_set1_epi16((short)(1 << (16 - n))));
}

/* Levels of weights 0..63 and 64..127 of one block, Q4 to Q6. */
INLINE void levels(hs_dtype type, const tables512 *t, const uint8_t *low, const uint8_t *high, __m512i *main,
                   __m512i *less)
{
    __m512i a = _mm512_loadu_si512(low), b = shift_words(a, 4);
    if (high_block_of(type)) {
        const __m512i below = _mm512_set1_epi8(15), places = bit_places(4), next = bit_places(-4);
        __m512i p = load_plane(high);
        a = merge512(a, _mm512_multishift_epi64_epi8(places, p), below);
        b = merge512(b, _mm512_multishift_epi64_epi8(next, p), below);
    }
    if (type == HS_Q6) {
        const __m512i under = _mm512_set1_epi8(31), signs = bit_places(5), next = bit_places(-3);
        __m512i s = load_plane(high + 16);
        a = merge512(a, _mm512_multishift_epi64_epi8(signs, s), under);
        b = merge512(b, _mm512_multishift_epi64_epi8(next, s), under);
        less[0] = lookup512(t->low, a);
        less[1] = lookup512(t->low, b);
    }
    main[0] = lookup512(t->main, a);
    main[1] = lookup512(t->main, b);
}

/* Levels of two blocks of Q2 or Q3: vector k has 32 weights of each, in the order of `pair_order`. */
INLINE void pair_levels(hs_dtype type, const tables512 *t, __m512i low, __m256i high, __m512i *main)
{
    __m512i p = _mm512_setzero_si512();
    if (type == HS_Q3)
        p = _mm512_permutexvar_epi64(_mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0), _mm512_castsi256_si512(high));
    for (int k = 0; k < 4; k++) {
        __m512i c = k ? shift_words(low, 2 * k) : low;
        if (type == HS_Q3)
            c = merge512(c, _mm512_multishift_epi64_epi8(pair_places(2 + 4 * (k & 1) - 8 * (k >> 1)), p),
                         _mm512_set1_epi8(3));
        main[k] = lookup512(t->main, c);
    }
}

/* Two blocks of activations as `pair_levels` has the weights. */
INLINE void pair_order(const int8_t *x, uint32_t n, int8_t *out)
{
    const __m512i even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
    __m512i a[2] = {_mm512_loadu_si512(x), _mm512_loadu_si512(x + 64)}, b[2] = {_mm512_setzero_si512()};
    b[1] = b[0];
    if (n > 1) {
        b[0] = _mm512_loadu_si512(x + HS_BLOCK);
        b[1] = _mm512_loadu_si512(x + HS_BLOCK + 64);
    }
    for (int half = 0; half < 2; half++) { /* out may be x */
        _mm512_storeu_si512(out + 128 * half, _mm512_permutex2var_epi64(a[half], even, b[half]));
        _mm512_storeu_si512(out + 128 * half + 64, _mm512_permutex2var_epi64(a[half], odd, b[half]));
    }
}

/*
 * Codes of weights 32i.. and 64 + 32i.. of a block of INT4, i = 0 and 1: its halves in the halves of both vectors.  One
 * product of bit matrices takes the low nibbles of a half, and the high ones of the other, where a shift and a mask
 * would be two operations.
 */
INLINE void int4_codes(const uint8_t *low, __m512i *code)
{
    const int64_t lower = 0x0102040800000000, upper = 0x1020408000000000;
    const __m512i nibbles = _mm512_set_epi64(upper, upper, upper, upper, lower, lower, lower, lower);
    for (int i = 0; i < 2; i++) {
        __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)(low + 32 * i)));
        code[i] = _mm512_gf2p8affine_epi64_epi8(both, nibbles, 0);
    }
}

/* A block of activations as `int4_codes` has the weights. */
INLINE void halves_order(const int8_t *x, int8_t *out)
{
    __m512i a = _mm512_loadu_si512(x), b = _mm512_loadu_si512(x + 64);
    _mm512_storeu_si512(out, _mm512_shuffle_i64x2(a, b, 0x44)); /* out may be x */
    _mm512_storeu_si512(out + 64, _mm512_shuffle_i64x2(a, b, 0xEE));
}

/* Types of which two units are dotted in the two halves of a vector. */
INLINE bool paired(hs_dtype type)
{
    return type <= HS_Q3 || hs_dtype_int4(type);
}

/* What sixteen units are multiplied with. */
typedef struct group {
    const uint8_t *low, *high;
    const int8_t *x[TOKENS];
} group;

/* Partial sums of leaf i for each token: a unit, or a pair of them in the two halves; n units are left. */
INLINE void leaf(hs_dtype type, const tables512 *t, const group *g, uint32_t m, uint32_t i, uint32_t n, __m512i *out)
{
    const __m512i zero = _mm512_setzero_si512();
    const uint32_t per = paired(type) ? 2 : 1, low_leaf = low_unit_of(type) * per;
    const uint32_t high_leaf = high_block_of(type) * per, inputs = unit_of(type) * per;
    const uint8_t *low = g->low + (size_t)i * low_leaf, *high = g->high + (size_t)i * high_leaf;
    __m512i w[4], less[2];
    _mm_prefetch((const char *)low + AHEAD, _MM_HINT_T1);
    if (high_leaf && i % (64 / high_leaf) == 0)
        _mm_prefetch((const char *)high + AHEAD / low_leaf * high_leaf, _MM_HINT_T1);
    if (type <= HS_Q3) {
        uint32_t left = n - i * 2;
        __m512i l = left > 1 ? _mm512_loadu_si512(low) : _mm512_maskz_loadu_epi64(0x0F, low);
        __m256i h = type == HS_Q2 ? _mm256_setzero_si256() : _mm256_maskz_loadu_epi64(left > 1 ? 0xF : 3, high);
        pair_levels(type, t, l, h, w);
    } else if (hs_dtype_int4(type))
        int4_codes(low, w);
    else
        levels(type, t, low, high, w, less);
    for (uint32_t k = 0; k < m; k++) {
        const int8_t *x = g->x[k] + (size_t)i * inputs;
        __m512i s = zero;
        for (uint32_t v = 0; v < inputs / 64; v++)
            s = _mm512_dpbusd_epi32(s, w[v], _mm512_loadu_si512(x + 64 * v));
        if (type == HS_Q6) { /* 128 hi + lo */
            __m512i l = _mm512_dpbusd_epi32(zero, less[0], _mm512_loadu_si512(x));
            l = _mm512_dpbusd_epi32(l, less[1], _mm512_loadu_si512(x + 64));
            s = _mm512_add_epi32(_mm512_slli_epi32(s, 7), l);
        }
        out[k] = s;
    }
}

/*
 * Of two vectors of sums with 16 >> level lanes each, one of both: bit `level` of a lane's number says which; for INT4
 * in the last, whose halves are not summed, bit 3.
 */
INLINE __m512i join(hs_dtype type, int level, __m512i a, __m512i b)
{
    if (hs_dtype_int4(type)) /* nothing else shuffles: three operations instead of four */
        switch (level) {
        case 0: return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        case 1: return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        default: return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
        }
    static const __mmask16 second[4] = {0xAAAA, 0xCCCC, 0xF0F0, 0xFF00};
    __m512i kept = _mm512_mask_blend_epi32(second[level], a, b), given = _mm512_mask_blend_epi32(second[level], b, a);
    switch (level) {
    case 0: given = _mm512_shuffle_epi32(given, _MM_PERM_CDAB); break;
    case 1: given = _mm512_shuffle_epi32(given, _MM_PERM_BADC); break;
    case 2: given = _mm512_shuffle_i32x4(given, given, 0xB1); break;
    default: given = _mm512_shuffle_i32x4(given, given, 0x4E);
    }
    return _mm512_add_epi32(kept, given);
}

#define NODE(NAME, LEVEL, BELOW)                                                                                       \
    INLINE void NAME(hs_dtype type, const tables512 *t, const group *g, uint32_t m, uint32_t i, __m512i *out)          \
    {                                                                                                                  \
        __m512i second[TOKENS];                                                                                        \
        BELOW(type, t, g, m, i, out);                                                                                  \
        BELOW(type, t, g, m, i + (1u << LEVEL), second);                                                               \
        for (uint32_t k = 0; k < m; k++)                                                                               \
            out[k] = join(type, LEVEL, out[k], second[k]);                                                             \
    }

INLINE void full_leaf(hs_dtype type, const tables512 *t, const group *g, uint32_t m, uint32_t i, __m512i *out)
{
    leaf(type, t, g, m, i, 16, out);
}

NODE(two, 0, full_leaf)
NODE(four, 1, two)
NODE(eight, 2, four)
NODE(sixteen, 3, eight)

/* Dots of n <= 16 units, zero after: lane i is unit i. */
INLINE void dots(hs_dtype type, const tables512 *t, const group *g, uint32_t m, uint32_t n, __m512i *out)
{
    const uint32_t per = paired(type) ? 2 : 1;
    if (n == 16) {
        if (paired(type))
            eight(type, t, g, m, 0, out);
        else
            sixteen(type, t, g, m, 0, out);
    } else {
        __m512i v[16][TOKENS];
        for (uint32_t i = 0; i < 16 / per; i++)
            if (i * per < n)
                leaf(type, t, g, m, i, n, v[i]);
            else
                for (uint32_t k = 0; k < m; k++)
                    v[i][k] = _mm512_setzero_si512();
        for (int level = 0; level < (paired(type) ? 3 : 4); level++)
            for (uint32_t i = 0; i < 16 / per; i += 2u << level)
                for (uint32_t k = 0; k < m; k++)
                    v[i][k] = join(type, level, v[i][k], v[i + (1u << level)][k]);
        for (uint32_t k = 0; k < m; k++)
            out[k] = v[0][k];
    }
    if (!paired(type))
        return;
    /* Unit 2p is in lane p, unit 2p + 1 in lane 8 + p; of INT4 lanes 4.. and 8.. have changed places. */
    const __m512i in_order = hs_dtype_int4(type)
                                 ? _mm512_set_epi32(15, 11, 14, 10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0)
                                 : _mm512_set_epi32(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
    for (uint32_t k = 0; k < m; k++)
        out[k] = _mm512_permutexvar_epi32(in_order, out[k]);
}

/* Lanes 0..n - 1. */
INLINE __mmask16 first_of(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}

/* One token's activations over a span of units; short rows find them as often as rows fill a group. */
typedef struct input {
    const int8_t *x;
    const float *scale;
    const int32_t *sum;
} input;

typedef struct ordered {
    _Alignas(64) int8_t x[SPAN * HS_BLOCK]; /* an even count */
    float scale[16];
    int32_t sum[16];
} ordered;

/* How many rows fill a group of sixteen units: where a row has four or eight. */
INLINE uint32_t rows_in_group(uint32_t units)
{
    return units == 4 || units == 8 ? 16 / units : 1;
}

INLINE input input_of(hs_dtype type, const hs_act *a, size_t at, uint32_t nu, bool repeat, ordered *o)
{
    const uint32_t unit = unit_of(type);
    input in = {a->q + at * unit, a->scale + at, a->sum + at};
    if (repeat) {
        for (uint32_t i = 0; i < 16 * unit; i += 64)
            _mm512_storeu_si512(o->x + i, _mm512_loadu_si512(in.x + i % (nu * unit)));
        for (uint32_t i = 0; i < 16; i += 4) {
            _mm_storeu_ps(o->scale + i, _mm_loadu_ps(in.scale + i % nu));
            memcpy(o->sum + i, in.sum + i % nu, 4 * sizeof *o->sum);
        }
        in = (input){o->x, o->scale, o->sum};
        nu = 16;
    }
    if (type <= HS_Q3)
        for (uint32_t i = 0; i < nu; i += 2)
            pair_order(in.x + (size_t)i * HS_BLOCK, nu - i, o->x + (size_t)i * HS_BLOCK);
    if (hs_dtype_int4(type))
        for (uint32_t i = 0; i < nu; i += 2)
            halves_order(in.x + (size_t)i * unit, o->x + (size_t)i * unit);
    if (paired(type))
        in.x = o->x;
    return in;
}

/* Unit sums as floats and norm * scale of 16 rows over one span; of short rows, the units of 16 in turn. */
typedef struct span {
    _Alignas(64) float sum[16 * SPAN];
    float factor[16 * SPAN];
} span;

/* Norms of n <= 16 units at `at` of the matrix. */
INLINE __m512 norms_of(hs_dtype type, const hs_matrix *w, size_t at, uint32_t n)
{
    if (!shares_norms(type, w))
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_of(n), w->norms + at * 2));
    const __m256i twice = _mm256_set_epi16(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    __m128i two = _mm_maskz_loadu_epi16((__mmask8)first_of(n / 2), w->norms + at / 2 * 2);
    return _mm512_cvtph_ps(_mm256_permutexvar_epi16(twice, _mm256_castsi128_si256(two)));
}

/* Their zero points, as integers. */
INLINE __m512i zeros_of(const hs_matrix *w, size_t at, uint32_t n)
{
    if (!shares_norms(HS_I4, w))
        return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_of(n), w->zeros + at));
    __m128i two = _mm_maskz_loadu_epi8(first_of(n / 2), w->zeros + at / 2);
    return _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(two, two));
}

/* sum w q of n units at `at` of the matrix: from their dots and the sums of their activations. */
INLINE __m512i unit_sums(hs_dtype type, const hs_matrix *w, size_t at, uint32_t n, __m512i dot, __m512i sum)
{
    if (!hs_dtype_int4(type))
        return isum512(type, dot, sum);
    if (!w->zeros)
        return _mm512_sub_epi32(dot, _mm512_slli_epi32(sum, 3)); /* HS_INT4_ZERO */
    return _mm512_sub_epi32(dot, _mm512_mullo_epi32(zeros_of(w, at, n), sum));
}

/* n units at `at` of the matrix against those at `b` of the inputs, to place `to` of each token's span. */
INLINE void group_sums(hs_dtype type, const hs_matrix *w, const tables512 *t, size_t at, const input *in, uint32_t b,
                       uint32_t m, uint32_t n, uint32_t to, span *c)
{
    const __mmask16 some = first_of(n);
    group g = {w->low + at * low_unit_of(type), high_block_of(type) ? w->high + at * high_block_of(type) : w->low, {0}};
    __m512i d[TOKENS];
    for (uint32_t k = 0; k < m; k++)
        g.x[k] = in[k].x + (size_t)b * unit_of(type);
    dots(type, t, &g, m, n, d);
    const size_t ahead = (at + AHEAD / low_unit_of(type)) / (shares_norms(type, w) ? 2 : 1);
    _mm_prefetch((const char *)w->norms + ahead * 2, _MM_HINT_T1);
    if (hs_dtype_int4(type) && w->zeros)
        _mm_prefetch((const char *)w->zeros + ahead, _MM_HINT_T1);
    __m512 norm = norms_of(type, w, at, n);
    for (uint32_t k = 0; k < m; k++) {
        __m512i s = unit_sums(type, w, at, n, d[k], _mm512_maskz_loadu_epi32(some, in[k].sum + b));
        _mm512_storeu_ps(c[k].sum + to, _mm512_cvtepi32_ps(s));
        _mm512_storeu_ps(c[k].factor + to, _mm512_mul_ps(norm, _mm512_maskz_loadu_ps(some, in[k].scale + b)));
    }
}

/* Continues 16 rows' totals over a span: the fma chain of each segment, then its sum. */
INLINE __m512 chain(hs_dtype type, const span *c, uint32_t nu, __m512 total)
{
    const uint32_t segment = segment_of(type);
    for (uint32_t g = 0; g < nu; g += 16) {
        __m512i p[16], f[16];
        for (int i = 0; i < 16; i++) {
            p[i] = _mm512_castps_si512(_mm512_loadu_ps(c->sum + i * SPAN + g));
            f[i] = _mm512_castps_si512(_mm512_loadu_ps(c->factor + i * SPAN + g));
        }
        transpose512(p);
        transpose512(f);
        for (uint32_t s = 0; s < 16 && g + s < nu; s += segment) {
            __m512 seg = _mm512_setzero_ps();
            for (uint32_t u = s; u < s + segment; u++) /* units past the end have the factor and the sum zero */
                seg = _mm512_fmadd_ps(_mm512_castsi512_ps(f[u]), _mm512_castsi512_ps(p[u]), seg);
            total = _mm512_add_ps(total, seg);
        }
    }
    return total;
}

/* Of 16 rows of four units, unit j. */
INLINE __m512 every_fourth(const float *v, int j)
{
    const __m512i at =
        _mm512_add_epi32(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 28, 24, 20, 16, 12, 8, 4, 0), _mm512_set1_epi32(j));
    __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(v), at, _mm512_loadu_ps(v + 16));
    __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(v + 32), at, _mm512_loadu_ps(v + 48));
    return _mm512_insertf32x8(low, _mm512_castps512_ps256(high), 1);
}

/* The one segment of rows of four or eight units. */
INLINE __m512 chain_short(const span *c, uint32_t units)
{
    __m512 seg = _mm512_setzero_ps();
    if (units == 4)
        for (int u = 0; u < 4; u++)
            seg = _mm512_fmadd_ps(every_fourth(c->factor, u), every_fourth(c->sum, u), seg);
    else {
        __m512i p[16], f[16]; /* the rows after them are read too, and left */
        for (int i = 0; i < 16; i++) {
            p[i] = _mm512_castps_si512(_mm512_loadu_ps(c->sum + 8 * i));
            f[i] = _mm512_castps_si512(_mm512_loadu_ps(c->factor + 8 * i));
        }
        transpose512(p);
        transpose512(f);
        for (int u = 0; u < 8; u++)
            seg = _mm512_fmadd_ps(_mm512_castsi512_ps(f[u]), _mm512_castsi512_ps(p[u]), seg);
    }
    return _mm512_add_ps(_mm512_setzero_ps(), seg); /* as every segment is added to a total */
}

/* Continues the totals of `rows` <= 16 rows over nu <= SPAN units; `at` is the first row's first. */
INLINE void row_span(hs_dtype type, const hs_matrix *w, const tables512 *t, size_t at, const input *in, uint32_t m,
                     uint32_t nu, uint32_t rows, span *c, __m512 *total)
{
    const uint32_t units = units_of(type, w);
    if (rows_in_group(units) > 1) {
        const uint32_t all = units * rows;
        for (uint32_t i = 0; i < all; i += 16)
            group_sums(type, w, t, at + i, in, 0, m, all - i < 16 ? all - i : 16, i, c);
        for (uint32_t k = 0; k < m; k++)
            total[k] = chain_short(&c[k], units);
        return;
    }
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t g = 0; g < nu; g += 16)
            group_sums(type, w, t, at + (size_t)i * units + g, in, g, m, nu - g < 16 ? nu - g : 16, i * SPAN + g, c);
    for (uint32_t k = 0; k < m; k++)
        total[k] = chain(type, &c[k], nu, total[k]);
}

/* m <= TOKENS tokens against rows first..last - 1, at most BAND_ROWS. */
INLINE void product(hs_dtype type, const hs_matrix *w, const hs_act *a, const size_t *token, uint32_t m, uint32_t first,
                    uint32_t last, float *y, size_t stride)
{
    const tables512 t = tables512_of(type, w->book);
    const __m512 scale = _mm512_set1_ps(last_scale(type, w));
    const uint32_t units = units_of(type, w);
    __m512 total[BAND_ROWS / 16][TOKENS];
    ordered o[TOKENS];
    span c[TOKENS];
    input in[TOKENS];
    for (uint32_t k = 0; k < m; k++)
        memset(&c[k], 0, last - first < 16 ? sizeof c[k] : 0); /* rows that there are not */
    for (uint32_t i = 0; i < BAND_ROWS / 16; i++)
        for (uint32_t k = 0; k < m; k++)
            total[i][k] = _mm512_setzero_ps();
    for (uint32_t s = 0; s < units; s += SPAN) {
        uint32_t ns = units - s < SPAN ? units - s : SPAN;
        for (uint32_t k = 0; k < m; k++)
            in[k] = input_of(type, a, token[k] * units + s, ns, rows_in_group(units) > 1, &o[k]);
        for (uint32_t r = first; r < last; r += 16)
            row_span(type, w, &t, (size_t)r * units + s, in, m, ns, last - r < 16 ? last - r : 16, c,
                     total[(r - first) / 16]);
    }
    for (uint32_t r = first; r < last; r += 16)
        for (uint32_t k = 0; k < m; k++)
            _mm512_mask_storeu_ps(y + k * stride + r, last - r < 16 ? (__mmask16)((1u << (last - r)) - 1) : 0xFFFF,
                                  _mm512_mul_ps(total[(r - first) / 16][k], scale));
}

FEW_TABLE

void hs_avx512_gemv(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                    uint32_t last, float *y, size_t stride)
{
    few_tokens(few, w, a, token, n, first, last, y, stride);
}
