/*
 * kernels/backend.h - the arithmetic of a network, stage by stage, behind one table of functions.
 *
 * A stage takes a batch of `n` tokens at consecutive positions and adds its result to the residual stream
 * x [n][hidden] fp32.  The backend owns its scratch memory, sized at open, so a stage allocates nothing.
 * Weights and states are lent by the caller.  A NULL entry means that the backend cannot; it is refused at open.
 */
#ifndef HS_KERNELS_BACKEND_H
#define HS_KERNELS_BACKEND_H

#include "base/kv_format.h"
#include "base/mem.h"
#include "base/threads.h"
#include "kernels/matrix.h"
#include "kernels/sample.h"

enum {
    HS_GRID = 64,       /* absolute positions at which attention splits and DeltaNet chunks are cut */
    HS_BATCH_MAX = 512, /* tokens of one stage call */
    HS_EXPERTS_PER_TOKEN_MAX = 64,
    HS_ROWS_MAX = 8 /* texts that take a step together */
};

/*
 * Keys and values of one layer, in pages of HS_GRID positions (base/kv_format.h).  With `coded`, a query at position p
 * reads page b in codes if b + 2 <= p / HS_GRID, and page[b] exists only from the second page before the batch on;
 * the attention stage codes page b when position (b + 2) HS_GRID is appended.
 */
typedef struct hs_kv_view {
    void *const *page;
    hs_dtype dtype;      /* of page: F16 or F32 */
    void *const *coded;  /* NULL = all pages are plain */
    hs_kv_layout layout; /* of the coded ones */
    uint32_t ring;       /* page b, plain, is in place b % ring of a row; 0 = find out */

    /*
     * Where stages work on memory of their own: the address of page b of the kind that grows, coded of a coded cache,
     * is there at table[b * table_step], 64 bits; NULL = such pages lie in a row.
     */
    const void *table;
    uint32_t table_step;

    /*
     * Pages 0..away-1, coded ones of a coded cache, are not in memory but come some at a time, in order: next says that
     * pages from..*end-1 can be read until it is called again; in memory of the backend's own they lie in a row then.
     * NULL = none ever is.
     */
    uint32_t away;
    hlwq_status (*next)(void *user, uint32_t from, uint32_t *end, hlwq_error *err);
    void *user;
    uint32_t from, end; /* inner loops: only these pages, if end is not 0; what is not done yet waits in the output, */
    float *carry;       /* and here [n][group][2] */
} hs_kv_view;

typedef struct hs_attention {
    const float *norm; /* [hidden], zero-centred, as all norms here but delta's */
    hs_matrix q, k, v, o;
    const float *q_norm, *k_norm; /* [head_dim] */
    uint32_t q_heads, kv_heads, head_dim, rotary_dims;
    const float *inv_freq; /* [rotary_dims / 2] */
    float rope_scale;      /* of cos and sin: 1, or what YaRN wants */
    float eps;
} hs_attention;

typedef struct hs_delta {
    const float *norm; /* [hidden] */
    hs_matrix qkv, z, b, a, out;
    const float *conv;            /* [channels][taps] */
    const float *a_log, *dt_bias; /* [v_heads] */
    const float *out_norm;        /* [v_dim], plain */
    uint32_t k_heads, v_heads, k_dim, v_dim, taps;
    float eps;
} hs_delta;

/* What a DeltaNet layer remembers. */
typedef struct hs_delta_state {
    float *s;    /* [v_heads][k_dim][v_dim] */
    float *conv; /* [taps - 1][channels]: raw inputs, oldest first */
} hs_delta_state;

/*
 * Beside it, what a window of tokens that may yet be taken back has done, row by row; see deltanet_window.  All in the
 * backend's memory.
 */
typedef struct hs_delta_window {
    float *raw;   /* [taps - 1 + tokens][channels]: what went into the convolution; the first taps - 1 are scratch */
    float *mix;   /* [tokens][channels]: queries, keys and values */
    float *gates; /* [tokens][2][v_heads]: write strength and log-decay */
} hs_delta_window;

