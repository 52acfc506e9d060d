/*
 * model/json_schema.h - a JSON Schema as a grammar: the texts of JSON values that satisfy it.
 *
 * The grammar may have fewer texts than the schema allows, never others: properties come in the order of the schema,
 * and names that it does not list are written only where additionalProperties asks for them.  A keyword that is not
 * understood is an error that names it; docs/constraints.md lists those that are.
 */
#ifndef HS_MODEL_JSON_SCHEMA_H
#define HS_MODEL_JSON_SCHEMA_H

#include "base/json.h"
#include "model/grammar.h"

enum { HS_SCHEMA_DEPTH = 60 }; /* of rules, for hs_grammar_init */

/* Builds rule 0 and all it needs; failures are the grammar's. `schema` is lent for the call. */
void hs_json_schema(hs_grammar *g, const hs_json *schema);

/* Any object. */
void hs_json_object(hs_grammar *g);

/*
 * The arguments of a call in the syntax of Qwen3.5, where `schema` describes them: what follows "<function=NAME>", up
 * to and with "</function>".  A text stands there as it is, any other value as JSON.  (json_call.c)
 */
void hs_json_call(hs_grammar *g, const hs_json *schema);

#endif
