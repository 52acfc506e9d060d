/*
 * offload/store_rows.h - the rows of a piece over the pool, and whether all of them could be made.
 */
#ifndef HS_OFFLOAD_STORE_ROWS_H
#define HS_OFFLOAD_STORE_ROWS_H

#include "base/threads.h"
#include "base/error.h"

enum { HS_STORE_WORKERS = 256 };

/* Each worker leaves its status in `status`, which is all zero before; the first that is not OK. `pool` may be NULL. */
static inline hlwq_status hs_store_run(hs_pool *pool, uint64_t rows, hs_pool_fn fn, void *job,
                                       const hlwq_status status[HS_STORE_WORKERS])
{
    if (pool)
        hs_pool_run(pool, (uint32_t)rows, 16, fn, job);
    else
        fn(job, 0, (uint32_t)rows, 0);
    for (int i = 0; i < HS_STORE_WORKERS; i++)
        if (status[i] != HLWQ_OK)
            return status[i];
    return HLWQ_OK;
}

#endif
