/*
 * app/serve.h - a running server: requests, the slots that answer them, and who owns what.
 *
 * Three kinds of thread.  Those of the HTTP library read requests and hand out bytes (serve_http.c).  One engine
 * thread owns the engine and its sessions: it alone evaluates (serve_engine.c).  One watcher looks for clients that
 * have left, or keep others waiting.  They meet under one lock, held for moments, which guards everything here that
 * is not said to belong to one of them.
 */
#ifndef HS_APP_SERVE_H
#define HS_APP_SERVE_H

#include "app/open.h"
#include "app/serve_constraint.h"
#include "app/serve_prompt.h"
#include "app/serve_split.h"

#include <pthread.h>
#include <stdatomic.h>

enum { SERVE_ENDS = 3, SERVE_SLOTS = HLWQ_ROWS_MAX };

typedef struct serve serve;
typedef struct serve_request serve_request;

/* One text to be made. The engine thread's once it is queued. */
typedef struct serve_unit {
    serve_request *request;
    struct serve_unit *next; /* in the queue */
    uint32_t index;          /* "index" of its choice */
    int32_t *ids;            /* [n_ids] the prompt */
    size_t n_ids, read;      /* of it so far */
    size_t cached;           /* of it that needed no reading */
    size_t edge;             /* of a chat: what follows may be another in the next prompt; else 0 */
    uint64_t made;           /* tokens */
    int64_t limit;           /* of them; below 0 = any */
    char *opening;           /* what the prompt has begun of the answer */
    serve_split split;
    hs_text text, reasoning, calls; /* of an answer that is not streamed */
    hs_text chosen;                 /* entries of "logprobs" that are not sent yet, or the whole of them */
    hs_text chosen_top, chosen_name, chosen_offset; /* completions have four arrays */
    size_t offset;                                  /* characters of text before the next token */
    bool call_open;                                 /* its arguments are being written into `calls` */
    const char *finish;                             /* "stop", "length", "tool_calls"; NULL = not yet */
    double begun, first, last;                      /* seconds: taken from the queue, first token, last one */
} serve_unit;

/* One request for an answer. Freed when both the HTTP side and the engine have let go. */
struct serve_request {
    serve *server;
    serve_params params;          /* lent by body */
    serve_constraint *constraint; /* what the answers may be; NULL = anything */
    serve_constraint *calls;      /* what a call may be where the text around it is free; NULL = anything */
    hs_json *body;
    serve_unit *unit; /* [units] */
    uint32_t units, units_done, refs;
    char id[48];
    int64_t created;
    hs_text out;                  /* bytes for the client */
    size_t out_sent;              /* of them */
    double asked;                 /* when it came */
    double moved;                 /* when bytes last went out */
    double said;                  /* when bytes last came in */
    void *connection;             /* the library's; NULL once it has let go */
    int fd;                       /* -1 once closed */
    bool suspended;               /* the connection waits to be woken */
    bool done;                    /* nothing will be added to `out` */
    bool cancelled;               /* nobody wants it any more */
    bool began;                   /* a chunk has been sent */
    serve_fault fault;            /* status not 0: it failed */
    uint64_t client;              /* who asks: fairness */
    serve_request *next, *before; /* among all */
};

/* How often a value was at most each of serve_bounds, and above all of them. */
enum { SERVE_BOUNDS = 19 };
extern const double serve_bounds[SERVE_BOUNDS];
typedef struct serve_histogram {
    uint64_t count[SERVE_BOUNDS + 1];
    double sum;
} serve_histogram;

/* What a client may see of how it goes; the lock's. */
typedef struct serve_counts {
    uint64_t requests, refused, cancelled, finished;
    uint64_t prompt_tokens, cached_tokens, made_tokens;
    double prompt_seconds, made_seconds;
    uint64_t steps, rows; /* of decoding: rows / steps texts share one pass */
    uint32_t running, waiting;
    serve_histogram first_token, gap, speed; /* seconds, seconds, tokens per second */
} serve_counts;

typedef struct serve_view {
    hlwq_streaming streaming;
    hlwq_speculation drafts;
    uint64_t memory_now, memory_peak, vram_now, vram_peak;
    uint64_t kind_bytes[16];
    const char *kind_name[16];
    uint32_t kinds;
} serve_view;

