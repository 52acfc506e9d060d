/*
 * kernels/cpu/avx512_gemm.c - packed products for several tokens with AVX-512, bit for bit those of ref.c.
 *
 * 32 rows of one block are decoded once into a tile whose lanes are rows (dword s of the tile holds weights 4s..4s+3 of
 * each row), so that no sum crosses lanes: a token's four activations are broadcast against it.  Codes are transposed
 * before they are decoded, as they are half the size then.  Bound by one vpdpbusd a cycle on Zen 4, two on Zen 5 and
 * server Intel.
 */
#include "kernels/cpu/avx512.h"

#include <assert.h>

enum { FEW = 4, TILE_ROWS = 32, TILE_TOKENS = 8 };

/* 32 rows of one block with rows as lanes; dword s of half h: weights 4s..4s+3 of rows 16h..16h+15. */
typedef struct tile {
    __m512i main[32][2];
    __m512i low[32][2]; /* Q6 */
    __m512 norm[2][2];  /* of each unit */
    __m512i zero[2][2]; /* INT4 */
} tile;

/*
 * Operand of vpmultishiftqb for weights 4s..4s+3, m = s % 4, of rows in a dword of the plane each: byte 2 (b & 1), bit
 * 7 - 2m - b / 2, for b = 0..3; the second half of the block a byte further.
 */
INLINE __m512i bit_places(int m, int place)
{
    const __m512i zero = _mm512_set1_epi64(0x3626372716061707);
    return _mm512_sub_epi8(zero, _mm512_set1_epi8((char)(2 * m + place)));
}

/* The 16-byte planes of 16 rows, `stride` apart, as four vectors: dword i of every row. */
INLINE void transpose_planes(const uint8_t *plane, size_t stride, uint32_t rows, __m512i *out)
{
    __m512i r[4];
    for (uint32_t i = 0; i < 4; i++) { /* lane l of r[i]: row 4l + i */
        __m128i x[4];
        for (uint32_t l = 0; l < 4; l++)
            x[l] = 4 * l + i < rows ? _mm_loadu_si128((const __m128i *)(const void *)(plane + (4 * l + i) * stride))
                                    : _mm_setzero_si128();
        __m256i lo = _mm256_inserti128_si256(_mm256_castsi128_si256(x[0]), x[1], 1);
        __m256i hi = _mm256_inserti128_si256(_mm256_castsi128_si256(x[2]), x[3], 1);
        r[i] = _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
    }
    __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
    __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

/* Low planes of 16 rows as dwords: 16 of them, or 8 for the 32-byte plane of Q2 and Q3. */
INLINE void transpose_low(const uint8_t *low, size_t stride, uint32_t rows, bool wide, __m512i *v)
{
    for (uint32_t i = 0; i < 16; i++) {
        const uint8_t *p = low + i * stride;
        v[i] = i >= rows ? _mm512_setzero_si512()
               : wide    ? _mm512_loadu_si512(p)
                         : _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)p));
    }
    transpose512(v);
}

/* Norms and zero points of 16 rows' units in one block; `at` is the first row's block. */
INLINE void decode_norms(hs_dtype type, const hs_matrix *w, size_t at, uint32_t rows, uint32_t h, tile *out)
{
    const uint32_t per = hs_dtype_int4(type) && !shares_norms(type, w) ? 2 : 1;
    for (uint32_t u = 0; u < per; u++) {
        uint16_t norm[16] = {0};
        uint8_t zero[16] = {0};
        for (uint32_t i = 0; i < rows; i++)
            memcpy(&norm[i], w->norms + ((at + i * (size_t)w->blocks) * per + u) * 2, 2);
        out->norm[u][h] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)norm));
        if (!hs_dtype_int4(type) || !w->zeros)
            continue;
        for (uint32_t i = 0; i < rows; i++)
            zero[i] = w->zeros[(at + i * (size_t)w->blocks) * per + u];
        out->zero[u][h] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)zero));
    }
    if (shares_norms(type, w)) {
        out->norm[1][h] = out->norm[0][h];
        out->zero[1][h] = out->zero[0][h];
    }
}

