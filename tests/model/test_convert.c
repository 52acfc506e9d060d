/* model/convert_write.c, convert_compare.c: interrupted anywhere, convert goes on to the same bytes; what differs is
 * found. */
#define _GNU_SOURCE
#include "model/convert_write.h"
#include "offload/store_planes.h"
#include "tests/support/edit_model.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static char dir[64], file[80], work[96];
static hlwq_error err;

typedef struct course {
    uint32_t steps, stop_at;
    bool kill;
} course;

static bool follow(void *user, uint64_t done, uint64_t total)
{
    course *c = user;
    assert_true(done <= total);
    if (c->steps++ != c->stop_at)
        return true;
    if (c->kill)
        kill(getpid(), SIGKILL);
    return false;
}

static hlwq_convert_options options(course *c)
{
    hlwq_convert_options o = hlwq_convert_options_default();
    o.source = dir;
    o.output = file;
    o.threads = 2;
    o.keep_every_bytes = 4096; /* after each extent */
    o.progress = follow;
    o.user = c;
    return o;
}

/* Uninterrupted; the number of extents. */
static uint32_t whole(char **data, size_t *bytes)
{
    course c = {.stop_at = UINT32_MAX};
    hlwq_convert_options o = options(&c);
    CHECK_OK(hlwq_convert(&o, &err), err);
    *data = edit_read("/tmp", strrchr(file, '/') + 1, bytes);
    return c.steps;
}

static void expect(const char *data, size_t bytes)
{
    size_t n;
    char *got = edit_read("/tmp", strrchr(file, '/') + 1, &n);
    assert_int_equal(n, bytes);
    assert_memory_equal(got, data, bytes);
    assert_int_not_equal(access(work, F_OK), 0);
    free(got);
    unlink(file);
}

static void go_on(const char *data, size_t bytes)
{
    course c = {.stop_at = UINT32_MAX};
    hlwq_convert_options o = options(&c);
    assert_int_not_equal(access(file, F_OK), 0);
    CHECK_OK(hlwq_convert(&o, &err), err);
    expect(data, bytes);
}

static void killed_after_any_extent_it_goes_on_to_the_same_bytes(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    uint32_t n = whole(&data, &bytes);
    assert_true(n > 8);
    unlink(file);
    for (uint32_t at = 0; at < n; at += at < 3 || at + 3 > n ? 1 : 11) {
        pid_t child = fork();
        if (child == 0) {
            course c = {.stop_at = at, .kill = true};
            hlwq_convert_options o = options(&c);
            (void)hlwq_convert(&o, NULL);
            _exit(0);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        go_on(data, bytes);
    }
    free(data);
}

/* So that it is read past the page cache, where the file system can. */
static void drop_source(void)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        int fd = openat(dirfd(d), e->d_name, O_RDONLY);
        assert_true(fd >= 0);
        (void)fsync(fd);
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    closedir(d);
}

static void a_source_that_is_not_in_the_page_cache_gives_the_same_bytes(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    (void)whole(&data, &bytes);
    unlink(file);
    drop_source();
    go_on(data, bytes);
    free(data);
}

static void stopped_it_says_how_to_go_on(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    whole(&data, &bytes);
    unlink(file);
    course c = {.stop_at = 6};
    hlwq_convert_options o = options(&c);
    CHECK_FAILS(hlwq_convert(&o, &err), HLWQ_ERR_CANCELLED, err, work);
    o.bits = 4; /* another output: what is there is no use, and nobody is misled */
    o.user = &(course){.stop_at = UINT32_MAX};
    CHECK_OK(hlwq_convert(&o, &err), err);
    o.bits = 5;
    o.overwrite = true;
    CHECK_OK(hlwq_convert(&o, &err), err);
    expect(data, bytes);
    /* So little that it is not worth a folder. */
    c = (course){.stop_at = 2};
    o = options(&c);
    o.keep_every_bytes = 0;
    CHECK_FAILS(hlwq_convert(&o, &err), HLWQ_ERR_CANCELLED, err, "nothing was written");
    assert_int_not_equal(access(work, F_OK), 0);
    free(data);
}

static void a_full_disk_is_a_sentence_and_it_goes_on(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    whole(&data, &bytes);
    unlink(file);
    for (size_t room = 4096; room < bytes; room += bytes / 5) {
        pid_t child = fork();
        if (child == 0) {
            course c = {.stop_at = UINT32_MAX};
            hlwq_convert_options o = options(&c);
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){room, room});
            hlwq_status st = hlwq_convert(&o, &err);
            _exit(st == HLWQ_ERR_IO && strstr(err.message, file) ? 7 : 1);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 7);
        go_on(data, bytes);
    }
    free(data);
}

