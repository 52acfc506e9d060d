/*
 * Speculation changes time, never tokens: the same logits with and without it, for every source of drafts, budget, KV
 * mode and way to choose tokens; and states that equal those of tokens fed one at a time, whatever was taken back.
 */
#include "model/engine.h"
#include "tests/support/check.h"
#include "tests/support/demo.h"

#include <math.h>
#include <unistd.h>

static const char prompt[] =
    "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals, when it was checked by "
    "a violent gust of wind which swept up the streets, rattling along the house-tops, and fiercely agitating the "
    "scanty flame of the lamps that struggled against the darkness.";

static bool slow(void)
{
    return getenv("HLWQ_SANITIZE") != NULL;
}

static hlwq_engine *open_engine(hlwq_draft draft, uint32_t depth, bool always, uint64_t ram, hlwq_kv kv)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = demo_options(HLWQ_DEVICE_CPU);
    o.context = 256;
    o.threads = 1; /* the machine may be busy: workers that spin would only be in the way */
    o.draft = draft;
    o.draft_depth = depth;
    o.draft_always = always;
    o.ram_bytes = ram;
    o.kv = kv;
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    return e;
}

static hlwq_session *open_session(hlwq_engine *e, hlwq_kv kv, float temperature)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 256;
    so.kv = kv;
    so.sampling = (hlwq_sampling){.temperature = temperature,
                                  .top_k = temperature > 1 ? 0 : 20,
                                  .top_p = temperature > 1 ? 1 : 0.95f,
                                  .repetition_penalty = temperature > 0 ? 1.05f : 1,
                                  .penalty_window = 40,
                                  .seed = 7};
    CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
    return s;
}

static uint64_t hash_of(hlwq_session *s)
{
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    return stats.logits_hash;
}

/* Tokens of a run, and the hash of all its logits. */
static uint64_t run(hlwq_engine *e, hlwq_kv kv, float temperature, uint32_t n, int32_t *ids, hlwq_speculation *ahead)
{
    hlwq_error err;
    hlwq_session *s = open_session(e, kv, temperature);
    CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = hlwq_session_position(s);
        CHECK_OK(hlwq_session_next(s, &ids[i], &err), err);
        assert_int_equal(hlwq_session_position(s), at + (ids[i] >= 0)); /* one at a time, for who asks */
        if (ids[i] < 0)
            break;
    }
    uint64_t hash = hash_of(s);
    if (ahead)
        hlwq_session_speculation(s, ahead);
    hlwq_session_close(s);
    return hash;
}

static void same_tokens_and_logits(void **state)
{
    (void)state;
    static const struct {
        hlwq_draft draft;
        uint32_t depth;
        bool always, tight;
        hlwq_kv kv;
        float temperature;
    } with[] = {
        {HLWQ_DRAFT_MTP, 1, true, false, HLWQ_KV_F16, 0},      {HLWQ_DRAFT_MTP, 4, true, true, HLWQ_KV_K4V3, 0},
        {HLWQ_DRAFT_AUTO, 7, true, false, HLWQ_KV_K4V3, 0.8f}, {HLWQ_DRAFT_LOOKUP, 3, true, false, HLWQ_KV_F32, 0},
        {HLWQ_DRAFT_AUTO, 3, false, true, HLWQ_KV_F16, 0},     {HLWQ_DRAFT_MTP, 2, true, false, HLWQ_KV_F16, 1.5f},
        {HLWQ_DRAFT_AUTO, 0, false, false, HLWQ_KV_Q2, 0.8f},
    };
    uint32_t n = slow() ? 12 : 64;
    int32_t want[64], got[64];
    for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
        hlwq_speculation a;
        hlwq_engine *e = open_engine(HLWQ_DRAFT_OFF, 0, false, 0, with[i].kv);
        uint64_t hash = run(e, with[i].kv, with[i].temperature, n, want, &a);
        assert_int_equal(a.depth_max, 0);
        hlwq_engine_close(e);
        e = open_engine(with[i].draft, with[i].depth, with[i].always, with[i].tight ? 26u << 20 : 0, with[i].kv);
        hlwq_streaming io;
        uint64_t hash_ahead = run(e, with[i].kv, with[i].temperature, n, got, &a), now, peak;
        hlwq_engine_streaming(e, &io);
        hlwq_engine_memory(e, &now, &peak);
        assert_int_equal(io.slots > 0, with[i].tight);
        assert_true(!with[i].tight || peak <= 26u << 20);
        hlwq_engine_close(e);
        for (uint32_t t = 0; t < n && want[t] >= 0; t++)
            if (want[t] != got[t])
                fail_msg("case %zu: token %u is %d, without drafts %d", i, t, got[t], want[t]);
        if (hash != hash_ahead)
            fail_msg("case %zu: other logits", i);
        if (with[i].always && with[i].draft != HLWQ_DRAFT_LOOKUP) { /* something was drafted, and not all in vain */
            assert_true(a.drafted[0] > 0);
            assert_true(slow() || a.accepted[0] > 0);
            assert_true(a.passes < n);
        }
    }
}

