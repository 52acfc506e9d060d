/*
 * model/json_schema_view.c - reads schemas, keyword by keyword.
 */
#include "model/json_schema_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64, COUNT_MAX = 1 << 20 };

/* ---- helpers --------------------------------------------------------------------------------- */

void schema_fail(schema_build *b, hlwq_status status, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    hs_grammar_fail(b->g, status, "JSON schema, %s: %s", b->path, text);
}

void *schema_alloc(schema_build *b, uint64_t bytes)
{
    void *p = NULL;
    if (b->g->status == HLWQ_OK)
        b->g->status = hs_arena_alloc(&b->arena, bytes, &p, b->g->err);
    return p;
}

size_t schema_enter(schema_build *b, const char *name)
{
    size_t before = strlen(b->path);
    snprintf(b->path + before, sizeof b->path - before, "/%.60s", name);
    return before;
}

void schema_leave(schema_build *b, size_t before)
{
    b->path[before] = 0;
}

static bool failed(const schema_build *b)
{
    return b->g->status != HLWQ_OK;
}

static void wrong(schema_build *b, const char *keyword, const char *wanted)
{
    schema_fail(b, HLWQ_ERR_ARG, "\"%s\" is not %s", keyword, wanted);
}

static void add_schema(schema_build *b, schema_list **list, const hs_json *schema)
{
    schema_list *s = schema_alloc(b, sizeof *s);
    if (!s)
        return;
    while (*list)
        list = &(*list)->next;
    *s = (schema_list){.schema = schema};
    *list = s;
}

void schema_view_init(schema_view *v)
{
    memset(v, 0, sizeof *v); /* padding too: views are compared */
    v->types = SCHEMA_ALL;
    v->max_length = v->max_items = UINT64_MAX;
}

unsigned schema_type_of(const hs_json *value)
{
    switch (hs_json_type_of(value)) {
    case HS_JSON_NULL: return SCHEMA_NULL;
    case HS_JSON_BOOL: return SCHEMA_BOOL;
    case HS_JSON_INTEGER: return SCHEMA_INTEGER;
    case HS_JSON_REAL: return SCHEMA_NUMBER;
    case HS_JSON_STRING: return SCHEMA_STRING;
    case HS_JSON_ARRAY: return SCHEMA_ARRAY;
    default: return SCHEMA_OBJECT;
    }
}

/* ---- keywords -------------------------------------------------------------------------------- */

static unsigned type_named(schema_build *b, const hs_json *node)
{
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {{"null", SCHEMA_NULL},     {"boolean", SCHEMA_BOOL}, {"integer", SCHEMA_INTEGER},
                 {"string", SCHEMA_STRING}, {"array", SCHEMA_ARRAY},  {"number", SCHEMA_INTEGER | SCHEMA_NUMBER},
                 {"object", SCHEMA_OBJECT}};
    const char *name = hs_json_type_of(node) == HS_JSON_STRING ? hs_json_string(node, NULL) : "";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0)
            return types[i].bits;
    if (*name)
        schema_fail(b, HLWQ_ERR_ARG, "\"type\" is \"%s\", which is none", name);
    else
        wrong(b, "type", "a type or a list of them");
    return 0;
}

static void take_type(schema_build *b, schema_view *v, const hs_json *node)
{
    unsigned bits = 0;
    if (hs_json_type_of(node) == HS_JSON_ARRAY)
        for (size_t i = 0; i < hs_json_count(node); i++)
            bits |= type_named(b, hs_json_at(node, i));
    else
        bits = type_named(b, node);
    v->types &= bits;
}

static void take_bound(schema_build *b, hs_bound *bound, const char *keyword, const hs_json *node, bool exclusive,
                       int sign)
{
    hs_bound other = {.set = true, .exclusive = exclusive};
    switch (hs_json_type_of(node)) {
    case HS_JSON_INTEGER:
        other.whole = true;
        other.integer = hs_json_int(node);
        break;
    case HS_JSON_REAL: other.real = hs_json_real(node); break;
    default: wrong(b, keyword, "a number"); return;
    }
    hs_bound_narrow(bound, &other, sign);
}

