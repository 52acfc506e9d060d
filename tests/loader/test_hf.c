/* loader/config.c, safetensors.c, hf*.c: sound directories, truncated headers, failing allocations. */
#include "loader/hf.h"
#include "loader/safetensors.h"
#include "tests/support/tiny_model.h"

/* Opens a golden directory and the memory it lives in; skips the test where it is not there. */
static hs_mem *open_dir(hs_hf *hf, const char *name)
{
    char file[256], dir[4096];
    hlwq_error err;
    snprintf(file, sizeof file, "%s/config.json", name);
    const char *path = golden(file);
    if (!path)
        skip();
    snprintf(dir, sizeof dir, "%.*s", (int)(strlen(path) - strlen("/config.json")), path);
    hs_mem *mem = hs_mem_open(0);
    CHECK_OK(hs_hf_open(hf, mem, dir, NULL, &err), err);
    return mem;
}

static void flat_and_tied_directory_opens(void **state)
{
    (void)state;
    hs_hf hf;
    hs_mem *mem = open_dir(&hf, "qwen35/dense-tied");
    assert_int_equal(hf.config.hidden, 128);
    assert_int_equal(hf.config.layers, 4);
    assert_true(hf.config.tied && hf.config.full[3] && !hf.config.full[0]);
    assert_int_equal(hf.config.experts, 0);
    assert_false(hf.has_mtp);
    assert_non_null(hs_hf_find(&hf, "layers.0.linear_attn.A_log"));
    assert_null(hs_hf_find(&hf, "lm_head.weight"));
    hs_hf_close(&hf);
    hs_mem_close(mem);
}

static void nested_config_with_vision_and_draft_head_opens(void **state)
{
    (void)state;
    hs_hf hf;
    hs_mem *mem = open_dir(&hf, "qwen35/dense");
    assert_int_equal(hf.config.hidden, 256); /* not vision_config's 64 */
    assert_int_equal(hf.n_skipped, 3);
    assert_true(hf.has_mtp);
    hs_hf_close(&hf);
    hs_mem_close(mem);
    mem = open_dir(&hf, "qwen35/moe");
    assert_int_equal(hf.config.experts, 16);
    assert_int_equal(hf.config.experts_used, 4);
    assert_true(hf.config.full[1] && !hf.config.full[2]); /* layer_types beats full_attention_interval */
    assert_int_equal(hf.n_files, 2);
    hs_hf_close(&hf);
    hs_mem_close(mem);
}

static void packed_directories_have_packed_parts(void **state)
{
    (void)state;
    static const char *const name[] = {"hlwq-models/hlwq-q5-dense", "hlwq-models/hlwq-q5-moe"};
    for (int i = 0; i < 2; i++) {
        hs_arena arena;
        hs_hf hf;
        hs_table t;
        hlwq_error err;
        hs_mem *mem = open_dir(&hf, name[i]);
        assert_string_equal(hf.format, "HLWQ packed Q5");
        hs_arena_init(&arena, mem, HS_MEM_TABLE);
        CHECK_OK(hs_hf_table(&hf, &t, &arena, &err), err);
        uint32_t packed = 0;
        for (uint32_t g = 0; g < t.n_groups; g++)
            for (uint32_t p = 0; p < t.group[g].n_parts; p++)
                packed += t.group[g].part[p].dtype == HS_Q5;
        assert_true(packed > 20);
        assert_int_equal(t.n_books, 1);
        hs_arena_close(&arena);
        hs_hf_close(&hf);
        hs_mem_close(mem);
    }
}

/* Split experts and fused ones are the same model to whoever asks for a part. */
static void an_expert_is_a_slice_of_the_fused_tensor(void **state)
{
    (void)state;
    char dir[64];
    hs_mem *mem = hs_mem_open(0);
    hs_hf hf;
    hs_arena arena;
    hs_table t;
    hlwq_error err;
    snprintf(dir, sizeof dir, "/tmp/hlwq-hf-%d", (int)getpid());
    tiny_model_write(dir, true);
    CHECK_OK(hs_hf_open(&hf, mem, dir, NULL, &err), err);
    hs_arena_init(&arena, mem, HS_MEM_TABLE);
    CHECK_OK(hs_hf_table(&hf, &t, &arena, &err), err);
    for (uint32_t g = 0; g < t.n_groups; g++) {
        if (t.group[g].kind != HS_GROUP_EXPERTS)
            continue;
        hs_source s;
        float row[32];
        const hs_part *up = hs_group_find(&t.group[g], HS_UP);
        CHECK_OK(hs_hf_source(&hf, &t.group[g], 5, up, &s, &err), err);
        assert_int_equal(s.first_row, 5 * 48 + 24);
        CHECK_OK(hs_hf_read_rows(&hf, &s, 2, 1, row, &err), err);
        if (t.group[g].layer == 0) /* tensor 14 of the hash: the embedding, twelve of layer 0, then gate_up_proj */
            assert_true(row[7] == tiny_weight(14, (5 * 48 + 26) * 32 + 7, 0.6f, 0));
    }
    hs_arena_close(&arena);
    hs_hf_close(&hf);
    hs_mem_close(mem);
    tiny_model_remove(dir);
}

