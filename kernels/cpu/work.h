/*
 * kernels/cpu/work.h - the CPU backend's state, and matrix products split over the pool.
 */
#ifndef HS_KERNELS_CPU_WORK_H
#define HS_KERNELS_CPU_WORK_H

#include "kernels/cpu/ops.h"

/* Room for rows of q8 activations: codes [rows][blocks * 128], scales and sums. */
typedef struct hs_q8_buffer {
    int8_t *q;
    float *scale;
    int32_t *sum;
} hs_q8_buffer;

/*
 * Rows that products are made of.  hs_cpu_run quantises them in each form that a matrix needs, when the first such
 * matrix comes; `made` remembers.
 */
typedef struct hs_input {
    const float *x; /* [n][cols] */
    uint32_t cols, n;
    uint32_t made;                         /* bits 1 << form */
    const hs_q8_buffer *form[HS_Q8_FORMS]; /* where each goes */
} hs_input;

/* One product y[t][r] = W x[token t]. Several run as one batch of row bands. */
typedef struct hs_task {
    const hs_matrix *w;
    hs_input *in;
    const uint32_t *token; /* rows of the input, NULL = 0..n-1 */
    uint32_t n;
    float *y;
    size_t stride;
} hs_task;

/* Rows of a task whose matrix gathers: those of its tokens, gathered, in its form; q NULL = it has none. */
typedef struct hs_own_rows {
    hs_q8_buffer q8;
    uint32_t first; /* own rows of the tasks before */
} hs_own_rows;

/* Feed-forward jobs: expert or dense, m rows of u by `token`, rows of h and y from `slot` on. */
typedef struct hs_ffn_job {
    const hs_ffn *w;
    const uint32_t *token; /* NULL = 0..m-1 */
    uint32_t m, slot;
    /* hs_cpu_ffn's. */
    uint32_t row;      /* rows of the jobs before */
    hs_input hidden;   /* what goes down */
    hs_q8_buffer room; /* its q8 form: of one matrix, so of one form */
} hs_ffn_job;

typedef struct hs_cpu {
    hs_backend base;
    hs_mem *mem;
    hs_pool *pool;
    hs_cpu_ops set;
    const hs_cpu_ops *ops; /* = &set */
    hs_limits lim;
    bool exact;
    hs_watch watch;
    void *block; /* all buffers below */

    float *u;                      /* [B][hidden] normed input */
    hs_q8_buffer uq[HS_Q8_FORMS];  /* of u; empty where no matrix of the model needs the form */
    hs_input normed;               /* u as route leaves it for experts */
    float *proj;                   /* [B][widest sum of projections] */
    float *mix;                    /* [B][channels or q_width] convolved or gathered */
    float *out;                    /* [B][v_width or attention width] */
    float *carry;                  /* [B][q heads][2]: attention over pages that come in parts */
    hs_q8_buffer outq;             /* of rows that one matrix reads: any form */
    float *y;                      /* [B][hidden] */
    float *gate, *up;              /* [B * ffn_rows][ffn_width] */
    hs_q8_buffer hq;               /* of gate */
    uint32_t scales;               /* that all of these have room for in a block: 1, or 2 with INT4 */
    float *expert_y;               /* [B * (used + 1)][hidden] */
    float *logit;                  /* [B][experts] router */
    float *shared;                 /* [B] */
    uint32_t *list, *slot, *start; /* tokens by expert; [B * used], [B * used], [experts + 2] */
    hs_ffn_job *job;               /* [experts + 1] */
    hs_task *task;
    hs_own_rows *own;  /* by task; hs_cpu_run's */
    hs_q8_buffer room; /* of the tasks' own rows */
    uint64_t room_blocks;
    uint32_t *task_band; /* first band of each task, and one more */
    float *rope;         /* [B][rotary]: cos then sin */
    uint32_t rope_first, rope_n;
    const float *rope_table;
    float *worker; /* per thread */
    size_t worker_floats;
} hs_cpu;

