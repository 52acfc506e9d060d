/*
 * model/jinja_filters.c - filters that look at one value: text, numbers, defaults.
 */
#include "model/jinja_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const hs_jentry *hs_jtable_find(const hs_jentry *table, const char *name, size_t bytes)
{
    for (; table->name; table++)
        if (strlen(table->name) == bytes && memcmp(table->name, name, bytes) == 0)
            return table;
    return NULL;
}

/* Runs the str method of that name on str(value). */
static hlwq_status as_method(hs_jvm *vm, const char *method, const hs_jv *a, hs_jv *out)
{
    hs_jv s[HS_JARGS_MAX];
    memcpy(s, a, sizeof s);
    HS_TRY(hs_jv_str(vm, a[0], &s[0]));
    return hs_jinja_method(s[0], method)->run(vm, s, out);
}

static hlwq_status f_upper(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return as_method(vm, "upper", a, out);
}

static hlwq_status f_lower(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return as_method(vm, "lower", a, out);
}

static hlwq_status f_capitalize(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return as_method(vm, "capitalize", a, out);
}

static hlwq_status f_trim(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return as_method(vm, "strip", a, out);
}

static hlwq_status f_replace(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s[HS_JARGS_MAX];
    memcpy(s, a, sizeof s);
    for (int i = 0; i < 3; i++) {
        HS_TRY(hs_jv_str(vm, a[i], &s[i]));
        s[i].markup = false;
    }
    return hs_jinja_method(s[0], "replace")->run(vm, s, out);
}

static hlwq_status f_center(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s[HS_JARGS_MAX];
    memcpy(s, a, sizeof s);
    if (a[1].type == HS_JV_MISSING)
        s[1] = hs_jv_int(80);
    return as_method(vm, "center", s, out);
}

/* Jinja's own: words begin after white space, brackets and hyphens. */
static hlwq_status f_title(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s, piece;
    hs_text t = {0};
    bool first = true;
    HS_TRY(hs_jv_str(vm, a[0], &s));
    HS_TRY(hs_jvm_work(vm, (uint64_t)s.bytes * 16));
    for (uint32_t i = 0, n; i < s.bytes; i += n) {
        int32_t c = hs_ju_char(s.text + i, s.bytes - i, &n);
        hs_jv one = hs_jv_slice(s.text + i, n);
        hlwq_status st = hs_ju_case(vm, one, first ? HS_JCASE_UPPER : HS_JCASE_LOWER, &piece);
        if (st != HLWQ_OK) {
            hs_text_close(&t);
            return st;
        }
        hs_text_add(&t, piece.text, piece.bytes);
        first = hs_ju_space(c) || (c && c < 128 && strchr("-({[<", (char)c));
    }
    return hs_jv_take(vm, &t, out);
}

static hlwq_status f_string(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return hs_jv_str(vm, a[0], out);
}

static hlwq_status f_safe(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    HS_TRY(hs_jv_str(vm, a[0], out));
    out->markup = true;
    return HLWQ_OK;
}

static hlwq_status f_escape(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return hs_jv_escape(vm, a[0], out);
}

static hlwq_status f_forceescape(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s;
    HS_TRY(hs_jv_str(vm, a[0], &s));
    s.markup = false;
    return hs_jv_escape(vm, s, out);
}

static hlwq_status f_default(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    (void)vm;
    bool use = a[0].type == HS_JV_UNDEFINED || (hs_jv_truth(a[2]) && !hs_jv_truth(a[0]));
    *out = !use ? a[0] : a[1].type == HS_JV_MISSING ? hs_jv_text("") : a[1];
    return HLWQ_OK;
}

static hlwq_status f_indent(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s = a[0], by = a[1];
    hs_text t = {0};
    if (s.type != HS_JV_STRING)
        return hs_jvm_fail(vm, "indent needs a string, not %s", hs_jv_type_name(s));
    if (by.type == HS_JV_MISSING)
        by = hs_jv_int(4);
    if (hs_jv_is_whole(by))
        HS_TRY(hs_jop_binary(vm, '*', hs_jv_text(" "), by, &by));
    if (by.type != HS_JV_STRING)
        return hs_jvm_fail(vm, "indent: width is %s, not a number or a string", hs_jv_type_name(by));
    HS_TRY(hs_jvm_work(vm, s.bytes * 4ull));
    bool at_start = true, first = true;
    for (uint32_t i = 0, n; i < s.bytes; i += n) {
        uint32_t end = hs_ju_line_end(s, i);
        if (at_start && (first ? hs_jv_truth(a[2]) : hs_jv_truth(a[3]) || !end)) {
            hs_text_add(&t, by.text, by.bytes);
            if (t.bytes > vm->limits.output_bytes)
                break;
        }
        at_start = end != 0;
        first = first && !end;
        n = end;
        if (end)
            hs_text_add(&t, "\n", 1);
        else
            hs_ju_char(s.text + i, s.bytes - i, &n);
        if (!end)
            hs_text_add(&t, s.text + i, n);
    }
    if (!s.bytes && hs_jv_truth(a[2]))
        hs_text_add(&t, by.text, by.bytes);
    else if (s.bytes && at_start && hs_jv_truth(a[3]))
        hs_text_add(&t, by.text, by.bytes);
    HS_TRY(hs_jv_take(vm, &t, out));
    out->markup = s.markup;
    return HLWQ_OK;
}

