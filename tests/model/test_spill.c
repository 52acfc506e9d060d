/*
 * Keys and values that do not fit: the same logits as with all of them in memory, in every form, going back behind what
 * is in memory, and from a session file; the budget is kept; what cannot be is a sentence.
 */
#include "model/session.h"
#include "tests/support/check.h"
#include "tests/support/demo.h"

#include <unistd.h>

enum { CTX = 4096, N = 1900, MARK = 733, SAME = 760, NEXT = 5, OTHER = 860 };

static hlwq_engine_options options(hlwq_kv kv)
{
    hlwq_engine_options o = demo_options(HLWQ_DEVICE_CPU);
    o.context = CTX;
    o.kv = kv;
    o.prefix_bytes = 4u << 20;
    return o;
}

/* Too little for the context: nearly everything that can go to the file must. */
static uint64_t tight(const hlwq_engine_options *o)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_plan plan;
    hs_kv_format format;
    CHECK_OK(hlwq_make_plan(o, &plan, &err), err);
    CHECK_OK(hlwq_engine_open(o, &e, &err), err);
    CHECK_OK(hs_kv_format_named(&format, o->kv, e->net.config, &err), err);
    uint64_t filed = hs_states_filed_bytes(e->net.config, format, CTX, HS_HOT_MIN);
    hlwq_engine_close(e);
    assert_true(filed > 256 << 10);
    return plan.smallest_bytes - filed / 10 * 9;
}

static void decode(hlwq_session *s, int32_t *id)
{
    hlwq_error err;
    for (int i = 0; i < NEXT; i++)
        CHECK_OK(hlwq_session_next(s, &id[i], &err), err);
}

/* A text, a second one that parts from it, and the first one again from a file: all tokens, and a hash of all logits.
 */
static uint64_t story(const hlwq_engine_options *o, int32_t next[3 * NEXT], bool spills)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    static int32_t id[N];
    char path[64];
    size_t kept;
    snprintf(path, sizeof path, "spill-%d.session", (int)getpid());
    for (uint32_t i = 0; i < N; i++)
        id[i] = (int32_t)(i * 2654435761u >> 7) % 4000;
    CHECK_OK(hlwq_engine_open(o, &e, &err), err);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = CTX;
    so.kv = o->kv;
    so.sampling.temperature = 0;
    CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
    CHECK_OK(hlwq_session_eval(s, id, MARK, NULL, &err), err);
    CHECK_OK(hlwq_session_mark(s, &err), err);
    for (uint32_t at = MARK, n; at < N; at += n) {
        n = N - at < 400 ? N - at : 400;
        CHECK_OK(hlwq_session_eval(s, id + at, n, NULL, &err), err);
    }
    assert_int_equal(s->states.spill != NULL, spills);
    assert_true(!spills || s->states.low > HS_SPILL_WINDOW); /* attention had two windows at least */
    decode(s, next);
    CHECK_OK(hlwq_session_save(s, path, NULL, &err), err);
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    assert_int_equal(stats.spilled_bytes > 0 && stats.spill_read_bytes > stats.spilled_bytes, spills);
    uint64_t hash = stats.logits_hash, now, peak;
    for (uint32_t i = SAME; i < N; i++)
        id[i] = (id[i] + 1) % 4000;
    CHECK_OK(hlwq_session_seek(s, id, OTHER, &kept, &err), err);
    assert_int_equal(kept, MARK);
    CHECK_OK(hlwq_session_eval(s, id + MARK, OTHER - MARK, NULL, &err), err);
    decode(s, next + NEXT);
    CHECK_OK(hlwq_session_load(s, path, NULL, &err), err);
    decode(s, next + 2 * NEXT);
    int32_t again[NEXT]; /* the state to go back to was in the file */
    CHECK_OK(hlwq_session_seek(s, id, OTHER, &kept, &err), err);
    assert_int_equal(kept, MARK);
    CHECK_OK(hlwq_session_eval(s, id + MARK, OTHER - MARK, NULL, &err), err);
    decode(s, again);
    assert_memory_equal(again, next + NEXT, sizeof again);
    hlwq_session_get_stats(s, &stats);
    hash ^= stats.logits_hash * 31;
    hlwq_engine_memory(e, &now, &peak);
    assert_true(!o->ram_bytes || peak + (4u << 20) <= o->ram_bytes);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    unlink(path);
    return hash;
}

static void pages_in_a_file_change_nothing(void **state)
{
    (void)state;
    static const hlwq_kv modes[] = {HLWQ_KV_F16, HLWQ_KV_K4V3, HLWQ_KV_Q2};
    bool sanitized = getenv("HLWQ_SANITIZE") != NULL;
    for (uint32_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        if (sanitized && m == 1)
            continue; /* slow */
        hlwq_engine_options o = options(modes[m]);
        int32_t want[3 * NEXT], got[3 * NEXT];
        o.threads = 2;
        uint64_t hash = story(&o, want, false);
        o.threads = 1 + m % 3;
        o.ram_bytes = tight(&o);
        o.kv_spill = ".";
        uint64_t spilled = story(&o, got, true);
        if (spilled != hash)
            fail_msg("--kv %x: hash %016llx with a file, %016llx without", modes[m], (unsigned long long)spilled,
                     (unsigned long long)hash);
        assert_memory_equal(got, want, sizeof want);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    hlwq_plan plan;
    hlwq_engine_options o = options(HLWQ_KV_F16);
    o.ram_bytes = tight(&o);
    CHECK_FAILS(hlwq_make_plan(&o, &plan, &err), HLWQ_ERR_BUDGET, err, "the smallest --ram that works");
    o.kv_spill = "/nowhere/at/all";
    CHECK_OK(hlwq_make_plan(&o, &plan, &err), err);
    assert_true(plan.kv_file_bytes > 0 && plan.kv_bytes > 0 && plan.total_bytes <= o.ram_bytes);
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = CTX;
    CHECK_FAILS(hlwq_session_open(e, &so, &s, &err), HLWQ_ERR_IO, err, "/nowhere/at/all");
    hlwq_engine_close(e);
    o.ram_bytes = plan.smallest_bytes - plan.smallest_bytes / 32; /* the least with a file */
    CHECK_FAILS(hlwq_make_plan(&o, &plan, &err), HLWQ_ERR_BUDGET, err, "the smallest --ram that works");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_in_a_file_change_nothing),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
