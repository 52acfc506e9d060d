/*
 * app/cmd_chat.c - a conversation with a model: lines in, answers out, commands between.
 */
#include "app/chat.h"
#include "app/chat_words.h"
#include "app/commands.h"
#include "app/plan_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- opening --------------------------------------------------------------------------------- */

static hlwq_status open_template(chat *c, hlwq_error *err)
{
    const char *file = app_text(c->args, OPT_TEMPLATE, NULL);
    hlwq_error why;
    hlwq_status st = hlwq_template_open(file ? file : c->model, &c->chat, &why);
    if (st == HLWQ_OK || file)
        return st == HLWQ_OK ? st : hs_fail(err, st, "%s", why.message);
    return hs_fail(err, st, "%s; --template FILE names another chat template", why.message);
}

static hlwq_status open_chat(chat *c, hlwq_error *err)
{
    hlwq_session_options o;
    HS_TRY(app_model_path(c->args, &c->model, err));
    HS_TRY(open_template(c, err)); /* before the weights, which may take long */
    HS_TRY(app_engine_open(c->args, c->model, app_flag(c->args, OPT_EXACT), 0, &c->engine, err));
    c->tokenizer = hlwq_engine_tokenizer(c->engine);
    if (!c->tokenizer)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s has no tokenizer", c->model);
    HS_TRY(app_session_options(c->args, c->engine, &o, err));
    HS_TRY(app_constraint(c->args, c->engine, &c->constraint, err));
    HS_TRY(hlwq_session_open(c->engine, &o, &c->session, err));
    c->sampling = o.sampling;
    c->context = o.context;
    c->limit = app_number(c->args, OPT_PREDICT, -1);
    c->think = (chat_think)app_number(c->args, OPT_THINK, CHAT_THINK_AUTO);
    c->think_open = chat_token(c->tokenizer, "<think>");
    c->think_close = chat_token(c->tokenizer, "</think>");
    c->end[0] = chat_prompt_end(c->chat, c->tokenizer);
    c->end[1] = chat_token(c->tokenizer, "<|im_end|>");
    c->end[2] = chat_token(c->tokenizer, "<|endoftext|>");
    c->file = app_text(c->args, OPT_SESSION, NULL);
    if (c->file && access(c->file, F_OK) == 0)
        HS_TRY(chat_resume(c, c->file, err));
    if (!c->file || c->args->value[OPT_SYSTEM].set)
        HS_TRY(chat_talk_system(&c->talk, app_text(c->args, OPT_SYSTEM, ""), err));
    return app_line_open(&c->line, err);
}

static void close_chat(chat *c)
{
    app_watch(NULL);
    app_line_close(c->line);
    chat_talk_close(&c->talk);
    hlwq_session_close(c->session);
    hlwq_constraint_close(c->constraint);
    hlwq_engine_close(c->engine);
    hlwq_template_close(c->chat);
    free(c->model);
}

/* ---- commands -------------------------------------------------------------------------------- */

static void say_help(void)
{
    for (int i = 0; i < CHAT_COMMANDS; i++) {
        char left[40];
        const chat_command *k = &chat_command_table[i];
        snprintf(left, sizeof left, "%s %s", k->name, k->argument);
        app_note("%-16s %s", left, k->help);
    }
    app_note("A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of several lines.");
}

