/*
 * model/jinja_print.c - values as text: str(), repr() and json.dumps(), to the byte.
 */
#include "model/jinja_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

hlwq_status hs_jtext_check(hs_jvm *vm, const hs_text *t)
{
    if (t->failed)
        return hs_jvm_limit(vm, "no memory for its text");
    if (t->bytes > vm->limits.output_bytes)
        return hs_jvm_limit(vm, "makes a text longer than %" PRIu64 " bytes", vm->limits.output_bytes);
    return HLWQ_OK;
}

hlwq_status hs_jv_take(hs_jvm *vm, hs_text *t, hs_jv *out)
{
    hlwq_status st = hs_jtext_check(vm, t);
    if (st == HLWQ_OK)
        st = hs_jvm_string(vm, t->data, t->bytes, out);
    hs_text_close(t);
    return st;
}

/* Shortest digits that read back as `f`, written as Python's repr writes them. */
hlwq_status hs_jv_float_text(hs_jvm *vm, double f, char out[40])
{
    char text[40], digit[20];
    int n = 0, precision = 0;
    HS_TRY(hs_jvm_step(vm, 4));
    if (isnan(f) || isinf(f)) {
        strcpy(out, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return HLWQ_OK;
    }
    do
        snprintf(text, sizeof text, "%.*e", precision, f);
    while (strtod(text, NULL) != f && ++precision < 17);
    char *e = strchr(text, 'e');
    int exponent = atoi(e + 1);
    for (char *p = text; p < e; p++)
        if (*p >= '0' && *p <= '9')
            digit[n++] = *p;
    while (n > 1 && digit[n - 1] == '0')
        n--;
    digit[n] = 0;
    const char *sign = signbit(f) ? "-" : "";
    if (exponent < -4 || exponent >= 16)
        snprintf(out, 40, "%s%c%s%se%c%02d", sign, digit[0], n > 1 ? "." : "", digit + 1, exponent < 0 ? '-' : '+',
                 abs(exponent));
    else if (exponent < 0)
        snprintf(out, 40, "%s0.%.*s%s", sign, -exponent - 1, "0000", digit);
    else if (n <= exponent + 1)
        snprintf(out, 40, "%s%s%.*s.0", sign, digit, exponent + 1 - n, "0000000000000000");
    else
        snprintf(out, 40, "%s%.*s.%s", sign, exponent + 1, digit, digit + exponent + 1);
    return HLWQ_OK;
}

/* ---- repr -------------------------------------------------------------------------------------- */

static void repr_string(hs_jv s, hs_text *t)
{
    char quote = memchr(s.text, '\'', s.bytes) && !memchr(s.text, '"', s.bytes) ? '"' : '\'';
    hs_text_add(t, &quote, 1);
    for (uint32_t i = 0, n; i < s.bytes; i += n) {
        for (n = 0; i + n < s.bytes; n++) {
            unsigned char c = (unsigned char)s.text[i + n];
            if (c < 0x20 || c >= 0x7F || c == quote || c == '\\')
                break;
        }
        if (n) {
            hs_text_add(t, s.text + i, n);
            continue;
        }
        int32_t c = hs_ju_char(s.text + i, s.bytes - i, &n);
        if (c == quote || c == '\\')
            hs_text_add(t, c == '\\' ? "\\\\" : quote == '"' ? "\\\"" : "\\'", 2);
        else if (c == '\n' || c == '\r' || c == '\t')
            hs_text_add(t, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", 2);
        else if (hs_ju_printable(c))
            hs_text_add(t, s.text + i, n);
        else
            hs_text_format(t, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
    }
    hs_text_add(t, &quote, 1);
}

static hlwq_status repr_list(hs_jvm *vm, hs_jv v, hs_text *t)
{
    const hs_jlist *list = v.list;
    if (v.type == HS_JV_RANGE) {
        hs_text_format(
            t, list->step == 1 ? "range(%" PRId64 ", %" PRId64 ")" : "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")",
            list->start, list->stop, list->step);
        return HLWQ_OK;
    }
    if (v.type == HS_JV_ITERATOR) {
        hs_text_format(t, "<generator>");
        return HLWQ_OK;
    }
    if (v.type == HS_JV_VIEW)
        hs_text_format(t, "%s(", list->name);
    hs_text_add(t, v.type == HS_JV_TUPLE ? "(" : "[", 1);
    for (uint32_t i = 0; i < list->n; i++) {
        if (i)
            hs_text_add(t, ", ", 2);
        HS_TRY(hs_jv_repr(vm, list->item[i], t));
    }
    hs_text_format(t, "%s", v.type != HS_JV_TUPLE ? "]" : list->n == 1 ? ",)" : ")");
    if (v.type == HS_JV_VIEW)
        hs_text_add(t, ")", 1);
    return HLWQ_OK;
}

static hlwq_status repr_dict(hs_jvm *vm, const hs_jdict *d, hs_text *t)
{
    hs_text_add(t, "{", 1);
    for (uint32_t i = 0; i < d->n; i++) {
        if (i)
            hs_text_add(t, ", ", 2);
        HS_TRY(hs_jv_repr(vm, d->key[i], t));
        hs_text_add(t, ": ", 2);
        HS_TRY(hs_jv_repr(vm, d->value[i], t));
    }
    hs_text_add(t, "}", 1);
    return HLWQ_OK;
}

static hlwq_status repr(hs_jvm *vm, hs_jv v, hs_text *t)
{
    char number[40];
    switch ((hs_jv_type)v.type) {
    case HS_JV_MISSING:
    case HS_JV_UNDEFINED: hs_text_format(t, "Undefined"); break;
    case HS_JV_NONE: hs_text_format(t, "None"); break;
    case HS_JV_BOOL: hs_text_format(t, v.boolean ? "True" : "False"); break;
    case HS_JV_INT: hs_text_format(t, "%" PRId64, v.integer); break;
    case HS_JV_FLOAT:
        HS_TRY(hs_jv_float_text(vm, v.real, number));
        hs_text_format(t, "%s", number);
        break;
    case HS_JV_STRING:
        HS_TRY(hs_jvm_work(vm, v.bytes * 8ull));
        if (v.markup)
            hs_text_format(t, "Markup(");
        repr_string(v, t);
        if (v.markup)
            hs_text_add(t, ")", 1);
        break;
    case HS_JV_LIST:
    case HS_JV_TUPLE:
    case HS_JV_RANGE:
    case HS_JV_VIEW:
    case HS_JV_ITERATOR: HS_TRY(repr_list(vm, v, t)); break;
    case HS_JV_DICT: HS_TRY(repr_dict(vm, v.dict, t)); break;
    case HS_JV_NAMESPACE:
        hs_text_format(t, "<Namespace ");
        HS_TRY(repr_dict(vm, v.dict, t));
        hs_text_add(t, ">", 1);
        break;
    case HS_JV_LOOP: hs_text_format(t, "<LoopContext %u/%u>", v.loop->at + 1, v.loop->list->n); break;
    case HS_JV_MACRO: hs_text_format(t, "<Macro '%s'>", v.macro->node->name ? v.macro->node->name : "caller"); break;
    case HS_JV_FUNCTION: hs_text_format(t, "<function %s>", v.function->name); break;
    case HS_JV_METHOD: hs_text_format(t, "<method %s>", v.method->entry->name); break;
    }
    return hs_jtext_check(vm, t);
}

hlwq_status hs_jv_repr(hs_jvm *vm, hs_jv v, hs_text *t)
{
    HS_TRY(hs_jvm_enter(vm));
    hlwq_status st = repr(vm, v, t);
    vm->depth--;
    return st;
}

hlwq_status hs_jv_print(hs_jvm *vm, hs_jv v, hs_text *t)
{
    if (v.type == HS_JV_UNDEFINED || v.type == HS_JV_MISSING)
        return HLWQ_OK;
    if (v.type != HS_JV_STRING)
        return hs_jv_repr(vm, v, t);
    HS_TRY(hs_jvm_work(vm, v.bytes));
    if (v.bytes > vm->limits.output_bytes - t->bytes) /* before it is copied */
        return hs_jvm_limit(vm, "makes a text longer than %" PRIu64 " bytes", vm->limits.output_bytes);
    hs_text_add(t, v.text, v.bytes);
    return hs_jtext_check(vm, t);
}

hlwq_status hs_jv_str(hs_jvm *vm, hs_jv v, hs_jv *out)
{
    *out = v;
    if (v.type == HS_JV_STRING)
        return HLWQ_OK;
    *out = hs_jv_text("");
    if (v.type == HS_JV_UNDEFINED)
        return HLWQ_OK;
    hs_text t = {0};
    hlwq_status st = hs_jv_print(vm, v, &t);
    if (st == HLWQ_OK)
        return hs_jv_take(vm, &t, out);
    hs_text_close(&t);
    return st;
}

hlwq_status hs_jv_escape(hs_jvm *vm, hs_jv v, hs_jv *out)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    hs_jv s;
    HS_TRY(hs_jv_str(vm, v, &s));
    *out = s;
    out->markup = true;
    if (s.markup)
        return HLWQ_OK;
    HS_TRY(hs_jvm_work(vm, (uint64_t)s.bytes * 4));
    hs_text t = {0};
    for (uint32_t i = 0; i < s.bytes; i++) {
        const char *found = s.text[i] ? strchr(from, s.text[i]) : NULL;
        if (found)
            hs_text_format(&t, "%s", to[found - from]);
        else
            hs_text_add(&t, s.text + i, 1);
    }
    HS_TRY(hs_jv_take(vm, &t, out));
    out->markup = true;
    return HLWQ_OK;
}

/* ---- JSON -------------------------------------------------------------------------------------- */

typedef struct writer {
    hs_jvm *vm;
    hs_text *text;
    bool ascii, sorted, pretty;
    hs_jv indent; /* of one level */
    hs_jv comma, colon;
} writer;

/* How much of the string goes as it is from `i` on. */
static uint32_t plain_run(const writer *w, hs_jv s, uint32_t i)
{
    uint32_t end = i;
    for (; end < s.bytes; end++) {
        unsigned char c = (unsigned char)s.text[end];
        if (c < 0x20 || c == '"' || c == '\\' || (w->ascii && c >= 0x7F))
            break;
    }
    return end - i;
}

static void json_string(const writer *w, hs_jv s)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    hs_text *t = w->text;
    hs_text_add(t, "\"", 1);
    for (uint32_t i = 0, n; i < s.bytes; i += n) {
        n = plain_run(w, s, i);
        if (n) {
            hs_text_add(t, s.text + i, n);
            continue;
        }
        int32_t c = hs_ju_char(s.text + i, s.bytes - i, &n);
        const char *found = c && c < 128 ? strchr(from, (char)c) : NULL;
        if (found)
            hs_text_format(t, "\\%c", to[found - from]);
        else if (c < 0x10000)
            hs_text_format(t, "\\u%04x", (unsigned)c);
        else
            hs_text_format(t, "\\u%04x\\u%04x", 0xD800 + (((unsigned)c - 0x10000) >> 10),
                           0xDC00 + ((unsigned)c & 0x3FF));
    }
    hs_text_add(t, "\"", 1);
}

