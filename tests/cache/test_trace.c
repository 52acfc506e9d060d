/* cache/trace.c and cache/slots.c, replayed against a simulator that keeps lists and searches them. */
#include "cache/trace.h"
#include "tests/support/check.h"

#include <math.h>

enum { LAYERS = 3, EXPERTS = 24, TOKENS = 400, USED = 4 };

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Skewed and sticky, so that policies differ. */
static char *make_text(uint64_t seed)
{
    size_t size = 64 + (size_t)LAYERS * TOKENS * USED * 24, n = 0;
    char *text = malloc(size);
    n += (size_t)snprintf(text, size, "%d %d %d 0\n", LAYERS, EXPERTS, TOKENS);
    for (int t = 0; t < TOKENS; t++)
        for (int l = 0; l < LAYERS; l++) {
            bool taken[EXPERTS] = {0};
            for (int k = 0; k < USED;) {
                uint64_t r = next_random(&seed);
                int e = (int)((r % EXPERTS) * (r >> 32 & 0xFFFF) / 65536 + (uint64_t)(t / 100 * 5)) % EXPERTS;
                if (taken[e])
                    continue;
                taken[e] = true;
                k++;
                n += (size_t)snprintf(text + n, size - n, "%d %d %d 0.25\n", t, l, e);
            }
        }
    return text;
}

typedef struct entry {
    int expert;
    double filled, last, count;
    uint64_t next;
} entry;

/* Hits of one layer, by the textbook. */
static uint64_t naive(const hs_trace *t, uint32_t layer, uint32_t slots, hs_policy policy, double half_life)
{
    entry held[EXPERTS];
    double count[EXPERTS] = {0}, last[EXPERTS] = {0}, *uses[EXPERTS];
    uint32_t n = 0, n_uses[EXPERTS] = {0};
    uint64_t hits = 0, clock = 0;
    for (int e = 0; e < EXPERTS; e++)
        uses[e] = calloc(t->tokens, sizeof(double));
    for (uint64_t i = 0; i < t->n;) {
        uint32_t token = t->pick[i].token;
        uint64_t to = i;
        bool needed[EXPERTS] = {0};
        if (t->pick[i].layer != layer) {
            i++;
            continue;
        }
        for (; to < t->n && t->pick[to].token == token && t->pick[to].layer == layer; to++) {
            int e = t->pick[to].expert;
            needed[e] = true;
            count[e] += 1;
            last[e] = (double)++clock;
            uses[e][n_uses[e]++] = token;
        }
        bool missed[EXPERTS] = {0};
        for (uint64_t k = i; k < to; k++) {
            bool found = false;
            for (uint32_t h = 0; h < n; h++)
                found |= held[h].expert == t->pick[k].expert;
            hits += found;
            missed[t->pick[k].expert] = !found;
        }
        for (uint64_t k = i; k < to; k++) {
            int e = t->pick[k].expert;
            if (!missed[e])
                continue;
            if (n == slots) {
                uint32_t out = UINT32_MAX;
                double least = INFINITY, tie = INFINITY;
                for (uint32_t h = 0; h < n; h++) {
                    int x = held[h].expert;
                    double v = 0;
                    if (needed[x])
                        continue;
                    if (policy == HS_POLICY_LRU)
                        v = last[x];
                    else if (policy == HS_POLICY_LFU)
                        v = count[x];
                    else if (policy == HS_POLICY_FIFO)
                        v = held[h].filled;
                    else if (policy == HS_POLICY_LFRU)
                        for (uint32_t u = 0; u < n_uses[x]; u++)
                            v += exp2((uses[x][u] - (double)token) / half_life);
                    else {
                        v = -1e18;
                        for (uint64_t f = to; f < t->n; f++)
                            if (t->pick[f].layer == layer && t->pick[f].expert == x) {
                                v = -(double)f;
                                break;
                            }
                    }
                    if (v < least * (1 - 1e-12 * (least > 0)) ||
                        (fabs(v - least) <= 1e-12 * fabs(v) && last[x] < tie)) {
                        least = v;
                        tie = last[x];
                        out = h;
                    }
                }
                assert_true(out != UINT32_MAX);
                held[out] = held[--n];
            }
            held[n++] = (entry){.expert = e, .filled = (double)++clock};
        }
        i = to;
    }
    for (int e = 0; e < EXPERTS; e++)
        free(uses[e]);
    return hits;
}

