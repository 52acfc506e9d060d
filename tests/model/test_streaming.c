/*
 * Streaming changes time, never tokens: one hash of all logits for every budget, I/O engine, thread count, order of
 * completions, cache policy and batch; and budgets that hold.
 */
#define _GNU_SOURCE
#include "model/engine.h"
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char model[] = "models/demo-q5.hlwq";

static const char prompt[] =
    "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals, when it was checked by "
    "a violent gust of wind which swept up the streets, rattling along the house-tops, and fiercely agitating the "
    "scanty flame of the lamps that struggled against the darkness. Through one of the obscurest quarters of London, "
    "and among haunts little loved by the gentlemen of the police, a man, evidently of the lowest orders, was wending "
    "his solitary way. He stopped twice or thrice at different shops and houses of a description correspondent with "
    "the appearance of the quartier in which they were situated, and tended inquiry for some article or another which "
    "did not seem easily to be met with.";

static hlwq_engine_options options(void)
{
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = test_device();
    if (access(model, R_OK) != 0)
        skip();
    o.model = model;
    o.context = 256;
    return o;
}

static hlwq_session *open_session(hlwq_engine *e)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 256;
    so.sampling.temperature = 0;
    CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
    return s;
}

static uint64_t hash_of(const hlwq_engine_options *o, uint32_t tokens, uint64_t shuffle, hlwq_streaming *io)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session_stats stats;
    uint64_t now, peak;
    CHECK_OK(hlwq_engine_open(o, &e, &err), err);
    if (shuffle)
        hs_stream_shuffle(hs_residency_stream(e->residency), shuffle);
    hlwq_session *s = open_session(e);
    CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
    for (uint32_t t = 0; t < tokens; t++) {
        int32_t id;
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
    }
    hlwq_session_get_stats(s, &stats);
    hlwq_engine_streaming(e, io);
    hlwq_engine_memory(e, &now, &peak);
    if (o->ram_bytes)
        assert_true(peak <= o->ram_bytes);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    return stats.logits_hash;
}

/* Resident, half, a fifth, the least: as budgets. */
static uint64_t budget_of(int i)
{
    hlwq_error err;
    hlwq_plan all, least;
    hlwq_engine_options o = options();
    CHECK_OK(hlwq_make_plan(&o, &all, &err), err);
    o.ram_bytes = 1;
    assert_int_equal(hlwq_make_plan(&o, &least, &err), HLWQ_ERR_BUDGET);
    uint64_t fixed = all.smallest_bytes, experts = all.streamed_bytes;
    const uint64_t budget[] = {0, fixed + experts / 2, fixed + experts / 5, fixed};
    return budget[i];
}

static void one_hash_for_everything(void **state)
{
    (void)state;
    hlwq_engine_options o = options();
    hlwq_streaming io;
    o.threads = 2;
    const uint64_t want = hash_of(&o, 64, 0, &io);
    assert_int_equal(io.slots, 0);
    bool sanitized = getenv("HLWQ_SANITIZE") != NULL;
    for (int b = 1; b < 4; b++)
        for (int engine = HLWQ_IO_URING; engine <= HLWQ_IO_MMAP; engine++)
            for (uint32_t threads = 1; threads <= 2; threads++)
                for (uint64_t shuffle = 0; shuffle < 2; shuffle++) {
                    o.ram_bytes = budget_of(b) + (engine == HLWQ_IO_MMAP ? 1 << 20 : 0); /* page tables */
                    o.io = (hlwq_io)engine;
                    o.threads = threads;
                    o.batch = shuffle ? 64 : 0;
                    o.direct = shuffle ? HLWQ_DIRECT_ON : HLWQ_DIRECT_OFF;
                    o.policy = (hlwq_policy)((b + threads) % 4);
                    if (sanitized && (threads + shuffle + (uint32_t)b) % 2)
                        continue; /* every other one where it is slow */
                    hlwq_error err;
                    hlwq_engine *e;
                    if (hlwq_engine_open(&o, &e, &err) == HLWQ_ERR_UNSUPPORTED)
                        continue; /* a ring that the system refuses */
                    hlwq_engine_close(e);
                    uint64_t got = hash_of(&o, 64, shuffle * 77, &io);
                    if (got != want)
                        fail_msg("budget %d, engine %d, %u threads, shuffle %u: another hash", b, engine, threads,
                                 (unsigned)shuffle);
                    assert_true(io.slots > 0 && io.misses > 0 && io.bytes_read > 0);
                    if (b < 3)
                        assert_true(io.hits > 0);
                }
}

