/* loader/hf*.c: names, shards and companions, from one sound model whose header or index is edited. */
#define _XOPEN_SOURCE 700 /* symlink, mkfifo */
#include "loader/hf.h"
#include "tests/support/edit_model.h"

static char dir[64];
static hs_mem *mem;
static hs_hf hf;
static hlwq_error err;
static char logged[4096];

static void keep_log(void *user, hlwq_log_level level, const char *line)
{
    (void)user, (void)level;
    snprintf(logged + strlen(logged), sizeof logged - strlen(logged), "%s\n", line);
}

static hlwq_status open_dir(void)
{
    static const hs_log log = {.fn = keep_log};
    logged[0] = 0;
    return hs_hf_open(&hf, mem, dir, &log, &err);
}

static int setup_as(bool moe)
{
    snprintf(dir, sizeof dir, "/tmp/hlwq-hf-tensors-%d", (int)getpid());
    mem = hs_mem_open(0);
    tiny_model_write(dir, moe);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return setup_as(false);
}

static int setup_moe(void **state)
{
    (void)state;
    return setup_as(true);
}

static int teardown(void **state)
{
    (void)state;
    static const char *const name[] = {"config.json",
                                       "model.safetensors",
                                       "a.safetensors",
                                       "b.safetensors",
                                       "._a.safetensors",
                                       "model.safetensors.index.json",
                                       "x.safetensors.incomplete"};
    char path[256];
    hs_hf_close(&hf);
    hs_mem_close(mem); /* asserts that nothing is left */
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static void move(const char *from, const char *to)
{
    char a[256], b[256];
    snprintf(a, sizeof a, "%s/%s", dir, from);
    snprintf(b, sizeof b, "%s/%s", dir, to);
    assert_int_equal(rename(a, b), 0);
}

/* An empty tensor of that name at the start of the data. */
static void add_empty(const char *name)
{
    char entry[512];
    snprintf(entry, sizeof entry,
             "{\"%s\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"model.embed_tokens", name);
    edit_header(dir, "model.safetensors", "{\"model.embed_tokens", entry);
}

static void refuses(const char *first, const char *second)
{
    CHECK_FAILS(open_dir(), HLWQ_ERR_FORMAT, err, first);
    CHECK_FAILS(open_dir(), HLWQ_ERR_FORMAT, err, second);
    assert_non_null(strstr(err.message, dir)); /* the file, or at least the directory */
}

static void both_prefixes_give_the_same_names(void **state)
{
    (void)state;
    CHECK_OK(open_dir(), err);
    uint32_t n = hf.n_tensors;
    hs_hf_close(&hf);
    edit_header(dir, "model.safetensors", "\"model.", "\"model.language_model.");
    CHECK_OK(open_dir(), err);
    assert_int_equal(hf.n_tensors, n);
    assert_non_null(hs_hf_find(&hf, "layers.3.self_attn.q_proj.weight"));
    assert_non_null(hs_hf_find(&hf, "lm_head.weight"));
    assert_string_equal(hf.format, "F32");
}

static void names_of_mlx_are_refused_since_its_norms_differ(void **state)
{
    (void)state;
    edit_header(dir, "model.safetensors", "\"model.", "\"language_model.model.");
    refuses("MLX", "language_model.model.");
}

static void companions_name_the_format_they_belong_to(void **state)
{
    (void)state;
    static const char *const form[][2] = {{"qweight", "GPTQ"},      {"weight_packed", "compressed-tensors"},
                                          {"codes", "PolarEngine"}, {"weight_scale_inv", "FP8"},
                                          {"packed", "EOQ"},        {"weight.absmax", "bitsandbytes"}};
    for (size_t i = 0; i < sizeof form / sizeof *form; i++) {
        char name[128];
        snprintf(name, sizeof name, "q_proj.%s\"", form[i][0]);
        tiny_model_write(dir, false);
        edit_header(dir, "model.safetensors", "q_proj.weight\"", name);
        refuses(form[i][1], "q_proj");
    }
    tiny_model_write(dir, false);
    add_empty("model_layers_0_mlp_gate_proj__packed");
    refuses("no __norms", "model_layers_0");
}

static void missing_unknown_and_misshapen_tensors_are_named(void **state)
{
    (void)state;
    edit_header(dir, "model.safetensors", "model.norm.weight", "model.visual.norm.weight");
    refuses("norm.weight", "missing");
    tiny_model_write(dir, false);
    add_empty("model.layers.0.mlp.bogus.weight");
    refuses("layers.0.mlp.bogus.weight", "unknown");
    tiny_model_write(dir, false);
    edit_header(dir, "model.safetensors", "gate_proj.weight\":{\"dtype\":\"F32\",\"shape\":[48,32]",
                "gate_proj.weight\":{\"dtype\":\"F32\",\"shape\":[32,48]");
    refuses("[32, 48]", "[48, 32]");
    tiny_model_write(dir, false);
    edit_header(dir, "model.safetensors", "gate_proj.weight\":{\"dtype\":\"F32\"",
                "gate_proj.weight\":{\"dtype\":\"I32\"");
    refuses("gate_proj.weight", "I32");
    tiny_model_write(dir, false);
    edit_header(dir, "model.safetensors", "\"shape\":[128,1,4]",
                "\"shape\":[128,4,1]"); /* the other sign of an MLX file */
    refuses("conv1d", "[128, 4, 1]");
    tiny_model_write(dir, false);
    add_empty("norm.weight"); /* beside model.norm.weight */
    refuses("norm.weight", "duplicate");
}

static void a_model_of_another_size_is_refused(void **state)
{
    (void)state;
    edit_file(dir, "config.json", "\"hidden_size\":32", "\"hidden_size\":48");
    refuses("shape", "48");
    tiny_model_write(dir, false);
    edit_file(dir, "config.json", "\"num_hidden_layers\":4", "\"num_hidden_layers\":5");
    refuses("layers.4", "missing");
    tiny_model_write(dir, false);
    edit_file(dir, "config.json", "\"num_hidden_layers\":4", "\"num_hidden_layers\":3");
    refuses("layers.3", "unknown");
}

static void tying_is_settled_with_a_warning(void **state)
{
    (void)state;
    edit_header(dir, "model.safetensors", "lm_head.weight", "model.visual.spare");
    CHECK_OK(open_dir(), err);
    assert_true(hf.config.tied);
    assert_non_null(strstr(logged, "lm_head.weight"));
    assert_int_equal(hf.n_skipped, 1);
    assert_int_equal(hf.skipped_bytes, 40 * 32 * 4);
    hs_hf_close(&hf);

    tiny_model_write(dir, false);
    edit_file(dir, "config.json", "\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true");
    CHECK_OK(open_dir(), err); /* the head that is there is ignored */
    assert_true(hf.config.tied);
}

static void an_incomplete_draft_head_is_left_out_with_a_warning(void **state)
{
    (void)state;
    add_empty("mtp.norm.weight");
    CHECK_OK(open_dir(), err);
    assert_false(hf.has_mtp);
    assert_non_null(strstr(logged, "draft head"));
    hs_hf_close(&hf);
    edit_header(dir, "model.safetensors", "\"mtp.norm", "\"model.mtp.norm");
    CHECK_OK(open_dir(), err);
    assert_false(hf.has_mtp);
}

static void write_index(const char *norm_in, const char *head_in)
{
    char index[512];
    int n = snprintf(index, sizeof index,
                     "{\"metadata\":{},\"weight_map\":{\"model.norm.weight\":\"%s\",\"lm_head.weight\":\"%s\"}}",
                     norm_in, head_in);
    tiny_file(dir, "model.safetensors.index.json", index, (size_t)n);
}

static void an_index_is_believed_only_where_it_is_right(void **state)
{
    (void)state;
    static const char other[] = "{\"model.visual.x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}";
    static const char *const outside[] = {"../a.safetensors", "/etc/passwd",         "sub/a.safetensors", "..", "",
                                          ".hidden",          "a.safetensors\\u0007"};
    char file[256];
    uint64_t length = sizeof other - 1;
    memcpy(file, &length, 8);
    memcpy(file + 8, other, sizeof other - 1);
    tiny_file(dir, "b.safetensors", file, 8 + sizeof other - 1);
    move("model.safetensors", "a.safetensors");

    write_index("a.safetensors", "a.safetensors");
    CHECK_OK(open_dir(), err);
    assert_int_equal(hf.n_files, 1);
    hs_hf_close(&hf);

    write_index("a.safetensors", "b.safetensors");
    refuses("lm_head.weight", "b.safetensors");
    for (size_t i = 0; i + 1 < sizeof outside / sizeof *outside; i++) {
        write_index("a.safetensors", outside[i]);
        refuses("plain file name", "index");
    }
    write_index("a.safetensors", "a.safetensors\\u0007");
    assert_int_not_equal(open_dir(), HLWQ_OK);
    assert_null(strchr(err.message, 7)); /* a terminal would ring */
    write_index("a.safetensors", "c.safetensors");
    CHECK_FAILS(open_dir(), HLWQ_ERR_IO, err, "c.safetensors");
    static const char *const broken[] = {"{}", "[]", "{\"weight_map\":[]}", "{\"weight_map\":{\"a\":1}}",
                                         "{\"weight_map\":{"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        tiny_file(dir, "model.safetensors.index.json", broken[i], strlen(broken[i]));
        CHECK_FAILS(open_dir(), HLWQ_ERR_FORMAT, err, "model.safetensors.index.json");
    }
}

static void shards_without_an_index_are_found_and_hidden_files_are_not(void **state)
{
    (void)state;
    move("model.safetensors", "a.safetensors");
    tiny_file(dir, "._a.safetensors", "junk", 4);
    CHECK_OK(open_dir(), err);
    assert_int_equal(hf.n_files, 1);
    hs_hf_close(&hf);
    move("a.safetensors", "x.safetensors.incomplete");
    CHECK_FAILS(open_dir(), HLWQ_ERR_IO, err, "not finished");
}

/* Made here, since archives and copies lose links and pipes. */
static void only_regular_files_are_weights(void **state)
{
    (void)state;
    char path[256];
    static const char *const other[] = {"b.safetensors", "/dev/zero", "/proc/self/mem"};
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        unlink(path);
        assert_int_equal(symlink(other[i], path), 0);
        if (i == 0) {
            char back[256];
            snprintf(back, sizeof back, "%s/b.safetensors", dir);
            unlink(back);
            assert_int_equal(symlink("model.safetensors", back), 0);
        }
        assert_int_not_equal(open_dir(), HLWQ_OK);
        assert_non_null(strstr(err.message, "model.safetensors"));
    }
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    CHECK_FAILS(open_dir(), HLWQ_ERR_IO, err, "model.safetensors");
}

static void fused_experts_must_have_the_shape_of_the_config(void **state)
{
    (void)state;
    hs_table t;
    hs_arena arena;
    hs_arena_init(&arena, mem, HS_MEM_TABLE);
    CHECK_OK(open_dir(), err);
    CHECK_OK(hs_hf_table(&hf, &t, &arena, &err), err);
    assert_int_equal(t.n_groups, 3 + 2 * 4);
    for (uint32_t g = 0; g < t.n_groups; g++)
        for (uint32_t i = 0; i < t.group[g].n_parts; i++)
            assert_int_equal(t.group[g].part[i].dtype, HS_F32);
    hs_arena_close(&arena);
    hs_hf_close(&hf);
    edit_header(dir, "model.safetensors", "\"shape\":[8,48,32]",
                "\"shape\":[8,32,48]"); /* the right total, the wrong split */
    refuses("gate_up_proj", "[8, 32, 48]");
    tiny_model_write(dir, true);
    edit_file(dir, "config.json", "\"num_experts\":8", "\"num_experts\":4");
    refuses("shape", "8");
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t n = 0;; n++) {
        hs_mem_fail_at(mem, n);
        hlwq_status st = open_dir();
        hs_mem_fail_at(mem, UINT64_MAX);
        if (st == HLWQ_OK) {
            assert_true(n > 3);
            return;
        }
        assert_int_equal(st, HLWQ_ERR_NOMEM);
        assert_int_equal(hs_mem_now_bytes(mem), 0);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(both_prefixes_give_the_same_names),
        TEST(names_of_mlx_are_refused_since_its_norms_differ),
        TEST(companions_name_the_format_they_belong_to),
        TEST(missing_unknown_and_misshapen_tensors_are_named),
        TEST(a_model_of_another_size_is_refused),
        TEST(tying_is_settled_with_a_warning),
        TEST(an_incomplete_draft_head_is_left_out_with_a_warning),
        TEST(an_index_is_believed_only_where_it_is_right),
        TEST(shards_without_an_index_are_found_and_hidden_files_are_not),
        TEST(only_regular_files_are_weights),
        cmocka_unit_test_setup_teardown(fused_experts_must_have_the_shape_of_the_config, setup_moe, teardown),
        TEST(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
