/*
 * kernels/gram.h - what the inputs of a matrix are like: sums of products over many of them, and their factor.
 *
 * An error e in a row of weights costs e H e', H = sum x x' over the inputs x that the matrix will see, in the basis in
 * which it is stored: blocks of 128 rotated, or plain.  H = M D M', M unit upper triangular, so the cost is a sum of
 * squares in which weight k sees the errors of those before it: what error feedback works with (kernels/fit.h). All
 * results are the same for any number of threads.
 */
#ifndef HS_KERNELS_GRAM_H
#define HS_KERNELS_GRAM_H

#include "base/error.h"
#include "base/threads.h"

/* out [blocks of 128] = x [cols] times `scale`, padded with zeros and rotated (orthonormal). */
void hs_gram_rotate(const float *x, uint32_t cols, float scale, float *out);

/* The same without the rotation. */
void hs_gram_pad(const float *x, uint32_t cols, float scale, float *out);

/* h [n][n] += sum over rows of a_i b_j; a, b [rows][n]. With a == b only j >= i is right until hs_gram_mirror. */
void hs_gram_add(hs_pool *pool, float *h, uint32_t n, const float *a, const float *b, uint32_t rows);

/* h [rows][n] += the same with a [tokens][rows], b [tokens][n]; rows a multiple of 8. */
void hs_gram_add_cross(hs_pool *pool, float *h, uint32_t rows, uint32_t n, const float *a, const float *b,
                       uint32_t tokens);

/*
 * m [rows][n] = m T, where T is what multiplying the inputs by `factor` [n] does in the rotated basis: rotation,
 * factors, rotation.
 */
void hs_gram_scale(float *m, uint32_t rows, uint32_t n, const float *factor);

/* m [n][n], rows and columns changing places. */
void hs_gram_transpose(float *m, uint32_t n);

/* What lies below the diagonal from what lies above. */
void hs_gram_mirror(float *h, uint32_t n);

/*
 * Adds `damping` times the mean of the diagonal to it, and factors: row k of t [n][n] holds M_ik for i < k, d [n] D.
 * Raises the damping tenfold as often as it takes for D to be positive; returns what was used.
 */
float hs_gram_factor(hs_pool *pool, float *h, uint32_t n, float damping, float *t, float *d);

#endif
