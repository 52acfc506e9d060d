/* loader/config.c: every rule of config.json and generation_config.json, one refusal at a time. */
#include "loader/config.h"
#include "tests/support/check.h"

#define SIZES                                                                                                          \
    "\"vocab_size\":64,\"hidden_size\":32,\"num_hidden_layers\":4,\"num_attention_heads\":4,"                          \
    "\"num_key_value_heads\":2,\"head_dim\":16,\"linear_num_key_heads\":2,\"linear_num_value_heads\":4,"               \
    "\"linear_key_head_dim\":16,\"linear_value_head_dim\":16"
#define DENSE SIZES ",\"model_type\":\"qwen3_5_text\",\"intermediate_size\":48"
#define ROPE ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1e7,\"partial_rotary_factor\":0.25}"
#define MOE SIZES ",\"model_type\":\"qwen3_5_moe_text\",\"moe_intermediate_size\":24" ROPE

static hs_config c;
static hlwq_error err;

static hlwq_status parse(const char *text)
{
    return hs_config_parse(&c, text, strlen(text), "config.json", NULL, &err);
}

/* Members behind a sound dense config; the last parameter is what the sentence must name. */
#define REFUSES(extra, status, word) CHECK_FAILS(parse("{" DENSE ROPE extra "}"), status, err, word)
#define ACCEPTS(extra) CHECK_OK(parse("{" DENSE ROPE extra "}"), err)

static void layer_types_beat_the_interval_and_know_old_names(void **state)
{
    (void)state;
    ACCEPTS("");
    assert_true(!c.full[0] && !c.full[2] && c.full[3]); /* interval 4 where nothing is said */
    ACCEPTS(",\"full_attention_interval\":2");
    assert_true(!c.full[0] && c.full[1] && !c.full[2] && c.full[3]);
    ACCEPTS(
        ",\"full_attention_interval\":2,\"layer_types\":[\"attention\",\"mamba\",\"linear_attention\",\"full_attention\"]");
    assert_true(c.full[0] && !c.full[1] && !c.full[2] && c.full[3]);
    REFUSES(",\"layer_types\":[\"attention\"]", HLWQ_ERR_FORMAT, "layer_types");
    REFUSES(",\"layer_types\":[\"attention\",\"mamba\",\"sliding\",\"mamba\"]", HLWQ_ERR_FORMAT, "layer_types[2]");
    REFUSES(",\"layer_types\":\"mamba\"", HLWQ_ERR_FORMAT, "layer_types");
    REFUSES(",\"full_attention_interval\":0", HLWQ_ERR_FORMAT, "full_attention_interval");
}

static void the_class_decides_which_tie_flag_counts(void **state)
{
    (void)state;
    static const char form[] = "{\"architectures\":[\"%s\"],\"tie_word_embeddings\":%s,\"text_config\":{" DENSE ROPE
                               ",\"tie_word_embeddings\":%s}}";
    char text[2048];
    snprintf(text, sizeof text, form, "Qwen3_5ForConditionalGeneration", "true", "false");
    CHECK_OK(parse(text), err);
    assert_true(c.tied);
    snprintf(text, sizeof text, form, "Qwen3_5ForCausalLM", "true", "false");
    CHECK_OK(parse(text), err);
    assert_false(c.tied);
    ACCEPTS("");
    assert_false(c.tied); /* missing means false */
    ACCEPTS(",\"tie_word_embeddings\":true");
    assert_true(c.tied);
}

