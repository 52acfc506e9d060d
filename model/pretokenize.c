/*
 * model/pretokenize.c - the one file that knows PCRE2 and utf8proc.
 *
 * PCRE2 sees only valid UTF-8 (NO_UTF_CHECK is set), its match limit bounds hostile patterns, and U+180E, which it
 * takes for white space and Hugging Face does not, is hidden behind a private-use character of the same length.
 */
#define _GNU_SOURCE
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretokenize.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

const char hs_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static const char *const known[] = {
    hs_pattern_gpt2,
    /* Qwen3.5 */
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)|\\s+",
    /* Qwen2 */
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
};

struct hs_splitter {
    pcre2_code *code;
    uint32_t match_limit;
    bool jit;
};

enum { PATTERN_MAX = 4096 };

hlwq_status hs_splitter_open(hs_splitter **out, const char *pattern, const char *what, hlwq_error *err)
{
    *out = NULL;
    bool trusted = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        trusted |= strcmp(pattern, known[i]) == 0;
    if (strlen(pattern) > PATTERN_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tokenizer pattern of %zu bytes, limit %d", what, strlen(pattern),
                       PATTERN_MAX);
    hs_splitter *s = calloc(1, sizeof *s);
    if (!s)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a tokenizer");
    int code;
    PCRE2_SIZE at;
    s->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                            &code, &at, NULL);
    if (!s->code) {
        char message[200];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        free(s);
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tokenizer pattern is wrong at character %zu: %s", what, (size_t)at,
                       message);
    }
    /* JIT code has no match limit worth the name, so only patterns that we know run in it. */
    s->jit = trusted && pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE) == 0;
    s->match_limit = trusted ? 1u << 30 : 1u << 20;
    *out = s;
    return HLWQ_OK;
}

void hs_splitter_close(hs_splitter *s)
{
    if (!s)
        return;
    pcre2_code_free(s->code);
    free(s);
}

struct hs_split_work {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

void hs_split_work_close(hs_split_work *w)
{
    if (!w)
        return;
    pcre2_match_data_free(w->data);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    free(w);
}

hlwq_status hs_split_work_open(hs_split_work **out, const hs_splitter *s, hlwq_error *err)
{
    hs_split_work *w = calloc(1, sizeof *w);
    *out = NULL;
    if (w) {
        w->data = pcre2_match_data_create_from_pattern(s->code, NULL);
        w->context = pcre2_match_context_create(NULL);
    }
    if (!w || !w->data || !w->context) {
        hs_split_work_close(w);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to split text");
    }
    pcre2_set_match_limit(w->context, s->match_limit);
    pcre2_set_depth_limit(w->context, 1u << 20);
    pcre2_set_heap_limit(w->context, 256u << 10); /* KiB */
    if (s->jit) {
        w->stack = pcre2_jit_stack_create(32 << 10, 16 << 20, NULL);
        pcre2_jit_stack_assign(w->context, NULL, w->stack);
    }
    *out = w;
    return HLWQ_OK;
}

static hlwq_status split(const hs_splitter *s, hs_split_work *m, const char *seen, const char *text, size_t bytes,
                         hs_split_fn fn, void *user, hlwq_error *err)
{
    size_t at = 0, done = 0;
    while (at < bytes) {
        int n = pcre2_match(s->code, (PCRE2_SPTR)seen, bytes, at, PCRE2_NO_UTF_CHECK, m->data, m->context);
        if (n == PCRE2_ERROR_NOMATCH)
            break;
        if (n < 0) {
            char message[200];
            pcre2_get_error_message(n, (PCRE2_UCHAR *)message, sizeof message);
            return hs_fail(err, HLWQ_ERR_FORMAT, "the tokenizer's pattern failed on this text: %s", message);
        }
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(m->data);
        if (v[1] <= v[0] || v[0] < at) { /* an empty match, or \K: step over one character */
            do
                at++;
            while (at < bytes && (seen[at] & 0xC0) == 0x80);
            continue;
        }
        if (v[0] > done)
            HS_TRY(fn(user, text + done, v[0] - done, err));
        HS_TRY(fn(user, text + v[0], v[1] - v[0], err));
        at = done = v[1];
    }
    return done < bytes ? fn(user, text + done, bytes - done, err) : HLWQ_OK;
}

hlwq_status hs_splitter_run(const hs_splitter *s, hs_split_work *w, const char *text, size_t bytes, hs_split_fn fn,
                            void *user, hlwq_error *err)
{
    static const char mongolian[] = "\xE1\xA0\x8E",
                      symbol[] = "\xE2\x84\x83"; /* U+180E; U+2103, neither letter, mark, number nor space */
    if (!memmem(text, bytes, mongolian, 3))
        return split(s, w, text, text, bytes, fn, user, err);
    char *copy = malloc(bytes);
    if (!copy)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to split %zu bytes of text", bytes);
    memcpy(copy, text, bytes);
    for (char *p = copy; (p = memmem(p, bytes - (size_t)(p - copy), mongolian, 3)); p += 3)
        memcpy(p, symbol, 3);
    hlwq_status st = split(s, w, copy, text, bytes, fn, user, err);
    free(copy);
    return st;
}

size_t hs_utf8_valid(const char *text, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        utf8proc_int32_t c;
        if ((unsigned char)text[at] < 0x80) {
            at++;
            continue;
        }
        size_t left = bytes - at;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, left > 4 ? 4 : (utf8proc_ssize_t)left, &c);
        if (n <= 0)
            return at;
        at += (size_t)n;
    }
    return at;
}

hlwq_status hs_nfc(const char *text, size_t bytes, char **out, size_t *out_bytes, hlwq_error *err)
{
    *out = NULL;
    bool ascii = true;
    for (size_t i = 0; i < bytes && ascii; i++)
        ascii = (unsigned char)text[i] < 0x80;
    if (ascii)
        return HLWQ_OK;
    utf8proc_uint8_t *p;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &p, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
        return hs_fail(err, n == UTF8PROC_ERROR_NOMEM ? HLWQ_ERR_NOMEM : HLWQ_ERR_FORMAT,
                       "text could not be normalised: %s", utf8proc_errmsg(n));
    *out = (char *)p;
    *out_bytes = (size_t)n;
    return HLWQ_OK;
}
