/*
 * kernels/matrix.h - a weight matrix where the kernels find it: y = W x, rows are outputs.
 */
#ifndef HS_KERNELS_MATRIX_H
#define HS_KERNELS_MATRIX_H

#include "base/dtype.h"
#include "kernels/hlwq.h"

typedef struct hs_matrix {
    hs_dtype dtype; /* F32, F16, BF16 or a packed type */
    uint32_t rows, cols;
    uint32_t blocks, groups; /* per row; packed types */
    uint32_t low_block, high_block;
    const uint8_t *low;      /* packed low plane, or the elements [rows][cols] */
    const uint8_t *high;     /* packed high plane or NULL */
    const uint8_t *norms;    /* fp16 [rows][groups] */
    const uint8_t *zeros;    /* [rows][groups] or NULL */
    const uint32_t *order;   /* [cols] the input that each column multiplies, NULL = its own */
    const float *factor;     /* [cols] what the input of each column is multiplied by first, NULL = 1 */
    const hs_codebook *book; /* rotated types */
} hs_matrix;

/* A matrix whose planes start at `data`. */
static inline hs_matrix hs_matrix_at(hs_dtype dtype, uint32_t rows, uint32_t cols, const hs_planes *planes,
                                     const uint8_t *data, const hs_codebook *book)
{
    return (hs_matrix){
        .dtype = dtype,
        .rows = rows,
        .cols = cols,
        .blocks = planes->blocks,
        .groups = planes->groups,
        .low_block = planes->low_block,
        .high_block = planes->high_block,
        .low = data + planes->low,
        .high = planes->high_bytes ? data + planes->high : NULL,
        .norms = planes->norms_bytes ? data + planes->norms : NULL,
        .zeros = planes->zeros_bytes ? data + planes->zeros : NULL,
        .order = planes->order_bytes ? (const uint32_t *)(const void *)(data + planes->order) : NULL,
        .factor = planes->factor_bytes ? (const float *)(const void *)(data + planes->factor) : NULL,
        .book = book,
    };
}

/* `rows` rows of a packed matrix from row `first` on. */
static inline hs_matrix hs_matrix_rows(const hs_matrix *w, uint32_t first, uint32_t rows)
{
    hs_matrix m = *w;
    uint64_t blocks = (uint64_t)first * w->blocks, groups = (uint64_t)first * w->groups;
    m.rows = rows;
    m.low += blocks * w->low_block;
    m.high = w->high ? w->high + blocks * w->high_block : NULL;
    m.norms = w->norms ? w->norms + groups * 2 : NULL;
    m.zeros = w->zeros ? w->zeros + groups : NULL;
    return m;
}

/* True if its inputs are put in another order or scaled before the product. */
static inline bool hs_matrix_gathers(const hs_matrix *w)
{
    return w->order || w->factor;
}

/* The input of a column of an ordered matrix; the last one for what only a damaged file has. */
static inline uint32_t hs_input_of(const hs_matrix *w, uint32_t column)
{
    return w->order[column] < w->cols ? w->order[column] : w->cols - 1;
}

#endif
