/*
 * Choices on the card are those of model/sampler.c: thousands of rows of logits, with ties, infinities and what is no
 * number, under options of every kind.  Where the card is undecided, the sampler is asked, and that must be rare.
 */
#include "tests/cuda/sim_test.h"

extern "C" {
#include "kernels/backend.h"
#include "model/sampler.h"
}

#include "kernels/cuda/backend.h"

typedef struct card {
    hs_mem *mem, *vram;
    hs_pool *pool;
    hs_backend *cpu, *be;
} card;

static card open_card(uint32_t vocab)
{
    card c = {};
    hlwq_error err;
    hs_limits m = {};
    m.hidden = 128;
    m.vocab = vocab;
    m.q_width = 512;
    m.kv_width = 128;
    m.group = 2;
    m.head_dim = 128;
    m.channels = m.v_width = m.k_dim = m.v_dim = 128;
    m.v_heads = 1;
    m.ffn_rows = 1;
    m.ffn_width = 128;
    m.batch = 64;
    m.dtypes = 1u << HS_Q4;
    c.mem = hs_mem_open(0);
    c.vram = hs_mem_open(0);
    if (hs_pool_open(1, &c.pool, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    hs_cpu_options co = {};
    hs_cuda_options o = {};
    hlwq_status st = hs_backend_cpu_open(&c.cpu, c.mem, c.pool, &m, &co, &err);
    o.mem = c.mem;
    o.vram = c.vram;
    o.cpu = c.cpu;
    if (st == HLWQ_OK)
        st = hs_backend_cuda_open(&c.be, &m, &o, &err);
    if (st != HLWQ_OK)
        fail_msg("%s", err.message);
    return c;
}

static void close_card(card *c)
{
    c->be->ops->close(c->be);
    c->cpu->ops->close(c->cpu);
    hs_pool_close(c->pool);
    hs_mem_close(c->mem);
    hs_mem_close(c->vram);
    assert_int_equal(hs_sim_leaks(), 0);
}

static uint64_t state;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) * n >> 31);
}

static float about(float scale)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)below(1 << 20) * 0x1p-20f - 0.5f;
    return scale * sum;
}

enum { KINDS = 8 };

static void make_logits(float *x, uint32_t n, uint32_t kind)
{
    static const float spread[] = {0.1f, 1, 5, 30};
    const float s = spread[below(4)];
    for (uint32_t i = 0; i < n; i++)
        x[i] = about(s);
    for (uint32_t i = 0; i < n; i++)
        switch (kind) {
        case 1: x[i] = (float)(int)(x[i] * 4) / 4; break;     /* many ties, zeros of both signs */
        case 2: x[i] = below(3) ? x[i] : NAN; break;          /* gaps */
        case 3: x[i] = below(5) ? -INFINITY : x[i]; break;    /* few that count */
        case 4: x[i] = i == n / 2 ? 3.0f : NAN; break;        /* a single one */
        case 5: x[i] = below(n) < 2 ? INFINITY : x[i]; break; /* now and then one beats all */
        case 6: x[i] = 7.5f; break;                           /* all the same */
        case 7: x[i] = below(4) ? -INFINITY : NAN; break;     /* hopeless */
        default: break;
        }
}

static hlwq_sampling options_of(uint32_t vocab)
{
    static const float temperature[] = {0, 0.01f, 0.7f, 1, 1.7f, 100}, top_p[] = {0, 0.3f, 0.95f, 1, 1},
                       min_p[] = {0, 0, 0.05f, 0.5f, 1}, repetition[] = {1, 1, 1.3f, 0.8f}, other[] = {0, 0, 0.5f, -1};
    const uint32_t top_k[] = {0, 1, 2, 20, 64, 256, 257, vocab, vocab + 5};
    hlwq_sampling o = {};
    o.temperature = temperature[below(6)];
    o.top_k = top_k[below(9)];
    o.top_p = top_p[below(5)];
    o.min_p = min_p[below(5)];
    o.repetition_penalty = repetition[below(4)];
    o.presence_penalty = other[below(4)];
    o.frequency_penalty = other[below(4)];
    o.penalty_window = below(2) ? 0 : below(9);
    o.seed = below(1000);
    return o;
}

