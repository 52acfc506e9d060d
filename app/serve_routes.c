/*
 * app/serve_routes.c - what lies at which address.
 */
#define _GNU_SOURCE
#include "app/serve.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void refuse(serve_reply *r, const serve_fault *f)
{
    r->status = f->status;
    r->retry = f->status == 429 || f->status == 503;
    r->body.bytes = 0;
    serve_write_error(&r->body, f);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void free_request(serve_request *r)
{
    for (uint32_t i = 0; i < r->units; i++) {
        serve_unit *u = &r->unit[i];
        hs_text *all[] = {&u->text,       &u->reasoning,   &u->calls,        &u->chosen,
                          &u->chosen_top, &u->chosen_name, &u->chosen_offset};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            hs_text_close(all[k]);
        serve_split_close(&u->split);
        free(u->opening);
        hlwq_free(u->ids);
    }
    free(r->unit);
    serve_constraint_release(&r->server->constraints, r->constraint);
    serve_constraint_release(&r->server->constraints, r->calls);
    hs_json_free(r->body);
    hs_text_close(&r->out);
    free(r);
}

void serve_request_release(serve_request *r)
{
    serve *s = r->server;
    if (--r->refs)
        return;
    if (r->before)
        r->before->next = r->next;
    else if (s->first == r)
        s->first = r->next;
    if (r->next)
        r->next->before = r->before;
    free_request(r);
}

/* The prompts of a request, as units. */
static bool fill_units(serve *s, serve_request *r, serve_fault *f)
{
    const serve_params *p = &r->params;
    size_t n = p->kind == SERVE_CHAT ? 1 : serve_prompts(p, f);
    if (!n)
        return false;
    r->unit = calloc(n, sizeof *r->unit);
    if (!r->unit)
        return serve_refuse(f, 500, NULL, "no memory for the request");
    r->units = (uint32_t)n;
    for (uint32_t i = 0; i < n; i++) {
        serve_unit *u = &r->unit[i];
        u->request = r;
        u->index = i;
        u->limit = p->max_tokens;
        bool ok = p->kind == SERVE_CHAT
                      ? serve_chat_prompt(s->chat, s->tokenizer, p, &u->ids, &u->n_ids, &u->edge, &u->opening, f)
                      : serve_prompt_ids(s->tokenizer, p, i, s->facts.vocab, &u->ids, &u->n_ids, f);
        if (!ok)
            return false;
        if (!u->n_ids)
            return serve_refuse(f, 400, "prompt", "prompt %" PRIu32 " is empty: there is nothing to continue", i + 1);
        if (u->n_ids >= s->defaults.context) {
            serve_refuse(f, 400, p->kind == SERVE_CHAT ? "messages" : "prompt",
                         "the prompt has %zu tokens and the context holds %" PRIu32
                         "; shorten it, or start the server with a larger --ctx",
                         u->n_ids, s->defaults.context);
            f->code = "context_length_exceeded";
            return false;
        }
    }
    return true;
}

static bool is_strict(const serve_params *p)
{
    for (size_t i = 0; i < hs_json_count(p->tools); i++)
        if (serve_strict_schema(p->tools, i))
            return true;
    return false;
}

/*
 * What the answer may be: of its format; where a call must be made, only calls; where one may be made instead, either.
 * Without a format the text around calls is free, and a call alone is held to what tools with "strict" say.
 */
static bool hold(serve *s, serve_request *r, serve_fault *f)
{
    const serve_params *p = &r->params;
    serve_constraint *calls = NULL;
    hs_text text = {0};
    if (p->format == SERVE_JSON_SCHEMA)
        hs_json_write(&text, p->schema);
    if (p->format != SERVE_TEXT &&
        !serve_constraint_get(&s->constraints, s->tokenizer, p->format, &text, "response_format", &r->constraint, f))
        return false;
    if (!p->tools || (!serve_must_call(p) && p->format == SERVE_TEXT && !is_strict(p)))
        return true;
    serve_write_calls(p, &text);
    if (!serve_constraint_get(&s->constraints, s->tokenizer, SERVE_CALLS, &text, "tools", &calls, f))
        return false;
    if (!serve_must_call(p) && p->format == SERVE_TEXT) {
        r->calls = calls;
    } else {
        serve_constraint_release(&s->constraints, r->constraint);
        r->constraint = calls;
    }
    return true;
}

static bool make_request(serve *s, serve_kind kind, const char *body, size_t bytes, uint64_t client, serve_request *r,
                         serve_fault *f)
{
    hlwq_error err;
    if (kind == SERVE_CHAT && !s->chat)
        return serve_refuse(f, 400, NULL, "%s; --template FILE names another chat template", s->chat_error.message);
    if (hs_json_parse(body ? body : "", bytes, "the body", &r->body, &err) != HLWQ_OK)
        return serve_refuse(f, 400, NULL, "%s", err.message);
    if (!serve_parse(r->body, kind, &s->defaults.sampling, &r->params, f))
        return false;
    if (!hold(s, r, f))
        return false;
    unsigned id = atomic_fetch_add(&s->ids, 1);
    if (!r->params.seeded)
        r->params.sampling.seed = s->seed + id;
    snprintf(r->id, sizeof r->id, "%s-%08x%08x", kind == SERVE_CHAT ? "chatcmpl" : "cmpl",
             (unsigned)((uint64_t)(s->opened * 1000) & 0xFFFFFFFF), id);
    r->created = (int64_t)time(NULL);
    r->client = client;
    return fill_units(s, r, f);
}

static void answer(serve *s, serve_kind kind, const char *body, size_t bytes, uint64_t client, serve_reply *reply)
{
    serve_fault f;
    double now = serve_now();
    serve_request *r = calloc(1, sizeof *r);
    if (!r) {
        serve_refuse(&f, 500, NULL, "no memory for the request");
        refuse(reply, &f);
        return;
    }
    *r = (serve_request){.server = s, .refs = 1, .fd = -1, .asked = now, .moved = now, .said = now};
    bool ok = make_request(s, kind, body, bytes, client, r, &f);
    if (ok) {
        pthread_mutex_lock(&s->lock);
        ok = serve_submit(r, &f);
        if (ok) {
            r->next = s->first;
            if (s->first)
                s->first->before = r;
            s->first = r;
        }
        pthread_mutex_unlock(&s->lock);
    }
    if (ok) {
        reply->request = r;
        return;
    }
    free_request(r);
    refuse(reply, &f);
}

/* ---- tools for people ------------------------------------------------------------------------ */

static void tokenize(serve *s, const hs_json *body, serve_reply *reply)
{
    serve_fault f;
    hlwq_error err;
    int32_t *ids;
    size_t n, bytes;
    const hs_json *text = hs_json_get(body, "content");
    bool parse = !text; /* clients that send a "prompt" expect to find special tokens */
    if (!text)
        text = hs_json_get(body, "prompt");
    if (hs_json_type_of(text) != HS_JSON_STRING) {
        serve_refuse(&f, 400, "content", "\"content\" must be a string");
        refuse(reply, &f);
        return;
    }
    const char *raw = hs_json_string(text, &bytes);
    const hs_json *special = hs_json_get(body, "parse_special");
    if (hs_json_type_of(special) == HS_JSON_BOOL)
        parse = hs_json_bool(special);
    if (hlwq_tokenize(s->tokenizer, raw, bytes, parse, &ids, &n, &err) != HLWQ_OK) {
        serve_refuse_error(&f, &err);
        refuse(reply, &f);
        return;
    }
    hs_text_format(&reply->body, "{\"count\":%zu,\"tokens\":[", n);
    for (size_t i = 0; i < n; i++)
        hs_text_format(&reply->body, "%s%" PRId32, i ? "," : "", ids[i]);
    hs_text_format(&reply->body, "]}");
    hlwq_free(ids);
}

static void detokenize(serve *s, const hs_json *body, serve_reply *reply)
{
    serve_fault f;
    hlwq_error err;
    const hs_json *list = hs_json_get(body, "tokens");
    size_t n = hs_json_count(list), bytes;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    char *text = NULL;
    bool ok = hs_json_type_of(list) == HS_JSON_ARRAY && ids;
    for (size_t i = 0; ok && i < n; i++) {
        const hs_json *node = hs_json_at(list, i);
        ok = hs_json_type_of(node) == HS_JSON_INTEGER && hs_json_int(node) >= 0 && hs_json_int(node) < s->facts.vocab;
        ids[i] = ok ? (int32_t)hs_json_int(node) : 0;
    }
    if (!ok) {
        serve_refuse(&f, 400, "tokens", "\"tokens\" must be an array of token ids below %" PRIu32, s->facts.vocab);
        refuse(reply, &f);
    } else if (hlwq_detokenize(s->tokenizer, ids, n, false, &text, &bytes, &err) != HLWQ_OK) {
        serve_refuse_error(&f, &err);
        refuse(reply, &f);
    } else {
        hs_text_format(&reply->body, "{\"content\":");
        hs_text_json(&reply->body, text, bytes);
        hs_text_format(&reply->body, ",\"prompt\":"); /* the same, as others call it */
        hs_text_json(&reply->body, text, bytes);
        hs_text_format(&reply->body, "}");
    }
    hlwq_free(text);
    free(ids);
}

static void apply_template(serve *s, const hs_json *body, serve_reply *reply)
{
    serve_fault f;
    serve_params p;
    char *text;
    size_t bytes;
    bool ok = s->chat || serve_refuse(&f, 400, NULL, "%s", s->chat_error.message);
    ok = ok && serve_parse(body, SERVE_CHAT, &s->defaults.sampling, &p, &f);
    if (!ok || !serve_chat_text(s->chat, &p, &text, &bytes, &f)) {
        refuse(reply, &f);
        return;
    }
    hs_text_format(&reply->body, "{\"prompt\":");
    hs_text_json(&reply->body, text, bytes);
    hs_text_format(&reply->body, "}");
    free(text);
}

static void with_body(serve *s, const char *body, size_t bytes, serve_reply *reply,
                      void (*then)(serve *s, const hs_json *body, serve_reply *reply))
{
    hlwq_error err;
    serve_fault f;
    hs_json *root;
    if (hs_json_parse(body ? body : "", bytes, "the body", &root, &err) != HLWQ_OK) {
        serve_refuse(&f, 400, NULL, "%s", err.message);
        refuse(reply, &f);
        return;
    }
    then(s, root, reply);
    hs_json_free(root);
}

/* ---- addresses ------------------------------------------------------------------------------- */

typedef enum route {
    ROUTE_PAGE,
    ROUTE_HEALTH,
    ROUTE_MODELS,
    ROUTE_PROPS,
    ROUTE_METRICS,
    ROUTE_TOKENIZER,
    ROUTE_CHAT,
    ROUTE_COMPLETIONS,
    ROUTE_TOKENIZE,
    ROUTE_DETOKENIZE,
    ROUTE_TEMPLATE,
    ROUTE_EMBEDDINGS,
    ROUTE_NONE
} route;

static const struct {
    const char *path;
    serve_method method;
    route route;
    bool open; /* without the key */
} routes[] = {
    {"/", SERVE_GET, ROUTE_PAGE, true},
    {"/index.html", SERVE_GET, ROUTE_PAGE, true},
    {"/health", SERVE_GET, ROUTE_HEALTH, true},
    {"/v1/health", SERVE_GET, ROUTE_HEALTH, true},
    {"/v1/models", SERVE_GET, ROUTE_MODELS, false},
    {"/models", SERVE_GET, ROUTE_MODELS, false},
    {"/props", SERVE_GET, ROUTE_PROPS, false},
    {"/metrics", SERVE_GET, ROUTE_METRICS, false},
    {"/tokenizer_info", SERVE_GET, ROUTE_TOKENIZER, false},
    {"/v1/chat/completions", SERVE_POST, ROUTE_CHAT, false},
    {"/chat/completions", SERVE_POST, ROUTE_CHAT, false},
    {"/v1/completions", SERVE_POST, ROUTE_COMPLETIONS, false},
    {"/completions", SERVE_POST, ROUTE_COMPLETIONS, false},
    {"/tokenize", SERVE_POST, ROUTE_TOKENIZE, false},
    {"/detokenize", SERVE_POST, ROUTE_DETOKENIZE, false},
    {"/apply-template", SERVE_POST, ROUTE_TEMPLATE, false},
    {"/v1/embeddings", SERVE_POST, ROUTE_EMBEDDINGS, false},
};

static route find_route(serve_method method, const char *path, bool *open, bool *elsewhere)
{
    *open = false;
    *elsewhere = false;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (strcmp(routes[i].path, path) == 0) {
            if (routes[i].method == method) {
                *open = routes[i].open;
                return routes[i].route;
            }
            *elsewhere = true;
        }
    return ROUTE_NONE;
}

bool serve_route_known(serve_method method, const char *path, bool *open, serve_fault *f)
{
    bool elsewhere;
    route r = find_route(method, path, open, &elsewhere);
    if (r == ROUTE_EMBEDDINGS)
        return serve_refuse(f, 404, NULL, "/v1/embeddings is not offered: this model was made to write text");
    if (r != ROUTE_NONE)
        return true;
    if (elsewhere)
        return serve_refuse(f, 405, NULL, "%s does not take this method", path);
    return serve_refuse(f, 404, NULL, "there is nothing at %.100s", path);
}

void serve_route(serve *s, serve_method method, const char *path, const char *body, size_t bytes, uint64_t client,
                 serve_reply *reply)
{
    bool open, elsewhere;
    *reply = (serve_reply){.status = 200, .type = "application/json"};
    switch (find_route(method, path, &open, &elsewhere)) {
    case ROUTE_PAGE:
        reply->type = "text/html; charset=utf-8";
        reply->fixed = (const char *)serve_page;
        reply->fixed_bytes = serve_page_bytes;
        break;
    case ROUTE_HEALTH: serve_say_health(s, reply); break;
    case ROUTE_MODELS: serve_say_models(s, reply); break;
    case ROUTE_PROPS: serve_say_props(s, reply); break;
    case ROUTE_METRICS: serve_say_metrics(s, reply); break;
    case ROUTE_TOKENIZER: serve_say_tokenizer(s, reply); break;
    case ROUTE_CHAT: answer(s, SERVE_CHAT, body, bytes, client, reply); break;
    case ROUTE_COMPLETIONS: answer(s, SERVE_COMPLETION, body, bytes, client, reply); break;
    case ROUTE_TOKENIZE: with_body(s, body, bytes, reply, tokenize); break;
    case ROUTE_DETOKENIZE: with_body(s, body, bytes, reply, detokenize); break;
    case ROUTE_TEMPLATE: with_body(s, body, bytes, reply, apply_template); break;
    default: break; /* serve_route_known has refused the others */
    }
}
