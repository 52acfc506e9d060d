/*
 * tests/support/json_check.h - JSON and JSON Schema once more, small and independent of the program's own: a judge for
 * what constraints let through.  Knows the keywords that docs/constraints.md lists, and nothing of how they are kept.
 */
#ifndef HS_TESTS_JSON_CHECK_H
#define HS_TESTS_JSON_CHECK_H

#include <math.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct jc {
    char type; /* n b # " [ { */
    bool flag, whole;
    double number;
    char *text, *key;
    struct jc *first, *next; /* children; the next one of the same parent */
    size_t n;
} jc;

typedef struct jc_reader {
    const char *p;
    bool bad;
    int depth;
} jc_reader;

static void jc_free(jc *v)
{
    while (v) {
        jc *next = v->next;
        jc_free(v->first);
        free(v->text);
        free(v->key);
        free(v);
        v = next;
    }
}

static void jc_blank(jc_reader *r)
{
    r->p += strspn(r->p, " \t\r\n");
}

static bool jc_take(jc_reader *r, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(r->p, word, n) != 0)
        return false;
    r->p += n;
    return true;
}

static int jc_utf8(char *out, unsigned c)
{
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(n == 1 ? c : (0xF00u >> n & 0xFF) | c);
    return n;
}

static char *jc_string(jc_reader *r)
{
    char *out = malloc(strlen(r->p) + 1);
    size_t n = 0;
    if (*r->p++ != '"')
        r->bad = true;
    while (!r->bad && *r->p != '"') {
        unsigned char c = (unsigned char)*r->p++;
        if (c < 32) {
            r->bad = true; /* the end, or a control character */
        } else if (c != '\\') {
            out[n++] = (char)c;
        } else {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            const char *at = *r->p ? strchr(from, *r->p) : NULL;
            unsigned code;
            int used = 0;
            if (at) {
                out[n++] = to[at - from];
                r->p++;
            } else if (*r->p == 'u' && sscanf(r->p + 1, "%4x%n", &code, &used) == 1 && used == 4) {
                n += (size_t)jc_utf8(out + n, code);
                r->p += 5;
                r->bad |= code >= 0xD800 && code < 0xE000;
            } else {
                r->bad = true;
            }
        }
    }
    r->p += !r->bad;
    out[n] = 0;
    for (size_t i = 0; i < n && !r->bad;) { /* UTF-8 */
        unsigned char c = (unsigned char)out[i];
        size_t len = c < 0x80                ? 1
                     : c >= 0xC2 && c < 0xE0 ? 2
                     : c >= 0xE0 && c < 0xF0 ? 3
                     : c >= 0xF0 && c < 0xF5 ? 4
                                             : 0;
        for (size_t k = 1; k < len; k++)
            len = ((unsigned char)out[i + k] & 0xC0) == 0x80 ? len : 0;
        r->bad =
            !len || (c == 0xE0 && (unsigned char)out[i + 1] < 0xA0) || (c == 0xED && (unsigned char)out[i + 1] > 0x9F);
        i += len;
    }
    return out;
}

static jc *jc_value(jc_reader *r)
{
    jc *v = calloc(1, sizeof *v), **end = &v->first;
    char open = *r->p;
    if (++r->depth > 200)
        r->bad = true;
    if (r->bad)
        return v;
    if (jc_take(r, "null")) {
        v->type = 'n';
    } else if (jc_take(r, "true")) {
        v->type = 'b';
        v->flag = true;
    } else if (jc_take(r, "false")) {
        v->type = 'b';
    } else if (open == '"') {
        v->type = '"';
        v->text = jc_string(r);
    } else if (open == '[' || open == '{') {
        v->type = open;
        r->p++;
        jc_blank(r);
        for (bool more = *r->p != open + 2; more && !r->bad;) {
            char *key = NULL;
            if (open == '{') {
                key = jc_string(r);
                jc_blank(r);
                r->bad |= !jc_take(r, ":");
                jc_blank(r);
            }
            *end = jc_value(r);
            (*end)->key = key;
            end = &(*end)->next;
            v->n++;
            jc_blank(r);
            more = jc_take(r, ",");
            jc_blank(r);
        }
        r->bad |= *r->p++ != open + 2;
    } else {
        size_t n = strspn(r->p, "+-.eE0123456789");
        const char *d = r->p + (*r->p == '-');
        char *stop;
        v->type = '#';
        v->number = strtod(r->p, &stop);
        r->bad |= !n || stop != r->p + n || *d < '0' || *d > '9' || (*d == '0' && d[1] >= '0' && d[1] <= '9') ||
                  r->p[n - 1] == '.' || !isfinite(v->number);
        v->whole = v->number == floor(v->number);
        r->p += n;
    }
    r->depth--;
    return v;
}

/* NULL if it is not JSON. */
static jc *jc_parse(const char *text)
{
    jc_reader r = {.p = text};
    jc_blank(&r);
    jc *v = jc_value(&r);
    jc_blank(&r);
    if (!r.bad && !*r.p)
        return v;
    jc_free(v);
    return NULL;
}

static const jc *jc_get(const jc *object, const char *key)
{
    for (const jc *v = object && object->type == '{' ? object->first : NULL; v; v = v->next)
        if (strcmp(v->key, key) == 0)
            return v;
    return NULL;
}

