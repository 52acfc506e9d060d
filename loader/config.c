/*
 * loader/config.c - the rules of Qwen3.5's config.json in one place.
 *
 * Every number is checked against the caps of config.h here, so nothing after this file needs to doubt a dimension.
 */
#include "loader/config.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

static bool is_string(const hs_json *node, const char *text)
{
    return hs_json_type_of(node) == HS_JSON_STRING && strcmp(hs_json_string(node, NULL), text) == 0;
}

/* The family is told by model_type; architectures only name the wrapper class. */
static hlwq_status check_family(const hs_json *root, const hs_json *text, bool *moe, const char *what, hlwq_error *err)
{
    static const char *const known[] = {"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"};
    const char *type = NULL;
    HS_TRY(hs_json_take_string(text, "model_type", HS_OPTIONAL, &type, what, err));
    if (!type)
        HS_TRY(hs_json_take_string(root, "model_type", HS_REQUIRED, &type, what, err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i]) == 0) {
            *moe = i >= 2;
            return HLWQ_OK;
        }
    return hs_fail(err, HLWQ_ERR_FORMAT,
                   "%s: model_type is \"%s\"; only the Qwen3.5 family is supported (qwen3_5, qwen3_5_moe)", what, type);
}

/* The class in `architectures` decides which of two flags counts; a missing flag is false. */
static hlwq_status read_tied(hs_config *c, const hs_json *root, const hs_json *text, const char *what, hlwq_error *err)
{
    const hs_json *class = hs_json_at(hs_json_get(root, "architectures"), 0);
    bool causal = hs_json_type_of(class) == HS_JSON_STRING && strstr(hs_json_string(class, NULL), "ForCausalLM");
    c->tied = false;
    return hs_json_take_bool(causal ? text : root, "tie_word_embeddings", HS_OPTIONAL, &c->tied, what, err);
}

static hlwq_status read_layers(hs_config *c, const hs_json *j, const char *what, hlwq_error *err)
{
    const hs_json *types = hs_json_get(j, "layer_types");
    if (hs_json_type_of(types) == HS_JSON_NULL)
        types = NULL;
    if (types && hs_json_type_of(types) != HS_JSON_ARRAY)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"layer_types\" is not an array", what);
    HS_TRY(hs_json_take_u32(j, "num_hidden_layers", HS_REQUIRED, 1, HS_LAYERS_MAX, &c->layers, what, err));
    if (types && hs_json_count(types) != c->layers)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"layer_types\" has %zu entries, but num_hidden_layers is %u", what,
                       hs_json_count(types), c->layers);
    uint32_t interval = 4;
    if (!types)
        HS_TRY(hs_json_take_u32(j, "full_attention_interval", HS_OPTIONAL, 1, HS_LAYERS_MAX, &interval, what, err));
    for (uint32_t i = 0; i < c->layers; i++) {
        c->full[i] = (i + 1) % interval == 0;
        if (!types)
            continue;
        const hs_json *type = hs_json_at(types, i);
        c->full[i] = is_string(type, "full_attention") || is_string(type, "attention");
        if (!c->full[i] && !is_string(type, "linear_attention") && !is_string(type, "mamba"))
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: layer_types[%u] is neither linear_attention nor full_attention",
                           what, i);
    }
    return HLWQ_OK;
}