static hlwq_status f_truncate(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s = a[0], end = a[3].type == HS_JV_STRING ? a[3] : hs_jv_text("...");
    int64_t length = hs_jv_is_whole(a[1]) ? hs_jv_whole(a[1]) : 255,
            leeway = hs_jv_is_whole(a[4]) ? hs_jv_whole(a[4]) : 5;
    int64_t n, end_n = hs_ju_length(end);
    if (s.type != HS_JV_STRING)
        return hs_jvm_fail(vm, "truncate needs a string, not %s", hs_jv_type_name(s));
    if (length < end_n || leeway < 0)
        return hs_jvm_fail(vm, "truncate: length %" PRId64 " is less than the %" PRId64 " of what ends it", length,
                           end_n);
    HS_TRY(hs_jv_length(vm, s, &n));
    *out = s;
    if (n <= length || n - length <= leeway)
        return HLWQ_OK;
    hs_jv cut = hs_jv_slice(s.text, hs_ju_offset(s, length - end_n));
    if (!hs_jv_truth(a[2])) {
        int64_t space = hs_ju_rfind(cut.text, cut.bytes, " ", 1);
        if (space >= 0)
            cut.bytes = (uint32_t)space;
    }
    return hs_jop_join(vm, cut, end, out);
}

static hlwq_status f_wordcount(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s;
    int64_t words = 0;
    bool inside = false;
    HS_TRY(hs_jv_str(vm, a[0], &s));
    HS_TRY(hs_jvm_work(vm, s.bytes * 4ull));
    for (uint32_t i = 0, n; i < s.bytes; i += n) {
        int32_t c = hs_ju_char(s.text + i, s.bytes - i, &n);
        bool word = c == '_' || hs_ju_alnum(c);
        words += word && !inside;
        inside = word;
    }
    *out = hs_jv_int(words);
    return HLWQ_OK;
}

/* ---- numbers ----------------------------------------------------------------------------------- */

static hlwq_status real_to_int(hs_jvm *vm, double f, hs_jv fallback, hs_jv *out)
{
    *out = fallback;
    if (isnan(f) || isinf(f))
        return HLWQ_OK;
    if (f < -9.2e18 || f > 9.2e18)
        return hs_jvm_fail(vm, "%g does not fit an integer of 64 bits", f);
    *out = hs_jv_int((int64_t)f);
    return HLWQ_OK;
}

static hlwq_status f_int(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv fallback = a[1].type == HS_JV_MISSING ? hs_jv_int(0) : a[1];
    int64_t value;
    double real;
    bool ok;
    *out = fallback;
    if (a[0].type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a[0]);
    if (hs_jv_is_whole(a[0]))
        *out = hs_jv_int(hs_jv_whole(a[0]));
    else if (a[0].type == HS_JV_FLOAT)
        return real_to_int(vm, a[0].real, fallback, out);
    if (a[0].type != HS_JV_STRING)
        return HLWQ_OK;
    HS_TRY(hs_ju_parse_int(vm, a[0], hs_jv_is_whole(a[2]) ? hs_jv_whole(a[2]) : 10, &ok, &value));
    if (ok)
        *out = hs_jv_int(value);
    else if (hs_ju_parse_float(a[0], &real)) /* "42.23"|int is 42 */
        return real_to_int(vm, real, fallback, out);
    return HLWQ_OK;
}

static hlwq_status f_float(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    double real;
    *out = a[1].type == HS_JV_MISSING ? hs_jv_real(0) : a[1];
    if (a[0].type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a[0]);
    if (hs_jv_is_number(a[0]))
        *out = hs_jv_real(hs_jv_double(a[0]));
    else if (a[0].type == HS_JV_STRING && hs_ju_parse_float(a[0], &real))
        *out = hs_jv_real(real);
    return HLWQ_OK;
}

static hlwq_status f_abs(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    if (a[0].type == HS_JV_FLOAT) {
        *out = hs_jv_real(fabs(a[0].real));
        return HLWQ_OK;
    }
    if (hs_jv_is_whole(a[0]) && hs_jv_whole(a[0]) >= 0) {
        *out = hs_jv_int(hs_jv_whole(a[0]));
        return HLWQ_OK;
    }
    return hs_jv_is_number(a[0]) ? hs_jop_unary(vm, '-', a[0], out)
                                 : hs_jvm_fail(vm, "bad operand type for abs(): '%s'", hs_jv_type_name(a[0]));
}

/* Digits after the point as printf rounds them, which is exact as Python's round is. */
static double round_decimal(double f, int64_t precision)
{
    char text[512];
    if (!isfinite(f) || precision > 300)
        return f;
    if (precision < 0) {
        double unit = pow(10, (double)-precision);
        return precision < -308 ? copysign(0, f) : nearbyint(f / unit) * unit;
    }
    snprintf(text, sizeof text, "%.*f", (int)precision, f);
    return strtod(text, NULL);
}

