/*
 * base/cores.h - which processors to compute on: one per physical core, those of the fast kind only.
 */
#ifndef HS_BASE_CORES_H
#define HS_BASE_CORES_H

#include <stdint.h>

enum { HS_CORES_MAX = 256 };

typedef struct hs_cores {
    uint32_t n;
    uint16_t cpu[HS_CORES_MAX]; /* the lowest usable processor of each core, ascending */
} hs_cores;

/*
 * The cores of this process's affinity mask, as Linux describes them under `sys` (NULL = /sys/devices).  Where
 * processors differ in kind, the efficient ones are left out.  At least one, whatever is missing there.
 */
hs_cores hs_cores_find(const char *sys);

/* How many of them a cgroup's quota lets run at once: hs_cores_find(NULL).n, or fewer; at least 1. */
uint32_t hs_usable_cores(void);

#endif
