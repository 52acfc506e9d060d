/*
 * The demo model on the simulated card: one hash for every placement, order of streams and share of the CPU; caps that
 * hold; calls that fail at every place.  HLWQ_LONG=1 does all that there is of it, which takes half an hour.
 */
#include "tests/cuda/demo_text.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* {0} is C's */
#include "tests/support/tiny_model.h"
#pragma GCC diagnostic pop
}

#include "kernels/cuda/backend.h"

#include <math.h>

static void one_hash_for_every_placement(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_plan plan;
    hlwq_streaming io;
    hlwq_engine_options o = options();
    configure(1, HS_SIM_UP, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 4, &io);
    if (hlwq_make_plan(&o, &plan, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    uint64_t fixed = plan.card_smallest_bytes, all = plan.card_slots_bytes;
    const uint64_t budget[] = {fixed + all, fixed + all / 2, fixed + all / 5, fixed};
    static const double share[] = {0, 0.5, 1};
    const bool all_of_it = getenv("HLWQ_LONG") != nullptr, sanitized = getenv("HLWQ_SANITIZE") != nullptr;
    uint64_t seed = 1;
    for (int b = 0; b < 4; b++)
        for (int k = 0; k < 3; k++)
            for (uint64_t turn = 0; turn < 5; turn++) {
                bool below = b && seed % 2; /* what is below streams too, or all is in memory there */
                seed++;
                /* Some of them where they cannot be all: each budget and share with two seeds, one where it is slow. */
                if (!all_of_it && (b ? turn >= (sanitized ? 1 : 2) : turn || k))
                    continue;
                configure(seed, (hs_sim_order)(turn % 3), 64 << 20, 0);
                o.vram_bytes = budget[b];
                o.cpu_share = share[k];
                o.slots = below ? 40 : 0;
                if (hash_of(&o, 4, &io) != want)
                    fail_msg("budget %d, share %g, %s below, seed %u: another hash", b, share[k],
                             below ? "slots" : "everything", (unsigned)seed);
                if (b)
                    assert_true(io.card_slots > 0);
                if (b && share[k] > 0)
                    assert_true(io.beside > 0);
                if (b && share[k] < 1)
                    assert_true(io.uploads > 0);
                if (b == 1)
                    assert_true(io.card_hits > 0);
            }
    for (seed = 100; seed < (sanitized ? 102 : 103); seed++) {
        configure(seed, HS_SIM_SHUFFLE, 64 << 20, 0);
        o.vram_bytes = budget[2];
        o.cpu_share = 0.5;
        assert_true(hash_of(&o, 4, &io) == want);
    }
}

static void nvccs_code_has_the_same_hash(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = options();
    hs_sim_options nvccs = plain_options(), ours = nvccs;
    if (!nvccs.ptx) {
        print_message("HLWQ_SIM_PTX is not set\n");
        return;
    }
    ours.ptx = NULL;
    static const int archs[] = {89, 75};
    for (int arch : archs) {
        nvccs.arch = ours.arch = arch;
        hs_sim_configure(&ours);
        const uint64_t want = hash_of(&o, 4, &io);
        hs_sim_configure(&nvccs);
        const uint64_t got = hash_of(&o, 4, &io);
        print_message("sm_%d: %llx and %llx\n", arch, (unsigned long long)want, (unsigned long long)got);
        assert_true(got == want);
    }
}

/* Memory that may not be pinned is copied from as well. */
static void without_pinned_memory_the_tokens_are_the_same(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = few_slots(0.5);
    configure(1, HS_SIM_UP, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 2, &io);
    hs_sim_options refuses = plain_options();
    refuses.register_fails = true;
    hs_sim_configure(&refuses);
    assert_true(hash_of(&o, 2, &io) == want);
    assert_true(io.uploads > 0);
}

/* Some of it, up to a cap, in pieces that no extent respects, while the program goes on. */
static void pinning_in_the_background_changes_no_token(void **state)
{
    (void)state;
    hlwq_streaming io;
    hlwq_engine_options o = few_slots(0.5);
    o.slots = 0;
    configure(1, HS_SIM_UP, 64 << 20, 0);
    const uint64_t want = hash_of(&o, 2, &io), chunk = gpu_pin_chunk, at_once = gpu_pin_at_once;
    uint64_t all = hs_sim_read_stats().pinned_peak_bytes;
    gpu_pin_chunk = 100 << 10;
    gpu_pin_at_once = 0;
    for (uint64_t cap = all / 2; cap <= all; cap += all / 2) {
        hs_sim_options some = plain_options();
        some.pinned_bytes = cap;
        some.order = HS_SIM_SHUFFLE;
        hs_sim_configure(&some);
        assert_true(hash_of(&o, 2, &io) == want);
        assert_true(io.uploads > 0 && hs_sim_read_stats().pinned_peak_bytes <= cap);
    }
    gpu_pin_chunk = chunk;
    gpu_pin_at_once = at_once;
}

/* ---- beside the CPU -------------------------------------------------------------------------- */

/* Logits after n made-up tokens below `ids`; *vocab of them, to be freed. */
static float *logits_of(const char *path, hlwq_device device, uint32_t slots, hlwq_kv kv, uint32_t n, uint32_t ids,
                        uint32_t *vocab)
{
    hlwq_error err;
    hlwq_engine *e = nullptr;
    hlwq_session *s = nullptr;
    static int32_t id[256];
    for (uint32_t i = 0; i < n; i++)
        id[i] = (int32_t)((i * 2654435761u >> 7) % ids);
    configure(n, HS_SIM_SHUFFLE, 64 << 20, 0);
    hlwq_engine_options o = options();
    o.model = path;
    o.device = device;
    o.context = 256;
    o.card_slots = device == HLWQ_DEVICE_CUDA ? slots : 0;
    o.kv = kv;
    if (hlwq_engine_open(&o, &e, &err) != HLWQ_OK)
        fail_msg("%s: %s", path, err.message);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 256;
    so.kv = kv;
    if (hlwq_session_open(e, &so, &s, &err) != HLWQ_OK || hlwq_session_eval(s, id, n, nullptr, &err) != HLWQ_OK)
        fail_msg("%s: %s", path, err.message);
    *vocab = e->net.config->vocab;
    float *last = static_cast<float *>(malloc(*vocab * sizeof(float)));
    memcpy(last, hlwq_session_logits(s), *vocab * sizeof(float));
    hlwq_session_close(s);
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
    return last;
}

static void near_the_cpu(const char *path, hlwq_kv kv, uint32_t n, uint32_t ids)
{
    uint32_t vocab, best = 0;
    float *cpu = logits_of(path, HLWQ_DEVICE_CPU, 0, kv, n, ids, &vocab), size = 0, off = 0;
    float *card = logits_of(path, HLWQ_DEVICE_CUDA, 0, kv, n, ids, &vocab);
    float *some = logits_of(path, HLWQ_DEVICE_CUDA, 9, kv, n, ids, &vocab);
    for (uint32_t i = 0; i < vocab; i++) {
        size = fabsf(cpu[i]) > size ? fabsf(cpu[i]) : size;
        off = fabsf(card[i] - cpu[i]) > off ? fabsf(card[i] - cpu[i]) : off;
        best = cpu[i] > cpu[best] ? i : best;
    }
    for (uint32_t i = 0; i < vocab; i++)
        assert_true(card[i] <= card[best]);
    if (!(off <= 0.02f * size))
        fail_msg("%s: logits up to %g differ by %g", path, (double)size, (double)off);
    assert_memory_equal(card, some, vocab * sizeof(float));
    free(cpu);
    free(card);
    free(some);
}

static void int4_and_coded_caches_are_near_the_cpu(void **state)
{
    (void)state;
    static const char *const format[] = {"I4", "I4Z", "I4G64", "I4G64Z"};
    char dir[] = "/tmp/hlwq-cuda-XXXXXX", source[64], made[64], command[96];
    assert_non_null(mkdtemp(dir));
    snprintf(source, sizeof source, "%s/tiny", dir);
    snprintf(made, sizeof made, "%s/made.hlwq", dir);
    tiny_model_write(source, true);
    for (const char *name : format) {
        hlwq_error err;
        hlwq_convert_options c = hlwq_convert_options_default();
        c.source = source;
        c.output = made;
        c.format = name;
        c.overwrite = true;
        if (hlwq_convert(&c, &err) != HLWQ_OK)
            fail_msg("%s: %s", name, err.message);
        near_the_cpu(made, HLWQ_KV_F16, 21, 40);
    }
    near_the_cpu(demo_model, HLWQ_KV_K4V3, 140, 4000);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

/* GPTQ with desc_act and EOQ with AWQ's scales: the products' bits are the CPU's, wherever an expert is. */
static void weights_that_gather_their_inputs_are_near_the_cpu(void **state)
{
    (void)state;
    static const char *const folder[] = {"gptq/dense-g128-actorder-sym", "gptq/moe-g64-sym", "hlwq-models/eoq3-moe"};
    uint32_t seen = 0;
    for (const char *name : folder) {
        char config[128], path[4096];
        snprintf(config, sizeof config, "%s/config.json", name);
        const char *found = golden(config);
        if (!found)
            continue;
        snprintf(path, sizeof path, "%.*s", (int)(strlen(found) - strlen("/config.json")), found);
        hlwq_error err;
        hs_store *store;
        hs_mem *mem = hs_mem_open(0);
        if (hs_store_open(&store, mem, path, nullptr, nullptr, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
        hs_limits limits = hs_network_limits(hs_store_table(store), HS_GRID);
        assert_true(limits.ordered);
        uint32_t ids = limits.vocab;
        hs_store_close(store);
        hs_mem_close(mem);
        near_the_cpu(path, HLWQ_KV_F16, 21, ids);
        seen++;
    }
    if (!seen)
        skip();
}

/* ---- several texts --------------------------------------------------------------------------- */

enum { TEXTS = 3, STEPS = 3 };

static hlwq_session *a_session(hlwq_engine *e, uint32_t text, bool tokens_only)
{
    hlwq_error err;
    hlwq_session *s;
    int32_t ids[8];
    for (uint32_t i = 0; i < 8; i++)
        ids[i] = (int32_t)(i * 37 + text * 101 + 11);
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = 64;
    so.tokens_only = tokens_only;
    so.sampling.temperature = 0;
    if (hlwq_session_open(e, &so, &s, &err) != HLWQ_OK ||
        hlwq_session_eval(s, ids, 3 + 2 * text, nullptr, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    return s;
}

static void texts_in_a_step_have_the_bits_they_have_alone(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s[TEXTS];
    hlwq_session_stats stats[2];
    hlwq_engine_options o = options();
    o.sessions = TEXTS;
    o.card_slots = 60;
    configure(3, HS_SIM_SHUFFLE, 64 << 20, 0);
    if (hlwq_engine_open(&o, &e, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    for (uint32_t i = 0; i < TEXTS; i++)
        s[i] = a_session(e, i, false);
    const int32_t ids[TEXTS] = {400, 7, 91};
    for (int t = 0; t < STEPS; t++)
        if (hlwq_sessions_step(s, ids, TEXTS, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
    for (uint32_t i = 0; i < TEXTS; i++) {
        hlwq_session_get_stats(s[i], &stats[0]);
        hlwq_session_close(s[i]);
        s[i] = a_session(e, i, false);
        for (int t = 0; t < STEPS; t++)
            if (hlwq_session_eval(s[i], &ids[i], 1, nullptr, &err) != HLWQ_OK)
                fail_msg("%s", err.message);
        hlwq_session_get_stats(s[i], &stats[1]);
        assert_true(stats[0].logits_hash == stats[1].logits_hash);
    }
    for (hlwq_session *each : s)
        hlwq_session_close(each);
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
}

/* Drawn tokens, too, with penalties on what the text has so far. */
static void drawn_tokens_leave_the_logits_on_the_card(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = options();
    enum { DRAWN = 8 };
    int32_t id[2][DRAWN];
    configure(5, HS_SIM_SHUFFLE, 64 << 20, 0);
    if (hlwq_engine_open(&o, &e, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    for (int k = 0; k < 2; k++) {
        hlwq_session *s;
        hlwq_session_options so = hlwq_session_options_default(e);
        so.context = 64;
        so.tokens_only = k;
        so.sampling.temperature = 1.2f;
        so.sampling.top_k = 40;
        so.sampling.top_p = 0.9f;
        so.sampling.repetition_penalty = 1.1f;
        so.sampling.seed = 11;
        static const int32_t ids[] = {11, 48, 85};
        if (hlwq_session_open(e, &so, &s, &err) != HLWQ_OK || hlwq_session_eval(s, ids, 3, nullptr, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
        for (int32_t &each : id[k])
            assert_int_equal(hlwq_session_next(s, &each, &err), HLWQ_OK);
        assert_true((k != 0) == (hlwq_session_logits(s) == nullptr));
        hlwq_session_close(s);
    }
    assert_memory_equal(id[0], id[1], sizeof id[0]);
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
}

/* Where only tokens are wanted, logits stay on the card, and the tokens are the same. */
static void tokens_alone_leave_the_logits_on_the_card(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = options();
    int32_t id[2][STEPS];
    uint64_t bytes[2];
    configure(3, HS_SIM_SHUFFLE, 64 << 20, 0);
    if (hlwq_engine_open(&o, &e, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    for (int k = 0; k < 2; k++) {
        hlwq_session *s = a_session(e, 1, k);
        uint64_t before = hs_sim_read_stats().d2h_bytes;
        for (int32_t &each : id[k])
            if (hlwq_session_next(s, &each, &err) != HLWQ_OK)
                fail_msg("%s", err.message);
        bytes[k] = hs_sim_read_stats().d2h_bytes - before;
        assert_true((k != 0) == (hlwq_session_logits(s) == nullptr));
        if (k) { /* some sampling wants logits: from the token after the next on there are some */
            hlwq_sampling warm;
            hlwq_session_get_sampling(s, &warm);
            warm.temperature = 0.8f;
            warm.top_k = 300;
            assert_int_equal(hlwq_session_set_sampling(s, &warm, &err), HLWQ_OK);
            int32_t ids[2];
            for (int32_t &each : ids)
                assert_int_equal(hlwq_session_next(s, &each, &err), HLWQ_OK);
            assert_non_null(hlwq_session_logits(s));
        }
        hlwq_session_close(s);
    }
    assert_memory_equal(id[0], id[1], sizeof id[0]);
    assert_true(bytes[0] - bytes[1] == STEPS * (e->net.config->vocab * sizeof(float) - sizeof(int32_t)));
    hlwq_engine_close(e);
    assert_int_equal(hs_sim_leaks(), 0);
}

static void a_card_that_is_too_small_is_a_sentence(void **state)
{
    (void)state;
    hlwq_error err;
    uint64_t hash, peak;
    hlwq_streaming io;
    hlwq_engine_options o = options();
    configure(1, HS_SIM_UP, 64 << 20, 0);
    o.vram_bytes = 3 << 20;
    assert_int_equal(a_text(&o, 1, &hash, &io, &peak, &err), HLWQ_ERR_BUDGET);
    assert_non_null(strstr(err.message, "--vram"));
    configure(1, HS_SIM_UP, 3 << 20, 0); /* the card itself is */
    o.vram_bytes = 0;
    assert_int_equal(a_text(&o, 1, &hash, &io, &peak, &err), HLWQ_ERR_BUDGET);
    assert_int_equal(hs_sim_leaks(), 0);
}

/* Every call of the runtime fails once: a status, a sentence, nothing left behind. */
static void failing_calls_leave_nothing_behind(void **state)
{
    (void)state;
    hlwq_error err;
    uint64_t hash, peak, step = getenv("HLWQ_LONG") ? 1 : getenv("HLWQ_SANITIZE") ? 61 : 23, calls = 0;
    hlwq_streaming io;
    hlwq_engine_options o = options();
    o.card_slots = 30;
    o.cpu_share = 0.5;
    configure(1, HS_SIM_UP, 64 << 20, 0);
    if (a_text(&o, 1, &hash, &io, &peak, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    calls = hs_sim_read_stats().calls;
    uint32_t failures = 0;
    for (uint64_t n = 1; n <= calls; n += n < 60 ? 1 : step) {
        configure(1, HS_SIM_UP, 64 << 20, n);
        hlwq_status st = a_text(&o, 1, &hash, &io, &peak, &err);
        failures += st != HLWQ_OK;
        if (st != HLWQ_OK && st != HLWQ_ERR_NOMEM && st != HLWQ_ERR_IO && st != HLWQ_ERR_UNSUPPORTED &&
            st != HLWQ_ERR_BUDGET)
            fail_msg("call %u: status %d, %s", (unsigned)n, st, err.message);
        if (hs_sim_leaks())
            fail_msg("call %u: %u things are left (%s)", (unsigned)n, (unsigned)hs_sim_leaks(), err.message);
    }
    assert_true(failures > 30);
}

/* The doctor names the card and its rates, or says which call failed; nothing is left on it either way. */
static void the_doctor_measures_the_card(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_diagnosis d;
    hlwq_engine_options o = options();
    configure(1, HS_SIM_UP, 64 << 20, 0);
    if (hlwq_predict(&o, &d, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    assert_non_null(strstr(d.card, "sm_"));
    assert_true(d.card_bytes == 64 << 20 && d.plan.card);
    assert_true(d.card_bytes_per_second > 0 && d.upload_bytes_per_second > 0 && d.tok_per_s > 0);
    assert_int_equal(hs_sim_leaks(), 0);
    const uint64_t calls = hs_sim_read_stats().calls;
    for (uint64_t n = 1; n <= calls; n++) {
        configure(1, HS_SIM_UP, 64 << 20, n);
        (void)hlwq_predict(&o, &d, &err);
        if (hs_sim_leaks())
            fail_msg("call %u: %u things are left (%s)", (unsigned)n, (unsigned)hs_sim_leaks(), err.message);
    }
}

static void without_a_card_the_cpu_computes(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_streaming io;
    uint64_t hash, peak;
    hlwq_engine_options o = options();
    hs_sim_options none = plain_options();
    none.devices = 0;
    hs_sim_configure(&none);
    assert_int_equal(a_text(&o, 1, &hash, &io, &peak, &err), HLWQ_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "no graphics card"));
    o.device = HLWQ_DEVICE_AUTO;
    assert_int_equal(a_text(&o, 1, &hash, &io, &peak, &err), HLWQ_OK);
    assert_int_equal(peak, 0);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(nvccs_code_has_the_same_hash),
        TEST(one_hash_for_every_placement),
        TEST(without_pinned_memory_the_tokens_are_the_same),
        TEST(pinning_in_the_background_changes_no_token),
        TEST(int4_and_coded_caches_are_near_the_cpu),
        TEST(texts_in_a_step_have_the_bits_they_have_alone),
        TEST(weights_that_gather_their_inputs_are_near_the_cpu),
        TEST(tokens_alone_leave_the_logits_on_the_card),
        TEST(drawn_tokens_leave_the_logits_on_the_card),
        TEST(a_card_that_is_too_small_is_a_sentence),
        TEST(failing_calls_leave_nothing_behind),
        TEST(the_doctor_measures_the_card),
        TEST(without_a_card_the_cpu_computes),
    };
    cmocka_set_test_filter(getenv("HLWQ_TEST")); /* one of them, by name */
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
