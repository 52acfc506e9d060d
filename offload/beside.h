/*
 * offload/beside.h - how many of a mixture's experts that are not on the card the CPU computes; the others are copied
 * up.
 *
 * Up to HS_BESIDE_TOKENS tokens at once there are two ways.  All: then the card waits for nobody within a token, and
 * copies are left to the cache.  Some: as many as take the CPU as long as copying the others takes.  Which is better is
 * measured while running, by the time of lone tokens.  More tokens share what is copied: the CPU has a part only where
 * the rates leave no doubt.
 *
 * Numbers only: no clock, no model.  What is chosen changes time, never tokens.
 */
#ifndef HS_OFFLOAD_BESIDE_H
#define HS_OFFLOAD_BESIDE_H

#include <stdbool.h>
#include <stdint.h>

enum { HS_BESIDE_TOKENS = 8, HS_BESIDE_PERIOD = 8 };

/* What one expert takes, seconds; 0 = not known. */
typedef struct hs_beside_rates {
    double alone; /* of the CPU for one token, while nothing is copied */
    double one;   /* while the others are copied: they read the same memory */
    double eight; /* the same for eight tokens */
    double copy;
} hs_beside_rates;

/* A layer with so many of them missing (a mean is fine) and one token, seconds.  Below 1 a share means some. */
double hs_beside_seconds(const hs_beside_rates *rates, double missing, double share);

/* The better share by that, 1 where rates are not known. */
double hs_beside_share(const hs_beside_rates *rates, double missing);

typedef struct hs_beside {
    double fixed; /* a share that was asked for; below 0 = none */
    double owed;  /* with it: what rounding has left so far, experts */
    hs_beside_rates rates;
    double share;                                       /* of this token */
    double best;                                        /* so far */
    double some;                                        /* the best below 1; 1 = there is nothing to try */
    double trial;                                       /* the last one */
    uint64_t ns[HS_BESIDE_PERIOD], best_ns, settled_ns; /* of this period's tokens; of a period with `best`: the last,
                                                           and the one that the last choice was made by */
    uint32_t tokens, wins, turn, rest, pause, slow;
} hs_beside;

hs_beside hs_beside_first(double fixed, const hs_beside_rates *rates, double missing);

/*
 * Of so many experts that are not on the card, those that the CPU computes: in a step of so many tokens, of which each
 * expert has `each`.  `ahead` copies may be asked for before somebody waits for the first of them.
 */
uint32_t hs_beside_of(hs_beside *b, uint32_t missing, uint32_t tokens, double each, uint32_t ahead);

/* Whether that is all of them whatever they are, in a step of so many tokens. */
bool hs_beside_all(const hs_beside *b, uint32_t tokens);

/* A lone token took so long at b->share. */
void hs_beside_learn(hs_beside *b, uint64_t token_ns);

#endif
