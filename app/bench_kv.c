/*
 * app/bench_kv.c - what coded keys and values cost: distance of each prediction from that of an f16 cache.
 *
 * One engine, one session for each way of keeping them; all read the same windows in step, 64 tokens at a time, so no
 * logits are kept.
 */
#include "app/bench_kv.h"

#include "app/open.h"
#include "app/windows.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CTX = 1024, PIECE = 64 };

static const char *const all[] = {"f16", "f32", "q8", "k8v4", "q4", "k4v3", "q3", "k4v2", "q2"};

enum { WAYS = sizeof all / sizeof *all };

typedef struct way {
    const char *name;
    hlwq_session *session;
    float *rows; /* [PIECE][vocab] */
    double nll, kl, worst;
    uint64_t agree;
} way;

typedef struct kv_bench {
    const app_args *args;
    char *path;
    hlwq_engine *engine;
    app_windows text;
    uint32_t vocab, n;
    way way[WAYS]; /* the first is what the others are compared with */
    uint64_t windows, predictions;
} kv_bench;

static hlwq_status open_way(kv_bench *b, const char *name, uint32_t ctx, hlwq_error *err)
{
    way *w = &b->way[b->n++];
    hlwq_session_options o = hlwq_session_options_default(b->engine);
    w->name = name;
    o.context = ctx;
    o.kv = app_kv_named(name);
    HS_TRY(hlwq_session_open(b->engine, &o, &w->session, err));
    w->rows = calloc((size_t)PIECE * b->vocab, sizeof *w->rows);
    return w->rows ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the logits of %d tokens", PIECE);
}

static hlwq_status open_all(kv_bench *b, hlwq_error *err)
{
    const app_args *a = b->args;
    const char *only = app_text(a, OPT_KV, NULL);
    uint32_t ctx;
    hlwq_model_facts facts;
    if (!a->value[OPT_PPL].set)
        return hs_fail(err, HLWQ_ERR_ARG, "--kv-quality needs a text: --ppl FILE");
    HS_TRY(app_windows_ctx(a, CTX, &ctx, err));
    HS_TRY(app_model_path(a, &b->path, err));
    HS_TRY(app_engine_open(a, b->path, app_flag(a, OPT_EXACT), ctx, &b->engine, err));
    hlwq_engine_facts(b->engine, &facts);
    b->vocab = facts.vocab;
    HS_TRY(app_windows_read(a, b->engine, b->path, ctx, &b->text, err));
    HS_TRY(open_way(b, all[0], ctx, err));
    for (int i = 1; i < WAYS && !only; i++)
        HS_TRY(open_way(b, all[i], ctx, err));
    return only ? open_way(b, only, ctx, err) : HLWQ_OK;
}

static void score(kv_bench *b, size_t row, int32_t next)
{
    uint32_t best, first;
    const float *p = b->way[0].rows + row * b->vocab;
    double mass_p = app_log_mass(p, b->vocab, &first);
    b->way[0].nll += mass_p - (double)p[next];
    b->way[0].agree++;
    b->predictions++;
    for (uint32_t i = 1; i < b->n; i++) {
        way *w = &b->way[i];
        const float *q = w->rows + row * b->vocab;
        double mass = app_log_mass(q, b->vocab, &best), kl = app_divergence(p, mass_p, q, mass, b->vocab);
        w->nll += mass - (double)q[next];
        w->kl += kl;
        w->worst = kl > w->worst ? kl : w->worst;
        w->agree += best == first;
    }
}

/* The last token of a window is predicted, never read. */
static hlwq_status run_window(kv_bench *b, const int32_t *ids, hlwq_error *err)
{
    uint32_t ctx = b->text.ctx;
    for (uint32_t i = 0; i < b->n; i++)
        hlwq_session_reset(b->way[i].session);
    for (uint32_t at = 0; at < ctx - 1; at += PIECE) {
        size_t n = ctx - 1 - at < PIECE ? ctx - 1 - at : PIECE;
        for (uint32_t i = 0; i < b->n; i++) {
            app_watch(b->way[i].session);
            if (app_signal())
                return hs_fail(err, HLWQ_ERR_CANCELLED, "interrupted");
            HS_TRY(hlwq_session_eval(b->way[i].session, ids + at, n, b->way[i].rows, err));
        }
        for (size_t row = 0; row < n; row++)
            score(b, row, ids[at + row + 1]);
    }
    return HLWQ_OK;
}

/* Bits of a key and a value together, norms included. */
static double bits_of(const char *name)
{
    int kv = (int)app_kv_named(name);
    return kv == HLWQ_KV_F32 ? 64 : kv == HLWQ_KV_F16 ? 32 : (kv >> 4) + (kv & 15) + 2 * 0.125;
}

static void print(hs_text *t, const kv_bench *b, bool json)
{
    double n = (double)b->predictions;
    if (json) {
        hs_text_format(t, "{\"schema\":1,\"model\":");
        hs_text_json(t, b->path, strlen(b->path));
        hs_text_format(t, ",\"ctx\":%u,\"windows\":%" PRIu64 ",\"predictions\":%" PRIu64 ",\"kv\":[", b->text.ctx,
                       b->windows, b->predictions);
    } else {
        hs_text_format(t, "%" PRIu64 " predictions in %" PRIu64 " windows of %u, compared with f16\n\n", b->predictions,
                       b->windows, b->text.ctx);
        hs_text_format(t, "kv      bits  of f16  perplexity    mean KL   worst KL   same first choice\n");
    }
    for (uint32_t i = 0; i < b->n; i++) {
        const way *w = &b->way[i];
        double bits = bits_of(w->name) / 2;
        if (json)
            hs_text_format(t,
                           "%s{\"kv\":\"%s\",\"bits\":%.4f,\"perplexity\":%.6f,\"kl\":%.8f,\"worst_kl\":%.6f,"
                           "\"top1\":%.6f}",
                           i ? "," : "", w->name, bits, exp(w->nll / n), w->kl / n, w->worst, (double)w->agree / n);
        else
            hs_text_format(t, "%-6s %5.3f  1/%5.2f  %10.4f  %9.6f  %9.5f  %16.2f %%\n", w->name, bits, 16 / bits,
                           exp(w->nll / n), w->kl / n, w->worst, 100.0 * (double)w->agree / n);
    }
    if (json)
        hs_text_format(t, "]}\n");
}

static hlwq_status run(kv_bench *b, hlwq_error *err)
{
    HS_TRY(open_all(b, err));
    app_progress progress = {.label = ""};
    hlwq_status st = HLWQ_OK;
    while (b->windows < b->text.count && st == HLWQ_OK) {
        st = run_window(b, b->text.ids + b->windows * b->text.ctx, err);
        b->windows += st == HLWQ_OK;
        app_progress_line(&progress, "window %" PRIu64 " of %" PRIu64, b->windows, b->text.count);
    }
    app_progress_end(&progress);
    HS_TRY(st);
    hs_text t = {0};
    print(&t, b, app_flag(b->args, OPT_JSON));
    return app_out_text(&t, err);
}

int app_bench_kv(const app_args *args)
{
    hlwq_error err;
    kv_bench b = {.args = args};
    app_watch(NULL);
    hlwq_status st = run(&b, &err);
    app_watch(NULL);
    for (uint32_t i = 0; i < b.n; i++) {
        hlwq_session_close(b.way[i].session);
        free(b.way[i].rows);
    }
    hlwq_engine_close(b.engine);
    hlwq_free(b.text.ids);
    free(b.path);
    return app_finish(st, &err);
}
