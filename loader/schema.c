/*
 * loader/schema.c - the one table of roles: names, shapes, classes, and how they group.
 */
#include "loader/schema.h"

#include "base/size.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    hs_role_class kind;
} role_info[HS_ROLE_COUNT] = {
    [HS_EMBED] = {"embed_tokens.weight", HS_CLASS_EMBED},
    [HS_HEAD] = {"lm_head.weight", HS_CLASS_HEAD},
    [HS_FINAL_NORM] = {"norm.weight", HS_CLASS_VECTOR},
    [HS_INPUT_NORM] = {"input_layernorm.weight", HS_CLASS_VECTOR},
    [HS_POST_NORM] = {"post_attention_layernorm.weight", HS_CLASS_VECTOR},
    [HS_Q] = {"self_attn.q_proj.weight", HS_CLASS_MATRIX},
    [HS_K] = {"self_attn.k_proj.weight", HS_CLASS_MATRIX},
    [HS_V] = {"self_attn.v_proj.weight", HS_CLASS_MATRIX},
    [HS_O] = {"self_attn.o_proj.weight", HS_CLASS_MATRIX},
    [HS_Q_NORM] = {"self_attn.q_norm.weight", HS_CLASS_VECTOR},
    [HS_K_NORM] = {"self_attn.k_norm.weight", HS_CLASS_VECTOR},
    [HS_QKV] = {"linear_attn.in_proj_qkv.weight", HS_CLASS_MATRIX},
    [HS_Z] = {"linear_attn.in_proj_z.weight", HS_CLASS_MATRIX},
    [HS_B] = {"linear_attn.in_proj_b.weight", HS_CLASS_SMALL_MATRIX},
    [HS_A] = {"linear_attn.in_proj_a.weight", HS_CLASS_SMALL_MATRIX},
    [HS_CONV] = {"linear_attn.conv1d.weight", HS_CLASS_VECTOR},
    [HS_A_LOG] = {"linear_attn.A_log", HS_CLASS_VECTOR},
    [HS_DT_BIAS] = {"linear_attn.dt_bias", HS_CLASS_VECTOR},
    [HS_DELTA_NORM] = {"linear_attn.norm.weight", HS_CLASS_VECTOR},
    [HS_OUT] = {"linear_attn.out_proj.weight", HS_CLASS_MATRIX},
    [HS_GATE] = {"mlp.gate_proj.weight", HS_CLASS_MATRIX},
    [HS_UP] = {"mlp.up_proj.weight", HS_CLASS_MATRIX},
    [HS_DOWN] = {"mlp.down_proj.weight", HS_CLASS_MATRIX},
    [HS_ROUTER] = {"mlp.gate.weight", HS_CLASS_SMALL_MATRIX},
    [HS_SHARED_GATE] = {"mlp.shared_expert.gate_proj.weight", HS_CLASS_MATRIX},
    [HS_SHARED_UP] = {"mlp.shared_expert.up_proj.weight", HS_CLASS_MATRIX},
    [HS_SHARED_DOWN] = {"mlp.shared_expert.down_proj.weight", HS_CLASS_MATRIX},
    [HS_SHARED_MIX] = {"mlp.shared_expert_gate.weight", HS_CLASS_SMALL_MATRIX},
    [HS_MTP_FC] = {"fc.weight", HS_CLASS_MATRIX},
    [HS_MTP_NORM_E] = {"pre_fc_norm_embedding.weight", HS_CLASS_VECTOR},
    [HS_MTP_NORM_H] = {"pre_fc_norm_hidden.weight", HS_CLASS_VECTOR},
    [HS_MTP_NORM] = {"norm.weight", HS_CLASS_VECTOR},
};

static const char *const kind_name[HS_GROUP_KIND_COUNT] = {
    "global", "embed", "head", "layer", "experts", "mtp", "mtp-experts",
};

hs_role_class hs_role_class_of(hs_role role)
{
    return role_info[role].kind;
}

const char *hs_role_name(hs_role role)
{
    return role_info[role].name;
}

const char *hs_group_kind_name(hs_group_kind kind)
{
    return kind_name[kind];
}

void hs_part_format(char out[HS_FORMAT_TEXT], const hs_part *part)
{
    snprintf(out, HS_FORMAT_TEXT, "%s%s%s", hs_dtype_name(part->dtype), part->ordered ? "/order" : "",
             part->scaled ? "/scaled" : "");
}

