/*
 * base/dtype.c - the table of number formats and their conversions, in portable C.
 */
#include "base/dtype.h"

#include "base/size.h"

#include <assert.h>

static const struct {
    const char *name;
    uint8_t bytes, low_block, high_block;
} info[HS_DTYPE_COUNT] = {
    [HS_F32] = {"F32", 4, 0, 0},   [HS_F16] = {"F16", 2, 0, 0},         [HS_BF16] = {"BF16", 2, 0, 0},
    [HS_F64] = {"F64", 8, 0, 0},   [HS_I8] = {"I8", 1, 0, 0},           [HS_U8] = {"U8", 1, 0, 0},
    [HS_I16] = {"I16", 2, 0, 0},   [HS_U16] = {"U16", 2, 0, 0},         [HS_I32] = {"I32", 4, 0, 0},
    [HS_U32] = {"U32", 4, 0, 0},   [HS_I64] = {"I64", 8, 0, 0},         [HS_U64] = {"U64", 8, 0, 0},
    [HS_BOOL] = {"BOOL", 1, 0, 0}, [HS_F8_E4M3] = {"F8_E4M3", 1, 0, 0}, [HS_F8_E5M2] = {"F8_E5M2", 1, 0, 0},
    [HS_Q2] = {"Q2", 0, 32, 0},    [HS_Q3] = {"Q3", 0, 32, 16},         [HS_Q4] = {"Q4", 0, 64, 0},
    [HS_Q5] = {"Q5", 0, 64, 16},   [HS_Q6] = {"Q6", 0, 64, 32},         [HS_I4] = {"I4", 0, 64, 0},
    [HS_I4Z] = {"I4Z", 0, 64, 0},  [HS_I4G64] = {"I4G64", 0, 64, 0},    [HS_I4G64Z] = {"I4G64Z", 0, 64, 0},
};

const char *hs_dtype_name(hs_dtype dtype)
{
    return info[dtype].name;
}

bool hs_dtype_parse(const char *name, hs_dtype *dtype)
{
    for (int i = 0; i < HS_DTYPE_COUNT; i++)
        if (strcmp(info[i].name, name) == 0) {
            *dtype = (hs_dtype)i;
            return true;
        }
    return false;
}

uint32_t hs_dtype_bytes(hs_dtype dtype)
{
    return info[dtype].bytes;
}

bool hs_planes_of(hs_dtype dtype, uint64_t rows, uint64_t cols, hs_planes *p)
{
    uint64_t n;
    *p = (hs_planes){0};
    if (!hs_dtype_packed(dtype)) {
        return hs_mul_u64(rows, cols, &n) && hs_mul_u64(n, info[dtype].bytes, &p->low_bytes) &&
               hs_align_u64(p->low_bytes, 64, &p->bytes);
    }
    uint64_t blocks = hs_ceil_div(cols, HS_BLOCK);
    if (blocks > UINT32_MAX || !hs_mul_u64(rows, blocks, &n) || n > UINT64_MAX / 256)
        return false;
    uint32_t per = HS_BLOCK / hs_dtype_group(dtype);
    if (blocks > UINT32_MAX / per)
        return false;
    p->blocks = (uint32_t)blocks;
    p->groups = p->blocks * per;
    p->low_block = info[dtype].low_block;
    p->high_block = info[dtype].high_block;
    p->low_bytes = n * p->low_block;
    p->high_bytes = n * p->high_block;
    p->norms_bytes = n * per * 2;
    p->zeros_bytes = hs_dtype_zeros(dtype) ? n * per : 0;
    p->high = hs_align_up(p->low_bytes, 64);
    p->norms = p->high + hs_align_up(p->high_bytes, 64);
    p->zeros = p->norms + hs_align_up(p->norms_bytes, 64);
    p->bytes = p->zeros + hs_align_up(p->zeros_bytes, 64);
    return true;
}

float hs_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3FF, u;
    if (e == 31) {
        u = sign | 0x7F800000u | m << 13;
    } else if (e) {
        u = sign | (e + 112) << 23 | m << 13;
    } else {
        float f = (float)m * 0x1p-24f; /* subnormals are exact */
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t hs_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7FFFFFFF;
    if (u > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00); /* NaN */
    if (u >= 0x477FF000u)
        return (uint16_t)(sign | 0x7C00); /* 65520 and more round to infinity */
    if (u < 0x38800000u) {                /* subnormal: count of 2^-24, rounded by the fp32 adder */
        float a;
        memcpy(&a, &u, 4);
        a += 0.5f; /* unit in the last place of [0.5, 1) is 2^-24 */
        memcpy(&u, &a, 4);
        return (uint16_t)(sign | (u - 0x3F000000u));
    }
    uint32_t odd = u >> 13 & 1;
    u += 0xFFF + odd;
    return (uint16_t)(sign | ((u >> 13) - (112u << 10)));
}

uint16_t hs_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7FFFFFFF) > 0x7F800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

void hs_to_f32(float *out, const void *in, hs_dtype dtype, uint64_t n)
{
    const uint8_t *p = in;
    switch (dtype) {
    case HS_F32: memcpy(out, in, n * 4); return;
    case HS_F16:
    case HS_BF16:
        for (uint64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, 2);
            out[i] = dtype == HS_F16 ? hs_f16_to_f32(h) : hs_bf16_to_f32(h);
        }
        return;
    case HS_F64:
        for (uint64_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
        }
        return;
    default: assert(!"a plain float type");
    }
}
