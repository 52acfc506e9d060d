/* base/available.c: what the kernel's numbers mean. */
#define _GNU_SOURCE
#include "base/available.h"
#include "tests/support/check.h"

#include <unistd.h>

static void something_is_available_and_not_more_than_there_is(void **state)
{
    (void)state;
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(hs_memory_available() > 1 << 20);
    assert_true(hs_memory_available() <= all);
}

static void put(const char *path, unsigned long long total)
{
    FILE *f = fopen(path, "w");
    fprintf(f, "some avg10=1.50 avg60=0.00 avg300=0.00 total=%llu\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
            total);
    fclose(f);
}

static void strain_is_the_share_of_time_stood_still(void **state)
{
    (void)state;
    hs_strain s;
    char path[] = "hlwq-pressure-XXXXXX";
    close(mkstemp(path));
    put(path, 1000000);
    hs_strain_init(&s, path);
    assert_true(s.known);
    assert_true(hs_strain_look(&s, 10.0) == 0); /* nothing to compare with */
    put(path, 1250000);
    double share = hs_strain_look(&s, 11.0);
    assert_true(share > 0.2499 && share < 0.2501);
    assert_true(hs_strain_look(&s, 12.0) == 0);
    unlink(path);
    assert_true(hs_strain_look(&s, 13.0) == 0); /* a kernel that stopped telling */
    hs_strain_init(&s, path);
    assert_false(s.known);
    assert_true(hs_strain_look(&s, 14.0) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(something_is_available_and_not_more_than_there_is),
        cmocka_unit_test(strain_is_the_share_of_time_stood_still),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
