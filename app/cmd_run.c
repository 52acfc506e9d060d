/*
 * app/cmd_run.c - continues one prompt: text to stdout as it is made, one summary line to stderr.
 */
#define _GNU_SOURCE
#include "app/commands.h"
#include "app/open.h"
#include "app/plan_text.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROMPT_MAX = 64 << 20 };

typedef struct run {
    const app_args *args;
    char *model, *prompt;
    hlwq_engine *engine;
    hlwq_session *session;
    hlwq_constraint *constraint; /* NULL = none */
    const char *file;            /* --session; NULL = none */
    uint32_t context;
    uint64_t seed;
    const char *stopped; /* why the text ended, for the report */
    bool line_open;      /* the last byte written was no newline */
    app_progress progress;
    bool follow, in_place; /* a line about the run as it goes; drawn over itself */
    double shown;          /* when the last plain one was printed */
    hlwq_streaming before; /* what it told last */
} run;

static hlwq_status read_prompt(run *r, hlwq_error *err)
{
    const app_args *a = r->args;
    const char *file = app_text(a, OPT_FILE, NULL);
    if (file && a->n_operands)
        return hs_fail(err, HLWQ_ERR_ARG, "the prompt is given twice: as an argument and with --file");
    if (a->n_operands) {
        r->prompt = app_operands(a);
        if (!r->prompt)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the prompt");
    } else if (!file && isatty(STDIN_FILENO)) {
        return hs_fail(err, HLWQ_ERR_ARG, "no prompt; give it as an argument, with -f FILE, or on standard input");
    } else {
        size_t n = 0;
        HS_TRY(app_read(file, PROMPT_MAX, &r->prompt, &n, err));
        if (strlen(r->prompt) != n)
            return hs_fail(err, HLWQ_ERR_IO, "%s is not text: byte %zu is zero", file ? file : "standard input",
                           strlen(r->prompt));
        if (n && r->prompt[n - 1] == '\n')
            r->prompt[n - 1] = 0;
    }
    const char *session = app_text(a, OPT_SESSION, NULL);
    bool goes_on = session && access(session, F_OK) == 0; /* then there is a text already */
    if (!*r->prompt && !goes_on)
        return hs_fail(err, HLWQ_ERR_ARG,
                       "the prompt is empty; give it as an argument, with -f FILE, or on standard input");
    return HLWQ_OK;
}

/* From the file of --session, if it is there; options of sampling that were given count. */
static hlwq_status go_on(run *r, hlwq_sampling *sampling, hlwq_error *err)
{
    r->file = app_text(r->args, OPT_SESSION, NULL);
    if (!r->file || access(r->file, F_OK) != 0)
        return HLWQ_OK;
    HS_TRY(hlwq_session_load(r->session, r->file, NULL, err));
    hlwq_session_get_sampling(r->session, sampling);
    HS_TRY(app_sampling(r->args, sampling, err));
    r->seed = sampling->seed;
    return hlwq_session_set_sampling(r->session, sampling, err);
}

static hlwq_status open_session(run *r, hlwq_error *err)
{
    hlwq_session_options o;
    HS_TRY(app_session_options(r->args, r->engine, &o, err));
    /* Both have something of the logits in them. */
    o.tokens_only = !app_text(r->args, OPT_SESSION, NULL) && !app_text(r->args, OPT_REPORT, NULL);
    r->seed = o.sampling.seed;
    r->context = o.context;
    HS_TRY(app_constraint(r->args, r->engine, &r->constraint, err));
    HS_TRY(hlwq_session_open(r->engine, &o, &r->session, err));
    HS_TRY(go_on(r, &o.sampling, err));
    hlwq_session_set_constraint(r->session, r->constraint);
    return HLWQ_OK;
}

/* What came before an interrupt counts; a session that failed is not one to go on with. */
static hlwq_status keep(const run *r, hlwq_status st, hlwq_error *err)
{
    hlwq_error later;
    if (!r->file || (st != HLWQ_OK && st != HLWQ_ERR_CANCELLED))
        return st;
    if (hlwq_session_save(r->session, r->file, NULL, &later) == HLWQ_OK)
        return st;
    *err = later;
    return later.status;
}

