/* Sessions in files: what follows is what would have followed; what is damaged or another's is refused, and nothing is
 * lost by it. */
#define _GNU_SOURCE
#include "model/session.h"
#include "model/session_file.h"
#include "tests/support/check.h"
#include "tests/support/tiny_model.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static const char model[] = "models/demo-q5.hlwq";
static const hlwq_kv modes[] = {HLWQ_KV_F16,  HLWQ_KV_F32, HLWQ_KV_Q8, HLWQ_KV_Q4,
                                HLWQ_KV_K4V3, HLWQ_KV_Q3,  HLWQ_KV_Q2, (hlwq_kv)0x84};

enum { MODES = sizeof modes / sizeof *modes, VOCAB = 4096, MORE = 70, TEXT = 640 };

static char folder[] = "/tmp/hlwq-session-XXXXXX", path[64];

static hlwq_engine *open_engine(const char *name, uint32_t threads, uint64_t ram)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = HLWQ_DEVICE_CPU;
    o.model = name;
    o.threads = threads;
    o.context = 1024;
    o.ram_bytes = ram;
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    return e;
}

static hlwq_session *open_session(hlwq_engine *e, hlwq_kv kv, uint32_t context)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_options o = hlwq_session_options_default(e);
    o.context = context;
    o.kv = kv;
    o.sampling = (hlwq_sampling){
        .temperature = 0.8f, .top_k = 20, .top_p = 0.9f, .repetition_penalty = 1.1f, .seed = 41, .penalty_window = 64};
    CHECK_OK(hlwq_session_open(e, &o, &s, &err), err);
    return s;
}

static const int32_t *text(void)
{
    static int32_t id[TEXT];
    for (uint32_t i = 0; i < TEXT; i++)
        id[i] = (int32_t)(i * 2654435761u >> 7) % 4000;
    return id;
}

/* Reads n tokens, all but the last three at once, those one by one. */
static void feed(hlwq_session *s, uint32_t n)
{
    hlwq_error err;
    CHECK_OK(hlwq_session_eval(s, text(), n - 3, NULL, &err), err);
    for (uint32_t i = n - 3; i < n; i++)
        CHECK_OK(hlwq_session_eval(s, text() + i, 1, NULL, &err), err);
}

/* What follows: ids chosen, and every bit of their logits. */
static uint64_t follow(hlwq_session *s, uint32_t n)
{
    hlwq_error err;
    XXH3_state_t *h = XXH3_createState();
    XXH3_64bits_reset(h);
    for (uint32_t i = 0; i < n; i++) {
        int32_t id;
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
        XXH3_64bits_update(h, &id, sizeof id);
        XXH3_64bits_update(h, hlwq_session_logits(s), VOCAB * sizeof(float));
    }
    uint64_t hash = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return hash;
}

/* Position 191 + 70 and 257 + 70 cross pages that become codes; 320 is a page's edge. */
static void goes_on_with_the_same_bits_in_every_mode(void **state)
{
    (void)state;
    static const uint32_t at[] = {191, 5, 257, 320};
    hlwq_error err;
    hlwq_engine *one = open_engine(model, 1, 0), *two = open_engine(model, 2, 0);
    for (uint32_t m = 0; m < MODES; m++)
        for (uint32_t c = 0; c < (modes[m] == HLWQ_KV_F16 || modes[m] == HLWQ_KV_Q3 ? 4 : 1); c++) {
            char *note;
            hlwq_session *s = open_session(one, modes[m], 1024);
            feed(s, at[c]);
            CHECK_OK(hlwq_session_save(s, path, c & 1 ? "a note" : NULL, &err), err);
            uint64_t want = follow(s, MORE);
            hlwq_session_close(s);

            s = open_session(c == 2 ? two : one, modes[m], c & 1 ? 512 : 1024);
            feed(s, 70); /* is forgotten */
            hlwq_sampling other = {.temperature = 0, .repetition_penalty = 1, .top_p = 1};
            CHECK_OK(hlwq_session_set_sampling(s, &other, &err), err);
            CHECK_OK(hlwq_session_load(s, path, &note, &err), err);
            assert_int_equal(hlwq_session_position(s), at[c]);
            assert_memory_equal(hlwq_session_tokens(s), text(), at[c] * sizeof(int32_t));
            assert_true(c & 1 ? note && strcmp(note, "a note") == 0 : !note);
            hlwq_free(note);
            hlwq_session_get_sampling(s, &other);
            assert_true(other.seed == 41 && other.top_k == 20);
            uint64_t got = follow(s, MORE);
            if (got != want)
                fail_msg("mode %x, saved at %u: other bits follow", modes[m], at[c]);
            hlwq_session_close(s);
        }
    hlwq_engine_close(one);
    hlwq_engine_close(two);
}

