/* model/routes.c: choices that repeat themselves like those of real models, and traces folded onto another shape. */
#define _GNU_SOURCE
#include "model/routes.h"
#include "offload/residency.h"
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LAYERS = 12, EXPERTS = 256, USED = 8, TOKENS = 512 };

static bool has(const int32_t *id, int32_t what)
{
    for (int i = 0; i < USED; i++)
        if (id[i] == what)
            return true;
    return false;
}

static double hit_rate(const int32_t (*id)[LAYERS][USED], uint32_t slots)
{
    hlwq_error err;
    hs_slots *s;
    hs_mem *mem = hs_mem_open(0);
    uint32_t extents[LAYERS];
    for (int l = 0; l < LAYERS; l++)
        extents[l] = EXPERTS;
    hs_slots_options o = {.groups = LAYERS,
                          .extents = extents,
                          .capacity = slots * LAYERS,
                          .floor = slots,
                          .policy = HS_POLICY_LRU,
                          .half_life = 16};
    CHECK_OK(hs_slots_open(&s, mem, &o, &err), err);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t i = 0; i < USED; i++) {
                int32_t slot = hs_slots_use(s, l, (uint32_t)id[t][l][i]);
                if (slot < 0) {
                    slot = hs_slots_claim(s, l, (uint32_t)id[t][l][i]);
                    hs_slots_ready(s, slot);
                }
                hs_slots_unpin(s, slot);
            }
    hs_slots_stats stats = hs_slots_get_stats(s);
    hs_slots_close(s);
    hs_mem_close(mem);
    return (double)stats.hits / (double)stats.lookups;
}

/* specs of measured models, 256 experts: a third from the token before, LRU 58 / 73 / 87 % at 12 / 25 / 50 % of slots.
 */
static void made_up_choices_are_like_real_ones(void **state)
{
    (void)state;
    static int32_t id[TOKENS][LAYERS][USED];
    hlwq_error err;
    hs_routes *r;
    hs_mem *mem = hs_mem_open(0);
    CHECK_OK(hs_routes_open(&r, mem, "model", LAYERS, EXPERTS, USED, &err), err);
    uint32_t again = 0, of = 0;
    for (int t = 0; t < TOKENS; t++)
        for (uint32_t l = 0; l < LAYERS; l++) {
            hs_routes_choose(r, l, 1, id[t][l]);
            for (int i = 0; i < USED; i++) {
                assert_in_range(id[t][l][i], 0, EXPERTS - 1);
                for (int j = 0; j < i; j++)
                    assert_int_not_equal(id[t][l][i], id[t][l][j]);
                if (t) {
                    again += has(id[t - 1][l], id[t][l][i]);
                    of++;
                }
            }
        }
    double overlap = 100.0 * again / of,
           rate[3] = {100 * hit_rate(id, 32), 100 * hit_rate(id, 64), 100 * hit_rate(id, 128)};
    printf("overlap %.1f %%, LRU hit rates %.1f %.1f %.1f %%\n", overlap, rate[0], rate[1], rate[2]);
    assert_true(overlap > 28 && overlap < 40);
    assert_true(rate[0] > 52 && rate[0] < 64);
    assert_true(rate[1] > 67 && rate[1] < 79);
    assert_true(rate[2] > 80 && rate[2] < 92);
    hs_routes_close(r);
    hs_mem_close(mem);
}

static void a_trace_is_folded_onto_the_model(void **state)
{
    (void)state;
    hlwq_error err;
    hs_routes *r;
    int32_t id[3][8];
    char path[] = "hlwq-routes-XXXXXX";
    FILE *f = fdopen(mkstemp(path), "w");
    hs_mem *mem = hs_mem_open(0);
    fputs("2 4 2 0\n", f); /* two layers, four experts, two tokens, two choices each */
    fputs("0 0 1 0.6\n0 0 2 0.4\n0 1 3 0.5\n0 1 0 0.5\n1 0 2 0.9\n1 0 3 0.1\n1 1 0 0.5\n1 1 1 0.5\n", f);
    fclose(f);
    CHECK_OK(hs_routes_open(&r, mem, path, 3, 8, 2, &err), err); /* both layers side by side: one choice of each */
    hs_routes_choose(r, 0, 3, id[0]);
    const int32_t want[] = {1, 4 + 3, 2, 4 + 0, 1, 4 + 3};
    assert_memory_equal(id[0], want, sizeof want);
    hs_routes_choose(r, 2, 1, id[0]);
    assert_int_equal(id[0][0], 1);
    hs_routes_choose(r, 0, 1, id[0]); /* goes on where the last call ended */
    assert_int_equal(id[0][0], 2);
    hs_routes_close(r);
    CHECK_OK(hs_routes_open(&r, mem, path, 2, 16, 8, &err), err); /* more than the trace ever uses */
    hs_routes_choose(r, 0, 1, id[0]);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++)
            assert_int_not_equal(id[0][i], id[0][j]);
    hs_routes_close(r);
    CHECK_FAILS(hs_routes_open(&r, mem, path, 2, 0, 0, &err), HLWQ_ERR_ARG, err, "dense");
    unlink(path);
    CHECK_FAILS(hs_routes_open(&r, mem, path, 2, 16, 8, &err), HLWQ_ERR_IO, err, path);
    hs_mem_close(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_up_choices_are_like_real_ones),
        cmocka_unit_test(a_trace_is_folded_onto_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
