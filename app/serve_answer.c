/*
 * app/serve_answer.c - one answer: what its tokens become on the way to the client, its end, its calls of tools.
 */
#include "app/serve_answer.h"

#include <string.h>

bool serve_streams(const serve_unit *u)
{
    return u->request->params.stream;
}

/* Hands what was written to the client. */
static void send_out(serve_loop *l, serve_unit *u, bool done)
{
    serve *s = l->server;
    serve_request *r = u->request;
    pthread_mutex_lock(&s->lock);
    if (r->out.bytes == r->out_sent)
        r->moved = serve_now(); /* from now on there is something to read */
    if (!r->cancelled && l->out.bytes)
        hs_text_add(&r->out, l->out.data, l->out.bytes);
    if (l->out.failed || r->out.failed)
        r->cancelled = true;
    if (l->out.bytes)
        r->said = serve_now();
    r->done |= done;
    if (l->out.bytes || done)
        serve_wake(r);
    pthread_mutex_unlock(&s->lock);
    l->out.bytes = 0;
}

static void take_piece(void *user, serve_piece kind, const char *text, size_t bytes)
{
    serve_unit *u = user;
    serve_write_piece(u, &u->text, kind, text, bytes);
}

bool serve_ends_answer(const serve *s, int32_t id)
{
    for (int i = 0; i < SERVE_ENDS; i++)
        if (id == s->end[i])
            return true;
    return false;
}

/* Whether the prompt ends inside the block where a model thinks. */
static bool opens_thinking(const serve *s, const serve_unit *u)
{
    size_t n = u->n_ids;
    while (n-- > 0 && s->think_open >= 0 && u->ids[n] != s->think_close)
        if (u->ids[n] == s->think_open)
            return true;
    return false;
}

void serve_constrain(serve_slot *k, bool on)
{
    serve_constraint *c = k->unit->request->constraint;
    hlwq_session_set_constraint(k->session, on ? serve_constraint_inner(c) : NULL);
}

static void echo_prompt(const serve *s, serve_unit *u)
{
    char *text;
    size_t bytes;
    if (hlwq_detokenize(s->tokenizer, u->ids, u->n_ids, false, &text, &bytes, NULL) != HLWQ_OK)
        return;
    serve_write_piece(u, &u->text, SERVE_PIECE_TEXT, text, bytes);
    hlwq_free(text);
}

void serve_begin(serve_loop *l, serve_unit *u)
{
    const serve_params *p = &u->request->params;
    bool chat = p->kind == SERVE_CHAT;
    u->split = (serve_split){.stop = p->stop,
                             .stops = p->stops,
                             .tools = chat ? p->tools : NULL,
                             .one_call = p->one_call || p->choice == SERVE_TOOLS_NAMED,
                             .take = take_piece,
                             .user = u};
    if (serve_streams(u))
        serve_write_begin(u, &u->text);
    if (u->opening && *u->opening) {
        const char *call = strstr(u->opening, "<tool_call>");
        serve_split_text(&u->split, call, strlen(call));
    } else if (chat && opens_thinking(l->server, u)) {
        serve_split_think(&u->split, true);
    }
    if (p->echo && !chat)
        echo_prompt(l->server, u);
}

/* Text that is streamed is collected in u->text, too: sent and emptied here. */
void serve_flush(serve_loop *l, serve_unit *u, bool done)
{
    if (serve_streams(u)) {
        hs_text_add(&l->out, u->text.data ? u->text.data : "", u->text.bytes);
        l->out.failed |= u->text.failed;
        u->text.bytes = 0;
    }
    send_out(l, u, done);
}

static void count_end(serve *s, const serve_unit *u)
{
    pthread_mutex_lock(&s->lock);
    s->counts.running--;
    s->counts.made_tokens += u->made;
    s->counts.cached_tokens += u->cached;
    if (u->first > 0) {
        s->counts.prompt_tokens += u->n_ids - u->cached;
        s->counts.prompt_seconds += u->first - u->begun;
        s->counts.made_seconds += u->last - u->first;
        if (u->made)
            serve_histogram_add(&s->counts.first_token, u->first - u->request->asked);
        if (u->made > 1 && u->last > u->first)
            serve_histogram_add(&s->counts.speed, (double)(u->made - 1) / (u->last - u->first));
    }
    if (u->request->cancelled)
        s->counts.cancelled++;
    else if (u->request->fault.status)
        s->counts.refused++;
    else
        s->counts.finished++;
    pthread_mutex_unlock(&s->lock);
}

void serve_end(serve_loop *l, serve_slot *k, const char *finish)
{
    serve *s = l->server;
    serve_unit *u = k->unit;
    serve_request *r = u->request;
    u->finish = finish;
    serve_constrain(k, false);
    if (finish) {
        serve_split_end(&u->split);
        if (u->split.calls && strcmp(finish, "stop") == 0)
            u->finish = "tool_calls";
        serve_write_end(u, &u->text);
    }
    count_end(s, u);
    k->unit = NULL;
    r->units_done++;
    bool last = r->units_done == r->units;
    if (last) {
        if (serve_streams(u) && u->text.bytes)
            hs_text_add(&l->out, u->text.data, u->text.bytes);
        serve_write_rest(r, &l->out);
    }
    send_out(l, u, last);
    if (last) {
        pthread_mutex_lock(&s->lock);
        serve_request_release(r);
        pthread_cond_broadcast(&s->idle);
        pthread_mutex_unlock(&s->lock);
    }
}

void serve_fail(serve_loop *l, serve_slot *k, const hlwq_error *err)
{
    serve_refuse_error(&k->unit->request->fault, err);
    app_error(err);
    serve_constraint_forget(&l->server->constraints, k->unit->request->constraint);
    serve_end(l, k, NULL);
}

/* ---- calls whose arguments have a schema ------------------------------------------------------ */

static serve_constraint *schema_of_call(const serve_unit *u)
{
    const serve_request *r = u->request;
    for (size_t i = 0; r->strict && i < hs_json_count(r->params.tools); i++) {
        const hs_json *tool = hs_json_at(r->params.tools, i);
        const hs_json *name = hs_json_get(hs_json_get(tool, "function"), "name");
        if (r->strict[i] && u->split.name.data && strcmp(hs_json_string(name, NULL), u->split.name.data) == 0)
            return r->strict[i];
    }
    return NULL;
}

bool serve_watch_call(serve_loop *l, serve_slot *k)
{
    serve_unit *u = k->unit;
    hlwq_error err;
    bool inside = u->split.call == SERVE_CALL_PARAMETERS;
    if (k->strict && !inside) {
        hlwq_session_set_constraint(k->session, NULL);
        k->strict = false;
    }
    if (k->call == u->split.calls || !u->request->strict)
        return true;
    k->call = u->split.calls;
    serve_constraint *c = schema_of_call(u);
    if (!c)
        return true;
    hlwq_session_set_constraint(k->session, serve_constraint_inner(c));
    k->strict = true;
    hlwq_status st = hlwq_session_follow(k->session, u->split.held.data, u->split.held.bytes, &err);
    if (st == HLWQ_OK && inside)
        return true;
    serve_refuse(&u->request->fault, 500, "tools",
                 "the model began a call of \"%.100s\" in a way that its schema cannot follow", u->split.name.data);
    serve_end(l, k, NULL);
    return false;
}
