/* States to go back to: a conversation reads only what is new of it and says what it would have said; marks stay within
 * their budget. */
#include "model/prefix.h"
#include "tests/support/check.h"
#include "tests/support/demo.h"

#include <unistd.h>

enum { VOCAB = 4096, CONTEXT = 1024 };

static hlwq_engine *open_engine(hlwq_kv kv, uint64_t prefix_bytes)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = demo_options(HLWQ_DEVICE_CPU);
    o.threads = 1;
    o.context = CONTEXT;
    o.kv = kv;
    o.prefix_bytes = prefix_bytes;
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    return e;
}

static hlwq_session *open_session(hlwq_engine *e, hlwq_kv kv)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_options o = hlwq_session_options_default(e);
    o.context = CONTEXT;
    o.kv = kv;
    o.sampling.temperature = 0;
    CHECK_OK(hlwq_session_open(e, &o, &s, &err), err);
    return s;
}

static void make_up(int32_t *id, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        id[i] = (int32_t)(((uint32_t)i + 977 * seed) * 2654435761u >> 7) % 4000;
}

static uint64_t bits(const hlwq_session *s)
{
    return XXH3_64bits(hlwq_session_logits(s), VOCAB * sizeof(float));
}

static uint64_t read_tokens(const hlwq_session *s)
{
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    return stats.prompt_tokens;
}

/*
 * Ten turns as a template that drops reasoning makes them: an answer is opened (3 tokens), thought about and given
 * (12); the next prompt has the words of the answer in another place, then a new question.
 */
static void ten_turns_read_what_is_new_and_say_the_same(void **state)
{
    (void)state;
    static const hlwq_kv modes[] = {HLWQ_KV_F16, HLWQ_KV_K4V3};
    for (int m = 0; m < 2; m++) {
        hlwq_error err;
        hlwq_engine *e = open_engine(modes[m], HLWQ_PREFIX_AUTO);
        hlwq_session *s = open_session(e, modes[m]), *fresh = open_session(e, modes[m]);
        int32_t prompt[CONTEXT];
        size_t n = 90, before = 0, kept;
        make_up(prompt, n, 0);
        for (uint32_t turn = 0; turn < 10; turn++) {
            size_t edge = n;
            make_up(prompt + n, 3, 50);
            uint64_t read = read_tokens(s);
            CHECK_OK(hlwq_session_read(s, prompt, n + 3, &edge, 1, &kept, &err), err);
            read = turn && kept ? read_tokens(s) - read : read_tokens(s);
            assert_int_equal(read + kept, n + 3);
            if (read > n + 3 - before + 64)
                fail_msg("turn %u: %d tokens read, %zu are new", turn, (int)read, n + 3 - before);
            before = n + 3;
            hlwq_session_reset(fresh);
            CHECK_OK(hlwq_session_eval(fresh, prompt, n + 3, NULL, &err), err);
            if (bits(s) != bits(fresh))
                fail_msg("mode %x, turn %u: other logits than of the whole prompt", modes[m], turn);
            for (int i = 0; i < 12; i++) {
                int32_t id;
                CHECK_OK(hlwq_session_next(s, &id, &err), err);
            }
            make_up(prompt + n, 35, turn + 1);
            n += 35;
        }
        hlwq_session_close(fresh);
        hlwq_session_close(s);
        assert_int_equal(e->prefix.marks, 0);
        assert_int_equal(e->prefix.held_bytes, 0);
        hlwq_engine_close(e);
    }
}

static void another_session_takes_the_beginning_over(void **state)
{
    (void)state;
    static const hlwq_kv modes[] = {HLWQ_KV_F16, HLWQ_KV_Q3};
    for (int m = 0; m < 2; m++) {
        hlwq_error err;
        hlwq_engine *e = open_engine(modes[m], HLWQ_PREFIX_AUTO);
        hlwq_session *a = open_session(e, modes[m]), *b = open_session(e, modes[m]);
        int32_t one[600], two[600];
        size_t edge[] = {290, 420}, kept;
        make_up(one, 600, 1);
        make_up(two, 600, 2);
        memcpy(two, one, 330 * sizeof *one);
        CHECK_OK(hlwq_session_read(a, one, 600, edge, 2, &kept, &err), err); /* marks 256 and 384, goes on to 600 */
        assert_int_equal(kept, 0);
        assert_int_equal(e->prefix.marks, 2);
        assert_int_equal(hlwq_session_known(b, two, 600), 256);
        CHECK_OK(hlwq_session_eval(b, two + 300, 20, NULL, &err), err);
        CHECK_OK(hlwq_session_read(b, two, 400, NULL, 0, &kept, &err), err);
        assert_int_equal(kept, 256);
        uint64_t got = bits(b);
        hlwq_session_reset(b);
        CHECK_OK(hlwq_session_eval(b, two, 400, NULL, &err), err);
        assert_true(bits(b) == got);
        /* And the first goes back, which drops what lies behind. */
        CHECK_OK(hlwq_session_read(a, two, 400, NULL, 0, &kept, &err), err);
        assert_int_equal(kept, 256);
        assert_true(bits(a) == got);
        assert_int_equal(e->prefix.marks, 1);
        CHECK_OK(hlwq_session_seek(a, two, 400, &kept, &err), err); /* is there */
        assert_int_equal(kept, 400);
        assert_true(bits(a) == got);
        CHECK_OK(hlwq_session_seek(a, one + 100, 400, &kept, &err), err);
        assert_true(kept == 0 && hlwq_session_position(a) == 0 && e->prefix.marks == 0);
        hlwq_session_close(a);
        hlwq_session_close(b);
        hlwq_engine_close(e);
    }
}

