/*
 * model/doctor.c - what this machine offers, measured now, and what follows for a model.
 */
#include "include/hlwq_stream.h"

#include "base/available.h"
#include "base/cores.h"
#include "kernels/backend.h"
#include "kernels/measure.h"
#include "offload/plan.h"
#include "offload/probe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static void huge_pages(char *out, size_t size)
{
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    char line[128] = "";
    if (f && fgets(line, sizeof line, f)) {
        char *open = strchr(line, '['), *close = open ? strchr(open, ']') : NULL;
        if (close) {
            *close = 0;
            snprintf(out, size, "%s", open + 1);
        }
    }
    if (f)
        fclose(f);
}

/* How much is read to find out how fast that goes. */
typedef struct effort {
    uint64_t memory_bytes, disk_bytes;
} effort;

static hlwq_status bandwidth(uint32_t threads, uint64_t bytes, double *rate, hlwq_error *err)
{
    hs_pool *pool;
    HS_TRY(hs_pool_open(threads, &pool, err));
    hs_mem *mem = hs_mem_open(0);
    hlwq_status st =
        mem ? hs_read_bandwidth(mem, pool, bytes, rate, err) : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to measure");
    hs_mem_close(mem);
    hs_pool_close(pool);
    return st;
}

/* Seconds a token: what is in memory is read from there while the rest comes from the disk. */
static void predict(hlwq_diagnosis *d, const hlwq_plan *p, const hs_table *t)
{
    double trunk = (double)p->trunk_bytes, slots = p->slots ? (double)p->slots : (double)p->streamed;
    double kept = p->streamed ? slots / (double)p->streamed : 1.0, streamed = (double)p->streamed_bytes;
    if (t->config.experts) /* chance: a real text does better, see docs/caching.md */
        streamed *= (double)t->config.experts_used / t->config.experts;
    double missed = streamed * (1.0 - kept);
    double compute = (trunk + streamed) / d->memory_bytes_per_second;
    double disk = missed > 0 && d->disk_bytes_per_second > 0 ? missed / d->disk_bytes_per_second : 0;
    d->missed_bytes_per_token = missed;
    d->tok_per_s = 1.0 / fmax(compute, disk);
    d->bottleneck = disk > compute ? "disk" : "memory";
}

static hlwq_status look_at_model(const hlwq_engine_options *o, uint64_t disk_bytes, hlwq_diagnosis *d, hlwq_error *err)
{
    hs_disk disk;
    HS_TRY(hlwq_make_plan(o, &d->plan, err));
    hs_mem *mem = hs_mem_open(0);
    hs_store *store;
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to look at a model");
    hlwq_status st = hs_store_open(&store, mem, o->model, NULL, NULL, err);
    if (st == HLWQ_OK) {
        if (hs_store_is_container(store)) {
            st = hs_probe_disk(o->model, (hs_io)o->io, d->plan.slot_bytes, disk_bytes, &disk, err);
            snprintf(d->io, sizeof d->io, "%s", disk.reason);
            d->disk_bytes_per_second = disk.bytes_per_second;
        } else
            snprintf(d->io, sizeof d->io, "a model directory: loaded as a whole; convert it to stream it");
        if (st == HLWQ_OK)
            predict(d, &d->plan, hs_store_table(store));
        hs_store_close(store);
    }
    hs_mem_close(mem);
    return st;
}

static hlwq_status diagnose(const hlwq_engine_options *options, const effort *of, hlwq_diagnosis *d, hlwq_error *err)
{
    struct rlimit locked;
    *d = (hlwq_diagnosis){.isa = hs_backend_cpu_isa(), .cores = hs_usable_cores()};
    snprintf(d->huge_pages, sizeof d->huge_pages, "unknown");
    huge_pages(d->huge_pages, sizeof d->huge_pages);
    d->memory_available = hs_memory_available();
    d->locked_limit = getrlimit(RLIMIT_MEMLOCK, &locked) == 0 ? (uint64_t)locked.rlim_cur : 0;
    HS_TRY(bandwidth(1, of->memory_bytes, &d->memory_bytes_per_second_one, err));
    HS_TRY(bandwidth(options->threads, of->memory_bytes, &d->memory_bytes_per_second, err));
    return look_at_model(options, of->disk_bytes, d, err);
}

hlwq_status hlwq_diagnose(const hlwq_engine_options *options, hlwq_diagnosis *d, hlwq_error *err)
{
    return diagnose(options, &(effort){256u << 20, 1u << 30}, d, err);
}

hlwq_status hlwq_predict(const hlwq_engine_options *options, hlwq_diagnosis *d, hlwq_error *err)
{
    return diagnose(options, &(effort){64u << 20, 128u << 20}, d, err);
}
