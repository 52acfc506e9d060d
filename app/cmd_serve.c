/*
 * app/cmd_serve.c - a server of answers: opens the model, starts the threads, waits for a signal, lets answers finish.
 */
#define _GNU_SOURCE
#include "app/commands.h"
#include "app/chat_prompt.h"
#include "app/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static int signal_pipe[2] = {-1, -1};

static void note_signal(int number)
{
    int kept = errno;
    char byte = (char)number;
    ssize_t ignored = write(signal_pipe[1], &byte, 1);
    (void)ignored;
    errno = kept;
}

static hlwq_status catch_signals(hlwq_error *err)
{
    struct sigaction a = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
        return hs_fail(err, HLWQ_ERR_IO, "no pipe: %s", strerror(errno));
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    return HLWQ_OK;
}

/* True if a signal has come within `ms`; below 0 = waits for one. */
static bool signalled(int ms)
{
    struct pollfd p = {.fd = signal_pipe[0], .events = POLLIN};
    char byte;
    while (poll(&p, 1, ms) < 0 && errno == EINTR)
        ;
    return read(signal_pipe[0], &byte, 1) == 1;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The last part of a path, without ".hlwq". */
static char *name_of(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    const char *slash = memrchr(path, '/', n);
    const char *begin = slash && slash + 1 < path + n ? slash + 1 : path;
    n -= (size_t)(begin - path);
    if (n > 5 && strncmp(begin + n - 5, ".hlwq", 5) == 0)
        n -= 5;
    return strndup(begin, n);
}

static hlwq_status read_options(serve *s, hlwq_error *err)
{
    const app_args *a = s->args;
    s->host = app_text(a, OPT_HOST, "127.0.0.1");
    s->port = (uint16_t)app_number(a, OPT_PORT, 8080);
    s->slots = (uint32_t)app_number(a, OPT_PARALLEL, 4);
    s->queue_max = (uint32_t)app_number(a, OPT_QUEUE, 64);
    s->timeout = a->value[OPT_TIMEOUT].set ? a->value[OPT_TIMEOUT].real : 60;
    s->body_max = a->value[OPT_MAX_BODY].set ? a->value[OPT_MAX_BODY].bytes : 16u << 20;
    s->key = app_text(a, OPT_API_KEY, NULL);
    s->cors = app_text(a, OPT_CORS, NULL);
    if (s->key && !*s->key)
        return hs_fail(err, HLWQ_ERR_ARG, "--api-key is empty");
    if (s->body_max < 1024 || s->body_max > 1u << 30)
        return hs_fail(err, HLWQ_ERR_ARG, "--max-body is %" PRIu64 " bytes; it must be 1K to 1G", s->body_max);
    HS_TRY(app_model_path(a, &s->model, err));
    const char *alias = app_text(a, OPT_ALIAS, NULL);
    s->name = alias ? strdup(alias) : name_of(s->model);
    return s->name ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a name");
}

/* A model without a template still completes texts. */
static hlwq_status open_template(serve *s, hlwq_error *err)
{
    const char *file = app_text(s->args, OPT_TEMPLATE, NULL);
    hlwq_status st = hlwq_template_open(file ? file : s->model, &s->chat, &s->chat_error);
    return st != HLWQ_OK && file ? hs_fail(err, st, "%s", s->chat_error.message) : HLWQ_OK;
}

static hlwq_status open_engine(serve *s, hlwq_error *err)
{
    app_progress progress = {.label = "loading"};
    hlwq_engine_options o;
    HS_TRY(app_engine_options(s->args, s->model, &o, err));
    o.exact = app_flag(s->args, OPT_EXACT);
    o.sessions = s->slots;
    o.progress = app_progress_step;
    o.user = &progress;
    hlwq_status st = hlwq_engine_open(&o, &s->engine, err);
    app_progress_end(&progress);
    HS_TRY(st);
    s->tokenizer = hlwq_engine_tokenizer(s->engine);
    if (!s->tokenizer)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s has no tokenizer", s->model);
    HS_TRY(app_session_options(s->args, s->engine, &s->defaults, err));
    s->defaults.whole = true; /* what others asked before does not show in an answer */
    hlwq_engine_facts(s->engine, &s->facts);
    hlwq_engine_plan(s->engine, &s->plan);
    return HLWQ_OK;
}

static hlwq_status open_server(serve *s, hlwq_error *err)
{
    struct timespec now;
    HS_TRY(read_options(s, err));
    HS_TRY(open_template(s, err)); /* before the weights, which may take long */
    HS_TRY(open_engine(s, err));
    s->think_open = chat_token(s->tokenizer, "<think>");
    s->think_close = chat_token(s->tokenizer, "</think>");
    s->end[0] = s->chat ? chat_prompt_end(s->chat, s->tokenizer) : -1;
    s->end[1] = chat_token(s->tokenizer, "<|im_end|>");
    s->end[2] = chat_token(s->tokenizer, "<|endoftext|>");
    s->seed = s->defaults.sampling.seed;
    if (!s->args->value[OPT_SEED].set && getrandom(&s->seed, sizeof s->seed, 0) == (ssize_t)sizeof s->seed)
        s->seed >>= 16;
    clock_gettime(CLOCK_REALTIME, &now);
    s->opened = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    return HLWQ_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

static void say_where(const serve *s)
{
    bool six = strchr(s->host, ':') != NULL;
    app_note("%s: http://%s%s%s:%u/ (%" PRIu32 " at once, %" PRIu32 " tokens each)", s->name, six ? "[" : "", s->host,
             six ? "]" : "", s->port, s->slots, s->defaults.context);
    if (!s->local && !s->key)
        app_warn("anyone who can reach %s may use this server; --api-key asks for a key", s->host);
}

/* Until nothing is being answered; false where a second signal wants an end at once. */
static bool drain(serve *s)
{
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    pthread_mutex_unlock(&s->lock);
    serve_http_refuse(s);
    for (bool said = false;;) {
        pthread_mutex_lock(&s->lock);
        bool idle = !s->first;
        pthread_mutex_unlock(&s->lock);
        if (idle)
            return true;
        if (!said)
            app_note("stopping when the answers under way are finished; once more stops at once");
        said = true;
        if (signalled(50))
            return false;
    }
}

static hlwq_status run_server(serve *s, hlwq_error *err)
{
    serve_loop *loop;
    pthread_t thread;
    hlwq_status st = serve_loop_open(s, &loop, err);
    if (st == HLWQ_OK)
        st = catch_signals(err);
    if (st == HLWQ_OK && pthread_create(&thread, NULL, serve_loop_run, loop) != 0)
        st = hs_fail(err, HLWQ_ERR_NOMEM, "no thread for the engine");
    if (st != HLWQ_OK) {
        serve_loop_close(loop);
        return st;
    }
    st = serve_http_open(s, err);
    if (st == HLWQ_OK) {
        say_where(s);
        while (!signalled(-1))
            ;
        if (!drain(s))
            _exit(130);
    }
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    serve_http_close(s);
    pthread_join(thread, NULL);
    serve_loop_close(loop);
    return st;
}

int app_cmd_serve(const app_args *args)
{
    hlwq_error err;
    serve s = {.args = args};
    pthread_mutex_init(&s.lock, NULL);
    serve_constraints_open(&s.constraints);
    pthread_cond_init(&s.work, NULL);
    pthread_cond_init(&s.idle, NULL);
    hlwq_status st = open_server(&s, &err);
    if (st == HLWQ_OK)
        st = run_server(&s, &err);
    serve_constraints_close(&s.constraints);
    hlwq_engine_close(s.engine);
    hlwq_template_close(s.chat);
    pthread_cond_destroy(&s.idle);
    pthread_cond_destroy(&s.work);
    pthread_mutex_destroy(&s.lock);
    free(s.model);
    free(s.name);
    return app_finish(st, &err);
}
