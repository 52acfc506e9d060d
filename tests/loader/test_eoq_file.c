/* loader/formats/eoq_file.c, rans.c: the author's file, and what is wrong with damaged ones. */
#define _GNU_SOURCE
#include "loader/formats/eoq_file.h"
#include "loader/formats/wide.h"
#include "tests/support/eoq_file.h"
#include "tests/support/safetensors.h"

#include "tests/support/hf_folder.h" /* after it: has names of its own */

#define GOLDEN "tests/golden/hlwq"

static char *author; /* the author's file */
static size_t author_bytes;

static hlwq_status list(const char *data, size_t bytes)
{
    char path[100];
    folder_remove("x.eoq"); /* a file that is cut off and written again would wait for the disk */
    tiny_file(dir, "x.eoq", data, bytes);
    snprintf(path, sizeof path, "%s/x.eoq", dir);
    hs_hf_close(&hf);
    hf = (hs_hf){.dir = dir, .text_dir = dir};
    hs_arena_init(&hf.arena, mem, HS_MEM_TABLE);
    return hs_eoq_file_list(&hf, path, NULL, &err);
}

/* All rows of tensor t, `together` at a time. */
static hlwq_status read_rows(const hs_tensor *t, uint64_t rows, uint64_t cols, uint64_t together, float *out)
{
    hs_source s = {t, 0, rows, cols};
    const uint64_t step = hs_hf_wide_bytes(t, cols);
    uint8_t *raw = malloc(together * step);
    float *row = malloc(2 * cols * sizeof *row);
    hlwq_status st = HLWQ_OK;
    for (uint64_t r = 0; st == HLWQ_OK && r < rows; r += together) {
        const uint64_t n = rows - r < together ? rows - r : together;
        st = hs_hf_read_wide(&hf, &s, r, n, raw, &err);
        for (uint64_t i = 0; st == HLWQ_OK && i < n; i++) {
            hs_hf_widen(&s, r + i, raw + i * step, row);
            memcpy(out + (r + i) * cols, row, cols * sizeof *row);
        }
    }
    free(row);
    free(raw);
    return st;
}

static hlwq_status read_everything(void)
{
    for (uint32_t i = 0; i < hf.n_tensors; i++) {
        const hs_tensor *t = &hf.tensor[i];
        const uint64_t cols = t->dim[t->rank - 1];
        uint64_t rows = 1;
        for (uint32_t d = 0; d + 1 < t->rank; d++)
            rows *= t->dim[d];
        float *out = malloc(rows * cols * sizeof *out);
        hlwq_status st = read_rows(t, rows, cols, rows, out);
        free(out);
        if (st != HLWQ_OK)
            return st;
    }
    return HLWQ_OK;
}

static void the_authors_file_has_the_authors_weights(void **state)
{
    (void)state;
    st_file *want = st_open(GOLDEN "/sample_q4_eoq_expected.safetensors");
    CHECK_OK(list(author, author_bytes), err);
    assert_int_equal(hf.n_tensors, 2);
    assert_string_equal(hf.format, "EOQ file, 4 bits");
    for (uint32_t i = 0; i < 2; i++) {
        const hs_tensor *t = &hf.tensor[i];
        char key[100];
        uint64_t n;
        snprintf(key, sizeof key, "%s.deq_f32", t->name);
        float *right = st_f32(want, key, &n), *got = malloc(n * sizeof *got);
        assert_int_equal(t->dim[0] * t->dim[1], n);
        for (uint64_t together = 1; together <= t->dim[0]; together++) { /* whatever the pieces are */
            memset(got, 0xFF, n * sizeof *got);
            CHECK_OK(read_rows(t, t->dim[0], t->dim[1], together, got), err);
            assert_memory_equal(got, right, n * sizeof *got);
        }
        free(right);
        free(got);
    }
    st_close(want);
}

static void every_byte_that_is_changed_is_refused(void **state)
{
    (void)state;
    char *data = malloc(author_bytes);
    for (size_t i = 0; i < author_bytes; i++) {
        memcpy(data, author, author_bytes);
        data[i] = (char)(data[i] ^ (1 << i % 8));
        if (list(data, author_bytes) == HLWQ_OK)
            fail_msg("byte %zu may be changed", i);
        assert_non_null(strstr(err.message, "x.eoq"));
    }
    free(data);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    for (size_t n = 0; n < author_bytes; n += n < 40 || n + 40 > author_bytes ? 1 : 37) {
        assert_true(list(author, n) != HLWQ_OK);
        assert_non_null(strstr(err.message, "x.eoq"));
    }
}

