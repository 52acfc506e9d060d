/*
 * model/jinja_lex.c - a template's text to tokens, one at a time.
 *
 * The whitespace rules are those of Jinja with trim_blocks and lstrip_blocks on, as chat templates expect: a tag on a
 * line of its own leaves nothing of that line, "-" takes all white space on its side, "+" keeps what is there.
 */
#include "model/jinja_private.h"

#include <stdio.h>
#include <stdlib.h>

hlwq_status hs_jinja_fail_at(hlwq_error *err, const char *what, uint32_t line, hlwq_status status, const char *format,
                             va_list args)
{
    char sentence[sizeof err->message];
    vsnprintf(sentence, sizeof sentence, format, args);
    return hs_fail(err, status, "%s, line %u: %s", what, line, sentence);
}

__attribute__((format(printf, 2, 3))) static hlwq_status fail(hs_jlexer *x, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    hlwq_status st = hs_jinja_fail_at(x->err, x->what, x->line, HLWQ_ERR_FORMAT, format, args);
    va_end(args);
    return st;
}

static bool looking_at(const hs_jlexer *x, size_t at, const char *text)
{
    size_t n = strlen(text);
    return x->bytes - at >= n && memcmp(x->text + at, text, n) == 0;
}

static size_t skip_space(const hs_jlexer *x, size_t at)
{
    while (at < x->bytes) {
        uint32_t n;
        if (!hs_ju_space(hs_ju_char(x->text + at, x->bytes - at, &n)))
            break;
        at += n;
    }
    return at;
}

/* Moves to `at`, counting lines. */
static void advance(hs_jlexer *x, size_t at)
{
    for (; x->at < at; x->at++)
        x->line += x->text[x->at] == '\n';
}

/* Is there "%}" with its sign (or "}}", "#}") at `at`? *end is where it ends, with the white space it takes. */
static bool closes(const hs_jlexer *x, size_t at, const char *closer, bool plus, bool trim, size_t *end)
{
    bool minus = at < x->bytes && x->text[at] == '-';
    bool sign = minus || (plus && at < x->bytes && x->text[at] == '+');
    if (!looking_at(x, at + sign, closer))
        return false;
    *end = at + sign + 2;
    if (minus)
        *end = skip_space(x, *end);
    else if (!sign && trim && *end < x->bytes && x->text[*end] == '\n')
        ++*end;
    return true;
}

/* The text before a tag, without what the tag takes of it. `first` is where it began. */
static size_t text_end(const hs_jlexer *x, size_t first, size_t end, char sign, bool variable)
{
    hs_jv text = hs_jv_slice(x->text + first, end - first);
    if (sign == '-')
        return first + hs_ju_strip(text, NULL, false, true).bytes;
    if (sign == '+' || variable)
        return end;
    size_t line = end;
    while (line > first && x->text[line - 1] != '\n')
        line--;
    bool starts = line > first || first == 0 || x->text[first - 1] == '\n';
    return starts && skip_space(x, line) >= end ? line : end;
}

static hlwq_status skip_comment(hs_jlexer *x)
{
    for (size_t at = x->at; at < x->bytes; at++) {
        size_t end;
        if (!closes(x, at, "#}", true, true, &end))
            continue;
        advance(x, end);
        return HLWQ_OK;
    }
    return fail(x, "a comment has no end");
}

/* After "{%" and its sign: "raw %}"? *end is where the raw text begins. */
static bool raw_begins(const hs_jlexer *x, size_t at, size_t *end)
{
    at = skip_space(x, at);
    if (!looking_at(x, at, "raw"))
        return false;
    return closes(x, skip_space(x, at + 3), "%}", false, false, end);
}

/* Raw text up to {% endraw %}. */
static hlwq_status raw_text(hs_jlexer *x, hs_jtoken *token)
{
    size_t first = x->at;
    for (size_t at = first; at + 1 < x->bytes; at++) {
        if (x->text[at] != '{' || x->text[at + 1] != '%')
            continue;
        char sign = at + 2 < x->bytes ? x->text[at + 2] : 0;
        size_t name = skip_space(x, at + 2 + (sign == '-' || sign == '+'));
        size_t end;
        if (!looking_at(x, name, "endraw") || !closes(x, skip_space(x, name + 6), "%}", true, true, &end))
            continue;
        *token = (hs_jtoken){.kind = HS_JT_DATA, .line = x->line, .text = x->text + first};
        token->bytes = (uint32_t)(text_end(x, first, at, sign, false) - first);
        advance(x, end);
        return HLWQ_OK;
    }
    return fail(x, "{%% raw %%} has no {%% endraw %%}");
}

