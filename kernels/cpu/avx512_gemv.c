/*
 * kernels/cpu/avx512_gemv.c - packed products for one token with AVX-512 VNNI and VBMI, bit for bit those of ref.c.
 *
 * Bound by reading the weights once.  A row's blocks are dotted in registers, sixteen block sums at a time leave
 * through two shuffle trees, and the fma chain of a segment runs on 16 rows at once after a transpose.  Planes are read
 * in order with software prefetch.  Counted for Q5: 10 vector instructions a block to decode and multiply, 4 to sum and
 * combine.
 */
#include "kernels/cpu/avx512.h"

enum {
    AHEAD = 8192, /* bytes of prefetch on the low plane: shorter distances are slower on Zen 4 and Zen 5 */
    CHUNK = 64    /* blocks of a row between two transposes */
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

/* Lanes 0 and 1: the first 8 bytes of a plane twice each; lanes 2 and 3: the last 8. */
INLINE __m512i load_plane(const uint8_t *plane)
{
    __m512i first = _mm512_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)(const void *)plane));
    return _mm512_mask_broadcastq_epi64(first, 0xF0, _mm_loadl_epi64((const __m128i *)(const void *)(plane + 8)));
}

/* Codes of weights 0..63 and 64..127; bits above them are anything. */
INLINE void decode(uint32_t bits, const uint8_t *low, const uint8_t *high, __m512i *a, __m512i *b)
{
    if (bits <= 3) {
        const __m512i twice = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0);
        __m512i v = _mm512_permutexvar_epi64(
            twice, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)low)));
        *a = _mm512_srlv_epi64(v, _mm512_set_epi64(2, 0, 2, 0, 2, 0, 2, 0));
        *b = _mm512_srlv_epi64(v, _mm512_set_epi64(6, 4, 6, 4, 6, 4, 6, 4));
    } else {
        *a = _mm512_loadu_si512(low);
        *b = _mm512_srli_epi16(*a, 4);
    }
    const __m512i below = _mm512_set1_epi8(bits <= 3 ? 3 : 15), next = _mm512_set1_epi8(8);
    if (bits == 2 || bits == 4) {
        *a = _mm512_and_si512(*a, below);
        *b = _mm512_and_si512(*b, below);
        return;
    }
    const __m512i places = bit_places(bits == 3 ? 2 : 4);
    __m512i p = load_plane(high);
    *a = merge512(*a, _mm512_multishift_epi64_epi8(places, p), below);
    *b = merge512(*b, _mm512_multishift_epi64_epi8(_mm512_add_epi8(places, next), p), below);
    if (bits == 6) {
        const __m512i signs = bit_places(5), under = _mm512_set1_epi8(31);
        __m512i s = load_plane(high + 16);
        *a = merge512(*a, _mm512_multishift_epi64_epi8(signs, s), under);
        *b = merge512(*b, _mm512_multishift_epi64_epi8(_mm512_add_epi8(signs, next), s), under);
    }
}

INLINE __m512i block_dot(uint32_t bits, const tables512 *t, const uint8_t *low, const uint8_t *high, const int8_t *x)
{
    __m512i a, b, x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64);
    decode(bits, low, high, &a, &b);
    __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lookup512(t->main, a), x0);
    s = _mm512_dpbusd_epi32(s, lookup512(t->main, b), x1);
    if (bits == 6) { /* 128 hi + lo */
        __m512i l = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lookup512(t->low, a), x0);
        l = _mm512_dpbusd_epi32(l, lookup512(t->low, b), x1);
        s = _mm512_add_epi32(_mm512_slli_epi32(s, 7), l);
    }
    return s;
}

