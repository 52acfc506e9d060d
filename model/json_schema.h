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

/*
 * A whole answer that calls tools, of {"tools": [{"name": ..., "parameters": schema}, ...], "answer": schema}.  Without
 * "parameters" the arguments are free.  "answer" is what else it may be: a schema, or true for any object.  Without it
 * at least one call is made.  The tags of a call are bytes that no text has where the vocabulary has tokens for them.
 * (json_tools.c)
 */
#define HS_CALL_OPEN "<tool_call>"
#define HS_CALL_CLOSE "</tool_call>"
enum { HS_CALL_OPEN_BYTE = 0xFF, HS_CALL_CLOSE_BYTE = 0xFE, HS_TOOLS_DEPTH = HS_SCHEMA_DEPTH + 3 };
void hs_json_tools(hs_grammar *g, const hs_json *root, bool tokens);

#endif
