/* Coded keys and values in a whole model: one set of logits for every cut, instruction set and thread count; the bytes
 * that were promised; what is refused. */
#define _POSIX_C_SOURCE 200809L
#include "model/session.h"
#include "tests/support/check.h"
#include "tests/support/demo.h"
#include "tests/support/tiny_model.h"

#include <unistd.h>

static const hlwq_kv modes[] = {HLWQ_KV_Q8, HLWQ_KV_Q4, HLWQ_KV_K4V3, HLWQ_KV_Q3, HLWQ_KV_Q2, (hlwq_kv)0x84};

enum { TOKENS = 700 };

/* With `tight`, in the smallest memory that works: experts are streamed and batches are small. */
static hlwq_engine *open_engine(uint32_t threads, hlwq_kv kv, const char *isa, bool tight)
{
    hlwq_error err;
    hlwq_engine *e;
    hlwq_engine_options o = demo_options(HLWQ_DEVICE_CPU);
    o.threads = threads;
    o.context = 1024;
    o.kv = kv;
    if (tight) {
        hlwq_plan plan;
        CHECK_OK(hlwq_make_plan(&o, &plan, &err), err);
        o.ram_bytes = plan.smallest_bytes + (1u << 20);
    }
    if (isa)
        setenv("HLWQ_CPU", isa, 1);
    hlwq_status st = hlwq_engine_open(&o, &e, &err);
    if (isa)
        unsetenv("HLWQ_CPU");
    if (isa && st == HLWQ_ERR_UNSUPPORTED)
        return NULL;
    CHECK_OK(st, err);
    return e;
}

static hlwq_session *open_session(hlwq_engine *e, hlwq_kv kv)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_options o = hlwq_session_options_default(e);
    o.context = 1024;
    o.kv = kv;
    CHECK_OK(hlwq_session_open(e, &o, &s, &err), err);
    return s;
}

/* The logits of every token of a made-up text fed in pieces of `piece`: their last row, and a sum that sees each bit.
 */
static uint64_t feed(hlwq_session *s, uint32_t vocab, uint32_t first, uint32_t piece, float *last)
{
    hlwq_error err;
    static int32_t id[TOKENS];
    float *rows = malloc((size_t)TOKENS * vocab * sizeof *rows);
    for (uint32_t i = 0; i < TOKENS; i++)
        id[i] = (int32_t)(i * 2654435761u >> 7) % 4000;
    for (uint32_t at = 0, n = first; at < TOKENS; at += n, n = piece) {
        n = n < TOKENS - at ? n : TOKENS - at;
        CHECK_OK(hlwq_session_eval(s, id + at, n, rows + (size_t)at * vocab, &err), err);
    }
    hlwq_session_stats stats;
    hlwq_session_get_stats(s, &stats);
    memcpy(last, rows + (size_t)(TOKENS - 1) * vocab, vocab * sizeof *last);
    free(rows);
    return stats.logits_hash;
}

/* All rows are hashed in order, so one hash says that every position saw the same pages in the same form. */
static void one_hash_for_every_cut_budget_thread_count_and_instruction_set(void **state)
{
    (void)state;
    static const struct {
        uint32_t threads, first, piece;
        const char *isa;
        bool tight;
    } way[] = {{2, 512, 512, NULL, false}, {1, 64, 64, NULL, false},     {3, 128, 192, NULL, false},
               {2, 512, 512, NULL, true},  {2, 512, 512, "avx2", false}, {2, 512, 512, "ref", false}};
    float *last = malloc(4096 * sizeof *last);
    uint64_t plain = 0, seen[6] = {0};
    for (uint32_t m = 0; m < sizeof modes / sizeof *modes; m++)
        for (uint32_t w = 0; w < sizeof way / sizeof *way; w++) {
            if (way[w].isa && strcmp(way[w].isa, "ref") == 0 && m != 2 && m != 5)
                continue; /* slow */
            hlwq_engine *e = open_engine(way[w].threads, modes[m], way[w].isa, way[w].tight);
            if (!e)
                continue;
            assert_true((e->plan.slots > 0) == way[w].tight && (!way[w].tight || e->net.batch < HS_BATCH_MAX));
            hlwq_session *s = open_session(e, modes[m]);
            uint64_t hash = feed(s, 4096, way[w].first, way[w].piece, last);
            if (w == 0)
                seen[m] = hash;
            if (hash != seen[m])
                fail_msg("mode %x, way %u: logits hash %016llx, wanted %016llx", modes[m], w, (unsigned long long)hash,
                         (unsigned long long)seen[m]);
            hlwq_session_close(s);
            if (w == 0 && m == 0) {
                s = open_session(e, HLWQ_KV_F16);
                plain = feed(s, 4096, 512, 512, last);
                hlwq_session_close(s);
            }
            hlwq_engine_close(e);
            assert_true(seen[m] != plain && (m == 0 || seen[m] != seen[m - 1]));
        }
    free(last);
}

