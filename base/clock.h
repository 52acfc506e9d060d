/*
 * base/clock.h - monotonic time.
 */
#ifndef HS_BASE_CLOCK_H
#define HS_BASE_CLOCK_H

#include <stdint.h>

uint64_t hs_now_ns(void);

static inline double hs_now_seconds(void)
{
    return (double)hs_now_ns() * 1e-9;
}

#endif
