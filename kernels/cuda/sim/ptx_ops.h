/*
 * kernels/cuda/sim/ptx_ops.h - what PTX's arithmetic gives for one lane, as the PTX ISA has it.
 *
 * Shifts clamp, float to integer saturates with NaN to 0, min and max prefer numbers, a NaN that comes out is
 * 0x7FFFFFFF.  .rn is what this machine does.
 */
#ifndef HS_KERNELS_CUDA_SIM_PTX_OPS_H
#define HS_KERNELS_CUDA_SIM_PTX_OPS_H

#include "kernels/cuda/sim/ptx.h"

#include <math.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef float f32;
typedef double f64;

static inline f32 one_nan(f32 v)
{
    return v == v ? v : hs_sim_from_bits<f32>(0x7FFFFFFFu);
}
static inline f64 one_nan(f64 v)
{
    const u64 bits = 0x7FFFFFFFFFFFFFFFu;
    f64 n;
    memcpy(&n, &bits, 8);
    return v == v ? v : n;
}
template <class T> static inline T one_nan(T v)
{
    return v;
}

/* ---- integers: unsigned where C++ would not wrap ---- */

template <class T> struct unsigned_of {
    typedef T type;
};
template <> struct unsigned_of<s16> {
    typedef u16 type;
};
template <> struct unsigned_of<s32> {
    typedef u32 type;
};
template <> struct unsigned_of<s64> {
    typedef u64 type;
};
#define U(v) ((typename unsigned_of<T>::type)(v))
template <class T> constexpr int width = (int)sizeof(T) * 8;

