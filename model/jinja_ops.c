/*
 * model/jinja_ops.c - what operators, attributes, items and slices do.
 */
#include "model/jinja_private.h"

#include <inttypes.h>
#include <math.h>

static const char *op_name(uint8_t op)
{
    switch (op) {
    case '+': return "+";
    case '-': return "-";
    case '*': return "*";
    case '/': return "/";
    case '%': return "%";
    case HS_JO_FLOORDIV: return "//";
    case HS_JO_POW: return "** or pow()";
    case '<': return "<";
    case '>': return ">";
    case HS_JO_LE: return "<=";
    default: return ">=";
    }
}

static hlwq_status unsupported(hs_jvm *vm, uint8_t op, hs_jv a, hs_jv b)
{
    if (a.type == HS_JV_UNDEFINED || b.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a.type == HS_JV_UNDEFINED ? a : b);
    if (op == '+' && (a.type == HS_JV_STRING || a.type == HS_JV_LIST || a.type == HS_JV_TUPLE))
        return hs_jvm_fail(vm, "can only concatenate %s (not \"%s\") to %s", hs_jv_type_name(a), hs_jv_type_name(b),
                           hs_jv_type_name(a));
    return hs_jvm_fail(vm, "unsupported operand type(s) for %s: '%s' and '%s'", op_name(op), hs_jv_type_name(a),
                       hs_jv_type_name(b));
}

/* ---- numbers ----------------------------------------------------------------------------------- */

static hlwq_status overflow(hs_jvm *vm, uint8_t op)
{
    return hs_jvm_fail(vm, "the result of %s does not fit 64 bits", op_name(op));
}

static hlwq_status int_power(hs_jvm *vm, int64_t base, int64_t exponent, hs_jv *out)
{
    int64_t result = 1;
    if (exponent < 0) {
        if (base == 0)
            return hs_jvm_fail(vm, "0.0 cannot be raised to a negative power");
        *out = hs_jv_real(pow((double)base, (double)exponent));
        return HLWQ_OK;
    }
    while (exponent) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return overflow(vm, HS_JO_POW);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            return overflow(vm, HS_JO_POW);
    }
    *out = hs_jv_int(result);
    return HLWQ_OK;
}

static hlwq_status int_binary(hs_jvm *vm, uint8_t op, int64_t a, int64_t b, hs_jv *out)
{
    int64_t r = 0;
    bool over = false;
    if (!b && (op == '/' || op == '%' || op == HS_JO_FLOORDIV))
        return hs_jvm_fail(vm, op == '/' ? "division by zero" : "integer division or modulo by zero");
    switch (op) {
    case '+': over = __builtin_add_overflow(a, b, &r); break;
    case '-': over = __builtin_sub_overflow(a, b, &r); break;
    case '*': over = __builtin_mul_overflow(a, b, &r); break;
    case '/': *out = hs_jv_real((double)a / (double)b); return HLWQ_OK;
    case HS_JO_POW: return int_power(vm, a, b, out);
    case '%':
        r = b == -1 ? 0 : a % b;
        if (r && (r < 0) != (b < 0))
            r += b;
        break;
    default: /* floor division */
        if (b == -1) {
            over = __builtin_sub_overflow((int64_t)0, a, &r);
        } else {
            r = a / b;
            r -= a % b != 0 && (a < 0) != (b < 0);
        }
    }
    if (over)
        return overflow(vm, op);
    *out = hs_jv_int(r);
    return HLWQ_OK;
}

