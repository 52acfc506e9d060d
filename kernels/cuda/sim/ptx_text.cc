/*
 * kernels/cuda/sim/ptx_text.cc - the text of a PTX file: variables, functions, statements.
 *
 * What nvcc writes, no more: one directive or statement up to its ';', labels, braces that only limit names.  Spans
 * point into the module's own copy of the text.  What cannot be read is told in module->trouble and ends the reading.
 */
#include "kernels/cuda/sim/ptx.h"

#include <ctype.h>
#include <stdio.h>

uint32_t ptx_type_bytes(ptx_type t)
{
    static const uint8_t bytes[PTX_TYPES] = {0, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0};
    return bytes[t];
}

ptx_type ptx_type_of(const char *name, size_t n)
{
    static const char *const names[PTX_TYPES] = {"",   "b8",  "b16", "b32", "b64", "u8",  "u16", "u32", "u64",
                                                 "s8", "s16", "s32", "s64", "f16", "f32", "f64", "pred"};
    for (int t = PTX_B8; t < PTX_TYPES; t++)
        if (strlen(names[t]) == n && !memcmp(names[t], name, n))
            return (ptx_type)t;
    return PTX_NONE;
}

struct reader {
    ptx_module *m;
    const char *p, *end;
    uint32_t line, source_line;
};

static void blank(reader *r)
{
    while (r->p < r->end) {
        if (*r->p == '\n') {
            r->line++;
            r->p++;
        } else if (isspace((unsigned char)*r->p)) {
            r->p++;
        } else {
            return;
        }
    }
}

/* Comments become blanks, so that nobody else meets them. */
static void without_comments(char *text, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++) {
        if (text[i] == '"') {
            for (i++; i < n && text[i] != '"'; i++)
                continue;
        } else if (text[i] == '/' && text[i + 1] == '/') {
            for (; i < n && text[i] != '\n'; i++)
                text[i] = ' ';
        } else if (text[i] == '/' && text[i + 1] == '*') {
            for (; i + 1 < n && !(text[i] == '*' && text[i + 1] == '/'); i++)
                text[i] = text[i] == '\n' ? '\n' : ' ';
            if (i + 1 < n)
                text[i] = text[i + 1] = ' ';
        }
    }
}