/* The author's file with `bytes` at `at` and the right checksum. */
static hlwq_status with(size_t at, const void *bytes, size_t n)
{
    char *data = malloc(author_bytes);
    memcpy(data, author, author_bytes);
    memcpy(data + at, bytes, n);
    const uint32_t crc = eoq_crc(data, author_bytes - 4);
    memcpy(data + author_bytes - 4, &crc, 4);
    hlwq_status st = list(data, author_bytes);
    if (st == HLWQ_OK)
        st = read_everything();
    free(data);
    return st;
}

static void refused(hlwq_status st, const char *what, const char *word)
{
    if (st == HLWQ_OK)
        fail_msg("%s should be refused", what);
    if (!strstr(err.message, "x.eoq") || !strstr(err.message, word))
        fail_msg("%s: \"%s\" does not mention %s and the file", what, err.message, word);
}

/* The same text in the JSON, as long as before. */
static void json_refused(const char *from, const char *to, const char *word)
{
    const char *at = memmem(author, author_bytes, from, strlen(from));
    assert_non_null(at);
    assert_int_equal(strlen(from), strlen(to));
    refused(with((size_t)(at - author), to, strlen(to)), to, word);
}

static void a_description_that_is_not_the_files_is_refused(void **state)
{
    (void)state;
    json_refused("\"shape\":[8,256]", "\"shape\":[8,255]", "w8x256: num_elements");
    json_refused("\"shape\":[8,256]", "\"shape\":[8,-56]", "w8x256: its shape");
    json_refused("\"shape\":[8,256]", "\"shape\":[9,1e2]", "w8x256: its shape");
    json_refused("\"num_elements\":2048", "\"num_elements\":2049", "w8x256: num_elements");
    json_refused("\"bits\":4,\"quant", "\"bits\":5,\"quant", "an alphabet of 15");
    json_refused("\"bits\":4,\"quant", "\"bits\":9,\"quant", "\"bits\" is 9");
    json_refused("quant_block_size\":128", "quant_block_size\":127", "w8x256: scales_size");
    json_refused("quant_block_size\":128", "quant_block_size\":000", "x.eoq");
    json_refused("scales_size\":32", "scales_size\":34", "w8x256: scales_size is 34 in the JSON, 32");
    json_refused("rans_size\":897", "rans_size\":898", "w8x256: rans_size is 898 in the JSON, 897");
    json_refused("layers.0.w5x300", "layers.0.w8x256", "duplicate");
    json_refused("\"tensors\":[", "\"tensorz\":[", "2 tensors");
    json_refused("\"name\":\"layers.0.w8", "\"nome\":\"layers.0.w8", "number 0");
    refused(with(8, "\3\0\0\0", 4), "a third tensor", "counts 3 tensors");
    refused(with(12, "\xFF\xFF\xFF\x7F", 4), "a long JSON", "JSON header");
    refused(with(4, "\2\0\0\0", 4), "version 2", "is an .eoq file of version 2");
    refused(with(3, "\2", 1), "another mark", "is an .eoq file");
}

static void streams_that_do_not_add_up_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t at; /* in the stream */
        const char *bytes, *word;
    } c[] = {
        {0, "RONS", "begin with RANS"},
        {4, "\2\0\0\0", "version 1"},
        {8, "\1\x08\0\0", "number of blocks"},
        {8, "\xFF\x07\0\0", "its codes are 2047"},
        {12, "\0\0\0\0", "1 to 65536"},
        {12, "\0\2\0\0", "number of blocks"},
        {16, "\7\0\0\0", "number of blocks"},
        {20, "\1\0\0\0", "alphabet"},
        {20, "\xFF\xFF\0\0", "alphabet"},
        {20, "\x0D\0\0\0", "add up to its size"},
        {24, "\x15\0\0\0", "precision"},
        {24, "\x0D\0\0\0", "block 0"}, /* another table: blocks end elsewhere */
        {28, "\4\3\0\0", "add up to its size"},
        {32, "\x0D\0\0\0", "counts of its symbols"},
        {92, "\1\0\0\0", "block 0"},
        {96, "\0\0\0\0", "block 0"},
        {96, "\x54\0\0\0", "block 0"},
        {100, "\xFF\xFF\0\0", "block 1"},
    };
    const char *first = memmem(author, author_bytes, "RANS", 4);
    const size_t stream = (size_t)(first - author), data = stream + 32 + 15 * 4 + 8 * 4;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        refused(with(stream + c[i].at, c[i].bytes, 4), c[i].word, c[i].word);
        assert_non_null(strstr(err.message, "layers.0.w8x256"));
    }
    refused(with(data, "\0", 1), "a state of no bytes", "block 0");
    refused(with(data, "\5", 1), "a state of five bytes", "block 0");
    refused(with(data + 1, "\0\0\1", 3), "a state below its range", "block 0");
    /* Any other byte of the codes makes the block end elsewhere, with few exceptions that the checksum is for. */
    uint32_t passed = 0;
    for (size_t i = data; i < data + 773; i++) {
        const char other = (char)~author[i];
        passed += with(i, &other, 1) == HLWQ_OK;
    }
    assert_true(passed < 3);
}