static void rope_is_read_in_every_spelling_and_only_the_default_kind(void **state)
{
    (void)state;
    CHECK_OK(parse("{" DENSE ",\"rope_theta\":5e6,\"partial_rotary_factor\":0.5}"), err);
    assert_true(c.rope_theta == 5e6 && c.rotary_dims == 8);
    CHECK_OK(parse("{" DENSE ",\"rope_parameters\":{\"rope_theta\":1e7},\"partial_rotary_factor\":0.5}"), err);
    assert_true(c.rope_theta == 1e7 && c.rotary_dims == 8);
    CHECK_OK(
        parse("{" DENSE ",\"rope_scaling\":{\"type\":\"default\",\"rope_theta\":1e6,\"partial_rotary_factor\":1.0}}"),
        err);
    assert_true(c.rope_theta == 1e6 && c.rotary_dims == 16);
    ACCEPTS(",\"rope_scaling\":null");
    assert_int_equal(c.rotary_dims, 4);

    CHECK_FAILS(parse("{" DENSE "}"), HLWQ_ERR_FORMAT, err, "rope_theta");
    CHECK_FAILS(parse("{" DENSE ",\"rope_parameters\":{\"rope_theta\":0}}"), HLWQ_ERR_FORMAT, err, "rope_theta");
    CHECK_FAILS(parse("{" DENSE ",\"rope_parameters\":{\"rope_theta\":\"1e7\"}}"), HLWQ_ERR_FORMAT, err, "rope_theta");
    CHECK_FAILS(parse("{" DENSE ",\"rope_parameters\":[1]}"), HLWQ_ERR_FORMAT, err, "rope_parameters");
    CHECK_FAILS(parse("{" DENSE ",\"rope_theta\":1e7,\"partial_rotary_factor\":0.2}"), HLWQ_ERR_FORMAT, err, "rotary");
    /* A scaled context would change tokens silently, whichever key asks for it. */
    CHECK_FAILS(parse("{" DENSE ",\"rope_parameters\":{\"rope_theta\":1e7,\"rope_type\":\"dynamic\"}}"),
                HLWQ_ERR_UNSUPPORTED, err, "dynamic");
    REFUSES(",\"rope_scaling\":{\"rope_type\":\"yarn\"}", HLWQ_ERR_FORMAT, "factor");
    REFUSES(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":0.5}", HLWQ_ERR_FORMAT, "factor");
    ACCEPTS(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":1000}");
    assert_true(c.yarn.factor == 4 && c.yarn.original == 1000 && c.yarn.truncate && c.yarn.beta_fast == 32);
    assert_true(c.yarn.attention > 1.13862 && c.yarn.attention < 1.13864); /* 0.1 ln 4 + 1 */
    ACCEPTS(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,\"attention_factor\":0.7},"
            "\"max_position_embeddings\":2048");
    assert_true(c.yarn.attention == 0.7 && c.yarn.original == 2048 && c.context_max == 16384);
    REFUSES(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}", HLWQ_ERR_UNSUPPORTED, "linear");
    REFUSES(",\"rope_scaling\":4", HLWQ_ERR_FORMAT, "rope_scaling");
}

static void only_this_family_and_its_functions_are_accepted(void **state)
{
    (void)state;
    CHECK_FAILS(parse("{\"model_type\":\"qwen3_next\"}"), HLWQ_ERR_FORMAT, err, "qwen3_next");
    CHECK_FAILS(parse("{" SIZES ROPE "}"), HLWQ_ERR_FORMAT, err, "model_type");
    CHECK_FAILS(parse("[]"), HLWQ_ERR_FORMAT, err, "object");
    CHECK_FAILS(parse("{\"text_config\":7,\"model_type\":\"qwen3_5\"}"), HLWQ_ERR_FORMAT, err, "text_config");
    REFUSES(",\"hidden_act\":\"gelu\"", HLWQ_ERR_UNSUPPORTED, "gelu");
    REFUSES(",\"output_gate_type\":\"sigmoid\"", HLWQ_ERR_UNSUPPORTED, "sigmoid");
    ACCEPTS(",\"output_gate_type\":\"silu\"");
    ACCEPTS(",\"output_gate_type\":\"swish\",\"mlp_only_layers\":[],\"decoder_sparse_step\":1");
    REFUSES(",\"attention_bias\":true", HLWQ_ERR_UNSUPPORTED, "attention_bias");
    REFUSES(",\"rms_norm_eps\":-1", HLWQ_ERR_FORMAT, "rms_norm_eps");
    REFUSES(",\"rms_norm_eps\":NaN", HLWQ_ERR_FORMAT, "JSON");
    REFUSES(",\"rms_norm_eps\":1e400", HLWQ_ERR_FORMAT, "JSON");
    REFUSES(",\"max_position_embeddings\":1099511627776", HLWQ_ERR_FORMAT, "max_position_embeddings");
    REFUSES(",\"head_dim\":16", HLWQ_ERR_FORMAT, "uplicate");
}

/* Replaces the value of a key in a sound config by another. */
static void with(const char *key, const char *value)
{
    char text[2048], quoted[64];
    snprintf(text, sizeof text, "{" DENSE ROPE "}");
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    char *at = strstr(text, quoted);
    assert_non_null(at);
    at += strlen(quoted);
    char rest[2048];
    snprintf(rest, sizeof rest, "%s", at + strcspn(at, ",}"));
    snprintf(at, sizeof text - (size_t)(at - text), "%s%s", value, rest);
    CHECK_FAILS(parse(text), HLWQ_ERR_FORMAT, err, key);
}

