/*
 * model/jinja_private.h - what the files of the Jinja subset share: tokens, the tree, the machine, the tables.
 *
 *   jinja_lex.c      text to tokens, with Jinja's whitespace rules
 *   jinja_parse.c    tags to the tree; jinja_expr.c expressions
 *   jinja_value.c    values: equality, order, running through things; jinja_dict.c dictionaries
 *   jinja_print.c    str(), repr(), JSON
 *   jinja_ops.c      operators, attributes, items, slices
 *   jinja_eval.c     the tree to values; calls; jinja_exec.c tags, scopes, macros
 *   jinja_filters.c  filters of values, jinja_sequences.c of sequences, jinja_tests.c tests and functions
 *   jinja_strings.c  methods; jinja_unicode.c characters; jinja_format.c % and format()
 */
#ifndef HS_MODEL_JINJA_PRIVATE_H
#define HS_MODEL_JINJA_PRIVATE_H

#include "model/jinja.h"

/* ---- tokens ---------------------------------------------------------------------------------- */

typedef enum hs_jtoken_kind {
    HS_JT_END,
    HS_JT_DATA,
    HS_JT_BLOCK_BEGIN,
    HS_JT_BLOCK_END,
    HS_JT_VARIABLE_BEGIN,
    HS_JT_VARIABLE_END,
    HS_JT_NAME,
    HS_JT_STRING,
    HS_JT_INTEGER,
    HS_JT_FLOAT,
    HS_JT_OPERATOR
} hs_jtoken_kind;

/* Operators are their characters: '+', or HS_JO_EQ and so on where there are two. */
enum { HS_JO_EQ = 128, HS_JO_NE, HS_JO_LE, HS_JO_GE, HS_JO_FLOORDIV, HS_JO_POW, HS_JO_IN, HS_JO_NOT_IN };

typedef struct hs_jtoken {
    hs_jtoken_kind kind;
    uint32_t line;
    uint8_t op;
    const char *text; /* NAME, DATA; STRING without quotes, escapes resolved */
    uint32_t bytes;
    int64_t integer;
    double real;
} hs_jtoken;

enum { HS_JLEX_NESTING = 256 };

typedef struct hs_jlexer {
    const char *text; /* newlines are \n */
    size_t bytes, at;
    uint32_t line;
    enum { HS_JLEX_ROOT, HS_JLEX_BLOCK, HS_JLEX_VARIABLE } state;
    uint32_t nesting;
    char closing[HS_JLEX_NESTING];
    hs_arena *arena;
    const char *what;
    hlwq_error *err;
} hs_jlexer;

hlwq_status hs_jlex_next(hs_jlexer *lexer, hs_jtoken *token);
void hs_jlex_describe(const hs_jtoken *token, char *out, size_t capacity); /* for sentences */
hlwq_status hs_jinja_fail_at(hlwq_error *err, const char *what, uint32_t line, hlwq_status status, const char *format,
                             va_list args);

/* ---- the tree -------------------------------------------------------------------------------- */