typedef struct hs_ffn {
    hs_matrix gate, up, down;
} hs_ffn;

/*
 * The first rows of a dense layer's matrices, in ordinary memory, which the CPU computes of it; rows 0 = none.  Gate
 * and up have as many.  All are packed, none gathers.
 */
typedef struct hs_split {
    hs_matrix in[4]; /* of the mixer, as it takes them: q, k and v, or qkv and z */
    hs_matrix out;   /* o, or out */
    hs_ffn ffn;
} hs_split;

enum { HS_SPLIT_TOKENS = 8 };

/* What a draft head is fed: one projection of a token's embedding and the hidden state before it. */
typedef struct hs_joint {
    const float *embed_norm, *hidden_norm; /* [hidden] */
    hs_matrix fc;                          /* [hidden][2 hidden]: embedding first */
    float eps;
} hs_joint;

typedef struct hs_mixture {
    const float *norm; /* [hidden] */
    hs_matrix router;
    hs_ffn shared;        /* shared.gate.rows 0 = none */
    hs_matrix shared_mix; /* [1][hidden] */
    uint32_t experts, used;
    float eps;

    /* Its row of the backend's table, and an expert's matrices as they would be if its extent lay at `base`. */
    uint32_t row;
    hs_ffn each;
    const uint8_t *base; /* NULL = it is in no table */

    const struct hs_mixture *next; /* the layer after this one, whose choice can be guessed; NULL = none */
} hs_mixture;

/* Chosen experts of n tokens, most probable first, ties by lower id. */
typedef struct hs_routing {
    int32_t *id;   /* [n][used] */
    float *weight; /* [n][used], sums to 1 */

    /*
     * Told by `route`, valid until the next one: [n][used], 0 where the expert is left to ordinary memory, the others
     * are computed already; NULL = whoever has the experts says where they are.
     */
    const uint64_t *found;
    const int32_t *guess; /* likewise: [used], what the next layer's router would choose now; NULL = ask `guess` */
} hs_routing;

/* Largest dimensions of a model: what scratch memory is sized by. */
typedef struct hs_limits {
    uint32_t hidden, vocab;
    uint32_t q_width;  /* rows of the q projection */
    uint32_t kv_width; /* kv_heads * head_dim */
    uint32_t group;    /* q heads per kv head */
    uint32_t head_dim;
    uint32_t channels, v_width, v_heads, k_dim, v_dim; /* DeltaNet */
    uint32_t ffn_rows;      /* feed-forwards that a token visits: 1, or used experts and the shared one */
    uint32_t ffn_width;     /* widest of them */
    uint32_t experts, used; /* 0 for dense */
    uint32_t layers;
    uint32_t mixtures; /* layers of experts: rows of a backend's table of them */
    uint32_t dtypes;   /* of its matrices: bits 1 << hs_dtype */
    bool ordered;      /* some gather their inputs: have an order of columns, or factors */
    bool joins;        /* it has a draft head */
    uint32_t batch;    /* most tokens of one stage call, <= HS_BATCH_MAX; 0 = HS_BATCH_MAX */
} hs_limits;

/* Where weights are: with the backend, or in ordinary memory beside it. The same for the CPU. */
typedef enum hs_place { HS_PLACE_HERE, HS_PLACE_HOST } hs_place;

/*
 * Experts as they come into memory.  next: ids of chosen experts whose weights can be used until the call after, each
 * once over all calls, all in one place; *n 0 = that was all.
 */
typedef struct hs_expert_source {
    hlwq_status (*next)(void *user, const int32_t **id, uint32_t *n, hs_place *place, hlwq_error *err);
    void *user;
} hs_expert_source;

/* A token of the text so far, and how often it occurs where penalties look. */
typedef struct hs_repeat {
    int32_t id;
    uint32_t count;
} hs_repeat;

