/*
 * model/quantize_room.c - memory of a run, and layers in it.
 */
#include "model/quantize.h"

#include "base/size.h"

#include <string.h>

hlwq_status hs_quantize_take(hs_quantize *q, uint64_t count, uint64_t size, const char *what, void *out,
                             hlwq_error *err)
{
    void *p;
    HS_TRY(hs_mem_alloc(q->mem, HS_MEM_ACT, count * size, what, &p, err));
    memcpy(out, &p, sizeof p);
    return HLWQ_OK;
}

/* ---- a run ---------------------------------------------------------------------------------------- */

static hlwq_status open_backend(hs_quantize *q, hlwq_error *err)
{
    const hs_table *to = hs_store_table(q->result);
    hs_limits limits = hs_network_limits(to, HS_BATCH_MAX);
    limits.dtypes |= hs_network_limits(q->from.table, HS_BATCH_MAX).dtypes;
    hs_cpu_options exact = {.exact = true};
    HS_TRY(hs_backend_cpu_open(&q->backend, q->mem, q->pool, &limits, &exact, err));
    q->to = (hs_network){.table = to, .config = &to->config, .store = q->result, .inv_freq = q->inv_freq};
    return HLWQ_OK;
}

/* The most inputs that a matrix of a layer has. */
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

static hlwq_status open_room(hs_quantize *q, hlwq_error *err)
{
    const hs_config *c = &hs_store_table(q->source)->config;
    uint32_t cols;
    widest(hs_store_table(q->source), &cols);
    uint64_t n = hs_align_up(cols, HS_BLOCK), square = n * n, f = sizeof(float), batch = HS_BATCH_MAX;
    uint64_t hidden = hs_align_up(c->hidden, HS_BLOCK), picks = (uint64_t)q->calib.tokens * (c->experts_used + 1);
    hs_reads *r = &q->reads;
    HS_TRY(hs_quantize_take(q, square, f, "sums of products", &r->h, err));
    HS_TRY(hs_quantize_take(q, square, f, "sums of products", &r->t, err));
    HS_TRY(hs_quantize_take(q, square, f, "sums of products", &r->shift, err));
    HS_TRY(hs_quantize_take(q, n, f, "sums of products", &r->d, err));
    HS_TRY(hs_quantize_take(q, c->hidden * n, f, "sums of products", &r->wanted, err));
    for (int way = 0; way < HS_WAYS; way++) {
        HS_TRY(hs_quantize_take(q, batch * n, f, "rotated inputs", &r->rows[way], err));
        HS_TRY(hs_quantize_take(q, batch * n, f, "inputs", &q->hidden_rows[way], err));
    }
    HS_TRY(hs_quantize_take(q, 2 * batch * hidden, f, "inputs", &q->u, err));
    if (q->o->awq) {
        HS_TRY(hs_quantize_take(q, n, f, "scales of inputs", &r->column, err));
        HS_TRY(hs_quantize_take(q, n, f, "scales of inputs", &r->factor, err));
        HS_TRY(hs_quantize_take(q, 16 * n, f, "scales of inputs", &r->scales, err));
    }
    HS_TRY(
        hs_quantize_take(q, hs_fit_scratch_bytes(cols, hs_pool_threads(q->pool)), 1, "rows to fit", &q->scratch, err));
    HS_TRY(hs_quantize_take(q, picks, f, "weights of tokens", &q->token_weight, err));
    if (c->experts == 0)
        return HLWQ_OK;
    HS_TRY(hs_quantize_take(q, hidden * hidden, f, "sums of products", &q->shared_inputs, err));
    HS_TRY(hs_quantize_take(q, picks, sizeof(uint32_t), "tokens by expert", &q->token, err));
    HS_TRY(hs_quantize_take(q, picks, sizeof(uint32_t), "tokens by expert", &q->slot, err));
    HS_TRY(hs_quantize_take(q, c->experts + 1, sizeof(uint32_t), "tokens by expert", &q->start, err));
    HS_TRY(hs_quantize_take(q, c->experts, sizeof(hs_ffn), "experts", &q->work.source_expert, err));
    return hs_quantize_take(q, c->experts, sizeof(hs_ffn), "experts", &q->work.result_expert, err);
}

hlwq_status hs_quantize_embed(hs_quantize *q, hlwq_error *err)
{
    uint32_t g;
    const hs_group *group = hs_quantize_group(q->to.table, HS_GROUP_EMBED, 0, &g);
    const hs_part *p = hs_group_find(group, HS_EMBED);
    uint8_t *extent;
    HS_TRY(hs_quantize_load(q, q->result, g, &extent, err));
    hs_matrix table = hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, extent + p->offset,
                                   hs_dtype_rotated(p->dtype) ? hs_store_book(q->result, p->book) : NULL);
    hlwq_status st = hs_calibration_embed(&q->calib, &table, err);
    hs_mem_free(q->mem, extent);
    return st;
}