static hlwq_status emit(run *r, const char *text, hlwq_error *err)
{
    size_t n = strlen(text);
    if (n)
        r->line_open = text[n - 1] != '\n';
    return app_out(text, n, err);
}

/* Where the run is: speed, and what streaming does since the last line. */
static void follow(run *r)
{
    hlwq_session_stats s;
    hlwq_streaming io;
    char streamed[128] = "";
    double now = hs_now_seconds();
    if (!r->follow || (!r->in_place && now - r->shown < 1.0))
        return;
    hlwq_session_get_stats(r->session, &s);
    hlwq_engine_streaming(r->engine, &io);
    uint64_t lookups = io.lookups - r->before.lookups;
    if (io.slots && lookups)
        snprintf(streamed, sizeof streamed, " | hit rate %.1f %% | disk %.2f GB/s | %u slots",
                 100.0 * (double)(io.hits - r->before.hits) / (double)lookups,
                 app_rate(io.bytes_read - r->before.bytes_read, io.io_seconds - r->before.io_seconds) * 1e-9, io.slots);
    double speed = app_rate(s.decoded_tokens, s.decode_seconds);
    if (r->in_place)
        app_progress_line(&r->progress, "%" PRIu64 " tokens, %.1f tok/s%s", s.decoded_tokens, speed, streamed);
    else
        app_note("%" PRIu64 " tokens, %.1f tok/s%s", s.decoded_tokens, speed, streamed);
    if (now - r->shown >= 1.0) {
        r->shown = now;
        r->before = io;
    }
}

static hlwq_status generate(run *r, hlwq_error *err)
{
    int64_t limit = app_number(r->args, OPT_PREDICT, 256);
    int wanted = r->args->value[OPT_PROGRESS].set ? (int)r->args->value[OPT_PROGRESS].number : 0;
    r->in_place = isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO);
    r->follow = wanted == 1 || (wanted == 0 && r->in_place);
    r->shown = hs_now_seconds();
    hlwq_status st = hlwq_session_prompt(r->session, r->prompt, err);
    r->stopped = "length";
    for (int64_t n = 0; st == HLWQ_OK && (limit < 0 || n < limit); n++) {
        int32_t id = -1;
        if (hlwq_session_position(r->session) >= r->context) {
            r->stopped = "context";
            app_note("the context of %u positions is full; --ctx makes it larger", r->context);
            break;
        }
        st = hlwq_session_next(r->session, &id, err);
        if (st != HLWQ_OK)
            break;
        if (id < 0) {
            r->stopped = "end";
            break;
        }
        st = emit(r, hlwq_session_text(r->session, id), err);
        follow(r);
    }
    app_progress_end(&r->progress);
    if (st == HLWQ_OK && !hlwq_session_satisfied(r->session))
        app_warn(
            "the text is not complete: it ended before the schema or the grammar was satisfied; -n makes it longer");
    if (app_left())
        return st;
    if (st == HLWQ_ERR_CANCELLED)
        r->stopped = "interrupted";
    else if (st != HLWQ_OK)
        r->stopped = "error";
    /* What was made is shown, whatever stopped it. */
    hlwq_error later;
    hlwq_status flush = emit(r, hlwq_session_text(r->session, -1), &later);
    if (flush == HLWQ_OK && r->line_open)
        flush = app_out("\n", 1, &later);
    if (st == HLWQ_OK && flush != HLWQ_OK) {
        *err = later;
        return flush;
    }
    return st;
}

