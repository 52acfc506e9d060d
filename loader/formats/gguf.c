/*
 * loader/formats/gguf.c - from GGUF's metadata and names to those of a model directory.
 */
#include "loader/formats/gguf.h"

#include "base/size.h"
#include "base/text.h"
#include "loader/formats/wide.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX (128u << 20)

enum { U32 = 4, I32 = 5, F32 = 6, STRING = 8, ARRAY = 9, U64 = 10 };

typedef struct source {
    hs_hf *hf;
    hs_gguf gguf;
    char arch[32];
    const char *path;
    hlwq_error *err;
} source;

/* ---- values --------------------------------------------------------------------------------- */

static const hs_gguf_value *find(const source *s, const char *key)
{
    for (uint32_t i = 0; i < s->gguf.n_values; i++)
        if (strcmp(s->gguf.value[i].key, key) == 0)
            return &s->gguf.value[i];
    return NULL;
}

static const hs_gguf_value *find_own(const source *s, const char *key)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    return find(s, full);
}

/* A whole number of this architecture; `fallback` where it is absent, and required where that is 0. */
static hlwq_status number(const source *s, const char *key, uint64_t fallback, uint64_t *out)
{
    const hs_gguf_value *v = find_own(s, key);
    uint32_t small;
    *out = fallback;
    if (!v && fallback)
        return HLWQ_OK;
    if (v && (v->type == U32 || v->type == I32)) {
        memcpy(&small, v->data, 4);
        *out = small;
    } else if (v && v->type == U64)
        memcpy(out, v->data, 8);
    else
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: %s.%s is %s", s->path, s->arch, key,
                       v ? "not a whole number" : "missing");
    if (*out > INT32_MAX)
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: %s.%s is %" PRIu64 ", limit %d", s->path, s->arch, key, *out,
                       INT32_MAX);
    return HLWQ_OK;
}

static hlwq_status real(const source *s, const char *key, float *out)
{
    const hs_gguf_value *v = find_own(s, key);
    if (!v || v->type != F32)
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: %s.%s is missing or not a number", s->path, s->arch, key);
    memcpy(out, v->data, 4);
    return HLWQ_OK;
}

/* Item after item of an array of strings. */
static const uint8_t *next_string(const uint8_t *p, uint64_t *bytes)
{
    memcpy(bytes, p, 8);
    return p + 8;
}

/* ---- config.json ---------------------------------------------------------------------------- */

static const hs_gguf_tensor *find_tensor(const source *s, const char *name)
{
    for (uint32_t i = 0; i < s->gguf.n_tensors; i++)
        if (strcmp(s->gguf.tensor[i].name, name) == 0)
            return &s->gguf.tensor[i];
    return NULL;
}

/* Keys of config.json and where GGUF has them; fallback 0: required. */
static const struct {
    const char *to, *from;
    uint64_t fallback;
    char when; /* 'm' mixtures, 'd' dense models, ' ' both */
} whole[] = {
    {"hidden_size", "embedding_length", 0, ' '},
    {"num_attention_heads", "attention.head_count", 0, ' '},
    {"num_key_value_heads", "attention.head_count_kv", 0, ' '},
    {"head_dim", "attention.key_length", 0, ' '},
    {"max_position_embeddings", "context_length", 0, ' '},
    {"full_attention_interval", "full_attention_interval", 4, ' '},
    {"linear_conv_kernel_dim", "ssm.conv_kernel", 0, ' '},
    {"linear_key_head_dim", "ssm.state_size", 0, ' '},
    {"linear_num_key_heads", "ssm.group_count", 0, ' '},
    {"linear_num_value_heads", "ssm.time_step_rank", 0, ' '},
    {"intermediate_size", "feed_forward_length", 0, 'd'},
    {"num_experts", "expert_count", 0, 'm'},
    {"num_experts_per_tok", "expert_used_count", 0, 'm'},
    {"moe_intermediate_size", "expert_feed_forward_length", 0, 'm'},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", 0, 'm'},
};

