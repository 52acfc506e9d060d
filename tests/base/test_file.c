/* base/file.c */
#define _GNU_SOURCE
#include "base/file.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static const char *in_dir(const char *name)
{
    static char path[4][160];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, 160, "%s/%s", dir, name);
    return p;
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/hlwq-file-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    return rmdir(dir);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void only_regular_files_are_opened(void **state)
{
    (void)state;
    hs_file f;
    hlwq_error err;
    CHECK_FAILS(hs_file_open(&f, dir, &err), HLWQ_ERR_IO, err, "directory");
    CHECK_FAILS(hs_file_open(&f, "/dev/zero", &err), HLWQ_ERR_IO, err, "device");
    CHECK_FAILS(hs_file_open(&f, in_dir("none"), &err), HLWQ_ERR_IO, err, "none");
    assert_int_equal(mkfifo(in_dir("pipe"), 0600), 0);
    CHECK_FAILS(hs_file_open(&f, in_dir("pipe"), &err), HLWQ_ERR_IO, err, "pipe"); /* and does not wait for a writer */
}

static void short_and_changed_files_are_noticed(void **state)
{
    (void)state;
    hs_file f;
    hlwq_error err;
    char b[16];
    put(in_dir("a"), "0123456789");
    CHECK_OK(hs_file_open(&f, in_dir("a"), &err), err);
    CHECK_OK(hs_file_read(&f, 3, b, 4, "a", &err), err);
    assert_memory_equal(b, "3456", 4);
    CHECK_OK(hs_file_unchanged(&f, "a", &err), err);
    CHECK_FAILS(hs_file_read(&f, 8, b, 4, "a", &err), HLWQ_ERR_IO, err, "truncated");
    CHECK_FAILS(hs_file_read(&f, UINT64_MAX - 2, b, 4, "a", &err), HLWQ_ERR_IO, err, "beyond");
    assert_int_equal(truncate(in_dir("a"), 5), 0);
    CHECK_FAILS(hs_file_unchanged(&f, "a", &err), HLWQ_ERR_IO, err, "changed");
    hs_file_close(&f);
    hs_file_close(&f);
}

static void output_appears_whole_or_not_at_all(void **state)
{
    (void)state;
    hs_output o;
    hlwq_error err;
    const char *path = in_dir("out");
    CHECK_OK(hs_output_open(&o, path, false, &err), err);
    CHECK_OK(hs_output_write(&o, "hello", 5, &err), err);
    assert_false(hs_path_exists(path));
    hs_output_drop(&o);
    hs_output_drop(&o);
    assert_false(hs_path_exists(path));

    CHECK_OK(hs_output_open(&o, path, false, &err), err);
    CHECK_OK(hs_output_write(&o, "hello", 5, &err), err);
    CHECK_OK(hs_output_rewrite(&o, 0, "j", 1, &err), err);
    CHECK_OK(hs_output_commit(&o, &err), err);
    hs_mem *m = hs_mem_open(0);
    hs_arena a;
    hs_arena_init(&a, m, HS_MEM_OTHER);
    char *text;
    uint64_t bytes;
    CHECK_OK(hs_file_text(&a, path, 100, &text, &bytes, &err), err);
    assert_string_equal(text, "jello");
    CHECK_FAILS(hs_file_text(&a, path, 4, &text, &bytes, &err), HLWQ_ERR_FORMAT, err, "limit 4");
    hs_arena_close(&a);
    hs_mem_close(m);

    CHECK_FAILS(hs_output_open(&o, path, false, &err), HLWQ_ERR_IO, err, "exists");
    CHECK_FAILS(hs_output_open(&o, dir, true, &err), HLWQ_ERR_IO, err, dir);
    CHECK_FAILS(hs_output_open(&o, in_dir("no/where"), true, &err), HLWQ_ERR_IO, err, "where");
}

static void temporaries_of_dead_writers_are_removed(void **state)
{
    (void)state;
    hs_output o;
    hlwq_error err;
    put(in_dir("x.tmp.999999999"), "stale"); /* above any process id */
    put(in_dir("x.tmp.1"), "alive");
    put(in_dir("x.tmp.words"), "not ours");
    CHECK_OK(hs_output_open(&o, in_dir("x"), false, &err), err);
    hs_output_drop(&o);
    assert_false(hs_path_exists(in_dir("x.tmp.999999999")));
    assert_true(hs_path_exists(in_dir("x.tmp.1")));
    assert_true(hs_path_exists(in_dir("x.tmp.words")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_regular_files_are_opened, setup, teardown),
        cmocka_unit_test_setup_teardown(short_and_changed_files_are_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(output_appears_whole_or_not_at_all, setup, teardown),
        cmocka_unit_test_setup_teardown(temporaries_of_dead_writers_are_removed, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
