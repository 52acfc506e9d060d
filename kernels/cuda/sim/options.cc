/*
 * kernels/cuda/sim/options.cc - options from the environment, counters, the one source of randomness.
 */
#include "kernels/cuda/sim/private.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

hs_sim_options sim_options;
hs_sim_stats sim_stats;
static uint64_t random_state;
static uint64_t sim_ran, sim_ran_ptx, sim_ran_steps; /* before the last start afresh */

/* splitmix64: any seed is a good seed. */
uint64_t sim_random(void)
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint32_t sim_random_below(uint32_t n)
{
    return (uint32_t)((sim_random() >> 32) * n >> 32);
}

void *sim_alloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "hlwq-stream: the GPU simulator has no memory for %zu bytes\n", bytes);
        abort();
    }
    return p;
}

bool sim_forgets(hs_sim_forget what, uint32_t which)
{
    if (sim_options.forget != what || sim_options.forget_which != which)
        return false;
    sim_stats.forgotten++;
    return true;
}

[[noreturn]] static void refuse(const char *name, const char *value, const char *wanted)
{
    fprintf(stderr, "hlwq-stream: %s is \"%s\", wanted %s\n", name, value, wanted);
    exit(2);
}

static uint64_t number(const char *name, uint64_t otherwise, uint64_t most, bool is_size)
{
    const char *text = getenv(name);
    if (!text || !*text)
        return otherwise;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 0);
    unsigned shift = 0;
    if (is_size && end != text && *end) {
        shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' || *end == 'm' ? 20 : *end == 'G' || *end == 'g' ? 30 : 0;
        end += shift ? 1 : 0;
    }
    if (errno || end == text || *end || text[0] == '-' || v > most >> shift)
        refuse(name, text, is_size ? "a size such as 512M" : "a number in its range");
    return (uint64_t)v << shift;
}

hs_sim_options hs_sim_from_environment(void)
{
    hs_sim_options o = {};
    o.vram_bytes = number("HLWQ_SIM_VRAM", 1ull << 30, 1ull << 40, true);
    o.pinned_bytes = number("HLWQ_SIM_PINNED", 1ull << 40, 1ull << 40, true);
    o.seed = number("HLWQ_SIM_SEED", 0, UINT64_MAX, false);
    o.fail_at = number("HLWQ_SIM_FAIL_AT", 0, UINT64_MAX, false);
    o.devices = (int)number("HLWQ_SIM_DEVICES", 1, 1, false);
    o.protect = number("HLWQ_SIM_PROTECT", 1, 1, false) != 0;
    o.report = number("HLWQ_SIM_REPORT", 0, 1, false) != 0;
    o.patience_ms = (uint32_t)number("HLWQ_SIM_PATIENCE_MS", 10000, 1u << 30, false);

    static const int archs[] = {75, 80, 86, 89, 90, 120};
    o.node_bytes = 4096;
    o.page_bytes = 2 << 20;
    o.arch = (int)number("HLWQ_SIM_ARCH", 89, 1000, false);
    bool known = false;
    for (int a : archs)
        known |= a == o.arch;
    if (!known)
        refuse("HLWQ_SIM_ARCH", getenv("HLWQ_SIM_ARCH"), "75, 80, 86, 89, 90 or 120");

    o.ptx = getenv("HLWQ_SIM_PTX");
    o.ptx = o.ptx && *o.ptx ? o.ptx : nullptr;
    const char *order = getenv("HLWQ_SIM_ORDER");
    if (!order || !*order || !strcmp(order, "up"))
        o.order = HS_SIM_UP;
    else if (!strcmp(order, "down"))
        o.order = HS_SIM_DOWN;
    else if (!strcmp(order, "shuffle"))
        o.order = HS_SIM_SHUFFLE;
    else
        refuse("HLWQ_SIM_ORDER", order, "up, down or shuffle");
    return o;
}

static void report(void)
{
    const hs_sim_stats *s = &sim_stats;
    fprintf(
        stderr,
        "gpusim: %llu launches, %llu blocks, peak %llu of %llu bytes, pinned peak %llu, h2d %llu, d2h %llu, d2d %llu; "
        "left: %llu device blocks (%llu bytes), %llu pinned, %llu streams, %llu events, %llu graphs\n",
        (unsigned long long)s->launches, (unsigned long long)s->blocks, (unsigned long long)s->device_peak_bytes,
        (unsigned long long)sim_options.vram_bytes, (unsigned long long)s->pinned_peak_bytes,
        (unsigned long long)s->h2d_bytes, (unsigned long long)s->d2h_bytes, (unsigned long long)s->d2d_bytes,
        (unsigned long long)s->device_blocks, (unsigned long long)s->device_bytes, (unsigned long long)s->pinned_blocks,
        (unsigned long long)s->streams, (unsigned long long)s->events,
        (unsigned long long)(s->graphs + s->graph_execs));
}

/* HLWQ_SIM_PTX is a promise: a program in which nothing ran from there has not tested it. */
static void check_ptx(void)
{
    sim_ran += sim_stats.launches;
    sim_ran_ptx += sim_stats.ptx_launches;
    sim_ran_steps += sim_stats.ptx_steps;
    fprintf(stderr, "gpusim: %llu of %llu launches were nvcc's code, %llu instructions of warps\n",
            (unsigned long long)sim_ran_ptx, (unsigned long long)sim_ran, (unsigned long long)sim_ran_steps);
    if (sim_ran_ptx)
        return;
    fflush(nullptr);
    _exit(1);
}

static void apply(const hs_sim_options *o)
{
    static bool reports;
    sim_options = *o;
    random_state = o->seed;
    if (o->report && !reports) {
        reports = true;
        atexit(report);
    }
}

static void start_afresh(void)
{
    sim_streams_reset();
    sim_graphs_reset();
    sim_memory_reset();
    sim_barriers_reset();
    sim_kernels_reset();
    sim_sticky = cudaSuccess;
    sim_forget_error();
    sim_ran += sim_stats.launches;
    sim_ran_ptx += sim_stats.ptx_launches;
    sim_ran_steps += sim_stats.ptx_steps;
    memset(&sim_stats, 0, sizeof sim_stats);
}

/* Before main: a wrong variable is told at once, not in the middle of a load. */
__attribute__((constructor)) static void begin(void)
{
    hs_sim_options o = hs_sim_from_environment();
    apply(&o);
    if (o.ptx)
        atexit(check_ptx);
}

void hs_sim_configure(const hs_sim_options *options)
{
    sim_lock();
    start_afresh();
    apply(options);
    sim_unlock();
}

void hs_sim_reset(void)
{
    hs_sim_options same = sim_options;
    hs_sim_configure(&same);
}

hs_sim_stats hs_sim_read_stats(void)
{
    sim_lock();
    hs_sim_stats s = sim_stats;
    sim_unlock();
    return s;
}

uint64_t hs_sim_leaks(void)
{
    hs_sim_stats s = hs_sim_read_stats();
    return s.device_blocks + s.pinned_blocks + s.streams + s.events + s.graphs + s.graph_execs;
}
