/*
 * base/available.h - how much memory this process may still take, and whether its system runs short.
 */
#ifndef HS_BASE_AVAILABLE_H
#define HS_BASE_AVAILABLE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Bytes that can be taken without pushing anything out: what the system says is available, or what the process's
 * control group (v2 or v1) leaves of its limit, page cache not counted, whichever is less.  UINT64_MAX where neither is
 * known.
 */
uint64_t hs_memory_available(void);

/* Pressure stall information: of the process's control group (v2), else of the system. */
typedef struct hs_strain {
    char path[512];
    bool known; /* the kernel tells */
    uint64_t total_us;
    double looked_seconds;
} hs_strain;

/* `path` NULL = where the kernel has it; tests give a file. */
void hs_strain_init(hs_strain *s, const char *path);

/* Share of the time since the last look in which some task stood still for want of memory; 0 at first. */
double hs_strain_look(hs_strain *s, double now_seconds);

#endif