/*
 * Cuts off the grid change DeltaNet's last bits, in f16 as well; so here only an attention layer is looked at: the
 * stage alone, its input the same, cut in every way.  f16 pages and codes must be what one token at a time gives.
 */
static void attention_does_not_see_the_batch(void **state)
{
    (void)state;
    enum { N = 640 };
    static const uint32_t cut[] = {1, 512, 64, 127, 63, 300};
    hlwq_error err;
    hlwq_engine *e = open_engine(2, HLWQ_KV_F16, NULL, false);
    uint32_t hidden = e->net.config->hidden, layer = 0;
    while (!e->net.layer[layer].full)
        layer++;
    float *x = malloc((size_t)N * hidden * sizeof *x), *want = malloc((size_t)N * hidden * sizeof *want);
    for (uint32_t m = 0; m < sizeof modes / sizeof *modes; m++)
        for (uint32_t c = 0; c < sizeof cut / sizeof *cut; c++) {
            hs_states s;
            hs_kv_format format;
            CHECK_OK(hs_kv_format_named(&format, modes[m], e->net.config, &err), err);
            CHECK_OK(hs_states_init(&s, e->net.config, e->mem, e->backend, format, N, HS_BATCH_MAX, &err), err);
            CHECK_OK(hs_states_reach(&s, N, &err), err);
            for (uint32_t i = 0; i < N * hidden; i++)
                x[i] = tiny_weight(7, i, 2.0f, 0.0f);
            hs_kv_view kv = hs_states_kv(&s, s.index[layer]);
            for (uint32_t at = 0, n = cut[c]; at < N; at += n) {
                n = n < N - at ? n : N - at;
                CHECK_OK(e->backend->ops->attention(e->backend, &e->net.layer[layer].attention, &kv, at, n,
                                                    x + (size_t)at * hidden, &err),
                         err);
            }
            if (c == 0)
                memcpy(want, x, (size_t)N * hidden * sizeof *x);
            for (uint32_t i = 0; i < N * hidden; i++)
                if (memcmp(&x[i], &want[i], sizeof *x) != 0)
                    fail_msg("mode %x, pieces of %u: position %u differs", modes[m], cut[c], i / hidden);
            hs_states_close(&s);
        }
    free(x);
    free(want);
    hlwq_engine_close(e);
}

/* Up to position 127 everything is fp16. */
static void a_short_text_is_that_of_f16(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_engine *e = open_engine(2, HLWQ_KV_F16, NULL, false);
    int32_t id[128];
    float *row[2];
    for (int i = 0; i < 128; i++)
        id[i] = i * 31 % 4000;
    for (int i = 0; i < 2; i++) {
        hlwq_session *s = open_session(e, i ? HLWQ_KV_Q2 : HLWQ_KV_F16);
        CHECK_OK(hlwq_session_eval(s, id, 128, NULL, &err), err);
        row[i] = malloc(4096 * sizeof(float));
        memcpy(row[i], hlwq_session_logits(s), 4096 * sizeof(float));
        hlwq_session_close(s);
    }
    assert_memory_equal(row[0], row[1], 4096 * sizeof(float));
    free(row[0]);
    free(row[1]);
    hlwq_engine_close(e);
}