/* A DeltaNet stage under way. */
typedef struct hs_delta_job {
    hs_cpu *c;
    const hs_delta *w;
    float *s, *conv; /* the state */
    uint32_t first, n, channels;
    const float *qkv, *z; /* [n][channels], [n][v_heads * v_dim] */
    float *b, *a;         /* [n][v_heads]: beta logits, then beta; decay input, then log-decay */
} hs_delta_job;

enum { HS_BAND = 64 };

/* Scratch of one worker. */
static inline float *hs_cpu_scratch(hs_cpu *c, uint32_t worker)
{
    return c->worker + worker * c->worker_floats;
}

static inline hs_cpu *hs_cpu_of(hs_backend *be)
{
    return (hs_cpu *)(void *)be;
}

/* out = norm(x) */
void hs_cpu_norm_rows(hs_cpu *c, const float *x, const float *w, float eps, uint32_t n, float *out);

/* u = norm(x), as the input of several matrices. */
hs_input hs_cpu_normed(hs_cpu *c, const float *x, const float *w, float eps, uint32_t n);

/* Rows that one matrix reads. */
hs_input hs_cpu_input_of_one(const hs_cpu *c, const float *x, uint32_t cols, uint32_t n);

/* x += W a */
void hs_cpu_add_product(hs_cpu *c, const hs_matrix *w, const float *a, uint32_t n, float *x);

/* The products of norm(x), for j->n tokens; then convolution, unit keys and queries, gates. */
void hs_cpu_delta_products(hs_delta_job *j, const float *x);
void hs_cpu_delta_mix(hs_delta_job *j);

/* Token t, head h, of a job's inputs. */
static inline void hs_cpu_delta_at(const hs_delta *w, const float *mix, uint32_t channels, uint32_t t, uint32_t h,
                                   const float **q, const float **k, const float **v)
{
    size_t row = (size_t)t * channels;
    uint32_t kh = h / (w->v_heads / w->k_heads); /* value head h uses key head h / (v_heads / k_heads) */
    *q = mix + row + (size_t)kh * w->k_dim;
    *k = *q + (size_t)w->k_heads * w->k_dim;
    *v = mix + row + 2 * (size_t)w->k_heads * w->k_dim + (size_t)h * w->v_dim;
}

/* Stages of hs_backend_ops: attention.c, deltanet.c, window.c */
hlwq_status hs_cpu_attention(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, uint32_t first, uint32_t n,
                             float *x, hlwq_error *err);
hlwq_status hs_cpu_attention_rows(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, const uint32_t *position,
                                  uint32_t n, float *x, hlwq_error *err);
hlwq_status hs_cpu_deltanet(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t first, uint32_t n,
                            float *x, hlwq_error *err);
hlwq_status hs_cpu_deltanet_rows(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t n, float *x,
                                 hlwq_error *err);
hlwq_status hs_cpu_deltanet_window(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                   const hs_delta_window *window, uint32_t n, float *x, hlwq_error *err);
hlwq_status hs_cpu_deltanet_keep(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                 const hs_delta_window *window, uint32_t kept, hlwq_error *err);
hlwq_status hs_cpu_norm(hs_backend *be, const float *norm, float eps, uint32_t n, const float *x, float *y,
                        hlwq_error *err);
hlwq_status hs_cpu_join(hs_backend *be, const hs_joint *w, uint32_t n, const float *h, float *x, hlwq_error *err);

/* Scratch of a worker that takes a window's steps: a head's state, and what one step needs. */
static inline size_t hs_cpu_window_floats(uint32_t k_dim, uint32_t v_dim)
{
    return (size_t)k_dim * v_dim + 2 * (size_t)v_dim + 32;
}

/* Runs c->task[0..n_tasks-1], after quantising what they need and do not have yet. */
void hs_cpu_run(hs_cpu *c, uint32_t n_tasks);

/* y rows [slot + i][hidden] = down(silu(gate u) * up u). Jobs have slots of their own, below batch * ffn_rows. */
void hs_cpu_ffn(hs_cpu *c, hs_input *u, hs_ffn_job *job, uint32_t n_jobs, float *y);

#endif
