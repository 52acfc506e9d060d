/*
 * model/jinja_format.c - Python's two ways to fill a pattern: "%s" % x and "{}".format(x).
 */
#include "model/jinja_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH_MAX = 10000 };

/* One field: what is to be written, and how. */
typedef struct field {
    char fill[4]; /* one character */
    uint32_t fill_bytes;
    char align; /* '<' '>' '^' '='; 0 = by type */
    char sign;  /* '-' '+' ' ' */
    bool alternate, comma;
    int width, precision; /* -1 = none */
    char type;            /* 0 = none */
} field;

/* Digits in groups of three, behind the sign and before the point. */
static void group_digits(hs_text *t, const char *number)
{
    size_t n = strcspn(number, ".eE"), at = number[0] == '-';
    hs_text_add(t, number, at);
    for (; at < n; at++) {
        hs_text_add(t, number + at, 1);
        if ((n - at) % 3 == 1 && at + 1 < n && number[at] >= '0')
            hs_text_add(t, ",", 1);
    }
    hs_text_add(t, number + n, strlen(number + n));
}

static hlwq_status whole_text(hs_jvm *vm, const field *f, hs_jv v, char out[80])
{
    int64_t i = v.type == HS_JV_FLOAT ? 0 : hs_jv_whole(v);
    if (v.type == HS_JV_FLOAT) {
        if (!(fabs(v.real) < 9e18))
            return hs_jvm_fail(vm, "cannot convert %g to an integer", v.real);
        i = (int64_t)v.real;
    }
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *sign = i < 0 ? "-" : "", *prefix = f->alternate ? (f->type == 'o'   ? "0o"
                                                                   : f->type == 'X' ? "0X"
                                                                                    : "0x")
                                                                : "";
    if (f->type == 'x')
        snprintf(out, 80, "%s%s%" PRIx64, sign, prefix, u);
    else if (f->type == 'X')
        snprintf(out, 80, "%s%s%" PRIX64, sign, prefix, u);
    else if (f->type == 'o')
        snprintf(out, 80, "%s%s%" PRIo64, sign, prefix, u);
    else if (f->type == 'b') {
        char *p = out + strlen(strcpy(out, sign));
        int bit = 63;
        while (bit > 0 && !(u >> bit & 1))
            bit--;
        for (; bit >= 0; bit--)
            *p++ = (char)('0' + (u >> bit & 1));
        *p = 0;
    } else
        snprintf(out, 80, "%s%" PRIu64, sign, u);
    return HLWQ_OK;
}