static hlwq_status real_binary(hs_jvm *vm, uint8_t op, double a, double b, hs_jv *out)
{
    double r;
    if (b == 0 && (op == '/' || op == '%' || op == HS_JO_FLOORDIV))
        return hs_jvm_fail(vm, op == '/' ? "float division by zero" : "float floor division or modulo by zero");
    switch (op) {
    case '+': r = a + b; break;
    case '-': r = a - b; break;
    case '*': r = a * b; break;
    case '/': r = a / b; break;
    case HS_JO_POW:
        r = pow(a, b);
        if (a == 0 && b < 0)
            return hs_jvm_fail(vm, "0.0 cannot be raised to a negative power");
        if (isinf(r) && !isinf(a) && !isinf(b))
            return hs_jvm_fail(vm, "the result of ** is too large");
        if (isnan(r) && !isnan(a) && !isnan(b))
            return hs_jvm_fail(vm, "complex numbers are not supported");
        break;
    default: /* as Python does it: the remainder has the sign of b */
        r = fmod(a, b);
        if (r != 0 && (r < 0) != (b < 0))
            r += b;
        else if (r == 0)
            r = copysign(0, b);
        if (op == HS_JO_FLOORDIV) {
            double q = (a - r) / b, down = floor(q);
            r = q == 0 ? copysign(0, a / b) : down + (q - down > 0.5 ? 1 : 0);
        }
    }
    *out = hs_jv_real(r);
    return HLWQ_OK;
}

/* ---- strings and lists ------------------------------------------------------------------------- */

/*
 * Strings made by joining get room to grow, and joining to one whose end is still free writes there: text collected
 * in a loop costs its length, not its square.  The bytes that older values see never change.
 */
typedef struct room {
    uint32_t used, capacity;
} room;

hlwq_status hs_jop_join(hs_jvm *vm, hs_jv a, hs_jv b, hs_jv *out)
{
    void *p;
    uint64_t bytes = (uint64_t)a.bytes + b.bytes;
    if (bytes > vm->limits.memory_bytes || bytes > UINT32_MAX / 4)
        return hs_jvm_limit(vm, "makes a string of %" PRIu64 " bytes", bytes);
    HS_TRY(hs_jvm_work(vm, b.bytes));
    if (a.grows) {
        room *r = (room *)(uintptr_t)a.text - 1;
        if (r->used == a.bytes && r->capacity - r->used >= b.bytes) {
            if (b.bytes)
                memmove((char *)(uintptr_t)a.text + a.bytes, b.text, b.bytes);
            r->used += b.bytes;
            *out = a;
            out->bytes = (uint32_t)bytes;
            return HLWQ_OK;
        }
    }
    HS_TRY(hs_jvm_work(vm, a.bytes));
    uint64_t capacity = bytes > 128 ? bytes * 2 : bytes;
    HS_TRY(hs_jvm_alloc(vm, sizeof(room) + capacity, 1, &p));
    room *r = p;
    *r = (room){(uint32_t)bytes, (uint32_t)capacity};
    char *text = (char *)(r + 1);
    if (a.bytes)
        memcpy(text, a.text, a.bytes);
    if (b.bytes)
        memcpy(text + a.bytes, b.text, b.bytes);
    *out = hs_jv_slice(text, bytes);
    out->grows = true;
    return HLWQ_OK;
}

static hlwq_status add_strings(hs_jvm *vm, hs_jv a, hs_jv b, hs_jv *out)
{
    bool markup = a.markup || b.markup;
    if (markup) {
        HS_TRY(hs_jv_escape(vm, a, &a));
        HS_TRY(hs_jv_escape(vm, b, &b));
    }
    HS_TRY(hs_jop_join(vm, a, b, out));
    out->markup = markup;
    return HLWQ_OK;
}

static hlwq_status add_lists(hs_jvm *vm, hs_jv a, hs_jv b, hs_jv *out)
{
    uint64_t n = (uint64_t)a.list->n + b.list->n;
    if (n > UINT32_MAX / sizeof(hs_jv))
        return hs_jvm_limit(vm, "makes a list of %" PRIu64 " items", n);
    HS_TRY(hs_jlist_new(vm, a.type, (uint32_t)n, out));
    if (a.list->n)
        memcpy(out->list->item, a.list->item, a.list->n * sizeof(hs_jv));
    if (b.list->n)
        memcpy(out->list->item + a.list->n, b.list->item, b.list->n * sizeof(hs_jv));
    return HLWQ_OK;
}

