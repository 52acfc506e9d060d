/*
 * base/json.h - reading JSON from anywhere, strictly: the one file that knows jansson.
 *
 * Refused: duplicate keys, invalid UTF-8, NUL in keys, trailing bytes, integers outside int64,
 * nesting deeper than HS_JSON_DEPTH.  Getters say which key of which file is wrong, and with which value.
 */
#ifndef HS_BASE_JSON_H
#define HS_BASE_JSON_H

#include "base/text.h"
#include "base/error.h"

enum { HS_JSON_DEPTH = 64 };

typedef struct json_t hs_json;

typedef enum hs_json_type {
    HS_JSON_MISSING,
    HS_JSON_NULL,
    HS_JSON_BOOL,
    HS_JSON_INTEGER,
    HS_JSON_REAL,
    HS_JSON_STRING,
    HS_JSON_ARRAY,
    HS_JSON_OBJECT
} hs_json_type;

/* `what` names the text in errors (a path). *root is freed with hs_json_free. */
hlwq_status hs_json_parse(const char *text, size_t bytes, const char *what, hs_json **root, hlwq_error *err);
void hs_json_free(hs_json *root);

hs_json_type hs_json_type_of(const hs_json *node); /* NULL is MISSING */

/* Member of an object; NULL if `object` is not one or has no such key. */
const hs_json *hs_json_get(const hs_json *object, const char *key);

/* Array or object size; 0 for others. */
size_t hs_json_count(const hs_json *node);
const hs_json *hs_json_at(const hs_json *array, size_t i); /* NULL outside */

/* Objects in file order: `for (it = hs_json_first(o); it; it = hs_json_next(o, it))`. */
typedef void hs_json_iter;
hs_json_iter *hs_json_first(const hs_json *object);
hs_json_iter *hs_json_next(const hs_json *object, hs_json_iter *it);
const char *hs_json_key(hs_json_iter *it, size_t *bytes);
const hs_json *hs_json_value(hs_json_iter *it);

/* Values of a node; asserts the type. */
bool hs_json_bool(const hs_json *node);
int64_t hs_json_int(const hs_json *node);
double hs_json_real(const hs_json *node); /* INTEGER or REAL */
/* The node as it stands in a file, compact, appended to `text`. */
void hs_json_write(hs_text *text, const hs_json *node);
const char *hs_json_string(const hs_json *node, size_t *bytes); /* bytes may be NULL */

/*
 * Typed members of `object`. Missing or null: *out keeps the value it came with, unless `required`.
 * Another type, or a number outside [min, max], is HLWQ_ERR_FORMAT naming `what` and the key.
 */
typedef enum hs_json_need { HS_OPTIONAL, HS_REQUIRED } hs_json_need;
hlwq_status hs_json_take_u64(const hs_json *object, const char *key, hs_json_need need, uint64_t min, uint64_t max,
                             uint64_t *out, const char *what, hlwq_error *err);
hlwq_status hs_json_take_u32(const hs_json *object, const char *key, hs_json_need need, uint32_t min, uint32_t max,
                             uint32_t *out, const char *what, hlwq_error *err);
hlwq_status hs_json_take_real(const hs_json *object, const char *key, hs_json_need need, double min, double max,
                              double *out, const char *what, hlwq_error *err);
hlwq_status hs_json_take_bool(const hs_json *object, const char *key, hs_json_need need, bool *out, const char *what,
                              hlwq_error *err);
/* *out points into the tree. */
hlwq_status hs_json_take_string(const hs_json *object, const char *key, hs_json_need need, const char **out,
                                const char *what, hlwq_error *err);

#endif