static void new_line(const writer *w, uint32_t level)
{
    if (!w->pretty)
        return;
    hs_text_add(w->text, "\n", 1);
    for (uint32_t i = 0; i < level; i++)
        hs_text_add(w->text, w->indent.text, w->indent.bytes);
}

static hlwq_status json_value(const writer *w, hs_jv v, uint32_t level);

static hlwq_status json_list(const writer *w, const hs_jlist *list, uint32_t level)
{
    hs_text_add(w->text, "[", 1);
    for (uint32_t i = 0; i < list->n; i++) {
        if (i)
            hs_text_add(w->text, w->comma.text, w->comma.bytes);
        new_line(w, level + 1);
        HS_TRY(json_value(w, list->item[i], level + 1));
    }
    if (list->n)
        new_line(w, level);
    hs_text_add(w->text, "]", 1);
    return HLWQ_OK;
}

static hlwq_status json_key(const writer *w, hs_jv key)
{
    if (key.type == HS_JV_STRING) {
        json_string(w, key);
        return hs_jvm_work(w->vm, key.bytes);
    }
    if (key.type != HS_JV_NONE && !hs_jv_is_number(key))
        return hs_jvm_fail(w->vm, "keys must be str, int, float, bool or None, not %s", hs_jv_type_name(key));
    hs_text_add(w->text, "\"", 1);
    HS_TRY(json_value(w, key, 0));
    hs_text_add(w->text, "\"", 1);
    return HLWQ_OK;
}

