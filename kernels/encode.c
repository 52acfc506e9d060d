/*
 * kernels/encode.c - rows of weights to codes, sixteen blocks side by side.
 *
 * A lane is a block, and does what hs_encode_block does in the same order, so codes and norms are the same to the bit.
 * Blocks that it would refuse are left to it.
 */
#include "kernels/hlwq.h"
#include "kernels/int4.h"
#include "kernels/lanes.h"

#include <assert.h>

enum { FEW = 4 /* blocks: fewer are faster one by one */ };

typedef int32_t lanes_int __attribute__((vector_size(64)));
typedef double lanes_double __attribute__((vector_size(64)));

typedef struct sixteen {
    hs_lanes x[HS_BLOCK]; /* weights, then rotated */
    float norm[HS_LANES]; /* of the weights */
    double rc[HS_LANES], cc[HS_LANES];
    uint8_t code[HS_BLOCK][HS_LANES];
} sixteen;

/* Sums in double, of which lane i is in half[i / 8]. */
typedef struct sums {
    lanes_double half[2];
} sums;

static inline __attribute__((always_inline)) void add_products(sums *sum, const hs_lanes *a, const hs_lanes *b)
{
    for (int i = 0; i < 2; i++) {
        lanes_double x, y;
        for (int k = 0; k < 8; k++) {
            x[k] = (*a)[8 * i + k];
            y[k] = (*b)[8 * i + k];
        }
        sum->half[i] += x * y;
    }
}

/* Two steps of the transform at a time, then the last one. */
static inline __attribute__((always_inline)) void rotate(hs_lanes *x)
{
    for (uint32_t h = 1; h < HS_BLOCK / 2; h *= 4)
        for (uint32_t i = 0; i < HS_BLOCK; i += 4 * h)
            for (uint32_t j = i; j < i + h; j++) {
                const hs_lanes a = x[j], b = x[j + h], c = x[j + 2 * h], d = x[j + 3 * h];
                const hs_lanes ab = a + b, cd = c + d, a_b = a - b, c_d = c - d;
                x[j] = ab + cd;
                x[j + h] = a_b + c_d;
                x[j + 2 * h] = ab - cd;
                x[j + 3 * h] = a_b - c_d;
            }
    for (uint32_t j = 0; j < HS_BLOCK / 2; j++) {
        const hs_lanes a = x[j], b = x[j + HS_BLOCK / 2];
        x[j] = a + b;
        x[j + HS_BLOCK / 2] = a - b;
    }
}

/* Numbers k of a table of `tables` x 16. */
static inline __attribute__((always_inline)) void look_up(uint32_t tables, const hs_lanes *table, const lanes_int *k,
                                                          hs_lanes *out)
{
#ifdef __clang__ /* which has no shuffle by a variable */
    for (int i = 0; i < HS_LANES; i++)
        (*out)[i] = ((const float *)table)[(*k)[i]];
    (void)tables;
#else
    if (tables == 1) {
        *out = __builtin_shuffle(table[0], *k);
        return;
    }
    *out = __builtin_shuffle(table[0], table[1], *k);
    if (tables == 2)
        return;
    const lanes_int upper = (*k & 32) != 0;
    *out = (hs_lanes)(((lanes_int)*out & ~upper) | ((lanes_int)__builtin_shuffle(table[2], table[3], *k) & upper));
#endif
}

/* Codes, and the sums of which the refitted norm is made. `bits` is a constant where this is called. */
static inline __attribute__((always_inline)) void choose(uint32_t bits, const hs_codebook *book, sixteen *s)
{
    const uint32_t tables = bits <= 4 ? 1 : bits == 5 ? 2 : 4;
    hs_lanes norm, bound[4], level[4];
    sums rc = {0}, cc = {0};
    typedef uint8_t bytes __attribute__((vector_size(16)));
    memcpy(&norm, s->norm, sizeof norm);
    memcpy(bound, book->bound, sizeof *bound * tables);
    memcpy(level, book->level, sizeof *level * tables);
    for (uint32_t j = 0; j < HS_BLOCK; j++) {
        const hs_lanes r = s->x[j] / norm;
        lanes_int code = {0};
        hs_lanes c;
        for (int step = 1 << (bits - 1); step; step /= 2) { /* how many bounds are not above r */
            const lanes_int k = code + (step - 1);
            look_up(tables, bound, &k, &c);
            code += (r >= c) & step;
        }
        look_up(tables, level, &code, &c);
        const bytes narrow = __builtin_convertvector(code, bytes);
        memcpy(s->code[j], &narrow, sizeof narrow);
        add_products(&rc, &s->x[j], &c);
        add_products(&cc, &c, &c);
    }
    memcpy(s->rc, &rc, sizeof rc);
    memcpy(s->cc, &cc, sizeof cc);
}