static void add_stops(const source *s, hs_text *t)
{
    static const char *const key[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    const char *comma = "";
    hs_text_format(t, ",\"eos_token_id\":[");
    for (int i = 0; i < 2; i++) {
        const hs_gguf_value *v = find(s, key[i]);
        uint32_t id;
        if (!v || v->type != U32)
            continue;
        memcpy(&id, v->data, 4);
        hs_text_format(t, "%s%u", comma, id);
        comma = ",";
    }
    hs_text_format(t, "]");
}

static hlwq_status write_config(source *s, hs_text *t, uint64_t *layers)
{
    const bool moe = strcmp(s->arch, "qwen35moe") == 0;
    uint64_t v, drafts, inner, heads, rotary, head_dim;
    float eps, theta;
    const hs_gguf_tensor *embed = find_tensor(s, "token_embd.weight");
    if (!embed || embed->rank != 2)
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: tensor token_embd.weight is missing or not a matrix", s->path);
    HS_TRY(number(s, "block_count", 0, layers));
    HS_TRY(number(s, "nextn_predict_layers", UINT32_MAX, &drafts));
    drafts = drafts == UINT32_MAX ? 0 : drafts;
    if (drafts >= *layers)
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " layers of which %" PRIu64 " draft", s->path, *layers,
                       drafts);
    *layers -= drafts; /* block_count counts the draft layer */
    HS_TRY(number(s, "ssm.inner_size", 0, &inner));
    HS_TRY(number(s, "ssm.time_step_rank", 0, &heads));
    HS_TRY(number(s, "attention.key_length", 0, &head_dim));
    HS_TRY(number(s, "rope.dimension_count", 0, &rotary));
    HS_TRY(real(s, "attention.layer_norm_rms_epsilon", &eps));
    HS_TRY(real(s, "rope.freq_base", &theta));
    if (heads == 0 || head_dim == 0 || inner % heads)
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " value heads do not divide %" PRIu64, s->path, heads,
                       inner);
    hs_text_format(t, "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"num_hidden_layers\":%" PRIu64,
                   moe ? "Qwen3_5MoeForCausalLM" : "Qwen3_5ForCausalLM", moe ? "qwen3_5_moe_text" : "qwen3_5_text",
                   *layers);
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        if (whole[i].when != ' ' && (whole[i].when == 'm') != moe)
            continue;
        HS_TRY(number(s, whole[i].from, whole[i].fallback, &v));
        hs_text_format(t, ",\"%s\":%" PRIu64, whole[i].to, v);
    }
    hs_text_format(t, ",\"linear_value_head_dim\":%" PRIu64 ",\"vocab_size\":%" PRIu64, inner / heads, embed->dim[0]);
    hs_text_format(t, ",\"hidden_act\":\"silu\",\"rms_norm_eps\":%.9g,\"tie_word_embeddings\":%s", (double)eps,
                   find_tensor(s, "output.weight") ? "false" : "true");
    hs_text_format(t, ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":%.9g,", (double)theta);
    hs_text_format(t, "\"partial_rotary_factor\":%.17g}", (double)rotary / (double)head_dim);
    add_stops(s, t);
    hs_text_add(t, "}", 1);
    return HLWQ_OK;
}

/* ---- tokenizer.json ------------------------------------------------------------------------- */

/* How text is cut before merging, by the name that GGUF has for it. */
static const char *const pattern_qwen35 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char *const pattern_qwen2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";

static hlwq_status string_array(const source *s, const char *key, const hs_gguf_value **out)
{
    *out = find(s, key);
    if (*out && ((*out)->type != ARRAY || (*out)->item != STRING))
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: %s is not an array of texts", s->path, key);
    return HLWQ_OK;
}

/* Kinds of tokens: 3 and 4 are added ones, 5 is unused. */
static int kind_of(const hs_gguf_value *kinds, uint64_t i)
{
    int32_t kind = 1;
    if (kinds)
        memcpy(&kind, kinds->data + 4 * i, 4);
    return kind;
}

