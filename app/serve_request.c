/*
 * app/serve_request.c - the members of a request, one table for the numbers.
 */
#include "app/serve_request.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- refusals -------------------------------------------------------------------------------- */

bool serve_refuse(serve_fault *f, int status, const char *param, const char *format, ...)
{
    char raw[sizeof f->message];
    va_list args;
    *f = (serve_fault){.status = status};
    snprintf(f->param, sizeof f->param, "%s", param ? param : "");
    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    hs_escape(f->message, sizeof f->message, raw);
    return false;
}

bool serve_refuse_error(serve_fault *f, const hlwq_error *err)
{
    bool theirs = err->status == HLWQ_ERR_ARG || err->status == HLWQ_ERR_FORMAT || err->status == HLWQ_ERR_UNSUPPORTED;
    return serve_refuse(f, theirs ? 400 : 500, NULL, "%s", err->message);
}

const char *serve_fault_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 503: return "unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static const char *kind_of(const hs_json *node)
{
    static const char *const names[] = {"missing",  "null",     "a boolean", "a whole number",
                                        "a number", "a string", "an array",  "an object"};
    return names[hs_json_type_of(node)];
}

/* A member that is there and not null. */
static const hs_json *member(const hs_json *object, const char *key)
{
    const hs_json *node = hs_json_get(object, key);
    return hs_json_type_of(node) <= HS_JSON_NULL ? NULL : node;
}

/* ---- plain members --------------------------------------------------------------------------- */

static bool take_bool(const hs_json *o, const char *key, bool *out, serve_fault *f)
{
    const hs_json *node = member(o, key);
    if (node && hs_json_type_of(node) != HS_JSON_BOOL)
        return serve_refuse(f, 400, key, "\"%s\" must be true or false, not %s", key, kind_of(node));
    if (node)
        *out = hs_json_bool(node);
    return true;
}

static bool take_number(const hs_json *o, const char *key, bool whole, double min, double max, double *out,
                        serve_fault *f)
{
    const hs_json *node = member(o, key);
    if (!node)
        return true;
    hs_json_type t = hs_json_type_of(node);
    if (t != HS_JSON_INTEGER && t != HS_JSON_REAL)
        return serve_refuse(f, 400, key, "\"%s\" must be a number, not %s", key, kind_of(node));
    double x = hs_json_real(node);
    if (!(x >= min && x <= max) || (whole && x != floor(x)))
        return serve_refuse(f, 400, key, "\"%s\" is %g; it must be %s from %.16g to %.16g", key, x,
                            whole ? "a whole number" : "a number", min, max);
    *out = x;
    return true;
}

static bool take_float(const hs_json *o, const char *key, double min, double max, float *out, serve_fault *f)
{
    double x = (double)*out;
    if (!take_number(o, key, false, min, max, &x, f))
        return false;
    *out = (float)x;
    return true;
}

static bool take_sampling(const hs_json *o, serve_params *p, serve_fault *f)
{
    hlwq_sampling *s = &p->sampling;
    double top_k = s->top_k, window = s->penalty_window, seed = -1;
    const double many = 2147483647.0;
    if (!take_float(o, "temperature", 0, 100, &s->temperature, f) || !take_float(o, "top_p", 0, 1, &s->top_p, f) ||
        !take_float(o, "min_p", 0, 1, &s->min_p, f) ||
        !take_float(o, "repeat_penalty", 0.01, 100, &s->repetition_penalty, f) ||
        !take_float(o, "repetition_penalty", 0.01, 100, &s->repetition_penalty, f) ||
        !take_float(o, "presence_penalty", -100, 100, &s->presence_penalty, f) ||
        !take_float(o, "frequency_penalty", -100, 100, &s->frequency_penalty, f) ||
        !take_number(o, "top_k", true, -1, many, &top_k, f) ||
        !take_number(o, "repeat_last_n", true, -1, many, &window, f) ||
        !take_number(o, "seed", true, -9007199254740992.0, 9007199254740992.0, &seed, f))
        return false;
    s->top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    s->penalty_window = window < 0 ? 0 : (uint32_t)window;
    p->seeded = member(o, "seed") && seed != -1; /* -1 is "any" to clients of llama-server */
    if (p->seeded)
        s->seed = (uint64_t)(int64_t)seed;
    return true;
}

