/*
 * model/json_schema.c - views into nodes and edges.
 */
#include "model/json_schema_private.h"

#include "base/text.h"
#include "model/pattern.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { VIEWS_MAX = 20000, NESTING_MAX = 200 };

static bool failed(const schema_build *b)
{
    return b->g->status != HLWQ_OK;
}

/* ---- several schemas at once ------------------------------------------------------------------ */

/* The rule of a schema that is referred to, built later. */
static uint32_t named_rule(schema_build *b, const hs_json *schema, const char *ref)
{
    for (uint32_t i = 0; i < b->n_named; i++)
        if (b->named[i].schema == schema)
            return b->named[i].rule;
    if (b->n_named == b->named_capacity) {
        uint32_t more = b->named_capacity ? 2 * b->named_capacity : 16;
        schema_rule *list = schema_alloc(b, more * sizeof *list);
        if (!list)
            return 0;
        if (b->n_named)
            memcpy(list, b->named, b->n_named * sizeof *list);
        b->named = list;
        b->named_capacity = more;
    }
    uint32_t rule = hs_grammar_rule(b->g, ref);
    b->named[b->n_named++] = (schema_rule){.schema = schema, .rule = rule, .path = ref};
    return rule;
}

/* All of `list` together; any value if there is none. */
void schema_build_list(schema_build *b, const schema_list *list, uint32_t from, uint32_t to)
{
    if (failed(b))
        return;
    const char *ref = list && !list->next ? schema_plain_ref(list->schema) : NULL;
    const hs_json *target = ref ? schema_target(b, ref) : NULL;
    if (ref) {
        if (target)
            hs_grammar_call(b->g, from, named_rule(b, target, ref), to);
        return;
    }
    if (++b->views > VIEWS_MAX || ++b->depth > NESTING_MAX) {
        schema_fail(b, HLWQ_ERR_BUDGET, "it has more than %d schemas in it, or more than %d below each other",
                    VIEWS_MAX, NESTING_MAX);
        return;
    }
    schema_view *v = schema_alloc(b, sizeof *v);
    if (!v)
        return;
    schema_view_init(v);
    uint32_t depth = b->depth;
    b->depth = 0;
    for (; list; list = list->next)
        schema_absorb(b, v, list->schema);
    b->depth = depth;
    schema_build_view(b, v, from, to);
    b->depth--;
}

/* ---- values that are listed -------------------------------------------------------------------- */

static void write_value(hs_text *out, const hs_json *value)
{
    size_t bytes;
    const char *separator = "";
    switch (hs_json_type_of(value)) {
    case HS_JSON_NULL: hs_text_format(out, "null"); break;
    case HS_JSON_BOOL: hs_text_format(out, hs_json_bool(value) ? "true" : "false"); break;
    case HS_JSON_INTEGER: hs_text_format(out, "%lld", (long long)hs_json_int(value)); break;
    case HS_JSON_REAL: hs_text_format(out, "%.17g", hs_json_real(value)); break;
    case HS_JSON_STRING: {
        const char *text = hs_json_string(value, &bytes);
        hs_text_json(out, text, bytes);
        break;
    }
    case HS_JSON_ARRAY:
        hs_text_format(out, "[");
        for (size_t i = 0; i < hs_json_count(value); i++, separator = ", ") {
            hs_text_format(out, "%s", separator);
            write_value(out, hs_json_at(value, i));
        }
        hs_text_format(out, "]");
        break;
    default:
        hs_text_format(out, "{");
        for (hs_json_iter *it = hs_json_first(value); it; it = hs_json_next(value, it), separator = ", ") {
            const char *key = hs_json_key(it, &bytes);
            hs_text_format(out, "%s", separator);
            hs_text_json(out, key, bytes);
            hs_text_format(out, ": ");
            write_value(out, hs_json_value(it));
        }
        hs_text_format(out, "}");
    }
}

