/*
 * model/routes.h - choices of experts in place of the router's, so that speed can be measured with random weights.
 *
 * Random weights route at random, which no cache can do anything about.  Either a recorded trace is replayed, or
 * choices are made that repeat themselves the way those of real models do.  For benchmarks only: the text means nothing
 * then.
 */
#ifndef HS_MODEL_ROUTES_H
#define HS_MODEL_ROUTES_H

#include "cache/trace.h"

typedef struct hs_routes hs_routes;

/* `from`: a trace file, or "model" for choices made up. For a model of `layers` with `used` of `experts`. */
hlwq_status hs_routes_open(hs_routes **r, hs_mem *mem, const char *from, uint32_t layers, uint32_t experts,
                           uint32_t used, hlwq_error *err);
void hs_routes_close(hs_routes *r); /* NULL is fine */

/* id [n][used], the most probable first: for the next n tokens, layers in ascending order. */
void hs_routes_choose(hs_routes *r, uint32_t layer, uint32_t n, int32_t *id);

#endif