static bool take_limit(const hs_json *o, serve_params *p, serve_fault *f)
{
    static const char *const names[] = {"max_tokens", "max_completion_tokens", "n_predict"};
    p->max_tokens = -1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        double x = (double)p->max_tokens;
        if (!take_number(o, names[i], true, -1, 2147483647.0, &x, f))
            return false;
        p->max_tokens = (int64_t)x;
    }
    if (p->max_tokens < 0 && p->kind == SERVE_COMPLETION && !member(o, "max_tokens") && !member(o, "n_predict"))
        p->max_tokens = 16; /* the documented default of this endpoint */
    return true;
}

static bool add_stop(serve_params *p, const hs_json *node, serve_fault *f)
{
    size_t bytes;
    if (hs_json_type_of(node) != HS_JSON_STRING)
        return serve_refuse(f, 400, "stop", "\"stop\" must be a string or an array of strings; it has %s",
                            kind_of(node));
    const char *text = hs_json_string(node, &bytes);
    if (bytes > SERVE_STOP_BYTES)
        return serve_refuse(f, 400, "stop", "a string of \"stop\" has %zu bytes, limit %d", bytes, SERVE_STOP_BYTES);
    if (!bytes)
        return true; /* stops nothing */
    if (p->stops == SERVE_STOPS)
        return serve_refuse(f, 400, "stop", "\"stop\" has more than %d strings", SERVE_STOPS);
    p->stop[p->stops++] = text;
    return true;
}

static bool take_stop(const hs_json *o, serve_params *p, serve_fault *f)
{
    const hs_json *stop = member(o, "stop");
    if (!stop)
        return true;
    if (hs_json_type_of(stop) != HS_JSON_ARRAY)
        return add_stop(p, stop, f);
    for (size_t i = 0; i < hs_json_count(stop); i++)
        if (!add_stop(p, hs_json_at(stop, i), f))
            return false;
    return true;
}

static bool take_stream(const hs_json *o, serve_params *p, serve_fault *f)
{
    const hs_json *options = member(o, "stream_options");
    if (!take_bool(o, "stream", &p->stream, f))
        return false;
    if (options && hs_json_type_of(options) != HS_JSON_OBJECT)
        return serve_refuse(f, 400, "stream_options", "\"stream_options\" must be an object, not %s", kind_of(options));
    return take_bool(options, "include_usage", &p->usage, f);
}

static bool take_logprobs(const hs_json *o, serve_params *p, serve_fault *f)
{
    double top = 0;
    if (p->kind == SERVE_CHAT) {
        if (!take_bool(o, "logprobs", &p->logprobs, f) || !take_number(o, "top_logprobs", true, 0, SERVE_TOP, &top, f))
            return false;
        if (top > 0 && !p->logprobs)
            return serve_refuse(f, 400, "top_logprobs", "\"top_logprobs\" needs \"logprobs\": true");
    } else {
        const hs_json *node = member(o, "logprobs");
        if (hs_json_type_of(node) == HS_JSON_BOOL) /* some clients */
            p->logprobs = hs_json_bool(node);
        else if (!take_number(o, "logprobs", true, 0, SERVE_TOP, &top, f))
            return false;
        else
            p->logprobs = node != NULL;
    }
    p->top = (uint32_t)top;
    return true;
}

