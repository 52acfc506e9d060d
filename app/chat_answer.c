/*
 * app/chat_answer.c - one answer: the new part of the prompt is read, tokens are made, text is shown as it comes.
 *
 * The session is read on from where it is when the ids of the whole conversation begin with what it has read; else from
 * the last state that was remembered on the way.  (Templates drop the reasoning of earlier answers.)
 */
#include "app/chat.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is shown, and kept, of an answer. */
typedef struct answer {
    chat *c;
    hs_text text, reasoning;
    bool thinking, shows_thinking;
    bool colour, terminal;
    bool started;   /* what is said, after the line ends that follow a tag */
    bool line_open; /* the last byte shown was no line end */
    uint64_t tokens;
    double seconds, prompt_seconds;
} answer;

/* ---- showing --------------------------------------------------------------------------------- */

static hlwq_status show(answer *a, const char *text, hlwq_error *err)
{
    size_t n = strlen(text);
    if (!n)
        return HLWQ_OK;
    a->line_open = text[n - 1] != '\n';
    return app_out(text, n, err);
}

/* A terminal would act on control characters, and a model may have been taught to write them. */
static hlwq_status show_text(answer *a, const char *text, hlwq_error *err)
{
    if (!a->terminal)
        return show(a, text, err);
    hs_text clean = {0};
    for (const char *p = text; *p; p++) {
        bool acts = ((unsigned char)*p < 32 && *p != '\n' && *p != '\t') || *p == 127 ||
                    ((unsigned char)*p == 0xC2 && (unsigned char)p[1] >= 0x80 && (unsigned char)p[1] < 0xA0);
        if (acts && (unsigned char)*p == 0xC2)
            p++;
        hs_text_add(&clean, acts ? "?" : p, 1);
    }
    hlwq_status st = clean.data ? show(a, clean.data, err) : HLWQ_OK;
    hs_text_close(&clean);
    return st;
}

static hlwq_status begin_thinking(answer *a, hlwq_error *err)
{
    a->thinking = true;
    a->started = false;
    return a->shows_thinking ? show(a, a->colour ? "\033[2m" : "<think>\n", err) : HLWQ_OK;
}

static hlwq_status end_thinking(answer *a, hlwq_error *err)
{
    a->thinking = false;
    a->started = false;
    if (!a->shows_thinking)
        return HLWQ_OK;
    if (a->line_open && a->reasoning.bytes)
        HS_TRY(show(a, "\n", err));
    HS_TRY(show(a, a->colour ? "\033[0m" : "</think>\n", err));
    a->line_open = false;
    return show(a, "\n", err);
}

