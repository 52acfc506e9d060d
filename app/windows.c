/*
 * app/windows.c - texts to score, and the sums that score them.
 */
#include "app/windows.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { TEXT_MAX = 1 << 30, CTX_MAX = 1 << 20 };

hlwq_status app_windows_read(const app_args *args, const hlwq_engine *engine, const char *path, uint32_t ctx,
                             app_windows *out, hlwq_error *err)
{
    const char *file = app_text(args, OPT_PPL, NULL);
    char *text = NULL;
    size_t bytes = 0, count = 0;
    hlwq_model_facts facts;
    const hlwq_tokenizer *tokenizer = hlwq_engine_tokenizer(engine);
    hlwq_engine_facts(engine, &facts);
    if (!tokenizer)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s came without a tokenizer", path);
    HS_TRY(app_read(file, TEXT_MAX, &text, &bytes, err));
    hlwq_status st = hlwq_tokenize(tokenizer, text, bytes, true, &out->ids, &count, err);
    free(text);
    HS_TRY(st);
    out->ctx = ctx;
    out->count = count ? (count - 1) / ctx : 0;
    if (out->count == 0)
        return hs_fail(err, HLWQ_ERR_ARG, "%s has %zu tokens, but a window of %u needs %u; lower --ctx", file, count,
                       ctx, ctx + 1);
    uint64_t most = (uint64_t)app_number(args, OPT_MAX_WINDOWS, 0);
    if (most && most < out->count)
        out->count = most;
    for (size_t i = 0; i < out->count * ctx; i++)
        if (out->ids[i] < 0 || (uint32_t)out->ids[i] >= facts.vocab)
            return hs_fail(err, HLWQ_ERR_FORMAT, "the tokenizer of %s makes id %" PRId32 ", its vocabulary has %u",
                           path, out->ids[i], facts.vocab);
    return HLWQ_OK;
}

hlwq_status app_windows_ctx(const app_args *args, uint32_t fallback, uint32_t *out, hlwq_error *err)
{
    int64_t ctx = app_number(args, OPT_CTX, fallback);
    if (ctx < 2 || ctx > CTX_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "--ctx: %" PRId64 " is outside 2 to %d", ctx, CTX_MAX);
    *out = (uint32_t)ctx;
    return HLWQ_OK;
}

double app_log_mass(const float *row, uint32_t vocab, uint32_t *best)
{
    uint32_t top = 0;
    for (uint32_t v = 1; v < vocab; v++)
        if (row[v] > row[top])
            top = v;
    double sum = 0;
    for (uint32_t v = 0; v < vocab; v++)
        sum += exp((double)row[v] - (double)row[top]);
    *best = top;
    return (double)row[top] + log(sum);
}

double app_divergence(const float *p, double mass_p, const float *q, double mass_q, uint32_t vocab)
{
    double kl = 0;
    for (uint32_t v = 0; v < vocab; v++) {
        double log_p = (double)p[v] - mass_p;
        kl += exp(log_p) * (log_p - ((double)q[v] - mass_q));
    }
    return kl;
}
