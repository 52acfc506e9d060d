/* loader/formats/hlwq_packed.c: a packed parameter is three tensors and a stated width, which must agree. */
#include "tests/support/hf_folder.h"

#define DENSE "tests/golden/hlwq-models/hlwq-q5-dense"
#define MOE "tests/golden/hlwq-models/hlwq-q5-moe"

static hlwq_status open_dir(void)
{
    return hs_hf_open(&hf, mem, dir, NULL, &err);
}

static void copy_dense(void)
{
    folder_copy(DENSE, "config.json");
    folder_copy(DENSE, "polar_config.json");
    folder_copy(DENSE, "model.safetensors");
}

static const char *const moe_files[] = {"config.json", "polar_config.json", "model.safetensors.index.json",
                                        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};

static void copy_moe(void)
{
    for (size_t i = 0; i < sizeof moe_files / sizeof *moe_files; i++)
        folder_copy(MOE, moe_files[i]);
}

static void the_stated_width_must_be_that_of_the_codes(void **state)
{
    (void)state;
    static const char *const wrong[] = {"{\"bits\":4}",
                                        "{\"format\":\"hlwq-q3\"}",
                                        "{\"format\":\"hlwq-q5\",\"bits\":4}",
                                        "{\"bits\":9}",
                                        "{\"block_size\":64}",
                                        "[]",
                                        "{\"format\":5}",
                                        "{"};
    static const char *const right[] = {"{\"format\":\"hlwq-q5\"}", "{\"bits\":5}", "{}",
                                        "{\"format\":\"hlwq\",\"layers\":{}}"};
    copy_dense();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tiny_file(dir, "polar_config.json", wrong[i], strlen(wrong[i]));
        CHECK_FAILS(open_dir(), HLWQ_ERR_FORMAT, err, "polar_config.json");
    }
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        tiny_file(dir, "polar_config.json", right[i], strlen(right[i]));
        CHECK_OK(open_dir(), err);
        hs_hf_close(&hf);
    }
    folder_remove("polar_config.json");
    CHECK_OK(open_dir(), err);
    assert_int_equal(hf.n_books, 1);
    assert_int_equal(hf.book[0].bits, 5);
    assert_true(hf.book[0].level[0] == 0); /* the file has none */
}

static bool holds(const char *name, const char *word)
{
    size_t bytes;
    uint64_t length;
    char *data = edit_read(dir, name, &bytes);
    memcpy(&length, data, 8);
    data[8 + length] = 0;
    bool found = strstr(data + 8, word) != NULL;
    free(data);
    return found;
}

static void a_slice_is_found_in_every_spelling(void **state)
{
    (void)state;
    static const char *const form[] = {"experts.%s_e%d.weight__", "experts.%s.weight_e%d__"};
    for (int f = 0; f < 2; f++) {
        copy_moe();
        folder_remove("model.safetensors.index.json");
        for (int e = 0; e < 8; e++)
            for (int i = 0; i < 4; i++) {
                char from[64], to[64];
                const char *name = i % 2 ? "down_proj" : "gate_up_proj", *file = moe_files[3 + i / 2];
                snprintf(from, sizeof from, "experts.%s_e%d__", name, e);
                snprintf(to, sizeof to, form[f], name, e);
                if (holds(file, from)) /* not every slice is in both shards */
                    edit_header(dir, file, from, to);
            }
        CHECK_OK(open_dir(), err);
        assert_non_null(hs_hf_find(&hf, "layers.0.mlp.experts.gate_up_proj_e7"));
        hs_hf_close(&hf);
    }
}

static void every_entry_of_meta_is_checked(void **state)
{
    (void)state;
    static const int64_t bad[] = {0, -1, 1, 1 << 20, INT64_C(1) << 40, INT64_C(1) << 57, INT64_MAX, INT64_MIN};
    copy_dense();
    uint64_t at = folder_offset("q_proj.weight__meta");
    for (uint64_t i = 0; i < 5; i++) {
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            folder_patch(at + 8 * i, &bad[k], 8);
            CHECK_FAILS(open_dir(), HLWQ_ERR_FORMAT, err, "q_proj");
        }
        folder_copy(DENSE, "model.safetensors");
    }
}