/* 0.1 ln(factor) + 1, as transformers has it, where nothing else is said. */
static double yarn_attention(double factor, double scale)
{
    return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

static hlwq_status read_yarn(hs_config *c, const hs_json *rope, const char *what, hlwq_error *err)
{
    double factor = 0, attention = 0, scale = 0, scale_all = 0;
    c->yarn.beta_fast = 32;
    c->yarn.beta_slow = 1;
    c->yarn.truncate = true;
    HS_TRY(hs_json_take_real(rope, "factor", HS_REQUIRED, 1, 1024, &factor, what, err));
    HS_TRY(hs_json_take_real(rope, "beta_fast", HS_OPTIONAL, 1e-3, 1e6, &c->yarn.beta_fast, what, err));
    HS_TRY(hs_json_take_real(rope, "beta_slow", HS_OPTIONAL, 1e-3, 1e6, &c->yarn.beta_slow, what, err));
    HS_TRY(hs_json_take_real(rope, "attention_factor", HS_OPTIONAL, 1e-3, 1e3, &attention, what, err));
    HS_TRY(hs_json_take_real(rope, "mscale", HS_OPTIONAL, 0, 1e3, &scale, what, err));
    HS_TRY(hs_json_take_real(rope, "mscale_all_dim", HS_OPTIONAL, 0, 1e3, &scale_all, what, err));
    HS_TRY(hs_json_take_bool(rope, "truncate", HS_OPTIONAL, &c->yarn.truncate, what, err));
    HS_TRY(hs_json_take_u32(rope, "original_max_position_embeddings", HS_OPTIONAL, 1, HS_CONTEXT_MAX, &c->yarn.original,
                            what, err));
    c->yarn.factor = factor;
    if (attention == 0)
        attention = scale > 0 && scale_all > 0 ? yarn_attention(factor, scale) / yarn_attention(factor, scale_all)
                                               : yarn_attention(factor, 1);
    c->yarn.attention = attention;
    return HLWQ_OK;
}

/* One object that speaks of RoPE. A kind that is not known would change tokens silently, so it is refused. */
static hlwq_status read_rope_object(hs_config *c, const hs_json *rope, const char *key, double *partial, double *theta,
                                    const char *what, hlwq_error *err)
{
    static const char *const type_key[] = {"rope_type", "type"}; /* the second is the older spelling */
    bool yarn = false;
    if (hs_json_type_of(rope) <= HS_JSON_NULL)
        return HLWQ_OK;
    if (hs_json_type_of(rope) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"%s\" is not an object", what, key);
    for (int i = 0; i < 2; i++) {
        const char *type = "default";
        HS_TRY(hs_json_take_string(rope, type_key[i], HS_OPTIONAL, &type, what, err));
        if (strcmp(type, "default") != 0 && strcmp(type, "yarn") != 0)
            return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                           "%s: %s \"%s\" of %s is not supported, only \"default\" and \"yarn\"", what, type_key[i],
                           type, key);
        yarn |= strcmp(type, "yarn") == 0;
    }
    if (yarn)
        HS_TRY(read_yarn(c, rope, what, err));
    HS_TRY(hs_json_take_real(rope, "partial_rotary_factor", HS_OPTIONAL, 0, 1, partial, what, err));
    return hs_json_take_real(rope, "rope_theta", HS_OPTIONAL, 1, 1e15, theta, what, err);
}

/* Later spellings win: flat keys, then rope_scaling, then rope_parameters. */
static hlwq_status read_rope(hs_config *c, const hs_json *j, const char *what, hlwq_error *err)
{
    static const char *const key[] = {"rope_scaling", "rope_parameters"};
    double partial = 0.25, theta = 0;
    HS_TRY(hs_json_take_real(j, "partial_rotary_factor", HS_OPTIONAL, 0, 1, &partial, what, err));
    HS_TRY(hs_json_take_real(j, "rope_theta", HS_OPTIONAL, 1, 1e15, &theta, what, err));
    for (int i = 0; i < 2; i++)
        HS_TRY(read_rope_object(c, hs_json_get(j, key[i]), key[i], &partial, &theta, what, err));
    if (theta == 0)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: key \"rope_theta\" is missing", what);
    c->rope_theta = theta;
    c->rotary_dims = (uint32_t)(c->head_dim * partial);
    if (c->rotary_dims == 0 || c->rotary_dims % 2)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: head_dim %u times partial_rotary_factor %g is not a positive even number", what,
                       c->head_dim, partial);
    return HLWQ_OK;
}

static hlwq_status read_attention(hs_config *c, const hs_json *j, const char *what, hlwq_error *err)
{
    bool bias = false, gate = true;
    HS_TRY(hs_json_take_u32(j, "num_attention_heads", HS_REQUIRED, 1, HS_HEADS_MAX, &c->q_heads, what, err));
    c->kv_heads = c->q_heads;
    HS_TRY(hs_json_take_u32(j, "num_key_value_heads", HS_OPTIONAL, 1, HS_HEADS_MAX, &c->kv_heads, what, err));
    HS_TRY(hs_json_take_u32(j, "head_dim", HS_REQUIRED, 2, HS_HEAD_DIM_MAX, &c->head_dim, what, err));
    if (c->q_heads % c->kv_heads)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: num_key_value_heads %u does not divide num_attention_heads %u", what,
                       c->kv_heads, c->q_heads);
    HS_TRY(hs_json_take_bool(j, "attention_bias", HS_OPTIONAL, &bias, what, err));
    HS_TRY(hs_json_take_bool(j, "attn_output_gate", HS_OPTIONAL, &gate, what, err));
    if (bias || !gate)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s: %s is not supported", what,
                       bias ? "attention_bias true" : "attn_output_gate false");
    return read_rope(c, j, what, err);
}

