/* loader/formats/gptq.c, compressed.c, int_groups.c: a module is several tensors, which must agree. */
#include "loader/formats/int_groups.h"
#include "tests/support/hf_folder.h"

#define GPTQ "tests/golden/malformed/control-gptq"
#define COMPRESSED "compressed-tensors/dense-g128-asym"

/* Opens and reads every row of integers. */
static hlwq_status open_dir(void)
{
    hlwq_status st = hs_hf_open(&hf, mem, dir, NULL, &err);
    for (uint32_t i = 0; st == HLWQ_OK && i < hf.n_tensors; i++) {
        const hs_tensor *t = &hf.tensor[i];
        if (t->encoding != HS_ENC_GPTQ && t->encoding != HS_ENC_COMPRESSED)
            continue;
        hs_int_rows rows;
        void *buffer = malloc(hs_hf_ints_bytes(t, t->dim[0])); /* as small as may be */
        st = hs_hf_read_ints(&hf, t, 0, t->dim[0], buffer, &rows, &err);
        uint8_t *code = malloc(t->dim[1]);
        for (uint64_t r = 0; st == HLWQ_OK && r < t->dim[0]; r++)
            hs_int_codes(t, &rows, r, code);
        free(code);
        free(buffer);
    }
    hs_hf_close(&hf);
    return st;
}

static void copy_model(const char *from)
{
    folder_copy(from, "config.json");
    folder_copy(from, "model.safetensors");
}

static void refuses(const char *first, const char *second)
{
    CHECK_FAILS(open_dir(), HLWQ_ERR_FORMAT, err, first);
    if (!strstr(err.message, second) || !strstr(err.message, dir))
        fail_msg("\"%s\" does not mention %s and %s", err.message, second, dir);
}

#define DOWN "model.layers.0.mlp.down_proj."

static void the_tensors_of_a_gptq_module_go_together(void **state)
{
    (void)state;
    static const char *const part[] = {"qzeros", "scales", "g_idx"};
    for (int i = 0; i < 3; i++) {
        char from[80], to[80];
        copy_model(GPTQ);
        snprintf(from, sizeof from, DOWN "%s", part[i]);
        snprintf(to, sizeof to, "model.visual.%s", part[i]);
        edit_header(dir, "model.safetensors", from, to);
        refuses(part[i], "down_proj");
    }
    copy_model(GPTQ);
    edit_header(dir, "model.safetensors", DOWN "qweight", "model.visual.qweight");
    refuses("GPTQ", "down_proj.qzeros");
}

static void shapes_of_a_gptq_module_must_agree(void **state)
{
    (void)state;
    static const char *const wrong[][3] = {
        /* out_proj: 128 inputs in 4 groups, 32 outputs */
        {"out_proj.qweight\":{\"dtype\": \"I32\", \"shape\": [16, 32]",
         "out_proj.qweight\":{\"dtype\": \"I32\", \"shape\": [32, 16]", "outputs"},
        {"out_proj.qweight\":{\"dtype\": \"I32\", \"shape\": [16, 32]",
         "out_proj.qweight\":{\"dtype\": \"I32\", \"shape\": [512, 1]", "inputs"},
        {"out_proj.qzeros\":{\"dtype\": \"I32\", \"shape\": [4, 4]",
         "out_proj.qzeros\":{\"dtype\": \"I32\", \"shape\": [2, 8]", "groups"},
        {"out_proj.qzeros\":{\"dtype\": \"I32\", \"shape\": [4, 4]",
         "out_proj.qzeros\":{\"dtype\": \"I32\", \"shape\": [16]", "I32"},
        {"out_proj.scales\":{\"dtype\": \"F16\", \"shape\": [4, 32]",
         "out_proj.scales\":{\"dtype\": \"F16\", \"shape\": [8, 16]", "outputs"},
        {"out_proj.scales\":{\"dtype\": \"F16\", \"shape\": [4, 32]",
         "out_proj.scales\":{\"dtype\": \"I16\", \"shape\": [4, 32]", "F16"},
        {"out_proj.g_idx\":{\"dtype\": \"I32\", \"shape\": [128]",
         "out_proj.g_idx\":{\"dtype\": \"I32\", \"shape\": [128, 1]", "I32"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        copy_model(GPTQ);
        edit_header(dir, "model.safetensors", wrong[i][0], wrong[i][1]);
        refuses(wrong[i][2], "out_proj");
    }
}

static void every_group_of_an_index_is_one_and_has_inputs(void **state)
{
    (void)state;
    static const int32_t bad[] = {4, 1000, -1, INT32_MIN, INT32_MAX};
    copy_model(GPTQ);
    uint64_t at = folder_offset("model.layers.0.linear_attn.out_proj.g_idx");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        folder_patch(at + 4 * 127, &bad[i], 4);
        refuses("g_idx of input 127", "there are 4 groups");
    }
    copy_model(GPTQ);
    int32_t all[128] = {0};
    folder_patch(at, all, sizeof all);
    refuses("group 1 of 4", "no input");
}

