/*
 * model/json_tools.c - an answer that calls tools, as a grammar around those of their arguments:
 *
 *   <tool_call>\n<function=NAME>ARGUMENTS</tool_call>\n<tool_call> ...
 */
#include "model/json_schema_private.h"

#include <string.h>

#define FUNCTION "\n<function="

static void tag(hs_grammar *g, uint32_t from, uint8_t byte, const char *text, bool tokens, uint32_t to)
{
    if (tokens)
        hs_grammar_bytes(g, from, byte, byte, to);
    else
        hs_grammar_text(g, from, text, strlen(text), to);
}

/* A name of `tools` that is plain and not there before; NULL after a failure. */
static const char *name_of(hs_grammar *g, const hs_json *tools, size_t i)
{
    const hs_json *node = hs_json_get(hs_json_at(tools, i), "name");
    const char *name = hs_json_type_of(node) == HS_JSON_STRING ? hs_json_string(node, NULL) : "";
    if (!*name || strpbrk(name, "<>\n")) {
        hs_grammar_fail(g, HLWQ_ERR_ARG, "tool %zu has no \"name\" without \"<\", \">\" and line ends", i + 1);
        return NULL;
    }
    return name;
}

/* One call, from its name to the end of its arguments. */
static void build_call(hs_grammar *g, uint32_t root, const hs_json *tool, const char *name, uint32_t *any,
                       uint32_t from, uint32_t to)
{
    const hs_json *schema = hs_json_get(tool, "parameters");
    uint32_t rule = *any;
    if (hs_json_type_of(schema) != HS_JSON_MISSING) {
        rule = hs_grammar_rule(g, "the arguments of a call");
        json_call_arguments(g, name, schema, rule);
    } else if (!rule) { /* never rule 0 */
        rule = *any = hs_grammar_rule(g, "the arguments of a call");
        json_call_any(g, rule);
    }
    hs_grammar_build(g, root);
    uint32_t arguments = hs_grammar_node(g), at = from;
    for (size_t k = 0; name[k]; k++)
        at = hs_grammar_branch(g, at, (uint8_t)name[k]);
    hs_grammar_bytes(g, at, '>', '>', arguments);
    hs_grammar_call(g, arguments, rule, to);
}

static void build_answer(hs_grammar *g, const hs_json *schema, uint32_t root)
{
    uint32_t rule = g->n_rules; /* the first that they make */
    if (hs_json_type_of(schema) == HS_JSON_BOOL)
        hs_json_object(g);
    else
        hs_json_schema(g, schema);
    hs_grammar_build(g, root);
    hs_grammar_call(g, hs_grammar_start(g, root), rule, hs_grammar_end(g, root));
}

void hs_json_tools(hs_grammar *g, const hs_json *request, bool tokens)
{
    const hs_json *tools = hs_json_get(request, "tools"), *answer = hs_json_get(request, "answer");
    uint32_t root = hs_grammar_rule(g, "the answer"), any = 0;
    hs_grammar_build(g, root);
    uint32_t opened = hs_grammar_node(g), name = hs_grammar_node(g), said = hs_grammar_node(g),
             closed = hs_grammar_node(g), again = hs_grammar_node(g);
    if (!hs_json_count(tools) || hs_json_type_of(tools) != HS_JSON_ARRAY)
        hs_grammar_fail(g, HLWQ_ERR_ARG, "there are no tools to call");
    tag(g, hs_grammar_start(g, root), HS_CALL_OPEN_BYTE, HS_CALL_OPEN, tokens, opened);
    hs_grammar_text(g, opened, FUNCTION, sizeof FUNCTION - 1, name);
    for (size_t i = 0; i < hs_json_count(tools) && g->status == HLWQ_OK; i++) {
        const char *text = name_of(g, tools, i);
        if (text)
            build_call(g, root, hs_json_at(tools, i), text, &any, name, said);
    }
    hs_grammar_build(g, root);
    tag(g, said, HS_CALL_CLOSE_BYTE, HS_CALL_CLOSE, tokens, closed);
    hs_grammar_empty(g, closed, hs_grammar_end(g, root));
    hs_grammar_bytes(g, closed, '\n', '\n', again);
    hs_grammar_empty(g, closed, again);
    tag(g, again, HS_CALL_OPEN_BYTE, HS_CALL_OPEN, tokens, opened);
    if (hs_json_type_of(answer) != HS_JSON_MISSING)
        build_answer(g, answer, root);
}
