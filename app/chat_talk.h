/*
 * app/chat_talk.h - a conversation: its messages, and the file they are kept in.
 *
 * All texts are valid UTF-8 without zero bytes; what comes in otherwise is repaired.
 */
#ifndef HS_APP_CHAT_TALK_H
#define HS_APP_CHAT_TALK_H

#include "base/error.h"
#include "base/text.h"

typedef enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT } chat_role;

typedef struct chat_message {
    chat_role role;
    char *text;
    char *reasoning; /* of an answer; NULL = none */
} chat_message;

typedef struct chat_talk {
    chat_message *message; /* [n]; a system message is the first */
    size_t n, capacity;
} chat_talk;

const char *chat_role_name(chat_role role);

hlwq_status chat_talk_add(chat_talk *talk, chat_role role, const char *text, const char *reasoning, hlwq_error *err);
void chat_talk_cut(chat_talk *talk, size_t n); /* keeps the first `n` messages */

/* Sets the system message; an empty text removes it. */
hlwq_status chat_talk_system(chat_talk *talk, const char *text, hlwq_error *err);

/* JSON: {"schema": 1, "messages": [{"role", "content", "reasoning_content"}]}. A failed load changes nothing. */
hlwq_status chat_talk_save(const chat_talk *talk, const char *path, hlwq_error *err);
hlwq_status chat_talk_load(chat_talk *talk, const char *path, hlwq_error *err);

/* The same as a text, and from one; `name` is what errors call it. */
void chat_talk_write(hs_text *out, const chat_talk *talk);
hlwq_status chat_talk_read(chat_talk *talk, const char *text, size_t bytes, const char *name, hlwq_error *err);

void chat_talk_close(chat_talk *talk);

#endif