/* One id below `usable`, by its logit: penalties, times scale, the top_k best of them, and what the rule draws. */
typedef struct hs_selection {
    uint32_t usable, top_k; /* top_k 0 = all; at most HS_SAMPLE_MOST */
    float scale;            /* 0 = the best after penalties, ties to the lower id */
    hs_sampling_rule rule;
    float repetition, presence, frequency;
    const hs_repeat *repeat; /* [n_repeats], each id once */
    uint32_t n_repeats;
} hs_selection;

enum { HS_UNDECIDED = -2 };

/*
 * Where a text has what it remembers.  The states, windows, tables and pages that stages are given of it lie behind
 * these: states and windows of a layer at the same distance for all texts.
 */
typedef struct hs_bases {
    const void *states, *window; /* of DeltaNet; window NULL = it has none */
    const void *pages, *ring;    /* the table of pages that grow, or these in a row; plain ones in a row */
} hs_bases;

/*
 * What comes again and again with the same stages in the same order, so that they can be recorded and played back for
 * any text: `n` tokens, a window of one text from position[0] on; a token at position[t] of each of n texts; the end of
 * a window, n of whose tokens are kept; a draft head's n pairs, whose logits follow.
 */
typedef enum hs_step_kind { HS_STEP_TOKENS, HS_STEP_TEXTS, HS_STEP_KEEP, HS_STEP_DRAFT } hs_step_kind;

typedef struct hs_step {
    hs_step_kind kind;
    uint32_t n;
    const uint32_t *position; /* NULL = of KEEP */
    const hs_bases *text;     /* of TEXTS, of each */
    bool beside;              /* experts that `route` does not find are given in ordinary memory, all of them */
    bool guesses;             /* then: `route` guesses the next layer's choice as well, if there is one token */
} hs_step;

typedef struct hs_backend hs_backend;

