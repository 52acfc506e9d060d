/*
 * kernels/numeric.h - the elementary functions of the numeric contract, the same bits on every machine.
 *
 * Only IEEE single-precision add, subtract, multiply, divide, square root and fma, each rounded once.
 * docs/numerics.md gives the error of each.  Compiled with contraction off.
 */
#ifndef HS_KERNELS_NUMERIC_H
#define HS_KERNELS_NUMERIC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define HS_NUMERIC static __host__ __device__ inline
#else
#define HS_NUMERIC static inline
#endif

/* Raised whenever any rounding between tokens and logits changes: saved sessions say which one they go on with. */
enum { HS_NUMERIC_VERSION = 2 };

HS_NUMERIC float hs_bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

HS_NUMERIC uint32_t hs_float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/*
 * exp(x), error below 0.99 units in the last place.  x = n ln 2 + r, |r| <= ln 2 / 2, polynomial of degree 7 in r,
 * exponent added as two exact factors.  Below -87.33 it is 0 (no subnormals), above 88.72 infinity; NaN stays.
 */
HS_NUMERIC float hs_exp(float x)
{
    float c = x > 89.0f ? 89.0f : x;
    c = c < -88.0f ? -88.0f : c;
    float n = (c * 0x1.715476p+0f + 0x1.8p23f) - 0x1.8p23f; /* nearest whole number, ties to even */
    float r = fmaf(-n, 0.693145751953125f, c);
    r = fmaf(-n, 1.42860677e-06f, r);
    float p = 0.000198527618f;
    p = fmaf(p, r, 0.00139304355f);
    p = fmaf(p, r, 0.00833336078f);
    p = fmaf(p, r, 0.0416664854f);
    p = fmaf(p, r, 0.166666672f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(r * r, p, r) + 1.0f;
    int32_t k = (int32_t)n;
    float y = p * hs_bits_float((uint32_t)(k / 2 + 127) << 23) * hs_bits_float((uint32_t)(k - k / 2 + 127) << 23);
    y = x < -87.33654f ? 0.0f : y;
    y = x > 88.72283f ? INFINITY : y;
    return x != x ? x : y;
}

HS_NUMERIC float hs_sigmoid(float x)
{
    return 1.0f / (1.0f + hs_exp(-x));
}

HS_NUMERIC float hs_silu(float x)
{
    return x / (1.0f + hs_exp(-x));
}

/* fp16 to fp32, exact, without branches. */
HS_NUMERIC float hs_half(uint16_t h)
{
    uint32_t u = (uint32_t)(h & 0x7FFF) << 13;
    float f = hs_bits_float(u) * 0x1p112f;
    f = u >= 0x0F800000u ? hs_bits_float(u | 0x7F800000u) : f; /* infinity, NaN */
    return hs_bits_float(hs_float_bits(f) | (uint32_t)(h & 0x8000) << 16);
}

#endif