static void bytes_are_those_of_the_formula_and_of_the_plan(void **state)
{
    (void)state;
    static const double per_value[] = {8, 4, 3.5, 3, 2, 6}; /* bits, mean of K and V, as `modes` */
    for (uint32_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        hlwq_error err;
        hlwq_engine *e = open_engine(2, modes[m], NULL, false);
        const hs_config *c = e->net.config;
        hs_kv_format format;
        CHECK_OK(hs_kv_format_named(&format, modes[m], c, &err), err);
        uint64_t before = hs_mem_tag_bytes(e->mem, HS_MEM_KV), small = hs_states_bytes(c, format, 4096, 512);
        uint64_t grown = hs_states_bytes(c, format, 8192, 512) - small;
        double want = 2 * 2.0 * 256 * (per_value[m] / 8 + 2.0 / 128); /* 2 layers, 1 head of 256 */
        assert_true((double)grown == 4096 * want + 64 * 2 * 2 * sizeof(void *));
        hlwq_session *s = open_session(e, modes[m]);
        /* 10 pages as fp16 at once, 14 of 16 in codes as they are needed; page tables; what the allocator adds. */
        double ring = 10 * 64 * 2 * 2.0 * 256 * 2, more = 2 * (16 + 14) * sizeof(void *) + 3 * 4096;
        double held = (double)(hs_mem_tag_bytes(e->mem, HS_MEM_KV) - before);
        assert_true(held >= ring && held <= ring + more);
        for (uint32_t positions = 64; positions <= 1024; positions += 64) {
            double pages = positions < 192 ? 0 : (positions / 64 - 2) * 64 * want;
            CHECK_OK(hs_states_reach(&s->states, positions, &err), err);
            held = (double)(hs_mem_tag_bytes(e->mem, HS_MEM_KV) - before);
            assert_true(held >= ring + pages && held <= ring + pages + (1 << 20) + more + 2 * 4096);
        }
        CHECK_OK(hs_states_trim(&s->states, 100, &err), err); /* too short for codes */
        held = (double)(hs_mem_tag_bytes(e->mem, HS_MEM_KV) - before);
        assert_true(held >= ring && held <= ring + more);
        hlwq_plan plan;
        hlwq_engine_plan(e, &plan);
        uint64_t counted = hs_session_bytes(c, format, 1024, plan.batch);
        assert_int_equal(plan.session_bytes, counted);
        hlwq_session_close(s);
        assert_int_equal(hs_mem_tag_bytes(e->mem, HS_MEM_KV), before);
        hlwq_engine_close(e);
    }
}

/*
 * A budget that holds all experts but a few, and a context that takes a part of that: experts have its memory until the
 * text comes to it, the budget is kept at every token, and what is computed does not show it.
 */
