/*
 * app/console.c - stdout, stderr, files and signals of the program.  One set of each per process, so the
 * state here is static.
 */
#define _GNU_SOURCE
#include "app/console.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static hlwq_log_level said = HLWQ_LOG_WARN;
static bool talking;
static bool reader_left;

void app_console_init(void)
{
    /* A closed fd 1 would be given to the first file we open, and the answer written into a model.  The stand-ins
     * open the wrong way round, so that using them is an error and not a success. */
    static const int how[3] = {O_WRONLY, O_RDONLY, O_RDWR};
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)!open("/dev/null", how[fd]);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is a sentence, like a full disk */
}

void app_console_level(const app_args *args)
{
    int64_t verbose = app_number(args, OPT_VERBOSE, 0);
    said = app_flag(args, OPT_QUIET) ? HLWQ_LOG_ERROR
           : verbose > 1             ? HLWQ_LOG_DEBUG
           : verbose == 1            ? HLWQ_LOG_INFO
                                     : HLWQ_LOG_WARN;
}

void app_console_talk(void)
{
    talking = true;
}

bool app_quiet(void)
{
    return said == HLWQ_LOG_ERROR;
}

bool app_coloured(int fd)
{
    const char *no = getenv("NO_COLOR"), *force = getenv("CLICOLOR_FORCE"), *term = getenv("TERM");
    if (no && *no)
        return false;
    if (force && *force && strcmp(force, "0") != 0)
        return true;
    return isatty(fd) && term && strcmp(term, "dumb") != 0;
}

/* One line in one write, so that lines of several threads do not mix. */
static void say(const char *colour, const char *prefix, const char *line)
{
    char clean[2048];
    hs_escape(clean, sizeof clean, line);
    bool on = *colour && app_coloured(STDERR_FILENO);
    char out[2304];
    int n = snprintf(out, sizeof out, "%s%s%s%s%s\n", talking ? "" : "hlwq-stream: ", on ? colour : "", prefix,
                     on ? "\033[0m" : "", clean);
    if (n > 0)
        (void)!write(STDERR_FILENO, out, (size_t)n < sizeof out ? (size_t)n : sizeof out - 1);
}

void app_warn(const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!app_quiet())
        say("\033[33m", "warning: ", line);
}

void app_note(const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!app_quiet())
        say("", "", line);
}

void app_note_written(const char *path)
{
    struct stat s;
    char size[32];
    if (stat(path, &s) == 0)
        app_note("%s: %s", path, app_size_text(size, (uint64_t)s.st_size));
}

void app_error(const hlwq_error *err)
{
    say("\033[31m", "error: ", err->message);
}

void app_log(void *user, hlwq_log_level level, const char *line)
{
    (void)user;
    if (level > said)
        return;
    if (level == HLWQ_LOG_ERROR)
        say("\033[31m", "error: ", line);
    else
        say(level == HLWQ_LOG_WARN ? "\033[33m" : "", level == HLWQ_LOG_WARN ? "warning: " : "", line);
}

int app_finish(hlwq_status st, const hlwq_error *err)
{
    if (reader_left)
        return APP_EXIT_OK;
    if (app_signal() && (st == HLWQ_OK || st == HLWQ_ERR_CANCELLED))
        return 128 + app_signal();
    if (st == HLWQ_OK)
        return APP_EXIT_OK;
    say("\033[31m", "error: ", err->message);
    return st == HLWQ_ERR_BUDGET ? APP_EXIT_BUDGET : st == HLWQ_ERR_ARG ? APP_EXIT_USAGE : APP_EXIT_FAILED;
}

/* ---- stdout ---------------------------------------------------------------------------------- */

static hlwq_status write_all(int fd, const char *name, const void *data, uint64_t bytes, hlwq_error *err)
{
    const char *p = data;
    while (bytes) {
        ssize_t n = write(fd, p, bytes < (1u << 30) ? bytes : (1u << 30));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EPIPE && fd == STDOUT_FILENO) {
            reader_left = true;
            return hs_fail(err, HLWQ_ERR_CANCELLED, "nobody reads the output any more");
        }
        if (n < 0)
            return hs_fail(err, HLWQ_ERR_IO, "cannot write to %s: %s", name, strerror(errno));
        p += n;
        bytes -= (uint64_t)n;
    }
    return HLWQ_OK;
}

hlwq_status app_out(const char *data, size_t bytes, hlwq_error *err)
{
    return write_all(STDOUT_FILENO, "standard output", data, bytes, err);
}

hlwq_status app_out_text(hs_text *text, hlwq_error *err)
{
    hlwq_status st =
        text->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the output") : app_out(text->data, text->bytes, err);
    hs_text_close(text);
    return st;
}

bool app_left(void)
{
    return reader_left;
}

