/* base/threads.c */
#include "base/threads.h"
#include "tests/support/check.h"

#include <stdatomic.h>

typedef struct counts {
    atomic_uint seen[1000];
    atomic_uint worker_max;
} counts;

static void count(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    counts *c = user;
    for (uint32_t i = first; i < last; i++)
        atomic_fetch_add(&c->seen[i], 1);
    unsigned max = atomic_load(&c->worker_max);
    while (worker > max && !atomic_compare_exchange_weak(&c->worker_max, &max, worker))
        ;
}

static void every_item_runs_exactly_once(void **state)
{
    (void)state;
    hlwq_error err;
    for (uint32_t threads = 1; threads <= 5; threads += 2) {
        hs_pool *p;
        CHECK_OK(hs_pool_open(threads, &p, &err), err);
        assert_int_equal(hs_pool_threads(p), threads);
        for (uint32_t round = 0; round < 300; round++) {
            counts c = {0};
            uint32_t n = round * 7 % 1000, band = round % 9;
            hs_pool_run(p, n, band, count, &c);
            for (uint32_t i = 0; i < 1000; i++)
                assert_int_equal(atomic_load(&c.seen[i]), i < n);
            assert_true(atomic_load(&c.worker_max) < threads);
        }
        hs_pool_close(p);
    }
}

static void too_many_threads_are_refused(void **state)
{
    (void)state;
    hlwq_error err;
    hs_pool *p;
    CHECK_FAILS(hs_pool_open(1000, &p, &err), HLWQ_ERR_ARG, err, "1000");
    CHECK_OK(hs_pool_open(0, &p, &err), err);
    assert_int_equal(hs_pool_threads(p), hs_usable_cores());
    hs_pool_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_exactly_once),
        cmocka_unit_test(too_many_threads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
