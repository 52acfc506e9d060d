/*
 * app/serve_write.c - answers as JSON, whole or in chunks.
 */
#include "app/serve.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void json(hs_text *out, const char *text)
{
    hs_text_json(out, text, strlen(text));
}

void serve_write_error(hs_text *out, const serve_fault *f)
{
    hs_text_format(out, "{\"error\":{\"message\":");
    json(out, f->message);
    hs_text_format(out, ",\"type\":\"%s\",\"param\":", serve_fault_type(f->status));
    if (*f->param)
        json(out, f->param);
    else
        hs_text_format(out, "null");
    hs_text_format(out, ",\"code\":");
    if (f->code)
        json(out, f->code);
    else
        hs_text_format(out, "null");
    hs_text_format(out, "}}");
}

static bool is_chat(const serve_request *r)
{
    return r->params.kind == SERVE_CHAT;
}

/* What every chunk and every answer begins with. */
static void write_head(const serve_request *r, hs_text *out)
{
    const char *chunk = is_chat(r) ? r->params.stream ? "chat.completion.chunk" : "chat.completion" : "text_completion";
    hs_text_format(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", r->id, chunk,
                   r->created);
    json(out, r->server->name);
}

static void write_usage(const serve_request *r, hs_text *out)
{
    uint64_t prompt = 0, made = 0, cached = 0;
    for (uint32_t i = 0; i < r->units; i++) {
        prompt += r->unit[i].n_ids;
        made += r->unit[i].made;
        cached += r->unit[i].cached;
    }
    hs_text_format(out,
                   "\"usage\":{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64
                   ",\"total_tokens\":%" PRIu64 ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRIu64 "}}",
                   prompt, made, prompt + made, cached);
}

static void write_timings(const serve_unit *u, hs_text *out)
{
    double read = u->first - u->begun, made = u->last - u->first;
    uint64_t n = u->n_ids - u->cached;
    hs_text_format(out,
                   "\"timings\":{\"cache_n\":%zu,\"prompt_n\":%" PRIu64
                   ",\"prompt_ms\":%.3f,\"prompt_per_second\":%.3f,\"predicted_n\":%" PRIu64
                   ",\"predicted_ms\":%.3f,\"predicted_per_second\":%.3f}",
                   u->cached, n, 1e3 * read, app_rate(n, read), u->made, 1e3 * made, app_rate(u->made, made));
}

/* ---- logprobs -------------------------------------------------------------------------------- */

typedef struct candidate {
    int32_t id;
    float logit;
} candidate;

/* A token's letters; bytes that are no UTF-8 by their numbers, so that no two tokens read the same. */
static void write_name(hs_text *out, const serve *s, int32_t id)
{
    size_t bytes = 0;
    const char *raw = hlwq_token_bytes(s->tokenizer, id, &bytes);
    char *text;
    size_t n;
    bool whole = raw && hlwq_detokenize(s->tokenizer, &id, 1, false, &text, &n, NULL) == HLWQ_OK;
    if (whole) {
        whole = n == bytes && memcmp(text, raw, n) == 0;
        hlwq_free(text);
    }
    if (whole) {
        hs_text_json(out, raw, bytes);
        return;
    }
    hs_text_format(out, "\"bytes:");
    for (size_t i = 0; raw && i < bytes; i++)
        hs_text_format(out, "\\\\x%02x", (unsigned char)raw[i]);
    hs_text_format(out, "\"");
}

static void write_bytes(hs_text *out, const serve *s, int32_t id)
{
    size_t bytes = 0;
    const char *raw = hlwq_token_bytes(s->tokenizer, id, &bytes);
    hs_text_format(out, "[");
    for (size_t i = 0; raw && i < bytes; i++)
        hs_text_format(out, "%s%u", i ? "," : "", (unsigned char)raw[i]);
    hs_text_format(out, "]");
}

static void write_entry(hs_text *out, const serve *s, int32_t id, double logprob)
{
    hs_text_format(out, "{\"token\":");
    write_name(out, s, id);
    hs_text_format(out, ",\"logprob\":%.9g,\"bytes\":", logprob);
    write_bytes(out, s, id);
}

