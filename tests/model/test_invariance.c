/* One hash of all logits for every thread count and every cut on the grid; and sessions that fail cleanly. */
#include "include/hlwq_stream.h"
#include "tests/support/check.h"
#include "tests/support/demo.h"

#include <unistd.h>

static hlwq_engine *open_engine(uint32_t threads, uint64_t ram)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = demo_options(test_device());
    o.threads = threads;
    o.ram_bytes = ram;
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    return e;
}

static hlwq_session *open_session(hlwq_engine *e)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_options o = hlwq_session_options_default(e);
    o.context = 512;
    o.sampling.temperature = 0;
    CHECK_OK(hlwq_session_open(e, &o, &s, &err), err);
    return s;
}

static const char prompt[] =
    "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals, when it was checked by a "
    "violent gust of wind which swept up the streets, rattling along the house-tops, and fiercely agitating the scanty flame "
    "of the lamps that struggled against the darkness. Through one of the obscurest quarters of London, and among haunts "
    "little loved by the gentlemen of the police, a man, evidently of the lowest orders, was wending his solitary way.";

static void greedy_text_and_logits_are_the_same_for_all_thread_counts(void **state)
{
    (void)state;
    static const uint32_t threads[] = {1, 2, 7};
    uint64_t hash = 0;
    int32_t first[24];
    for (int i = 0; i < 3; i++) {
        hlwq_error err;
        hlwq_engine *e = open_engine(threads[i], 0);
        hlwq_session *s = open_session(e);
        CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
        for (int t = 0; t < 24; t++) {
            int32_t id;
            CHECK_OK(hlwq_session_next(s, &id, &err), err);
            if (i == 0)
                first[t] = id;
            assert_int_equal(id, first[t]);
        }
        hlwq_session_stats stats;
        hlwq_session_get_stats(s, &stats);
        if (i == 0)
            hash = stats.logits_hash;
        if (stats.logits_hash != hash)
            fail_msg("%u threads: logits hash %016llx, wanted %016llx", threads[i],
                     (unsigned long long)stats.logits_hash, (unsigned long long)hash);
        hlwq_session_close(s);
        hlwq_engine_close(e);
    }
}

static void a_prompt_may_be_cut_on_the_grid(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(2, 0);
    int32_t *ids;
    size_t n;
    hlwq_model_facts facts;
    hlwq_engine_facts(e, &facts);
    CHECK_OK(hlwq_tokenize(hlwq_engine_tokenizer(e), prompt, sizeof prompt - 1, false, &ids, &n, &err), err);
    assert_true(n > 70);
    float *whole = NULL;
    static const size_t cut[] = {1000, 64, 128};
    for (int i = 0; i < 3; i++) {
        hlwq_session *s = open_session(e);
        for (size_t at = 0; at < n; at += cut[i])
            CHECK_OK(hlwq_session_eval(s, ids + at, n - at < cut[i] ? n - at : cut[i], NULL, &err), err);
        size_t bytes = facts.vocab * sizeof(float);
        if (i == 0) {
            whole = malloc(bytes);
            memcpy(whole, hlwq_session_logits(s), bytes);
        }
        assert_memory_equal(hlwq_session_logits(s), whole, bytes);
        hlwq_session_close(s);
    }
    free(whole);
    hlwq_free(ids);
    hlwq_engine_close(e);
}

static void same_seed_same_text(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(2, 0);
    int32_t first[16], other = 0;
    for (int i = 0; i < 3; i++) {
        hlwq_session *s;
        hlwq_session_options o = hlwq_session_options_default(e);
        o.context = 64;
        o.sampling.temperature = 1.0f;
        o.sampling.seed = i == 2 ? 8 : 7;
        CHECK_OK(hlwq_session_open(e, &o, &s, &err), err);
        CHECK_OK(hlwq_session_prompt(s, "Once upon a time", &err), err);
        for (int t = 0; t < 16; t++) {
            int32_t id;
            CHECK_OK(hlwq_session_next(s, &id, &err), err);
            if (i == 0)
                first[t] = id;
            if (i == 1)
                assert_int_equal(id, first[t]);
            other += i == 2 && id != first[t];
        }
        hlwq_session_close(s);
    }
    assert_true(other > 0);
    hlwq_engine_close(e);
}

