/*
 * kernels/measure.h - how fast memory can be read here, and how fast a product reads its weights.
 */
#ifndef HS_KERNELS_MEASURE_H
#define HS_KERNELS_MEASURE_H

#include "base/dtype.h"
#include "base/mem.h"
#include "base/threads.h"
#include "kernels/hlwq.h"

/* Median rate of seven passes over `bytes` of huge pages with all threads of the pool, in bytes per second. */
hlwq_status hs_read_bandwidth(hs_mem *mem, hs_pool *pool, uint64_t bytes, double *rate, hlwq_error *err);

typedef struct hs_product_case {
    const char *isa; /* "ref", "avx2", "avx512"; NULL = the best here */
    hs_dtype dtype;  /* packed */
    uint32_t rows, cols, tokens;
    uint64_t resident_bytes; /* weights gone through in one pass: more than the caches hold, or less */
} hs_product_case;

/* The code book and the planes of a case; HLWQ_ERR_ARG where there is no such product. */
hlwq_status hs_product_case_open(const hs_product_case *c, hs_codebook *book, hs_planes *planes, hlwq_error *err);

/*
 * Median seconds of one product [rows][cols] x [cols][tokens], over passes through copies of the matrix.
 * HLWQ_ERR_UNSUPPORTED where this processor lacks the instructions.
 */
hlwq_status hs_measure_product(hs_mem *mem, hs_pool *pool, const hs_product_case *c, double *seconds, uint64_t *bytes,
                               hlwq_error *err);

/* The same on a graphics card, and the rate at which it reads its memory. HLWQ_ERR_UNSUPPORTED where there is none. */
hlwq_status hs_measure_product_cuda(const hs_product_case *c, double *seconds, uint64_t *bytes, double *rate,
                                    hlwq_error *err);

#endif
