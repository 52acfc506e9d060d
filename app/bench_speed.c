/*
 * app/bench_speed.c - tokens per second of prefill and decode, beside what the machine's memory could give.
 *
 * Decode starts from one token and nothing else, so that figures compare between models; tokens are drawn by a small
 * generator, the same in every run.  The memory's read rate is measured in the same process with the same threads.
 */
#include "app/bench_speed.h"

#include "app/open.h"
#include "app/plan_text.h"
#include "base/clock.h"
#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS_MAX = 100 };

typedef struct speed {
    const app_args *args;
    char *path;
    hlwq_engine *engine;
    hlwq_session *session;
    hlwq_model_facts facts;
    uint32_t prompt, tokens, runs, depth;
    uint64_t kv_bytes; /* that a token at that depth reads */
    double shallow;    /* seconds of attention for a token without it */
    int32_t *ids;
    double prefill[RUNS_MAX], decode[RUNS_MAX]; /* tokens per second */
    hlwq_streaming streaming[2];                /* over all runs: prefill, decode */
    double seconds[2];                          /* likewise */
    uint64_t peak_rss_bytes;
    double stage[2][HLWQ_STAGE_COUNT]; /* seconds over all runs */
    double bandwidth;                  /* bytes per second */
    bool drafts;
} speed;

static const char *const stage_name[HLWQ_STAGE_COUNT] = {
    "embed", "attention", "deltanet", "router", "experts", "dense", "head", "wait", "draft",
};

