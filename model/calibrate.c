/*
 * model/calibrate.c - windows of tokens through single layers.
 */
#include "model/calibrate.h"

#include "base/size.h"

#include <assert.h>
#include <math.h>

static void see(void *user, const hs_matrix *w, const float *x, const uint32_t *token, uint32_t n)
{
    hs_calibration *c = user;
    if (w != c->watched)
        return;
    for (uint32_t i = 0; i < n; i++)
        memcpy(c->seen + (size_t)(c->seen_rows + i) * w->cols, x + (size_t)(token ? token[i] : i) * w->cols,
               w->cols * sizeof(float));
    c->seen_rows += n;
}

void hs_calibration_watch(hs_calibration *c, const hs_matrix *w, float *out)
{
    c->watched = w;
    c->seen = out;
    c->seen_rows = 0;
}

static hlwq_status open_state(hs_calibration *c, hlwq_error *err)
{
    const hs_config *k = c->config;
    void *p;
    uint64_t s = (uint64_t)k->v_heads * k->k_dim * k->v_dim,
             conv = k->v_heads ? (uint64_t)(k->conv_taps - 1) * hs_conv_channels(k) : 0;
    c->delta_bytes = (s + conv) * sizeof(float);
    HS_TRY(hs_mem_alloc(c->mem, HS_MEM_STATE, c->delta_bytes + 64, "DeltaNet state", &c->state, err));
    c->delta = (hs_delta_state){c->state, (float *)c->state + s};
    uint32_t pages = (uint32_t)hs_ceil_div(c->window, HS_GRID);
    uint64_t page = (uint64_t)HS_GRID * k->kv_heads * k->head_dim * 2 * sizeof(uint16_t);
    HS_TRY(hs_mem_alloc(c->mem, HS_MEM_KV, pages * page + 64, "keys and values", &p, err));
    c->pages = p;
    HS_TRY(hs_mem_alloc(c->mem, HS_MEM_KV, pages * sizeof(void *), "page table", &p, err));
    c->page = p;
    for (uint32_t i = 0; i < pages; i++)
        c->page[i] = c->pages + i * page;
    return HLWQ_OK;
}

static hlwq_status open_rows(hs_calibration *c, const int32_t *ids, hlwq_error *err)
{
    void *p;
    uint64_t rows = c->tokens, row = (uint64_t)c->config->hidden * sizeof(float);
    HS_TRY(hs_mem_alloc(c->mem, HS_MEM_OTHER, rows * sizeof(int32_t), "calibration tokens", &p, err));
    c->ids = p;
    memcpy(c->ids, ids, rows * sizeof(int32_t));
    for (int way = 0; way < HS_WAYS; way++) {
        HS_TRY(hs_mem_alloc(c->mem, HS_MEM_ACT, rows * row, "calibration activations", &p, err));
        c->x[way] = p;
    }
    uint64_t picks = rows * c->config->experts_used, some = (uint64_t)c->window * c->config->experts_used;
    HS_TRY(hs_mem_alloc(c->mem, HS_MEM_ACT, (picks + some) * sizeof(int32_t), "calibration routing", &p, err));
    c->pick = p;
    c->window_pick = c->pick + picks;
    HS_TRY(hs_mem_alloc(c->mem, HS_MEM_ACT, (picks + some) * sizeof(float), "calibration routing", &p, err));
    c->weight = p;
    c->window_weight = c->weight + picks;
    HS_TRY(hs_mem_alloc(c->mem, HS_MEM_ACT, (uint64_t)HS_BATCH_MAX * row, "a window's activations", &p, err));
    c->trial = p;
    return HLWQ_OK;
}

hlwq_status hs_calibration_open(hs_calibration *c, hs_mem *mem, hs_pool *pool, hs_backend *backend,
                                const hs_config *config, const int32_t *ids, uint32_t window, uint32_t windows,
                                hlwq_error *err)
{
    assert(window <= HS_BATCH_MAX);
    *c = (hs_calibration){.mem = mem, .pool = pool, .backend = backend, .config = config};
    c->window = window;
    c->windows = windows;
    c->tokens = window * windows;
    hlwq_status st = open_rows(c, ids, err);
    if (st == HLWQ_OK)
        st = open_state(c, err);
    hs_watch watch = {see, c};
    hs_backend_cpu_watch(backend, &watch);
    if (st != HLWQ_OK)
        hs_calibration_close(c);
    return st;
}

void hs_calibration_close(hs_calibration *c)
{
    if (!c->mem)
        return;
    hs_watch nobody = {0};
    hs_backend_cpu_watch(c->backend, &nobody);
    for (int way = 0; way < HS_WAYS; way++)
        hs_mem_free(c->mem, c->x[way]);
    hs_mem_free(c->mem, c->pick);
    hs_mem_free(c->mem, c->weight);
    hs_mem_free(c->mem, c->trial);
    hs_mem_free(c->mem, c->ids);
    hs_mem_free(c->mem, c->state);
    hs_mem_free(c->mem, c->pages);
    hs_mem_free(c->mem, c->page);
    *c = (hs_calibration){0};
}

