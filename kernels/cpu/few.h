/*
 * kernels/cpu/few.h - packed products: the sizes of blocks, and how rows and tokens are cut into calls
 * of a function that is stamped out for each type and number of tokens.
 *
 * A unit is what has one sum: a block of 128 inputs, or half a block for INT4, whose units have a norm each or, in
 * groups of 128, two and two the same.  INT4 in all forms is one stamp, named I4: which it is is asked once a tile.
 */
#ifndef HS_KERNELS_CPU_FEW_H
#define HS_KERNELS_CPU_FEW_H

#include "kernels/cpu/ops.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    TOKENS = 4,    /* that one decoding serves */
    SPAN = 144,    /* units of a row between two transposes: all of 18,432 columns, so that weights are read in order */
    BAND_ROWS = 64 /* at once */
};

/* Bytes of a block of 128 codes in the low plane, and in the high ones. */
INLINE uint32_t low_block_of(hs_dtype type)
{
    return type <= HS_Q3 ? 32 : 64;
}

INLINE uint32_t high_block_of(hs_dtype type)
{
    return type == HS_Q6 ? 32 : type == HS_Q3 || type == HS_Q5 ? 16 : 0;
}

/* Inputs of a unit, its bytes in the low plane, and units of a segment. */
INLINE uint32_t unit_of(hs_dtype type)
{
    return hs_dtype_int4(type) ? HS_BLOCK / 2 : HS_BLOCK;
}

/* Units of a row. */
INLINE uint32_t units_of(hs_dtype type, const hs_matrix *w)
{
    return w->blocks * (HS_BLOCK / unit_of(type));
}

/* Two units share a norm, and a zero point. */
INLINE bool shares_norms(hs_dtype type, const hs_matrix *w)
{
    return hs_dtype_int4(type) && w->groups == w->blocks;
}

INLINE uint32_t low_unit_of(hs_dtype type)
{
    return low_block_of(type) * unit_of(type) / HS_BLOCK;
}

INLINE uint32_t segment_of(hs_dtype type)
{
    return 8 * HS_BLOCK / unit_of(type);
}

/* What a sum is multiplied with at the end; INT4's scales are the whole. */
INLINE float last_scale(hs_dtype type, const hs_matrix *w)
{
    return hs_dtype_int4(type) ? 1.0f : w->book->scale;
}

/* token[0..m - 1], m fixed, against rows first..last - 1, at most BAND_ROWS. */
typedef void few_fn(const hs_matrix *w, const hs_act *a, const size_t *token, uint32_t first, uint32_t last, float *y,
                    size_t stride);

/* A row for each type that has functions of its own, as FEW_TABLE lists them. */
INLINE uint32_t few_row(hs_dtype type)
{
    return (uint32_t)((hs_dtype_int4(type) ? HS_I4 : type) - HS_Q2);
}

/* fn [few_row][m / 2]: for one, two and four tokens. */
INLINE void few_tokens(few_fn *const (*fn)[3], const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n,
                       uint32_t first, uint32_t last, float *y, size_t stride)
{
    few_fn *const *of = fn[few_row(w->dtype)];
    for (uint32_t r = first; r < last; r += BAND_ROWS)
        for (uint32_t t = 0, m; t < n; t += m) {
            size_t at[TOKENS];
            m = n - t >= 4 ? 4 : n - t >= 2 ? 2 : 1;
            for (uint32_t k = 0; k < m; k++)
                at[k] = token ? token[t + k] : t + k;
            of[m / 2](w, a, at, r, last - r < BAND_ROWS ? last : r + BAND_ROWS, y + t * stride, stride);
        }
}

/* From an INLINE product(type, w, a, token, m, first, last, y, stride): the functions, and the table `few`. */
#define FEW_STAMP(TYPE, M)                                                                                             \
    static void product_##TYPE##_##M(const hs_matrix *w, const hs_act *a, const size_t *token, uint32_t first,         \
                                     uint32_t last, float *y, size_t stride)                                           \
    {                                                                                                                  \
        product(HS_##TYPE, w, a, token, M, first, last, y, stride);                                                    \
    }
#define FEW_TYPE(TYPE) FEW_STAMP(TYPE, 1) FEW_STAMP(TYPE, 2) FEW_STAMP(TYPE, 4)
#define FEW_ROW(TYPE)                                                                                                  \
    {                                                                                                                  \
        product_##TYPE##_1, product_##TYPE##_2, product_##TYPE##_4                                                     \
    }
#define FEW_TABLE                                                                                                      \
    FEW_TYPE(Q2)                                                                                                       \
    FEW_TYPE(Q3)                                                                                                       \
    FEW_TYPE(Q4)                                                                                                       \
    FEW_TYPE(Q5)                                                                                                       \
    FEW_TYPE(Q6)                                                                                                       \
    FEW_TYPE(I4)                                                                                                       \
    static few_fn *const few[][3] = {FEW_ROW(Q2), FEW_ROW(Q3), FEW_ROW(Q4), FEW_ROW(Q5), FEW_ROW(Q6), FEW_ROW(I4)};

/* From an INLINE gemm(type, w, a, token, n, first, last, y, stride) for many tokens: a function for one type. */
typedef void many_fn(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                     uint32_t last, float *y, size_t stride);

#define MANY_STAMP(TYPE)                                                                                               \
    static void gemm_##TYPE(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,    \
                            uint32_t last, float *y, size_t stride)                                                    \
    {                                                                                                                  \
        gemm(HS_##TYPE, w, a, token, n, first, last, y, stride);                                                       \
    }

#endif
