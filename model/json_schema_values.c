/*
 * model/json_schema_values.c - what a schema refers to, and what can be said of values without a grammar.
 */
#include "model/json_schema_private.h"

#include <stdio.h>
#include <string.h>

/* ---- references ------------------------------------------------------------------------------ */

/* One step of a JSON pointer, "~1" for / and "~0" for ~. */
static const hs_json *pointer_step(const hs_json *node, const char *step, size_t bytes)
{
    char name[256];
    size_t n = 0, index = 0;
    bool number = bytes > 0;
    for (size_t i = 0; i < bytes && n + 1 < sizeof name; i++) {
        char c = step[i];
        if (c == '~' && i + 1 < bytes && (step[i + 1] == '0' || step[i + 1] == '1'))
            c = step[++i] == '0' ? '~' : '/';
        number = number && c >= '0' && c <= '9' && index < 100000;
        index = 10 * index + (size_t)(c - '0');
        name[n++] = c;
    }
    name[n] = 0;
    if (n + 1 == sizeof name)
        return NULL;
    if (hs_json_type_of(node) == HS_JSON_ARRAY)
        return number ? hs_json_at(node, index) : NULL;
    return hs_json_type_of(node) == HS_JSON_OBJECT ? hs_json_get(node, name) : NULL;
}

const hs_json *schema_target(schema_build *b, const char *ref)
{
    const hs_json *node = b->root;
    if (*ref != '#' || (ref[1] && ref[1] != '/')) {
        schema_fail(b, HLWQ_ERR_UNSUPPORTED,
                    "\"$ref\" to \"%.100s\" is not supported: only those within the schema are", ref);
        return NULL;
    }
    for (const char *p = ref + 1; *p && node;) {
        size_t n = strcspn(p + 1, "/");
        node = pointer_step(node, p + 1, n);
        p += 1 + n;
    }
    if (!node)
        schema_fail(b, HLWQ_ERR_ARG, "\"$ref\" to \"%.100s\", which is not there", ref);
    return node;
}

const char *schema_plain_ref(const hs_json *schema)
{
    const hs_json *ref = hs_json_get(schema, "$ref");
    static const char *const notes[] = {"$ref", "title", "description", "default", "$comment", "$defs", "definitions"};
    size_t known = 0;
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++)
        known += hs_json_get(schema, notes[i]) != NULL;
    return hs_json_type_of(ref) == HS_JSON_STRING && known == hs_json_count(schema) ? hs_json_string(ref, NULL) : NULL;
}

/* ---- values ---------------------------------------------------------------------------------- */

bool schema_same_value(const hs_json *x, const hs_json *y)
{
    hs_json_type type = hs_json_type_of(x), other = hs_json_type_of(y);
    size_t n, m;
    if ((type == HS_JSON_REAL || other == HS_JSON_REAL) && (type == HS_JSON_INTEGER || other == HS_JSON_INTEGER))
        return hs_json_real(x) == hs_json_real(y);
    if (type != other)
        return false;
    switch (type) {
    case HS_JSON_BOOL: return hs_json_bool(x) == hs_json_bool(y);
    case HS_JSON_INTEGER: return hs_json_int(x) == hs_json_int(y);
    case HS_JSON_REAL: return hs_json_real(x) == hs_json_real(y);
    case HS_JSON_STRING:
        hs_json_string(x, &n);
        hs_json_string(y, &m);
        return n == m && memcmp(hs_json_string(x, NULL), hs_json_string(y, NULL), n) == 0;
    case HS_JSON_ARRAY:
        for (size_t i = 0; i < hs_json_count(x); i++)
            if (hs_json_count(x) != hs_json_count(y) || !schema_same_value(hs_json_at(x, i), hs_json_at(y, i)))
                return false;
        return hs_json_count(x) == hs_json_count(y);
    case HS_JSON_OBJECT:
        for (hs_json_iter *it = hs_json_first(x); it; it = hs_json_next(x, it)) {
            const hs_json *there = hs_json_get(y, hs_json_key(it, NULL));
            if (!there || !schema_same_value(hs_json_value(it), there))
                return false;
        }
        return hs_json_count(x) == hs_json_count(y);
    default: return true;
    }
}

static uint64_t characters(const hs_json *string)
{
    size_t bytes;
    const char *text = hs_json_string(string, &bytes);
    uint64_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += (text[i] & 0xC0) != 0x80;
    return n;
}

bool schema_admits(schema_build *b, const schema_view *v, const hs_json *value)
{
    unsigned type = schema_type_of(value);
    double real = type & (SCHEMA_INTEGER | SCHEMA_NUMBER) ? hs_json_real(value) : 0;
    if (type == SCHEMA_NUMBER && real == (double)(int64_t)real)
        type = SCHEMA_NUMBER | SCHEMA_INTEGER; /* 1.0 is whole */
    if (!(type & v->types))
        return false;
    bool unseen = (type == SCHEMA_STRING && (v->pattern || v->format)) ||
                  (type == SCHEMA_OBJECT && (v->properties || v->extras)) ||
                  (type == SCHEMA_ARRAY && (v->items || v->n_prefix || v->no_more_items));
    if (unseen || v->branches)
        schema_fail(b, HLWQ_ERR_UNSUPPORTED, "enum or const beside keywords that would have to be tried on its values");
    if (type & (SCHEMA_INTEGER | SCHEMA_NUMBER)) {
        double lo = hs_bound_real(&v->lo), hi = hs_bound_real(&v->hi);
        return (!v->lo.set || real > lo || (real == lo && !v->lo.exclusive)) &&
               (!v->hi.set || real < hi || (real == hi && !v->hi.exclusive));
    }
    if (type == SCHEMA_STRING)
        return characters(value) >= v->min_length && characters(value) <= v->max_length;
    if (type == SCHEMA_ARRAY)
        return hs_json_count(value) >= v->min_items && hs_json_count(value) <= v->max_items;
    return true;
}