static uint8_t *slurp(size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*bytes);
    assert_int_equal(fread(p, 1, *bytes, f), *bytes);
    fclose(f);
    return p;
}

static void put(const uint8_t *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}

/* A session that has read something, which no refusal may change. */
static void refused(hlwq_session *s, hlwq_status want, const char *words)
{
    hlwq_error err;
    char *note;
    hlwq_status st = hlwq_session_load(s, path, &note, &err);
    if (st != want || (words && !strstr(err.message, words)))
        fail_msg("status %d, wanted %d; said \"%s\"", st, want, st ? err.message : "");
    assert_null(note);
    assert_int_equal(hlwq_session_position(s), 40);
}

static void damage_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(model, 1, 0);
    hlwq_session *s = open_session(e, HLWQ_KV_Q3, 512), *held = open_session(e, HLWQ_KV_Q3, 512);
    feed(s, 280);
    feed(held, 40);
    CHECK_OK(hlwq_session_save(held, path, NULL, &err), err);
    uint64_t want = follow(held, 8);
    CHECK_OK(hlwq_session_load(held, path, NULL, &err), err);
    CHECK_OK(hlwq_session_save(s, path, "note", &err), err);
    size_t bytes;
    uint8_t *good = slurp(&bytes), *bad = malloc(bytes + 1);
    for (size_t cut = 0; cut < bytes; cut += cut < 600 ? 7 : bytes / 90) {
        put(good, cut);
        refused(held, HLWQ_ERR_FORMAT, cut < 8 ? "not a session" : "cut short");
    }
    for (size_t i = 0; i < bytes; i += i < 1600 ? 3 : bytes / 200) { /* header, tokens, sampling and further */
        memcpy(bad, good, bytes);
        bad[i] ^= (uint8_t)(1u << i % 8);
        put(bad, bytes);
        hlwq_status st = hlwq_session_load(held, path, NULL, &err);
        if (st == HLWQ_OK || hlwq_session_position(held) != 40)
            fail_msg("byte %zu of %zu changed: status %d", i, bytes, st);
    }
    memcpy(bad, good, bytes);
    bad[bytes] = 0;
    put(bad, bytes + 1);
    refused(held, HLWQ_ERR_FORMAT, "follow its end");
    assert_true(follow(held, 8) == want);
    free(good);
    free(bad);
    hlwq_session_close(s);
    hlwq_session_close(held);
    hlwq_engine_close(e);
}

