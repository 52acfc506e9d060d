/*
 * What is said about many divergences: quantiles, the interval of the mean, and by place in the window.
 */
#include "app/quality.h"
#include "tests/support/check.h"

#include <math.h>

static void says_what_was_added(void **unused)
{
    (void)unused;
    app_quality q = {0};
    hlwq_error err;
    for (uint32_t w = 0; w < 50; w++) { /* 16 places: 0..15 in every second window, one more in the others */
        for (uint32_t i = 0; i < 16; i++)
            CHECK_OK(app_quality_add(&q, (double)(i + w % 2), i, 16, &err), err);
        app_quality_end_window(&q);
    }
    assert_int_equal(q.n, 800);
    /* Means of windows are 7.5 and 8.5: standard deviation 0.5 sqrt(50 / 49). */
    assert_true(fabs(app_quality_interval(&q) - 1.96 * 0.5 / sqrt(49.0)) < 1e-9);
    assert_true(app_quality_quantile(&q, 0.5) == 8.0 && app_quality_quantile(&q, 1.0) == 16.0);
    assert_true(q.part_sum[0] / (double)q.part_n[0] == 1.0 && q.part_sum[7] / (double)q.part_n[7] == 15.0);
    hs_text t = {0};
    app_quality_json(&q, &t);
    hs_text_add(&t, "", 1);
    assert_non_null(strstr(t.data, "\"kl_median\":8.00000000"));
    assert_non_null(strstr(t.data, "\"kl_by_place\":[1.00000000,"));
    hs_text_close(&t);
    app_quality_close(&q);
}

static void one_window_has_no_interval(void **unused)
{
    (void)unused;
    app_quality q = {0};
    hs_text t = {0};
    assert_int_equal(app_quality_add(&q, 1.0, 0, 1, NULL), HLWQ_OK);
    app_quality_end_window(&q);
    assert_true(isnan(app_quality_interval(&q)));
    app_quality_json(&q, &t);
    hs_text_add(&t, "", 1);
    assert_null(strstr(t.data, "nan"));
    assert_null(strstr(t.data, "interval"));
    hs_text_close(&t);
    app_quality_close(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_was_added),
        cmocka_unit_test(one_window_has_no_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
