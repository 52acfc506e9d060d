/*
 * model/jinja_tests.c - what may follow "is", and the functions that need no value.
 */
#define _POSIX_C_SOURCE 200809L
#include "model/jinja_private.h"

#include <inttypes.h>
#include <time.h>

enum { RANGE_MAX = 100000 }; /* as Jinja's sandbox has it */

#define TEST(name, expression)                                                                                         \
    static hlwq_status name(hs_jvm *vm, const hs_jv *a, hs_jv *out)                                                    \
    {                                                                                                                  \
        (void)vm;                                                                                                      \
        *out = hs_jv_bool(expression);                                                                                 \
        return HLWQ_OK;                                                                                                \
    }

TEST(t_defined, a[0].type != HS_JV_UNDEFINED)
TEST(t_undefined, a[0].type == HS_JV_UNDEFINED)
TEST(t_none, a[0].type == HS_JV_NONE)
TEST(t_boolean, a[0].type == HS_JV_BOOL)
TEST(t_true, a[0].type == HS_JV_BOOL && a[0].boolean)
TEST(t_false, a[0].type == HS_JV_BOOL && !a[0].boolean)
TEST(t_integer, a[0].type == HS_JV_INT)
TEST(t_float, a[0].type == HS_JV_FLOAT)
TEST(t_number, hs_jv_is_number(a[0]))
TEST(t_string, a[0].type == HS_JV_STRING)
TEST(t_mapping, a[0].type == HS_JV_DICT)
TEST(t_escaped, a[0].type == HS_JV_STRING && a[0].markup)
TEST(t_callable, a[0].type == HS_JV_UNDEFINED || a[0].type >= HS_JV_LOOP)
TEST(t_iterable, a[0].type == HS_JV_STRING || a[0].type == HS_JV_UNDEFINED || a[0].type == HS_JV_LOOP ||
                     (a[0].type >= HS_JV_LIST && a[0].type <= HS_JV_DICT))
TEST(t_sequence, a[0].type == HS_JV_STRING || a[0].type == HS_JV_UNDEFINED ||
                     (a[0].type >= HS_JV_LIST && a[0].type <= HS_JV_RANGE) || a[0].type == HS_JV_DICT)
TEST(t_filter, a[0].type == HS_JV_STRING && hs_jinja_filter(a[0].text, a[0].bytes))
TEST(t_test, a[0].type == HS_JV_STRING && hs_jinja_test(a[0].text, a[0].bytes))

static hlwq_status t_divisibleby(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv rest;
    HS_TRY(hs_jop_binary(vm, '%', a[0], a[1], &rest));
    *out = hs_jv_bool(!hs_jv_truth(rest));
    return HLWQ_OK;
}

static hlwq_status t_even(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jv args[HS_JARGS_MAX] = {a[0], hs_jv_int(2)};
    return t_divisibleby(vm, args, out);
}

static hlwq_status t_odd(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv rest;
    bool odd;
    HS_TRY(hs_jop_binary(vm, '%', a[0], hs_jv_int(2), &rest));
    HS_TRY(hs_jv_equal(vm, rest, hs_jv_int(1), &odd));
    *out = hs_jv_bool(odd);
    return HLWQ_OK;
}

/* All letters in that case, and at least one of them. */
static hlwq_status all_cased(hs_jvm *vm, hs_jv v, bool upper, hs_jv *out)
{
    hs_jv s;
    bool some = false, all = true;
    HS_TRY(hs_jv_str(vm, v, &s));
    HS_TRY(hs_jvm_work(vm, s.bytes));
    for (uint32_t i = 0, n; i < s.bytes; i += n) {
        int32_t c = hs_ju_char(s.text + i, s.bytes - i, &n);
        some |= upper ? hs_ju_upper(c) : hs_ju_lower(c);
        all &= !(upper ? hs_ju_lower(c) : hs_ju_upper(c));
    }
    *out = hs_jv_bool(some && all);
    return HLWQ_OK;
}

static hlwq_status t_upper(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return all_cased(vm, a[0], true, out);
}

