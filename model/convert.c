/*
 * model/convert.c - from a model directory to a container, one extent in memory at a time.
 */
#include "model/engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

hlwq_convert_options hlwq_convert_options_default(void)
{
    return (hlwq_convert_options){.bits = 5};
}

static hlwq_status check_bits(const char *what, uint32_t bits, bool sixteen, hlwq_error *err)
{
    if (bits == 0 || (bits >= 2 && bits <= 6) || (sixteen && bits == 16))
        return HLWQ_OK;
    return hs_fail(err, HLWQ_ERR_ARG, "%s is %u, but must be 2..6%s", what, bits, sixteen ? " or 16" : "");
}

/* The precision plan: matrices as asked, head and embeddings at 6 bits, everything small as it is. */
static hs_precision plan_precision(const hlwq_convert_options *o)
{
    hs_precision p = {o->bits, o->head_bits, o->embed_bits};
    if (o->bits && !p.head_bits)
        p.head_bits = 6;
    if (o->bits && !p.embed_bits)
        p.embed_bits = 6;
    return p;
}

static hlwq_status write_extents(hs_store *store, hs_container_writer *w, hs_mem *mem, hs_pool *pool,
                                 const hlwq_convert_options *o, hlwq_error *err)
{
    const hs_table *t = hs_store_table(store);
    uint64_t total = 0, done = 0, largest = 0;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        total += t->group[g].bytes * t->group[g].count;
        largest = t->group[g].bytes > largest ? t->group[g].bytes : largest;
    }
    void *extent;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, largest, "extent", &extent, err));
    hlwq_status st = HLWQ_OK;
    for (uint32_t g = 0; g < t->n_groups && st == HLWQ_OK; g++)
        for (uint32_t e = 0; e < t->group[g].count && st == HLWQ_OK; e++) {
            st = hs_store_load(store, g, e, pool, false, extent, err);
            if (st == HLWQ_OK)
                st = hs_container_append(w, extent, false, err);
            done += t->group[g].bytes;
            if (st == HLWQ_OK && o->progress && !o->progress(o->user, done, total))
                st = hs_fail(err, HLWQ_ERR_CANCELLED, "convert was stopped; nothing was written");
        }
    hs_mem_free(mem, extent);
    return st;
}

static hlwq_status convert(hs_store *store, hs_mem *mem, hs_pool *pool, const hlwq_convert_options *o, hlwq_error *err)
{
    hs_container_writer *w;
    hs_container_blobs blobs = {.provenance = hs_store_provenance(store)};
    for (int b = 0; b < HS_BLOB_COUNT; b++)
        blobs.data[b] = hs_store_blob(store, (hs_blob)b, &blobs.bytes[b]);
    /* A damaged tokenizer is found now, not by whoever runs the result. */
    hs_tokenizer *tokenizer;
    HS_TRY(hs_store_tokenizer(&tokenizer, mem, store, err));
    hs_tokenizer_free(tokenizer);
    HS_TRY(hs_container_create(&w, mem, o->output, o->overwrite, hs_store_table(store), &blobs, err));
    hlwq_status st = write_extents(store, w, mem, pool, o, err);
    if (st != HLWQ_OK) {
        hs_container_drop(w);
        return st;
    }
    return hs_container_commit(w, err);
}

static hlwq_status open_source(hs_store **store, hs_mem *mem, const hlwq_convert_options *o, const hs_log *log,
                               hlwq_error *err)
{
    hs_precision p = plan_precision(o);
    if (!hs_path_exists(o->source))
        return hs_fail(err, HLWQ_ERR_IO, "%s does not exist", o->source);
    if (!hs_path_is_directory(o->source))
        return hs_fail(err, HLWQ_ERR_ARG, "%s is not a model directory", o->source);
    return hs_store_open(store, mem, o->source, &p, log, err);
}

hlwq_status hlwq_convert(const hlwq_convert_options *o, hlwq_error *err)
{
    if (!o->source || !o->output)
        return hs_fail(err, HLWQ_ERR_ARG, "convert needs a source and an output");
    HS_TRY(check_bits("--bits", o->bits, false, err));
    HS_TRY(check_bits("--head-bits", o->head_bits, true, err));
    HS_TRY(check_bits("--embed-bits", o->embed_bits, true, err));
    hs_mem *mem = hs_mem_open(0);
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to convert");
    hs_log log = {o->log, o->user};
    hs_pool *pool = NULL;
    hs_store *store = NULL;
    hlwq_status st = hs_pool_open(o->threads, &pool, err);
    if (st == HLWQ_OK)
        st = open_source(&store, mem, o, &log, err);
    if (st == HLWQ_OK) {
        st = convert(store, mem, pool, o, err);
        hs_store_close(store);
    }
    hs_pool_close(pool);
    hs_mem_close(mem);
    return st;
}
