/*
 * Each call of the runtime fails once, while a text is made: a status and a sentence, or the same logits; what is asked
 * for after it is answered with the same logits too, unless the card is lost; nothing is left behind, and the card
 * never holds more than its cap.  Of each place it is the first, second and last call; with HLWQ_LONG=1 all.
 */
#include "tests/cuda/tiny_made.h"

enum { CALLS_MAX = 1 << 16, PROMPT = 3, TOKENS = 2, CARD_BYTES = 8 << 20 };

static uint64_t site[CALLS_MAX];

typedef struct outcome {
    hlwq_status st;
    uint64_t hash;
    int32_t last;
} outcome;

static bool card_is_lost(void)
{
    (void)cudaGetLastError();
    return cudaPeekAtLastError() != cudaSuccess;
}

/* A prompt and tokens; the choice of the last one stays on the card. */
static outcome text_of(hlwq_session *s, hlwq_error *err)
{
    static const int32_t ids[PROMPT] = {4, 30, 12};
    hlwq_session_stats stats;
    outcome o = {};
    err->message[0] = 0;
    o.st = hlwq_session_eval(s, ids, PROMPT, nullptr, err);
    for (int t = 0; t < TOKENS && o.st == HLWQ_OK; t++)
        o.st = hlwq_session_next(s, &o.last, err);
    hlwq_session_get_stats(s, &stats);
    o.hash = stats.logits_hash;
    return o;
}

static hlwq_status open_both(const hlwq_engine_options *o, bool tokens_only, hlwq_engine **e, hlwq_session **s,
                             hlwq_error *err)
{
    *e = nullptr;
    *s = nullptr;
    err->message[0] = 0;
    hlwq_status st = hlwq_engine_open(o, e, err);
    if (st != HLWQ_OK)
        return st;
    hlwq_session_options so = hlwq_session_options_default(*e);
    so.context = o->context;
    so.sampling.temperature = 0;
    so.tokens_only = tokens_only;
    return hlwq_session_open(*e, &so, s, err);
}

static void is_right(hlwq_status st, const hlwq_error *err, uint64_t n)
{
    if (st != HLWQ_ERR_NOMEM && st != HLWQ_ERR_IO && st != HLWQ_ERR_UNSUPPORTED && st != HLWQ_ERR_BUDGET)
        fail_msg("call %u: status %d, %s", (unsigned)n, st, err->message);
    if (!err->message[0])
        fail_msg("call %u: status %d without a sentence", (unsigned)n, st);
}

static void is_same(const outcome *got, const outcome *want, const hlwq_error *err, bool again, uint64_t n)
{
    if (got->st != HLWQ_OK) {
        is_right(got->st, err, n);
        if (again && !card_is_lost())
            fail_msg("call %u: the next text fails, too: %s", (unsigned)n, err->message);
        return;
    }
    if (got->hash != want->hash || got->last != want->last)
        fail_msg("call %u: other logits%s", (unsigned)n, again ? " in the next text" : "");
}

/* The n-th call fails; true if that came to a status. */
static bool fails_at(const hlwq_engine_options *o, bool tokens_only, uint64_t n, const outcome *want)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    outcome got = {};
    configure(1, HS_SIM_UP, CARD_BYTES, n);
    got.st = open_both(o, tokens_only, &e, &s, &err);
    bool opened = got.st == HLWQ_OK;
    if (opened)
        got = text_of(s, &err);
    is_same(&got, want, &err, false, n);
    if (!hs_sim_read_stats().failed_at) { /* reads that came sooner have saved some calls */
        hlwq_session_close(s);
        hlwq_engine_close(e);
        return false;
    }
    const bool failed = got.st != HLWQ_OK;
    if (!opened) { /* the model is opened again */
        hlwq_session_close(s);
        hlwq_engine_close(e);
        if (hs_sim_leaks())
            fail_msg("call %u: %u things are left of a model that was not opened", (unsigned)n,
                     (unsigned)hs_sim_leaks());
        got.st = open_both(o, tokens_only, &e, &s, &err);
    } else {
        hlwq_session_reset(s);
    }
    if (got.st == HLWQ_OK || opened)
        got = text_of(s, &err);
    is_same(&got, want, &err, true, n);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    const hs_sim_stats stats = hs_sim_read_stats();
    if (hs_sim_leaks())
        fail_msg("call %u: %u things are left (%s)", (unsigned)n, (unsigned)hs_sim_leaks(), err.message);
    if (o->vram_bytes && stats.device_peak_bytes > o->vram_bytes)
        fail_msg("call %u: %u bytes on a card of %u", (unsigned)n, (unsigned)stats.device_peak_bytes,
                 (unsigned)o->vram_bytes);
    assert_int_equal(stats.faults, 0);
    return failed;
}

