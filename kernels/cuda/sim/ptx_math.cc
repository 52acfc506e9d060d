/*
 * kernels/cuda/sim/ptx_math.cc - PTX arithmetic on all lanes of a warp.
 *
 * Compiled twice: PTX_MATH_FIND is ptx_math_find_base for any machine, and ptx_math_find_fma where fma() is an
 * instruction; the bits are the same.  Nothing approximate is here: such an instruction is not understood, on purpose.
 */
#include "kernels/cuda/sim/ptx_ops.h"

#include <fenv.h>

template <class F> static inline __attribute__((always_inline)) void lanes(u32 act, F f)
{
    if (act == 0xFFFFFFFFu) {
#pragma GCC ivdep
        for (int l = 0; l < 32; l++)
            f(l);
    } else {
        for (u32 rest = act; rest; rest &= rest - 1)
            f(__builtin_ctz(rest));
    }
}

/* How a type lies in its slot: what is narrower than 32 bits is extended as its sign says. */
template <class T> struct cell {
    typedef T held;
};
template <> struct cell<u8> {
    typedef u32 held;
};
template <> struct cell<u16> {
    typedef u32 held;
};
template <> struct cell<s8> {
    typedef s32 held;
};
template <> struct cell<s16> {
    typedef s32 held;
};
#define HELD(T) typename cell<T>::held

/* Registers of 16 bits hold 16: their upper half is 0. */
template <class T> static inline HELD(T) hold(T v)
{
    return v;
}
template <> inline s32 hold<s16>(s16 v)
{
    return (s32)(u16)v;
}
template <> inline s32 hold<s8>(s8 v)
{
    return (s32)(u16)(s16)v;
}

template <class R, class T, R (*F)(T)> static void one(ptx_warp *w, const ptx_insn *i)
{
    auto *d = ptx_reg<HELD(R)>(w, i->d);
    const auto *a = ptx_reg<HELD(T)>(w, i->a);
    lanes(w->act, [&](int l) { d[l] = hold<R>(F((T)a[l])); });
}

template <class R, class T, class U, R (*F)(T, U)> static void two(ptx_warp *w, const ptx_insn *i)
{
    auto *d = ptx_reg<HELD(R)>(w, i->d);
    const auto *a = ptx_reg<HELD(T)>(w, i->a);
    const auto *b = ptx_reg<HELD(U)>(w, i->b);
    lanes(w->act, [&](int l) { d[l] = hold<R>(F((T)a[l], (U)b[l])); });
}

template <class R, class T, class U, R (*F)(T, T, U)> static void three(ptx_warp *w, const ptx_insn *i)
{
    auto *d = ptx_reg<HELD(R)>(w, i->d);
    const auto *a = ptx_reg<HELD(T)>(w, i->a);
    const auto *b = ptx_reg<HELD(T)>(w, i->b);
    const auto *c = ptx_reg<HELD(U)>(w, i->c);
    lanes(w->act, [&](int l) { d[l] = hold<R>(F((T)a[l], (T)b[l], (U)c[l])); });
}

template <class T, T (*F)(T, T, u32, u32)> static void four(ptx_warp *w, const ptx_insn *i)
{
    auto *d = ptx_reg<T>(w, i->d);
    const auto *a = ptx_reg<T>(w, i->a);
    const auto *b = ptx_reg<T>(w, i->b);
    const auto *c = ptx_reg<u32>(w, i->c);
    const auto *e = ptx_reg<u32>(w, i->v[0]);
    lanes(w->act, [&](int l) { d[l] = F(a[l], b[l], c[l], e[l]); });
}