static hlwq_status real_text(hs_jvm *vm, const field *f, double d, hs_text *t)
{
    char format[] = "%.*f", number[512];
    int precision = f->precision < 0 ? 6 : f->precision;
    if (precision > 100)
        return hs_jvm_limit(vm, "a number with %d digits after the point, limit 100", precision);
    if (f->type == '%')
        d *= 100;
    format[3] = f->type == '%' || !f->type ? 'f' : f->type;
    if (isnan(d) || isinf(d))
        snprintf(number, sizeof number, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
    else
        snprintf(number, sizeof number, format, precision, d);
    if (f->comma)
        group_digits(t, number);
    else
        hs_text_format(t, "%s", number);
    if (f->type == '%')
        hs_text_add(t, "%", 1);
    return HLWQ_OK;
}

/* The value without padding; *numeric says how it is aligned. */
static hlwq_status field_text(hs_jvm *vm, const field *f, hs_jv v, bool *numeric, hs_text *t)
{
    char number[80];
    *numeric = true;
    if (f->type && strchr("dioxXb", f->type)) {
        if (!hs_jv_is_number(v))
            return hs_jvm_fail(vm, "a %%%c needs a number, not %s", f->type, hs_jv_type_name(v));
        HS_TRY(whole_text(vm, f, v, number));
        if (f->comma)
            group_digits(t, number);
        else
            hs_text_format(t, "%s", number);
        return HLWQ_OK;
    }
    if (f->type && strchr("feEgGF%", f->type)) {
        if (!hs_jv_is_number(v))
            return hs_jvm_fail(vm, "a %%%c needs a number, not %s", f->type, hs_jv_type_name(v));
        return real_text(vm, f, hs_jv_double(v), t);
    }
    if (f->type && f->type != 's')
        return hs_jvm_fail(vm, "unsupported format character '%c'", f->type);
    *numeric = !f->type && hs_jv_is_number(v) && v.type != HS_JV_BOOL;
    if (*numeric && (f->comma || f->precision >= 0) && v.type == HS_JV_FLOAT) {
        field g = *f;
        g.type = f->precision >= 0 ? 'g' : 'f';
        return real_text(vm, &g, v.real, t);
    }
    if (*numeric && f->comma) {
        HS_TRY(whole_text(vm, f, v, number));
        group_digits(t, number);
        return HLWQ_OK;
    }
    hs_jv s;
    HS_TRY(hs_jv_str(vm, v, &s));
    if (!*numeric && f->precision >= 0)
        s.bytes = hs_ju_offset(s, f->precision);
    return hs_jv_print(vm, s, t);
}

static void fill(const field *f, int64_t n, hs_text *t)
{
    for (; n > 0; n--)
        hs_text_add(t, f->fill_bytes ? f->fill : " ", f->fill_bytes ? f->fill_bytes : 1);
}

static hlwq_status write_field(hs_jvm *vm, const field *f, hs_jv v, hs_text *out)
{
    hs_text t = {0};
    bool numeric;
    if (f->width > WIDTH_MAX)
        return hs_jvm_limit(vm, "a field of %d characters, limit %d", f->width, WIDTH_MAX);
    hlwq_status st = field_text(vm, f, v, &numeric, &t);
    if (st == HLWQ_OK)
        st = hs_jtext_check(vm, &t);
    if (st == HLWQ_OK) {
        hs_jv s = hs_jv_slice(t.data ? t.data : "", t.bytes);
        bool negative = numeric && s.bytes && s.text[0] == '-';
        const char *sign = negative ? "-" : numeric && f->sign == '+' ? "+" : numeric && f->sign == ' ' ? " " : "";
        s.text += negative;
        s.bytes -= negative;
        int64_t room = f->width - hs_ju_length(s) - (int64_t)strlen(sign);
        char align = f->align ? f->align : numeric ? '>' : '<';
        int64_t left = room <= 0 ? 0 : align == '>' ? room : align == '^' ? room / 2 : 0;
        fill(f, left, out);
        hs_text_add(out, sign, strlen(sign));
        fill(f, align == '=' ? room : 0, out);
        hs_text_add(out, s.text, s.bytes);
        fill(f, align == '<' || align == '^' ? room - left : 0, out);
        st = hs_jvm_work(vm, s.bytes + (room > 0 ? (uint64_t)room : 0));
    }
    hs_text_close(&t);
    return st == HLWQ_OK ? hs_jtext_check(vm, out) : st;
}

/* A decimal number at *at; -1 if there is none. */
static int read_number(hs_jv s, uint32_t *at)
{
    int n = -1;
    for (; *at < s.bytes && s.text[*at] >= '0' && s.text[*at] <= '9'; ++*at)
        n = (n < 0 ? 0 : n) > 100000 ? 100000 : (n < 0 ? 0 : n) * 10 + (s.text[*at] - '0');
    return n;
}

/* ---- % ----------------------------------------------------------------------------------------- */

typedef struct arguments {
    const hs_jlist *list; /* positional */
    hs_jv mapping;
    uint32_t at;
} arguments;

static hlwq_status take_argument(hs_jvm *vm, arguments *a, hs_jv *out)
{
    if (a->at >= a->list->n)
        return hs_jvm_fail(vm, "not enough arguments for format string");
    *out = a->list->item[a->at++];
    return HLWQ_OK;
}

/* After '%': (name), flags, width, precision, letter. */
static hlwq_status percent_field(hs_jvm *vm, hs_jv s, uint32_t *at, arguments *args, hs_text *t)
{
    field f = {.width = 0, .precision = -1};
    hs_jv value = {0};
    if (*at < s.bytes && s.text[*at] == '(') {
        int64_t n = hs_ju_find(s.text + *at, s.bytes - *at, ")", 1);
        if (n < 0 || args->mapping.type != HS_JV_DICT)
            return hs_jvm_fail(vm, n < 0 ? "incomplete format key" : "format requires a mapping");
        const hs_jv *found = hs_jdict_find(vm, args->mapping.dict, hs_jv_slice(s.text + *at + 1, (size_t)n - 1));
        if (!found)
            return hs_jvm_fail(vm, "the key '%.*s' is not in the mapping", (int)(n - 1), s.text + *at + 1);
        value = *found;
        *at += (uint32_t)n + 1;
    }
    for (; *at < s.bytes && s.text[*at] && strchr("-+ #0", s.text[*at]); ++*at) {
        char c = s.text[*at];
        if (c == '-')
            f.align = '<';
        else if (c == '0' && f.align != '<')
            f = (field){.fill = "0", .fill_bytes = 1, .align = '=', .sign = f.sign, .precision = -1};
        else if (c == '#')
            f.alternate = true;
        else if (c == '+' || (c == ' ' && f.sign != '+'))
            f.sign = c;
    }
    int width = read_number(s, at);
    f.width = width < 0 ? 0 : width;
    f.align = f.align ? f.align : '>';
    if (*at < s.bytes && s.text[*at] == '.') {
        ++*at;
        f.precision = read_number(s, at);
        f.precision = f.precision < 0 ? 0 : f.precision;
    }
    if (*at >= s.bytes)
        return hs_jvm_fail(vm, "incomplete format");
    f.type = s.text[(*at)++];
    if (f.type == '%') {
        hs_text_add(t, "%", 1);
        return HLWQ_OK;
    }
    if (value.type == HS_JV_MISSING)
        HS_TRY(take_argument(vm, args, &value));
    if (f.type == 'r' || f.type == 'a') {
        hs_text r = {0};
        hlwq_status st = hs_jv_repr(vm, value, &r);
        if (st != HLWQ_OK) {
            hs_text_close(&r);
            return st;
        }
        HS_TRY(hs_jv_take(vm, &r, &value));
        f.type = 's';
    }
    f.type = f.type == 'i' || f.type == 'u' ? 'd' : f.type;
    if (f.type == 'c') {
        if (hs_jv_is_whole(value)) {
            char c[4];
            int64_t point = hs_jv_whole(value);
            if (point < 0 || point > 0x10FFFF)
                return hs_jvm_fail(vm, "%%c arg not in range(0x110000)");
            HS_TRY(hs_jvm_string(vm, c, hs_ju_put((int32_t)point, c), &value));
        } else if (value.type != HS_JV_STRING || hs_ju_length(value) != 1) {
            return hs_jvm_fail(vm, "%%c requires int or char");
        }
        f.type = 's';
    }
    if (!strchr("sdxXofFeEgG", f.type) || !f.type)
        return hs_jvm_fail(vm, "unsupported format character '%c'", f.type);
    if (f.type == 's' && f.align == '=')
        f = (field){.align = '>', .width = f.width, .precision = f.precision, .type = 's'};
    return write_field(vm, &f, value, t);
}

hlwq_status hs_jop_percent(hs_jvm *vm, hs_jv s, hs_jv values, hs_jv *out)
{
    const hs_jlist single = {.item = &values, .n = 1};
    arguments args = {.list = values.type == HS_JV_TUPLE ? values.list : &single, .mapping = values};
    hs_text t = {0};
    hlwq_status st = hs_jvm_work(vm, s.bytes);
    bool any = false;
    for (uint32_t i = 0; i < s.bytes && st == HLWQ_OK;) {
        const char *p = memchr(s.text + i, '%', s.bytes - i);
        uint32_t n = p ? (uint32_t)(p - (s.text + i)) : s.bytes - i;
        hs_text_add(&t, s.text + i, n);
        i += n;
        if (!p)
            break;
        i++;
        any |= i < s.bytes && s.text[i] == '(';
        st = percent_field(vm, s, &i, &args, &t);
    }
    if (st == HLWQ_OK && !any && args.at < args.list->n && values.type != HS_JV_DICT && values.type != HS_JV_LIST &&
        values.type != HS_JV_UNDEFINED && values.type != HS_JV_RANGE)
        st = hs_jvm_fail(vm, "not all arguments converted during string formatting");
    if (st == HLWQ_OK) {
        HS_TRY(hs_jv_take(vm, &t, out));
        out->markup = s.markup;
    }
    hs_text_close(&t);
    return st;
}

/* ---- format() ---------------------------------------------------------------------------------- */

/* "name.attribute[item]" or "0" or "". */
static hlwq_status field_value(hs_jvm *vm, hs_jv name, uint32_t *automatic, hs_jv *out)
{
    const hs_jargs *args = vm->args;
    uint32_t at = 0;
    int number = read_number(name, &at);
    bool found = false;
    if (number < 0) {
        while (at < name.bytes && name.text[at] != '.' && name.text[at] != '[')
            at++;
        if (at == 0)
            number = (int)(*automatic)++;
        for (uint32_t i = args->positional; i < args->n && at; i++) {
            if (!hs_jv_is(hs_jv_slice(name.text, at), args->name[i]))
                continue;
            *out = args->item[i];
            found = true;
        }
    }
    if (number >= 0 && (uint32_t)number < args->positional) {
        *out = args->item[number];
        found = true;
    }
    if (!found)
        return hs_jvm_fail(vm, "format() has no value for '{%.*s}'", (int)(name.bytes > 80 ? 80 : name.bytes),
                           name.text);
    while (at < name.bytes) {
        bool item = name.text[at++] == '[';
        uint32_t end = at;
        while (end < name.bytes && (item ? name.text[end] != ']' : name.text[end] != '.' && name.text[end] != '['))
            end++;
        hs_jv part = hs_jv_slice(name.text + at, end - at);
        uint32_t digits = 0;
        int index = read_number(part, &digits);
        HS_TRY(hs_jop_item(vm, *out, item && index >= 0 && digits == part.bytes ? hs_jv_int(index) : part, out));
        at = end + (item && end < name.bytes);
    }
    return HLWQ_OK;
}

static hlwq_status read_spec(hs_jvm *vm, hs_jv s, field *f)
{
    uint32_t at = 0, n;
    *f = (field){.width = 0, .precision = -1};
    if (s.bytes) {
        hs_ju_char(s.text, s.bytes, &n);
        if (n < s.bytes && strchr("<>^=", s.text[n])) {
            memcpy(f->fill, s.text, n);
            f->fill_bytes = n;
            f->align = s.text[n];
            at = n + 1;
        } else if (strchr("<>^=", s.text[0]) && s.text[0]) {
            f->align = s.text[0];
            at = 1;
        }
    }
    if (at < s.bytes && strchr("+- ", s.text[at]))
        f->sign = s.text[at++];
    if (at < s.bytes && s.text[at] == '#') {
        f->alternate = true;
        at++;
    }
    if (at < s.bytes && s.text[at] == '0') {
        at++;
        if (!f->align) {
            f->fill[0] = '0';
            f->fill_bytes = 1;
            f->align = '=';
        }
    }
    int width = read_number(s, &at);
    f->width = width < 0 ? 0 : width;
    if (at < s.bytes && s.text[at] == ',') {
        f->comma = true;
        at++;
    }
    if (at < s.bytes && s.text[at] == '.') {
        at++;
        f->precision = read_number(s, &at);
    }
    if (at < s.bytes)
        f->type = s.text[at++];
    return at == s.bytes ? HLWQ_OK : hs_jvm_fail(vm, "invalid format specifier '%.*s'", (int)s.bytes, s.text);
}

/* "{" was read; up to its "}". */
static hlwq_status brace_field(hs_jvm *vm, hs_jv s, uint32_t *at, uint32_t *automatic, hs_text *t)
{
    int64_t n = hs_ju_find(s.text + *at, s.bytes - *at, "}", 1);
    if (n < 0)
        return hs_jvm_fail(vm, "expected '}' before end of string");
    hs_jv inside = hs_jv_slice(s.text + *at, (size_t)n), spec = hs_jv_text(""), value;
    field f;
    *at += (uint32_t)n + 1;
    int64_t colon = hs_ju_find(inside.text, inside.bytes, ":", 1);
    if (colon >= 0) {
        spec = hs_jv_slice(inside.text + colon + 1, inside.bytes - (uint32_t)colon - 1);
        inside.bytes = (uint32_t)colon;
    }
    bool repr = inside.bytes >= 2 && memcmp(inside.text + inside.bytes - 2, "!r", 2) == 0;
    bool str = inside.bytes >= 2 && memcmp(inside.text + inside.bytes - 2, "!s", 2) == 0;
    inside.bytes -= repr || str ? 2 : 0;
    HS_TRY(field_value(vm, inside, automatic, &value));
    if (str)
        HS_TRY(hs_jv_str(vm, value, &value));
    if (repr) {
        hs_text r = {0};
        hlwq_status st = hs_jv_repr(vm, value, &r);
        if (st != HLWQ_OK) {
            hs_text_close(&r);
            return st;
        }
        HS_TRY(hs_jv_take(vm, &r, &value));
    }
    HS_TRY(read_spec(vm, spec, &f));
    return write_field(vm, &f, value, t);
}

hlwq_status hs_jinja_str_format(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s = a[0];
    hs_text t = {0};
    uint32_t automatic = 0;
    hlwq_status st = hs_jvm_work(vm, s.bytes);
    for (uint32_t i = 0; i < s.bytes && st == HLWQ_OK;) {
        char c = s.text[i++];
        bool twice = i < s.bytes && s.text[i] == c;
        if ((c != '{' && c != '}') || twice) {
            hs_text_add(&t, &c, 1);
            i += twice && (c == '{' || c == '}');
        } else if (c == '}') {
            st = hs_jvm_fail(vm, "single '}' encountered in format string");
        } else {
            st = brace_field(vm, s, &i, &automatic, &t);
        }
    }
    if (st == HLWQ_OK)
        return hs_jv_take(vm, &t, out);
    hs_text_close(&t);
    return st;
}