/* What is not offered, where it would change the answer. */
static bool take_unsupported(const hs_json *o, serve_params *p, serve_fault *f)
{
    double n = 1, best = 1;
    const hs_json *bias = member(o, "logit_bias");
    static const char *const never[] = {"functions", "function_call", "audio",
                                        "grammar",   "prediction",    "web_search_options"};
    if (!take_number(o, "n", true, 1, 1024, &n, f) || !take_number(o, "best_of", true, 1, 1024, &best, f))
        return false;
    if (n != 1 || best != 1)
        return serve_refuse(f, 400, n != 1 ? "n" : "best_of",
                            "only one answer is made for a request: \"%s\" must be 1, not %g; ask several times with "
                            "other seeds",
                            n != 1 ? "n" : "best_of", n != 1 ? n : best);
    if (bias && hs_json_count(bias))
        return serve_refuse(f, 400, "logit_bias", "\"logit_bias\" is not offered");
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (member(o, never[i]))
            return serve_refuse(f, 400, never[i], "\"%s\" is not offered", never[i]);
    if (p->kind == SERVE_COMPLETION && member(o, "suffix") &&
        (hs_json_type_of(member(o, "suffix")) != HS_JSON_STRING || *hs_json_string(member(o, "suffix"), NULL)))
        return serve_refuse(f, 400, "suffix", "\"suffix\" is not offered: the model only continues a text");
    const hs_json *modalities = member(o, "modalities");
    for (size_t i = 0; i < hs_json_count(modalities); i++)
        if (hs_json_type_of(hs_json_at(modalities, i)) != HS_JSON_STRING ||
            strcmp(hs_json_string(hs_json_at(modalities, i), NULL), "text") != 0)
            return serve_refuse(f, 400, "modalities", "\"modalities\" may only be [\"text\"]");
    return true;
}

/* ---- chat ------------------------------------------------------------------------------------ */

static bool take_format(const hs_json *o, serve_params *p, serve_fault *f)
{
    const hs_json *format = member(o, "response_format");
    if (!format)
        return true;
    const hs_json *type = hs_json_get(format, "type");
    if (hs_json_type_of(type) != HS_JSON_STRING)
        return serve_refuse(f, 400, "response_format", "\"response_format\" must be an object with a \"type\"");
    const char *name = hs_json_string(type, NULL);
    if (strcmp(name, "text") == 0)
        return true;
    if (strcmp(name, "json_object") == 0) {
        p->format = SERVE_JSON_OBJECT;
        return true;
    }
    if (strcmp(name, "json_schema") != 0)
        return serve_refuse(f, 400, "response_format",
                            "\"response_format\" is of type \"%.40s\"; text, json_object and json_schema are known",
                            name);
    const hs_json *inner = member(format, "json_schema");
    p->schema = member(inner ? inner : format, "schema");
    if (hs_json_type_of(p->schema) != HS_JSON_OBJECT)
        return serve_refuse(f, 400, "response_format", "\"response_format\" has no object \"json_schema.schema\"");
    p->format = SERVE_JSON_SCHEMA;
    return true;
}

static bool name_is_plain(const char *name)
{
    size_t n = strlen(name);
    return n && n <= 128 && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == n;
}

static const char *tool_name(const hs_json *tool)
{
    const hs_json *name = hs_json_get(hs_json_get(tool, "function"), "name");
    return hs_json_type_of(name) == HS_JSON_STRING ? hs_json_string(name, NULL) : NULL;
}

static bool take_tools(const hs_json *o, serve_params *p, serve_fault *fault)
{
    const hs_json *tools = member(o, "tools");
    if (!tools)
        return true;
    if (hs_json_type_of(tools) != HS_JSON_ARRAY)
        return serve_refuse(fault, 400, "tools", "\"tools\" must be an array, not %s", kind_of(tools));
    if (hs_json_count(tools) > SERVE_TOOLS)
        return serve_refuse(fault, 400, "tools", "%zu tools, limit %d", hs_json_count(tools), SERVE_TOOLS);
    for (size_t i = 0; i < hs_json_count(tools); i++) {
        const hs_json *type = hs_json_get(hs_json_at(tools, i), "type");
        const char *name = tool_name(hs_json_at(tools, i));
        if (hs_json_type_of(type) != HS_JSON_STRING || strcmp(hs_json_string(type, NULL), "function") != 0)
            return serve_refuse(fault, 400, "tools", "tool %zu is not of type \"function\"", i + 1);
        if (!name || !name_is_plain(name))
            return serve_refuse(fault, 400, "tools",
                                "tool %zu has no \"function.name\" of at most 128 letters, digits, \"_\", \"-\", \".\"",
                                i + 1);
        const hs_json *f = hs_json_get(hs_json_at(tools, i), "function");
        bool strict = false;
        if (!take_bool(f, "strict", &strict, fault))
            return false;
        if (strict && hs_json_type_of(hs_json_get(f, "parameters")) != HS_JSON_OBJECT)
            return serve_refuse(fault, 400, "tools", "tool %zu is \"strict\" and has no object \"parameters\"", i + 1);
    }
    if (hs_json_count(tools)) {
        p->tools = tools;
        p->choice = SERVE_TOOLS_AUTO;
    }
    return true;
}

