/* Turns of the CPU in a step: the same logits, nobody waits for a stream, and what fails in the middle hangs nothing.
 */
#include "kernels/cuda/backend.h"
#include "tests/cuda/tiny_made.h"

#include <errno.h>

extern "C" {
#include "offload/residency.h"
}

static gpu_turns *turns_of(hlwq_engine *e)
{
    return &cuda_of(e->backend)->turns;
}

static hs_backend_ops changed;
static const hs_backend_ops *whole;

static void never_a_step(hlwq_engine *e)
{
    changed = *e->backend->ops;
    changed.step = nullptr;
    e->backend->ops = &changed;
}

static uint64_t plain_hash(const hlwq_engine_options *o, uint32_t tokens)
{
    hlwq_streaming io;
    configure(7, HS_SIM_SHUFFLE, 64 << 20, 0);
    plant = never_a_step;
    const uint64_t want = hash_of(o, tokens, &io);
    plant = nullptr;
    return want;
}

/* ---- the same logits -------------------------------------------------------------------------- */

/* Experts come and go below and above; the last of these has all of them in memory. */
static void turns_change_no_token(void **state)
{
    (void)state;
    const tiny_made made = tiny_make(true, 5, nullptr);
    static const uint32_t below[] = {12, 0};
    for (uint32_t slots : below) {
        hlwq_engine_options o = options();
        o.model = made.path;
        o.card_slots = 9;
        o.slots = slots;
        o.cpu_share = 1;
        const uint64_t want = plain_hash(&o, 12);
        uint64_t hits = 0, right = 0;
        for (uint64_t seed = 1; seed < 6; seed++) {
            hlwq_streaming io;
            configure(seed, (hs_sim_order)(seed % 3), 64 << 20, 0);
            assert_true(hash_of(&o, 12, &io) == want);
            assert_true(io.beside > 0 && io.uploads > 0);
            hits += io.card_hits;
            right += io.guessed_right;
            assert_true((io.guessed > 0) == (slots > 0));
            assert_int_equal(hs_sim_read_stats().graph_launches, 10);
        }
        assert_true(hits > 0 && (right > 0) == (slots > 0));
    }
    tiny_remove(&made);
}

static uint32_t begun_anew;

static hlwq_status count_from_zero(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err)
{
    gpu_turns *t = &cuda_of(be)->turns;
    uint32_t before = t->asked;
    hlwq_status st = whole->step(be, step, on, err);
    begun_anew += before > 0 && t->asked == 0;
    return st;
}

static void with_another_step(hlwq_engine *e, hlwq_status (*step)(hs_backend *, const hs_step *, bool *, hlwq_error *))
{
    whole = e->backend->ops;
    changed = *whole;
    changed.step = step;
    e->backend->ops = &changed;
}

static void count_how_often(hlwq_engine *e)
{
    with_another_step(e, count_from_zero);
}

static hlwq_engine_options tiny_options(const tiny_made *made)
{
    hlwq_engine_options o = options();
    o.model = made->path;
    o.card_slots = 9;
    o.slots = 12;
    o.cpu_share = 1;
    return o;
}

static void turns_are_counted_for_ever(void **state)
{
    (void)state;
    hlwq_streaming io;
    const tiny_made made = tiny_make(true, 4, nullptr);
    const hlwq_engine_options o = tiny_options(&made);
    const uint64_t want = plain_hash(&o, 8), most = gpu_turns_most;
    configure(3, HS_SIM_SHUFFLE, 64 << 20, 0);
    gpu_turns_most = 5;
    plant = count_how_often;
    assert_true(hash_of(&o, 8, &io) == want);
    plant = nullptr;
    gpu_turns_most = (uint32_t)most;
    assert_true(begun_anew > 1);
    tiny_remove(&made);
}