template <class T> static void bfe3(ptx_warp *w, const ptx_insn *i)
{
    T *d = ptx_reg<T>(w, i->d);
    const T *a = ptx_reg<T>(w, i->a);
    const u32 *b = ptx_reg<u32>(w, i->b), *c = ptx_reg<u32>(w, i->c);
    lanes(w->act, [&](int l) { d[l] = bfe<T>(a[l], b[l], c[l]); });
}
static void lop3_4(ptx_warp *w, const ptx_insn *i)
{
    u32 *d = ptx_reg<u32>(w, i->d);
    const u32 *a = ptx_reg<u32>(w, i->a), *b = ptx_reg<u32>(w, i->b), *c = ptx_reg<u32>(w, i->c);
    const u32 *e = ptx_reg<u32>(w, i->v[0]);
    lanes(w->act, [&](int l) { d[l] = lop3(a[l], b[l], c[l], e[l]); });
}
/* Sums with carry. HOW: 1 takes it in, 2 gives it out, 4 subtracts, 8 multiplies first, 16 its upper half. */
template <class T, int HOW> static void carried(ptx_warp *w, const ptx_insn *i)
{
    T *d = ptx_reg<T>(w, i->d);
    const T *a = ptx_reg<T>(w, i->a), *b = ptx_reg<T>(w, i->b), *c = ptx_reg<T>(w, i->c);
    for (u32 rest = w->act; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        unsigned __int128 in = HOW & 1 ? w->carry >> l & 1 : 0, x = a[l], y = b[l];
        if (HOW & 8) {
            x = HOW & 16 ? x * y >> width<T> : (unsigned __int128)(T)(x * y);
            y = c[l];
        }
        unsigned __int128 r = HOW & 4 ? x - y - in : x + y + in;
        d[l] = (T)r;
        if (HOW & 2)
            w->carry = (w->carry & ~(1u << l)) | ((u32)(r >> width<T>)&1) << l;
    }
}

/* ---- other roundings ---- */

enum { ADD, SUB, MUL, DIV };
/* One operation in another rounding: seldom, so it may be slow. */
template <class T, int MODE, int WHAT> static void rounded(ptx_warp *w, const ptx_insn *i)
{
    volatile T *d = ptx_reg<T>(w, i->d);
    const volatile T *a = ptx_reg<T>(w, i->a), *b = ptx_reg<T>(w, i->b);
    int before = fegetround();
    fesetround(MODE);
    for (u32 rest = w->act; rest; rest &= rest - 1) {
        int l = __builtin_ctz(rest);
        volatile T v = WHAT == ADD ? a[l] + b[l] : WHAT == SUB ? a[l] - b[l] : WHAT == MUL ? a[l] * b[l] : a[l] / b[l];
        d[l] = v;
    }
    fesetround(before);
    T *r = ptx_reg<T>(w, i->d);
    lanes(w->act, [&](int l) { r[l] = one_nan(r[l]); });
}

/* ---- predicates ---- */

static inline u32 mask_of(const s32 *flag) /* [32] of 0 or -1 */
{
#ifdef __SSE2__
    const __m128i *f = reinterpret_cast<const __m128i *>(flag);
    u32 bits = 0;
    for (int k = 0; k < 2; k++) {
        __m128i low = _mm_packs_epi32(_mm_loadu_si128(f + 4 * k), _mm_loadu_si128(f + 4 * k + 1));
        __m128i high = _mm_packs_epi32(_mm_loadu_si128(f + 4 * k + 2), _mm_loadu_si128(f + 4 * k + 3));
        bits |= (u32)_mm_movemask_epi8(_mm_packs_epi16(low, high)) << (16 * k);
    }
    return bits;
#else
    u32 bits = 0;
    for (int l = 0; l < 32; l++)
        bits |= (u32)(flag[l] & 1) << l;
    return bits;
#endif
}

static inline void set_pred(ptx_warp *w, u32 p, u32 bits)
{
    w->pred[p] = (w->pred[p] & ~w->act) | (bits & w->act);
    w->pred_def[p] |= w->act;
}

template <class T, bool (*F)(T, T)> static void compare(ptx_warp *w, const ptx_insn *i)
{
    const auto *a = ptx_reg<HELD(T)>(w, i->a);
    const auto *b = ptx_reg<HELD(T)>(w, i->b);
    s32 flag[32] = {};
    lanes(w->act, [&](int l) { flag[l] = -(s32)F((T)a[l], (T)b[l]); });
    set_pred(w, i->pd, mask_of(flag));
}
/* What is chosen has a value if it had one where it comes from. */
template <class T> static void select(ptx_warp *w, const ptx_insn *i)
{
    ptx_need_pred(w, i->pa);
    T *d = ptx_reg<T>(w, i->d);
    const T *a = ptx_reg<T>(w, i->a), *b = ptx_reg<T>(w, i->b);
    u32 p = i->pa_negated ? ~w->pred[i->pa] : w->pred[i->pa];
    lanes(w->act, [&](int l) { d[l] = p >> l & 1 ? a[l] : b[l]; });
    u32 has = (p & w->def[i->a]) | (~p & w->def[i->b]);
    w->def[i->d] = (w->def[i->d] & ~w->act) | (has & w->act);
}
template <class T> static void move(ptx_warp *w, const ptx_insn *i)
{
    T *d = ptx_reg<T>(w, i->d);
    const T *a = ptx_reg<T>(w, i->a);
    lanes(w->act, [&](int l) { d[l] = a[l]; });
    w->def[i->d] = (w->def[i->d] & ~w->act) | (w->def[i->a] & w->act);
}
static void move_pred(ptx_warp *w, const ptx_insn *i)
{
    u32 bits = i->pa_negated ? ~w->pred[i->pa] : w->pred[i->pa], has = w->pred_def[i->pa];
    set_pred(w, i->pd, bits);
    w->pred_def[i->pd] = (w->pred_def[i->pd] & ~w->act) | (has & w->act);
}
template <u32 (*F)(u32, u32)> static void two_preds(ptx_warp *w, const ptx_insn *i)
{
    ptx_need_pred(w, i->a);
    ptx_need_pred(w, i->b);
    set_pred(w, i->pd, F(w->pred[i->a], w->pred[i->b]));
}
static void not_pred(ptx_warp *w, const ptx_insn *i)
{
    ptx_need_pred(w, i->pa);
    set_pred(w, i->pd, ~w->pred[i->pa]);
}