/* A dense model streams its layers. */
static void dense_layers_pass_through(void **state)
{
    (void)state;
    hlwq_error err;
    char path[64], source[] = "tests/golden/qwen35/dense-tied";
    snprintf(path, sizeof path, "hlwq-dense-%d.hlwq", (int)getpid());
    if (access(source, R_OK) != 0)
        skip();
    hlwq_convert_options c = hlwq_convert_options_default();
    c.source = source;
    c.output = path;
    CHECK_OK(hlwq_convert(&c, &err), err);
    int32_t ids[70];
    uint64_t hash[8];
    uint32_t n = 0, layers = 0;
    for (int i = 0; i < 70; i++)
        ids[i] = 1 + i * 7 % 90;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = test_device();
    o.model = path;
    o.context = 128;
    o.threads = 2;
    for (uint32_t slots = 0; slots < 6 && (slots < 2 || slots <= layers); slots = slots ? slots + 1 : 2) {
        hlwq_engine *e;
        hlwq_session *s;
        hlwq_session_stats stats;
        hlwq_streaming io;
        hlwq_plan plan;
        o.slots = slots;
        o.io = slots % 2 ? HLWQ_IO_PREAD : HLWQ_IO_AUTO;
        CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
        hlwq_engine_plan(e, &plan);
        layers = plan.streamed;
        hlwq_session_options so = hlwq_session_options_default(e);
        so.context = 128;
        CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
        CHECK_OK(hlwq_session_eval(s, ids, 64, NULL, &err), err);
        for (int t = 64; t < 70; t++)
            CHECK_OK(hlwq_session_eval(s, ids + t, 1, NULL, &err), err);
        hlwq_session_get_stats(s, &stats);
        hlwq_engine_streaming(e, &io);
        hash[n++] = stats.logits_hash;
        assert_int_equal(stats.logits_hash, hash[0]);
        assert_int_equal(io.misses > 0, slots != 0 && slots < layers);
        if (slots > 2 && slots < layers)
            assert_true(io.hits > 0);
        hlwq_session_close(s);
        hlwq_engine_close(e);
    }
    assert_true(n >= 3);
    unlink(path);
}

static void too_small_is_a_sentence_and_the_least_works(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = options();
    hlwq_streaming io;
    uint64_t least = budget_of(3);
    o.ram_bytes = least - least / 64;
    char megabytes[32];
    snprintf(megabytes, sizeof megabytes, "%uM", (unsigned)((least + 1048575) >> 20));
    CHECK_FAILS(hlwq_engine_open(&o, &e, &err), HLWQ_ERR_BUDGET, err, megabytes);
    o.ram_bytes = least;
    hlwq_plan plan;
    CHECK_OK(hlwq_make_plan(&o, &plan, &err), err);
    assert_int_equal(plan.slots, 2);
    (void)hash_of(&o, 2, 0, &io);
    assert_true(io.slots >= 2 && io.slots < 8); /* and what a short text leaves of the context */
}

/* Fails the n-th read in each way, for all n until none fails. */
static void failed_reads_leave_nothing_behind(void **state)
{
    (void)state;
    static const int result[] = {-EACCES, 0};
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = options();
    o.threads = 1;
    o.ram_bytes = budget_of(2);
    for (size_t k = 0; k < sizeof result / sizeof *result; k++) {
        CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
        hlwq_session *s = open_session(e);
        uint32_t failed = 0, clean = 0;
        for (uint64_t n = 0; clean < 3 && n < 4000; n += 1 + n / 4) {
            hs_stream_fail_at(hs_residency_stream(e->residency), n, result[k]);
            hlwq_session_reset(s);
            hlwq_status st = hlwq_session_prompt(s, prompt, &err);
            if (st == HLWQ_OK) {
                clean++;
                continue;
            }
            clean = 0;
            failed++;
            assert_int_equal(st, HLWQ_ERR_IO);
            assert_non_null(strstr(err.message, model));
            hs_stream_fail_at(hs_residency_stream(e->residency), UINT64_MAX, 0);
            hlwq_session_reset(s);
            CHECK_OK(hlwq_session_prompt(s, prompt, &err), err); /* the next request works */
        }
        assert_true(failed > 5);
        hlwq_session_close(s);
        hlwq_engine_close(e); /* asserts that nothing is pinned or held */
    }
}

