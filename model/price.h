/*
 * model/price.h - whether drafting pays, and how far ahead: measured while running.
 *
 * A pass over 1 + k tokens costs what passes of that width were seen to cost, reads of experts that only a rejected
 * token wanted included; drafting costs its own time.  It brings the tokens that were accepted.  The best ratio wins,
 * and no drafts at all is one of the choices.  What is chosen changes time, never tokens.
 *
 * Numbers only: no clock, no model.
 */
#ifndef HS_MODEL_PRICE_H
#define HS_MODEL_PRICE_H

#include <stdbool.h>
#include <stdint.h>

enum { HS_PRICE_DEPTHS = 8 /* drafts of a window are fewer */ };

typedef enum hs_draft_source {
    HS_DRAFT_MTP,
    HS_DRAFT_LOOKUP,      /* of a short repeated piece */
    HS_DRAFT_LOOKUP_LONG, /* of HS_PRICE_LONG tokens and more */
    HS_DRAFT_SOURCES
} hs_draft_source;

enum { HS_PRICE_LONG = 4 };

/* A mean that forgets, and how much it rests on. */
typedef struct hs_running {
    double mean, weight;
} hs_running;

typedef struct hs_price {
    uint32_t depth_max;
    bool free_run;                    /* no price: always depth_max */
    hs_running pass[HS_PRICE_DEPTHS]; /* ns of a pass over 1 + k tokens */
    hs_running draft;                 /* ns of one draft of the MTP head */
    struct {
        hs_running accept[HS_PRICE_DEPTHS]; /* draft i is right, given that those before it are */
        bool tried;
        bool losing;              /* no depth paid when it was last tried */
        uint32_t tries;           /* again */
        uint64_t last_try, pause; /* passes; until it is tried again */
    } source[HS_DRAFT_SOURCES];
    uint64_t passes, last_plain, plain_every;
} hs_price;

void hs_price_init(hs_price *price, uint32_t depth_max, bool free_run);

/* Drafts of `source` to make now, 0 for none; *rate gets the tokens per ns to expect. */
uint32_t hs_price_depth(const hs_price *price, hs_draft_source source, double *rate);

/*
 * What a pass with `depth` drafts took, and how its drafts did: the first `right` were right, and if `wrong`, the next
 * one was not (else nobody asked).
 */
void hs_price_note(hs_price *price, hs_draft_source source, uint32_t depth, uint32_t right, bool wrong, double draft_ns,
                   double pass_ns);

/* Tokens per ns with `depth` drafts of `source`. */
double hs_price_rate(const hs_price *price, hs_draft_source source, uint32_t depth);

#endif
