/*
 * model/pattern.h - a regular expression as edges of a grammar: the characters of a JSON string that it matches.
 *
 * What is understood is what needs no memory of the text: characters, classes, groups, |, * + ? {m,n}, ^ at the
 * beginning and $ at the end.  \d \w \s are ASCII, \D \W \S the rest of it.  Anything else is refused by name.
 * Repetitions are unrolled, so that the size of the grammar is what limits them.
 */
#ifndef HS_MODEL_PATTERN_H
#define HS_MODEL_PATTERN_H

#include "model/json_rules.h"

/* The inside of a string, without its quotes. */
void hs_pattern(hs_json_rules *rules, uint32_t from, const char *pattern, size_t bytes, uint32_t to);

/* The same over plain UTF-8. */
void hs_pattern_plain(hs_grammar *g, uint32_t from, const char *pattern, size_t bytes, uint32_t to);

/* One class of characters in brackets, "[a-z]" say, over plain UTF-8; *at is its "[" and then what follows it. */
void hs_pattern_class(hs_grammar *g, uint32_t from, const char *pattern, size_t bytes, size_t *at, uint32_t to);

#endif