/* Dots of blocks at.. (n <= 16 of them, zero after) against x, which repeats after `period` blocks. */
INLINE __m512i dots(uint32_t bits, const hs_matrix *w, const tables512 *t, size_t at, uint32_t n, const int8_t *x,
                    uint32_t period)
{
    const uint32_t low_block = low_block_of(bits), high_block = high_block_of(bits);
    const uint8_t *l = w->low + at * low_block, *h = high_block ? w->high + at * high_block : NULL;
    __m256i half[2];
    for (uint32_t k = 0; k < 2; k++) {
        __m512i v[8];
        if (n >= 8 * (k + 1)) {
#pragma GCC unroll 8
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t b = 8 * k + i;
                if (b % (64 / low_block) == 0)
                    _mm_prefetch((const char *)l + b * low_block + AHEAD, _MM_HINT_T0);
                if (high_block && b % (64 / (high_block ? high_block : 64)) == 0)
                    _mm_prefetch((const char *)h + b * high_block + AHEAD / 4, _MM_HINT_T0);
                v[i] = block_dot(bits, t, l + b * low_block, h + b * high_block, x + b % period * HS_BLOCK);
            }
        } else {
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t b = 8 * k + i;
                v[i] = _mm512_setzero_si512();
                if (b < n)
                    v[i] = block_dot(bits, t, l + b * low_block, h + b * high_block, x + b % period * HS_BLOCK);
            }
        }
        half[k] = sum8(v);
    }
    _mm_prefetch((const char *)w->norms + at * 2 + AHEAD / 16, _MM_HINT_T0);
    return _mm512_inserti64x4(_mm512_castsi256_si512(half[0]), half[1], 1);
}

INLINE __m512 norms(const hs_matrix *w, size_t at, __mmask16 in)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(in, w->norms + at * 2));
}

/* Block sums as floats and norm * scale of 16 rows over one chunk, before the transpose. */
typedef struct chunk {
    float sum[16][CHUNK];
    float factor[16][CHUNK];
} chunk;

/* One row over nb blocks from `at`. */
INLINE void row_sums(uint32_t bits, const hs_matrix *w, const tables512 *t, size_t at, uint32_t nb, const int8_t *q,
                     const float *scale, const int32_t *sum, float *isum, float *factor)
{
    for (uint32_t i = 0; i < nb; i += 16) {
        __m512i d;
        __mmask16 in = 0xFFFF;
        if (nb - i >= 16)
            d = dots(bits, w, t, at + i, 16, q + (size_t)i * HS_BLOCK, 16);
        else {
            in = (__mmask16)((1u << (nb - i)) - 1);
            d = dots(bits, w, t, at + i, nb - i, q + (size_t)i * HS_BLOCK, 16);
        }
        __m512i s = isum512(bits, d, _mm512_maskz_loadu_epi32(in, sum + i));
        _mm512_storeu_ps(isum + i, _mm512_cvtepi32_ps(s));
        _mm512_storeu_ps(factor + i, _mm512_mul_ps(norms(w, at + i, in), _mm512_maskz_loadu_ps(in, scale + i)));
    }
}

/* Continues 16 rows' totals over a chunk: the fma chain of each segment, then its sum. */
INLINE __m512 chain(const chunk *c, uint32_t nb, __m512 total)
{
    for (uint32_t g = 0; g < nb; g += 16) {
        __m512i p[16], f[16];
        for (int i = 0; i < 16; i++) {
            p[i] = _mm512_castps_si512(_mm512_loadu_ps(c->sum[i] + g));
            f[i] = _mm512_castps_si512(_mm512_loadu_ps(c->factor[i] + g));
        }
        transpose512(p);
        transpose512(f);
        for (uint32_t s = 0; s < 16 && g + s < nb; s += 8) {
            __m512 seg = _mm512_setzero_ps();
            for (uint32_t b = s; b < s + 8; b++) /* blocks past the end have the factor and the sum zero */
                seg = _mm512_fmadd_ps(_mm512_castsi512_ps(f[b]), _mm512_castsi512_ps(p[b]), seg);
            total = _mm512_add_ps(total, seg);
        }
    }
    return total;
}

INLINE void gemv(uint32_t bits, const hs_matrix *w, const hs_act *a, size_t token, uint32_t first, uint32_t last,
                 float *y)
{
    const tables512 t = tables512_of(w->book);
    const __m512 scale = _mm512_set1_ps(w->book->scale);
    chunk c;
    for (uint32_t r = first; r < last; r += 16) {
        uint32_t rows = last - r < 16 ? last - r : 16;
        __m512 total = _mm512_setzero_ps();
        for (uint32_t b = 0; b < w->blocks; b += CHUNK) {
            uint32_t nb = w->blocks - b < CHUNK ? w->blocks - b : CHUNK;
            size_t x = token * a->blocks + b;
            for (uint32_t i = 0; i < rows; i++)
                row_sums(bits, w, &t, (size_t)(r + i) * w->blocks + b, nb, a->q + x * HS_BLOCK, a->scale + x,
                         a->sum + x, c.sum[i], c.factor[i]);
            for (uint32_t i = rows; i < 16; i++) {
                memset(c.sum[i], 0, sizeof c.sum[i]);
                memset(c.factor[i], 0, sizeof c.factor[i]);
            }
            total = chain(&c, nb, total);
        }
        _mm512_mask_storeu_ps(y + r, (__mmask16)((1u << rows) - 1), _mm512_mul_ps(total, scale));
    }
}