static uint64_t take_count(schema_build *b, const char *keyword, const hs_json *node)
{
    if (hs_json_type_of(node) != HS_JSON_INTEGER || hs_json_int(node) < 0)
        wrong(b, keyword, "a whole number of 0 or more");
    else if (hs_json_int(node) <= COUNT_MAX)
        return (uint64_t)hs_json_int(node);
    else
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "\"%s\" is %lld, limit %d", keyword, (long long)hs_json_int(node),
                    COUNT_MAX);
    return 0;
}

static const char *take_text(schema_build *b, const char *keyword, const hs_json *node, const char *before)
{
    size_t bytes;
    if (hs_json_type_of(node) != HS_JSON_STRING) {
        wrong(b, keyword, "a string");
        return NULL;
    }
    const char *text = hs_json_string(node, &bytes);
    if (strlen(text) != bytes)
        schema_fail(b, HLWQ_ERR_ARG, "\"%s\" holds a zero byte", keyword);
    if (before && strcmp(before, text) != 0)
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "two different \"%s\" for one value are not supported", keyword);
    return text;
}

static schema_property *find_property(const schema_view *v, const char *name)
{
    for (schema_property *p = v->properties; p; p = p->next)
        if (strcmp(p->name, name) == 0)
            return p;
    return NULL;
}

static schema_property *property(schema_build *b, schema_view *v, const char *name)
{
    schema_property *p = find_property(v, name);
    if (p || !(p = schema_alloc(b, sizeof *p)))
        return p;
    *p = (schema_property){.name = name};
    if (v->last_property)
        v->last_property->next = p;
    else
        v->properties = p;
    v->last_property = p;
    return p;
}

static void take_properties(schema_build *b, schema_view *v, const hs_json *node)
{
    if (hs_json_type_of(node) != HS_JSON_OBJECT) {
        wrong(b, "properties", "an object");
        return;
    }
    for (hs_json_iter *it = hs_json_first(node); it && !failed(b); it = hs_json_next(node, it)) {
        schema_property *p = property(b, v, hs_json_key(it, NULL));
        if (p)
            add_schema(b, &p->schemas, hs_json_value(it));
    }
}

static void take_required(schema_build *b, schema_view *v, const hs_json *node)
{
    if (hs_json_type_of(node) != HS_JSON_ARRAY) {
        wrong(b, "required", "a list of names");
        return;
    }
    for (size_t i = 0; i < hs_json_count(node) && !failed(b); i++) {
        const char *name = take_text(b, "required", hs_json_at(node, i), NULL);
        schema_property *p = name ? property(b, v, name) : NULL;
        if (p)
            p->required = true;
    }
}

static void take_prefix(schema_build *b, schema_view *v, const hs_json *node)
{
    size_t n = hs_json_count(node);
    if (hs_json_type_of(node) != HS_JSON_ARRAY || n > 64 || v->n_prefix) {
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "\"prefixItems\" is no list of at most 64, or the second one");
        return;
    }
    for (size_t i = 0; i < n; i++)
        add_schema(b, &v->prefix[i], hs_json_at(node, i));
    v->n_prefix = (uint32_t)n;
}

static void take_items(schema_build *b, schema_view *v, const hs_json *node)
{
    if (hs_json_type_of(node) == HS_JSON_ARRAY)
        take_prefix(b, v, node);
    else if (hs_json_type_of(node) == HS_JSON_BOOL && !hs_json_bool(node))
        v->no_more_items = true;
    else
        add_schema(b, &v->items, node);
}

