/*
 * model/quantize.h - what hlwq_quantize holds, for the files that share it.
 *
 * quantize.c is the course of things, quantize_layer.c fits the matrices of one layer, calibrate.c knows what they
 * read.
 */
#ifndef HS_MODEL_QUANTIZE_H
#define HS_MODEL_QUANTIZE_H

#include "kernels/fit.h"
#include "kernels/gram.h"
#include "model/calibrate.h"

/* What several matrices read, and what the checkpoint's would have read in its place. */
typedef struct hs_reads {
    uint32_t n;           /* inputs, padded to blocks of 128 */
    float *h, *t, *shift; /* [n][n] */
    float *d;             /* [n] */
    float *wanted;        /* [hidden][n] */
    float *rows[HS_WAYS]; /* [HS_BATCH_MAX][n] rotated */
    double tokens;        /* seen, by weight */
} hs_reads;

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
    const hlwq_quantize_options *o;
    hs_mem *mem;
    hs_pool *pool;
    hs_log log;
    hs_store *source, *result; /* the directory as it is, and with packed matrices */
    hs_network from, to;       /* config, store and frequencies for binding */
    hs_backend *backend;
    hs_calibration calib;
    hs_reads reads;
    void *scratch;        /* of hs_fit_matrix */
    float *shared_inputs; /* [hidden][hidden] of all tokens of the layer, for experts that see few */
    float *u, *hidden_rows[HS_WAYS];
    float *token_weight; /* [tokens] */
    uint32_t *token;     /* [tokens * used] by expert */
    uint32_t *slot, *start;
    hs_layer_work work;
    /* To be said at the end of the layer. */
    double error[HS_ROLE_COUNT], whole[HS_ROLE_COUNT];
    uint32_t starved, unseen;
} hs_quantize;

/* Fits all matrices of the layer in `q->work`, and takes both ways through it. */
hlwq_status hs_quantize_layer(hs_quantize *q, uint32_t layer, hlwq_error *err);

#endif
