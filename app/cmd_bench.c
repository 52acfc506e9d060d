/*
 * app/cmd_bench.c - perplexity of a model on a text, and its distance from a reference model.
 *
 * The text is tokenised once, added tokens such as <|endoftext|> becoming their ids, and cut into windows of
 * --ctx tokens (app/windows.h).  Each window starts from nothing; the tokens after its first are predicted.  Means are
 * over all predictions.
 */
#define _GNU_SOURCE
#include "app/bench_kernels.h"
#include "app/bench_kv.h"
#include "app/bench_plot.h"
#include "app/bench_speed.h"
#include "app/commands.h"
#include "app/open.h"
#include "app/quality.h"
#include "app/windows.h"

#include "base/clock.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CTX = 256, PIECE = 64, PIECE_MOST = 256, LOGITS = 1 << 24 };

/* One model and the logits of the piece it has just evaluated. */
typedef struct side {
    char *path;
    hlwq_engine *engine;
    hlwq_session *session;
    float *rows; /* [piece][vocab] */
    double nll;
    double seconds;
} side;

typedef struct bench {
    const app_args *args;
    side model, reference;
    bool compare;
    uint32_t ctx, vocab, piece; /* piece: tokens evaluated at once, a multiple of PIECE */
    app_windows text;
    uint64_t windows, predictions, agree;
    double kl;
    app_quality quality;
} bench;

static hlwq_status open_side(bench *b, side *s, bool exact, hlwq_error *err)
{
    hlwq_model_facts facts;
    HS_TRY(app_engine_open(b->args, s->path, exact, (uint32_t)app_number(b->args, OPT_CTX, CTX), &s->engine, err));
    hlwq_engine_facts(s->engine, &facts);
    if (b->vocab && facts.vocab != b->vocab)
        return hs_fail(err, HLWQ_ERR_ARG, "%s has a vocabulary of %u, %s one of %u: they cannot be compared", s->path,
                       facts.vocab, b->model.path, b->vocab);
    b->vocab = facts.vocab;
    b->piece = PIECE;
    while (b->piece < PIECE_MOST && 2 * b->piece * b->vocab <= LOGITS) /* cuts on the grid change no bit */
        b->piece *= 2;
    hlwq_session_options o = hlwq_session_options_default(s->engine);
    o.context = b->ctx;
    o.kv = app_kv(b->args, HLWQ_KV_F16);
    HS_TRY(hlwq_session_open(s->engine, &o, &s->session, err));
    s->rows = calloc((size_t)b->piece * b->vocab, sizeof *s->rows);
    if (!s->rows)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the logits of %u tokens", b->piece);
    return HLWQ_OK;
}

static void close_side(side *s)
{
    app_watch(NULL);
    hlwq_session_close(s->session);
    hlwq_engine_close(s->engine);
    free(s->rows);
    free(s->path);
}

/* Scores the prediction of `next` from one row of each side, at `place` of the window. */
static hlwq_status score(bench *b, size_t row, uint32_t place, int32_t next, hlwq_error *err)
{
    uint32_t best, best_ref;
    const float *q = b->model.rows + row * b->vocab, *p = b->reference.rows + row * b->vocab;
    double mass = app_log_mass(q, b->vocab, &best);
    b->model.nll += mass - (double)q[next];
    b->predictions++;
    if (!b->compare)
        return HLWQ_OK;
    double mass_ref = app_log_mass(p, b->vocab, &best_ref);
    b->reference.nll += mass_ref - (double)p[next];
    double kl = app_divergence(p, mass_ref, q, mass, b->vocab);
    b->kl += kl;
    b->agree += best == best_ref;
    return app_quality_add(&b->quality, kl, place, b->ctx - 1, err);
}

static hlwq_status eval(side *s, const int32_t *ids, size_t n, hlwq_error *err)
{
    app_watch(s->session);
    if (app_signal()) /* it came while the other side was watched */
        return hs_fail(err, HLWQ_ERR_CANCELLED, "interrupted");
    double start = hs_now_seconds();
    hlwq_status st = hlwq_session_eval(s->session, ids, n, s->rows, err);
    s->seconds += hs_now_seconds() - start;
    return st;
}

/* The last token of a window is predicted, never read. */
static hlwq_status run_window(bench *b, const int32_t *ids, hlwq_error *err)
{
    hlwq_session_reset(b->model.session);
    if (b->compare)
        hlwq_session_reset(b->reference.session);
    for (uint32_t at = 0; at < b->ctx - 1; at += b->piece) {
        size_t n = b->ctx - 1 - at < b->piece ? b->ctx - 1 - at : b->piece;
        HS_TRY(eval(&b->model, ids + at, n, err));
        if (b->compare)
            HS_TRY(eval(&b->reference, ids + at, n, err));
        for (size_t row = 0; row < n; row++)
            HS_TRY(score(b, row, at + (uint32_t)row, ids[at + row + 1], err));
    }
    app_quality_end_window(&b->quality);
    return HLWQ_OK;
}