static void a_scale_that_is_not_finite_is_found_when_read(void **state)
{
    (void)state;
    static const uint16_t bad[] = {0x7C00, 0xFC00, 0x7E00};
    copy_model(GPTQ);
    uint64_t at = folder_offset("model.layers.0.linear_attn.out_proj.scales");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        folder_patch(at + 2 * (32 + 5), &bad[i], 2);
        refuses("row 5, group 1", "scale");
    }
}

static void the_config_is_believed_only_where_the_files_cannot_say(void **state)
{
    (void)state;
    static const char *const wrong[][3] = {
        {"\"quant_method\": \"gptq\"", "\"quant_method\": \"awq\"", "awq"},
        {"\"checkpoint_format\": \"gptq\"", "\"checkpoint_format\": \"marlin\"", "marlin"},
        {"\"group_size\": 32", "\"group_size\": 0", "group_size"},
        {"\"group_size\": 32", "\"group_size\": -2", "group_size"},
        {"\"group_size\": 32", "\"group_size\": \"32\"", "group_size"},
        {"\"bits\": 4", "\"bits\": 99", "bits"},
    };
    static const char *const right[][2] = {
        {"\"bits\": 4", "\"bits\": 8"}, /* the shapes say 4 */
        {"\"group_size\": 32", "\"group_size\": -1"},
        {"\"checkpoint_format\": \"gptq\"", "\"checkpoint_format\": \"gptq_v2\""},
        {"\"quantization_config\"", "\"other\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        copy_model(GPTQ);
        edit_file(dir, "config.json", wrong[i][0], wrong[i][1]);
        refuses(wrong[i][2], wrong[i][2]);
    }
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        copy_model(GPTQ);
        edit_file(dir, "config.json", right[i][0], right[i][1]);
        CHECK_OK(open_dir(), err);
    }
    static const char beside[] = "{\"quant_method\":\"gptq\",\"checkpoint_format\":\"exl\"}";
    tiny_file(dir, "quantize_config.json", beside, sizeof beside - 1);
    refuses("exl", "quantize_config.json");
}

static void formats_that_are_not_read_are_named(void **state)
{
    (void)state;
    static const char *const method[] = {"torchao", "awq", "bitsandbytes"};
    for (size_t i = 0; i < sizeof method / sizeof *method; i++) {
        char text[100];
        hs_int_config c;
        hs_hf_close(&hf);
        snprintf(text, sizeof text, "{\"quantization_config\":{\"quant_method\":\"%s\"}}", method[i]);
        hf = (hs_hf){.dir = dir, .text_dir = dir, .config_text = text, .config_bytes = strlen(text)};
        hs_arena_init(&hf.arena, mem, HS_MEM_TABLE);
        CHECK_FAILS(hs_int_config_read(&hf, &c, &err), HLWQ_ERR_FORMAT, err, method[i]);
        assert_non_null(strstr(err.message, "config.json"));
    }
    tiny_file(dir, "model_int4.pt", "x", 1);
    tiny_file(dir, "config.json", "{}", 2);
    CHECK_FAILS(folder_list(), HLWQ_ERR_UNSUPPORTED, err, "pickle");
}

static void no_truncation_opens(void **state)
{
    (void)state;
    size_t bytes;
    copy_model(GPTQ);
    char *data = edit_read(dir, "model.safetensors", &bytes);
    for (size_t n = 0; n < bytes; n += n < 8192 ? 61 : 1009) {
        tiny_file(dir, "model.safetensors", data, n);
        assert_int_not_equal(open_dir(), HLWQ_OK);
    }
    free(data);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    copy_model(GPTQ);
    for (uint64_t n = 0;; n++) {
        hs_mem_fail_at(mem, n);
        hlwq_status st = open_dir();
        hs_mem_fail_at(mem, UINT64_MAX);
        assert_int_equal(hs_mem_now_bytes(mem), 0);
        if (st == HLWQ_OK)
            return;
        assert_int_equal(st, HLWQ_ERR_NOMEM);
    }
}

