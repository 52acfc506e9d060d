/*
 * model/json_call.c - the arguments of a tool's call as a grammar:
 *
 *   \n<parameter=KEY>\nVALUE\n</parameter>\n ... </function>\n
 *
 * A VALUE ends at the first "</parameter>".  A text of any length may hold every "<" but that one; in patterns, listed
 * texts and JSON there is no "<" at all (JSON can still write \u003c).  Parameters come in the order of the schema.
 */
#include "model/json_schema_private.h"
#include "model/pattern.h"

#include <stdio.h>
#include <string.h>

#define PARAMETER "<parameter="
#define PARAMETER_END "</parameter>"
#define FUNCTION_END "</function>"

enum { NAME_CHARACTERS = 64 }; /* of a parameter that no schema names */

/* How an argument is written: a rule of its own, or a text that anything but its end may be in. */
typedef struct argument {
    uint32_t rule;
    bool has_rule, has_text;
} argument;

static bool failed(const schema_build *b)
{
    return b->g->status != HLWQ_OK;
}

/* Takes `byte` out of what the edges from `first` on read. */
static void leave_out(hs_grammar *g, uint32_t first, uint8_t byte)
{
    uint32_t end = g->n_edges;
    for (uint32_t i = first; i < end && g->status == HLWQ_OK; i++) {
        hs_edge *e = &g->edge[i];
        if (e->kind != HS_EDGE_BYTES || e->lo > byte || e->hi < byte)
            continue;
        uint32_t from = e->from, to = e->to;
        uint8_t lo = e->lo, hi = e->hi;
        if (lo == byte && hi == byte) { /* an edge stays an edge: this one leads where nothing goes on */
            hs_grammar_build(g, g->node[from].rule);
            uint32_t nowhere = hs_grammar_node(g);
            g->edge[i].to = nowhere;
        } else if (lo == byte) {
            e->lo = (uint8_t)(byte + 1);
        } else {
            e->hi = (uint8_t)(byte - 1);
            if (hi > byte) /* may move the edges */
                hs_grammar_bytes(g, from, (uint8_t)(byte + 1), hi, to);
        }
    }
}

/* ---- values ----------------------------------------------------------------------------------- */

/* Any text without PARAMETER_END in it: how much of that has been read is the node. */
static void free_text(hs_grammar *g, uint32_t from, uint32_t to)
{
    enum { N = sizeof PARAMETER_END - 1 };
    uint32_t read[N];
    for (int i = 0; i < N; i++)
        read[i] = hs_grammar_node(g);
    hs_grammar_empty(g, from, read[0]);
    for (int i = 0; i < N; i++) {
        uint8_t next = (uint8_t)PARAMETER_END[i];
        if (i + 1 < N)
            hs_grammar_bytes(g, read[i], next, next, read[i + 1]);
        if (next != '<')
            hs_grammar_bytes(g, read[i], '<', '<', read[1]);
        for (uint32_t c = 1, begin = 1; c <= 0x80; c++)
            if (c == 0x80 || c == '<' || c == next) {
                if (begin < c)
                    hs_grammar_bytes(g, read[i], (uint8_t)begin, (uint8_t)(c - 1), read[0]);
                begin = c + 1;
            }
        hs_grammar_characters(g, read[i], 0x80, 0x10FFFF, read[0]);
        hs_grammar_empty(g, read[i], to);
    }
}

/* A text with a pattern, a format or a length. */
static void bound_text(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    hs_grammar *g = b->g;
    const char *pattern = v->format ? schema_format_pattern(v->format) : v->pattern;
    bool lengths = v->min_length || v->max_length != UINT64_MAX;
    if (v->format && !pattern)
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "the format \"%.60s\" is not supported", v->format);
    else if (pattern && (lengths || (v->format && v->pattern)))
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "\"%s\" beside another bound of a text is not supported",
                    v->format ? "format" : "pattern");
    else if (pattern)
        hs_pattern_plain(g, from, pattern, strlen(pattern), to);
    if (failed(b) || pattern)
        return;
    bool open = v->max_length == UINT64_MAX;
    for (uint64_t i = 0; i < (open ? v->min_length : v->max_length) && !failed(b); i++) {
        uint32_t next = hs_grammar_node(g);
        if (i >= v->min_length)
            hs_grammar_empty(g, from, to);
        hs_grammar_characters(g, from, 1, 0x10FFFF, next);
        from = next;
    }
    if (open)
        hs_grammar_characters(g, from, 1, 0x10FFFF, from);
    hs_grammar_empty(g, from, to);
}

