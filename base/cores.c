/*
 * base/cores.c - processors from the affinity mask, topology from sysfs, quota from the control group.
 */
#define _GNU_SOURCE
#include "base/cores.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CPUS_MAX = 4096 };

static bool read_line(const char *sys, const char *name, char *line, size_t size)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", sys, name) >= (int)sizeof path)
        return false;
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(line, (int)size, f) != NULL;
    fclose(f);
    return ok;
}

/* Whether cpu is in a list such as "0-3,8"; *lowest: the lowest of the list that `usable` has. */
static bool in_list(const char *list, unsigned cpu, const cpu_set_t *usable, size_t size, unsigned *lowest)
{
    bool in = false;
    *lowest = cpu;
    for (const char *p = list; *p >= '0' && *p <= '9';) {
        char *end;
        unsigned long from = strtoul(p, &end, 10), to = from;
        if (*end == '-')
            to = strtoul(end + 1, &end, 10);
        if (from >= CPUS_MAX || to >= CPUS_MAX)
            break;
        for (unsigned long i = from; i <= to; i++) {
            in |= i == cpu;
            if (i < *lowest && CPU_ISSET_S(i, size, usable))
                *lowest = (unsigned)i;
        }
        p = *end == ',' ? end + 1 : "";
    }
    return in;
}

static long capacity(const char *sys, unsigned cpu)
{
    char name[64], line[32];
    snprintf(name, sizeof name, "system/cpu/cpu%u/cpu_capacity", cpu);
    return read_line(sys, name, line, sizeof line) ? strtol(line, NULL, 10) : 0;
}

hs_cores hs_cores_find(const char *sys)
{
    hs_cores c = {0};
    char fast[1024], line[1024], name[80];
    cpu_set_t *usable = CPU_ALLOC(CPUS_MAX);
    size_t size = CPU_ALLOC_SIZE(CPUS_MAX);
    unsigned other;
    long most = 0;
    if (!sys)
        sys = "/sys/devices";
    if (!usable || sched_getaffinity(0, size, usable) != 0)
        goto done;
    bool hybrid = read_line(sys, "cpu_core/cpus", fast, sizeof fast); /* Intel, where there are two kinds */
    for (unsigned i = 0; i < CPUS_MAX; i++)
        if (CPU_ISSET_S(i, size, usable) && capacity(sys, i) > most)
            most = capacity(sys, i);
    for (int pass = 0; pass < 2 && c.n == 0; pass++) /* second: the mask has none of the fast kind */
        for (unsigned i = 0; i < CPUS_MAX && c.n < HS_CORES_MAX; i++) {
            unsigned lowest = i;
            if (!CPU_ISSET_S(i, size, usable))
                continue;
            if (pass == 0 && ((hybrid && !in_list(fast, i, usable, size, &other)) || capacity(sys, i) * 2 < most))
                continue;
            snprintf(name, sizeof name, "system/cpu/cpu%u/topology/thread_siblings_list", i);
            if (read_line(sys, name, line, sizeof line) && in_list(line, i, usable, size, &lowest) && lowest < i)
                continue;
            c.cpu[c.n++] = (uint16_t)i;
        }
done:
    if (usable)
        CPU_FREE(usable);
    if (c.n == 0)
        c.n = 1;
    return c;
}

/* cgroup v2 "max period" or "quota period"; 0 = no limit. */
static uint32_t quota_cores(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    double quota, period;
    uint32_t cores = 0;
    if (f) {
        if (fscanf(f, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0)
            cores = quota < period ? 1 : (uint32_t)(quota / period);
        fclose(f);
    }
    return cores;
}

uint32_t hs_usable_cores(void)
{
    uint32_t cores = hs_cores_find(NULL).n, quota = quota_cores();
    return quota && quota < cores ? quota : cores;
}
