/*
 * offload/footprint.c - adds up a table.
 */
#include "offload/footprint.h"

#include "base/size.h"

bool hs_group_is_used(const hs_table *t, const hs_group *g)
{
    return t->drafts || (g->kind != HS_GROUP_MTP_LAYER && g->kind != HS_GROUP_MTP_EXPERTS);
}

bool hs_group_may_stream(const hs_table *t, const hs_group *g)
{
    if (t->drafts && g->kind == HS_GROUP_MTP_EXPERTS)
        return true;
    return g->kind == (t->config.experts ? HS_GROUP_EXPERTS : HS_GROUP_LAYER);
}

hs_footprint hs_footprint_of(const hs_table *t)
{
    hs_footprint f = {0};
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_group *group = &t->group[g];
        uint64_t bytes = group->bytes * group->count;
        if (!hs_group_is_used(t, group))
            continue;
        if (!hs_group_may_stream(t, group)) {
            bool embed = group->kind == HS_GROUP_EMBED;
            f.trunk_bytes += bytes + 4096; /* and the block's own page */
            f.embed_bytes += embed ? bytes + 4096 : 0;
            f.stage_bytes += embed && !t->config.tied ? 0 : bytes + 4096;
            continue;
        }
        f.streamed_bytes += bytes + 4096;
        f.streamed += group->count;
        f.groups++;
        f.slot_bytes = hs_max_u64(f.slot_bytes, group->bytes);
    }
    f.slots_min = f.streamed < HS_RING ? f.streamed : HS_RING; /* one in use, one being read */
    return f;
}
