/*
 * kernels/cpu/avx2_gemm.c - packed products for several tokens with AVX2 and FMA, bit for bit those of ref.c.
 *
 * Blocks of up to 64 rows are decoded once into tiles of 16-bit levels whose lanes are rows: dword p of a tile holds
 * weights 2p and 2p + 1 of each row.  A token's activations, as 16 bits too, are broadcast two at a time and multiplied
 * by vpmaddwd: 16 products an instruction and nothing to saturate, where the signed bytes of vpmaddubsw would need a
 * vpsignb and a second vpmaddwd for each 32.  No sum crosses lanes.  Bound by two multiplications a cycle.
 *
 * INT4 has its own: avx2_nibble.c.
 */
#include "kernels/cpu/avx2.h"

#include <assert.h>

enum {
    FEW = 4,
    TILE_TOKENS = 6, /* two accumulators each; weights and products have the other four registers */
    PAIRS = HS_BLOCK / 2,
    AHEAD_BLOCKS = 4 /* of a row, fetched while one is multiplied */
};

/* 16 rows of one block: two halves of eight rows. */
typedef struct tile {
    __m256i pair[PAIRS][2];
    __m256 norm[2];
} tile;

/* Up to six tokens' activations in one block, in the order of the weights. */
typedef struct inputs {
    _Alignas(32) int16_t x[TILE_TOKENS][HS_BLOCK];
    float scale[TILE_TOKENS];
    int32_t sum[TILE_TOKENS];
} inputs;

/* The levels of one row's block as 16 bits, in eight vectors of pairs. */
INLINE void row_levels(hs_dtype type, const tables *t, const uint8_t *low, const uint8_t *high, __m256i *out)
{
#pragma GCC unroll 4
    for (int h = 0; h < 4; h++) {
        __m256i lo, v = values(type, t, low, high, h, &lo);
        for (int i = 0; i < 2; i++) {
            __m256i k = _mm256_cvtepi8_epi16(i ? _mm256_extracti128_si256(v, 1) : _mm256_castsi256_si128(v));
            if (type == HS_Q6) { /* 128 hi + lo */
                __m128i l = i ? _mm256_extracti128_si256(lo, 1) : _mm256_castsi256_si128(lo);
                k = _mm256_add_epi16(_mm256_slli_epi16(k, 7), _mm256_cvtepi8_epi16(l));
            }
            out[2 * h + i] = k;
        }
    }
}

/* Eight rows of one block from `first`, of which `rows` exist, to one half of a tile. */
INLINE void decode_half(hs_dtype type, const hs_matrix *w, const tables *t, uint32_t first, uint32_t rows,
                        uint32_t block, uint32_t half, tile *out)
{
    const uint32_t low_block = low_block_of(type), high_block = high_block_of(type);
    __m256i level[8][8];
    uint16_t norm[8] = {0};
    for (uint32_t i = 0; i < 8; i++) {
        if (i >= rows) {
            memset(level[i], 0, sizeof level[i]);
            continue;
        }
        const size_t at = (size_t)(first + i) * w->blocks + block;
        const uint8_t *low = w->low + at * low_block, *high = high_block ? w->high + at * high_block : low;
        _mm_prefetch((const char *)low + AHEAD_BLOCKS * low_block, _MM_HINT_T0);
        if (high_block && block % 4 == 0)
            _mm_prefetch((const char *)high + AHEAD_BLOCKS * high_block, _MM_HINT_T0);
        row_levels(type, t, low, high, level[i]);
        memcpy(&norm[i], w->norms + at * 2, 2);
    }
    out->norm[half] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)norm));
    for (int v = 0; v < 8; v++) {
        __m256 r[8];
        for (int i = 0; i < 8; i++)
            r[i] = _mm256_castsi256_ps(level[i][v]);
        transpose8(r); /* dwords 0..3 and 4..7 of the vectors are in order */
        for (int p = 0; p < 8; p++)
            out->pair[8 * v + p][half] = _mm256_castps_si256(r[p]);
    }
}

/* The block of token `token` as `row_levels` has the weights. */
INLINE void take_token(hs_dtype type, const hs_act *a, size_t token, uint32_t block, uint32_t i, inputs *in)
{
    const size_t at = token * a->blocks + block;
    const int8_t *x = a->q + at * HS_BLOCK;
    int8_t ordered[HS_BLOCK];
    if (type <= HS_Q3) {
        spread(x, ordered);
        x = ordered;
    }
    for (uint32_t k = 0; k < HS_BLOCK; k += 16)
        _mm256_store_si256((__m256i *)(void *)(in->x[i] + k),
                           _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(x + k))));
    in->scale[i] = a->scale[at];
    in->sum[i] = a->sum[at];
}