/* Whether call n is its place's first, second or last one. */
static bool stands_out(uint64_t n, uint64_t calls)
{
    uint32_t before = 0, after = 0;
    for (uint64_t i = 0; i < calls; i++)
        if (site[i] == site[n - 1])
            (i < n - 1 ? before : after) += i != n - 1;
    return before < 2 || after == 0;
}

/* Of a text of this engine, all calls fail in turn, or some; each failing call is a run. */
static void each_call_fails(const hlwq_engine_options *options_, bool tokens_only, bool all)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    hlwq_plan plan;
    hlwq_engine_options o = *options_;
    hs_sim_options sim = plain_options();
    sim.vram_bytes = CARD_BYTES;
    sim.site = site;
    sim.site_room = CALLS_MAX;
    hs_sim_configure(&sim);
    if (hlwq_make_plan(&o, &plan, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    o.vram_bytes = plan.card_total_bytes;
    hs_sim_configure(&sim);
    if (open_both(&o, tokens_only, &e, &s, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    const outcome want = text_of(s, &err);
    assert_int_equal(want.st, HLWQ_OK);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
    const hs_sim_stats stats = hs_sim_read_stats();
    assert_true(stats.calls < CALLS_MAX);
    uint32_t runs = 0, failures = 0;
    for (uint64_t n = 1; n <= stats.calls; n++) {
        if (!all && !stands_out(n, stats.calls))
            continue;
        runs++;
        failures += fails_at(&o, tokens_only, n, &want);
    }
    print_message("%u of %u calls failed in turn, %u of them came to a status\n", (unsigned)runs, (unsigned)stats.calls,
                  (unsigned)failures);
    assert_true(failures > runs / 2 && failures > 30);
}

static void fail_calls_of_a_small_model(bool moe, bool tokens_only, uint32_t card_slots, uint32_t slots, double share)
{
    const tiny_made made = tiny_make(moe, 4, nullptr);
    hlwq_engine_options o = options();
    o.model = made.path;
    o.card_slots = card_slots;
    o.slots = slots;
    o.cpu_share = share;
    each_call_fails(&o, tokens_only, getenv("HLWQ_LONG") != nullptr);
    tiny_remove(&made);
}

static void every_call_of_a_mixture_fails_once(void **state)
{
    (void)state;
    fail_calls_of_a_small_model(true, false, 9, 12, 0.5);
}

static void every_call_of_a_mixture_fails_once_where_the_cpu_has_turns(void **state)
{
    (void)state;
    fail_calls_of_a_small_model(true, true, 9, 12, 1);
}

static void every_call_of_a_dense_model_fails_once(void **state)
{
    (void)state;
    fail_calls_of_a_small_model(false, true, 2, 3, 0.5); /* of which the CPU computes a half */
}

/* Rates are measured when it is opened; without that they are assumed. */
static void every_call_of_a_dense_model_fails_once_where_the_share_is_found(void **state)
{
    (void)state;
    fail_calls_of_a_small_model(false, true, 3, 0, -1);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(every_call_of_a_mixture_fails_once),
        TEST(every_call_of_a_mixture_fails_once_where_the_cpu_has_turns),
        TEST(every_call_of_a_dense_model_fails_once),
        TEST(every_call_of_a_dense_model_fails_once_where_the_share_is_found),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
