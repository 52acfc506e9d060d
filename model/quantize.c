/*
 * model/quantize.c - from a checkpoint and a text to a container, one layer in memory at a time.
 */
#include "model/quantize.h"

#include "base/clock.h"
#include "base/size.h"
#include "model/engine.h"
#include "model/quantize_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

hlwq_quantize_options hlwq_quantize_options_default(void)
{
    return (hlwq_quantize_options){.bits = 5,
                                   .tokens = 65536,
                                   .window = 256,
                                   .sweeps = 4,
                                   .damping = 0.01f,
                                   .follow = 1.0f,
                                   .catch_up = 0.0f,
                                   .blend_tokens = 16.0f};
}

/* ---- opening -------------------------------------------------------------------------------- */

static hlwq_status check_options(const hlwq_quantize_options *o, hlwq_error *err)
{
    if (!o->source || !o->output || !o->calibration)
        return hs_fail(err, HLWQ_ERR_ARG, "quantize needs a source, a text and an output");
    if (!(o->bits >= 2 && o->bits <= 6))
        return hs_fail(err, HLWQ_ERR_ARG, "--bits is %g, but must be 2..6", o->bits);
    if (o->bits != (uint32_t)o->bits)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "--bits is %g, but must be whole", o->bits);
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

static hlwq_status open_stores(hs_quantize *q, hlwq_error *err)
{
    const hlwq_quantize_options *o = q->o;
    hs_precision p;
    hlwq_convert_options like = {.bits = (uint32_t)o->bits, .head_bits = o->head_bits, .embed_bits = o->embed_bits};
    HS_TRY(hs_plan_precision(&p, &like, err));
    HS_TRY(hs_store_open(&q->source, q->mem, o->source, NULL, &q->log, err));
    hs_log silent = {0};
    HS_TRY(hs_store_open(&q->result, q->mem, o->source, &p, &silent, err));
    const hs_table *t = hs_store_table(q->source);
    if (t->config.hidden % 8)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "a hidden size of %u is not a multiple of 8", t->config.hidden);
    return HLWQ_OK;
}

static hlwq_status open_backend(hs_quantize *q, hlwq_error *err)
{
    const hs_table *from = hs_store_table(q->source), *to = hs_store_table(q->result);
    hs_limits limits = hs_network_limits(to, HS_BATCH_MAX);
    limits.dtypes |= hs_network_limits(from, HS_BATCH_MAX).dtypes;
    hs_cpu_options exact = {.exact = true};
    HS_TRY(hs_backend_cpu_open(&q->backend, q->mem, q->pool, &limits, &exact, err));
    q->from = (hs_network){.table = from, .config = &from->config, .store = q->source, .backend = q->backend};
    q->to = (hs_network){.table = to, .config = &to->config, .store = q->result, .backend = q->backend};
    void *p;
    HS_TRY(
        hs_mem_alloc(q->mem, HS_MEM_TABLE, (from->config.rotary_dims / 2 + 1) * sizeof(float), "frequencies", &p, err));
    q->from.inv_freq = q->to.inv_freq = p;
    hs_rope_frequencies(p, &from->config);
    return HLWQ_OK;
}

/* The most inputs and rows that a matrix of a layer has. */
static void widest(const hs_table *t, uint32_t *cols)
{
    *cols = 0;
    for (uint32_t g = 0; g < t->n_groups; g++)
        for (uint32_t i = 0; i < t->group[g].n_parts; i++) {
            const hs_part *p = &t->group[g].part[i];
            if ((t->group[g].kind == HS_GROUP_LAYER || t->group[g].kind == HS_GROUP_EXPERTS) &&
                hs_role_class_of(p->role) == HS_CLASS_MATRIX && p->cols > *cols)
                *cols = p->cols;
        }
}

static hlwq_status take(hs_quantize *q, uint64_t count, uint64_t size, const char *what, void *out, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_mem_alloc(q->mem, HS_MEM_ACT, count * size, what, &p, err));
    memcpy(out, &p, sizeof p);
    return HLWQ_OK;
}

