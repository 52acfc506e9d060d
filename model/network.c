/*
 * model/network.c - binds the parts of each group to the structs that the backend takes.
 */
#include "model/network.h"

#include "base/size.h"

#include <assert.h>
#include <math.h>

/* ---- binding -------------------------------------------------------------------------------- */

typedef struct binder {
    const hs_network *net;
    const hs_group *group;
    const uint8_t *data;
} binder;

static hs_matrix matrix(const binder *b, hs_role role)
{
    const hs_part *p = hs_group_find(b->group, role);
    if (!p)
        return (hs_matrix){0};
    return hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, b->data + p->offset,
                        hs_dtype_rotated(p->dtype) ? hs_store_book(b->net->store, p->book) : NULL);
}

static hs_matrix first_rows(const binder *b, hs_role role, const hs_cut *cut)
{
    hs_matrix m = matrix(b, role);
    m.rows = hs_cut_rows(cut, role);
    return m;
}

/* Vectors are fp32 in every form of a model: the schema's rule. */
static const float *vector(const binder *b, hs_role role)
{
    const hs_part *p = hs_group_find(b->group, role);
    assert(p && p->dtype == HS_F32);
    return (const float *)(const void *)(b->data + p->offset);
}

static hs_ffn ffn(const binder *b, hs_role gate, hs_role up, hs_role down)
{
    return (hs_ffn){matrix(b, gate), matrix(b, up), matrix(b, down)};
}

static void bind_attention(const binder *b, hs_attention *a)
{
    const hs_config *c = b->net->config;
    *a = (hs_attention){
        .norm = vector(b, HS_INPUT_NORM),
        .q = matrix(b, HS_Q),
        .k = matrix(b, HS_K),
        .v = matrix(b, HS_V),
        .o = matrix(b, HS_O),
        .q_norm = vector(b, HS_Q_NORM),
        .k_norm = vector(b, HS_K_NORM),
        .q_heads = c->q_heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .rotary_dims = c->rotary_dims,
        .inv_freq = b->net->inv_freq,
        .rope_scale = b->net->config->yarn.factor > 0 ? (float)b->net->config->yarn.attention : 1.0f,
        .eps = c->eps,
    };
}

static void bind_delta(const binder *b, hs_delta *d)
{
    const hs_config *c = b->net->config;
    *d = (hs_delta){
        .norm = vector(b, HS_INPUT_NORM),
        .qkv = matrix(b, HS_QKV),
        .z = matrix(b, HS_Z),
        .b = matrix(b, HS_B),
        .a = matrix(b, HS_A),
        .out = matrix(b, HS_OUT),
        .conv = vector(b, HS_CONV),
        .a_log = vector(b, HS_A_LOG),
        .dt_bias = vector(b, HS_DT_BIAS),
        .out_norm = vector(b, HS_DELTA_NORM),
        .k_heads = c->k_heads,
        .v_heads = c->v_heads,
        .k_dim = c->k_dim,
        .v_dim = c->v_dim,
        .taps = c->conv_taps,
        .eps = c->eps,
    };
}

static void bind_layer(const binder *b, hs_layer *layer)
{
    const hs_config *c = b->net->config;
    layer->full = b->group->kind == HS_GROUP_MTP_LAYER || c->full[b->group->layer];
    layer->moe = c->experts > 0;
    layer->ffn_norm = vector(b, HS_POST_NORM);
    if (layer->full)
        bind_attention(b, &layer->attention);
    else
        bind_delta(b, &layer->delta);
    if (layer->moe)
        layer->mixture = (hs_mixture){
            .norm = layer->ffn_norm,
            .router = matrix(b, HS_ROUTER),
            .shared = ffn(b, HS_SHARED_GATE, HS_SHARED_UP, HS_SHARED_DOWN),
            .shared_mix = matrix(b, HS_SHARED_MIX),
            .experts = c->experts,
            .used = c->experts_used,
            .eps = c->eps,
        };
    else
        layer->dense = ffn(b, HS_GATE, HS_UP, HS_DOWN);
}