static bool jc_equal(const jc *a, const jc *b)
{
    if (a->type != b->type || a->n != b->n || a->flag != b->flag || a->number != b->number)
        return false;
    if (a->type == '"')
        return strcmp(a->text, b->text) == 0;
    const jc *y = b->first;
    for (const jc *x = a->first; x; x = x->next, y = y ? y->next : NULL) {
        const jc *other = a->type == '{' ? jc_get(b, x->key) : y;
        if (!other || !jc_equal(x, other))
            return false;
    }
    return true;
}

static bool jc_is(const jc *v, const char *type)
{
    if (strcmp(type, "integer") == 0)
        return v->type == '#' && v->whole;
    return strcmp(type, v->type == 'n'   ? "null"
                        : v->type == 'b' ? "boolean"
                        : v->type == '#' ? "number"
                        : v->type == '"' ? "string"
                        : v->type == '[' ? "array"
                                         : "object") == 0;
}

static double jc_number(const jc *schema, const char *key, double fallback)
{
    const jc *v = jc_get(schema, key);
    return v ? v->number : fallback;
}

static bool jc_valid(const jc *root, const jc *schema, const jc *v);

static int jc_count_valid(const jc *root, const jc *list, const jc *v)
{
    int n = 0;
    for (const jc *s = list->first; s; s = s->next)
        n += jc_valid(root, s, v);
    return n;
}

static bool jc_valid_string(const jc *schema, const char *text)
{
    const jc *pattern = jc_get(schema, "pattern");
    double n = 0;
    bool ok = true;
    for (const char *p = text; *p; p++)
        n += (*p & 0xC0) != 0x80;
    if (pattern) { /* only expressions that mean the same there are used */
        regex_t re;
        if (regcomp(&re, pattern->text, REG_EXTENDED | REG_NOSUB) != 0)
            return false;
        ok = regexec(&re, text, 0, NULL, 0) == 0;
        regfree(&re);
    }
    return ok && n >= jc_number(schema, "minLength", 0) && n <= jc_number(schema, "maxLength", INFINITY);
}

static bool jc_valid_object(const jc *root, const jc *schema, const jc *v)
{
    const jc *properties = jc_get(schema, "properties"), *extra = jc_get(schema, "additionalProperties");
    const jc *required = jc_get(schema, "required");
    for (const jc *r = required ? required->first : NULL; r; r = r->next)
        if (!jc_get(v, r->text))
            return false;
    for (const jc *m = v->first; m; m = m->next) {
        const jc *s = jc_get(properties, m->key);
        s = s ? s : extra;
        if (s && !jc_valid(root, s, m))
            return false;
    }
    return true;
}

static bool jc_valid_array(const jc *root, const jc *schema, const jc *v)
{
    const jc *prefix = jc_get(schema, "prefixItems"), *items = jc_get(schema, "items");
    const jc *p = prefix ? prefix->first : NULL;
    if ((double)v->n < jc_number(schema, "minItems", 0) || (double)v->n > jc_number(schema, "maxItems", INFINITY))
        return false;
    for (const jc *m = v->first; m; m = m->next, p = p ? p->next : NULL) {
        const jc *s = p ? p : items;
        if (s && !jc_valid(root, s, m))
            return false;
    }
    return true;
}

static bool jc_valid(const jc *root, const jc *schema, const jc *v)
{
    if (schema->type == 'b')
        return schema->flag;
    const jc *k = jc_get(schema, "$ref");
    if (k && !jc_valid(root, strcmp(k->text, "#") == 0 ? root : jc_get(jc_get(root, "$defs"), k->text + 8), v))
        return false;
    if ((k = jc_get(schema, "type")) != NULL) {
        bool any = k->type == '"' && jc_is(v, k->text);
        for (const jc *t = k->first; t; t = t->next)
            any |= jc_is(v, t->text);
        if (!any)
            return false;
    }
    if ((k = jc_get(schema, "const")) != NULL && !jc_equal(k, v))
        return false;
    if ((k = jc_get(schema, "enum")) != NULL) {
        bool any = false;
        for (const jc *t = k->first; t; t = t->next)
            any |= jc_equal(t, v);
        if (!any)
            return false;
    }
    if ((k = jc_get(schema, "anyOf")) != NULL && jc_count_valid(root, k, v) < 1)
        return false;
    if ((k = jc_get(schema, "oneOf")) != NULL && jc_count_valid(root, k, v) != 1)
        return false;
    if ((k = jc_get(schema, "allOf")) != NULL && jc_count_valid(root, k, v) != (int)k->n)
        return false;
    switch (v->type) {
    case '#':
        return v->number >= jc_number(schema, "minimum", -INFINITY) &&
               v->number <= jc_number(schema, "maximum", INFINITY) &&
               v->number > jc_number(schema, "exclusiveMinimum", -INFINITY) &&
               v->number < jc_number(schema, "exclusiveMaximum", INFINITY);
    case '"': return jc_valid_string(schema, v->text);
    case '{': return jc_valid_object(root, schema, v);
    case '[': return jc_valid_array(root, schema, v);
    default: return true;
    }
}

#endif