struct serve {
    /* Set before the threads begin. */
    const app_args *args;
    hlwq_engine *engine;
    const hlwq_tokenizer *tokenizer;
    hlwq_template *chat; /* NULL = the model has none */
    hlwq_error chat_error;
    char *model, *name;
    hlwq_model_facts facts;
    hlwq_plan plan;
    hlwq_session_options defaults;
    uint32_t slots, queue_max;
    uint64_t body_max;
    double timeout;
    const char *host, *key, *cors;
    uint16_t port;
    bool local; /* bound to the loopback only */
    int32_t think_open, think_close, end[SERVE_ENDS];
    double opened;
    uint64_t seed;                 /* of requests that give none */
    serve_constraints constraints; /* has a lock of its own */

    pthread_mutex_t lock;
    pthread_cond_t work; /* for the engine thread */
    pthread_cond_t idle; /* for who waits until nothing runs */
    bool draining, quit;
    serve_request *first;
    serve_unit *queue;
    serve_counts counts;
    serve_view view;
    uint64_t bodies; /* bytes of requests being received */
    void *http;      /* serve_http.c's */
    atomic_uint ids;
};

double serve_now(void);

/* ---- serve_engine.c -------------------------------------------------------------------------- */

/* Opens the sessions and runs until `quit`; on a thread of its own. Says through *ready how opening went. */
typedef struct serve_loop serve_loop;
hlwq_status serve_loop_open(serve *server, serve_loop **loop, hlwq_error *err);
void *serve_loop_run(void *loop);
void serve_loop_close(serve_loop *loop);

/* Queues a request whose units are filled in; with the lock. False and a refusal where the queue is full. */
bool serve_submit(serve_request *request, serve_fault *fault);

/* ---- serve_write.c --------------------------------------------------------------------------- */

void serve_write_error(hs_text *out, const serve_fault *fault);

/* Events of one answer, by the engine thread, without the lock: appended to the unit, or to `out` for a stream. */
void serve_write_begin(serve_unit *unit, hs_text *out);
void serve_write_piece(serve_unit *unit, hs_text *out, serve_piece kind, const char *text, size_t bytes);
void serve_write_end(serve_unit *unit, hs_text *out);

/* The whole answer, once all units are done; for a stream its last words. */
void serve_write_rest(serve_request *request, hs_text *out);

/* A token and what stood beside it, for "logprobs": `logits` are those it was chosen from; NULL = nothing was. */
void serve_write_token(serve_unit *unit, int32_t id, const float *logits);

/* ---- serve_http.c ---------------------------------------------------------------------------- */

hlwq_status serve_http_open(serve *server, hlwq_error *err);
void serve_http_refuse(serve *server); /* takes no new connections */
void serve_http_close(serve *server);

/* The client of a request may have something to do; with the lock. */
void serve_wake(serve_request *request);

void serve_request_release(serve_request *request); /* with the lock */

/* ---- serve_routes.c -------------------------------------------------------------------------- */

typedef struct serve_reply {
    int status;
    const char *type; /* content type */
    hs_text body;
    const char *fixed; /* instead of body: lives for ever */
    size_t fixed_bytes;
    bool retry;             /* Retry-After */
    serve_request *request; /* an answer that is being made; NULL = body is all */
} serve_reply;

typedef enum serve_method { SERVE_GET, SERVE_POST, SERVE_OTHER } serve_method;

/* ---- serve_access.c -------------------------------------------------------------------------- */

/* The head of a request; "" where a header is missing. */
typedef struct serve_head {
    const char *method, *path, *host, *origin, *authorization, *length;
} serve_head;

/* Everything that can be said before a body is read. *preflight: a browser asks what it may, there is no route. */
bool serve_admit(const serve *server, const serve_head *head, serve_method *method, bool *preflight,
                 serve_fault *fault);
bool serve_lets_in(const serve *server, const char *origin); /* --cors allows its pages */

/* ---- addresses: serve_routes.c ---------------------------------------------------------------- */

/* Whether there is such an address, open to all or to those who have the key, before a body is read. */
bool serve_route_known(serve_method method, const char *path, bool *open, serve_fault *fault);
void serve_route(serve *server, serve_method method, const char *path, const char *body, size_t bytes, uint64_t client,
                 serve_reply *reply);

/* ---- serve_state.c --------------------------------------------------------------------------- */

void serve_say_health(serve *server, serve_reply *reply);
void serve_say_models(serve *server, serve_reply *reply);
void serve_say_props(serve *server, serve_reply *reply);
void serve_say_metrics(serve *server, serve_reply *reply);
void serve_say_tokenizer(serve *server, serve_reply *reply);
void serve_histogram_add(serve_histogram *histogram, double value);

/* The page, made from app/web/index.html. */
extern const unsigned char serve_page[];
extern const unsigned serve_page_bytes;

#endif