static void add_tokens(hs_text *t, const hs_gguf_value *tokens, const hs_gguf_value *kinds, bool added)
{
    const uint8_t *p = tokens->data;
    const char *comma = "";
    for (uint64_t i = 0; i < tokens->n; i++) {
        uint64_t bytes;
        const char *text = (const char *)next_string(p, &bytes);
        int kind = kind_of(kinds, i);
        p = (const uint8_t *)text + bytes;
        if (kind == 5 || (kind == 3 || kind == 4) != added)
            continue;
        hs_text_add(t, comma, strlen(comma));
        if (added)
            hs_text_format(t, "{\"id\":%" PRIu64 ",\"special\":%s,\"content\":", i, kind == 3 ? "true" : "false");
        hs_text_json(t, text, bytes);
        if (added)
            hs_text_add(t, "}", 1);
        else
            hs_text_format(t, ":%" PRIu64, i);
        comma = ",";
    }
}

static hlwq_status write_tokenizer(const source *s, hs_text *t)
{
    const hs_gguf_value *tokens, *merges, *kinds = find(s, "tokenizer.ggml.token_type"),
                                          *pre = find(s, "tokenizer.ggml.pre");
    HS_TRY(string_array(s, "tokenizer.ggml.tokens", &tokens));
    HS_TRY(string_array(s, "tokenizer.ggml.merges", &merges));
    if (!tokens || !merges)
        return HLWQ_OK; /* a model without a tokenizer can still be looked at */
    if (kinds && (kinds->type != ARRAY || kinds->item != I32 || kinds->n != tokens->n))
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: tokenizer.ggml.token_type does not fit the tokens", s->path);
    bool new_pattern = !pre || pre->type != STRING || pre->n != 5 || memcmp(pre->data, "qwen2", 5) != 0;
    const char *pattern = new_pattern ? pattern_qwen35 : pattern_qwen2, *comma = "";
    hs_text_format(t, "{\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
                      "\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,\"pattern\":{\"Regex\":");
    hs_text_json(t, pattern, strlen(pattern));
    hs_text_format(t, "}},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},");
    hs_text_format(t, "\"added_tokens\":[");
    add_tokens(t, tokens, kinds, true);
    hs_text_format(t, "],\"model\":{\"type\":\"BPE\",\"merges\":[");
    const uint8_t *p = merges->data;
    for (uint64_t i = 0; i < merges->n; i++) {
        uint64_t bytes;
        const char *text = (const char *)next_string(p, &bytes);
        p = (const uint8_t *)text + bytes;
        hs_text_add(t, comma, strlen(comma));
        hs_text_json(t, text, bytes);
        comma = ",";
    }
    hs_text_format(t, "],\"vocab\":{");
    add_tokens(t, tokens, kinds, false);
    hs_text_format(t, "}}}");
    return HLWQ_OK;
}

/* ---- tensors -------------------------------------------------------------------------------- */

/* Whose order of value heads is another: r rows of v_dim, R single rows, c columns of v_dim, C single columns. */
static const struct {
    const char *from, *to;
    hs_change change;
    char heads;
    bool after_keys; /* rows of queries and keys come first */
} names[] = {
    {"attn_norm.weight", "input_layernorm.weight", HS_CHANGE_LESS_ONE, 0, false},
    {"post_attention_norm.weight", "post_attention_layernorm.weight", HS_CHANGE_LESS_ONE, 0, false},
    {"attn_q.weight", "self_attn.q_proj.weight", HS_CHANGE_NONE, 0, false},
    {"attn_k.weight", "self_attn.k_proj.weight", HS_CHANGE_NONE, 0, false},
    {"attn_v.weight", "self_attn.v_proj.weight", HS_CHANGE_NONE, 0, false},
    {"attn_output.weight", "self_attn.o_proj.weight", HS_CHANGE_NONE, 0, false},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", HS_CHANGE_LESS_ONE, 0, false},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", HS_CHANGE_LESS_ONE, 0, false},
    {"attn_qkv.weight", "linear_attn.in_proj_qkv.weight", HS_CHANGE_NONE, 'r', true},
    {"attn_gate.weight", "linear_attn.in_proj_z.weight", HS_CHANGE_NONE, 'r', false},
    {"ssm_alpha.weight", "linear_attn.in_proj_a.weight", HS_CHANGE_NONE, 'R', false},
    {"ssm_beta.weight", "linear_attn.in_proj_b.weight", HS_CHANGE_NONE, 'R', false},
    {"ssm_conv1d.weight", "linear_attn.conv1d.weight", HS_CHANGE_NONE, 'r', true},
    {"ssm_norm.weight", "linear_attn.norm.weight", HS_CHANGE_NONE, 0, false},
    {"ssm_a", "linear_attn.A_log", HS_CHANGE_LOG_NEGATED, 'C', false},
    {"ssm_dt.bias", "linear_attn.dt_bias", HS_CHANGE_NONE, 'C', false},
    {"ssm_out.weight", "linear_attn.out_proj.weight", HS_CHANGE_NONE, 'c', false},
    {"ffn_gate.weight", "mlp.gate_proj.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_up.weight", "mlp.up_proj.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_down.weight", "mlp.down_proj.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_gate_inp.weight", "mlp.gate.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", HS_CHANGE_NONE, 0, false},
    {"ffn_gate_exps.weight", "mlp.experts.gate_exps", HS_CHANGE_NONE, 0, false},
    {"ffn_up_exps.weight", "mlp.experts.up_exps", HS_CHANGE_NONE, 0, false},
    {"ffn_down_exps.weight", "mlp.experts.down_exps", HS_CHANGE_NONE, 0, false},
};

