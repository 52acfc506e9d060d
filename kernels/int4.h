/*
 * kernels/int4.h - the INT4 group formats: 4-bit integers with an fp16 scale, and perhaps a zero point, for each group
 * of 64 or 128 consecutive inputs of one output row.
 *
 * weight = scale * (code - zero).  Codes are 0..15; the zero point is 8, or a byte a group that may say 16, which is
 * where GPTQ's stored zero - 1 of 15 leads.  base/dtype.h has the planes.
 */
#ifndef HS_KERNELS_INT4_H
#define HS_KERNELS_INT4_H

#include "base/dtype.h"
#include "base/error.h"

enum { HS_INT4_ZERO = 8 }; /* of the types that store none */

/*
 * Nearest code of each of `n` weights, n <= 128.  Symmetric: the weight of largest magnitude gets the code 0, so that
 * all sixteen are in use (a scale may be negative).  With zeros: the range from the smallest to the largest, and zero,
 * cut into fifteen.  Weights that are not finite or need a scale above 65504 give HLWQ_ERR_FORMAT.
 */
hlwq_status hs_int4_encode_group(bool zeros, const float *w, uint32_t n, uint8_t *code, uint16_t *scale, uint8_t *zero,
                                 hlwq_error *err);

/* A block of codes [128] to and from 64 bytes of the nibble plane. */
void hs_int4_pack_block(const uint8_t *code, uint8_t *low);
void hs_int4_unpack_block(const uint8_t *low, uint8_t *code);

/* As hs_encode_rows and hs_decode_row, which call these. */
hlwq_status hs_int4_encode_rows(hs_dtype dtype, const float *w, uint64_t first_row, uint64_t rows, uint64_t total_rows,
                                uint64_t cols, uint8_t *part, hlwq_error *err);
void hs_int4_decode_row(hs_dtype dtype, const uint8_t *part, uint64_t total_rows, uint64_t cols, uint64_t row,
                        float *w);

#endif
