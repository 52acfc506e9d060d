/*
 * model/sampler.c - candidates are (logit, id) pairs; only as many are ordered as the filters need.
 */
#include "model/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

typedef struct candidate {
    float logit; /* after penalties and temperature */
    int32_t id;
} candidate;

struct hs_sampler {
    hs_mem *mem;
    uint32_t vocab, usable;
    hlwq_sampling opt;
    uint32_t *count;  /* [vocab] occurrences in the window, zero between calls */
    candidate *list;  /* [vocab] */
    uint64_t *weight; /* [vocab] of the first ones of it */
};

hlwq_status hs_sampling_check(const hlwq_sampling *o, hlwq_error *err)
{
    const struct {
        const char *name;
        double value, min, max;
    } range[] = {
        {"temperature", o->temperature, 0, 100},
        {"top-p", o->top_p, 0, 1},
        {"min-p", o->min_p, 0, 1},
        {"repetition penalty", o->repetition_penalty, 1e-3, 1e3},
        {"presence penalty", o->presence_penalty, -100, 100},
        {"frequency penalty", o->frequency_penalty, -100, 100},
    };
    for (size_t i = 0; i < sizeof range / sizeof *range; i++)
        if (!(range[i].value >= range[i].min && range[i].value <= range[i].max))
            return hs_fail(err, HLWQ_ERR_ARG, "%s is %g, out of range %g..%g", range[i].name, range[i].value,
                           range[i].min, range[i].max);
    return HLWQ_OK;
}

hlwq_status hs_sampler_open(hs_sampler **out, hs_mem *mem, uint32_t vocab, uint32_t usable,
                            const hlwq_sampling *options, hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_sampling_check(options, err));
    uint64_t counts = ((uint64_t)vocab * sizeof(uint32_t) + 63) & ~(uint64_t)63;
    uint64_t each = sizeof(candidate) + sizeof(uint64_t);
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, sizeof(hs_sampler) + 64 + counts + vocab * each, "sampler", &p, err));
    hs_sampler *s = p;
    s->mem = mem;
    s->vocab = vocab;
    s->usable = usable < vocab ? usable : vocab;
    s->opt = *options;
    s->count = (uint32_t *)(void *)(s + 1);
    s->list = (candidate *)(void *)((uint8_t *)s->count + counts);
    s->weight = (uint64_t *)(void *)(s->list + vocab);
    *out = s;
    return HLWQ_OK;
}

hlwq_status hs_sampler_set(hs_sampler *s, const hlwq_sampling *options, hlwq_error *err)
{
    HS_TRY(hs_sampling_check(options, err));
    s->opt = *options;
    return HLWQ_OK;
}

const hlwq_sampling *hs_sampler_options(const hs_sampler *s)
{
    return &s->opt;
}

static bool penalises(const hlwq_sampling *o)
{
    return o->repetition_penalty != 1.0f || o->presence_penalty != 0.0f || o->frequency_penalty != 0.0f;
}

void hs_sampler_close(hs_sampler *s)
{
    if (s)
        hs_mem_free(s->mem, s);
}

/* Philox 4x32-10 (Salmon et al. 2011), key = seed, counter = position. */
static uint32_t random_bits(uint64_t seed, uint64_t position)
{
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c[0] * 0xD2511F53u, b = (uint64_t)c[2] * 0xCD9E8D57u;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)b;
        c[3] = (uint32_t)a;
        c[0] = n0;
        c[2] = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c[0] >> 8;
}

float hs_sampler_uniform(uint64_t seed, uint64_t position)
{
    return (float)random_bits(seed, position) * 0x1p-24f;
}