/* From the root of a tree of texts to `to`, along `value`. */
static void add_value(schema_build *b, uint32_t root, const hs_json *value, uint32_t to)
{
    hs_text t = {0};
    write_value(&t, value);
    if (t.failed)
        schema_fail(b, HLWQ_ERR_NOMEM, "no memory for a value");
    uint32_t at = root;
    for (size_t i = 0; i < t.bytes && !failed(b); i++)
        at = hs_grammar_branch(b->g, at, (uint8_t)t.data[i]);
    hs_grammar_empty(b->g, at, to);
    hs_text_close(&t);
}

static void build_values(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    uint32_t root = hs_grammar_node(b->g);
    hs_grammar_empty(b->g, from, root);
    for (size_t i = 0; i < (v->values ? hs_json_count(v->values) : 1) && !failed(b); i++) {
        const hs_json *value = v->values ? hs_json_at(v->values, i) : v->value;
        if (schema_admits(b, v, value) && (!v->value || schema_same_value(v->value, value)))
            add_value(b, root, value, to);
    }
}

/* ---- alternatives ------------------------------------------------------------------------------ */

static void build_branches(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    const hs_json *list = v->branches;
    schema_view alone;
    schema_view_init(&alone);
    alone.branches = list;
    alone.one_of = v->one_of;
    bool only = memcmp(&alone, v, sizeof alone) == 0;
    size_t n = hs_json_count(list);
    for (size_t i = 0; v->one_of && i < n; i++)
        for (size_t k = 0; k < i && !failed(b); k++)
            if (!schema_disjoint(b, hs_json_at(list, i), hs_json_at(list, k)))
                schema_fail(b, HLWQ_ERR_UNSUPPORTED,
                            "\"oneOf\" whose schemas %zu and %zu may both hold is not supported; anyOf is, or a "
                            "required property with another const in each",
                            k, i);
    for (size_t i = 0; i < n && !failed(b); i++) {
        schema_list one = {.schema = hs_json_at(list, i)};
        uint32_t start = hs_grammar_node(b->g);
        hs_grammar_empty(b->g, from, start);
        if (only) {
            schema_build_list(b, &one, start, to);
            continue;
        }
        schema_view *both = schema_alloc(b, sizeof *both);
        if (!both)
            return;
        *both = *v;
        both->branches = NULL;
        /* Properties are changed by what is absorbed, so each branch has its own. */
        both->properties = both->last_property = NULL;
        for (const schema_property *p = v->properties; p; p = p->next) {
            schema_property *copy = schema_alloc(b, sizeof *copy);
            if (!copy)
                return;
            *copy = (schema_property){.name = p->name, .required = p->required};
            schema_list **end = &copy->schemas;
            for (const schema_list *s = p->schemas; s; s = s->next, end = &(*end)->next) {
                *end = schema_alloc(b, sizeof **end);
                if (!*end)
                    return;
                (*end)->schema = s->schema;
            }
            *(both->last_property ? &both->last_property->next : &both->properties) = copy;
            both->last_property = copy;
        }
        if (++b->views > VIEWS_MAX)
            schema_fail(b, HLWQ_ERR_BUDGET, "it has more than %d schemas in it", VIEWS_MAX);
        schema_absorb(b, both, one.schema);
        schema_build_view(b, both, start, to);
    }
}

/* ---- strings ----------------------------------------------------------------------------------- */