/* 16 rows from `first`, of which `rows` exist. */
INLINE void decode_half(hs_dtype type, const hs_matrix *w, const tables512 *t, uint32_t first, uint32_t rows,
                        uint32_t block, uint32_t h, tile *out)
{
    const uint32_t low_block = low_block_of(type), high_block = high_block_of(type);
    const size_t at = (size_t)first * w->blocks + block;
    const __m512i below = _mm512_set1_epi8(type <= HS_Q3 ? 3 : 15), next = _mm512_set1_epi8(8);
    const int place = type == HS_Q3 ? 2 : 4;
    __m512i v[16], high[4], sign[4];
    transpose_low(w->low + at * low_block, (size_t)w->blocks * low_block, rows, type > HS_Q3, v);
    if (high_block)
        transpose_planes(w->high + at * high_block, (size_t)w->blocks * high_block, rows, high);
    if (type == HS_Q6)
        transpose_planes(w->high + at * high_block + 16, (size_t)w->blocks * high_block, rows, sign);
    for (uint32_t i = 0; i < rows; i++) {
        /* The next tile's rows follow this one's: the same place 32 rows on. */
        _mm_prefetch((const char *)w->low + (at + (i + TILE_ROWS) * (size_t)w->blocks) * low_block, _MM_HINT_T1);
        if (high_block && block % 4 == 0)
            _mm_prefetch((const char *)w->high + (at + (i + TILE_ROWS) * (size_t)w->blocks) * high_block, _MM_HINT_T1);
    }
    decode_norms(type, w, at, rows, h, out);
    for (uint32_t s = 0; s < 16; s++) {
        __m512i a, b;
        if (type <= HS_Q3) {
            /* Qword q of the plane: weights 16q.. (shifts 0, 2) and 64 + 16q.. (4, 6): dwords 2q and 2q + 1 in turn. */
            uint32_t q = s / 4, up = s / 2 % 2;
            __m512i x = v[2 * q + s % 2];
            a = _mm512_srli_epi32(x, 2 * up);
            b = _mm512_srli_epi32(x, 2 * up + 4);
        } else {
            a = v[s];
            b = _mm512_srli_epi16(a, 4);
        }
        if (!high_block) {
            a = _mm512_and_si512(a, below);
            b = _mm512_and_si512(b, below);
        } else {
            __m512i places = bit_places((int)(s % 4), place);
            a = merge512(a, _mm512_multishift_epi64_epi8(places, high[s / 4]), below);
            b = merge512(b, _mm512_multishift_epi64_epi8(_mm512_add_epi8(places, next), high[s / 4]), below);
        }
        if (type == HS_Q6) {
            const __m512i under = _mm512_set1_epi8(31);
            __m512i places = bit_places((int)(s % 4), 5);
            a = merge512(a, _mm512_multishift_epi64_epi8(places, sign[s / 4]), under);
            b = merge512(b, _mm512_multishift_epi64_epi8(_mm512_add_epi8(places, next), sign[s / 4]), under);
            out->low[s][h] = lookup512(t->low, a);
            out->low[16 + s][h] = lookup512(t->low, b);
        }
        out->main[s][h] = hs_dtype_int4(type) ? a : lookup512(t->main, a);
        out->main[16 + s][h] = hs_dtype_int4(type) ? b : lookup512(t->main, b);
    }
}

/* Activations of up to eight tokens in one block; scale and sum of each unit. */
typedef struct inputs {
    const int8_t *x[TILE_TOKENS];
    float scale[2][TILE_TOKENS];
    int32_t sum[2][TILE_TOKENS];
} inputs;

/* GCC 12 copies the accumulator of the intrinsic before and after each use in a loop. */
INLINE void add_dot(__m512i *sum, __m512i levels, __m512i x)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(levels), "v"(x));
}

