/*
 * model/calibrate.h - a text's way through the layers, twice: through the checkpoint's, and through those quantised so
 * far.
 *
 * Windows of tokens start from nothing and go through one layer at a time, so memory holds one layer and two rows of
 * activations a token.  What a matrix reads in either way is what its codes are chosen by.
 */
#ifndef HS_MODEL_CALIBRATE_H
#define HS_MODEL_CALIBRATE_H

#include "model/network.h"

typedef enum hs_way {
    HS_WAY_SOURCE, /* as the checkpoint is */
    HS_WAY_RESULT, /* with the layers quantised so far */
    HS_WAYS
} hs_way;

typedef struct hs_calibration {
    hs_mem *mem;
    hs_pool *pool;
    hs_backend *backend; /* the CPU, exact */
    const hs_config *config;
    uint32_t window, windows, tokens; /* tokens = window * windows */
    int32_t *ids;                     /* [tokens] */
    float *x[HS_WAYS];                /* [tokens][hidden] residual stream */
    float *trial;                     /* [window][hidden] */
    int32_t *pick;                    /* [tokens][used] experts that the result chose last; mixtures */
    float *weight;
    int32_t *window_pick; /* [window][used] */
    float *window_weight;

    /* The state of one layer, for one window. */
    hs_delta_state delta;
    uint64_t delta_bytes;
    void *state;
    void **page;
    uint8_t *pages;

    /* What the watched matrix read. */
    const hs_matrix *watched;
    float *seen; /* [..][watched->cols] */
    uint32_t seen_rows;
} hs_calibration;

/* `ids` are copied. backend and pool are lent; window at most HS_BATCH_MAX. */
hlwq_status hs_calibration_open(hs_calibration *c, hs_mem *mem, hs_pool *pool, hs_backend *backend,
                                const hs_config *config, const int32_t *ids, uint32_t window, uint32_t windows,
                                hlwq_error *err);
void hs_calibration_close(hs_calibration *c); /* idempotent for zeroed structs */

/* Both ways begin with the same embeddings. */
hlwq_status hs_calibration_embed(hs_calibration *c, const hs_matrix *table, hlwq_error *err);

/* The mixer of `layer` on one window: x [window][hidden] advances. */
hlwq_status hs_calibration_mixer(hs_calibration *c, const hs_layer *layer, float *x, hlwq_error *err);

/* Chooses the experts of all tokens of the result: c->pick and c->weight. */
hlwq_status hs_calibration_route(hs_calibration *c, const hs_layer *layer, hlwq_error *err);

/* The feed-forward of `layer` on one window: x advances. expert [experts]: mixtures. */
hlwq_status hs_calibration_feed_forward(hs_calibration *c, const hs_layer *layer, const hs_ffn *expert, float *x,
                                        hlwq_error *err);

/* One feed-forward alone on n rows u; what goes into `down` is put at h [n][width]. At most HS_BATCH_MAX rows. */
void hs_calibration_hidden(hs_calibration *c, const hs_ffn *w, const float *u, uint32_t n, float *h);

/* From here on, rows that `w` reads are put one after another at `out`; NULL = none. */
void hs_calibration_watch(hs_calibration *c, const hs_matrix *w, float *out);

/* out [hidden] = norm(x), as the layer's matrices read it. */
void hs_calibration_norm(const hs_config *config, const float *x, const float *norm, float *out);

#endif