static void build_string(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    const char *pattern = v->pattern;
    if (v->format) {
        const char *known = schema_format_pattern(v->format);
        if (!known)
            schema_fail(b, HLWQ_ERR_UNSUPPORTED, "the format \"%.60s\" is not supported", v->format);
        else if (pattern)
            schema_fail(b, HLWQ_ERR_UNSUPPORTED, "\"pattern\" beside \"format\" is not supported");
        pattern = known;
    }
    if (!pattern) {
        int64_t max = v->max_length == UINT64_MAX ? HS_JSON_ANY_LENGTH : (int64_t)v->max_length;
        if (max == HS_JSON_ANY_LENGTH || v->min_length <= v->max_length)
            hs_json_string_of(&b->rules, from, (int64_t)v->min_length, max, to);
        return;
    }
    if (v->min_length || v->max_length != UINT64_MAX) {
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "\"%s\" beside \"%s\" is not supported",
                    v->min_length ? "minLength" : "maxLength", v->format ? "format" : "pattern");
        return;
    }
    if (failed(b))
        return;
    uint32_t rule = hs_grammar_rule(b->g, "a string of a pattern"), before = hs_grammar_build(b->g, rule);
    uint32_t inside = hs_grammar_node(b->g), end = hs_grammar_node(b->g);
    hs_grammar_bytes(b->g, hs_grammar_start(b->g, rule), '"', '"', inside);
    hs_pattern(&b->rules, inside, pattern, strlen(pattern), end);
    hs_grammar_bytes(b->g, end, '"', '"', hs_grammar_end(b->g, rule));
    hs_grammar_build(b->g, before);
    hs_grammar_call(b->g, from, rule, to);
}

/* ---- arrays ------------------------------------------------------------------------------------ */

/* A rule for the items after the prefix, so that each is one call however many there are. */
static uint32_t item_rule(schema_build *b, const schema_view *v)
{
    uint32_t rule = hs_grammar_rule(b->g, "an item"), before = hs_grammar_build(b->g, rule);
    size_t path = schema_enter(b, "items");
    schema_build_list(b, v->items, hs_grammar_start(b->g, rule), hs_grammar_end(b->g, rule));
    schema_leave(b, path);
    hs_grammar_build(b->g, before);
    return rule;
}

static void build_array(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    hs_grammar *g = b->g;
    uint64_t max = v->no_more_items && v->n_prefix < v->max_items ? v->n_prefix : v->max_items;
    uint64_t min = v->min_items, n = max;
    uint32_t at = hs_grammar_node(g), rule = 0;
    if (min > max)
        return;
    if (max == UINT64_MAX) {
        n = min > v->n_prefix ? min : v->n_prefix;
        n = n ? n : 1;
    }
    if (n > v->n_prefix || max == UINT64_MAX)
        rule = item_rule(b, v);
    hs_json_open(&b->rules, from, '[', at);
    if (min == 0)
        hs_grammar_bytes(g, at, ']', ']', to);
    for (uint64_t i = 0; i < n && !failed(b); i++) {
        uint32_t item = at, after = hs_grammar_node(g);
        if (i) {
            item = hs_grammar_node(g);
            hs_json_open(&b->rules, at, ',', item);
        }
        if (i < v->n_prefix) {
            size_t path = schema_enter(b, "prefixItems");
            schema_build_list(b, v->prefix[i], item, after);
            schema_leave(b, path);
        } else {
            hs_grammar_call(g, item, rule, after);
        }
        if (i + 1 >= min)
            hs_json_shut(&b->rules, after, ']', to);
        at = after;
    }
    if (max == UINT64_MAX && !failed(b)) {
        uint32_t item = hs_grammar_node(g);
        hs_json_open(&b->rules, at, ',', item);
        hs_grammar_call(g, item, rule, at);
    }
}

/* ---- objects ----------------------------------------------------------------------------------- */

/* What the additionalProperties of others ask of a property; false if one forbids it. */
static bool extras_allow(schema_build *b, const schema_view *v, const char *name, schema_list **list)
{
    for (const schema_extra *e = v->extras; e; e = e->next) {
        if (name && hs_json_get(e->listed, name))
            continue;
        if (hs_json_type_of(e->value) == HS_JSON_BOOL) {
            if (!hs_json_bool(e->value))
                return false;
            continue;
        }
        schema_list *s = schema_alloc(b, sizeof *s);
        if (!s)
            return false;
        *s = (schema_list){.schema = e->value, .next = *list};
        *list = s;
    }
    return true;
}