const hs_json *serve_strict_schema(const hs_json *tools, size_t i)
{
    const hs_json *f = hs_json_get(hs_json_at(tools, i), "function"), *strict = hs_json_get(f, "strict");
    return hs_json_type_of(strict) == HS_JSON_BOOL && hs_json_bool(strict) ? hs_json_get(f, "parameters") : NULL;
}

const hs_json *serve_strict_schema_of(const hs_json *tools, const char *name)
{
    const hs_json *schema = NULL;
    for (size_t i = 0; !schema && i < hs_json_count(tools); i++)
        if (strcmp(tool_name(hs_json_at(tools, i)), name) == 0)
            schema = serve_strict_schema(tools, i);
    return schema;
}

bool serve_must_call(const serve_params *p)
{
    return p->choice == SERVE_TOOLS_REQUIRED || p->choice == SERVE_TOOLS_NAMED;
}

void serve_write_calls(const serve_params *p, hs_text *out)
{
    bool some = false;
    hs_text_format(out, "{\"tools\":[");
    for (size_t i = 0; i < hs_json_count(p->tools); i++) {
        const char *name = tool_name(hs_json_at(p->tools, i));
        const hs_json *schema = serve_strict_schema(p->tools, i);
        if (p->choice == SERVE_TOOLS_NAMED && strcmp(name, p->tool) != 0)
            continue;
        hs_text_format(out, "%s{\"name\":", some ? "," : "");
        hs_text_json(out, name, strlen(name));
        if (schema) {
            hs_text_format(out, ",\"parameters\":");
            hs_json_write(out, schema);
        }
        hs_text_format(out, "}");
        some = true;
    }
    hs_text_format(out, "]");
    if (p->format != SERVE_TEXT && !serve_must_call(p)) {
        hs_text_format(out, ",\"answer\":");
        if (p->format == SERVE_JSON_SCHEMA)
            hs_json_write(out, p->schema);
        else
            hs_text_format(out, "true");
    }
    hs_text_format(out, "}");
}

static bool take_choice(const hs_json *o, serve_params *p, serve_fault *f)
{
    const hs_json *choice = member(o, "tool_choice");
    bool parallel = true;
    if (!take_bool(o, "parallel_tool_calls", &parallel, f))
        return false;
    p->one_call = !parallel;
    if (!choice)
        return true;
    if (hs_json_type_of(choice) == HS_JSON_STRING) {
        const char *word = hs_json_string(choice, NULL);
        if (strcmp(word, "none") == 0) {
            p->choice = SERVE_TOOLS_NONE;
            p->tools = NULL;
            return true;
        }
        if (strcmp(word, "auto") == 0)
            return true;
        if (strcmp(word, "required") == 0 && p->tools) {
            p->choice = SERVE_TOOLS_REQUIRED;
            return true;
        }
        if (strcmp(word, "required") == 0)
            return serve_refuse(f, 400, "tool_choice", "\"tool_choice\" is \"required\" and there are no tools");
        return serve_refuse(f, 400, "tool_choice",
                            "\"tool_choice\" is \"%.40s\"; none, auto, required and a function are known", word);
    }
    const char *name = tool_name(choice);
    for (size_t i = 0; name && i < hs_json_count(p->tools); i++)
        if (strcmp(name, tool_name(hs_json_at(p->tools, i))) == 0) {
            p->choice = SERVE_TOOLS_NAMED;
            p->tool = name;
            return true;
        }
    return serve_refuse(f, 400, "tool_choice", "\"tool_choice\" names no function that is among the tools");
}

