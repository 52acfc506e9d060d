/*
 * app/serve_prompt.c - messages and tools through the template.
 */
#define _GNU_SOURCE
#include "app/serve_prompt.h"

#include "app/marks.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is made of a request on its way to the template. */
typedef struct writer {
    app_marks marks;
    hs_text out;
    hs_json *parsed[64]; /* arguments of calls, which texts point into */
    char **held;         /* texts put together here, likewise */
    size_t n_parsed, n_held, held_capacity;
    serve_fault *fault;
} writer;

static bool failed(writer *w, const hlwq_error *err)
{
    return serve_refuse_error(w->fault, err);
}

static bool wrong(writer *w, const char *param, const char *sentence)
{
    return serve_refuse(w->fault, 400, param, "%s", sentence);
}

static bool mark(writer *w, const char *text, bool escaped)
{
    hlwq_error err;
    return app_marks_add(&w->marks, &w->out, text, escaped, &err) == HLWQ_OK || failed(w, &err);
}

static void write_key(writer *w, const char *key, size_t bytes)
{
    hs_text_json(&w->out, key, bytes);
    hs_text_format(&w->out, ":");
}

static void write_number(writer *w, const hs_json *node)
{
    char text[40];
    if (hs_json_type_of(node) == HS_JSON_INTEGER) {
        hs_text_format(&w->out, "%" PRId64, hs_json_int(node));
        return;
    }
    snprintf(text, sizeof text, "%.17g", hs_json_real(node));
    hs_text_format(&w->out, "%s%s", text, strpbrk(text, ".e") ? "" : ".0");
}

/*
 * A value as the template will dump it.  Strings that could hold a special token become marks; keys cannot, so such
 * keys are refused.  (Special tokens of all models of this family have a "<" in them.)
 */
