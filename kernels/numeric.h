/*
 * kernels/numeric.h - the elementary functions of the numeric contract, the same bits on every machine.
 *
 * Only IEEE add, subtract, multiply, divide, square root and fma, each rounded once; single precision but for hs_log1p.
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
enum { HS_NUMERIC_VERSION = 3 };

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

/*
 * log(1 + x) for x >= 0, in double and rounded once: 1 + x = 2^k m, m from sqrt(1/2) to sqrt(2), log m by the series of
 * the inverse hyperbolic tangent of (m - 1) / (m + 1), ten terms; what 1 + x lost is added.  C libraries differ here.
 */
HS_NUMERIC float hs_log1p(float x)
{
    double y = 1.0 + (double)x, lost = (double)x - (y - 1.0);
    uint64_t bits;
    memcpy(&bits, &y, 8);
    int32_t k = (int32_t)((bits - 0x3FE6A09E667F3BCDull) >> 52);
    uint64_t mantissa = bits - ((uint64_t)k << 52);
    double m;
    memcpy(&m, &mantissa, 8);
    double s = (m - 1.0) / (m + 1.0), z = s * s, p = 1.0 / 19.0;
    p = p * z + 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    p = p * z + 1.0;
    double r = (double)k * 0.69314718055994530942 + (2.0 * s * p + lost / y);
    return x != x || x > 3.4e38f ? x : (float)r;
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