/* Characters of a token's text. */
static size_t characters(const serve *s, int32_t id)
{
    size_t bytes = 0, n = 0;
    const char *raw = hlwq_token_bytes(s->tokenizer, id, &bytes);
    for (size_t i = 0; raw && i < bytes; i++)
        n += ((unsigned char)raw[i] & 0xC0) != 0x80;
    return n;
}

/* The likeliest `n` <= SERVE_TOP, best first, ties by lower id. */
static uint32_t likeliest(const float *logits, uint32_t vocab, uint32_t n, candidate *top)
{
    uint32_t have = 0;
    for (uint32_t i = 0; n && i < vocab; i++) {
        if (have == n && !(logits[i] > top[n - 1].logit))
            continue;
        uint32_t at = have < n ? have++ : n - 1;
        for (; at && logits[i] > top[at - 1].logit; at--)
            top[at] = top[at - 1];
        top[at] = (candidate){(int32_t)i, logits[i]};
    }
    return have;
}

/* log of the sum of exp(logit), added in order of id. */
static double log_total(const float *logits, uint32_t vocab)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        top = logits[i] > top ? (double)logits[i] : top;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - top);
    return top + log(sum);
}

static void write_chat_token(serve_unit *u, int32_t id, const float *logits, double total, const candidate *top,
                             uint32_t n)
{
    const serve *s = u->request->server;
    hs_text *out = &u->chosen;
    hs_text_format(out, "%s", out->bytes ? "," : "");
    write_entry(out, s, id, (double)logits[id] - total);
    hs_text_format(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < n; i++) {
        hs_text_format(out, "%s", i ? "," : "");
        write_entry(out, s, top[i].id, (double)top[i].logit - total);
        hs_text_format(out, "}");
    }
    hs_text_format(out, "]}");
}

void serve_write_token(serve_unit *u, int32_t id, const float *logits)
{
    const serve *s = u->request->server;
    candidate top[SERVE_TOP];
    uint32_t n = logits ? likeliest(logits, s->facts.vocab, u->request->params.top, top) : 0;
    double total = logits ? log_total(logits, s->facts.vocab) : 0;
    if (is_chat(u->request)) {
        write_chat_token(u, id, logits, total, top, n);
        return;
    }
    const char *comma = u->chosen.bytes ? "," : "";
    hs_text_format(&u->chosen_name, "%s", comma);
    write_name(&u->chosen_name, s, id);
    hs_text_format(&u->chosen_offset, "%s%zu", comma, u->offset);
    u->offset += characters(s, id);
    if (!logits) { /* nothing came before it */
        hs_text_format(&u->chosen, "%snull", comma);
        hs_text_format(&u->chosen_top, "%snull", comma);
        return;
    }
    hs_text_format(&u->chosen, "%s%.9g", comma, (double)logits[id] - total);
    hs_text_format(&u->chosen_top, "%s{", comma);
    bool seen = n == 0;
    for (uint32_t i = 0; i < n; i++) {
        hs_text_format(&u->chosen_top, "%s", i ? "," : "");
        write_name(&u->chosen_top, s, top[i].id);
        hs_text_format(&u->chosen_top, ":%.9g", (double)top[i].logit - total);
        seen |= top[i].id == id;
    }
    if (!seen) { /* the one chosen is shown in any case */
        hs_text_format(&u->chosen_top, ",");
        write_name(&u->chosen_top, s, id);
        hs_text_format(&u->chosen_top, ":%.9g", (double)logits[id] - total);
    }
    hs_text_format(&u->chosen_top, "}");
}

