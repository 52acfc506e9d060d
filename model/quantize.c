/*
 * model/quantize.c - from a checkpoint and a text to a container, one layer in memory at a time.
 */
#include "model/quantize.h"

#include "base/clock.h"
#include "base/size.h"
#include "model/engine.h"
#include "model/quantize_text.h"
#include "model/quantize_widths.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

hlwq_quantize_options hlwq_quantize_options_default(void)
{
    return (hlwq_quantize_options){.bits = 5,
                                   .tokens = 65536,
                                   .window = 256,
                                   .sweeps = 4,
                                   .damping = 0.01f,
                                   .follow = 1.0f,
                                   .catch_up = 0.5f,
                                   .blend_tokens = 16.0f};
}

static hlwq_status check_format(const hlwq_quantize_options *o, hlwq_error *err)
{
    hs_dtype dtype;
    HS_TRY(hs_matrix_format(&dtype, o->format, 0, err));
    if (hs_dtype_zeros(dtype))
        return hs_fail(err, HLWQ_ERR_ARG, "%s: only I4 and I4G64, without zero points, are fitted", o->format);
    if (o->target_bytes)
        return hs_fail(err, HLWQ_ERR_ARG, "--target-bytes chooses widths, %s has one", o->format);
    return HLWQ_OK;
}

static hlwq_status check_options(const hlwq_quantize_options *o, hlwq_error *err)
{
    if (!o->source || !o->output || !o->calibration)
        return hs_fail(err, HLWQ_ERR_ARG, "quantize needs a source, a text and an output");
    if (o->format)
        HS_TRY(check_format(o, err));
    if (o->awq && (o->format || o->target_bytes || o->bits != (uint32_t)o->bits))
        return hs_fail(err, HLWQ_ERR_ARG, "--awq goes with --bits 2, 3, 4, 5 or 6, one width for all matrices");
    if (!(o->bits >= 2 && o->bits <= 6))
        return hs_fail(err, HLWQ_ERR_ARG, "--bits is %g, but must be 2..6", o->bits);
    if (o->window < 16 || o->window > HS_BATCH_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "windows of %u tokens, but they must be 16..%d", o->window, HS_BATCH_MAX);
    if (o->tokens < o->window || o->tokens > 1u << 24)
        return hs_fail(err, HLWQ_ERR_ARG, "%u tokens, but they must be %u..%u", o->tokens, o->window, 1u << 24);
    if (!hs_path_exists(o->source))
        return hs_fail(err, HLWQ_ERR_IO, "%s does not exist", o->source);
    if (!hs_path_is_directory(o->source))
        return hs_fail(err, HLWQ_ERR_ARG, "%s is not a model directory", o->source);
    return HLWQ_OK;
}

/* ---- one layer ------------------------------------------------------------------------------ */

static void say_layer(hs_quantize *q, uint32_t layer, double seconds)
{
    char line[512];
    int at = snprintf(line, sizeof line, "layer %u: %.1f s;", layer, seconds);
    for (int role = 0; role < HS_ROLE_COUNT; role++)
        if (q->whole[role] > 0 && at < (int)sizeof line - 80)
            at += snprintf(line + at, sizeof line - (size_t)at, " %s %.3e", hs_role_name((hs_role)role),
                           q->error[role] / q->whole[role]);
    hs_log_line(&q->log, HLWQ_LOG_INFO, "%s", line);
    at = snprintf(line, sizeof line, "layer %u: scales of inputs, alpha:", layer);
    for (int role = 0; role < HS_ROLE_COUNT; role++)
        if (q->alphas[role] && at < (int)sizeof line - 80)
            at += snprintf(line + at, sizeof line - (size_t)at, " %s %.2f", hs_role_name((hs_role)role),
                           q->alpha[role] / q->alphas[role]);
    if (q->o->awq)
        hs_log_line(&q->log, HLWQ_LOG_INFO, "%s", line);
    q->seconds += seconds;
    q->fitted++;
    uint32_t more = q->from.config->layers - 1 - layer;
    if (more)
        hs_log_line(&q->log, HLWQ_LOG_INFO, "layer %u: %.1f s a layer, %u more: about %.0f min", layer,
                    q->seconds / q->fitted, more, q->seconds / q->fitted * more / 60);
    if (q->starved || q->unseen)
        hs_log_line(&q->log, HLWQ_LOG_WARN,
                    "layer %u: %u experts were chosen for fewer tokens than they have inputs and lean on those of the "
                    "whole layer, %u for none and are fitted to those alone; more --calib-tokens would help",
                    layer, q->starved, q->unseen);
}

static hlwq_status append(hs_container_writer *w, const hs_group *group, const uint8_t *extents, hlwq_error *err)
{
    for (uint32_t e = 0; e < group->count; e++)
        HS_TRY(hs_container_append(w, extents + e * group->bytes, false, err));
    return HLWQ_OK;
}

/* Bytes of the layer's expert extents. */
static uint64_t expert_bytes(const hs_layer_work *w)
{
    return w->to_experts ? w->to_experts_group->bytes * w->to_experts_group->count : 0;
}

