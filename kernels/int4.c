/*
 * kernels/int4.c - rows of weights to INT4 groups and back.
 */
#include "kernels/int4.h"

#include "kernels/numeric.h"

#include <assert.h>
#include <math.h>

static uint8_t code_of(float w, float scale, int32_t zero)
{
    if (scale == 0.0f) /* all of them too small for any */
        return (uint8_t)(zero > 15 ? 15 : zero);
    float q = rintf(w / scale) + (float)zero; /* a scale rounded to a subnormal can leave it far outside */
    return (uint8_t)(q < 0.0f ? 0.0f : q > 15.0f ? 15.0f : q);
}

hlwq_status hs_int4_encode_group(bool zeros, const float *w, uint32_t n, uint8_t *code, uint16_t *scale, uint8_t *zero,
                                 hlwq_error *err)
{
    float low = 0.0f, high = 0.0f;
    bool bad = false;
    for (uint32_t j = 0; j < n; j++) {
        bad |= !isfinite(w[j]);
        low = w[j] < low ? w[j] : low;
        high = w[j] > high ? w[j] : high;
    }
    float top = -low > high ? -low : high;
    if (bad || !(top <= 3e38f))
        return hs_fail(err, HLWQ_ERR_FORMAT, "a group of weights holds a value that is not finite");
    float exact = zeros ? high / 15.0f - low / 15.0f : (-low >= high ? low : high) / -8.0f + 0.0f; /* no -0 */
    *scale = hs_f32_to_f16(exact);
    float s = hs_half(*scale);
    if (!isfinite(s))
        return hs_fail(err, HLWQ_ERR_FORMAT, "a group of weights has the scale %g, fp16 holds 65504", (double)exact);
    float z = zeros && s > 0.0f ? rintf(-low / s) : HS_INT4_ZERO;
    *zero = (uint8_t)(z > 15.0f ? 15.0f : z);
    for (uint32_t j = 0; j < n; j++)
        code[j] = code_of(w[j], s, *zero);
    return HLWQ_OK;
}

void hs_int4_pack_block(const uint8_t *code, uint8_t *low)
{
    for (uint32_t j = 0; j < HS_BLOCK / 2; j++) {
        assert(code[j] < 16 && code[j + 64] < 16);
        low[j] = (uint8_t)(code[j] | code[j + 64] << 4);
    }
}

void hs_int4_unpack_block(const uint8_t *low, uint8_t *code)
{
    for (uint32_t j = 0; j < HS_BLOCK / 2; j++) {
        code[j] = low[j] & 15;
        code[j + 64] = low[j] >> 4;
    }
}

hlwq_status hs_int4_encode_rows(hs_dtype dtype, const float *w, uint64_t first_row, uint64_t rows, uint64_t total_rows,
                                uint64_t cols, uint8_t *part, hlwq_error *err)
{
    hs_planes p;
    bool fits = hs_planes_of(dtype, total_rows, cols, &p);
    assert(fits && first_row + rows <= total_rows);
    (void)fits;
    const uint32_t group = hs_dtype_group(dtype), per = HS_BLOCK / group;
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t b = 0; b < p.blocks; b++) {
            float v[HS_BLOCK] = {0}; /* past the end: the code of zero */
            uint8_t code[HS_BLOCK];
            uint64_t n = cols - b * HS_BLOCK < HS_BLOCK ? cols - b * HS_BLOCK : HS_BLOCK;
            uint64_t at = (first_row + r) * p.blocks + b;
            memcpy(v, w + r * cols + b * HS_BLOCK, n * sizeof *v);
            for (uint32_t g = 0; g < per; g++) {
                uint16_t scale;
                uint8_t zero;
                HS_TRY(hs_int4_encode_group(hs_dtype_zeros(dtype), v + g * group, group, code + g * group, &scale,
                                            &zero, err));
                memcpy(part + p.norms + (at * per + g) * 2, &scale, 2);
                if (p.zeros_bytes)
                    part[p.zeros + at * per + g] = zero;
            }
            hs_int4_pack_block(code, part + p.low + at * p.low_block);
        }
    return HLWQ_OK;
}

void hs_int4_decode_row(hs_dtype dtype, const uint8_t *part, uint64_t total_rows, uint64_t cols, uint64_t row, float *w)
{
    hs_planes p;
    bool fits = hs_planes_of(dtype, total_rows, cols, &p);
    assert(fits && row < total_rows);
    (void)fits;
    const uint32_t group = hs_dtype_group(dtype), per = HS_BLOCK / group;
    for (uint64_t b = 0; b < p.blocks; b++) {
        uint8_t code[HS_BLOCK];
        uint64_t at = row * p.blocks + b, n = cols - b * HS_BLOCK < HS_BLOCK ? cols - b * HS_BLOCK : HS_BLOCK;
        hs_int4_unpack_block(part + p.low + at * p.low_block, code);
        for (uint64_t j = 0; j < n; j++) {
            uint64_t g = at * per + j / group;
            uint16_t scale;
            memcpy(&scale, part + p.norms + g * 2, 2);
            int32_t zero = p.zeros_bytes ? part[p.zeros + g] : HS_INT4_ZERO;
            w[b * HS_BLOCK + j] = hs_half(scale) * (float)(code[j] - zero);
        }
    }
}