typedef struct hs_backend_ops {
    const char *name;
    uint32_t kv_formats; /* that it keeps keys and values in: bits 1 << hs_dtype */
    void (*close)(hs_backend *be);

    /*
     * Memory that stages work on: x, states, pages, weights.  alloc gives zeros, 4096-byte aligned from 1 MiB on; put
     * and get copy from and to ordinary memory and are done when they return, after all that was asked for before.
     */
    hlwq_status (*alloc)(hs_backend *be, hs_mem_tag tag, uint64_t bytes, const char *what, void **out, hlwq_error *err);
    void (*free)(hs_backend *be, void *p); /* NULL is fine */
    hlwq_status (*put)(hs_backend *be, void *to, const void *from, uint64_t bytes, hlwq_error *err);
    hlwq_status (*get)(hs_backend *be, void *to, const void *from, uint64_t bytes, hlwq_error *err);
    hlwq_status (*clear)(hs_backend *be, void *p, uint64_t bytes, hlwq_error *err);

    /*
     * Weights that come while stages run; all NULL where stages work on ordinary memory.  lend: ordinary memory that
     * uploads will read, until it is taken back.  mark: the stages asked for so far.  upload copies, when the stages
     * of mark `after` are done with `to`, and numbers the copy; `from` must stay until it is `uploaded` (true; `wait`
     * makes it so). await: stages asked for from now on come after that copy.  Numbers rise, and copies are done in
     * their order.
     */
    void (*lend)(hs_backend *be, void *p, uint64_t bytes);
    void (*take_back)(hs_backend *be, void *p); /* not lent is fine */
    hlwq_status (*mark)(hs_backend *be, uint64_t *mark, hlwq_error *err);
    hlwq_status (*upload)(hs_backend *be, void *to, const void *from, uint64_t bytes, uint64_t after, uint64_t *copy,
                          hlwq_error *err);
    hlwq_status (*await)(hs_backend *be, uint64_t copy, hlwq_error *err);
    bool (*uploaded)(hs_backend *be, uint64_t copy, bool wait);

    /*
     * The backend's own table of experts; NULL = it has none.  Of layer `row`, `count` experts from `first` on are
     * found at `at` and then every `stride` bytes by stages asked for from now on; at NULL = they are not to be found.
     * Whoever says so has made sure that what is there is whole, and stays until it is taken back and stages that may
     * have found it are done: as with `expert` of a stage.
     */
    hlwq_status (*place)(hs_backend *be, uint32_t row, uint32_t first, uint32_t count, const void *at, uint64_t stride,
                         hlwq_error *err);

    /*
     * The stages that follow, until logits or another embedding are asked for, are those of that step.  *on false: they
     * are asked for one by one, and nothing changes; NULL = always.  While it is on, `route` takes experts from the
     * table and computes what it finds there; `experts` the rest.
     */
    hlwq_status (*step)(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err);

    /* x[t] = row ids[t] of the table, which is in ordinary memory. */
    hlwq_status (*embed)(hs_backend *be, const hs_matrix *table, const int32_t *ids, uint32_t n, float *x,
                         hlwq_error *err);

    /* x += attention(norm(x)); appends to kv at first..first + n - 1, whose pages must exist. */
    hlwq_status (*attention)(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, uint32_t first, uint32_t n,
                             float *x, hlwq_error *err);

    /* x += deltanet(norm(x)); advances the state. A lone token uses the recurrence, several the chunked form. */
    hlwq_status (*deltanet)(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t first, uint32_t n,
                            float *x, hlwq_error *err);

    /*
     * The two of them for lone tokens of `n` <= HS_ROWS_MAX texts: row t of x is at position[t] of the text that has
     * kv[t] or state[t].  The bits are those of a call for each.  NULL = the network makes these calls.
     */
    hlwq_status (*attention_rows)(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, const uint32_t *position,
                                  uint32_t n, float *x, hlwq_error *err);
    hlwq_status (*deltanet_rows)(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t n, float *x,
                                 hlwq_error *err);

    /* x += ffn(norm(x)) */
    hlwq_status (*dense)(hs_backend *be, const float *norm, float eps, const hs_ffn *w, uint32_t n, float *x,
                         hlwq_error *err);

    /*
     * From now on, mixers and feed-forwards get matrices whose first rows are not with the backend: the CPU computes
     * these, of n <= HS_SPLIT_TOKENS and in no step.  NULL = whole ones again; no such entry where stages work on
     * ordinary memory.
     */
    void (*split)(hs_backend *be, const hs_split *split);

    /* Chooses experts for norm(x). The normed activations stay with the backend for the experts call that follows. */
    hlwq_status (*route)(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                         hlwq_error *err);

    /* As route, for a layer further on: a guess at its choice from an earlier x. Disturbs nothing. */
    hlwq_status (*guess)(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                         hlwq_error *err);

    /*
     * x += sum over rank of weight * expert + sigmoid(shared gate) * shared. expert[id] is valid where `source` gave
     * id last. In which order they come does not show in x.
     */
    hlwq_status (*experts)(hs_backend *be, const hs_mixture *w, const hs_ffn *expert, const hs_expert_source *source,
                           uint32_t n, const hs_routing *routing, float *x, hlwq_error *err);

    /*
     * route and experts of a step, where all of a layer's experts are in the table: nobody waits for the choice.
     * *done false: it cannot, and nothing has changed.  *visited: how many experts that were, known once the step's
     * logits have come.
     */
    hlwq_status (*mixture)(hs_backend *be, const hs_mixture *w, uint32_t n, float *x, uint32_t *visited, bool *done,
                           hlwq_error *err);

    /*
     * logits [n][vocab] = head norm(x); `hidden` [n][hidden] gets norm(x) if not NULL.  With n = 1 and a backend that
     * has `choose`, logits may be NULL: they stay where they are.
     */
    hlwq_status (*head)(hs_backend *be, const float *norm, float eps, const hs_matrix *head, uint32_t n, const float *x,
                        float *hidden, float *logits, hlwq_error *err);

    /*
     * A choice among the logits that stayed: -1 if none is a number, HS_UNDECIDED if it takes more candidates than the
     * backend puts in order.  `logits` brings them, then.
     */
    hlwq_status (*choose)(hs_backend *be, const hs_selection *choice, int32_t *id, hlwq_error *err);
    hlwq_status (*logits)(hs_backend *be, uint32_t n, float *logits, hlwq_error *err);

    /* ---- speculation: a backend that has none of these runs without it ---- */

    /*
     * x += deltanet(norm(x)) for n tokens of which only the first is sure: each by the recurrence, with the bits of a
     * lone token.  The first one's step is taken in state->s; what the others and the convolution would do is kept in
     * `window` until deltanet_keep says how many of the n (the first included) belong to the text.
     */
    hlwq_status (*deltanet_window)(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                   const hs_delta_window *window, uint32_t n, float *x, hlwq_error *err);
    hlwq_status (*deltanet_keep)(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                 const hs_delta_window *window, uint32_t kept, hlwq_error *err);

    /* y = norm(x), both [n][hidden] in the backend's memory. */
    hlwq_status (*norm)(hs_backend *be, const float *norm, float eps, uint32_t n, const float *x, float *y,
                        hlwq_error *err);

    /* x[t] = fc [norm of x[t], an embedding; norm of h[t]]: what the layer of a draft head begins with. */
    hlwq_status (*join)(hs_backend *be, const hs_joint *w, uint32_t n, const float *h, float *x, hlwq_error *err);
} hs_backend_ops;

