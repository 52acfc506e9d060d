/*
 * kernels/sample.h - what a drawn token depends on, in operations whose order does not show: a processor and a graphics
 * card draw the same one.
 *
 * Values are logits after penalties and temperature.  A weight is exp(value - largest) on a grid of 2^-40, so sums of
 * weights are exact (of 2^23 candidates; vocabularies end at 2^22).  Candidates stand in one order: the larger value,
 * of equal ones the lower id.
 */
#ifndef HS_KERNELS_SAMPLE_H
#define HS_KERNELS_SAMPLE_H

#include "kernels/numeric.h"

#include <stdbool.h>

enum { HS_SAMPLE_MOST = 256 /* candidates that are put in order at first, and by a card at all */ };

typedef struct hs_sampling_rule {
    uint32_t draw; /* 24 random bits */
    float top_p, min_p;
} hs_sampling_rule;

HS_NUMERIC uint64_t hs_sample_weight(float value, float largest)
{
    float e = hs_exp(value - largest);
    return e > 0.0f ? (uint64_t)(e * 0x1p40f) : 0;
}

/* A logit of a token that occurred `count` > 0 times. */
HS_NUMERIC float hs_sample_penalised(float logit, uint32_t count, float repetition, float presence, float frequency)
{
    if (repetition != 1.0f)
        logit = logit > 0.0f ? logit / repetition : logit * repetition;
    return logit - presence - frequency * (float)count;
}

/* How much of `mass` lies below the draw; less than all of it. */
HS_NUMERIC uint64_t hs_sample_below(uint64_t mass, uint32_t draw)
{
    return (mass >> 24) * draw + ((mass & 0xFFFFFF) * draw >> 24);
}

/*
 * Which of the candidates is drawn: its place in their order.  The first k of all m are given by their weights, whose
 * sum over all m is `total`.  -1: it takes more than k of them to know.
 */
HS_NUMERIC int32_t hs_sample_pick(const hs_sampling_rule *rule, const uint64_t *weight, uint32_t k, uint32_t m,
                                  uint64_t total)
{
    bool nucleus = rule->top_p < 1.0f, known = k == m;
    uint64_t least = rule->min_p > 0.0f ? (uint64_t)((double)rule->min_p * 0x1p40) : 0, mass = 0, sum = 0;
    uint64_t enough = nucleus ? (uint64_t)((double)rule->top_p * (double)total) : 0;
    uint32_t kept = 0;
    for (bool end = false; kept < k && !end;) {
        if (kept && weight[kept] < least) { /* relative to the best, whose exp is 1 */
            known = true;
            break;
        }
        mass += weight[kept++];
        end = nucleus && mass >= enough;
        known = known || end;
    }
    if (!known && (nucleus || least))
        return -1;
    uint64_t below = hs_sample_below(known ? mass : total, rule->draw);
    for (uint32_t i = 0; i < kept; i++) {
        sum += weight[i];
        if (sum > below)
            return (int32_t)i;
    }
    return -1;
}

#endif
