/*
 * kernels/hlwq.c - blocks and matrices of codes.
 */
#include "kernels/hlwq.h"

#include "base/fields.h"
#include "kernels/int4.h"
#include "kernels/numeric.h"

#include <assert.h>
#include <math.h>

#define INVERSE_SQRT_128 0x1.6a09e6p-4f /* 0.088388346 */

void hs_wht(float *x, uint32_t n)
{
    for (uint32_t half = 1; half < n; half *= 2)
        for (uint32_t i = 0; i < n; i += 2 * half)
            for (uint32_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
}

/* ---- blocks --------------------------------------------------------------------------------- */

hlwq_status hs_encode_block(const hs_codebook *book, const float *v, bool refit, uint8_t *code, uint16_t *norm,
                            hlwq_error *err)
{
    float r[HS_BLOCK];
    double square = 0;
    memcpy(r, v, sizeof r);
    for (int j = 0; j < HS_BLOCK; j++)
        square += (double)v[j] * v[j];
    float s = (float)sqrt(square);
    if (!(s <= 3e38f))
        return hs_fail(err, HLWQ_ERR_FORMAT, "a block of weights has the norm %g", (double)s);
    if (s < 1e-10f)
        s = 1e-10f;
    hs_wht(r, HS_BLOCK);
    double rc = 0, cc = 0;
    for (int j = 0; j < HS_BLOCK; j++) {
        code[j] = hs_nearest_level(book, r[j] / s);
        double c = book->level[code[j]];
        rc += r[j] * c;
        cc += c * c;
    }
    float stored = refit ? (float)(rc / cc) : s;
    *norm = hs_f32_to_f16(stored);
    if (refit && !(stored < 65520.0f))
        return hs_fail(err, HLWQ_ERR_FORMAT, "a block of weights has the norm %g, fp16 holds 65504", (double)stored);
    return HLWQ_OK;
}

void hs_decode_block(const hs_codebook *book, const uint8_t *code, uint16_t norm, float *w)
{
    float n = hs_half(norm);
    for (int j = 0; j < HS_BLOCK; j++)
        w[j] = book->level[code[j]] * INVERSE_SQRT_128;
    hs_wht(w, HS_BLOCK);
    for (int j = 0; j < HS_BLOCK; j++)
        w[j] = w[j] * INVERSE_SQRT_128 * n;
}

#define EVERY UINT64_C(0x0101010101010101) /* byte of eight */

static inline uint64_t load_eight(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

static inline void store_eight(uint8_t *p, uint64_t x)
{
    memcpy(p, &x, 8);
}

/*
 * Bit `bit` of the even bytes of x, then of those of y, into a byte, the first highest.  The product puts each of the
 * eight bits at its place in the top byte; no two of its terms meet, as their shifts differ in their last three bits.
 */
static inline uint8_t bits_of_even(uint64_t x, uint64_t y, uint32_t bit)
{
    const uint64_t even = UINT64_C(0x0001000100010001);
    return (uint8_t)((((x >> bit & even) | (y >> bit & even) << 8) * UINT64_C(0x8008400420021001)) >> 56);
}

/* A plane of bit number `bit`, in the chunk order of base/dtype.h. */
static inline void pack_bits(const uint8_t *sm, uint32_t bit, uint8_t *out)
{
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t upper = 0; upper < 2; upper++) {
            uint64_t x = load_eight(sm + 64 * upper + 16 * i), y = load_eight(sm + 64 * upper + 16 * i + 8);
            out[4 * i + upper] = bits_of_even(x, y, bit);
            out[4 * i + 2 + upper] = bits_of_even(x >> 8, y >> 8, bit);
        }
}

/* `bits` is a constant wherever this is called.  The sign, 1 = negative, stands above the magnitude. */
static inline __attribute__((always_inline)) void pack(uint32_t bits, const uint8_t *code, uint8_t *low, uint8_t *high)
{
    const uint64_t half = (uint64_t)1 << (bits - 1);
    uint8_t sm[HS_BLOCK];
    for (uint32_t j = 0; j < HS_BLOCK; j += 8) {
        const uint64_t x = load_eight(code + j), negative = ~(x >> (bits - 1)) & EVERY;
        assert((x & ~(EVERY * (2 * half - 1))) == 0);
        store_eight(sm + j, x ^ EVERY * half ^ negative * (half - 1)); /* below the middle, they count downwards */
    }
    if (bits <= 3)
        for (uint32_t i = 0; i < 4; i++) {
            const uint8_t *w = sm + 16 * i;
            const uint64_t two = EVERY * 3;
            store_eight(low + 8 * i, (load_eight(w) & two) | (load_eight(w + 8) & two) << 2 |
                                         (load_eight(w + 64) & two) << 4 | (load_eight(w + 72) & two) << 6);
        }
    else
        for (uint32_t j = 0; j < HS_BLOCK / 2; j += 8)
            store_eight(low + j, (load_eight(sm + j) & EVERY * 15) | (load_eight(sm + j + 64) & EVERY * 15) << 4);
    if (bits == 3)
        pack_bits(sm, 2, high);
    if (bits >= 5)
        pack_bits(sm, 4, high);
    if (bits == 6)
        pack_bits(sm, 5, high + 16);
}

void hs_pack_block(hs_dtype dtype, const uint8_t *code, uint8_t *low, uint8_t *high)
{
    switch (dtype) {
    case HS_Q2: pack(2, code, low, high); return;
    case HS_Q3: pack(3, code, low, high); return;
    case HS_Q4: pack(4, code, low, high); return;
    case HS_Q5: pack(5, code, low, high); return;
    default: pack(6, code, low, high);
    }
}

/* Level index by stored sign and magnitude. */
static const uint8_t level_of[7][64] = {
    [2] = {2, 3, 1, 0},
    [3] = {4, 5, 6, 7, 3, 2, 1, 0},
    [4] = {8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 4, 3, 2, 1, 0},
    [5] = {16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
           15, 14, 13, 12, 11, 10, 9,  8,  7,  6,  5,  4,  3,  2,  1,  0},
    [6] = {32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53,
           54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20,
           19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9,  8,  7,  6,  5,  4,  3,  2,  1,  0},
};

/* `bits` is a constant wherever this is called, so that places and shifts are too. */
static inline __attribute__((always_inline)) void unpack(uint32_t bits, const uint8_t *low, const uint8_t *high,
                                                         uint8_t *code)
{
    const uint8_t *level = level_of[bits];
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t c = 0; c < 16; c++)
            for (uint32_t upper = 0; upper < 2; upper++) {
                uint32_t j = 64 * upper + 16 * i + c, byte = 4 * i + 2 * (c & 1) + upper, bit = 7 - (c >> 1), sm;
                sm = bits <= 3 ? low[8 * i + c % 8] >> (4 * upper + c / 8 * 2) & 3u
                               : low[16 * i + c] >> (4 * upper) & 15u;
                if (bits == 3)
                    sm |= (high[byte] >> bit & 1u) << 2;
                if (bits >= 5)
                    sm |= (high[byte] >> bit & 1u) << 4;
                if (bits == 6)
                    sm |= (high[16 + byte] >> bit & 1u) << 5;
                code[j] = level[sm];
            }
}

