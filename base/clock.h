/*
 * base/clock.h - monotonic time.
 */
#ifndef HS_BASE_CLOCK_H
#define HS_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t hs_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline double hs_now_seconds(void)
{
    return (double)hs_now_ns() * 1e-9;
}

#endif