static void two_do_not_write_the_same_file(void **state)
{
    (void)state;
    hs_work w;
    hs_output out;
    CHECK_OK(hs_work_open(&w, file, 1, &err), err);
    char *partial = hs_work_path(&w, HS_WORK_PARTIAL);
    CHECK_OK(hs_output_resume(&out, file, partial, false, &err), err);
    course c = {.stop_at = UINT32_MAX};
    hlwq_convert_options o = options(&c);
    CHECK_FAILS(hlwq_convert(&o, &err), HLWQ_ERR_IO, err, "another process");
    hs_output_leave(&out);
    hs_work_remove(&w);
    hs_work_close(&w);
    free(partial);
}

/* ---- comparing ------------------------------------------------------------------------------ */

static hlwq_status compare(const char *source)
{
    hs_mem *mem = hs_mem_open(0);
    hlwq_convert_options o = {.source = source, .output = file};
    hs_log log = {0};
    hlwq_status st = hs_convert_compare(&o, mem, NULL, &log, &err);
    hs_mem_close(mem);
    return st;
}

/* One bit of a weight, in a container of the source's own numbers. */
static void a_weight_that_differs_is_named(void **state)
{
    (void)state;
    static const char *const source[] = {"tests/golden/hlwq-models/hlwq-q5-dense", "tests/golden/qwen35/dense-tied"};
    for (int i = 0; i < 2; i++) {
        course c = {.stop_at = UINT32_MAX};
        hlwq_convert_options o = options(&c);
        size_t bytes;
        o.source = source[i];
        o.bits = 0;
        o.verify = true;
        o.overwrite = true;
        CHECK_OK(hlwq_convert(&o, &err), err);
        char *data = edit_read("/tmp", strrchr(file, '/') + 1, &bytes);
        size_t at = bytes / 2;
        while (!data[at])
            at++;
        data[at] ^= 16;
        FILE *f = fopen(file, "r+b");
        fseek(f, (long)at, SEEK_SET);
        fputc(data[at], f);
        fclose(f);
        free(data);
        CHECK_FAILS(compare(source[i]), HLWQ_ERR_FORMAT, err, "layers.");
        assert_non_null(strstr(err.message, file));
    }
    unlink(file);
}

/* What --verify reads a large tensor by. */
static void rows_of_integers_come_in_pieces(void **state)
{
    (void)state;
    static const char *const source[] = {"gptq/dense-g128-actorder-sym", "gptq/dense-g64-asym-v1",
                                         "compressed-tensors/dense-g128-asym"};
    uint32_t compared = 0;
    for (size_t i = 0; i < sizeof source / sizeof *source; i++) {
        const char *path = golden(source[i]);
        const hs_log quiet = {0};
        hs_mem *mem = hs_mem_open(0);
        hs_store *store;
        if (!path)
            skip();
        CHECK_OK(hs_store_open(&store, mem, path, NULL, &quiet, &err), err);
        const hs_table *t = hs_store_table(store);
        for (uint32_t g = 0; g < t->n_groups; g++)
            for (uint32_t k = 0; k < t->group[g].n_parts; k++) {
                const hs_part *p = &t->group[g].part[k];
                if (hs_role_class_of(p->role) == HS_CLASS_VECTOR || p->rows <= 64)
                    continue;
                const size_t cols = p->cols, bytes = p->rows * cols * sizeof(float);
                float *all = malloc(bytes), *pieces = malloc(bytes);
                CHECK_OK(hs_store_rows(store, g, 0, p, 0, p->rows, NULL, all, &err), err);
                for (uint32_t r = 0; r < p->rows; r += 64)
                    CHECK_OK(hs_store_rows(store, g, 0, p, r, p->rows - r < 64 ? p->rows - r : 64, NULL,
                                           pieces + r * cols, &err),
                             err);
                assert_memory_equal(pieces, all, bytes);
                compared++;
                free(all);
                free(pieces);
            }
        hs_store_close(store);
        hs_mem_close(mem);
    }
    assert_true(compared > 10);
}

static void an_error_beyond_its_bound_is_told(void **state)
{
    (void)state;
    course c = {.stop_at = UINT32_MAX};
    for (uint32_t bits = 2; bits <= 7; bits++) { /* 7: integers */
        hlwq_convert_options o = options(&c);
        o.source = "tests/golden/qwen35/dense-tied";
        o.overwrite = true;
        o.bits = bits;
        o.format = bits == 7 ? "I4G64Z" : NULL;
        o.verify = true;
        CHECK_OK(hlwq_convert(&o, &err), err);
    }
    /* Of another model: same shapes, other weights. */
    char other[80];
    snprintf(other, sizeof other, "%s-other", dir);
    course d = {.stop_at = UINT32_MAX};
    hlwq_convert_options o = options(&d);
    o.overwrite = true;
    CHECK_OK(hlwq_convert(&o, &err), err);
    CHECK_OK(compare(dir), err);
    tiny_model_write(other, true);
    size_t bytes;
    char *data = edit_read(other, "model.safetensors", &bytes);
    uint64_t header;
    memcpy(&header, data, 8);
    for (size_t i = 8 + header + 3; i < bytes; i += 8)
        data[i] ^= (char)0x80; /* every second sign */
    tiny_file(other, "model.safetensors", data, bytes);
    free(data);
    assert_int_equal(compare(other), HLWQ_ERR_FORMAT);
    tiny_model_remove(other);
    unlink(file);
}

