/* base/mem.c and base/arena.c */
#include "base/arena.h"
#include "tests/support/check.h"

static void the_cap_is_never_passed(void **state)
{
    (void)state;
    hlwq_error err;
    void *a, *b, *c;
    hs_mem *m = hs_mem_open(4u << 20);
    CHECK_OK(hs_mem_alloc(m, HS_MEM_KV, 3u << 20, "a", &a, &err), err);
    CHECK_FAILS(hs_mem_alloc(m, HS_MEM_KV, 1u << 20, "the second", &b, &err), HLWQ_ERR_BUDGET, err, "the second");
    assert_null(b);
    CHECK_OK(hs_mem_alloc(m, HS_MEM_STATE, 100, "c", &c, &err), err);
    assert_true(hs_mem_tag_bytes(m, HS_MEM_KV) >= 3u << 20);
    assert_true(hs_mem_now_bytes(m) <= 4u << 20);
    hs_mem_free(m, a);
    hs_mem_free(m, c);
    hs_mem_free(m, NULL);
    assert_int_equal(hs_mem_now_bytes(m), 0);
    assert_true(hs_mem_peak_bytes(m) >= 3u << 20);
    hs_mem_close(m);
}

static void absurd_sizes_are_refused(void **state)
{
    (void)state;
    hlwq_error err;
    void *p;
    hs_mem *m = hs_mem_open(0);
    CHECK_FAILS(hs_mem_alloc(m, HS_MEM_KV, UINT64_MAX, "it", &p, &err), HLWQ_ERR_NOMEM, err, "larger than any memory");
    CHECK_FAILS(hs_mem_alloc(m, HS_MEM_KV, UINT64_MAX - 100, "it", &p, &err), HLWQ_ERR_NOMEM, err, "larger");
    hs_arena a;
    hs_arena_init(&a, m, HS_MEM_TABLE);
    CHECK_FAILS(hs_arena_array(&a, UINT64_MAX / 2, 4, &p, &err), HLWQ_ERR_NOMEM, err, "items");
    CHECK_FAILS(hs_arena_alloc(&a, UINT64_MAX, &p, &err), HLWQ_ERR_NOMEM, err, "larger");
    hs_arena_close(&a);
    hs_mem_close(m);
}

static void blocks_are_zeroed_and_aligned(void **state)
{
    (void)state;
    hlwq_error err;
    hs_mem *m = hs_mem_open(0);
    for (uint64_t n = 0; n < 3u << 20; n = n * 3 + 1) {
        uint8_t *p;
        void *v;
        CHECK_OK(hs_mem_alloc(m, HS_MEM_ACT, n, "x", &v, &err), err);
        p = v;
        assert_int_equal((uintptr_t)p % 64, 0);
        for (uint64_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xA5, n);
        hs_mem_free(m, p);
    }
    hs_mem_close(m);
}

static void arenas_grow_and_go(void **state)
{
    (void)state;
    hlwq_error err;
    hs_mem *m = hs_mem_open(0);
    hs_arena a;
    hs_arena_init(&a, m, HS_MEM_TABLE);
    char *text, *first = NULL;
    for (int i = 0; i < 20000; i++) {
        CHECK_OK(hs_arena_text(&a, "abcdefghij", 10, &text, &err), err);
        assert_string_equal(text, "abcdefghij");
        if (!first)
            first = text;
    }
    void *big;
    CHECK_OK(hs_arena_alloc(&a, 1u << 20, &big, &err), err);
    assert_string_equal(first, "abcdefghij");
    hs_arena_close(&a);
    assert_int_equal(hs_mem_now_bytes(m), 0);
    hs_mem_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cap_is_never_passed),
        cmocka_unit_test(absurd_sizes_are_refused),
        cmocka_unit_test(blocks_are_zeroed_and_aligned),
        cmocka_unit_test(arenas_grow_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