static void summary(const run *r)
{
    hlwq_session_stats s;
    hlwq_model_facts f;
    uint64_t now, peak;
    char now_text[32], peak_text[32];
    hlwq_session_get_stats(r->session, &s);
    hlwq_engine_facts(r->engine, &f);
    hlwq_engine_memory(r->engine, &now, &peak);
    app_note("load %.2f s | prefill %" PRIu64 " tokens, %.1f tok/s | decode %" PRIu64
             " tokens, %.1f tok/s | %.2f MB/token | memory %s, at most %s",
             f.load_seconds, s.prompt_tokens, app_rate(s.prompt_tokens, s.prompt_seconds), s.decoded_tokens,
             app_rate(s.decoded_tokens, s.decode_seconds), (double)f.bytes_per_token * 1e-6,
             app_size_text(now_text, now), app_size_text(peak_text, peak));
    if (s.spilled_bytes)
        app_note("keys and values: %.2f GB to the file, %.2f GB read back, waited %.2f s for them",
                 (double)s.spilled_bytes * 1e-9, (double)s.spill_read_bytes * 1e-9, s.spill_wait_seconds);
    if (s.lowered_bytes)
        app_note("keys and values: %.2f GB from the card to memory, %.2f GB copied up again",
                 (double)s.lowered_bytes * 1e-9, (double)s.raised_bytes * 1e-9);
    hlwq_speculation ahead;
    hlwq_session_speculation(r->session, &ahead);
    app_note_drafts(&ahead);
    hlwq_streaming io;
    hlwq_plan p;
    hlwq_engine_streaming(r->engine, &io);
    hlwq_engine_plan(r->engine, &p);
    hlwq_engine_vram(r->engine, &now, &peak);
    if (p.card)
        app_note("graphics card: %s, at most %s | %s", app_size_text(now_text, now), app_size_text(peak_text, peak),
                 io.card_slots ? "not all experts are there:" : "everything is there");
    if (io.card_slots)
        app_note("  %u of %u there, hit rate %.1f %% | %" PRIu64 " copied there, %" PRIu64
                 " computed by the CPU, whose share is %.0f %% now",
                 io.card_slots, p.streamed, 100.0 * app_rate(io.card_hits, (double)io.card_lookups), io.uploads,
                 io.beside, 100.0 * io.cpu_share);
    if (!io.slots)
        return;
    app_note(
        "streamed: %u of %u in memory, hit rate %.1f %% | read %.2f GB at %.2f GB/s | waited %.0f %% of the time | %s",
        io.slots, p.streamed, 100.0 * app_rate(io.hits, (double)io.lookups), (double)io.bytes_read * 1e-9,
        app_rate(io.bytes_read, io.io_seconds) * 1e-9,
        100.0 * (s.prompt_wait_seconds + s.decode_wait_seconds) / (s.prompt_seconds + s.decode_seconds + 1e-9),
        io.reason);
}

