/* offload/beside.c: of two ways the faster is found and kept, and a share that was asked for is what is done. */
#include "offload/beside.h"
#include "offload/rates.h"
#include "tests/support/check.h"

#include <math.h>

static const hs_beside_rates even_rates = {66e-6, 70e-6, 200e-6, 150e-6};

/* Seconds of a token of 40 layers with 3 or 4 missing, on a machine with these rates. */
static double token_seconds(const hs_beside_rates *r, double share)
{
    return 1e-3 + 40 * hs_beside_seconds(r, 3.4, share);
}

/* Runs `tokens` tokens of a machine; the mean time, of all but the first `skip`, of the better way's. */
static double run(hs_beside *b, const hs_beside_rates *r, int tokens, int skip, double noise, uint64_t *random,
                  uint32_t *changes)
{
    double sum = 0, best = fmin(token_seconds(r, 1), token_seconds(r, hs_beside_share(r, 3.4)));
    if (best > token_seconds(r, 0.9))
        best = token_seconds(r, 0.9);
    for (int t = 0; t < tokens; t++) {
        double was = b->best, s = token_seconds(r, b->share);
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        double here = s * (1 + noise * ((double)(*random >> 40) / (1 << 24) - 0.5));
        if ((*random >> 33) % 50 == 0)
            here *= 3;
        hs_beside_learn(b, (uint64_t)(here * 1e9));
        assert_true(b->share >= 0 && b->share <= 1);
        *changes += t >= skip && b->best != was;
        sum += t >= skip ? s / best : 0;
    }
    return sum / (tokens - skip);
}

static void the_better_of_two_ways_is_found(void **state)
{
    (void)state;
    static const double wait[] = {0.4, 1, 2.5}; /* of what was predicted, what the CPU takes beside copies */
    for (int predicted = 0; predicted < 2; predicted++)
        for (int i = 0; i < 3; i++) {
            hs_beside_rates really = even_rates;
            really.alone *= wait[i];
            really.one *= wait[i];
            hs_beside b = hs_beside_first(-1, &even_rates, 3.4);
            b.best = b.share = predicted ? 1 : b.some; /* wherever it begins */
            uint64_t random = 7;
            uint32_t changes = 0;
            double lost = run(&b, &really, 4000, 1000, 0.02, &random, &changes);
            if (lost > 1.03)
                fail_msg("CPU %g times as slow: %g of the best time, at a share of %g", wait[i], lost, b.best);
        }
}

/* Both ways as fast as each other: whichever is in use stays there. */
static void noise_does_not_change_the_way(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        uint64_t random = seed;
        uint32_t changes = 0;
        hs_beside b = hs_beside_first(-1, &even_rates, 3.4);
        for (int t = 0; t < 20000; t++) {
            double was = b.best;
            random = random * 6364136223846793005u + 1442695040888963407u;
            double here = 1 + 0.04 * ((double)(random >> 40) / (1 << 24) - 0.5);
            hs_beside_learn(&b, (uint64_t)(here * 1e7) * ((random >> 33) % 50 == 0 ? 3 : 1));
            changes += b.best != was;
        }
        if (changes > 2)
            fail_msg("seed %u: changed %u times", (unsigned)seed, changes);
    }
}

/* Another program takes half of the processor, or of the bus, and gives it back. */
static void a_machine_that_changes_is_noticed(void **state)
{
    (void)state;
    hs_beside b = hs_beside_first(-1, &even_rates, 3.4);
    hs_beside_rates slow = even_rates;
    slow.alone *= 4;
    slow.one *= 4;
    slow.copy /= 2;
    uint64_t random = 3;
    uint32_t changes = 0;
    for (int round = 0; round < 3; round++) {
        if (run(&b, &even_rates, 4000, 1500, 0.02, &random, &changes) > 1.03)
            fail_msg("round %d: the usual machine, a share of %g", round, b.best);
        if (run(&b, &slow, 4000, 400, 0.02, &random, &changes) > 1.06)
            fail_msg("round %d: the slow processor, a share of %g", round, b.best);
    }
}

