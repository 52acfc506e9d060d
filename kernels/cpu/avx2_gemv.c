/*
 * kernels/cpu/avx2_gemv.c - packed products for a few tokens with AVX2 and FMA, bit for bit those of ref.c.
 *
 * There is no unsigned-by-signed dot product of four, so |x| is the unsigned side of vpmaddubsw and the level's k,
 * negated where x is negative, the signed one: 127 * 127 * 2 fits 16 bits, which is why k stays below 127.  |x| is made
 * once for a band of rows.  The eight block sums of a segment leave through one tree of horizontal additions, and the
 * fma chain of a segment runs on eight rows at once after a transpose.
 *
 * INT4 has no levels: the code is the unsigned side.  A block's two halves are added up in the halves of a vector, two
 * blocks then joined in 16 bits: 15 * 127 * 16 fits them.
 */
#include "kernels/cpu/avx2.h"
#include "kernels/int4.h"

enum { AHEAD = 16384 };

/* One token's activations over a span of blocks, in the order of the weights; for rows of four blocks, twice. */
typedef struct input {
    _Alignas(32) int8_t x[SPAN * HS_BLOCK];
    _Alignas(32) uint8_t size[SPAN * HS_BLOCK]; /* |x| */
    float scale[SPAN];                          /* zero past the end */
    int32_t sum[SPAN];
} input;

/* A block of activations as `int4_codes` has the weights: of each half 16 in turn. */
INLINE void halves_order(const int8_t *x, int8_t *out)
{
    for (int j = 0; j < 4; j++) {
        memcpy(out + 32 * j, x + 16 * j, 16);
        memcpy(out + 32 * j + 16, x + 64 + 16 * j, 16);
    }
}

static void input_of(hs_dtype type, const hs_act *a, size_t at, uint32_t nu, uint32_t repeat, input *in)
{
    const uint32_t unit = unit_of(type);
    for (uint32_t u = 0; u < nu * repeat; u++) {
        int8_t *x = in->x + (size_t)u * unit;
        if (hs_dtype_int4(type)) {
            if (u % 2 == 0)
                halves_order(a->q + (at + u % nu) * unit, x);
            continue;
        }
        if (type <= HS_Q3)
            spread(a->q + (at + u % nu) * HS_BLOCK, x);
        else
            memcpy(x, a->q + (at + u % nu) * HS_BLOCK, HS_BLOCK);
        for (uint32_t i = 0; i < HS_BLOCK; i++)
            in->size[(size_t)u * HS_BLOCK + i] = (uint8_t)(x[i] < 0 ? -x[i] : x[i]);
    }
    memset(in->scale, 0, sizeof in->scale);
    memset(in->sum, 0, sizeof in->sum);
    for (uint32_t i = 0; i < repeat; i++) {
        memcpy(in->scale + (size_t)i * nu, a->scale + at, nu * sizeof *in->scale);
        memcpy(in->sum + (size_t)i * nu, a->sum + at, nu * sizeof *in->sum);
    }
}

/* sum k x over 32 weights, as eight partial sums. */
INLINE __m256i dot32(__m256i k, const input *in, size_t at)
{
    __m256i x = _mm256_load_si256((const __m256i *)(const void *)(in->x + at));
    __m256i size = _mm256_load_si256((const __m256i *)(const void *)(in->size + at));
    return _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(k, x)), _mm256_set1_epi16(1));
}

/* Lane sums of eight vectors, in order. */
INLINE __m256i sum8(const __m256i *v)
{
    __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/* Eight rows' unit sums as floats, and norm * scale; of rows of four units, 32 in turn. */
typedef struct span {
    _Alignas(32) float sum[8 * SPAN];
    _Alignas(32) float factor[8 * SPAN];
} span;

/* Codes of weights 16j.. and 64 + 16j.. of a block of INT4: a unit in each half of the vector. */
INLINE __m256i int4_codes(const uint8_t *low, int j)
{
    __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(low + 16 * j)));
    return _mm256_and_si256(_mm256_srlv_epi32(both, _mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0)), _mm256_set1_epi8(15));
}

