/*
 * app/chat_prompt.h - from a conversation to the ids that a model reads.
 *
 * A template mixes its own special tokens with texts that anyone may have written; only the former may become special
 * tokens.  The template never sees the texts but marks (app/marks.h), and the stretches that came from texts are handed
 * to hlwq_tokenize_prompt as plain: <|im_end|> typed by a user is ten ordinary characters.  Where texts hold no such
 * words the ids are those of the whole prompt tokenised at once.
 *
 * What a template would do by looking into a text, it does not: a user's message that has the form of a tool's answer
 * stays a user's message.
 */
#ifndef HS_APP_CHAT_PROMPT_H
#define HS_APP_CHAT_PROMPT_H

#include "app/chat_talk.h"
#include "base/text.h"

/* The template variable enable_thinking: not passed, true, false. */
typedef enum chat_think { CHAT_THINK_AUTO, CHAT_THINK_ON, CHAT_THINK_OFF } chat_think;

/*
 * The prompt as text, opened for an answer where `opens`; *plain (free) holds the `n` stretches that are texts, in
 * order.  HLWQ_ERR_ARG where the template refuses the conversation or leaves out its last message.
 */
hlwq_status chat_prompt_text(const hlwq_template *chat, const chat_talk *talk, chat_think think, bool opens,
                             hs_text *text, hlwq_span **plain, size_t *n, hlwq_error *err);

/* The ids of the prompt for the next answer; *ids is freed with hlwq_free. */
hlwq_status chat_prompt_ids(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const chat_talk *talk,
                            chat_think think, int32_t **ids, size_t *count, hlwq_error *err);

/*
 * How many of `ids`, of the same conversation, the next prompt will begin with: up to where the answer is opened.  0
 * where the template cannot say.
 */
size_t chat_prompt_edge(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const chat_talk *talk,
                        chat_think think, const int32_t *ids, size_t count);

/* The special token that the template puts after an answer; -1 if there is none. */
int32_t chat_prompt_end(const hlwq_template *chat, const hlwq_tokenizer *tokenizer);

/* The id of an added token by its text; -1 if the text is not one token. */
int32_t chat_token(const hlwq_tokenizer *tokenizer, const char *text);

#endif
