/*
 * model/json_number.h - numbers between two bounds, as edges of a grammar.
 *
 * Bounds are compared digit by digit, so they hold exactly.  Numbers with a bound are written without an exponent, with
 * at most 15 digits, and 9 of them behind the point: distinct texts are then distinct doubles.
 */
#ifndef HS_MODEL_JSON_NUMBER_H
#define HS_MODEL_JSON_NUMBER_H

#include "model/grammar.h"

typedef struct hs_bound {
    bool set, exclusive;
    bool whole; /* then it is `integer`, else `real` */
    int64_t integer;
    double real;
} hs_bound;

double hs_bound_real(const hs_bound *b);

/* The narrower of two lower bounds (sign 1) or upper ones (sign -1) becomes *b. */
void hs_bound_narrow(hs_bound *b, const hs_bound *other, int sign);

/* Whole numbers, or any. Fails the grammar where a bound is too large to be kept. */
void hs_json_number_range(hs_grammar *g, uint32_t from, const hs_bound *lo, const hs_bound *hi, bool whole,
                          uint32_t to);

#endif