/* Rows of four blocks, an expert's way down: four rows fill the sixteen places of `dots`. */
INLINE __m512 every_fourth(const __m512 *v, int j)
{
    const __m512i at =
        _mm512_add_epi32(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 28, 24, 20, 16, 12, 8, 4, 0), _mm512_set1_epi32(j));
    __m512 low = _mm512_permutex2var_ps(v[0], at, v[1]), high = _mm512_permutex2var_ps(v[2], at, v[3]);
    return _mm512_insertf32x8(low, _mm512_castps512_ps256(high), 1);
}

INLINE void gemv_four(uint32_t bits, const hs_matrix *w, const hs_act *a, size_t token, uint32_t first, uint32_t last,
                      float *y)
{
    const tables512 t = tables512_of(w->book);
    const __m512 book = _mm512_set1_ps(w->book->scale);
    const size_t x = token * 4;
    const __m512 scale = _mm512_broadcast_f32x4(_mm_loadu_ps(a->scale + x));
    const __m512i sum = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(a->sum + x)));
    for (uint32_t r = first; r < last; r += 16) {
        __m512 p[4], f[4], seg = _mm512_setzero_ps();
        uint32_t rows = last - r < 16 ? last - r : 16;
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t left = rows > 4 * k ? rows - 4 * k : 0, n = left < 4 ? 4 * left : 16;
            size_t at = (size_t)(r + 4 * k) * 4;
            p[k] = f[k] = _mm512_setzero_ps();
            if (n == 16) {
                p[k] = _mm512_cvtepi32_ps(isum512(bits, dots(bits, w, &t, at, 16, a->q + x * HS_BLOCK, 4), sum));
                f[k] = _mm512_mul_ps(norms(w, at, 0xFFFF), scale);
            } else if (n) {
                p[k] = _mm512_cvtepi32_ps(isum512(bits, dots(bits, w, &t, at, n, a->q + x * HS_BLOCK, 4), sum));
                f[k] = _mm512_mul_ps(norms(w, at, (__mmask16)((1u << n) - 1)), scale);
            }
        }
        for (int b = 0; b < 4; b++)
            seg = _mm512_fmadd_ps(every_fourth(f, b), every_fourth(p, b), seg);
        /* The segment is added to a total of zero, as every segment is. */
        __m512 total = _mm512_add_ps(_mm512_setzero_ps(), seg);
        _mm512_mask_storeu_ps(y + r, (__mmask16)((1u << rows) - 1), _mm512_mul_ps(total, book));
    }
}

#define STAMP(BITS)                                                                                                    \
    static void gemv_q##BITS(const hs_matrix *w, const hs_act *a, size_t token, uint32_t first, uint32_t last,         \
                             float *y)                                                                                 \
    {                                                                                                                  \
        if (w->blocks == 4)                                                                                            \
            gemv_four(BITS, w, a, token, first, last, y);                                                              \
        else                                                                                                           \
            gemv(BITS, w, a, token, first, last, y);                                                                   \
    }

STAMP(2)
STAMP(3)
STAMP(4)
STAMP(5)
STAMP(6)

void hs_avx512_gemv(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                    uint32_t last, float *y, size_t stride)
{
    static void (*const by_bits[])(const hs_matrix *, const hs_act *, size_t, uint32_t, uint32_t, float *) = {
        gemv_q2, gemv_q3, gemv_q4, gemv_q5, gemv_q6,
    };
    for (uint32_t t = 0; t < n; t++)
        by_bits[hs_dtype_bits(w->dtype) - 2](w, a, token ? token[t] : t, first, last, y + t * stride);
}
