/*
 * app/serve_engine.c - the thread that computes: requests into slots, prompts in pieces, steps for all at once.
 *
 * Between two steps of decoding at most one piece of one prompt is read, so a long prompt slows the others down and
 * does not stop them.  Pieces end on the grid of positions, and rows of a step do not see each other: a text has the
 * bits that it has alone, whoever shares the machine.
 */
#define _GNU_SOURCE
#include "app/serve_answer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    GRID = 64,            /* positions at which a prompt may be cut */
    BACKLOG_MAX = 1 << 20 /* bytes that a client may leave unread before its text waits */
};

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct shown {
    serve_unit *unit;
    size_t first; /* position of the piece */
} shown;

/* The logits after prompt token i are those that token i + 1 stands beside. */
static bool show(void *user, size_t at, const float *logits)
{
    shown *w = user;
    size_t next = w->first + at + 1;
    if (next < w->unit->n_ids)
        serve_write_token(w->unit, w->unit->ids[next], logits);
    return true;
}

static bool scores_prompt(const serve_unit *u)
{
    const serve_params *p = &u->request->params;
    return p->kind == SERVE_COMPLETION && p->echo && p->logprobs;
}

/*
 * The last place of a prompt from which another may go on: chats send what was said before again.  What is read in
 * pieces from there has the bits of a prompt read from its beginning, so what was kept never shows in an answer.
 */
static size_t place_of(const serve_unit *u)
{
    return (u->edge && u->edge < u->n_ids ? u->edge : u->n_ids - 1) / GRID * GRID;
}

static void keep_place(serve_slot *k)
{
    if (k->unit->read == place_of(k->unit))
        (void)hlwq_session_mark(k->session, NULL); /* it would only have saved time */
}

/* One piece of a prompt. */
static void read_piece(serve_loop *l, serve_slot *k, bool alone)
{
    serve_unit *u = k->unit;
    hlwq_error err;
    size_t most = alone ? l->server->plan.batch : GRID, edge = most - u->read % GRID, left = u->n_ids - u->read;
    size_t mark = place_of(u); /* a piece ends there */
    if (u->read < mark)
        left = mark - u->read;
    size_t n = left < edge ? left : edge;
    hlwq_status st;
    if (!u->read && scores_prompt(u))
        serve_write_token(u, u->ids[0], NULL);
    if (scores_prompt(u)) {
        shown w = {u, u->read};
        st = hlwq_session_eval_each(k->session, u->ids + u->read, n, show, &w, &err);
    } else {
        st = hlwq_session_eval(k->session, u->ids + u->read, n, NULL, &err);
    }
    if (st != HLWQ_OK) {
        serve_fail(l, k, &err);
        return;
    }
    u->read += n;
    keep_place(k);
    if (u->read < u->n_ids)
        return;
    k->ready = true;
    u->first = u->last = serve_now();
    serve_begin(l, u);
    serve_constrain(k, !u->split.thinking);
    if (serve_watch_call(l, k))
        serve_flush(l, u, false);
}

/* ---- making ---------------------------------------------------------------------------------- */

static void take_token(serve_loop *l, serve_slot *k, int32_t id)
{
    serve *s = l->server;
    serve_unit *u = k->unit;
    const char *text = hlwq_session_text(k->session, id);
    bool chat = u->request->params.kind == SERVE_CHAT;
    if (chat && id == s->think_open && !u->split.thinking && !u->made) {
        serve_split_think(&u->split, true);
    } else if (chat && id == s->think_close && u->split.thinking) {
        serve_split_think(&u->split, false);
        serve_constrain(k, true);
    } else {
        serve_split_text(&u->split, text, strlen(text));
    }
}

/* Chooses the next token of a slot; true if it is to be appended. */
static bool choose(serve_loop *l, serve_slot *k)
{
    serve_unit *u = k->unit;
    const serve_params *p = &u->request->params;
    hlwq_error err;
    bool ends;
    if (u->limit >= 0 && u->made >= (uint64_t)u->limit) {
        serve_end(l, k, "length");
        return false;
    }
    if (hlwq_session_sample(k->session, &k->next, &ends, &err) != HLWQ_OK) {
        serve_fail(l, k, &err);
        return false;
    }
    bool enough = ends || serve_ends_answer(l->server, k->next);
    if (enough && u->split.thinking && u->request->constraint && l->server->think_close >= 0) {
        k->next = l->server->think_close; /* it has thought enough, and owes an answer */
        enough = false;
    }
    if (p->logprobs && k->next >= 0) /* a model without an end token ends where its constraint leaves nothing */
        serve_write_token(u, k->next, hlwq_session_logits(k->session));
    double now = serve_now();
    if (u->made++)
        serve_histogram_add(&l->gap, now - u->last);
    else
        u->first = now;
    u->last = now;
    if (enough) {
        const char *rest = hlwq_session_text(k->session, -1);
        serve_split_text(&u->split, rest, strlen(rest));
        serve_end(l, k, "stop");
        return false;
    }
    take_token(l, k, k->next);
    if (u->split.failed) {
        err = (hlwq_error){HLWQ_ERR_NOMEM, "no memory for the answer"};
        serve_fail(l, k, &err);
        return false;
    }
    if (!u->split.stopped && !serve_watch_call(l, k))
        return false;
    bool full = hlwq_session_position(k->session) + 1 >= l->server->defaults.context;
    if (u->split.stopped || full || (u->limit >= 0 && u->made >= (uint64_t)u->limit)) {
        if (!u->split.stopped) {
            const char *rest = hlwq_session_text(k->session, -1);
            serve_split_text(&u->split, rest, strlen(rest));
        }
        serve_end(l, k, u->split.stopped ? "stop" : "length");
        return false;
    }
    if (serve_streams(u) && u->text.bytes)
        serve_flush(l, u, false);
    return true;
}