static uint64_t stream_bytes(const hs_quantize *q)
{
    return (uint64_t)q->calib.tokens * q->calib.config->hidden * sizeof(float);
}

/* Codes first, then where the text stands: a run that finds the second finds the first. */
static hlwq_status save_layer(hs_quantize *q, uint32_t layer, hlwq_error *err)
{
    const hs_layer_work *w = &q->work;
    char name[HS_WORK_NAME];
    hs_work_layer_name(name, layer);
    HS_TRY(hs_work_save(&q->saved, name, w->to, w->to_group->bytes, w->to_experts, expert_bytes(w), err));
    hs_work now = {q->saved.folder, q->saved.key + layer};
    return hs_work_save(&now, "streams", q->calib.x[HS_WAY_SOURCE], stream_bytes(q), q->calib.x[HS_WAY_RESULT],
                        stream_bytes(q), err);
}

/* The number of layers that an earlier run has finished. */
static uint32_t finished_layers(hs_quantize *q)
{
    for (uint32_t n = q->from.config->layers; n > 0; n--) {
        hs_work then = {q->saved.folder, q->saved.key + n - 1};
        if (hs_work_load(&then, "streams", q->calib.x[HS_WAY_SOURCE], stream_bytes(q), q->calib.x[HS_WAY_RESULT],
                         stream_bytes(q)))
            return n;
    }
    return 0;
}

static hlwq_status fit_layer(hs_quantize *q, uint32_t layer, hlwq_error *err)
{
    uint64_t start = hs_now_ns();
    HS_TRY(hs_quantize_layer(q, err));
    HS_TRY(save_layer(q, layer, err));
    say_layer(q, layer, (double)(hs_now_ns() - start) * 1e-9);
    return HLWQ_OK;
}

static hlwq_status do_layer(hs_quantize *q, hs_container_writer *w, uint32_t layer, bool finished, hlwq_error *err)
{
    char name[HS_WORK_NAME];
    hs_work_layer_name(name, layer);
    hlwq_status st = hs_quantize_load_layer(q, layer, err);
    hs_layer_work *k = &q->work;
    if (st == HLWQ_OK && !finished)
        st = fit_layer(q, layer, err);
    else if (st == HLWQ_OK && !hs_work_load(&q->saved, name, k->to, k->to_group->bytes, k->to_experts, expert_bytes(k)))
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s/%s is damaged; remove %s to start again", q->saved.folder, name,
                     q->saved.folder);
    if (st == HLWQ_OK)
        st = append(w, k->to_group, k->to, err);
    if (st == HLWQ_OK && k->to_experts)
        st = append(w, k->to_experts_group, k->to_experts, err);
    hs_quantize_drop_layer(q);
    return st;
}

/* ---- the course of things ------------------------------------------------------------------- */

/* A group that no text is needed for. */
static hlwq_status copy_group(hs_quantize *q, hs_container_writer *w, uint32_t g, hlwq_error *err)
{
    const hs_group *group = &q->to.table->group[g];
    uint8_t *extent;
    HS_TRY(hs_quantize_take(q, group->bytes, 1, "extent", &extent, err));
    hlwq_status st = HLWQ_OK;
    for (uint32_t e = 0; e < group->count && st == HLWQ_OK; e++) {
        st = hs_store_load(q->result, g, e, q->pool, false, extent, err);
        if (st == HLWQ_OK)
            st = hs_container_append(w, extent, false, err);
    }
    hs_mem_free(q->mem, extent);
    return st;
}

static hlwq_status write_all(hs_quantize *q, hs_container_writer *w, hlwq_error *err)
{
    const hs_table *t = q->to.table;
    uint32_t finished = finished_layers(q);
    if (finished)
        hs_log_line(&q->log, HLWQ_LOG_INFO, "going on after layer %u, from %s", finished - 1, q->saved.folder);
    else
        HS_TRY(hs_quantize_embed(q, err)) /* a file that did not load may have been read in part */;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_group *group = &t->group[g];
        if (group->kind == HS_GROUP_EXPERTS)
            continue; /* with their layer */
        if (group->kind != HS_GROUP_LAYER) {
            HS_TRY(copy_group(q, w, g, err));
            continue;
        }
        HS_TRY(do_layer(q, w, group->layer, group->layer < finished, err));
        if (q->o->progress && !q->o->progress(q->o->user, group->layer + 1, t->config.layers))
            return hs_fail(err, HLWQ_ERR_CANCELLED,
                           "quantize was stopped after layer %u; the same command goes on from %s", group->layer,
                           q->saved.folder);
    }
    return HLWQ_OK;
}

static hlwq_status write_container(hs_quantize *q, hlwq_error *err)
{
    hs_container_writer *w;
    hs_container_blobs blobs = {.provenance = hs_store_provenance(q->result)};
    for (int b = 0; b < HS_BLOB_COUNT; b++)
        blobs.data[b] = hs_store_blob(q->result, (hs_blob)b, &blobs.bytes[b]);
    HS_TRY(hs_container_create(&w, q->mem, q->o->output, q->o->overwrite, q->to.table, &blobs, err));
    hlwq_status st = write_all(q, w, err);
    if (st != HLWQ_OK) {
        hs_container_drop(w);
        return st;
    }
    return hs_container_commit(w, err);
}

