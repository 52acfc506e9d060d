/*
 * model/network.h - a model ready to run: its layers bound to resident weights and to a backend.
 */
#ifndef HS_MODEL_NETWORK_H
#define HS_MODEL_NETWORK_H

#include "cache/trace.h"
#include "kernels/backend.h"
#include "model/routes.h"
#include "model/states.h"
#include "offload/residency.h"

typedef struct hs_layer {
    bool full; /* gated attention, else Gated DeltaNet */
    bool moe;
    hs_attention attention;
    hs_delta delta;
    const float *ffn_norm;
    hs_ffn dense;
    hs_mixture mixture;
    uint32_t group, experts_group; /* of the table */
    uint32_t visited;              /* experts in the step in hand, where only the backend knows which */
} hs_layer;

typedef struct hs_network {
    const hs_table *table;
    const hs_config *config;
    hs_store *store;
    hs_residency *residency;
    hs_backend *backend;
    hs_arena arena;
    hs_matrix embed, head;
    const float *final_norm;
    hs_layer *layer; /* [config->layers], and the draft head's */
    bool drafts;     /* there is a draft head */
    hs_joint joint;
    hs_matrix draft_head; /* of all tokens, or of some */
    int32_t *draft_id;    /* [draft_head.rows]: which; NULL = the first */
    float *draft_logits;  /* [draft_head.rows] of some */
    uint8_t *draft_rows;  /* what draft_head reads then */
    const float *draft_norm;
    float *h;       /* [batch + HS_WINDOW_MAX][hidden]: what the draft head is fed, in the backend's memory */
    hs_ffn *expert; /* [experts]: those of the lease in hand */
    uint32_t batch; /* most tokens of one hs_forward */
    int32_t *pick;  /* [batch][used] */
    float *weight;  /* likewise */
    int32_t *guess; /* [used] */
    float *guess_weight;
    float *inv_freq;        /* [rotary_dims / 2] */
    float *x;               /* [batch][hidden] residual stream, in the backend's memory */
    hs_trace_writer *trace; /* NULL = none is written */
    hs_routes *routes;      /* NULL = the router chooses */
    uint64_t stage_ns[HLWQ_STAGE_COUNT];
    hlwq_speculation speculated; /* of all sessions so far */
} hs_network;

/* What the backend must make room for. */
hs_limits hs_network_limits(const hs_table *table, uint32_t batch);

/* Binds; backend and residency are lent and must outlive it. */
hlwq_status hs_network_init(hs_network *net, hs_store *store, hs_residency *residency, hs_backend *backend, hs_mem *mem,
                            uint32_t batch, hlwq_error *err);
void hs_network_close(hs_network *net);

/* Bytes that hs_network_init takes for a batch, about. */
uint64_t hs_network_bytes(const hs_table *table, uint32_t batch);

/* Points net->expert[id] at weights in memory, for the ids that residency gave. */
void hs_network_bind_experts(hs_network *net, uint32_t group, const int32_t *id, uint32_t n);

/* The same for a layer that is streamed as a whole. */
void hs_network_bind_layer(hs_network *net, uint32_t group);

/* What of that layer the CPU computes, if residency has it do so. */
bool hs_network_bind_split(const hs_network *net, uint32_t group, hs_split *split);

/* A layer, and an expert, whose extents lie at `data`: for those who go without residency. config, store and inv_freq
 * of `net` are read. */
void hs_network_bind_at(const hs_network *net, const hs_group *group, const uint8_t *data, hs_layer *layer);
hs_ffn hs_network_bind_expert_at(const hs_network *net, const hs_group *group, const uint8_t *data);

/* Angles a position turns each pair of rotary dimensions by [rotary_dims / 2]; YaRN where the config asks for it. */
void hs_rope_frequencies(float *out, const hs_config *config);

/* What a test looks at on the way; NULL fields are not wanted. */
typedef struct hs_tap {
    float *layer;  /* [layers + 1][n][hidden]: embeddings, then after each layer */
    int32_t *pick; /* [layers][n][used] */
    float *weight; /* likewise */
    float *hidden; /* [n][hidden] after the final norm */
} hs_tap;

/*
 * Feeds n <= net->batch tokens at positions first... logits [n][vocab] for each token, or with last_only [1][vocab]
 * for the last one, or NULL for none.  `tap` may be NULL.
 */
typedef enum hs_logits_mode { HS_LOGITS_NONE, HS_LOGITS_LAST, HS_LOGITS_ALL } hs_logits_mode;
hlwq_status hs_forward(hs_network *net, hs_states *states, const int32_t *ids, uint32_t first, uint32_t n,
                       hs_logits_mode mode, float *logits, const hs_tap *tap, hlwq_error *err);

/*
 * A choice among the logits that an hs_forward of one row, with logits NULL, left with the backend; see `choose` there.
 * Undecided, `logits` [vocab] gets them.
 */
hlwq_status hs_forward_choose(hs_network *net, const hs_selection *choice, int32_t *id, float *logits, hlwq_error *err);

/* Logits [n][vocab] of tokens from..from + n - 1 of the hs_forward before, which need not have made any. */
hlwq_status hs_forward_head(hs_network *net, uint32_t from, uint32_t n, float *logits, const hs_tap *tap,
                            hlwq_error *err);

/*
 * One token of each of n <= HS_ROWS_MAX texts, ids[t] at position[t] of the text of states[t]: logits [n][vocab], with
 * the bits that hs_forward gives each of them alone.
 */
hlwq_status hs_forward_rows(hs_network *net, hs_states *const *states, const int32_t *ids, const uint32_t *position,
                            uint32_t n, float *logits, hlwq_error *err);

/*
 * The draft head on n <= net->batch pairs of a hidden state, h [n][hidden] in the backend's memory, and the token after
 * it.  If `logits` is given, those after the last pair, and in next [hidden], in the backend's memory, perhaps h, what
 * the next pair would take as its hidden state.  Logits of tokens that the draft head leaves out stay as they are.
 */
hlwq_status hs_forward_draft(hs_network *net, const hs_kv_view *kv, const int32_t *ids, const float *h, uint32_t first,
                             uint32_t n, float *next, float *logits, hlwq_error *err);

/* Weight bytes that decoding one token reads. */
uint64_t hs_network_token_bytes(const hs_table *table);

#endif
