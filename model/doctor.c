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
#include "offload/rates.h"

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
    uint64_t memory_bytes, disk_bytes, card_bytes, product_bytes;
} effort;

/* Bytes a second that the threads read; with a table, of its weights that they multiply with. */
static hlwq_status rate_of(uint32_t threads, const hs_table *t, uint64_t bytes, double *rate, hlwq_error *err)
{
    hs_pool *pool;
    HS_TRY(hs_pool_open(threads, &pool, err));
    hs_mem *mem = hs_mem_open(0);
    hlwq_status st;
    if (!mem)
        st = hs_fail(err, HLWQ_ERR_NOMEM, "no memory to measure");
    else if (t)
        st = hs_rates_product(mem, pool, t, 1, bytes, rate, err);
    else
        st = hs_read_bandwidth(mem, pool, bytes, rate, err);
    hs_mem_close(mem);
    hs_pool_close(pool);
    return st;
}

/* What one token reads, bytes, with experts chosen by chance: a real text does better, see docs/caching.md. */
typedef struct load {
    double card;   /* on the card, from its own memory */
    double memory; /* from ordinary memory */
    double disk;   /* from the disk, and then from memory */
} load;

static load load_of(const hlwq_plan *p, const hs_table *t)
{
    double streamed = (double)p->streamed_bytes, all = (double)p->streamed, kept = 1, there = 0;
    if (t->config.experts)
        streamed *= (double)t->config.experts_used / t->config.experts;
    if (p->card)
        there = p->card_slots && all > 0 ? (double)p->card_slots / all : 1;
    if (p->slots && all > 0)
        kept = (double)p->slots / all;
    double beside = streamed * (1 - there), missed = beside * (1 - fmin(1, kept));
    double trunk = p->card ? (double)p->card_trunk_bytes : (double)p->trunk_bytes;
    return (load){p->card ? trunk + streamed * there : 0, p->card ? beside : trunk + streamed, missed};
}

/* Layers of a dense model that are neither on the card nor in memory when they are needed. */
static double missed_layers(const hlwq_plan *p)
{
    double kept = hs_residency_kept(p->card_slots), below = p->slots ? (double)p->slots - HS_RING : p->streamed;
    return fmax(0, p->streamed - kept - fmax(0, below));
}

static hs_rates rates_of(const hlwq_diagnosis *d)
{
    return (hs_rates){d->product_bytes_per_second, d->memory_bytes_per_second, d->upload_bytes_per_second,
                      d->card_bytes_per_second, 0};
}

/* A dense model whose layers do not all stay on the card. */
static void predict_split(hlwq_diagnosis *d, const hlwq_plan *p, const hs_table *t, double share)
{
    hs_rates r = rates_of(d);
    hs_split_time s = hs_rates_split(t, &r, hs_residency_kept(p->card_slots), p->card_trunk_bytes, share);
    double disk = 0;
    d->missed_bytes_per_token = missed_layers(p) / p->streamed * (double)p->streamed_bytes;
    if (d->disk_bytes_per_second > 0)
        disk = d->missed_bytes_per_token / d->disk_bytes_per_second;
    d->cpu_share = s.share;
    d->bottleneck = s.copies > s.cpu + s.card ? "uploads" : s.cpu > s.card ? "memory" : "the card's memory";
    if (disk > s.all)
        d->bottleneck = "disk";
    d->tok_per_s = 1 / fmax(s.all, disk);
}

/* Experts that are not on the card: as the CPU and the copies share them, or 0 where the rates do not say. */
static double beside_seconds(hlwq_diagnosis *d, const hlwq_plan *p, const hs_table *t, double share)
{
    const hs_rates r = rates_of(d);
    const hs_beside_rates each = hs_rates_beside(t, &r);
    const double missing = hs_rates_missing(t, p->card_slots);
    d->cpu_share = share >= 0 ? share : hs_beside_share(&each, missing);
    d->experts = true;
    if (!(each.copy > 0))
        return 0;
    d->bottleneck = d->cpu_share * each.one < (1 - d->cpu_share) * each.copy ? "uploads" : "memory";
    return t->config.layers * hs_beside_seconds(&each, missing, d->cpu_share);
}

/* The slowest of what goes on at once. A card waits for the experts that the CPU computes beside it, or for copies. */
static void predict(hlwq_diagnosis *d, const hlwq_plan *p, const hs_table *t, double share)
{
    load l = load_of(p, t);
    double rate = fmax(d->memory_bytes_per_second, d->upload_bytes_per_second), worst = l.memory / rate;
    bool shared = p->card && p->card_slots && t->config.experts;
    d->missed_bytes_per_token = l.disk;
    d->bottleneck = d->upload_bytes_per_second > d->memory_bytes_per_second ? "uploads" : "memory";
    if (shared) {
        double seconds = beside_seconds(d, p, t, share);
        worst = seconds > 0 ? seconds : worst;
    }
    if (l.card > 0 && d->card_bytes_per_second > 0) {
        const double layer = t->config.experts ? HS_RATE_MIXTURE_SECONDS : HS_RATE_LAYER_SECONDS;
        const double reads = l.card / d->card_bytes_per_second;
        const double fixed = t->config.layers * (layer + (l.memory > 0 ? HS_RATE_EXCHANGE_SECONDS : 0));
        if (reads + fixed > worst)
            d->bottleneck = reads > fixed ? "the card's memory" : "launches";
        worst = fmax(worst, reads + fixed);
    }
    if (l.disk > 0 && d->disk_bytes_per_second > 0 && l.disk / d->disk_bytes_per_second > worst) {
        worst = l.disk / d->disk_bytes_per_second;
        d->bottleneck = "disk";
    }
    d->tok_per_s = 1.0 / worst;
}

