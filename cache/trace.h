/*
 * cache/trace.h - a routing trace in its text form, and replaying it through a slot table.
 *
 *   layers experts tokens prompt_tokens
 *   token layer expert gate_weight          one line per selection, tokens and layers from 0; a prompt may come layer
 * by layer
 */
#ifndef HS_CACHE_TRACE_H
#define HS_CACHE_TRACE_H

#include "cache/slots.h"

typedef struct hs_pick {
    uint32_t token;
    uint16_t layer, expert;
    uint32_t line; /* its place in the file */
} hs_pick;

typedef struct hs_trace {
    hs_mem *mem;
    uint32_t layers, experts, tokens, prompt_tokens;
    uint64_t n;
    hs_pick *pick; /* [n], by token, then layer */
} hs_trace;

/* `text` need not end with zero. Errors name `what` and the line. */
hlwq_status hs_trace_parse(hs_trace *t, hs_mem *mem, const char *text, size_t bytes, const char *what, hlwq_error *err);
void hs_trace_close(hs_trace *t); /* idempotent for zeroed structs */

/* Writes a trace while a model runs; the first line is completed at close. */
typedef struct hs_trace_writer hs_trace_writer;
hlwq_status hs_trace_create(hs_trace_writer **w, const char *path, uint32_t layers, uint32_t experts, hlwq_error *err);

/* What a layer of tokens first..first + n - 1 chose: id and weight [n][used]. Prompt tokens are those before the first
 * lone one. */
void hs_trace_add(hs_trace_writer *w, uint32_t layer, uint32_t first, uint32_t n, uint32_t used, const int32_t *id,
                  const float *weight);
hlwq_status hs_trace_commit(hs_trace_writer *w, hlwq_error *err); /* frees w; NULL is fine */

typedef struct hs_replay_options {
    uint32_t slots;   /* of each layer */
    hs_policy policy; /* GIVEN = Belady's: the extent that is needed last makes room */
    double half_life; /* tokens */
    bool pool;        /* slots * layers as one pool, with `floor` of each layer */
    uint32_t floor;
    uint32_t admit; /* as hs_slots_options has it */
} hs_replay_options;

/* hit rate = stats.hits / stats.lookups; cold start included. HLWQ_ERR_BUDGET if a layer's picks exceed the slots. */
hlwq_status hs_trace_replay(const hs_trace *t, const hs_replay_options *o, hs_slots_stats *stats, hlwq_error *err);

#endif