static hlwq_status open_room(hs_quantize *q, hlwq_error *err)
{
    const hs_config *c = &hs_store_table(q->source)->config;
    uint32_t cols;
    widest(hs_store_table(q->source), &cols);
    uint64_t n = hs_align_up(cols, HS_BLOCK), square = n * n, f = sizeof(float), batch = HS_BATCH_MAX;
    uint64_t hidden = hs_align_up(c->hidden, HS_BLOCK), picks = (uint64_t)q->calib.tokens * (c->experts_used + 1);
    hs_reads *r = &q->reads;
    HS_TRY(take(q, square, f, "sums of products", &r->h, err));
    HS_TRY(take(q, square, f, "sums of products", &r->t, err));
    HS_TRY(take(q, square, f, "sums of products", &r->shift, err));
    HS_TRY(take(q, n, f, "sums of products", &r->d, err));
    HS_TRY(take(q, c->hidden * n, f, "sums of products", &r->wanted, err));
    for (int way = 0; way < HS_WAYS; way++) {
        HS_TRY(take(q, batch * n, f, "rotated inputs", &r->rows[way], err));
        HS_TRY(take(q, batch * n, f, "inputs", &q->hidden_rows[way], err));
    }
    HS_TRY(take(q, 2 * batch * hidden, f, "inputs", &q->u, err));
    HS_TRY(take(q, hs_fit_scratch_bytes(cols, hs_pool_threads(q->pool)), 1, "rows to fit", &q->scratch, err));
    HS_TRY(take(q, picks, f, "weights of tokens", &q->token_weight, err));
    if (c->experts == 0)
        return HLWQ_OK;
    HS_TRY(take(q, hidden * hidden, f, "sums of products", &q->shared_inputs, err));
    HS_TRY(take(q, picks, sizeof(uint32_t), "tokens by expert", &q->token, err));
    HS_TRY(take(q, picks, sizeof(uint32_t), "tokens by expert", &q->slot, err));
    HS_TRY(take(q, c->experts + 1, sizeof(uint32_t), "tokens by expert", &q->start, err));
    HS_TRY(take(q, c->experts, sizeof(hs_ffn), "experts", &q->work.source_expert, err));
    return take(q, c->experts, sizeof(hs_ffn), "experts", &q->work.result_expert, err);
}

static void close_all(hs_quantize *q)
{
    hs_reads *r = &q->reads;
    hs_calibration_close(&q->calib);
    void *const block[] = {r->h,
                           r->t,
                           r->shift,
                           r->d,
                           r->wanted,
                           r->rows[0],
                           r->rows[1],
                           q->hidden_rows[0],
                           q->hidden_rows[1],
                           q->u,
                           q->scratch,
                           q->token_weight,
                           q->shared_inputs,
                           q->token,
                           q->slot,
                           q->start,
                           q->work.source_expert,
                           q->work.result_expert,
                           q->from.inv_freq};
    for (size_t i = 0; q->mem && i < sizeof block / sizeof *block; i++)
        hs_mem_free(q->mem, block[i]);
    if (q->backend)
        q->backend->ops->close(q->backend);
    hs_store_close(q->result);
    hs_store_close(q->source);
    hs_pool_close(q->pool);
    if (q->mem)
        hs_mem_close(q->mem);
}

/* ---- one layer ------------------------------------------------------------------------------ */

static const hs_group *group_of(const hs_table *t, hs_group_kind kind, uint32_t layer, uint32_t *index)
{
    *index = 0;
    for (uint32_t g = 0; g < t->n_groups; g++)
        if (t->group[g].kind == kind && t->group[g].layer == layer) {
            *index = g;
            return &t->group[g];
        }
    return NULL;
}

/* All extents of a group. */
static hlwq_status load_group(hs_quantize *q, hs_store *s, uint32_t g, uint8_t **out, hlwq_error *err)
{
    const hs_group *group = &hs_store_table(s)->group[g];
    HS_TRY(take(q, group->bytes, group->count, "a layer's weights", out, err));
    for (uint32_t e = 0; e < group->count; e++)
        HS_TRY(hs_store_load(s, g, e, q->pool, false, *out + e * group->bytes, err));
    return HLWQ_OK;
}

static hlwq_status load_layer(hs_quantize *q, uint32_t layer, hlwq_error *err)
{
    hs_layer_work *w = &q->work;
    const hs_table *from = q->from.table, *to = q->to.table;
    uint32_t a, b;
    w->from_group = group_of(from, HS_GROUP_LAYER, layer, &a);
    w->to_group = group_of(to, HS_GROUP_LAYER, layer, &b);
    HS_TRY(load_group(q, q->source, a, &w->from, err));
    HS_TRY(load_group(q, q->result, b, &w->to, err));
    hs_network_bind_at(&q->from, w->from_group, w->from, &w->source);
    hs_network_bind_at(&q->to, w->to_group, w->to, &w->result);
    if (from->config.experts == 0)
        return HLWQ_OK;
    w->from_experts_group = group_of(from, HS_GROUP_EXPERTS, layer, &a);
    w->to_experts_group = group_of(to, HS_GROUP_EXPERTS, layer, &b);
    HS_TRY(load_group(q, q->source, a, &w->from_experts, err));
    HS_TRY(load_group(q, q->result, b, &w->to_experts, err));
    for (uint32_t e = 0; e < from->config.experts; e++) {
        w->source_expert[e] = hs_network_bind_expert_at(&q->from, w->from_experts_group,
                                                        w->from_experts + e * w->from_experts_group->bytes);
        w->result_expert[e] =
            hs_network_bind_expert_at(&q->to, w->to_experts_group, w->to_experts + e * w->to_experts_group->bytes);
    }
    return HLWQ_OK;
}

static void drop_layer(hs_quantize *q)
{
    hs_layer_work *w = &q->work;
    hs_mem_free(q->mem, w->from);
    hs_mem_free(q->mem, w->to);
    hs_mem_free(q->mem, w->from_experts);
    hs_mem_free(q->mem, w->to_experts);
    w->from = w->to = w->from_experts = w->to_experts = NULL;
}

