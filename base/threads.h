/*
 * base/threads.h - a pool that runs one function over a range of items.
 *
 * The caller takes part.  Each thread has a contiguous share of the items and takes bands from its front, so that
 * what it reads lies in order; one that is done takes bands from the back of another's.  Which thread runs which band
 * is not fixed, so no result may depend on it.  One run at a time; not re-entrant.
 */
#ifndef HS_BASE_THREADS_H
#define HS_BASE_THREADS_H

#include "base/cores.h"
#include "base/error.h"

typedef struct hs_pool hs_pool;

/* Items first..last-1; `worker` is 0..threads-1, for scratch memory of one's own. */
typedef void (*hs_pool_fn)(void *user, uint32_t first, uint32_t last, uint32_t worker);

/* 0 threads = hs_usable_cores(); no more than there are cores: workers keep to those of the fast kind. At most 256. */
hlwq_status hs_pool_open(uint32_t threads, hs_pool **pool, hlwq_error *err);
void hs_pool_close(hs_pool *pool);
uint32_t hs_pool_threads(const hs_pool *pool);

/* Runs fn over 0..n-1 in bands of `band` items and returns when all are done. */
void hs_pool_run(hs_pool *pool, uint32_t n, uint32_t band, hs_pool_fn fn, void *user);

#endif