static hlwq_status json_dict(const writer *w, const hs_jdict *d, uint32_t level)
{
    void *p = NULL;
    if (w->sorted) { /* positions, by insertion: what is sorted here is small */
        HS_TRY(hs_jvm_alloc(w->vm, d->n, sizeof(uint32_t), &p));
        for (uint32_t i = 0; i < d->n; i++) {
            uint32_t k = i;
            for (int order = 0; k > 0; k--) {
                HS_TRY(hs_jv_order(w->vm, d->key[i], d->key[((uint32_t *)p)[k - 1]], "<", &order));
                if (order >= 0)
                    break;
                ((uint32_t *)p)[k] = ((uint32_t *)p)[k - 1];
            }
            ((uint32_t *)p)[k] = i;
        }
    }
    const uint32_t *position = p;
    hs_text_add(w->text, "{", 1);
    for (uint32_t i = 0; i < d->n; i++) {
        uint32_t at = position ? position[i] : i;
        if (i)
            hs_text_add(w->text, w->comma.text, w->comma.bytes);
        new_line(w, level + 1);
        HS_TRY(json_key(w, d->key[at]));
        hs_text_add(w->text, w->colon.text, w->colon.bytes);
        HS_TRY(json_value(w, d->value[at], level + 1));
    }
    if (d->n)
        new_line(w, level);
    hs_text_add(w->text, "}", 1);
    return HLWQ_OK;
}

