/*
 * model/grammar_json.c - {"root": "...", "rules": {...}} into nodes and edges.
 */
#include "model/grammar_json.h"

#include "model/pattern.h"

#include <string.h>

enum { REPEAT_MAX = 10000 };

typedef struct reader {
    hs_grammar *g;
    const hs_json *rules;
    const char *rule; /* being read */
} reader;

static void build(reader *r, const hs_json *e, uint32_t from, uint32_t to);

static void wrong(reader *r, const char *what)
{
    hs_grammar_fail(r->g, HLWQ_ERR_ARG, "grammar, rule \"%.60s\": %s", r->rule, what);
}

/* Rules are numbered in the order of the file, after rule 0. */
static void build_call(reader *r, const hs_json *name, uint32_t from, uint32_t to)
{
    uint32_t i = 1;
    const char *text = hs_json_type_of(name) == HS_JSON_STRING ? hs_json_string(name, NULL) : NULL;
    for (hs_json_iter *it = hs_json_first(r->rules); text && it; it = hs_json_next(r->rules, it), i++)
        if (strcmp(hs_json_key(it, NULL), text) == 0) {
            hs_grammar_call(r->g, from, i, to);
            return;
        }
    if (text)
        hs_grammar_fail(r->g, HLWQ_ERR_ARG, "grammar, rule \"%.60s\": there is no rule \"%.60s\"", r->rule, text);
    else
        wrong(r, "\"rule\" is not the name of one");
}

static void build_chars(reader *r, const hs_json *node, uint32_t from, uint32_t to)
{
    size_t bytes, at = 0;
    const char *text = hs_json_type_of(node) == HS_JSON_STRING ? hs_json_string(node, &bytes) : NULL;
    if (!text || bytes < 3 || text[0] != '[') {
        wrong(r, "\"chars\" is not a class such as \"[a-z]\"");
        return;
    }
    hs_pattern_class(r->g, from, text, bytes, &at, to);
    if (r->g->status == HLWQ_OK && at != bytes)
        wrong(r, "\"chars\" goes on after its ]");
}

static void build_repeat(reader *r, const hs_json *e, uint32_t from, uint32_t to)
{
    hs_grammar *g = r->g;
    const hs_json *what = hs_json_get(e, "repeat"), *node_min = hs_json_get(e, "min"),
                  *node_max = hs_json_get(e, "max");
    int64_t min = node_min && hs_json_type_of(node_min) == HS_JSON_INTEGER ? hs_json_int(node_min) : node_min ? -1 : 0;
    int64_t max = node_max && hs_json_type_of(node_max) == HS_JSON_INTEGER ? hs_json_int(node_max)
                  : node_max                                               ? -1
                                                                           : min;
    if (min < 0 || max < min || max > REPEAT_MAX) {
        wrong(r, "\"min\" and \"max\" of a repetition are no whole numbers in order, at most 10000");
        return;
    }
    uint32_t over = hs_grammar_node(g);
    for (int64_t i = 0; i < max && g->status == HLWQ_OK; i++) {
        uint32_t next = hs_grammar_node(g);
        if (i >= min)
            hs_grammar_empty(g, from, over);
        build(r, what, from, next);
        from = next;
    }
    if (!node_max && g->status == HLWQ_OK) {
        uint32_t loop = hs_grammar_node(g);
        hs_grammar_empty(g, from, loop);
        build(r, what, loop, loop);
        from = loop;
    }
    hs_grammar_empty(g, from, over);
    hs_grammar_empty(g, over, to);
}

static void build_object(reader *r, const hs_json *e, uint32_t from, uint32_t to)
{
    size_t n = hs_json_count(e);
    const hs_json *any = hs_json_get(e, "any");
    if (n == 1 && hs_json_get(e, "rule")) {
        build_call(r, hs_json_get(e, "rule"), from, to);
    } else if (n == 1 && hs_json_get(e, "chars")) {
        build_chars(r, hs_json_get(e, "chars"), from, to);
    } else if (n == 1 && hs_json_type_of(any) == HS_JSON_ARRAY && hs_json_count(any)) {
        for (size_t i = 0; i < hs_json_count(any); i++) {
            uint32_t start = hs_grammar_node(r->g);
            hs_grammar_empty(r->g, from, start);
            build(r, hs_json_at(any, i), start, to);
        }
    } else if (hs_json_get(e, "repeat") &&
               n == 1u + (hs_json_get(e, "min") != NULL) + (hs_json_get(e, "max") != NULL)) {
        build_repeat(r, e, from, to);
    } else {
        hs_json_iter *it = hs_json_first(e);
        hs_grammar_fail(
            r->g, HLWQ_ERR_ARG,
            "grammar, rule \"%.60s\": an object with \"%.60s\" is none of rule, chars, any, repeat (with min "
            "and max)",
            r->rule, it ? hs_json_key(it, NULL) : "");
    }
}

static void build(reader *r, const hs_json *e, uint32_t from, uint32_t to)
{
    hs_grammar *g = r->g;
    size_t bytes;
    const char *text;
    if (g->status != HLWQ_OK)
        return;
    switch (hs_json_type_of(e)) {
    case HS_JSON_STRING:
        text = hs_json_string(e, &bytes);
        hs_grammar_text(g, from, text, bytes, to);
        break;
    case HS_JSON_ARRAY:
        for (size_t i = 0; i < hs_json_count(e) && g->status == HLWQ_OK; i++) {
            uint32_t next = hs_grammar_node(g);
            build(r, hs_json_at(e, i), from, next);
            from = next;
        }
        hs_grammar_empty(g, from, to);
        break;
    case HS_JSON_OBJECT: build_object(r, e, from, to); break;
    default: wrong(r, "an expression is a text, a list or an object");
    }
}

void hs_grammar_json(hs_grammar *g, const hs_json *text)
{
    const hs_json *root = hs_json_get(text, "root"), *rules = hs_json_get(text, "rules");
    reader r = {.g = g, .rules = rules, .rule = "root"};
    if (hs_json_type_of(rules) != HS_JSON_OBJECT || !hs_json_count(rules) || hs_json_count(text) != 2 || !root) {
        hs_grammar_fail(g, HLWQ_ERR_ARG, "a grammar is {\"root\": a rule's name, \"rules\": {name: expression, ...}}");
        return;
    }
    uint32_t first = hs_grammar_rule(g, "root");
    for (hs_json_iter *it = hs_json_first(rules); it; it = hs_json_next(rules, it))
        hs_grammar_rule(g, hs_json_key(it, NULL));
    hs_grammar_build(g, first);
    build_call(&r, root, hs_grammar_start(g, first), hs_grammar_end(g, first));
    uint32_t i = 1;
    for (hs_json_iter *it = hs_json_first(rules); it && g->status == HLWQ_OK; it = hs_json_next(rules, it), i++) {
        r.rule = hs_json_key(it, NULL);
        hs_grammar_build(g, i);
        build(&r, hs_json_value(it), hs_grammar_start(g, i), hs_grammar_end(g, i));
    }
}