static bool better(candidate a, candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static int by_value(const void *x, const void *y)
{
    const candidate *a = x, *b = y;
    return better(*a, *b) ? -1 : better(*b, *a) ? 1 : 0;
}

/* Moves the k best of list[n] to its front, in order: a heap of k with the worst on top. */
static void best_first(candidate *list, uint32_t n, uint32_t k)
{
    if (k >= n) {
        qsort(list, n, sizeof *list, by_value);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at;
        if (i < k) { /* sift up */
            at = i;
            while (at && better(list[(at - 1) / 2], list[at])) {
                candidate t = list[at];
                list[at] = list[(at - 1) / 2];
                list[(at - 1) / 2] = t;
                at = (at - 1) / 2;
            }
            continue;
        }
        if (!better(list[i], list[0]))
            continue;
        candidate t = list[i];
        list[i] = list[0];
        list[0] = t;
        for (at = 0;;) { /* sift down */
            uint32_t worst = at, l = 2 * at + 1, r = l + 1;
            if (l < k && better(list[worst], list[l]))
                worst = l;
            if (r < k && better(list[worst], list[r]))
                worst = r;
            if (worst == at)
                break;
            t = list[at];
            list[at] = list[worst];
            list[worst] = t;
            at = worst;
        }
    }
    qsort(list, k, sizeof *list, by_value);
}

/* How many of n tokens penalties look back at. */
static size_t window_of(const hs_sampler *s, size_t n)
{
    return s->opt.penalty_window && s->opt.penalty_window < n ? s->opt.penalty_window : n;
}

/* Fills list with every usable and allowed id whose logit is a number; returns how many. */
static uint32_t collect(hs_sampler *s, const float *logits, const int32_t *history, size_t n, const uint64_t *allowed,
                        uint32_t n_allowed)
{
    uint32_t usable = allowed && n_allowed < s->usable ? n_allowed : s->usable;
    size_t window = window_of(s, n);
    bool penalties = penalises(&s->opt);
    if (penalties)
        for (size_t i = n - window; i < n; i++)
            s->count[history[i]]++;
    uint32_t m = 0;
    for (uint32_t i = 0; i < usable; i++) {
        if (allowed && !(allowed[i / 64] >> i % 64 & 1))
            continue;
        float l = logits[i];
        if (penalties && s->count[i])
            l = hs_sample_penalised(l, s->count[i], s->opt.repetition_penalty, s->opt.presence_penalty,
                                    s->opt.frequency_penalty);
        if (l == l)
            s->list[m++] = (candidate){l, (int32_t)i};
    }
    if (penalties)
        for (size_t i = n - window; i < n; i++)
            s->count[history[i]] = 0;
    return m;
}

/* Draws one of m candidates, of which as many are put in order as that takes. */
static int32_t draw_one(hs_sampler *s, uint32_t m, float top, uint32_t random)
{
    const hs_sampling_rule rule = {random, s->opt.top_p, s->opt.min_p};
    uint64_t total = 0;
    for (uint32_t i = 0; i < m; i++)
        total += hs_sample_weight(s->list[i].logit, top);
    for (uint32_t k = HS_SAMPLE_MOST;; k = k > m / 4 ? m : 4 * k) {
        k = k < m ? k : m;
        best_first(s->list, m, k);
        for (uint32_t i = 0; i < k; i++)
            s->weight[i] = hs_sample_weight(s->list[i].logit, top);
        int32_t at = hs_sample_pick(&rule, s->weight, k, m, total);
        if (at >= 0)
            return s->list[at].id;
        assert(k < m);
    }
}

hlwq_status hs_sampler_no_number(uint64_t position, hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT, "the model's logits are not numbers at position %llu; its weights are damaged",
                   (unsigned long long)position);
}

hlwq_status hs_sampler_next(hs_sampler *s, const float *logits, const int32_t *history, size_t n, uint64_t position,
                            const uint64_t *allowed, uint32_t n_allowed, int32_t *id, hlwq_error *err)
{
    uint32_t m = collect(s, logits, history, n, allowed, n_allowed);
    if (m == 0)
        return hs_sampler_no_number(position, err);
    candidate best = s->list[0];
    for (uint32_t i = 1; i < m; i++)
        if (better(s->list[i], best))
            best = s->list[i];
    float scale = 1.0f / s->opt.temperature, top = best.logit * scale;
    if (s->opt.temperature == 0.0f || s->opt.top_k == 1 || !isfinite(top)) {
        *id = best.id;
        return HLWQ_OK;
    }
    for (uint32_t i = 0; i < m; i++)
        s->list[i].logit *= scale;
    if (s->opt.top_k && s->opt.top_k < m) {
        best_first(s->list, m, s->opt.top_k);
        m = s->opt.top_k;
    }
    *id = draw_one(s, m, top, random_bits(s->opt.seed, position));
    return HLWQ_OK;
}

bool hs_sampler_choice(hs_sampler *s, const int32_t *history, size_t n, uint64_t position, hs_selection *choice)
{
    const hlwq_sampling *o = &s->opt;
    bool drawn = o->temperature != 0.0f && o->top_k != 1;
    if (drawn && o->top_k > HS_SAMPLE_MOST && o->top_k < s->usable)
        return false;
    *choice = (hs_selection){.usable = s->usable,
                             .scale = drawn ? 1.0f / o->temperature : 0.0f,
                             .top_k = o->top_k < s->usable ? o->top_k : 0,
                             .rule = {random_bits(o->seed, position), o->top_p, o->min_p},
                             .repetition = o->repetition_penalty,
                             .presence = o->presence_penalty,
                             .frequency = o->frequency_penalty};
    if (!penalises(o))
        return true;
    hs_repeat *repeat = (hs_repeat *)(void *)s->list;
    size_t window = window_of(s, n);
    for (size_t i = n - window; i < n; i++)
        s->count[history[i]]++;
    for (size_t i = n - window; i < n; i++)
        if (s->count[history[i]]) {
            repeat[choice->n_repeats++] = (hs_repeat){history[i], s->count[history[i]]};
            s->count[history[i]] = 0;
        }
    choice->repeat = repeat;
    return true;
}
