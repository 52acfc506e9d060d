/*
 * app/windows.h - a text in windows of tokens, and how far one prediction is from another.
 */
#ifndef HS_APP_WINDOWS_H
#define HS_APP_WINDOWS_H

#include "app/console.h"

typedef struct app_windows {
    int32_t *ids; /* hlwq_free */
    uint64_t count;
    uint32_t ctx; /* tokens of each */
} app_windows;

/*
 * The text of --ppl for the tokenizer of `engine`, opened from `path`; at most --max-windows.  The tail is dropped:
 * what the last token of the text closes, even if it fills a window, since the figures we compare with come from pairs
 * of (window, window shifted by one).
 */
hlwq_status app_windows_read(const app_args *args, const hlwq_engine *engine, const char *path, uint32_t ctx,
                             app_windows *out, hlwq_error *err);

/* --ctx, checked. */
hlwq_status app_windows_ctx(const app_args *args, uint32_t fallback, uint32_t *ctx, hlwq_error *err);

/* The logarithm of the sum of exp(row): log p(v) = row[v] - this. *best: the likeliest token. */
double app_log_mass(const float *row, uint32_t vocab, uint32_t *best);

/* KL(p || q) in nats, from logits and their masses. */
double app_divergence(const float *p, double mass_p, const float *q, double mass_q, uint32_t vocab);

#endif
