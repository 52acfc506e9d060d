/*
 * model/sampler.h - from logits to one id.
 *
 * Order: repetition, presence and frequency penalties on the tokens of the window; temperature; top-k; softmax; top-p;
 * min-p; one draw.  Ties go to the lower id everywhere.  The draw depends on (seed, position) only, through Philox
 * 4x32-10, so an answer can be resumed at any position.
 */
#ifndef HS_MODEL_SAMPLER_H
#define HS_MODEL_SAMPLER_H

#include "base/mem.h"
#include "kernels/backend.h"

typedef struct hs_sampler hs_sampler;

/* Ids from `usable` on are never chosen (padding rows of the head). */
hlwq_status hs_sampler_open(hs_sampler **sampler, hs_mem *mem, uint32_t vocab, uint32_t usable,
                            const hlwq_sampling *options, hlwq_error *err);
/* What there is to say where no logit is a number. */
hlwq_status hs_sampler_no_number(uint64_t position, hlwq_error *err);

/*
 * The same choice for a backend that makes it where the logits are.  What it points to holds until the sampler is used
 * again.  False: no backend takes such options.
 */
bool hs_sampler_choice(hs_sampler *s, const int32_t *history, size_t n, uint64_t position, hs_selection *choice);

void hs_sampler_close(hs_sampler *sampler); /* NULL is fine */

/* Other options from the next token on; the old ones stay where these make no sense. */
hlwq_status hs_sampler_set(hs_sampler *sampler, const hlwq_sampling *options, hlwq_error *err);

const hlwq_sampling *hs_sampler_options(const hs_sampler *sampler);

/* HLWQ_ERR_ARG naming the value that makes no sense. */
hlwq_status hs_sampling_check(const hlwq_sampling *options, hlwq_error *err);

/*
 * The next id; `history` [n] are the tokens so far, `position` where the new one goes.  With `allowed`, a bit for each
 * id below `n_allowed`, only those are there at all: probabilities are shared out among them.  HLWQ_ERR_FORMAT if no
 * logit is a number.
 */
hlwq_status hs_sampler_next(hs_sampler *sampler, const float *logits, const int32_t *history, size_t n,
                            uint64_t position, const uint64_t *allowed, uint32_t n_allowed, int32_t *id,
                            hlwq_error *err);

/* Uniform in [0, 1) with 24 bits, for (seed, position). */
float hs_sampler_uniform(uint64_t seed, uint64_t position);

#endif