/* The draft head: a layer after the last one, and what leads into and out of it. */
static void bind_drafts(hs_network *net, uint32_t g)
{
    binder b = {net, &net->table->group[g], NULL};
    hs_layer *layer = &net->layer[net->config->layers];
    if (b.group->kind == HS_GROUP_MTP_EXPERTS) {
        layer->experts_group = g;
        return;
    }
    b.data = hs_residency_trunk(net->residency, g);
    layer->group = g;
    bind_layer(&b, layer);
    net->joint =
        (hs_joint){vector(&b, HS_MTP_NORM_E), vector(&b, HS_MTP_NORM_H), matrix(&b, HS_MTP_FC), net->config->eps};
    net->draft_norm = vector(&b, HS_MTP_NORM);
}

/* Experts that the backend finds by itself. */
static void bind_table(hs_network *net, hs_layer *layer)
{
    if (!layer->moe)
        return;
    hs_mixture *m = &layer->mixture;
    binder b = {net, &net->table->group[layer->experts_group], NULL};
    b.data = m->base = hs_residency_table(net->residency, layer->experts_group, &m->row);
    if (m->base)
        m->each = ffn(&b, HS_GATE, HS_UP, HS_DOWN);
}

static void bind_all(hs_network *net)
{
    for (uint32_t g = 0; g < net->table->n_groups; g++) {
        const hs_group *group = &net->table->group[g];
        binder b = {net, group, NULL};
        if (group->kind == HS_GROUP_EXPERTS) {
            net->layer[group->layer].experts_group = g;
            continue;
        }
        if (group->kind == HS_GROUP_LAYER) {
            net->layer[group->layer].group = g;
            net->layer[group->layer].full = net->config->full[group->layer];
            net->layer[group->layer].moe = net->config->experts > 0;
            if (hs_residency_streams(net->residency, g))
                continue; /* bound when it is used */
        }
        if (group->kind == HS_GROUP_MTP_LAYER || group->kind == HS_GROUP_MTP_EXPERTS) {
            if (net->drafts)
                bind_drafts(net, g);
            continue;
        }
        b.data = hs_residency_trunk(net->residency, g);
        if (group->kind == HS_GROUP_GLOBAL)
            net->final_norm = vector(&b, HS_FINAL_NORM);
        else if (group->kind == HS_GROUP_EMBED) {
            if (net->config->tied)
                net->head = matrix(&b, HS_EMBED);
            b.data = hs_residency_host(net->residency, g);
            net->embed = matrix(&b, HS_EMBED);
        } else if (group->kind == HS_GROUP_HEAD)
            net->head = matrix(&b, HS_HEAD);
        else
            bind_layer(&b, &net->layer[group->layer]);
    }
    net->draft_head = net->head;
    for (uint32_t i = 0; i < net->config->layers + net->drafts; i++)
        bind_table(net, &net->layer[i]);
    for (uint32_t i = 0; i + 1 < net->config->layers && net->config->experts; i++)
        net->layer[i].mixture.next = &net->layer[i + 1].mixture;
}

void hs_network_bind_experts(hs_network *net, uint32_t group, const int32_t *id, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        binder b = {net, &net->table->group[group], hs_residency_data(net->residency, group, (uint32_t)id[i])};
        net->expert[id[i]] = ffn(&b, HS_GATE, HS_UP, HS_DOWN);
    }
}

void hs_network_bind_layer(hs_network *net, uint32_t group)
{
    binder b = {net, &net->table->group[group], hs_residency_data(net->residency, group, 0)};
    bind_layer(&b, &net->layer[b.group->layer]);
}

