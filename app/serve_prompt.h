/*
 * app/serve_prompt.h - from the messages of a request to the ids that a model reads.
 *
 * No text of a client becomes a special token: messages, names and arguments go through marks (app/marks.h), and
 * prompts of /v1/completions are plain text or ids.
 */
#ifndef HS_APP_SERVE_PROMPT_H
#define HS_APP_SERVE_PROMPT_H

#include "app/serve_request.h"

/*
 * The prompt of a chat; *ids is freed with hlwq_free.  *opening (free) is what it ends with beyond the template's own
 * text, the beginning of a call that was asked for: "" mostly.  *edge: ids up to the last text of the messages, which
 * a conversation that goes on begins with again.
 */
bool serve_chat_prompt(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const serve_params *params,
                       int32_t **ids, size_t *count, size_t *edge, char **opening, serve_fault *fault);

/* The prompt as text, for people who write templates; *text is freed with free. */
bool serve_chat_text(const hlwq_template *chat, const serve_params *params, char **text, size_t *bytes,
                     serve_fault *fault);

/* How many prompts a request for completions has; 0 and a refusal where it makes no sense. */
size_t serve_prompts(const serve_params *params, serve_fault *fault);

/* The ids of the i-th; freed with hlwq_free. */
bool serve_prompt_ids(const hlwq_tokenizer *tokenizer, const serve_params *params, size_t i, uint32_t vocab,
                      int32_t **ids, size_t *count, serve_fault *fault);

#endif
