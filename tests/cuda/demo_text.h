/* What tests of the demo model on the simulated card share: a text, its hash, and what must hold of each. */
#ifndef HS_TESTS_CUDA_DEMO_TEXT_H
#define HS_TESTS_CUDA_DEMO_TEXT_H

#include "tests/cuda/sim_test.h"

extern "C" {
#include "include/hlwq_stream.h"
#include "model/engine.h"
}

static const char demo_model[] = "models/demo-q5.hlwq";

static inline void configure(uint64_t seed, hs_sim_order order, uint64_t vram, uint64_t fail_at)
{
    hs_sim_options o = plain_options();
    o.vram_bytes = vram;
    o.seed = seed;
    o.order = order;
    o.fail_at = fail_at;
    o.protect = fail_at == 0;
    hs_sim_configure(&o);
}

static inline hlwq_engine_options options(void)
{
    hlwq_engine_options o = hlwq_engine_options_default();
    if (access(demo_model, R_OK) != 0)
        skip();
    o.model = demo_model;
    o.device = HLWQ_DEVICE_CUDA;
    o.context = 64;
    o.batch = 64;
    o.threads = 1;
    o.adapt = false;
    return o;
}

/* Room for few experts on the card and below it, so that they come and go. */
static inline hlwq_engine_options few_slots(double cpu_share)
{
    hlwq_engine_options o = options();
    o.card_slots = 30;
    o.slots = 24;
    o.cpu_share = cpu_share;
    return o;
}

/* What is done to an engine that was opened; a test's plant. */
static void (*plant)(hlwq_engine *e);

static uint32_t prompt_tokens = 12;

/* Opens, reads a prompt, makes tokens, closes; the hash and what streaming did. */
static inline hlwq_status a_text(const hlwq_engine_options *o, uint32_t tokens, uint64_t *hash, hlwq_streaming *io,
                                 uint64_t *vram_peak, hlwq_error *err)
{
    static const int32_t first[] = {40, 300, 12, 77, 500, 41, 9, 260, 33, 18, 402, 7};
    int32_t ids[256];
    hlwq_engine *e = nullptr;
    hlwq_session *s = nullptr;
    int32_t id;
    uint64_t now;
    hlwq_status st = hlwq_engine_open(o, &e, err);
    if (st != HLWQ_OK)
        return st;
    if (plant)
        plant(e);
    for (uint32_t i = 0; i < prompt_tokens; i++)
        ids[i] = (i < 12 ? first[i] : (int32_t)(i * 37 + 11)) % (int32_t)e->net.config->vocab;
    hlwq_session_options so = hlwq_session_options_default(e);
    so.context = o->context;
    so.kv = o->kv;
    so.sampling.temperature = 0;
    st = hlwq_session_open(e, &so, &s, err);
    if (st == HLWQ_OK)
        st = hlwq_session_eval(s, ids, prompt_tokens, nullptr, err);
    for (uint32_t t = 0; t < tokens && st == HLWQ_OK; t++)
        st = hlwq_session_next(s, &id, err);
    if (st == HLWQ_OK) {
        hlwq_session_stats stats;
        hlwq_session_get_stats(s, &stats);
        *hash = stats.logits_hash;
        hlwq_engine_streaming(e, io);
        hlwq_engine_vram(e, &now, vram_peak);
    }
    hlwq_session_close(s);
    hlwq_engine_close(e);
    return st;
}

static inline uint64_t hash_of(const hlwq_engine_options *o, uint32_t tokens, hlwq_streaming *io)
{
    hlwq_error err;
    uint64_t hash = 0, peak = 0;
    hlwq_status st = a_text(o, tokens, &hash, io, &peak, &err);
    if (st != HLWQ_OK)
        fail_msg("status %d: %s", st, err.message);
    hs_sim_stats s = hs_sim_read_stats();
    if (o->vram_bytes)
        assert_true(s.device_peak_bytes <= o->vram_bytes && peak <= o->vram_bytes);
    assert_int_equal(hs_sim_leaks(), 0);
    assert_int_equal(s.faults, 0);
    if (s.unloaded)
        fail_msg("%s came to the card with its first launch; cuda/card.cu is to load it", s.last_unloaded);
    return hash;
}

#endif
