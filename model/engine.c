/*
 * model/engine.c - opens a model: budget, table, weights, backend, tokenizer; and takes it down again.
 */
#include "model/engine.h"

#include "base/clock.h"
#include "kernels/measure.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define STR2(x) #x
#define STR(x) STR2(x)

const char *hlwq_version(void)
{
    return STR(HLWQ_VERSION_MAJOR) "." STR(HLWQ_VERSION_MINOR) "." STR(HLWQ_VERSION_PATCH);
}

void hlwq_free(void *p)
{
    free(p);
}

hlwq_engine_options hlwq_engine_options_default(void)
{
    return (hlwq_engine_options){.verify = HLWQ_VERIFY_FIRST};
}

hlwq_status hs_store_tokenizer(hs_tokenizer **out, hs_mem *mem, const hs_store *store, hlwq_error *err)
{
    uint64_t bytes, config_bytes;
    const char *text = hs_store_blob(store, HS_BLOB_TOKENIZER, &bytes);
    const char *config = hs_store_blob(store, HS_BLOB_TOKENIZER_CONFIG, &config_bytes);
    char what[4096];
    *out = NULL;
    if (!text)
        return HLWQ_OK;
    snprintf(what, sizeof what, "%s%s", hs_store_path(store),
             hs_store_is_container(store) ? " (tokenizer)" : "/tokenizer.json");
    return hs_tokenizer_parse(out, mem, text, bytes, config, config_bytes, hs_store_table(store)->config.vocab, what,
                              err);
}

/* Everything resident must fit, and the sentence says what would. */
static hlwq_status check_budget(const hlwq_engine *e, const hlwq_engine_options *o, hlwq_error *err)
{
    const hs_table *t = hs_store_table(e->store);
    hs_limits limits = hs_network_limits(&t->config);
    uint64_t weights = hs_residency_bytes(t), scratch = hs_backend_cpu_bytes(&limits, hs_pool_threads(e->pool));
    uint64_t need = weights + scratch + hs_mem_now_bytes(e->mem) + (8u << 20);
    if (o->ram_bytes && need > o->ram_bytes)
        return hs_fail(
            err, HLWQ_ERR_BUDGET,
            "%s needs %.1f MiB (weights %.1f, activations %.1f), but --ram is %.1f MiB; the smallest that works is "
            "%" PRIu64 "M and the context's memory",
            hs_store_path(e->store), (double)need / 1048576.0, (double)weights / 1048576.0, (double)scratch / 1048576.0,
            (double)o->ram_bytes / 1048576.0, (need + 1048575) / 1048576);
    return HLWQ_OK;
}

static hlwq_status open_parts(hlwq_engine *e, const hlwq_engine_options *o, hlwq_error *err)
{
    HS_TRY(hs_pool_open(o->threads, &e->pool, err));
    HS_TRY(hs_store_open(&e->store, e->mem, o->model, NULL, &e->log, err));
    HS_TRY(hs_store_tokenizer(&e->text.inner, e->mem, e->store, err));
    HS_TRY(check_budget(e, o, err));
    hs_residency_options r = {.verify = o->verify != HLWQ_VERIFY_OFF, .progress = o->progress, .user = o->user};
    HS_TRY(hs_residency_open(&e->residency, e->store, e->mem, e->pool, &r, err));
    hs_limits limits = hs_network_limits(&hs_store_table(e->store)->config);
    hs_cpu_options cpu = {.exact = o->exact};
    HS_TRY(hs_backend_cpu_open(&e->backend, e->mem, e->pool, &limits, &cpu, err));
    return hs_network_init(&e->net, e->store, e->residency, e->backend, e->mem, err);
}

hlwq_status hlwq_engine_open(const hlwq_engine_options *options, hlwq_engine **engine, hlwq_error *err)
{
    *engine = NULL;
    if (!options || !options->model)
        return hs_fail(err, HLWQ_ERR_ARG, "no model was named");
    double start = hs_now_seconds();
    hlwq_engine *e = calloc(1, sizeof *e);
    if (e)
        e->mem = hs_mem_open(options->ram_bytes);
    if (!e || !e->mem) {
        free(e);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for an engine");
    }
    e->log = (hs_log){options->log, options->user};
    hlwq_status st = open_parts(e, options, err);
    if (st != HLWQ_OK) {
        hlwq_engine_close(e);
        return st;
    }
    e->load_seconds = hs_now_seconds() - start;
    *engine = e;
    return HLWQ_OK;
}

void hlwq_engine_close(hlwq_engine *e)
{
    if (!e)
        return;
    assert(e->sessions == 0);
    if (e->net.config)
        hs_network_close(&e->net);
    if (e->backend)
        e->backend->ops->close(e->backend);
    hs_residency_close(e->residency);
    hs_tokenizer_free(e->text.inner);
    hs_store_close(e->store);
    hs_pool_close(e->pool);
    hs_mem_close(e->mem);
    free(e);
}

void hlwq_engine_facts(const hlwq_engine *e, hlwq_model_facts *facts)
{
    const hs_table *t = hs_store_table(e->store);
    *facts = (hlwq_model_facts){
        .vocab = t->config.vocab,
        .hidden = t->config.hidden,
        .layers = t->config.layers,
        .context_max = t->config.context_max,
        .weight_bytes = hs_residency_bytes(t),
        .bytes_per_token = hs_network_token_bytes(t),
        .load_seconds = e->load_seconds,
    };
}

void hlwq_engine_memory(const hlwq_engine *e, uint64_t *now_bytes, uint64_t *peak_bytes)
{
    *now_bytes = hs_mem_now_bytes(e->mem);
    *peak_bytes = hs_mem_peak_bytes(e->mem);
}

const hlwq_tokenizer *hlwq_engine_tokenizer(const hlwq_engine *e)
{
    return e->text.inner ? &e->text : NULL;
}

hlwq_status hlwq_engine_bandwidth(hlwq_engine *e, double *bytes_per_second, hlwq_error *err)
{
    return hs_read_bandwidth(e->mem, e->pool, 512u << 20, bytes_per_second, err);
}

void hlwq_engine_stages(hlwq_engine *e, double seconds[HLWQ_STAGE_COUNT], bool reset)
{
    for (int i = 0; i < HLWQ_STAGE_COUNT; i++) {
        seconds[i] = (double)e->net.stage_ns[i] * 1e-9;
        if (reset)
            e->net.stage_ns[i] = 0;
    }
}
