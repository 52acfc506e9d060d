/*
 * app/line.h - lines from a person or a pipe: the one file that knows libedit.
 *
 * Where standard input and standard error are terminals that can move a cursor, lines are edited, have a history (a
 * file in $XDG_STATE_HOME/hlwq-stream, else ~/.local/state/hlwq-stream, readable by its owner only), and a paste is one
 * line with line ends in it.  Elsewhere lines are read as they come and no escape sequence is written.  One at a time.
 */
#ifndef HS_APP_LINE_H
#define HS_APP_LINE_H

#include "base/error.h"

typedef struct app_line app_line;

typedef enum app_line_end {
    APP_LINE_TEXT,
    APP_LINE_INTERRUPTED, /* a signal came; what was typed is gone */
    APP_LINE_OVER,        /* nothing more will come */
    APP_LINE_FAILED
} app_line_end;

hlwq_status app_line_open(app_line **line, hlwq_error *err);
void app_line_close(app_line *line); /* NULL is fine */

/* *text has no line end of its own and lives until the next call. `prompt` is shown on terminals only. */
app_line_end app_line_read(app_line *line, const char *prompt, const char **text, hlwq_error *err);

/* Puts a text into the history. */
void app_line_remember(app_line *line, const char *text);

#endif