void hs_unpack_block(hs_dtype dtype, const uint8_t *low, const uint8_t *high, uint8_t *code)
{
    switch (dtype) {
    case HS_Q2: unpack(2, low, high, code); return;
    case HS_Q3: unpack(3, low, high, code); return;
    case HS_Q4: unpack(4, low, high, code); return;
    case HS_Q5: unpack(5, low, high, code); return;
    default: unpack(6, low, high, code);
    }
}

/* ---- matrices ------------------------------------------------------------------------------- */

void hs_decode_row(hs_dtype dtype, const hs_codebook *book, const uint8_t *part, uint64_t total_rows, uint64_t cols,
                   uint64_t row, float *w)
{
    hs_planes p;
    if (hs_dtype_int4(dtype)) {
        hs_int4_decode_row(dtype, part, total_rows, cols, row, w);
        return;
    }
    bool fits = hs_planes_of(dtype, total_rows, cols, &p);
    assert(fits && row < total_rows);
    (void)fits;
    for (uint64_t b = 0; b < p.blocks; b++) {
        float v[HS_BLOCK];
        uint8_t code[HS_BLOCK];
        uint16_t norm;
        uint64_t at = row * p.blocks + b, n = cols - b * HS_BLOCK < HS_BLOCK ? cols - b * HS_BLOCK : HS_BLOCK;
        hs_unpack_block(dtype, part + p.low + at * p.low_block, part + p.high + at * p.high_block, code);
        memcpy(&norm, part + p.norms + at * 2, 2);
        hs_decode_block(book, code, norm, v);
        memcpy(w + b * HS_BLOCK, v, n * sizeof *v);
    }
}

