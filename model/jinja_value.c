/*
 * model/jinja_value.c - values and the machine that owns them.
 */
#include "model/jinja_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

hs_jinja_limits hs_jinja_limits_default(void)
{
    return (hs_jinja_limits){.steps = 10000000, .output_bytes = 64u << 20, .memory_bytes = 256u << 20, .depth = 400};
}

hlwq_status hs_jvm_open(hs_jvm **out, const hs_jinja_limits *limits, int64_t now, hlwq_error *err)
{
    *out = NULL;
    hs_jvm *vm = calloc(1, sizeof *vm);
    if (vm)
        vm->mem = hs_mem_open(limits->memory_bytes);
    if (!vm || !vm->mem) {
        free(vm);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to apply a chat template");
    }
    hs_arena_init(&vm->arena, vm->mem, HS_MEM_OTHER);
    vm->limits = *limits;
    vm->fuel = (int64_t)limits->steps;
    vm->now = now;
    vm->err = err;
    *out = vm;
    return HLWQ_OK;
}

void hs_jvm_close(hs_jvm *vm)
{
    if (!vm)
        return;
    hs_arena_close(&vm->arena);
    hs_mem_close(vm->mem);
    hs_text_close(&vm->out);
    free(vm);
}

static hlwq_status fail(hs_jvm *vm, hlwq_status status, const char *format, va_list args)
{
    return hs_jinja_fail_at(vm->err, vm->jinja ? vm->jinja->what : "the template", vm->line, status, format, args);
}

hlwq_status hs_jvm_fail(hs_jvm *vm, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    hlwq_status st = fail(vm, HLWQ_ERR_ARG, format, args);
    va_end(args);
    return st;
}

hlwq_status hs_jvm_limit(hs_jvm *vm, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    hlwq_status st = fail(vm, HLWQ_ERR_FORMAT, format, args);
    va_end(args);
    return st;
}

hlwq_status hs_jvm_out_of_fuel(hs_jvm *vm)
{
    return hs_jvm_limit(vm, "takes more than %" PRIu64 " steps", vm->limits.steps);
}

hlwq_status hs_jvm_alloc(hs_jvm *vm, uint64_t n, uint64_t item_bytes, void **out)
{
    if (hs_arena_array(&vm->arena, n, item_bytes, out, NULL) == HLWQ_OK)
        return HLWQ_OK;
    return hs_jvm_limit(vm, "needs more than the %" PRIu64 " MiB of memory that a template may use",
                        vm->limits.memory_bytes >> 20);
}

hlwq_status hs_jvm_string(hs_jvm *vm, const char *text, size_t bytes, hs_jv *out)
{
    void *p;
    if (bytes > UINT32_MAX)
        return hs_jvm_limit(vm, "a string of %zu bytes", bytes);
    HS_TRY(hs_jvm_work(vm, bytes));
    HS_TRY(hs_jvm_alloc(vm, bytes, 1, &p));
    if (bytes)
        memcpy(p, text, bytes);
    *out = hs_jv_slice(p, bytes);
    return HLWQ_OK;
}

/* ---- what a value is --------------------------------------------------------------------------- */

int64_t hs_jv_whole(hs_jv v)
{
    return v.type == HS_JV_BOOL ? v.boolean : v.integer;
}

double hs_jv_double(hs_jv v)
{
    return v.type == HS_JV_FLOAT ? v.real : (double)hs_jv_whole(v);
}

bool hs_jv_truth(hs_jv v)
{
    switch ((hs_jv_type)v.type) {
    case HS_JV_MISSING:
    case HS_JV_UNDEFINED:
    case HS_JV_NONE: return false;
    case HS_JV_BOOL: return v.boolean;
    case HS_JV_INT: return v.integer != 0;
    case HS_JV_FLOAT: return v.real != 0;
    case HS_JV_STRING: return v.bytes != 0;
    case HS_JV_LIST:
    case HS_JV_TUPLE:
    case HS_JV_RANGE:
    case HS_JV_VIEW: return v.list->n != 0;
    case HS_JV_DICT: return v.dict->n != 0;
    default: return true;
    }
}

const char *hs_jv_type_name(hs_jv v)
{
    switch ((hs_jv_type)v.type) {
    case HS_JV_MISSING:
    case HS_JV_UNDEFINED: return "Undefined";
    case HS_JV_NONE: return "NoneType";
    case HS_JV_BOOL: return "bool";
    case HS_JV_INT: return "int";
    case HS_JV_FLOAT: return "float";
    case HS_JV_STRING: return v.markup ? "Markup" : "str";
    case HS_JV_LIST: return "list";
    case HS_JV_TUPLE: return "tuple";
    case HS_JV_RANGE: return "range";
    case HS_JV_VIEW: return v.list->name;
    case HS_JV_ITERATOR: return "generator";
    case HS_JV_DICT: return "dict";
    case HS_JV_NAMESPACE: return "Namespace";
    case HS_JV_LOOP: return "LoopContext";
    case HS_JV_MACRO: return "Macro";
    case HS_JV_FUNCTION: return "function";
    case HS_JV_METHOD: return "method";
    }
    return "?";
}