/* Refuses the n-th submission: what passes by itself is tried again, what does not is an error and nothing stays. */
static void refused_submissions_leave_nothing_behind(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = options();
    o.threads = 1;
    o.ram_bytes = budget_of(2);
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    hs_stream *stream = hs_residency_stream(e->residency);
    hlwq_session *s = open_session(e);
    uint32_t failed = 0, clean = 0;
    for (uint64_t n = 0; clean < 3 && n < 4000; n += 1 + n / 4) {
        hs_stream_refuse_at(stream, n, n % 2 ? EAGAIN : EPERM);
        hlwq_session_reset(s);
        hlwq_status st = hlwq_session_prompt(s, prompt, &err);
        hs_stream_refuse_at(stream, UINT64_MAX, 0);
        clean = st == HLWQ_OK && n % 2 == 0 ? clean + 1 : st == HLWQ_OK ? clean : 0;
        failed += st != HLWQ_OK;
        assert_true(st == HLWQ_OK || (st == HLWQ_ERR_IO && n % 2 == 0));
        hlwq_session_reset(s);
        CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
    }
    assert_true(failed > 5);
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

/* Everything from opening to a smaller budget and back, with the n-th allocation refused, for all n until none is. */
static hlwq_status a_life(const hlwq_engine_options *o, uint64_t smaller, hlwq_error *err)
{
    hlwq_engine *e = NULL;
    hlwq_session *s = NULL;
    int32_t id;
    hlwq_status st = hlwq_engine_open(o, &e, err);
    if (st == HLWQ_OK) {
        hlwq_session_options so = hlwq_session_options_default(e);
        so.context = 256;
        st = hlwq_session_open(e, &so, &s, err);
    }
    if (st == HLWQ_OK)
        st = hlwq_session_prompt(s, "It was a dark", err);
    if (st == HLWQ_OK)
        st = hlwq_session_next(s, &id, err);
    if (st == HLWQ_OK)
        st = hlwq_engine_set_budget(e, smaller, err);
    if (st == HLWQ_OK)
        st = hlwq_engine_set_budget(e, o->ram_bytes, err);
    if (st == HLWQ_OK)
        st = hlwq_session_next(s, &id, err);
    hlwq_session_close(s);
    hlwq_engine_close(e); /* asserts that nothing is pinned or held */
    return st;
}

static void refused_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine_options o = options();
    o.threads = 1;
    o.verify = HLWQ_VERIFY_OFF;
    uint64_t smaller = budget_of(3), step = getenv("HLWQ_SANITIZE") ? 7 : 1;
    o.ram_bytes = budget_of(2);
    for (uint64_t n = 0;; n += step) {
        hs_mem_fail_at(NULL, n);
        hlwq_status st = a_life(&o, smaller, &err);
        bool failed = hs_mem_has_failed();
        hs_mem_fail_at(NULL, UINT64_MAX);
        if (!failed) {
            CHECK_OK(st, err);
            assert_true(n > 20);
            break;
        }
        if (st != HLWQ_ERR_NOMEM)
            fail_msg("allocation %u: status %d, %s", (unsigned)n, st, st ? err.message : "no error");
    }
}