static void say_stats(const chat *c)
{
    hlwq_session_stats s;
    hlwq_streaming io;
    hlwq_plan p;
    uint64_t now, peak;
    char now_text[32], peak_text[32];
    hlwq_session_get_stats(c->session, &s);
    hlwq_engine_memory(c->engine, &now, &peak);
    app_note("%zu messages | context %u of %u tokens | seed %" PRIu64, c->talk.n, hlwq_session_position(c->session),
             c->context, c->sampling.seed);
    app_note("since the conversation was last read: prefill %" PRIu64 " tokens, %.1f tok/s | decode %" PRIu64
             " tokens, %.1f tok/s",
             s.prompt_tokens, app_rate(s.prompt_tokens, s.prompt_seconds), s.decoded_tokens,
             app_rate(s.decoded_tokens, s.decode_seconds));
    app_note("the last prompt: %zu tokens, %zu of them read", c->prompt, c->prompt - c->kept);
    app_note("memory %s, at most %s", app_size_text(now_text, now), app_size_text(peak_text, peak));
    hlwq_speculation a;
    hlwq_engine_speculation(c->engine, &a);
    app_note_drafts(&a);
    hlwq_engine_streaming(c->engine, &io);
    hlwq_engine_plan(c->engine, &p);
    if (io.slots)
        app_note("streamed: %u of %u in memory, hit rate %.1f %%, read %.2f GB | %s", io.slots, p.streamed,
                 100.0 * app_rate(io.hits, (double)io.lookups), (double)io.bytes_read * 1e-9, io.reason);
}

/* The conversation up to its last message of a user, that one included; 0 if there is none. */
static size_t last_question(const chat *c)
{
    size_t n = c->talk.n;
    while (n && c->talk.message[n - 1].role != CHAT_USER)
        n--;
    return n;
}

/* Where it fails, the message is taken back: the chat is as it was before. */
static hlwq_status answer_or_take_back(chat *c, hlwq_error *err)
{
    size_t n = c->talk.n;
    hlwq_status st = chat_answer(c, err);
    if (st != HLWQ_OK)
        chat_talk_cut(&c->talk, n - 1);
    return st;
}

static hlwq_status regenerate(chat *c, hlwq_error *err)
{
    size_t n = last_question(c);
    if (!n)
        return hs_fail(err, HLWQ_ERR_ARG, "there is no message to answer yet");
    if (c->talk.n == n)
        return answer_or_take_back(c, err);
    if (c->sampling.temperature <= 0)
        app_note("at temperature 0 an answer is the same each time; /set temperature 0.7 changes that");
    chat_message old = c->talk.message[n]; /* stays if there is no other */
    c->again++;
    chat_talk_cut(&c->talk, n + 1);
    c->talk.n = n;
    hlwq_status st = chat_answer(c, err);
    if (st == HLWQ_OK) {
        free(old.text);
        free(old.reasoning);
    } else {
        chat_talk_cut(&c->talk, n);
        c->talk.message[c->talk.n++] = old;
    }
    return st;
}

static hlwq_status undo(chat *c, hlwq_error *err)
{
    size_t n = last_question(c);
    if (!n)
        return hs_fail(err, HLWQ_ERR_ARG, "there is nothing to take back");
    chat_talk_cut(&c->talk, n - 1);
    app_note("taken back; %zu messages are left", c->talk.n);
    return HLWQ_OK;
}

static hlwq_status set(chat *c, const char *text, hlwq_error *err)
{
    HS_TRY(chat_parse_setting(text, &c->sampling, &c->limit, err));
    c->again = 0;
    return hlwq_session_set_sampling(c->session, &c->sampling, err);
}

/* /save FILE.session keeps what was read as well. */
static bool is_session_name(const char *name)
{
    static const char end[] = ".session";
    size_t n = strlen(name), m = sizeof end - 1;
    return n > m && strcmp(name + n - m, end) == 0;
}