HS_WIDE_CLONES static void encode_sixteen(const hs_codebook *book, sixteen *s)
{
    sums square = {0};
    double sum[HS_LANES];
    for (uint32_t j = 0; j < HS_BLOCK; j++)
        add_products(&square, &s->x[j], &s->x[j]);
    memcpy(sum, &square, sizeof sum);
    for (uint32_t i = 0; i < HS_LANES; i++) {
        s->norm[i] = (float)sqrt(sum[i]);
        s->norm[i] = s->norm[i] < 1e-10f ? 1e-10f : s->norm[i];
    }
    rotate(s->x);
    switch (book->bits) {
    case 2: choose(2, book, s); return;
    case 3: choose(3, book, s); return;
    case 4: choose(4, book, s); return;
    case 5: choose(5, book, s); return;
    default: choose(6, book, s);
    }
}

/* Four weights of each of four blocks to four lanes of each of four rows. */
static inline void turn_four(const float *w, float *out)
{
#ifdef __clang__
    for (uint32_t j = 0; j < 4; j++)
        for (uint32_t i = 0; i < 4; i++)
            out[j * HS_LANES + i] = w[i * HS_BLOCK + j];
#else
    typedef float four __attribute__((vector_size(16)));
    typedef int32_t places __attribute__((vector_size(16)));
    const places low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, left = {0, 1, 4, 5}, right = {2, 3, 6, 7};
    four a, b, c, d;
    memcpy(&a, w, sizeof a);
    memcpy(&b, w + HS_BLOCK, sizeof b);
    memcpy(&c, w + 2 * HS_BLOCK, sizeof c);
    memcpy(&d, w + 3 * HS_BLOCK, sizeof d);
    const four ab = __builtin_shuffle(a, b, low), cd = __builtin_shuffle(c, d, low);
    const four ef = __builtin_shuffle(a, b, high), gh = __builtin_shuffle(c, d, high);
    const four row[4] = {__builtin_shuffle(ab, cd, left), __builtin_shuffle(ab, cd, right),
                         __builtin_shuffle(ef, gh, left), __builtin_shuffle(ef, gh, right)};
    for (uint32_t j = 0; j < 4; j++)
        memcpy(out + j * HS_LANES, &row[j], sizeof *row);
#endif
}

/* Weight j of block i to lane i of row j; blocks from n on are zeros. */
static void lay(const float *w, uint32_t n, hs_lanes *x)
{
    float *out = (float *)x;
    for (uint32_t j = 0; j < HS_BLOCK; j += 4)
        for (uint32_t i = 0; i < n / 4 * 4; i += 4)
            turn_four(w + i * HS_BLOCK + j, out + j * HS_LANES + i);
    for (uint32_t j = 0; j < HS_BLOCK && n % HS_LANES; j++)
        for (uint32_t i = n / 4 * 4; i < HS_LANES; i++)
            out[j * HS_LANES + i] = i < n ? w[i * HS_BLOCK + j] : 0.0f;
}

/* Swaps those bytes of b that `mask` names with those of a that are `shift` bits above them. */
static inline void swap_bytes(uint64_t *a, uint64_t *b, uint32_t shift, uint64_t mask)
{
    const uint64_t x = (*a >> shift ^ *b) & mask;
    *b ^= x;
    *a ^= x << shift;
}