static bool in_name(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

static ptx_span word(const char **p, const char *end)
{
    while (*p < end && isspace((unsigned char)**p))
        (*p)++;
    const char *from = *p;
    while (*p < end && in_name(**p))
        (*p)++;
    return {from, (uint32_t)(*p - from)};
}

static char after_blank(const char **p, const char *end)
{
    while (*p < end && isspace((unsigned char)**p))
        (*p)++;
    return *p < end ? **p : 0;
}

static bool say(reader *r, const char *what, const char *at)
{
    int n = 0;
    while (n < 60 && at + n < r->end && at[n] != '\n')
        n++;
    snprintf(r->m->trouble, sizeof r->m->trouble, "%s:%u: %s: %.*s", r->m->file, r->line, what, n, at);
    return false;
}

/* ---- variables ---- */

static void initialise(ptx_variable *v, ptx_type type, const char *p, const char *end)
{
    uint64_t at = 0, width = ptx_type_bytes(type);
    while (p < end && *p != '}' && at + width <= v->bytes) {
        ptx_span w = word(&p, end);
        uint64_t value;
        if (!w.n && p < end && (*p == '-' || *p == ',' || *p == '{')) {
            bool negative = *p++ == '-';
            if (!negative)
                continue;
            value = (uint64_t)-strtoll(word(&p, end).at, nullptr, 0);
        } else if (!w.n) {
            break;
        } else if (w.n > 2 && w.at[0] == '0' && strchr("fFdD", w.at[1])) {
            value = strtoull(w.at + 2, nullptr, 16);
        } else {
            value = strtoull(w.at, nullptr, 0);
        }
        memcpy(v->data + at, &value, width);
        at += width;
    }
}

ptx_variable *ptx_variable_read(ptx_span text)
{
    static const struct {
        const char *name;
        ptx_space space;
    } spaces[] = {{".global", PTX_GLOBAL},
                  {".shared", PTX_SHARED},
                  {".local", PTX_LOCAL},
                  {".param", PTX_PARAM},
                  {".const", PTX_CONST}};
    ptx_variable v = {};
    ptx_type type = PTX_NONE;
    bool found = false;
    const char *p = text.at, *end = text.at + text.n;
    for (;;) {
        ptx_span w = word(&p, end);
        if (!w.n)
            return nullptr;
        for (const auto &s : spaces)
            if (ptx_is(w, s.name)) {
                v.space = s.space;
                found = true;
            }
        if (ptx_is(w, ".align"))
            v.align = strtoull(word(&p, end).at, nullptr, 10);
        v.is_extern |= ptx_is(w, ".extern");
        if (w.at[0] == '.' && ptx_type_of(w.at + 1, w.n - 1))
            type = ptx_type_of(w.at + 1, w.n - 1);
        if (w.at[0] != '.') {
            v.name = w;
            break;
        }
    }
    if (!found || !type)
        return nullptr;
    v.bytes = ptx_type_bytes(type);
    if (after_blank(&p, end) == '[') {
        p++;
        v.bytes *= after_blank(&p, end) == ']' ? 0 : strtoull(p, nullptr, 0);
        while (p < end && *p++ != ']')
            continue;
    }
    v.align = v.align ? v.align : ptx_type_bytes(type);
    if (v.space == PTX_GLOBAL || v.space == PTX_CONST) {
        v.data = static_cast<uint8_t *>(aligned_alloc(64, (v.bytes + 64) / 64 * 64));
        if (!v.data)
            abort();
        memset(v.data, 0, v.bytes);
        if (after_blank(&p, end) == '=')
            initialise(&v, type, p + 1, end);
    }
    ptx_variable *out = static_cast<ptx_variable *>(sim_alloc(sizeof *out));
    *out = v;
    return out;
}

static void append(ptx_variable **list, ptx_variable *v)
{
    while (*list)
        list = &(*list)->next;
    *list = v;
}

/* "( .param .u64 a, .param .b8 b[4] )": p stands at the bracket, and after it then. */
static bool read_params(reader *r, ptx_variable **list)
{
    r->p++;
    for (;;) {
        blank(r);
        if (r->p >= r->end)
            return say(r, "a list without end", r->p);
        if (*r->p == ')') {
            r->p++;
            return true;
        }
        const char *from = r->p;
        while (r->p < r->end && *r->p != ',' && *r->p != ')')
            r->line += *r->p++ == '\n';
        ptx_variable *v = ptx_variable_read({from, (uint32_t)(r->p - from)});
        if (!v)
            return say(r, "no parameter", from);
        append(list, v);
        if (r->p < r->end && *r->p == ',')
            r->p++;
    }
}

/* ---- statements ---- */

static bool read_number_after(const char **p, const char *end, int64_t *to)
{
    char c = after_blank(p, end);
    if (c != '+' && c != '-')
        return true;
    (*p)++;
    char *rest;
    int64_t sign = c == '-' ? -1 : 1;
    if (after_blank(p, end) == '-') {
        sign = -sign;
        (*p)++;
    }
    *to = sign * (int64_t)strtoull(*p, &rest, 0);
    bool some = rest != *p;
    *p = rest;
    return some;
}

static bool read_operand(const char **p, const char *end, ptx_operand *o)
{
    *o = {};
    char c = after_blank(p, end);
    if (c == '!') {
        o->negated = true;
        (*p)++;
        c = after_blank(p, end);
    }
    if (c == '{' || c == '(') {
        char close = c == '{' ? '}' : ')';
        o->vector = true;
        (*p)++;
        while (after_blank(p, end) != close) {
            if (o->n == 8 || *p >= end)
                return false;
            o->name[o->n] = word(p, end);
            if (!o->name[o->n++].n)
                return false;
            if (after_blank(p, end) == ',')
                (*p)++;
        }
        (*p)++;
        return true;
    }
    o->bracket = c == '[';
    *p += o->bracket;
    if (!o->bracket && c == '-') { /* a negative number keeps its sign */
        const char *from = (*p)++;
        word(p, end);
        o->name[0] = {from, (uint32_t)(*p - from)};
    } else {
        o->name[0] = word(p, end);
    }
    o->n = 1;
    if (!o->name[0].n || !read_number_after(p, end, &o->offset))
        return false;
    if (o->bracket && after_blank(p, end) != ']')
        return false;
    *p += o->bracket;
    if (after_blank(p, end) == '|') {
        (*p)++;
        o->second = word(p, end);
    }
    return true;
}

static bool read_statement(reader *r, ptx_statement *s, const char *p, const char *end)
{
    const char *from = p;
    if (after_blank(&p, end) == '@') {
        p++;
        if (after_blank(&p, end) == '!') {
            s->guard_negated = true;
            p++;
        }
        s->guard = word(&p, end);
    }
    s->opcode = word(&p, end);
    if (p + 1 < end && p[0] == ':' && p[1] == ':') { /* ld.global.nc.L1::no_allocate.u32 */
        p += 2;
        word(&p, end);
        s->opcode.n = (uint32_t)(p - s->opcode.at);
    }
    if (!s->opcode.n)
        return say(r, "no statement", from);
    while (after_blank(&p, end)) {
        if (s->n_operands == PTX_OPERANDS || !read_operand(&p, end, &s->operand[s->n_operands]))
            return say(r, "operands that are not understood", from);
        s->n_operands++;
        if (after_blank(&p, end) == ',')
            p++;
        else if (p < end)
            return say(r, "more than operands", from);
    }
    return true;
}

static ptx_statement *next_statement(reader *r, ptx_body *b)
{
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 256;
        b->statement = static_cast<ptx_statement *>(realloc(b->statement, b->cap * sizeof *b->statement));
        if (!b->statement)
            abort();
    }
    ptx_statement *s = &b->statement[b->n++];
    *s = {};
    s->line = r->line;
    s->source_line = r->source_line;
    return s;
}

