/*
 * Charts: where ticks lie, names that do not cover each other, and names that are no markup.
 */
#include "app/chart.h"
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

static void ticks_are_round_and_inside(void **unused)
{
    (void)unused;
    static const double ranges[][2] = {{2.1, 5.9}, {0, 1}, {-3, 7}, {-0.8, 17.2}, {1000, 1003}, {1e-4, 3e-4}};
    for (size_t r = 0; r < sizeof ranges / sizeof *ranges; r++) {
        app_tick tick[32];
        app_axis a = {.low = ranges[r][0], .high = ranges[r][1]};
        size_t n = app_chart_ticks(&a, tick, 32);
        assert_in_range(n, 4, 12);
        for (size_t i = 0; i < n; i++) {
            assert_true(tick[i].at >= a.low - 1e-9 && tick[i].at <= a.high * (1 + 1e-9));
            assert_true(strcmp(tick[i].label, "-0") != 0);
            assert_true(fabs(strtod(tick[i].label, NULL) - tick[i].at) <= 1e-5 * fabs(tick[i].at));
        }
    }
}

static void logarithmic_ticks_are_one_two_five(void **unused)
{
    (void)unused;
    app_tick tick[32];
    app_axis a = {.log = true, .low = 0.0008, .high = 0.12};
    assert_int_equal(app_chart_ticks(&a, tick, 32), 7);
    assert_string_equal(tick[0].label, "0.001");
    assert_string_equal(tick[1].label, "0.002");
    assert_string_equal(tick[6].label, "0.1");
    assert_int_equal(app_chart_ticks(&a, tick, 3), 3);
}

static void names_stand_apart_and_are_no_markup(void **unused)
{
    (void)unused;
    static const double same[2][2] = {{0, 1}, {1, 2}};
    const app_line line[] = {{"first", same, 2, true}, {"<b>&", same, 2, false}};
    app_chart c = {
        .title = "x < y", .x = {.low = 0, .high = 1}, .y = {.low = 0, .high = 4}, .line = line, .n_lines = 2};
    hs_text t = {0};
    app_chart_draw(&t, &c);
    hs_text_add(&t, "", 1);
    const char *a = strstr(t.data, ">first</text>"), *b = strstr(t.data, ">&lt;b&gt;&amp;</text>");
    assert_non_null(strstr(t.data, ">x &lt; y</text>"));
    assert_non_null(a);
    assert_non_null(b);
    assert_null(strstr(t.data, "<b>"));
    double at[2] = {0};
    const char *name[] = {a, b};
    for (int i = 0; i < 2; i++) {
        while (strncmp(name[i], " y=\"", 4) != 0)
            name[i]--;
        at[i] = strtod(name[i] + 4, NULL);
    }
    assert_true(fabs(at[0] - at[1]) >= 12);
    hs_text_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks_are_round_and_inside),
        cmocka_unit_test(logarithmic_ticks_are_one_two_five),
        cmocka_unit_test(names_stand_apart_and_are_no_markup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
