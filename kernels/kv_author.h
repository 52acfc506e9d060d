/*
 * kernels/kv_author.h - the KV layout of the author's package: a codec, for comparison. No cache of ours has it.
 *
 * A vector of one head, `dim` a power of two up to 256, is one block: norm |x| as BF16, the whole vector rotated, codes
 * of 2 to 4 bits from book B packed with the most significant bit first.
 */
#ifndef HS_KERNELS_KV_AUTHOR_H
#define HS_KERNELS_KV_AUTHOR_H

#include <stdint.h>

/* packed [dim * bits / 8] and *norm, BF16, from x [dim]. */
void hs_kv_author_encode(uint32_t bits, uint32_t dim, const float *x, uint8_t *packed, uint16_t *norm);

/* x [dim] BF16. */
void hs_kv_author_decode(uint32_t bits, uint32_t dim, const uint8_t *packed, uint16_t norm, uint16_t *x);

#endif
