/*
 * app/chat_words.h - what a person types: lines to messages, commands, settings.  No I/O, no model.
 */
#ifndef HS_APP_CHAT_WORDS_H
#define HS_APP_CHAT_WORDS_H

#include "base/error.h"
#include "base/text.h"

/* ---- lines ----------------------------------------------------------------------------------- */

/*
 * A message of several lines: a line that ends in a backslash goes on in the next one; from a line that begins with
 * three quotes up to one that ends with them everything is taken as it is.
 */
typedef struct chat_input {
    hs_text text;
    bool open, block; /* more lines are wanted; because of quotes */
    bool literal;     /* not a command, whatever it begins with */
} chat_input;

/* Adds a line (which may hold line ends, if pasted) and says whether the message is complete. */
bool chat_input_add(chat_input *input, const char *line);
void chat_input_clear(chat_input *input);

/* ---- commands -------------------------------------------------------------------------------- */

typedef enum chat_command_id {
    CHAT_HELP,
    CHAT_SET_SYSTEM,
    CHAT_RESET,
    CHAT_SAVE,
    CHAT_LOAD,
    CHAT_REGEN,
    CHAT_UNDO,
    CHAT_STATS,
    CHAT_SET,
    CHAT_QUIT,
    CHAT_COMMANDS
} chat_command_id;

typedef struct chat_command {
    const char *name;     /* with its slash */
    const char *argument; /* "FILE"; "" = takes none; in brackets: may be left out */
    const char *help;
} chat_command;

extern const chat_command chat_command_table[CHAT_COMMANDS];

/* "/save x" as a command and its argument, trimmed, within *rest; HLWQ_ERR_ARG in one sentence. */
hlwq_status chat_parse_command(char *line, chat_command_id *id, char **rest, hlwq_error *err);

/* "temperature 0.7" into the sampling or the limit of tokens (-1 = none). Nothing changes on failure. */
hlwq_status chat_parse_setting(const char *text, hlwq_sampling *sampling, int64_t *limit, hlwq_error *err);

#endif
