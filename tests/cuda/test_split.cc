/*
 * A dense model whose layers do not all fit on the card, and a mixture whose experts do not: one hash of all logits
 * however their rows, or experts, are shared out between it and the CPU.
 */
#include "tests/cuda/tiny_made.h"

extern "C" {
#include "offload/rates.h"
#include "offload/residency_private.h"
}

#include <math.h>

enum { CARD_BYTES = 8 << 20 };

/* Each budget, with what is below in memory or in slots of its own; prompts of few tokens and of many. */
static void one_hash(const hlwq_engine_options *options_, uint64_t seed)
{
    hlwq_error err;
    hlwq_plan plan;
    hlwq_streaming io;
    hlwq_engine_options o = *options_;
    configure(seed, HS_SIM_UP, CARD_BYTES, 0);
    const uint64_t want = hash_of(&o, 3, &io);
    if (hlwq_make_plan(&o, &plan, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    const uint64_t fixed = plan.card_smallest_bytes, all = plan.card_slots_bytes;
    const uint64_t budget[] = {fixed + all, fixed + all / 2, fixed + all / 5, fixed};
    static const double share[] = {0, 0.25, 0.5, 1, -1};
    for (int b = 0; b < 4; b++)
        for (double s : share) {
            seed++;
            configure(seed, (hs_sim_order)(seed % 3), CARD_BYTES, 0);
            o.vram_bytes = budget[b];
            o.cpu_share = s;
            o.card_slots = b == 0 ? 0 : b == 1 ? 3 : 2;
            o.slots = seed % 2 ? 3 : 0;
            if (hash_of(&o, 3, &io) != want)
                fail_msg("budget %d, share %g, seed %u: another hash", b, s, (unsigned)seed);
            if (b)
                assert_true(io.card_slots > 0 && io.uploads > 0);
            if (b && s >= 0) /* what rates say of a simulated card is up to them */
                assert_true((s != 0) == (io.beside > 0));
        }
}

/* What is planned is enough for all that is taken, what is measured when a model is opened included. */
static void smallest(const hlwq_engine_options *options_)
{
    hlwq_error err;
    hlwq_plan plan;
    hlwq_streaming io;
    hlwq_engine_options o = *options_;
    o.cpu_share = -1;
    o.card_slots = 2;
    o.slots = 2;
    configure(1, HS_SIM_UP, CARD_BYTES, 0);
    if (hlwq_make_plan(&o, &plan, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    assert_true(plan.staging_bytes > 1 << 20 && plan.staging_bytes < plan.activation_bytes);
    o.ram_bytes = plan.smallest_bytes;
    o.vram_bytes = plan.card_smallest_bytes;
    (void)hash_of(&o, 3, &io);
}

static void one_hash_for_every_split(void **state)
{
    (void)state;
    static const char *const format[] = {nullptr, "I4Z"};
    for (const char *name : format) {
        const tiny_made made = tiny_make(false, 5, name);
        hlwq_engine_options o = options();
        o.model = made.path;
        prompt_tokens = name ? 12 : 5;
        one_hash(&o, name ? 100 : 200);
        smallest(&o);
        tiny_remove(&made);
    }
}

typedef struct small_dense {
    tiny_made made;
    hs_mem *mem;
    hs_store *store;
} small_dense;

static small_dense open_small(void)
{
    hlwq_error err;
    small_dense d = {tiny_make(false, 5, nullptr), hs_mem_open(0), nullptr};
    assert_int_equal(hs_store_open(&d.store, d.mem, d.made.path, nullptr, nullptr, &err), HLWQ_OK);
    return d;
}

static void close_small(const small_dense *d)
{
    hs_store_close(d->store);
    hs_mem_close(d->mem);
    tiny_remove(&d->made);
}

/* Every byte of a layer is copied up or is a row of the CPU's; of mixers, too. */
static void a_layer_is_cut_in_two(void **state)
{
    (void)state;
    small_dense d = open_small();
    const hs_table *t = hs_store_table(d.store);
    for (uint32_t g = 0; g < t->n_groups; g++)
        for (int k = 0; k <= 8 && t->group[g].kind == HS_GROUP_LAYER; k++) {
            hs_span span[HS_SPANS_MAX];
            const hs_cut cut = hs_split_cut(&t->group[g], k / 8.0);
            const uint32_t n = hs_split_spans(&t->group[g], &cut, span);
            uint64_t copied = 0, end = 0;
            for (uint32_t i = 0; i < n; i++) {
                assert_true(span[i].offset >= end && span[i].bytes > 0);
                end = span[i].offset + span[i].bytes;
                copied += span[i].bytes;
            }
            assert_true(end <= t->group[g].bytes);
            assert_int_equal(copied + cut.bytes, t->group[g].bytes);
            const bool full = t->config.full[t->group[g].layer];
            assert_true((k > 0) == (hs_cut_rows(&cut, full ? HS_Q : HS_QKV) > 0));
            if (k == 8)
                assert_int_equal(hs_cut_rows(&cut, full ? HS_O : HS_OUT), t->config.hidden);
            assert_int_equal(hs_cut_rows(&cut, HS_B), 0);
        }
    close_small(&d);
}

/* The first share: copies take as long as all else; a slower CPU gets less, faster copies leave it less. */
static void the_first_share_follows_the_rates(void **state)
{
    (void)state;
    small_dense d = open_small();
    const hs_table *t = hs_store_table(d.store);
    hs_rates r = {20e9, 80e9, 12e9, 400e9, 0};
    const hs_split_time usual = hs_rates_split(t, &r, 1, 1 << 20, -1);
    assert_true(usual.share > 0 && usual.share < 1);
    assert_true(fabs(usual.copies - usual.cpu - usual.card) < 1e-6 * usual.copies);
    const double others[] = {usual.share - 0.2, usual.share + 0.1};
    for (double share : others) {
        const hs_split_time other = hs_rates_split(t, &r, 1, 1 << 20, share);
        assert_true(fmax(other.copies, other.cpu + other.card) > usual.copies);
    }
    r.product = 10e9;
    assert_true(hs_rates_split(t, &r, 1, 1 << 20, -1).share < usual.share);
    r = {20e9, 80e9, 25e9, 400e9, 0};
    assert_true(hs_rates_split(t, &r, 1, 1 << 20, -1).share < usual.share);
    r = {20e9, 25e9, 12e9, 400e9, 0}; /* both read the same memory */
    assert_true(hs_rates_split(t, &r, 1, 1 << 20, -1).share < usual.share);
    r = {20e9, 80e9, 1, 400e9, 0};
    assert_true(hs_rates_split(t, &r, 0, 0, -1).share >= 1);
    r = {};
    assert_true(hs_rates_split(t, &r, 0, 0, -1).share == 0.75);
    close_small(&d);
}

/* Tokens take longest where one of the two waits for the other; the share ends near where they take equally long. */
static void the_share_finds_where_both_take_equally_long(void **state)
{
    (void)state;
    static const double best[] = {0, 0.3, 0.6, 1};
    for (double b : best) {
        hs_split_share s = hs_split_first(0.75);
        double sum = 0;
        for (int t = 0; t < 800; t++) {
            hs_split_learn(&s, (uint64_t)(1e6 + 1e6 * fabs(s.share - b)));
            assert_true(s.share >= 0 && s.share <= 1);
            sum += t >= 400 ? s.share : 0;
        }
        if (fabs(sum / 400 - b) > 0.125)
            fail_msg("best %g: found %g", b, sum / 400);
    }
}

/* Where times are noisy and now and then a token takes thrice as long, it stays near what is best, if that moves, too.
 */
static void a_noisy_share_stays_near_the_best(void **state)
{
    (void)state;
    hs_split_share s = hs_split_first(0.5);
    uint64_t random = 7;
    double off = 0, lost = 0;
    for (int t = 0; t < 6000; t++) {
        const double best = t < 3000 ? 0.5 : 0.8, here = fabs(s.share - best);
        random = random * 6364136223846793005u + 1442695040888963407u;
        const double noise = 1 + 0.02 * ((double)(random >> 40) / (1 << 24) - 0.5) + (random >> 33) % 50 / 49 * 2;
        hs_split_learn(&s, (uint64_t)(1e8 * (1 + here) * noise));
        if (t % 3000 < 1000)
            continue;
        off = here > off ? here : off;
        lost += here / 4000;
    }
    if (off > 0.19 || lost > 0.04)
        fail_msg("at most %g from the best, and %g on average", off, lost);
}

/* What the tests of a mixture's share plant: that it is looked for, from here. */
static hs_beside_rates planted;
static void plant_share(hlwq_engine *e)
{
    e->residency->experts = hs_beside_first(-1, &planted, 2);
    e->residency->experts.rest = 0;
}

/*
 * A mixture, all below it in memory or not, where the CPU's share changes while it is looked for, with each of the
 * ways it may begin with, and rates with which prompts are shared as well.
 */
static void one_hash_while_a_mixture_looks_for_its_share(void **state)
{
    (void)state;
    static const hs_beside_rates rates[] = {{1, 1, 2, 2}, {3, 3, 6, 1}, {1, 1, 1.1, 1}};
    const tiny_made made = tiny_make(true, 5, nullptr);
    hlwq_streaming io;
    hlwq_engine_options o = options();
    o.model = made.path;
    prompt_tokens = 20;
    configure(1, HS_SIM_UP, CARD_BYTES, 0);
    const uint64_t want = hash_of(&o, 40, &io);
    plant = plant_share;
    for (uint64_t seed = 0; seed < 6; seed++) {
        planted = rates[seed % 3];
        configure(seed, (hs_sim_order)(seed % 3), CARD_BYTES, 0);
        o.card_slots = 6;
        o.slots = seed < 3 ? 0 : 6;
        if (hash_of(&o, 40, &io) != want)
            fail_msg("seed %u: another hash", (unsigned)seed);
        assert_true(io.beside > 0 && io.uploads > 0 && io.cpu_share > 0);
    }
    plant = nullptr;
    tiny_remove(&made);
}

/* Of the experts that a lone token misses, so many are computed by the CPU as it was told; and measured for itself. */
static void a_mixture_obeys_the_share_it_is_given(void **state)
{
    (void)state;
    static const double share[] = {0, 0.3, 0.75, 1};
    const tiny_made made = tiny_make(true, 5, nullptr);
    hlwq_streaming io;
    hlwq_engine_options o = options();
    o.model = made.path;
    o.card_slots = 2;
    prompt_tokens = 5;
    for (double s : share) {
        configure(3, HS_SIM_DOWN, CARD_BYTES, 0);
        o.cpu_share = s;
        (void)hash_of(&o, 30, &io);
        const uint64_t missed = io.card_lookups - io.card_hits;
        if (fabs((double)io.beside - s * (double)missed) > 0.5 + 1e-6)
            fail_msg("share %g: %u of %u", s, (unsigned)io.beside, (unsigned)missed);
        assert_true(io.cpu_share == s);
    }
    o.cpu_share = -1;
    configure(3, HS_SIM_DOWN, CARD_BYTES, 0);
    (void)hash_of(&o, 2, &io);
    assert_true(io.cpu_share > 0);
    tiny_remove(&made);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(the_share_finds_where_both_take_equally_long),
        TEST(a_noisy_share_stays_near_the_best),
        TEST(a_layer_is_cut_in_two),
        TEST(the_first_share_follows_the_rates),
        TEST(one_hash_for_every_split),
        TEST(one_hash_while_a_mixture_looks_for_its_share),
        TEST(a_mixture_obeys_the_share_it_is_given),
    };
    cmocka_set_test_filter(getenv("HLWQ_TEST")); /* one of them, by name */
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