/* Text up to the next tag, and the tag's beginning once there is no text left. */
static hlwq_status root(hs_jlexer *x, hs_jtoken *token)
{
    for (;;) {
        size_t first = x->at, at = first, end;
        while (at < x->bytes && (x->text[at] != '{' || at + 1 >= x->bytes || !memchr("%{#", x->text[at + 1], 3)))
            at++;
        *token = (hs_jtoken){.kind = HS_JT_DATA, .line = x->line, .text = x->text + first};
        if (at == x->bytes) {
            token->bytes = (uint32_t)(at - first);
            if (at == first)
                token->kind = HS_JT_END;
            advance(x, at);
            return HLWQ_OK;
        }
        char kind = x->text[at + 1], sign = at + 2 < x->bytes ? x->text[at + 2] : 0;
        token->bytes = (uint32_t)(text_end(x, first, at, sign, kind == '{') - first);
        if (token->bytes) { /* the tag comes with the next call, which must not look at this text again */
            advance(x, at);
            return HLWQ_OK;
        }
        advance(x, at + 2 + (sign == '-' || sign == '+'));
        if (kind == '#') {
            HS_TRY(skip_comment(x));
        } else if (kind == '%' && raw_begins(x, x->at, &end)) {
            advance(x, end);
            HS_TRY(raw_text(x, token));
            if (token->bytes)
                return HLWQ_OK;
        } else {
            token->kind = kind == '{' ? HS_JT_VARIABLE_BEGIN : HS_JT_BLOCK_BEGIN;
            token->line = x->line;
            x->state = kind == '{' ? HS_JLEX_VARIABLE : HS_JLEX_BLOCK;
            return HLWQ_OK;
        }
    }
}

/* ---- literals -------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

static int digit_value(char c)
{
    if (is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

/* Digits of `base` with single underscores between them; how many characters. */
static size_t digits(const hs_jlexer *x, size_t at, int base)
{
    size_t n = 0;
    while (at + n < x->bytes) {
        char c = x->text[at + n];
        if (digit_value(c) < base)
            n++;
        else if (c == '_' && n && at + n + 1 < x->bytes && digit_value(x->text[at + n + 1]) < base)
            n += 2;
        else
            break;
    }
    return n;
}

static hlwq_status real_number(hs_jlexer *x, size_t end, hs_jtoken *token)
{
    char text[64];
    size_t n = 0;
    if (end - x->at >= sizeof text)
        return fail(x, "a number of %zu characters, limit %zu", end - x->at, sizeof text - 1);
    for (size_t i = x->at; i < end; i++)
        if (x->text[i] != '_')
            text[n++] = x->text[i];
    token->kind = HS_JT_FLOAT;
    if (!hs_ju_parse_float(hs_jv_slice(text, n), &token->real))
        return fail(x, "%.*s is no number", (int)n, text);
    advance(x, end);
    return HLWQ_OK;
}

static hlwq_status number(hs_jlexer *x, hs_jtoken *token)
{
    size_t at = x->at, whole = digits(x, at, 10), end = at + whole;
    bool real = false, after_dot = at > 0 && x->text[at - 1] == '.';
    if (end + 1 < x->bytes && x->text[end] == '.' && is_digit(x->text[end + 1])) {
        end += 1 + digits(x, end + 1, 10);
        real = true;
    }
    if (end < x->bytes && (x->text[end] | 0x20) == 'e') {
        size_t sign = end + 1 < x->bytes && (x->text[end + 1] == '+' || x->text[end + 1] == '-');
        if (end + 1 + sign < x->bytes && is_digit(x->text[end + 1 + sign])) {
            end += 1 + sign + digits(x, end + 1 + sign, 10);
            real = true;
        }
    }
    if (real && !after_dot)
        return real_number(x, end, token);
    int base = 10;
    size_t prefix = 0;
    if (x->text[at] == '0') {
        char c = at + 1 < x->bytes ? x->text[at + 1] | 0x20 : 0;
        base = c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 10;
        prefix = base == 10 ? 0 : 2;
        prefix += prefix && at + 2 < x->bytes && x->text[at + 2] == '_';
        if (prefix && !digits(x, at + prefix, base)) {
            base = 10;
            prefix = 0;
        }
    }
    end = at + prefix + digits(x, at + prefix, base);
    if (base == 10 && x->text[at] == '0') /* 007 is 00 and 7 */
        for (end = at + 1; end < x->bytes && x->text[end] == '0'; end++)
            ;
    token->kind = HS_JT_INTEGER;
    for (size_t i = at + prefix; i < end; i++) {
        if (x->text[i] == '_')
            continue;
        if (__builtin_mul_overflow(token->integer, base, &token->integer) ||
            __builtin_add_overflow(token->integer, digit_value(x->text[i]), &token->integer))
            return fail(x, "an integer that does not fit 64 bits");
    }
    advance(x, end);
    return HLWQ_OK;
}