/* The order of value heads is another only where a key head has several. */
static hlwq_status set_heads(const source *s, hs_tensor *t, char kind, bool after_keys)
{
    const hs_config *c = &s->hf->config;
    const uint64_t first = after_keys ? 2 * (uint64_t)c->k_heads * c->k_dim : 0;
    const bool rows = kind == 'r' || kind == 'R';
    const uint32_t size = kind == 'r' || kind == 'c' ? c->v_dim : 1;
    const uint64_t length = rows ? t->dim[0] : t->dim[t->rank - 1];
    if (!kind || c->v_heads == c->k_heads)
        return HLWQ_OK;
    if (c->k_heads == 0 || c->v_heads % c->k_heads || length != first + (uint64_t)size * c->v_heads)
        return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has %" PRIu64 " %s, the heads ask for %" PRIu64,
                       s->path, t->name, length, rows ? "rows" : "columns", first + (uint64_t)size * c->v_heads);
    t->heads = (hs_regroup){rows, !rows, (uint32_t)first, size, c->k_heads, c->v_heads / c->k_heads};
    return HLWQ_OK;
}

static hlwq_status add_tensor(const source *s, const hs_gguf_tensor *g, const char *name, hs_change change, char heads,
                              bool after_keys)
{
    hs_hf *hf = s->hf;
    char *copy;
    hs_tensor *t = &hf->tensor[hf->n_tensors];
    static const hs_dtype plain[] = {[0] = HS_F32, [1] = HS_F16, [30] = HS_BF16};
    const bool is_plain = g->type == 0 || g->type == 1 || g->type == 30;
    HS_TRY(hs_arena_text(&hf->arena, name, strlen(name), &copy, s->err));
    *t = (hs_tensor){.name = copy,
                     .dtype = HS_F32,
                     .encoding = HS_ENC_GGML,
                     .ggml = g->type,
                     .change = change,
                     .rank = g->rank,
                     .data = {g->file, g->offset, g->bytes}};
    memcpy(t->dim, g->dim, sizeof t->dim);
    HS_TRY(set_heads(s, t, heads, after_keys));
    if (is_plain && change == HS_CHANGE_NONE && !t->heads.size) {
        t->encoding = HS_ENC_PLAIN;
        t->dtype = plain[g->type];
    }
    hf->n_tensors++;
    return HLWQ_OK;
}