static void the_three_tensors_go_together(void **state)
{
    (void)state;
    static const char *const part[] = {"__packed", "__norms", "__meta"};
    for (int i = 0; i < 3; i++) {
        char from[64], to[64];
        copy_dense();
        snprintf(from, sizeof from, "layers.3.self_attn.q_proj.weight%s", part[i]);
        snprintf(to, sizeof to, "visual.q_proj.weight%s", part[i]);
        edit_header(dir, "model.safetensors", "model.language_model.", "model.");
        edit_header(dir, "model.safetensors", from, to);
        CHECK_FAILS(open_dir(), HLWQ_ERR_FORMAT, err, "q_proj");
        assert_non_null(strstr(err.message, part[i]));
    }
}

/* Old files end meta before `in`; the config says it. */
static void meta_of_four_entries_is_enough(void **state)
{
    (void)state;
    char from[160], to[160];
    copy_dense();
    size_t bytes;
    uint64_t length;
    char *data = edit_read(dir, "model.safetensors", &bytes);
    memcpy(&length, data, 8);
    data[8 + length] = 0;
    char *entry = strstr(data + 8, "layers.3.self_attn.q_proj.weight__meta"), *range = strstr(entry, "data_offsets");
    unsigned begin, end;
    assert_int_equal(sscanf(range, "data_offsets\":%*[ []%u,%u", &begin, &end), 2);
    snprintf(from, sizeof from, "%.*s", (int)(strchr(range, ']') + 1 - entry), entry);
    snprintf(to, sizeof to,
             "layers.3.self_attn.q_proj.weight__meta\":{\"dtype\":\"I64\",\"shape\":[4],\"data_offsets\":[%u,%u]",
             begin, end - 8);
    free(data);
    edit_header(dir, "model.safetensors", from, to);
    CHECK_OK(open_dir(), err);
    const hs_tensor *t = hs_hf_find(&hf, "layers.3.self_attn.q_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, HS_Q5);
}

static void a_norm_that_is_not_finite_is_found_when_read(void **state)
{
    (void)state;
    static const uint16_t bad[] = {0x7C00, 0xFC00, 0x7E00, 0x7C01};
    copy_dense();
    uint64_t at = folder_offset("layers.3.self_attn.q_proj.weight__norms");
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        folder_patch(at + 2, &bad[k], 2);
        CHECK_OK(open_dir(), err);
        const hs_tensor *t = hs_hf_find(&hf, "layers.3.self_attn.q_proj.weight");
        assert_non_null(t);
        hs_source s = {t, 0, t->dim[0], t->dim[1]};
        uint64_t blocks = t->dim[1] / HS_BLOCK;
        uint8_t *codes = malloc(blocks * 80 * 2);
        uint16_t *norms = malloc(blocks * 2 * 2);
        CHECK_OK(hs_hf_read_packed(&hf, &s, 2, 2, codes, norms, &err), err);
        CHECK_FAILS(hs_hf_read_packed(&hf, &s, 0, 2, codes, norms, &err), HLWQ_ERR_FORMAT, err, "finite");
        free(codes);
        free(norms);
        hs_hf_close(&hf);
    }
}

static int setup(void **state)
{
    (void)state;
    return folder_open("packed", 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, folder_teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_stated_width_must_be_that_of_the_codes),
        TEST(a_slice_is_found_in_every_spelling),
        TEST(every_entry_of_meta_is_checked),
        TEST(the_three_tensors_go_together),
        TEST(meta_of_four_entries_is_enough),
        TEST(a_norm_that_is_not_finite_is_found_when_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
