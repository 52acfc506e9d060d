/*
 * app/serve_http.c - the one file that knows libmicrohttpd: connections, bodies, and answers as they are made.
 *
 * A connection that waits is suspended, and woken by whoever has something for it.  The library notices neither a
 * client that leaves while nothing is sent, nor one that sends a byte now and then for ever: the watcher does.
 */
#define _GNU_SOURCE
#include "app/serve.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS = 4,
    CONNECTIONS = 512,
    HEADERS_MAX = 32 << 10, /* bytes of a request before its body */
    BLOCK = 16 << 10,       /* bytes handed out at once */
    BODIES = 4              /* times --max-body: all that is being received */
};

#define KEEP_ALIVE_SECONDS 5.0
#define LOOK_SECONDS 0.5 /* between two looks at clients that have not asked yet */
#define WATCH_MS 50
#define STOPPED_SECONDS 2.0 /* between two looks: the process itself was stopped */

/* A connection, for as long as it lasts. */
typedef struct client {
    struct client *next, *before;
    int fd;
    uint64_t who;
    double since; /* when its last request was done with */
    bool busy;    /* a request has come whole and is not answered yet */
    bool left;    /* seen to have hung up at the last look */
} client;

typedef struct http {
    serve *server;
    struct MHD_Daemon *daemon;
    client *first;
    pthread_t watcher;
    bool watching, stop;
    int listening;
} http;

/* One request on its way in and out. */
typedef struct exchange {
    serve *server;
    client *client;
    serve_method method;
    hs_text body;
    size_t charged;    /* of it, to the server's `bodies` */
    serve_fault fault; /* status not 0: refused, whatever more comes */
    serve_request *request;
    bool preflight;
} exchange;

double serve_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- replies --------------------------------------------------------------------------------- */

static const char *header(struct MHD_Connection *c, const char *name)
{
    const char *value = MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
    return value ? value : "";
}

static void add_headers(const serve *s, struct MHD_Connection *c, struct MHD_Response *r, const char *type)
{
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (strncmp(type, "text/html", 9) == 0) {
        MHD_add_response_header(r, "Content-Security-Policy",
                                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                                "frame-ancestors 'none'");
        MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
    }
    if (serve_lets_in(s, header(c, "Origin"))) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", s->cors);
        MHD_add_response_header(r, "Access-Control-Allow-Headers", "authorization, content-type");
        MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST");
        MHD_add_response_header(r, "Vary", "Origin");
    }
}