/* "logprobs":... of what was chosen since the last time. */
static void write_logprobs(serve_unit *u, hs_text *out)
{
    if (!u->request->params.logprobs) {
        hs_text_format(out, "\"logprobs\":null");
        return;
    }
#define SHOW(t) ((t).data ? (t).data : "")
    if (is_chat(u->request)) {
        hs_text_format(out, "\"logprobs\":{\"content\":[%s],\"refusal\":null}", SHOW(u->chosen));
    } else {
        hs_text_format(out,
                       "\"logprobs\":{\"tokens\":[%s],\"token_logprobs\":[%s],\"top_logprobs\":[%s],"
                       "\"text_offset\":[%s]}",
                       SHOW(u->chosen_name), SHOW(u->chosen), SHOW(u->chosen_top), SHOW(u->chosen_offset));
    }
#undef SHOW
    hs_text *all[] = {&u->chosen, &u->chosen_name, &u->chosen_top, &u->chosen_offset};
    for (int i = 0; i < 4; i++) {
        out->failed |= all[i]->failed;
        all[i]->bytes = 0;
        if (all[i]->data)
            *all[i]->data = 0;
    }
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static void begin_chunk(serve_unit *u, hs_text *out)
{
    hs_text_format(out, "data: ");
    write_head(u->request, out);
    hs_text_format(out, ",\"choices\":[{\"index\":%" PRIu32 ",", u->index);
}

static void end_chunk(serve_unit *u, hs_text *out, const char *finish)
{
    hs_text_format(out, ",");
    write_logprobs(u, out);
    if (finish)
        hs_text_format(out, ",\"finish_reason\":\"%s\"}]", finish);
    else
        hs_text_format(out, ",\"finish_reason\":null}]");
    if (finish) {
        hs_text_format(out, ",");
        write_timings(u, out);
    }
    if (u->request->params.usage)
        hs_text_format(out, ",\"usage\":null");
    hs_text_format(out, "}\n\n");
}

void serve_write_begin(serve_unit *u, hs_text *out)
{
    if (!is_chat(u->request))
        return;
    begin_chunk(u, out);
    hs_text_format(out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    end_chunk(u, out, NULL);
}

/* A name for the n-th call of an answer; unlike those of other answers. */
static void write_call_id(const serve_unit *u, uint32_t n, hs_text *out)
{
    const char *tail = strrchr(u->request->id, '-');
    hs_text_format(out, "\"call_%s_%" PRIu32 "\"", tail ? tail + 1 : u->request->id, n);
}

static void stream_piece(serve_unit *u, hs_text *out, serve_piece kind, const char *text, size_t bytes)
{
    uint32_t call = u->split.calls ? u->split.calls - 1 : 0;
    begin_chunk(u, out);
    if (!is_chat(u->request)) {
        hs_text_format(out, "\"text\":");
        hs_text_json(out, text, bytes);
        end_chunk(u, out, NULL);
        return;
    }
    hs_text_format(out, "\"delta\":{");
    switch (kind) {
    case SERVE_PIECE_TEXT:
    case SERVE_PIECE_REASONING:
        hs_text_format(out, "\"%s\":", kind == SERVE_PIECE_TEXT ? "content" : "reasoning_content");
        hs_text_json(out, text, bytes);
        break;
    case SERVE_PIECE_CALL:
        hs_text_format(out, "\"tool_calls\":[{\"index\":%" PRIu32 ",\"id\":", call);
        write_call_id(u, call, out);
        hs_text_format(out, ",\"type\":\"function\",\"function\":{\"name\":");
        hs_text_json(out, text, bytes);
        hs_text_format(out, ",\"arguments\":\"\"}}]");
        break;
    case SERVE_PIECE_ARGUMENTS:
        hs_text_format(out, "\"tool_calls\":[{\"index\":%" PRIu32 ",\"function\":{\"arguments\":", call);
        hs_text_json(out, text, bytes);
        hs_text_format(out, "}}]");
        break;
    }
    hs_text_format(out, "}");
    end_chunk(u, out, NULL);
}

/* `calls` holds "name" and then the bare pieces of its arguments, which are closed when the next one begins. */
static void close_call(serve_unit *u)
{
    if (u->call_open)
        hs_text_format(&u->calls, "\"}}");
    u->call_open = false;
}

static void keep_piece(serve_unit *u, serve_piece kind, const char *text, size_t bytes)
{
    hs_text quoted = {0};
    switch (kind) {
    case SERVE_PIECE_TEXT: hs_text_add(&u->text, text, bytes); return;
    case SERVE_PIECE_REASONING: hs_text_add(&u->reasoning, text, bytes); return;
    case SERVE_PIECE_CALL:
        close_call(u);
        hs_text_format(&u->calls, "%s{\"id\":", u->calls.bytes ? "," : "");
        write_call_id(u, u->split.calls - 1, &u->calls);
        hs_text_format(&u->calls, ",\"type\":\"function\",\"function\":{\"name\":");
        hs_text_json(&u->calls, text, bytes);
        hs_text_format(&u->calls, ",\"arguments\":\"");
        u->call_open = true;
        return;
    case SERVE_PIECE_ARGUMENTS:
        hs_text_json(&quoted, text, bytes); /* without its quotes */
        if (!quoted.failed)
            hs_text_add(&u->calls, quoted.data + 1, quoted.bytes - 2);
        u->calls.failed |= quoted.failed;
        hs_text_close(&quoted);
        return;
    }
}

void serve_write_piece(serve_unit *u, hs_text *out, serve_piece kind, const char *text, size_t bytes)
{
    if (u->request->params.stream)
        stream_piece(u, out, kind, text, bytes);
    else
        keep_piece(u, kind, text, bytes);
}

void serve_write_end(serve_unit *u, hs_text *out)
{
    if (!u->request->params.stream) {
        close_call(u);
        return;
    }
    begin_chunk(u, out);
    hs_text_format(out, "%s", is_chat(u->request) ? "\"delta\":{}" : "\"text\":\"\"");
    end_chunk(u, out, u->finish);
}

/* ---- whole answers --------------------------------------------------------------------------- */

static void write_text(hs_text *out, const hs_text *text)
{
    out->failed |= text->failed;
    hs_text_json(out, text->data ? text->data : "", text->bytes);
}

static void write_choice(serve_unit *u, hs_text *out)
{
    hs_text_format(out, "{\"index\":%" PRIu32 ",", u->index);
    if (is_chat(u->request)) {
        hs_text_format(out, "\"message\":{\"role\":\"assistant\",\"content\":");
        if (u->calls.bytes && !u->text.bytes)
            hs_text_format(out, "null");
        else
            write_text(out, &u->text);
        if (u->reasoning.bytes) {
            hs_text_format(out, ",\"reasoning_content\":");
            write_text(out, &u->reasoning);
        }
        if (u->calls.bytes)
            hs_text_format(out, ",\"tool_calls\":[%s]", u->calls.data);
        out->failed |= u->calls.failed;
        hs_text_format(out, "},");
    } else {
        hs_text_format(out, "\"text\":");
        write_text(out, &u->text);
        hs_text_format(out, ",");
    }
    write_logprobs(u, out);
    hs_text_format(out, ",\"finish_reason\":\"%s\"}", u->finish);
}

static void write_stream_end(serve_request *r, hs_text *out)
{
    if (r->fault.status) {
        hs_text_format(out, "data: ");
        serve_write_error(out, &r->fault);
        hs_text_format(out, "\n\n");
    } else if (r->params.usage) {
        hs_text_format(out, "data: ");
        write_head(r, out);
        hs_text_format(out, ",\"choices\":[],");
        write_usage(r, out);
        hs_text_format(out, "}\n\n");
    }
    hs_text_format(out, "data: [DONE]\n\n");
}

void serve_write_rest(serve_request *r, hs_text *out)
{
    if (r->params.stream) {
        write_stream_end(r, out);
        return;
    }
    for (uint32_t i = 0; i < r->units; i++)
        if (!r->unit[i].finish && !r->fault.status)
            serve_refuse(&r->fault, 500, NULL, "the answer was given up");
    if (r->fault.status) {
        serve_write_error(out, &r->fault);
        return;
    }
    write_head(r, out);
    hs_text_format(out, ",\"choices\":[");
    for (uint32_t i = 0; i < r->units; i++) {
        hs_text_format(out, "%s", i ? "," : "");
        write_choice(&r->unit[i], out);
    }
    hs_text_format(out, "],");
    write_usage(r, out);
    hs_text_format(out, ",");
    write_timings(&r->unit[0], out);
    hs_text_format(out, "}");
}