template <class T> static inline T add(T a, T b)
{
    return one_nan((T)(U(a) + U(b)));
}
template <class T> static inline T sub(T a, T b)
{
    return one_nan((T)(U(a) - U(b)));
}
template <class T> static inline T mul(T a, T b)
{
    if (sizeof(T) == 2) /* u16 would become int */
        return (T)((u32)a * (u32)b);
    return one_nan((T)(U(a) * U(b)));
}
template <class T> static inline T mul_hi(T a, T b)
{
    if constexpr (sizeof(T) == 8 && (T)-1 < (T)0)
        return (T)((__int128)a * b >> 64);
    else if constexpr (sizeof(T) == 8)
        return (T)((unsigned __int128)a * b >> 64);
    else
        return (T)((u64)(s64)a * (u64)(s64)b >> width<T>); /* the same low bits for both signs */
}
template <class W, class T> static inline W mul_wide(T a, T b)
{
    return (W)a * (W)b;
}
template <class W, class T> static inline W mad_wide(T a, T b, W c)
{
    return (W)((u64)((W)a * (W)b) + (u64)c);
}
template <class T> static inline T mad_lo(T a, T b, T c)
{
    return add<T>(mul<T>(a, b), c);
}
template <class T> static inline T mad_hi(T a, T b, T c)
{
    return add<T>(mul_hi<T>(a, b), c);
}
/* By 0: what devices give is not written down; all ones is what they do. */
template <class T> static inline T div_int(T a, T b)
{
    if (b == 0)
        return (T)-1;
    return (T)-1 < (T)0 && b == (T)-1 ? (T)(0 - U(a)) : (T)(a / b);
}
template <class T> static inline T rem_int(T a, T b)
{
    if (b == 0)
        return a;
    return (T)-1 < (T)0 && b == (T)-1 ? (T)0 : (T)(a % b);
}
template <class T> static inline T min_int(T a, T b)
{
    return a < b ? a : b;
}
template <class T> static inline T max_int(T a, T b)
{
    return a > b ? a : b;
}
template <class T> static inline T abs_int(T a)
{
    return a < 0 ? (T)(0 - U(a)) : a;
}
template <class T> static inline T neg_int(T a)
{
    return (T)(0 - U(a));
}
template <class T> static inline T bit_and(T a, T b)
{
    return (T)(a & b);
}
template <class T> static inline T bit_or(T a, T b)
{
    return (T)(a | b);
}
template <class T> static inline T bit_xor(T a, T b)
{
    return (T)(a ^ b);
}
template <class T> static inline T bit_not(T a)
{
    return (T)~a;
}
template <class T> static inline T shl(T a, u32 n)
{
    return n < (u32)width<T> ? (T)(a << (n & (u32)(width<T> - 1))) : (T)0;
}
template <class T> static inline T shr(T a, u32 n)
{
    return n < (u32)width<T> ? (T)(a >> (n & (u32)(width<T> - 1))) : (T)(a < 0 ? -1 : 0);
}
template <class T> static inline T bfi(T a, T b, u32 at, u32 n)
{
    at &= 255;
    n &= 255;
    if (at >= (u32)width<T> || n == 0)
        return b;
    T mask = n >= (u32)width<T> ? (T)-1 : (T)(((T)1 << n) - 1);
    return (b & ~(T)(mask << at)) | (T)((a & mask) << at);
}
template <class T> static inline T bfe(T a, u32 at, u32 n)
{
    at &= 255;
    n &= 255;
    if (n == 0)
        return 0;
    u32 last = at + n - 1 < (u32)width<T> ? at + n - 1 : (u32)width<T> - 1;
    bool negative = a < 0 && (U(a) >> last & 1);
    if ((T)-1 < (T)0)
        negative = U(a) >> last & 1;
    T v = at >= (u32)width<T> ? (T)0 : (T)(U(a) >> at);
    u32 have = at >= (u32)width<T> ? 0 : last - at + 1;
    T mask = have >= (u32)width<T> ? (T)-1 : (T)(((typename unsigned_of<T>::type)1 << have) - 1);
    v = (T)(v & mask);
    return negative && (T)-1 < (T)0 ? (T)(v | ~mask) : v;
}
static inline u32 clz32(u32 a)
{
    return a ? (u32)__builtin_clz(a) : 32;
}
static inline u32 clz64(u64 a)
{
    return a ? (u32)__builtin_clzll(a) : 64;
}
static inline u32 popc32(u32 a)
{
    return (u32)__builtin_popcount(a);
}
static inline u32 popc64(u64 a)
{
    return (u32)__builtin_popcountll(a);
}
static inline u32 brev32(u32 a)
{
    u32 r = 0;
    for (int k = 0; k < 32; k++)
        r |= (a >> k & 1) << (31 - k);
    return r;
}
/* bytes 0-3 of a, 4-7 of b; bit 3 of a nibble spreads the sign */
static inline u32 prmt(u32 a, u32 b, u32 selector)
{
    u64 both = (u64)b << 32 | a;
    u32 d = 0;
    for (u32 k = 0; k < 4; k++) {
        u32 s = selector >> (4 * k);
        u32 byte = (u32)(both >> (8 * (s & 7))) & 255;
        byte = s & 8 ? 0u - (byte >> 7) : byte;
        d |= (byte & 255) << (8 * k);
    }
    return d;
}
template <class A, class B> static inline u32 dp4a(u32 a, u32 b, u32 c)
{
    for (u32 k = 0; k < 32; k += 8)
        c += (u32)((s32)(A)(a >> k) * (s32)(B)(b >> k));
    return c;
}
static inline u32 lop3(u32 a, u32 b, u32 c, u32 table)
{
    u32 r = 0;
    for (u32 k = 0; k < 8; k++)
        if (table >> k & 1)
            r |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    return r;
}
static inline u32 shf_l_wrap(u32 a, u32 b, u32 c)
{
    return (u32)((((u64)b << 32 | a) << (c & 31)) >> 32);
}
static inline u32 shf_r_wrap(u32 a, u32 b, u32 c)
{
    return (u32)(((u64)b << 32 | a) >> (c & 31));
}
static inline u32 shf_l_clamp(u32 a, u32 b, u32 c)
{
    return c >= 32 ? a : shf_l_wrap(a, b, c);
}
static inline u32 shf_r_clamp(u32 a, u32 b, u32 c)
{
    return c >= 32 ? b : shf_r_wrap(a, b, c);
}