/* Below the layer, or a name of the whole model. */
static hlwq_status map_tensor(const source *s, const hs_gguf_tensor *g, uint64_t layers)
{
    char name[200];
    unsigned layer;
    int at = 0;
    if (strcmp(g->name, "token_embd.weight") == 0)
        return add_tensor(s, g, "embed_tokens.weight", HS_CHANGE_NONE, 0, false);
    if (strcmp(g->name, "output.weight") == 0)
        return add_tensor(s, g, "lm_head.weight", HS_CHANGE_NONE, 0, false);
    if (strcmp(g->name, "output_norm.weight") == 0)
        return add_tensor(s, g, "norm.weight", HS_CHANGE_LESS_ONE, 0, false);
    if (sscanf(g->name, "blk.%7u.%n", &layer, &at) == 1 && at) {
        if (layer >= layers) { /* the draft layer */
            s->hf->n_skipped++;
            s->hf->skipped_bytes += g->bytes;
            return HLWQ_OK;
        }
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (strcmp(g->name + at, names[i].from) == 0) {
                snprintf(name, sizeof name, "layers.%u.%s", layer, names[i].to);
                return add_tensor(s, g, name, names[i].change, names[i].heads, names[i].after_keys);
            }
    }
    return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is unknown", s->path, g->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const hs_tensor *)a)->name, ((const hs_tensor *)b)->name);
}

