/* loader/container*.c: what is written is read back; damage anywhere is found and named. */
#define _GNU_SOURCE
#include "loader/container_private.h"
#include "tests/support/check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char config_text[] =
    "{\"model_type\":\"qwen3_5_moe_text\",\"vocab_size\":24,\"hidden_size\":128,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":32,\"linear_num_key_heads\":1,"
    "\"linear_num_value_heads\":2,\"linear_key_head_dim\":16,\"linear_value_head_dim\":16,\"full_attention_interval\":2,"
    "\"num_experts\":3,\"num_experts_per_tok\":2,\"moe_intermediate_size\":128,\"shared_expert_intermediate_size\":128,"
    "\"rope_theta\":10000000,\"max_position_embeddings\":128}                                                        ";

typedef struct fixture {
    hs_mem *mem;
    hs_arena arena;
    hs_table table;
    char path[64];
} fixture;

/* A table with every kind of part; levels are the exact halves of whole numbers. */
static void make(fixture *f)
{
    static const hs_dtype packed[5] = {HS_Q5, HS_I4, HS_I4Z, HS_I4G64, HS_I4G64Z};
    hlwq_error err;
    hs_config config;
    f->mem = hs_mem_open(0);
    hs_arena_init(&f->arena, f->mem, HS_MEM_TABLE);
    snprintf(f->path, sizeof f->path, "/tmp/hlwq-container-%d.hlwq", (int)getpid());
    CHECK_OK(hs_config_parse(&config, config_text, sizeof config_text - 1, "config", NULL, &err), err);
    CHECK_OK(hs_schema_build(&f->table, &config, false, &f->arena, &err), err);
    f->table.n_books = 1;
    f->table.book[0].bits = 5;
    for (int i = 0; i < 32; i++)
        f->table.book[0].level[i] = ((float)i - 15.5f) / 3.0f;
    for (uint32_t g = 0; g < f->table.n_groups; g++) {
        hs_group *group = &f->table.group[g];
        for (uint32_t i = 0; i < group->n_parts; i++)
            if (hs_role_class_of(group->part[i].role) == HS_CLASS_MATRIX)
                group->part[i].dtype = packed[(g + i) % 5];
        CHECK_OK(hs_group_place(group, &err), err);
    }
}

static uint8_t byte_at(uint32_t g, uint32_t e, uint64_t i)
{
    return (uint8_t)(i * 31 + g * 7 + e * 3);
}

static hs_container_writer *start(fixture *f)
{
    hlwq_error err;
    hs_container_writer *w;
    hs_container_blobs blobs = {.provenance = "a test \"with\" quotes"};
    blobs.data[HS_BLOB_CONFIG] = config_text;
    blobs.bytes[HS_BLOB_CONFIG] = sizeof config_text - 1;
    blobs.data[HS_BLOB_TEMPLATE] = "{{ x }}";
    blobs.bytes[HS_BLOB_TEMPLATE] = 7;
    CHECK_OK(hs_container_create(&w, f->mem, f->path, true, &f->table, &blobs, &err), err);
    return w;
}

static void write_file(fixture *f)
{
    hlwq_error err;
    hs_container_writer *w = start(f);
    uint8_t *extent = malloc(1 << 20);
    for (uint32_t g = 0; g < f->table.n_groups; g++)
        for (uint32_t e = 0; e < f->table.group[g].count; e++) {
            for (uint64_t i = 0; i < f->table.group[g].bytes; i++)
                extent[i] = byte_at(g, e, i);
            CHECK_OK(hs_container_append(w, extent, false, &err), err);
        }
    free(extent);
    uint64_t total = hs_container_total_bytes(w);
    CHECK_OK(hs_container_commit(w, &err), err);
    struct stat s;
    assert_int_equal(stat(f->path, &s), 0);
    assert_int_equal(s.st_size, total);
}