static hlwq_status t_lower(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return all_cased(vm, a[0], false, out);
}

static hlwq_status compared(hs_jvm *vm, uint8_t op, const hs_jv *a, hs_jv *out)
{
    bool holds;
    HS_TRY(hs_jop_compare(vm, op, a[0], a[1], &holds));
    *out = hs_jv_bool(holds);
    return HLWQ_OK;
}

#define COMPARISON(name, op)                                                                                           \
    static hlwq_status name(hs_jvm *vm, const hs_jv *a, hs_jv *out)                                                    \
    {                                                                                                                  \
        return compared(vm, op, a, out);                                                                               \
    }

COMPARISON(t_eq, HS_JO_EQ)
COMPARISON(t_ne, HS_JO_NE)
COMPARISON(t_lt, '<')
COMPARISON(t_le, HS_JO_LE)
COMPARISON(t_gt, '>')
COMPARISON(t_ge, HS_JO_GE)
COMPARISON(t_in, HS_JO_IN)

/* Python's "is": the same object; for what has no identity here, the same value of the same type. */
static hlwq_status t_sameas(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    bool same = a[0].type == a[1].type;
    if (same && (hs_jv_is_list(a[0]) || a[0].type >= HS_JV_DICT))
        same = a[0].list == a[1].list;
    else if (same)
        HS_TRY(hs_jv_equal(vm, a[0], a[1], &same));
    *out = hs_jv_bool(same);
    return HLWQ_OK;
}

const hs_jentry *hs_jinja_test(const char *name, size_t bytes)
{
    static const hs_jentry table[] = {
        {"boolean", "", t_boolean},
        {"callable", "", t_callable},
        {"defined", "", t_defined},
        {"divisibleby", "num", t_divisibleby},
        {"eq", "b", t_eq},
        {"equalto", "b", t_eq},
        {"==", "b", t_eq},
        {"escaped", "", t_escaped},
        {"even", "", t_even},
        {"false", "", t_false},
        {"filter", "", t_filter},
        {"float", "", t_float},
        {"ge", "b", t_ge},
        {">=", "b", t_ge},
        {"greaterthan", "b", t_gt},
        {"gt", "b", t_gt},
        {">", "b", t_gt},
        {"in", "seq", t_in},
        {"integer", "", t_integer},
        {"iterable", "", t_iterable},
        {"le", "b", t_le},
        {"<=", "b", t_le},
        {"lessthan", "b", t_lt},
        {"lower", "", t_lower},
        {"lt", "b", t_lt},
        {"<", "b", t_lt},
        {"mapping", "", t_mapping},
        {"ne", "b", t_ne},
        {"!=", "b", t_ne},
        {"none", "", t_none},
        {"number", "", t_number},
        {"odd", "", t_odd},
        {"sameas", "other", t_sameas},
        {"sequence", "", t_sequence},
        {"string", "", t_string},
        {"test", "", t_test},
        {"true", "", t_true},
        {"undefined", "", t_undefined},
        {"upper", "", t_upper},
        {NULL, NULL, NULL},
    };
    return hs_jtable_find(table, name, bytes);
}

/* ---- functions --------------------------------------------------------------------------------- */

static hlwq_status g_range(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    int64_t bound[3] = {0, 0, 1};
    (void)a;
    const hs_jargs *args = vm->args;
    if (args->n < 1 || args->n > 3 || args->n > args->positional)
        return hs_jvm_fail(vm, "range() takes 1 to 3 numbers, %u given", args->n);
    for (uint32_t i = 0; i < args->n; i++) {
        if (!hs_jv_is_whole(args->item[i]))
            return hs_jvm_fail(vm, "'%s' object cannot be interpreted as an integer", hs_jv_type_name(args->item[i]));
        bound[args->n == 1 ? 1 : i] = hs_jv_whole(args->item[i]);
    }
    int64_t start = bound[0], stop = bound[1], step = bound[2];
    if (!step)
        return hs_jvm_fail(vm, "range() arg 3 must not be zero");
    __int128 span = step > 0 ? (__int128)stop - start : (__int128)start - stop, by = step > 0 ? step : -(__int128)step;
    __int128 n = span > 0 ? (span - 1) / by + 1 : 0;
    if (n > RANGE_MAX)
        return hs_jvm_limit(vm, "a range of more than %d numbers", RANGE_MAX);
    HS_TRY(hs_jlist_new(vm, HS_JV_RANGE, (uint32_t)n, out));
    for (uint32_t i = 0; i < (uint32_t)n; i++)
        out->list->item[i] = hs_jv_int((int64_t)(start + (__int128)step * i));
    out->list->start = start;
    out->list->stop = stop;
    out->list->step = step;
    return hs_jvm_step(vm, (uint64_t)n / 4);
}

