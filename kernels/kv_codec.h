/*
 * kernels/kv_codec.h - keys and values in codes.
 *
 * A block of 128 values x of one head becomes r = H x (additions only, as hs_wht), and r a norm and codes:
 *
 *   Q2..Q4   code = the converged level nearest to r / s, s = the root mean square of r;
 *            norm = sum r c / sum c^2 over the chosen levels c, as fp16: the least-squares one
 *   I8       step = norm / 8, norm = fp16(8 max|r| / 127); code = nearest even of r / step, at most 127 in magnitude
 *
 * It is read as u = c * norm, or code * step.  Then x = H u / 128, and q . x = (H q / 128) . u.  A block that is not
 * finite, or too large for its norm, gets the norm NaN: the damage shows in the logits.
 */
#ifndef HS_KERNELS_KV_CODEC_H
#define HS_KERNELS_KV_CODEC_H

#include "base/kv_format.h"
#include "kernels/backend.h"

/* Levels of Q2..Q4 by code as stored (magnitude, the sign above it), repeating. */
void hs_kv_levels(hs_dtype coded, float *level /* [16] */);

/* x [128] is used up. */
void hs_kv_encode_block(hs_dtype coded, float *x, uint8_t *low, uint8_t *high, uint16_t *norm);

/* u [n][128] of blocks first.. of a plane. */
void hs_kv_decode(const uint8_t *page, const hs_kv_planes *planes, size_t first, uint32_t n, float *u);

/* x = H x / 128 for each block of 128 in x [n]: rotates a query, un-rotates a weighted sum of values. */
void hs_kv_rotate(float *x, uint32_t n);

/* One position of a page from fp16 to codes. */
void hs_kv_encode_position(const void *plain, void *coded, const hs_kv_layout *layout, uint32_t kv_heads,
                           uint32_t head_dim, uint32_t position);

/* Pages that a query at `position` reads in codes, all from 0 on; and that exist in codes once it is appended. */
static inline uint32_t hs_kv_coded_count(uint32_t position)
{
    return position / HS_KV_PAGE < 2 ? 0 : position / HS_KV_PAGE - 1;
}

#endif
