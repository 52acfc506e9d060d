/*
 * model/json_schema_private.h - a schema read (json_schema_view.c) on its way to a grammar (json_schema.c).
 *
 * A view is all that several schemas ask of one value together: allOf, $ref beside other keywords, and a property that
 * two schemas describe are views of more than one schema.
 */
#ifndef HS_MODEL_JSON_SCHEMA_PRIVATE_H
#define HS_MODEL_JSON_SCHEMA_PRIVATE_H

#include "base/arena.h"
#include "model/json_number.h"
#include "model/json_rules.h"
#include "model/json_schema.h"

enum {
    SCHEMA_NULL = 1,
    SCHEMA_BOOL = 2,
    SCHEMA_INTEGER = 4,
    SCHEMA_NUMBER = 8, /* those that are not whole */
    SCHEMA_STRING = 16,
    SCHEMA_ARRAY = 32,
    SCHEMA_OBJECT = 64,
    SCHEMA_ALL = 127
};

typedef struct schema_list schema_list;
struct schema_list {
    const hs_json *schema;
    schema_list *next;
};

typedef struct schema_property schema_property;
struct schema_property {
    const char *name;
    schema_list *schemas; /* all that it must satisfy; none = any value */
    bool required;
    schema_property *next;
};

/* The additionalProperties of one schema, and the properties that this schema lists itself. */
typedef struct schema_extra schema_extra;
struct schema_extra {
    const hs_json *value, *listed;
    schema_extra *next;
};

typedef struct schema_view {
    unsigned types;
    const hs_json *values, *value; /* enum, const; NULL = none */
    const hs_json *branches;       /* anyOf or oneOf still to be gone into */
    bool one_of;
    hs_bound lo, hi;
    uint64_t min_length, max_length, min_items, max_items; /* UINT64_MAX = none */
    const char *pattern, *format;
    schema_list *items, *prefix[64];
    uint32_t n_prefix;
    bool no_more_items; /* items: false */
    schema_property *properties, *last_property;
    schema_extra *extras;
} schema_view;

typedef struct schema_rule {
    const hs_json *schema;
    uint32_t rule;
    const char *path;
} schema_rule;

typedef struct schema_build {
    hs_grammar *g;
    hs_json_rules rules;
    hs_arena arena;
    const hs_json *root;
    char path[512]; /* of the schema being read, for sentences */
    uint32_t depth;
    schema_rule *named;
    uint32_t n_named, n_built, named_capacity;
    uint32_t views; /* made so far */
} schema_build;

/* "#/properties/a: " and the sentence. */
void schema_fail(schema_build *b, hlwq_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

void *schema_alloc(schema_build *b, uint64_t bytes);

/* Adds `name` to the path; what it was before is `*before`, to be put back with schema_leave. */
size_t schema_enter(schema_build *b, const char *name);
void schema_leave(schema_build *b, size_t before);

/* ---- json_schema.c --------------------------------------------------------------------------- */

/* A value of the view; of all schemas of a list together (any value if there is none). */
void schema_build_view(schema_build *b, const schema_view *v, uint32_t from, uint32_t to);
void schema_build_list(schema_build *b, const schema_list *list, uint32_t from, uint32_t to);

/* The rules of schemas that were referred to, until there are no more of them. */
void schema_build_named(schema_build *b);

/* ---- json_call.c ----------------------------------------------------------------------------- */

/* The arguments of a call as rule `root`, with their end: of a schema (`tool` is for sentences), and any. */
void json_call_arguments(hs_grammar *g, const char *tool, const hs_json *schema, uint32_t root);
void json_call_any(hs_grammar *g, uint32_t root);

/* ---- json_schema_view.c ---------------------------------------------------------------------- */

void schema_view_init(schema_view *v);

/* What `schema` asks, too. */
void schema_absorb(schema_build *b, schema_view *v, const hs_json *schema);

/* The schema that a $ref names; NULL after a failure. */
const hs_json *schema_target(schema_build *b, const char *ref);

/* A schema that is nothing but a $ref: what it names; else NULL. */
const char *schema_plain_ref(const hs_json *schema);

/* No value satisfies both. False also where that is not known. */
bool schema_disjoint(schema_build *b, const hs_json *x, const hs_json *y);

bool schema_same_value(const hs_json *x, const hs_json *y);
unsigned schema_type_of(const hs_json *value);

/* Is the value of an enum one that the rest of the view admits? Fails where that is not looked at. */
bool schema_admits(schema_build *b, const schema_view *v, const hs_json *value);

/* The expression for a format; NULL if it is not known. */
const char *schema_format_pattern(const char *format);

#endif