/* `n` hexadecimal digits at `at`; -1 if they are not there. */
static int32_t hexadecimal(const char *s, size_t left, uint32_t n)
{
    int64_t c = 0;
    if (left < n)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        if (digit_value(s[i]) > 15)
            return -1;
        c = c << 4 | digit_value(s[i]);
    }
    return c > 0x10FFFF ? -1 : (int32_t)c;
}

/* One escape after its backslash, as Python's unicode_escape has them. *used of `left` bytes, *made into `out`. */
static hlwq_status escape(hs_jlexer *x, const char *s, size_t left, size_t *used, char out[4], uint32_t *made)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *known = left && s[0] ? strchr(from, s[0]) : NULL;
    *used = 1;
    *made = 1;
    if (known) {
        out[0] = to[known - from];
        return HLWQ_OK;
    }
    if (left && s[0] == '\n') {
        *made = 0;
        return HLWQ_OK;
    }
    int32_t c = 0;
    if (left && s[0] >= '0' && s[0] <= '7') {
        for (*used = 0; *used < 3 && *used < left && s[*used] >= '0' && s[*used] <= '7'; ++*used)
            c = c * 8 + (s[*used] - '0');
    } else if (left && (s[0] == 'x' || s[0] == 'u' || s[0] == 'U')) {
        uint32_t n = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        c = hexadecimal(s + 1, left - 1, n);
        if (c < 0)
            return fail(x, "\\%c in a string needs %u hexadecimal digits", s[0], n);
        *used = 1 + n;
        if (c >= 0xD800 && c < 0xDC00 && left > 11 && s[5] == '\\' && s[6] == 'u') {
            int32_t low = hexadecimal(s + 7, left - 7, 4);
            if (low >= 0xDC00 && low < 0xE000) {
                c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
                *used = 11;
            }
        }
    } else if (left && s[0] == 'N') {
        return fail(x, "\\N{...} in a string is not supported");
    } else { /* an unknown escape stays as it is */
        out[0] = '\\';
        *used = 0;
        return HLWQ_OK;
    }
    *made = hs_ju_put(c, out);
    return HLWQ_OK;
}

static hlwq_status string(hs_jlexer *x, hs_jtoken *token)
{
    char quote = x->text[x->at];
    size_t first = x->at + 1, end = first;
    bool escaped = false;
    while (end < x->bytes && x->text[end] != quote) {
        escaped |= x->text[end] == '\\';
        end += 1 + (x->text[end] == '\\');
    }
    if (end >= x->bytes)
        return fail(x, "a string has no end");
    token->kind = HS_JT_STRING;
    token->text = x->text + first;
    token->bytes = (uint32_t)(end - first);
    if (escaped) {
        char *out;
        HS_TRY(hs_arena_text(x->arena, x->text + first, end - first, &out, x->err));
        size_t n = 0;
        for (size_t i = first; i < end; i++) {
            if (x->text[i] != '\\') {
                out[n++] = x->text[i];
                continue;
            }
            size_t used;
            uint32_t made;
            char bytes[4];
            HS_TRY(escape(x, x->text + i + 1, end - i - 1, &used, bytes, &made));
            memcpy(out + n, bytes, made); /* never longer than what it stands for: at most 4 of \uXXXX */
            n += made;
            i += used;
        }
        token->text = out;
        token->bytes = (uint32_t)n;
    }
    advance(x, end + 1);
    return HLWQ_OK;
}