/* Of an enum or a const: texts as they are, the others as JSON. */
static void listed(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    size_t n = v->values ? hs_json_count(v->values) : 1, bytes, texts = 0;
    uint32_t root = hs_grammar_node(b->g);
    for (size_t i = 0; i < n; i++)
        texts += hs_json_type_of(v->values ? hs_json_at(v->values, i) : v->value) == HS_JSON_STRING;
    if (!texts) {
        schema_build_view(b, v, from, to);
        return;
    }
    if (texts < n) {
        schema_fail(b, HLWQ_ERR_UNSUPPORTED,
                    "an argument that may be one of several texts or something else is not supported");
        return;
    }
    hs_grammar_empty(b->g, from, root);
    for (size_t i = 0; i < n && !failed(b); i++) {
        const hs_json *value = v->values ? hs_json_at(v->values, i) : v->value;
        const char *text = hs_json_string(value, &bytes);
        uint32_t at = root;
        if (!schema_admits(b, v, value) || (v->value && !schema_same_value(v->value, value)))
            continue;
        for (size_t k = 0; k < bytes && !failed(b); k++)
            at = hs_grammar_branch(b->g, at, (uint8_t)text[k]);
        hs_grammar_empty(b->g, at, to);
    }
}

static void any_of(schema_build *b, argument *a, const hs_json *list, uint32_t from, uint32_t to);

/* *types: those that the value may have. */
static void build_value(schema_build *b, argument *a, const schema_view *v, unsigned *types, uint32_t from, uint32_t to)
{
    schema_view rest = *v, any;
    schema_view_init(&any);
    rest.branches = NULL;
    rest.one_of = false;
    *types = v->types;
    if (v->branches && memcmp(&rest, &any, sizeof any) == 0) {
        any_of(b, a, v->branches, from, to);
        *types = 0; /* it has looked itself */
    } else if (v->branches) {
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "\"%s\" beside other keywords is not supported for an argument",
                    v->one_of ? "oneOf" : "anyOf");
    } else if (v->values || v->value) {
        listed(b, v, from, to);
        *types = 0;
    } else if (memcmp(v, &any, sizeof any) == 0) {
        a->has_text = true;
        *types = SCHEMA_STRING;
    } else if (v->types & SCHEMA_STRING &&
               (v->types != SCHEMA_ALL || v->pattern || v->format || v->min_length || v->max_length != UINT64_MAX)) {
        bool bound = v->pattern || v->format || v->min_length || v->max_length != UINT64_MAX;
        *types = v->types == SCHEMA_ALL ? SCHEMA_STRING : v->types;
        if (bound)
            bound_text(b, v, from, to);
        else
            a->has_text = true;
        if (*types & SCHEMA_NULL)
            hs_grammar_text(b->g, from, "null", 4, to);
    } else {
        *types &= ~(unsigned)SCHEMA_STRING;
        schema_build_view(b, v, from, to);
    }
    if (*types & SCHEMA_STRING && *types & ~(unsigned)(SCHEMA_STRING | SCHEMA_NULL))
        schema_fail(b, HLWQ_ERR_UNSUPPORTED,
                    "an argument that may be a text or a value other than null is not supported");
}

static void any_of(schema_build *b, argument *a, const hs_json *list, uint32_t from, uint32_t to)
{
    unsigned all = 0, types;
    for (size_t i = 0; i < hs_json_count(list) && !failed(b); i++) {
        schema_view v;
        schema_view_init(&v);
        schema_absorb(b, &v, hs_json_at(list, i));
        if (failed(b))
            return;
        if (v.branches || v.values || v.value) {
            schema_fail(b, HLWQ_ERR_UNSUPPORTED,
                        "anyOf, enum and const within the anyOf of an argument are not supported");
            return;
        }
        build_value(b, a, &v, &types, from, to);
        all |= types;
    }
    if (all & SCHEMA_STRING && all & ~(unsigned)(SCHEMA_STRING | SCHEMA_NULL))
        schema_fail(b, HLWQ_ERR_UNSUPPORTED,
                    "an argument that may be a text or a value other than null is not supported");
}

static argument build_argument(schema_build *b, const schema_property *p)
{
    argument a = {.has_rule = true};
    schema_view v;
    unsigned types;
    size_t path = schema_enter(b, "properties"), inner = schema_enter(b, p->name);
    a.rule = hs_grammar_rule(b->g, "an argument");
    hs_grammar_build(b->g, a.rule);
    schema_view_init(&v);
    for (const schema_list *s = p->schemas; s; s = s->next)
        schema_absorb(b, &v, s->schema);
    if (strpbrk(p->name, "<>\n") || !*p->name)
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "an argument must have a name without \"<\", \">\" and line ends");
    uint32_t start = hs_grammar_start(b->g, a.rule), before = b->g->n_edges;
    if (!failed(b))
        build_value(b, &a, &v, &types, start, hs_grammar_end(b->g, a.rule));
    a.has_rule = b->g->n_edges > before;
    schema_leave(b, inner);
    schema_leave(b, path);
    return a;
}