static void tensors_of_a_compressed_module_must_agree(void **state)
{
    (void)state;
    static const char *const wrong[][3] = {
        {"layers.0.mlp.up_proj.weight_packed\":{\"dtype\":\"I32\",\"shape\":[384,32]",
         "layers.0.mlp.up_proj.weight_packed\":{\"dtype\":\"I32\",\"shape\":[192,64]", "outputs"},
        {"layers.0.mlp.up_proj.weight_scale\":{\"dtype\":\"BF16\",\"shape\":[384,2]",
         "layers.0.mlp.up_proj.weight_scale\":{\"dtype\":\"BF16\",\"shape\":[2,384]", "outputs"},
        {"layers.0.mlp.up_proj.weight_scale\":{\"dtype\":\"BF16\"",
         "layers.0.mlp.up_proj.weight_scale\":{\"dtype\":\"I16\"", "BF16"},
        {"layers.0.mlp.up_proj.weight_zero_point\":{\"dtype\":\"I32\",\"shape\":[48,2]",
         "layers.0.mlp.up_proj.weight_zero_point\":{\"dtype\":\"I32\",\"shape\":[2,48]", "words"},
        {"layers.0.mlp.up_proj.weight_scale", "visual.weight_scale", "weight_scale"},
        {"layers.0.mlp.up_proj.weight_packed", "visual.weight_packed", "compressed-tensors"},
    };
    const char *config = golden(COMPRESSED "/config.json");
    if (!config)
        skip();
    char from[2048];
    snprintf(from, sizeof from, "%.*s", (int)(strlen(config) - strlen("/config.json")), config);
    copy_model(from);
    CHECK_OK(open_dir(), err);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        copy_model(from);
        edit_header(dir, "model.safetensors", wrong[i][0], wrong[i][1]);
        refuses(wrong[i][2], "up_proj");
    }
    copy_model(from);
    static const int64_t shape[][2] = {{0, 256},   {384, -1},  {384, INT64_MAX}, {INT64_MIN, 256},
                                       {383, 256}, {384, 255}, {384, 8},         {1 << 30, 1 << 30}};
    uint64_t at = folder_offset("model.layers.0.mlp.up_proj.weight_shape");
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        folder_patch(at, shape[i], 16);
        refuses("up_proj", "model.safetensors");
    }
    copy_model(from);
    uint16_t infinite = 0x7F80;
    folder_patch(folder_offset("model.layers.0.mlp.up_proj.weight_scale") + 2 * 3, &infinite, 2);
    refuses("row 1, group 1", "scale");
}

/* A module of 8 outputs and 256 inputs with so many groups; g_idx gives each `group` inputs, the last what is left. */
static void put_module(bool gptq, uint32_t groups, uint32_t group)
{
    static uint32_t packed[8 * 32], zeros[8];
    static uint16_t scale[8 * 16];
    static int32_t index[256];
    char shape[40];
    folder_st f = {0};
    for (uint32_t i = 0; i < 8 * 32; i++)
        packed[i] = 0x76543210u + i;
    for (uint32_t i = 0; i < 8 * 16; i++)
        scale[i] = hs_f32_to_f16(0.5f + (float)i);
    for (uint32_t i = 0; i < 256; i++)
        index[i] = (int32_t)(i / group);
    memset(zeros, 0x77, sizeof zeros);
    if (gptq) {
        folder_put(&f, DOWN "qweight", "I32", "[32,8]", packed, sizeof packed);
        snprintf(shape, sizeof shape, "[%u,1]", groups);
        folder_put(&f, DOWN "qzeros", "I32", shape, zeros, groups * 4);
        snprintf(shape, sizeof shape, "[%u,8]", groups);
        folder_put(&f, DOWN "scales", "F16", shape, scale, groups * 16);
        folder_put(&f, DOWN "g_idx", "I32", "[256]", index, sizeof index);
    } else {
        folder_put(&f, DOWN "weight_packed", "I32", "[8,32]", packed, sizeof packed);
        snprintf(shape, sizeof shape, "[8,%u]", groups);
        folder_put(&f, DOWN "weight_scale", "F16", shape, scale, groups * 16);
    }
    folder_write(&f);
}

/* Without an index nobody says which inputs are a group's; with one the last group may be shorter, or sizes differ. */
static void groups_that_do_not_divide_the_inputs_need_an_index(void **state)
{
    (void)state;
    static const uint32_t odd[] = {3, 5, 6, 7, 9};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        char words[60];
        put_module(false, odd[i], 1);
        snprintf(words, sizeof words, "%u groups of 256 inputs fit no group_size", odd[i]);
        CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, words);
        assert_non_null(strstr(err.message, "layers.0.mlp.down_proj.weight_scale"));
        assert_non_null(strstr(err.message, "model.safetensors"));
    }
    static const uint32_t shared[][2] = {{3, 96}, {2, 129}, {6, 50}}; /* the last has less */
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        uint32_t group_of[256];
        put_module(true, shared[i][0], shared[i][1]);
        CHECK_OK(folder_list(), err);
        assert_int_equal(hf.tensor[0].dtype, HS_F32); /* no packed type has such groups */
        CHECK_OK(hs_hf_read_index(&hf, &hf.tensor[0], group_of, &err), err);
        for (uint32_t c = 0; c < 256; c++)
            assert_int_equal(group_of[c], c / shared[i][1]);
    }
    put_module(true, 3, 64); /* four are named */
    CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, "g_idx of input 192 is 3, but there are 3 groups");
    put_module(true, 5, 64);
    CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, "g_idx gives group 4 of 5 no input");
    assert_non_null(strstr(err.message, "model.safetensors"));
}

static int setup(void **state)
{
    (void)state;
    return folder_open("ints", 64u << 20);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, folder_teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_tensors_of_a_gptq_module_go_together),
        TEST(shapes_of_a_gptq_module_must_agree),
        TEST(every_group_of_an_index_is_one_and_has_inputs),
        TEST(a_scale_that_is_not_finite_is_found_when_read),
        TEST(the_config_is_believed_only_where_the_files_cannot_say),
        TEST(no_truncation_opens),
        TEST(formats_that_are_not_read_are_named),
        TEST(failing_allocations_leak_nothing),
        TEST(tensors_of_a_compressed_module_must_agree),
        TEST(groups_that_do_not_divide_the_inputs_need_an_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