hlwq_status hs_jv_undefined(hs_jvm *vm, hs_jv *out, const char *format, ...)
{
    char sentence[256];
    void *u;
    hs_jv text;
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    HS_TRY(hs_jvm_string(vm, sentence, strlen(sentence) + 1, &text));
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jundefined), &u));
    ((hs_jundefined *)u)->sentence = text.text;
    *out = (hs_jv){.type = HS_JV_UNDEFINED, .undefined = u};
    return HLWQ_OK;
}

hlwq_status hs_jv_fail_undefined(hs_jvm *vm, hs_jv v)
{
    return hs_jvm_fail(vm, "%s", v.undefined->sentence);
}

hlwq_status hs_jv_length(hs_jvm *vm, hs_jv v, int64_t *n)
{
    if (v.type == HS_JV_STRING) {
        HS_TRY(hs_jvm_work(vm, v.bytes));
        *n = hs_ju_length(v);
    } else if (hs_jv_is_list(v) && v.type != HS_JV_ITERATOR) {
        *n = v.list->n;
    } else if (v.type == HS_JV_DICT) {
        *n = v.dict->n;
    } else if (v.type == HS_JV_UNDEFINED) {
        *n = 0;
    } else if (v.type == HS_JV_LOOP) {
        *n = v.loop->list->n;
    } else {
        return hs_jvm_fail(vm, "object of type '%s' has no len()", hs_jv_type_name(v));
    }
    return HLWQ_OK;
}

/* ---- equality and order ------------------------------------------------------------------------ */

static hlwq_status lists_equal(hs_jvm *vm, const hs_jlist *a, const hs_jlist *b, bool *equal)
{
    *equal = a->n == b->n;
    for (uint32_t i = 0; *equal && i < a->n; i++)
        HS_TRY(hs_jv_equal(vm, a->item[i], b->item[i], equal));
    return HLWQ_OK;
}

static hlwq_status dicts_equal(hs_jvm *vm, const hs_jdict *a, const hs_jdict *b, bool *equal)
{
    *equal = a->n == b->n;
    for (uint32_t i = 0; *equal && i < a->n; i++) {
        const hs_jv *other = hs_jdict_find(vm, b, a->key[i]);
        *equal = other != NULL;
        if (other)
            HS_TRY(hs_jv_equal(vm, a->value[i], *other, equal));
    }
    return HLWQ_OK;
}

static hlwq_status equal_deep(hs_jvm *vm, hs_jv a, hs_jv b, bool *equal)
{
    if (a.type == HS_JV_DICT && b.type == HS_JV_DICT)
        return dicts_equal(vm, a.dict, b.dict, equal);
    if (a.type == b.type && (a.type == HS_JV_LIST || a.type == HS_JV_TUPLE || a.type == HS_JV_RANGE))
        return lists_equal(vm, a.list, b.list, equal);
    *equal = false;
    if (a.type == b.type && a.type >= HS_JV_VIEW)
        *equal = a.function == b.function; /* the same thing: all of these are pointers */
    return HLWQ_OK;
}

hlwq_status hs_jv_equal(hs_jvm *vm, hs_jv a, hs_jv b, bool *equal)
{
    if (hs_jv_is_number(a) && hs_jv_is_number(b)) {
        *equal = hs_jv_is_whole(a) && hs_jv_is_whole(b) ? hs_jv_whole(a) == hs_jv_whole(b)
                                                        : hs_jv_double(a) == hs_jv_double(b);
        return hs_jvm_step(vm, 1);
    }
    if (a.type == HS_JV_STRING && b.type == HS_JV_STRING) {
        *equal = a.bytes == b.bytes && memcmp(a.text, b.text, a.bytes) == 0;
        return hs_jvm_work(vm, a.bytes);
    }
    if (a.type <= HS_JV_NONE || b.type <= HS_JV_NONE) {
        *equal = a.type == b.type;
        return hs_jvm_step(vm, 1);
    }
    HS_TRY(hs_jvm_enter(vm));
    hlwq_status st = equal_deep(vm, a, b, equal);
    vm->depth--;
    return st;
}

static hlwq_status lists_order(hs_jvm *vm, const hs_jlist *a, const hs_jlist *b, const char *op, int *order)
{
    for (uint32_t i = 0; i < a->n && i < b->n; i++) {
        bool equal;
        HS_TRY(hs_jv_equal(vm, a->item[i], b->item[i], &equal));
        if (!equal)
            return hs_jv_order(vm, a->item[i], b->item[i], op, order);
    }
    *order = a->n < b->n ? -1 : a->n > b->n;
    return HLWQ_OK;
}

