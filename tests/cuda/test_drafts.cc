/*
 * Drafts on the simulated card: the same bits of all logits with and without them, for every source, form of the cache,
 * placement of experts and order of streams; and the tokens that the CPU chooses.  And what drafts cost.
 */
#include "tests/cuda/demo_text.h"

extern "C" {
#include "model/mtp.h"
}

typedef struct a_case {
    hlwq_draft draft;
    uint32_t prompt, depth, card_slots, vocab; /* most drafts; 0 = all experts are there; tokens of the draft head */
    hlwq_kv kv;
    float temperature;
} a_case;

enum { TOKENS = 12 };

static const char prompt[] =
    "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals, when it was checked by "
    "a violent gust of wind which swept up the streets, rattling along the house-tops, and fiercely agitating the "
    "scanty flame of the lamps that struggled against the darkness. It was a dark and stormy night; the rain fell in "
    "torrents, except at occasional intervals, when it was checked by a violent gust of wind which swept up the";

static uint64_t run(const a_case *with, hlwq_device device, int32_t *id, hlwq_speculation *ahead)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    int32_t *ids;
    size_t n;
    hlwq_engine_options o = options();
    o.device = device;
    o.context = 192;
    o.draft = with->draft;
    o.draft_depth = with->depth;
    o.draft_vocab = with->vocab;
    o.draft_always = true;
    o.kv = with->kv;
    o.card_slots = device == HLWQ_DEVICE_CUDA ? with->card_slots : 0;
    o.cpu_share = 0.5;
    if (hlwq_engine_open(&o, &e, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 192;
    so.kv = with->kv;
    so.sampling.temperature = with->temperature;
    so.sampling.seed = 5;
    if (hlwq_session_open(e, &so, &s, &err) != HLWQ_OK ||
        hs_tokenizer_encode(e->text.inner, prompt, strlen(prompt), false, &ids, &n, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    n = n < with->prompt ? n : with->prompt;
    if (hlwq_session_eval(s, ids, n, nullptr, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    free(ids);
    for (uint32_t i = 0; i < TOKENS; i++)
        if (hlwq_session_next(s, &id[i], &err) != HLWQ_OK)
            fail_msg("token %u: %s", i, err.message);
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    hlwq_session_speculation(s, ahead);
    hlwq_session_close(s);
    uint64_t now, peak;
    hlwq_plan plan;
    hlwq_engine_plan(e, &plan);
    hlwq_engine_vram(e, &now, &peak);
    if (device == HLWQ_DEVICE_CUDA) /* what was planned is what it takes */
        assert_true(peak > 0 && peak <= plan.card_total_bytes - plan.card_reserve_bytes);
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
    assert_int_equal(hs_sim_read_stats().faults, 0);
    assert_int_equal(hs_sim_read_stats().unloaded, 0);
    return stats.logits_hash;
}

static void drafts_change_no_bit(void **state)
{
    (void)state;
    static const a_case cases[] = {
        {HLWQ_DRAFT_MTP, 123, 4, 0, 0, HLWQ_KV_K4V3, 0}, /* a page is coded, and some are taken back beyond that */
        {HLWQ_DRAFT_AUTO, 20, 7, 48, 0, HLWQ_KV_F16, 0.8f},
        {HLWQ_DRAFT_MTP, 20, 2, 0, 700, HLWQ_KV_F16, 0.8f},
    };
    uint64_t hash = 0, played_back = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t want[TOKENS], got[TOKENS];
        hlwq_speculation a;
        a_case plain = cases[i];
        if (i && getenv("HLWQ_SANITIZE"))
            break;
        if (i < 2) { /* the second one's are the last one's */
            plain.draft = HLWQ_DRAFT_OFF;
            plain.card_slots = 0;
            configure(i, HS_SIM_UP, 64 << 20, 0);
            setenv("HLWQ_CUDA_STEPS", "0", 1);
            hash = run(&plain, HLWQ_DEVICE_CUDA, want, &a);
            unsetenv("HLWQ_CUDA_STEPS");
            assert_int_equal(a.depth_max, 0);
            assert_int_equal(hs_sim_read_stats().graph_launches, 0);
        }
        configure(i + 20, HS_SIM_SHUFFLE, 64 << 20, 0);
        uint64_t ahead = run(&cases[i], HLWQ_DEVICE_CUDA, got, &a);
        assert_int_equal(a.depth_max, cases[i].depth);
        played_back += hs_sim_read_stats().graph_launches;
        assert_true(a.passes < TOKENS && a.accepted[0] + a.accepted[1] > 0);
        assert_true(a.drafted[0] + a.drafted[1] > a.accepted[0] + a.accepted[1]); /* some were taken back */
        if (i < 2)
            assert_memory_equal(got, want, sizeof got);
        if (ahead != hash)
            fail_msg("case %zu: other logits", i);
        if (i == 0) {
            run(&cases[i], HLWQ_DEVICE_CPU, want, &a);
            assert_memory_equal(got, want, sizeof got);
        }
    }
    if (!getenv("HLWQ_SANITIZE")) /* the one case is too short for a step to come a third time; cuda.runs has some */
        assert_true(played_back > 0); /* windows, and their ends */
}

/* ---- what a draft costs ---------------------------------------------------------------------- */

enum { PAIRS = 126, ROUNDS = 3, DEPTH = 4 }; /* PAIRS: of a prompt, at most */

/* Calls of the runtime, and of them graphs; kernels that run. */
typedef struct cost {
    uint64_t calls, graphs, kernels;
} cost;

static cost cost_now(void)
{
    const hs_sim_stats s = hs_sim_read_stats();
    return cost{s.calls, s.graph_launches, s.launches};
}

static void or_fail(hlwq_status st, const hlwq_error *err)
{
    if (st != HLWQ_OK)
        fail_msg("%s", err->message);
}

/* The trunk's next token; the draft head has its hidden state then. */
static void feed(hs_network *net, hs_states *states, hs_mtp *mtp, const int32_t *ids, uint32_t first, uint32_t n,
                 float *logits)
{
    hlwq_error err;
    or_fail(hs_forward(net, states, ids + first, first, n, HS_LOGITS_LAST, logits, nullptr, &err), &err);
    if (n > 1) {
        or_fail(hs_mtp_prompt(mtp, ids + first, first, n, &err), &err);
        return;
    }
    or_fail(hs_mtp_note(mtp, 1, &err), &err);
    hs_mtp_keep(mtp, 1);
}

/* All logits of the drafts of some tokens after `n`, DEPTH of each, to be freed; what the last one cost. */
static float *all_drafts(bool steps, uint32_t card_slots, hs_kv_format kv, uint32_t n, uint64_t *floats, cost *last)
{
    hlwq_error err;
    hlwq_engine *e;
    hs_states states;
    hs_mtp *mtp;
    int32_t ids[PAIRS + ROUNDS];
    const uint32_t end = n + ROUNDS;
    hlwq_engine_options o = options();
    o.context = 256;
    o.batch = 256;
    o.draft = HLWQ_DRAFT_MTP;
    o.card_slots = card_slots;
    configure(3, HS_SIM_SHUFFLE, 64 << 20, 0);
    setenv("HLWQ_CUDA_STEPS", steps ? "1" : "0", 1);
    or_fail(hlwq_engine_open(&o, &e, &err), &err);
    unsetenv("HLWQ_CUDA_STEPS");
    hs_network *net = &e->net;
    const uint32_t vocab = net->config->vocab;
    *floats = ROUNDS * DEPTH * (uint64_t)vocab;
    float *all = static_cast<float *>(malloc((*floats + vocab) * sizeof(float))), *logits = all, *trunk = all + *floats;
    for (int32_t i = 0; i < PAIRS + ROUNDS; i++)
        ids[i] = i * 37 % 900 + 11;
    or_fail(hs_states_init(&states, net->config, e->mem, e->backend, kv, 256, net->batch, &err), &err);
    or_fail(hs_mtp_open(&mtp, net, e->mem, kv, 256, &err), &err);
    feed(net, &states, mtp, ids, 0, n, trunk);
    for (; n < end; n++) {
        for (int32_t k = 0; k < DEPTH; k++, logits += vocab) {
            const cost before = cost_now();
            or_fail(k ? hs_mtp_draft_on(mtp, 500 + 7 * k, logits, &err) : hs_mtp_draft(mtp, ids, n, logits, &err),
                    &err);
            const cost now = cost_now();
            *last = cost{now.calls - before.calls, now.graphs - before.graphs, now.kernels - before.kernels};
        }
        feed(net, &states, mtp, ids, n, 1, trunk);
    }
    hs_mtp_close(mtp);
    hs_states_close(&states);
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
    assert_int_equal(hs_sim_read_stats().faults, 0);
    return all;
}

/* The same with steps and without; what the last draft costs. */
static void same_drafts(uint32_t card_slots, hs_kv_format kv, uint32_t n, cost *plain, cost *step)
{
    uint64_t floats;
    float *want = all_drafts(false, card_slots, kv, n, &floats, plain);
    assert_int_equal(plain->graphs, 0);
    assert_int_equal(hs_sim_read_stats().graphs_made, 0);
    float *got = all_drafts(true, card_slots, kv, n, &floats, step);
    assert_memory_equal(got, want, floats * sizeof(float));
    free(want);
    free(got);
    print_message("a draft: %u calls and %u kernels; as a step %u calls and %u kernels\n", (unsigned)plain->calls,
                  (unsigned)plain->kernels, (unsigned)step->calls, (unsigned)step->kernels);
}

/*
 * Drafts change no result, so what they say is compared itself; a page begins at 128, and one is coded.  With its
 * experts on the card a drafted token is a launch that tells the card of it and a graph, beside an embedding that goes
 * up, logits that come down, and a wait for either.
 */
static void a_drafted_token_is_one_call(void **state)
{
    (void)state;
    cost plain, step;
    same_drafts(0, hs_kv_format{HS_Q4, HS_Q3}, PAIRS, &plain, &step);
    assert_int_equal(step.graphs, 1);
    assert_int_equal(step.calls, 6);
    assert_true(step.kernels <= plain.kernels);
    assert_int_equal(hs_sim_read_stats().graphs_made, 3); /* the trunk's; and with one span and two of attention */
    assert_int_equal(hs_sim_read_stats().graph_launches, ROUNDS * DEPTH - 2 * 2);
}

/* Some experts elsewhere: up to the choice, from there, and from the sum on. */
static void a_draft_whose_experts_come_is_played_back(void **state)
{
    (void)state;
    cost plain, step;
    if (getenv("HLWQ_SANITIZE"))
        skip();
    same_drafts(48, hs_kv_format{HS_F16, HS_F16}, 20, &plain, &step);
    assert_int_equal(step.graphs, 3);
    assert_true(step.calls < plain.calls);
}

/* Every call of the runtime that drafts add fails once, too. */
static void failing_calls_of_drafts_leave_nothing_behind(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_streaming io;
    uint64_t hash, peak, calls, step;
    hlwq_engine_options o = options();
    o.draft = HLWQ_DRAFT_MTP;
    o.draft_depth = 2;
    o.draft_always = true;
    configure(1, HS_SIM_UP, 64 << 20, 0);
    if (a_text(&o, 3, &hash, &io, &peak, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    calls = hs_sim_read_stats().calls;
    step = getenv("HLWQ_LONG") ? 1 : calls / (getenv("HLWQ_SANITIZE") ? 5 : 24) + 1;
    uint32_t failures = 0;
    for (uint64_t n = 1; n <= calls; n += step) {
        configure(1, HS_SIM_UP, 64 << 20, n);
        hlwq_status st = a_text(&o, 3, &hash, &io, &peak, &err);
        failures += st != HLWQ_OK;
        if (hs_sim_leaks())
            fail_msg("call %u: %u things are left (%s)", (unsigned)n, (unsigned)hs_sim_leaks(), err.message);
    }
    assert_true(failures > 3);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(drafts_change_no_bit),
        TEST(a_drafted_token_is_one_call),
        TEST(a_draft_whose_experts_come_is_played_back),
        TEST(failing_calls_of_drafts_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
