/*
 * kernels/cpu/avx2_nibble.c - INT4 products for several tokens with AVX2 and FMA, bit for bit those of ref.c.
 *
 * Blocks of up to 64 rows are taken apart once into tiles whose lanes are rows: dword p of a tile holds the codes 4p to
 * 4p + 3 of each row.  A token's activations are broadcast four at a time and meet the codes, which are the unsigned
 * side, in vpmaddubsw: 32 products an instruction.  A sum of eight such stays within 16 bits: 8 * 2 * 15 * 127.
 */
#include "kernels/cpu/avx2.h"
#include "kernels/int4.h"

#include <assert.h>

enum {
    TILE_TOKENS = 6, /* two accumulators each; codes and products have the other four registers */
    QUADS = HS_BLOCK / 4,
    QUADS_IN_16_BITS = 8,
    UNITS = 2, /* of a block */
    UNIT = HS_BLOCK / UNITS,
    AHEAD_BLOCKS = 4 /* of a row, fetched while one is multiplied */
};

/* 16 rows of one block: two halves of eight rows. */
typedef struct tile {
    __m256i quad[QUADS][2];
    __m256 scale[UNITS][2];
    __m256i zero[UNITS][2];
} tile;

/* Up to six tokens' activations in one block. */
typedef struct inputs {
    const int8_t *x[TILE_TOKENS];
    float scale[TILE_TOKENS][UNITS];
    int32_t sum[TILE_TOKENS][UNITS];
} inputs;

INLINE void row_codes(const uint8_t *low, __m256i *out)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int i = 0; i < 2; i++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(low + 32 * i));
        out[i] = _mm256_and_si256(v, nibble);
        out[2 + i] = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
    }
}

/* Eight rows of one block from `first`, of which `rows` exist, to one half of a tile. */
INLINE void decode_half(const hs_matrix *w, uint32_t first, uint32_t rows, uint32_t block, uint32_t half, tile *out)
{
    const uint32_t low_block = low_block_of(HS_I4);
    const bool shared = shares_norms(HS_I4, w);
    __m256i code[8][4];
    uint16_t scale[UNITS][8] = {{0}};
    int32_t zero[UNITS][8] = {{0}};
    for (uint32_t i = 0; i < 8; i++) {
        if (i >= rows) {
            memset(code[i], 0, sizeof code[i]);
            continue;
        }
        const size_t row = first + i;
        const uint8_t *low = w->low + (row * w->blocks + block) * low_block;
        _mm_prefetch((const char *)low + AHEAD_BLOCKS * low_block, _MM_HINT_T0);
        row_codes(low, code[i]);
        for (uint32_t u = 0; u < UNITS; u++) {
            size_t at = row * w->groups + (shared ? block : block * UNITS + u);
            memcpy(&scale[u][i], w->norms + at * 2, 2);
            zero[u][i] = w->zeros ? w->zeros[at] : HS_INT4_ZERO;
        }
    }
    for (uint32_t u = 0; u < UNITS; u++) {
        out->scale[u][half] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)scale[u]));
        out->zero[u][half] = _mm256_loadu_si256((const __m256i *)(const void *)zero[u]);
    }
    for (int v = 0; v < 4; v++) {
        __m256 r[8];
        for (int i = 0; i < 8; i++)
            r[i] = _mm256_castsi256_ps(code[i][v]);
        transpose8(r);
        for (int p = 0; p < 8; p++)
            out->quad[8 * v + p][half] = _mm256_castps_si256(r[p]);
    }
}

INLINE void take_token(const hs_act *a, size_t token, uint32_t blocks, uint32_t block, uint32_t i, inputs *in)
{
    const size_t at = (token * blocks + block) * UNITS;
    in->x[i] = a->q + at * UNIT;
    memcpy(in->scale[i], a->scale + at, UNITS * sizeof(float));
    memcpy(in->sum[i], a->sum + at, UNITS * sizeof(int32_t));
}

/* Four activations against four codes of sixteen rows. From intrinsics GCC 12 makes copies and spills them. */
INLINE void add_quad(__m256i *d0, __m256i *d1, __m256i w0, __m256i w1, const int8_t *x)
{
    __m256i four, first;
    __asm__("vpbroadcastd %[x], %[four]\n\t"
            "vpmaddubsw %[four], %[w0], %[first]\n\t"
            "vpmaddubsw %[four], %[w1], %[four]\n\t"
            "vpaddw %[first], %[d0], %[d0]\n\t"
            "vpaddw %[four], %[d1], %[d1]"
            : [d0] "+x"(*d0), [d1] "+x"(*d1), [four] "=&x"(four), [first] "=&x"(first)
            : [w0] "x"(w0), [w1] "x"(w1), [x] "m"(*(const int8_t(*)[4])(const void *)x));
}