static void say_layer(hs_quantize *q, uint32_t layer, double seconds)
{
    char line[512];
    int at = snprintf(line, sizeof line, "layer %u: %.1f s;", layer, seconds);
    for (int role = 0; role < HS_ROLE_COUNT; role++)
        if (q->whole[role] > 0 && at < (int)sizeof line - 80)
            at += snprintf(line + at, sizeof line - (size_t)at, " %s %.3e", hs_role_name((hs_role)role),
                           q->error[role] / q->whole[role]);
    hs_log_line(&q->log, HLWQ_LOG_INFO, "%s", line);
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

static hlwq_status do_layer(hs_quantize *q, hs_container_writer *w, uint32_t layer, hlwq_error *err)
{
    uint64_t start = hs_now_ns();
    hlwq_status st = load_layer(q, layer, err);
    if (st == HLWQ_OK)
        st = hs_quantize_layer(q, layer, err);
    if (st == HLWQ_OK)
        st = append(w, q->work.to_group, q->work.to, err);
    if (st == HLWQ_OK && q->work.to_experts)
        st = append(w, q->work.to_experts_group, q->work.to_experts, err);
    drop_layer(q);
    if (st == HLWQ_OK)
        say_layer(q, layer, (double)(hs_now_ns() - start) * 1e-9);
    return st;
}

/* ---- the course of things ------------------------------------------------------------------- */

/* A group that no text is needed for. */
static hlwq_status copy_group(hs_quantize *q, hs_container_writer *w, uint32_t g, hlwq_error *err)
{
    const hs_group *group = &q->to.table->group[g];
    uint8_t *extent;
    HS_TRY(take(q, group->bytes, 1, "extent", &extent, err));
    hlwq_status st = HLWQ_OK;
    for (uint32_t e = 0; e < group->count && st == HLWQ_OK; e++) {
        st = hs_store_load(q->result, g, e, q->pool, false, extent, err);
        if (st == HLWQ_OK)
            st = hs_container_append(w, extent, false, err);
    }
    hs_mem_free(q->mem, extent);
    return st;
}

static hlwq_status embed(hs_quantize *q, hlwq_error *err)
{
    uint32_t g;
    const hs_group *group = group_of(q->to.table, HS_GROUP_EMBED, 0, &g);
    const hs_part *p = hs_group_find(group, HS_EMBED);
    uint8_t *extent;
    HS_TRY(load_group(q, q->result, g, &extent, err));
    hs_matrix table = hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, extent + p->offset,
                                   hs_dtype_rotated(p->dtype) ? hs_store_book(q->result, p->book) : NULL);
    hlwq_status st = hs_calibration_embed(&q->calib, &table, err);
    hs_mem_free(q->mem, extent);
    return st;
}

static hlwq_status write_all(hs_quantize *q, hs_container_writer *w, hlwq_error *err)
{
    const hs_table *t = q->to.table;
    HS_TRY(embed(q, err));
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_group *group = &t->group[g];
        if (group->kind == HS_GROUP_EXPERTS)
            continue; /* with their layer */
        if (group->kind != HS_GROUP_LAYER) {
            HS_TRY(copy_group(q, w, g, err));
            continue;
        }
        HS_TRY(do_layer(q, w, group->layer, err));
        if (q->o->progress && !q->o->progress(q->o->user, group->layer + 1, t->config.layers))
            return hs_fail(err, HLWQ_ERR_CANCELLED, "quantize was stopped after layer %u", group->layer);
    }
    return HLWQ_OK;
}

static hlwq_status quantize(hs_quantize *q, hlwq_error *err)
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

static hlwq_status open_all(hs_quantize *q, hlwq_error *err)
{
    int32_t *ids;
    uint32_t windows;
    q->mem = hs_mem_open(0);
    if (!q->mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to quantize");
    HS_TRY(hs_pool_open(q->o->threads, &q->pool, err));
    HS_TRY(open_stores(q, err));
    HS_TRY(open_backend(q, err));
    HS_TRY(hs_quantize_text(q->mem, q->result, q->o->calibration, q->o->window, q->o->tokens / q->o->window, &ids,
                            &windows, err));
    hlwq_status st =
        hs_calibration_open(&q->calib, q->mem, q->pool, q->backend, q->from.config, ids, q->o->window, windows, err);
    free(ids);
    HS_TRY(st);
    hs_log_line(&q->log, HLWQ_LOG_INFO, "calibrating on %u windows of %u tokens", windows, q->o->window);
    return open_room(q, err);
}

hlwq_status hlwq_quantize(const hlwq_quantize_options *o, hlwq_error *err)
{
    HS_TRY(check_options(o, err));
    hs_quantize *q = calloc(1, sizeof *q);
    if (!q)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to quantize");
    q->o = o;
    q->log = (hs_log){o->log, o->user};
    hlwq_status st = open_all(q, err);
    if (st == HLWQ_OK)
        st = quantize(q, err);
    close_all(q);
    free(q);
    return st;
}