static hlwq_status read_delta(hs_config *c, const hs_json *j, const char *what, hlwq_error *err)
{
    bool any = false;
    for (uint32_t i = 0; i < c->layers; i++)
        any |= !c->full[i];
    if (!any)
        return HLWQ_OK;
    HS_TRY(hs_json_take_u32(j, "linear_num_key_heads", HS_REQUIRED, 1, HS_HEADS_MAX, &c->k_heads, what, err));
    HS_TRY(hs_json_take_u32(j, "linear_num_value_heads", HS_REQUIRED, 1, HS_HEADS_MAX, &c->v_heads, what, err));
    HS_TRY(hs_json_take_u32(j, "linear_key_head_dim", HS_REQUIRED, 1, HS_HEAD_DIM_MAX, &c->k_dim, what, err));
    HS_TRY(hs_json_take_u32(j, "linear_value_head_dim", HS_REQUIRED, 1, HS_HEAD_DIM_MAX, &c->v_dim, what, err));
    c->conv_taps = 4;
    HS_TRY(hs_json_take_u32(j, "linear_conv_kernel_dim", HS_OPTIONAL, 2, HS_CONV_TAPS_MAX, &c->conv_taps, what, err));
    if (c->v_heads % c->k_heads)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: linear_num_key_heads %u does not divide linear_num_value_heads %u",
                       what, c->k_heads, c->v_heads);
    return HLWQ_OK;
}

static hlwq_status read_ffn(hs_config *c, const hs_json *j, bool moe, const char *what, hlwq_error *err)
{
    if (!moe)
        return hs_json_take_u32(j, "intermediate_size", HS_REQUIRED, 1, HS_WIDTH_MAX, &c->intermediate, what, err);
    HS_TRY(hs_json_take_u32(j, "num_experts", HS_REQUIRED, 1, HS_EXPERTS_MAX, &c->experts, what, err));
    HS_TRY(
        hs_json_take_u32(j, "num_experts_per_tok", HS_REQUIRED, 1, HS_EXPERTS_USED_MAX, &c->experts_used, what, err));
    HS_TRY(hs_json_take_u32(j, "moe_intermediate_size", HS_REQUIRED, 1, HS_WIDTH_MAX, &c->expert_width, what, err));
    HS_TRY(hs_json_take_u32(j, "shared_expert_intermediate_size", HS_OPTIONAL, 0, HS_WIDTH_MAX, &c->shared_width, what,
                            err));
    if (c->experts_used > c->experts)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: num_experts_per_tok is %u, but there are %u experts", what,
                       c->experts_used, c->experts);
    return HLWQ_OK;
}

static void add_stop(hs_config *c, int64_t id)
{
    for (uint32_t i = 0; i < c->n_stop; i++)
        if (c->stop[i] == id)
            return;
    if (c->n_stop < HS_STOP_IDS_MAX && id >= 0 && id < (int64_t)c->vocab)
        c->stop[c->n_stop++] = (int32_t)id;
}

/* A number or an array of numbers. */
static hlwq_status read_stop(hs_config *c, const hs_json *j, const char *what, hlwq_error *err)
{
    const hs_json *eos = hs_json_get(j, "eos_token_id");
    size_t n = hs_json_type_of(eos) == HS_JSON_ARRAY ? hs_json_count(eos) : 1;
    for (size_t i = 0; i < n; i++) {
        const hs_json *id = hs_json_type_of(eos) == HS_JSON_ARRAY ? hs_json_at(eos, i) : eos;
        if (hs_json_type_of(id) <= HS_JSON_NULL)
            continue;
        if (hs_json_type_of(id) != HS_JSON_INTEGER)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"eos_token_id\" is not a token id", what);
        add_stop(c, hs_json_int(id));
    }
    return HLWQ_OK;
}

static hlwq_status check_activation(const hs_json *j, const char *what, hlwq_error *err)
{
    const char *act = "silu", *gate = "swish";
    HS_TRY(hs_json_take_string(j, "hidden_act", HS_OPTIONAL, &act, what, err));
    HS_TRY(hs_json_take_string(j, "output_gate_type", HS_OPTIONAL, &gate, what, err));
    if (strcmp(act, "silu") != 0)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s: hidden_act \"%s\" is not supported, only \"silu\"", what, act);
    if (strcmp(gate, "swish") != 0 && strcmp(gate, "silu") != 0)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s: output_gate_type \"%s\" is not supported, only \"swish\"", what,
                       gate);
    return HLWQ_OK;
}

