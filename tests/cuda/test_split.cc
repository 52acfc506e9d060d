/*
 * A dense model whose layers do not all fit on the card: one hash of all logits however their rows are split between it
 * and the CPU.
 */
#include "tests/cuda/demo_text.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* {0} is C's */
#include "offload/split.h"
#include "tests/support/tiny_model.h"
#pragma GCC diagnostic pop
}

#include <math.h>

enum { CARD_BYTES = 4 << 20 };

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
                assert_true(io.card_slots > 0 && io.uploads > 0 && (s != 0) == (io.beside > 0));
        }
}

static void one_hash_for_every_split(void **state)
{
    (void)state;
    char dir[] = "/tmp/hlwq-split-XXXXXX", source[64], made[64], command[96];
    assert_non_null(mkdtemp(dir));
    snprintf(source, sizeof source, "%s/tiny", dir);
    snprintf(made, sizeof made, "%s/made.hlwq", dir);
    tiny_model_write(source, false);
    static const char *const format[] = {nullptr, "I4Z"};
    for (const char *name : format) {
        hlwq_error err;
        hlwq_convert_options c = hlwq_convert_options_default();
        c.source = source;
        c.output = made;
        c.bits = name ? 0 : 5;
        c.format = name;
        c.overwrite = true;
        if (hlwq_convert(&c, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
        hlwq_engine_options o = options();
        o.model = made;
        prompt_tokens = name ? 12 : 5;
        one_hash(&o, name ? 100 : 200);
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
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

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(the_share_finds_where_both_take_equally_long),
        TEST(one_hash_for_every_split),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