/* ---- bit streams of other writers ----------------------------------------------------------- */

static inline __attribute__((always_inline)) void unpack_eight(uint64_t x, uint32_t bits, bool msb, uint8_t *code)
{
    x = hs_spread_fields(msb ? __builtin_bswap64(x) >> (64 - 8 * bits) : x, bits);
    store_eight(code, msb ? __builtin_bswap64(x) : x);
}

/* The whole eights among n fields; how many those are.  `bits` and `msb` are constants wherever this is called. */
static inline __attribute__((always_inline)) uint64_t unpack_eights(const uint8_t *stream, uint32_t bits, bool msb,
                                                                    uint64_t n, uint8_t *code)
{
    const uint64_t bytes = n / 8 * bits, whole = bytes < 8 ? 0 : (bytes - 8) / bits + 1; /* with eight bytes to read */
    uint64_t i = 0;
    for (; i < whole; i++)
        unpack_eight(load_eight(stream + i * bits), bits, msb, code + 8 * i);
    for (; i < n / 8; i++) {
        uint64_t x = 0;
        memcpy(&x, stream + i * bits, bits);
        unpack_eight(x, bits, msb, code + 8 * i);
    }
    return n / 8 * 8;
}

static inline __attribute__((always_inline)) uint64_t unpack_most(const uint8_t *stream, uint32_t bits, bool msb,
                                                                  uint64_t n, uint8_t *code)
{
    switch (bits) {
    case 2: return unpack_eights(stream, 2, msb, n, code);
    case 3: return unpack_eights(stream, 3, msb, n, code);
    case 4: return unpack_eights(stream, 4, msb, n, code);
    case 5: return unpack_eights(stream, 5, msb, n, code);
    case 6: return unpack_eights(stream, 6, msb, n, code);
    default: return 0;
    }
}

void hs_unpack_msb(const uint8_t *stream, uint32_t bits, uint64_t n, uint8_t *code)
{
    uint32_t held = 0, count = 0;
    const uint64_t most = unpack_most(stream, bits, true, n, code);
    stream += most / 8 * bits;
    for (uint64_t i = most; i < n; i++) {
        while (count < bits) {
            held = held << 8 | *stream++;
            count += 8;
        }
        count -= bits;
        code[i] = (uint8_t)(held >> count & ((1u << bits) - 1));
    }
}

void hs_pack_msb(const uint8_t *code, uint32_t bits, uint64_t n, uint8_t *stream)
{
    uint32_t held = 0, count = 0;
    for (uint64_t i = 0; i < n; i++) {
        held = held << bits | code[i];
        count += bits;
        while (count >= 8) {
            count -= 8;
            *stream++ = (uint8_t)(held >> count);
        }
    }
    if (count)
        *stream = (uint8_t)(held << (8 - count));
}

void hs_unpack_lsb(const uint8_t *stream, uint32_t bits, uint64_t n, uint8_t *code)
{
    uint32_t held = 0, count = 0;
    const uint64_t most = unpack_most(stream, bits, false, n, code);
    stream += most / 8 * bits;
    for (uint64_t i = most; i < n; i++) {
        while (count < bits) {
            held |= (uint32_t)*stream++ << count;
            count += 8;
        }
        code[i] = (uint8_t)(held & ((1u << bits) - 1));
        held >>= bits;
        count -= bits;
    }
}

void hs_pack_lsb(const uint8_t *code, uint32_t bits, uint64_t n, uint8_t *stream)
{
    uint32_t held = 0, count = 0;
    for (uint64_t i = 0; i < n; i++) {
        held |= (uint32_t)code[i] << count;
        count += bits;
        while (count >= 8) {
            *stream++ = (uint8_t)held;
            held >>= 8;
            count -= 8;
        }
    }
    if (count)
        *stream = (uint8_t)held;
}
