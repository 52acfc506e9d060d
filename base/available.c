/*
 * base/available.c - /proc/meminfo, and the limits of the control groups from the process's own to the root, v2 or v1.
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

static bool number_in(const char *root, const char *group, const char *name, uint64_t *out)
{
    char path[4400];
    snprintf(path, sizeof path, "%s%s/%s", root, group, name);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%" SCNu64, out) == 1; /* "max" is no number */
    if (f)
        fclose(f);
    return ok;
}

/* What the limits of a group and of those above it leave. */
static uint64_t left_in(const char *root, char *group, const char *limit_name, const char *used_name)
{
    uint64_t least = UINT64_MAX, limit, used;
    for (;;) {
        if (number_in(root, group, limit_name, &limit) && number_in(root, group, used_name, &used)) {
            uint64_t left = used < limit ? limit - used : 0;
            least = left < least ? left : least;
        }
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

uint64_t hs_memory_available(void)
{
    uint64_t least = meminfo_available(), left;
    char line[4200];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *v1 = strstr(line, ":memory:");
        if (strncmp(line, "0::", 3) == 0)
            left = left_in("/sys/fs/cgroup", line + 3, "memory.max", "memory.current");
        else if (v1)
            left = left_in("/sys/fs/cgroup/memory", v1 + 8, "memory.limit_in_bytes", "memory.usage_in_bytes");
        else
            continue;
        least = left < least ? left : least;
    }
    if (f)
        fclose(f);
    return least;
}