static hlwq_status obey(chat *c, char *line, bool *quit, hlwq_error *err)
{
    chat_command_id id;
    char *rest;
    hlwq_status st;
    HS_TRY(chat_parse_command(line, &id, &rest, err));
    switch (id) {
    case CHAT_HELP: say_help(); return HLWQ_OK;
    case CHAT_SET_SYSTEM: return chat_talk_system(&c->talk, rest, err);
    case CHAT_RESET:
        chat_talk_cut(&c->talk, c->talk.n && c->talk.message[0].role == CHAT_SYSTEM);
        c->again = 0;
        chat_forget(c);
        app_note("forgotten%s", c->talk.n ? ", but not /system" : "");
        return HLWQ_OK;
    case CHAT_SAVE:
        st = is_session_name(rest) ? chat_keep(c, rest, err) : chat_talk_save(&c->talk, rest, err);
        if (st == HLWQ_OK)
            app_note("%zu messages written to %s", c->talk.n, rest);
        return st;
    case CHAT_LOAD:
        st = hlwq_is_session(rest) ? chat_resume(c, rest, err) : chat_talk_load(&c->talk, rest, err);
        c->again = 0;
        if (st == HLWQ_OK)
            app_note("%zu messages from %s", c->talk.n, rest);
        return st;
    case CHAT_REGEN: return regenerate(c, err);
    case CHAT_UNDO: return undo(c, err);
    case CHAT_STATS: say_stats(c); return HLWQ_OK;
    case CHAT_SET: return set(c, rest, err);
    default: *quit = true; return HLWQ_OK;
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static hlwq_status take_message(chat *c, chat_input *in, bool *quit, hlwq_error *err)
{
    char *text = in->text.data;
    if (in->text.failed)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the message");
    if (!text || !text[strspn(text, " \t\r\n")])
        return HLWQ_OK;
    app_line_remember(c->line, text);
    if (*text == '/' && !in->literal)
        return obey(c, text, quit, err);
    HS_TRY(chat_talk_add(&c->talk, CHAT_USER, text, NULL, err));
    c->again = 0;
    HS_TRY(answer_or_take_back(c, err));
    return c->file ? chat_keep(c, c->file, err) : HLWQ_OK;
}

/* One message; false where no more will come. */
static bool read_message(chat *c, chat_input *in, hlwq_status *st, hlwq_error *err)
{
    const char *line;
    for (;;) {
        switch (app_line_read(c->line, in->open ? ". " : "> ", &line, err)) {
        case APP_LINE_TEXT:
            if (chat_input_add(in, line))
                return true;
            break;
        case APP_LINE_INTERRUPTED:
            if (app_signal())
                return false;
            app_interrupted();
            chat_input_clear(in);
            break;
        case APP_LINE_OVER: return in->open && in->text.bytes; /* what is there counts */
        case APP_LINE_FAILED: *st = err->status; return false;
        }
    }
}

/* *failed: something did, and was said. */
static hlwq_status talk(chat *c, bool *failed, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    for (bool quit = false; !quit && !app_signal() && !app_left();) {
        chat_input in = {0};
        hlwq_error wrong;
        if (!read_message(c, &in, &st, err)) {
            chat_input_clear(&in);
            break;
        }
        hlwq_status turn = take_message(c, &in, &quit, &wrong);
        chat_input_clear(&in);
        if (turn == HLWQ_OK || app_left() || app_signal())
            continue;
        if (turn == HLWQ_ERR_CANCELLED) {
            app_note("stopped before the answer began; nothing has changed");
            continue;
        }
        app_error(&wrong);
        *failed = true;
    }
    return st;
}

int app_cmd_chat(const app_args *args)
{
    hlwq_error err;
    bool failed = false;
    chat c = {.args = args, .interactive = isatty(STDIN_FILENO)};
    app_watch(NULL);
    hlwq_status st = open_chat(&c, &err);
    if (st == HLWQ_OK && app_signal())
        st = hs_fail(&err, HLWQ_ERR_CANCELLED, "interrupted");
    if (st == HLWQ_OK) {
        if (c.interactive) {
            app_outlive_interrupts();
            app_console_talk();
            app_note("%s; /help lists the commands", c.model);
        }
        st = talk(&c, &failed, &err);
        if (st == HLWQ_OK && c.file && !app_left()) /* what /undo and others changed since the last answer */
            st = chat_keep(&c, c.file, &err);
    }
    close_chat(&c);
    int code = app_finish(st, &err);
    /* A script has only the exit code; a person has seen the sentence. */
    return code == APP_EXIT_OK && failed && !c.interactive && !app_left() ? APP_EXIT_FAILED : code;
}
