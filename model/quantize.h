/*
 * model/quantize.h - what hlwq_quantize holds, for the files that share it.
 *
 * quantize.c is the course of things, quantize_room.c its memory, quantize_layer.c fits the matrices of one layer,
 * calibrate.c knows what they read, quantize_awq.c scales it, sensitivity.c and allocate.c decide on their widths.
 */
#ifndef HS_MODEL_QUANTIZE_H
#define HS_MODEL_QUANTIZE_H

#include "kernels/fit.h"
#include "kernels/gram.h"
#include "model/calibrate.h"
#include "model/work.h"

/* What several matrices read, and what the checkpoint's would have read in its place. */
typedef struct hs_reads {
    uint32_t n;           /* inputs, padded to blocks of 128 */
    float *h, *t, *shift; /* [n][n] */
    float *d;             /* [n] */
    float *wanted;        /* [hidden][n] */
    float *rows[HS_WAYS]; /* [HS_BATCH_MAX][n] rotated */
    /* With --awq: what the weights of each input are multiplied by, the inputs by, [n]; and candidates, [16][n]. */
    float *column, *factor, *scales;
} hs_reads;

/* A matrix and where its codes go. */
typedef struct hs_fit_target {
    const hs_matrix *source;
    const hs_group *group;
    hs_role role;
    uint8_t *extent;
} hs_fit_target;

/* The layer in hand. */
typedef struct hs_layer_work {
    const hs_group *from_group, *to_group;                 /* the trunk */
    const hs_group *from_experts_group, *to_experts_group; /* NULL for dense models */
    uint8_t *from, *to;                                    /* extents of the trunk */
    uint8_t *from_experts, *to_experts;                    /* of all experts */
    hs_layer source, result, now; /* now: the result's matrices where they are ready, the source's elsewhere */
    hs_ffn *source_expert, *result_expert;
} hs_layer_work;

typedef struct hs_quantize {
    const hlwq_quantize_options *o; /* of the run in hand: the trial has its own */
    hs_mem *mem;
    hs_pool *pool;
    hs_log log;
    hs_store *source;
    float *inv_freq;
    hs_dtype dtype;  /* of matrices, where their widths are alike */
    hs_network from; /* config, store and frequencies for binding */
    uint8_t *width;  /* [layers * HS_KIND_COUNT] bits, where they differ; NULL = all alike */
    hs_work saved;

    /* Of one run: opened by hs_quantize_open_run. */
    hs_store *result; /* the directory with packed matrices */
    hs_network to;
    hs_backend *backend;
    hs_calibration calib;
    hs_reads reads;
    void *scratch;        /* of hs_fit_matrix */
    float *shared_inputs; /* [hidden][hidden] of all tokens of the layer, for experts that see few */
    float *u, *hidden_rows[HS_WAYS];
    float *token_weight; /* [tokens * (used + 1)] */
    uint32_t *token;     /* [tokens * used] by expert */
    uint32_t *slot, *start;
    hs_layer_work work;
    /* To be said at the end of the layer. */
    double error[HS_ROLE_COUNT], whole[HS_ROLE_COUNT];
    double alpha[HS_ROLE_COUNT]; /* --awq: sums over `alphas` choices */
    uint32_t alphas[HS_ROLE_COUNT];
    uint32_t starved, unseen;
    double seconds; /* that layers of this run took */
    uint32_t fitted;
} hs_quantize;

/* Fits all matrices of the layer in `q->work`, and takes both ways through it. */
hlwq_status hs_quantize_layer(hs_quantize *q, hlwq_error *err);

/* ---- quantize_awq.c ------------------------------------------------------------------------- */

/*
 * Scales for the inputs of `n` matrices that read what q->reads has gathered: chosen, written beside their codes, and
 * q->reads as if the inputs came divided by them.
 */
hlwq_status hs_quantize_scale(hs_quantize *q, const hs_fit_target *target, uint32_t n, hlwq_error *err);

/* The matrix, scaled and rounded as convert rounds. */
hlwq_status hs_quantize_round(hs_quantize *q, const hs_fit_target *target, hlwq_error *err);

/* ---- quantize_room.c ------------------------------------------------------------------------ */

/* count * size bytes at *(void **)out */
hlwq_status hs_quantize_take(hs_quantize *q, uint64_t count, uint64_t size, const char *what, void *out,
                             hlwq_error *err);

/* All that a run needs besides the source: the result's store, a backend, `windows` windows of ids embedded, room. */
hlwq_status hs_quantize_open_run(hs_quantize *q, const hs_precision *p, const int32_t *ids, uint32_t windows,
                                 hlwq_error *err);
void hs_quantize_close_run(hs_quantize *q);

/* Both ways begin with the embeddings of the text. */
hlwq_status hs_quantize_embed(hs_quantize *q, hlwq_error *err);

const hs_group *hs_quantize_group(const hs_table *t, hs_group_kind kind, uint32_t layer, uint32_t *index);

/* All extents of a group, to be freed. */
hlwq_status hs_quantize_load(hs_quantize *q, hs_store *s, uint32_t group, uint8_t **out, hlwq_error *err);

/* q->work of one layer: the source's, and the result's with plainly rounded matrices. */
hlwq_status hs_quantize_load_layer(hs_quantize *q, uint32_t layer, hlwq_error *err);
void hs_quantize_drop_layer(hs_quantize *q);

#endif
