/*
 * Keys and values that a card has no room for: the same logits as with all of them there, in every form, back behind
 * what is there, and from session files of another card and of the CPU; caps hold; growth is given back.
 */
#include "tests/cuda/demo_text.h"

extern "C" {
#include "offload/lower.h"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* {0} is C's */
#include "tests/support/tiny_model.h"
#pragma GCC diagnostic pop
}

enum { CTX = 512, N = 400, MARK = 73, SAME = 100, OTHER = 110, NEXT = 3, HOT = 3 };

static char folder[] = "/tmp/hlwq-pages-XXXXXX", model[64], session[64];

typedef struct outcome {
    uint64_t hash;
    int32_t next[3 * NEXT];
    hlwq_session_stats stats;
    uint64_t vram_peak, ram_peak;
} outcome;

static hlwq_engine_options a_card(hlwq_kv kv)
{
    hlwq_engine_options o = hlwq_engine_options_default();
    o.model = model;
    o.device = HLWQ_DEVICE_CUDA;
    o.threads = 1;
    o.adapt = false;
    o.context = CTX;
    o.batch = 64;
    o.kv = kv;
    o.prefix_bytes = 4u << 20;
    o.cpu_share = 0;
    return o;
}

#define DO(call)                                                                                                       \
    do {                                                                                                               \
        hlwq_error why_;                                                                                               \
        hlwq_error *err = &why_;                                                                                       \
        if ((call) != HLWQ_OK)                                                                                         \
            fail_msg("%s: %s", #call, why_.message);                                                                   \
    } while (0)

static hlwq_session *a_session(hlwq_engine *e, const hlwq_engine_options *o)
{
    hlwq_session *s = nullptr;
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = o->context;
    so.kv = o->kv;
    so.sampling.temperature = 0;
    DO(hlwq_session_open(e, &so, &s, err));
    return s;
}

static void decode(hlwq_session *s, int32_t *id)
{
    for (int i = 0; i < NEXT; i++)
        DO(hlwq_session_next(s, &id[i], err));
}

/* A text, a second one that parts from it, and the first one again from a file. */
static outcome story(const hlwq_engine_options *o, const char *path, uint32_t memory_rows = 0)
{
    hlwq_engine *e = nullptr;
    outcome out = {};
    size_t kept;
    uint64_t now;
    static int32_t id[N];
    for (uint32_t i = 0; i < N; i++)
        id[i] = (int32_t)((i * 2654435761u >> 7) % 40);
    DO(hlwq_engine_open(o, &e, err));
    if (memory_rows) { /* a plan for a model this small would not */
        e->spilling.memory_rows = memory_rows;
        e->spilling.dir = folder;
    }
    hlwq_session *s = a_session(e, o);
    DO(hlwq_session_eval(s, id, MARK, nullptr, err));
    DO(hlwq_session_mark(s, err));
    DO(hlwq_session_eval(s, id + MARK, N - MARK, nullptr, err));
    decode(s, out.next);
    DO(hlwq_session_save(s, path, nullptr, err));
    hlwq_session_get_stats(s, &out.stats);
    out.hash = out.stats.logits_hash;
    for (uint32_t i = SAME; i < N; i++)
        id[i] = (id[i] + 1) % 40;
    DO(hlwq_session_seek(s, id, OTHER, &kept, err));
    assert_int_equal(kept, MARK);
    DO(hlwq_session_eval(s, id + MARK, OTHER - MARK, nullptr, err));
    decode(s, out.next + NEXT);
    DO(hlwq_session_load(s, path, nullptr, err));
    decode(s, out.next + 2 * NEXT);
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    out.hash ^= stats.logits_hash * 31;
    hlwq_engine_vram(e, &now, &out.vram_peak);
    hlwq_engine_memory(e, &now, &out.ram_peak);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    hs_sim_stats sim = hs_sim_read_stats();
    if (o->vram_bytes)
        assert_true(sim.device_peak_bytes <= o->vram_bytes && out.vram_peak <= o->vram_bytes);
    assert_true(!o->ram_bytes || out.ram_peak <= o->ram_bytes);
    assert_int_equal(hs_sim_leaks(), 0);
    assert_int_equal(sim.faults, 0);
    return out;
}

static void same(const outcome *got, const outcome *want, hlwq_kv kv, const char *how)
{
    if (got->hash != want->hash)
        fail_msg("--kv %x, %s: hash %016llx, %016llx with all of it on the card", kv, how,
                 (unsigned long long)got->hash, (unsigned long long)want->hash);
    assert_memory_equal(got->next, want->next, sizeof got->next);
}

/* The least that a card needs where the newest rows alone are there; a row is a page here. */
static uint64_t least_of(const hlwq_plan *all, uint32_t rows)
{
    return all->card_smallest_bytes - (rows - HOT - 2) * (all->card_kv_bytes / rows);
}

static void where_pages_are_changes_no_token(void **state)
{
    (void)state;
    static const hlwq_kv modes[] = {HLWQ_KV_F16, HLWQ_KV_Q3, HLWQ_KV_K4V3};
    for (uint32_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        const uint32_t rows = m ? CTX / 64 - 2 : CTX / 64;
        hlwq_engine_options o = a_card(modes[m]);
        hlwq_plan plan;
        configure(m, HS_SIM_UP, 64 << 20, 0);
        outcome want = story(&o, session);
        assert_true(want.stats.lowered_bytes == 0);
        DO(hlwq_make_plan(&o, &plan, err));
        const uint64_t all = plan.card_kv_bytes, row = all / rows, least = least_of(&plan, rows);
        const uint64_t budget[] = {plan.card_smallest_bytes - 1, least};
        assert_true(all && plan.kv_bytes == 0);
        for (int k = 0; k < 2; k++) {
            configure(m + 10, (hs_sim_order)((m + (uint32_t)k) % 3), 64 << 20, 0);
            o.vram_bytes = budget[k];
            DO(hlwq_make_plan(&o, &plan, err));
            assert_true(plan.kv_bytes >= row && plan.card_kv_bytes + plan.kv_bytes == all && plan.kv_file_bytes == 0);
            assert_true(plan.card_total_bytes <= o.vram_bytes);
            assert_true(k ? plan.card_kv_bytes == HOT * row : plan.card_kv_bytes >= HOT * row);
            if (k != (m == 1))
                continue; /* slow: the others are */
            outcome got = story(&o, session);
            same(&got, &want, modes[m], k ? "the least" : "half");
            assert_true(got.stats.lowered_bytes && got.stats.raised_bytes > got.stats.lowered_bytes);
            assert_true(got.stats.spilled_bytes == 0);
        }
        hlwq_error why;
        o.vram_bytes = least - 1;
        assert_int_equal(hlwq_make_plan(&o, &plan, &why), HLWQ_ERR_BUDGET);
        assert_non_null(strstr(why.message, "--vram"));
        if (m == 1)
            continue;
        o.vram_bytes = least;
        configure(m + 20, HS_SIM_SHUFFLE, 64 << 20, 0);
        outcome got = story(&o, session, 1);
        same(&got, &want, modes[m], "a file");
        assert_true(got.stats.spilled_bytes && got.stats.spill_read_bytes > got.stats.spilled_bytes);
    }
}

/* The plan says what is where, and obeys both caps. */
static void a_file_is_planned_where_both_memories_are_short(void **state)
{
    (void)state;
    hlwq_error why;
    hlwq_plan plan;
    hlwq_engine_options o = options();
    o.context = 4096;
    configure(1, HS_SIM_UP, 64 << 20, 0);
    DO(hlwq_make_plan(&o, &plan, err));
    const uint64_t all = plan.card_kv_bytes;
    o.vram_bytes = plan.card_smallest_bytes - all / 2;
    DO(hlwq_make_plan(&o, &plan, err));
    assert_true(plan.kv_bytes + plan.card_kv_bytes == all && plan.card_total_bytes <= o.vram_bytes);
    o.ram_bytes = plan.smallest_bytes - plan.kv_bytes / 2;
    assert_int_equal(hlwq_make_plan(&o, &plan, &why), HLWQ_ERR_BUDGET);
    assert_non_null(strstr(why.message, "--kv-spill"));
    o.kv_spill = ".";
    DO(hlwq_make_plan(&o, &plan, err));
    assert_true(plan.kv_file_bytes && plan.kv_bytes + plan.card_kv_bytes + plan.kv_file_bytes == all);
    assert_true(plan.card_total_bytes <= o.vram_bytes && plan.total_bytes <= o.ram_bytes);
}

/* Memory on the card comes and goes with the text, and what is promised to one session is not given to another. */
static void pages_grow_and_are_given_back(void **state)
{
    (void)state;
    hlwq_engine *e = nullptr;
    hlwq_engine_options o = a_card(HLWQ_KV_F16);
    uint64_t begun, held, now, peak;
    static int32_t id[256];
    o.context = 512;
    o.vram_bytes = 16 << 20;
    hs_kv_step_bytes = 128 << 10; /* two rows */
    configure(1, HS_SIM_SHUFFLE, 64 << 20, 0);
    DO(hlwq_engine_open(&o, &e, err));
    hlwq_session *s = a_session(e, &o);
    DO(hlwq_session_eval(s, id, 1, nullptr, err));
    hlwq_engine_vram(e, &begun, &peak);
    held = e->lending.above_held_bytes;
    DO(hlwq_session_eval(s, id, 256, nullptr, err));
    assert_int_equal(e->lending.above_held_bytes, held + (256 << 10)); /* five rows: two steps more */
    hlwq_engine_vram(e, &now, &peak);
    assert_true(now - begun <= 2 << 20); /* which share a page, new or not */
    hlwq_session_reset(s);
    hlwq_engine_vram(e, &now, &peak);
    assert_true(now == begun && e->lending.above_held_bytes == held);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    hs_kv_step_bytes = 1 << 20;
    assert_int_equal(hs_sim_leaks(), 0);
}

/* What no text has reached is lent to experts there, and the caps hold at every step. */
static void what_no_text_has_reached_is_lent(void **state)
{
    (void)state;
    hlwq_engine *e = nullptr;
    hlwq_plan plan;
    hlwq_streaming io;
    hlwq_session_stats stats[2];
    uint64_t now, peak;
    static int32_t id[CTX];
    hlwq_engine_options o = a_card(HLWQ_KV_F16);
    hs_kv_step_bytes = 64 << 10; /* a row */
    configure(1, HS_SIM_UP, 64 << 20, 0);
    DO(hlwq_make_plan(&o, &plan, err));
    for (int few = 0; few < 2; few++) {
        configure(2, HS_SIM_SHUFFLE, 64 << 20, 0);
        o.vram_bytes = few ? plan.card_smallest_bytes : 0;
        DO(hlwq_engine_open(&o, &e, err));
        hlwq_engine_plan(e, &plan);
        hlwq_session *s = a_session(e, &o);
        hlwq_engine_streaming(e, &io);
        assert_true(!few || (plan.card_slots && io.card_slots > plan.card_slots));
        for (uint32_t at = 0, n = 50; at < 300; at += n) {
            DO(hlwq_session_eval(s, id + at, n, nullptr, err));
            hlwq_engine_vram(e, &now, &peak);
            assert_true(!few || peak <= o.vram_bytes);
        }
        hlwq_engine_streaming(e, &io);
        assert_true(!few || io.card_slots == plan.card_slots);
        hlwq_session_get_stats(s, &stats[few]);
        hlwq_session_reset(s);
        hlwq_engine_streaming(e, &io);
        assert_true(!few || io.card_slots > plan.card_slots);
        DO(hlwq_session_eval(s, id, 3, nullptr, err));
        hlwq_session_close(s);
        hlwq_engine_close(e);
        hs_sim_stats sim = hs_sim_read_stats();
        assert_true(!few || sim.device_peak_bytes <= o.vram_bytes);
        assert_int_equal(sim.faults, 0);
        assert_int_equal(hs_sim_leaks(), 0);
    }
    assert_true(stats[0].logits_hash == stats[1].logits_hash);
    hs_kv_step_bytes = 1 << 20;
}

static hs_backend_ops plainly;

/* Tokens asked for one at a time while a row comes, and with few of them there while one goes. */
static uint64_t a_walk(const hlwq_engine_options *o, bool steps, uint64_t *launches)
{
    hlwq_engine *e = nullptr;
    hlwq_session_stats stats;
    static int32_t id[180];
    int32_t next;
    configure(steps, HS_SIM_SHUFFLE, 64 << 20, 0);
    DO(hlwq_engine_open(o, &e, err));
    plainly = *e->backend->ops;
    plainly.step = nullptr;
    if (!steps)
        e->backend->ops = &plainly;
    for (int32_t i = 0; i < 180; i++)
        id[i] = i * 7 % 40;
    hlwq_session *s = a_session(e, o);
    DO(hlwq_session_eval(s, id, 180, nullptr, err));
    for (int t = 0; t < 18; t++) /* 192 is the first position of a page */
        DO(hlwq_session_next(s, &next, err));
    hlwq_session_get_stats(s, &stats);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    *launches = hs_sim_read_stats().graph_launches;
    assert_int_equal(hs_sim_read_stats().faults, 0);
    assert_int_equal(hs_sim_leaks(), 0);
    return stats.logits_hash;
}

static void steps_hold_no_address_of_a_page(void **state)
{
    (void)state;
    static const struct {
        hlwq_kv kv;
        uint32_t rows; /* of a full context; 0 = all are there */
    } form[] = {{HLWQ_KV_F16, 0}, {HLWQ_KV_F16, CTX / 64}, {HLWQ_KV_Q3, CTX / 64 - 2}};
    hs_kv_step_bytes = 64 << 10; /* a row */
    for (auto &with : form) {
        hlwq_plan plan;
        uint64_t launches[2];
        hlwq_engine_options o = a_card(with.kv);
        configure(1, HS_SIM_UP, 64 << 20, 0);
        DO(hlwq_make_plan(&o, &plan, err));
        o.vram_bytes = with.rows ? least_of(&plan, with.rows) : 0;
        uint64_t want = a_walk(&o, false, &launches[0]), got = a_walk(&o, true, &launches[1]);
        assert_true(launches[0] == 0 && launches[1] > 12);
        if (want != got)
            fail_msg("%x, %u rows: played back it is another", with.kv, (unsigned)with.rows);
    }
    hs_kv_step_bytes = 1 << 20;
}

/* Every call of the runtime fails once while rows come down and go up: a status, and nothing left behind. */
static void failing_calls_leave_nothing_behind(void **state)
{
    (void)state;
    hlwq_engine_options o = a_card(HLWQ_KV_Q3);
    hlwq_plan plan;
    configure(1, HS_SIM_UP, 64 << 20, 0);
    DO(hlwq_make_plan(&o, &plan, err));
    o.vram_bytes = least_of(&plan, CTX / 64 - 2);
    static int32_t id[CTX];
    const uint64_t tries = getenv("HLWQ_SANITIZE") ? 3 : 5;
    uint64_t calls = 0, opened = 0, failures = 0;
    for (uint64_t n = 0; n <= calls; n = n ? n + (calls - opened) / tries + 1 : opened) {
        hlwq_engine *e = nullptr;
        hlwq_session *s = nullptr;
        hlwq_error err;
        configure(1, HS_SIM_UP, 64 << 20, n);
        hlwq_status st = hlwq_engine_open(&o, &e, &err);
        opened = n ? opened : hs_sim_read_stats().calls;
        hlwq_session_options so = hlwq_session_options_default(e);
        so.context = CTX;
        so.kv = o.kv;
        if (st == HLWQ_OK)
            st = hlwq_session_open(e, &so, &s, &err);
        if (st == HLWQ_OK)
            st = hlwq_session_eval(s, id, 330, nullptr, &err);
        hlwq_session_close(s);
        hlwq_engine_close(e);
        calls = n ? calls : hs_sim_read_stats().calls;
        assert_true(n || st == HLWQ_OK);
        failures += st != HLWQ_OK;
        if (st != HLWQ_OK && st != HLWQ_ERR_NOMEM && st != HLWQ_ERR_IO)
            fail_msg("call %u: status %d, %s", (unsigned)n, st, err.message);
        if (hs_sim_leaks())
            fail_msg("call %u: %u things are left", (unsigned)n, (unsigned)hs_sim_leaks());
    }
    assert_true(failures > 1);
}

static int setup(void **state)
{
    (void)state;
    char source[80];
    hlwq_error err;
    assert_non_null(mkdtemp(folder));
    snprintf(source, sizeof source, "%s/tiny", folder);
    snprintf(model, sizeof model, "%s/tiny.hlwq", folder);
    snprintf(session, sizeof session, "%s/text.session", folder);
    tiny_head = 128;
    tiny_model_write(source, true);
    hlwq_convert_options c = hlwq_convert_options_default();
    c.source = source;
    c.output = model;
    c.format = "I4";
    if (hlwq_convert(&c, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    hs_lower_copy_bytes = 1; /* windows of a page */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(what_no_text_has_reached_is_lent),
        TEST(pages_grow_and_are_given_back),
        TEST(steps_hold_no_address_of_a_page),
        TEST(where_pages_are_changes_no_token),
        TEST(a_file_is_planned_where_both_memories_are_short),
        TEST(failing_calls_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