/* Fills `bytes` bytes with copies of the first `unit`, twice as many each time. */
static void fill(char *out, uint64_t unit, uint64_t bytes)
{
    for (uint64_t n = unit; n && n < bytes; n *= 2)
        memcpy(out + n, out, n < bytes - n ? n : bytes - n);
}

static hlwq_status repeat(hs_jvm *vm, hs_jv v, int64_t times, hs_jv *out)
{
    uint64_t unit = v.type == HS_JV_STRING ? v.bytes : (uint64_t)v.list->n * sizeof(hs_jv), bytes;
    if (times < 0)
        times = 0;
    if (__builtin_mul_overflow(unit, (uint64_t)times, &bytes) || bytes > vm->limits.memory_bytes)
        return hs_jvm_limit(vm,
                            "repeats %" PRIu64 " bytes %" PRId64 " times, which is more than the %" PRIu64
                            " MiB of memory that a template may use",
                            unit, times, vm->limits.memory_bytes >> 20);
    HS_TRY(hs_jvm_work(vm, bytes));
    if (v.type == HS_JV_STRING) {
        void *p;
        HS_TRY(hs_jvm_alloc(vm, bytes, 1, &p));
        if (bytes)
            memcpy(p, v.text, unit);
        fill(p, unit, bytes);
        *out = hs_jv_slice(p, bytes);
        out->markup = v.markup;
        return HLWQ_OK;
    }
    HS_TRY(hs_jlist_new(vm, v.type, (uint32_t)(bytes / sizeof(hs_jv)), out));
    if (bytes)
        memcpy(out->list->item, v.list->item, unit);
    fill((char *)out->list->item, unit, bytes);
    return HLWQ_OK;
}

hlwq_status hs_jop_binary(hs_jvm *vm, uint8_t op, hs_jv a, hs_jv b, hs_jv *out)
{
    if (hs_jv_is_whole(a) && hs_jv_is_whole(b))
        return int_binary(vm, op, hs_jv_whole(a), hs_jv_whole(b), out);
    if (hs_jv_is_number(a) && hs_jv_is_number(b))
        return real_binary(vm, op, hs_jv_double(a), hs_jv_double(b), out);
    if (op == '+' && a.type == HS_JV_STRING && b.type == HS_JV_STRING)
        return add_strings(vm, a, b, out);
    if (op == '%' && a.type == HS_JV_STRING)
        return hs_jop_percent(vm, a, b, out);
    bool lists = a.type == HS_JV_LIST || a.type == HS_JV_TUPLE;
    if (op == '+' && lists && a.type == b.type)
        return add_lists(vm, a, b, out);
    if (op == '*') {
        if ((lists || a.type == HS_JV_STRING) && hs_jv_is_whole(b))
            return repeat(vm, a, hs_jv_whole(b), out);
        if ((b.type == HS_JV_LIST || b.type == HS_JV_TUPLE || b.type == HS_JV_STRING) && hs_jv_is_whole(a))
            return repeat(vm, b, hs_jv_whole(a), out);
    }
    return unsupported(vm, op, a, b);
}

hlwq_status hs_jop_compare(hs_jvm *vm, uint8_t op, hs_jv a, hs_jv b, bool *result)
{
    int order;
    switch (op) {
    case HS_JO_EQ: return hs_jv_equal(vm, a, b, result);
    case HS_JO_NE:
        HS_TRY(hs_jv_equal(vm, a, b, result));
        *result = !*result;
        return HLWQ_OK;
    case HS_JO_IN: return hs_jv_contains(vm, b, a, result);
    case HS_JO_NOT_IN:
        HS_TRY(hs_jv_contains(vm, b, a, result));
        *result = !*result;
        return HLWQ_OK;
    default:
        HS_TRY(hs_jv_order(vm, a, b, op_name(op), &order));
        *result = order != 2 && (op == '<'        ? order < 0
                                 : op == '>'      ? order > 0
                                 : op == HS_JO_LE ? order <= 0
                                                  : order >= 0);
        return HLWQ_OK;
    }
}

