/*
 * model/constraint.h - what hlwq_constraint holds, and how a session follows one.
 *
 * A place is a number, to be copied and compared freely: a session that tries several tokens ahead keeps one for each.
 */
#ifndef HS_MODEL_CONSTRAINT_H
#define HS_MODEL_CONSTRAINT_H

#include "model/matcher.h"

uint32_t hs_constraint_start(const hlwq_constraint *c);

/* May the text end here? Must it? */
bool hs_constraint_complete(const hlwq_constraint *c, uint32_t place);
bool hs_constraint_over(const hlwq_constraint *c, uint32_t place);

/*
 * The tokens that may come next, one bit for each id below hs_constraint_tokens; those of `stop` [n_stop], which end
 * the model's text, where it may end.  Valid until the next call.
 */
hlwq_status hs_constraint_allowed(hlwq_constraint *c, uint32_t place, const int32_t *stop, uint32_t n_stop,
                                  const uint64_t **allowed, hlwq_error *err);
uint32_t hs_constraint_tokens(const hlwq_constraint *c);

/* After token `id`; HLWQ_ERR_ARG if that one may not come. */
hlwq_status hs_constraint_advance(hlwq_constraint *c, uint32_t *place, int32_t id, hlwq_error *err);

/* After a text; HLWQ_ERR_ARG, and nothing changes, if that may not come. */
hlwq_status hs_constraint_follow(hlwq_constraint *c, uint32_t *place, const char *text, size_t bytes, hlwq_error *err);

#endif