struct hs_backend {
    const hs_backend_ops *ops;
};

enum { HS_WINDOW_MAX = 8 /* tokens of a window */ };

static inline bool hs_backend_speculates(const hs_backend *be)
{
    return be->ops->deltanet_window && be->ops->deltanet_keep && be->ops->norm && be->ops->join;
}

typedef struct hs_cpu_options {
    bool exact; /* packed matrices compute from dequantised fp32 weights */
} hs_cpu_options;

/* The CPU. Runs on `pool` (lent); scratch comes from `mem`. HLWQ_CPU=ref|avx2 forces a kernel set. */
hlwq_status hs_backend_cpu_open(hs_backend **be, hs_mem *mem, hs_pool *pool, const hs_limits *limits,
                                const hs_cpu_options *options, hlwq_error *err);

/*
 * Sees what every product of the CPU multiplies: rows token[0..n-1] (NULL = 0..n-1) of x [..][w->cols].  For those who
 * collect inputs; see NULL = nobody.
 */
typedef struct hs_watch {
    void (*see)(void *user, const hs_matrix *w, const float *x, const uint32_t *token, uint32_t n);
    void *user;
} hs_watch;
void hs_backend_cpu_watch(hs_backend *cpu, const hs_watch *watch);

/* Scratch bytes that hs_backend_cpu_open takes. */
uint64_t hs_backend_cpu_bytes(const hs_limits *limits, uint32_t threads);

/* What runs where: "ref", "avx2". */
const char *hs_backend_cpu_isa(void);

/*
 * The CPU beside another backend: feed-forwards of experts in ordinary memory.  u [n][hidden] are normed activations;
 * rows start[id]..start[id + 1] - 1 of `list` say which of them expert `id` gets, and of y [..][hidden] where its
 * results go.
 */
void hs_backend_cpu_lane(hs_backend *cpu, const float *u, uint32_t n, const hs_ffn *expert, const int32_t *id,
                         uint32_t n_ids, const uint32_t *start, const uint32_t *list, float *y);

/*
 * And rows of a layer that is split, as many as the matrices have here: h [n][stride] = silu(gate u) * up u, and
 * y [n][rows of all] = W x of `count` <= 4 matrices, where those without rows take no part.
 */