/* Two activations against a pair of levels of sixteen rows. From intrinsics GCC 12 makes copies and spills them. */
INLINE void add_pair(__m256i *d0, __m256i *d1, __m256i w0, __m256i w1, const int16_t *x)
{
    __m256i two, first;
    __asm__("vpbroadcastd %[x], %[two]\n\t"
            "vpmaddwd %[w0], %[two], %[first]\n\t"
            "vpmaddwd %[w1], %[two], %[two]\n\t"
            "vpaddd %[first], %[d0], %[d0]\n\t"
            "vpaddd %[two], %[d1], %[d1]"
            : [d0] "+x"(*d0), [d1] "+x"(*d1), [two] "=&x"(two), [first] "=&x"(first)
            : [w0] "x"(w0), [w1] "x"(w1), [x] "m"(*(const int16_t(*)[2])(const void *)x));
}

/* n tokens against one tile, added to their segments: seg from the tile's first row, tokens BAND_ROWS apart. */
INLINE void multiply(const tile *w, const inputs *in, uint32_t n, float *seg)
{
    __m256i d[TILE_TOKENS][2];
#pragma GCC unroll 6
    for (uint32_t t = 0; t < n; t++)
        d[t][0] = d[t][1] = _mm256_setzero_si256();
    for (uint32_t p = 0; p < PAIRS; p++) {
        const __m256i w0 = w->pair[p][0], w1 = w->pair[p][1];
#pragma GCC unroll 6
        for (uint32_t t = 0; t < n; t++)
            add_pair(&d[t][0], &d[t][1], w0, w1, in->x[t] + 2 * p);
    }
#pragma GCC unroll 6
    for (uint32_t t = 0; t < n; t++) {
        const __m256i sum = _mm256_set1_epi32(in->sum[t]);
        const __m256 scale = _mm256_set1_ps(in->scale[t]);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) { /* sum (2k + 1) x */
            __m256 isum = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_add_epi32(d[t][h], d[t][h]), sum));
            float *s = seg + t * BAND_ROWS + 8 * h;
            _mm256_store_ps(s, _mm256_fmadd_ps(_mm256_mul_ps(w->norm[h], scale), isum, _mm256_load_ps(s)));
        }
    }
}

/* A constant count keeps everything in registers. */
static void multiply_some(const tile *w, const inputs *in, uint32_t n, float *seg)
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
INLINE void product(hs_dtype type, const hs_matrix *w, const tables *t, const hs_act *a, const uint32_t *token,
                    uint32_t from, uint32_t n, uint32_t first, uint32_t rows, float *y, size_t stride)
{
    const uint32_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    tile tiled[TILES];
    sums s;
    begin_totals(&s, n);
    for (uint32_t b = 0; b < w->blocks; b++) {
        for (uint32_t i = 0; i < 2 * tiles; i++) {
            uint32_t at = 8 * i, left = rows > at ? rows - at : 0;
            decode_half(type, w, t, first + at, left < 8 ? left : 8, b, i % 2, &tiled[i / 2]);
        }
        for (uint32_t k = 0; k < n; k += TILE_TOKENS) {
            const uint32_t m = n - k < TILE_TOKENS ? n - k : TILE_TOKENS;
            inputs in;
            for (uint32_t i = 0; i < m; i++)
                take_token(type, a, token ? token[from + k + i] : from + k + i, b, i, &in);
            for (uint32_t i = 0; i < tiles; i++)
                multiply_some(&tiled[i], &in, m, s.seg[k] + TILE_ROWS * i);
        }
        if (b % 8 == 7 || b + 1 == w->blocks)
            end_segment(&s, n, tiles * TILE_ROWS);
    }
    store_totals(&s, n, rows, last_scale(type, w), y + from * stride + first, stride);
}

INLINE void gemm(hs_dtype type, const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                 uint32_t last, float *y, size_t stride)
{
    const tables t = tables_of(w->book);
    for (uint32_t r = first; r < last; r += BAND_ROWS)
        for (uint32_t k = 0; k < n; k += CHUNK_TOKENS)
            product(type, w, &t, a, token, k, n - k < CHUNK_TOKENS ? n - k : CHUNK_TOKENS, r,
                    last - r < BAND_ROWS ? last - r : BAND_ROWS, y, stride);
}

MANY_STAMP(Q2)
MANY_STAMP(Q3)
MANY_STAMP(Q4)
MANY_STAMP(Q5)
MANY_STAMP(Q6)

/* By few_row. */
static many_fn *const many[] = {gemm_Q2, gemm_Q3, gemm_Q4, gemm_Q5, gemm_Q6};

static void avx2_gemm(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                      uint32_t last, float *y, size_t stride)
{
    assert(hs_dtype_packed(w->dtype) && n <= HS_BATCH_MAX && a->cols == w->cols);
    if (n <= FEW) {
        hs_avx2_gemv(w, a, token, n, first, last, y, stride);
        return;
    }
    if (hs_dtype_int4(w->dtype)) {
        hs_avx2_int4(w, a, token, n, first, last, y, stride);
        return;
    }
    many[few_row(w->dtype)](w, a, token, n, first, last, y, stride);
}

void hs_cpu_avx2_install(hs_cpu_ops *ops)
{
    ops->name = "avx2";
    ops->gemm = avx2_gemm;
}
