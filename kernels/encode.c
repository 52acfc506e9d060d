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
typedef float lanes_half __attribute__((vector_size(32)));
typedef double lanes_double __attribute__((vector_size(64)));

typedef struct sixteen {
    float x[HS_BLOCK][HS_LANES]; /* weights, then rotated */
    float norm[HS_LANES];        /* of the weights */
    double rc[HS_LANES], cc[HS_LANES];
    int32_t code[HS_BLOCK][HS_LANES];
} sixteen;

/* sum[lane] += a[lane] b[lane], in double. */
static inline __attribute__((always_inline)) void add_products(double *sum, const float *a, const float *b)
{
    for (uint32_t i = 0; i < HS_LANES; i += 8) {
        lanes_half x, y;
        lanes_double s;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        memcpy(&s, sum + i, sizeof s);
        s += __builtin_convertvector(x, lanes_double) * __builtin_convertvector(y, lanes_double);
        memcpy(sum + i, &s, sizeof s);
    }
}

static inline __attribute__((always_inline)) void rotate(float (*x)[HS_LANES])
{
    for (uint32_t half = 1; half < HS_BLOCK; half *= 2)
        for (uint32_t i = 0; i < HS_BLOCK; i += 2 * half)
            for (uint32_t j = i; j < i + half; j++) {
                hs_lanes a, b, sum, difference;
                memcpy(&a, x[j], sizeof a);
                memcpy(&b, x[j + half], sizeof b);
                sum = a + b;
                difference = a - b;
                memcpy(x[j], &sum, sizeof sum);
                memcpy(x[j + half], &difference, sizeof difference);
            }
}

/* Norms, rotation, codes, and the sums of which the refitted norm is made. */
HS_WIDE_CLONES static void encode_sixteen(const hs_codebook *book, sixteen *s)
{
    const uint32_t bounds = (1u << book->bits) - 1;
    double square[HS_LANES] = {0};
    hs_lanes norm;
    for (uint32_t j = 0; j < HS_BLOCK; j++)
        add_products(square, s->x[j], s->x[j]);
    for (uint32_t i = 0; i < HS_LANES; i++) {
        s->norm[i] = (float)sqrt(square[i]);
        s->norm[i] = s->norm[i] < 1e-10f ? 1e-10f : s->norm[i];
    }
    memcpy(&norm, s->norm, sizeof norm);
    rotate(s->x);
    for (uint32_t j = 0; j < HS_BLOCK; j++) {
        hs_lanes r;
        lanes_int code = {0};
        float level[HS_LANES];
        memcpy(&r, s->x[j], sizeof r);
        r /= norm;
        for (uint32_t k = 0; k < bounds; k++)
            code -= (lanes_int)(r >= book->bound[k]); /* true is -1 */
        memcpy(s->code[j], &code, sizeof code);
        for (uint32_t i = 0; i < HS_LANES; i++)
            level[i] = book->level[s->code[j][i]];
        add_products(s->rc, s->x[j], level);
        add_products(s->cc, level, level);
    }
}

/* n blocks at `w`, from block number `at` of the part on. */
static hlwq_status encode_some(hs_dtype dtype, const hs_codebook *book, const float *w, uint32_t n, uint64_t at,
                               const hs_planes *p, uint8_t *part, hlwq_error *err)
{
    sixteen s;
    for (uint32_t j = 0; j < HS_BLOCK; j++)
        for (uint32_t i = 0; i < HS_LANES; i++)
            s.x[j][i] = i < n ? w[i * HS_BLOCK + j] : 0.0f;
    memset(s.rc, 0, sizeof s.rc);
    memset(s.cc, 0, sizeof s.cc);
    encode_sixteen(book, &s);
    for (uint32_t i = 0; i < n; i++, at++) {
        uint8_t code[HS_BLOCK];
        const float refit = (float)(s.rc[i] / s.cc[i]);
        uint16_t norm = hs_f32_to_f16(refit);
        for (uint32_t j = 0; j < HS_BLOCK; j++)
            code[j] = (uint8_t)s.code[j][i];
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