hlwq_status hs_calibration_embed(hs_calibration *c, const hs_matrix *table, hlwq_error *err)
{
    size_t hidden = c->config->hidden;
    for (uint32_t w = 0; w < c->windows; w++) {
        size_t at = (size_t)w * c->window;
        HS_TRY(
            c->backend->ops->embed(c->backend, table, c->ids + at, c->window, c->x[HS_WAY_SOURCE] + at * hidden, err));
    }
    memcpy(c->x[HS_WAY_RESULT], c->x[HS_WAY_SOURCE], (size_t)c->tokens * hidden * sizeof(float));
    return HLWQ_OK;
}

hlwq_status hs_calibration_mixer(hs_calibration *c, const hs_layer *layer, float *x, hlwq_error *err)
{
    const hs_backend_ops *ops = c->backend->ops;
    if (layer->full) {
        hs_kv_view kv = {.page = c->page, .dtype = HS_F16};
        return ops->attention(c->backend, &layer->attention, &kv, 0, c->window, x, err);
    }
    memset(c->state, 0, c->delta_bytes);
    return ops->deltanet(c->backend, &layer->delta, &c->delta, 0, c->window, x, err);
}

hlwq_status hs_calibration_route(hs_calibration *c, const hs_layer *layer, hlwq_error *err)
{
    size_t hidden = c->config->hidden, used = c->config->experts_used;
    for (uint32_t w = 0; w < c->windows; w++) {
        size_t at = (size_t)w * c->window;
        hs_routing routing = {.id = c->pick + at * used, .weight = c->weight + at * used};
        HS_TRY(c->backend->ops->route(c->backend, &layer->mixture, c->window, c->x[HS_WAY_RESULT] + at * hidden,
                                      &routing, err));
    }
    return HLWQ_OK;
}

/* All experts that a window needs, at once: they are in memory. */
typedef struct chosen {
    const hs_calibration *c;
    const int32_t *pick;
    int32_t id[HS_EXPERTS_MAX];
    bool given;
} chosen;

static hlwq_status next_chosen(void *user, const int32_t **id, uint32_t *n, hs_place *place, hlwq_error *err)
{
    chosen *s = user;
    bool wanted[HS_EXPERTS_MAX] = {false};
    (void)err;
    *id = s->id;
    *n = 0;
    *place = HS_PLACE_HERE;
    if (s->given)
        return HLWQ_OK;
    for (uint32_t i = 0; i < s->c->window * s->c->config->experts_used; i++)
        wanted[s->pick[i]] = true;
    for (uint32_t e = 0; e < s->c->config->experts; e++)
        if (wanted[e])
            s->id[(*n)++] = (int32_t)e;
    s->given = true;
    return HLWQ_OK;
}

hlwq_status hs_calibration_feed_forward(hs_calibration *c, const hs_layer *layer, const hs_ffn *expert, float *x,
                                        hlwq_error *err)
{
    const hs_backend_ops *ops = c->backend->ops;
    if (!layer->moe)
        return ops->dense(c->backend, layer->ffn_norm, c->config->eps, &layer->dense, c->window, x, err);
    hs_routing routing = {.id = c->window_pick, .weight = c->window_weight};
    HS_TRY(ops->route(c->backend, &layer->mixture, c->window, x, &routing, err));
    chosen s = {.c = c, .pick = routing.id};
    hs_expert_source source = {next_chosen, &s};
    return ops->experts(c->backend, &layer->mixture, expert, &source, c->window, &routing, x, err);
}

void hs_calibration_hidden(hs_calibration *c, const hs_ffn *w, const float *u, uint32_t n, float *h)
{
    static const int32_t only = 0;
    uint32_t start[2] = {0, n}, list[HS_BATCH_MAX];
    assert(n <= HS_BATCH_MAX);
    for (uint32_t i = 0; i < n; i++)
        list[i] = i;
    hs_calibration_watch(c, &w->down, h);
    hs_backend_cpu_lane(c->backend, u, n, w, &only, 1, start, list, c->trial);
    hs_calibration_watch(c, NULL, NULL);
}

void hs_calibration_norm(const hs_config *config, const float *x, const float *norm, float *out)
{
    double square = 0;
    for (uint32_t i = 0; i < config->hidden; i++)
        square += (double)x[i] * x[i];
    float r = (float)(1.0 / sqrt(square / config->hidden + config->eps));
    for (uint32_t i = 0; i < config->hidden; i++)
        out[i] = x[i] * r * (1.0f + norm[i]);
}