static void every_size_is_checked_against_its_cap(void **state)
{
    (void)state;
    static const char *const keys[] = {"vocab_size",          "hidden_size",          "num_hidden_layers",
                                       "num_attention_heads", "num_key_value_heads",  "head_dim",
                                       "intermediate_size",   "linear_num_key_heads", "linear_num_value_heads",
                                       "linear_key_head_dim", "linear_value_head_dim"};
    static const char *const values[] = {"0",      "-1", "1000000000000000000", "4611686018427387904", "1.5",
                                         "\"32\"", "[]"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++)
            with(keys[k], values[v]);
    with("num_hidden_layers", "513");
    with("num_key_value_heads", "3");
    with("linear_num_key_heads", "3");
    CHECK_FAILS(parse("{" MOE ",\"num_experts\":4,\"num_experts_per_tok\":5}"), HLWQ_ERR_FORMAT, err,
                "num_experts_per_tok");
    CHECK_FAILS(parse("{" MOE ",\"num_experts\":4097,\"num_experts_per_tok\":5}"), HLWQ_ERR_FORMAT, err, "num_experts");
    CHECK_OK(parse("{" MOE ",\"num_experts\":4,\"num_experts_per_tok\":4}"), err);
    assert_int_equal(c.shared_width, 0);
}

static void vision_config_is_never_looked_at(void **state)
{
    (void)state;
    CHECK_OK(parse("{\"model_type\":\"qwen3_5\",\"vision_config\":{\"hidden_size\":\"x\",\"model_type\":\"qwen3_5\"},"
                   "\"text_config\":{" DENSE ROPE "}}"),
             err);
    assert_int_equal(c.hidden, 32);
}

static void stop_ids_come_from_both_files_without_repeats(void **state)
{
    (void)state;
    hs_generation g = hs_generation_default();
    static const char text[] = "{\"eos_token_id\":[9,7],\"temperature\":0.6,\"top_k\":5,\"do_sample\":true}";
    ACCEPTS(",\"eos_token_id\":7");
    assert_int_equal(c.n_stop, 1);
    CHECK_OK(hs_generation_parse(&c, &g, text, strlen(text), "generation_config.json", &err), err);
    assert_int_equal(c.n_stop, 2);
    assert_int_equal(c.stop[1], 9);
    assert_true(g.temperature == 0.6f && g.top_k == 5);
    assert_true(g.top_p == hs_generation_default().top_p);
    CHECK_OK(hs_generation_parse(&c, &g, "{\"do_sample\":false}", 19, "generation_config.json", &err), err);
    assert_true(g.temperature == 0);
    CHECK_FAILS(hs_generation_parse(&c, &g, "[]", 2, "generation_config.json", &err), HLWQ_ERR_FORMAT, err, "object");
    CHECK_FAILS(hs_generation_parse(&c, &g, "{\"top_p\":-1}", 12, "generation_config.json", &err), HLWQ_ERR_FORMAT, err,
                "top_p");
    REFUSES(",\"eos_token_id\":\"7\"", HLWQ_ERR_FORMAT, "eos_token_id");
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    static const char text[] = "{" MOE ",\"num_experts\":4,\"num_experts_per_tok\":2}";
    size_t full = sizeof text - 1;
    for (size_t n = 0; n <= full; n++) {
        char *cut = malloc(n + (n == 0));
        memcpy(cut, text, n);
        hlwq_status st = hs_config_parse(&c, cut, n, "config.json", NULL, &err);
        assert_int_equal(st, n == full ? HLWQ_OK : HLWQ_ERR_FORMAT);
        free(cut);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_types_beat_the_interval_and_know_old_names),
        cmocka_unit_test(the_class_decides_which_tie_flag_counts),
        cmocka_unit_test(rope_is_read_in_every_spelling_and_only_the_default_kind),
        cmocka_unit_test(only_this_family_and_its_functions_are_accepted),
        cmocka_unit_test(every_size_is_checked_against_its_cap),
        cmocka_unit_test(vision_config_is_never_looked_at),
        cmocka_unit_test(stop_ids_come_from_both_files_without_repeats),
        cmocka_unit_test(every_truncation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