/* Names that are none of the properties: plain characters, off the tree of their names at some byte. */
static void build_other_name(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    hs_grammar *g = b->g;
    uint32_t root = hs_grammar_node(g), free_tail = hs_grammar_node(g), first = g->n_nodes - 2;
    hs_grammar_bytes(g, from, '"', '"', root);
    for (const schema_property *p = v->properties; p; p = p->next) {
        uint32_t at = root;
        hs_text t = {0};
        hs_text_json(&t, p->name, strlen(p->name));
        for (size_t i = 1; i + 1 < t.bytes && !failed(b); i++)
            at = hs_grammar_branch(g, at, (uint8_t)t.data[i]);
        hs_text_close(&t);
        if (!failed(b)) /* the name itself: its node is marked by an edge that leads nowhere */
            hs_grammar_empty(g, at, hs_grammar_node(g));
    }
    uint32_t last = g->n_nodes;
    for (uint32_t node = first; node < last && !failed(b); node++) {
        bool taken[256] = {false}, is_name = false, in_tree = node == root || node == free_tail;
        for (uint32_t i = g->node[node].edges; i; i = g->edge[i].next) {
            taken[g->edge[i].lo] |= g->edge[i].kind == HS_EDGE_BYTES;
            is_name |= g->edge[i].kind == HS_EDGE_EMPTY;
            in_tree = true;
        }
        if (!in_tree)
            continue;
        taken['"'] = taken['\\'] = taken[0x7F] = true;
        for (unsigned c = ' ', begin = ' '; c <= 0x7F; c++)
            if (taken[c]) {
                if (begin < c)
                    hs_grammar_bytes(g, node, (uint8_t)begin, (uint8_t)(c - 1), free_tail);
                begin = c + 1;
            }
        if (!is_name && node != root)
            hs_grammar_bytes(g, node, '"', '"', to);
    }
}

static void build_property(schema_build *b, const schema_property *p, schema_list *extra, uint32_t from, uint32_t to)
{
    hs_grammar *g = b->g;
    uint32_t colon = hs_grammar_node(g), value = hs_grammar_node(g);
    hs_text t = {0};
    hs_text_json(&t, p->name, strlen(p->name));
    if (t.failed)
        schema_fail(b, HLWQ_ERR_NOMEM, "no memory for a name");
    else
        hs_grammar_text(g, from, t.data, t.bytes, colon);
    hs_text_close(&t);
    hs_json_open(&b->rules, colon, ':', value);
    schema_list **end = &extra;
    while (*end)
        end = &(*end)->next;
    *end = p->schemas;
    size_t path = schema_enter(b, "properties"), inner = schema_enter(b, p->name);
    schema_build_list(b, extra, value, to);
    schema_leave(b, inner);
    schema_leave(b, path);
}

/*
 * Two chains through the properties: nothing written yet, and something written, so that a comma is due.  Where a
 * property may be left out, an edge leads past it.
 */
static void build_object(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    hs_grammar *g = b->g;
    uint32_t none = hs_grammar_node(g), some = 0;
    hs_json_open(&b->rules, from, '{', none);
    for (const schema_property *p = v->properties; p && !failed(b); p = p->next) {
        schema_list *extra = NULL;
        uint32_t next_none = hs_grammar_node(g), next_some = hs_grammar_node(g), start = hs_grammar_node(g);
        if (extras_allow(b, v, p->name, &extra))
            build_property(b, p, extra, start, next_some);
        hs_grammar_empty(g, none, start);
        if (some)
            hs_json_open(&b->rules, some, ',', start);
        if (!p->required) {
            hs_grammar_empty(g, none, next_none);
            if (some)
                hs_grammar_empty(g, some, next_some);
        }
        none = next_none;
        some = next_some;
    }
    schema_list *extra = NULL;
    bool open = (v->extras || !v->properties) && extras_allow(b, v, NULL, &extra);
    if (open && !failed(b)) {
        uint32_t name = hs_grammar_node(g), colon = hs_grammar_node(g), value = hs_grammar_node(g);
        some = some ? some : hs_grammar_node(g);
        hs_grammar_empty(g, none, name);
        hs_json_open(&b->rules, some, ',', name);
        build_other_name(b, v, name, colon);
        hs_json_open(&b->rules, colon, ':', value);
        size_t path = schema_enter(b, "additionalProperties");
        schema_build_list(b, extra, value, some);
        schema_leave(b, path);
    }
    hs_grammar_bytes(g, none, '}', '}', to);
    if (some)
        hs_json_shut(&b->rules, some, '}', to);
}

