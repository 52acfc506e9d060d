/* model/price.c on made-up machines, and model/lookup.c on made-up texts. */
#include "model/lookup.h"
#include "model/price.h"
#include "tests/support/check.h"

/* A machine: what a pass over 1 + k tokens and a draft take, how often draft i is right. */
typedef struct machine {
    double pass[8], draft, right[8];
    uint32_t seed, tokens, passes, with_drafts, depth_sum;
    double ns;
    hs_price price;
} machine;

static double chance(machine *m)
{
    m->seed = m->seed * 1664525u + 1013904223u;
    return (double)(m->seed >> 8) * 0x1p-24;
}

static void step(machine *m, bool have_source)
{
    double rate;
    uint32_t depth = have_source ? hs_price_depth(&m->price, HS_DRAFT_MTP, &rate) : 0, right = 0;
    while (right < depth && chance(m) < m->right[right])
        right++;
    double took = m->pass[depth] * (0.9 + 0.2 * chance(m));
    double seen = m->passes % 61 == 60 ? 50 * took : took; /* something else used the machine */
    hs_price_note(&m->price, HS_DRAFT_MTP, depth, right, right < depth, depth * m->draft, seen);
    m->passes++;
    m->with_drafts += depth > 0;
    m->depth_sum += depth;
    m->tokens += right + 1;
    m->ns += took + depth * m->draft;
}

static void drafting_that_loses_ends_within_64_tokens(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed < 50; seed++) { /* each token wants experts of its own: a pass of 4 costs almost 4 */
        machine m = {.pass = {100, 180, 260, 340, 420, 500, 580, 660}, .draft = 10, .seed = seed};
        for (int i = 0; i < 8; i++)
            m.right[i] = 0.35;
        hs_price_init(&m.price, 3, false);
        while (m.tokens < 64)
            step(&m, true);
        uint32_t tried = m.with_drafts, passes = m.passes;
        while (m.tokens < 2000)
            step(&m, true);
        if (m.with_drafts - tried > (m.passes - passes) / 25)
            fail_msg("seed %u: %u of %u passes with drafts after 64 tokens", seed, m.with_drafts - tried,
                     m.passes - passes);
    }
}

static double expected_rate(const machine *m, uint32_t depth)
{
    double tokens = 1, all = 1;
    for (uint32_t i = 0; i < depth; i++) {
        all *= m->right[i];
        tokens += all;
    }
    return tokens / (m->pass[depth] + depth * m->draft);
}

static void drafting_that_pays_comes_near_the_best_depth(void **state)
{
    (void)state;
    static const struct {
        double per_token, right;
    } with[] = {{5, 0.9}, {5, 0.75}, {45, 0.75}, {20, 0.5}}; /* bound by memory, then less so */
    for (int c = 0; c < 4; c++)
        for (uint32_t seed = 1; seed < 20; seed++) {
            machine m = {.draft = 3, .seed = seed};
            double best = 0;
            for (uint32_t i = 0; i < 8; i++) {
                m.pass[i] = 100 + i * with[c].per_token;
                m.right[i] = with[c].right;
            }
            for (uint32_t k = 0; k <= 4; k++)
                best = expected_rate(&m, k) > best ? expected_rate(&m, k) : best;
            hs_price_init(&m.price, 4, false);
            while (m.tokens < 3000)
                step(&m, true);
            double rate = m.tokens / m.ns;
            if (rate < 0.9 * best)
                fail_msg("case %d, seed %u: %.2f of the best rate", c, seed, rate / best);
        }
}

/* What lost is tried again, less and less often, and taken up when it pays. */
static void a_price_that_changes_is_noticed(void **state)
{
    (void)state;
    machine m = {.pass = {100, 190, 280, 370}, .draft = 10, .right = {0.2, 0.2, 0.2}, .seed = 3};
    hs_price_init(&m.price, 3, false);
    while (m.tokens < 300)
        step(&m, true);
    uint32_t drafts = m.with_drafts;
    while (m.tokens < 1000)
        step(&m, true);
    assert_true(m.with_drafts - drafts < 20);
    for (int i = 0; i < 4; i++) {
        m.pass[i] = 100 + 3 * i;
        m.right[i] = 0.9;
    }
    uint32_t before = m.passes;
    while (m.with_drafts - drafts < 100 && m.passes < before + 5000)
        step(&m, true);
    assert_true(m.with_drafts - drafts >= 100);
    step(&m, false); /* nothing to draft from, now and then */
}

static void lookup_finds_the_longest_and_latest(void **state)
{
    (void)state;
    uint32_t at = 99;
    const int32_t none[] = {1, 2, 3, 4, 5}, one[] = {7, 1, 2, 3, 9, 1, 2, 3};
    const int32_t two[] = {1, 2, 3, 8, 4, 2, 3, 9, 1, 2, 3}, latest[] = {1, 2, 8, 1, 2, 9, 1, 2};
    const int32_t same[] = {5, 5, 5, 5, 5, 5};
    assert_int_equal(hs_lookup(none, 5, &at), 0);
    assert_int_equal(hs_lookup(none, 0, &at), 0);
    assert_int_equal(hs_lookup(none, 1, &at), 0);
    assert_int_equal(hs_lookup(one, 8, &at), 3);
    assert_int_equal(at, 4);
    assert_int_equal(hs_lookup(two, 11, &at), 3); /* longer, though earlier */
    assert_int_equal(at, 3);
    assert_int_equal(hs_lookup(latest, 8, &at), 2);
    assert_int_equal(at, 5);
    assert_int_equal(hs_lookup(same, 6, &at), 5);
    assert_int_equal(at, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drafting_that_loses_ends_within_64_tokens),
        cmocka_unit_test(drafting_that_pays_comes_near_the_best_depth),
        cmocka_unit_test(a_price_that_changes_is_noticed),
        cmocka_unit_test(lookup_finds_the_longest_and_latest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