static hlwq_status read_all(hs_config *c, const hs_json *root, const char *what, const hs_log *log, hlwq_error *err)
{
    const hs_json *j = hs_json_get(root, "text_config");
    bool moe = false;
    if (hs_json_type_of(root) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: not a JSON object", what);
    if (hs_json_type_of(j) <= HS_JSON_NULL)
        j = root;
    if (hs_json_type_of(j) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"text_config\" is not an object", what);
    HS_TRY(check_family(root, j, &moe, what, err));
    HS_TRY(check_activation(j, what, err));
    HS_TRY(hs_json_take_u32(j, "hidden_size", HS_REQUIRED, 1, HS_HIDDEN_MAX, &c->hidden, what, err));
    HS_TRY(hs_json_take_u32(j, "vocab_size", HS_REQUIRED, 1, HS_VOCAB_MAX, &c->vocab, what, err));
    HS_TRY(read_tied(c, root, j, what, err));
    HS_TRY(read_layers(c, j, what, err));
    double eps = 1e-6;
    HS_TRY(hs_json_take_real(j, "rms_norm_eps", HS_OPTIONAL, 1e-12, 1e-1, &eps, what, err));
    c->eps = (float)eps;
    HS_TRY(read_attention(c, j, what, err));
    HS_TRY(read_delta(c, j, what, err));
    HS_TRY(read_ffn(c, j, moe, what, err));
    HS_TRY(hs_json_take_u32(j, "mtp_num_hidden_layers", HS_OPTIONAL, 0, 1, &c->mtp_layers, what, err));
    c->context_max = 262144;
    HS_TRY(hs_json_take_u32(j, "max_position_embeddings", HS_OPTIONAL, 1, HS_CONTEXT_MAX, &c->context_max, what, err));
    if (c->yarn.factor > 0 && !c->yarn.original)
        c->yarn.original = c->context_max;
    if (c->yarn.factor > 0 && c->yarn.original * c->yarn.factor > c->context_max) /* the key may still be the old one */
        c->context_max = (uint32_t)fmin(c->yarn.original * c->yarn.factor, HS_CONTEXT_MAX);
    if (hs_conv_channels(c) > HS_WIDTH_MAX || 2ull * c->q_heads * c->head_dim > HS_WIDTH_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: heads times head_dim is larger than %d", what, HS_WIDTH_MAX);
    HS_TRY(read_stop(c, j, what, err));
    if (j != root)
        HS_TRY(read_stop(c, root, what, err));
    if (hs_json_get(root, "auto_map"))
        hs_log_line(log, HLWQ_LOG_WARN, "%s: auto_map is ignored; code that comes with a model is never run", what);
    return HLWQ_OK;
}

hlwq_status hs_config_parse(hs_config *config, const char *text, size_t bytes, const char *what, const hs_log *log,
                            hlwq_error *err)
{
    hs_json *root;
    *config = (hs_config){0};
    HS_TRY(hs_json_parse(text, bytes, what, &root, err));
    hlwq_status st = read_all(config, root, what, log, err);
    hs_json_free(root);
    return st;
}

static hlwq_status read_generation(hs_config *c, hs_generation *g, const hs_json *j, const char *what, hlwq_error *err)
{
    bool sample = true;
    if (hs_json_type_of(j) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: not a JSON object", what);
    double temperature = g->temperature, top_p = g->top_p, min_p = g->min_p, repetition = g->repetition_penalty;
    HS_TRY(hs_json_take_bool(j, "do_sample", HS_OPTIONAL, &sample, what, err));
    HS_TRY(hs_json_take_real(j, "temperature", HS_OPTIONAL, 0, 100, &temperature, what, err));
    HS_TRY(hs_json_take_real(j, "top_p", HS_OPTIONAL, 0, 1, &top_p, what, err));
    HS_TRY(hs_json_take_real(j, "min_p", HS_OPTIONAL, 0, 1, &min_p, what, err));
    HS_TRY(hs_json_take_real(j, "repetition_penalty", HS_OPTIONAL, 1e-3, 1e3, &repetition, what, err));
    HS_TRY(hs_json_take_u32(j, "top_k", HS_OPTIONAL, 0, HS_VOCAB_MAX, &g->top_k, what, err));
    g->temperature = sample ? (float)temperature : 0.0f;
    g->top_p = (float)top_p;
    g->min_p = (float)min_p;
    g->repetition_penalty = (float)repetition;
    return read_stop(c, j, what, err);
}

hlwq_status hs_generation_parse(hs_config *config, hs_generation *generation, const char *text, size_t bytes,
                                const char *what, hlwq_error *err)
{
    hs_json *root;
    HS_TRY(hs_json_parse(text, bytes, what, &root, err));
    hlwq_status st = read_generation(config, generation, root, what, err);
    hs_json_free(root);
    return st;
}
