/* stream/: every engine gives the same bytes, resumes what is short, retries what is transient, names what is wrong. */
#define _GNU_SOURCE
#include "stream/stream.h"
#include "tests/support/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 700, TRANSFERS = 40 };

typedef struct fixture {
    char path[64];
    uint8_t *bytes, *to;
    hs_mem *mem;
    hs_transfer t[TRANSFERS];
} fixture;

static void make(fixture *f)
{
    snprintf(f->path, sizeof f->path, "hlwq-stream-XXXXXX"); /* where O_DIRECT works, if it does here */
    f->mem = hs_mem_open(0);
    int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    f->bytes = aligned_alloc(PAGE, PAGES * PAGE);
    f->to = aligned_alloc(PAGE, PAGES * PAGE);
    for (size_t i = 0; i < PAGES * PAGE; i++)
        f->bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(write(fd, f->bytes, PAGES * PAGE), PAGES * PAGE);
    close(fd);
}

static void drop(fixture *f)
{
    unlink(f->path);
    free(f->bytes);
    free(f->to);
    hs_mem_close(f->mem);
}

static hs_stream *open_stream(fixture *f, hs_io io, uint64_t shuffle)
{
    hlwq_error err;
    hs_stream *s;
    hs_stream_options o = hs_stream_options_default();
    o.io = io;
    o.depth = 4;
    o.request_bytes = 5 * PAGE; /* so that transfers are of several requests, the last one shorter */
    hlwq_status st = hs_stream_open(&s, f->mem, f->path, &o, &err);
    if (st == HLWQ_ERR_UNSUPPORTED) /* a ring that the system refuses */
        return NULL;
    CHECK_OK(st, err);
    hs_stream_shuffle(s, shuffle);
    return s;
}

/* All transfers at once; returns how many failed. */
static uint32_t read_all(fixture *f, hs_stream *s, hlwq_error *first)
{
    uint32_t failed = 0, n = 0;
    uint64_t at = 0;
    memset(f->to, 0, PAGES * PAGE);
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        uint64_t bytes = (1 + i * 7 % 17) * PAGE;
        f->t[i] = (hs_transfer){.offset = at, .bytes = bytes, .to = f->to + at, .user = i};
        at += bytes;
        assert_true(at <= PAGES * PAGE);
        hs_stream_read(s, &f->t[i]);
    }
    for (hs_transfer *t; (t = hs_stream_next(s, true)); n++) {
        if (t->status == HLWQ_OK)
            assert_memory_equal(t->to, f->bytes + t->offset, t->bytes);
        else if (failed++ == 0)
            *first = t->error;
    }
    assert_int_equal(n, TRANSFERS);
    assert_int_equal(hs_stream_pending(s), 0);
    return failed;
}

static void engines_give_the_same_bytes(void **state)
{
    (void)state;
    fixture f;
    hlwq_error err;
    make(&f);
    for (hs_io io = HS_IO_AUTO; io < HS_IO_COUNT; io++)
        for (uint64_t shuffle = 0; shuffle < 3; shuffle++) {
            hs_stream *s = open_stream(&f, io, shuffle);
            if (!s)
                continue;
            for (int round = 0; round < 3; round++)
                assert_int_equal(read_all(&f, s, &err), 0);
            hs_stream_stats stats = hs_stream_get_stats(s);
            assert_true(stats.requests > TRANSFERS && stats.busy_ns > 0);
            assert_true(strlen(hs_stream_reason(s)) > 10);
            hs_stream_close(s);
        }
    drop(&f);
}

static void failures_are_retried_or_named(void **state)
{
    (void)state;
    fixture f;
    hlwq_error err;
    make(&f);
    for (hs_io io = HS_IO_URING; io < HS_IO_COUNT; io++)
        for (uint64_t n = 0; n < 60; n += 7) {
            hs_stream *s = open_stream(&f, io, n % 2);
            if (!s)
                continue;
            static const int passing[] = {-EAGAIN, -EINTR, -EIO, -ENOMEM, PAGE, 2 * PAGE + 100};
            for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
                hs_stream_fail_at(s, n, passing[i]);
                assert_int_equal(read_all(&f, s, &err), 0);
            }
            hs_stream_fail_at(s, n, -EACCES);
            assert_int_equal(read_all(&f, s, &err), 1);
            assert_non_null(strstr(err.message, strerror(EACCES)));
            assert_non_null(strstr(err.message, f.path));
            hs_stream_fail_at(s, n, 0);
            assert_int_equal(read_all(&f, s, &err), 1);
            assert_non_null(strstr(err.message, "cut short"));
            assert_int_equal(read_all(&f, s, &err), 0); /* and the next ones work */
            hs_stream_close(s);
        }
    drop(&f);
}

static void a_file_cut_short_is_an_error(void **state)
{
    (void)state;
    fixture f;
    hlwq_error err;
    make(&f);
    for (hs_io io = HS_IO_URING; io < HS_IO_COUNT; io++) {
        hs_stream *s = open_stream(&f, io, 0);
        if (!s)
            continue;
        assert_int_equal(read_all(&f, s, &err), 0);
        assert_int_equal(truncate(f.path, 100 * PAGE + 17), 0);
        assert_true(read_all(&f, s, &err) > 10);
        assert_non_null(strstr(err.message, "cut short"));
        hs_stream_close(s);
        int fd = open(f.path, O_WRONLY | O_TRUNC);
        assert_int_equal(write(fd, f.bytes, PAGES * PAGE), PAGES * PAGE);
        close(fd);
    }
    drop(&f);
}

static void closing_drops_what_is_under_way(void **state)
{
    (void)state;
    fixture f;
    make(&f);
    for (hs_io io = HS_IO_URING; io < HS_IO_COUNT; io++) {
        hs_stream *s = open_stream(&f, io, 0);
        if (!s)
            continue;
        for (uint32_t i = 0; i < TRANSFERS; i++) {
            f.t[i] = (hs_transfer){.offset = i * 10 * PAGE, .bytes = 10 * PAGE, .to = f.to + i * 10 * PAGE};
            hs_stream_read(s, &f.t[i]);
        }
        hs_stream_close(s);
    }
    hlwq_error err;
    hs_stream *s;
    hs_stream_options o = hs_stream_options_default();
    CHECK_FAILS(hs_stream_open(&s, f.mem, "no/such/file", &o, &err), HLWQ_ERR_IO, err, "no/such/file");
    o.depth = 1000;
    CHECK_FAILS(hs_stream_open(&s, f.mem, f.path, &o, &err), HLWQ_ERR_ARG, err, "1000");
    drop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engines_give_the_same_bytes),
        cmocka_unit_test(failures_are_retried_or_named),
        cmocka_unit_test(a_file_cut_short_is_an_error),
        cmocka_unit_test(closing_drops_what_is_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