/* What it costs to look now and then, where the other way takes half as long again. */
static void trials_cost_little(void **state)
{
    (void)state;
    hs_beside_rates r = even_rates;
    r.copy = 70e-6;
    hs_beside b = hs_beside_first(-1, &r, 3.4);
    assert_true(b.best < 1 && b.some < 1);
    uint32_t elsewhere = 0;
    for (int t = 0; t < 20000; t++) {
        elsewhere += b.share != b.best;
        hs_beside_learn(&b, b.share < 1 ? 1000000 + (uint64_t)(fabs(b.share - b.some) * 1e6) : 1500000);
    }
    assert_true(b.best == b.some);
    assert_in_range(elsewhere, 1, 20000 / 80);
}

static void rates_say_what_it_begins_with(void **state)
{
    (void)state;
    hs_beside_rates r = {0};
    hs_beside b = hs_beside_first(-1, &r, 3);
    assert_true(b.share == 1 && b.some == 1 && hs_beside_all(&b, 8) && !hs_beside_all(&b, 9));
    assert_int_equal(hs_beside_of(&b, 5, 1, 1, 64), 5);
    assert_int_equal(hs_beside_of(&b, 5, 9, 1, 64), 0);
    r = (hs_beside_rates){50e-6, 50e-6, 100e-6, 5e-3}; /* a slow bus: nothing to try */
    b = hs_beside_first(-1, &r, 3);
    assert_true(b.share == 1 && b.some == 1);
    r = (hs_beside_rates){500e-6, 500e-6, 3e-3, 100e-6}; /* a slow CPU */
    b = hs_beside_first(-1, &r, 3);
    assert_true(b.share < 0.25 && b.some == b.share && !hs_beside_all(&b, 1));
    for (uint32_t n = 0; n < 65; n++) {
        double here = fmax(hs_beside_of(&b, n, 1, 1, 64) * r.one, (n - hs_beside_of(&b, n, 1, 1, 64)) * r.copy);
        for (uint32_t k = 0; k <= n; k++)
            assert_true(here <= fmax(k * r.one, (n - k) * r.copy) * (1 + 1e-9));
    }
    r = (hs_beside_rates){60e-6, 60e-6, 80e-6, 20e-6}; /* little to win, and the wait is more */
    assert_true(hs_beside_share(&r, 0.4) == 1);
}

/* A share that was asked for, over any layers. */
static void a_fixed_share_is_obeyed(void **state)
{
    (void)state;
    static const double fixed[] = {0, 0.1, 0.5, 0.77, 1};
    for (int i = 0; i < 5; i++) {
        hs_beside b = hs_beside_first(fixed[i], &even_rates, 3);
        uint32_t all = 0, taken = 0;
        for (uint32_t t = 0; t < 3000; t++) {
            uint32_t n = t * 7 % 5;
            uint32_t k = hs_beside_of(&b, n, t % 13 + 1, 1, 64);
            assert_true(k <= n);
            all += n;
            taken += k;
            assert_true(fabs(fixed[i] * all - taken) <= 0.5 + 1e-6);
            hs_beside_learn(&b, 1000000 + t % 7 * 100000);
        }
        assert_true(b.share == fixed[i] && hs_beside_all(&b, 100) == (fixed[i] >= 1));
    }
}

/* A prompt: copies serve many tokens; the CPU has a part where each expert has few and where that clearly pays. */
static void prompts_go_by_the_rates(void **state)
{
    (void)state;
    const hs_beside_rates r = {66e-6, 70e-6, 200e-6, 150e-6}, slow = {600e-6, 600e-6, 4e-3, 150e-6};
    hs_beside b = hs_beside_first(-1, &r, 3), s = hs_beside_first(-1, &slow, 3);
    uint32_t few = hs_beside_of(&b, 60, 16, 1.3, 64), more = hs_beside_of(&b, 60, 64, 6, 64);
    assert_true(few > 30 && few < 60);
    assert_true(more > 0 && more < few);
    assert_int_equal(hs_beside_of(&b, 200, 512, 60, 64), 0);
    assert_int_equal(hs_beside_of(&s, 60, 16, 1.3, 64), 0);
    assert_true(hs_beside_of(&b, 250, 64, 6, 64) <= hs_beside_of(&b, 250, 64, 6, UINT32_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_better_of_two_ways_is_found),   cmocka_unit_test(noise_does_not_change_the_way),
        cmocka_unit_test(a_machine_that_changes_is_noticed), cmocka_unit_test(trials_cost_little),
        cmocka_unit_test(rates_say_what_it_begins_with),     cmocka_unit_test(a_fixed_share_is_obeyed),
        cmocka_unit_test(prompts_go_by_the_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