/* Everything that the output depends on. */
static hlwq_status make_key(const hs_quantize *q, const int32_t *ids, uint64_t n_ids, uint64_t *key, hlwq_error *err)
{
    const hlwq_quantize_options *o = q->o;
    const double setting[] = {1 /* version of this list */,
                              o->bits,
                              (double)o->target_bytes,
                              o->head_bits,
                              o->embed_bits,
                              o->window,
                              o->sweeps,
                              o->damping,
                              o->follow,
                              o->catch_up,
                              o->blend_tokens};
    uint64_t bytes, source;
    HS_TRY(hs_quantize_source_key(o->source, &source, err));
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to quantize");
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, setting, sizeof setting);
    if (o->format)
        XXH3_64bits_update(state, &q->dtype, sizeof q->dtype);
    if (o->awq)
        XXH3_64bits_update(state, &o->awq, sizeof o->awq);
    XXH3_64bits_update(state, &source, sizeof source);
    XXH3_64bits_update(state, ids, n_ids * sizeof *ids);
    const char *config = hs_store_blob(q->source, HS_BLOB_CONFIG, &bytes);
    XXH3_64bits_update(state, config, bytes);
    *key = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return HLWQ_OK;
}

static hlwq_status run(hs_quantize *q, const int32_t *ids, uint32_t windows, hlwq_error *err)
{
    uint64_t key = 0;
    hs_precision p;
    const hlwq_quantize_options *o = q->o;
    hlwq_convert_options like = {
        .format = o->format, .bits = (uint32_t)(o->bits + 0.5), .head_bits = o->head_bits, .embed_bits = o->embed_bits};
    HS_TRY(hs_plan_precision(&p, &like, err));
    q->dtype = p.matrix;
    p.scaled = o->awq != HLWQ_AWQ_OFF;
    HS_TRY(make_key(q, ids, (uint64_t)windows * o->window, &key, err));
    HS_TRY(hs_work_open(&q->saved, o->output, key, err));
    HS_TRY(hs_quantize_widths(q, &p, ids, windows, err));
    hlwq_status st = hs_quantize_open_run(q, &p, ids, windows, err);
    if (st == HLWQ_OK)
        st = write_container(q, err);
    hs_quantize_close_run(q);
    if (st == HLWQ_OK)
        hs_work_remove(&q->saved);
    return st;
}

static hlwq_status open_source(hs_quantize *q, hlwq_error *err)
{
    q->mem = hs_mem_open(0);
    if (!q->mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to quantize");
    HS_TRY(hs_pool_open(q->o->threads, &q->pool, err));
    HS_TRY(hs_store_open(&q->source, q->mem, q->o->source, NULL, &q->log, err));
    const hs_table *t = hs_store_table(q->source);
    if (t->config.hidden % 8)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "a hidden size of %u is not a multiple of 8", t->config.hidden);
    HS_TRY(hs_quantize_take(q, t->config.rotary_dims / 2 + 1, sizeof(float), "frequencies", &q->inv_freq, err));
    hs_rope_frequencies(q->inv_freq, &t->config);
    q->from = (hs_network){.table = t, .config = &t->config, .store = q->source, .inv_freq = q->inv_freq};
    return HLWQ_OK;
}

static hlwq_status quantize(hs_quantize *q, hlwq_error *err)
{
    const hlwq_quantize_options *o = q->o;
    int32_t *ids;
    uint32_t windows;
    if (!o->overwrite && hs_path_exists(o->output)) /* said before the work, not after it */
        return hs_fail(err, HLWQ_ERR_IO, "%s exists already; --force replaces it", o->output);
    HS_TRY(open_source(q, err));
    HS_TRY(hs_quantize_text(q->mem, q->source, o->calibration, o->window, o->tokens / o->window, &ids, &windows, err));
    hs_log_line(&q->log, HLWQ_LOG_INFO, "calibrating on %u windows of %u tokens", windows, o->window);
    hlwq_status st = run(q, ids, windows, err);
    free(ids);
    return st;
}

hlwq_status hlwq_quantize(const hlwq_quantize_options *o, hlwq_error *err)
{
    HS_TRY(check_options(o, err));
    hs_quantize *q = calloc(1, sizeof *q);
    if (!q)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to quantize");
    q->o = o;
    q->log = (hs_log){o->log, o->user};
    hlwq_status st = quantize(q, err);
    uint64_t peak = q->mem ? hs_mem_peak_bytes(q->mem) : 0;
    free(q->width);
    hs_work_close(&q->saved);
    hs_store_close(q->source);
    if (q->mem)
        hs_mem_free(q->mem, q->inv_freq);
    hs_pool_close(q->pool);
    if (q->mem)
        hs_mem_close(q->mem);
    free(q);
    if (st == HLWQ_OK) {
        hs_log log = {o->log, o->user};
        hs_log_line(&log, HLWQ_LOG_INFO, "at most %.1f MiB of memory were held", (double)peak / 1048576.0);
    }
    return st;
}