/* A session whose windows are cut short by other calls is where it says it is. */
static void other_calls_in_the_middle_of_a_window(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e[2] = {open_engine(HLWQ_DRAFT_OFF, 0, false, 0, HLWQ_KV_F16),
                         open_engine(HLWQ_DRAFT_AUTO, 5, true, 0, HLWQ_KV_F16)};
    uint64_t hash[2];
    int32_t last[2];
    for (int k = 0; k < 2; k++) {
        hlwq_session *s = open_session(e[k], HLWQ_KV_F16, 0);
        CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
        for (int i = 0; i < 20; i++) {
            int32_t more[3] = {100 + i, 200 + i, 300 + i};
            for (int t = 0; t < i % 4; t++)
                CHECK_OK(hlwq_session_next(s, &last[k], &err), err);
            if (i % 3 == 0)
                CHECK_OK(hlwq_session_eval(s, more, 1 + (size_t)i % 3, NULL, &err), err);
        }
        assert_int_equal(hlwq_session_eval(s, (int32_t[]){-5}, 1, NULL, &err), HLWQ_ERR_ARG);
        CHECK_OK(hlwq_session_next(s, &last[k], &err), err);
        hash[k] = hash_of(s);
        hlwq_session_reset(s); /* and from the beginning */
        CHECK_OK(hlwq_session_prompt(s, "The sea", &err), err);
        for (int t = 0; t < 10; t++)
            CHECK_OK(hlwq_session_next(s, &last[k], &err), err);
        hash[k] = hash[k] * 31 + hash_of(s);
        hlwq_session_close(s);
        hlwq_engine_close(e[k]);
    }
    assert_int_equal(last[0], last[1]);
    assert_true(hash[0] == hash[1]);
}

/* Saved in the middle of a window, a text goes on where it was, whoever loads it. */
static void a_saved_session_goes_on_with_and_without_drafts(void **state)
{
    (void)state;
    enum { BEFORE = 10, AFTER = 16 };
    hlwq_error err;
    char path[64];
    int32_t want[BEFORE + AFTER], id;
    snprintf(path, sizeof path, "speculate-%d.session", (int)getpid());
    hlwq_engine *plain = open_engine(HLWQ_DRAFT_OFF, 0, false, 0, HLWQ_KV_K4V3);
    hlwq_engine *ahead = open_engine(HLWQ_DRAFT_AUTO, 4, true, 0, HLWQ_KV_K4V3);
    hlwq_session *s = open_session(plain, HLWQ_KV_K4V3, 0.8f);
    CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
    for (int i = 0; i < BEFORE + AFTER; i++)
        CHECK_OK(hlwq_session_next(s, &want[i], &err), err);
    hlwq_session_close(s);
    for (int from = 0; from < 2; from++) {
        s = open_session(from ? ahead : plain, HLWQ_KV_K4V3, 0.8f);
        CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
        for (int i = 0; i < BEFORE + from; i++)
            CHECK_OK(hlwq_session_next(s, &id, &err), err);
        CHECK_OK(hlwq_session_save(s, path, NULL, &err), err);
        for (int i = BEFORE + from; i < BEFORE + AFTER; i++) { /* saving changed nothing */
            CHECK_OK(hlwq_session_next(s, &id, &err), err);
            assert_int_equal(id, want[i]);
        }
        hlwq_session_close(s);
        for (int to = 0; to < 2; to++) {
            s = open_session(to ? ahead : plain, HLWQ_KV_K4V3, 0);
            CHECK_OK(hlwq_session_load(s, path, NULL, &err), err);
            for (int i = BEFORE + from; i < BEFORE + AFTER; i++) {
                CHECK_OK(hlwq_session_next(s, &id, &err), err);
                if (id != want[i])
                    fail_msg("saved by %d, loaded by %d: token %d is %d, not %d", from, to, i, id, want[i]);
            }
            hlwq_session_close(s);
        }
        unlink(path);
    }
    hlwq_engine_close(plain);
    hlwq_engine_close(ahead);
}

