/*
 * app/line.c - libedit where there is a terminal, plain reads elsewhere.
 *
 * libedit decodes characters by the locale, and the rest of the program must not have one (numbers look the same
 * everywhere), so a UTF-8 locale is in force on this thread only while libedit runs.  Reading is done by our own
 * function, because libedit's retries when a signal interrupts it, and a Ctrl-C would need to be typed twice.
 */
#define _GNU_SOURCE
#include "app/line.h"

#include "app/console.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { LINE_MAX_BYTES = 64 << 20, HISTORY_ENTRIES = 1000, HISTORY_MAX = 16 << 20 };

struct app_line {
    bool terminal;
    /* editing */
    EditLine *edit;
    History *history;
    locale_t utf8, before;
    char *file; /* of the history; NULL = none */
    bool warned;
    const char *prompt;
    /* plain reads */
    hs_text text;
    char buffer[4096];
    size_t at, n;
    bool over;
};

/* ---- plain ----------------------------------------------------------------------------------- */

static app_line_end read_plain(app_line *l, const char **text, hlwq_error *err)
{
    l->text.bytes = 0;
    hs_text_add(&l->text, "", 0);
    for (bool whole = false; !whole;) {
        if (l->at == l->n) {
            if (!l->over && !app_wait_input())
                return APP_LINE_INTERRUPTED;
            ssize_t got = l->over ? 0 : read(STDIN_FILENO, l->buffer, sizeof l->buffer);
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0) {
                hs_fail(err, HLWQ_ERR_IO, "cannot read standard input: %s", strerror(errno));
                return APP_LINE_FAILED;
            }
            /* On a terminal a second Ctrl-D would be asked for otherwise. */
            l->over = got == 0;
            l->at = 0;
            l->n = (size_t)got;
            if (!got && !l->text.bytes)
                return APP_LINE_OVER;
            if (!got)
                break;
        }
        const char *from = l->buffer + l->at, *end = memchr(from, '\n', l->n - l->at);
        size_t n = end ? (size_t)(end - from) : l->n - l->at;
        for (size_t i = 0; i < n; i++)
            if (from[i]) /* zero bytes would end the text */
                hs_text_add(&l->text, from + i, 1);
        l->at += n + (end != NULL);
        whole = end != NULL;
        if (l->text.failed || l->text.bytes > LINE_MAX_BYTES) {
            hs_fail(err, HLWQ_ERR_IO, "a line of standard input is longer than %d bytes", LINE_MAX_BYTES);
            return APP_LINE_FAILED;
        }
    }
    if (l->text.bytes && l->text.data[l->text.bytes - 1] == '\r')
        l->text.data[--l->text.bytes] = 0;
    *text = l->text.data;
    return APP_LINE_TEXT;
}

/* ---- editing --------------------------------------------------------------------------------- */

static char *show_prompt(EditLine *edit)
{
    app_line *l;
    el_get(edit, EL_CLIENTDATA, (void **)&l);
    return (char *)(uintptr_t)l->prompt;
}

static void write_terminal(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
}

static const char paste_on[] = "\033[?2004h", paste_off[] = "\033[?2004l"; /* pastes come in brackets */

/* Ctrl-Z: the shell gets the terminal as it was, and it is taken and drawn again when the program goes on. */
static void stop(EditLine *edit)
{
    write_terminal(paste_off);
    el_set(edit, EL_PREP_TERM, 0);
    app_catch_stops(false);
    kill(0, SIGTSTP); /* all of the job, as the terminal would have */
    app_catch_stops(true);
    el_set(edit, EL_PREP_TERM, 1);
    write_terminal(paste_on);
    write_terminal("\r\n");
    el_set(edit, EL_REFRESH);
}

/* One character from the terminal: 1, 0 at the end, -1 when interrupted. */
static int get_character(EditLine *edit, wchar_t *out)
{
    mbstate_t state = {0};
    for (;;) {
        char byte;
        if (!app_wait_input()) {
            if (app_take_stop()) {
                stop(edit);
                continue;
            }
            errno = EINTR;
            return -1;
        }
        ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return (int)got;
        size_t n = mbrtowc(out, &byte, 1, &state);
        if (n == (size_t)-2)
            continue;
        if (n == (size_t)-1) {
            *out = 0xFFFD;
            errno = 0;
        }
        return 1;
    }
}

/* Everything up to the end of a bracketed paste goes into the line as it is, line ends included. */
static unsigned char take_paste(EditLine *edit, int key)
{
    static const wchar_t end[] = L"\033[201~";
    const size_t end_n = sizeof end / sizeof *end - 1;
    size_t n = 0, room = 256;
    wchar_t c, *text = malloc(room * sizeof *text);
    (void)key;
    while (text && el_wgetc(edit, &c) == 1) {
        text[n++] = c == L'\r' ? L'\n' : c;
        if (n >= end_n && wmemcmp(text + n - end_n, end, end_n) == 0) {
            n -= end_n;
            break;
        }
        if (n + 1 == room) {
            wchar_t *more = room < LINE_MAX_BYTES / sizeof *text ? realloc(text, (room *= 2) * sizeof *text) : NULL;
            if (!more)
                free(text);
            text = more;
        }
    }
    if (!text)
        return CC_ERROR;
    while (n && text[n - 1] == L'\n') /* Enter sends; the paste's own last line end is not wanted */
        n--;
    text[n] = 0;
    int bad = n ? el_winsertstr(edit, text) : 0;
    free(text);
    return bad ? CC_ERROR : CC_REFRESH;
}