static int ascending(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

/* What was streamed since *from, added to *sum. */
static void take_streaming(speed *s, const hlwq_streaming *from, hlwq_streaming *sum)
{
    hlwq_streaming now;
    hlwq_engine_streaming(s->engine, &now);
    sum->slots = now.slots;
    sum->engine = now.engine;
    sum->reason = now.reason;
    sum->lookups += now.lookups - from->lookups;
    sum->hits += now.hits - from->hits;
    sum->misses += now.misses - from->misses;
    sum->evictions += now.evictions - from->evictions;
    sum->bytes_read += now.bytes_read - from->bytes_read;
    sum->requests += now.requests - from->requests;
    sum->retries += now.retries - from->retries;
    sum->guessed += now.guessed - from->guessed;
    sum->guessed_right += now.guessed_right - from->guessed_right;
    sum->card_slots = now.card_slots;
    sum->card_lookups += now.card_lookups - from->card_lookups;
    sum->card_hits += now.card_hits - from->card_hits;
    sum->uploads += now.uploads - from->uploads;
    sum->beside += now.beside - from->beside;
    sum->cpu_share = now.cpu_share;
    for (int i = 0; i < HLWQ_TIER_COUNT; i++)
        sum->tier_bytes[i] += now.tier_bytes[i] - from->tier_bytes[i];
    sum->io_seconds += now.io_seconds - from->io_seconds;
    sum->wait_seconds += now.wait_seconds - from->wait_seconds;
}

static void take_stages(speed *s, double *sum)
{
    double seconds[HLWQ_STAGE_COUNT];
    hlwq_engine_stages(s->engine, seconds, true);
    for (int i = 0; i < HLWQ_STAGE_COUNT; i++)
        sum[i] += seconds[i];
}

static hlwq_status one_run(speed *s, uint32_t run, bool warm_up, bool at_depth, hlwq_error *err)
{
    double unused[HLWQ_STAGE_COUNT] = {0};
    uint64_t ignored;
    hlwq_streaming from, warm = {0};
    hlwq_session_reset(s->session);
    take_stages(s, unused);
    hlwq_engine_streaming(s->engine, &from);
    double start = hs_now_seconds();
    if (s->prompt)
        HS_TRY(hlwq_session_eval(s->session, s->ids, s->prompt, NULL, err));
    double took = hs_now_seconds() - start;
    s->prefill[run] = app_rate(s->prompt, took);
    s->seconds[0] += warm_up ? 0 : took;
    take_stages(s, warm_up ? unused : s->stage[0]);
    take_streaming(s, &from, warm_up ? &warm : &s->streaming[0]);

    hlwq_session_reset(s->session);
    if (s->depth)
        HS_TRY(hlwq_session_pretend(s->session, at_depth ? s->depth : 1, at_depth ? &s->kv_bytes : &ignored, err));
    if (s->tokens)
        HS_TRY(hlwq_session_eval(s->session, s->ids, 1, NULL, err));
    take_stages(s, unused);
    hlwq_engine_streaming(s->engine, &from);
    start = hs_now_seconds();
    for (uint32_t i = 0; i < s->tokens; i++) {
        int32_t id = -1;
        if (s->drafts) /* of its own choice: what is given cannot be drafted */
            HS_TRY(hlwq_session_next(s->session, &id, err));
        if (id < 0)
            HS_TRY(hlwq_session_eval(s->session, s->ids + i + 1, 1, NULL, err));
    }
    took = hs_now_seconds() - start;
    s->decode[run] = app_rate(s->tokens, took);
    s->seconds[1] += warm_up ? 0 : took;
    memset(unused, 0, sizeof unused);
    take_stages(s, warm_up ? unused : s->stage[1]);
    if (!at_depth && s->tokens)
        s->shallow = unused[HLWQ_STAGE_ATTENTION] / s->tokens;
    take_streaming(s, &from, warm_up ? &warm : &s->streaming[1]);
    return HLWQ_OK;
}

static hlwq_status open_all(speed *s, hlwq_error *err)
{
    const app_args *a = s->args;
    HS_TRY(app_model_path(a, &s->path, err));
    uint32_t most = s->prompt > s->depth + s->tokens + 1 ? s->prompt : s->depth + s->tokens + 1;
    HS_TRY(app_engine_open(a, s->path, app_flag(a, OPT_EXACT), most, &s->engine, err));
    hlwq_engine_facts(s->engine, &s->facts);
    hlwq_session_options o = hlwq_session_options_default(s->engine);
    o.context = most;
    o.kv = app_kv(a, HLWQ_KV_F16);
    s->drafts = a->value[OPT_DRAFT].set;
    if (s->drafts)
        o.sampling = (hlwq_sampling){.top_p = 1, .repetition_penalty = 1};
    HS_TRY(hlwq_session_open(s->engine, &o, &s->session, err));
    s->ids = malloc(((size_t)most + 1) * sizeof *s->ids);
    if (!s->ids)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %u tokens", most);
    uint64_t x = 88172645463325252u;
    for (uint32_t i = 0; i <= most; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        s->ids[i] = (int32_t)(x % s->facts.vocab);
    }
    app_watch(s->session);
    return HLWQ_OK;
}

static void summary(const double *rate, uint32_t n, double *median, double *low, double *high)
{
    double sorted[RUNS_MAX];
    memcpy(sorted, rate, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    *median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
    *low = sorted[0];
    *high = sorted[n - 1];
}

static void print_stages(hs_text *t, const speed *s)
{
    static const char *const what[2] = {"prefill", "decode"};
    const uint32_t count[2] = {s->prompt * s->runs, s->tokens * s->runs};
    hs_text_format(t, "%-10s", "us/token");
    for (int i = 0; i < HLWQ_STAGE_COUNT; i++)
        hs_text_format(t, " %10s", stage_name[i]);
    hs_text_format(t, " %10s\n", "together");
    for (int k = 0; k < 2; k++) {
        double sum = 0;
        if (!count[k])
            continue;
        hs_text_format(t, "%-10s", what[k]);
        for (int i = 0; i < HLWQ_STAGE_COUNT; i++) {
            hs_text_format(t, " %10.2f", s->stage[k][i] / count[k] * 1e6);
            sum += s->stage[k][i];
        }
        hs_text_format(t, " %10.2f\n", sum / count[k] * 1e6);
    }
}

static void print_streaming(hs_text *t, const speed *s)
{
    static const char *const what[2] = {"prefill", "decode"};
    const uint32_t count[2] = {s->prompt * s->runs, s->tokens * s->runs};
    hlwq_plan p;
    hlwq_engine_plan(s->engine, &p);
    for (int k = 0; k < 2; k++) {
        const hlwq_streaming *io = &s->streaming[k];
        if (!count[k] || !io->slots)
            continue;
        hs_text_format(t,
                       "%s: %u of %u in memory, hit rate %.1f %%, %" PRIu64
                       " guesses, %.0f %% right; %.2f MB/token read at %.2f "
                       "GB/s, %.2f of %.2f ms/token waiting (%s)\n",
                       what[k], io->slots, p.streamed, 100.0 * app_rate(io->hits, (double)io->lookups), io->guessed,
                       100.0 * app_rate(io->guessed_right, (double)io->guessed),
                       (double)io->bytes_read / count[k] * 1e-6, app_rate(io->bytes_read, io->io_seconds) * 1e-9,
                       io->wait_seconds / count[k] * 1e3, s->seconds[k] / count[k] * 1e3, io->reason);
    }
}

/* Weights by where they were read: the rate over all of the time, whoever else worked meanwhile. */
static void print_tiers(hs_text *t, const speed *s)
{
    static const char *const what[2] = {"prefill", "decode"};
    static const char *const tier[HLWQ_TIER_COUNT] = {"card", "copied up", "memory", "file"};
    const uint32_t count[2] = {s->prompt * s->runs, s->tokens * s->runs};
    for (int k = 0; k < 2; k++) {
        const hlwq_streaming *io = &s->streaming[k];
        const char *before = ": ";
        if (!count[k])
            continue;
        hs_text_format(t, "%s weights", what[k]);
        for (int i = 0; i < HLWQ_TIER_COUNT; i++) {
            if (!io->tier_bytes[i])
                continue;
            hs_text_format(t, "%s%s %.2f MB/token, %.2f GB/s", before, tier[i],
                           (double)io->tier_bytes[i] / count[k] * 1e-6,
                           app_rate(io->tier_bytes[i], s->seconds[k]) * 1e-9);
            before = "; ";
        }
        if (io->card_slots)
            hs_text_format(t, "; hit rate on the card %.1f %%",
                           100.0 * app_rate(io->card_hits, (double)io->card_lookups));
        if (io->card_slots && k == 1)
            hs_text_format(t, ", the CPU's share of the rest %.0f %%", 100.0 * io->cpu_share);
        hs_text_format(t, "\n");
    }
}

/* Of attention, for a token: what the depth costs. */
static double deeper_seconds(const speed *s)
{
    return s->stage[1][HLWQ_STAGE_ATTENTION] / ((double)s->tokens * s->runs) - s->shallow;
}

static void print_table(hs_text *t, const speed *s)
{
    double m, l, h;
    hs_text_format(t, "%-14s %10s %10s %10s %12s %10s %10s\n", "test", "tok/s", "min", "max", "MB/token", "GB/s",
                   "of memory");
    if (s->prompt) {
        summary(s->prefill, s->runs, &m, &l, &h);
        hs_text_format(t, "prefill %-6u %10.1f %10.1f %10.1f\n", s->prompt, m, l, h);
    }
    if (s->tokens) {
        summary(s->decode, s->runs, &m, &l, &h);
        double rate = m * (double)s->facts.bytes_per_token;
        hs_text_format(t, "decode %-7u %10.1f %10.1f %10.1f %12.2f %10.2f", s->tokens, m, l, h,
                       (double)s->facts.bytes_per_token * 1e-6, rate * 1e-9);
        if (s->bandwidth > 0)
            hs_text_format(t, " %9.1f%%\n", 100.0 * rate / s->bandwidth);
        else
            hs_text_format(t, " %10s\n", "-"); /* the budget leaves no room to measure it */
    }
    if (s->bandwidth > 0)
        hs_text_format(t, "memory read at %.2f GB/s by the same threads; ", s->bandwidth * 1e-9);
    hs_text_format(t, "%u runs, medians\n", s->runs);
    if (s->depth && s->tokens)
        hs_text_format(t,
                       "after %u tokens, keys and values made up: attention takes %.0f us a token longer than after "
                       "none and reads %.2f MB more, at %.2f GB/s, %.1f %% of memory's\n",
                       s->depth, deeper_seconds(s) * 1e6, (double)s->kv_bytes * 1e-6,
                       app_rate(s->kv_bytes, deeper_seconds(s)) * 1e-9,
                       s->bandwidth > 0 ? 100.0 * app_rate(s->kv_bytes, deeper_seconds(s)) / s->bandwidth : 0.0);
    if (app_text(s->args, OPT_ROUTING, NULL))
        hs_text_format(t, "experts were not chosen by the router, but by %s\n", app_text(s->args, OPT_ROUTING, NULL));
    hlwq_speculation ahead;
    hlwq_session_speculation(s->session, &ahead);
    if (ahead.passes)
        hs_text_format(t,
                       "drafts in the last run: %" PRIu64 " of %" PRIu64
                       " right, %.2f tokens a pass; depth %u pays best now, %.2f times\n",
                       ahead.accepted[0] + ahead.accepted[1], ahead.drafted[0] + ahead.drafted[1],
                       (double)s->tokens / (double)ahead.passes, ahead.depth, ahead.expected_gain);
    if (s->args->value[OPT_DRAFT_PRETEND].real > 0)
        hs_text_format(t, "drafts were taken for right with probability %g\n", s->args->value[OPT_DRAFT_PRETEND].real);
    print_tiers(t, s);
    print_streaming(t, s);
    if (app_flag(s->args, OPT_STAGES))
        print_stages(t, s);
}

static void print_rates(hs_text *t, const char *name, uint32_t tokens, const double *rate, uint32_t runs)
{
    double m, l, h;
    summary(rate, runs, &m, &l, &h);
    hs_text_format(t, ",\"%s\":{\"tokens\":%u,\"tok_per_s\":%.3f,\"min\":%.3f,\"max\":%.3f}", name, tokens, m, l, h);
}

static void print_json(hs_text *t, const speed *s)
{
    static const char *const what[2] = {"prefill", "decode"};
    const uint32_t count[2] = {s->prompt * s->runs, s->tokens * s->runs};
    hs_text_format(t, "{\"schema\":1,\"model\":");
    hs_text_json(t, s->path, strlen(s->path));
    if (s->prompt)
        print_rates(t, "prefill", s->prompt, s->prefill, s->runs);
    if (s->tokens)
        print_rates(t, "decode", s->tokens, s->decode, s->runs);
    if (app_text(s->args, OPT_ROUTING, NULL)) {
        hs_text_format(t, ",\"routing\":");
        hs_text_json(t, app_text(s->args, OPT_ROUTING, NULL), strlen(app_text(s->args, OPT_ROUTING, NULL)));
    }
    hs_text_format(t, ",\"runs\":%u,\"bytes_per_token\":%" PRIu64 ",\"memory_bytes_per_second\":%.0f", s->runs,
                   s->facts.bytes_per_token, s->bandwidth);
    if (s->depth && s->tokens)
        hs_text_format(t, ",\"depth\":{\"tokens\":%u,\"kv_bytes\":%" PRIu64 ",\"attention_us\":%.3f}", s->depth,
                       s->kv_bytes, deeper_seconds(s) * 1e6);
    for (int k = 0; k < 2; k++) {
        const char *comma = "";
        if (!count[k])
            continue;
        hs_text_format(t, ",\"%s_stage_us\":{", what[k]);
        for (int i = 0; i < HLWQ_STAGE_COUNT; i++, comma = ",")
            hs_text_format(t, "%s\"%s\":%.3f", comma, stage_name[i], s->stage[k][i] / count[k] * 1e6);
        hs_text_format(t, "}");
    }
    hlwq_plan p;
    hlwq_session_stats stats;
    hlwq_engine_plan(s->engine, &p);
    hlwq_session_get_stats(s->session, &stats);
    hs_text_format(t, ",\n\"plan\":");
    app_plan_json(t, &p);
    for (int k = 0; k < 2; k++) {
        hs_text_format(t, ",\n\"%s_streaming\":{", what[k]);
        app_streaming_json(t, &s->streaming[k]);
        hs_text_format(t, "}");
    }
    hlwq_speculation ahead;
    hlwq_session_speculation(s->session, &ahead);
    hs_text_format(t, ",\n");
    app_speculation_json(t, &ahead);
    hs_text_format(t, ",\n\"peak_rss_bytes\":%" PRIu64 ",\"logits_hash\":\"%016" PRIx64 "\"}\n", s->peak_rss_bytes,
                   stats.logits_hash);
}

static void print_csv(hs_text *t, const speed *s)
{
    static const char *const what[2] = {"prefill", "decode"};
    const uint32_t tokens[2] = {s->prompt, s->tokens};
    const double *rate[2] = {s->prefill, s->decode};
    hs_text_format(t, "test,tokens,runs,tok_per_s,min,max,bytes_per_token,memory_bytes_per_second\n");
    for (int k = 0; k < 2; k++) {
        double m, l, h;
        if (!tokens[k])
            continue;
        summary(rate[k], s->runs, &m, &l, &h);
        hs_text_format(t, "%s,%u,%u,%.3f,%.3f,%.3f,%" PRIu64 ",%.0f\n", what[k], tokens[k], s->runs, m, l, h,
                       s->facts.bytes_per_token, s->bandwidth);
    }
}

static hlwq_status run(speed *s, hlwq_error *err)
{
    const app_args *a = s->args;
    s->prompt = (uint32_t)app_number(a, OPT_PROMPT_TOKENS, 512);
    s->tokens = (uint32_t)app_number(a, OPT_PREDICT, 128);
    s->runs = (uint32_t)app_number(a, OPT_RUNS, 5);
    s->depth = (uint32_t)app_number(a, OPT_DEPTH, 0);
    if (s->prompt == 0 && s->tokens == 0)
        return hs_fail(err, HLWQ_ERR_ARG, "-p 0 and -n 0 leave nothing to measure");
    HS_TRY(open_all(s, err));
    if (s->depth) /* what attention takes without a context */
        HS_TRY(one_run(s, 0, true, false, err));
    HS_TRY(one_run(s, 0, true, true, err));
    for (uint32_t i = 0; i < s->runs; i++)
        HS_TRY(one_run(s, i, false, true, err));
    s->peak_rss_bytes = app_peak_rss_bytes();
    if (!s->streaming[0].slots && !s->streaming[1].slots) /* a budget has no room for that, and the disk decides */
        HS_TRY(hlwq_engine_bandwidth(s->engine, &s->bandwidth, err));
    hs_text t = {0};
    if (app_flag(a, OPT_JSON))
        print_json(&t, s);
    else if (app_flag(a, OPT_CSV))
        print_csv(&t, s);
    else
        print_table(&t, s);
    return app_out_text(&t, err);
}

int app_bench_speed(const app_args *args)
{
    hlwq_error err;
    speed *s = calloc(1, sizeof *s);
    hlwq_status st = s ? HLWQ_OK : hs_fail(&err, HLWQ_ERR_NOMEM, "no memory to measure");
    app_watch(NULL);
    if (s) {
        s->args = args;
        st = run(s, &err);
        app_watch(NULL);
        hlwq_session_close(s->session);
        hlwq_engine_close(s->engine);
        free(s->ids);
        free(s->path);
        free(s);
    }
    return app_finish(st, &err);
}
