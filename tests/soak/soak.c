/*
 * tests/soak/soak.c - hours in minutes: one engine under ever changing budgets, sessions opened and closed, memory
 * watched.  soak SECONDS [MODEL] prints a line every ten seconds and fails if memory grows or a hash differs.
 */
#define _GNU_SOURCE
#include "include/hlwq_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { TOKENS = 24, SAMPLES = 4096 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t resident_bytes(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f || fscanf(f, "%*u %lu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void must(hlwq_status st, const hlwq_error *err)
{
    if (st == HLWQ_OK)
        return;
    fprintf(stderr, "soak: %s\n", err->message);
    exit(1);
}

/* A text in a session of its own, the budget changed in the middle; the hash of its logits. */
static uint64_t a_text(hlwq_engine *e, uint64_t budget, uint64_t other)
{
    hlwq_error err;
    hlwq_session *s;
    hlwq_session_stats stats;
    int32_t ids[70], id;
    hlwq_session_options o = hlwq_session_options_default(e);
    o.context = 256;
    o.sampling.temperature = 0;
    for (int i = 0; i < 70; i++)
        ids[i] = 10 + i * 37 % 900;
    must(hlwq_session_open(e, &o, &s, &err), &err);
    must(hlwq_engine_set_budget(e, budget, &err), &err);
    must(hlwq_session_eval(s, ids, 70, NULL, &err), &err);
    for (int t = 0; t < TOKENS; t++) {
        if (t == TOKENS / 2)
            must(hlwq_engine_set_budget(e, other, &err), &err);
        must(hlwq_session_next(s, &id, &err), &err);
        if (id < 0)
            break;
    }
    hlwq_session_get_stats(s, &stats);
    hlwq_session_close(s);
    return stats.logits_hash;
}

int main(int argc, char **argv)
{
    hlwq_error err;
    hlwq_plan p;
    hlwq_engine_options o = hlwq_engine_options_default();
    double limit = argc > 1 ? atof(argv[1]) : 1800, start = seconds(), told = start;
    o.model = argc > 2 ? argv[2] : "models/demo-q5.hlwq";
    o.context = 256;
    o.adapt = false;
    must(hlwq_make_plan(&o, &p, &err), &err);
    uint64_t least = p.smallest_bytes, more = p.streamed_bytes, hash = 0, texts = 0;
    uint64_t high[2] = {0}; /* most resident memory in the first and in the second half */
    o.ram_bytes = least + more * 3 / 4;
    while (seconds() - start < limit) {
        hlwq_engine *e;
        must(hlwq_engine_open(&o, &e, &err), &err); /* a new engine now and then, too */
        for (int k = 0; k < 200 && seconds() - start < limit; k++) {
            uint64_t budget[] = {least, least + more / 5, least + more / 2, least + more * 3 / 4};
            uint64_t got = a_text(e, budget[texts % 4], budget[texts * 7 / 4 % 4]);
            if (texts++ && got != hash) {
                fprintf(stderr, "soak: text %" PRIu64 " has another hash\n", texts);
                return 1;
            }
            hash = got;
            int half = seconds() - start > limit / 2;
            uint64_t now = resident_bytes();
            high[half] = now > high[half] ? now : high[half];
            if (seconds() - told > 10) {
                told = seconds();
                printf("%6.0f s  %8" PRIu64 " texts  %7.1f MiB now  %7.1f MiB at most\n", told - start, texts,
                       (double)now / 1048576.0, (double)(high[half]) / 1048576.0);
                fflush(stdout);
            }
        }
        hlwq_engine_close(e);
    }
    printf("%" PRIu64 " texts, one hash %016" PRIx64
           "; resident at most %.1f MiB in the first half, %.1f in the second\n",
           texts, hash, (double)high[0] / 1048576.0, (double)high[1] / 1048576.0);
    if (high[1] > high[0] + (1 << 20)) {
        fprintf(stderr, "soak: memory grows\n");
        return 1;
    }
    return 0;
}
