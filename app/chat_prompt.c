/*
 * app/chat_prompt.c - a conversation through the template, its texts as marks.
 */
#include "app/chat_prompt.h"

#include "app/marks.h"

#include <stdlib.h>
#include <string.h>

static hlwq_status make_request(app_marks *m, const chat_talk *talk, chat_think think, bool opens, hs_text *request,
                                hlwq_error *err)
{
    hs_text_format(request, "{\"messages\":[");
    for (size_t i = 0; i < talk->n; i++) {
        const chat_message *t = &talk->message[i];
        hs_text_format(request, "%s{\"role\":\"%s\"", i ? "," : "", chat_role_name(t->role));
        if (t->reasoning) {
            hs_text_format(request, ",\"reasoning_content\":");
            HS_TRY(app_marks_add(m, request, t->reasoning, false, err));
        }
        hs_text_format(request, ",\"content\":");
        HS_TRY(app_marks_add(m, request, t->text, false, err));
        hs_text_format(request, "}");
    }
    hs_text_format(request, "],\"add_generation_prompt\":%s", opens ? "true" : "false");
    if (think != CHAT_THINK_AUTO)
        hs_text_format(request, ",\"enable_thinking\":%s", think == CHAT_THINK_ON ? "true" : "false");
    hs_text_format(request, "}");
    return request->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the messages") : HLWQ_OK;
}

static hlwq_status render(app_marks *m, const hlwq_template *chat, const chat_talk *talk, chat_think think, bool opens,
                          hs_text *text, hlwq_error *err)
{
    hs_text request = {0};
    char *prompt = NULL;
    size_t bytes = 0;
    hlwq_status st = make_request(m, talk, think, opens, &request, err);
    if (st == HLWQ_OK)
        st = hlwq_template_apply(chat, request.data, request.bytes, &prompt, &bytes, err);
    if (st == HLWQ_OK)
        st = app_marks_fill(m, prompt, bytes, text, err);
    const app_mark *last = m->n ? &m->mark[m->n - 1] : NULL; /* the text of the last message */
    if (st == HLWQ_OK && last && last->bytes && !last->found)
        st = hs_fail(err, HLWQ_ERR_ARG, "the chat template leaves out the last message, or changes its letters");
    hlwq_free(prompt);
    hs_text_close(&request);
    return st;
}

hlwq_status chat_prompt_text(const hlwq_template *chat, const chat_talk *talk, chat_think think, bool opens,
                             hs_text *text, hlwq_span **plain, size_t *n, hlwq_error *err)
{
    app_marks m;
    *plain = NULL;
    *n = 0;
    HS_TRY(app_marks_open(&m, err));
    hlwq_status st = render(&m, chat, talk, think, opens, text, err);
    if (st == HLWQ_OK) {
        *plain = m.plain;
        *n = m.n_plain;
        m.plain = NULL;
    } else {
        hs_text_close(text);
    }
    app_marks_close(&m);
    return st;
}

/* ---- ids ------------------------------------------------------------------------------------- */

static hlwq_status make_ids(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const chat_talk *talk,
                            chat_think think, bool opens, int32_t **ids, size_t *count, hlwq_error *err)
{
    hs_text text = {0};
    hlwq_span *plain;
    size_t n;
    *ids = NULL;
    *count = 0;
    HS_TRY(chat_prompt_text(chat, talk, think, opens, &text, &plain, &n, err));
    hlwq_status st = hlwq_tokenize_prompt(tokenizer, text.data, text.bytes, plain, n, ids, count, err);
    free(plain);
    hs_text_close(&text);
    return st;
}

hlwq_status chat_prompt_ids(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const chat_talk *talk,
                            chat_think think, int32_t **ids, size_t *count, hlwq_error *err)
{
    hlwq_status st = make_ids(chat, tokenizer, talk, think, true, ids, count, err);
    if (st == HLWQ_OK && !*count)
        st = hs_fail(err, HLWQ_ERR_ARG, "the chat template makes nothing of the messages");
    return st;
}

size_t chat_prompt_edge(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const chat_talk *talk,
                        chat_think think, const int32_t *ids, size_t count)
{
    int32_t *closed;
    size_t n, same = 0;
    if (make_ids(chat, tokenizer, talk, think, false, &closed, &n, NULL) != HLWQ_OK)
        return 0;
    while (same < n && same < count && closed[same] == ids[same])
        same++;
    hlwq_free(closed);
    return same;
}

int32_t chat_token(const hlwq_tokenizer *tokenizer, const char *text)
{
    int32_t *ids, id = -1;
    size_t n;
    if (hlwq_tokenize(tokenizer, text, strlen(text), true, &ids, &n, NULL) != HLWQ_OK)
        return -1;
    if (n == 1)
        id = ids[0];
    hlwq_free(ids);
    return id;
}

/* Whether skipping special tokens leaves nothing of it. */
static bool is_special(const hlwq_tokenizer *tokenizer, int32_t id)
{
    char *text;
    size_t bytes = 1;
    if (hlwq_detokenize(tokenizer, &id, 1, true, &text, &bytes, NULL) != HLWQ_OK)
        return false;
    hlwq_free(text);
    return bytes == 0;
}

int32_t chat_prompt_end(const hlwq_template *chat, const hlwq_tokenizer *tokenizer)
{
    chat_talk talk = {0};
    hs_text text = {0};
    hlwq_span *plain = NULL;
    size_t n = 0, count = 0;
    int32_t *ids = NULL, id = -1;
    if (chat_talk_add(&talk, CHAT_USER, "question", NULL, NULL) == HLWQ_OK &&
        chat_talk_add(&talk, CHAT_ASSISTANT, "answer", NULL, NULL) == HLWQ_OK &&
        chat_prompt_text(chat, &talk, CHAT_THINK_AUTO, false, &text, &plain, &n, NULL) == HLWQ_OK && n) {
        size_t from = plain[n - 1].end;
        if (hlwq_tokenize(tokenizer, text.data + from, text.bytes - from, true, &ids, &count, NULL) == HLWQ_OK &&
            count && is_special(tokenizer, ids[0]))
            id = ids[0];
    }
    hlwq_free(ids);
    free(plain);
    hs_text_close(&text);
    chat_talk_close(&talk);
    return id;
}
