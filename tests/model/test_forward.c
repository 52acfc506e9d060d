/* model/forward.c: the tiny model of Appendix A, token by token, in pieces, and on several thread counts. */
#include "model/engine.h"
#include "tests/support/tiny_model.h"

#include <math.h>

static const int32_t ids[11] = {3, 17, 29, 8, 8, 0, 39, 21, 5, 14, 33};

typedef struct expected {
    double sum;
    int32_t argmax[11];
    float first[10], last[40];
} expected;

static const expected want[2] = {
    {43.473801,
     {17, 38, 32, 26, 36, 19, 19, 9, 3, 35, 26},
     {0.34290f, -0.67879f, 0.99602f, 1.00172f, 1.31346f, -1.17642f, 0.61407f, -0.65080f, -1.70115f, 2.83310f},
     {2.41345f,  -0.32461f, 0.63116f,  -0.18487f, 0.23112f,  0.46323f,  1.22792f,  -0.18074f, -2.36738f, -0.39455f,
      2.38108f,  -2.22106f, -2.64085f, 0.99159f,  -1.54646f, 1.39041f,  -0.17145f, 0.47303f,  4.84213f,  -3.06190f,
      -2.38321f, 1.36601f,  1.27327f,  0.74740f,  0.50146f,  0.47015f,  4.96189f,  0.37963f,  0.38765f,  1.18253f,
      -2.16633f, -0.02998f, 1.46891f,  1.77074f,  -2.46312f, -1.94987f, -1.37259f, -1.89842f, -2.27704f, -1.87325f}},
    {24.079007,
     {38, 19, 21, 35, 30, 0, 1, 12, 37, 16, 11},
     {1.54383f, -0.06668f, -0.57398f, -0.18950f, 0.34569f, -1.01075f, -1.06784f, 1.70250f, -1.26758f, 0.54212f},
     {2.26431f,  -1.01741f, -1.99421f, 0.65607f,  0.10595f,  1.08231f,  0.84423f,  2.27312f,  1.59931f,  1.53415f,
      -0.43087f, 3.44482f,  1.55104f,  2.00682f,  1.52914f,  1.15448f,  0.22023f,  -3.41085f, 0.04011f,  1.78341f,
      -0.27912f, -0.03574f, -2.29656f, -0.04964f, -1.62437f, 2.61902f,  -1.88897f, -0.84606f, -0.57642f, -0.57723f,
      -1.96265f, 1.05336f,  3.43537f,  0.66854f,  1.96093f,  -2.93390f, -1.46965f, -2.10130f, -2.54657f, -0.65953f}},
};

static hlwq_engine *open_tiny(bool moe, uint32_t threads, const expected *e)
{
    char dir[64];
    snprintf(dir, sizeof dir, "/tmp/hlwq-tiny-%d-%d", (int)getpid(), moe);
    double sum = tiny_model_write(dir, moe);
    assert_true(fabs(sum - e->sum) < 1e-5);
    hlwq_error err;
    hlwq_engine *engine;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = test_device();
    o.model = dir;
    o.threads = threads;
    CHECK_OK(hlwq_engine_open(&o, &engine, &err), err);
    char path[128];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, i ? "config.json" : "model.safetensors");
        unlink(path);
    }
    rmdir(dir);
    return engine;
}

/* Logits of all 11 positions, fed in pieces of `piece` tokens (the first may differ), and the first layer's state. */
static void run(hlwq_engine *engine, uint32_t first_piece, uint32_t piece, float *logits, float *state)
{
    hlwq_error err;
    hs_states s;
    CHECK_OK(hs_states_init(&s, engine->net.config, engine->mem, engine->backend, (hs_kv_format){HS_F32, HS_F32}, 64,
                            engine->net.batch, &err),
             err);
    for (uint32_t at = 0, n = first_piece; at < 11; at += n, n = piece) {
        n = n < 11 - at ? n : 11 - at;
        CHECK_OK(hs_forward(&engine->net, &s, ids + at, at, n, HS_LOGITS_ALL, logits + at * 40, NULL, &err), err);
    }
    CHECK_OK(engine->backend->ops->get(engine->backend, state, s.delta[0].s, 4 * 16 * 16 * sizeof *state, &err), err);
    hs_states_close(&s);
}

static void close_to(float got, float wanted, float tolerance, const char *what, int at)
{
    if (!(fabsf(got - wanted) <= tolerance))
        fail_msg("%s[%d] is %.6f, wanted %.6f", what, at, got, wanted);
}

static void matches_the_published_numbers(bool moe)
{
    const expected *e = &want[moe];
    hlwq_engine *engine = open_tiny(moe, 1, e);
    static const uint32_t cut[][2] = {{11, 11}, {1, 1}, {4, 4}, {7, 7}, {5, 6}};
    float base[11 * 40] = {0};
    for (size_t c = 0; c < sizeof cut / sizeof *cut; c++) {
        float logits[11 * 40], state[4 * 16 * 16];
        run(engine, cut[c][0], cut[c][1], logits, state);
        for (int i = 0; i < 10; i++)
            close_to(logits[i], e->first[i], 1e-4f, "first logits", i);
        for (int i = 0; i < 40; i++)
            close_to(logits[400 + i], e->last[i], 1e-4f, "last logits", i);
        for (int t = 0; t < 11; t++) {
            int best = 0;
            for (int i = 1; i < 40; i++)
                best = logits[t * 40 + i] > logits[t * 40 + best] ? i : best;
            assert_int_equal(best, e->argmax[t]);
        }
        static const float row[4] = {-0.00896473f, 0.02277629f, -0.01096605f, -0.00841253f};
        double norm = 0;
        for (int i = 0; i < 4 * 16 * 16; i++)
            norm += (double)state[i] * state[i];
        for (int i = 0; i < 4; i++)
            close_to(state[3 * 256 + i], row[i], 1e-5f, "state", i);
        close_to((float)sqrt(norm), 2.13545106f, 1e-5f, "state norm", 0);
        if (c == 0)
            memcpy(base, logits, sizeof base);
        for (int i = 0; i < 11 * 40; i++)
            close_to(logits[i], base[i], 1e-4f, "another cut", i);
    }
    hlwq_engine_close(engine);
}

static void dense_matches_the_published_numbers(void **state)
{
    (void)state;
    matches_the_published_numbers(false);
}

static void mixture_matches_the_published_numbers(void **state)
{
    (void)state;
    matches_the_published_numbers(true);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    for (int moe = 0; moe < 2; moe++) {
        float base[11 * 40], logits[11 * 40], s[4 * 16 * 16];
        static const uint32_t threads[] = {1, 2, 3, 7};
        for (int i = 0; i < 4; i++) {
            hlwq_engine *engine = open_tiny(moe, threads[i], &want[moe]);
            run(engine, 5, 3, i ? logits : base, s);
            if (i)
                assert_memory_equal(logits, base, sizeof base);
            hlwq_engine_close(engine);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_matches_the_published_numbers),
        cmocka_unit_test(mixture_matches_the_published_numbers),
        cmocka_unit_test(threads_do_not_change_a_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