/* sum code x over the eight units of up to four blocks; the units of those that there are not have zero. */
INLINE void int4_dots(const uint8_t *low, const input *in, size_t at, uint32_t m, uint32_t blocks, __m256i *dot)
{
    const __m256i one = _mm256_set1_epi16(1), in_order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    __m256i d[TOKENS][4];
#pragma GCC unroll 4
    for (uint32_t b = 0; b < 4; b++) {
        for (uint32_t k = 0; k < m; k++)
            d[k][b] = _mm256_setzero_si256();
        if (b >= blocks)
            continue;
        _mm_prefetch((const char *)low + 64 * b + AHEAD, _MM_HINT_T1);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256i v = int4_codes(low + 64 * b, j);
            for (uint32_t k = 0; k < m; k++) {
                const int8_t *x = in[k].x + at + HS_BLOCK * b + 32 * (size_t)j;
                __m256i s = _mm256_maddubs_epi16(v, _mm256_load_si256((const __m256i *)(const void *)x));
                d[k][b] = j ? _mm256_add_epi16(d[k][b], s) : s;
            }
        }
    }
    for (uint32_t k = 0; k < m; k++) {
        __m256i a = _mm256_madd_epi16(_mm256_hadd_epi16(d[k][0], d[k][1]), one);
        __m256i b = _mm256_madd_epi16(_mm256_hadd_epi16(d[k][2], d[k][3]), one);
        dot[k] = _mm256_permutevar8x32_epi32(_mm256_hadd_epi32(a, b), in_order);
    }
}

/* Partial sums of one unit for each token, the u-th of eight; `low` is that of its block. */
INLINE void unit_dot(hs_dtype type, const tables *t, const uint8_t *low, const uint8_t *high, const input *in,
                     size_t at, uint32_t m, __m256i (*d)[8], uint32_t u)
{
    _mm_prefetch((const char *)low + AHEAD, _MM_HINT_T1);
    for (uint32_t k = 0; k < m; k++)
        d[k][u] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int h = 0; h < 4; h++) {
        __m256i lo, v = values(type, t, low, high, h, &lo);
        for (uint32_t k = 0; k < m; k++) {
            __m256i s = dot32(v, &in[k], at + 32 * (size_t)h);
            if (type == HS_Q6)
                s = _mm256_add_epi32(_mm256_slli_epi32(s, 7), dot32(lo, &in[k], at + 32 * (size_t)h));
            d[k][u] = _mm256_add_epi32(d[k][u], s);
        }
    }
}

/* `bytes` <= 16 of them, zero after. Whole counts are loaded at once: of smaller copies a load would have to wait. */
INLINE __m128i load_some(const uint8_t *p, uint32_t bytes)
{
    uint8_t some[16] = {0};
    if (bytes == 16)
        return _mm_loadu_si128((const __m128i *)(const void *)p);
    if (bytes == 8)
        return _mm_loadl_epi64((const __m128i *)(const void *)p);
    if (bytes == 4)
        return _mm_loadu_si32(p);
    memcpy(some, p, bytes);
    return _mm_loadu_si128((const __m128i *)(const void *)some);
}

/* Norms of n <= 8 units at `at`. */
INLINE __m256 norms_of(hs_dtype type, const hs_matrix *w, size_t at, uint32_t n)
{
    if (!shares_norms(type, w))
        return _mm256_cvtph_ps(load_some(w->norms + at * 2, n * 2));
    __m128i two = load_some(w->norms + at, n);
    return _mm256_cvtph_ps(_mm_unpacklo_epi16(two, two));
}