/* n tokens against one tile, added to their segments: seg from the tile's first row, tokens BAND_ROWS apart. */
INLINE void multiply(const tile *w, const inputs *in, uint32_t n, float *seg)
{
    const uint32_t quads = UNIT / 4;
    for (uint32_t u = 0; u < UNITS; u++) {
        __m256i sum[TILE_TOKENS][2];
#pragma GCC unroll 6
        for (uint32_t t = 0; t < n; t++)
            sum[t][0] = sum[t][1] = _mm256_setzero_si256();
        for (uint32_t q = u * quads; q < (u + 1) * quads; q += QUADS_IN_16_BITS) {
            __m256i d[TILE_TOKENS][2];
#pragma GCC unroll 6
            for (uint32_t t = 0; t < n; t++)
                d[t][0] = d[t][1] = _mm256_setzero_si256();
            for (uint32_t k = q; k < q + QUADS_IN_16_BITS; k++) {
                const __m256i w0 = w->quad[k][0], w1 = w->quad[k][1];
#pragma GCC unroll 6
                for (uint32_t t = 0; t < n; t++)
                    add_quad(&d[t][0], &d[t][1], w0, w1, in->x[t] + 4 * k);
            }
#pragma GCC unroll 6
            for (uint32_t t = 0; t < n; t++)
                for (int h = 0; h < 2; h++)
                    sum[t][h] = _mm256_add_epi32(sum[t][h], _mm256_madd_epi16(d[t][h], _mm256_set1_epi16(1)));
        }
#pragma GCC unroll 6
        for (uint32_t t = 0; t < n; t++)
            for (int h = 0; h < 2; h++) {
                __m256i off = _mm256_mullo_epi32(w->zero[u][h], _mm256_set1_epi32(in->sum[t][u]));
                __m256 factor = _mm256_mul_ps(w->scale[u][h], _mm256_set1_ps(in->scale[t][u]));
                float *s = seg + t * BAND_ROWS + 8 * h;
                _mm256_store_ps(s, _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(_mm256_sub_epi32(sum[t][h], off)),
                                                   _mm256_load_ps(s)));
            }
    }
}

/* A constant count keeps everything in registers. */
INLINE void multiply_some(const tile *w, const inputs *in, uint32_t n, float *seg)
{
    switch (n) {
    case 1: multiply(w, in, 1, seg); return;
    case 2: multiply(w, in, 2, seg); return;
    case 3: multiply(w, in, 3, seg); return;
    case 4: multiply(w, in, 4, seg); return;
    case 5: multiply(w, in, 5, seg); return;
    default: multiply(w, in, TILE_TOKENS, seg);
    }
}

/* At most CHUNK_TOKENS tokens against at most BAND_ROWS rows. */
static void product(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t from, uint32_t n,
                    uint32_t first, uint32_t rows, float *y, size_t stride)
{
    const uint32_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    tile tiled[TILES];
    sums s;
    begin_totals(&s, n);
    for (uint32_t b = 0; b < w->blocks; b++) {
        for (uint32_t i = 0; i < 2 * tiles; i++) {
            uint32_t at = 8 * i, left = rows > at ? rows - at : 0;
            decode_half(w, first + at, left < 8 ? left : 8, b, i % 2, &tiled[i / 2]);
        }
        for (uint32_t k = 0; k < n; k += TILE_TOKENS) {
            const uint32_t m = n - k < TILE_TOKENS ? n - k : TILE_TOKENS;
            inputs in;
            for (uint32_t i = 0; i < m; i++)
                take_token(a, token ? token[from + k + i] : from + k + i, w->blocks, b, i, &in);
            for (uint32_t i = 0; i < tiles; i++)
                multiply_some(&tiled[i], &in, m, s.seg[k] + TILE_ROWS * i);
        }
        if (b % 8 == 7 || b + 1 == w->blocks)
            end_segment(&s, n, tiles * TILE_ROWS);
    }
    store_totals(&s, n, rows, last_scale(HS_I4, w), y + from * stride + first, stride);
}

void hs_avx2_int4(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                  float *y, size_t stride)
{
    assert(hs_dtype_int4(w->dtype) && a->cols == w->cols);
    for (uint32_t r = first; r < last; r += BAND_ROWS)
        for (uint32_t k = 0; k < n; k += CHUNK_TOKENS)
            product(w, a, token, k, n - k < CHUNK_TOKENS ? n - k : CHUNK_TOKENS, r,
                    last - r < BAND_ROWS ? last - r : BAND_ROWS, y, stride);
}
