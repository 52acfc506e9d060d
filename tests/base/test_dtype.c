/* base/dtype.c */
#include "base/dtype.h"
#include "tests/support/check.h"

#include <math.h>

static void every_half_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = hs_f16_to_f32((uint16_t)h);
        if (isnan(f))
            continue;
        assert_int_equal(hs_f32_to_f16(f), h);
    }
}

static void halfway_values_round_to_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        float a = hs_f16_to_f32((uint16_t)h), b = hs_f16_to_f32((uint16_t)(h + 1)), mid = (a + b) / 2;
        uint32_t even = h & 1 ? h + 1 : h;
        assert_int_equal(hs_f32_to_f16(mid), even);
        assert_int_equal(hs_f32_to_f16(nextafterf(mid, a)), h);
        assert_int_equal(hs_f32_to_f16(nextafterf(mid, b)), h + 1);
    }
    assert_int_equal(hs_f32_to_f16(65519.0f), 0x7BFF);
    assert_int_equal(hs_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(hs_f32_to_bf16(1.00390625f), 0x3F80);
    assert_int_equal(hs_f32_to_bf16(1.01171875f), 0x3F82);
}

static void planes_have_the_documented_sizes(void **state)
{
    (void)state;
    hs_planes p;
    assert_true(hs_planes_of(HS_Q5, 512, 2048, &p));
    assert_int_equal(p.low_bytes + p.high_bytes + p.norms_bytes, 512 * 2048 / 8 * 41 / 8);
    assert_int_equal(p.blocks, 16);
    assert_true(hs_planes_of(HS_Q4, 3, 129, &p));
    assert_int_equal(p.blocks, 2);
    assert_int_equal(p.norms_bytes, 12);
    assert_int_equal(p.bytes % 64, 0);
    static const uint32_t bits[] = {4125, 4187, 4250, 4375}; /* thousandths of one, a weight */
    for (hs_dtype d = HS_I4; d <= HS_I4G64Z; d++) {
        assert_true(hs_planes_of(d, 512, 2048, &p));
        assert_int_equal((p.low_bytes + p.norms_bytes + p.zeros_bytes) * 8000 / (512 * 2048), bits[d - HS_I4]);
        assert_true(p.bytes == p.low_bytes + p.norms_bytes + p.zeros_bytes && p.high_bytes == 0);
        assert_int_equal(p.groups, hs_dtype_group(d) == 64 ? 32 : 16);
        assert_true(hs_planes_of(d, 3, 129, &p)); /* planes begin at multiples of 64 */
        assert_int_equal(p.norms, 384);
        assert_int_equal(p.zeros, 448);
        assert_int_equal(p.bytes, hs_dtype_zeros(d) ? 512 : 448);
        assert_false(hs_planes_of(d, UINT64_MAX / 2, 4096, &p));
        assert_false(hs_planes_of(d, 1, (uint64_t)UINT32_MAX * 128 * 2, &p));
    }
    assert_true(hs_planes_of(HS_Q4, 3, 129, &p));
    assert_false(hs_planes_of(HS_F32, UINT64_MAX / 2, 4, &p));
    assert_false(hs_planes_of(HS_Q2, UINT64_MAX / 2, 4096, &p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_survives_the_round_trip),
        cmocka_unit_test(halfway_values_round_to_even),
        cmocka_unit_test(planes_have_the_documented_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