static bool take_thinking(const hs_json *o, serve_params *p, serve_fault *f)
{
    const hs_json *effort = member(o, "reasoning_effort"), *think;
    p->thinking = -1;
    p->variables = member(o, "chat_template_kwargs");
    if (p->variables && hs_json_type_of(p->variables) != HS_JSON_OBJECT)
        return serve_refuse(f, 400, "chat_template_kwargs", "\"chat_template_kwargs\" must be an object, not %s",
                            kind_of(p->variables));
    if (effort) {
        if (hs_json_type_of(effort) != HS_JSON_STRING)
            return serve_refuse(f, 400, "reasoning_effort", "\"reasoning_effort\" must be a string, not %s",
                                kind_of(effort));
        p->thinking = strcmp(hs_json_string(effort, NULL), "none") != 0;
    }
    think = member(p->variables, "enable_thinking");
    if (!think)
        think = member(o, "enable_thinking");
    if (think && hs_json_type_of(think) != HS_JSON_BOOL)
        return serve_refuse(f, 400, "enable_thinking", "\"enable_thinking\" must be true or false, not %s",
                            kind_of(think));
    if (think)
        p->thinking = hs_json_bool(think);
    return take_bool(o, "continue_final_message", &p->continues, f);
}

static bool take_chat(const hs_json *o, serve_params *p, serve_fault *f)
{
    p->messages = member(o, "messages");
    if (hs_json_type_of(p->messages) != HS_JSON_ARRAY)
        return serve_refuse(f, 400, "messages", "\"messages\" must be an array, not %s", kind_of(p->messages));
    if (!hs_json_count(p->messages))
        return serve_refuse(f, 400, "messages", "\"messages\" is empty");
    return take_format(o, p, f) && take_tools(o, p, f) && take_choice(o, p, f) && take_thinking(o, p, f);
}

static bool take_completion(const hs_json *o, serve_params *p, serve_fault *f)
{
    p->prompt = member(o, "prompt");
    hs_json_type t = hs_json_type_of(p->prompt);
    if (t != HS_JSON_STRING && t != HS_JSON_ARRAY)
        return serve_refuse(f, 400, "prompt",
                            "\"prompt\" must be a string, an array of token ids, or an array of those; it is %s",
                            kind_of(p->prompt));
    if (member(o, "messages"))
        return serve_refuse(f, 400, "messages", "\"messages\" belongs to /v1/chat/completions");
    return take_bool(o, "echo", &p->echo, f) && take_format(o, p, f);
}

/* Texts end at a zero byte further on, so none may hold one. */
static bool has_zero(const hs_json *node)
{
    size_t bytes;
    const char *text;
    switch (hs_json_type_of(node)) {
    case HS_JSON_STRING: text = hs_json_string(node, &bytes); return strlen(text) != bytes;
    case HS_JSON_ARRAY:
        for (size_t i = 0; i < hs_json_count(node); i++)
            if (has_zero(hs_json_at(node, i)))
                return true;
        return false;
    case HS_JSON_OBJECT:
        for (hs_json_iter *it = hs_json_first(node); it; it = hs_json_next(node, it))
            if (has_zero(hs_json_value(it)))
                return true;
        return false;
    default: return false;
    }
}

bool serve_parse(const hs_json *body, serve_kind kind, const hlwq_sampling *defaults, serve_params *p, serve_fault *f)
{
    *p = (serve_params){.kind = kind, .sampling = *defaults, .thinking = -1};
    if (hs_json_type_of(body) != HS_JSON_OBJECT)
        return serve_refuse(f, 400, NULL, "the body must be a JSON object, not %s", kind_of(body));
    if (has_zero(body))
        return serve_refuse(f, 400, NULL, "a string of the body holds a zero byte");
    const hs_json *model = member(body, "model");
    if (model && hs_json_type_of(model) != HS_JSON_STRING)
        return serve_refuse(f, 400, "model", "\"model\" must be a string, not %s", kind_of(model));
    return take_sampling(body, p, f) && take_limit(body, p, f) && take_stop(body, p, f) && take_stream(body, p, f) &&
           take_logprobs(body, p, f) && take_unsupported(body, p, f) &&
           (kind == SERVE_CHAT ? take_chat(body, p, f) : take_completion(body, p, f));
}
