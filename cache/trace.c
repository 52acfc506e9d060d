/*
 * cache/trace.c - writes and parses traces and replays them: the same slot table that a running engine uses.
 */
#include "cache/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS_MAX = 1024, EXPERTS_MAX = 65535 };

/* The next number of a line at *p, no further than end; false if there is none. Fractions are passed over. */
static bool number(const char **p, const char *end, uint64_t *out)
{
    const char *c = *p;
    uint64_t v = 0;
    while (c < end && (*c == ' ' || *c == '\t'))
        c++;
    if (c == end || *c < '0' || *c > '9')
        return false;
    while (c < end && *c >= '0' && *c <= '9') {
        if (v > UINT32_MAX)
            return false;
        v = v * 10 + (uint64_t)(*c++ - '0');
    }
    while (c < end && *c != ' ' && *c != '\t' && *c != '\n')
        c++;
    *p = c;
    *out = v;
    return true;
}

static bool numbers(const char **p, const char *end, uint64_t *out, int n)
{
    for (int i = 0; i < n; i++)
        if (!number(p, end, &out[i]))
            return false;
    while (*p < end && **p != '\n')
        (*p)++;
    if (*p < end)
        (*p)++;
    return true;
}

static int by_token(const void *x, const void *y)
{
    const hs_pick *a = x, *b = y;
    if (a->token != b->token)
        return a->token < b->token ? -1 : 1;
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    return a->line < b->line ? -1 : a->line > b->line;
}

hlwq_status hs_trace_parse(hs_trace *t, hs_mem *mem, const char *text, size_t bytes, const char *what, hlwq_error *err)
{
    const char *p = text, *end = text + bytes;
    uint64_t head[4], v[4], lines = 0;
    void *block;
    *t = (hs_trace){.mem = mem};
    for (size_t i = 0; i < bytes; i++)
        lines += text[i] == '\n';
    if (!numbers(&p, end, head, 4) || !head[0] || head[0] > LAYERS_MAX || !head[1] || head[1] > EXPERTS_MAX || !head[2])
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: line 1 is not \"layers experts tokens prompt_tokens\", layers <= %d, experts <= %d", what,
                       LAYERS_MAX, EXPERTS_MAX);
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, (lines + 1) * sizeof(hs_pick), "routing trace", &block, err));
    *t = (hs_trace){mem, (uint32_t)head[0], (uint32_t)head[1], (uint32_t)head[2], (uint32_t)head[3], 0, block};
    for (uint64_t line = 2; p < end; line++) {
        if (*p == '\n') {
            p++;
            continue;
        }
        hs_pick *k = &t->pick[t->n];
        if (line > UINT32_MAX || !numbers(&p, end, v, 3) || v[0] >= head[2] || v[1] >= head[0] || v[2] >= head[1]) {
            hs_trace_close(t);
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: line %" PRIu64 " is not \"token layer expert weight\" below %" PRIu64 " %" PRIu64
                           " %" PRIu64,
                           what, line, head[2], head[0], head[1]);
        }
        *k = (hs_pick){(uint32_t)v[0], (uint16_t)v[1], (uint16_t)v[2], (uint32_t)line};
        t->n++;
    }
    if (t->n == 0) {
        hs_trace_close(t);
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: the trace has no selections", what);
    }
    qsort(t->pick, t->n, sizeof *t->pick, by_token);
    return HLWQ_OK;
}

void hs_trace_close(hs_trace *t)
{
    if (t->pick)
        hs_mem_free(t->mem, t->pick);
    *t = (hs_trace){0};
}

/* For each pick, the index of the next one of the same expert, or n. */
static void next_uses(const hs_trace *t, uint64_t *next, uint64_t *seen)
{
    for (uint64_t i = 0; i < (uint64_t)t->layers * t->experts; i++)
        seen[i] = t->n;
    for (uint64_t i = t->n; i-- > 0;) {
        uint64_t *at = &seen[(uint64_t)t->pick[i].layer * t->experts + t->pick[i].expert];
        next[i] = *at;
        *at = i;
    }
}