/* Their zero points, as integers. */
INLINE __m256i zeros_of(const hs_matrix *w, size_t at, uint32_t n)
{
    if (!w->zeros)
        return _mm256_set1_epi32(HS_INT4_ZERO);
    if (!shares_norms(HS_I4, w))
        return _mm256_cvtepu8_epi32(load_some(w->zeros + at, n));
    __m128i two = load_some(w->zeros + at / 2, n / 2);
    return _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(two, two));
}

/* Dots of n <= 8 units at `at` of the matrix with those at `from` of the inputs. */
INLINE void unit_dots(hs_dtype type, const hs_matrix *w, const tables *t, size_t at, const input *in, uint32_t from,
                      uint32_t m, uint32_t n, __m256i *dot)
{
    const uint32_t low_block = low_block_of(type), high_block = high_block_of(type);
    if (hs_dtype_int4(type)) {
        int4_dots(w->low + at / 2 * low_block, in, (size_t)from * unit_of(type), m, n / 2, dot);
        return;
    }
    const uint8_t *low = w->low + at * low_block, *high = high_block ? w->high + at * high_block : low;
    __m256i d[TOKENS][8];
    if (n < 8)
        memset(d, 0, sizeof d);
#pragma GCC unroll 8
    for (uint32_t u = 0; u < n; u++)
        unit_dot(type, t, low + u * low_block, high + u * high_block, in, (size_t)(from + u) * HS_BLOCK, m, d, u);
    for (uint32_t k = 0; k < m; k++)
        dot[k] = sum8(d[k]);
}

/* Sums of n <= 8 units at `at` of the matrix against those at `from` of the inputs, to place `to` of the spans. */
INLINE void some_sums(hs_dtype type, const hs_matrix *w, const tables *t, size_t at, const input *in, uint32_t from,
                      uint32_t m, uint32_t n, uint32_t to, span *c)
{
    __m256i d[TOKENS], zero = _mm256_setzero_si256();
    unit_dots(type, w, t, at, in, from, m, n, d);
    if (hs_dtype_int4(type))
        zero = zeros_of(w, at, n);
    __m256 norm = norms_of(type, w, at, n);
    for (uint32_t k = 0; k < m; k++) {
        __m256i dot = d[k], sum = _mm256_loadu_si256((const __m256i *)(const void *)(in[k].sum + from));
        if (hs_dtype_int4(type))
            dot = _mm256_sub_epi32(dot, _mm256_mullo_epi32(zero, sum));
        else /* sum (2k + 1) x */
            dot = _mm256_add_epi32(_mm256_add_epi32(dot, dot), sum);
        _mm256_store_ps(c[k].sum + to, _mm256_cvtepi32_ps(dot));
        _mm256_store_ps(c[k].factor + to, _mm256_mul_ps(norm, _mm256_loadu_ps(in[k].scale + from)));
    }
}

/* The same of nu units: from the inputs' first. */
INLINE void row_sums(hs_dtype type, const hs_matrix *w, const tables *t, size_t at, const input *in, uint32_t m,
                     uint32_t nu, uint32_t to, span *c)
{
    uint32_t g = 0;
    for (; g + 8 <= nu; g += 8)
        some_sums(type, w, t, at + g, in, g, m, 8, to + g, c);
    if (g < nu)
        some_sums(type, w, t, at + g, in, g, m, nu - g, to + g, c);
}

/* Continues eight rows' totals over a span: the fma chain of each segment, then its sum. */
INLINE __m256 chain(hs_dtype type, const span *c, uint32_t nu, __m256 total)
{
    __m256 seg = _mm256_setzero_ps();
    for (uint32_t g = 0; g < nu; g += 8) {
        __m256 p[8], f[8];
        for (int i = 0; i < 8; i++) {
            p[i] = _mm256_load_ps(c->sum + i * SPAN + g);
            f[i] = _mm256_load_ps(c->factor + i * SPAN + g);
        }
        transpose8(p);
        transpose8(f);
        for (int u = 0; u < 8; u++) /* units past the end have the factor and the sum zero */
            seg = _mm256_fmadd_ps(f[u], p[u], seg);
        if ((g + 8) % segment_of(type) && g + 8 < nu)
            continue;
        total = _mm256_add_ps(total, seg);
        seg = _mm256_setzero_ps();
    }
    return total;
}