static void replay_equals_the_textbook(void **state)
{
    (void)state;
    hlwq_error err;
    hs_mem *mem = hs_mem_open(0);
    for (uint64_t seed = 1; seed < 5; seed++) {
        hs_trace t;
        char *text = make_text(seed * 7919);
        CHECK_OK(hs_trace_parse(&t, mem, text, strlen(text), "made up", &err), err);
        assert_int_equal(t.n, LAYERS * TOKENS * USED);
        uint64_t of[HS_POLICY_COUNT] = {0};
        for (int p = 0; p < HS_POLICY_COUNT; p++)
            for (uint32_t slots = USED; slots <= EXPERTS; slots += 4) {
                hs_replay_options o = {.slots = slots, .policy = (hs_policy)p, .half_life = 16};
                hs_slots_stats s;
                uint64_t hits = 0;
                CHECK_OK(hs_trace_replay(&t, &o, &s, &err), err);
                for (uint32_t l = 0; l < LAYERS; l++)
                    hits += naive(&t, l, slots, (hs_policy)p, 16);
                assert_int_equal(s.lookups, t.n);
                if (s.hits != hits)
                    fail_msg("%s with %u slots: %u hits, the textbook has %u", hs_policy_name((hs_policy)p), slots,
                             (unsigned)s.hits, (unsigned)hits);
                of[p] += s.hits;
            }
        for (int p = 0; p < HS_POLICY_GIVEN; p++)
            assert_true(of[p] <= of[HS_POLICY_GIVEN]); /* nothing beats knowing the future */
        hs_trace_close(&t);
        free(text);
    }
    hs_mem_close(mem);
}

/* The figures that the traces' own publication gives for these policies. */
static void published_rates_come_out(void **state)
{
    (void)state;
    const char *path = "../shared/traces/olmoe.txt";
    FILE *f = fopen(path, "rb");
    if (!f)
        skip();
    hlwq_error err;
    hs_trace t;
    hs_mem *mem = hs_mem_open(0);
    char *text = malloc(4 << 20);
    size_t n = fread(text, 1, 4 << 20, f);
    fclose(f);
    CHECK_OK(hs_trace_parse(&t, mem, text, n, path, &err), err);
    static const struct {
        hs_policy policy;
        double rate;
    } want[] = {{HS_POLICY_LRU, 59.7}, {HS_POLICY_LFRU, 61.9}, {HS_POLICY_LFU, 59.9}, {HS_POLICY_GIVEN, 72.3}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        hs_replay_options o = {.slots = 16, .policy = want[i].policy, .half_life = 16};
        hs_slots_stats s;
        CHECK_OK(hs_trace_replay(&t, &o, &s, &err), err);
        assert_true(fabs(100.0 * (double)s.hits / (double)s.lookups - want[i].rate) < 0.06);
    }
    hs_trace_close(&t);
    free(text);
    hs_mem_close(mem);
}

static void traces_that_are_none_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "x",
                                      "0 4 4 0\n",
                                      "1 4 4\n",
                                      "1 4 4 0\n",
                                      "1 4 4 0\n0 0 4 0\n",
                                      "1 4 4 0\n0 1 0 0\n",
                                      "1 4 4 0\n4 0 0 0\n",
                                      "1 4 4 0\n0 0\n",
                                      "1 4 4 0\n0 0 -1 0\n",
                                      "99999 4 4 0\n0 0 0 0\n",
                                      "1 4 4 0\n99999999999999999999 0 0 0\n"};
    hlwq_error err;
    hs_trace t;
    hs_mem *mem = hs_mem_open(0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_FAILS(hs_trace_parse(&t, mem, bad[i], strlen(bad[i]), "T", &err), HLWQ_ERR_FORMAT, err, "T:");
    const char *layerwise = "2 4 2 2\n0 0 1 0\n1 0 2 0\n0 1 3 0.5\n1 1 0 0\n";
    CHECK_OK(hs_trace_parse(&t, mem, layerwise, strlen(layerwise), "T", &err), err);
    assert_int_equal(t.pick[1].token, 0);
    assert_int_equal(t.pick[1].expert, 3);
    hs_slots_stats s;
    hs_replay_options o = {.slots = 5};
    CHECK_FAILS(hs_trace_replay(&t, &o, &s, &err), HLWQ_ERR_ARG, err, "5 slots");
    hs_trace_close(&t);
    const char *two = "1 4 1 0\n0 0 1 0\n0 0 2 0\n";
    CHECK_OK(hs_trace_parse(&t, mem, two, strlen(two), "T", &err), err);
    o.slots = 1;
    CHECK_FAILS(hs_trace_replay(&t, &o, &s, &err), HLWQ_ERR_BUDGET, err, "needs 2 experts");
    hs_trace_close(&t);
    hs_mem_close(mem);
}