/* Flips a bit in the middle of every expert of a group, as a dying disk does: the file's time stays. */
static void flip(hlwq_engine *e, int fd, uint32_t g)
{
    struct stat before;
    assert_int_equal(fstat(fd, &before), 0);
    const hs_group *group = &hs_store_table(e->store)->group[g];
    for (uint32_t x = 0; x < group->count; x++) {
        uint64_t at = hs_store_extent_offset(e->store, g, x) + group->bytes / 2;
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    }
    fsync(fd);
    assert_int_equal(futimens(fd, (const struct timespec[]){before.st_atim, before.st_mtim}), 0);
}

/* A copy of the model at a new `path`, open for reading and writing. */
static int copy_model(char *path)
{
    int to = mkstemp(path), from = open(model, O_RDONLY);
    char block[65536];
    if (from < 0) {
        unlink(path);
        skip();
    }
    for (ssize_t n; (n = read(from, block, sizeof block)) > 0;)
        assert_int_equal(write(to, block, (size_t)n), n);
    close(from);
    return to;
}

static void damage_and_truncation_are_found_while_running(void **state)
{
    (void)state;
    hlwq_error err;
    char path[] = "hlwq-damaged-XXXXXX";
    int to = copy_model(path);
    for (int engine = HLWQ_IO_PREAD; engine <= HLWQ_IO_MMAP; engine++) {
        hlwq_engine *e;
        hlwq_engine_options o = options();
        o.model = path;
        o.io = (hlwq_io)engine;
        o.verify = engine == HLWQ_IO_MMAP ? HLWQ_VERIFY_ALWAYS : HLWQ_VERIFY_FIRST;
        o.ram_bytes = budget_of(2) + (1 << 20);
        CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
        hlwq_session *s = open_session(e);
        /* A byte in the middle of every expert of the first layer, changed after the model was opened. */
        uint32_t g = e->net.layer[0].experts_group;
        flip(e, to, g);
        CHECK_FAILS(hlwq_session_prompt(s, prompt, &err), HLWQ_ERR_FORMAT, err, "damaged");
        flip(e, to, g);
        hlwq_session_reset(s);
        CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
        if (o.verify == HLWQ_VERIFY_ALWAYS) { /* also what was right when it was read before */
            flip(e, to, g);
            hlwq_session_reset(s);
            CHECK_FAILS(hlwq_session_prompt(s, prompt, &err), HLWQ_ERR_FORMAT, err, "damaged");
            flip(e, to, g);
            hlwq_session_reset(s);
        }
        off_t size = lseek(to, 0, SEEK_END);
        char *whole = malloc((size_t)size);
        assert_int_equal(pread(to, whole, (size_t)size, 0), size);
        assert_int_equal(ftruncate(to, size / 3), 0);
        hlwq_session_reset(s);
        CHECK_FAILS(hlwq_session_prompt(s, prompt, &err), HLWQ_ERR_IO, err, "changed while it was in use");
        assert_int_equal(pwrite(to, whole, (size_t)size, 0), size);
        free(whole);
        hlwq_session_reset(s); /* the right size again, but written since: what it holds now is not what was opened */
        CHECK_FAILS(hlwq_session_prompt(s, prompt, &err), HLWQ_ERR_IO, err, "changed while it was in use");
        hlwq_session_close(s);
        hlwq_engine_close(e);
    }
    close(to);
    unlink(path);
}

/* A new file under the name changes nothing: the one that was opened is read on. */
static void a_replaced_file_is_not_mixed_in(void **state)
{
    (void)state;
    hlwq_error err;
    char path[] = "hlwq-replaced-XXXXXX", other[] = "hlwq-other-XXXXXX";
    hlwq_engine_options o = options();
    hlwq_streaming io;
    const uint64_t want = hash_of(&o, 8, 0, &io);
    close(mkstemp(other));
    close(copy_model(path));
    o.model = path;
    o.ram_bytes = budget_of(2);
    hlwq_engine *e;
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    assert_int_equal(rename(other, path), 0);
    hlwq_session *s = open_session(e);
    hlwq_session_stats stats;
    CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
    for (int t = 0; t < 8; t++) {
        int32_t id;
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
    }
    hlwq_session_get_stats(s, &stats);
    assert_int_equal(stats.logits_hash, want);
    hlwq_session_close(s);
    hlwq_engine_close(e);
    unlink(path);
}