/* ---- floats ---- */

template <class T> static inline T div_float(T a, T b)
{
    return one_nan(a / b);
}
template <class T> static inline T rcp(T a)
{
    return one_nan((T)1 / a);
}
static inline f32 root(f32 a)
{
    return one_nan(sqrtf(a));
}
static inline f64 root(f64 a)
{
    return one_nan(sqrt(a));
}
static inline f32 fused(f32 a, f32 b, f32 c)
{
    return one_nan(__builtin_fmaf(a, b, c));
}
static inline f64 fused(f64 a, f64 b, f64 c)
{
    return one_nan(__builtin_fma(a, b, c));
}
template <class T> static inline T min_float(T a, T b)
{
    T v = a < b ? a : b < a ? b : a == a ? (signbit(a) ? a : b) : b;
    return one_nan(b == b || a != a ? v : a);
}
template <class T> static inline T max_float(T a, T b)
{
    T v = a > b ? a : b > a ? b : a == a ? (signbit(a) ? b : a) : b;
    return one_nan(b == b || a != a ? v : a);
}
static inline f32 abs_float(f32 a)
{
    return fabsf(a);
}
static inline f64 abs_float(f64 a)
{
    return fabs(a);
}
template <class T> static inline T neg_float(T a)
{
    return -a;
}

/* ---- conversions ---- */

template <class R, class T> static inline R convert(T v)
{
    return (R)v;
}
enum { NEAREST, ZERO, DOWN, UP };
template <class T, int MODE> static inline T integral(T v)
{
    return MODE == NEAREST ? (T)rint((double)v)
           : MODE == ZERO  ? (T)trunc((double)v)
           : MODE == DOWN  ? (T)floor((double)v)
                           : (T)ceil((double)v);
}
template <class R, class T, int MODE> static inline R to_int(T v)
{
    if (v != v)
        return 0;
    const R least = (R)-1 < (R)0 ? (R)((u64)1 << (width<R> - 1)) : (R)0, most = (R)~least;
    double r = integral<double, MODE>((double)v);
    double end = (R)-1 < (R)0 ? ldexp(1.0, width<R> - 1) : ldexp(1.0, width<R>);
    if (r >= end)
        return (R)-1 < (R)0 ? (R)(~(u64)0 >> (65 - width<R>)) : most;
    return r < (double)least ? least : (R)r;
}
template <class T, int MODE> static inline T to_whole(T v)
{
    return one_nan(integral<T, MODE>(v));
}
static inline f64 widen(f32 v)
{
    return one_nan((f64)v);
}
static inline f32 narrow(f64 v)
{
    return one_nan((f32)v);
}
static inline f32 from_half(u16 h)
{
    return one_nan(hs_sim_half_to_float(h));
}
static inline u16 to_half(f32 v)
{
#ifdef __F16C__
    return v == v ? (u16)_cvtss_sh(v, 0) : (u16)0x7FFF;
#else
    return hs_sim_float_to_half(v);
#endif
}

/* ---- comparisons ---- */

#define COMPARES(X) X(eq, ==) X(ne, !=) X(lt, <) X(le, <=) X(gt, >) X(ge, >=)
#define X(name, op)                                                                                                    \
    template <class T> static inline bool is_##name(T a, T b)                                                          \
    {                                                                                                                  \
        return a op b;                                                                                                 \
    }                                                                                                                  \
    template <class T> static inline bool is_##name##u(T a, T b)                                                       \
    {                                                                                                                  \
        return a op b || a != a || b != b;                                                                             \
    }
COMPARES(X)
#undef X
/* Without u, != too wants two numbers. */
template <class T> static inline bool is_ne_ordered(T a, T b)
{
    return a < b || b < a;
}
template <class T> static inline bool is_nan(T a, T b)
{
    return a != a || b != b;
}
template <class T> static inline bool is_num(T a, T b)
{
    return a == a && b == b;
}

#endif
