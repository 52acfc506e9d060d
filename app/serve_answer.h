/*
 * app/serve_answer.h - one answer in the thread that computes: begun, written as tokens come, ended; and the slots.
 */
#ifndef HS_APP_SERVE_ANSWER_H
#define HS_APP_SERVE_ANSWER_H

#include "app/serve.h"

typedef struct serve_slot {
    hlwq_session *session;
    serve_unit *unit; /* NULL = free */
    bool ready;       /* the prompt has been read */
    bool stalled;     /* the client does not read */
    uint32_t call;    /* the latest call that was looked at */
    bool held;        /* to what a call may be, until it ends */
    int32_t next;     /* chosen, to be appended by the next step */
    uint64_t used;    /* when it was last taken: the longest unused is taken first */
} serve_slot;

struct serve_loop {
    serve *server;
    serve_slot slot[SERVE_SLOTS];
    uint32_t turn;  /* whose prompt is read next */
    hs_text out;    /* of the step, for one request */
    uint64_t seats; /* taken so far */
    serve_histogram gap;
};

bool serve_streams(const serve_unit *u);
void serve_begin(serve_loop *l, serve_unit *u);
void serve_flush(serve_loop *l, serve_unit *u, bool done);        /* what was written since goes to the client */
void serve_end(serve_loop *l, serve_slot *k, const char *finish); /* NULL = it failed or is not wanted any more */
void serve_fail(serve_loop *l, serve_slot *k, const hlwq_error *err);
bool serve_ends_answer(const serve *s, int32_t id);
void serve_constrain(serve_slot *k, bool on); /* to what was asked for; what a model thinks before it is free */

/* From its tag to its end a call is one that may be made. False: that failed, and the answer. */
bool serve_watch_call(serve_loop *l, serve_slot *k);

#endif
