/* cache/rival.c: the policy that hits more is in use, whichever it is, and nothing is lost by looking. */
#include "cache/rival.h"
#include "tests/support/check.h"

enum { GROUPS = 6, EXTENTS = 32, SLOTS = 8 };

typedef struct fixture {
    hs_mem *mem;
    hs_slots *slots;
    hs_rival *rival;
    uint64_t hits;
} fixture;

static void make(fixture *f, hs_policy policy)
{
    hlwq_error err;
    uint32_t extents[GROUPS];
    for (int g = 0; g < GROUPS; g++)
        extents[g] = EXTENTS;
    hs_slots_options o = {.groups = GROUPS,
                          .extents = extents,
                          .capacity = GROUPS * SLOTS,
                          .floor = SLOTS,
                          .policy = policy,
                          .half_life = 16};
    *f = (fixture){.mem = hs_mem_open(0)};
    CHECK_OK(hs_slots_open(&f->slots, f->mem, &o, &err), err);
    uint64_t before = hs_mem_now_bytes(f->mem);
    CHECK_OK(hs_rival_open(&f->rival, f->mem, f->slots, &o, &err), err);
    assert_true(hs_mem_now_bytes(f->mem) - before <= hs_rival_bytes(&o));
}

static void drop(fixture *f)
{
    hs_rival_close(f->rival);
    hs_slots_close(f->slots);
    hs_mem_close(f->mem);
}

/* One token: `n` extents of every group, from `first` on, as an engine uses them. */
static void token(fixture *f, const uint32_t *extent, uint32_t n)
{
    hs_slots_tick(f->slots, 1);
    hs_rival_tick(f->rival, 1);
    for (uint32_t g = 0; g < GROUPS; g++)
        for (uint32_t i = 0; i < n; i++) {
            int32_t slot = hs_slots_use(f->slots, g, extent[i]);
            hs_rival_use(f->rival, g, extent[i], slot >= 0);
            f->hits += slot >= 0;
            if (slot < 0) {
                slot = hs_slots_claim(f->slots, g, extent[i]);
                assert_true(slot >= 0);
                hs_slots_ready(f->slots, slot);
            }
            hs_slots_unpin(f->slots, slot);
        }
}

/* Round and round through more than there is room for: a policy that looks back hits nothing, a fixed set does. */
static void circle(fixture *f, uint32_t tokens, uint32_t *at)
{
    for (uint32_t t = 0; t < tokens; t++) {
        uint32_t extent[2] = {*at % 12, (*at + 1) % 12};
        *at += 2;
        token(f, extent, 2);
    }
}

static void a_fixed_set_takes_over_where_the_policy_loses(void **state)
{
    (void)state;
    fixture f;
    uint32_t at = 0;
    make(&f, HS_POLICY_LRU);
    circle(&f, 63, &at);
    assert_int_equal(f.hits, 0);
    circle(&f, 200, &at);
    assert_true(hs_rival_get_stats(f.rival).fixed);
    f.hits = 0;
    circle(&f, 120, &at);
    assert_true(f.hits * 100 > 120 * 2 * GROUPS * 45); /* 7 or 8 of 12, less the slot that the others pass through */
    drop(&f);
}

static void the_policy_comes_back_when_the_text_changes(void **state)
{
    (void)state;
    fixture f;
    uint32_t at = 0, other[4] = {20, 21, 22, 23};
    make(&f, HS_POLICY_LRU);
    circle(&f, 300, &at);
    assert_true(hs_rival_get_stats(f.rival).fixed);
    for (int t = 0; t < 400; t++)
        token(&f, other, 4); /* four that the fixed set does not hold */
    hs_rival_stats s = hs_rival_get_stats(f.rival);
    assert_false(s.fixed);
    assert_int_equal(s.switches, 2);
    f.hits = 0;
    for (int t = 0; t < 50; t++)
        token(&f, other, 4);
    assert_int_equal(f.hits, 50 * 4 * GROUPS);
    drop(&f);
}

static void a_policy_that_does_well_stays(void **state)
{
    (void)state;
    fixture f;
    make(&f, HS_POLICY_LFRU);
    uint64_t random = 1;
    for (int t = 0; t < 2000; t++) { /* hot ones that drift, and cold ones */
        uint32_t extent[2], r;
        do {
            random = random * 6364136223846793005u + 1442695040888963407u;
            r = (uint32_t)(random >> 36);
            extent[0] = ((uint32_t)t / 100 + r % 5) % EXTENTS;
            extent[1] = (r / 8 % 10 < 7 ? (uint32_t)t / 100 + r / 128 % 5 : r / 128) % EXTENTS;
        } while (extent[0] == extent[1]);
        token(&f, extent, 2);
    }
    hs_rival_stats s = hs_rival_get_stats(f.rival);
    assert_false(s.fixed);
    assert_int_equal(s.switches, 0);
    assert_true(s.hits > s.rival_hits);
    drop(&f);
}

static void a_resize_is_followed(void **state)
{
    (void)state;
    fixture f;
    uint32_t at = 0;
    make(&f, HS_POLICY_LRU);
    circle(&f, 100, &at);
    hs_slots_set_floor(f.slots, 2);
    assert_true(hs_slots_resize(f.slots, 2 * GROUPS));
    hs_rival_resize(f.rival);
    circle(&f, 300, &at);
    hs_slots_set_floor(f.slots, SLOTS);
    assert_true(hs_slots_resize(f.slots, SLOTS * GROUPS));
    hs_rival_resize(f.rival);
    circle(&f, 300, &at);
    assert_true(hs_rival_get_stats(f.rival).lookups > 0);
    drop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fixed_set_takes_over_where_the_policy_loses),
        cmocka_unit_test(the_policy_comes_back_when_the_text_changes),
        cmocka_unit_test(a_policy_that_does_well_stays),
        cmocka_unit_test(a_resize_is_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