static void done(fixture *f)
{
    unlink(f->path);
    hs_arena_close(&f->arena);
    hs_mem_close(f->mem);
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    fixture f;
    hlwq_error err;
    hs_container c;
    make(&f);
    write_file(&f);
    assert_true(hs_container_is(f.path));
    CHECK_OK(hs_container_open(&c, f.mem, f.path, NULL, &err), err);
    assert_string_equal(c.provenance, "a test \"with\" quotes");
    assert_int_equal(c.blob_bytes[HS_BLOB_CONFIG], sizeof config_text - 1);
    assert_memory_equal(c.blob[HS_BLOB_CONFIG], config_text, sizeof config_text - 1);
    assert_string_equal(c.blob[HS_BLOB_TEMPLATE], "{{ x }}");
    assert_null(c.blob[HS_BLOB_TOKENIZER]);
    assert_int_equal(c.table.n_groups, f.table.n_groups);
    assert_memory_equal(c.table.book, f.table.book, sizeof f.table.book);
    for (uint32_t g = 0; g < c.table.n_groups; g++) {
        const hs_group *a = &c.table.group[g], *b = &f.table.group[g];
        assert_int_equal(a->bytes, b->bytes);
        for (uint32_t i = 0; i < a->n_parts; i++) {
            assert_int_equal(a->part[i].dtype, b->part[i].dtype);
            assert_int_equal(a->part[i].offset, b->part[i].offset);
        }
        uint8_t *extent = malloc(a->bytes);
        for (uint32_t e = 0; e < a->count; e++) {
            uint64_t at = hs_container_offset(&c, g, e);
            assert_int_equal(at % 4096, 0);
            CHECK_OK(hs_file_read(&c.file, at, extent, a->bytes, f.path, &err), err);
            assert_int_equal(extent[77], byte_at(g, e, 77));
            CHECK_OK(hs_container_verify(&c, g, e, extent, &err), err);
            extent[a->bytes - 1] ^= 1;
            CHECK_FAILS(hs_container_verify(&c, g, e, extent, &err), HLWQ_ERR_FORMAT, err, f.path);
        }
        free(extent);
    }
    hs_container_close(&c);
    done(&f);
}

static void an_unfinished_writer_leaves_nothing(void **state)
{
    (void)state;
    fixture f;
    hlwq_error err;
    make(&f);
    hs_container_writer *w = start(&f);
    assert_false(hs_path_exists(f.path));
    hs_container_drop(w);
    assert_false(hs_path_exists(f.path));
    w = start(&f);
    CHECK_FAILS(hs_container_commit(w, &err), HLWQ_ERR_ARG, err, "lacks extents");
    assert_false(hs_path_exists(f.path));
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.tmp.%ld", f.path, (long)getpid());
    assert_false(hs_path_exists(temporary));
    done(&f);
}

static void expect_refusal(fixture *f, const char *word)
{
    hs_container c;
    hlwq_error err;
    hlwq_status st = hs_container_open(&c, f->mem, f->path, NULL, &err);
    if (st == HLWQ_OK)
        fail_msg("opened, wanted a mention of %s", word);
    if (!strstr(err.message, word) || !strstr(err.message, f->path))
        fail_msg("\"%s\" does not mention %s and the file", err.message, word);
}

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t b;
    assert_int_equal(pread(fd, &b, 1, at), 1);
    b ^= 0x20;
    assert_int_equal(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

static hs_header header_of(const char *path)
{
    uint8_t page[HS_HEADER_BYTES];
    hs_header h;
    hlwq_error err;
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, page, sizeof page, 0), sizeof page);
    close(fd);
    CHECK_OK(hs_header_decode(&h, page, path, &err), err);
    return h;
}

static void one_wrong_byte_is_found(void **state)
{
    (void)state;
    fixture f;
    make(&f);
    write_file(&f);
    hs_header h = header_of(f.path);
    const struct {
        off_t at;
        const char *word;
    } wrong[] = {
        {3, "first bytes"},
        {8, "version"},
        {20, "checksum"},
        {45, "checksum"},
        {60, "checksum"},
        {2000, "byte 2000"},
        {(off_t)h.index_offset + 5, "index"},
        {(off_t)(h.index_offset + h.index_bytes) - 1, "index"},
        {(off_t)h.tail_offset + 9, "copies"},
        {(off_t)(h.index_offset + h.index_bytes) + 40, "checksum"}, /* the first blob */
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        flip(f.path, wrong[i].at);
        expect_refusal(&f, wrong[i].word);
        flip(f.path, wrong[i].at);
    }
    hs_container c;
    hlwq_error err;
    CHECK_OK(hs_container_open(&c, f.mem, f.path, NULL, &err), err);
    hs_container_close(&c);
    done(&f);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    fixture f;
    make(&f);
    write_file(&f);
    struct stat s;
    stat(f.path, &s);
    hs_header h = header_of(f.path);
    for (off_t n = s.st_size - 1; n >= 0; n -= n > (off_t)(h.index_offset + h.index_bytes) ? 997 : n > 4200 ? 61 : 1) {
        assert_int_equal(truncate(f.path, n), 0);
        hs_container c;
        assert_int_equal(hs_container_open(&c, f.mem, f.path, NULL, NULL), HLWQ_ERR_FORMAT);
    }
    done(&f);
}

