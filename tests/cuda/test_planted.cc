/* Mistakes that are planted: the tests that a right program passes would see each of them. */
#include "kernels/cuda/backend.h"
#include "tests/cuda/tiny_made.h"

/* ---- in what the backend is asked for -------------------------------------------------------- */

static hs_backend_ops broken;
static const hs_backend_ops *whole;

static void replace_ops(hlwq_engine *e)
{
    hs_backend_ops with = broken;
    whole = e->backend->ops;
    broken = *whole;
    broken.upload = with.upload ? with.upload : broken.upload;
    broken.await = with.await ? with.await : broken.await;
    broken.uploaded = with.uploaded ? with.uploaded : broken.uploaded;
    broken.place = with.place ? with.place : broken.place;
    broken.step = with.step ? with.step : broken.step;
    e->backend->ops = &broken;
}

static hlwq_status forget_the_copy(hs_backend *, uint64_t, hlwq_error *)
{
    return HLWQ_OK;
}

static hlwq_status forget_the_readers(hs_backend *be, void *to, const void *from, uint64_t bytes, uint64_t,
                                      uint64_t *copy, hlwq_error *err)
{
    return whole->upload(be, to, from, bytes, 0, copy, err);
}

static bool forget_that_it_is_read(hs_backend *, uint64_t, bool)
{
    return true;
}

/* An expert's slot is filled with another, and the card still finds it there. */
static hlwq_status forget_to_take_back(hs_backend *be, uint32_t row, uint32_t first, uint32_t count, const void *at,
                                       uint64_t stride, hlwq_error *err)
{
    return at ? whole->place(be, row, first, count, at, stride, err) : HLWQ_OK;
}

/* A position that is told once is as good as one that was recorded with the stages. */
static uint32_t stale_position;

static hlwq_status forget_the_position(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err)
{
    hs_step stale = *step;
    stale_position = stale_position ? stale_position : *step->position;
    stale.position = &stale_position;
    return whole->step(be, &stale, on, err);
}

/* What the card is told of texts is what it was told first. */
static hs_bases told_first[HS_CARD_STEP_TOKENS];

static hlwq_status forget_the_texts(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err)
{
    HS_TRY(whole->step(be, step, on, err));
    if (!*on)
        return HLWQ_OK;
    if (!told_first[0].pages)
        for (hs_bases &each : told_first)
            each = *step->text;
    return whole->put(be, cuda_of(be)->text, told_first, sizeof told_first, err);
}

/* Whether some order of the streams brings it to light. */
static bool comes_to_light(hlwq_engine_options *o, uint32_t tokens, uint64_t want, hs_backend_ops with)
{
    hlwq_error err;
    hlwq_streaming io;
    uint64_t hash = want, peak;
    for (uint64_t seed = 1; seed < 12 && hash == want; seed++) {
        configure(seed, HS_SIM_SHUFFLE, 64 << 20, 0);
        stale_position = 0;
        broken = with;
        plant = replace_ops;
        hlwq_status st = a_text(o, tokens, &hash, &io, &peak, &err);
        plant = nullptr;
        if (st == HLWQ_ERR_FORMAT) /* what was read is no number */
            return true;
        if (st != HLWQ_OK)
            fail_msg("status %d: %s", st, err.message);
    }
    return hash != want;
}

static void a_forgotten_order_comes_to_light(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = few_slots(0);
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 3, &io);
    hs_backend_ops with = {};
    with.await = forget_the_copy; /* a stage reads a slot before it is filled */
    assert_true(comes_to_light(&o, 3, want, with));
    with = {};
    with.upload = forget_the_readers; /* a slot is filled while a stage reads it */
    assert_true(comes_to_light(&o, 3, want, with));
    with = {};
    with.uploaded = forget_that_it_is_read; /* memory below is read into while it is copied from */
    assert_true(comes_to_light(&o, 3, want, with));
}

/* What the card finds by itself. */
static void a_stale_table_or_position_comes_to_light(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = few_slots(0.5);
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 5, &io);
    assert_true(io.card_hits > 0 && hs_sim_read_stats().graph_launches > 0);
    hs_backend_ops with = {};
    with.place = forget_to_take_back;
    assert_true(comes_to_light(&o, 5, want, with));
    with = {};
    with.step = forget_the_position;
    assert_true(comes_to_light(&o, 5, want, with));
}