hlwq_status hs_jop_unary(hs_jvm *vm, uint8_t op, hs_jv a, hs_jv *out)
{
    if (a.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a);
    if (!hs_jv_is_number(a))
        return hs_jvm_fail(vm, "bad operand type for unary %c: '%s'", op, hs_jv_type_name(a));
    if (a.type == HS_JV_FLOAT)
        *out = hs_jv_real(op == '-' ? -a.real : a.real);
    else if (op == '+')
        *out = hs_jv_int(hs_jv_whole(a));
    else
        return int_binary(vm, '-', 0, hs_jv_whole(a), out);
    return HLWQ_OK;
}

/* ---- attributes and items ---------------------------------------------------------------------- */

static hlwq_status loop_attribute(hs_jvm *vm, hs_jv self, const char *name, bool *found, hs_jv *out)
{
    const hs_jloop *l = self.loop;
    int64_t n = l->list->n, index = l->at;
    *found = true;
    if (strcmp(name, "index") == 0)
        *out = hs_jv_int(index + 1);
    else if (strcmp(name, "index0") == 0)
        *out = hs_jv_int(index);
    else if (strcmp(name, "revindex") == 0)
        *out = hs_jv_int(n - index);
    else if (strcmp(name, "revindex0") == 0)
        *out = hs_jv_int(n - index - 1);
    else if (strcmp(name, "first") == 0)
        *out = hs_jv_bool(index == 0);
    else if (strcmp(name, "last") == 0)
        *out = hs_jv_bool(index == n - 1);
    else if (strcmp(name, "length") == 0)
        *out = hs_jv_int(n);
    else if (strcmp(name, "depth") == 0 || strcmp(name, "depth0") == 0)
        *out = hs_jv_int(name[5] != '0');
    else if (strcmp(name, "previtem") == 0 && index > 0)
        *out = l->list->item[l->at - 1];
    else if (strcmp(name, "nextitem") == 0 && index < n - 1)
        *out = l->list->item[l->at + 1];
    else if (strcmp(name, "previtem") == 0 || strcmp(name, "nextitem") == 0)
        return hs_jv_undefined(vm, out, "there is no %s item", name[0] == 'p' ? "previous" : "next");
    else
        *found = false;
    return HLWQ_OK;
}

static bool is_mutator(hs_jv self, const char *name)
{
    static const char *const list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    const char *const *p = self.type == HS_JV_LIST ? list : self.type == HS_JV_DICT ? dict : list + 8;
    while (*p && strcmp(*p, name) != 0)
        p++;
    return *p != NULL;
}

/* What getattr would find: methods and what loops and namespaces have. */
static hlwq_status attribute(hs_jvm *vm, hs_jv a, const char *name, bool *found, hs_jv *out)
{
    size_t n = strlen(name);
    *found = true;
    if (a.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a);
    if (n > 4 && memcmp(name, "__", 2) == 0 && strcmp(name + n - 2, "__") == 0)
        return hs_jv_undefined(vm, out, "access to attribute '%s' of '%s' object is unsafe", name, hs_jv_type_name(a));
    if (is_mutator(a, name))
        return hs_jv_undefined(vm, out, "access to attribute '%s' of '%s' object is unsafe: values do not change", name,
                               hs_jv_type_name(a));
    if (a.type == HS_JV_NAMESPACE) {
        const hs_jv *value = hs_jdict_find(vm, a.dict, hs_jv_text(name));
        if (value)
            *out = *value;
        *found = value != NULL;
        return HLWQ_OK;
    }
    if (a.type == HS_JV_LOOP) {
        HS_TRY(loop_attribute(vm, a, name, found, out));
        if (*found)
            return HLWQ_OK;
    }
    if (a.type == HS_JV_MACRO && strcmp(name, "name") == 0) {
        *out = a.macro->node->name ? hs_jv_text(a.macro->node->name) : hs_jv_none();
        return HLWQ_OK;
    }
    const hs_jentry *entry = hs_jinja_method(a, name);
    *found = entry != NULL;
    if (!entry)
        return HLWQ_OK;
    void *p;
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jmethod), &p));
    *(hs_jmethod *)p = (hs_jmethod){a, entry};
    *out = (hs_jv){.type = HS_JV_METHOD, .method = p};
    return HLWQ_OK;
}

