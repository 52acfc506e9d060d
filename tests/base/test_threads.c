/* base/threads.c, base/cores.c */
#define _GNU_SOURCE
#include "base/threads.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/* A pool whose first worker is held up: the others take its items. */
static void hold_first(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    atomic_uint *done = user;
    (void)worker;
    if (first == 0)
        while (atomic_load(done) < 99)
            ;
    atomic_fetch_add(done, last - first);
}

static void a_slow_thread_is_helped(void **state)
{
    (void)state;
    hlwq_error err;
    hs_pool *p;
    CHECK_OK(hs_pool_open(3, &p, &err), err);
    atomic_uint done = 0;
    hs_pool_run(p, 100, 1, hold_first, &done);
    assert_int_equal(atomic_load(&done), 100);
    hs_pool_close(p);
}

static atomic_bool held, free_again;

static void hold(int number)
{
    (void)number;
    atomic_store(&held, true);
    while (!atomic_load(&free_again))
        usleep(1000);
}

/* The thread of this process that is not the caller. */
static pid_t other_thread(void)
{
    pid_t found = 0;
    DIR *all = opendir("/proc/self/task");
    assert_non_null(all);
    for (struct dirent *e; (e = readdir(all));)
        if (atoi(e->d_name) > 0 && atoi(e->d_name) != getpid())
            found = atoi(e->d_name);
    closedir(all);
    return found;
}

/* As where another program has its core: a run that needs it for nothing does not wait for it. */
static void a_worker_that_does_not_come_is_not_waited_for(void **state)
{
    (void)state;
    hlwq_error err;
    hs_pool *p;
    counts c = {0};
    struct sigaction a = {.sa_handler = hold}, before;
    if (getenv("HLWQ_SANITIZE"))
        skip(); /* its runtime has threads of its own, and signals wait until they suit it */
    CHECK_OK(hs_pool_open(2, &p, &err), err);
    assert_int_equal(sigaction(SIGUSR1, &a, &before), 0);
    usleep(100000); /* it has begun to sleep */
    assert_int_equal(syscall(SYS_tgkill, getpid(), other_thread(), SIGUSR1), 0);
    while (!atomic_load(&held))
        usleep(1000);
    alarm(60); /* instead of for ever */
    for (int round = 0; round < 100; round++)
        hs_pool_run(p, 1000, 7, count, &c);
    alarm(0);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(atomic_load(&c.seen[i]), 100);
    atomic_store(&free_again, true);
    hs_pool_run(p, 1000, 7, count, &c);
    hs_pool_close(p);
    assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (char *c = path + 1; *c; c++)
        if (*c == '/') {
            *c = 0;
            mkdir(path, 0700);
            *c = '/';
        }
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void siblings_and_slow_cores_are_left_out(void **state)
{
    (void)state;
    cpu_set_t before, two;
    char dir[] = "/tmp/hlwq-cores-XXXXXX", command[64];
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    if (!CPU_ISSET(0, &before) || !CPU_ISSET(1, &before))
        skip(); /* described below: processors 0 and 1 */
    CPU_ZERO(&two);
    CPU_SET(0, &two);
    CPU_SET(1, &two);
    assert_int_equal(sched_setaffinity(0, sizeof two, &two), 0);
    assert_non_null(mkdtemp(dir));
    hs_cores c = hs_cores_find(dir); /* nothing is known: each is a core */
    assert_int_equal(c.n, 2);
    put(dir, "system/cpu/cpu0/topology/thread_siblings_list", "0-1\n");
    put(dir, "system/cpu/cpu1/topology/thread_siblings_list", "0-1\n");
    c = hs_cores_find(dir);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.cpu[0], 0);
    put(dir, "system/cpu/cpu0/topology/thread_siblings_list", "0,64\n");
    put(dir, "system/cpu/cpu1/topology/thread_siblings_list", "1,65\n");
    assert_int_equal(hs_cores_find(dir).n, 2);
    put(dir, "system/cpu/cpu0/cpu_capacity", "400\n");
    put(dir, "system/cpu/cpu1/cpu_capacity", "1024\n");
    c = hs_cores_find(dir);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.cpu[0], 1);
    put(dir, "system/cpu/cpu0/cpu_capacity", "1024\n");
    put(dir, "cpu_core/cpus", "0,4-7\n");
    c = hs_cores_find(dir);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.cpu[0], 0);
    put(dir, "cpu_core/cpus", "4-7\n"); /* the mask has slow ones only */
    assert_int_equal(hs_cores_find(dir).n, 2);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_exactly_once),
        cmocka_unit_test(a_slow_thread_is_helped),
        cmocka_unit_test(a_worker_that_does_not_come_is_not_waited_for),
        cmocka_unit_test(siblings_and_slow_cores_are_left_out),
        cmocka_unit_test(too_many_threads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
