/*
 * model/json_rules.h - the parts that JSON texts are made of, as rules of a grammar.
 *
 * White space is allowed after { [ , : and before } ], one space or one line end with its indentation at a time, so
 * that a text cannot go on for ever without saying anything.
 */
#ifndef HS_MODEL_JSON_RULES_H
#define HS_MODEL_JSON_RULES_H

#include "model/grammar.h"

enum { HS_JSON_ANY_LENGTH = -1 };

typedef struct hs_json_rules {
    hs_grammar *g;
    uint32_t blank;  /* white space, or none */
    uint32_t other;  /* a character of a string that is not plain ASCII: escapes, and two bytes or more */
    uint32_t string; /* any */
    uint32_t number; /* any */
    uint32_t value;  /* any */
    uint32_t object; /* any */
    uint32_t inside; /* the node within `string` */
    bool has_value;
} hs_json_rules;

/* Makes the rules that strings and brackets need; `value` and `object` follow when hs_json_any is first called. */
void hs_json_rules_init(hs_json_rules *r, hs_grammar *g);
void hs_json_any(hs_json_rules *r);

/* One character of a string, in any way that JSON writes it. */
void hs_json_character(hs_json_rules *r, uint32_t from, uint32_t to);

/* The codepoints [lo, hi], each written in one way. */
void hs_json_characters(hs_grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to);

/* A string of that many characters; max may be HS_JSON_ANY_LENGTH. */
void hs_json_string_of(hs_json_rules *r, uint32_t from, int64_t min, int64_t max, uint32_t to);

/* `{` and white space; white space and `}`; and so on. */
void hs_json_open(hs_json_rules *r, uint32_t from, char bracket, uint32_t to);
void hs_json_shut(hs_json_rules *r, uint32_t from, char bracket, uint32_t to);

#endif
