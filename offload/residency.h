/*
 * offload/residency.h - which extents are in memory, and the right to use them for a while.
 *
 * acquire gives pointers that stay valid until release.  Everything is resident from the start as long as the model
 * fits; a model that does not fit is refused at open with the size that would.
 */
#ifndef HS_OFFLOAD_RESIDENCY_H
#define HS_OFFLOAD_RESIDENCY_H

#include "offload/store.h"

typedef struct hs_residency hs_residency;

typedef struct hs_residency_options {
    bool verify;
    hlwq_progress_fn progress; /* may be NULL */
    void *user;
} hs_residency_options;

/* Loads every extent outside the MTP groups. Store, memory and pool are lent and must outlive it. */
hlwq_status hs_residency_open(hs_residency **r, hs_store *store, hs_mem *mem, hs_pool *pool,
                              const hs_residency_options *options, hlwq_error *err);
void hs_residency_close(hs_residency *r); /* asserts that nothing is leased; NULL is fine */

/* Bytes that everything resident takes. */
uint64_t hs_residency_bytes(const hs_table *table);

/* The one extent of a group that is read for every token: always there. */
const uint8_t *hs_residency_trunk(const hs_residency *r, uint32_t group);

/* Extents of one group, in use until released. */
typedef struct hs_lease {
    uint32_t group;
    uint32_t n;
    const int32_t *extent; /* [n], lent by the caller of acquire; may repeat */
} hs_lease;

hlwq_status hs_residency_acquire(hs_residency *r, uint32_t group, const int32_t *extent, uint32_t n, hs_lease *lease,
                                 hlwq_error *err);
const uint8_t *hs_lease_data(const hs_residency *r, const hs_lease *lease, int32_t extent);
void hs_residency_release(hs_residency *r, hs_lease *lease);

#endif