/* ".loc 1 88 5, function_name .., inlined_at .." ends with its line. */
static void read_loc(reader *r)
{
    const char *p = r->p + 4;
    word(&p, r->end);
    r->source_line = (uint32_t)strtoul(word(&p, r->end).at, nullptr, 10);
    while (r->p < r->end && *r->p != '\n')
        r->p++;
}

static bool read_body(reader *r, ptx_body *b)
{
    uint32_t depth = 0;
    do {
        blank(r);
        if (r->p >= r->end)
            return say(r, "a function without end", r->p);
        if (*r->p == '{' || *r->p == '}') {
            depth += *r->p == '{' ? 1u : ~0u;
            r->p++;
            continue;
        }
        if (!strncmp(r->p, ".loc", 4) && isspace((unsigned char)r->p[4])) {
            read_loc(r);
            continue;
        }
        const char *from = r->p;
        uint32_t line = r->line;
        ptx_span first = word(&r->p, r->end);
        blank(r);
        if (first.n && r->p < r->end && *r->p == ':' && r->p[1] != ':') {
            r->p++;
            next_statement(r, b)->label = first;
            continue;
        }
        while (r->p < r->end && *r->p != ';')
            r->line += *r->p++ == '\n';
        uint32_t after = r->line;
        r->line = line;
        ptx_statement *s = next_statement(r, b);
        if (*from == '.')
            s->declared = {from, (uint32_t)(r->p - from)};
        else if (!read_statement(r, s, from, r->p))
            return false;
        r->line = after;
        r->p++;
    } while (depth);
    return true;
}

static bool read_function(reader *r, bool entry)
{
    ptx_body *b = static_cast<ptx_body *>(sim_alloc(sizeof *b));
    b->next = r->m->body;
    r->m->body = b;
    b->entry = entry;
    blank(r);
    if (*r->p == '(' && !read_params(r, &b->result))
        return false;
    blank(r);
    b->name = word(&r->p, r->end);
    blank(r);
    if (*r->p == '(' && !read_params(r, &b->param))
        return false;
    for (;;) {
        blank(r);
        if (r->p >= r->end)
            return say(r, "a function without a body", r->p);
        if (*r->p == ';') {
            r->p++;
            return true;
        }
        if (*r->p == '{') {
            b->has_body = true;
            return read_body(r, b);
        }
        ptx_span w = word(&r->p, r->end);
        if (ptx_is(w, ".maxntid")) {
            for (b->max_threads = 1; after_blank(&r->p, r->end) == ',' || b->max_threads == 1;) {
                r->p += *r->p == ',';
                b->max_threads *= (uint32_t)strtoul(word(&r->p, r->end).at, nullptr, 10);
            }
        } else if (!w.n) {
            r->p++; /* numbers of other directives, and their commas */
        }
    }
}

static bool read_top(reader *r)
{
    for (;;) {
        blank(r);
        if (r->p >= r->end)
            return true;
        const char *from = r->p;
        ptx_span w = word(&r->p, r->end);
        if (ptx_is(w, ".version") || ptx_is(w, ".target") || ptx_is(w, ".address_size") || ptx_is(w, ".file")) {
            while (r->p < r->end && *r->p != '\n')
                r->p++;
        } else if (ptx_is(w, ".section")) {
            while (r->p < r->end && *r->p != '}')
                r->line += *r->p++ == '\n';
            r->p++;
        } else if (ptx_is(w, ".visible") || ptx_is(w, ".weak")) {
            continue;
        } else if (ptx_is(w, ".entry") || ptx_is(w, ".func")) {
            if (!read_function(r, ptx_is(w, ".entry")))
                return false;
        } else {
            while (r->p < r->end && *r->p != ';')
                r->line += *r->p++ == '\n';
            ptx_variable *v = ptx_variable_read({from, (uint32_t)(r->p - from)});
            if (!v)
                return say(r, "not understood", from);
            append(&r->m->variable, v);
            r->p++;
        }
    }
}

ptx_module *ptx_module_read(const char *text, size_t bytes, const char *file)
{
    ptx_module *m = static_cast<ptx_module *>(sim_alloc(sizeof *m));
    m->text = static_cast<char *>(sim_alloc(bytes + 1));
    memcpy(m->text, text, bytes);
    snprintf(m->file, sizeof m->file, "%s", file);
    without_comments(m->text, bytes);
    reader r = {m, m->text, m->text + bytes, 1, 0};
    read_top(&r);
    return m;
}

static void free_variables(ptx_variable *v)
{
    while (v) {
        ptx_variable *next = v->next;
        free(v->data);
        free(v);
        v = next;
    }
}

void ptx_module_free(ptx_module *m)
{
    while (m->body) {
        ptx_body *b = m->body;
        m->body = b->next;
        free_variables(b->param);
        free_variables(b->result);
        free(b->statement);
        free(b);
    }
    free_variables(m->variable);
    free(m->text);
    free(m);
}
