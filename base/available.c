/*
 * base/available.c - /proc/meminfo, and the limits of the control groups from the process's own to the root.
 */
#include "base/available.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static uint64_t meminfo_available(void)
{
    char line[256];
    uint64_t kib = UINT64_MAX;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib == UINT64_MAX ? kib : kib * 1024;
}

static bool number_in(const char *group, const char *name, uint64_t *out)
{
    char path[4400];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, name);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%" SCNu64, out) == 1; /* "max" is no number */
    if (f)
        fclose(f);
    return ok;
}

uint64_t hs_memory_available(void)
{
    uint64_t least = meminfo_available(), limit, used;
    char line[4200], group[4200] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "0::", 3) == 0) {
            line[strcspn(line, "\n")] = 0;
            snprintf(group, sizeof group, "%s", strcmp(line + 3, "/") ? line + 3 : "");
        }
    if (f)
        fclose(f);
    for (;;) {
        if (number_in(group, "memory.max", &limit) && number_in(group, "memory.current", &used)) {
            uint64_t left = used < limit ? limit - used : 0;
            least = left < least ? left : least;
        }
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}