hlwq_status app_out_file(void (*print)(FILE *out), hlwq_error *err)
{
    char *data = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&data, &bytes);
    if (!out)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the output");
    print(out);
    hlwq_status st = fclose(out) == 0 ? app_out(data, bytes, err) : hs_fail(err, HLWQ_ERR_NOMEM, "no memory");
    free(data);
    return st;
}

/* ---- files ----------------------------------------------------------------------------------- */

hlwq_status app_read(const char *path, size_t max_bytes, char **data, size_t *bytes, hlwq_error *err)
{
    bool from_stdin = !path || strcmp(path, "-") == 0;
    const char *name = from_stdin ? "standard input" : path;
    int fd = from_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    *data = NULL;
    if (fd < 0)
        return hs_fail(err, HLWQ_ERR_IO, "cannot open %s: %s", name, strerror(errno));
    hlwq_status st = HLWQ_OK;
    size_t n = 0, room = 1 << 16;
    char *p = malloc(room);
    while (p) {
        ssize_t got = read(fd, p + n, room - n - 1);
        if (got < 0 && errno == EINTR && !app_signal())
            continue;
        if (got < 0) {
            st = errno == EINTR ? hs_fail(err, HLWQ_ERR_CANCELLED, "interrupted")
                                : hs_fail(err, HLWQ_ERR_IO, "cannot read %s: %s", name, strerror(errno));
            break;
        }
        if (got == 0)
            break;
        n += (size_t)got;
        if (n > max_bytes) {
            st = hs_fail(err, HLWQ_ERR_IO, "%s is longer than %zu bytes", name, max_bytes);
            break;
        }
        if (room - n < 4096) {
            char *more = realloc(p, room *= 2);
            if (!more)
                free(p);
            p = more;
        }
    }
    if (!from_stdin)
        close(fd);
    if (!p)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to read %s", name);
    if (st != HLWQ_OK) {
        free(p);
        return st;
    }
    p[n] = 0;
    *data = p;
    *bytes = n;
    return HLWQ_OK;
}

char *app_operands(const app_args *args)
{
    hs_text t = {0};
    hs_text_add(&t, "", 0);
    for (int i = 0; i < args->n_operands; i++)
        hs_text_format(&t, "%s%s", i ? " " : "", args->operand[i]);
    return hs_text_take(&t);
}