/* Line ends after <think> and </think> belong to the tags. */
static hlwq_status take_text(answer *a, const char *text, hlwq_error *err)
{
    hs_text *out = a->thinking ? &a->reasoning : &a->text;
    if (!a->started)
        text += strspn(text, "\n");
    if (!*text)
        return HLWQ_OK;
    a->started = true;
    hs_text_add(out, text, strlen(text));
    if (out->failed)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the answer");
    return a->thinking && !a->shows_thinking ? HLWQ_OK : show_text(a, text, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

void chat_forget(chat *c)
{
    hlwq_session_reset(c->session);
}

static hlwq_status read_ids(chat *c, const int32_t *ids, size_t n, hlwq_error *err)
{
    size_t have = hlwq_session_position(c->session);
    if (n >= c->context)
        return hs_fail(
            err, HLWQ_ERR_BUDGET,
            "the conversation is %zu tokens long and the context holds %u; /undo or /reset makes room, --ctx "
            "makes it larger",
            n, c->context);
    size_t known = hlwq_session_known(c->session, ids, n);
    if (known < have) {
        if (!c->reread && app_flag(c->args, OPT_VERBOSE))
            app_note("the conversation is read again from token %zu: the template writes earlier answers in another "
                     "way than they were made",
                     known);
        c->reread = true;
    }
    c->prompt = n;
    size_t edge = chat_prompt_edge(c->chat, c->tokenizer, &c->talk, c->think, ids, n);
    hlwq_status st = hlwq_session_read(c->session, ids, n, &edge, 1, &c->kept, err);
    if (st == HLWQ_ERR_CANCELLED && !app_signal() && !app_interrupted()) /* by one when nothing was running */
        st = hlwq_session_read(c->session, ids, n, &edge, 1, &c->kept, err);
    return st;
}

/* Whether the prompt ends inside the block where a model thinks. */
static bool opens_thinking(const chat *c, const int32_t *ids, size_t n)
{
    while (n-- > 0 && c->think_open >= 0 && ids[n] != c->think_close)
        if (ids[n] == c->think_open)
            return true;
    return false;
}

/* ---- making ---------------------------------------------------------------------------------- */

static bool ends_answer(const chat *c, int32_t id)
{
    for (int i = 0; i < CHAT_ENDS; i++)
        if (id < 0 || id == c->end[i])
            return true;
    return false;
}

static hlwq_status take_token(answer *a, int32_t id, hlwq_error *err)
{
    chat *c = a->c;
    const char *text = hlwq_session_text(c->session, id);
    if (id == c->think_open && !a->thinking && !a->text.bytes)
        return begin_thinking(a, err);
    if (id == c->think_close && a->thinking) {
        hlwq_session_set_constraint(c->session, c->constraint);
        return end_thinking(a, err);
    }
    return take_text(a, text, err);
}

/* Until the answer ends, the limit, the context or the person says so; *stopped by a person. */
static hlwq_status make(answer *a, bool *stopped, hlwq_error *err)
{
    chat *c = a->c;
    while (c->limit < 0 || a->tokens < (uint64_t)c->limit) {
        uint32_t at = hlwq_session_position(c->session);
        int32_t id = -1;
        *stopped = app_interrupted() || app_signal();
        if (*stopped)
            return HLWQ_OK;
        if (at >= c->context) {
            app_note("the context of %u tokens is full; /undo or /reset makes room, --ctx makes it larger", c->context);
            return HLWQ_OK;
        }
        hlwq_status st = hlwq_session_next(c->session, &id, err);
        if (st == HLWQ_ERR_CANCELLED && (app_signal() || app_interrupted())) {
            *stopped = true;
            return HLWQ_OK;
        }
        if (st == HLWQ_ERR_CANCELLED)
            continue; /* by an interrupt that came when nothing was running */
        HS_TRY(st);
        if (ends_answer(c, id)) {
            if (!a->thinking || !c->constraint || c->think_close < 0)
                return HLWQ_OK;
            id = c->think_close; /* it has thought enough, and owes an answer */
            HS_TRY(hlwq_session_eval(c->session, &id, 1, NULL, err));
        }
        a->tokens++;
        HS_TRY(take_token(a, id, err));
    }
    return HLWQ_OK;
}

static void status_line(const answer *a)
{
    chat *c = a->c;
    hlwq_streaming io;
    char streamed[64] = "";
    if (!c->interactive || !isatty(STDERR_FILENO) || app_quiet())
        return;
    hlwq_engine_streaming(c->engine, &io);
    uint64_t lookups = io.lookups - c->before.lookups;
    if (io.slots && lookups)
        snprintf(streamed, sizeof streamed, " | hit rate %.1f %%",
                 100.0 * (double)(io.hits - c->before.hits) / (double)lookups);
    c->before = io;
    bool colour = app_coloured(2);
    fprintf(stderr, "%s%.1f tok/s | context %u of %u%s%s\n", colour ? "\033[2m" : "", app_rate(a->tokens, a->seconds),
            hlwq_session_position(c->session), c->context, streamed, colour ? "\033[0m" : "");
    fflush(stderr);
}

/* What was made is shown and kept, whatever stopped it. */
static hlwq_status finish(answer *a, hlwq_error *err)
{
    hlwq_status st = take_text(a, hlwq_session_text(a->c->session, -1), err);
    if (st == HLWQ_OK && a->thinking && a->shows_thinking)
        st = end_thinking(a, err);
    else if (st == HLWQ_OK && a->line_open)
        st = show(a, "\n", err);
    if (st == HLWQ_OK && !a->text.bytes && !a->shows_thinking && a->reasoning.bytes)
        app_note("the model was still thinking; -n is the number of tokens it may make");
    status_line(a);
    if (a->text.failed || a->reasoning.failed)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the answer");
    hlwq_status kept = chat_talk_add(&a->c->talk, CHAT_ASSISTANT, a->text.data ? a->text.data : "",
                                     a->reasoning.bytes ? a->reasoning.data : NULL, st == HLWQ_OK ? err : NULL);
    return st == HLWQ_OK ? kept : st;
}

static hlwq_status answer_prompt(answer *a, const int32_t *ids, size_t n, hlwq_error *err)
{
    chat *c = a->c;
    hlwq_session_stats before, after;
    bool stopped = false;
    hlwq_sampling sampling = c->sampling;
    sampling.seed += c->again;
    HS_TRY(hlwq_session_set_sampling(c->session, &sampling, err));
    HS_TRY(read_ids(c, ids, n, err));
    hlwq_session_get_stats(c->session, &before);
    bool thinks = opens_thinking(c, ids, n);
    hlwq_session_set_constraint(c->session, thinks ? NULL : c->constraint);
    hlwq_status st = thinks ? begin_thinking(a, err) : HLWQ_OK;
    if (st == HLWQ_OK)
        st = make(a, &stopped, err);
    if (st == HLWQ_OK && !hlwq_session_satisfied(c->session))
        app_warn("the answer is not complete: it ended before the schema or the grammar was satisfied");
    hlwq_session_set_constraint(c->session, NULL);
    hlwq_session_get_stats(c->session, &after);
    a->seconds = after.decode_seconds - before.decode_seconds;
    if (app_left())
        return st;
    hlwq_error later;
    hlwq_status kept = finish(a, &later);
    if (st == HLWQ_OK && kept != HLWQ_OK)
        *err = later;
    return st == HLWQ_OK ? kept : st;
}

hlwq_status chat_answer(chat *c, hlwq_error *err)
{
    int32_t *ids;
    size_t n;
    HS_TRY(chat_prompt_ids(c->chat, c->tokenizer, &c->talk, c->think, &ids, &n, err));
    bool terminal = isatty(STDOUT_FILENO);
    answer a = {.c = c,
                .started = true,
                .shows_thinking = c->think != CHAT_THINK_OFF,
                .terminal = terminal,
                .colour = terminal && app_coloured(STDOUT_FILENO)};
    app_interrupted(); /* of before */
    app_watch(c->session);
    hlwq_status st = answer_prompt(&a, ids, n, err);
    app_watch(NULL);
    if (st != HLWQ_OK)
        chat_forget(c); /* a session that failed inside a token takes nothing more */
    hs_text_close(&a.text);
    hs_text_close(&a.reasoning);
    hlwq_free(ids);
    return st;
}