/* Eight codes of each of eight blocks; in memory code j of lane i is at j * HS_LANES + i, then at i * HS_BLOCK + j. */
static inline void turn_eight(const uint8_t *code, uint8_t *out)
{
    uint64_t row[8];
    for (uint32_t j = 0; j < 8; j++)
        memcpy(&row[j], code + j * HS_LANES, 8);
    for (uint32_t j = 0; j < 4; j++)
        swap_bytes(&row[j], &row[j + 4], 32, UINT64_C(0x00000000FFFFFFFF));
    for (uint32_t j = 0; j < 8; j += j % 2 ? 3 : 1)
        swap_bytes(&row[j], &row[j + 2], 16, UINT64_C(0x0000FFFF0000FFFF));
    for (uint32_t j = 0; j < 8; j += 2)
        swap_bytes(&row[j], &row[j + 1], 8, UINT64_C(0x00FF00FF00FF00FF));
    for (uint32_t i = 0; i < 8; i++)
        memcpy(out + i * HS_BLOCK, &row[i], 8);
}

/* n blocks at `w`, from block number `at` of the part on. */
static hlwq_status encode_some(hs_dtype dtype, const hs_codebook *book, const float *w, uint32_t n, uint64_t at,
                               const hs_planes *p, uint8_t *part, hlwq_error *err)
{
    sixteen s;
    uint8_t codes[HS_LANES][HS_BLOCK];
    lay(w, n, s.x);
    encode_sixteen(book, &s);
    for (uint32_t j = 0; j < HS_BLOCK; j += 8)
        for (uint32_t i = 0; i < n; i += 8)
            turn_eight(s.code[j] + i, codes[i] + j);
    for (uint32_t i = 0; i < n; i++, at++) {
        uint8_t *code = codes[i];
        const float refit = (float)(s.rc[i] / s.cc[i]);
        uint16_t norm = hs_f32_to_f16(refit);
        if (!(s.norm[i] <= 3e38f) || !(refit < 65520.0f)) /* one for a sentence */
            HS_TRY(hs_encode_block(book, w + i * HS_BLOCK, true, code, &norm, err));
        hs_pack_block(dtype, code, part + p->low + at * p->low_block, part + p->high + at * p->high_block);
        memcpy(part + p->norms + at * 2, &norm, 2);
    }
    return HLWQ_OK;
}

/* One block of n weights, zeros behind them. */
static hlwq_status encode_one(hs_dtype dtype, const hs_codebook *book, const float *w, uint64_t n, uint64_t at,
                              const hs_planes *p, uint8_t *part, hlwq_error *err)
{
    float v[HS_BLOCK] = {0};
    uint8_t code[HS_BLOCK];
    uint16_t norm = 0;
    memcpy(v, w, n * sizeof *v);
    HS_TRY(hs_encode_block(book, v, true, code, &norm, err));
    hs_pack_block(dtype, code, part + p->low + at * p->low_block, part + p->high + at * p->high_block);
    memcpy(part + p->norms + at * 2, &norm, 2);
    return HLWQ_OK;
}

hlwq_status hs_encode_rows(hs_dtype dtype, const hs_codebook *book, const float *w, uint64_t first_row, uint64_t rows,
                           uint64_t total_rows, uint64_t cols, uint8_t *part, hlwq_error *err)
{
    hs_planes p;
    if (hs_dtype_int4(dtype))
        return hs_int4_encode_rows(dtype, w, first_row, rows, total_rows, cols, part, err);
    bool fits = hs_planes_of(dtype, total_rows, cols, &p);
    assert(fits && first_row + rows <= total_rows);
    (void)fits;
    /* Blocks of several rows follow one another where rows are whole blocks. */
    const uint64_t runs = cols % HS_BLOCK ? rows : 1, whole = (cols % HS_BLOCK ? 1 : rows) * (cols / HS_BLOCK);
    for (uint64_t r = 0; r < runs; r++) {
        const float *row = w + r * cols;
        uint64_t b = 0, at = (first_row + r) * p.blocks;
        for (uint32_t n; b + FEW <= whole; b += n) {
            n = whole - b < HS_LANES ? (uint32_t)(whole - b) : HS_LANES;
            HS_TRY(encode_some(dtype, book, row + b * HS_BLOCK, n, at + b, &p, part, err));
        }
        for (; b < whole; b++)
            HS_TRY(encode_one(dtype, book, row + b * HS_BLOCK, HS_BLOCK, at + b, &p, part, err));
        if (cols % HS_BLOCK)
            HS_TRY(encode_one(dtype, book, row + b * HS_BLOCK, cols % HS_BLOCK, at + b, &p, part, err));
    }
    return HLWQ_OK;
}
