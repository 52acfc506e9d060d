/*
 * app/serve_split.h - what a model writes, cut into thoughts, text and calls of tools, as it comes.
 *
 * Stop strings end the text and are not part of it, wherever tokens cut them; so the longest end that may become one
 * is held back.  Calls follow the syntax that Qwen3.5 was trained on:
 *
 *   <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>
 *
 * and come out as a name, then pieces that together are a JSON object.  What is no such call stays text.
 */
#ifndef HS_APP_SERVE_SPLIT_H
#define HS_APP_SERVE_SPLIT_H

#include "app/serve_request.h"
#include "base/text.h"

typedef enum serve_piece {
    SERVE_PIECE_TEXT,
    SERVE_PIECE_REASONING,
    SERVE_PIECE_CALL,     /* the name of a function */
    SERVE_PIECE_ARGUMENTS /* more of the JSON of its arguments */
} serve_piece;

typedef void (*serve_piece_fn)(void *user, serve_piece kind, const char *text, size_t bytes);

typedef enum serve_call_state {
    SERVE_CALL_NONE,
    SERVE_CALL_NAME,
    SERVE_CALL_PARAMETERS,
    SERVE_CALL_CLOSE
} serve_call_state;

typedef struct serve_split {
    const char *const *stop; /* [stops] */
    uint32_t stops;
    const hs_json *tools; /* NULL = calls are text */
    bool one_call;
    serve_piece_fn take;
    void *user;
    /* Its own. */
    hs_text held, name;
    serve_call_state call;
    bool thinking, fresh; /* fresh: line ends that follow a tag are dropped */
    bool stopped;         /* by a stop string, or after the one call */
    bool failed;          /* no memory */
    size_t line_ends;     /* of thoughts, held back */
    uint32_t calls, parameters;
} serve_split;

void serve_split_think(serve_split *split, bool on); /* <think> or </think> has come */
void serve_split_text(serve_split *split, const char *text, size_t bytes);
void serve_split_end(serve_split *split); /* gives out what was held back */
void serve_split_close(serve_split *split);

#endif