/* ---- pairs ---- */

/*
 * nvcc widens a register by another one that nobody wrote, and masks that half away again: a pair has a value if either
 * half has, and the other half is all ones.
 */
template <class W, class T> static void pack(ptx_warp *w, const ptx_insn *i)
{
    W *d = ptx_reg<W>(w, i->d);
    const u32 *a = ptx_reg<u32>(w, i->a), *b = ptx_reg<u32>(w, i->b), low = w->def[i->a], high = w->def[i->b];
    lanes(w->act, [&](int l) {
        W of_a = low >> l & 1 ? (W)(T)a[l] : (W)(T)~0u, of_b = high >> l & 1 ? (W)(T)b[l] : (W)(T)~0u;
        d[l] = (W)(of_a | of_b << width<T>);
    });
    w->def[i->d] = (w->def[i->d] & ~w->act) | (w->act & (low | high));
}
template <class W, class T> static void unpack(ptx_warp *w, const ptx_insn *i)
{
    u32 *d = ptx_reg<u32>(w, i->v[0]), *e = ptx_reg<u32>(w, i->v[1]);
    const W *a = ptx_reg<W>(w, i->a);
    ptx_need(w, i->a);
    for (u32 rest = w->act; rest; rest &= rest - 1) { /* d may be a */
        int l = __builtin_ctz(rest);
        W v = a[l];
        d[l] = (T)v;
        e[l] = (T)(v >> width<T>);
    }
    w->def[i->v[0]] |= w->act;
    w->def[i->v[1]] |= w->act;
}

/* ---- the table ---- */