static void sampling_changes_between_two_tokens(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(1, 0);
    hlwq_session *s = open_session(e);
    hlwq_sampling greedy = {.top_p = 1, .repetition_penalty = 1}, wrong = {.top_p = 2, .repetition_penalty = 1};
    CHECK_OK(hlwq_session_prompt(s, "The old man", &err), err);
    for (int i = 0; i < 8; i++) {
        const float *l = hlwq_session_logits(s);
        int32_t best = 0, id;
        for (int32_t k = 1; k < 4070; k++)
            best = l[k] > l[best] ? k : best;
        CHECK_OK(hlwq_session_set_sampling(s, &greedy, &err), err);
        CHECK_FAILS(hlwq_session_set_sampling(s, &wrong, &err), HLWQ_ERR_ARG, err, "top-p");
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
        assert_int_equal(id, best);
    }
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

static void limits_are_sentences(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(1, 0);
    hlwq_session *s = open_session(e);
    int32_t id, bad = 4096;
    CHECK_FAILS(hlwq_session_next(s, &id, &err), HLWQ_ERR_ARG, err, "prompt");
    CHECK_FAILS(hlwq_session_eval(s, &bad, 1, NULL, &err), HLWQ_ERR_ARG, err, "4096");
    int32_t *many = calloc(600, sizeof *many);
    CHECK_FAILS(hlwq_session_eval(s, many, 600, NULL, &err), HLWQ_ERR_BUDGET, err, "--ctx");
    free(many);
    CHECK_OK(hlwq_session_prompt(s, "still works", &err), err);
    hlwq_session_cancel(s);
    CHECK_FAILS(hlwq_session_next(s, &id, &err), HLWQ_ERR_CANCELLED, err, "stopped");
    CHECK_OK(hlwq_session_next(s, &id, &err), err);
    hlwq_session_close(s);
    hlwq_session_options o = hlwq_session_options_default(e);
    o.context = 100000;
    CHECK_FAILS(hlwq_session_open(e, &o, &s, &err), HLWQ_ERR_ARG, err, "8192");
    o.context = 64;
    o.sampling.top_p = 2;
    CHECK_FAILS(hlwq_session_open(e, &o, &s, &err), HLWQ_ERR_ARG, err, "top-p");
    hlwq_engine_close(e);
}

static void a_budget_is_a_budget(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = test_device();
    if (access(demo_model, R_OK) != 0)
        skip();
    o.model = demo_model;
    o.ram_bytes = 10u << 20;
    CHECK_FAILS(hlwq_engine_open(&o, &e, &err), HLWQ_ERR_BUDGET, err, "smallest");
    uint64_t now, peak;
    o.ram_bytes = 0;
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    hlwq_engine_memory(e, &now, &peak);
    hlwq_engine_close(e);
    o.context = 512;
    o.ram_bytes = now + (8u << 20); /* room for a small context, not for a large one */
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    hlwq_session_options so = hlwq_session_options_default(e);
    assert_true(peak <= o.ram_bytes);
    so.context = 8192;
    so.kv = HLWQ_KV_F32;
    CHECK_FAILS(hlwq_session_open(e, &so, &s, &err), HLWQ_ERR_BUDGET, err, "--ctx");
    so.context = 512;
    CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
    hlwq_session_close(s);
    uint64_t after;
    hlwq_engine_memory(e, &after, &peak);
    assert_int_equal(after, now);
    hlwq_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_text_and_logits_are_the_same_for_all_thread_counts),
        cmocka_unit_test(a_prompt_may_be_cut_on_the_grid),
        cmocka_unit_test(same_seed_same_text),
        cmocka_unit_test(sampling_changes_between_two_tokens),
        cmocka_unit_test(limits_are_sentences),
        cmocka_unit_test(a_budget_is_a_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