/* Dwords first..last - 1 of each token against both halves of one plane of the tile. */
INLINE void dot_tile(const __m512i (*w)[2], const inputs *in, uint32_t first, uint32_t last, uint32_t n,
                     __m512i (*d)[2])
{
    for (uint32_t t = 0; t < n; t++)
        d[t][0] = d[t][1] = _mm512_setzero_si512();
    for (uint32_t s = first; s < last; s++) {
        __m512i w0 = w[s][0], w1 = w[s][1];
        for (uint32_t t = 0; t < n; t++) {
            int32_t four;
            memcpy(&four, in->x[t] + 4 * s, 4);
            __m512i q = _mm512_set1_epi32(four);
            add_dot(&d[t][0], w0, q);
            add_dot(&d[t][1], w1, q);
        }
    }
}

/* Sums of n tokens against one tile, added to their segments: seg [token][2] of 16 rows. */
INLINE void multiply_tile(hs_dtype type, const tile *w, const inputs *in, uint32_t n, __m512 (*seg)[2])
{
    __m512i d[TILE_TOKENS][2], l[TILE_TOKENS][2];
    dot_tile(w->main, in, 0, 32, n, d);
    if (type == HS_Q6)
        dot_tile(w->low, in, 0, 32, n, l);
    for (uint32_t t = 0; t < n; t++) {
        /* isum512, with the product of the sum made once for both halves. */
        const int32_t off = type == HS_Q6 ? 2 * 128 * 128 - 1 : 255;
        __m512i less = _mm512_set1_epi32(in->sum[0][t] * off);
        __m512 scale = _mm512_set1_ps(in->scale[0][t]);
        for (int h = 0; h < 2; h++) {
            __m512i dot = type == HS_Q6 ? _mm512_add_epi32(_mm512_slli_epi32(d[t][h], 7), l[t][h]) : d[t][h];
            __m512 isum = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_slli_epi32(dot, 1), less));
            seg[t][h] = _mm512_fmadd_ps(_mm512_mul_ps(w->norm[0][h], scale), isum, seg[t][h]);
        }
    }
}

/* The same for INT4, unit by unit. */
INLINE void multiply_int4(hs_dtype type, const tile *w, bool zeros, const inputs *in, uint32_t n, __m512 (*seg)[2])
{
    const uint32_t dwords = unit_of(type) / 4;
    for (uint32_t u = 0; u < HS_BLOCK / unit_of(type); u++) {
        __m512i d[TILE_TOKENS][2];
        dot_tile(w->main, in, u * dwords, (u + 1) * dwords, n, d);
        for (uint32_t t = 0; t < n; t++) {
            __m512i sum = _mm512_set1_epi32(in->sum[u][t]), less = _mm512_slli_epi32(sum, 3); /* HS_INT4_ZERO */
            __m512 scale = _mm512_set1_ps(in->scale[u][t]);
            for (int h = 0; h < 2; h++) {
                if (zeros)
                    less = _mm512_mullo_epi32(w->zero[u][h], sum);
                __m512 isum = _mm512_cvtepi32_ps(_mm512_sub_epi32(d[t][h], less));
                seg[t][h] = _mm512_fmadd_ps(_mm512_mul_ps(w->norm[u][h], scale), isum, seg[t][h]);
            }
        }
    }
}

INLINE void multiply(hs_dtype type, const tile *w, bool zeros, const inputs *in, uint32_t n, __m512 (*seg)[2])
{
    if (hs_dtype_int4(type))
        multiply_int4(type, w, zeros, in, n, seg);
    else
        multiply_tile(type, w, in, n, seg);
}

/* A constant count keeps everything in registers. */
INLINE void multiply_some(hs_dtype type, const tile *w, bool zeros, const inputs *in, uint32_t n, __m512 (*seg)[2])
{
    switch (n) {
    case 1: multiply(type, w, zeros, in, 1, seg); return;
    case 2: multiply(type, w, zeros, in, 2, seg); return;
    case 3: multiply(type, w, zeros, in, 3, seg); return;
    case 4: multiply(type, w, zeros, in, 4, seg); return;
    case 5: multiply(type, w, zeros, in, 5, seg); return;
    case 6: multiply(type, w, zeros, in, 6, seg); return;
    case 7: multiply(type, w, zeros, in, 7, seg); return;
    default: multiply(type, w, zeros, in, TILE_TOKENS, seg);
    }
}

