/*
 * loader/formats/ggml_blocks.c - the block types of GGUF, to fp32.
 *
 * Blocks of 32 have one fp16 scale d.  K blocks are 256 weights in groups of 32 or 16, whose scales (and minima) are
 * integers that a scale of the block multiplies.
 */
#include "loader/formats/wide.h"

#include <assert.h>
#include <string.h>

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

bool hs_ggml_type(uint32_t type, uint32_t *weights, uint32_t *bytes, const char **name)
{
    static const struct {
        uint32_t type, weights, bytes;
        const char *name;
    } t[] = {
        {F32, 1, 4, "F32"},       {F16, 1, 2, "F16"},       {BF16, 1, 2, "BF16"},     {Q4_0, 32, 18, "Q4_0"},
        {Q4_1, 32, 20, "Q4_1"},   {Q5_0, 32, 22, "Q5_0"},   {Q5_1, 32, 24, "Q5_1"},   {Q8_0, 32, 34, "Q8_0"},
        {Q4_K, 256, 144, "Q4_K"}, {Q5_K, 256, 176, "Q5_K"}, {Q6_K, 256, 210, "Q6_K"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        if (t[i].type == type) {
            *weights = t[i].weights;
            *bytes = t[i].bytes;
            *name = t[i].name;
            return true;
        }
    return false;
}

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return hs_f16_to_f32(h);
}

/* Q4_0 .. Q5_1: nibbles, the lower ones first; fifth bits in a word; centred, or above a minimum. */
static void widen_32(uint32_t type, const uint8_t *b, float *out)
{
    bool minimum = type == Q4_1 || type == Q5_1, fifth = type == Q5_0 || type == Q5_1;
    float d = half_at(b), m = minimum ? half_at(b + 2) : 0;
    const uint8_t *q = b + (minimum ? 4 : 2);
    uint32_t high = 0;
    if (fifth) {
        memcpy(&high, q, 4);
        q += 4;
    }
    for (int i = 0; i < 32; i++) {
        int v = (i < 16 ? q[i] & 15 : q[i - 16] >> 4) | (int)(high >> i & 1) << 4;
        if (!minimum)
            v -= fifth ? 16 : 8;
        out[i] = d * (float)v + m;
    }
}

/* Scale and minimum number j of 8, six bits each, spread over 12 bytes. */
static void scale_of(const uint8_t *s, int j, uint32_t *scale, uint32_t *minimum)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *minimum = s[j + 4] & 63;
        return;
    }
    *scale = (s[j + 4] & 15u) | (uint32_t)(s[j - 4] >> 6) << 4;
    *minimum = (uint32_t)(s[j + 4] >> 4) | (uint32_t)(s[j] >> 6) << 4;
}

/* Q4_K and Q5_K: eight groups of 32; two groups share 32 bytes of nibbles, all share 32 bytes of fifth bits. */
static void widen_k45(bool fifth, const uint8_t *b, float *out)
{
    float d = half_at(b), dmin = half_at(b + 2);
    const uint8_t *high = b + 16, *q = b + (fifth ? 48 : 16);
    for (int g = 0; g < 8; g++) {
        uint32_t s, m;
        scale_of(b + 4, g, &s, &m);
        float scale = d * (float)s, low = dmin * (float)m;
        for (int i = 0; i < 32; i++) {
            int byte = q[g / 2 * 32 + i], v = g % 2 ? byte >> 4 : byte & 15;
            if (fifth)
                v |= (high[i] >> g & 1) << 4;
            out[g * 32 + i] = scale * (float)v - low;
        }
    }
}

/* Q6_K: halves of 128, each four runs of 32 with nibbles and pairs of bits; a scale for 16. */
static void widen_k6(const uint8_t *b, float *out)
{
    float d = half_at(b + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = b + half * 64, *high = b + 128 + half * 32;
        const int8_t *scale = (const int8_t *)b + 192 + half * 8;
        for (int run = 0; run < 4; run++)
            for (int i = 0; i < 32; i++) {
                int nibble = run < 2 ? low[32 * run + i] & 15 : low[32 * (run - 2) + i] >> 4;
                int v = (nibble | (high[i] >> (2 * run) & 3) << 4) - 32;
                out[half * 128 + run * 32 + i] = d * (float)scale[2 * run + i / 16] * (float)v;
            }
    }
}

void hs_ggml_widen(uint32_t type, const uint8_t *block, uint64_t n, float *out)
{
    uint32_t weights = 1, bytes = 0;
    const char *name;
    bool known = hs_ggml_type(type, &weights, &bytes, &name);
    assert(known && n % weights == 0);
    (void)known;
    if (weights == 1) {
        hs_to_f32(out, block, type == F32 ? HS_F32 : type == F16 ? HS_F16 : HS_BF16, n);
        return;
    }
    for (uint64_t i = 0; i < n; i += weights, block += bytes, out += weights)
        switch (type) {
        case Q8_0:
            for (int k = 0; k < 32; k++)
                out[k] = half_at(block) * (float)(int8_t)block[2 + k];
            break;
        case Q4_K: widen_k45(false, block, out); break;
        case Q5_K: widen_k45(true, block, out); break;
        case Q6_K: widen_k6(block, out); break;
        default: widen_32(type, block, out);
        }
}
