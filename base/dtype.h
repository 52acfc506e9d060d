/*
 * base/dtype.h - number formats: plain element types, the packed HLWQ types Q2..Q6, and INT4 in groups.
 *
 * A packed matrix ("plane-128") is up to three contiguous planes, each row-major over blocks of 128
 * input columns (columns padded to a multiple of 128):
 *
 *   low plane    Q4 Q5 Q6: 64 B a block, byte j = weight j in the low nibble, weight j + 64 in the high one
 *                Q2 Q3:    32 B a block, byte 8i + k (i 0..3, k 0..7) = weights 16i + k, 16i + k + 8,
 *                          64 + 16i + k, 64 + 16i + k + 8 in bits 0-1, 2-3, 4-5, 6-7
 *   high plane   Q3 Q5: 16 B of sign bits; Q6: 16 B of magnitude bit 4, then 16 B of sign bits
 *   norms        fp16, one a block
 *
 * Bit planes are in "chunk order": weight j < 64 with i = j / 16, c = j % 16 is bit 7 - (c >> 1) of
 * byte 4i + 2 (c & 1); weight j + 64 is the same bit of the next byte.
 *
 * A code is sign and magnitude: the magnitude index m counts levels outwards from zero, the sign bit is
 * 1 for a negative level.  Q2: value m | sign << 1 in two bits.  Q3: m in two bits, sign in the high plane.
 * Q4: m | sign << 3 in the nibble.  Q5: m in the nibble.  Q6: low four bits of m in the nibble.
 *
 * INT4 has Q4's nibble plane, with codes 0..15 as they are; then fp16 scales, one a group of 128 or 64 inputs (a block
 * has two groups of 64, weights below 64 first); then, for the types with a Z, one byte a group, the zero point.
 * weight = scale * (code - zero), zero 8 where none is stored.  Not rotated.
 */
#ifndef HS_BASE_DTYPE_H
#define HS_BASE_DTYPE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef enum hs_dtype {
    HS_F32,
    HS_F16,
    HS_BF16,
    HS_F64,
    HS_I8,
    HS_U8,
    HS_I16,
    HS_U16,
    HS_I32,
    HS_U32,
    HS_I64,
    HS_U64,
    HS_BOOL,
    HS_F8_E4M3,
    HS_F8_E5M2,
    HS_Q2,
    HS_Q3,
    HS_Q4,
    HS_Q5,
    HS_Q6,
    HS_I4, /* group of 128 */
    HS_I4Z,
    HS_I4G64,
    HS_I4G64Z,
    HS_DTYPE_COUNT
} hs_dtype;

enum { HS_BLOCK = 128 };

/* "F32", "BF16", "Q5": the safetensors spelling where there is one. */
const char *hs_dtype_name(hs_dtype dtype);

/* False if `name` is none of ours. */
bool hs_dtype_parse(const char *name, hs_dtype *dtype);

/* Bytes of one element; 0 for packed types. */
uint32_t hs_dtype_bytes(hs_dtype dtype);

static inline bool hs_dtype_packed(hs_dtype dtype)
{
    return dtype >= HS_Q2 && dtype <= HS_I4G64Z;
}

/* Packed as HLWQ: rotated, with a codebook. */
static inline bool hs_dtype_rotated(hs_dtype dtype)
{
    return dtype >= HS_Q2 && dtype <= HS_Q6;
}

/* Packed as integers in groups. */
static inline bool hs_dtype_int4(hs_dtype dtype)
{
    return dtype >= HS_I4 && dtype <= HS_I4G64Z;
}

/* Inputs that share a scale, and a zero point: 128 or 64. */
static inline uint32_t hs_dtype_group(hs_dtype packed)
{
    return packed == HS_I4G64 || packed == HS_I4G64Z ? 64 : 128;
}

/* Zero points are stored. */
static inline bool hs_dtype_zeros(hs_dtype dtype)
{
    return dtype == HS_I4Z || dtype == HS_I4G64Z;
}

/* F32, F16 or BF16. */
static inline bool hs_dtype_float(hs_dtype dtype)
{
    return dtype <= HS_BF16;
}

/* Bits of an HLWQ code: 2..6. */
static inline uint32_t hs_dtype_bits(hs_dtype rotated)
{
    return 2 + (uint32_t)(rotated - HS_Q2);
}

static inline hs_dtype hs_dtype_of_bits(uint32_t bits)
{
    return (hs_dtype)(HS_Q2 + bits - 2);
}

/* Where the planes of one matrix lie, from its first byte, 64-byte aligned. Plain types: low only. */
typedef struct hs_planes {
    uint64_t low, high, norms, zeros; /* offsets; norms: the scales of INT4 */
    uint64_t low_bytes, high_bytes, norms_bytes, zeros_bytes;
    uint64_t order, order_bytes;    /* u32 [cols], which input a column is; hs_planes_of leaves this and the next out */
    uint64_t factor, factor_bytes;  /* fp32 [cols], what a column's input is multiplied by */
    uint64_t bytes;                 /* all, a multiple of 64 */
    uint32_t blocks;                /* per row; 0 for plain types */
    uint32_t groups;                /* per row, each with a norm; blocks or twice as many */
    uint32_t low_block, high_block; /* bytes per block */
} hs_planes;

/* False if the sizes overflow. rows and cols at least 1. */
bool hs_planes_of(hs_dtype dtype, uint64_t rows, uint64_t cols, hs_planes *planes);

static inline float hs_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

float hs_f16_to_f32(uint16_t h);
uint16_t hs_f32_to_f16(float f);  /* nearest even; overflow to infinity */
uint16_t hs_f32_to_bf16(float f); /* nearest even */

/* `n` elements of a plain float type (F32, F16, BF16, F64) to fp32. Asserts the type. */
void hs_to_f32(float *out, const void *in, hs_dtype dtype, uint64_t n);

#endif
