/*
 * model/jinja.h - a subset of Jinja2 for chat templates: text to a tree, tree and values to text.
 *
 * Values are Python's as far as templates can tell: truth, equality, str(), code points.  They are immutable but for
 * namespaces, live in the arena of one rendering, and strings need no zero at their end.  Templates come with models
 * and are not trusted: no I/O, no attributes but those in our tables, and limits on steps, depth, output and memory.
 * docs/template.md says what is there.
 */
#ifndef HS_MODEL_JINJA_H
#define HS_MODEL_JINJA_H

#include "base/arena.h"
#include "base/json.h"
#include "base/text.h"

#include <stdarg.h>
#include <string.h>

#define HS_JINJA_TEMPLATE_MAX (1u << 20) /* bytes of a template */
#define HS_JINJA_DEPTH_MAX 100u          /* nesting of tags and expressions in its text */

/* A parsed template. Immutable: may be rendered by several threads at once. */
typedef struct hs_jinja hs_jinja;

typedef struct hs_jinja_limits {
    uint64_t steps;        /* expressions evaluated; work on long strings and lists counts too */
    uint64_t output_bytes; /* of the text */
    uint64_t memory_bytes; /* of all values, freed at the end only */
    uint32_t depth;        /* of evaluation: macros, blocks and expressions within each other */
} hs_jinja_limits;

hs_jinja_limits hs_jinja_limits_default(void);

/* `what` names the template in sentences. */
hlwq_status hs_jinja_parse(hs_jinja **jinja, hs_mem *mem, const char *text, size_t bytes, const char *what,
                           hlwq_error *err);
void hs_jinja_free(hs_jinja *jinja); /* NULL is fine */

/* ---- values ---------------------------------------------------------------------------------- */

typedef enum hs_jv_type {
    HS_JV_MISSING, /* an argument that was not given */
    HS_JV_UNDEFINED,
    HS_JV_NONE,
    HS_JV_BOOL,
    HS_JV_INT,
    HS_JV_FLOAT,
    HS_JV_STRING,
    HS_JV_LIST, /* these five are an hs_jlist */
    HS_JV_TUPLE,
    HS_JV_RANGE,
    HS_JV_VIEW,     /* what .items(), .keys() and .values() give */
    HS_JV_ITERATOR, /* what map, select and the like give: can be run through once */
    HS_JV_DICT,     /* these two are an hs_jdict */
    HS_JV_NAMESPACE,
    HS_JV_LOOP,
    HS_JV_MACRO,
    HS_JV_FUNCTION,
    HS_JV_METHOD
} hs_jv_type;

typedef struct hs_jlist hs_jlist;
typedef struct hs_jdict hs_jdict;

typedef struct hs_jv {
    uint8_t type;
    bool markup;    /* a string marked safe for HTML: adding to it escapes the other side */
    bool grows;     /* a string that lies at the start of room to grow */
    uint32_t bytes; /* of a string */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const char *text;
        hs_jlist *list;
        hs_jdict *dict;
        const struct hs_jundefined *undefined;
        struct hs_jloop *loop;
        struct hs_jmacro *macro;
        const struct hs_jentry *function;
        const struct hs_jmethod *method;
    };
} hs_jv;

struct hs_jlist {
    hs_jv *item;
    uint32_t n;
    uint32_t taken;            /* by who ran through an iterator */
    int64_t start, stop, step; /* as a range prints them */
    const char *name;          /* of a view: "dict_keys" */
};

/* In order of insertion; looked up by hash once there are more than a few. */
struct hs_jdict {
    hs_jv *key, *value;
    uint32_t n, capacity;
    uint32_t *index; /* [slots] position + 1 */
    uint32_t slots;
};

static inline hs_jv hs_jv_none(void)
{
    return (hs_jv){.type = HS_JV_NONE};
}

static inline hs_jv hs_jv_bool(bool b)
{
    return (hs_jv){.type = HS_JV_BOOL, .boolean = b};
}

static inline hs_jv hs_jv_int(int64_t i)
{
    return (hs_jv){.type = HS_JV_INT, .integer = i};
}

static inline hs_jv hs_jv_real(double f)
{
    return (hs_jv){.type = HS_JV_FLOAT, .real = f};
}

/* A string that lies elsewhere and stays. */
static inline hs_jv hs_jv_slice(const char *text, size_t bytes)
{
    return (hs_jv){.type = HS_JV_STRING, .bytes = (uint32_t)bytes, .text = text};
}

static inline hs_jv hs_jv_text(const char *literal)
{
    return hs_jv_slice(literal, strlen(literal));
}

static inline bool hs_jv_is(hs_jv string, const char *literal)
{
    return string.type == HS_JV_STRING && string.bytes == strlen(literal) &&
           memcmp(string.text, literal, string.bytes) == 0;
}

/* ---- rendering ------------------------------------------------------------------------------- */

/* One rendering: its memory, its limits, the values made so far. */
typedef struct hs_jvm hs_jvm;

/* `now` is what strftime_now tells, seconds since 1970. */
hlwq_status hs_jvm_open(hs_jvm **vm, const hs_jinja_limits *limits, int64_t now, hlwq_error *err);
void hs_jvm_close(hs_jvm *vm); /* NULL is fine */

/* Makes *out an hs_jv of a JSON tree, which must stay until the vm is closed. */
hlwq_status hs_jvm_value(hs_jvm *vm, const hs_json *node, hs_jv *out);
hlwq_status hs_jvm_string(hs_jvm *vm, const char *text, size_t bytes, hs_jv *out); /* a copy */

hlwq_status hs_jdict_new(hs_jvm *vm, uint32_t capacity, hs_jv *out);
hlwq_status hs_jdict_put(hs_jvm *vm, hs_jdict *dict, hs_jv key, hs_jv value);  /* replaces */
hs_jv *hs_jdict_find(hs_jvm *vm, const hs_jdict *dict, hs_jv key);             /* NULL where it is not */
hlwq_status hs_jlist_new(hs_jvm *vm, hs_jv_type type, uint32_t n, hs_jv *out); /* items are MISSING */

/*
 * Appends to *text what `jinja` makes of `variables`.  HLWQ_ERR_ARG where the template refuses the values
 * (raise_exception, or an operation they do not support), HLWQ_ERR_FORMAT where it hits a limit; the sentence has the
 * line.
 */
hlwq_status hs_jvm_render(hs_jvm *vm, const hs_jinja *jinja, const hs_jdict *variables, hs_text *text);

#endif
