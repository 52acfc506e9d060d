/*
 * loader/config.h - config.json of the Qwen3.5 family, checked once; trusted after that.
 */
#ifndef HS_LOADER_CONFIG_H
#define HS_LOADER_CONFIG_H

#include "base/arena.h"
#include "base/log.h"

enum {
    HS_LAYERS_MAX = 512,
    HS_HIDDEN_MAX = 65536,
    HS_WIDTH_MAX = 1 << 20, /* any other dimension of a matrix */
    HS_VOCAB_MAX = 1 << 22,
    HS_EXPERTS_MAX = 4096,
    HS_EXPERTS_USED_MAX = 64,
    HS_HEADS_MAX = 1024,
    HS_HEAD_DIM_MAX = 1024,
    HS_CONV_TAPS_MAX = 8,
    HS_CONTEXT_MAX = 1 << 24,
    HS_STOP_IDS_MAX = 8
};

typedef struct hs_config {
    uint32_t vocab, hidden, layers;
    bool tied;                /* the head is the embedding */
    bool full[HS_LAYERS_MAX]; /* layer i: gated attention (true) or Gated DeltaNet */
    float eps;                /* of every RMS norm */

    /* Gated attention. */
    uint32_t q_heads, kv_heads, head_dim; /* kv_heads divides q_heads */
    uint32_t rotary_dims;                 /* even, at most head_dim */
    double rope_theta;
    struct { /* YaRN; factor 0 = none */
        double factor, beta_fast, beta_slow, attention;
        uint32_t original; /* positions the model was trained to */
        bool truncate;     /* the ramp begins and ends at whole dimensions */
    } yarn;

    /* Gated DeltaNet; zero heads if no layer uses it. */
    uint32_t k_heads, v_heads, k_dim, v_dim, conv_taps; /* k_heads divides v_heads */

    /* Feed-forward: dense (experts == 0) or mixture. shared_width 0 = no shared expert. */
    uint32_t intermediate;
    uint32_t experts, experts_used, expert_width, shared_width;

    uint32_t mtp_layers; /* 0 or 1: as the config says; the tensors may still be absent */
    uint32_t context_max;

    /* From config.json and generation_config.json: the ids that end a text. */
    uint32_t n_stop;
    int32_t stop[HS_STOP_IDS_MAX];
} hs_config;

/* Channels of the DeltaNet convolution: q, k and v. */
static inline uint32_t hs_conv_channels(const hs_config *c)
{
    return 2 * c->k_heads * c->k_dim + c->v_heads * c->v_dim;
}

/* Sampling defaults of generation_config.json; a field it does not set keeps the value it came with. */
typedef struct hs_generation {
    float temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k;
} hs_generation;

/* Before any file has a say. */
static inline hs_generation hs_generation_default(void)
{
    return (hs_generation){.temperature = 0.7f, .top_p = 0.95f, .min_p = 0.0f, .repetition_penalty = 1.0f, .top_k = 20};
}

/* `text` is config.json (`what`, a path, is for sentences). Warnings go to the log. */
hlwq_status hs_config_parse(hs_config *config, const char *text, size_t bytes, const char *what, const hs_log *log,
                            hlwq_error *err);

/* generation_config.json: adds stop ids to `config` and fills `generation`. do_sample false = temperature 0. */
hlwq_status hs_generation_parse(hs_config *config, hs_generation *generation, const char *text, size_t bytes,
                                const char *what, hlwq_error *err);

#endif
