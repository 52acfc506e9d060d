/*
 * model/price.c - running means, hopeful where nothing was measured yet, so that everything is tried once.
 */
#include "model/price.h"

static const double time_memory = 16, accept_memory = 32; /* observations that a mean remembers */
static const double hope = 0.7, hope_weight = 4;          /* that a draft is right, counted like so many observations */
static const double width_cost = 0.1;                     /* of a plain pass, for a token more, until measured */
static const double margin = 1.03;                        /* what drafting must gain to be worth it */
enum {
    PLAIN_FIRST = 4, /* passes without drafts, to know what they cost */
    PLAIN_SOON = 8,  /* passes until that is measured again; later twice as many, and so on up to: */
    PLAIN_LATE = 64,
    PAUSE_FIRST = 64, /* passes until a source that lost is tried again, for TRIES; later twice as many */
    TRIES = 2,
    PAUSE_MOST = 4096
};

static void learn(hs_running *r, double value, double memory)
{
    r->weight = r->weight < memory ? r->weight + 1 : memory;
    r->mean += (value - r->mean) / r->weight;
}

/* A pass that took very long was something else that used the machine. */
static void learn_time(hs_running *r, double ns)
{
    learn(r, r->weight >= 4 && ns > 2 * r->mean ? 2 * r->mean : ns, time_memory);
}

void hs_price_init(hs_price *p, uint32_t depth_max, bool free_run)
{
    *p = (hs_price){.depth_max = depth_max < HS_PRICE_DEPTHS ? depth_max : HS_PRICE_DEPTHS - 1,
                    .free_run = free_run,
                    .plain_every = PLAIN_SOON};
    for (int s = 0; s < HS_DRAFT_SOURCES; s++) {
        p->source[s].pause = PAUSE_FIRST;
        for (int i = 0; i < HS_PRICE_DEPTHS; i++)
            p->source[s].accept[i] = (hs_running){hope, hope_weight};
    }
}

/* A width that was never measured costs what the one below it does, and what a token more did where that is known. */
static double pass_ns(const hs_price *p, uint32_t depth)
{
    double plain = p->pass[0].mean, step = width_cost * plain;
    uint32_t below = 0;
    if (p->pass[depth].weight > 0)
        return p->pass[depth].mean;
    for (uint32_t k = HS_PRICE_DEPTHS; k-- > 1;)
        if (p->pass[k].weight > 0 && (k > depth || below == 0)) {
            below = k < depth ? k : 0;
            step = (p->pass[k].mean - plain) / k;
        }
    return p->pass[below].mean + (step > 0 ? step : 0) * (depth - below);
}

double hs_price_rate(const hs_price *p, hs_draft_source source, uint32_t depth)
{
    double tokens = 1, chance = 1;
    for (uint32_t i = 0; i < depth; i++) {
        chance *= p->source[source].accept[i].mean;
        tokens += chance;
    }
    double ns = pass_ns(p, depth) + (source == HS_DRAFT_MTP ? depth * p->draft.mean : 0);
    return ns > 0 ? tokens / ns : 0;
}

/* One draft first, then more than was ever measured: where a token more is dear, finding out should not be. */
static uint32_t deepest(const hs_price *p)
{
    uint32_t known = p->depth_max;
    while (known && !(p->pass[known].weight > 0))
        known--;
    return 2 * known + 1 < p->depth_max ? 2 * known + 1 : p->depth_max;
}

/* The depth of the best rate, 0 unless it pays. */
static uint32_t best_depth(const hs_price *p, hs_draft_source source, double *rate)
{
    uint32_t best = 0, most = deepest(p);
    *rate = hs_price_rate(p, source, 0) * margin;
    for (uint32_t k = 1; k <= most; k++) {
        double r = hs_price_rate(p, source, k);
        if (r > *rate) {
            best = k;
            *rate = r;
        }
    }
    return best;
}

uint32_t hs_price_depth(const hs_price *p, hs_draft_source source, double *rate)
{
    *rate = 1;
    if (p->free_run)
        return p->depth_max;
    if (p->pass[0].weight < PLAIN_FIRST || p->passes - p->last_plain >= p->plain_every)
        return 0;
    uint32_t best = best_depth(p, source, rate);
    if (best && !p->source[source].losing)
        return best;
    return p->passes - p->source[source].last_try >= p->source[source].pause ? 1 : 0; /* what lost may not any more */
}

/* After a pass with drafts of a source: whether it pays; one that lost has TRIES passes to do better. */
static void judge(hs_price *p, hs_draft_source source)
{
    double rate;
    bool pays = best_depth(p, source, &rate) > 0, lost = p->source[source].losing;
    p->source[source].tried = true;
    p->source[source].losing = !pays;
    if (pays)
        p->source[source].pause = PAUSE_FIRST;
    if (!pays && lost && ++p->source[source].tries < TRIES)
        return;
    if (!pays && lost && p->source[source].pause < PAUSE_MOST)
        p->source[source].pause *= 2;
    p->source[source].tries = 0;
    p->source[source].last_try = p->passes;
}

/* What was learned long ago counts less than what a new try shows. */
static void doubt(hs_running *r)
{
    r->weight = r->weight < TRIES ? r->weight : TRIES;
}

void hs_price_note(hs_price *p, hs_draft_source source, uint32_t depth, uint32_t right, bool wrong, double draft_ns,
                   double took_ns)
{
    p->passes++;
    if (depth && p->source[source].losing) {
        doubt(&p->pass[depth]);
        doubt(&p->source[source].accept[0]);
    }
    learn_time(&p->pass[depth], took_ns);
    if (depth == 0) {
        if (p->passes - p->last_plain > p->plain_every && p->plain_every < PLAIN_LATE)
            p->plain_every *= 2;
        p->last_plain = p->passes;
        return;
    }
    if (source == HS_DRAFT_MTP)
        learn_time(&p->draft, draft_ns / depth);
    hs_running *accept = p->source[source].accept;
    for (uint32_t i = 0; i < right + (wrong ? 1 : 0) && i < depth; i++) {
        learn(&accept[i], i < right ? 1 : 0, accept_memory);
        for (uint32_t k = i + 1; k < HS_PRICE_DEPTHS; k++) /* those further on are no better, until they are seen */
            if (accept[k].weight <= hope_weight && accept[k].mean > accept[i].mean)
                accept[k].mean = accept[i].mean;
    }
    judge(p, source);
}
