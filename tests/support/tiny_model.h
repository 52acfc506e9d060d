/*
 * tests/support/tiny_model.h - the model of Appendix A (specs/qwen35.md) written as a Hugging Face directory.
 *
 * Weights come from an integer hash of (tensor number, element), so the whole model is this file.
 */
#ifndef HS_TESTS_TINY_MODEL_H
#define HS_TESTS_TINY_MODEL_H

#include "base/text.h"
#include "tests/support/check.h"

#include <sys/stat.h>
#include <unistd.h>

typedef struct tiny_writer {
    hs_text header, data;
    uint32_t tensors;
    double sum;
} tiny_writer;

static inline float tiny_weight(uint32_t n, uint32_t i, float scale, float off)
{
    uint32_t x = i * 2654435761u + n * 40503u + 12345u;
    x ^= x >> 16;
    x *= 2246822519u;
    x ^= x >> 13;
    x *= 3266489917u;
    x ^= x >> 16;
    float u = (float)((double)(x >> 8) / 16777216.0 - 0.5);
    return off + scale * u;
}

/* shape as "[32, 64]" text, n elements. */
static inline void tiny_tensor(tiny_writer *w, const char *name, const char *shape, uint32_t n, float scale, float off)
{
    size_t from = w->data.bytes;
    w->tensors++;
    for (uint32_t i = 0; i < n; i++) {
        float v = tiny_weight(w->tensors, i, scale, off);
        w->sum += v;
        hs_text_add(&w->data, (const char *)&v, 4);
    }
    hs_text_format(&w->header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                   w->tensors > 1 ? "," : "{", name, shape, from, w->data.bytes);
}

/* Of the next model written: 16, or more. */
static uint32_t tiny_head = 16;

/* A matrix of attention. */
static inline void tiny_heads(tiny_writer *w, const char *name, uint32_t rows, uint32_t cols, float scale)
{
    char shape[32];
    snprintf(shape, sizeof shape, "[%u,%u]", rows, cols);
    tiny_tensor(w, name, shape, rows * cols, scale, 0);
}

static inline void tiny_layer(tiny_writer *w, int layer, bool moe)
{
    char name[128];
#define T(suffix, shape, n, scale, off)                                                                                \
    (snprintf(name, sizeof name, "model.layers.%d.%s", layer, suffix), tiny_tensor(w, name, shape, n, scale, off))
    T("input_layernorm.weight", "[32]", 32, 0.5f, 0);
    if (layer == 3) {
        char norm[32];
        snprintf(norm, sizeof norm, "[%u]", tiny_head);
        tiny_heads(w, "model.layers.3.self_attn.q_proj.weight", 8 * tiny_head, 32, 0.6f);
        tiny_heads(w, "model.layers.3.self_attn.k_proj.weight", 2 * tiny_head, 32, 0.6f);
        tiny_heads(w, "model.layers.3.self_attn.v_proj.weight", 2 * tiny_head, 32, 0.6f);
        tiny_heads(w, "model.layers.3.self_attn.o_proj.weight", 32, 4 * tiny_head, 0.4f);
        T("self_attn.q_norm.weight", norm, tiny_head, 0.5f, 0);
        T("self_attn.k_norm.weight", norm, tiny_head, 0.5f, 0);
    } else {
        T("linear_attn.in_proj_qkv.weight", "[128,32]", 4096, 0.6f, 0);
        T("linear_attn.in_proj_z.weight", "[64,32]", 2048, 0.6f, 0);
        T("linear_attn.in_proj_b.weight", "[4,32]", 128, 0.6f, 0);
        T("linear_attn.in_proj_a.weight", "[4,32]", 128, 0.6f, 0);
        T("linear_attn.conv1d.weight", "[128,1,4]", 512, 1.0f, 0);
        T("linear_attn.A_log", "[4]", 4, 2.0f, 0);
        T("linear_attn.dt_bias", "[4]", 4, 1.0f, -1.0f);
        T("linear_attn.norm.weight", "[16]", 16, 0.5f, 1.0f);
        T("linear_attn.out_proj.weight", "[32,64]", 2048, 0.4f, 0);
    }
    T("post_attention_layernorm.weight", "[32]", 32, 0.5f, 0);
    if (moe) {
        T("mlp.gate.weight", "[8,32]", 256, 1.0f, 0);
        T("mlp.experts.gate_up_proj", "[8,48,32]", 12288, 0.6f, 0);
        T("mlp.experts.down_proj", "[8,32,24]", 6144, 0.6f, 0);
        T("mlp.shared_expert.gate_proj.weight", "[16,32]", 512, 0.6f, 0);
        T("mlp.shared_expert.up_proj.weight", "[16,32]", 512, 0.6f, 0);
        T("mlp.shared_expert.down_proj.weight", "[32,16]", 512, 0.6f, 0);
        T("mlp.shared_expert_gate.weight", "[1,32]", 32, 0.6f, 0);
    } else {
        T("mlp.gate_proj.weight", "[48,32]", 1536, 0.6f, 0);
        T("mlp.up_proj.weight", "[48,32]", 1536, 0.6f, 0);
        T("mlp.down_proj.weight", "[32,48]", 1536, 0.6f, 0);
    }
#undef T
}

