/*
 * offload/beside.c - the arithmetic of two that work at once, and a comparison of two ways that is made now and then.
 */
#include "offload/beside.h"

#include "offload/rates.h"

#include <math.h>
#include <stdlib.h>

enum {
    WINS = 2,        /* periods in a row that a trial has to be faster in than the one before it with what is best */
    WARM = 2,        /* periods before the first trial: caches fill, memory is pinned, steps are recorded */
    REST_FIRST = 16, /* periods until the next trial after one that lost; twice as many once all have, up to: */
    REST_MOST = 128,
    STEPS = 5,
    SLOW = 2 /* periods in a row, clearly slower than when it was chosen, that end the rest */
};

static const double GAIN = 0.98;  /* a trial's time, of what was best, with which it wins */
static const double SLOWER = 1.2; /* of the time when it was chosen: the machine has changed */
static const double step[STEPS] = {0, 1.0 / 8, -1.0 / 8, 1.0 / 16, -1.0 / 16}; /* where some are best; 0: all instead */
static const double NEARLY = 15.0 / 16;                                        /* all */
static const double HOPE = 1.25; /* predicted, of the better way's time, up to which the other one is tried, too */
static const double CLEAR = 0.8; /* predicted, of copying all, at which the CPU has a part of a prompt */

/* Of `n` the one with the least time of both; one of the CPU's takes `cpu`, of the others `copy`. */
static uint32_t least(uint32_t n, double cpu, double copy, uint32_t ahead, double *seconds)
{
    uint32_t best = 0;
    *seconds = n * copy;
    for (uint32_t k = 1; k <= n; k++) { /* whoever asks for copies cannot compute while it waits for a place */
        uint32_t copies = n - k, waited = copies > ahead ? copies - ahead : 0;
        double s = fmax(copies * copy, waited * copy + k * cpu);
        if (s < *seconds) {
            best = k;
            *seconds = s;
        }
    }
    return best;
}

/* The share with which many of them take both equally long; 1 where that is nearly all. */
static double even(const hs_beside_rates *r)
{
    double share = r->one > 0 && r->copy > 0 ? r->copy / (r->one + r->copy) : 1;
    return share > NEARLY ? 1 : share;
}

/* A use with a share below 1. */
static uint32_t some_of(uint32_t n, double share)
{
    double seconds;
    return least(n, 1 - share, share, UINT32_MAX, &seconds);
}

static double some_seconds(const hs_beside_rates *r, uint32_t missing, double share)
{
    uint32_t k = some_of(missing, share), copies = missing - k;
    return fmax(k * r->one, copies ? copies * r->copy + HS_RATE_EXCHANGE_SECONDS : 0) + HS_RATE_WAIT_SECONDS;
}

double hs_beside_seconds(const hs_beside_rates *r, double missing, double share)
{
    if (share >= 1)
        return missing * r->alone;
    uint32_t n = (uint32_t)missing;
    double more = missing - n, low = some_seconds(r, n, share);
    return low + more * (some_seconds(r, n + 1, share) - low);
}

double hs_beside_share(const hs_beside_rates *r, double missing)
{
    double share = even(r);
    return hs_beside_seconds(r, missing, share) < hs_beside_seconds(r, missing, 1) ? share : 1;
}

hs_beside hs_beside_first(double fixed, const hs_beside_rates *r, double missing)
{
    hs_beside b = {.fixed = fixed, .rates = *r, .some = 1, .rest = WARM, .pause = REST_FIRST};
    b.best = b.share = fixed >= 0 ? fixed : hs_beside_share(r, missing);
    if (fixed < 0 && hs_beside_seconds(r, missing, even(r)) < HOPE * hs_beside_seconds(r, missing, 1))
        b.some = even(r);
    return b;
}

bool hs_beside_all(const hs_beside *b, uint32_t tokens)
{
    return b->fixed >= 0 ? b->fixed >= 1 : tokens <= HS_BESIDE_TOKENS && b->share >= 1;
}