static void the_least_recently_used_makes_room(void **state)
{
    (void)state;
    hlwq_error err;
    hs_kv_format q4 = {HS_Q4, HS_Q4};
    hlwq_engine *e = open_engine(HLWQ_KV_Q4, 0);
    uint64_t one = hs_mark_bytes(e->net.config, q4);
    hlwq_session *s = open_session(e, HLWQ_KV_Q4);
    int32_t id[500];
    size_t kept;
    make_up(id, 500, 3);
    CHECK_OK(hlwq_session_eval(s, id, 64, NULL, &err), err);
    CHECK_OK(hlwq_session_mark(s, &err), err);
    assert_int_equal(e->prefix.marks, 0); /* no room at all */
    hlwq_session_close(s);
    hlwq_engine_close(e);

    e = open_engine(HLWQ_KV_Q4, 2 * one);
    uint64_t before = hs_mem_tag_bytes(e->mem, HS_MEM_STATE);
    s = open_session(e, HLWQ_KV_Q4);
    uint64_t bare = hs_mem_tag_bytes(e->mem, HS_MEM_STATE);
    const size_t edge[] = {128, 192, 256};
    CHECK_OK(hlwq_session_read(s, id, 300, edge, 2, &kept, &err), err);
    CHECK_OK(hlwq_session_seek(s, id, 160, &kept, &err), err); /* the mark at 192 goes, that at 128 is used */
    assert_int_equal(kept, 128);
    CHECK_OK(hlwq_session_read(s, id, 300, edge, 3, &kept, &err), err);
    assert_int_equal(kept, 128);
    assert_int_equal(e->prefix.marks, 2);
    assert_true(e->prefix.held_bytes <= 2 * one);
    assert_true(hs_mem_tag_bytes(e->mem, HS_MEM_STATE) - bare <= e->prefix.held_bytes);
    CHECK_OK(hlwq_session_mark(s, &err), err);
    CHECK_OK(hlwq_session_mark(s, &err), err); /* once is enough */
    assert_int_equal(e->prefix.marks, 2);
    assert_int_equal(hlwq_session_known(s, id, 290), 256);
    id[200]++;
    assert_int_equal(hlwq_session_known(s, id, 290), 0); /* 128 and 192 made room */
    hlwq_session_close(s);
    assert_int_equal(hs_mem_tag_bytes(e->mem, HS_MEM_STATE), before);
    hlwq_engine_close(e);
}

/* The last tokens of an answer have other bits than when they are read: a session that must not show that re-reads. */
static void one_that_asks_for_whole_texts_has_their_bits(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(HLWQ_KV_F16, HLWQ_PREFIX_AUTO);
    hlwq_session_options o = hlwq_session_options_default(e);
    hlwq_session *any = open_session(e, HLWQ_KV_F16), *whole, *fresh = open_session(e, HLWQ_KV_F16);
    int32_t id[200], next;
    size_t kept;
    o.context = CONTEXT;
    o.whole = true;
    CHECK_OK(hlwq_session_open(e, &o, &whole, &err), err);
    make_up(id, 200, 4);
    CHECK_OK(hlwq_session_eval(any, id, 60, NULL, &err), err);
    CHECK_OK(hlwq_session_eval(any, id + 60, 68, NULL, &err), err); /* to 128, but not on the grid */
    CHECK_OK(hlwq_session_mark(any, &err), err);
    assert_int_equal(hlwq_session_known(fresh, id, 200), 128);
    assert_int_equal(hlwq_session_known(whole, id, 200), 0);
    CHECK_OK(hlwq_session_eval(whole, id, 64, NULL, &err), err);
    CHECK_OK(hlwq_session_mark(whole, &err), err);
    CHECK_OK(hlwq_session_eval(whole, id + 64, 64, NULL, &err), err);
    assert_int_equal(hlwq_session_known(whole, id, 200), 128);
    CHECK_OK(hlwq_session_eval(whole, id + 128, 12, NULL, &err), err);
    assert_int_equal(hlwq_session_known(whole, id, 140), 140); /* there, with logits */
    assert_int_equal(hlwq_session_known(whole, id, 200), 64);
    CHECK_OK(hlwq_session_next(whole, &next, &err), err);
    id[140] = next;
    CHECK_OK(hlwq_session_mark(whole, &err), err);
    assert_int_equal(hlwq_session_known(whole, id, 141), 64);
    CHECK_OK(hlwq_session_read(whole, id, 200, NULL, 0, &kept, &err), err);
    assert_int_equal(kept, 64);
    hlwq_session_close(any);
    CHECK_OK(hlwq_session_eval(fresh, id, 200, NULL, &err), err);
    assert_true(bits(whole) == bits(fresh));
    hlwq_session_close(whole);
    hlwq_session_close(fresh);
    hlwq_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_turns_read_what_is_new_and_say_the_same),
        cmocka_unit_test(another_session_takes_the_beginning_over),
        cmocka_unit_test(the_least_recently_used_makes_room),
        cmocka_unit_test(one_that_asks_for_whole_texts_has_their_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