bool hs_part_parse_format(hs_part *part, const char *text)
{
    char name[HS_FORMAT_TEXT];
    size_t n = strcspn(text, "/");
    const char *rest = text + n;
    if (n >= sizeof name)
        return false;
    memcpy(name, text, n);
    name[n] = 0;
    part->ordered = strncmp(rest, "/order", 6) == 0;
    rest += part->ordered ? 6 : 0;
    part->scaled = strcmp(rest, "/scaled") == 0;
    rest += part->scaled ? 7 : 0;
    return !*rest && hs_dtype_parse(name, &part->dtype) && (!part->ordered || hs_dtype_int4(part->dtype)) &&
           (!part->scaled || hs_dtype_packed(part->dtype));
}

const hs_part *hs_group_find(const hs_group *group, hs_role role)
{
    for (uint32_t i = 0; i < group->n_parts; i++)
        if (group->part[i].role == role)
            return &group->part[i];
    return NULL;
}

void hs_part_name(char *out, size_t capacity, const hs_group *group, uint32_t extent, hs_role role)
{
    const char *name = hs_role_name(role);
    bool mtp_own = role >= HS_MTP_FC;
    switch (group->kind) {
    case HS_GROUP_LAYER: snprintf(out, capacity, "layers.%u.%s", group->layer, name); return;
    case HS_GROUP_EXPERTS: /* "mlp." is 4 long */
        snprintf(out, capacity, "layers.%u.mlp.experts.%u.%s", group->layer, extent, name + 4);
        return;
    case HS_GROUP_MTP_LAYER: snprintf(out, capacity, mtp_own ? "mtp.%s" : "mtp.layers.0.%s", name); return;
    case HS_GROUP_MTP_EXPERTS: snprintf(out, capacity, "mtp.layers.0.mlp.experts.%u.%s", extent, name + 4); return;
    default: snprintf(out, capacity, "%s", name);
    }
}

/* ---- building ------------------------------------------------------------------------------- */

static void add(hs_group *g, hs_role role, uint32_t rows, uint32_t cols)
{
    g->part[g->n_parts++] = (hs_part){.role = role, .rows = rows, .cols = cols, .dtype = HS_F32};
}

static void add_mixer(hs_group *g, const hs_config *c, bool full)
{
    uint32_t h = c->hidden, v_width = c->v_heads * c->v_dim;
    if (full) {
        add(g, HS_Q_NORM, 1, c->head_dim);
        add(g, HS_K_NORM, 1, c->head_dim);
        add(g, HS_Q, c->q_heads * 2 * c->head_dim, h);
        add(g, HS_K, c->kv_heads * c->head_dim, h);
        add(g, HS_V, c->kv_heads * c->head_dim, h);
        add(g, HS_O, h, c->q_heads * c->head_dim);
        return;
    }
    add(g, HS_A_LOG, 1, c->v_heads);
    add(g, HS_DT_BIAS, 1, c->v_heads);
    add(g, HS_DELTA_NORM, 1, c->v_dim);
    add(g, HS_CONV, hs_conv_channels(c), c->conv_taps);
    add(g, HS_B, c->v_heads, h);
    add(g, HS_A, c->v_heads, h);
    add(g, HS_QKV, hs_conv_channels(c), h);
    add(g, HS_Z, v_width, h);
    add(g, HS_OUT, h, v_width);
}

static void add_trunk(hs_group *g, const hs_config *c, bool full)
{
    add(g, HS_INPUT_NORM, 1, c->hidden);
    add(g, HS_POST_NORM, 1, c->hidden);
    add_mixer(g, c, full);
    if (c->experts == 0) {
        add(g, HS_GATE, c->intermediate, c->hidden);
        add(g, HS_UP, c->intermediate, c->hidden);
        add(g, HS_DOWN, c->hidden, c->intermediate);
        return;
    }
    add(g, HS_ROUTER, c->experts, c->hidden);
    if (c->shared_width) {
        add(g, HS_SHARED_MIX, 1, c->hidden);
        add(g, HS_SHARED_GATE, c->shared_width, c->hidden);
        add(g, HS_SHARED_UP, c->shared_width, c->hidden);
        add(g, HS_SHARED_DOWN, c->hidden, c->shared_width);
    }
}

