/*
 * model/describe.c - what a model is, as JSON, from its table alone.
 */
#include "model/engine.h"

#include "base/text.h"

#include <inttypes.h>

/* The dtypes of a group's matrices, in order of its parts. */
static void group_format(hs_text *t, const hs_group *g)
{
    bool seen[2][2][HS_DTYPE_COUNT] = {{{false}}};
    const char *comma = "";
    hs_text_add(t, "\"", 1);
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const hs_part *p = &g->part[i];
        char format[HS_FORMAT_TEXT];
        if (seen[p->ordered][p->scaled][p->dtype] || (g->n_parts > 1 && hs_role_class_of(p->role) == HS_CLASS_VECTOR))
            continue;
        seen[p->ordered][p->scaled][p->dtype] = true;
        hs_part_format(format, p);
        hs_text_format(t, "%s%s", comma, format);
        comma = "+";
    }
    hs_text_add(t, "\"", 1);
}

static uint64_t group_parameters(const hs_group *g)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < g->n_parts; i++)
        n += (uint64_t)g->part[i].rows * g->part[i].cols;
    return n * g->count;
}

/* One line a group; readers fold layers that look alike. */
static void groups(hs_text *t, const hs_table *table)
{
    const char *comma = "";
    for (uint32_t g = 0; g < table->n_groups; g++) {
        const hs_group *group = &table->group[g];
        bool layered = group->kind == HS_GROUP_LAYER || group->kind == HS_GROUP_EXPERTS;
        hs_text_format(t, "%s{\"kind\":\"%s\"", comma, hs_group_kind_name(group->kind));
        if (layered)
            hs_text_format(t, ",\"layer\":%u", group->layer);
        if (group->kind == HS_GROUP_LAYER)
            hs_text_format(t, ",\"mixer\":\"%s\"", table->config.full[group->layer] ? "attention" : "deltanet");
        hs_text_format(t, ",\"count\":%u,\"format\":", group->count);
        group_format(t, group);
        hs_text_format(t, ",\"bytes\":%" PRIu64 ",\"parameters\":%" PRIu64 "}", group->bytes * group->count,
                       group_parameters(group));
        comma = ",";
    }
}

static void describe(hs_text *t, const hs_store *store)
{
    const hs_table *table = hs_store_table(store);
    const hs_config *c = &table->config;
    uint64_t bytes = 0, parameters = 0;
    for (uint32_t g = 0; g < table->n_groups; g++) {
        bytes += table->group[g].bytes * table->group[g].count;
        parameters += group_parameters(&table->group[g]);
    }
    const char *path = hs_store_path(store), *format = hs_store_format(store), *from = hs_store_provenance(store);
    hs_text_format(t, "{\"schema\":1,\"path\":");
    hs_text_json(t, path, strlen(path));
    hs_text_format(t, ",\"kind\":\"%s\",\"format\":", hs_store_is_container(store) ? "container" : "directory");
    hs_text_json(t, format, strlen(format));
    if (hs_store_is_container(store) && from) {
        hs_text_format(t, ",\"made_from\":");
        hs_text_json(t, from, strlen(from));
    }
    hs_text_format(t, ",\"architecture\":\"%s\",\"layers\":%u,\"hidden\":%u,\"vocab\":%u,\"context_max\":%u",
                   c->experts ? "moe" : "dense", c->layers, c->hidden, c->vocab, c->context_max);
    hs_text_format(t, ",\"parameters\":%" PRIu64 ",\"experts\":%u,\"experts_used\":%u,\"tied\":%s,\"mtp\":%s",
                   parameters, c->experts, c->experts ? c->experts_used : 0, c->tied ? "true" : "false",
                   table->has_mtp ? "true" : "false");
    hs_text_format(t, ",\"skipped_vision_tensors\":%u,\"bytes\":%" PRIu64 ",\"bytes_per_token\":%" PRIu64,
                   hs_store_skipped(store), bytes, hs_network_token_bytes(table));
    hs_text_format(t, ",\"groups\":[");
    groups(t, table);
    hs_footprint weights = hs_footprint_of(table);
    hs_kv_format f16 = {HS_F16, HS_F16};
    uint64_t one = hs_states_bytes(c, f16, HS_GRID, HS_GRID), two = hs_states_bytes(c, f16, 2 * HS_GRID, HS_GRID);
    hs_text_format(t,
                   "],\"needs\":{\"weights_bytes\":%" PRIu64 ",\"kv_bytes_per_token\":%" PRIu64
                   ",\"state_bytes\":%" PRIu64 "}}",
                   weights.trunk_bytes + weights.streamed_bytes, (two - one) / HS_GRID, one - (two - one));
}

hlwq_status hlwq_describe(const char *model, char **json, hlwq_error *err)
{
    *json = NULL;
    hs_mem *mem = hs_mem_open(0);
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to describe a model");
    hs_store *store;
    hlwq_status st = hs_store_open(&store, mem, model, NULL, NULL, err);
    if (st == HLWQ_OK) {
        hs_text t = {0};
        describe(&t, store);
        *json = hs_text_take(&t);
        if (!*json)
            st = hs_fail(err, HLWQ_ERR_NOMEM, "no memory to describe %s", model);
        hs_store_close(store);
    }
    hs_mem_close(mem);
    return st;
}
