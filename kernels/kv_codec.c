/*
 * kernels/kv_codec.c - blocks of keys and values. Plain C, the same bits everywhere: no fma, sums in 16 lanes.
 */
#include "kernels/kv_codec.h"

#include "kernels/hlwq.h"
#include "kernels/numeric.h"

#include <math.h>

enum { LANES = 16 };

/* Lanes l and l + 8, then l and l + 4, and so on. */
static float tree(float *lane)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

static float product_sum(const float *a, const float *b)
{
    float lane[LANES] = {0};
    for (int j = 0; j < HS_BLOCK; j += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += a[j + l] * b[j + l];
    return tree(lane);
}

void hs_kv_levels(hs_dtype coded, float *level)
{
    float ascending[16];
    uint32_t bits = hs_dtype_bits(coded), half = 1u << (bits - 1);
    hs_book_levels(HS_BOOK_CONVERGED, bits, ascending);
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t m = i & (half - 1);
        level[i] = ascending[i & half ? half - 1 - m : half + m];
    }
}

static uint16_t encode_levels(uint32_t bits, const float *r, uint8_t *code)
{
    float level[16], chosen[HS_BLOCK];
    uint32_t n = 1u << bits;
    hs_book_levels(HS_BOOK_CONVERGED, bits, level);
    float s = sqrtf(product_sum(r, r) * (1.0f / HS_BLOCK));
    for (int j = 0; j < HS_BLOCK; j++)
        code[j] = 0;
    for (uint32_t i = 0; i + 1 < n; i++) {
        float edge = (level[i] + level[i + 1]) * 0.5f * s;
        for (int j = 0; j < HS_BLOCK; j++)
            code[j] = (uint8_t)(code[j] + (r[j] > edge));
    }
    for (int j = 0; j < HS_BLOCK; j++)
        chosen[j] = level[code[j]];
    return s < INFINITY ? hs_f32_to_f16(product_sum(r, chosen) / product_sum(chosen, chosen)) : 0x7E00;
}

static uint16_t encode_integers(const float *r, int8_t *code)
{
    float top = 0.0f, bad = 0.0f;
    for (int j = 0; j < HS_BLOCK; j++) {
        float a = fabsf(r[j]);
        top = a > top ? a : top;
        bad += r[j] * 0.0f; /* NaN if one is not finite */
    }
    uint16_t norm = hs_f32_to_f16(top * (8.0f / 127.0f) + bad);
    float step = hs_half(norm) * 0.125f, inverse = step > 0.0f && step < INFINITY ? 1.0f / step : 0.0f;
    for (int j = 0; j < HS_BLOCK; j++) {
        float k = inverse > 0.0f ? (r[j] * inverse + 0x1.8p23f) - 0x1.8p23f : 0.0f; /* nearest even */
        code[j] = (int8_t)(k > 127.0f ? 127.0f : k < -127.0f ? -127.0f : k);
    }
    return norm;
}

void hs_kv_encode_block(hs_dtype coded, float *x, uint8_t *low, uint8_t *high, uint16_t *norm)
{
    uint8_t code[HS_BLOCK];
    hs_wht(x, HS_BLOCK);
    if (coded == HS_I8) {
        *norm = encode_integers(x, (int8_t *)low);
    } else {
        *norm = encode_levels(hs_dtype_bits(coded), x, code);
        hs_pack_block(coded, code, low, high);
    }
    if ((*norm & 0x7C00) == 0x7C00)
        *norm = 0x7E00;
}

void hs_kv_decode(const uint8_t *page, const hs_kv_planes *p, size_t first, uint32_t n, float *u)
{
    const uint8_t *low = page + p->low + first * hs_kv_low_bytes(p->dtype);
    const uint8_t *high = page + p->high + first * hs_kv_high_bytes(p->dtype);
    const uint16_t *norms = (const uint16_t *)(const void *)(page + p->norms) + first;
    float level[16];
    if (p->dtype != HS_I8)
        hs_book_levels(HS_BOOK_CONVERGED, hs_dtype_bits(p->dtype), level);
    for (uint32_t b = 0; b < n; b++, u += HS_BLOCK) {
        float norm = hs_half(norms[b]);
        if (p->dtype == HS_I8) {
            const int8_t *code = (const int8_t *)low + (size_t)b * HS_BLOCK;
            for (int j = 0; j < HS_BLOCK; j++)
                u[j] = (float)code[j] * (norm * 0.125f);
            continue;
        }
        uint8_t code[HS_BLOCK];
        hs_unpack_block(p->dtype, low + (size_t)b * hs_kv_low_bytes(p->dtype),
                        high + (size_t)b * hs_kv_high_bytes(p->dtype), code);
        for (int j = 0; j < HS_BLOCK; j++)
            u[j] = level[code[j]] * norm;
    }
}

void hs_kv_rotate(float *x, uint32_t n)
{
    for (uint32_t b = 0; b + HS_BLOCK <= n; b += HS_BLOCK) {
        hs_wht(x + b, HS_BLOCK);
        for (int j = 0; j < HS_BLOCK; j++)
            x[b + j] *= 1.0f / HS_BLOCK;
    }
}

static void encode_vector(const uint16_t *plain, uint8_t *page, const hs_kv_planes *p, size_t block, uint32_t blocks)
{
    for (uint32_t b = 0; b < blocks; b++, block++) {
        float x[HS_BLOCK];
        for (int j = 0; j < HS_BLOCK; j++)
            x[j] = hs_half(plain[b * HS_BLOCK + (uint32_t)j]);
        hs_kv_encode_block(p->dtype, x, page + p->low + block * hs_kv_low_bytes(p->dtype),
                           page + p->high + block * hs_kv_high_bytes(p->dtype),
                           (uint16_t *)(void *)(page + p->norms) + block);
    }
}

void hs_kv_encode_position(const void *plain, void *coded, const hs_kv_layout *l, uint32_t kv_heads, uint32_t head_dim,
                           uint32_t position)
{
    size_t width = (size_t)kv_heads * head_dim;
    uint32_t blocks = head_dim / HS_BLOCK;
    const uint16_t *k = (const uint16_t *)plain + position * width, *v = k + HS_KV_PAGE * width;
    for (uint32_t h = 0; h < kv_heads; h++) {
        size_t block = ((size_t)h * HS_KV_PAGE + position) * blocks;
        encode_vector(k + (size_t)h * head_dim, coded, &l->k, block, blocks);
        encode_vector(v + (size_t)h * head_dim, coded, &l->v, block, blocks);
    }
}