/* A token that is played back takes as many calls of the runtime with more layers: nobody asks in between. */
static void a_layer_takes_no_call(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    int32_t id;
    const tiny_made made = tiny_make(true, 4, nullptr);
    hlwq_engine_options o = tiny_options(&made);
    o.slots = 0;
    configure(1, HS_SIM_UP, 64 << 20, 0);
    if (hlwq_engine_open(&o, &e, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 64;
    so.sampling.temperature = 0;
    const int32_t ids[] = {4, 30, 12};
    if (hlwq_session_open(e, &so, &s, &err) != HLWQ_OK || hlwq_session_eval(s, ids, 3, nullptr, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    uint64_t least = UINT64_MAX, uploads = 0;
    const uint32_t mixtures = cuda_of(e->backend)->lim.mixtures;
    for (int t = 0; t < 48; t++) {
        hlwq_streaming io;
        uint64_t before = hs_sim_read_stats().calls;
        if (hlwq_session_next(s, &id, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
        hlwq_engine_streaming(e, &io);
        uint64_t calls = hs_sim_read_stats().calls - before;
        if (t >= 2 && io.uploads == uploads && calls < least)
            least = calls;
        uploads = io.uploads;
    }
    print_message("%u calls for a token of %u layers of experts\n", (unsigned)least, (unsigned)mixtures);
    assert_true(mixtures >= 3 && least <= 14);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    tiny_remove(&made);
}

/* ---- what fails ------------------------------------------------------------------------------- */

/* A read that fails while the card waits for what it brings: a status, and the next text is the same. */
static void a_read_that_fails_in_a_turn_hangs_nothing(void **state)
{
    (void)state;
    enum { TOKENS = 8 };
    const tiny_made made = tiny_make(true, 4, nullptr);
    const hlwq_engine_options o = tiny_options(&made);
    uint32_t failures = 0, owing = 0;
    uint64_t want = 0;
    for (uint64_t n = 0; n < 24; n++) {
        hlwq_error err;
        hlwq_engine *e;
        hlwq_session *s;
        int32_t id;
        configure(n, HS_SIM_SHUFFLE, 64 << 20, 0);
        if (hlwq_engine_open(&o, &e, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
        hlwq_session_options so = hlwq_session_options_default(e);
        so.context = 64;
        so.sampling.temperature = 0;
        const int32_t ids[] = {4, 30, 12};
        assert_int_equal(hlwq_session_open(e, &so, &s, &err), HLWQ_OK);
        for (int round = 0; round < 2; round++) {
            assert_int_equal(hlwq_session_eval(s, ids, 3, nullptr, &err), HLWQ_OK);
            hlwq_status st = HLWQ_OK;
            for (int t = 0; t < TOKENS && st == HLWQ_OK; t++) {
                if (t == 3 && round == 0)
                    hs_stream_fail_at(hs_residency_stream(e->residency), n % 8, -EACCES);
                st = hlwq_session_next(s, &id, &err);
            }
            hlwq_session_stats stats;
            hlwq_session_get_stats(s, &stats);
            if (st == HLWQ_OK) {
                want = want ? want : stats.logits_hash;
                assert_true(stats.logits_hash == want);
            } else {
                assert_int_equal(round, 0);
                assert_int_equal(st, HLWQ_ERR_IO);
                failures++;
                owing += *turns_of(e)->answered == UINT32_MAX || turns_of(e)->said != turns_of(e)->asked;
            }
            hs_stream_fail_at(hs_residency_stream(e->residency), UINT64_MAX, 0);
            if (round == 0 && n % 3 == 2)
                break; /* closed as it is */
            hlwq_session_reset(s);
        }
        hlwq_session_close(s);
        hlwq_engine_close(e);
        assert_int_equal(hs_sim_leaks(), 0);
        assert_int_equal(hs_sim_read_stats().faults, 0);
    }
    print_message("%u texts failed, %u of them in a turn\n", (unsigned)failures, (unsigned)owing);
    assert_true(failures > 8 && owing > 4);
    tiny_remove(&made);
}

/* ---- mistakes that are planted ---------------------------------------------------------------- */

static hlwq_status as_it_is(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err)
{
    return whole->step(be, step, on, err);
}

static hlwq_status answer_before_it_is_asked(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err)
{
    hlwq_status st = whole->step(be, step, on, err);
    hs_gpu_host_flag_set(cuda_of(be)->turns.answered, 0x7FFFFFFF);
    return st;
}

static hlwq_status listen_before_it_is_told(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err)
{
    hlwq_status st = whole->step(be, step, on, err);
    *cuda_of(be)->turns.told = 0x7FFFFFFF;
    return st;
}

static hlwq_engine_options planted_options;
static hlwq_status (*planted_step)(hs_backend *, const hs_step *, bool *, hlwq_error *);
static uint64_t planted_want, planted_seed;

static void with_the_plant(hlwq_engine *e)
{
    with_another_step(e, planted_step);
}

/* In a child: a choice that was never made names no expert. */
static void run_planted(void)
{
    hlwq_error err;
    hlwq_streaming io;
    uint64_t hash = planted_want, peak;
    configure(planted_seed, HS_SIM_SHUFFLE, 64 << 20, 0);
    plant = with_the_plant;
    hlwq_status st = a_text(&planted_options, 8, &hash, &io, &peak, &err);
    _exit(st != HLWQ_OK || hash != planted_want ? 1 : 0);
}

static bool it_shows(hlwq_status (*step)(hs_backend *, const hs_step *, bool *, hlwq_error *))
{
    char said[4096];
    planted_step = step;
    for (planted_seed = 1; planted_seed < 12; planted_seed++) {
        int status = in_child(run_planted, said, sizeof said);
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            return true;
    }
    return false;
}

static void one_who_does_not_wait_for_the_other_comes_to_light(void **state)
{
    (void)state;
    const tiny_made made = tiny_make(true, 4, nullptr);
    planted_options = tiny_options(&made);
    planted_want = plain_hash(&planted_options, 8);
    assert_false(it_shows(as_it_is));
    assert_true(it_shows(answer_before_it_is_asked));
    assert_true(it_shows(listen_before_it_is_told));
    tiny_remove(&made);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(turns_change_no_token),
        TEST(turns_are_counted_for_ever),
        TEST(a_layer_takes_no_call),
        TEST(a_read_that_fails_in_a_turn_hangs_nothing),
        TEST(one_who_does_not_wait_for_the_other_comes_to_light),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