/* Numbers that no sound file has, each in a plane of its own, of an extent whose checksum would be right. */
static void odd_numbers_in_an_extent_are_named(void **state)
{
    (void)state;
    static const char *const format[] = {NULL, "I4G64Z"};
    for (int i = 0; i < 2; i++) {
        course c = {.stop_at = UINT32_MAX};
        hlwq_convert_options o = options(&c);
        hs_store *store;
        uint32_t scales = 0, vectors = 0;
        o.format = format[i];
        o.overwrite = true;
        CHECK_OK(hlwq_convert(&o, &err), err);
        hs_mem *mem = hs_mem_open(0);
        CHECK_OK(hs_store_open(&store, mem, file, NULL, NULL, &err), err);
        const hs_table *t = hs_store_table(store);
        for (uint32_t g = 0; g < t->n_groups; g++) {
            const hs_group *group = &t->group[g];
            uint8_t *data = aligned_alloc(4096, group->bytes);
            CHECK_OK(hs_store_load(store, g, 0, NULL, true, data, &err), err);
            for (uint32_t k = 0; k < group->n_parts; k++) {
                const hs_part *p = &group->part[k];
                char name[256];
                uint8_t *odd = data + p->offset + (hs_dtype_packed(p->dtype) ? p->planes.norms : p->planes.low),
                        keep[4];
                bool vector = hs_role_class_of(p->role) == HS_CLASS_VECTOR;
                if (!hs_dtype_packed(p->dtype) && !vector)
                    continue;
                hs_part_name(name, sizeof name, group, 0, p->role);
                memcpy(keep, odd, 4);
                memcpy(odd, vector ? (const uint8_t[]){0, 0, 0xC0, 0x7F} : (const uint8_t[]){0, 0x7C, 0, 0}, 4);
                CHECK_FAILS(hs_store_check_planes(group, 0, data, file, &err), HLWQ_ERR_FORMAT, err, name);
                assert_non_null(strstr(err.message, vector                    ? "element 0"
                                                    : hs_dtype_int4(p->dtype) ? "scale of row 0"
                                                                              : "norm of row 0"));
                memcpy(odd, keep, 4);
                scales += !vector;
                vectors += vector;
            }
            CHECK_OK(hs_store_check_planes(group, 0, data, file, &err), err);
            free(data);
        }
        assert_true(scales > 10 && vectors > 10);
        hs_store_close(store);
        hs_mem_close(mem);
        unlink(file);
    }
}

/* Factors of the inputs: not zero, not negative, not infinite. */
static void factors_must_be_above_zero(void **state)
{
    (void)state;
    static const float bad[] = {0.0f, -1.0f, INFINITY, NAN};
    hs_group g = {.kind = HS_GROUP_LAYER, .count = 1, .n_parts = 1};
    g.part[0] = (hs_part){.role = HS_OUT, .rows = 2, .cols = 128, .dtype = HS_Q4, .scaled = true};
    CHECK_OK(hs_group_place(&g, &err), err);
    uint8_t *data = calloc(1, g.bytes);
    float *factor = (float *)(void *)(data + g.part[0].offset + g.part[0].planes.factor);
    for (int i = 0; i < 128; i++)
        factor[i] = 1.0f;
    CHECK_OK(hs_store_check_planes(&g, 0, data, "x.hlwq", &err), err);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        factor[77] = bad[i];
        CHECK_FAILS(hs_store_check_planes(&g, 0, data, "x.hlwq", &err), HLWQ_ERR_FORMAT, err, "factor of input 77");
        assert_non_null(strstr(err.message, "x.hlwq: tensor layers.0.linear_attn.out_proj.weight"));
    }
    free(data);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/hlwq-convert-%d", (int)getpid());
    snprintf(file, sizeof file, "%s.hlwq", dir);
    snprintf(work, sizeof work, "%s.work", file);
    tiny_model_write(dir, true);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tiny_model_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_after_any_extent_it_goes_on_to_the_same_bytes),
        cmocka_unit_test(a_source_that_is_not_in_the_page_cache_gives_the_same_bytes),
        cmocka_unit_test(stopped_it_says_how_to_go_on),
        cmocka_unit_test(a_full_disk_is_a_sentence_and_it_goes_on),
        cmocka_unit_test(two_do_not_write_the_same_file),
        cmocka_unit_test(a_weight_that_differs_is_named),
        cmocka_unit_test(rows_of_integers_come_in_pieces),
        cmocka_unit_test(an_error_beyond_its_bound_is_told),
        cmocka_unit_test(odd_numbers_in_an_extent_are_named),
        cmocka_unit_test(factors_must_be_above_zero),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
