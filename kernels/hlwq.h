/*
 * kernels/hlwq.h - the HLWQ codec: rotation, codebooks, encoding and decoding of blocks and matrices.
 *
 * A block is 128 consecutive inputs of one output row.  Encoding: norm = |v|, r = sqrt(128) H v / |v|,
 * code = nearest level, first minimum.  Decoding: w_i = norm sum_j level[code_j] / sqrt(128) H_ji, with H the
 * orthonormal Walsh-Hadamard matrix in Sylvester order, H_ij = (-1)^popcount(i & j) / sqrt(128).
 * Codes in this header are ascending level indexes 0..2^bits - 1; base/dtype.h has the packed form.
 */
#ifndef HS_KERNELS_HLWQ_H
#define HS_KERNELS_HLWQ_H

#include "base/dtype.h"
#include "base/error.h"

#include <math.h>

/* In place, x[i] <- sum_j (-1)^popcount(i & j) x[j], fixed butterfly order, add and subtract only. n = 64, 128, 256. */
void hs_wht(float *x, uint32_t n);

/* Which levels a code means. */
typedef enum hs_book_kind {
    HS_BOOK_A,        /* author's, tails to infinity, 100 sweeps */
    HS_BOOK_B,        /* author's, truncated at +-4, 100 sweeps: HLWQ bit-packed files */
    HS_BOOK_CONVERGED /* optimal Lloyd-Max, 1..6 bits: what we write */
} hs_book_kind;

/* 2^bits ascending fp32 levels, bits 1..8. A and B equal the author's to the bit. */
void hs_book_levels(hs_book_kind kind, uint32_t bits, float *level);

/*
 * A codebook as the kernels use it.  Level of magnitude index m: (k[m] + 1/2) * step, k in 0..126 (Q2..Q5) or
 * 0..16255 (Q6, held as 128 * hi + lo, hi at most 126).  A negative level is the complement ~k.  The table is the
 * search's best fit to the levels (least squared error weighted by how often a Gaussian uses each).
 */
typedef struct hs_codebook {
    uint32_t bits;
    float level[64]; /* exact, ascending, as the file has them */
    float step;
    uint16_t k[32]; /* by magnitude index, 2^(bits - 1) of them, ascending */
    float scale;    /* step / 256: what a sum over (2k + 1) x codes is multiplied by (rotation included) */
    /*
     * By code as stored (magnitude, the sign above it), repeating: 128 + k for a positive level, 128 + ~k for a
     * negative one, as unsigned bytes.  Q6 has k = 128 hi + lo in two: 128 + hi, and lo.
     */
    uint8_t biased[64], biased_low[64];
    /*
     * Encoder: bound[i] is the least r that is nearer to level i + 1 than to level i, NaN from the last level on.
     * start[c] counts the bounds below cell c, r being cut into 256 equal cells over +-reach.
     */
    float bound[65];
    uint8_t start[256];
    float reach;
} hs_codebook;

/* HLWQ_ERR_FORMAT unless the levels are finite, ascending and symmetric to 1e-6 of the largest. bits 2..6. */
hlwq_status hs_codebook_init(hs_codebook *book, uint32_t bits, const float *level, hlwq_error *err);

/* Fills `start` from the bounds and the reach of 2^bits levels. */
void hs_codebook_cells(hs_codebook *book);

static inline uint32_t hs_level_cell(const hs_codebook *book, float r)
{
    float cell = (r / book->reach + 1.0f) * 128.0f;
    return cell > 255.0f ? 255 : cell > 0.0f ? (uint32_t)cell : 0; /* not a number: 0 */
}

/* Nearest level, the lower of two that are equally near.  Hardly a cell has two bounds: no branch is a guess. */
static inline uint8_t hs_nearest_level(const hs_codebook *book, float r)
{
    uint32_t i = book->start[hs_level_cell(book, r)];
    i += r >= book->bound[i];
    i += r >= book->bound[i];
    while (r >= book->bound[i])
        i++;
    return (uint8_t)i;
}

/*
 * Encodes one block.  v [128] fp32 (zero-padded by the caller); code [128]; *norm fp16.  With `refit`, the norm is
 * the least-squares one for the chosen codes instead of |v|.  Non-finite input gives HLWQ_ERR_FORMAT.
 */
hlwq_status hs_encode_block(const hs_codebook *book, const float *v, bool refit, uint8_t *code, uint16_t *norm,
                            hlwq_error *err);

/* Decodes one block with the exact levels (not the int8 table): w [128]. */
void hs_decode_block(const hs_codebook *book, const uint8_t *code, uint16_t norm, float *w);

/* One block of ascending codes [128] to and from the planes of base/dtype.h. low and high point at this block's bytes.
 */
void hs_pack_block(hs_dtype dtype, const uint8_t *code, uint8_t *low, uint8_t *high);
void hs_unpack_block(hs_dtype dtype, const uint8_t *low, const uint8_t *high, uint8_t *code);

/* Rows of fp32 weights [rows][cols] into the planes of a part at `part` (whole matrix of total_rows), from first_row
 * on. Of any packed type; INT4 (kernels/int4.h) has no book. */
hlwq_status hs_encode_rows(hs_dtype dtype, const hs_codebook *book, const float *w, uint64_t first_row, uint64_t rows,
                           uint64_t total_rows, uint64_t cols, uint8_t *part, hlwq_error *err);

/* Rows that have so many weights together are encoded fastest. */
enum { HS_ENCODE_FLOATS = 2048 };

/* One row of a packed matrix of any type to fp32 [cols], exact levels. */
void hs_decode_row(hs_dtype dtype, const hs_codebook *book, const uint8_t *part, uint64_t total_rows, uint64_t cols,
                   uint64_t row, float *w);

/* Bit streams of other writers: `n` codes of `bits` bits, most or least significant bit first. */
void hs_unpack_msb(const uint8_t *stream, uint32_t bits, uint64_t n, uint8_t *code);
void hs_pack_msb(const uint8_t *code, uint32_t bits, uint64_t n, uint8_t *stream);
void hs_unpack_lsb(const uint8_t *stream, uint32_t bits, uint64_t n, uint8_t *code);
void hs_pack_lsb(const uint8_t *code, uint32_t bits, uint64_t n, uint8_t *stream);

#endif