static void other_models_modes_devices_and_newer_files_are_refused(void **state)
{
    (void)state;
    hlwq_error err;
    char dir[80];
    snprintf(dir, sizeof dir, "%s/tiny", folder);
    tiny_model_write(dir, false);
    hlwq_engine *e = open_engine(model, 1, 0), *tiny = open_engine(dir, 1, 0);
    hlwq_session *q3 = open_session(e, HLWQ_KV_Q3, 512), *q4 = open_session(e, HLWQ_KV_K4V3, 512),
                 *small = open_session(e, HLWQ_KV_Q3, 64), *t = open_session(tiny, HLWQ_KV_F16, 64);
    feed(q3, 100);
    feed(q4, 40);
    feed(small, 40);
    static const int32_t few[40] = {1};
    CHECK_OK(hlwq_session_eval(t, few, 40, NULL, &err), err);
    CHECK_OK(hlwq_session_save(q3, path, NULL, &err), err);
    refused(q4, HLWQ_ERR_ARG, "--kv q3, this is --kv k4v3");
    refused(small, HLWQ_ERR_BUDGET, "100 tokens");
    refused(t, HLWQ_ERR_ARG, "another model");

    size_t bytes;
    uint8_t *file = slurp(&bytes);
    static const struct {
        int at, value;
        hlwq_status st;
        const char *words;
    } change[] = {{8, 2, HLWQ_ERR_UNSUPPORTED, "newer"},  {24, 1, HLWQ_ERR_UNSUPPORTED, "computes in another way"},
                  {28, 1, HLWQ_ERR_ARG, "--device cuda"}, {28, 16, HLWQ_ERR_ARG, "--exact"},
                  {48, 1, HLWQ_ERR_ARG, "another shape"}, {12, 101, HLWQ_ERR_FORMAT, "tokens"}};
    hlwq_session *held = open_session(e, HLWQ_KV_Q3, 512);
    feed(held, 40);
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        uint8_t was = file[change[i].at];
        file[change[i].at] = (uint8_t)change[i].value;
        uint64_t hash = XXH3_64bits(file, HS_SESSION_HEADER - 8);
        memcpy(file + HS_SESSION_HEADER - 8, &hash, 8);
        put(file, bytes);
        refused(held, change[i].st, change[i].words);
        file[change[i].at] = was;
    }
    put((const uint8_t *)"{\"schema\": 1}", 13);
    refused(held, HLWQ_ERR_FORMAT, "not a session");
    assert_false(hlwq_is_session(path));
    unlink(path);
    refused(held, HLWQ_ERR_IO, NULL);
    free(file);
    hlwq_session_close(q3);
    hlwq_session_close(q4);
    hlwq_session_close(small);
    hlwq_session_close(held);
    hlwq_session_close(t);
    hlwq_engine_close(e);
    hlwq_engine_close(tiny);
}

/* A part of a kind that is not known yet: left out where the writer said so. */
static void unknown_parts_are_left_out_only_where_they_may_be(void **state)
{
    (void)state;
    hlwq_error err;
    hs_mem *mem = hs_mem_open(0);
    hs_session_identity id = {.model = 7};
    for (int optional = 0; optional < 2; optional++) {
        hs_session_writer w;
        hs_session_reader r;
        hs_section kind;
        uint64_t bytes;
        char big[1000] = {0};
        CHECK_OK(hs_session_create(&w, mem, path, &id, 3, &err), err);
        CHECK_OK(hs_session_begin(&w, (hs_section)77, optional, sizeof big, &err), err);
        CHECK_OK(hs_session_put(&w, big, sizeof big, &err), err);
        CHECK_OK(hs_session_begin(&w, HS_SECTION_NOTE, true, 2, &err), err);
        CHECK_OK(hs_session_put(&w, "hi", 2, &err), err);
        CHECK_OK(hs_session_commit(&w, &err), err);
        CHECK_OK(hs_session_open_file(&r, mem, path, &id, &err), err);
        hs_session_rewind(&r);
        if (optional) {
            CHECK_OK(hs_session_section(&r, &kind, &bytes, &err), err);
            assert_true(kind == HS_SECTION_NOTE && bytes == 2);
            CHECK_OK(hs_session_section(&r, &kind, &bytes, &err), err);
            assert_true(kind == HS_SECTION_END);
        } else {
            CHECK_FAILS(hs_session_section(&r, &kind, &bytes, &err), HLWQ_ERR_UNSUPPORTED, err, "newer");
        }
        hs_session_close_file(&r);
    }
    assert_int_equal(hs_mem_now_bytes(mem), 0);
    hs_mem_close(mem);
}