/* A share that was asked for is kept over all layers together: few experts are missing in one. */
static uint32_t fixed_of(hs_beside *b, uint32_t missing)
{
    double want = b->fixed * missing + b->owed;
    uint32_t k = want > 0 ? (uint32_t)(want + 0.5) : 0;
    k = k < missing ? k : missing;
    b->owed = want - k;
    return k;
}

uint32_t hs_beside_of(hs_beside *b, uint32_t missing, uint32_t tokens, double each, uint32_t ahead)
{
    const hs_beside_rates *r = &b->rates;
    if (b->fixed >= 0)
        return fixed_of(b, missing);
    if (tokens <= HS_BESIDE_TOKENS)
        return b->share >= 1 ? missing : some_of(missing, b->share);
    if (!(r->one > 0 && r->eight > 0 && r->copy > 0))
        return 0;
    double seconds, cpu = fmax(r->one, r->one + (each - 1) * (r->eight - r->one) / (HS_BESIDE_TOKENS - 1));
    uint32_t k = least(missing, cpu, r->copy, ahead, &seconds);
    return seconds <= CLEAR * missing * r->copy ? k : 0;
}

/* ---- which way is better --------------------------------------------------------------------- */

static int ascending(const void *x, const void *y)
{
    uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a < b ? -1 : a > b;
}

/*
 * The other way.  Where all are best: some, as many as last did well, or as many as the rates say.  Where some are:
 * all, or some more, or some less.
 */
static double trial(const hs_beside *b)
{
    if (b->best >= 1)
        return b->turn == 0 ? b->some : even(&b->rates);
    if (b->turn == 0)
        return 1;
    return fmax(0, fmin(NEARLY, b->best + step[b->turn]));
}

/* What is best has its time again, and the next trial is some periods away. */
static void settle(hs_beside *b, uint32_t rest)
{
    b->share = b->best;
    b->settled_ns = b->best_ns;
    b->rest = rest;
    b->wins = b->slow = 0;
}

/* A trial lost: the next kind of trial later, and much later when all kinds have. */
static void lose(hs_beside *b)
{
    settle(b, b->pause);
    b->turn = (b->turn + 1) % (b->best < 1 ? STEPS : 2);
    if (b->turn == 0)
        b->pause = b->pause < REST_MOST ? 2 * b->pause : REST_MOST;
}

/* A period with what is best. */
static void as_before(hs_beside *b, uint64_t took)
{
    b->best_ns = took;
    b->slow = b->settled_ns && (double)took > SLOWER * (double)b->settled_ns ? b->slow + 1 : 0;
    if (b->rest && b->slow == SLOW) {
        b->rest = b->turn = 0;
        b->pause = REST_FIRST;
    }
    if (b->rest) {
        b->rest--;
        return;
    }
    b->share = b->wins ? b->trial : trial(b);
    for (; b->share == b->best; b->share = trial(b)) /* where a step leads nowhere */
        b->turn = (b->turn + 1) % STEPS;
}

void hs_beside_learn(hs_beside *b, uint64_t token_ns)
{
    if (b->fixed >= 0 || b->some >= 1)
        return;
    b->ns[b->tokens++] = token_ns;
    if (b->tokens < HS_BESIDE_PERIOD)
        return;
    b->tokens = 0;
    qsort(b->ns, HS_BESIDE_PERIOD, sizeof *b->ns, ascending); /* one slow token is something else */
    uint64_t took = b->ns[HS_BESIDE_PERIOD / 2 - 1];
    if (b->share == b->best) {
        as_before(b, took);
        return;
    }
    b->trial = b->share;
    if ((double)took >= GAIN * (double)b->best_ns) {
        lose(b);
        return;
    }
    b->share = b->best;
    if (++b->wins < WINS)
        return;
    b->best = b->trial;
    b->some = b->best < 1 ? b->best : b->some;
    b->best_ns = took;
    b->turn = b->turn ? b->turn : b->best < 1; /* further the same way; the one that was left is not tried first */
    b->pause = REST_FIRST;
    settle(b, b->best < 1 ? 0 : REST_FIRST);
}