hlwq_status hs_quantize_open_run(hs_quantize *q, const hs_precision *p, const int32_t *ids, uint32_t windows,
                                 hlwq_error *err)
{
    hs_log silent = {0}; /* the source has been talked about */
    HS_TRY(hs_store_open(&q->result, q->mem, hs_store_path(q->source), p, &silent, err));
    HS_TRY(open_backend(q, err));
    HS_TRY(
        hs_calibration_open(&q->calib, q->mem, q->pool, q->backend, q->from.config, ids, q->o->window, windows, err));
    HS_TRY(open_room(q, err));
    return hs_quantize_embed(q, err);
}

void hs_quantize_close_run(hs_quantize *q)
{
    hs_reads *r = &q->reads;
    hs_calibration_close(&q->calib);
    void *const block[] = {r->h,
                           r->t,
                           r->shift,
                           r->d,
                           r->wanted,
                           r->column,
                           r->factor,
                           r->scales,
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
                           q->work.result_expert};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++)
        hs_mem_free(q->mem, block[i]);
    if (q->backend)
        q->backend->ops->close(q->backend);
    hs_store_close(q->result);
    q->result = NULL;
    q->backend = NULL;
    q->reads = (hs_reads){0};
    q->scratch = q->shared_inputs = q->u = q->hidden_rows[0] = q->hidden_rows[1] = q->token_weight = NULL;
    q->token = q->slot = q->start = NULL;
    q->work = (hs_layer_work){0};
}

/* ---- layers --------------------------------------------------------------------------------------- */

const hs_group *hs_quantize_group(const hs_table *t, hs_group_kind kind, uint32_t layer, uint32_t *index)
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
hlwq_status hs_quantize_load(hs_quantize *q, hs_store *s, uint32_t g, uint8_t **out, hlwq_error *err)
{
    const hs_group *group = &hs_store_table(s)->group[g];
    HS_TRY(hs_quantize_take(q, group->bytes, group->count, "a layer's weights", out, err));
    for (uint32_t e = 0; e < group->count; e++)
        HS_TRY(hs_store_load(s, g, e, q->pool, false, *out + e * group->bytes, err));
    return HLWQ_OK;
}

hlwq_status hs_quantize_load_layer(hs_quantize *q, uint32_t layer, hlwq_error *err)
{
    hs_layer_work *w = &q->work;
    const hs_table *from = q->from.table, *to = q->to.table;
    uint32_t a, b;
    w->from_group = hs_quantize_group(from, HS_GROUP_LAYER, layer, &a);
    w->to_group = hs_quantize_group(to, HS_GROUP_LAYER, layer, &b);
    HS_TRY(hs_quantize_load(q, q->source, a, &w->from, err));
    HS_TRY(hs_quantize_load(q, q->result, b, &w->to, err));
    hs_network_bind_at(&q->from, w->from_group, w->from, &w->source);
    hs_network_bind_at(&q->to, w->to_group, w->to, &w->result);
    if (from->config.experts == 0)
        return HLWQ_OK;
    w->from_experts_group = hs_quantize_group(from, HS_GROUP_EXPERTS, layer, &a);
    w->to_experts_group = hs_quantize_group(to, HS_GROUP_EXPERTS, layer, &b);
    HS_TRY(hs_quantize_load(q, q->source, a, &w->from_experts, err));
    HS_TRY(hs_quantize_load(q, q->result, b, &w->to_experts, err));
    for (uint32_t e = 0; e < from->config.experts; e++) {
        w->source_expert[e] = hs_network_bind_expert_at(&q->from, w->from_experts_group,
                                                        w->from_experts + e * w->from_experts_group->bytes);
        w->result_expert[e] =
            hs_network_bind_expert_at(&q->to, w->to_experts_group, w->to_experts + e * w->to_experts_group->bytes);
    }
    return HLWQ_OK;
}

void hs_quantize_drop_layer(hs_quantize *q)
{
    hs_layer_work *w = &q->work;
    hs_mem_free(q->mem, w->from);
    hs_mem_free(q->mem, w->to);
    hs_mem_free(q->mem, w->from_experts);
    hs_mem_free(q->mem, w->to_experts);
    w->from = w->to = w->from_experts = w->to_experts = NULL;
}