/* A slot is said to hold an expert while the copy into it is still under way, and the card finds it there. */
static void an_entry_told_before_its_copy_is_done_comes_to_light(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = few_slots(1); /* nothing waits for copies but who tells of them */
    o.slots = 0;                          /* memory below stays as it is, so nothing else can be wrong */
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 5, &io);
    assert_true(io.uploads > 0 && io.card_hits > 0);
    hs_backend_ops with = {};
    with.uploaded = forget_that_it_is_read;
    assert_true(comes_to_light(&o, 5, want, with));
}

enum { TEXTS = 2 };

/* Two texts in turn, and then together. */
static hlwq_status texts_of(const hlwq_engine_options *o, uint64_t *hash, hlwq_error *err)
{
    hlwq_engine *e;
    hlwq_session *s[TEXTS];
    int32_t id;
    *hash = 0;
    if (hlwq_engine_open(o, &e, err) != HLWQ_OK)
        fail_msg("%s", err->message);
    if (plant)
        plant(e);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = o->context;
    so.sampling.temperature = 0;
    hlwq_status st = HLWQ_OK;
    for (uint32_t i = 0; i < TEXTS; i++) {
        const int32_t first[] = {(int32_t)(40 + 100 * i), 12, 7};
        if (hlwq_session_open(e, &so, &s[i], err) != HLWQ_OK)
            fail_msg("%s", err->message);
        st = st == HLWQ_OK ? hlwq_session_eval(s[i], first, 3, nullptr, err) : st;
    }
    for (uint32_t t = 0; t < 3 * TEXTS && st == HLWQ_OK; t++)
        st = hlwq_session_next(s[t % TEXTS], &id, err);
    static const int32_t ids[TEXTS] = {300, 400};
    for (uint32_t t = 0; t < 3 && st == HLWQ_OK; t++)
        st = hlwq_sessions_step(s, ids, TEXTS, err);
    for (hlwq_session *each : s) {
        hlwq_session_stats stats;
        hlwq_session_get_stats(each, &stats);
        *hash = *hash * 31 + stats.logits_hash;
        hlwq_session_close(each);
    }
    hlwq_engine_close(e);
    return st;
}

/* What is recorded knows of no text, so it must be told each time. */
static void texts_that_are_not_told_come_to_light(void **state)
{
    (void)state;
    hlwq_error err;
    uint64_t want, hash;
    hlwq_engine_options o = options();
    o.sessions = TEXTS;
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    assert_int_equal(texts_of(&o, &want, &err), HLWQ_OK);
    assert_true(hs_sim_read_stats().graphs_made > 0);
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    broken = {};
    broken.step = forget_the_texts;
    plant = replace_ops;
    hlwq_status st = texts_of(&o, &hash, &err);
    plant = nullptr;
    assert_true(st == HLWQ_ERR_FORMAT || (st == HLWQ_OK && hash != want));
    assert_non_null(told_first[0].pages);
}

/* ---- in what the backend asks of the runtime ------------------------------------------------- */

enum { COMPUTE = 1, UP = 2, BACK = 3 }; /* its streams, in the order in which it opens them */

static hlwq_engine_options planted_options;
static hs_sim_options planted_card;
static uint64_t planted_want;
static bool never_pinned;

/* In a child: what a mistake makes of the program's own memory is not ours to bear. */
static void run_planted(void)
{
    hlwq_error err;
    hlwq_streaming io;
    uint64_t hash = planted_want, peak;
    alarm(600);
    hs_sim_configure(&planted_card);
    hlwq_status st = a_text(&planted_options, 3, &hash, &io, &peak, &err);
    if (!hs_sim_read_stats().forgotten)
        _exit(2);
    _exit(st != HLWQ_OK || hash != planted_want || hs_sim_read_stats().faults ? 1 : 0);
}

