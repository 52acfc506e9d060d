/*
 * kernels/fit.h - codes and norms for a matrix, chosen by what its inputs are like.
 *
 * Rounding each weight to the nearest level forgets that errors of different weights add up in the output.  Here a row
 * is coded front to back, each weight making up for the errors of those before it (LDLQ, the same choice as GPTQ's);
 * then norms are fitted anew and single codes changed wherever that lowers e H e', some times over.  All in the basis
 * of the codes: HLWQ's is rotated, that of INT4 is the matrix's own.
 */
#ifndef HS_KERNELS_FIT_H
#define HS_KERNELS_FIT_H

#include "base/threads.h"
#include "kernels/matrix.h"

typedef struct hs_fit {
    const hs_matrix *source; /* F32, F16 or BF16 */
    const float *column;     /* [cols] each input's weights are multiplied by this first; NULL = 1 */
    const float *h;          /* [n][n] sums of products in that basis, damped; n = cols padded to blocks of 128 */
    const float *t, *d;      /* their factor (kernels/gram.h) */
    /*
     * What the outputs should be, where that is not simply W x: b = W shift' + wanted are the sums of target times
     * input, less W H.  NULL = nothing to make up for.
     */
    const float *shift;      /* [n][n], row j: inputs j times the other inputs, less row j of h */
    const float *wanted;     /* [rows][n] */
    uint32_t sweeps;         /* rounds of norms and single codes after the first pass */
    hs_dtype dtype;          /* Q2..Q6, I4 or I4G64 */
    const hs_codebook *book; /* of Q2..Q6 */
    uint8_t *part;           /* the packed matrix: all its planes are written */
} hs_fit;

/* What fitting cost: sums over rows of e H e', for the codes chosen, and of w H w'. */
typedef struct hs_fit_error {
    double left, whole;
} hs_fit_error;

/* Bytes of scratch for a matrix of `cols` inputs. */
uint64_t hs_fit_scratch_bytes(uint32_t cols, uint32_t threads);

/* HLWQ_ERR_FORMAT where a weight is not finite or a norm does not fit fp16. The bits do not depend on the threads. */
hlwq_status hs_fit_matrix(const hs_fit *fit, hs_pool *pool, void *scratch, hs_fit_error *error, hlwq_error *err);

#endif