static hlwq_status no_attribute(hs_jvm *vm, hs_jv a, const char *name, size_t bytes, hs_jv *out)
{
    const char *type = hs_jv_type_name(a);
    if (a.type == HS_JV_NONE)
        return hs_jv_undefined(vm, out, "'None' has no attribute '%.*s'", (int)(bytes > 80 ? 80 : bytes), name);
    return hs_jv_undefined(vm, out, "'%s object' has no attribute '%.*s'",
                           a.type == HS_JV_NAMESPACE ? "namespace" : type, (int)(bytes > 80 ? 80 : bytes), name);
}

hlwq_status hs_jop_attribute(hs_jvm *vm, hs_jv a, const char *name, hs_jv *out)
{
    bool found;
    HS_TRY(attribute(vm, a, name, &found, out));
    if (found)
        return HLWQ_OK;
    if (a.type == HS_JV_DICT) {
        const hs_jv *value = hs_jdict_find(vm, a.dict, hs_jv_text(name));
        if (value) {
            *out = *value;
            return HLWQ_OK;
        }
    }
    return no_attribute(vm, a, name, strlen(name), out);
}

static bool in_range(int64_t *index, int64_t n)
{
    if (*index < 0)
        *index += n;
    return *index >= 0 && *index < n;
}

hlwq_status hs_jop_item(hs_jvm *vm, hs_jv a, hs_jv key, hs_jv *out)
{
    if (a.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a);
    if (a.type == HS_JV_DICT) {
        bool hashable = key.type != HS_JV_LIST && key.type != HS_JV_DICT && key.type != HS_JV_VIEW;
        const hs_jv *value = hashable ? hs_jdict_find(vm, a.dict, key) : NULL;
        if (value) {
            *out = *value;
            return HLWQ_OK;
        }
    } else if (hs_jv_is_whole(key)) {
        int64_t i = hs_jv_whole(key);
        if ((a.type == HS_JV_LIST || a.type == HS_JV_TUPLE || a.type == HS_JV_RANGE) && in_range(&i, a.list->n)) {
            *out = a.list->item[i];
            return HLWQ_OK;
        }
        if (a.type == HS_JV_STRING) {
            HS_TRY(hs_jvm_work(vm, a.bytes));
            if (in_range(&i, hs_ju_length(a))) {
                uint32_t at = hs_ju_offset(a, i);
                hs_jv rest = hs_jv_slice(a.text + at, a.bytes - at);
                *out = hs_jv_slice(rest.text, hs_ju_offset(rest, 1));
                out->markup = a.markup;
                return HLWQ_OK;
            }
        }
    }
    if (key.type == HS_JV_STRING) {
        bool found = false;
        char name[64];
        if (key.bytes < sizeof name && !memchr(key.text, 0, key.bytes)) {
            memcpy(name, key.text, key.bytes);
            name[key.bytes] = 0;
            HS_TRY(attribute(vm, a, name, &found, out));
        }
        return found ? HLWQ_OK : no_attribute(vm, a, key.text, key.bytes, out);
    }
    if (hs_jv_is_whole(key))
        return hs_jv_undefined(vm, out, "%s object has no element %" PRId64, hs_jv_type_name(a), hs_jv_whole(key));
    return hs_jv_undefined(vm, out, "%s object has no element of type %s", hs_jv_type_name(a), hs_jv_type_name(key));
}