/* To the last position of the context, and not beyond. */
static void windows_end_with_the_context(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(HLWQ_DRAFT_AUTO, 7, true, 0, HLWQ_KV_F16);
    hlwq_session_options so = hlwq_session_options_default(e);
    hlwq_session *s;
    int32_t ids[64], id;
    so.context = 70;
    so.sampling.temperature = 0;
    CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
    for (int i = 0; i < 60; i++)
        ids[i] = 300 + i % 5; /* repeats itself: lookup drafts at once */
    CHECK_OK(hlwq_session_eval(s, ids, 60, NULL, &err), err);
    while (hlwq_session_position(s) < 70)
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
    assert_int_equal(hlwq_session_next(s, &id, &err), HLWQ_ERR_BUDGET);
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

/* ---- chance ------------------------------------------------------------------------------------ */

enum { RANKS = 8 };

/* Adds what the next choice should be, by rank of its candidates. */
static void rank_chances(const float *logits, uint32_t vocab, double *chance, int32_t *id)
{
    double total = 0;
    for (int r = 0; r < RANKS; r++) {
        int32_t best = -1;
        for (uint32_t i = 0; i < vocab; i++) {
            bool taken = false;
            for (int k = 0; k < r; k++)
                taken = taken || id[k] == (int32_t)i;
            if (!taken && (best < 0 || logits[i] > logits[best]))
                best = (int32_t)i;
        }
        id[r] = best;
        chance[r] = exp((double)logits[best] - (double)logits[id[0]]);
        total += chance[r];
    }
    for (int r = 0; r < RANKS; r++)
        chance[r] /= total;
}

static double chi_square(const double *seen, const double *expected)
{
    double sum = 0;
    for (int r = 0; r < RANKS; r++)
        sum += (seen[r] - expected[r]) * (seen[r] - expected[r]) / expected[r];
    return sum;
}

/* Over all choices of a run, the ranks of what is chosen among the eight likeliest are as frequent as they should be.
 */
static void chances_are_those_of_the_logits(void **state)
{
    (void)state;
    hlwq_error err;
    double seen[RANKS] = {0}, expected[RANKS] = {0}, drafts_only[RANKS] = {0};
    hlwq_engine *e = open_engine(HLWQ_DRAFT_AUTO, 4, true, 0, HLWQ_KV_F16);
    hlwq_session_options so = hlwq_session_options_default(e);
    hlwq_session *s;
    hlwq_speculation ahead;
    uint32_t vocab = e->net.config->vocab, wanted = slow() ? 100 : 600, n = 0;
    so.context = 256;
    CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
    for (uint64_t seed = 1; n < wanted; seed++) {
        hlwq_sampling sampling = {.temperature = 1, .top_k = RANKS, .top_p = 1, .repetition_penalty = 1, .seed = seed};
        int32_t id;
        CHECK_OK(hlwq_session_set_sampling(s, &sampling, &err), err);
        hlwq_session_reset(s);
        CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
        for (uint32_t i = 0; i < 150 && n < wanted; i++, n++) {
            double chance[RANKS];
            int32_t ranked[RANKS];
            rank_chances(hlwq_session_logits(s), vocab, chance, ranked);
            CHECK_OK(hlwq_session_next(s, &id, &err), err);
            if (id < 0)
                break;
            int rank = 0;
            while (rank < RANKS && ranked[rank] != id)
                rank++;
            assert_true(rank < RANKS);
            seen[rank]++;
            for (int r = 0; r < RANKS; r++)
                expected[r] += chance[r];
        }
    }
    hlwq_session_speculation(s, &ahead);
    assert_true(ahead.accepted[0] + ahead.accepted[1] > 0);
    for (int r = 0; r < RANKS; r++)
        drafts_only[0] += seen[r];
    if (chi_square(seen, expected) > 24.3) /* one in a thousand, of seven degrees of freedom; the seeds are fixed */
        fail_msg("chi-square %.1f over %u choices", chi_square(seen, expected), n);
    assert_true(chi_square(drafts_only, expected) > 100); /* what taking every draft would give is found out */
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

/* ---- states --------------------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *x)
{
    *x = *x * 1664525u + 1013904223u;
    return *x >> 8;
}

static void rolled_back_states_are_those_of_single_steps(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(HLWQ_DRAFT_OFF, 0, false, 0, HLWQ_KV_K4V3);
    const hs_config *c = e->net.config;
    hs_kv_format kv;
    hs_states a, b;
    hs_delta_window window[16];
    uint32_t channels = hs_conv_channels(c), at = 0, seed = 12345;
    size_t vocab = c->vocab;
    assert_true(c->layers <= 16);
    CHECK_OK(hs_kv_format_named(&kv, HLWQ_KV_K4V3, c, &err), err);
    CHECK_OK(hs_states_init(&a, c, e->mem, e->backend, kv, 256, 64, &err), err);
    CHECK_OK(hs_states_init(&b, c, e->mem, e->backend, kv, 256, 64, &err), err);
    for (uint32_t l = 0; l < c->layers; l++) {
        window[l].raw = calloc((c->conv_taps - 1 + HS_WINDOW_MAX) * channels, sizeof(float));
        window[l].mix = calloc(HS_WINDOW_MAX * channels, sizeof(float));
        window[l].gates = calloc(HS_WINDOW_MAX * 2ull * c->v_heads, sizeof(float));
    }
    float *many = malloc(HS_WINDOW_MAX * vocab * sizeof(float)), *one = malloc(vocab * sizeof(float));
    uint32_t end = slow() ? 24 : 200; /* past 128: pages turn into codes, in windows that are taken back too */
    while (at < end) {
        int32_t ids[HS_WINDOW_MAX];
        uint32_t n = 1 + next_random(&seed) % HS_WINDOW_MAX, kept = 1 + next_random(&seed) % n;
        for (uint32_t i = 0; i < n; i++)
            ids[i] = (int32_t)(next_random(&seed) % vocab);
        a.window = window;
        CHECK_OK(hs_forward(&e->net, &a, ids, at, n, HS_LOGITS_ALL, many, NULL, &err), err);
        a.window = NULL;
        for (uint32_t i = 0; i < c->layers && n > 1; i++)
            if (!c->full[i])
                CHECK_OK(e->backend->ops->deltanet_keep(e->backend, &e->net.layer[i].delta, &a.delta[a.index[i]],
                                                        &window[a.index[i]], kept, &err),
                         err);
        for (uint32_t i = 0; i < kept; i++, at++) {
            CHECK_OK(hs_forward(&e->net, &b, &ids[i], at, 1, HS_LOGITS_LAST, one, NULL, &err), err);
            if (memcmp(one, many + i * vocab, vocab * sizeof(float)) != 0)
                fail_msg("position %u, token %u of %u: other logits", at, i, n);
        }
        if (memcmp(a.block, b.block, a.block_bytes) != 0)
            fail_msg("position %u, %u of %u kept: other states", at, kept, n);
    }
    for (uint32_t l = 0; l < c->layers; l++) {
        free(window[l].raw);
        free(window[l].mix);
        free(window[l].gates);
    }
    free(many);
    free(one);
    hs_states_close(&a);
    hs_states_close(&b);
    hlwq_engine_close(e);
}

/* ---- faults --------------------------------------------------------------------------------- */

static hlwq_status a_drafted_life(const hlwq_engine_options *o, hlwq_error *err)
{
    hlwq_engine *e;
    hlwq_session *s = NULL;
    int32_t id;
    HS_TRY(hlwq_engine_open(o, &e, err));
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 128;
    hlwq_status st = hlwq_session_open(e, &so, &s, err);
    if (st == HLWQ_OK)
        st = hlwq_session_prompt(s, "The old man and the", err);
    for (int i = 0; i < 4 && st == HLWQ_OK; i++)
        st = hlwq_session_next(s, &id, err);
    hlwq_session_close(s);
    hlwq_engine_close(e); /* asserts that nothing is held */
    return st;
}

static void refused_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine_options o = hlwq_engine_options_default();
    uint64_t n = 0;
    if (access(demo_model, R_OK) != 0)
        skip();
    o.device = HLWQ_DEVICE_CPU;
    o.model = demo_model;
    o.context = 128;
    o.threads = 1;
    o.verify = HLWQ_VERIFY_OFF;
    o.draft = HLWQ_DRAFT_AUTO;
    o.draft_vocab = 300;
    for (;; n += slow() ? 9 : 1) {
        hs_mem_fail_at(NULL, n);
        hlwq_status st = a_drafted_life(&o, &err);
        bool failed = hs_mem_has_failed();
        hs_mem_fail_at(NULL, UINT64_MAX);
        if (!failed) {
            CHECK_OK(st, err);
            break;
        }
        if (st != HLWQ_ERR_NOMEM)
            fail_msg("allocation %u: status %d, %s", (unsigned)n, st, st ? err.message : "no error");
    }
    assert_true(n > 30);
}

static void refuses_what_cannot_be(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = demo_options(HLWQ_DEVICE_CPU);
    o.draft = HLWQ_DRAFT_AUTO;
    o.draft_depth = 8;
    CHECK_FAILS(hlwq_engine_open(&o, &e, &err), HLWQ_ERR_ARG, err, "most is 7");
    o.model = "tests/golden/qwen35/dense-tied";
    o.draft = HLWQ_DRAFT_MTP;
    o.draft_depth = 0;
    CHECK_FAILS(hlwq_engine_open(&o, &e, &err), HLWQ_ERR_UNSUPPORTED, err, "no MTP head");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_tokens_and_logits),
        cmocka_unit_test(other_calls_in_the_middle_of_a_window),
        cmocka_unit_test(a_saved_session_goes_on_with_and_without_drafts),
        cmocka_unit_test(windows_end_with_the_context),
        cmocka_unit_test(chances_are_those_of_the_logits),
        cmocka_unit_test(rolled_back_states_are_those_of_single_steps),
        cmocka_unit_test(refused_allocations_leave_nothing_behind),
        cmocka_unit_test(refuses_what_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