static hlwq_status operator_token(hs_jlexer *x, hs_jtoken *token)
{
    static const struct {
        char text[3];
        uint8_t op;
    } two[] = {{"==", HS_JO_EQ}, {"!=", HS_JO_NE},       {"<=", HS_JO_LE},
               {">=", HS_JO_GE}, {"//", HS_JO_FLOORDIV}, {"**", HS_JO_POW}};
    char c = x->text[x->at];
    token->kind = HS_JT_OPERATOR;
    token->op = 0;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (looking_at(x, x->at, two[i].text))
            token->op = two[i].op;
    if (token->op) {
        x->at += 2;
        return HLWQ_OK;
    }
    if (!c || !strchr("+-/*%~[](){}<>=.:|,;", c)) {
        uint32_t n;
        hs_ju_char(x->text + x->at, x->bytes - x->at, &n);
        return fail(x, "unexpected character '%.*s'", (int)n, x->text + x->at);
    }
    if (strchr("([{", c)) {
        if (x->nesting == HS_JLEX_NESTING)
            return fail(x, "brackets nested deeper than %d", HS_JLEX_NESTING);
        x->closing[x->nesting++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (!x->nesting)
            return fail(x, "unexpected '%c'", c);
        if (x->closing[--x->nesting] != c)
            return fail(x, "unexpected '%c', expected '%c'", c, x->closing[x->nesting]);
    }
    token->op = (uint8_t)c;
    x->at++;
    return HLWQ_OK;
}

hlwq_status hs_jlex_next(hs_jlexer *x, hs_jtoken *token)
{
    if (x->state == HS_JLEX_ROOT)
        return root(x, token);
    size_t end;
    bool block = x->state == HS_JLEX_BLOCK;
    advance(x, skip_space(x, x->at));
    *token = (hs_jtoken){.line = x->line};
    if (x->at == x->bytes)
        return HLWQ_OK; /* HS_JT_END: the parser says what is missing */
    if (!x->nesting && closes(x, x->at, block ? "%}" : "}}", block, block, &end)) {
        token->kind = block ? HS_JT_BLOCK_END : HS_JT_VARIABLE_END;
        x->state = HS_JLEX_ROOT;
        advance(x, end);
        return HLWQ_OK;
    }
    char c = x->text[x->at];
    if (is_digit(c))
        return number(x, token);
    if (c == '\'' || c == '"')
        return string(x, token);
    if (!is_letter(c))
        return operator_token(x, token);
    token->kind = HS_JT_NAME;
    token->text = x->text + x->at;
    while (x->at < x->bytes && (is_letter(x->text[x->at]) || is_digit(x->text[x->at])))
        x->at++;
    token->bytes = (uint32_t)(x->text + x->at - token->text);
    return HLWQ_OK;
}

void hs_jlex_describe(const hs_jtoken *t, char *out, size_t capacity)
{
    static const char *const two[] = {"==", "!=", "<=", ">=", "//", "**"};
    int n = t->bytes > 40 ? 40 : (int)t->bytes;
    switch (t->kind) {
    case HS_JT_END: snprintf(out, capacity, "the end of the template"); break;
    case HS_JT_DATA: snprintf(out, capacity, "text"); break;
    case HS_JT_BLOCK_BEGIN: snprintf(out, capacity, "'{%%'"); break;
    case HS_JT_BLOCK_END: snprintf(out, capacity, "'%%}'"); break;
    case HS_JT_VARIABLE_BEGIN: snprintf(out, capacity, "'{{'"); break;
    case HS_JT_VARIABLE_END: snprintf(out, capacity, "'}}'"); break;
    case HS_JT_STRING: snprintf(out, capacity, "a string"); break;
    case HS_JT_INTEGER:
    case HS_JT_FLOAT: snprintf(out, capacity, "a number"); break;
    case HS_JT_NAME: snprintf(out, capacity, "'%.*s'", n, t->text); break;
    case HS_JT_OPERATOR:
        if (t->op >= HS_JO_EQ)
            snprintf(out, capacity, "'%s'", two[t->op - HS_JO_EQ]);
        else
            snprintf(out, capacity, "'%c'", t->op);
        break;
    }
}