static hlwq_status f_round(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    int64_t precision = hs_jv_is_whole(a[1]) ? hs_jv_whole(a[1]) : 0;
    bool common = a[2].type == HS_JV_MISSING || hs_jv_is(a[2], "common");
    if (!common && !hs_jv_is(a[2], "ceil") && !hs_jv_is(a[2], "floor"))
        return hs_jvm_fail(vm, "method must be common, ceil or floor");
    if (a[0].type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, a[0]);
    if (!hs_jv_is_number(a[0]))
        return hs_jvm_fail(vm, "type %s has no rounding", hs_jv_type_name(a[0]));
    double f = hs_jv_double(a[0]);
    if (!common) {
        double unit = pow(10, (double)precision);
        *out = hs_jv_real((hs_jv_is(a[2], "ceil") ? ceil(f * unit) : floor(f * unit)) / unit);
    } else if (a[0].type == HS_JV_FLOAT) {
        *out = hs_jv_real(round_decimal(f, precision));
    } else if (precision >= 0) {
        *out = hs_jv_int(hs_jv_whole(a[0]));
    } else {
        int64_t unit = 1, v = hs_jv_whole(a[0]);
        for (int64_t i = precision; i < 0 && unit < INT64_MAX / 10; i++)
            unit *= 10;
        int64_t down = v / unit - (v % unit < 0), rest = v - down * unit;
        bool up = rest > unit - rest || (rest == unit - rest && (down & 1));
        *out = hs_jv_int(precision < -18 ? 0 : (down + up) * unit);
    }
    return HLWQ_OK;
}

static hlwq_status f_length(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    int64_t n;
    HS_TRY(hs_jv_length(vm, a[0], &n));
    *out = hs_jv_int(n);
    return HLWQ_OK;
}

static hlwq_status f_items(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    if (a[0].type != HS_JV_DICT && a[0].type != HS_JV_UNDEFINED)
        return hs_jvm_fail(vm, "Can only get item pairs from a mapping.");
    if (a[0].type == HS_JV_UNDEFINED)
        return hs_jlist_new(vm, HS_JV_ITERATOR, 0, out);
    HS_TRY(hs_jdict_view(vm, a[0].dict, "dict_items", out));
    out->type = HS_JV_ITERATOR;
    return HLWQ_OK;
}

static hlwq_status f_attr(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    char name[64];
    if (a[1].type != HS_JV_STRING || a[1].bytes >= sizeof name || a[0].type == HS_JV_DICT)
        return hs_jv_undefined(vm, out, "%s object has no such attribute", hs_jv_type_name(a[0]));
    memcpy(name, a[1].text, a[1].bytes);
    name[a[1].bytes] = 0;
    return hs_jop_attribute(vm, a[0], name, out);
}

static hlwq_status f_format(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s, args;
    HS_TRY(hs_jv_str(vm, a[0], &s));
    if (vm->args->n > vm->args->positional) {
        HS_TRY(hs_jdict_new(vm, vm->args->n, &args));
        for (uint32_t i = vm->args->positional; i < vm->args->n; i++)
            HS_TRY(hs_jdict_put(vm, args.dict, hs_jv_text(vm->args->name[i]), vm->args->item[i]));
        if (vm->args->positional)
            return hs_jvm_fail(vm, "format takes positional or keyword arguments, not both");
    } else {
        HS_TRY(hs_jlist_new(vm, HS_JV_TUPLE, vm->args->n, &args));
        if (vm->args->n)
            memcpy(args.list->item, vm->args->item, vm->args->n * sizeof(hs_jv));
    }
    return hs_jop_percent(vm, s, args, out);
}

static const hs_jentry filters[] = {
    {"abs", "", f_abs},
    {"attr", "name", f_attr},
    {"capitalize", "", f_capitalize},
    {"center", "width=", f_center},
    {"count", "", f_length},
    {"d", "default_value= boolean=", f_default},
    {"default", "default_value= boolean=", f_default},
    {"e", "", f_escape},
    {"escape", "", f_escape},
    {"float", "default=", f_float},
    {"forceescape", "", f_forceescape},
    {"format", "*", f_format},
    {"indent", "width= first= blank=", f_indent},
    {"int", "default= base=", f_int},
    {"items", "", f_items},
    {"length", "", f_length},
    {"lower", "", f_lower},
    {"replace", "old new count=", f_replace},
    {"round", "precision= method=", f_round},
    {"safe", "", f_safe},
    {"string", "", f_string},
    {"title", "", f_title},
    {"trim", "chars=", f_trim},
    {"truncate", "length= killwords= end= leeway=", f_truncate},
    {"upper", "", f_upper},
    {"wordcount", "", f_wordcount},
    {NULL, NULL, NULL},
};

const hs_jentry *hs_jinja_filter(const char *name, size_t bytes)
{
    if (bytes == 6 && memcmp(name, "tojson", 6) == 0)
        return &hs_jinja_tojson;
    const hs_jentry *found = hs_jtable_find(filters, name, bytes);
    return found ? found : hs_jtable_find(hs_jinja_sequence_filters, name, bytes);
}
