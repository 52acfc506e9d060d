/* base/shelf.c */
#include "base/shelf.h"
#include "tests/support/check.h"

#include <string.h>

static hlwq_error err;

static void *take(hs_shelf *s, uint64_t bytes, uint64_t *got)
{
    void *p;
    CHECK_OK(hs_shelf_take(s, bytes, "a buffer", &p, got, &err), err);
    assert_true(*got >= bytes);
    memset(p, 0xA5, *got);
    return p;
}

static void what_was_given_back_is_taken_again(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(0);
    hs_shelf s;
    uint64_t a, b, c;
    hs_shelf_open(&s, m, HS_MEM_IO, 4u << 20);
    void *p = take(&s, 2u << 20, &a), *q = take(&s, 1u << 20, &b);
    hs_shelf_give(&s, p, a);
    hs_shelf_give(&s, q, b);
    assert_ptr_equal(take(&s, 1000, &c), q); /* the smaller of those that do */
    assert_int_equal(c, b);
    assert_ptr_equal(take(&s, 1u << 20, &c), p);
    assert_int_equal(c, a);
    hs_shelf_give(&s, p, a);
    hs_shelf_give(&s, q, b);
    const uint64_t now = hs_mem_now_bytes(m);
    void *large = take(&s, 3u << 20, &c); /* none does: all make room */
    assert_true(hs_mem_now_bytes(m) < now + (1u << 20));
    hs_shelf_give(&s, large, c);
    hs_shelf_close(&s);
    assert_int_equal(hs_mem_now_bytes(m), 0);
    hs_mem_close(m);
}

static void no_more_stays_than_was_said(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(0);
    for (uint64_t keep = 0; keep <= 2u << 20; keep += 1u << 20) {
        hs_shelf s;
        uint64_t got[4];
        void *p[4];
        hs_shelf_open(&s, m, HS_MEM_IO, keep);
        for (int i = 0; i < 4; i++)
            p[i] = take(&s, 1u << 20, &got[i]);
        for (int i = 0; i < 4; i++)
            hs_shelf_give(&s, p[i], got[i]);
        hs_shelf_give(&s, NULL, 0);
        assert_int_equal(s.kept_bytes, keep);
        assert_true(hs_mem_now_bytes(m) <= keep + (64u << 10));
        hs_shelf_close(&s);
        assert_int_equal(hs_mem_now_bytes(m), 0);
    }
    hs_mem_close(m);
}

static void no_memory_is_an_error(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(1u << 20);
    hs_shelf s;
    uint64_t got;
    void *p;
    hs_shelf_open(&s, m, HS_MEM_IO, 1u << 20);
    CHECK_FAILS(hs_shelf_take(&s, 2u << 20, "a buffer", &p, &got, &err), HLWQ_ERR_BUDGET, err, "a buffer");
    hs_shelf_close(&s);
    hs_mem_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_given_back_is_taken_again),
        cmocka_unit_test(no_more_stays_than_was_said),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