/* dict(mapping or pairs, key=value...). */
static hlwq_status g_dict(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jargs *args = vm->args;
    (void)a;
    if (args->positional > 1)
        return hs_jvm_fail(vm, "dict expected at most 1 argument, got %u", args->positional);
    HS_TRY(hs_jdict_new(vm, args->n, out));
    if (args->positional && args->item[0].type == HS_JV_DICT) {
        const hs_jdict *from = args->item[0].dict;
        for (uint32_t i = 0; i < from->n; i++)
            HS_TRY(hs_jdict_put(vm, out->dict, from->key[i], from->value[i]));
    } else if (args->positional) {
        const hs_jlist *list, *pair;
        HS_TRY(hs_jv_iterate(vm, args->item[0], &list));
        for (uint32_t i = 0; i < list->n; i++) {
            HS_TRY(hs_jv_iterate(vm, list->item[i], &pair));
            if (pair->n != 2)
                return hs_jvm_fail(vm, "dict(): item %u has length %u; 2 is required", i, pair->n);
            HS_TRY(hs_jv_hashable(vm, pair->item[0]));
            HS_TRY(hs_jdict_put(vm, out->dict, pair->item[0], pair->item[1]));
        }
    }
    for (uint32_t i = args->positional; i < args->n; i++)
        HS_TRY(hs_jdict_put(vm, out->dict, hs_jv_text(args->name[i]), args->item[i]));
    return HLWQ_OK;
}

static hlwq_status g_namespace(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    HS_TRY(g_dict(vm, a, out));
    for (uint32_t i = 0; i < out->dict->n; i++) {
        hs_jv key = out->dict->key[i];
        if (key.type == HS_JV_STRING && key.bytes && key.text[0] == '_')
            return hs_jvm_fail(vm, "a namespace cannot hold '%.*s', which begins with an underscore", (int)key.bytes,
                               key.text);
    }
    out->type = HS_JV_NAMESPACE;
    return HLWQ_OK;
}

static hlwq_status g_raise_exception(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s;
    (void)out;
    HS_TRY(hs_jv_str(vm, a[1], &s));
    return hs_jvm_fail(vm, "%.*s", (int)(s.bytes > 512 ? 512 : s.bytes), s.text);
}

static hlwq_status g_strftime_now(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    char format[128], text[512];
    struct tm tm;
    time_t now = (time_t)vm->now;
    if (a[1].type != HS_JV_STRING || a[1].bytes >= sizeof format)
        return hs_jvm_fail(vm, "strftime_now() needs a string of less than %zu bytes", sizeof format);
    memcpy(format, a[1].text, a[1].bytes);
    format[a[1].bytes] = 0;
    if (!localtime_r(&now, &tm))
        return hs_jvm_fail(vm, "strftime_now(): the time is unknown");
    return hs_jvm_string(vm, text, strftime(text, sizeof text, format, &tm), out);
}

const hs_jentry *hs_jinja_global(const char *name)
{
    static const hs_jentry table[] = {
        {"dict", "*", g_dict},
        {"namespace", "*", g_namespace},
        {"raise_exception", "message", g_raise_exception},
        {"range", "*", g_range},
        {"strftime_now", "format", g_strftime_now},
        {NULL, NULL, NULL},
    };
    return hs_jtable_find(table, name, strlen(name));
}