static hlwq_status replay(const hs_trace *t, hs_slots *s, const uint64_t *next, hlwq_error *err)
{
    int32_t pinned[1024];
    uint32_t token = 0;
    for (uint64_t i = 0, n; i < t->n; i += n) {
        const hs_pick *k = &t->pick[i];
        hs_slots_tick(s, k->token - token);
        token = k->token;
        for (n = 0; i + n < t->n && k[n].token == k->token && k[n].layer == k->layer && n < 1024; n++) {
            if (next)
                hs_slots_value(s, k->layer, k[n].expert, -(double)next[i + n]);
            pinned[n] = hs_slots_use(s, k->layer, k[n].expert);
        }
        for (uint64_t j = 0; j < n; j++)
            if (pinned[j] < 0) {
                int32_t held = hs_slots_find(s, k->layer, k[j].expert); /* twice in one token */
                if (held >= 0) {
                    hs_slots_pin(s, held);
                    pinned[j] = held;
                    continue;
                }
                pinned[j] = hs_slots_claim(s, k->layer, k[j].expert);
                if (pinned[j] < 0)
                    break;
                hs_slots_ready(s, pinned[j]);
            }
        bool full = false;
        for (uint64_t j = 0; j < n; j++)
            if (pinned[j] >= 0)
                hs_slots_unpin(s, pinned[j]);
            else
                full = true;
        if (full)
            return hs_fail(err, HLWQ_ERR_BUDGET,
                           "token %u needs %" PRIu64 " experts of layer %u at once, more than slots", k->token, n,
                           k->layer);
    }
    return HLWQ_OK;
}

hlwq_status hs_trace_replay(const hs_trace *t, const hs_replay_options *o, hs_slots_stats *stats, hlwq_error *err)
{
    uint32_t extents[LAYERS_MAX];
    hs_slots *s;
    void *next = NULL;
    for (uint32_t i = 0; i < t->layers; i++)
        extents[i] = t->experts;
    hs_slots_options so = {.groups = t->layers,
                           .extents = extents,
                           .capacity = o->slots * t->layers,
                           .floor = o->pool ? o->floor : o->slots,
                           .policy = o->policy,
                           .half_life = o->half_life,
                           .admit = o->admit};
    if (o->slots == 0 || o->slots > t->experts)
        return hs_fail(err, HLWQ_ERR_ARG, "%u slots, limits 1..%u (the experts of a layer)", o->slots, t->experts);
    if (o->policy == HS_POLICY_GIVEN) {
        uint64_t keys = (uint64_t)t->layers * t->experts;
        HS_TRY(hs_mem_alloc(t->mem, HS_MEM_OTHER, (t->n + keys) * sizeof(uint64_t), "next uses", &next, err));
        next_uses(t, next, (uint64_t *)next + t->n);
    }
    hlwq_status st = hs_slots_open(&s, t->mem, &so, err);
    if (st == HLWQ_OK) {
        st = replay(t, s, next, err);
        *stats = hs_slots_get_stats(s);
        hs_slots_close(s);
    }
    hs_mem_free(t->mem, next);
    return st;
}

struct hs_trace_writer {
    FILE *file;
    uint32_t layers, experts, tokens, prompt_tokens;
    bool decoding;
    char path[512];
};

/* Of one width, so that it can be written again at the end. */
static void write_head(hs_trace_writer *w)
{
    fprintf(w->file, "%u %u %010u %010u\n", w->layers, w->experts, w->tokens, w->prompt_tokens);
}

hlwq_status hs_trace_create(hs_trace_writer **out, const char *path, uint32_t layers, uint32_t experts, hlwq_error *err)
{
    *out = NULL;
    if (experts == 0)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "a dense model has no routing to write to %s", path);
    hs_trace_writer *w = calloc(1, sizeof *w);
    if (!w)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a trace");
    w->layers = layers;
    w->experts = experts;
    snprintf(w->path, sizeof w->path, "%s", path);
    w->file = fopen(path, "we");
    if (!w->file) {
        hlwq_status st = hs_fail(err, HLWQ_ERR_IO, "%s: %s", path, strerror(errno));
        free(w);
        return st;
    }
    write_head(w);
    *out = w;
    return HLWQ_OK;
}

void hs_trace_add(hs_trace_writer *w, uint32_t layer, uint32_t first, uint32_t n, uint32_t used, const int32_t *id,
                  const float *weight)
{
    w->decoding |= n == 1 && first > 0;
    if (first + n > w->tokens)
        w->tokens = first + n;
    if (!w->decoding)
        w->prompt_tokens = w->tokens;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t k = 0; k < used; k++)
            fprintf(w->file, "%u %u %d %.6g\n", first + t, layer, id[t * used + k], (double)weight[t * used + k]);
}

hlwq_status hs_trace_commit(hs_trace_writer *w, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    if (!w)
        return st;
    rewind(w->file);
    write_head(w);
    bool failed = ferror(w->file) != 0;
    if (fclose(w->file) != 0 || failed)
        st = hs_fail(err, HLWQ_ERR_IO, "%s: %s", w->path, strerror(errno ? errno : EIO));
    free(w);
    return st;
}