static hs_group *next_group(hs_table *t, hs_group_kind kind, uint32_t layer, uint32_t count)
{
    hs_group *g = &t->group[t->n_groups++];
    *g = (hs_group){.kind = kind, .layer = layer, .count = count};
    return g;
}

static void add_experts(hs_table *t, hs_group_kind kind, uint32_t layer)
{
    const hs_config *c = &t->config;
    if (c->experts == 0)
        return;
    hs_group *g = next_group(t, kind, layer, c->experts);
    add(g, HS_GATE, c->expert_width, c->hidden);
    add(g, HS_UP, c->expert_width, c->hidden);
    add(g, HS_DOWN, c->hidden, c->expert_width);
}

hlwq_status hs_schema_build(hs_table *t, const hs_config *config, bool has_mtp, hs_arena *arena, hlwq_error *err)
{
    void *p;
    uint32_t per_layer = config->experts ? 2 : 1;
    *t = (hs_table){.config = *config, .has_mtp = has_mtp};
    HS_TRY(hs_arena_array(arena, 3 + (uint64_t)per_layer * (config->layers + 1), sizeof(hs_group), &p, err));
    t->group = p;
    const hs_config *c = &t->config;
    add(next_group(t, HS_GROUP_GLOBAL, 0, 1), HS_FINAL_NORM, 1, c->hidden);
    add(next_group(t, HS_GROUP_EMBED, 0, 1), HS_EMBED, c->vocab, c->hidden);
    if (!c->tied)
        add(next_group(t, HS_GROUP_HEAD, 0, 1), HS_HEAD, c->vocab, c->hidden);
    for (uint32_t i = 0; i < c->layers; i++) {
        add_trunk(next_group(t, HS_GROUP_LAYER, i, 1), c, c->full[i]);
        add_experts(t, HS_GROUP_EXPERTS, i);
    }
    if (has_mtp) {
        hs_group *g = next_group(t, HS_GROUP_MTP_LAYER, 0, 1);
        add(g, HS_MTP_NORM_E, 1, c->hidden);
        add(g, HS_MTP_NORM_H, 1, c->hidden);
        add(g, HS_MTP_NORM, 1, c->hidden);
        add(g, HS_MTP_FC, c->hidden, 2 * c->hidden);
        add_trunk(g, c, true);
        add_experts(t, HS_GROUP_MTP_EXPERTS, 0);
    }
    for (uint32_t g = 0; g < t->n_groups; g++)
        HS_TRY(hs_group_place(&t->group[g], err));
    return HLWQ_OK;
}

hlwq_status hs_group_place(hs_group *g, hlwq_error *err)
{
    uint64_t at = 0;
    bool experts = g->kind == HS_GROUP_EXPERTS || g->kind == HS_GROUP_MTP_EXPERTS;
    for (uint32_t i = 0; i < g->n_parts; i++) {
        hs_part *p = &g->part[i];
        bool fits = hs_planes_of(p->dtype, p->rows, p->cols, &p->planes);
        if (fits && p->ordered) {
            p->planes.order = p->planes.bytes;
            p->planes.order_bytes = (uint64_t)p->cols * sizeof(uint32_t);
            p->planes.bytes += hs_align_up(p->planes.order_bytes, 64);
        }
        if (fits && p->scaled) {
            p->planes.factor = p->planes.bytes;
            p->planes.factor_bytes = (uint64_t)p->cols * sizeof(float);
            p->planes.bytes += hs_align_up(p->planes.factor_bytes, 64);
        }
        /* Large parts start on a page; an expert is read whole, so its three follow one another. */
        uint64_t align = !experts && p->planes.bytes > HS_EXTENT_ALIGN ? HS_EXTENT_ALIGN : 64;
        if (!fits || !hs_align_u64(at, align, &p->offset) || !hs_add_u64(p->offset, p->planes.bytes, &at) ||
            at > INT64_MAX / 2)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s of %u x %u is larger than any file", hs_role_name(p->role),
                           p->rows, p->cols);
    }
    g->bytes = hs_align_up(at, HS_EXTENT_ALIGN);
    uint64_t all;
    if (!hs_mul_u64(g->bytes, g->count, &all) || all > INT64_MAX / 2)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%u extents of %" PRIu64 " bytes are larger than any file", g->count,
                       g->bytes);
    return HLWQ_OK;
}
