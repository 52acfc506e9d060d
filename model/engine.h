/*
 * model/engine.h - what hlwq_engine and hlwq_session hold, for the files of this folder.
 */
#ifndef HS_MODEL_ENGINE_H
#define HS_MODEL_ENGINE_H

#include "model/network.h"
#include "offload/plan.h"
#include "model/sampler.h"
#include "model/tokenizer.h"

struct hlwq_tokenizer {
    hs_tokenizer *inner;
    hs_mem *mem; /* its own; NULL where the engine's is used */
};

struct hlwq_engine {
    hs_mem *mem;
    hs_log log;
    hs_pool *pool;
    hs_store *store;
    hs_residency *residency;
    hs_backend *backend;
    hs_network net;
    hs_plan plan;
    hlwq_tokenizer text; /* inner NULL if the model has none */
    uint32_t sessions;
    double load_seconds;
};

/* A tokenizer for the texts of a store; *out NULL if there are none. */
hlwq_status hs_store_tokenizer(hs_tokenizer **out, hs_mem *mem, const hs_store *store, hlwq_error *err);

#endif