/* Six slots for two groups of eight. */
static hs_slots *two_groups(hs_mem *mem, uint32_t floor)
{
    hlwq_error err;
    hs_slots *s;
    const uint32_t extents[2] = {8, 8};
    hs_slots_options o = {
        .groups = 2, .extents = extents, .capacity = 6, .floor = floor, .policy = HS_POLICY_LRU, .half_life = 16};
    CHECK_OK(hs_slots_open(&s, mem, &o, &err), err);
    return s;
}

static void floors_pins_and_sizes_hold(void **state)
{
    (void)state;
    hs_mem *mem = hs_mem_open(0);
    hs_slots *s = two_groups(mem, 2);
    for (uint32_t e = 0; e < 6; e++) { /* group 0 may fill all but the other's floor */
        assert_int_equal(hs_slots_use(s, 0, e), -1);
        int32_t at = hs_slots_claim(s, 0, e);
        assert_true(at >= 0);
        assert_false(hs_slots_is_ready(s, at));
        hs_slots_ready(s, at);
        hs_slots_unpin(s, at);
    }
    uint32_t held = 0;
    for (uint32_t e = 0; e < 6; e++)
        held += hs_slots_find(s, 0, e) >= 0;
    assert_int_equal(held, 4);
    int32_t pinned[2];
    for (uint32_t e = 0; e < 2; e++) {
        hs_slots_use(s, 1, e);
        pinned[e] = hs_slots_claim(s, 1, e);
        hs_slots_ready(s, pinned[e]);
    }
    assert_int_equal(hs_slots_find(s, 0, 2) >= 0, 1);
    /* All of group 1's are pinned: a third takes one of group 0's, above its floor. */
    hs_slots_use(s, 1, 2);
    int32_t third = hs_slots_claim(s, 1, 2);
    assert_true(third >= 0);
    assert_int_equal(hs_slots_pinned(s), 3);
    hs_slots_abandon(s, third);
    assert_int_equal(hs_slots_find(s, 1, 2), -1);
    assert_false(hs_slots_resize(s, 1));
    hs_slots_unpin(s, pinned[0]);
    hs_slots_unpin(s, pinned[1]);
    assert_true(hs_slots_resize(s, 1));
    assert_int_equal(hs_slots_capacity(s), 1);
    assert_true(hs_slots_resize(s, 6));
    hs_slots_close(s);
    hs_mem_close(mem);
}

static void fill_slot(hs_slots *s, uint32_t group, uint32_t extent)
{
    if (hs_slots_use(s, group, extent) >= 0)
        return;
    int32_t at = hs_slots_claim(s, group, extent);
    assert_true(at >= 0);
    hs_slots_ready(s, at);
    hs_slots_unpin(s, at);
}

/* What a group keeps is for others while it is idle, and its own again once it is used. */
static void an_idle_group_keeps_nothing(void **state)
{
    (void)state;
    hs_mem *mem = hs_mem_open(0);
    hs_slots *s = two_groups(mem, 3);
    for (uint32_t e = 0; e < 3; e++)
        fill_slot(s, 1, e);
    uint32_t held[2] = {0};
    for (int turn = 0; turn < 2; turn++) {
        for (int step = 0; step < 16 + turn; step++)
            hs_slots_tick(s, 1);
        for (uint32_t e = 0; e < 8; e++)
            fill_slot(s, 0, e);
        for (uint32_t e = 0; e < 8; e++)
            held[turn] += hs_slots_find(s, 0, e) >= 0;
    }
    assert_int_equal(held[0], 3);
    assert_int_equal(held[1], 6);
    for (int turn = 0; turn < 2; turn++)
        for (uint32_t e = 0; e < 8; e++) {
            fill_slot(s, 1, e);
            fill_slot(s, 0, e);
        }
    for (uint32_t e = held[1] = 0; e < 8; e++)
        held[1] += hs_slots_find(s, 1, e) >= 0;
    assert_int_equal(held[1], 3);
    hs_slots_close(s);
    hs_mem_close(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_equals_the_textbook),       cmocka_unit_test(published_rates_come_out),
        cmocka_unit_test(traces_that_are_none_are_refused), cmocka_unit_test(floors_pins_and_sizes_hold),
        cmocka_unit_test(an_idle_group_keeps_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
