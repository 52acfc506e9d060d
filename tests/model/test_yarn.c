/*
 * Frequencies of a stretched context.  The numbers come from a program in double precision that follows the paper
 * (arXiv 2309.00071, section 3.2, with the ramp cut to whole dimensions as transformers does):
 *
 *   turns r within L positions at dimension d(r) = D ln(L / 2 pi r) / (2 ln base); ramp 0 at d(beta_fast), 1 at
 *   d(beta_slow); frequency = (1 - ramp) / base^(2j/D) + ramp / (factor base^(2j/D))
 */
#include "model/network.h"
#include "tests/support/check.h"

#include <math.h>

static void check(const hs_config *c, const double *want)
{
    float got[32];
    hs_rope_frequencies(got, c);
    for (uint32_t j = 0; j < c->rotary_dims / 2; j++)
        if (fabs(got[j] - want[j]) > 1e-6 * want[j])
            fail_msg("dimension %u: %.9g, wanted %.9g", j, (double)got[j], want[j]);
}

/* The 64 rotary dimensions of the real models, four times their context. */
static void four_times_the_context_of_the_real_models(void **state)
{
    (void)state;
    static const double want[] = {1,
                                  0.60429639,
                                  0.365174127,
                                  0.220673407,
                                  0.133352143,
                                  0.0805842188,
                                  0.0486967525,
                                  0.0294272718,
                                  0.0177827941,
                                  0.0107460783,
                                  0.00649381632,
                                  0.00392418976,
                                  0.00237137371,
                                  0.00143301257,
                                  0.000865964323,
                                  0.000474239823,
                                  0.00025693506,
                                  0.000137349745,
                                  7.2173874e-05,
                                  3.70722498e-05,
                                  1.8449222e-05,
                                  8.75977007e-06,
                                  3.84981632e-06,
                                  2.3264301e-06,
                                  1.40585331e-06,
                                  8.49552082e-07,
                                  5.13381257e-07,
                                  3.1023444e-07,
                                  1.87473552e-07,
                                  1.13289591e-07,
                                  6.84604909e-08,
                                  4.13704275e-08};
    hs_config c = {.rotary_dims = 64,
                   .rope_theta = 1e7,
                   .yarn = {.factor = 4, .beta_fast = 32, .beta_slow = 1, .original = 262144, .truncate = true}};
    check(&c, want);
}

static void a_ramp_that_is_not_cut_and_a_short_one(void **state)
{
    (void)state;
    static const double uncut[] = {1,
                                   0.60429639,
                                   0.365174127,
                                   0.220673407,
                                   0.133352143,
                                   0.0805842188,
                                   0.048640621,
                                   0.0272549549,
                                   0.0151778454,
                                   0.00839103002,
                                   0.00459878185,
                                   0.00249386748,
                                   0.00133471408,
                                   0.000716506285,
                                   0.000432982162,
                                   0.000261649557,
                                   0.000158113883,
                                   9.55476487e-05,
                                   5.77390992e-05,
                                   3.48915292e-05,
                                   2.10848252e-05,
                                   1.27414837e-05,
                                   7.69963263e-06,
                                   4.6528602e-06,
                                   2.81170663e-06,
                                   1.69910416e-06,
                                   1.02676251e-06,
                                   6.2046888e-07,
                                   3.74947105e-07,
                                   2.26579182e-07,
                                   1.36920982e-07,
                                   8.2740855e-08};
    static const double small[] = {1,         0.316227766,    0.078125, 0.0177878118,
                                   0.0034375, 0.000395284708, 0.000125, 3.95284708e-05};
    hs_config c = {
        .rotary_dims = 64, .rope_theta = 1e7, .yarn = {.factor = 2, .beta_fast = 32, .beta_slow = 1, .original = 4096}};
    check(&c, uncut);
    c = (hs_config){.rotary_dims = 16,
                    .rope_theta = 1e4,
                    .yarn = {.factor = 8, .beta_fast = 32, .beta_slow = 1, .original = 1024, .truncate = true}};
    check(&c, small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(four_times_the_context_of_the_real_models),
                                       cmocka_unit_test(a_ramp_that_is_not_cut_and_a_short_one)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
