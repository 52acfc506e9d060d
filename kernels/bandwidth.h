/*
 * kernels/bandwidth.h - how fast memory can be read here.
 */
#ifndef HS_KERNELS_BANDWIDTH_H
#define HS_KERNELS_BANDWIDTH_H

#include "base/mem.h"
#include "base/threads.h"

/* Median rate of seven passes over `bytes` of huge pages with all threads of the pool, in bytes per second. */
hlwq_status hs_read_bandwidth(hs_mem *mem, hs_pool *pool, uint64_t bytes, double *rate, hlwq_error *err);

#endif
