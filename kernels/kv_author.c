/*
 * kernels/kv_author.c - s = max(|x|, 1e-10), r = x / s H sqrt(dim), code = nearest level, the first of two; back:
 * c / sqrt(dim) H times the stored norm, rounded to BF16.
 */
#include "kernels/kv_author.h"

#include "kernels/hlwq.h"

#include <assert.h>
#include <math.h>

enum { DIM_MAX = 256 };

void hs_kv_author_encode(uint32_t bits, uint32_t dim, const float *x, uint8_t *packed, uint16_t *norm)
{
    float r[DIM_MAX], level[16];
    uint8_t code[DIM_MAX];
    double square = 0;
    assert(dim <= DIM_MAX && bits >= 2 && bits <= 4);
    hs_book_levels(HS_BOOK_B, bits, level);
    for (uint32_t j = 0; j < dim; j++)
        square += (double)x[j] * (double)x[j];
    float s = fmaxf((float)sqrt(square), 1e-10f);
    for (uint32_t j = 0; j < dim; j++)
        r[j] = x[j] / s;
    hs_wht(r, dim); /* unnormalised: H sqrt(dim) */
    for (uint32_t j = 0; j < dim; j++) {
        code[j] = 0;
        for (uint8_t i = 1; i < 1u << bits; i++)
            if (fabsf(r[j] - level[i]) < fabsf(r[j] - level[code[j]]))
                code[j] = i;
    }
    hs_pack_msb(code, bits, dim, packed);
    *norm = hs_f32_to_bf16(s);
}

void hs_kv_author_decode(uint32_t bits, uint32_t dim, const uint8_t *packed, uint16_t norm, uint16_t *x)
{
    float r[DIM_MAX], level[16], h = (float)(1.0 / sqrt((double)dim));
    uint8_t code[DIM_MAX];
    assert(dim <= DIM_MAX && bits >= 2 && bits <= 4);
    hs_book_levels(HS_BOOK_B, bits, level);
    hs_unpack_msb(packed, bits, dim, code);
    for (uint32_t i = 0; i < dim; i++)
        r[i] = level[code[i]] / sqrtf((float)dim);
    for (uint32_t j = 0; j < dim; j++) { /* a matrix product, ascending: what nearly cancels depends on the order */
        float sum = 0.0f;
        for (uint32_t i = 0; i < dim; i++)
            sum += r[i] * (__builtin_popcount(i & j) & 1 ? -h : h);
        x[j] = hs_f32_to_bf16(sum * hs_bf16_to_f32(norm));
    }
}