static void scales_beyond_the_end_are_refused(void **state)
{
    (void)state;
    eoq_writer f = {0};
    float w[64] = {1, 2, 3};
    eoq_put(&f, "layers.0.a", "[2,32]", w, 64, 4, 128);
    hs_text file = eoq_finish(&f);
    hs_text longer = {0};
    CHECK_OK(list(file.data, file.bytes), err);
    hs_text_add(&longer, file.data, file.bytes - 4);
    hs_text_add(&longer, "more", 4);
    eoq_put_word(&longer, eoq_crc(longer.data, longer.bytes));
    refused(list(longer.data, longer.bytes), "bytes behind", "4 bytes lie beyond the last tensor");
    hs_text_close(&longer);
    hs_text_add(&longer, file.data, file.bytes - 4 - 40);
    eoq_put_word(&longer, eoq_crc(longer.data, longer.bytes));
    refused(list(longer.data, longer.bytes), "a short end", "bytes are left");
    hs_text_close(&longer);
    hs_text_close(&file);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t n = 0;; n++) {
        hs_mem_fail_at(mem, n);
        hlwq_status st = list(author, author_bytes);
        if (st == HLWQ_OK)
            st = read_everything();
        hs_mem_fail_at(mem, UINT64_MAX);
        hs_hf_close(&hf);
        assert_int_equal(hs_mem_now_bytes(mem), 0);
        if (st == HLWQ_OK)
            return;
        assert_int_equal(st, HLWQ_ERR_NOMEM);
    }
}

/* Widths, groups and shapes of all kinds, blocks that run on over rows, and streams of one symbol only. */
static void what_the_encoder_writes_is_read(void **state)
{
    (void)state;
    static const struct {
        uint32_t rows, cols, bits, group;
    } c[] = {{3, 100, 2, 128}, {16, 128, 3, 128}, {1, 1, 4, 128}, {7, 513, 5, 64},
             {130, 4, 6, 32},  {2, 3000, 8, 256}, {9, 77, 7, 8},  {5, 256, 4, 65536}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        const uint32_t n = c[i].rows * c[i].cols;
        float *w = malloc(n * sizeof *w), *got = malloc(n * sizeof *got);
        char shape[40];
        eoq_writer f = {0};
        for (uint32_t k = 0; k < n; k++)
            w[k] = i == 1 ? 0.0f : tiny_weight((uint32_t)i + 1, k, 1.0f, 0) * tiny_weight(77, k, 1.0f, 0);
        snprintf(shape, sizeof shape, "[%u,%u]", c[i].rows, c[i].cols);
        eoq_put(&f, "model.language_model.layers.0.a", shape, w, n, c[i].bits, c[i].group);
        hs_text file = eoq_finish(&f);
        CHECK_OK(list(file.data, file.bytes), err);
        assert_string_equal(hf.tensor[0].name, "layers.0.a");
        for (uint32_t together = 1; together <= c[i].rows; together += 1 + c[i].rows / 3) {
            CHECK_OK(read_rows(&hf.tensor[0], c[i].rows, c[i].cols, together, got), err);
            assert_memory_equal(got, w, n * sizeof *got);
        }
        hs_text_close(&file);
        free(w);
        free(got);
    }
}

static int setup(void **state)
{
    (void)state;
    author = edit_read(GOLDEN, "sample_q4.eoq", &author_bytes);
    return folder_open("eoq-file", 64u << 20);
}

static int teardown(void **state)
{
    free(author);
    return folder_teardown(state);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_authors_file_has_the_authors_weights),
        TEST(every_byte_that_is_changed_is_refused),
        TEST(every_truncation_is_refused),
        TEST(a_description_that_is_not_the_files_is_refused),
        TEST(streams_that_do_not_add_up_are_refused),
        TEST(scales_beyond_the_end_are_refused),
        TEST(failing_allocations_leak_nothing),
        TEST(what_the_encoder_writes_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