INLINE void gemm(hs_dtype type, const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                 uint32_t last, float *y, size_t stride)
{
    const tables512 tables = tables512_of(type, w->book);
    const __m512 scale = _mm512_set1_ps(last_scale(type, w));
    const uint32_t per = HS_BLOCK / unit_of(type);
    __m512 seg[HS_BATCH_MAX][2], total[HS_BATCH_MAX][2];
    tile t;
    for (uint32_t r = first; r < last; r += TILE_ROWS) {
        uint32_t rows = last - r < TILE_ROWS ? last - r : TILE_ROWS;
        for (uint32_t k = 0; k < n; k++)
            total[k][0] = total[k][1] = seg[k][0] = seg[k][1] = _mm512_setzero_ps();
        for (uint32_t b = 0; b < w->blocks; b++) {
            for (uint32_t h = 0; h < 2; h++)
                if (rows >= 16 * (h + 1))
                    decode_half(type, w, &tables, r + 16 * h, 16, b, h, &t);
                else
                    decode_half(type, w, &tables, r + 16 * h, rows > 16 * h ? rows - 16 * h : 0, b, h, &t);
            for (uint32_t k = 0; k < n; k += TILE_TOKENS) {
                uint32_t m = n - k < TILE_TOKENS ? n - k : TILE_TOKENS;
                inputs in;
                for (uint32_t i = 0; i < m; i++) {
                    size_t at = (token ? token[k + i] : k + i) * (size_t)a->blocks + b;
                    in.x[i] = a->q + at * HS_BLOCK;
                    for (uint32_t u = 0; u < per; u++) {
                        in.scale[u][i] = a->scale[at * per + u];
                        in.sum[u][i] = a->sum[at * per + u];
                    }
                }
                for (uint32_t i = k + TILE_TOKENS; i < n && i < k + 2 * TILE_TOKENS; i++) { /* a row of them apart */
                    const int8_t *next = a->q + ((token ? token[i] : i) * (size_t)a->blocks + b) * HS_BLOCK;
                    _mm_prefetch((const char *)next, _MM_HINT_T0);
                    _mm_prefetch((const char *)next + 64, _MM_HINT_T0);
                }
                multiply_some(type, &t, w->zeros, &in, m, seg + k);
            }
            if (b % 8 == 7 || b + 1 == w->blocks)
                for (uint32_t k = 0; k < n; k++)
                    for (int h = 0; h < 2; h++) {
                        total[k][h] = _mm512_add_ps(total[k][h], seg[k][h]);
                        seg[k][h] = _mm512_setzero_ps();
                    }
        }
        for (uint32_t k = 0; k < n; k++)
            for (uint32_t h = 0; h < 2 && 16 * h < rows; h++) {
                uint32_t left = rows - 16 * h;
                __mmask16 in = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
                _mm512_mask_storeu_ps(y + k * stride + r + 16 * h, in, _mm512_mul_ps(total[k][h], scale));
            }
    }
}

MANY_STAMP(Q2)
MANY_STAMP(Q3)
MANY_STAMP(Q4)
MANY_STAMP(Q5)
MANY_STAMP(Q6)
MANY_STAMP(I4)

/* By few_row. */
static many_fn *const many[] = {gemm_Q2, gemm_Q3, gemm_Q4, gemm_Q5, gemm_Q6, gemm_I4};

static void avx512_gemm(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                        uint32_t last, float *y, size_t stride)
{
    assert(n <= HS_BATCH_MAX && a->cols == w->cols);
    if (hs_avx512_quads(w, n)) {
        hs_avx512_quad(w, a, token, n, first, last, y, stride);
        return;
    }
    if (n <= FEW) {
        hs_avx512_gemv(w, a, token, n, first, last, y, stride);
        return;
    }
    many[few_row(w->dtype)](w, a, token, n, first, last, y, stride);
}

void hs_cpu_avx512_install(hs_cpu_ops *ops)
{
    ops->name = "avx512";
    ops->gemm = avx512_gemm;
}
