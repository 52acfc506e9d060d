/* Several sessions that step together: each has the bits that it has alone. */
#include "include/hlwq_stream.h"
#include "tests/support/check.h"
#include "tests/support/demo.h"

#include <unistd.h>

enum { TEXTS = 8, TOKENS = 30, PROMPT = 104, CONTEXT = 192 };

/* Ends short of the position at which pages are coded, so that decoding passes it. */
static void read_prompt(hlwq_session *s, uint32_t text)
{
    hlwq_error err;
    int32_t ids[PROMPT];
    for (uint32_t i = 0; i < PROMPT; i++)
        ids[i] = (int32_t)((i * 37 + text * 101 + 11) % 4000);
    CHECK_OK(hlwq_session_eval(s, ids, PROMPT - 3 * text, NULL, &err), err);
}

static hlwq_engine *open_drafting(hlwq_kv kv, uint64_t ram, uint32_t sessions, hlwq_draft draft)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = demo_options(test_device());
    o.threads = 2;
    o.kv = kv;
    o.ram_bytes = ram;
    o.context = CONTEXT;
    o.sessions = sessions;
    o.draft = draft;
    o.draft_always = true;
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    return e;
}

static hlwq_engine *open_engine(hlwq_kv kv, uint64_t ram, uint32_t sessions)
{
    return open_drafting(kv, ram, sessions, HLWQ_DRAFT_OFF);
}

static hlwq_session *open_session(hlwq_engine *e, hlwq_kv kv, uint64_t seed)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_options o = hlwq_session_options_default(e);
    o.context = CONTEXT;
    o.kv = kv;
    o.sampling.temperature = 0.9f;
    o.sampling.seed = seed;
    CHECK_OK(hlwq_session_open(e, &o, &s, &err), err);
    return s;
}

typedef struct result {
    int32_t id[TOKENS];
    uint64_t hash;
} result;

static void alone(hlwq_engine *e, hlwq_kv kv, uint32_t i, uint32_t tokens, result *r)
{
    hlwq_error err;
    hlwq_session_stats stats;
    hlwq_session *s = open_session(e, kv, i);
    read_prompt(s, i);
    for (uint32_t t = 0; t < tokens; t++) { /* past the end of a text too */
        bool ends;
        CHECK_OK(hlwq_session_sample(s, &r->id[t], &ends, &err), err);
        CHECK_OK(hlwq_session_eval(s, &r->id[t], 1, NULL, &err), err);
    }
    hlwq_session_get_stats(s, &stats);
    r->hash = stats.logits_hash;
    hlwq_session_close(s);
}

/* Texts join one after the other and leave as they are done, so that every width is met. */
static void together(hlwq_engine *e, hlwq_kv kv, uint32_t tokens, const result *want)
{
    hlwq_error err;
    hlwq_session *s[TEXTS];
    uint32_t made[TEXTS] = {0}, joined = 0, left = TEXTS;
    while (left) {
        hlwq_session *row[TEXTS];
        int32_t id[TEXTS];
        uint32_t n = 0;
        if (joined < TEXTS) {
            s[joined] = open_session(e, kv, joined);
            read_prompt(s[joined], joined);
            joined++;
        }
        for (uint32_t i = 0; i < joined; i++) {
            bool ends;
            if (made[i] == tokens)
                continue;
            CHECK_OK(hlwq_session_sample(s[i], &id[n], &ends, &err), err);
            assert_int_equal(id[n], want[i].id[made[i]]);
            made[i]++;
            row[n++] = s[i];
        }
        CHECK_OK(hlwq_sessions_step(row, id, n, &err), err);
        left = joined < TEXTS;
        for (uint32_t i = 0; i < joined; i++)
            left += made[i] < tokens;
    }
    for (uint32_t i = 0; i < TEXTS; i++) {
        hlwq_session_stats stats;
        hlwq_session_get_stats(s[i], &stats);
        if (stats.logits_hash != want[i].hash)
            fail_msg("text %u: logits hash %016llx, alone %016llx", i, (unsigned long long)stats.logits_hash,
                     (unsigned long long)want[i].hash);
        hlwq_session_close(s[i]);
    }
}

static void texts_in_a_batch_have_the_bits_they_have_alone(void **state)
{
    (void)state;
    static const hlwq_kv kv[] = {HLWQ_KV_F16, HLWQ_KV_K4V3};
    for (int k = 0; k < 2; k++) {
        result want[TEXTS];
        uint32_t tokens = k ? TOKENS : 8;
        hlwq_engine *e = open_engine(kv[k], 0, TEXTS);
        for (uint32_t i = 0; i < TEXTS; i++)
            alone(e, kv[k], i, tokens, &want[i]);
        together(e, kv[k], tokens, want);
        hlwq_engine_close(e);
    }
}

/* Alone, a text is ahead of what is asked for; joined by others it is where it says it is. */
static void and_when_texts_draft(void **state)
{
    (void)state;
    result want[TEXTS];
    hlwq_speculation ahead;
    hlwq_engine *e = open_engine(HLWQ_KV_K4V3, 0, 1);
    for (uint32_t i = 0; i < TEXTS; i++)
        alone(e, HLWQ_KV_K4V3, i, TOKENS, &want[i]);
    hlwq_engine_close(e);
    e = open_drafting(HLWQ_KV_K4V3, 0, TEXTS, HLWQ_DRAFT_AUTO);
    together(e, HLWQ_KV_K4V3, TOKENS, want);
    hlwq_engine_speculation(e, &ahead);
    if (test_device() == HLWQ_DEVICE_CPU) /* the first text begins alone */
        assert_true(ahead.passes > 0 && ahead.drafted[0] + ahead.drafted[1] > 0);
    hlwq_engine_close(e);
}