typedef enum hs_jkind {
    HS_JN_CONST,
    HS_JN_NAME,
    HS_JN_LIST,
    HS_JN_TUPLE,
    HS_JN_DICT,    /* args: key, value, key, value */
    HS_JN_UNARY,   /* op a */
    HS_JN_CHAIN,   /* a, then args: LINKs of op and a */
    HS_JN_COMPARE, /* so is this */
    HS_JN_LINK,
    HS_JN_AND, /* so are these */
    HS_JN_OR,
    HS_JN_CONCAT,
    HS_JN_NOT,
    HS_JN_CONDITIONAL, /* b if a else c */
    HS_JN_ATTRIBUTE,   /* a.name */
    HS_JN_ITEM,        /* a[b] */
    HS_JN_SLICE,       /* a:b:c, each may be NULL */
    HS_JN_CALL,        /* a(args) */
    HS_JN_FILTER,      /* a | entry(args) */
    HS_JN_TEST,        /* a is entry(args) */
    HS_JN_ARG,         /* a; op 0, 'k' name = a, '*', or HS_JO_POW for ** */
    HS_JN_DATA,
    HS_JN_OUTPUT,       /* a */
    HS_JN_IF,           /* a (NULL: always), body, c: the next branch */
    HS_JN_FOR,          /* target a in b if c: body; args: the body where nothing was run through */
    HS_JN_SET,          /* a = b */
    HS_JN_SET_BLOCK,    /* a = body, through the filters c */
    HS_JN_MACRO,        /* name(args: PARAMs) body */
    HS_JN_PARAM,        /* name = a */
    HS_JN_CALL_BLOCK,   /* a: the call; args: PARAMs of the caller; body */
    HS_JN_FILTER_BLOCK, /* body, through the filters a; here and in SET_BLOCK b is where they begin */
    HS_JN_WITH,         /* args: LINKs, targets a, values b; body */
    HS_JN_SCOPE,        /* body */
    HS_JN_BREAK,
    HS_JN_CONTINUE,
    HS_JN_NS /* target name.attribute: name, value */
} hs_jkind;

typedef struct hs_jnode hs_jnode;
struct hs_jnode {
    uint8_t kind, op;
    bool varargs, kwargs, caller; /* a macro's body has these names */
    uint32_t line;
    hs_jnode *next;
    hs_jnode *a, *b, *c;
    hs_jnode *args, *body;
    const char *name; /* interned: equal names are equal pointers */
    const struct hs_jentry *entry;
    hs_jv value;
};

/* Names that the machine binds by itself, interned. */
typedef struct hs_jnames {
    const char *loop, *caller, *varargs, *kwargs;
} hs_jnames;

struct hs_jinja {
    hs_arena arena;
    hs_jnode *body;
    hs_jnames names;
    char *what;
};

/* ---- parsing --------------------------------------------------------------------------------- */

typedef struct hs_jparser {
    hs_jlexer lexer;
    hs_jtoken token, ahead;
    bool has_ahead;
    uint32_t depth;
    uint32_t loops; /* around this tag, for break and continue */
    hs_arena *arena;
    const char **interned; /* [slots] */
    uint32_t n_interned, slots;
    hs_jnames names;
    hs_jnode *macro; /* innermost macro or call block; NULL outside */
    hlwq_error *err;
} hs_jparser;

hlwq_status hs_jparse_fail(hs_jparser *p, uint32_t line, const char *format, ...) __attribute__((format(printf, 3, 4)));
hlwq_status hs_jparse_next(hs_jparser *p);
hlwq_status hs_jparse_ahead(hs_jparser *p, const hs_jtoken **token);
hlwq_status hs_jparse_node(hs_jparser *p, hs_jkind kind, uint32_t line, hs_jnode **node);
hlwq_status hs_jparse_intern(hs_jparser *p, const char *text, size_t bytes, const char **name);
hlwq_status hs_jparse_deeper(hs_jparser *p); /* each one has its p->depth-- */
bool hs_jparse_at(const hs_jparser *p, const char *name);
bool hs_jparse_at_op(const hs_jparser *p, uint8_t op);
hlwq_status hs_jparse_expect_op(hs_jparser *p, uint8_t op);
hlwq_status hs_jparse_expect_name(hs_jparser *p, const char **name);

hlwq_status hs_jparse_expression(hs_jparser *p, bool conditional, hs_jnode **out);
/* Expressions with commas are a tuple. `end` is a name that ends it too, or NULL. */
hlwq_status hs_jparse_tuple(hs_jparser *p, bool conditional, const char *end, hs_jnode **out);
hlwq_status hs_jparse_target(hs_jparser *p, bool allow_namespace, const char *end, hs_jnode **out);
hlwq_status hs_jparse_filters(hs_jparser *p, hs_jnode *node, bool first_named, hs_jnode **out);

/* ---- the machine ----------------------------------------------------------------------------- */

