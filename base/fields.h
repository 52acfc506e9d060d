/*
 * base/fields.h - narrow fields of a word, each to a byte.
 */
#ifndef HS_BASE_FIELDS_H
#define HS_BASE_FIELDS_H

#include <stdint.h>

/* The lowest eight fields of `bits` bits, 1..7, to eight bytes by halves: 4 and 4, then 2 and 2, then 1 and 1. */
static inline uint64_t hs_spread_fields(uint64_t x, uint32_t bits)
{
    const uint64_t four = ((uint64_t)1 << 4 * bits) - 1, two = ((1u << 2 * bits) - 1) * UINT64_C(0x100000001);
    const uint64_t one = ((1u << bits) - 1) * UINT64_C(0x1000100010001);
    x = (x & four) | (x >> 4 * bits & four) << 32;
    x = (x & two) | (x >> 2 * bits & two) << 16;
    return (x & one) | (x >> bits & one) << 8;
}

/* Byte i: nibble i of the lower half in its low nibble, nibble i of the upper half in its high one. */
static inline uint64_t hs_zip_nibbles(uint32_t lower, uint32_t upper)
{
    return hs_spread_fields(lower, 4) | hs_spread_fields(upper, 4) << 4;
}

#endif