#define INT_TYPE(T, S)                                                                                                 \
    {"add." #T, two<T, T, T, add<T>>, S S S, false}, {"sub." #T, two<T, T, T, sub<T>>, S S S, false},                  \
        {"mul.lo." #T, two<T, T, T, mul<T>>, S S S, false}, {"mul.hi." #T, two<T, T, T, mul_hi<T>>, S S S, false},     \
        {"mad.lo." #T, three<T, T, T, mad_lo<T>>, S S S S, false},                                                     \
        {"mad.hi." #T, three<T, T, T, mad_hi<T>>, S S S S, false},                                                     \
        {"div." #T, two<T, T, T, div_int<T>>, S S S, false}, {"rem." #T, two<T, T, T, rem_int<T>>, S S S, false},      \
        {"min." #T, two<T, T, T, min_int<T>>, S S S, false}, {"max." #T, two<T, T, T, max_int<T>>, S S S, false},      \
        {"shr." #T, two<T, T, u32, shr<T>>, S S "w", false}, {"setp.eq." #T, compare<T, is_eq<T>>, "p" S S, false},    \
        {"setp.ne." #T, compare<T, is_ne<T>>, "p" S S, false}, {"setp.lt." #T, compare<T, is_lt<T>>, "p" S S, false},  \
        {"setp.le." #T, compare<T, is_le<T>>, "p" S S, false}, {"setp.gt." #T, compare<T, is_gt<T>>, "p" S S, false},  \
    {                                                                                                                  \
        "setp.ge." #T, compare<T, is_ge<T>>, "p" S S, false                                                            \
    }
#define SIGNED_TYPE(T, S)                                                                                              \
    {"abs." #T, one<T, T, abs_int<T>>, S S, false},                                                                    \
    {                                                                                                                  \
        "neg." #T, one<T, T, neg_int<T>>, S S, false                                                                   \
    }
#define BIT_TYPE(B, T, S)                                                                                              \
    {"and." #B, two<T, T, T, bit_and<T>>, S S S, false}, {"or." #B, two<T, T, T, bit_or<T>>, S S S, false},            \
        {"xor." #B, two<T, T, T, bit_xor<T>>, S S S, false}, {"not." #B, one<T, T, bit_not<T>>, S S, false},           \
        {"shl." #B, two<T, T, u32, shl<T>>, S S "w", false}, {"shr." #B, two<T, T, u32, shr<T>>, S S "w", false},      \
        {"setp.eq." #B, compare<T, is_eq<T>>, "p" S S, false},                                                         \
    {                                                                                                                  \
        "setp.ne." #B, compare<T, is_ne<T>>, "p" S S, false                                                            \
    }
#define FLOAT_TYPE(T, S)                                                                                               \
    {"add.rn." #T, two<T, T, T, add<T>>, S S S, false}, {"sub.rn." #T, two<T, T, T, sub<T>>, S S S, false},            \
        {"mul.rn." #T, two<T, T, T, mul<T>>, S S S, false}, {"div.rn." #T, two<T, T, T, div_float<T>>, S S S, false},  \
        {"fma.rn." #T, three<T, T, T, fused>, S S S S, false}, {"sqrt.rn." #T, one<T, T, root>, S S, false},           \
        {"rcp.rn." #T, one<T, T, rcp<T>>, S S, false}, {"min." #T, two<T, T, T, min_float<T>>, S S S, false},          \
        {"max." #T, two<T, T, T, max_float<T>>, S S S, false}, {"abs." #T, one<T, T, abs_float>, S S, false},          \
        {"neg." #T, one<T, T, neg_float<T>>, S S, false}, {"setp.eq." #T, compare<T, is_eq<T>>, "p" S S, false},       \
        {"setp.ne." #T, compare<T, is_ne_ordered<T>>, "p" S S, false},                                                 \
        {"setp.lt." #T, compare<T, is_lt<T>>, "p" S S, false}, {"setp.le." #T, compare<T, is_le<T>>, "p" S S, false},  \
        {"setp.gt." #T, compare<T, is_gt<T>>, "p" S S, false}, {"setp.ge." #T, compare<T, is_ge<T>>, "p" S S, false},  \
        {"setp.equ." #T, compare<T, is_equ<T>>, "p" S S, false},                                                       \
        {"setp.neu." #T, compare<T, is_neu<T>>, "p" S S, false},                                                       \
        {"setp.ltu." #T, compare<T, is_ltu<T>>, "p" S S, false},                                                       \
        {"setp.leu." #T, compare<T, is_leu<T>>, "p" S S, false},                                                       \
        {"setp.gtu." #T, compare<T, is_gtu<T>>, "p" S S, false},                                                       \
        {"setp.geu." #T, compare<T, is_geu<T>>, "p" S S, false},                                                       \
        {"setp.nan." #T, compare<T, is_nan<T>>, "p" S S, false},                                                       \
    {                                                                                                                  \
        "setp.num." #T, compare<T, is_num<T>>, "p" S S, false                                                          \
    }
#define ROUNDED(T, S, M, MODE)                                                                                         \
    {"add." M "." #T, rounded<T, MODE, ADD>, S S S, false}, {"sub." M "." #T, rounded<T, MODE, SUB>, S S S, false},    \
        {"mul." M "." #T, rounded<T, MODE, MUL>, S S S, false},                                                        \
    {                                                                                                                  \
        "div." M "." #T, rounded<T, MODE, DIV>, S S S, false                                                           \
    }
#define TO_INTS_FROM(R, RS, T, S)                                                                                      \
    {"cvt.rni." #R "." #T, one<R, T, to_int<R, T, NEAREST>>, RS S, false},                                             \
        {"cvt.rzi." #R "." #T, one<R, T, to_int<R, T, ZERO>>, RS S, false},                                            \
        {"cvt.rmi." #R "." #T, one<R, T, to_int<R, T, DOWN>>, RS S, false},                                            \
    {                                                                                                                  \
        "cvt.rpi." #R "." #T, one<R, T, to_int<R, T, UP>>, RS S, false                                                 \
    }
#define TO_INTS(R, RS) TO_INTS_FROM(R, RS, f32, "w"), TO_INTS_FROM(R, RS, f64, "d")
#define FROM_INT(T, S)                                                                                                 \
    {"cvt.rn.f32." #T, one<f32, T, convert<f32, T>>, "w" S, false},                                                    \
        {"cvt.rn.f64." #T, one<f64, T, convert<f64, T>>, "d" S, false},                                                \
        {"cvt.u8." #T, one<u8, T, convert<u8, T>>, "w" S, false},                                                      \
        {"cvt.s8." #T, one<s8, T, convert<s8, T>>, "w" S, false},                                                      \
        {"cvt.u16." #T, one<u16, T, convert<u16, T>>, "w" S, false},                                                   \
        {"cvt.s16." #T, one<s16, T, convert<s16, T>>, "w" S, false},                                                   \
        {"cvt.u32." #T, one<u32, T, convert<u32, T>>, "w" S, false},                                                   \
        {"cvt.s32." #T, one<s32, T, convert<s32, T>>, "w" S, false},                                                   \
        {"cvt.u64." #T, one<u64, T, convert<u64, T>>, "d" S, false},                                                   \
    {                                                                                                                  \
        "cvt.s64." #T, one<s64, T, convert<s64, T>>, "d" S, false                                                      \
    }
#define WHOLE(T, S)                                                                                                    \
    {"cvt.rni." #T "." #T, one<T, T, to_whole<T, NEAREST>>, S S, false},                                               \
        {"cvt.rzi." #T "." #T, one<T, T, to_whole<T, ZERO>>, S S, false},                                              \
        {"cvt.rmi." #T "." #T, one<T, T, to_whole<T, DOWN>>, S S, false},                                              \
    {                                                                                                                  \
        "cvt.rpi." #T "." #T, one<T, T, to_whole<T, UP>>, S S, false                                                   \
    }
#define MOVES(T, C, S)                                                                                                 \
    {"mov." #T, move<C>, S S, true},                                                                                   \
    {                                                                                                                  \
        "selp." #T, select<C>, S S S "p", true                                                                         \
    }
#define CARRIED(T, S)                                                                                                  \
    {"add.cc." #T, carried<T, 2>, S S S, false}, {"addc." #T, carried<T, 1>, S S S, false},                            \
        {"addc.cc." #T, carried<T, 3>, S S S, false}, {"sub.cc." #T, carried<T, 6>, S S S, false},                     \
        {"subc." #T, carried<T, 5>, S S S, false}, {"subc.cc." #T, carried<T, 7>, S S S, false},                       \
        {"mad.lo.cc." #T, carried<T, 10>, S S S S, false}, {"mad.hi.cc." #T, carried<T, 26>, S S S S, false},          \
        {"madc.lo." #T, carried<T, 9>, S S S S, false}, {"madc.lo.cc." #T, carried<T, 11>, S S S S, false},            \
        {"madc.hi." #T, carried<T, 25>, S S S S, false},                                                               \
    {                                                                                                                  \
        "madc.hi.cc." #T, carried<T, 27>, S S S S, false                                                               \
    }

static const ptx_math table[] = {
    INT_TYPE(u16, "w"),
    INT_TYPE(s16, "w"),
    INT_TYPE(u32, "w"),
    INT_TYPE(s32, "w"),
    INT_TYPE(u64, "d"),
    INT_TYPE(s64, "d"),
    SIGNED_TYPE(s16, "w"),
    SIGNED_TYPE(s32, "w"),
    SIGNED_TYPE(s64, "d"),
    BIT_TYPE(b16, u16, "w"),
    BIT_TYPE(b32, u32, "w"),
    BIT_TYPE(b64, u64, "d"),
    FLOAT_TYPE(f32, "w"),
    FLOAT_TYPE(f64, "d"),
    ROUNDED(f32, "w", "rz", FE_TOWARDZERO),
    ROUNDED(f32, "w", "rm", FE_DOWNWARD),
    ROUNDED(f32, "w", "rp", FE_UPWARD),
    ROUNDED(f64, "d", "rz", FE_TOWARDZERO),
    ROUNDED(f64, "d", "rm", FE_DOWNWARD),
    ROUNDED(f64, "d", "rp", FE_UPWARD),
    TO_INTS(u16, "w"),
    TO_INTS(s16, "w"),
    TO_INTS(u32, "w"),
    TO_INTS(s32, "w"),
    TO_INTS(u64, "d"),
    TO_INTS(s64, "d"),
    FROM_INT(u8, "w"),
    FROM_INT(s8, "w"),
    FROM_INT(u16, "w"),
    FROM_INT(s16, "w"),
    FROM_INT(u32, "w"),
    FROM_INT(s32, "w"),
    FROM_INT(u64, "d"),
    FROM_INT(s64, "d"),
    WHOLE(f32, "w"),
    WHOLE(f64, "d"),
    MOVES(b16, u32, "w"),
    MOVES(u16, u32, "w"),
    MOVES(s16, u32, "w"),
    MOVES(b32, u32, "w"),
    MOVES(u32, u32, "w"),
    MOVES(s32, u32, "w"),
    MOVES(f32, u32, "w"),
    MOVES(b64, u64, "d"),
    MOVES(u64, u64, "d"),
    MOVES(s64, u64, "d"),
    MOVES(f64, u64, "d"),
    CARRIED(u32, "w"),
    CARRIED(u64, "d"),
    {"mul.wide.u16", two<u32, u16, u16, mul_wide<u32, u16>>, "www", false},
    {"mul.wide.s16", two<s32, s16, s16, mul_wide<s32, s16>>, "www", false},
    {"mul.wide.u32", two<u64, u32, u32, mul_wide<u64, u32>>, "dww", false},
    {"mul.wide.s32", two<s64, s32, s32, mul_wide<s64, s32>>, "dww", false},
    {"mad.wide.u32", three<u64, u32, u64, mad_wide<u64, u32>>, "dwwd", false},
    {"mad.wide.s32", three<s64, s32, s64, mad_wide<s64, s32>>, "dwwd", false},
    {"bfi.b32", four<u32, bfi<u32>>, "wwwww", false},
    {"bfi.b64", four<u64, bfi<u64>>, "dddww", false},
    {"bfe.u32", bfe3<u32>, "wwww", false},
    {"bfe.s32", bfe3<s32>, "wwww", false},
    {"bfe.u64", bfe3<u64>, "ddww", false},
    {"bfe.s64", bfe3<s64>, "ddww", false},
    {"clz.b32", one<u32, u32, clz32>, "ww", false},
    {"clz.b64", one<u32, u64, clz64>, "wd", false},
    {"popc.b32", one<u32, u32, popc32>, "ww", false},
    {"popc.b64", one<u32, u64, popc64>, "wd", false},
    {"brev.b32", one<u32, u32, brev32>, "ww", false},
    {"prmt.b32", three<u32, u32, u32, prmt>, "wwww", false},
    {"dp4a.u32.u32", three<u32, u32, u32, dp4a<u8, u8>>, "wwww", false},
    {"dp4a.u32.s32", three<u32, u32, u32, dp4a<u8, s8>>, "wwww", false},
    {"dp4a.s32.u32", three<u32, u32, u32, dp4a<s8, u8>>, "wwww", false},
    {"dp4a.s32.s32", three<u32, u32, u32, dp4a<s8, s8>>, "wwww", false},
    {"lop3.b32", lop3_4, "wwwww", false},
    {"shf.l.wrap.b32", three<u32, u32, u32, shf_l_wrap>, "wwww", false},
    {"shf.r.wrap.b32", three<u32, u32, u32, shf_r_wrap>, "wwww", false},
    {"shf.l.clamp.b32", three<u32, u32, u32, shf_l_clamp>, "wwww", false},
    {"shf.r.clamp.b32", three<u32, u32, u32, shf_r_clamp>, "wwww", false},
    {"cvt.f64.f32", one<f64, f32, widen>, "dw", false},
    {"cvt.rn.f32.f64", one<f32, f64, narrow>, "wd", false},
    {"cvt.f32.f16", one<f32, u16, from_half>, "ww", false},
    {"cvt.rn.f16.f32", one<u16, f32, to_half>, "ww", false},
    {"mov.pred", move_pred, "pp", true},
    {"not.pred", not_pred, "pp", true},
    {"and.pred", two_preds<bit_and<u32>>, "ppp", true},
    {"or.pred", two_preds<bit_or<u32>>, "ppp", true},
    {"xor.pred", two_preds<bit_xor<u32>>, "ppp", true},
    {"pack.b64", pack<u64, u32>, "dww", true},
    {"pack.b32", pack<u32, u16>, "www", true},
    {"unpack.b64", unpack<u64, u32>, "-d", true},
    {"unpack.b32", unpack<u32, u16>, "-w", true},
};

const ptx_math *PTX_MATH_FIND(ptx_span opcode)
{
    for (const ptx_math &m : table)
        if (ptx_is(opcode, m.opcode))
            return &m;
    return nullptr;
}