static void keys_and_values_take_back_what_was_lent(void **state)
{
    (void)state;
    enum { CTX = 4096, N = 1600, PIECE = 64 };
    hlwq_error err;
    hlwq_engine *e;
    hlwq_session *s;
    hlwq_plan plan;
    uint64_t hash[2];
    int32_t id[PIECE];
    for (uint32_t lent = 0; lent < 2; lent++) {
        hlwq_engine_options o = demo_options(HLWQ_DEVICE_CPU);
        o.context = CTX;
        o.batch = PIECE;
        CHECK_OK(hlwq_make_plan(&o, &plan, &err), err);
        o.ram_bytes = lent ? plan.smallest_bytes + (2u << 20) : 0;
        CHECK_OK(hlwq_make_plan(&o, &plan, &err), err);
        uint32_t at_last = plan.slots;
        assert_int_equal(plan.kv_bytes, CTX * 2ull * 2 * 256 * 2);
        CHECK_OK(hlwq_engine_open(&o, &e, &err), err);
        hlwq_engine_plan(e, &plan);
        uint32_t first = plan.slots;
        assert_true(lent ? first > at_last + 20 : first == 0);
        hlwq_session_options so = hlwq_session_options_default(e);
        so.context = CTX;
        CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
        for (uint32_t at = 0; at < N; at += PIECE) {
            for (uint32_t i = 0; i < PIECE; i++)
                id[i] = (int32_t)((at + i) * 2654435761u >> 7) % 4000;
            CHECK_OK(hlwq_session_eval(s, id, PIECE, NULL, &err), err);
            uint64_t now, peak, margin = (4u << 20) + o.ram_bytes / 100;
            hlwq_engine_memory(e, &now, &peak);
            assert_true(!lent || peak + margin <= o.ram_bytes);
        }
        hlwq_session_stats stats;
        hlwq_session_get_stats(s, &stats);
        hash[lent] = stats.logits_hash;
        hlwq_engine_plan(e, &plan);
        assert_true(plan.slots <= first && plan.slots >= at_last && (!lent || plan.slots < first));
        uint32_t grown = plan.slots;
        CHECK_OK(hs_states_reach(&s->states, CTX, &err), err);
        hlwq_engine_plan(e, &plan);
        assert_int_equal(plan.slots, at_last);
        hlwq_session *other; /* nothing is left for a second one */
        if (lent)
            CHECK_FAILS(hlwq_session_open(e, &so, &other, &err), HLWQ_ERR_BUDGET, err, "lower --ctx");
        hlwq_session_reset(s);
        CHECK_OK(hlwq_session_eval(s, id, PIECE, NULL, &err), err);
        hlwq_session_close(s);
        hlwq_engine_plan(e, &plan);
        assert_true(plan.slots >= at_last && grown <= first);
        CHECK_OK(hlwq_session_open(e, &so, &s, &err), err);
        if (lent)
            CHECK_FAILS(hlwq_session_open(e, &so, &other, &err), HLWQ_ERR_BUDGET, err, "lower --ctx");
        hlwq_session_close(s);
        hlwq_engine_close(e);
    }
    assert_int_equal(hash[0], hash[1]);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_session *s;
    hlwq_engine *e = open_engine(1, HLWQ_KV_Q3, NULL, false);
    hlwq_session_options so = hlwq_session_options_default(e);
    static const int wrong[] = {2, 0x45, 0x13, 0x100, 0x143, -1, 0x80};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        so.kv = (hlwq_kv)wrong[i];
        CHECK_FAILS(hlwq_session_open(e, &so, &s, &err), HLWQ_ERR_ARG, err, "not a way");
    }
    hs_config narrow = *e->net.config;
    hs_kv_format format;
    narrow.head_dim = 64;
    CHECK_FAILS(hs_kv_format_named(&format, HLWQ_KV_Q3, &narrow, &err), HLWQ_ERR_UNSUPPORTED, err, "--kv f16");
    hs_backend_ops ops = *e->backend->ops; /* as a card is today */
    hs_backend card = {&ops};
    hs_states states;
    ops.name = "cuda";
    ops.kv_formats = 1u << HS_F16 | 1u << HS_F32;
    CHECK_OK(hs_kv_format_named(&format, HLWQ_KV_K4V3, e->net.config, &err), err);
    CHECK_FAILS(hs_states_init(&states, e->net.config, e->mem, &card, format, 256, 64, &err), HLWQ_ERR_UNSUPPORTED, err,
                "--device cpu");
    hlwq_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_hash_for_every_cut_budget_thread_count_and_instruction_set),
        cmocka_unit_test(attention_does_not_see_the_batch),
        cmocka_unit_test(a_short_text_is_that_of_f16),
        cmocka_unit_test(bytes_are_those_of_the_formula_and_of_the_plan),
        cmocka_unit_test(keys_and_values_take_back_what_was_lent),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