static void a_budget_can_change_while_running(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = options();
    hlwq_streaming io;
    uint64_t now, peak;
    const uint64_t want = hash_of(&o, 40, 0, &io);
    o.ram_bytes = budget_of(2);
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    hlwq_session *s = open_session(e);
    CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
    for (uint32_t t = 0; t < 40; t++) {
        int32_t id;
        if (t % 5 == 0) {
            uint64_t budget = budget_of(1 + (int)(t / 5 % 3));
            CHECK_OK(hlwq_engine_set_budget(e, budget, &err), err);
            hlwq_engine_memory(e, &now, &peak);
            assert_true(now <= budget);
        }
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
    }
    CHECK_FAILS(hlwq_engine_set_budget(e, 1 << 20, &err), HLWQ_ERR_BUDGET, err, "smallest");
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    assert_int_equal(stats.logits_hash, want);
    hlwq_session_close(s);
    hlwq_engine_close(e);
}

/* Strain takes a tenth at a time down to the least that works; calm gives it back; the tokens are the same. */
static void a_strained_system_gets_memory_back(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = options();
    hlwq_streaming io;
    hlwq_plan p;
    hlwq_session_stats stats;
    const uint64_t want = hash_of(&o, 40, 0, &io), plenty = 1ull << 40;
    o.ram_bytes = budget_of(1);
    o.adapt = false; /* to the system that runs the test */
    CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
    hlwq_session *s = open_session(e);
    CHECK_OK(hlwq_session_prompt(s, prompt, &err), err);
    uint64_t before = o.ram_bytes;
    double now = 100;
    for (uint32_t t = 0; t < 40; t++, now += 1) {
        int32_t id;
        hs_engine_adapt(e, t < 8 ? 0.5 : 0.0, t == 8 ? 1 << 20 : plenty, now); /* at last by what is available */
        hlwq_engine_plan(e, &p);
        if (t < 9)
            assert_true(p.ram_bytes < before || p.ram_bytes == p.smallest_bytes);
        else
            assert_true(p.ram_bytes >= before);
        assert_true(p.ram_bytes >= p.smallest_bytes && p.ram_bytes <= o.ram_bytes);
        before = p.ram_bytes;
        CHECK_OK(hlwq_session_next(s, &id, &err), err);
    }
    assert_true(before > p.smallest_bytes);
    for (int k = 0; k < 12; k++, now += 20)
        hs_engine_adapt(e, 0, plenty, now);
    hlwq_engine_plan(e, &p);
    assert_int_equal(p.ram_bytes, o.ram_bytes);
    hlwq_session_get_stats(s, &stats);
    assert_int_equal(stats.logits_hash, want);
    hlwq_session_close(s);

    const uint64_t little = 4 << 20; /* of 1 GiB: want only if there was more, and someone else has it */
    e->adapt.wanted_bytes = 1 << 30;
    e->adapt.strained_seconds = now; /* too early to take any back */
    e->adapt.room_bytes = little + hs_mem_now_bytes(e->mem);
    hs_engine_adapt(e, 0, little, now + 0.5);
    hlwq_engine_plan(e, &p);
    assert_int_equal(p.ram_bytes, o.ram_bytes);
    e->adapt.room_bytes = 1 << 30;
    hs_engine_adapt(e, 0, little, now + 0.5);
    hlwq_engine_plan(e, &p);
    assert_int_equal(p.ram_bytes, p.smallest_bytes);
    hlwq_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_hash_for_everything),
        cmocka_unit_test(dense_layers_pass_through),
        cmocka_unit_test(too_small_is_a_sentence_and_the_least_works),
        cmocka_unit_test(failed_reads_leave_nothing_behind),
        cmocka_unit_test(refused_submissions_leave_nothing_behind),
        cmocka_unit_test(refused_allocations_leave_nothing_behind),
        cmocka_unit_test(a_replaced_file_is_not_mixed_in),
        cmocka_unit_test(damage_and_truncation_are_found_while_running),
        cmocka_unit_test(a_budget_can_change_while_running),
        cmocka_unit_test(a_strained_system_gets_memory_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
