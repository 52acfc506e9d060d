/*
 * base/json.c - jansson behind strict flags, with a depth check of our own before it recurses.
 */
#include "base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

/* Deepest nesting of brackets outside strings. */
static size_t nesting(const char *text, size_t bytes)
{
    size_t depth = 0, deepest = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > deepest)
                deepest = depth;
        } else if ((c == ']' || c == '}') && depth) {
            depth--;
        }
    }
    return deepest;
}

hlwq_status hs_json_parse(const char *text, size_t bytes, const char *what, hs_json **root, hlwq_error *err)
{
    *root = NULL;
    size_t depth = nesting(text, bytes);
    if (depth > HS_JSON_DEPTH)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: JSON nested %zu deep, limit %d", what, depth, HS_JSON_DEPTH);
    json_error_t why;
    json_t *node = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!node)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: JSON line %d column %d: %s", what, why.line, why.column, why.text);
    *root = node;
    return HLWQ_OK;
}

void hs_json_free(hs_json *root)
{
    json_decref(root);
}

hs_json_type hs_json_type_of(const hs_json *node)
{
    if (!node)
        return HS_JSON_MISSING;
    switch (json_typeof(node)) {
    case JSON_NULL: return HS_JSON_NULL;
    case JSON_TRUE:
    case JSON_FALSE: return HS_JSON_BOOL;
    case JSON_INTEGER: return HS_JSON_INTEGER;
    case JSON_REAL: return HS_JSON_REAL;
    case JSON_STRING: return HS_JSON_STRING;
    case JSON_ARRAY: return HS_JSON_ARRAY;
    default: return HS_JSON_OBJECT;
    }
}

const hs_json *hs_json_get(const hs_json *object, const char *key)
{
    return json_object_get(object, key);
}

size_t hs_json_count(const hs_json *node)
{
    return json_is_array(node) ? json_array_size(node) : json_object_size(node);
}

const hs_json *hs_json_at(const hs_json *array, size_t i)
{
    return json_array_get(array, i);
}

/* jansson's iterators take a non-const object; they do not change it. */
hs_json_iter *hs_json_first(const hs_json *object)
{
    return json_object_iter((json_t *)(uintptr_t)object);
}

hs_json_iter *hs_json_next(const hs_json *object, hs_json_iter *it)
{
    return json_object_iter_next((json_t *)(uintptr_t)object, it);
}

const char *hs_json_key(hs_json_iter *it, size_t *bytes)
{
    const char *key = json_object_iter_key(it);
    if (bytes)
        *bytes = strlen(key); /* keys cannot hold NUL: the parser refuses it */
    return key;
}

const hs_json *hs_json_value(hs_json_iter *it)
{
    return json_object_iter_value(it);
}

bool hs_json_bool(const hs_json *node)
{
    assert(json_is_boolean(node));
    return json_is_true(node);
}

int64_t hs_json_int(const hs_json *node)
{
    assert(json_is_integer(node));
    return json_integer_value(node);
}

double hs_json_real(const hs_json *node)
{
    assert(json_is_number(node));
    return json_number_value(node);
}

const char *hs_json_string(const hs_json *node, size_t *bytes)
{
    assert(json_is_string(node));
    if (bytes)
        *bytes = json_string_length(node);
    return json_string_value(node);
}

/* The member, or NULL where it may be absent and is. */
static hlwq_status member(const hs_json *object, const char *key, hs_json_need need, const hs_json **node,
                          const char *what, hlwq_error *err)
{
    *node = hs_json_get(object, key);
    if (*node && json_is_null(*node))
        *node = NULL;
    if (!*node && need == HS_REQUIRED)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: key \"%s\" is missing", what, key);
    return HLWQ_OK;
}

static hlwq_status wrong_type(const char *key, const char *wanted, const char *what, hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"%s\" is not %s", what, key, wanted);
}

hlwq_status hs_json_take_u64(const hs_json *object, const char *key, hs_json_need need, uint64_t min, uint64_t max,
                             uint64_t *out, const char *what, hlwq_error *err)
{
    const hs_json *node;
    HS_TRY(member(object, key, need, &node, what, err));
    if (!node)
        return HLWQ_OK;
    if (json_is_integer(node)) {
        int64_t v = json_integer_value(node);
        if (v >= 0 && (uint64_t)v >= min && (uint64_t)v <= max) {
            *out = (uint64_t)v;
            return HLWQ_OK;
        }
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"%s\" is %" PRId64 ", out of range %" PRIu64 "..%" PRIu64, what, key,
                       v, min, max);
    }
    if (json_is_real(node))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"%s\" is %g, not a whole number in range %" PRIu64 "..%" PRIu64,
                       what, key, json_real_value(node), min, max);
    return wrong_type(key, "a whole number", what, err);
}

hlwq_status hs_json_take_u32(const hs_json *object, const char *key, hs_json_need need, uint32_t min, uint32_t max,
                             uint32_t *out, const char *what, hlwq_error *err)
{
    uint64_t v = *out;
    HS_TRY(hs_json_take_u64(object, key, need, min, max, &v, what, err));
    *out = (uint32_t)v;
    return HLWQ_OK;
}

hlwq_status hs_json_take_real(const hs_json *object, const char *key, hs_json_need need, double min, double max,
                              double *out, const char *what, hlwq_error *err)
{
    const hs_json *node;
    HS_TRY(member(object, key, need, &node, what, err));
    if (!node)
        return HLWQ_OK;
    if (!json_is_number(node))
        return wrong_type(key, "a number", what, err);
    double v = json_number_value(node);
    if (!(v >= min && v <= max))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"%s\" is %g, out of range %g..%g", what, key, v, min, max);
    *out = v;
    return HLWQ_OK;
}

hlwq_status hs_json_take_bool(const hs_json *object, const char *key, hs_json_need need, bool *out, const char *what,
                              hlwq_error *err)
{
    const hs_json *node;
    HS_TRY(member(object, key, need, &node, what, err));
    if (!node)
        return HLWQ_OK;
    if (!json_is_boolean(node))
        return wrong_type(key, "true or false", what, err);
    *out = json_is_true(node);
    return HLWQ_OK;
}

hlwq_status hs_json_take_string(const hs_json *object, const char *key, hs_json_need need, const char **out,
                                const char *what, hlwq_error *err)
{
    const hs_json *node;
    HS_TRY(member(object, key, need, &node, what, err));
    if (!node)
        return HLWQ_OK;
    if (!json_is_string(node))
        return wrong_type(key, "a string", what, err);
    if (strlen(json_string_value(node)) != json_string_length(node))
        return wrong_type(key, "a string without NUL", what, err);
    *out = json_string_value(node);
    return HLWQ_OK;
}

void hs_json_write(hs_text *text, const hs_json *node)
{
    char *copy = json_dumps((const json_t *)node, JSON_COMPACT | JSON_ENCODE_ANY);
    if (copy)
        hs_text_add(text, copy, strlen(copy));
    else
        text->failed = true;
    free(copy);
}
