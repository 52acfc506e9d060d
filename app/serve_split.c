/*
 * app/serve_split.c - one buffer of text that is not given out yet, and what it may still become.
 */
#define _GNU_SOURCE
#include "app/serve_split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN "<tool_call>"
#define CLOSE "</tool_call>"
#define FUNCTION "<function="
#define FUNCTION_END "</function>"
#define PARAMETER "<parameter="
#define PARAMETER_END "</parameter>"

enum { CALL_MAX = 1 << 20, NAME_MAX_BYTES = 256 };

static const char *find(const char *text, size_t bytes, const char *word)
{
    return memmem(text, bytes, word, strlen(word));
}

static void drop(serve_split *s, size_t n)
{
    if (!s->held.data)
        return;
    memmove(s->held.data, s->held.data + n, s->held.bytes - n);
    s->held.bytes -= n;
    s->held.data[s->held.bytes] = 0;
}

static void give(serve_split *s, serve_piece kind, const char *text, size_t bytes)
{
    if (bytes)
        s->take(s->user, kind, text, bytes);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* Whether `text` begins with `word`; *more: it may once more of it has come. */
static bool begins(const char *text, size_t bytes, const char *word, bool *more)
{
    size_t n = strlen(word);
    *more = bytes < n && memcmp(text, word, bytes) == 0;
    return bytes >= n && memcmp(text, word, n) == 0;
}

static size_t white(const char *text, size_t bytes)
{
    size_t n = 0;
    while (n < bytes && memchr(" \t\r\n", text[n], 4))
        n++;
    return n;
}

/* ---- what a parameter may be ------------------------------------------------------------------ */

enum { MAY_BE_NULL = 1, MAY_BE_TEXT = 2, MAY_BE_OTHER = 4, REFERENCES_MAX = 8 };

/* What "#/..." names. */
static const hs_json *find_schema(const hs_json *root, const char *path)
{
    char name[NAME_MAX_BYTES];
    if (*path++ != '#')
        return NULL;
    while (root && *path == '/') {
        size_t n = strcspn(++path, "/");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        root = hs_json_get(root, name);
        path += n;
    }
    return root;
}

static unsigned kind_of_value(const hs_json *value)
{
    hs_json_type t = hs_json_type_of(value);
    return t == HS_JSON_NULL ? MAY_BE_NULL : t == HS_JSON_STRING ? MAY_BE_TEXT : MAY_BE_OTHER;
}

static unsigned kind_of_type(const hs_json *type)
{
    const char *name = hs_json_type_of(type) == HS_JSON_STRING ? hs_json_string(type, NULL) : "";
    return strcmp(name, "null") == 0 ? MAY_BE_NULL : strcmp(name, "string") == 0 ? MAY_BE_TEXT : MAY_BE_OTHER;
}

/* What a schema says of it; 0 = nothing. */
static unsigned kinds(const hs_json *root, const hs_json *schema, int depth)
{
    const hs_json *ref = hs_json_get(schema, "$ref"), *type = hs_json_get(schema, "type");
    const hs_json *list = hs_json_get(schema, "enum"), *value = hs_json_get(schema, "const");
    const hs_json *any = hs_json_get(schema, "anyOf");
    unsigned all = 0, one;
    if (depth > REFERENCES_MAX)
        return 0;
    if (hs_json_type_of(ref) == HS_JSON_STRING)
        return kinds(root, find_schema(root, hs_json_string(ref, NULL)), depth + 1);
    if (hs_json_type_of(type) == HS_JSON_STRING)
        return kind_of_type(type);
    for (size_t i = 0; i < hs_json_count(type); i++)
        all |= kind_of_type(hs_json_at(type, i));
    if (hs_json_type_of(value) != HS_JSON_MISSING)
        all |= kind_of_value(value);
    for (size_t i = 0; !all && hs_json_type_of(list) == HS_JSON_ARRAY && i < hs_json_count(list); i++)
        all |= kind_of_value(hs_json_at(list, i));
    any = any ? any : hs_json_get(schema, "oneOf");
    for (size_t i = 0; !type && hs_json_type_of(any) == HS_JSON_ARRAY && i < hs_json_count(any); i++) {
        if (!(one = kinds(root, hs_json_at(any, i), depth + 1)))
            return 0;
        all |= one;
    }
    return all;
}

static unsigned kinds_of(const serve_split *s, const char *key)
{
    for (size_t i = 0; i < hs_json_count(s->tools); i++) {
        const hs_json *f = hs_json_get(hs_json_at(s->tools, i), "function"), *name = hs_json_get(f, "name");
        const hs_json *schema = hs_json_get(f, "parameters");
        if (hs_json_type_of(name) == HS_JSON_STRING && s->name.data &&
            strcmp(hs_json_string(name, NULL), s->name.data) == 0)
            return kinds(schema, hs_json_get(hs_json_get(schema, "properties"), key), 0);
    }
    return 0;
}

/* A value as JSON if it is some, and the tools do not call it a text. */
static bool json_value(const char *text, size_t bytes, unsigned may_be, hs_text *out)
{
    static const struct {
        const char *python, *json;
    } words[] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    hs_text whole = {0};
    hs_json *root = NULL;
    if (may_be == (MAY_BE_TEXT | MAY_BE_NULL) && (bytes != 4 || memcmp(text, "null", 4) != 0))
        return false;
    bool unclear = !may_be || (may_be & MAY_BE_TEXT && may_be & MAY_BE_OTHER);
    if (unclear ? !bytes || !strchr("{[", *text) : may_be == MAY_BE_TEXT)
        return false;
    for (size_t i = 0; i < 3; i++)
        if (bytes == strlen(words[i].python) && memcmp(text, words[i].python, bytes) == 0) {
            hs_text_format(out, "%s", words[i].json);
            return true;
        }
    hs_text_add(&whole, "[", 1);
    hs_text_add(&whole, text, bytes);
    hs_text_add(&whole, "]", 1);
    bool ok = !whole.failed && hs_json_parse(whole.data, whole.bytes, "a value", &root, NULL) == HLWQ_OK &&
              hs_json_count(root) == 1;
    hs_json_free(root);
    hs_text_close(&whole);
    if (ok)
        hs_text_add(out, text, bytes);
    return ok;
}

static void give_parameter(serve_split *s, const char *key, size_t key_bytes, const char *value, size_t bytes)
{
    hs_text out = {0};
    char name[NAME_MAX_BYTES + 1];
    snprintf(name, sizeof name, "%.*s", (int)key_bytes, key);
    if (bytes && *value == '\n') {
        value++;
        bytes--;
    }
    if (bytes && value[bytes - 1] == '\n')
        bytes--;
    hs_text_format(&out, "%s", s->parameters++ ? "," : "{");
    hs_text_json(&out, name, strlen(name));
    hs_text_format(&out, ":");
    if (!json_value(value, bytes, kinds_of(s, name), &out))
        hs_text_json(&out, value, bytes);
    s->failed |= out.failed;
    if (!out.failed)
        give(s, SERVE_PIECE_ARGUMENTS, out.data, out.bytes);
    hs_text_close(&out);
}

static void end_arguments(serve_split *s)
{
    give(s, SERVE_PIECE_ARGUMENTS, s->parameters ? "}" : "{}", s->parameters ? 1 : 2);
}

static void end_call(serve_split *s)
{
    s->call = SERVE_CALL_NONE;
    s->fresh = true;
    s->stopped |= s->one_call;
}

/* What began as a call is none: it is text. */
static void no_call(serve_split *s)
{
    give(s, SERVE_PIECE_TEXT, OPEN, strlen(OPEN));
    s->call = SERVE_CALL_NONE;
    s->fresh = false;
}

/* Each step takes something from the buffer and returns true, or false where more text is needed. */
static bool call_name(serve_split *s)
{
    bool more;
    size_t skip = white(s->held.data, s->held.bytes);
    const char *at = s->held.data + skip;
    size_t left = s->held.bytes - skip;
    if (!begins(at, left, FUNCTION, &more)) {
        if (more)
            return false;
        no_call(s);
        return true;
    }
    const char *name = at + strlen(FUNCTION), *end = memchr(name, '>', left - strlen(FUNCTION));
    size_t bytes = end ? (size_t)(end - name) : left - strlen(FUNCTION);
    if (bytes > NAME_MAX_BYTES || memchr(name, '\n', bytes) || (end && !bytes)) {
        no_call(s);
        return true;
    }
    if (!end)
        return false;
    hs_text_close(&s->name);
    hs_text_add(&s->name, name, bytes);
    s->calls++;
    s->parameters = 0;
    s->call = SERVE_CALL_PARAMETERS;
    give(s, SERVE_PIECE_CALL, name, bytes);
    drop(s, (size_t)(end + 1 - s->held.data));
    return true;
}

static bool call_parameter(serve_split *s, bool last)
{
    bool more, more_end;
    size_t skip = white(s->held.data, s->held.bytes);
    const char *at = s->held.data + skip;
    size_t left = s->held.bytes - skip;
    if (begins(at, left, FUNCTION_END, &more_end)) {
        end_arguments(s);
        s->call = SERVE_CALL_CLOSE;
        drop(s, skip + strlen(FUNCTION_END));
        return true;
    }
    if (!begins(at, left, PARAMETER, &more)) {
        if (!last && (more || more_end))
            return false;
        end_arguments(s); /* it breaks off */
        s->call = SERVE_CALL_CLOSE;
        return true;
    }
    const char *key = at + strlen(PARAMETER), *stop = s->held.data + s->held.bytes;
    const char *end = memchr(key, '>', (size_t)(stop - key));
    const char *value = end ? end + 1 : stop;
    const char *close = find(value, (size_t)(stop - value), PARAMETER_END);
    if (!close && !last && s->held.bytes < CALL_MAX)
        return false;
    size_t key_bytes = (size_t)((end ? end : stop) - key);
    if (key_bytes <= NAME_MAX_BYTES && end)
        give_parameter(s, key, key_bytes, value, (size_t)((close ? close : stop) - value));
    drop(s, (size_t)((close ? close + strlen(PARAMETER_END) : stop) - s->held.data));
    return true;
}

static bool call_close(serve_split *s, bool last)
{
    bool more;
    size_t skip = white(s->held.data, s->held.bytes);
    if (begins(s->held.data + skip, s->held.bytes - skip, CLOSE, &more)) {
        drop(s, skip + strlen(CLOSE));
        end_call(s);
        return true;
    }
    if (more && !last)
        return false;
    end_call(s);
    return true;
}

/* ---- text ------------------------------------------------------------------------------------ */

/* How much of the end of a text may be the beginning of `word`. */
static size_t overlap(const char *text, size_t bytes, const char *word)
{
    size_t n = strlen(word) - 1;
    for (n = n < bytes ? n : bytes; n; n--)
        if (memcmp(text + bytes - n, word, n) == 0)
            break;
    return n;
}

/* True if something was found that ends a stretch of text, false if the rest may go out but `*keep` bytes. */
static bool find_end(serve_split *s, size_t *at, size_t *keep, bool *tag)
{
    const char *text = s->held.data, *best = NULL;
    *keep = 0;
    *tag = false;
    for (uint32_t i = 0; i < s->stops; i++) {
        const char *p = find(text, s->held.bytes, s->stop[i]);
        size_t n = overlap(text, s->held.bytes, s->stop[i]);
        best = p && (!best || p < best) ? p : best;
        *keep = n > *keep ? n : *keep;
    }
    const char *call = s->tools ? find(text, s->held.bytes, OPEN) : NULL;
    if (call && (!best || call < best)) {
        best = call;
        *tag = true;
    }
    if (s->tools) {
        size_t n = overlap(text, s->held.bytes, OPEN);
        *keep = n > *keep ? n : *keep;
        /* White space before a call does not belong to the text. */
        while (*keep < s->held.bytes && memchr(" \t\r\n", text[s->held.bytes - *keep - 1], 4))
            ++*keep;
    }
    if (best)
        *at = (size_t)(best - text);
    return best != NULL;
}

static void give_text(serve_split *s, size_t n)
{
    give(s, SERVE_PIECE_TEXT, s->held.data, n);
    drop(s, n);
}

static bool plain_text(serve_split *s, bool last)
{
    size_t at, keep;
    bool tag;
    if (s->fresh) {
        size_t n = s->calls ? white(s->held.data, s->held.bytes) : strspn(s->held.data, "\n");
        drop(s, n);
        s->fresh = s->held.bytes == 0;
    }
    if (!find_end(s, &at, &keep, &tag)) {
        give_text(s, s->held.bytes - (last ? 0 : keep));
        return false;
    }
    if (!tag) {
        give_text(s, at);
        s->stopped = true;
        return true;
    }
    size_t n = at;
    while (n && memchr(" \t\r\n", s->held.data[n - 1], 4))
        n--;
    give_text(s, n);
    drop(s, at - n + strlen(OPEN));
    s->call = SERVE_CALL_NAME;
    return true;
}

static void advance(serve_split *s, bool last)
{
    for (bool more = true; more && !s->stopped && s->held.bytes;)
        switch (s->call) {
        case SERVE_CALL_NAME: more = call_name(s); break;
        case SERVE_CALL_PARAMETERS: more = call_parameter(s, last); break;
        case SERVE_CALL_CLOSE: more = call_close(s, last); break;
        default: more = plain_text(s, last); break;
        }
    if (s->stopped)
        s->held.bytes = 0;
}

/* ---- thoughts -------------------------------------------------------------------------------- */

static void think_text(serve_split *s, const char *text, size_t bytes)
{
    size_t end = bytes;
    if (s->fresh)
        while (bytes && *text == '\n') {
            text++;
            bytes--;
            end--;
        }
    while (end && text[end - 1] == '\n')
        end--;
    if (end) {
        for (; s->line_ends; s->line_ends--)
            give(s, SERVE_PIECE_REASONING, "\n", 1);
        give(s, SERVE_PIECE_REASONING, text, end);
        s->fresh = false;
    }
    s->line_ends += bytes - end;
}

/* ---- the whole ------------------------------------------------------------------------------- */

void serve_split_think(serve_split *s, bool on)
{
    s->thinking = on;
    s->fresh = true;
    s->line_ends = 0;
}

void serve_split_text(serve_split *s, const char *text, size_t bytes)
{
    if (s->stopped || !bytes)
        return;
    if (s->thinking) {
        think_text(s, text, bytes);
        return;
    }
    hs_text_add(&s->held, text, bytes);
    if (s->held.failed)
        s->failed = s->stopped = true;
    else
        advance(s, false);
}

void serve_split_end(serve_split *s)
{
    if (s->held.failed || s->stopped)
        return;
    if (s->held.data)
        advance(s, true);
    if (s->call == SERVE_CALL_NAME) { /* no name has come */
        no_call(s);
        give_text(s, s->held.bytes);
    } else if (s->call == SERVE_CALL_PARAMETERS) {
        end_arguments(s);
    }
    s->call = SERVE_CALL_NONE;
}

void serve_split_close(serve_split *s)
{
    hs_text_close(&s->held);
    hs_text_close(&s->name);
}