static inline void tiny_file(const char *dir, const char *name, const char *data, size_t bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

/* Of the next model written. */
static uint32_t tiny_vocab = 40;

/* Writes the model into `dir` (created); returns the sum of all weights. */
static inline double tiny_model_write(const char *dir, bool moe)
{
    tiny_writer w = {0};
    hs_text config = {0}, file = {0};
    char table[32];
    snprintf(table, sizeof table, "[%u,32]", tiny_vocab);
    mkdir(dir, 0777);
    tiny_tensor(&w, "model.embed_tokens.weight", table, tiny_vocab * 32, 2.0f, 0);
    for (int i = 0; i < 4; i++)
        tiny_layer(&w, i, moe);
    tiny_tensor(&w, "model.norm.weight", "[32]", 32, 0.5f, 0);
    tiny_tensor(&w, "lm_head.weight", table, tiny_vocab * 32, 1.0f, 0);
    hs_text_add(&w.header, "}", 1);

    uint64_t header = w.header.bytes;
    hs_text_add(&file, (const char *)&header, 8);
    hs_text_add(&file, w.header.data, w.header.bytes);
    hs_text_add(&file, w.data.data, w.data.bytes);
    hs_text_format(
        &config,
        "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"vocab_size\":%u,\"hidden_size\":32,"
        "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":%u,"
        "\"hidden_act\":\"silu\",\"max_position_embeddings\":512,\"rms_norm_eps\":1e-6,"
        "\"tie_word_embeddings\":false,\"linear_conv_kernel_dim\":4,\"linear_key_head_dim\":16,"
        "\"linear_value_head_dim\":16,\"linear_num_key_heads\":2,\"linear_num_value_heads\":4,"
        "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000000,\"partial_rotary_factor\":0.25},",
        moe ? "Qwen3_5MoeForCausalLM" : "Qwen3_5ForCausalLM", moe ? "qwen3_5_moe_text" : "qwen3_5_text", tiny_vocab,
        tiny_head);
    if (moe)
        hs_text_format(&config, "\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":24,"
                                "\"shared_expert_intermediate_size\":16}");
    else
        hs_text_format(&config, "\"intermediate_size\":48}");
    assert_false(w.header.failed || w.data.failed || file.failed || config.failed);
    tiny_file(dir, "model.safetensors", file.data, file.bytes);
    tiny_file(dir, "config.json", config.data, config.bytes);
    hs_text_close(&w.header);
    hs_text_close(&w.data);
    hs_text_close(&file);
    hs_text_close(&config);
    return w.sum;
}

/* Of tiny_model_write. */
static inline void tiny_model_remove(const char *dir)
{
    static const char *const name[] = {"model.safetensors", "config.json"};
    for (int i = 0; i < 2; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        unlink(path);
    }
    rmdir(dir);
}

#endif