/* Makes the folders of `path`; false if they cannot be. */
static bool make_folders(char *path)
{
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
        *p = '/';
        if (!made)
            return false;
    }
    return true;
}

static void open_history(app_line *l)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    HistEvent event;
    int n = -1;
    if (state && *state == '/')
        n = asprintf(&l->file, "%s/hlwq-stream/history", state);
    else if (home && *home == '/')
        n = asprintf(&l->file, "%s/.local/state/hlwq-stream/history", home);
    if (n < 0)
        l->file = NULL;
    history(l->history, &event, H_SETSIZE, HISTORY_ENTRIES);
    history(l->history, &event, H_SETUNIQUE, 1);
    hs_file f;
    if (!l->file || hs_file_open(&f, l->file, NULL) != HLWQ_OK)
        return;
    if (f.bytes && f.bytes <= HISTORY_MAX)
        history(l->history, &event, H_LOAD, l->file);
    hs_file_close(&f);
}

static bool write_history(app_line *l, const char *temporary)
{
    HistEvent event;
    if (!make_folders(l->file))
        return false;
    unlink(temporary);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!out) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool ok = history(l->history, &event, H_SAVE_FP, out) >= 0;
    ok = fclose(out) == 0 && ok;
    ok = ok && rename(temporary, l->file) == 0;
    if (!ok)
        unlink(temporary);
    return ok;
}

static void save_history(app_line *l)
{
    char *temporary;
    if (!l->file || asprintf(&temporary, "%s.tmp.%ld", l->file, (long)getpid()) < 0)
        return;
    if (!write_history(l, temporary) && !l->warned) {
        l->warned = true;
        app_warn("the history cannot be written to %s: %s", l->file, strerror(errno));
    }
    free(temporary);
}

static void enter_locale(app_line *l)
{
    l->before = uselocale(l->utf8);
}

static void leave_locale(app_line *l)
{
    uselocale(l->before);
}

/* False where libedit does not take the terminal: plain lines will do. */
static bool open_editing(app_line *l)
{
    l->utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!l->utf8)
        return false;
    enter_locale(l);
    l->edit = el_init("hlwq-stream", stdin, stderr, stderr);
    l->history = l->edit ? history_init() : NULL;
    if (l->history) {
        el_set(l->edit, EL_CLIENTDATA, l);
        el_set(l->edit, EL_PROMPT, show_prompt);
        el_set(l->edit, EL_EDITOR, "emacs");
        el_set(l->edit, EL_SIGNAL, 0);
        el_set(l->edit, EL_GETCFN, get_character);
        el_set(l->edit, EL_HIST, history, l->history);
        /* Wide, because el_set would copy the names and lose the copies. */
        el_wset(l->edit, EL_ADDFN, L"hlwq-paste", L"take a paste as one line", take_paste);
        el_set(l->edit, EL_BIND, "\033[200~", "hlwq-paste", NULL);
        el_set(l->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
        open_history(l);
    }
    leave_locale(l);
    return l->history != NULL;
}

static app_line_end read_edited(app_line *l, const char **text, hlwq_error *err)
{
    int n = 0;
    enter_locale(l);
    el_resize(l->edit);
    /* Before the prompt is shown: libedit would do it after that, and keys in between would be the terminal's. */
    el_set(l->edit, EL_PREP_TERM, 1);
    app_catch_stops(true);
    write_terminal(paste_on);
    const char *line = el_gets(l->edit, &n);
    int failure = errno;
    app_catch_stops(false);
    write_terminal(paste_off);
    leave_locale(l);
    if (!line && n < 0 && failure == EINTR) {
        write_terminal("\n");
        return APP_LINE_INTERRUPTED;
    }
    if (!line || n <= 0) {
        write_terminal("\n");
        return APP_LINE_OVER;
    }
    l->text.bytes = 0;
    hs_text_add(&l->text, line, (size_t)n - (line[n - 1] == '\n'));
    if (l->text.failed) {
        hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a line");
        return APP_LINE_FAILED;
    }
    *text = l->text.data;
    return APP_LINE_TEXT;
}

/* ---- both ------------------------------------------------------------------------------------ */

hlwq_status app_line_open(app_line **line, hlwq_error *err)
{
    const char *term = getenv("TERM");
    app_line *l = calloc(1, sizeof *l);
    *line = l;
    if (!l)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a line");
    l->terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    if (l->terminal && term && *term && strcmp(term, "dumb") != 0 && !open_editing(l)) {
        if (l->edit)
            el_end(l->edit);
        l->edit = NULL;
    }
    return HLWQ_OK;
}

void app_line_close(app_line *l)
{
    if (!l)
        return;
    if (l->history)
        history_end(l->history);
    if (l->edit)
        el_end(l->edit);
    if (l->utf8)
        freelocale(l->utf8);
    hs_text_close(&l->text);
    free(l->file);
    free(l);
}

app_line_end app_line_read(app_line *l, const char *prompt, const char **text, hlwq_error *err)
{
    l->prompt = prompt;
    if (l->edit)
        return read_edited(l, text, err);
    if (l->terminal)
        write_terminal(prompt);
    app_line_end end = read_plain(l, text, err);
    if (l->terminal && end != APP_LINE_TEXT)
        write_terminal("\n");
    return end;
}

void app_line_remember(app_line *l, const char *text)
{
    HistEvent event;
    if (!l->edit || !*text)
        return;
    enter_locale(l);
    history(l->history, &event, H_ENTER, text);
    leave_locale(l);
    save_history(l);
}