static enum MHD_Result queue(struct MHD_Connection *c, int status, struct MHD_Response *r)
{
    enum MHD_Result ok = r ? MHD_queue_response(c, (unsigned)status, r) : MHD_NO;
    if (r)
        MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result send_text(const serve *s, struct MHD_Connection *c, int status, const char *type, hs_text *text,
                                 bool retry)
{
    size_t bytes = text->bytes;
    char *data = hs_text_take(text);
    if (!data)
        return MHD_NO;
    struct MHD_Response *r = MHD_create_response_from_buffer(bytes, data, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        free(data);
        return MHD_NO;
    }
    add_headers(s, c, r, type);
    if (retry)
        MHD_add_response_header(r, "Retry-After", "1");
    if (status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    return queue(c, status, r);
}

static enum MHD_Result send_fault(const serve *s, struct MHD_Connection *c, const serve_fault *f)
{
    hs_text t = {0};
    serve_write_error(&t, f);
    return send_text(s, c, f->status, "application/json", &t, f->status == 429 || f->status == 503);
}

/* ---- answers that are being made ------------------------------------------------------------- */

void serve_wake(serve_request *r)
{
    if (r->suspended && r->connection) {
        r->suspended = false;
        MHD_resume_connection(r->connection);
    }
}

/* With the lock: until serve_wake. */
static void wait_for_more(serve_request *r)
{
    r->suspended = true;
    MHD_suspend_connection(r->connection);
}

static ssize_t pull(void *user, uint64_t position, char *buffer, size_t room)
{
    serve_request *r = user;
    serve *s = r->server;
    ssize_t n = 0;
    (void)position;
    pthread_mutex_lock(&s->lock);
    size_t left = r->out.bytes - r->out_sent;
    if (r->cancelled && !r->done) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (left) {
        n = (ssize_t)(left < room ? left : room);
        memcpy(buffer, r->out.data + r->out_sent, (size_t)n);
        r->out_sent += (size_t)n;
        r->moved = serve_now();
        if (r->out_sent == r->out.bytes) {
            r->out.bytes = r->out_sent = 0;
        } else if (r->out_sent > 1 << 20) {
            memmove(r->out.data, r->out.data + r->out_sent, r->out.bytes - r->out_sent);
            r->out.bytes -= r->out_sent;
            r->out_sent = 0;
        }
    } else if (r->done) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        wait_for_more(r);
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

static enum MHD_Result send_stream(serve_request *r, struct MHD_Connection *c)
{
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, pull, r, NULL);
    if (!response)
        return MHD_NO;
    add_headers(r->server, c, response, "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    return queue(c, 200, response);
}

/* The whole answer if it is there; else the library asks again once woken. */
static enum MHD_Result send_whole(serve_request *r, struct MHD_Connection *c)
{
    serve *s = r->server;
    hs_text text = {0};
    int status = 200;
    pthread_mutex_lock(&s->lock);
    bool done = r->done, cancelled = r->cancelled;
    if (done) {
        text = r->out;
        r->out = (hs_text){0};
        status = r->fault.status ? r->fault.status : 200;
    } else if (!cancelled) {
        wait_for_more(r);
    }
    pthread_mutex_unlock(&s->lock);
    if (done)
        return send_text(s, c, status, "application/json", &text, false);
    return cancelled ? MHD_NO : MHD_YES;
}

static enum MHD_Result begin_answer(exchange *x, struct MHD_Connection *c, serve_request *r)
{
    serve *s = x->server;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    pthread_mutex_lock(&s->lock);
    x->request = r;
    r->connection = c;
    r->fd = info ? info->connect_fd : -1;
    pthread_mutex_unlock(&s->lock);
    return r->params.stream ? send_stream(r, c) : send_whole(r, c);
}

/* Everything that can be said before the body. */
static bool admit(exchange *x, struct MHD_Connection *c, const char *path, const char *method)
{
    const serve_head head = {.method = method,
                             .path = path,
                             .host = header(c, "Host"),
                             .origin = header(c, "Origin"),
                             .authorization = header(c, "Authorization"),
                             .length = header(c, "Content-Length")};
    return serve_admit(x->server, &head, &x->method, &x->preflight, &x->fault);
}

/* ---- the library's callbacks ----------------------------------------------------------------- */

static void take_body(exchange *x, const char *data, size_t bytes)
{
    serve *s = x->server;
    if (x->fault.status)
        return;
    if (x->body.bytes + bytes > s->body_max) {
        serve_refuse(&x->fault, 413, NULL, "the body is larger than %llu bytes", (unsigned long long)s->body_max);
        return;
    }
    pthread_mutex_lock(&s->lock);
    bool room = s->bodies + bytes <= BODIES * s->body_max;
    if (room)
        s->bodies += bytes;
    pthread_mutex_unlock(&s->lock);
    if (!room) {
        serve_refuse(&x->fault, 503, NULL, "too many requests are being received at once");
        return;
    }
    x->charged += bytes;
    hs_text_add(&x->body, data, bytes);
    if (x->body.failed)
        serve_refuse(&x->fault, 503, NULL, "no memory for the request");
}

/* With the lock. */
static void drop_body(exchange *x)
{
    x->server->bodies -= x->charged;
    x->charged = 0;
    hs_text_close(&x->body);
}

static enum MHD_Result reply_to(exchange *x, struct MHD_Connection *c, const char *path)
{
    serve *s = x->server;
    serve_reply reply;
    if (x->preflight) {
        struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
        if (r)
            add_headers(s, c, r, "text/plain");
        return queue(c, 204, r);
    }
    serve_route(s, x->method, path, x->body.data, x->body.bytes, x->client ? x->client->who : 0, &reply);
    pthread_mutex_lock(&s->lock);
    drop_body(x); /* an answer may take long */
    pthread_mutex_unlock(&s->lock);
    if (reply.request)
        return begin_answer(x, c, reply.request);
    if (!reply.fixed)
        return send_text(s, c, reply.status, reply.type, &reply.body, reply.retry);
    struct MHD_Response *r =
        MHD_create_response_from_buffer(reply.fixed_bytes, (void *)(uintptr_t)reply.fixed, MHD_RESPMEM_PERSISTENT);
    if (r)
        add_headers(s, c, r, reply.type);
    return queue(c, reply.status, r);
}

static enum MHD_Result handle(void *user, struct MHD_Connection *c, const char *path, const char *method,
                              const char *version, const char *data, size_t *bytes, void **state)
{
    serve *s = user;
    exchange *x = *state;
    (void)version;
    if (!x) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        x = *state = calloc(1, sizeof *x);
        if (!x)
            return MHD_NO;
        x->server = s;
        x->client = info ? info->socket_context : NULL;
        return admit(x, c, path, method) ? MHD_YES : send_fault(s, c, &x->fault);
    }
    if (*bytes) {
        take_body(x, data, *bytes);
        *bytes = 0;
        return MHD_YES;
    }
    if (x->request) /* woken */
        return send_whole(x->request, c);
    pthread_mutex_lock(&s->lock);
    if (x->client)
        x->client->busy = true;
    pthread_mutex_unlock(&s->lock);
    return x->fault.status ? send_fault(s, c, &x->fault) : reply_to(x, c, path);
}

static void completed(void *user, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why)
{
    serve *s = user;
    exchange *x = *state;
    (void)c;
    (void)why;
    if (!x)
        return;
    pthread_mutex_lock(&s->lock);
    drop_body(x);
    serve_request *r = x->request;
    if (r) {
        r->connection = NULL;
        r->fd = -1;
        r->cancelled |= !r->done;
        serve_request_release(r);
        pthread_cond_signal(&s->work);
        pthread_cond_broadcast(&s->idle);
    }
    if (x->client) {
        x->client->busy = false;
        x->client->since = serve_now();
    }
    pthread_mutex_unlock(&s->lock);
    free(x);
    *state = NULL;
}

/* A number for an address. */
static uint64_t who_is(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    char name[NI_MAXHOST] = "";
    uint64_t hash = 1469598103934665603u; /* FNV-1a */
    const struct sockaddr *a = info ? info->client_addr : NULL;
    socklen_t n = a && a->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (a)
        getnameinfo(a, n, name, sizeof name, NULL, 0, NI_NUMERICHOST);
    for (const char *p = name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 1099511628211u;
    return hash;
}

static void notify_connection(void *user, struct MHD_Connection *c, void **context,
                              enum MHD_ConnectionNotificationCode code)
{
    http *h = user;
    client *k = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        k = *context = calloc(1, sizeof *k);
        if (!k)
            return; /* it is served, only not watched */
        *k = (client){.fd = info ? info->connect_fd : -1, .since = serve_now(), .who = who_is(c)};
        pthread_mutex_lock(&h->server->lock);
        k->next = h->first;
        if (h->first)
            h->first->before = k;
        h->first = k;
        pthread_mutex_unlock(&h->server->lock);
    } else if (k) {
        pthread_mutex_lock(&h->server->lock);
        if (k->before)
            k->before->next = k->next;
        else
            h->first = k->next;
        if (k->next)
            k->next->before = k->before;
        pthread_mutex_unlock(&h->server->lock);
        free(k);
        *context = NULL;
    }
}

static void log_line(void *user, const char *format, va_list args)
{
    char text[512];
    (void)user;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    app_log(NULL, HLWQ_LOG_DEBUG, text);
}

/* ---- the watcher ----------------------------------------------------------------------------- */

static bool has_left(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void watch_request(serve *s, serve_request *r, double now)
{
    size_t unread = r->out.bytes - r->out_sent;
    if (!r->cancelled && !r->done && has_left(r->fd)) {
        r->cancelled = true;
        serve_wake(r);
        pthread_cond_signal(&s->work);
    } else if (r->params.stream && unread && now - r->moved > s->timeout && r->fd >= 0) {
        r->cancelled = true; /* it does not read */
        shutdown(r->fd, SHUT_RDWR);
        serve_wake(r);
        pthread_cond_signal(&s->work);
    } else if (r->params.stream && !r->done && !unread && now - r->said > KEEP_ALIVE_SECONDS) {
        hs_text_format(&r->out, ": still at work\n\n");
        r->said = r->moved = now;
        serve_wake(r);
    }
}

/*
 * Who takes too long to ask, or has hung up instead.  The library overlooks an end that came together with the bytes
 * before it, so who is still there at the second look is cut here.
 */
static void watch_client(const serve *s, client *k, bool look, double now)
{
    bool left = look && !k->busy && has_left(k->fd);
    if (!k->busy && (now - k->since > s->timeout || (left && k->left))) {
        shutdown(k->fd, SHUT_RDWR);
        k->since = now;
    }
    k->left = look ? left : k->left;
}

static void *watch(void *user)
{
    http *h = user;
    serve *s = h->server;
    double before = serve_now(), looked = before;
    for (bool stop = false; !stop;) {
        poll(NULL, 0, WATCH_MS);
        pthread_mutex_lock(&s->lock);
        double now = serve_now();
        bool stopped = now - before > STOPPED_SECONDS; /* nobody can be blamed for what passed meanwhile */
        before = now;
        for (serve_request *r = s->first; r; r = r->next) {
            r->moved = stopped ? now : r->moved;
            watch_request(s, r, now);
        }
        bool look = now - looked > LOOK_SECONDS;
        looked = look ? now : looked;
        for (client *k = h->first; k; k = k->next) {
            k->since = stopped ? now : k->since;
            watch_client(s, k, look, now);
        }
        stop = h->stop;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

/* ---- opening --------------------------------------------------------------------------------- */

static hlwq_status listen_on(serve *s, int *out, hlwq_error *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    char port[16];
    int one = 1, fd = -1, why = 0;
    snprintf(port, sizeof port, "%u", s->port);
    int bad = getaddrinfo(s->host, port, &hints, &list);
    if (bad)
        return hs_fail(err, HLWQ_ERR_ARG, "--host %s: %s", s->host, gai_strerror(bad));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) {
            why = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 128) != 0) {
            why = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        return hs_fail(err, HLWQ_ERR_IO, "cannot listen on %s port %u: %s", s->host, s->port, strerror(why));
    struct sockaddr_storage at = {0};
    socklen_t n = sizeof at;
    if (getsockname(fd, (struct sockaddr *)&at, &n) == 0 &&
        getnameinfo((struct sockaddr *)&at, n, NULL, 0, port, sizeof port, NI_NUMERICSERV) == 0)
        s->port = (uint16_t)strtoul(port, NULL, 10);
    s->local = (at.ss_family == AF_INET && ((struct sockaddr_in *)&at)->sin_addr.s_addr == htonl(INADDR_LOOPBACK)) ||
               (at.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&at)->sin6_addr));
    *out = fd;
    return HLWQ_OK;
}

hlwq_status serve_http_open(serve *s, hlwq_error *err)
{
    http *h = calloc(1, sizeof *h);
    if (!h)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the server");
    s->http = h;
    h->server = s;
    h->listening = -1;
    HS_TRY(listen_on(s, &h->listening, err));
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        handle, s, MHD_OPTION_EXTERNAL_LOGGER, log_line, NULL, MHD_OPTION_LISTEN_SOCKET, h->listening,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)THREADS, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADERS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)(s->timeout < 1 ? 1 : s->timeout), MHD_OPTION_NOTIFY_COMPLETED, completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, notify_connection, h, MHD_OPTION_END);
    if (!h->daemon)
        return hs_fail(err, HLWQ_ERR_IO, "the HTTP library does not start: %s", strerror(errno));
    if (pthread_create(&h->watcher, NULL, watch, h) != 0)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no thread for the server");
    h->watching = true;
    return HLWQ_OK;
}

void serve_http_refuse(serve *s)
{
    http *h = s->http;
    if (h && h->daemon && h->listening >= 0) {
        MHD_socket fd = MHD_quiesce_daemon(h->daemon);
        if (fd >= 0)
            close(fd);
        h->listening = -1;
    }
}

void serve_http_close(serve *s)
{
    http *h = s->http;
    if (!h)
        return;
    serve_http_refuse(s);
    if (h->watching) {
        pthread_mutex_lock(&s->lock);
        h->stop = true;
        pthread_mutex_unlock(&s->lock);
        pthread_join(h->watcher, NULL);
    }
    pthread_mutex_lock(&s->lock);
    for (serve_request *r = s->first; r; r = r->next) { /* the library does not stop with some of them suspended */
        r->cancelled = true;
        serve_wake(r);
    }
    pthread_mutex_unlock(&s->lock);
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    if (h->listening >= 0)
        close(h->listening);
    free(h);
    s->http = NULL;
}
