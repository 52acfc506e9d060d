/*
 * app/chat.h - a running chat: the conversation, and what the session has read of it.
 */
#ifndef HS_APP_CHAT_H
#define HS_APP_CHAT_H

#include "app/chat_prompt.h"
#include "app/line.h"
#include "app/open.h"

enum { CHAT_ENDS = 3 };

typedef struct chat {
    const app_args *args;
    char *model;
    hlwq_engine *engine;
    hlwq_session *session;
    hlwq_template *chat;
    hlwq_constraint *constraint;     /* on answers, not on what is thought before; NULL = none */
    const hlwq_tokenizer *tokenizer; /* the engine's */
    app_line *line;
    chat_talk talk;
    hlwq_sampling sampling;
    uint32_t context;
    int64_t limit; /* tokens of an answer; below 0 = any */
    chat_think think;
    int32_t think_open, think_close; /* -1 = the model has none */
    int32_t end[CHAT_ENDS];          /* ids that end an answer beside the model's own; -1 = none */
    const char *file;                /* --session; NULL = none */
    uint64_t again;                  /* how often the last message was answered anew: added to the seed */
    size_t prompt, kept;             /* tokens of the last prompt; of these, not read again */
    bool interactive;                /* a person types */
    bool reread;                     /* said once that the conversation is read again */
    hlwq_streaming before;           /* at the last status line */
} chat;

/*
 * Answers the last message, which is a user's, and adds the answer to the conversation.  What fails leaves the
 * conversation as it was, for the caller to take the message back; an interrupted answer is kept as far as it got.
 */
hlwq_status chat_answer(chat *c, hlwq_error *err);

/* --session and files of sessions: the conversation with all that was read of it. */
hlwq_status chat_keep(chat *c, const char *path, hlwq_error *err);
hlwq_status chat_resume(chat *c, const char *path, hlwq_error *err);

/* Forgets what the session has read. */
void chat_forget(chat *c);

#endif