/* Keywords for one type of value, and no type: what they are for is meant. */
static unsigned implied_types(const schema_view *v)
{
    if (v->properties || v->extras)
        return SCHEMA_OBJECT;
    if (v->items || v->n_prefix || v->min_items || v->max_items != UINT64_MAX || v->no_more_items)
        return SCHEMA_ARRAY;
    if (v->pattern || v->format || v->min_length || v->max_length != UINT64_MAX)
        return SCHEMA_STRING;
    return SCHEMA_NUMBER | SCHEMA_INTEGER;
}

/* ---- all of it --------------------------------------------------------------------------------- */

void schema_build_view(schema_build *b, const schema_view *v, uint32_t from, uint32_t to)
{
    hs_grammar *g = b->g;
    schema_view any;
    schema_view_init(&any);
    if (failed(b))
        return;
    if (v->values || v->value) {
        build_values(b, v, from, to);
        return;
    }
    if (v->branches) {
        build_branches(b, v, from, to);
        return;
    }
    if (memcmp(v, &any, sizeof any) == 0) {
        hs_json_any(&b->rules);
        hs_grammar_call(g, from, b->rules.value, to);
        return;
    }
    unsigned types = v->types == SCHEMA_ALL ? implied_types(v) : v->types;
    if (types & SCHEMA_NULL)
        hs_grammar_text(g, from, "null", 4, to);
    if (types & SCHEMA_BOOL) {
        hs_grammar_text(g, from, "true", 4, to);
        hs_grammar_text(g, from, "false", 5, to);
    }
    if (types & SCHEMA_NUMBER && !v->lo.set && !v->hi.set)
        hs_grammar_call(g, from, b->rules.number, to);
    else if (types & (SCHEMA_NUMBER | SCHEMA_INTEGER))
        hs_json_number_range(g, from, &v->lo, &v->hi, !(types & SCHEMA_NUMBER), to);
    if (types & SCHEMA_STRING)
        build_string(b, v, from, to);
    if (types & SCHEMA_ARRAY)
        build_array(b, v, from, to);
    if (types & SCHEMA_OBJECT)
        build_object(b, v, from, to);
}

void schema_build_named(schema_build *b)
{
    for (; b->n_built < b->n_named && !failed(b); b->n_built++) {
        const schema_rule *r = &b->named[b->n_built];
        schema_list one = {.schema = r->schema};
        uint32_t rule = r->rule;
        snprintf(b->path, sizeof b->path, "%.100s", r->path);
        hs_grammar_build(b->g, rule);
        schema_build_list(b, &one, hs_grammar_start(b->g, rule), hs_grammar_end(b->g, rule));
    }
}

void hs_json_schema(hs_grammar *g, const hs_json *schema)
{
    schema_build b = {.g = g, .root = schema, .path = "#"};
    hs_arena_init(&b.arena, g->mem, HS_MEM_OTHER);
    uint32_t root = hs_grammar_rule(g, "the schema");
    hs_json_rules_init(&b.rules, g);
    hs_grammar_build(g, root);
    schema_list all = {.schema = schema};
    schema_build_list(&b, &all, hs_grammar_start(g, root), hs_grammar_end(g, root));
    schema_build_named(&b);
    hs_arena_close(&b.arena);
}

void hs_json_object(hs_grammar *g)
{
    hs_json_rules rules;
    uint32_t root = hs_grammar_rule(g, "a JSON object");
    hs_json_rules_init(&rules, g);
    hs_json_any(&rules);
    hs_grammar_build(g, root);
    hs_grammar_call(g, hs_grammar_start(g, root), rules.object, hs_grammar_end(g, root));
}