/* One token for every text that has been read. */
static void step(serve_loop *l)
{
    serve *s = l->server;
    hlwq_session *session[SERVE_SLOTS];
    int32_t id[SERVE_SLOTS];
    serve_slot *row[SERVE_SLOTS];
    uint32_t n = 0;
    hlwq_error err;
    for (uint32_t i = 0; i < s->slots; i++) {
        serve_slot *k = &l->slot[i];
        if (!k->unit || !k->ready || k->stalled || !choose(l, k))
            continue;
        row[n] = k;
        session[n] = k->session;
        id[n++] = k->next;
    }
    if (n && hlwq_sessions_step(session, id, n, &err) != HLWQ_OK)
        for (uint32_t i = 0; i < n; i++)
            serve_fail(l, row[i], &err);
    pthread_mutex_lock(&s->lock);
    s->counts.steps += n > 0;
    s->counts.rows += n;
    s->counts.gap = l->gap;
    pthread_mutex_unlock(&s->lock);
}

/* ---- the queue ------------------------------------------------------------------------------- */

bool serve_submit(serve_request *r, serve_fault *f)
{
    serve *s = r->server;
    if (s->draining)
        return serve_refuse(f, 503, NULL, "the server is about to stop");
    if (s->counts.waiting && s->counts.waiting + r->units > s->queue_max)
        return serve_refuse(f, 429, NULL, "%u texts are waiting already, limit %u; try again later", s->counts.waiting,
                            s->queue_max);
    serve_unit **at = &s->queue;
    while (*at)
        at = &(*at)->next;
    for (uint32_t i = 0; i < r->units; i++) {
        *at = &r->unit[i];
        at = &r->unit[i].next;
        s->counts.waiting++;
    }
    r->refs++;
    s->counts.requests++;
    pthread_cond_signal(&s->work);
    return true;
}

/* Of those that wait, the first of the client that has the fewest slots. With the lock. */
static serve_unit *take_next(serve_loop *l)
{
    serve *s = l->server;
    serve_unit **best = NULL;
    uint32_t least = UINT32_MAX;
    for (serve_unit **at = &s->queue; *at; at = &(*at)->next) {
        uint32_t has = 0;
        for (uint32_t i = 0; i < s->slots; i++)
            has += l->slot[i].unit && l->slot[i].unit->request->client == (*at)->request->client;
        if (has < least) {
            least = has;
            best = at;
        }
    }
    if (!best)
        return NULL;
    serve_unit *u = *best;
    *best = u->next;
    u->next = NULL;
    s->counts.waiting--;
    s->counts.running++;
    return u;
}

/* How much of a prompt need not be read: of a mark, wherever it was set; then of what this slot itself holds. */
typedef struct known {
    size_t marked, own;
} known;

static known knows(const serve_slot *k, const serve_unit *u)
{
    known has = {0};
    const int32_t *ids = hlwq_session_tokens(k->session);
    size_t n = hlwq_session_position(k->session);
    if (!u || scores_prompt(u))
        return has;
    has.marked = hlwq_session_known(k->session, u->ids, u->n_ids);
    while (has.marked && has.own < n && has.own < u->n_ids && ids[has.own] == u->ids[has.own])
        has.own++;
    return has;
}

static bool knows_more(known a, known b)
{
    return a.marked != b.marked ? a.marked > b.marked : a.own > b.own;
}

/*
 * The free slot that knows most of a prompt, for another would have to copy; of those that know as much, the longest
 * unused; NULL = none is free.
 */
