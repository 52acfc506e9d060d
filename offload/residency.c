/*
 * offload/residency.c - all extents resident: one block per group, loaded at open.
 */
#include "offload/residency.h"

#include <assert.h>
#include <inttypes.h>

struct hs_residency {
    hs_store *store;
    hs_mem *mem;
    uint32_t n_groups, leases;
    uint8_t *data[]; /* [n_groups], extents one after another; NULL = not loaded */
};

static bool wanted(const hs_group *g)
{
    return g->kind != HS_GROUP_MTP_LAYER && g->kind != HS_GROUP_MTP_EXPERTS;
}

uint64_t hs_residency_bytes(const hs_table *t)
{
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < t->n_groups; g++)
        if (wanted(&t->group[g]))
            bytes += t->group[g].bytes * t->group[g].count + 4096; /* and the block's own page */
    return bytes;
}

static hlwq_status load_all(hs_residency *r, hs_pool *pool, const hs_residency_options *o, hlwq_error *err)
{
    const hs_table *t = hs_store_table(r->store);
    uint64_t done = 0, total = hs_residency_bytes(t);
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_group *group = &t->group[g];
        void *p;
        if (!wanted(group))
            continue;
        hs_mem_tag tag = group->kind == HS_GROUP_EXPERTS ? HS_MEM_EXPERTS : HS_MEM_WEIGHTS;
        HS_TRY(hs_mem_alloc(r->mem, tag, group->bytes * group->count, "weights", &p, err));
        r->data[g] = p;
        for (uint32_t e = 0; e < group->count; e++) {
            HS_TRY(hs_store_load(r->store, g, e, pool, o->verify, r->data[g] + e * group->bytes, err));
            done += group->bytes;
            if (o->progress && !o->progress(o->user, done, total))
                return hs_fail(err, HLWQ_ERR_CANCELLED, "loading was stopped");
        }
    }
    return HLWQ_OK;
}

hlwq_status hs_residency_open(hs_residency **out, hs_store *store, hs_mem *mem, hs_pool *pool,
                              const hs_residency_options *options, hlwq_error *err)
{
    void *p;
    uint32_t n = hs_store_table(store)->n_groups;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, sizeof(hs_residency) + n * sizeof(uint8_t *), "residency", &p, err));
    hs_residency *r = p;
    r->store = store;
    r->mem = mem;
    r->n_groups = n;
    hlwq_status st = load_all(r, pool, options, err);
    if (st != HLWQ_OK) {
        hs_residency_close(r);
        return st;
    }
    *out = r;
    return HLWQ_OK;
}

void hs_residency_close(hs_residency *r)
{
    if (!r)
        return;
    assert(r->leases == 0);
    for (uint32_t g = 0; g < r->n_groups; g++)
        hs_mem_free(r->mem, r->data[g]);
    hs_mem_free(r->mem, r);
}

const uint8_t *hs_residency_trunk(const hs_residency *r, uint32_t group)
{
    assert(group < r->n_groups && r->data[group]);
    return r->data[group];
}

hlwq_status hs_residency_acquire(hs_residency *r, uint32_t group, const int32_t *extent, uint32_t n, hs_lease *lease,
                                 hlwq_error *err)
{
    (void)err;
    assert(group < r->n_groups && r->data[group]);
    *lease = (hs_lease){group, n, extent};
    r->leases++;
    return HLWQ_OK;
}

const uint8_t *hs_lease_data(const hs_residency *r, const hs_lease *lease, int32_t extent)
{
    const hs_group *g = &hs_store_table(r->store)->group[lease->group];
    assert(extent >= 0 && (uint32_t)extent < g->count);
    return r->data[lease->group] + (uint64_t)extent * g->bytes;
}

void hs_residency_release(hs_residency *r, hs_lease *lease)
{
    assert(r->leases > 0);
    r->leases--;
    lease->n = 0;
}