static void take_branches(schema_build *b, schema_view *v, const char *keyword, const hs_json *node)
{
    if (hs_json_type_of(node) != HS_JSON_ARRAY || !hs_json_count(node))
        wrong(b, keyword, "a list of schemas");
    else if (v->branches)
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "\"%s\" beside another anyOf or oneOf for the same value is not supported",
                    keyword);
    v->branches = node;
    v->one_of = strcmp(keyword, "oneOf") == 0;
}

static void take_all_of(schema_build *b, schema_view *v, const hs_json *node)
{
    if (hs_json_type_of(node) != HS_JSON_ARRAY) {
        wrong(b, "allOf", "a list of schemas");
        return;
    }
    for (size_t i = 0; i < hs_json_count(node) && !failed(b); i++)
        schema_absorb(b, v, hs_json_at(node, i));
}

static void take_extra(schema_build *b, schema_view *v, const hs_json *node, const hs_json *listed)
{
    schema_extra *e = schema_alloc(b, sizeof *e);
    if (!e)
        return;
    if (hs_json_type_of(node) != HS_JSON_BOOL && hs_json_type_of(node) != HS_JSON_OBJECT)
        wrong(b, "additionalProperties", "a schema");
    *e = (schema_extra){.value = node, .listed = listed, .next = v->extras};
    v->extras = e;
}

static void take_values(schema_build *b, schema_view *v, const char *keyword, const hs_json *node)
{
    bool list = strcmp(keyword, "enum") == 0;
    if (list && hs_json_type_of(node) != HS_JSON_ARRAY)
        wrong(b, keyword, "a list of values");
    else if (list ? v->values != NULL : v->value && !schema_same_value(v->value, node))
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "two different \"%s\" for one value are not supported", keyword);
    if (list)
        v->values = node;
    else
        v->value = node;
}

typedef enum keyword {
    K_NOTE, /* says nothing about the value */
    K_TYPE,
    K_VALUES,
    K_MINIMUM,
    K_MAXIMUM,
    K_ABOVE,
    K_BELOW,
    K_MIN_LENGTH,
    K_MAX_LENGTH,
    K_PATTERN,
    K_FORMAT,
    K_ITEMS,
    K_PREFIX,
    K_MIN_ITEMS,
    K_MAX_ITEMS,
    K_UNIQUE,
    K_PROPERTIES,
    K_REQUIRED,
    K_EXTRA,
    K_BRANCHES,
    K_ALL_OF,
    K_REF,
} keyword;

typedef struct keyword_row {
    const char *name;
    keyword keyword;
} keyword_row;

static const keyword_row keywords[] = {
    /* in order */
    {"$comment", K_NOTE},
    {"$defs", K_NOTE},
    {"$id", K_NOTE},
    {"$ref", K_REF},
    {"$schema", K_NOTE},
    {"additionalItems", K_ITEMS},
    {"additionalProperties", K_EXTRA},
    {"allOf", K_ALL_OF},
    {"anyOf", K_BRANCHES},
    {"const", K_VALUES},
    {"default", K_NOTE},
    {"definitions", K_NOTE},
    {"deprecated", K_NOTE},
    {"description", K_NOTE},
    {"enum", K_VALUES},
    {"example", K_NOTE},
    {"examples", K_NOTE},
    {"exclusiveMaximum", K_BELOW},
    {"exclusiveMinimum", K_ABOVE},
    {"format", K_FORMAT},
    {"items", K_ITEMS},
    {"maxItems", K_MAX_ITEMS},
    {"maxLength", K_MAX_LENGTH},
    {"maximum", K_MAXIMUM},
    {"minItems", K_MIN_ITEMS},
    {"minLength", K_MIN_LENGTH},
    {"minimum", K_MINIMUM},
    {"oneOf", K_BRANCHES},
    {"pattern", K_PATTERN},
    {"prefixItems", K_PREFIX},
    {"properties", K_PROPERTIES},
    {"readOnly", K_NOTE},
    {"required", K_REQUIRED},
    {"title", K_NOTE},
    {"type", K_TYPE},
    {"uniqueItems", K_UNIQUE},
    {"writeOnly", K_NOTE},
};