static hlwq_status slice_index(hs_jvm *vm, hs_jv v, int64_t fallback, int64_t *out)
{
    if (v.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, v);
    if (v.type > HS_JV_NONE && !hs_jv_is_whole(v))
        return hs_jvm_fail(vm, "slice indices must be integers or None, not %s", hs_jv_type_name(v));
    *out = v.type > HS_JV_NONE ? hs_jv_whole(v) : fallback;
    return HLWQ_OK;
}

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high)
{
    if (i < 0)
        i += n;
    return i < low ? low : i > high ? high : i;
}

/* Code points from `start` on, `count` of them, `step` apart. */
static hlwq_status slice_string(hs_jvm *vm, hs_jv a, int64_t start, int64_t count, int64_t step, hs_jv *out)
{
    HS_TRY(hs_jvm_work(vm, a.bytes));
    if (step == 1 || count <= 1) {
        uint32_t from = hs_ju_offset(a, start);
        hs_jv rest = hs_jv_slice(a.text + from, a.bytes - from);
        *out = hs_jv_slice(rest.text, hs_ju_offset(rest, count));
        out->markup = a.markup;
        return HLWQ_OK;
    }
    const hs_jlist *list;
    hs_text t = {0};
    HS_TRY(hs_jv_iterate(vm, a, &list));
    for (int64_t k = 0; k < count; k++)
        hs_text_add(&t, list->item[start + k * step].text, list->item[start + k * step].bytes);
    HS_TRY(hs_jv_take(vm, &t, out));
    out->markup = a.markup;
    return HLWQ_OK;
}

hlwq_status hs_jop_slice(hs_jvm *vm, hs_jv a, hs_jv first, hs_jv last, hs_jv by, hs_jv *out)
{
    int64_t start = 0, stop = 0, step = 1, n;
    if (a.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a);
    if (a.type != HS_JV_STRING && a.type != HS_JV_LIST && a.type != HS_JV_TUPLE && a.type != HS_JV_RANGE)
        return hs_jvm_fail(vm, a.type == HS_JV_DICT ? "unhashable type: 'slice'" : "'%s' object is not subscriptable",
                           hs_jv_type_name(a));
    HS_TRY(slice_index(vm, by, 1, &step));
    if (step == 0)
        return hs_jvm_fail(vm, "slice step cannot be zero");
    if (step < -INT32_MAX || step > INT32_MAX)
        step = step < 0 ? -INT32_MAX : INT32_MAX;
    HS_TRY(hs_jv_length(vm, a, &n));
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    HS_TRY(slice_index(vm, first, step < 0 ? INT64_MAX / 2 : 0, &start));
    HS_TRY(slice_index(vm, last, step < 0 ? INT64_MIN / 2 : INT64_MAX / 2, &stop));
    start = clamp(start, n, low, high);
    stop = clamp(stop, n, low, high);
    int64_t span = step < 0 ? start - stop : stop - start, size = step < 0 ? -step : step;
    int64_t count = span > 0 ? (span - 1) / size + 1 : 0;
    if (a.type == HS_JV_STRING)
        return slice_string(vm, a, start < 0 ? 0 : start, count, step, out);
    HS_TRY(hs_jlist_new(vm, a.type, (uint32_t)count, out));
    for (int64_t k = 0; k < count; k++)
        out->list->item[k] = a.list->item[start + k * step];
    if (a.type == HS_JV_RANGE) {
        out->list->start = a.list->start + start * a.list->step;
        out->list->stop = a.list->start + stop * a.list->step;
        out->list->step = a.list->step * step;
    }
    return HLWQ_OK;
}