/* Of eight rows of four units: unit j of each. */
INLINE void transpose_fours(const float *v, __m256 *out)
{
    __m256 r[4];
    for (int i = 0; i < 4; i++)
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(v + 4 * i)), _mm_load_ps(v + 16 + 4 * i), 1);
    __m256 a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
    out[0] = _mm256_shuffle_ps(a, c, 0x44);
    out[1] = _mm256_shuffle_ps(a, c, 0xEE);
    out[2] = _mm256_shuffle_ps(b, d, 0x44);
    out[3] = _mm256_shuffle_ps(b, d, 0xEE);
}

INLINE __m256 chain_four(const span *c)
{
    __m256 p[4], f[4], seg = _mm256_setzero_ps();
    transpose_fours(c->sum, p);
    transpose_fours(c->factor, f);
    for (int b = 0; b < 4; b++)
        seg = _mm256_fmadd_ps(f[b], p[b], seg);
    return _mm256_add_ps(_mm256_setzero_ps(), seg); /* as every segment is added to a total */
}

/* Continues the totals of `rows` <= 8 rows over nu <= SPAN units; `at` is the first row's first. */
INLINE void rows_span(hs_dtype type, const hs_matrix *w, const tables *t, size_t at, const input *in, uint32_t m,
                      uint32_t nu, uint32_t rows, span *c, __m256 *total)
{
    const uint32_t units = units_of(type, w);
    bool four = units == 4; /* two rows fill an eight */
    for (uint32_t i = 0; i < rows; i += four ? 2 : 1)
        row_sums(type, w, t, at + (size_t)i * units, in, m, four && rows - i > 1 ? 8 : nu, four ? 4 * i : i * SPAN, c);
    for (uint32_t k = 0; k < m; k++)
        total[k] = four ? chain_four(&c[k]) : chain(type, &c[k], nu, total[k]);
}

/* m <= TOKENS tokens against rows first..last - 1, at most BAND_ROWS. */
INLINE void product(hs_dtype type, const hs_matrix *w, const hs_act *a, const size_t *token, uint32_t m, uint32_t first,
                    uint32_t last, float *y, size_t stride)
{
    const uint32_t units = units_of(type, w);
    const tables t = hs_dtype_int4(type) ? (tables){0} : tables_of(w->book);
    __m256 total[BAND_ROWS / 8][TOKENS];
    input in[TOKENS];
    span c[TOKENS];
    for (uint32_t i = 0; i < BAND_ROWS / 8; i++)
        for (uint32_t k = 0; k < m; k++)
            total[i][k] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < m && last - first < 8; k++)
        memset(&c[k], 0, sizeof c[k]); /* rows that there are not */
    for (uint32_t s = 0; s < units; s += SPAN) {
        uint32_t nu = units - s < SPAN ? units - s : SPAN;
        for (uint32_t k = 0; k < m; k++)
            input_of(type, a, token[k] * units + s, nu, units == 4 ? 2 : 1, &in[k]);
        for (uint32_t r = first; r < last; r += 8)
            rows_span(type, w, &t, (size_t)r * units + s, in, m, nu, last - r < 8 ? last - r : 8, c,
                      total[(r - first) / 8]);
    }
    for (uint32_t r = first; r < last; r += 8)
        for (uint32_t k = 0; k < m; k++) {
            float out[8];
            _mm256_storeu_ps(out, _mm256_mul_ps(total[(r - first) / 8][k], _mm256_set1_ps(last_scale(type, w))));
            memcpy(y + k * stride + r, out, (last - r < 8 ? last - r : 8) * sizeof *out);
        }
}

FEW_TABLE

void hs_avx2_gemv(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                  float *y, size_t stride)
{
    few_tokens(few, w, a, token, n, first, last, y, stride);
}