typedef struct hs_jbinding {
    const char *name;
    hs_jv value;
} hs_jbinding;

typedef struct hs_jscope hs_jscope;
struct hs_jscope {
    hs_jscope *outer;
    hs_jbinding *binding;
    uint32_t n, capacity;
    bool kept; /* a macro refers to it */
};

typedef struct hs_jundefined {
    const char *sentence;
} hs_jundefined;

typedef struct hs_jloop {
    const hs_jlist *list;
    uint32_t at;
    hs_jv changed; /* what loop.changed saw last; MISSING before */
} hs_jloop;

typedef struct hs_jmacro {
    const hs_jnode *node;
    hs_jscope *scope;
    bool is_caller;
} hs_jmacro;

typedef struct hs_jmethod {
    hs_jv self;
    const struct hs_jentry *entry;
} hs_jmethod;

/* Arguments of a call as they were given. */
typedef struct hs_jargs {
    hs_jv *item;
    const char **name; /* NULL = positional; keywords come after those */
    uint32_t n, positional;
} hs_jargs;

enum { HS_JARGS_MAX = 8 }; /* parameters of a table entry, the value itself included */

/* a[0] is the value (functions: MISSING), a[1].. the parameters. */
typedef hlwq_status (*hs_jfunction)(hs_jvm *vm, const hs_jv *a, hs_jv *out);

typedef struct hs_jentry {
    const char *name;
    const char *parameters; /* "old new count="; "=" may be left out; "*" takes any: see vm->args */
    hs_jfunction run;
} hs_jentry;

struct hs_jvm {
    hs_mem *mem;
    hs_arena arena;
    hs_jinja_limits limits;
    int64_t fuel;
    uint32_t depth, line;
    const hs_jinja *jinja;
    const hs_jdict *variables;
    hs_jscope *scope;
    const hs_jargs *args; /* of the entry that runs, for "*" */
    hs_text out;          /* what was written; captures take its tail */
    int64_t now;
    hlwq_error *err;
};