hlwq_status hs_jv_order(hs_jvm *vm, hs_jv a, hs_jv b, const char *op, int *order)
{
    if (hs_jv_is_whole(a) && hs_jv_is_whole(b)) {
        int64_t x = hs_jv_whole(a), y = hs_jv_whole(b);
        *order = x < y ? -1 : x > y;
        return hs_jvm_step(vm, 1);
    }
    if (hs_jv_is_number(a) && hs_jv_is_number(b)) {
        double x = hs_jv_double(a), y = hs_jv_double(b);
        *order = isnan(x) || isnan(y) ? 2 : x < y ? -1 : x > y;
        return hs_jvm_step(vm, 1);
    }
    if (a.type == HS_JV_STRING && b.type == HS_JV_STRING) { /* UTF-8 sorts as its code points do */
        uint32_t n = a.bytes < b.bytes ? a.bytes : b.bytes;
        int c = memcmp(a.text, b.text, n);
        *order = c ? (c < 0 ? -1 : 1) : a.bytes < b.bytes ? -1 : a.bytes > b.bytes;
        return hs_jvm_work(vm, n);
    }
    if (a.type == b.type && (a.type == HS_JV_LIST || a.type == HS_JV_TUPLE)) {
        HS_TRY(hs_jvm_enter(vm));
        hlwq_status st = lists_order(vm, a.list, b.list, op, order);
        vm->depth--;
        return st;
    }
    if (a.type == HS_JV_UNDEFINED || b.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a.type == HS_JV_UNDEFINED ? a : b);
    return hs_jvm_fail(vm, "'%s' not supported between instances of '%s' and '%s'", op, hs_jv_type_name(a),
                       hs_jv_type_name(b));
}

hlwq_status hs_jv_contains(hs_jvm *vm, hs_jv container, hs_jv item, bool *found)
{
    *found = false;
    if (container.type == HS_JV_STRING) {
        if (item.type != HS_JV_STRING)
            return hs_jvm_fail(vm, "'in <string>' requires string as left operand, not %s", hs_jv_type_name(item));
        HS_TRY(hs_jvm_work(vm, container.bytes * 4ull));
        *found = hs_ju_find(container.text, container.bytes, item.text, item.bytes) >= 0;
        return HLWQ_OK;
    }
    if (container.type == HS_JV_DICT) {
        HS_TRY(hs_jv_hashable(vm, item));
        *found = hs_jdict_find(vm, container.dict, item) != NULL;
        return hs_jvm_step(vm, 1);
    }
    if (!hs_jv_is_list(container) && container.type != HS_JV_UNDEFINED)
        return hs_jvm_fail(vm, "argument of type '%s' is not iterable", hs_jv_type_name(container));
    const hs_jlist *list = NULL;
    HS_TRY(hs_jv_iterate(vm, container, &list));
    for (uint32_t i = 0; i < list->n && !*found; i++)
        HS_TRY(hs_jv_equal(vm, list->item[i], item, found));
    return HLWQ_OK;
}

/* ---- lists ------------------------------------------------------------------------------------- */

hlwq_status hs_jlist_new(hs_jvm *vm, hs_jv_type type, uint32_t n, hs_jv *out)
{
    void *list, *item;
    HS_TRY(hs_jvm_step(vm, 1 + n / 8));
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jlist), &list));
    HS_TRY(hs_jvm_alloc(vm, n, sizeof(hs_jv), &item));
    *out = (hs_jv){.type = (uint8_t)type, .list = list};
    out->list->item = item;
    out->list->n = n;
    return HLWQ_OK;
}

hlwq_status hs_jbuild_add(hs_jvm *vm, hs_jbuild *b, hs_jv item)
{
    if (b->n == b->capacity) {
        void *more;
        uint32_t capacity = b->capacity ? b->capacity * 2 : 8;
        HS_TRY(hs_jvm_alloc(vm, capacity, sizeof(hs_jv), &more));
        if (b->n)
            memcpy(more, b->item, b->n * sizeof(hs_jv));
        b->item = more;
        b->capacity = capacity;
    }
    b->item[b->n++] = item;
    return hs_jvm_step(vm, 1);
}

hlwq_status hs_jbuild_done(hs_jvm *vm, hs_jbuild *b, hs_jv_type type, hs_jv *out)
{
    void *list;
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jlist), &list));
    *out = (hs_jv){.type = (uint8_t)type, .list = list};
    out->list->item = b->item;
    out->list->n = b->n;
    return HLWQ_OK;
}

