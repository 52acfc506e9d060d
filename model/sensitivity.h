/*
 * model/sensitivity.h - how much each kind of matrix of each layer matters to what the model says.
 *
 * A trial: layer after layer is fitted at 3 bits.  On windows kept apart, each kind of matrix takes its fitted form
 * alone, and how far the layer's output moves is noted; then the whole layer does, and goes on through the rest of the
 * checkpoint to the logits.  Its KL divergence, shared out by how far each kind moved the output, is what that kind
 * costs at 3 bits; at other widths it costs that times the ratio of the codebooks' errors.
 */
#ifndef HS_MODEL_SENSITIVITY_H
#define HS_MODEL_SENSITIVITY_H

#include "model/quantize.h"

/* Matrices that get the same width. */
typedef enum hs_kind {
    HS_KIND_Q,
    HS_KIND_KV,
    HS_KIND_O,
    HS_KIND_QKV,
    HS_KIND_Z,
    HS_KIND_OUT,
    HS_KIND_GATE_UP,
    HS_KIND_DOWN,
    HS_KIND_SHARED,
    HS_KIND_COUNT
} hs_kind;

/* HS_KIND_COUNT for what is never packed. */
hs_kind hs_kind_of(hs_role role);
const char *hs_kind_name(hs_kind kind);

/* Of the trial's codebooks; cost at b bits = cost at 3 times this. */
double hs_width_error(uint32_t bits);

/*
 * kl [layers * HS_KIND_COUNT]: nats at 3 bits.  q holds the trial: its result is a store with 3-bit matrices, its
 * calibration is open; the last `apart` windows are not fitted to.
 */
hlwq_status hs_measure_sensitivity(hs_quantize *q, uint32_t apart, double *kl, hlwq_error *err);

#endif