/* ---- the call ---------------------------------------------------------------------------------- */

/* One parameter, from the line that it begins on to the next line; `name` reads its name. */
static void build_parameter(hs_grammar *g, uint32_t name, uint32_t named, const argument *a, uint32_t from, uint32_t to)
{
    uint32_t value = hs_grammar_node(g), after = hs_grammar_node(g);
    hs_grammar_text(g, from, PARAMETER, sizeof PARAMETER - 1, name);
    hs_grammar_text(g, named, ">\n", 2, value);
    if (a->has_rule)
        hs_grammar_call(g, value, a->rule, after);
    if (a->has_text)
        free_text(g, value, after);
    hs_grammar_text(g, after, "\n" PARAMETER_END "\n", sizeof "\n" PARAMETER_END "\n" - 1, to);
}

/* What follows the last parameter. */
static void build_end(hs_grammar *g, uint32_t from, uint32_t root)
{
    uint32_t last = hs_grammar_node(g);
    hs_grammar_text(g, from, FUNCTION_END, sizeof FUNCTION_END - 1, last);
    hs_grammar_empty(g, last, hs_grammar_end(g, root));
    hs_grammar_bytes(g, last, '\n', '\n', hs_grammar_end(g, root));
}

static void build_call(schema_build *b, const schema_view *v, const argument *list, uint32_t root)
{
    hs_grammar *g = b->g;
    hs_grammar_build(g, root);
    uint32_t at = hs_grammar_node(g), i = 0;
    hs_grammar_bytes(g, hs_grammar_start(g, root), '\n', '\n', at);
    for (const schema_property *p = v->properties; p && !failed(b); p = p->next, i++) {
        uint32_t name = hs_grammar_node(g), named = hs_grammar_node(g), next = hs_grammar_node(g);
        hs_grammar_text(g, name, p->name, strlen(p->name), named);
        build_parameter(g, name, named, &list[i], at, next);
        if (!p->required)
            hs_grammar_empty(g, at, next);
        at = next;
    }
    build_end(g, at, root);
}

void json_call_arguments(hs_grammar *g, const char *tool, const hs_json *schema, uint32_t root)
{
    schema_build b = {.g = g, .root = schema};
    schema_view v;
    uint32_t n = 0, first = g->n_edges;
    hs_arena_init(&b.arena, g->mem, HS_MEM_OTHER);
    snprintf(b.path, sizeof b.path, "%.128s#", tool);
    hs_json_rules_init(&b.rules, g);
    schema_view_init(&v);
    schema_absorb(&b, &v, schema);
    if (!failed(&b) && (!(v.types & SCHEMA_OBJECT) || v.branches || v.values || v.value))
        schema_fail(&b, HLWQ_ERR_UNSUPPORTED,
                    "the arguments of a call must be an object, without anyOf, oneOf, enum or const");
    for (const schema_property *p = v.properties; p; p = p->next)
        n++;
    argument *list = schema_alloc(&b, (n + 1) * sizeof *list);
    n = 0;
    for (const schema_property *p = v.properties; list && p && !failed(&b); p = p->next)
        list[n++] = build_argument(&b, p);
    schema_build_named(&b);
    leave_out(g, first, '<');
    leave_out(g, first, 0);
    if (!failed(&b))
        build_call(&b, &v, list, root);
    hs_arena_close(&b.arena);
}

void json_call_any(hs_grammar *g, uint32_t root)
{
    static const argument text = {.has_text = true};
    hs_grammar_build(g, root);
    uint32_t at = hs_grammar_node(g), name = hs_grammar_node(g), named = hs_grammar_node(g), from = name;
    hs_grammar_bytes(g, hs_grammar_start(g, root), '\n', '\n', at);
    for (int i = 0; i < NAME_CHARACTERS; i++) {
        uint32_t next = hs_grammar_node(g);
        hs_grammar_bytes(g, from, ' ', '<' - 1, next);
        hs_grammar_bytes(g, from, '=', '=', next);
        hs_grammar_bytes(g, from, '?', '~', next);
        hs_grammar_characters(g, from, 0xA0, 0x10FFFF, next);
        hs_grammar_empty(g, next, named);
        from = next;
    }
    build_parameter(g, name, named, &text, at, at);
    build_end(g, at, root);
}

void hs_json_call(hs_grammar *g, const hs_json *schema)
{
    json_call_arguments(g, "", schema, hs_grammar_rule(g, "the call"));
}