static hlwq_status list_tensors(source *s, uint64_t layers, const hs_log *log)
{
    hs_hf *hf = s->hf;
    void *p;
    uint64_t most = 0, bytes[64] = {0};
    uint32_t weights, block;
    const char *type = "F32";
    char text[80], *copy;
    HS_TRY(hs_arena_array(&hf->arena, s->gguf.n_tensors, sizeof(hs_tensor), &p, s->err));
    hf->tensor = p;
    for (uint32_t i = 0; i < s->gguf.n_tensors; i++) {
        const hs_gguf_tensor *g = &s->gguf.tensor[i];
        HS_TRY(map_tensor(s, g, layers));
        bytes[g->type & 63] += g->bytes;
        if (bytes[g->type & 63] > most && hs_ggml_type(g->type, &weights, &block, &type))
            most = bytes[g->type & 63];
    }
    qsort(hf->tensor, hf->n_tensors, sizeof *hf->tensor, by_name);
    for (uint32_t i = 1; i < hf->n_tensors; i++)
        if (strcmp(hf->tensor[i].name, hf->tensor[i - 1].name) == 0)
            return hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is a duplicate", s->path, hf->tensor[i].name);
    if (hf->n_skipped)
        hs_log_line(log, HLWQ_LOG_INFO, "%s: %u tensors of the draft layer are left out", s->path, hf->n_skipped);
    snprintf(text, sizeof text, "GGUF %s", type);
    HS_TRY(hs_arena_text(&hf->arena, text, strlen(text), &copy, s->err));
    hf->format = copy;
    return HLWQ_OK;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static hlwq_status keep(source *s, hs_text *t, char **text, uint64_t *bytes)
{
    hlwq_status st = t->failed ? hs_fail(s->err, HLWQ_ERR_NOMEM, "%s: no memory for its texts", s->path)
                     : t->data ? hs_arena_text(&s->hf->arena, t->data, t->bytes, text, s->err)
                               : HLWQ_OK;
    *bytes = t->bytes;
    hs_text_close(t);
    return st;
}

static hlwq_status make_texts(source *s, uint64_t *layers, const hs_log *log)
{
    hs_hf *hf = s->hf;
    hs_text config = {0}, tokenizer = {0};
    const hs_gguf_value *template = find(s, "tokenizer.chat_template");
    hlwq_status st = write_config(s, &config, layers), st2 = keep(s, &config, &hf->config_text, &hf->config_bytes);
    HS_TRY(st);
    HS_TRY(st2);
    st = write_tokenizer(s, &tokenizer);
    st2 = keep(s, &tokenizer, &hf->tokenizer_text, &hf->tokenizer_bytes);
    HS_TRY(st);
    HS_TRY(st2);
    if (template && template->type == STRING) {
        HS_TRY(hs_arena_text(&hf->arena, (const char *)template->data, template->n, &hf->template_text, s->err));
        hf->template_bytes = template->n;
    }
    HS_TRY(hs_config_parse(&hf->config, hf->config_text, hf->config_bytes, s->path, log, s->err));
    hf->generation = hs_generation_default();
    return HLWQ_OK;
}

/* The header of a file, which *text holds: the caller's to free. */
static hlwq_status parse_file(const source *s, uint32_t file, hs_gguf *gguf, void **text)
{
    hs_hf *hf = s->hf;
    const uint64_t bytes = hs_min_u64(hf->file[file].bytes, HEADER_MAX);
    HS_TRY(hs_mem_alloc(hf->arena.mem, HS_MEM_TABLE, bytes + 1, "GGUF header", text, s->err));
    hlwq_status st = hs_file_read(&hf->file[file], 0, *text, bytes, hf->path[file], s->err);
    return st == HLWQ_OK ? hs_gguf_parse(gguf, *text, bytes, hf->file[file].bytes, hf->path[file], &hf->arena, s->err)
                         : st;
}

/* ---- pieces --------------------------------------------------------------------------------- */

enum { PIECE_NAME = 20, PIECES_MAX = 4096 }; /* "-00001-of-00003.gguf" */

/* Where that ending begins, and what it says; NULL if the path has another. */
static const char *piece_ending(const char *path, uint32_t *number, uint32_t *count)
{
    size_t n = strlen(path);
    int end = 0;
    unsigned a, b;
    const char *at = path + n - (n > PIECE_NAME ? PIECE_NAME : 0);
    if (n <= PIECE_NAME || sscanf(at, "-%5u-of-%5u.gguf%n", &a, &b, &end) != 2 || end != PIECE_NAME)
        return NULL;
    *number = a;
    *count = b;
    return at;
}

static hlwq_status piece_path(hs_hf *hf, const char *first, uint32_t number, char **path, hlwq_error *err)
{
    uint32_t a, count;
    char text[PIECE_NAME + 1];
    const char *at = piece_ending(first, &a, &count);
    HS_TRY(hs_arena_text(&hf->arena, first, strlen(first), path, err));
    if (!at)
        return HLWQ_OK;
    snprintf(text, sizeof text, "-%05u-of-%05u.gguf", number % 100000, count % 100000);
    memcpy(*path + (at - first), text, PIECE_NAME);
    return HLWQ_OK;
}

/* split.no and split.count are two bytes. */
static uint32_t small_value(const hs_gguf *g, const char *key)
{
    uint16_t v = 0;
    for (uint32_t i = 0; i < g->n_values; i++)
        if (strcmp(g->value[i].key, key) == 0 && g->value[i].bytes == 2)
            memcpy(&v, g->value[i].data, 2);
    return v;
}

/* Opens piece `number`, counted from 0, and appends its tensors; *capacity of the list grows. */
static hlwq_status add_piece(source *s, uint32_t number, uint32_t count, uint64_t *capacity)
{
    hs_hf *hf = s->hf;
    hs_gguf g = {0};
    void *text = NULL, *p;
    HS_TRY(piece_path(hf, s->path, number + 1, &hf->path[number], s->err));
    hlwq_status st = hs_file_open(&hf->file[number], hf->path[number], s->err);
    if (st != HLWQ_OK)
        return hs_fail_in(s->err, st, "%s is the first of %u pieces (download not finished?)", s->path, count);
    hf->n_files = number + 1;
    st = parse_file(s, number, &g, &text);
    if (st == HLWQ_OK && (small_value(&g, "split.no") != number || small_value(&g, "split.count") != count))
        st = hs_fail(s->err, HLWQ_ERR_FORMAT, "%s says that it is piece %u of %u, should be %u of %u", hf->path[number],
                     small_value(&g, "split.no") + 1, small_value(&g, "split.count"), number + 1, count);
    uint64_t n = (uint64_t)s->gguf.n_tensors + g.n_tensors;
    if (st == HLWQ_OK && n > *capacity) {
        *capacity = 2 * n;
        st = n < UINT32_MAX / 2 ? hs_arena_array(&hf->arena, *capacity, sizeof(hs_gguf_tensor), &p, s->err)
                                : hs_fail(s->err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " tensors are too many", s->path, n);
        if (st == HLWQ_OK) {
            memcpy(p, s->gguf.tensor, s->gguf.n_tensors * sizeof(hs_gguf_tensor));
            s->gguf.tensor = p;
        }
    }
    for (uint32_t i = 0; st == HLWQ_OK && i < g.n_tensors; i++) {
        s->gguf.tensor[s->gguf.n_tensors] = g.tensor[i];
        s->gguf.tensor[s->gguf.n_tensors++].file = number;
    }
    hs_mem_free(hf->arena.mem, text);
    return st;
}

static hlwq_status add_pieces(source *s)
{
    hs_hf *hf = s->hf;
    const uint32_t count = small_value(&s->gguf, "split.count");
    uint32_t number, named;
    uint64_t capacity = s->gguf.n_tensors;
    hs_file *file = hf->file;
    char **path = hf->path;
    void *p;
    if (count <= 1)
        return HLWQ_OK;
    if (small_value(&s->gguf, "split.no") != 0 || !piece_ending(s->path, &number, &named) || number != 1 ||
        named != count || count > PIECES_MAX)
        return hs_fail(s->err, HLWQ_ERR_FORMAT,
                       "%s is piece %u of %u, but its name does not end in -00001-of-%05u.gguf, from which the others "
                       "are found",
                       s->path, small_value(&s->gguf, "split.no") + 1, count, count);
    HS_TRY(hs_arena_array(&hf->arena, count, sizeof(hs_file), &p, s->err));
    memcpy(p, file, sizeof *file);
    hf->file = p;
    HS_TRY(hs_arena_array(&hf->arena, count, sizeof(char *), &p, s->err));
    memcpy(p, path, sizeof *path);
    hf->path = p;
    for (uint32_t i = 1; i < count; i++)
        HS_TRY(add_piece(s, i, count, &capacity));
    return HLWQ_OK;
}

static hlwq_status read_header(source *s, const hs_log *log)
{
    uint64_t layers = 0;
    void *text = NULL;
    hlwq_status st = parse_file(s, 0, &s->gguf, &text);
    const hs_gguf_value *arch = st == HLWQ_OK ? find(s, "general.architecture") : NULL;
    uint64_t n = arch && arch->type == STRING && arch->n < sizeof s->arch ? arch->n : 0;
    memcpy(s->arch, n ? (const char *)arch->data : "", n);
    if (st == HLWQ_OK && strcmp(s->arch, "qwen35") != 0 && strcmp(s->arch, "qwen35moe") != 0)
        st = hs_fail(s->err, HLWQ_ERR_UNSUPPORTED,
                     "%s: GGUF of the architecture \"%.30s\", read are qwen35 and qwen35moe", s->path, s->arch);
    if (st == HLWQ_OK)
        st = add_pieces(s);
    if (st == HLWQ_OK)
        st = make_texts(s, &layers, log);
    if (st == HLWQ_OK)
        st = list_tensors(s, layers, log);
    hs_mem_free(s->hf->arena.mem, text);
    return st;
}

static hlwq_status open_file(hs_hf *hf, const char *path, const hs_log *log, hlwq_error *err)
{
    source s = {.hf = hf, .path = path, .err = err};
    char *copy;
    void *p;
    HS_TRY(piece_path(hf, path, 1, &copy, err)); /* any piece names all of them */
    s.path = hf->dir = hf->text_dir = copy;
    HS_TRY(hs_arena_array(&hf->arena, 1, sizeof(hs_file), &p, err));
    hf->file = p;
    HS_TRY(hs_arena_array(&hf->arena, 1, sizeof(char *), &p, err));
    hf->path = p;
    hf->path[0] = copy;
    HS_TRY(hs_file_open(&hf->file[0], copy, err));
    hf->n_files = 1;
    HS_TRY(read_header(&s, log));
    return hs_hf_check(hf, log, err);
}

hlwq_status hs_gguf_open(hs_hf *hf, hs_mem *mem, const char *path, const hs_log *log, hlwq_error *err)
{
    *hf = (hs_hf){0};
    hs_arena_init(&hf->arena, mem, HS_MEM_TABLE);
    hlwq_status st = open_file(hf, path, log, err);
    if (st != HLWQ_OK)
        hs_hf_close(hf);
    return st;
}

bool hs_gguf_is(const char *path)
{
    return hs_file_begins(path, "GGUF", 4);
}
