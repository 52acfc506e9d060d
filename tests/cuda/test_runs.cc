/* Steps that are recorded and played back: the same logits, fewer calls, and nothing that a token could lose by it. */
#include "tests/cuda/demo_text.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* {0} is C's */
#include "tests/support/tiny_model.h"
#pragma GCC diagnostic pop
}

/* Under a sanitizer, which is slow, others have the same calls with less text. */
static void skip_where_it_is_slow(void)
{
    if (getenv("HLWQ_SANITIZE"))
        skip();
}

/* ---- with and without ------------------------------------------------------------------------ */

static hs_backend_ops plainly;

static void never_a_step(hlwq_engine *e)
{
    plainly = *e->backend->ops;
    plainly.step = nullptr;
    e->backend->ops = &plainly;
}

/* The same logits; how many graphs were launched. */
static uint64_t same_played_back(const hlwq_engine_options *o, uint32_t tokens, const char *what)
{
    hlwq_streaming io;
    configure(7, HS_SIM_SHUFFLE, 64 << 20, 0);
    plant = never_a_step;
    const uint64_t want = hash_of(o, tokens, &io);
    plant = nullptr;
    assert_int_equal(hs_sim_read_stats().graph_launches, 0);
    configure(8, HS_SIM_SHUFFLE, 64 << 20, 0);
    if (hash_of(o, tokens, &io) != want)
        fail_msg("%s: another hash", what);
    assert_int_equal(hs_sim_read_stats().faults, 0);
    return hs_sim_read_stats().graph_launches;
}

/* The first token is asked for plainly, the second is recorded as well. */
static void with_everything_on_the_card_a_token_is_one_call(void **state)
{
    (void)state;
    hlwq_engine_options o = options();
    assert_int_equal(same_played_back(&o, 6, "all"), 4);
}

/* Five tokens, of which three are played back. */
static void experts_that_come_and_go_are_one_call_or_two_a_layer(void **state)
{
    (void)state;
    skip_where_it_is_slow();
    hlwq_engine_options o = few_slots(1);
    assert_int_equal(same_played_back(&o, 5, "30 slots, all else the CPU's"), 3);
    o.slots = 0;
    assert_int_equal(same_played_back(&o, 5, "30 slots, all else the CPU's, in memory"), 3);
    o.card_slots = 60;
    o.cpu_share = 0.5;
    uint64_t launches = same_played_back(&o, 5, "60 slots, half of all else copied up");
    assert_true(launches > 3 && launches % (2 * 3) == 0);
}

/*
 * Plain experts from position 61 on, none from 125 on: a page begins at 64, and at 128 attention has a second span.
 * Long prompts are slow: where that is worst, the second alone.
 */