static void every_truncation_of_a_header_is_refused(void **state)
{
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"a.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[12,16]}}";
    size_t full = sizeof header - 1;
    hs_mem *mem = hs_mem_open(0);
    for (size_t n = 0; n <= full; n++) {
        hs_arena arena;
        hs_st_entry *e;
        uint32_t count;
        hlwq_error err;
        char *cut = malloc(n + (n == 0)); /* exactly sized, so that a sanitizer sees one byte too far */
        memcpy(cut, header, n);
        hs_arena_init(&arena, mem, HS_MEM_TABLE);
        hlwq_status st = hs_safetensors_parse(cut, n, 8 + n + 16, "cut.safetensors", &arena, &e, &count, &err);
        if (n == full) {
            assert_int_equal(st, HLWQ_OK);
            assert_int_equal(count, 2);
            assert_int_equal(e[1].offset, 8 + full + 12);
        } else {
            assert_int_equal(st, HLWQ_ERR_FORMAT);
            assert_non_null(strstr(err.message, "cut.safetensors"));
        }
        hs_arena_close(&arena);
        free(cut);
    }
    hs_mem_close(mem);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t n = 0;; n++) {
        hs_mem *mem = hs_mem_open(0);
        hs_hf hf;
        hs_mem_fail_at(mem, n);
        hlwq_status st = hs_hf_open(&hf, mem, "tests/golden/hlwq-models/hlwq-q5-moe", NULL, NULL);
        if (st == HLWQ_OK) {
            hs_hf_close(&hf);
            hs_mem_close(mem);
            assert_true(n > 3);
            return;
        }
        assert_int_equal(st, HLWQ_ERR_NOMEM);
        assert_int_equal(hs_mem_now_bytes(mem), 0);
        hs_mem_close(mem);
    }
}

static hlwq_status parse_config(const char *text, hlwq_error *err)
{
    hs_config c;
    return hs_config_parse(&c, text, strlen(text), "config.json", NULL, err);
}

#define DENSE(extra)                                                                                                   \
    "{\"model_type\":\"qwen3_5_text\",\"vocab_size\":64,\"hidden_size\":32,\"num_hidden_layers\":4,"                   \
    "\"num_attention_heads\":4,\"head_dim\":16,\"intermediate_size\":48,\"linear_num_key_heads\":2,"                   \
    "\"linear_num_value_heads\":4,\"linear_key_head_dim\":16,\"linear_value_head_dim\":16" extra "}"

static void config_rules_are_enforced(void **state)
{
    (void)state;
    hlwq_error err;
    CHECK_OK(parse_config(DENSE(",\"rope_theta\":1e7"), &err), err);
    CHECK_FAILS(parse_config(DENSE(""), &err), HLWQ_ERR_FORMAT, err, "rope_theta");
    CHECK_FAILS(parse_config(DENSE(",\"rope_parameters\":{\"rope_theta\":1e7,\"rope_type\":\"dynamic\"}"), &err),
                HLWQ_ERR_UNSUPPORTED, err, "dynamic");
    CHECK_FAILS(parse_config(DENSE(",\"rope_theta\":1e7,\"num_key_value_heads\":3"), &err), HLWQ_ERR_FORMAT, err,
                "divide");
    CHECK_FAILS(parse_config(DENSE(",\"rope_theta\":1e7,\"hidden_act\":\"gelu\""), &err), HLWQ_ERR_UNSUPPORTED, err,
                "gelu");
    CHECK_FAILS(parse_config(DENSE(",\"rope_theta\":1e7,\"layer_types\":[\"mamba\"]"), &err), HLWQ_ERR_FORMAT, err,
                "layer_types");
    CHECK_FAILS(parse_config(DENSE(",\"rope_theta\":1e7,\"rms_norm_eps\":-1"), &err), HLWQ_ERR_FORMAT, err,
                "rms_norm_eps");
    CHECK_FAILS(parse_config(DENSE(",\"rope_theta\":1e7,\"attention_bias\":true"), &err), HLWQ_ERR_UNSUPPORTED, err,
                "bias");
    CHECK_FAILS(parse_config("{\"model_type\":\"llama\"}", &err), HLWQ_ERR_FORMAT, err, "llama");
    CHECK_FAILS(parse_config("[]", &err), HLWQ_ERR_FORMAT, err, "object");
    CHECK_FAILS(parse_config("{\"model_type\":\"qwen3_5\",\"model_type\":\"x\"}", &err), HLWQ_ERR_FORMAT, err,
                "uplicate");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flat_and_tied_directory_opens),
        cmocka_unit_test(nested_config_with_vision_and_draft_head_opens),
        cmocka_unit_test(packed_directories_have_packed_parts),
        cmocka_unit_test(an_expert_is_a_slice_of_the_fused_tensor),
        cmocka_unit_test(every_truncation_of_a_header_is_refused),
        cmocka_unit_test(failing_allocations_leak_nothing),
        cmocka_unit_test(config_rules_are_enforced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
