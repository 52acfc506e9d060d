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

/* What the prompt has begun of the answer, from the first tag on; NULL = nothing. */
static const char *begun(const serve_unit *u)
{
    return u->opening ? strstr(u->opening, "<tool_call>") : NULL;
}

void serve_constrain(serve_slot *k, bool on)
{
    serve_unit *u = k->unit;
    const char *text = begun(u);
    hlwq_error err;
    hlwq_session_set_constraint(k->session, on ? serve_constraint_inner(u->request->constraint) : NULL);
    if (on && text && hlwq_session_follow(k->session, text, strlen(text), &err) != HLWQ_OK)
        app_error(&err); /* the answer is one all the same, but for its beginning */
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
    if (begun(u))
        serve_split_text(&u->split, begun(u), strlen(begun(u)));
    else if (chat && opens_thinking(l->server, u))
        serve_split_think(&u->split, true);
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

/* ---- calls amid free text --------------------------------------------------------------------- */

/* The constraint from the tag of a call on, whose text so far is in the splitter; false where that cannot be. */
static bool follow_call(serve_slot *k)
{
    const serve_split *s = &k->unit->split;
    bool named = s->call == SERVE_CALL_PARAMETERS;
    hs_text text = {0};
    if ((!named && s->call != SERVE_CALL_NAME) || (named && s->parameters))
        return false;
    hs_text_format(&text, "<tool_call>");
    if (named)
        hs_text_format(&text, "\n<function=%s>", s->name.data);
    if (s->held.bytes)
        hs_text_add(&text, s->held.data, s->held.bytes);
    hlwq_session_set_constraint(k->session, serve_constraint_inner(k->unit->request->calls));
    k->held = !text.failed && hlwq_session_follow(k->session, text.data, text.bytes, NULL) == HLWQ_OK;
    if (!k->held)
        hlwq_session_set_constraint(k->session, NULL);
    hs_text_close(&text);
    return k->held;
}

bool serve_watch_call(serve_loop *l, serve_slot *k)
{
    serve_unit *u = k->unit;
    bool inside = u->split.call == SERVE_CALL_NAME || u->split.call == SERVE_CALL_PARAMETERS;
    bool fresh = u->split.calls != k->call, held = k->held; /* fresh: named since the last look */
    if (!u->request->calls)
        return true;
    k->call = u->split.calls;
    if (held && !inside) {
        hlwq_session_set_constraint(k->session, NULL);
        k->held = false;
    }
    if (held || ((fresh || u->split.call == SERVE_CALL_NAME) && follow_call(k)))
        return true;
    if (!fresh || !serve_strict_schema_of(u->request->params.tools, u->split.name.data))
        return true; /* it may be no call after all, or one that is free */
    serve_refuse(&u->request->fault, 500, "tools",
                 "the model began a call of \"%.100s\" in a way that its schema cannot follow", u->split.name.data);
    serve_end(l, k, NULL);
    return false;
}
