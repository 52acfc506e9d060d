/* base/ahead.c, and files that read with it */
#define _GNU_SOURCE
#include "base/ahead.h"
#include "base/file.h"
#include "tests/support/check.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATTERN = 0x9E37 };
#define BYTES (9 * HS_AHEAD_WINDOW + 12345)

static hlwq_error err;
static char path[] = "hlwq-ahead-XXXXXX"; /* where O_DIRECT works, if it does here */

static uint8_t at(uint64_t i)
{
    return (uint8_t)((i * PATTERN) >> 8 ^ i >> 16);
}

static int make_file(void **state)
{
    int fd = mkstemp(path);
    uint8_t *data = malloc(BYTES);
    (void)state;
    for (uint64_t i = 0; i < BYTES; i++)
        data[i] = at(i);
    const bool ok = fd >= 0 && write(fd, data, BYTES) == (ssize_t)BYTES && fsync(fd) == 0;
    close(fd);
    free(data);
    return ok ? 0 : -1;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

/* Opened and out of the page cache; false where this file system does not read past it. */
static bool open_ahead(hs_file *f, hs_ahead *a)
{
    CHECK_OK(hs_file_open(f, path, &err), err);
    assert_int_equal(posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    hs_file_read_ahead(f, path, a);
    return f->ahead != NULL;
}

static void check_read(const hs_file *f, uint64_t offset, uint64_t bytes)
{
    uint8_t *out = malloc(bytes);
    hlwq_error e; /* by several threads */
    CHECK_OK(hs_file_read(f, offset, out, bytes, path, &e), e);
    for (uint64_t i = 0; i < bytes; i++)
        if (out[i] != at(offset + i))
            fail_msg("byte %llu is %u, not %u", (unsigned long long)(offset + i), out[i], at(offset + i));
    free(out);
}

static void what_is_asked_for_is_read_by_others(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(0);
    hs_ahead *a;
    hs_file f;
    uint64_t bytes, ns;
    CHECK_OK(hs_ahead_open(&a, m, 16 << 20, &err), err);
    assert_true(hs_mem_tag_bytes(m, HS_MEM_IO) >= 16u << 20);
    if (open_ahead(&f, a)) {
        hs_file_take_tally();
        hs_file_ahead(&f, 0, BYTES + 5); /* more than there is */
        check_read(&f, 0, BYTES);
        assert_int_equal(hs_file_take_tally().bytes, 0); /* not by this thread */
        hs_ahead_tally(a, &bytes, &ns);
        assert_int_equal(bytes, BYTES);
        assert_true(ns > 0);
        check_read(&f, BYTES - 77, 77); /* from the windows that are still there */
        hs_ahead_tally(a, &bytes, &ns);
        assert_int_equal(bytes, 0);
    } else {
        print_message("this file system does not read past the page cache\n");
        check_read(&f, 0, BYTES);
    }
    hs_file_close(&f);
    hs_ahead_close(a);
    assert_int_equal(hs_mem_now_bytes(m), 0);
    hs_mem_close(m);
}

static void what_was_not_asked_for_or_pushed_out_is_read_all_the_same(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(0);
    hs_ahead *a;
    hs_file f;
    CHECK_OK(hs_ahead_open(&a, m, 0, &err), err); /* four windows */
    (void)open_ahead(&f, a);
    check_read(&f, HS_AHEAD_WINDOW - 10, 20);
    hs_file_ahead(&f, 0, BYTES); /* twice what there is room for */
    hs_file_ahead(&f, 0, BYTES);
    check_read(&f, 8 * HS_AHEAD_WINDOW + 3, HS_AHEAD_WINDOW);
    check_read(&f, 3, HS_AHEAD_WINDOW + 100);
    check_read(&f, 4 * HS_AHEAD_WINDOW - 1, 4 * HS_AHEAD_WINDOW + 2);
    hs_file_ahead(&f, 2 * HS_AHEAD_WINDOW, 3 * HS_AHEAD_WINDOW); /* and closed while that is read */
    hs_file_close(&f);
    hs_file_close(&f);
    hs_ahead_close(a);
    hs_mem_close(m);
}

static void a_file_that_was_cut_says_so(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(0);
    hs_ahead *a;
    hs_file f;
    uint8_t out[64];
    CHECK_OK(hs_ahead_open(&a, m, 4 << 20, &err), err);
    (void)open_ahead(&f, a);
    assert_int_equal(truncate(path, BYTES - 1000), 0);
    hs_file_ahead(&f, 9 * HS_AHEAD_WINDOW, BYTES - 9 * HS_AHEAD_WINDOW);
    CHECK_FAILS(hs_file_read(&f, BYTES - 32, out, 32, path, &err), HLWQ_ERR_IO, err, "truncated");
    hs_file_close(&f);
    hs_ahead_close(a);
    hs_mem_close(m);
    remove_file(NULL);
    memcpy(path + sizeof path - 7, "XXXXXX", 6);
    assert_int_equal(make_file(NULL), 0);
}

typedef struct share {
    const hs_file *file;
    uint64_t first;
} share;

static void *read_share(void *user)
{
    const share *s = user;
    for (uint64_t i = s->first; i + 50000 < BYTES; i += 4 * 50000) {
        hs_file_ahead(s->file, i, 2 << 20);
        check_read(s->file, i, 50000);
    }
    return NULL;
}

static void several_threads_share_few_windows(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(0);
    hs_ahead *a;
    hs_file f;
    pthread_t thread[4];
    share s[4];
    CHECK_OK(hs_ahead_open(&a, m, 0, &err), err);
    (void)open_ahead(&f, a);
    for (uint32_t i = 0; i < 4; i++) {
        s[i] = (share){&f, i * 50000};
        assert_int_equal(pthread_create(&thread[i], NULL, read_share, &s[i]), 0);
    }
    for (uint32_t i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    hs_file_close(&f);
    hs_ahead_close(a);
    hs_mem_close(m);
}

static void no_memory_is_an_error(void **state)
{
    (void)state;
    hs_mem *m = hs_mem_open(8 << 20);
    hs_ahead *a;
    CHECK_FAILS(hs_ahead_open(&a, m, 32 << 20, &err), HLWQ_ERR_BUDGET, err, "windows");
    assert_null(a);
    assert_int_equal(hs_mem_now_bytes(m), 0);
    hs_mem_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_for_is_read_by_others),
        cmocka_unit_test(what_was_not_asked_for_or_pushed_out_is_read_all_the_same),
        cmocka_unit_test(a_file_that_was_cut_says_so),
        cmocka_unit_test(several_threads_share_few_windows),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