static void the_end_of_a_page_and_more_spans_change_nothing(void **state)
{
    (void)state;
    char dir[] = "/tmp/hlwq-runs-XXXXXX", source[64], command[96];
    assert_non_null(mkdtemp(dir));
    snprintf(source, sizeof source, "%s/tiny", dir);
    for (int moe = 0; moe < (getenv("HLWQ_SANITIZE") ? 1 : 2); moe++) {
        hlwq_engine_options o = options();
        tiny_model_write(source, moe);
        o.model = source;
        o.context = 192;
        prompt_tokens = moe ? 61 : 125;
        uint64_t launches = same_played_back(&o, 8, moe ? "plain experts" : "dense");
        if (moe)
            assert_true(launches > 5);
        else
            assert_int_equal(launches, 4); /* at 127, and from 130 on */
    }
    prompt_tokens = 12;
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

/* Pages begin at 192, where a coded cache has one to code: the first token is asked for plainly, the second recorded.
 */
static void a_token_that_begins_a_page_is_one_of_them(void **state)
{
    (void)state;
    skip_where_it_is_slow();
    static const hlwq_kv form[] = {HLWQ_KV_F16, HLWQ_KV_K4V3};
    hlwq_engine_options o = options();
    o.context = 256;
    prompt_tokens = 188;
    for (hlwq_kv kv : form) {
        o.kv = kv;
        assert_int_equal(same_played_back(&o, 7, kv == HLWQ_KV_F16 ? "plain pages" : "codes"), 5);
    }
    prompt_tokens = 12;
}

/* Weights are counted where they were read, whoever asked for them. */
static void every_tier_has_its_bytes(void **state)
{
    (void)state;
    skip_where_it_is_slow();
    hlwq_streaming io[2], some;
    hlwq_engine_options o = options();
    for (int k = 0; k < 2; k++) {
        configure(7, HS_SIM_UP, 64 << 20, 0);
        plant = k ? nullptr : never_a_step;
        (void)hash_of(&o, 3, &io[k]);
    }
    assert_true(io[0].tier_bytes[HLWQ_TIER_CARD] > 0);
    assert_memory_equal(io[0].tier_bytes, io[1].tier_bytes, sizeof io[0].tier_bytes);
    for (int i = HLWQ_TIER_CARD + 1; i < HLWQ_TIER_COUNT; i++)
        assert_int_equal(io[0].tier_bytes[i], 0);
    o = few_slots(0.5);
    configure(7, HS_SIM_UP, 64 << 20, 0);
    (void)hash_of(&o, 2, &some);
    for (uint64_t bytes : some.tier_bytes)
        assert_true(bytes > 0);
    assert_true(some.tier_bytes[HLWQ_TIER_FILE] == some.bytes_read);
}

/* ---- several texts, and memory that goes ----------------------------------------------------- */

/* What a text begins with. */
typedef struct a_start {
    uint32_t tokens;
    hlwq_kv kv;
} a_start;

static hlwq_session *session_of(hlwq_engine *e, uint32_t text, const a_start *from)
{
    hlwq_error err;
    hlwq_session *s;
    int32_t ids[256];
    for (uint32_t i = 0; i < from->tokens; i++)
        ids[i] = (int32_t)((i * 37 + text * 101 + 11) % 1000);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = from->tokens + 16;
    so.kv = from->kv;
    so.sampling.temperature = 0;
    if (hlwq_session_open(e, &so, &s, &err) != HLWQ_OK ||
        hlwq_session_eval(s, ids, from->tokens, nullptr, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    return s;
}

static hlwq_session *a_session(hlwq_engine *e, uint32_t text)
{
    const a_start from = {3 + 2 * text, HLWQ_KV_F16};
    return session_of(e, text, &from);
}

static void next_token(hlwq_session *s)
{
    hlwq_error err;
    int32_t id;
    if (hlwq_session_next(s, &id, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
}

static void open_engine(const hlwq_engine_options *o, hlwq_engine **e, uint64_t seed, bool plain)
{
    hlwq_error err;
    configure(seed, HS_SIM_SHUFFLE, 64 << 20, 0);
    if (hlwq_engine_open(o, e, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    if (plain)
        never_a_step(*e);
}

static uint64_t logits_hash(const hlwq_session *s)
{
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    return stats.logits_hash;
}

/* Runs know of no text: those in turn share theirs, and one that is closed takes nothing with it. */
static void texts_in_turn_share_their_runs(void **state)
{
    (void)state;
    hlwq_engine *e;
    hlwq_session *s[2];
    uint64_t want[2];
    hlwq_engine_options o = options();
    o.sessions = 2;
    open_engine(&o, &e, 3, true);
    for (uint32_t i = 0; i < 2; i++) {
        s[i] = a_session(e, i);
        for (int t = 0; t < 9; t++)
            next_token(s[i]);
        want[i] = logits_hash(s[i]);
        hlwq_session_close(s[i]);
    }
    hlwq_engine_close(e);
    open_engine(&o, &e, 4, false);
    for (uint32_t i = 0; i < 2; i++)
        s[i] = a_session(e, i);
    for (int t = 0; t < 5; t++)
        for (hlwq_session *each : s)
            next_token(each);
    assert_int_equal(hs_sim_read_stats().graph_launches, 10 - 2); /* one token plainly, the other's is recorded */
    hlwq_session_close(s[0]);
    s[0] = a_session(e, 0);
    for (int t = 0; t < 4; t++)
        next_token(s[1]);
    for (int t = 0; t < 9; t++)
        next_token(s[0]);
    assert_int_equal(hs_sim_read_stats().graph_launches, 10 - 2 + 4 + 9);
    assert_int_equal(hs_sim_read_stats().graphs_made, 1);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(logits_hash(s[i]) == want[i]);
        hlwq_session_close(s[i]);
    }
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
}

enum { ROWS = 4 };

/* Texts that take a step together. */
typedef struct a_set {
    uint32_t n, text[ROWS];
} a_set;

/* What the texts have for logits after these steps. */
static void in_sets(const hlwq_engine_options *o, bool plain, const a_start *from, const a_set *set, uint32_t sets,
                    uint64_t *hash)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s[ROWS], *row[ROWS];
    int32_t id[ROWS], next[ROWS] = {};
    open_engine(o, &e, plain ? 2 : 5, plain);
    for (uint32_t i = 0; i < ROWS; i++)
        s[i] = session_of(e, i, &from[i]);
    for (uint32_t k = 0; k < sets; k++) {
        for (uint32_t t = 0; t < set[k].n; t++) {
            uint32_t text = set[k].text[t];
            row[t] = s[text];
            id[t] = (int32_t)(200 * text) + next[text]++;
        }
        if (hlwq_sessions_step(row, id, set[k].n, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        hash[i] = logits_hash(s[i]);
        hlwq_session_close(s[i]);
    }
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
    assert_int_equal(hs_sim_read_stats().faults, 0);
}

/* Of each size one graph, whichever texts there are, and in whichever order. */
static void sets_of_texts_share_their_runs(void **state)
{
    (void)state;
    static const a_start from[ROWS] = {{3, HLWQ_KV_F16}, {9, HLWQ_KV_F16}, {5, HLWQ_KV_F16}, {7, HLWQ_KV_F16}};
    static const a_set set[] = {{2, {0, 1}},       {3, {0, 1, 2}},    {2, {2, 3}},      {2, {1, 0}},
                                {3, {2, 0, 3}},    {2, {3, 0}},       {3, {3, 1, 0}},   {2, {2, 1}},
                                {4, {3, 2, 1, 0}}, {4, {0, 1, 2, 3}}, {4, {1, 3, 0, 2}}};
    const uint32_t sets = sizeof set / sizeof *set;
    uint64_t want[ROWS], got[ROWS];
    hlwq_engine_options o = options();
    o.sessions = ROWS;
    in_sets(&o, true, from, set, sets, want);
    assert_int_equal(hs_sim_read_stats().graphs_made, 0);
    in_sets(&o, false, from, set, sets, got);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(hs_sim_read_stats().graphs_made, 3); /* of two, three and four texts */
    assert_int_equal(hs_sim_read_stats().graph_launches, sets - 2 * 3);
}

/* Two of them begin a page, one after the other, and their caches are not all of one form. */
static void texts_with_caches_of_two_forms_step_together(void **state)
{
    (void)state;
    skip_where_it_is_slow();
    static const a_start from[ROWS] = {{188, HLWQ_KV_K4V3}, {189, HLWQ_KV_K4V3}, {20, HLWQ_KV_F16}, {3, HLWQ_KV_Q8}};
    static const a_set all = {4, {0, 1, 2, 3}};
    const a_set set[] = {all, all, all, all, all};
    uint64_t want[ROWS], got[ROWS];
    hlwq_engine_options o = options();
    o.sessions = ROWS;
    o.context = 256;
    in_sets(&o, true, from, set, 5, want);
    in_sets(&o, false, from, set, 5, got);
    assert_memory_equal(got, want, sizeof got);
    assert_int_equal(hs_sim_read_stats().graphs_made, 1);
    assert_int_equal(hs_sim_read_stats().graph_launches, 3);
}

enum { TEXTS = 3, TOGETHER = 4 };

/* What texts that take their steps together have for logits; *io: of all of them. */
static void together(const hlwq_engine_options *o, uint64_t seed, bool plain, uint64_t *hash, hlwq_streaming *io)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s[TEXTS];
    open_engine(o, &e, seed, plain);
    for (uint32_t i = 0; i < TEXTS; i++)
        s[i] = a_session(e, i);
    for (int32_t t = 0; t < TOGETHER; t++) {
        const int32_t ids[TEXTS] = {400 + t, 7, 91 + 3 * t};
        if (hlwq_sessions_step(s, ids, TEXTS, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
    }
    for (uint32_t i = 0; i < TEXTS; i++) {
        hash[i] = logits_hash(s[i]);
        hlwq_session_close(s[i]);
    }
    hlwq_engine_streaming(e, io);
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
    assert_int_equal(hs_sim_read_stats().faults, 0);
}

/* All experts there: one call for all texts; some elsewhere: two a layer. */
static void texts_that_step_together_are_played_back(void **state)
{
    (void)state;
    for (int some = getenv("HLWQ_SANITIZE") ? 1 : 0; some < 2; some++) {
        uint64_t want[TEXTS], got[TEXTS];
        hlwq_streaming io[2];
        hlwq_engine_options o = some ? few_slots(0.5) : options();
        o.sessions = TEXTS;
        together(&o, 2, true, want, &io[0]);
        assert_int_equal(hs_sim_read_stats().graph_launches, 0);
        together(&o, 5, false, got, &io[1]);
        assert_memory_equal(got, want, sizeof got);
        const uint64_t launches = hs_sim_read_stats().graph_launches;
        if (some)
            assert_true(launches > 0 && launches % (2 * (TOGETHER - 2)) == 0);
        else
            assert_int_equal(launches, TOGETHER - 2);
        if (!some)
            assert_memory_equal(io[0].tier_bytes, io[1].tier_bytes, sizeof io[0].tier_bytes);
    }
}

/* What runs take of the card is within what was charged for them, and they go where there is no room. */
static void what_is_recorded_stays_within_its_room(void **state)
{
    (void)state;
    static const uint64_t of_a_node[] = {2048, 8192, 1 << 20};
    hlwq_error err;
    hlwq_plan plan;
    uint64_t want = 0;
    hlwq_engine_options o = few_slots(1);
    for (uint64_t bytes : of_a_node) {
        uint64_t hash, peak;
        hlwq_streaming io;
        hs_sim_options sim = plain_options();
        sim.node_bytes = bytes;
        sim.order = HS_SIM_SHUFFLE;
        hs_sim_configure(&sim);
        if (hlwq_make_plan(&o, &plan, &err) != HLWQ_OK || a_text(&o, 4, &hash, &io, &peak, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
        hs_sim_stats s = hs_sim_read_stats();
        want = want ? want : hash;
        assert_true(hash == want);
        assert_true(plan.card_recorded_bytes > 0 && s.graph_bytes == 0);
        if (bytes <= 8192)
            assert_true(s.graph_launches > 0 && s.graph_peak_bytes <= plan.card_recorded_bytes);
        else /* such a run is known when it is there, and given back at once */
            assert_int_equal(s.graph_launches, 0);
    }
}

enum { CALLS_MAX = 1 << 14 };
static uint64_t site[CALLS_MAX];

static uint64_t calls_of(const hlwq_engine_options *o, uint32_t tokens, uint64_t *hash)
{
    hlwq_streaming io;
    hs_sim_options sim = plain_options();
    sim.order = HS_SIM_UP;
    sim.seed = 1;
    sim.site = site;
    sim.site_room = CALLS_MAX;
    hs_sim_configure(&sim);
    *hash = hash_of(o, tokens, &io);
    assert_true(hs_sim_read_stats().calls < CALLS_MAX);
    return hs_sim_read_stats().calls;
}

/* Whether call n is the first of its place. */
static bool is_first(uint64_t n)
{
    for (uint64_t i = 0; i + 1 < n; i++)
        if (site[i] == site[n - 1])
            return false;
    return true;
}

/*
 * A step that cannot be recorded is asked for plainly; one that cannot be played back is a status.  Every place that a
 * text of one token does not come by fails once.
 */
static void failing_calls_cost_no_token_while_recording(void **state)
{
    (void)state;
    skip_where_it_is_slow(); /* cuda.failing has the second token recorded */
    hlwq_error err;
    hlwq_streaming io;
    hlwq_engine_options o = options();
    uint64_t want, hash, peak, right = 0, failed = 0;
    const uint64_t one = calls_of(&o, 1, &hash), four = calls_of(&o, 4, &want);
    for (uint64_t n = one + 1; n <= four; n++) {
        if (!is_first(n) && !getenv("HLWQ_LONG"))
            continue;
        configure(1, HS_SIM_UP, 64 << 20, n);
        hlwq_status st = a_text(&o, 4, &hash, &io, &peak, &err);
        if (st == HLWQ_OK && hash != want)
            fail_msg("call %u: another hash", (unsigned)n);
        if (st != HLWQ_OK && st != HLWQ_ERR_IO && st != HLWQ_ERR_NOMEM)
            fail_msg("call %u: status %d, %s", (unsigned)n, st, err.message);
        if (hs_sim_leaks())
            fail_msg("call %u: %u things are left (%s)", (unsigned)n, (unsigned)hs_sim_leaks(), err.message);
        right += st == HLWQ_OK;
        failed += st != HLWQ_OK;
    }
    print_message("%u calls cost no token, %u came to a status\n", (unsigned)right, (unsigned)failed);
    assert_true(right > 2 && failed > 0);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(with_everything_on_the_card_a_token_is_one_call),
        TEST(experts_that_come_and_go_are_one_call_or_two_a_layer),
        TEST(the_end_of_a_page_and_more_spans_change_nothing),
        TEST(a_token_that_begins_a_page_is_one_of_them),
        TEST(every_tier_has_its_bytes),
        TEST(texts_in_turn_share_their_runs),
        TEST(sets_of_texts_share_their_runs),
        TEST(texts_with_caches_of_two_forms_step_together),
        TEST(texts_that_step_together_are_played_back),
        TEST(what_is_recorded_stays_within_its_room),
        TEST(failing_calls_cost_no_token_while_recording),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