bool hs_network_bind_split(const hs_network *net, uint32_t group, hs_split *split)
{
    static const hs_role attention[] = {HS_Q, HS_K, HS_V}, delta[] = {HS_QKV, HS_Z};
    binder b = {net, &net->table->group[group], NULL};
    const hs_cut *cut = hs_residency_split(net->residency, &b.data);
    *split = (hs_split){0};
    if (!cut)
        return false;
    bool full = net->config->full[b.group->layer];
    for (int i = 0; i < (full ? 3 : 2); i++)
        split->in[i] = first_rows(&b, full ? attention[i] : delta[i], cut);
    split->out = first_rows(&b, full ? HS_O : HS_OUT, cut);
    split->ffn = (hs_ffn){first_rows(&b, HS_GATE, cut), first_rows(&b, HS_UP, cut), first_rows(&b, HS_DOWN, cut)};
    return true;
}

void hs_network_bind_at(const hs_network *net, const hs_group *group, const uint8_t *data, hs_layer *layer)
{
    binder b = {net, group, data};
    bind_layer(&b, layer);
}

hs_ffn hs_network_bind_expert_at(const hs_network *net, const hs_group *group, const uint8_t *data)
{
    binder b = {net, group, data};
    return ffn(&b, HS_GATE, HS_UP, HS_DOWN);
}

/* 1 / theta^(2j / d): pow in double rounded to fp32, then the reciprocal in fp32, as torch has it in every entry. */
void hs_rope_frequencies(float *out, const hs_config *c)
{
    for (uint32_t j = 0; j < c->rotary_dims / 2; j++)
        out[j] = 1.0f / (float)pow(c->rope_theta, (double)(float)(2.0 * j / c->rotary_dims));
    if (c->yarn.factor <= 0)
        return;
    /* The dimension that turns `rotations` times within the trained length. */
    double dims = c->rotary_dims, per_turn = c->yarn.original / (2 * 3.14159265358979323846);
    double low = dims * log(per_turn / c->yarn.beta_fast) / (2 * log(c->rope_theta));
    double high = dims * log(per_turn / c->yarn.beta_slow) / (2 * log(c->rope_theta));
    if (c->yarn.truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dims - 1);
    high += high == low ? 0.001 : 0;
    for (uint32_t j = 0; j < c->rotary_dims / 2; j++) {
        float ramp = ((float)j - (float)low) / (float)(high - low);
        float keep = 1.0f - fminf(fmaxf(ramp, 0.0f), 1.0f); /* fast dimensions stay, slow ones are stretched */
        float slow = 1.0f / ((float)c->yarn.factor * (float)pow(c->rope_theta, (double)(float)(2.0 * j / dims)));
        out[j] = slow * (1.0f - keep) + out[j] * keep;
    }
}

hs_limits hs_network_limits(const hs_table *table, uint32_t batch)
{
    const hs_config *c = &table->config;
    hs_limits m = {
        .hidden = c->hidden,
        .vocab = c->vocab,
        .q_width = c->q_heads * 2 * c->head_dim,
        .kv_width = c->kv_heads * c->head_dim,
        .group = c->kv_heads ? c->q_heads / c->kv_heads : 0,
        .head_dim = c->head_dim,
        .channels = hs_conv_channels(c),
        .v_width = c->v_heads * c->v_dim,
        .v_heads = c->v_heads,
        .k_dim = c->k_dim,
        .v_dim = c->v_dim,
        .layers = c->layers,
        .ffn_rows = c->experts ? c->experts_used + (c->shared_width ? 1 : 0) : 1,
        .ffn_width = c->experts ? c->expert_width : c->intermediate,
        .experts = c->experts,
        .used = c->experts ? c->experts_used : 0,
        .joins = table->drafts,
        .batch = batch,
    };
    for (uint32_t g = 0; g < table->n_groups && c->experts; g++)
        m.mixtures += hs_group_may_stream(table, &table->group[g]);
    if (c->experts && c->shared_width > m.ffn_width)
        m.ffn_width = c->shared_width;
    for (uint32_t g = 0; g < table->n_groups; g++)
        for (uint32_t i = 0; i < table->group[g].n_parts; i++) {
            m.dtypes |= 1u << table->group[g].part[i].dtype;
            m.ordered = m.ordered || table->group[g].part[i].ordered || table->group[g].part[i].scaled;
        }
    return m;
}