/* The header with a new version or index, its checksums made right again. */
static void newer_versions_are_told_apart_from_damage(void **state)
{
    (void)state;
    fixture f;
    make(&f);
    write_file(&f);
    hs_header h = header_of(f.path);
    uint8_t page[HS_HEADER_BYTES];
    h.version = 7;
    hs_header_encode(&h, page);
    int fd = open(f.path, O_RDWR);
    assert_int_equal(pwrite(fd, page, sizeof page, 0), sizeof page);
    close(fd);
    expect_refusal(&f, "version 7");
    done(&f);
}

/* The index with the first `from` after `after` replaced, in the spaces that end it, all checksums made right. */
static void edit_index(const char *path, const char *after, const char *from, const char *to)
{
    uint8_t page[HS_HEADER_BYTES];
    hs_header h = header_of(path);
    char *text = calloc(1, h.index_bytes + 1), *copy = malloc(h.index_bytes + 64);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, text, h.index_bytes, (off_t)h.index_offset), h.index_bytes);
    char *at = strstr(text, after);
    at = at ? strstr(at, from) : NULL;
    if (!at)
        fail_msg("the index has no %s after %s", from, after);
    memset(copy, ' ', h.index_bytes + 64);
    size_t before = (size_t)(at - text), rest = strlen(at) - strlen(from);
    memcpy(copy, text, before);
    memcpy(copy + before, to, strlen(to));
    memcpy(copy + before + strlen(to), at + strlen(from), rest);
    for (size_t i = h.index_bytes; i < h.index_bytes + 64; i++)
        if (i < before + strlen(to) + rest)
            assert_int_equal(copy[i], ' ');
    h.index_hash = hs_hash(copy, h.index_bytes);
    hs_header_encode(&h, page);
    assert_int_equal(pwrite(fd, page, sizeof page, 0), sizeof page);
    assert_int_equal(pwrite(fd, copy, h.index_bytes, (off_t)h.index_offset), h.index_bytes);
    assert_int_equal(pwrite(fd, copy, h.index_bytes, (off_t)h.tail_offset), h.index_bytes);
    close(fd);
    free(text);
    free(copy);
}

static void a_part_has_only_a_dtype_that_it_can_have(void **state)
{
    (void)state;
    /* The first expert's parts are I4G64Z, Q5, I4 and follow one another without room between. */
    static const struct {
        const char *after, *from, *to, *word;
    } wrong[] = {
        {"\"experts\"", "\"I4G64Z\"", "\"I4G64\"", "the offset of a part"},
        {"\"experts\"", "\"I4G64Z\"", "\"I4Z\"", "the offset of a part"},
        {"\"experts\"", "\"I4G64Z\"", "\"I4\"", "the offset of a part"},
        {"\"experts\"", "\"I4\"", "\"I4G32\"", "I4G32"},
        {"\"experts\"", "\"I4\"", "\"I8\"", "I8"},
        {"\"experts\"", "\"I4\"", "\"i4\"", "i4"},
        {"\"experts\"", "\"I4\"", "\"Q4\"", "book"},
        {"\"global\"", "\"F32\"", "\"I4\"", "cannot have"},
        {"input_layernorm", "\"F32\"", "\"I4G64Z\"", "cannot have"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fixture f;
        make(&f);
        write_file(&f);
        edit_index(f.path, wrong[i].after, wrong[i].from, wrong[i].to);
        expect_refusal(&f, wrong[i].word);
        done(&f);
    }
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    fixture f;
    make(&f);
    write_file(&f);
    uint64_t base = hs_mem_now_bytes(f.mem);
    for (uint64_t n = 0;; n++) {
        hs_container c;
        hs_mem_fail_at(f.mem, n);
        hlwq_status st = hs_container_open(&c, f.mem, f.path, NULL, NULL);
        if (st == HLWQ_OK) {
            hs_container_close(&c);
            assert_true(n > 3);
            break;
        }
        assert_int_equal(st, HLWQ_ERR_NOMEM);
        assert_int_equal(hs_mem_now_bytes(f.mem), base);
    }
    hs_mem_fail_at(f.mem, UINT64_MAX);
    done(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(an_unfinished_writer_leaves_nothing),
        cmocka_unit_test(one_wrong_byte_is_found),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(newer_versions_are_told_apart_from_damage),
        cmocka_unit_test(a_part_has_only_a_dtype_that_it_can_have),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
