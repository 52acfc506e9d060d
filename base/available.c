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

/* Page cache that a group is charged for and that goes as soon as something else needs the room. */
static uint64_t droppable(const char *root, const char *group, const char *name)
{
    char path[4400], line[256], key[64];
    uint64_t value, found = 0;
    snprintf(path, sizeof path, "%s%s/memory.stat", root, group);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%63s %" SCNu64, key, &value) == 2 && strcmp(key, name) == 0)
            found = value;
    if (f)
        fclose(f);
    return found;
}

/* What the limits of a group and of those above it leave. */
static uint64_t left_in(const char *root, char *group, const char *limit_name, const char *used_name,
                        const char *cache_name)
{
    uint64_t least = UINT64_MAX, limit, used;
    for (;;) {
        if (number_in(root, group, limit_name, &limit) && number_in(root, group, used_name, &used)) {
            uint64_t cache = droppable(root, group, cache_name);
            used = used > cache ? used - cache : 0;
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
            left = left_in("/sys/fs/cgroup", line + 3, "memory.max", "memory.current", "inactive_file");
        else if (v1)
            left = left_in("/sys/fs/cgroup/memory", v1 + 8, "memory.limit_in_bytes", "memory.usage_in_bytes",
                           "total_inactive_file");
        else
            continue;
        least = left < least ? left : least;
    }
    if (f)
        fclose(f);
    return least;
}

/* Microseconds for which some task stood still for want of memory, since the system started. */
static bool stalled_us(const char *path, uint64_t *total)
{
    char line[256];
    bool found = false;
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f))
        found = sscanf(line, "some avg10=%*f avg60=%*f avg300=%*f total=%" SCNu64, total) == 1;
    if (f)
        fclose(f);
    return found;
}

void hs_strain_init(hs_strain *s, const char *path)
{
    char line[4200];
    *s = (hs_strain){0};
    snprintf(s->path, sizeof s->path, "%s", path ? path : "/proc/pressure/memory");
    FILE *f = path ? NULL : fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        char own[sizeof s->path];
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "0::", 3) != 0)
            continue;
        int n = snprintf(own, sizeof own, "/sys/fs/cgroup%s/memory.pressure", line + 3);
        if (n > 0 && (size_t)n < sizeof own && stalled_us(own, &s->total_us))
            memcpy(s->path, own, sizeof own);
    }
    if (f)
        fclose(f);
    s->known = stalled_us(s->path, &s->total_us);
}

double hs_strain_look(hs_strain *s, double now_seconds)
{
    uint64_t total;
    double share = 0, passed = now_seconds - s->looked_seconds;
    if (!s->known || !stalled_us(s->path, &total))
        return 0;
    if (s->looked_seconds > 0 && passed > 0)
        share = (double)(total - s->total_us) * 1e-6 / passed;
    s->total_us = total;
    s->looked_seconds = now_seconds;
    return share;
}