/* Killed at any time, a writer leaves the file that was there, whole. */
static void a_killed_save_keeps_the_old_file(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(model, 1, 0);
    hlwq_session *s = open_session(e, HLWQ_KV_F32, 1024);
    feed(s, 600);
    CHECK_OK(hlwq_session_save(s, path, "old", &err), err);
    uint32_t killed_inside = 0;
    for (uint32_t i = 0; i < 12; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            for (;;)
                if (hlwq_session_save(s, path, "new", NULL) != HLWQ_OK)
                    _exit(1);
        struct timespec t = {.tv_nsec = 300000 + 1700000L * i};
        nanosleep(&t, NULL);
        kill(child, SIGKILL);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        char *note, left[96];
        snprintf(left, sizeof left, "%s.tmp.%ld", path, (long)child);
        killed_inside += access(left, F_OK) == 0;
        CHECK_OK(hlwq_session_load(s, path, &note, &err), err);
        assert_true(note && (strcmp(note, "old") == 0 || strcmp(note, "new") == 0));
        assert_int_equal(hlwq_session_position(s), 600);
        hlwq_free(note);
    }
    assert_true(killed_inside > 0);
    CHECK_OK(hlwq_session_save(s, path, NULL, &err), err); /* and tidies up */
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

static void a_full_disk_and_a_full_budget_keep_the_old_file(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(model, 1, 0);
    hlwq_session *s = open_session(e, HLWQ_KV_F16, 512);
    feed(s, 40);
    CHECK_OK(hlwq_session_save(s, path, "old", &err), err);
    size_t bytes;
    uint8_t *before = slurp(&bytes);
    feed(s, 60);
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_IGN);
    for (uint64_t limit = 1; limit < bytes; limit = limit * 3 + 50) {
        small = (struct rlimit){limit, old.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        hlwq_status st = hlwq_session_save(s, path, "new", &err);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(st, HLWQ_ERR_IO);
    }
    hs_mem_fail_at(e->mem, 0);
    assert_int_equal(hlwq_session_save(s, path, "new", &err), HLWQ_ERR_NOMEM);
    hs_mem_fail_at(e->mem, UINT64_MAX);
    size_t now;
    uint8_t *after = slurp(&now);
    assert_int_equal(now, bytes);
    assert_memory_equal(before, after, bytes);
    free(before);
    free(after);
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

/* A save in the smallest budget that the plan allows. */
static void a_save_fits_the_plan(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_plan plan;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = HLWQ_DEVICE_CPU;
    o.model = model;
    o.context = 1024;
    CHECK_OK(hlwq_make_plan(&o, &plan, &err), err);
    hlwq_engine *e = open_engine(model, 1, plan.smallest_bytes);
    hlwq_session *s = open_session(e, HLWQ_KV_F16, 1024);
    feed(s, 600);
    CHECK_OK(hlwq_session_save(s, path, NULL, &err), err);
    uint64_t want = follow(s, 8);
    CHECK_OK(hlwq_session_load(s, path, NULL, &err), err);
    assert_true(follow(s, 8) == want);
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

static void an_empty_session_can_be_kept(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(model, 1, 0);
    hlwq_session *s = open_session(e, HLWQ_KV_Q4, 512);
    CHECK_OK(hlwq_session_save(s, path, NULL, &err), err);
    feed(s, 100);
    uint64_t want = follow(s, 4);
    CHECK_OK(hlwq_session_load(s, path, NULL, &err), err);
    assert_int_equal(hlwq_session_position(s), 0);
    assert_null(hlwq_session_logits(s));
    feed(s, 100);
    assert_true(follow(s, 4) == want);
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_on_with_the_same_bits_in_every_mode),
        cmocka_unit_test(damage_is_refused_and_changes_nothing),
        cmocka_unit_test(other_models_modes_devices_and_newer_files_are_refused),
        cmocka_unit_test(unknown_parts_are_left_out_only_where_they_may_be),
        cmocka_unit_test(a_killed_save_keeps_the_old_file),
        cmocka_unit_test(a_full_disk_and_a_full_budget_keep_the_old_file),
        cmocka_unit_test(a_save_fits_the_plan),
        cmocka_unit_test(an_empty_session_can_be_kept),
    };
    if (access(model, R_OK) != 0 || !mkdtemp(folder))
        return 77;
    snprintf(path, sizeof path, "%s/s", folder);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command) || failed;
}