void hs_backend_cpu_hidden(hs_backend *cpu, const hs_ffn *w, const float *u, uint32_t n, float *h, size_t stride);
void hs_backend_cpu_products(hs_backend *cpu, const hs_matrix *w, uint32_t count, const float *x, uint32_t n, float *y);

/* Sorts picks [n * used] by expert: expert e's tokens are list[start[e]..start[e + 1] - 1]; slot[i] is where pick i
 * went. */
void hs_sort_picks(const int32_t *id, uint32_t picks, uint32_t used, uint32_t experts, uint32_t *start, uint32_t *list,
                   uint32_t *slot);

typedef struct hs_cuda_options {
    hs_mem *mem;     /* ordinary memory: staging */
    hs_mem *vram;    /* charged for what the card holds; its cap is the budget */
    hs_backend *cpu; /* for embeddings and experts that are not on the card */
} hs_cuda_options;

/* Whether this build knows graphics cards at all. */
extern const bool hs_backend_cuda_built;

/* Whether there is a card that this build can use, and can run such a model. */
hlwq_status hs_backend_cuda_probe(const hs_limits *limits, hlwq_error *err);

/* Its memory: free for us, and what this process has taken only to be there. Zero where there is none. */
void hs_backend_cuda_room(uint64_t *free_bytes, uint64_t *context_bytes);

/* What the card is, and the fastest of a few copies of `bytes` bytes on it and to it. */
typedef struct hs_card_facts {
    char name[256];
    uint32_t major, minor;
    uint64_t total_bytes, free_bytes;
    double memory_bytes_per_second; /* read and written */
    double upload_bytes_per_second; /* from pinned memory */
} hs_card_facts;

hlwq_status hs_backend_cuda_measure(hs_card_facts *facts, uint64_t bytes, hlwq_error *err);

/* A graphics card; all lent. HLWQ_ERR_UNSUPPORTED with one sentence where there is none, or the build knows none. */
hlwq_status hs_backend_cuda_open(hs_backend **be, const hs_limits *limits, const hs_cuda_options *options,
                                 hlwq_error *err);

enum {
    HS_CARD_LOGITS = 8,           /* rows of logits that it makes at once */
    HS_CARD_JOB_BYTES = 64,       /* of a list of experts to compute */
    HS_CARD_CHOICE_BYTES = 20,    /* of an expert that was chosen */
    HS_CARD_VISIT_BYTES = 16,     /* of one to compute now */
    HS_CARD_RING_BYTES = 1 << 20, /* of copies from memory that is not pinned */
    HS_CARD_STEP_TOKENS = 8,      /* most of a step */
    HS_CARD_NODE_BYTES = 8192,    /* what a recorded launch is thought to take, before it is known */
    HS_CARD_SPANS = 8 * 32        /* of attention, for one head: tokens by spans of positions */
};

/*
 * What a driver takes for a block of the card's memory: it has pages of 2 MiB.  Those above half a page have pages to
 * themselves; smaller ones share some, for which one page more than they come to is enough.
 */
#define HS_CARD_PAGE_BYTES (2ull << 20)
uint64_t hs_card_block_bytes(uint64_t bytes);
uint64_t hs_card_shared_bytes(uint64_t bytes); /* of small ones that come to so many */

/*
 * Scratch bytes on the card that it takes; pinned ones in ordinary memory; and bytes that it keeps free on the card for
 * steps that are recorded.
 */
uint64_t hs_backend_cuda_bytes(const hs_limits *limits);
uint64_t hs_backend_cuda_staging_bytes(const hs_limits *limits);
uint64_t hs_backend_cuda_recorded_bytes(const hs_limits *limits);

/* Floats of a token that the CPU exchanges with the card where a dense model's layers are split. */
uint64_t hs_split_width(const hs_limits *limits);

#endif
