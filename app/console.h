/*
 * app/console.h - what commands share: words to the user, the answer on stdout, files written, signals.
 *
 * stdout carries the answer only; everything else goes to stderr as "hlwq-stream: ...".  A reader of stdout
 * that leaves (`| head`) ends the program quietly: app_out fails with HLWQ_ERR_CANCELLED and app_left() is true.
 */
#ifndef HS_APP_CONSOLE_H
#define HS_APP_CONSOLE_H

#include "app/options.h"
#include "base/file.h"
#include "base/text.h"

enum { APP_EXIT_OK = 0, APP_EXIT_FAILED = 1, APP_EXIT_USAGE = 2, APP_EXIT_BUDGET = 3 };

/* Makes fds 0, 1 and 2 safe if closed, ignores SIGPIPE and SIGXFSZ. Call first. */
void app_console_init(void);

/* How much is said, from --quiet and --verbose. */
void app_console_level(const app_args *args);
bool app_quiet(void);

/* From now on lines are said without the program's name: a person is there, and talks to it. */
void app_console_talk(void);

void app_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void app_note(const char *format, ...) __attribute__((format(printf, 1, 2))); /* nothing with --quiet */
void app_note_written(const char *path);                                      /* "PATH: SIZE" */
bool app_coloured(int fd); /* colour is wanted there: NO_COLOR, CLICOLOR_FORCE, TERM */

/* An error that does not end the program. */
void app_error(const hlwq_error *err);

/* For engine and convert options. */
void app_log(void *user, hlwq_log_level level, const char *line);

/* Prints the error where one is owed and gives the exit code of `st`. */
int app_finish(hlwq_status st, const hlwq_error *err);

/* ---- stdout ---------------------------------------------------------------------------------- */

hlwq_status app_out(const char *data, size_t bytes, hlwq_error *err); /* written before it returns */
hlwq_status app_out_text(hs_text *text, hlwq_error *err);             /* takes and closes the text */
bool app_left(void);                                                  /* nobody reads stdout any more */

/* A FILE that collects a text, for the printers of help.c; closed and written by app_out_file. */
hlwq_status app_out_file(void (*print)(FILE *out), hlwq_error *err);

/* ---- files ----------------------------------------------------------------------------------- */

/* All of a file, or of standard input for "-" or NULL; malloc'ed, zero-terminated. */
hlwq_status app_read(const char *path, size_t max_bytes, char **data, size_t *bytes, hlwq_error *err);

/* The operands joined by spaces, malloc'ed; NULL when memory is gone. */
char *app_operands(const app_args *args);

/* A file that appears when complete; "-" and things that are no regular files are written as they come. */
typedef struct app_sink {
    hs_output output;
    int fd; /* direct; -1 = output */
    const char *path;
} app_sink;

hlwq_status app_sink_open(app_sink *sink, const char *path, hlwq_error *err);
hlwq_status app_sink_write(app_sink *sink, const void *data, uint64_t bytes, hlwq_error *err);
hlwq_status app_sink_commit(app_sink *sink, hlwq_error *err);
void app_sink_drop(app_sink *sink);                                             /* idempotent, also after commit */
hlwq_status app_text_to_file(hs_text *text, const char *path, hlwq_error *err); /* takes and closes the text */

/* ---- interruption and progress --------------------------------------------------------------- */

/*
 * From here SIGINT and SIGTERM set a flag and cancel `session` (may be NULL); a second one kills.  The
 * session must be taken back with app_watch(NULL) before it is closed.
 */
void app_watch(hlwq_session *session);
int app_signal(void); /* the signal that came; 0 = none */

/*
 * For a command that goes on after Ctrl-C, after app_watch: SIGINT then cancels what the watched session does, and
 * app_signal does not know of it.  app_interrupted says whether it came since it was last asked; a third one that
 * nobody asked about kills.
 */
void app_outlive_interrupts(void);
bool app_interrupted(void);

/* Waits for standard input. False when a signal came, which app_signal or app_interrupted (to be asked) then knows. */
bool app_wait_input(void);

/* While on, Ctrl-Z ends app_wait_input, and app_take_stop says so once, instead of stopping the program where it is. */
void app_catch_stops(bool on);
bool app_take_stop(void);

/* For hlwq_progress_fn, `user` an app_progress: a bar on a terminal; false once interrupted. */
typedef struct app_progress {
    const char *label;
    uint64_t started_ns, shown_ns;
    bool drawn;
} app_progress;
bool app_progress_step(void *user, uint64_t done, uint64_t total);
void app_progress_line(app_progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
void app_progress_end(app_progress *progress); /* wipes the line */

/* "42.1 MiB" */
const char *app_size_text(char out[32], uint64_t bytes);

#endif