/* Whether forgetting it shows, under some order, in the logits, as a fault of a kernel or as a crash. */
static bool it_shows(const hlwq_engine_options *o, uint64_t want, hs_sim_forget what, uint32_t which)
{
    char said[4096];
    planted_options = *o;
    planted_want = want;
    for (uint64_t seed = 1; seed < 12; seed++) {
        planted_card = plain_options();
        planted_card.seed = seed;
        planted_card.order = (hs_sim_order)(seed % 3);
        planted_card.forget = what;
        planted_card.register_fails = never_pinned;
        planted_card.forget_which = which;
        int status = in_child(run_planted, said, sizeof said);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
            fail_msg("it was never asked for (%d, %u)", what, which);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
            fail_msg("%d, %u: no end in ten minutes", what, which);
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            return true;
    }
    return false;
}

static void a_forgotten_event_shows(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = few_slots(0);
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 3, &io);
    assert_true(it_shows(&o, want, HS_SIM_FORGET_WAITS, COMPUTE)); /* copies, before stages that read them */
    assert_true(it_shows(&o, want, HS_SIM_FORGET_WAITS, UP));      /* stages, before copies into what they read */
    o.cpu_share = 0.5;
    assert_true(it_shows(&o, want, HS_SIM_FORGET_WAITS, BACK)); /* the choice, before it is fetched */
    assert_true(it_shows(&o, want, HS_SIM_FORGET_SYNCS, BACK)); /* the choice, before the host reads it */
}

/* Copies from memory that is not pinned go through a ring, which is written again when it has been read. */
static void a_ring_refilled_too_early_shows(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = few_slots(0);
    o.slots = 0; /* memory below stays as it is */
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 3, &io);
    never_pinned = true;
    bool shows = it_shows(&o, want, HS_SIM_FORGET_EVENTS, UP);
    never_pinned = false;
    assert_true(shows);
}

/* A dense model's host waits nowhere between the pieces of a prompt but for the memory that embeddings pass through. */
static void staging_memory_refilled_too_early_shows(void **state)
{
    (void)state;
    hlwq_streaming io;
    char dir[] = "/tmp/hlwq-planted-XXXXXX", source[64], command[96];
    assert_non_null(mkdtemp(dir));
    snprintf(source, sizeof source, "%s/tiny", dir);
    tiny_model_write(source, false);
    hlwq_engine_options o = options();
    o.model = source;
    o.context = 192;
    prompt_tokens = 140;
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 3, &io);
    bool shows = it_shows(&o, want, HS_SIM_FORGET_SYNCS, COMPUTE);
    prompt_tokens = 12;
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    assert_true(shows);
}

/* A layer that the card shares with the CPU: its copy, what reads it, and what both exchange. */
static void a_forgotten_order_of_a_shared_layer_shows(void **state)
{
    (void)state;
    hlwq_streaming io;
    const tiny_made made = tiny_make(false, 4, nullptr);
    hlwq_engine_options o = options();
    o.model = made.path;
    o.card_slots = 2;
    o.cpu_share = 0.5;
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 3, &io); /* of a prompt that is not shared, and tokens that are */
    assert_true(io.beside > 0);
    hs_backend_ops with = {};
    with.await = forget_the_copy;
    assert_true(comes_to_light(&o, 3, want, with));
    assert_true(it_shows(&o, want, HS_SIM_FORGET_WAITS, UP));   /* stages, before copies into what they read */
    assert_true(it_shows(&o, want, HS_SIM_FORGET_WAITS, BACK)); /* activations, before they are fetched */
    assert_true(it_shows(&o, want, HS_SIM_FORGET_SYNCS, BACK)); /* activations, before the CPU reads them */
    tiny_remove(&made);
}

/* The first that a text meets is a norm's. tests/cuda/test_attention.cc has the others. */
static void a_forgotten_barrier_shows(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = options();
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 3, &io);
    assert_true(it_shows(&o, want, HS_SIM_FORGET_BARRIER, 1));
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(a_forgotten_order_comes_to_light),
        TEST(a_stale_table_or_position_comes_to_light),
        TEST(an_entry_told_before_its_copy_is_done_comes_to_light),
        TEST(texts_that_are_not_told_come_to_light),
        TEST(a_forgotten_event_shows),
        TEST(a_ring_refilled_too_early_shows),
        TEST(staging_memory_refilled_too_early_shows),
        TEST(a_forgotten_order_of_a_shared_layer_shows),
        TEST(a_forgotten_barrier_shows),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