static serve_slot *free_slot(serve_loop *l, const serve_unit *u)
{
    serve_slot *best = NULL;
    known most = {0};
    for (uint32_t i = 0; i < l->server->slots; i++) {
        serve_slot *k = &l->slot[i];
        if (k->unit)
            continue;
        known has = knows(k, u);
        if (!best || knows_more(has, most) || (!knows_more(most, has) && k->used < best->used)) {
            best = k;
            most = has;
        }
    }
    return best;
}

static void seat(serve_loop *l, serve_slot *k, serve_unit *u)
{
    hlwq_error err;
    k->unit = u;
    k->ready = k->stalled = k->held = false;
    k->call = 0;
    k->used = ++l->seats;
    u->begun = serve_now();
    u->cached = 0;
    if (scores_prompt(u))
        hlwq_session_reset(k->session);
    else /* what fails here leaves a session that has read nothing */
        (void)hlwq_session_seek(k->session, u->ids, u->n_ids, &u->cached, NULL);
    u->read = u->cached;
    if (hlwq_session_set_sampling(k->session, &u->request->params.sampling, &err) != HLWQ_OK)
        serve_fail(l, k, &err);
}

/* Free slots are filled, slots and places in the queue that nobody wants are freed. True if there is work. */
static bool look_around(serve_loop *l)
{
    serve *s = l->server;
    bool work = false;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->slots; i++) {
        serve_slot *k = &l->slot[i];
        if (k->unit && k->unit->request->cancelled) {
            pthread_mutex_unlock(&s->lock);
            serve_end(l, k, NULL);
            pthread_mutex_lock(&s->lock);
        }
    }
    for (serve_unit *u; free_slot(l, NULL) && (u = take_next(l));) {
        pthread_mutex_unlock(&s->lock);
        seat(l, free_slot(l, u), u);
        pthread_mutex_lock(&s->lock);
    }
    for (uint32_t i = 0; i < s->slots; i++) {
        serve_slot *k = &l->slot[i];
        if (k->unit) {
            const serve_request *r = k->unit->request;
            k->stalled = r->out.bytes - r->out_sent > BACKLOG_MAX;
            work |= !k->stalled || r->cancelled;
        }
    }
    if (!work && !s->quit) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 100 * 1000 * 1000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->work, &s->lock, &until);
    }
    pthread_mutex_unlock(&s->lock);
    return work;
}

/* What others may ask about the engine while it computes. */
static void publish(serve_loop *l)
{
    serve *s = l->server;
    serve_view v = {0};
    hlwq_engine_streaming(s->engine, &v.streaming);
    hlwq_engine_speculation(s->engine, &v.drafts);
    hlwq_engine_memory(s->engine, &v.memory_now, &v.memory_peak);
    hlwq_engine_vram(s->engine, &v.vram_now, &v.vram_peak);
    while (v.kinds < 16 && hlwq_engine_memory_kind(s->engine, v.kinds, &v.kind_name[v.kinds], &v.kind_bytes[v.kinds]))
        v.kinds++;
    pthread_mutex_lock(&s->lock);
    s->view = v;
    pthread_mutex_unlock(&s->lock);
}

/* The next slot whose prompt is not read, in turn; NULL = none. */
static serve_slot *next_reader(serve_loop *l)
{
    for (uint32_t i = 0; i < l->server->slots; i++) {
        serve_slot *k = &l->slot[(l->turn + i) % l->server->slots];
        if (k->unit && !k->ready) {
            l->turn = (l->turn + i + 1) % l->server->slots;
            return k;
        }
    }
    return NULL;
}

static bool quits(serve *s)
{
    pthread_mutex_lock(&s->lock);
    bool quit = s->quit && !s->counts.running && !s->queue;
    pthread_mutex_unlock(&s->lock);
    return quit;
}

void *serve_loop_run(void *user)
{
    serve_loop *l = user;
    double shown_at = 0;
    while (!quits(l->server)) {
        if (serve_now() - shown_at > 0.25) {
            publish(l);
            shown_at = serve_now();
        }
        if (!look_around(l))
            continue;
        uint32_t making = 0;
        for (uint32_t i = 0; i < l->server->slots; i++)
            making += l->slot[i].unit && l->slot[i].ready;
        serve_slot *reader = next_reader(l);
        if (reader)
            read_piece(l, reader, !making);
        step(l);
    }
    return NULL;
}

hlwq_status serve_loop_open(serve *s, serve_loop **loop, hlwq_error *err)
{
    serve_loop *l = *loop = calloc(1, sizeof *l);
    if (!l)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the server");
    l->server = s;
    for (uint32_t i = 0; i < s->slots; i++)
        HS_TRY(hlwq_session_open(s->engine, &s->defaults, &l->slot[i].session, err));
    publish(l);
    return HLWQ_OK;
}

void serve_loop_close(serve_loop *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; i < l->server->slots; i++)
        hlwq_session_close(l->slot[i].session);
    hs_text_close(&l->out);
    free(l);
}
