/*
 * app/cmd_logits.c - raw logits of given tokens, for tests and comparisons.
 *
 * Works in pieces, so that memory does not grow with the number of tokens.  Pieces of the default size end on
 * the absolute grid of 64 positions, where results do not depend on how the tokens were cut.
 */
#include "app/commands.h"
#include "app/ids.h"
#include "app/open.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "logits are written as they lie in memory, which must be little-endian"
#endif

enum { IDS_MAX = 256 << 20, GRID = 64, PIECE_MAX = 512, PIECE_BYTES = 64 << 20 };

typedef struct logits_job {
    const app_args *args;
    char *model;
    int32_t *ids;
    size_t count;
    size_t *cut; /* lengths asked for with --split */
    size_t n_cuts;
    size_t chunk;
    hlwq_engine *engine;
    hlwq_session *session;
    float *rows;
    size_t rows_capacity;
    uint32_t vocab;
} logits_job;

static hlwq_status parse_split(logits_job *job, hlwq_error *err)
{
    const char *text = app_text(job->args, OPT_SPLIT, NULL);
    if (!text)
        return HLWQ_OK;
    if (job->args->value[OPT_CHUNK].set)
        return hs_fail(err, HLWQ_ERR_ARG, "--split and --chunk exclude each other");
    size_t room = 1;
    for (const char *p = text; *p; p++)
        room += *p == ',';
    job->cut = calloc(room, sizeof *job->cut);
    if (!job->cut)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory");
    for (const char *p = text;;) {
        char *end;
        unsigned long n = *p >= '0' && *p <= '9' ? strtoul(p, &end, 10) : 0;
        if (n == 0 || n > INT32_MAX || (*end && *end != ','))
            return hs_fail(err, HLWQ_ERR_ARG, "--split: \"%s\" is not a list like 5,64", text);
        job->cut[job->n_cuts++] = n;
        if (!*end)
            return HLWQ_OK;
        p = end + 1;
    }
}

/* How many tokens the piece that starts at `position` has. */
static size_t piece_length(const logits_job *job, size_t position)
{
    size_t left = job->count - position, start = 0;
    if (job->args->value[OPT_CHUNK].set)
        return left < job->chunk ? left : job->chunk;
    for (size_t i = 0; i < job->n_cuts; i++) {
        if (start == position)
            return left < job->cut[i] ? left : job->cut[i];
        start += job->cut[i];
    }
    if (job->n_cuts)
        return left; /* the rest at once, as --split says */
    size_t piece = job->chunk - position % job->chunk;
    return left < piece ? left : piece;
}

static hlwq_status open_all(logits_job *job, hlwq_error *err)
{
    const char *file = app_text(job->args, OPT_IDS_FILE, NULL);
    char *text = NULL;
    size_t bytes = 0;
    HS_TRY(app_read(file, IDS_MAX, &text, &bytes, err));
    hlwq_status st = app_model_path(job->args, &job->model, err);
    if (st == HLWQ_OK)
        st = app_engine_open(job->args, job->model, app_flag(job->args, OPT_EXACT), 0, &job->engine, err);
    if (st == HLWQ_OK) {
        hlwq_model_facts facts;
        hlwq_engine_facts(job->engine, &facts);
        job->vocab = facts.vocab;
        st = app_parse_ids(text, bytes, file, job->vocab, &job->ids, &job->count, err);
    }
    free(text);
    HS_TRY(st);
    if (job->count == 0 || job->count > UINT32_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s holds %zu token ids; at least one is needed", file, job->count);

    hlwq_session_options o = hlwq_session_options_default(job->engine);
    o.context = (uint32_t)job->count;
    o.kv = app_kv(job->args, HLWQ_KV_F32);
    HS_TRY(hlwq_session_open(job->engine, &o, &job->session, err));

    size_t fits = PIECE_BYTES / (sizeof(float) * job->vocab) / GRID * GRID;
    job->chunk = (size_t)app_number(job->args, OPT_CHUNK,
                                    (int64_t)(fits < GRID        ? GRID
                                              : fits > PIECE_MAX ? PIECE_MAX
                                                                 : fits));
    for (size_t at = 0; at < job->count;) {
        size_t n = piece_length(job, at);
        job->rows_capacity = n > job->rows_capacity ? n : job->rows_capacity;
        at += n;
    }
    job->rows = calloc(job->rows_capacity, sizeof(float) * job->vocab);
    if (!job->rows)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the logits of %zu tokens at once; use --chunk",
                       job->rows_capacity);
    return HLWQ_OK;
}

static hlwq_status write_rows(logits_job *job, app_sink *sink, hlwq_error *err)
{
    app_progress progress = {.label = ""};
    hlwq_status st = HLWQ_OK;
    for (size_t at = 0; at < job->count && st == HLWQ_OK;) {
        size_t n = piece_length(job, at);
        st = hlwq_session_eval(job->session, job->ids + at, n, job->rows, err);
        if (st == HLWQ_OK)
            st = app_sink_write(sink, job->rows, (uint64_t)n * job->vocab * sizeof(float), err);
        at += n;
        app_progress_line(&progress, "%zu of %zu tokens", at, job->count);
    }
    app_progress_end(&progress);
    return st;
}

static hlwq_status logits(logits_job *job, hlwq_error *err)
{
    const char *output = app_text(job->args, OPT_OUTPUT, NULL);
    bool json = app_flag(job->args, OPT_JSON);
    if (!job->args->value[OPT_IDS_FILE].set || !output)
        return hs_fail(err, HLWQ_ERR_ARG, "logits needs --ids-file FILE and -o FILE");
    if (json && strcmp(output, "-") == 0)
        return hs_fail(err, HLWQ_ERR_ARG, "--json and -o - would both write to standard output");
    HS_TRY(parse_split(job, err));
    HS_TRY(open_all(job, err));
    app_watch(job->session);
    app_sink sink;
    HS_TRY(app_sink_open(&sink, output, err));
    hlwq_status st = write_rows(job, &sink, err);
    if (st == HLWQ_OK)
        st = app_sink_commit(&sink, err);
    app_sink_drop(&sink);
    HS_TRY(st);
    hlwq_session_stats s;
    hlwq_session_get_stats(job->session, &s);
    if (json) {
        hs_text t = {0};
        hs_text_format(&t, "{\"schema\":1,\"n\":%zu,\"vocab\":%u,\"logits_hash\":\"%016" PRIx64 "\"}\n", job->count,
                       job->vocab, s.logits_hash);
        return app_out_text(&t, err);
    }
    app_note("%zu rows of %u, %.1f tok/s, hash %016" PRIx64, job->count, job->vocab,
             app_rate(s.prompt_tokens, s.prompt_seconds), s.logits_hash);
    return HLWQ_OK;
}

int app_cmd_logits(const app_args *args)
{
    hlwq_error err;
    logits_job job = {.args = args};
    app_watch(NULL);
    hlwq_status st = logits(&job, &err);
    app_watch(NULL);
    hlwq_session_close(job.session);
    hlwq_engine_close(job.engine);
    free(job.rows);
    free(job.ids);
    free(job.cut);
    free(job.model);
    return app_finish(st, &err);
}
