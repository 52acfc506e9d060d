/* model/sampler.c */
#include "model/sampler.h"
#include "tests/support/check.h"

#include <math.h>

static hlwq_sampling greedy(void)
{
    return (hlwq_sampling){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
}

static int32_t draw(const hlwq_sampling *o, const float *l, uint32_t vocab, uint32_t usable, const int32_t *history,
                    size_t n, uint64_t position)
{
    hlwq_error err;
    int32_t id;
    hs_mem *m = hs_mem_open(0);
    hs_sampler *s;
    CHECK_OK(hs_sampler_open(&s, m, vocab, usable, o, &err), err);
    CHECK_OK(hs_sampler_next(s, l, history, n, position, NULL, 0, &id, &err), err);
    hs_sampler_close(s);
    hs_mem_close(m);
    return id;
}

static void greedy_takes_the_largest_and_ties_the_lower(void **state)
{
    (void)state;
    hlwq_sampling o = greedy();
    static const float l[6] = {1, 5, 2, 5, 9, NAN};
    assert_int_equal(draw(&o, l, 6, 4, NULL, 0, 0), 1); /* 4 and 5 are padding rows */
    assert_int_equal(draw(&o, l, 6, 6, NULL, 0, 0), 4);
}

static void penalties_change_who_is_largest(void **state)
{
    (void)state;
    static const float l[3] = {2.0f, 1.9f, -1.0f};
    static const int32_t history[4] = {1, 0, 0, 2};
    hlwq_sampling o = greedy();
    assert_int_equal(draw(&o, l, 3, 3, history, 4, 0), 0);
    o.repetition_penalty = 1.5f;
    o.penalty_window = 3; /* 1 is too long ago */
    assert_int_equal(draw(&o, l, 3, 3, history, 4, 0), 1);
    o = greedy();
    o.frequency_penalty = 0.2f;
    assert_int_equal(draw(&o, l, 3, 3, history, 4, 0), 1);
    o = greedy();
    o.presence_penalty = 10;
    static const int32_t seen[2] = {0, 1};
    assert_int_equal(draw(&o, l, 3, 3, seen, 2, 0), 2);
}

/* Counts of 40,000 draws against the probabilities; the statistic stays below its 99.99 % point. */
static void check_distribution(const hlwq_sampling *options, const float *l, uint32_t n, const double *want)
{
    enum { DRAWS = 40000 };
    double count[16] = {0}, total = 0, chi = 0;
    int kept = 0;
    hlwq_error err;
    hs_mem *m = hs_mem_open(0);
    hs_sampler *s;
    CHECK_OK(hs_sampler_open(&s, m, n, n, options, &err), err);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id;
        CHECK_OK(hs_sampler_next(s, l, NULL, 0, (uint64_t)i, NULL, 0, &id, &err), err);
        count[id]++;
    }
    hs_sampler_close(s);
    hs_mem_close(m);
    for (uint32_t i = 0; i < n; i++)
        total += want[i];
    for (uint32_t i = 0; i < n; i++) {
        double e = want[i] / total * DRAWS;
        if (e == 0) {
            if (count[i] != 0)
                fail_msg("id %u was drawn %g times and should never be", i, count[i]);
            continue;
        }
        chi += (count[i] - e) * (count[i] - e) / e;
        kept++;
    }
    double limit = kept + 4 * sqrt(2.0 * kept) + 8;
    if (chi > limit)
        fail_msg("chi-square %g over %d ids, limit %g", chi, kept, limit);
}

static void draws_follow_the_documented_order_of_filters(void **state)
{
    (void)state;
    static const float l[8] = {0, 1, 2, 3, 2, 1, 0, -4};
    double p[8], want[8];
    hlwq_sampling o = {.temperature = 0.8f, .top_p = 1, .repetition_penalty = 1, .seed = 5};
    for (int i = 0; i < 8; i++)
        p[i] = exp(l[i] / 0.8);
    check_distribution(&o, l, 8, p);

    o.top_k = 4; /* 3, then 2 and 4, then of 1 and 5 the lower */
    memset(want, 0, sizeof want);
    want[3] = p[3];
    want[2] = want[4] = p[2];
    want[1] = p[1];
    check_distribution(&o, l, 8, want);

    o.top_p = 0.6f; /* of those four: 3 alone has 0.61 */
    double all = want[1] + want[2] + want[3] + want[4];
    bool one = want[3] / all >= 0.6;
    memset(want, 0, sizeof want);
    want[3] = p[3];
    want[2] = one ? 0 : p[2];
    check_distribution(&o, l, 8, want);

    o.top_k = 0;
    o.top_p = 1;
    o.min_p = 0.2f;
    for (int i = 0; i < 8; i++)
        want[i] = p[i] >= 0.2 * p[3] ? p[i] : 0;
    check_distribution(&o, l, 8, want);
}

static void a_large_vocabulary_is_filtered_the_same(void **state)
{
    (void)state;
    enum { N = 5000 };
    float *l = malloc(N * sizeof *l);
    for (int i = 0; i < N; i++)
        l[i] = (float)((i * 7919) % N) / 400.0f; /* distinct */
    hlwq_sampling o = {.temperature = 1, .top_p = 0.999f, .repetition_penalty = 1, .seed = 3};
    double total = 0, mass = 0;
    float cut = 0;
    for (int i = 0; i < N; i++)
        total += exp(i / 400.0);
    for (int i = N - 1; mass < 0.999 * total; i--) {
        mass += exp(i / 400.0);
        cut = (float)i / 400.0f;
    }
    for (uint64_t k = 0; k < 300; k++)
        assert_true(l[draw(&o, l, N, N, NULL, 0, k)] >= cut);
    free(l);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    hlwq_error err;
    hs_mem *m = hs_mem_open(0);
    hs_sampler *s;
    hlwq_sampling o = greedy();
    o.temperature = NAN;
    CHECK_FAILS(hs_sampler_open(&s, m, 4, 4, &o, &err), HLWQ_ERR_ARG, err, "temperature");
    o = greedy();
    o.repetition_penalty = 0;
    CHECK_FAILS(hs_sampler_open(&s, m, 4, 4, &o, &err), HLWQ_ERR_ARG, err, "repetition");
    o = greedy();
    CHECK_OK(hs_sampler_open(&s, m, 4, 4, &o, &err), err);
    o.top_p = 2;
    CHECK_FAILS(hs_sampler_set(s, &o, &err), HLWQ_ERR_ARG, err, "top-p");
    static const float bad[4] = {NAN, NAN, NAN, NAN};
    int32_t id;
    CHECK_FAILS(hs_sampler_next(s, bad, NULL, 0, 9, NULL, 0, &id, &err), HLWQ_ERR_FORMAT, err, "not numbers");
    hs_sampler_close(s);
    hs_mem_close(m);
}

/* Known answers of Philox 4x32-10 (Random123): key 0 counter 0 begins with 6627e8d5; all ones with 408f276d. */
static void random_numbers_are_philox(void **state)
{
    (void)state;
    assert_true(hs_sampler_uniform(0, 0) == (float)(0x6627e8d5u >> 8) * 0x1p-24f);
    double mean = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        float u = hs_sampler_uniform(1, i);
        assert_true(u >= 0.0f && u < 1.0f);
        mean += u / 10000.0;
    }
    assert_true(fabs(mean - 0.5) < 0.015);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest_and_ties_the_lower),
        cmocka_unit_test(penalties_change_who_is_largest),
        cmocka_unit_test(draws_follow_the_documented_order_of_filters),
        cmocka_unit_test(a_large_vocabulary_is_filtered_the_same),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(random_numbers_are_philox),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