typedef struct tally {
    uint32_t chosen, undecided, refused, none, penalised;
} tally;

static void compare(card *c, hs_sampler *s, const float *x, const int32_t *history, uint32_t n, uint64_t position,
                    tally *t)
{
    hlwq_error err;
    int32_t want, got;
    hs_selection how;
    hlwq_status st = hs_sampler_next(s, x, history, n, position, NULL, 0, &want, &err);
    if (!hs_sampler_choice(s, history, n, position, &how)) {
        t->refused++;
        return;
    }
    t->penalised += how.n_repeats > 0;
    assert_int_equal(c->be->ops->choose(c->be, &how, &got, &err), HLWQ_OK);
    if (got == HS_UNDECIDED) {
        t->undecided++;
        return;
    }
    const hlwq_sampling *o = hs_sampler_options(s);
    if (got != (st == HLWQ_OK ? want : -1))
        fail_msg(
            "of %u the card chose %d, not %d: temperature %g, top-k %u, top-p %g, min-p %g, %u repeats, position %u",
            how.usable, (int)got, st == HLWQ_OK ? (int)want : -1, (double)o->temperature, o->top_k, (double)o->top_p,
            (double)o->min_p, how.n_repeats, (unsigned)position);
    t->none += got < 0;
    t->chosen++;
}

static void choices_are_the_samplers(uint32_t vocab, uint32_t usable, uint32_t rounds, tally *t)
{
    hlwq_error err;
    hs_sampler *s;
    start(vocab, HS_SIM_SHUFFLE);
    state = vocab * 77 + usable;
    card c = open_card(vocab);
    float *x = static_cast<float *>(malloc(vocab * sizeof(float)));
    int32_t history[40];
    hlwq_sampling o = options_of(vocab);
    assert_int_equal(hs_sampler_open(&s, c.mem, vocab, usable, &o, &err), HLWQ_OK);
    for (uint32_t r = 0; r < rounds; r++) {
        make_logits(x, vocab, r % KINDS);
        assert_int_equal(c.be->ops->put(c.be, cuda_of(c.be)->logits, x, vocab * sizeof(float), &err), HLWQ_OK);
        for (uint32_t k = 0; k < 4; k++) { /* logits stay as they are */
            o = options_of(vocab);
            assert_int_equal(hs_sampler_set(s, &o, &err), HLWQ_OK);
            uint32_t n = below(40);
            for (uint32_t i = 0; i < n; i++)
                history[i] = (int32_t)below(vocab);
            compare(&c, s, x, history, n, r * 4 + k, t);
        }
        float *back = static_cast<float *>(malloc(vocab * sizeof(float)));
        assert_int_equal(c.be->ops->logits(c.be, vocab, back, &err), HLWQ_OK);
        assert_memory_equal(back, x, vocab * sizeof(float));
        free(back);
    }
    hs_sampler_close(s);
    free(x);
    close_card(&c);
    assert_int_equal(hs_sim_read_stats().faults, 0);
}

static void the_card_chooses_what_the_sampler_does(void **unused)
{
    (void)unused;
    const uint32_t slow = getenv("HLWQ_SANITIZE") ? 4 : 1, more = getenv("HLWQ_LONG") ? 20 : 1;
    tally t = {};
    choices_are_the_samplers(2, 2, more * 100 / slow, &t);
    choices_are_the_samplers(33, 29, more * 400 / slow, &t);
    choices_are_the_samplers(300, 300, more * 200 / slow, &t);
    choices_are_the_samplers(4097, 4097, more * 32 / slow, &t);
    choices_are_the_samplers(13001, 12990, more * 16 / slow, &t);
    print_message("%u choices, %u with penalties, %u without a number; %u undecided, %u not asked for\n", t.chosen,
                  t.penalised, t.none, t.undecided, t.refused);
    assert_true(t.chosen > 10 * (t.undecided + t.refused));
    assert_true(t.none > 0 && t.penalised > t.chosen / 4 && t.undecided > 0 && t.refused > 0);
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(the_card_chooses_what_the_sampler_does),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