static hlwq_status characters(hs_jvm *vm, hs_jv s, const hs_jlist **list)
{
    hs_jv out;
    uint32_t n, k = 0;
    HS_TRY(hs_jvm_work(vm, s.bytes));
    HS_TRY(hs_jlist_new(vm, HS_JV_LIST, (uint32_t)hs_ju_length(s), &out));
    for (uint32_t i = 0; i < s.bytes && k < out.list->n; i += n) {
        n = hs_ju_offset(hs_jv_slice(s.text + i, s.bytes - i), 1);
        out.list->item[k++] = hs_jv_slice(s.text + i, n);
    }
    out.list->n = k;
    *list = out.list;
    return HLWQ_OK;
}

hlwq_status hs_jv_iterate(hs_jvm *vm, hs_jv v, const hs_jlist **list)
{
    static const hs_jlist empty;
    hs_jlist *copy;
    void *p;
    switch ((hs_jv_type)v.type) {
    case HS_JV_STRING: return characters(vm, v, list);
    case HS_JV_LIST:
    case HS_JV_TUPLE:
    case HS_JV_RANGE:
    case HS_JV_VIEW: *list = v.list; return HLWQ_OK;
    case HS_JV_ITERATOR: /* what is left, as a list of its own */
        HS_TRY(hs_jvm_alloc(vm, 1, sizeof *copy, &p));
        copy = p;
        copy->item = v.list->n ? v.list->item + v.list->taken : NULL;
        copy->n = v.list->n - v.list->taken;
        v.list->taken = v.list->n;
        *list = copy;
        return HLWQ_OK;
    case HS_JV_DICT: /* later keys would move them, but only namespaces change and those are not iterable */
        HS_TRY(hs_jvm_alloc(vm, 1, sizeof *copy, &p));
        copy = p;
        copy->item = v.dict->key;
        copy->n = v.dict->n;
        *list = copy;
        return HLWQ_OK;
    case HS_JV_UNDEFINED: *list = &empty; return HLWQ_OK;
    default: return hs_jvm_fail(vm, "'%s' object is not iterable", hs_jv_type_name(v));
    }
}

hlwq_status hs_jv_list(hs_jvm *vm, hs_jv v, hs_jv_type type, hs_jv *out)
{
    const hs_jlist *list = NULL;
    HS_TRY(hs_jv_iterate(vm, v, &list));
    HS_TRY(hs_jlist_new(vm, type, list->n, out));
    if (list->n)
        memcpy(out->list->item, list->item, list->n * sizeof(hs_jv));
    return HLWQ_OK;
}

/* ---- from JSON --------------------------------------------------------------------------------- */

hlwq_status hs_jvm_value(hs_jvm *vm, const hs_json *node, hs_jv *out)
{
    size_t bytes;
    HS_TRY(hs_jvm_step(vm, 1));
    switch (hs_json_type_of(node)) {
    case HS_JSON_MISSING:
    case HS_JSON_NULL: *out = hs_jv_none(); return HLWQ_OK;
    case HS_JSON_BOOL: *out = hs_jv_bool(hs_json_bool(node)); return HLWQ_OK;
    case HS_JSON_INTEGER: *out = hs_jv_int(hs_json_int(node)); return HLWQ_OK;
    case HS_JSON_REAL: *out = hs_jv_real(hs_json_real(node)); return HLWQ_OK;
    case HS_JSON_STRING: {
        const char *s = hs_json_string(node, &bytes);
        if (bytes > UINT32_MAX)
            return hs_jvm_limit(vm, "a string of %zu bytes", bytes);
        *out = hs_jv_slice(s, bytes);
        return HLWQ_OK;
    }
    case HS_JSON_ARRAY:
        if (hs_json_count(node) > UINT32_MAX / 2)
            return hs_jvm_limit(vm, "an array of %zu items", hs_json_count(node));
        HS_TRY(hs_jlist_new(vm, HS_JV_LIST, (uint32_t)hs_json_count(node), out));
        for (uint32_t i = 0; i < out->list->n; i++)
            HS_TRY(hs_jvm_value(vm, hs_json_at(node, i), &out->list->item[i]));
        return HLWQ_OK;
    case HS_JSON_OBJECT: break;
    }
    if (hs_json_count(node) > UINT32_MAX / 8)
        return hs_jvm_limit(vm, "an object of %zu members", hs_json_count(node));
    HS_TRY(hs_jdict_new(vm, (uint32_t)hs_json_count(node), out));
    for (hs_json_iter *it = hs_json_first(node); it; it = hs_json_next(node, it)) {
        hs_jv value;
        const char *key = hs_json_key(it, &bytes);
        HS_TRY(hs_jvm_value(vm, hs_json_value(it), &value));
        HS_TRY(hs_jdict_put(vm, out->dict, hs_jv_slice(key, bytes), value));
    }
    return HLWQ_OK;
}