hlwq_status hs_jvm_fail(hs_jvm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
hlwq_status hs_jvm_limit(hs_jvm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
hlwq_status hs_jvm_out_of_fuel(hs_jvm *vm);
hlwq_status hs_jvm_alloc(hs_jvm *vm, uint64_t n, uint64_t item_bytes, void **out);

/* Pays for `steps` steps. */
static inline hlwq_status hs_jvm_step(hs_jvm *vm, uint64_t steps)
{
    vm->fuel -= (int64_t)steps;
    return vm->fuel < 0 ? hs_jvm_out_of_fuel(vm) : HLWQ_OK;
}

/* For work on `bytes` bytes. */
static inline hlwq_status hs_jvm_work(hs_jvm *vm, uint64_t bytes)
{
    return hs_jvm_step(vm, 1 + bytes / 64);
}

static inline hlwq_status hs_jvm_enter(hs_jvm *vm)
{
    if (vm->depth >= vm->limits.depth)
        return hs_jvm_limit(vm, "nested deeper than %u", vm->limits.depth);
    vm->depth++;
    return hs_jvm_step(vm, 1);
}

/* ---- values ---------------------------------------------------------------------------------- */

static inline bool hs_jv_is_list(hs_jv v)
{
    return v.type >= HS_JV_LIST && v.type <= HS_JV_ITERATOR;
}

static inline bool hs_jv_is_number(hs_jv v)
{
    return v.type >= HS_JV_BOOL && v.type <= HS_JV_FLOAT;
}

/* INT or BOOL. */
static inline bool hs_jv_is_whole(hs_jv v)
{
    return v.type == HS_JV_INT || v.type == HS_JV_BOOL;
}

int64_t hs_jv_whole(hs_jv v); /* of an INT or BOOL */
double hs_jv_double(hs_jv v); /* of a number */
bool hs_jv_truth(hs_jv v);
const char *hs_jv_type_name(hs_jv v); /* Python's: "dict" */
hlwq_status hs_jv_undefined(hs_jvm *vm, hs_jv *out, const char *format, ...) __attribute__((format(printf, 3, 4)));
hlwq_status hs_jv_equal(hs_jvm *vm, hs_jv a, hs_jv b, bool *equal);
/* -1, 0, 1; 2 where one is NaN. `op` is for the sentence where they have no order. */
hlwq_status hs_jv_order(hs_jvm *vm, hs_jv a, hs_jv b, const char *op, int *order);
hlwq_status hs_jv_contains(hs_jvm *vm, hs_jv container, hs_jv item, bool *found);
hlwq_status hs_jv_hashable(hs_jvm *vm, hs_jv v);
hlwq_status hs_jv_length(hs_jvm *vm, hs_jv v, int64_t *n);
/* What a for loop would run through, as a list whose items must not be changed. An iterator is used up. */
hlwq_status hs_jv_iterate(hs_jvm *vm, hs_jv v, const hs_jlist **list);
hlwq_status hs_jv_list(hs_jvm *vm, hs_jv v, hs_jv_type type, hs_jv *out); /* a copy of that */
hlwq_status hs_jdict_view(hs_jvm *vm, const hs_jdict *dict, const char *name, hs_jv *out);
hlwq_status hs_jv_fail_undefined(hs_jvm *vm, hs_jv v);

/* A list that grows while it is made. */
typedef struct hs_jbuild {
    hs_jv *item;
    uint32_t n, capacity;
} hs_jbuild;
hlwq_status hs_jbuild_add(hs_jvm *vm, hs_jbuild *build, hs_jv item);
hlwq_status hs_jbuild_done(hs_jvm *vm, hs_jbuild *build, hs_jv_type type, hs_jv *out);

/* ---- printing -------------------------------------------------------------------------------- */

hlwq_status hs_jv_print(hs_jvm *vm, hs_jv v, hs_text *text);      /* str() */
hlwq_status hs_jv_repr(hs_jvm *vm, hs_jv v, hs_text *text);       /* repr() */
hlwq_status hs_jv_str(hs_jvm *vm, hs_jv v, hs_jv *out);           /* str() as a string; markup stays markup */
hlwq_status hs_jv_take(hs_jvm *vm, hs_text *text, hs_jv *out);    /* the text as a string; closes it */
hlwq_status hs_jv_float_text(hs_jvm *vm, double f, char out[40]); /* repr() */
hlwq_status hs_jv_escape(hs_jvm *vm, hs_jv v, hs_jv *out);        /* HTML; markup stays as it is */
hlwq_status hs_jtext_check(hs_jvm *vm, const hs_text *text);      /* within the limits */
extern const hs_jentry hs_jinja_tojson;

/* ---- characters ------------------------------------------------------------------------------ */

/* The character at `s` (valid UTF-8, or U+FFFD for a byte that is not) and its length. */
int32_t hs_ju_char(const char *s, size_t left, uint32_t *bytes);
uint32_t hs_ju_put(int32_t c, char out[4]);
bool hs_ju_space(int32_t c);                        /* str.isspace */
bool hs_ju_printable(int32_t c);                    /* str.isprintable */
uint32_t hs_ju_line_end(hs_jv string, uint32_t at); /* bytes of the line's end there, as str.splitlines has it; or 0 */
bool hs_ju_alpha(int32_t c);
bool hs_ju_digit(int32_t c);
bool hs_ju_alnum(int32_t c);
bool hs_ju_upper(int32_t c);
bool hs_ju_lower(int32_t c);
int64_t hs_ju_length(hs_jv string);                  /* code points */
uint32_t hs_ju_offset(hs_jv string, int64_t points); /* the byte where that code point starts */
hs_jv hs_ju_strip(hs_jv string, const hs_jv *characters, bool left, bool right); /* NULL = white space */
typedef enum hs_jcase { HS_JCASE_UPPER, HS_JCASE_LOWER, HS_JCASE_CAPITALIZE, HS_JCASE_TITLE, HS_JCASE_SWAP } hs_jcase;
hlwq_status hs_ju_case(hs_jvm *vm, hs_jv string, hs_jcase how, hs_jv *out);
/* First (last) place of `needle`; -1 if it is not there. */
int64_t hs_ju_find(const char *text, size_t bytes, const char *needle, size_t needle_bytes);
int64_t hs_ju_rfind(const char *text, size_t bytes, const char *needle, size_t needle_bytes);
hlwq_status hs_ju_parse_int(hs_jvm *vm, hs_jv string, int64_t base, bool *ok, int64_t *value);
bool hs_ju_parse_float(hs_jv string, double *value);

/* ---- operators ------------------------------------------------------------------------------- */

hlwq_status hs_jop_binary(hs_jvm *vm, uint8_t op, hs_jv a, hs_jv b, hs_jv *out);
hlwq_status hs_jop_compare(hs_jvm *vm, uint8_t op, hs_jv a, hs_jv b, bool *result);
hlwq_status hs_jop_unary(hs_jvm *vm, uint8_t op, hs_jv a, hs_jv *out);
hlwq_status hs_jop_attribute(hs_jvm *vm, hs_jv a, const char *name, hs_jv *out);
hlwq_status hs_jop_item(hs_jvm *vm, hs_jv a, hs_jv key, hs_jv *out);
hlwq_status hs_jop_slice(hs_jvm *vm, hs_jv a, hs_jv start, hs_jv stop, hs_jv step, hs_jv *out);
hlwq_status hs_jop_join(hs_jvm *vm, hs_jv a, hs_jv b, hs_jv *out);            /* two strings */
hlwq_status hs_jop_percent(hs_jvm *vm, hs_jv format, hs_jv args, hs_jv *out); /* jinja_format.c */

/* ---- running --------------------------------------------------------------------------------- */

typedef enum hs_jsignal { HS_JGO, HS_JBREAK, HS_JCONTINUE } hs_jsignal;

hlwq_status hs_jeval(hs_jvm *vm, const hs_jnode *node, hs_jv *out);
hlwq_status hs_jexec(hs_jvm *vm, const hs_jnode *body, hs_jsignal *signal);
/* Calls a callable, or an entry with `self` in front. */
hlwq_status hs_jcall(hs_jvm *vm, hs_jv callee, const hs_jargs *args, hs_jv *out);
hlwq_status hs_jcall_entry(hs_jvm *vm, const hs_jentry *entry, hs_jv self, const hs_jargs *args, hs_jv *out);
hlwq_status hs_jcall_macro(hs_jvm *vm, const hs_jmacro *macro, const hs_jargs *args, hs_jv *out);
hlwq_status hs_jeval_args(hs_jvm *vm, const hs_jnode *args, uint32_t more, hs_jargs *out);
hlwq_status hs_jscope_push(hs_jvm *vm, hs_jscope *outer);
hlwq_status hs_jscope_set(hs_jvm *vm, hs_jscope *scope, const char *name, hs_jv value);

/* ---- tables ---------------------------------------------------------------------------------- */

/* NULL where there is no such name. */
const hs_jentry *hs_jinja_filter(const char *name, size_t bytes);
const hs_jentry *hs_jinja_test(const char *name, size_t bytes);
const hs_jentry *hs_jinja_global(const char *name);
const hs_jentry *hs_jinja_method(hs_jv self, const char *name);
const hs_jentry *hs_jtable_find(const hs_jentry *table, const char *name, size_t bytes); /* ends with name NULL */
extern const hs_jentry hs_jinja_sequence_filters[]; /* the second half of the filters */
hlwq_status hs_jinja_str_format(hs_jvm *vm, const hs_jv *a, hs_jv *out);
/* item.path of "a.b.0", as map(attribute=...) and its like do it. */
hlwq_status hs_jinja_path(hs_jvm *vm, hs_jv item, hs_jv path, hs_jv *out);

#endif