static void more(uint64_t *at_least, uint64_t n)
{
    *at_least = n > *at_least ? n : *at_least;
}

static void less(uint64_t *at_most, uint64_t n)
{
    *at_most = n < *at_most ? n : *at_most;
}

static void take(schema_build *b, schema_view *v, const hs_json *schema, const char *name, keyword k,
                 const hs_json *node)
{
    const char *text;
    switch (k) {
    case K_NOTE: break;
    case K_TYPE: take_type(b, v, node); break;
    case K_VALUES: take_values(b, v, name, node); break;
    case K_MINIMUM: take_bound(b, &v->lo, name, node, false, 1); break;
    case K_MAXIMUM: take_bound(b, &v->hi, name, node, false, -1); break;
    case K_ABOVE: take_bound(b, &v->lo, name, node, true, 1); break;
    case K_BELOW: take_bound(b, &v->hi, name, node, true, -1); break;
    case K_MIN_LENGTH: more(&v->min_length, take_count(b, name, node)); break;
    case K_MAX_LENGTH: less(&v->max_length, take_count(b, name, node)); break;
    case K_MIN_ITEMS: more(&v->min_items, take_count(b, name, node)); break;
    case K_MAX_ITEMS: less(&v->max_items, take_count(b, name, node)); break;
    case K_PATTERN: v->pattern = take_text(b, name, node, v->pattern); break;
    case K_FORMAT: v->format = take_text(b, name, node, v->format); break;
    case K_ITEMS: take_items(b, v, node); break;
    case K_PREFIX: take_prefix(b, v, node); break;
    case K_UNIQUE:
        if (hs_json_type_of(node) != HS_JSON_BOOL || hs_json_bool(node))
            schema_fail(b, HLWQ_ERR_UNSUPPORTED, "the keyword \"uniqueItems\" is not supported");
        break;
    case K_PROPERTIES: break; /* was first, whatever the order of the keywords: it gives that of the text */
    case K_REQUIRED: take_required(b, v, node); break;
    case K_EXTRA: take_extra(b, v, node, hs_json_get(schema, "properties")); break;
    case K_BRANCHES: take_branches(b, v, name, node); break;
    case K_ALL_OF: take_all_of(b, v, node); break;
    case K_REF:
        text = take_text(b, name, node, NULL);
        if (text && !failed(b))
            schema_absorb(b, v, schema_target(b, text));
        break;
    }
}

static int by_name(const void *name, const void *row)
{
    return strcmp(name, *(const char *const *)row);
}

void schema_absorb(schema_build *b, schema_view *v, const hs_json *schema)
{
    if (failed(b))
        return;
    if (hs_json_type_of(schema) == HS_JSON_BOOL) {
        v->types = hs_json_bool(schema) ? v->types : 0;
        return;
    }
    if (hs_json_type_of(schema) != HS_JSON_OBJECT) {
        schema_fail(b, HLWQ_ERR_ARG, "a schema is an object, true or false, and this is none");
        return;
    }
    if (++b->depth > DEPTH_MAX)
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "schemas that refer to each other more than %d deep for one value",
                    DEPTH_MAX);
    if (hs_json_get(schema, "properties"))
        take_properties(b, v, hs_json_get(schema, "properties"));
    for (hs_json_iter *it = hs_json_first(schema); it && !failed(b); it = hs_json_next(schema, it)) {
        const char *name = hs_json_key(it, NULL);
        const keyword_row *row = bsearch(name, keywords, sizeof keywords / sizeof *keywords, sizeof *keywords, by_name);
        if (row)
            take(b, v, schema, name, row->keyword, hs_json_value(it));
        else
            schema_fail(b, HLWQ_ERR_UNSUPPORTED, "the keyword \"%.60s\" is not supported", name);
    }
    b->depth--;
}