static hlwq_status json_deep(const writer *w, hs_jv v, uint32_t level)
{
    char number[40];
    switch ((hs_jv_type)v.type) {
    case HS_JV_NONE: hs_text_format(w->text, "null"); break;
    case HS_JV_BOOL: hs_text_format(w->text, v.boolean ? "true" : "false"); break;
    case HS_JV_INT: hs_text_format(w->text, "%" PRId64, v.integer); break;
    case HS_JV_FLOAT:
        HS_TRY(hs_jv_float_text(w->vm, v.real, number));
        hs_text_format(w->text, "%s",
                       isnan(v.real)   ? "NaN"
                       : isinf(v.real) ? (v.real < 0 ? "-Infinity" : "Infinity")
                                       : number);
        break;
    case HS_JV_STRING:
        HS_TRY(hs_jvm_work(w->vm, v.bytes));
        json_string(w, v);
        break;
    case HS_JV_LIST:
    case HS_JV_TUPLE: HS_TRY(json_list(w, v.list, level)); break;
    case HS_JV_DICT: HS_TRY(json_dict(w, v.dict, level)); break;
    default: return hs_jvm_fail(w->vm, "Object of type %s is not JSON serializable", hs_jv_type_name(v));
    }
    return hs_jtext_check(w->vm, w->text);
}

static hlwq_status json_value(const writer *w, hs_jv v, uint32_t level)
{
    HS_TRY(hs_jvm_enter(w->vm));
    hlwq_status st = json_deep(w, v, level);
    w->vm->depth--;
    return st;
}

/* value, ensure_ascii, indent, separators, sort_keys: as transformers defines the filter. */
static hlwq_status tojson(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_text text = {0};
    char spaces[] = "                                                                ";
    writer w = {.vm = vm,
                .text = &text,
                .ascii = hs_jv_truth(a[1]),
                .sorted = hs_jv_truth(a[4]),
                .comma = hs_jv_text(", "),
                .colon = hs_jv_text(": ")};
    if (a[2].type == HS_JV_STRING) {
        w.pretty = true;
        w.indent = a[2];
    } else if (hs_jv_is_whole(a[2])) {
        int64_t n = hs_jv_whole(a[2]);
        if (n >= (int64_t)sizeof spaces)
            return hs_jvm_limit(vm, "indent of %" PRId64 ", limit %zu", n, sizeof spaces - 1);
        w.pretty = true;
        w.indent = hs_jv_slice(spaces, n < 0 ? 0 : (size_t)n);
    } else if (a[2].type > HS_JV_NONE) {
        return hs_jvm_fail(vm, "tojson: indent is %s, not a number or a string", hs_jv_type_name(a[2]));
    }
    if (w.indent.bytes >= sizeof spaces)
        return hs_jvm_limit(vm, "indent of %u bytes, limit %zu", w.indent.bytes, sizeof spaces - 1);
    if (w.pretty)
        w.comma = hs_jv_text(",");
    if (hs_jv_is_list(a[3]) && a[3].list->n == 2 && a[3].list->item[0].type == HS_JV_STRING &&
        a[3].list->item[1].type == HS_JV_STRING) {
        w.comma = a[3].list->item[0];
        w.colon = a[3].list->item[1];
    } else if (a[3].type > HS_JV_NONE) {
        return hs_jvm_fail(vm, "tojson: separators must be two strings");
    }
    hlwq_status st = json_value(&w, a[0], 0);
    if (st == HLWQ_OK)
        return hs_jv_take(vm, &text, out);
    hs_text_close(&text);
    return st;
}

const hs_jentry hs_jinja_tojson = {"tojson", "ensure_ascii= indent= separators= sort_keys=", tojson};