static void and_when_experts_are_streamed(void **state)
{
    (void)state;
    result want[TEXTS];
    hlwq_engine *e = open_engine(HLWQ_KV_F16, 0, 1);
    for (uint32_t i = 0; i < TEXTS; i++)
        alone(e, HLWQ_KV_F16, i, 6, &want[i]);
    hlwq_engine_close(e);
    hlwq_plan plan;
    hlwq_error err;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = HLWQ_DEVICE_CPU;
    o.model = demo_model;
    o.context = CONTEXT;
    o.sessions = TEXTS;
    o.ram_bytes = 1ull << 30;
    CHECK_OK(hlwq_make_plan(&o, &plan, &err), err);
    e = open_engine(HLWQ_KV_F16, test_device() == HLWQ_DEVICE_CPU ? plan.smallest_bytes + (1u << 20) : 0, TEXTS);
    together(e, HLWQ_KV_F16, 6, want);
    hlwq_engine_close(e);
}

typedef struct seen {
    float *row;
    size_t vocab, n, stop;
} seen;

static bool take_row(void *user, size_t at, const float *logits)
{
    seen *k = user;
    assert_int_equal(at, k->n);
    memcpy(k->row + k->n++ * k->vocab, logits, k->vocab * sizeof(float));
    return k->n != k->stop;
}

static void logits_shown_one_by_one_are_those_of_eval(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_model_facts facts;
    enum { N = 150 };
    int32_t ids[N], other;
    for (uint32_t sessions = 1; sessions <= 2; sessions++) {
        hlwq_engine *e = open_engine(HLWQ_KV_F16, 0, sessions);
        hlwq_engine_facts(e, &facts);
        for (int i = 0; i < N; i++)
            ids[i] = (i * 37 + 11) % 4000;
        float *all = malloc(N * facts.vocab * sizeof *all);
        seen k = {malloc(N * facts.vocab * sizeof *all), facts.vocab, 0, 0};
        hlwq_session *a = open_session(e, HLWQ_KV_F16, 1), *b = open_session(e, HLWQ_KV_F16, 1);
        CHECK_OK(hlwq_session_eval(a, ids, N, all, &err), err);
        CHECK_OK(hlwq_session_eval_each(b, ids, N, take_row, &k, &err), err);
        assert_int_equal(k.n, N);
        assert_memory_equal(all, k.row, N * facts.vocab * sizeof *all);
        for (int t = 0; t < 8; t++) {
            CHECK_OK(hlwq_session_next(a, &ids[0], &err), err);
            CHECK_OK(hlwq_session_next(b, &other, &err), err);
            assert_int_equal(ids[0], other);
        }
        k.n = 0;
        k.stop = 3;
        hlwq_session_reset(b);
        CHECK_FAILS(hlwq_session_eval_each(b, ids, N, take_row, &k, &err), HLWQ_ERR_CANCELLED, err, "stopped");
        free(all);
        free(k.row);
        hlwq_session_close(a);
        hlwq_session_close(b);
        hlwq_engine_close(e);
    }
}

static void steps_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(HLWQ_KV_F16, 0, 2), *f = open_engine(HLWQ_KV_F16, 0, 1);
    hlwq_session *a = open_session(e, HLWQ_KV_F16, 0), *b = open_session(e, HLWQ_KV_F16, 0);
    hlwq_session *c = open_session(f, HLWQ_KV_F16, 0), *many[9] = {a, b, a, b, a, b, a, b, a};
    int32_t ids[9] = {1, 2, 3}, id;
    bool ends;
    CHECK_FAILS(hlwq_session_sample(a, &id, &ends, &err), HLWQ_ERR_ARG, err, "no text");
    CHECK_FAILS(hlwq_sessions_step((hlwq_session *[]){a, a}, ids, 2, &err), HLWQ_ERR_ARG, err, "twice");
    CHECK_FAILS(hlwq_sessions_step((hlwq_session *[]){a, c}, ids, 2, &err), HLWQ_ERR_ARG, err, "another engine");
    CHECK_FAILS(hlwq_sessions_step(many, ids, 9, &err), HLWQ_ERR_ARG, err, "at most 8");
    ids[1] = -7;
    CHECK_FAILS(hlwq_sessions_step((hlwq_session *[]){a, b}, ids, 2, &err), HLWQ_ERR_ARG, err, "-7");
    assert_int_equal(hlwq_session_position(a), 0);
    CHECK_OK(hlwq_sessions_step(NULL, NULL, 0, &err), err);
    hlwq_session_close(a);
    hlwq_session_close(b);
    hlwq_session_close(c);
    hlwq_engine_close(e);
    hlwq_engine_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_in_a_batch_have_the_bits_they_have_alone),
        cmocka_unit_test(and_when_texts_draft),
        cmocka_unit_test(and_when_experts_are_streamed),
        cmocka_unit_test(logits_shown_one_by_one_are_those_of_eval),
        cmocka_unit_test(steps_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