/* ---- oneOf ----------------------------------------------------------------------------------- */

/* All values of an enum or const, as a list of n from *list or *one. */
static size_t listed_values(const hs_json *schema, const hs_json **list, const hs_json **one)
{
    *list = hs_json_get(schema, "enum");
    *one = hs_json_get(schema, "const");
    if (*one)
        return 1;
    return hs_json_type_of(*list) == HS_JSON_ARRAY ? hs_json_count(*list) : 0;
}

static unsigned type_bits(const hs_json *schema)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    const hs_json *type = hs_json_get(schema, "type"), *list, *one;
    unsigned bits = 0;
    size_t n = listed_values(schema, &list, &one);
    for (size_t i = 0; i < n; i++)
        bits |= schema_type_of(one ? one : hs_json_at(list, i));
    if (!n && type) {
        bool many = hs_json_type_of(type) == HS_JSON_ARRAY;
        for (size_t i = 0; i < (many ? hs_json_count(type) : 1); i++) {
            const hs_json *t = many ? hs_json_at(type, i) : type;
            for (unsigned k = 0; k < 7; k++)
                if (hs_json_type_of(t) == HS_JSON_STRING && strcmp(hs_json_string(t, NULL), names[k]) == 0)
                    bits |= 1u << k;
        }
    }
    if (bits & (SCHEMA_INTEGER | SCHEMA_NUMBER))
        bits |= SCHEMA_INTEGER | SCHEMA_NUMBER; /* 1.0 is both */
    return bits ? bits : SCHEMA_ALL;
}

static bool requires(const hs_json *schema, const char *name)
{
    const hs_json *list = hs_json_get(schema, "required");
    for (size_t i = 0; i < hs_json_count(list); i++)
        if (hs_json_type_of(hs_json_at(list, i)) == HS_JSON_STRING &&
            strcmp(hs_json_string(hs_json_at(list, i), NULL), name) == 0)
            return true;
    return false;
}

static bool closed(const hs_json *schema)
{
    const hs_json *extra = hs_json_get(schema, "additionalProperties");
    return hs_json_type_of(extra) == HS_JSON_BOOL && !hs_json_bool(extra);
}

/* x requires a property that y rules out, or one that both have and no value fits. */
static bool property_disjoint(schema_build *b, const hs_json *x, const hs_json *y)
{
    const hs_json *required = hs_json_get(x, "required"), *mine = hs_json_get(x, "properties");
    const hs_json *theirs = hs_json_get(y, "properties");
    for (size_t i = 0; i < hs_json_count(required); i++) {
        const hs_json *node = hs_json_at(required, i);
        if (hs_json_type_of(node) != HS_JSON_STRING)
            continue;
        const char *name = hs_json_string(node, NULL);
        const hs_json *a = hs_json_get(mine, name), *c = hs_json_get(theirs, name);
        if ((!c && closed(y)) || (a && c && requires(y, name) && schema_disjoint(b, a, c)))
            return true;
    }
    return false;
}

bool schema_disjoint(schema_build *b, const hs_json *x, const hs_json *y)
{
    const hs_json *x_list, *x_one, *y_list, *y_one;
    bool no = true;
    if (b->g->status != HLWQ_OK || b->depth > 16)
        return false;
    b->depth++;
    const char *x_ref = schema_plain_ref(x), *y_ref = schema_plain_ref(y);
    x = x_ref ? schema_target(b, x_ref) : x;
    y = y_ref ? schema_target(b, y_ref) : y;
    size_t n = listed_values(x, &x_list, &x_one), m = listed_values(y, &y_list, &y_one);
    if (type_bits(x) & type_bits(y)) {
        for (size_t i = 0; i < n && no; i++)
            for (size_t k = 0; k < m && no; k++)
                no = !schema_same_value(x_one ? x_one : hs_json_at(x_list, i), y_one ? y_one : hs_json_at(y_list, k));
        if (!n || !m)
            no = (type_bits(x) | type_bits(y)) == SCHEMA_OBJECT &&
                 (property_disjoint(b, x, y) || property_disjoint(b, y, x));
    }
    b->depth--;
    return no;
}

/* ---- formats --------------------------------------------------------------------------------- */

#define DAY                                                                                                            \
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
#define TIME "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?"
#define BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

const char *schema_format_pattern(const char *format)
{
    static const struct {
        const char *name, *pattern;
    } formats[] = {
        {"date", "^[1-9][0-9]{3}-" DAY "$"},
        {"date-time", "^[1-9][0-9]{3}-" DAY "T" TIME "$"},
        {"time", "^" TIME "$"},
        {"duration", "^P(?:[0-9]{1,4}D(?:T[0-9]{1,4}[HMS])?|T[0-9]{1,4}[HMS]|[0-9]{1,4}[YMW])$"},
        {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"},
        {"ipv4", "^" BYTE "\\." BYTE "\\." BYTE "\\." BYTE "$"},
        {"hostname", "^" LABEL "(?:\\." LABEL "){1,4}$"},
        {"email", "^[A-Za-z0-9_+-]{1,30}(?:\\.[A-Za-z0-9_+-]{1,30}){0,3}@" LABEL "(?:\\." LABEL "){1,4}$"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, format) == 0)
            return formats[i].pattern;
    return NULL;
}