hlwq_status app_sink_open(app_sink *sink, const char *path, hlwq_error *err)
{
    struct stat s;
    *sink = (app_sink){.output = {.fd = -1}, .fd = -1, .path = path};
    if (strcmp(path, "-") == 0) {
        sink->fd = STDOUT_FILENO;
        sink->path = "standard output";
        return HLWQ_OK;
    }
    if (stat(path, &s) != 0 || S_ISREG(s.st_mode) || S_ISDIR(s.st_mode))
        return hs_output_open(&sink->output, path, true, err);
    sink->fd = open(path, O_WRONLY | O_CLOEXEC);
    if (sink->fd < 0)
        return hs_fail(err, HLWQ_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    return HLWQ_OK;
}

hlwq_status app_sink_write(app_sink *sink, const void *data, uint64_t bytes, hlwq_error *err)
{
    if (sink->fd >= 0)
        return write_all(sink->fd, sink->path, data, bytes, err);
    return hs_output_write(&sink->output, data, bytes, err);
}

hlwq_status app_sink_commit(app_sink *sink, hlwq_error *err)
{
    if (sink->fd < 0)
        return hs_output_commit(&sink->output, err);
    app_sink_drop(sink);
    return HLWQ_OK;
}

void app_sink_drop(app_sink *sink)
{
    if (sink->fd > 2)
        close(sink->fd);
    else if (sink->fd < 0 && sink->output.path)
        hs_output_drop(&sink->output);
    sink->fd = -1;
}

hlwq_status app_text_to_file(hs_text *text, const char *path, hlwq_error *err)
{
    app_sink sink;
    hlwq_status st = text->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the text of %s", path)
                                  : app_sink_open(&sink, path, err);
    if (st == HLWQ_OK) {
        st = app_sink_write(&sink, text->data, text->bytes, err);
        if (st == HLWQ_OK)
            st = app_sink_commit(&sink, err);
        app_sink_drop(&sink);
    }
    hs_text_close(text);
    return st;
}

/* ---- interruption and progress --------------------------------------------------------------- */

static volatile sig_atomic_t signal_came;
static hlwq_session *volatile watched;

/* Handlers write a byte, so that a signal just before a wait ends the wait: whichever thread it was given to. */
static int wake[2] = {-1, -1};

static void wake_up(void)
{
    int saved = errno;
    if (wake[1] >= 0)
        (void)!write(wake[1], "", 1);
    errno = saved;
}

/* Before a signal can come that must not be missed. */
static bool open_wake(void)
{
    return wake[0] >= 0 || pipe2(wake, O_CLOEXEC | O_NONBLOCK) == 0;
}

static void on_signal(int number)
{
    signal_came = number;
    wake_up();
    hlwq_session *session = watched;
    if (session)
        hlwq_session_cancel(session);
}

void app_watch(hlwq_session *session)
{
    static bool installed;
    watched = session;
    if (installed)
        return;
    installed = true;
    /* Once: the next one does what it does by default. No SA_RESTART: a read from the terminal must end. */
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

static volatile sig_atomic_t interrupts;

static void on_interrupt(int number)
{
    hlwq_session *session = watched;
    if (++interrupts > 2) {
        signal(number, SIG_DFL);
        raise(number);
    }
    wake_up();
    if (session)
        hlwq_session_cancel(session);
}

void app_outlive_interrupts(void)
{
    open_wake();
    struct sigaction act = {.sa_handler = on_interrupt}; /* no SA_RESTART, as above */
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
}

bool app_interrupted(void)
{
    char byte;
    while (wake[0] >= 0 && read(wake[0], &byte, 1) == 1)
        ;
    bool came = interrupts != 0;
    interrupts = 0;
    return came;
}

static volatile sig_atomic_t stops;

static void on_stop(int number)
{
    (void)number;
    stops = 1;
    wake_up();
}

void app_catch_stops(bool on)
{
    struct sigaction act = {.sa_handler = on ? on_stop : SIG_DFL}, before;
    sigemptyset(&act.sa_mask);
    if (on && (!open_wake() || (sigaction(SIGTSTP, NULL, &before) == 0 && before.sa_handler == SIG_IGN)))
        return; /* a shell without job control */
    if (on || (sigaction(SIGTSTP, NULL, &before) == 0 && before.sa_handler == on_stop))
        sigaction(SIGTSTP, &act, NULL);
}

bool app_take_stop(void)
{
    char byte;
    if (!stops)
        return false;
    stops = 0;
    while (wake[0] >= 0 && read(wake[0], &byte, 1) == 1)
        ; /* other signals have their own marks */
    return true;
}

bool app_wait_input(void)
{
    if (!open_wake())
        return true; /* no more files: a signal is then seen with the next key */
    struct pollfd on[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = wake[0], .events = POLLIN}};
    for (;;) {
        if (app_signal() || interrupts || stops)
            return false; /* those that came before the pipe was there, too */
        if (poll(on, 2, -1) < 0)
            continue;
        if (on[1].revents)
            return false;
        if (on[0].revents)
            return true;
    }
}

int app_signal(void)
{
    return signal_came;
}

const char *app_size_text(char out[32], uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t i = 0;
    for (; value >= 1024 && i < 4; i++)
        value /= 1024;
    snprintf(out, 32, i == 0 ? "%.0f %s" : i < 3 ? "%.1f %s" : "%.2f %s", value, unit[i]);
    return out;
}

static bool bar_wanted(void)
{
    const char *term = getenv("TERM");
    return !app_quiet() && isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

void app_progress_line(app_progress *p, const char *format, ...)
{
    uint64_t now = hs_now_ns();
    if (p->started_ns == 0)
        p->started_ns = now;
    /* Nothing for what is over at once, then ten times a second. */
    if (now - p->started_ns < 300000000 || now - p->shown_ns < 100000000 || !bar_wanted())
        return;
    p->shown_ns = now;
    p->drawn = true;
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    struct winsize size;
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 10 ? size.ws_col - 1 : 79;
    fprintf(stderr, "\r\033[K%.*s", columns, line);
    fflush(stderr);
}

void app_progress_end(app_progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    fflush(stderr);
    *p = (app_progress){.label = p->label};
}

bool app_progress_step(void *user, uint64_t done, uint64_t total)
{
    app_progress *p = user;
    char bar[25], have[32], all[32], rate[32], eta[32] = "";
    if (p->started_ns == 0)
        p->started_ns = hs_now_ns();
    double seconds = (double)(hs_now_ns() - p->started_ns) * 1e-9, share = total ? (double)done / (double)total : 1;
    double speed = seconds > 0 ? (double)done / seconds : 0;
    int filled = share < 1 ? (int)(share * 24) : 24;
    for (int i = 0; i < 24; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[24] = 0;
    if (speed > 0 && total >= done) {
        double left = (double)(total - done) / speed + 0.5;
        if (left < 360000)
            snprintf(eta, sizeof eta, " ETA %u:%02u", (unsigned)left / 60, (unsigned)left % 60);
    }
    app_progress_line(p, "%s [%s] %s of %s, %s/s%s", p->label, bar, app_size_text(have, done),
                      app_size_text(all, total), app_size_text(rate, (uint64_t)speed), eta);
    return app_signal() == 0;
}