/*
 * A text that fills the context: its keys and values are read where they are, between a layer's other work.  What is
 * not on a card comes up for every token; from a file it passes through memory first.
 */
static void predict_full(hlwq_diagnosis *d)
{
    const hlwq_plan *p = &d->plan;
    const double here = p->card ? d->card_bytes_per_second : d->memory_bytes_per_second, texts = p->sessions;
    const struct {
        double bytes, rate;
        const char *what;
    } kv[] = {
        {(double)(p->card ? p->card_kv_bytes : p->kv_bytes), here, "keys and values"},
        {p->card ? (double)p->kv_bytes + (double)p->kv_file_bytes : 0, d->upload_bytes_per_second,
         "keys and values that are copied to the card"},
        {(double)p->kv_file_bytes, d->disk_bytes_per_second, "keys and values from the disk"},
    };
    double longest = 1 / d->tok_per_s, all = longest;
    d->full_bottleneck = d->bottleneck;
    for (int i = 0; i < 3; i++) {
        double seconds = kv[i].rate > 0 ? kv[i].bytes / texts / kv[i].rate : 0;
        all += seconds;
        if (seconds > longest) {
            longest = seconds;
            d->full_bottleneck = kv[i].what;
        }
    }
    d->full_tok_per_s = 1 / all;
}

/* Whether one is used was decided by the plan. */
static hlwq_status look_at_card(const hlwq_engine_options *o, uint64_t bytes, hlwq_diagnosis *d, hlwq_error *err)
{
    hs_card_facts card;
    if (!d->plan.card || d->plan.card_imagined) {
        hlwq_error why = {0};
        const hs_limits any = {0};
        if (o->device == HLWQ_DEVICE_CPU)
            snprintf(why.message, sizeof why.message, "not asked for");
        else if (hs_backend_cuda_probe(&any, &why) == HLWQ_OK)
            snprintf(why.message, sizeof why.message, "there is one, which cannot run this model");
        snprintf(d->card, sizeof d->card, "none: %.140s", why.message);
        if (d->plan.card_imagined) {
            d->card_assumed = true;
            d->card_bytes_per_second = HS_RATE_CARD_ASSUMED;
            d->upload_bytes_per_second = HS_RATE_UPLOAD_ASSUMED;
        }
        return HLWQ_OK;
    }
    HS_TRY(hs_backend_cuda_measure(&card, bytes, err));
    snprintf(d->card, sizeof d->card, "%.120s (sm_%u%u)", card.name, card.major, card.minor);
    d->card_bytes = card.total_bytes;
    d->card_bytes_per_second = card.memory_bytes_per_second;
    d->upload_bytes_per_second = card.upload_bytes_per_second;
    return HLWQ_OK;
}

static hlwq_status look_at_model(const hlwq_engine_options *o, const effort *of, hlwq_diagnosis *d, hlwq_error *err)
{
    hs_disk disk;
    HS_TRY(hlwq_make_plan(o, &d->plan, err));
    HS_TRY(look_at_card(o, of->card_bytes, d, err));
    hs_mem *mem = hs_mem_open(0);
    hs_store *store;
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to look at a model");
    hlwq_status st = hs_store_open(&store, mem, o->model, NULL, NULL, err);
    if (st == HLWQ_OK) {
        if (hs_store_is_container(store)) {
            st = hs_probe_disk(o->model, (hs_io)o->io, d->plan.slot_bytes, of->disk_bytes, &disk, err);
            snprintf(d->io, sizeof d->io, "%s", disk.reason);
            d->disk_bytes_per_second = disk.bytes_per_second;
        } else
            snprintf(d->io, sizeof d->io, "a model directory: loaded as a whole; convert it to stream it");
        const hs_table *t = hs_store_table(store);
        bool split = d->plan.card_slots && !t->config.experts;
        if (st == HLWQ_OK && d->plan.card_slots)
            st = rate_of(o->threads, t, of->product_bytes, &d->product_bytes_per_second, err);
        if (st == HLWQ_OK && split)
            predict_split(d, &d->plan, t, o->cpu_share);
        else if (st == HLWQ_OK)
            predict(d, &d->plan, t, o->cpu_share);
        if (st == HLWQ_OK)
            predict_full(d);
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
    HS_TRY(rate_of(1, NULL, of->memory_bytes, &d->memory_bytes_per_second_one, err));
    HS_TRY(rate_of(options->threads, NULL, of->memory_bytes, &d->memory_bytes_per_second, err));
    return look_at_model(options, of, d, err);
}

hlwq_status hlwq_diagnose(const hlwq_engine_options *options, hlwq_diagnosis *d, hlwq_error *err)
{
    return diagnose(options, &(effort){256u << 20, 1u << 30, 256u << 20, 256u << 20}, d, err);
}

hlwq_status hlwq_predict(const hlwq_engine_options *options, hlwq_diagnosis *d, hlwq_error *err)
{
    return diagnose(options, &(effort){64u << 20, 128u << 20, 64u << 20, 64u << 20}, d, err);
}