static bool write_value(writer *w, const hs_json *node, bool escaped, const char *param)
{
    size_t bytes, i = 0;
    switch (hs_json_type_of(node)) {
    case HS_JSON_STRING: {
        const char *text = hs_json_string(node, &bytes);
        if (strchr(text, '<'))
            return mark(w, text, escaped);
        hs_text_json(&w->out, text, bytes);
        return true;
    }
    case HS_JSON_ARRAY:
        hs_text_format(&w->out, "[");
        for (i = 0; i < hs_json_count(node); i++) {
            hs_text_format(&w->out, "%s", i ? "," : "");
            if (!write_value(w, hs_json_at(node, i), true, param))
                return false;
        }
        hs_text_format(&w->out, "]");
        return true;
    case HS_JSON_OBJECT:
        hs_text_format(&w->out, "{");
        for (hs_json_iter *it = hs_json_first(node); it; it = hs_json_next(node, it)) {
            const char *key = hs_json_key(it, &bytes);
            if (memchr(key, '<', bytes))
                return serve_refuse(w->fault, 400, param, "a name within \"%s\" holds a \"<\"", param);
            hs_text_format(&w->out, "%s", i++ ? "," : "");
            write_key(w, key, bytes);
            if (!write_value(w, hs_json_value(it), true, param))
                return false;
        }
        hs_text_format(&w->out, "}");
        return true;
    case HS_JSON_BOOL: hs_text_format(&w->out, "%s", hs_json_bool(node) ? "true" : "false"); return true;
    case HS_JSON_INTEGER:
    case HS_JSON_REAL: write_number(w, node); return true;
    default: hs_text_format(&w->out, "null"); return true;
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Keeps a text until the prompt is made; takes it over. NULL, and it is freed, where there is no memory. */
static const char *hold(writer *w, char *text)
{
    if (text && w->n_held == w->held_capacity) {
        size_t capacity = w->held_capacity ? 2 * w->held_capacity : 16;
        char **more = realloc(w->held, capacity * sizeof *more);
        if (!more) {
            free(text);
            return NULL;
        }
        w->held = more;
        w->held_capacity = capacity;
    }
    if (text)
        w->held[w->n_held++] = text;
    return text;
}

/* The text of a message: a string, or parts of type text; NULL and a refusal for others. "" where there is none. */
static const char *content_of(writer *w, const hs_json *message)
{
    const hs_json *node = hs_json_get(message, "content");
    hs_text t = {0};
    if (hs_json_type_of(node) <= HS_JSON_NULL)
        return "";
    if (hs_json_type_of(node) == HS_JSON_STRING)
        return hs_json_string(node, NULL);
    if (hs_json_type_of(node) != HS_JSON_ARRAY) {
        wrong(w, "messages", "the \"content\" of a message must be a string or an array of parts");
        return NULL;
    }
    hs_text_add(&t, "", 0);
    for (size_t i = 0; i < hs_json_count(node); i++) {
        const hs_json *part = hs_json_at(node, i), *type = hs_json_get(part, "type"), *text = hs_json_get(part, "text");
        size_t bytes;
        if (hs_json_type_of(type) != HS_JSON_STRING || strcmp(hs_json_string(type, NULL), "text") != 0 ||
            hs_json_type_of(text) != HS_JSON_STRING) {
            hs_text_close(&t);
            wrong(w, "messages",
                  "a part of a message is not of type \"text\": this model reads no images and no sound");
            return NULL;
        }
        const char *s = hs_json_string(text, &bytes);
        hs_text_add(&t, s, bytes);
    }
    if (!t.data && !t.failed)
        return "";
    const char *held = hold(w, hs_text_take(&t));
    if (!held)
        serve_refuse(w->fault, 500, NULL, "no memory for a message");
    return held;
}

/* The arguments of a call, an object or the JSON text of one. */
static bool write_arguments(writer *w, const hs_json *node)
{
    hlwq_error err;
    hs_json *root;
    size_t bytes;
    if (hs_json_type_of(node) == HS_JSON_STRING) {
        const char *text = hs_json_string(node, &bytes);
        if (w->n_parsed == sizeof w->parsed / sizeof *w->parsed)
            return wrong(w, "messages", "a conversation may hold at most 64 calls whose arguments are a string");
        if (!bytes) {
            hs_text_format(&w->out, "{}");
            return true;
        }
        if (hs_json_parse(text, bytes, "the arguments of a call", &root, &err) != HLWQ_OK)
            return failed(w, &err);
        w->parsed[w->n_parsed++] = root;
        node = root;
    }
    if (hs_json_type_of(node) != HS_JSON_OBJECT)
        return wrong(w, "messages", "the \"arguments\" of a call are not an object");
    hs_text_format(&w->out, "{");
    size_t i = 0;
    for (hs_json_iter *it = hs_json_first(node); it; it = hs_json_next(node, it)) {
        const char *key = hs_json_key(it, &bytes);
        if (memchr(key, '<', bytes))
            return wrong(w, "messages", "a name of an argument holds a \"<\"");
        hs_text_format(&w->out, "%s", i++ ? "," : "");
        write_key(w, key, bytes);
        /* A text is written as it is, everything else as JSON. */
        if (!write_value(w, hs_json_value(it), false, "messages"))
            return false;
    }
    hs_text_format(&w->out, "}");
    return true;
}

static bool write_calls(writer *w, const hs_json *calls)
{
    if (hs_json_type_of(calls) <= HS_JSON_NULL)
        return true;
    if (hs_json_type_of(calls) != HS_JSON_ARRAY)
        return wrong(w, "messages", "\"tool_calls\" must be an array");
    hs_text_format(&w->out, ",\"tool_calls\":[");
    for (size_t i = 0; i < hs_json_count(calls); i++) {
        const hs_json *function = hs_json_get(hs_json_at(calls, i), "function");
        const hs_json *name = hs_json_get(function, "name");
        if (hs_json_type_of(name) != HS_JSON_STRING || strpbrk(hs_json_string(name, NULL), "<>\n"))
            return wrong(w, "messages", "a call has no \"function.name\", or one with \"<\" or \">\" in it");
        hs_text_format(&w->out, "%s{\"type\":\"function\",\"function\":{\"name\":", i ? "," : "");
        hs_text_json(&w->out, hs_json_string(name, NULL), strlen(hs_json_string(name, NULL)));
        hs_text_format(&w->out, ",\"arguments\":");
        const hs_json *arguments = hs_json_get(function, "arguments");
        if (hs_json_type_of(arguments) <= HS_JSON_NULL)
            hs_text_format(&w->out, "{}");
        else if (!write_arguments(w, arguments))
            return false;
        hs_text_format(&w->out, "}}");
    }
    hs_text_format(&w->out, "]");
    return true;
}

/* What an assistant thought, where the client sends it back: apart, or before </think> in its content. */
static bool write_assistant(writer *w, const hs_json *message, const char *content)
{
    const hs_json *reasoning = hs_json_get(message, "reasoning_content");
    const char *end = strstr(content, "</think>");
    if (hs_json_type_of(reasoning) == HS_JSON_STRING) {
        hs_text_format(&w->out, ",\"reasoning_content\":");
        if (!mark(w, hs_json_string(reasoning, NULL), false))
            return false;
    } else if (end) {
        const char *begin = strstr(content, "<think>");
        begin = begin && begin < end ? begin + 7 : content;
        const char *thought = hold(w, strndup(begin, (size_t)(end - begin)));
        if (!thought)
            return serve_refuse(w->fault, 500, NULL, "no memory for a message");
        hs_text_format(&w->out, ",\"reasoning_content\":");
        if (!mark(w, thought, false))
            return false;
        for (const char *more; (more = strstr(end + 8, "</think>"));)
            end = more;
        content = end + 8;
        content += strspn(content, "\n");
    }
    hs_text_format(&w->out, ",\"content\":");
    return mark(w, content, false) && write_calls(w, hs_json_get(message, "tool_calls"));
}

static bool write_message(writer *w, const hs_json *message, size_t i)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    const hs_json *role = hs_json_get(message, "role");
    const char *name = hs_json_type_of(role) == HS_JSON_STRING ? hs_json_string(role, NULL) : "";
    int r = -1;
    for (int k = 0; k < 5; k++)
        if (strcmp(name, roles[k]) == 0)
            r = k;
    if (r < 0)
        return serve_refuse(w->fault, 400, "messages",
                            "the \"role\" of message %zu must be system, developer, user, assistant or tool", i + 1);
    const char *content = content_of(w, message);
    if (!content)
        return false;
    hs_text_format(&w->out, "%s{\"role\":\"%s\"", i ? "," : "", r == 1 ? "system" : roles[r]);
    if (r == 3) {
        if (!write_assistant(w, message, content))
            return false;
    } else {
        hs_text_format(&w->out, ",\"content\":");
        if (!mark(w, content, false))
            return false;
    }
    hs_text_format(&w->out, "}");
    return true;
}

static bool write_variables(writer *w, const serve_params *p)
{
    static const char *const taken[] = {"messages", "tools", "add_generation_prompt", "continue_final_message",
                                        "enable_thinking"};
    size_t bytes;
    for (hs_json_iter *it = hs_json_first(p->variables); it; it = hs_json_next(p->variables, it)) {
        const char *key = hs_json_key(it, &bytes);
        bool skip = false;
        for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
            skip |= strcmp(key, taken[i]) == 0;
        if (skip)
            continue;
        hs_text_format(&w->out, ",");
        write_key(w, key, bytes);
        if (!write_value(w, hs_json_value(it), false, "chat_template_kwargs"))
            return false;
    }
    return true;
}

static bool write_request(writer *w, const serve_params *p)
{
    hs_text_format(&w->out, "{\"messages\":[");
    for (size_t i = 0; i < hs_json_count(p->messages); i++)
        if (!write_message(w, hs_json_at(p->messages, i), i))
            return false;
    hs_text_format(&w->out, "]");
    if (p->tools) {
        hs_text_format(&w->out, ",\"tools\":");
        if (!write_value(w, p->tools, true, "tools"))
            return false;
    }
    hs_text_format(&w->out, "%s",
                   p->continues ? ",\"continue_final_message\":true" : ",\"add_generation_prompt\":true");
    if (p->thinking >= 0)
        hs_text_format(&w->out, ",\"enable_thinking\":%s", p->thinking ? "true" : "false");
    if (!write_variables(w, p))
        return false;
    hs_text_format(&w->out, "}");
    return !w->out.failed || serve_refuse(w->fault, 500, NULL, "no memory for the messages");
}

static void close_writer(writer *w)
{
    for (size_t i = 0; i < w->n_parsed; i++)
        hs_json_free(w->parsed[i]);
    for (size_t i = 0; i < w->n_held; i++)
        free(w->held[i]);
    free(w->held);
    app_marks_close(&w->marks);
    hs_text_close(&w->out);
}

static bool render(writer *w, const hlwq_template *chat, const serve_params *p, hs_text *text)
{
    hlwq_error err;
    char *prompt = NULL;
    size_t bytes = 0;
    if (app_marks_open(&w->marks, &err) != HLWQ_OK)
        return failed(w, &err);
    if (!write_request(w, p))
        return false;
    hlwq_status st = hlwq_template_apply(chat, w->out.data, w->out.bytes, &prompt, &bytes, &err);
    if (st == HLWQ_OK)
        st = app_marks_fill(&w->marks, prompt, bytes, text, &err);
    hlwq_free(prompt);
    if (st != HLWQ_OK)
        return serve_refuse(w->fault, st == HLWQ_ERR_ARG || st == HLWQ_ERR_FORMAT ? 400 : 500, "messages", "%s",
                            err.message);
    return true;
}

/* Whether a prompt ends inside the block where a model thinks. */
static bool ends_thinking(const hs_text *text)
{
    static const char tag[] = "<think>";
    size_t n = text->bytes;
    while (n && text->data[n - 1] == '\n')
        n--;
    return n >= sizeof tag - 1 && memcmp(text->data + n - (sizeof tag - 1), tag, sizeof tag - 1) == 0;
}

/* A call that must be made is begun for the model. */
static bool open_call(const serve_params *p, const hs_text *text, hs_text *opening)
{
    if (!serve_must_call(p))
        return true;
    if (ends_thinking(text))
        hs_text_format(opening, "\n</think>\n\n");
    hs_text_format(opening, "<tool_call>\n"); /* the rest is sampled: a text that ends with a line ends with a token */
    if (p->choice == SERVE_TOOLS_NAMED)
        hs_text_format(opening, "<function=%s>\n", p->tool);
    return !opening->failed;
}

/* Where the next prompt of a conversation may part from this one: after its last text the model's turn is opened. */
static size_t edge_of(const hlwq_tokenizer *tokenizer, const writer *w, const hs_text *text, size_t count)
{
    size_t from = w->marks.n_plain ? w->marks.plain[w->marks.n_plain - 1].end : text->bytes, n = 0;
    int32_t *ids = NULL;
    if (hlwq_tokenize(tokenizer, text->data + from, text->bytes - from, true, &ids, &n, NULL) != HLWQ_OK)
        n = 0;
    hlwq_free(ids);
    return n < count ? count - n : 0;
}

bool serve_chat_prompt(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const serve_params *p, int32_t **ids,
                       size_t *count, size_t *edge, char **opening, serve_fault *fault)
{
    writer w = {.fault = fault};
    hs_text text = {0}, open = {0};
    hlwq_error err;
    *ids = NULL;
    *count = 0;
    hs_text_add(&open, "", 0);
    bool ok = render(&w, chat, p, &text);
    if (ok && !open_call(p, &text, &open))
        ok = serve_refuse(fault, 500, NULL, "no memory for the prompt");
    if (ok && open.bytes)
        hs_text_add(&text, open.data, open.bytes);
    if (ok && hlwq_tokenize_prompt(tokenizer, text.data, text.bytes, w.marks.plain, w.marks.n_plain, ids, count,
                                   &err) != HLWQ_OK)
        ok = failed(&w, &err);
    if (ok && !*count)
        ok = serve_refuse(fault, 400, "messages", "the chat template makes nothing of the messages");
    *edge = ok ? edge_of(tokenizer, &w, &text, *count) : 0;
    *opening = ok ? hs_text_take(&open) : NULL;
    hs_text_close(&open);
    hs_text_close(&text);
    close_writer(&w);
    return ok;
}

bool serve_chat_text(const hlwq_template *chat, const serve_params *p, char **text, size_t *bytes, serve_fault *fault)
{
    writer w = {.fault = fault};
    hs_text out = {0};
    hs_text_add(&out, "", 0);
    bool ok = render(&w, chat, p, &out);
    *bytes = out.bytes;
    *text = ok ? hs_text_take(&out) : NULL;
    hs_text_close(&out);
    close_writer(&w);
    return ok;
}

/* ---- completions ----------------------------------------------------------------------------- */

/* "text", [1, 2], or an array of these. */
static bool is_list(const hs_json *prompt)
{
    return hs_json_type_of(prompt) == HS_JSON_ARRAY && hs_json_type_of(hs_json_at(prompt, 0)) != HS_JSON_INTEGER;
}

size_t serve_prompts(const serve_params *p, serve_fault *f)
{
    size_t n = is_list(p->prompt) ? hs_json_count(p->prompt) : 1;
    if (n == 0)
        serve_refuse(f, 400, "prompt", "\"prompt\" is an empty array");
    if (n > SERVE_PROMPTS) {
        serve_refuse(f, 400, "prompt", "%zu prompts in one request, limit %d", n, SERVE_PROMPTS);
        n = 0;
    }
    if (n > 1 && p->stream) {
        serve_refuse(f, 400, "stream", "\"stream\" works for one prompt, not for %zu", n);
        n = 0;
    }
    return n;
}

static bool copy_ids(const hs_json *list, uint32_t vocab, int32_t **ids, size_t *count, serve_fault *f)
{
    size_t n = hs_json_count(list);
    int32_t *out = malloc((n + 1) * sizeof *out);
    if (!out)
        return serve_refuse(f, 500, NULL, "no memory for %zu ids", n);
    for (size_t i = 0; i < n; i++) {
        const hs_json *node = hs_json_at(list, i);
        if (hs_json_type_of(node) != HS_JSON_INTEGER || hs_json_int(node) < 0 || hs_json_int(node) >= vocab) {
            free(out);
            return serve_refuse(f, 400, "prompt", "\"prompt\": item %zu is no token id below %" PRIu32, i, vocab);
        }
        out[i] = (int32_t)hs_json_int(node);
    }
    *ids = out;
    *count = n;
    return true;
}

bool serve_prompt_ids(const hlwq_tokenizer *tokenizer, const serve_params *p, size_t i, uint32_t vocab, int32_t **ids,
                      size_t *count, serve_fault *f)
{
    const hs_json *node = is_list(p->prompt) ? hs_json_at(p->prompt, i) : p->prompt;
    hlwq_error err;
    size_t bytes;
    *ids = NULL;
    if (hs_json_type_of(node) == HS_JSON_ARRAY)
        return copy_ids(node, vocab, ids, count, f);
    if (hs_json_type_of(node) != HS_JSON_STRING)
        return serve_refuse(f, 400, "prompt", "\"prompt\": item %zu is neither a string nor an array of token ids", i);
    const char *text = hs_json_string(node, &bytes);
    if (hlwq_tokenize(tokenizer, text, bytes, false, ids, count, &err) != HLWQ_OK)
        return serve_refuse_error(f, &err);
    return true;
}
