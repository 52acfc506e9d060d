/*
 * model/grammar_json.h - a grammar written as JSON; docs/constraints.md describes the form.
 */
#ifndef HS_MODEL_GRAMMAR_JSON_H
#define HS_MODEL_GRAMMAR_JSON_H

#include "base/json.h"
#include "model/grammar.h"

enum { HS_GRAMMAR_JSON_DEPTH = 200 }; /* of rules, for hs_grammar_init */

/* Builds all rules, the one of "root" as rule 0; failures are the grammar's. */
void hs_grammar_json(hs_grammar *g, const hs_json *text);

#endif