static void print_text(hs_text *t, bench *b)
{
    double n = (double)b->predictions;
    hs_text_format(t, "perplexity %.4f over %" PRIu64 " predictions in %" PRIu64 " windows of %u; %.1f tok/s\n",
                   exp(b->model.nll / n), b->predictions, b->windows, b->ctx,
                   app_rate(b->predictions, b->model.seconds));
    if (!b->compare)
        return;
    hs_text_format(t, "reference perplexity %.4f; KL(reference || model) %.6f nats; top-1 agreement %.2f %%\n",
                   exp(b->reference.nll / n), b->kl / n, 100.0 * (double)b->agree / n);
    app_quality_text(&b->quality, t);
}

static void print_json(hs_text *t, bench *b)
{
    double n = (double)b->predictions;
    hs_text_format(t, "{\"schema\":1,\"model\":");
    hs_text_json(t, b->model.path, strlen(b->model.path));
    hs_text_format(t,
                   ",\"perplexity\":%.6f,\"nll\":%.8f,\"predictions\":%" PRIu64 ",\"windows\":%" PRIu64
                   ",\"ctx\":%u,\"tok_per_s\":%.3f",
                   exp(b->model.nll / n), b->model.nll / n, b->predictions, b->windows, b->ctx,
                   app_rate(b->predictions, b->model.seconds));
    if (b->compare) {
        hs_text_format(t, ",\"reference\":{\"model\":");
        hs_text_json(t, b->reference.path, strlen(b->reference.path));
        hs_text_format(t, ",\"perplexity\":%.6f,\"kl\":%.8f,\"top1\":%.6f", exp(b->reference.nll / n), b->kl / n,
                       (double)b->agree / n);
        app_quality_json(&b->quality, t);
        hs_text_format(t, "}");
    }
    hs_text_format(t, "}\n");
}

static hlwq_status run_bench(bench *b, hlwq_error *err)
{
    const app_args *a = b->args;
    const char *reference = app_text(a, OPT_REF, NULL);
    if (!a->value[OPT_PPL].set)
        return hs_fail(err, HLWQ_ERR_ARG, "--ref needs a text: --ppl FILE");
    if (app_flag(a, OPT_REF_EXACT) && !reference)
        return hs_fail(err, HLWQ_ERR_ARG, "--ref-exact needs --ref PATH");
    HS_TRY(app_windows_ctx(a, CTX, &b->ctx, err));
    HS_TRY(app_model_path(a, &b->model.path, err));
    HS_TRY(open_side(b, &b->model, app_flag(a, OPT_EXACT), err));
    HS_TRY(app_windows_read(a, b->model.engine, b->model.path, b->ctx, &b->text, err));
    if (reference) {
        b->compare = true;
        b->reference.path = strdup(reference);
        if (!b->reference.path)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory");
        HS_TRY(open_side(b, &b->reference, app_flag(a, OPT_REF_EXACT), err));
    }
    app_progress progress = {.label = ""};
    hlwq_status st = HLWQ_OK;
    while (b->windows < b->text.count && st == HLWQ_OK) {
        st = run_window(b, b->text.ids + b->windows * b->ctx, err);
        b->windows += st == HLWQ_OK;
        if (st == HLWQ_OK)
            app_progress_line(&progress, "window %" PRIu64 " of %" PRIu64 ", perplexity %.3f", b->windows,
                              b->text.count, exp(b->model.nll / (double)b->predictions));
    }
    app_progress_end(&progress);
    HS_TRY(st);
    hs_text t = {0};
    if (app_flag(a, OPT_JSON))
        print_json(&t, b);
    else
        print_text(&t, b);
    return app_out_text(&t, err);
}

int app_cmd_bench(const app_args *args)
{
    hlwq_error err;
    if (args->n_operands && strcmp(args->operand[0], "kernels") != 0)
        return app_finish(hs_fail(&err, HLWQ_ERR_ARG,
                                  "bench: \"%s\" is not something to measure; there is only \"kernels\"",
                                  args->operand[0]),
                          &err);
    if (args->n_operands)
        return app_bench_kernels(args);
    if (args->value[OPT_PLOT].set)
        return app_bench_plot(args);
    if (app_flag(args, OPT_KV_MEMORY))
        return app_bench_kv_memory(args);
    if (app_flag(args, OPT_KV_QUALITY))
        return app_bench_kv(args);
    if (!args->value[OPT_PPL].set && !args->value[OPT_REF].set)
        return app_bench_speed(args);
    bench b = {.args = args};
    app_watch(NULL);
    hlwq_status st = run_bench(&b, &err);
    close_side(&b.reference);
    close_side(&b.model);
    hlwq_free(b.text.ids);
    app_quality_close(&b.quality);
    return app_finish(st, &err);
}