static hlwq_status report(const run *r, const char *path, hlwq_error *err)
{
    hlwq_session_stats s;
    hlwq_model_facts f;
    hlwq_plan p;
    hlwq_streaming io;
    uint64_t now, peak;
    hlwq_session_get_stats(r->session, &s);
    hlwq_engine_facts(r->engine, &f);
    hlwq_engine_plan(r->engine, &p);
    hlwq_engine_streaming(r->engine, &io);
    hlwq_engine_memory(r->engine, &now, &peak);
    hs_text t = {0};
    hs_text_format(
        &t, "{\n  \"schema\": 1,\n  \"command\": \"run\",\n  \"version\": \"%s\",\n  \"model\": ", hlwq_version());
    hs_text_json(&t, r->model, strlen(r->model));
    hs_text_format(&t, ",\n  \"load_seconds\": %.6f,\n", f.load_seconds);
    static const char phase[] =
        "  \"%s\": {\"tokens\": %" PRIu64 ", \"seconds\": %.6f, \"tok_per_s\": %.3f, \"wait_seconds\": %.6f},\n";
    hs_text_format(&t, phase, "prefill", s.prompt_tokens, s.prompt_seconds, app_rate(s.prompt_tokens, s.prompt_seconds),
                   s.prompt_wait_seconds);
    hs_text_format(&t, phase, "decode", s.decoded_tokens, s.decode_seconds,
                   app_rate(s.decoded_tokens, s.decode_seconds), s.decode_wait_seconds);
    hs_text_format(&t, "  \"plan\": ");
    app_plan_json(&t, &p);
    hs_text_format(&t,
                   ",\n  \"actual\": {\"now_bytes\": %" PRIu64 ", \"peak_bytes\": %" PRIu64
                   ", \"peak_rss_bytes\": %" PRIu64 ", \"kinds\": {",
                   now, peak, app_peak_rss_bytes());
    const char *kind;
    for (uint32_t i = 0; hlwq_engine_memory_kind(r->engine, i, &kind, &now); i++)
        hs_text_format(&t, "%s\"%s\": %" PRIu64, i ? ", " : "", kind, now);
    hlwq_engine_vram(r->engine, &now, &peak);
    hs_text_format(&t, "}, \"kv_file_bytes\": %" PRIu64 ", \"kv_file_read_bytes\": %" PRIu64, s.spilled_bytes,
                   s.spill_read_bytes);
    hs_text_format(&t, ", \"kv_lowered_bytes\": %" PRIu64 ", \"kv_raised_bytes\": %" PRIu64, s.lowered_bytes,
                   s.raised_bytes);
    hs_text_format(&t, ", \"vram_now_bytes\": %" PRIu64 ", \"vram_peak_bytes\": %" PRIu64 "},\n  ", now, peak);
    app_streaming_json(&t, &io);
    hs_text_format(&t, ",\n  ");
    hlwq_speculation ahead;
    hlwq_session_speculation(r->session, &ahead);
    app_speculation_json(&t, &ahead);
    hs_text_format(&t, ",\n");
    hs_text_format(&t, "  \"stopped\": \"%s\",\n  \"seed\": %" PRIu64 ",\n  \"context\": %u,\n", r->stopped, r->seed,
                   r->context);
    hs_text_format(&t, "  \"weight_bytes\": %" PRIu64 ",\n  \"bytes_per_token\": %" PRIu64 ",\n", f.weight_bytes,
                   f.bytes_per_token);
    hs_text_format(&t, "  \"logits_hash\": \"%016" PRIx64 "\"\n}\n", s.logits_hash);
    return app_text_to_file(&t, path, err);
}

static hlwq_status run_it(run *r, hlwq_error *err)
{
    HS_TRY(read_prompt(r, err));
    HS_TRY(app_model_path(r->args, &r->model, err));
    HS_TRY(app_engine_open(r->args, r->model, app_flag(r->args, OPT_EXACT), 0, &r->engine, err));
    HS_TRY(open_session(r, err));
    app_watch(r->session);
    if (app_signal())
        return hs_fail(err, HLWQ_ERR_CANCELLED, "interrupted");
    if (app_flag(r->args, OPT_ECHO))
        HS_TRY(emit(r, r->prompt, err));
    hlwq_status st = generate(r, err);
    if (app_left())
        return st;
    st = keep(r, st, err);
    summary(r);
    hlwq_error traced;
    if (hlwq_engine_end_trace(r->engine, &traced) != HLWQ_OK && st == HLWQ_OK) {
        *err = traced;
        return traced.status;
    }
    const char *path = app_text(r->args, OPT_REPORT, NULL);
    hlwq_error later;
    if (path && report(r, path, &later) != HLWQ_OK && (st == HLWQ_OK || st == HLWQ_ERR_CANCELLED)) {
        *err = later;
        return later.status;
    }
    return st;
}

int app_cmd_run(const app_args *args)
{
    hlwq_error err;
    run r = {.args = args, .stopped = ""};
    app_watch(NULL);
    hlwq_status st = run_it(&r, &err);
    app_watch(NULL);
    hlwq_session_close(r.session);
    hlwq_constraint_close(r.constraint);
    hlwq_engine_close(r.engine);
    free(r.prompt);
    free(r.model);
    return app_finish(st, &err);
}