static uint64_t drafts_bytes(const hs_config *c, uint32_t batch)
{
    return (uint64_t)(batch + HS_WINDOW_MAX) * c->hidden * sizeof(float);
}

hlwq_status hs_network_init(hs_network *net, hs_store *store, hs_residency *residency, hs_backend *backend, hs_mem *mem,
                            uint32_t batch, hlwq_error *err)
{
    void *p;
    const hs_table *t = hs_store_table(store);
    const hs_config *c = &t->config;
    *net = (hs_network){.table = t, .config = c, .store = store, .residency = residency, .backend = backend};
    net->batch = batch;
    net->drafts = t->drafts;
    hs_arena_init(&net->arena, mem, HS_MEM_TABLE);
    HS_TRY(hs_arena_array(&net->arena, c->layers + 1, sizeof(hs_layer), &p, err));
    net->layer = p;
    HS_TRY(hs_arena_array(&net->arena, c->experts, sizeof(hs_ffn), &p, err));
    net->expert = p;
    HS_TRY(hs_arena_array(&net->arena, batch, c->experts_used * sizeof(int32_t), &p, err));
    net->pick = p;
    HS_TRY(hs_arena_array(&net->arena, batch, c->experts_used * sizeof(float), &p, err));
    net->weight = p;
    HS_TRY(hs_arena_array(&net->arena, 2, c->experts_used * sizeof(int32_t) + 64, &p, err));
    net->guess = p;
    HS_TRY(hs_arena_array(&net->arena, 2, c->experts_used * sizeof(float) + 64, &p, err));
    net->guess_weight = p;
    HS_TRY(
        backend->ops->alloc(backend, HS_MEM_ACT, (uint64_t)batch * c->hidden * sizeof(float), "activations", &p, err));
    net->x = p;
    if (net->drafts) {
        HS_TRY(backend->ops->alloc(backend, HS_MEM_ACT, drafts_bytes(c, batch), "draft head", &p, err));
        net->h = p;
    }
    HS_TRY(hs_arena_array(&net->arena, c->rotary_dims / 2 + 1, sizeof(float), &p, err));
    net->inv_freq = p;
    hs_rope_frequencies(net->inv_freq, c);
    bind_all(net);
    return HLWQ_OK;
}

uint64_t hs_network_bytes(const hs_table *t, uint32_t batch)
{
    const hs_config *c = &t->config;
    return (t->drafts ? drafts_bytes(c, batch) : 0) +
           batch * ((uint64_t)c->hidden * sizeof(float) + c->experts_used * 8ull) + c->layers * sizeof(hs_layer) +
           c->experts * sizeof(hs_ffn) + 65536;
}

void hs_network_close(hs_network *net)
{
    net->backend->ops->free(net->backend, net->x);
    net->backend->ops->free(net->backend, net->h);
    hs_arena_close(&net->arena);
    *net = (hs_network){0};
}

uint64_t hs_network_token_bytes(const hs_table *t)
{
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_group *group = &t->group[g];
        for (uint32_t i = 0; i < group->n_parts; i++) {
            const hs_part *p = &group->part[i];
            if (group->kind == HS_GROUP_EXPERTS)
                bytes += p->planes.bytes * t->config.experts_used;
            else if (group->kind == HS_GROUP_EMBED)
                bytes += p->planes.bytes / p->rows + (t->config.tied ? p->planes.bytes : 0); /* one row, and the head */
            else if (group->kind != HS_GROUP_MTP_LAYER && group->kind != HS_GROUP_MTP_EXPERTS)
                bytes += p->planes.bytes;
        }
    }
    return bytes;
}
