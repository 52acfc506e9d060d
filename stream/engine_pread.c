/*
 * stream/engine_pread.c - reads by a few threads, for systems that refuse rings.
 */
#define _GNU_SOURCE
#include "stream/engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 16 };

typedef struct queue {
    hs_request *first, **last;
} queue;

struct hs_engine {
    int fd;
    uint32_t threads;
    bool stop;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    queue asked, finished;
    pthread_t thread[THREADS_MAX];
};

static void put(queue *q, hs_request *r)
{
    r->next = NULL;
    *q->last = r;
    q->last = &r->next;
}

static hs_request *get(queue *q)
{
    hs_request *r = q->first;
    if (r && !(q->first = r->next))
        q->last = &q->first;
    return r;
}

static void *work(void *arg)
{
    hs_engine *e = arg;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        hs_request *r = get(&e->asked);
        if (!r) {
            if (e->stop)
                break;
            pthread_cond_wait(&e->work, &e->lock);
            continue;
        }
        pthread_mutex_unlock(&e->lock);
        ssize_t n = pread(e->fd, r->to, r->bytes, (off_t)r->offset);
        r->result = n < 0 ? -errno : (int)n;
        pthread_mutex_lock(&e->lock);
        put(&e->finished, r);
        pthread_cond_signal(&e->done);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

static void pread_close(hs_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
    for (uint32_t i = 0; i < e->threads; i++)
        pthread_join(e->thread[i], NULL);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->done);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

static hlwq_status pread_open(hs_engine **out, int fd, uint64_t file_bytes, uint32_t depth, hlwq_error *err)
{
    (void)file_bytes;
    hs_engine *e = calloc(1, sizeof *e);
    if (!e)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for reading threads");
    e->fd = fd;
    e->asked.last = &e->asked.first;
    e->finished.last = &e->finished.first;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    pthread_cond_init(&e->done, NULL);
    while (e->threads < depth && e->threads < THREADS_MAX) {
        int failed = pthread_create(&e->thread[e->threads], NULL, work, e);
        if (failed && e->threads == 0) {
            pread_close(e);
            return hs_fail(err, HLWQ_ERR_NOMEM, "cannot start a reading thread: %s", strerror(failed));
        }
        if (failed)
            break;
        e->threads++;
    }
    *out = e;
    return HLWQ_OK;
}

static int pread_start(hs_engine *e, hs_request *r)
{
    pthread_mutex_lock(&e->lock);
    put(&e->asked, r);
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->lock);
    return 0;
}

static hs_request *pread_finish(hs_engine *e, bool block, int *failure)
{
    *failure = 0;
    pthread_mutex_lock(&e->lock);
    hs_request *r;
    while (!(r = get(&e->finished)) && block)
        pthread_cond_wait(&e->done, &e->lock);
    pthread_mutex_unlock(&e->lock);
    return r;
}

const hs_engine_ops hs_engine_pread = {pread_open, pread_close, pread_start, pread_finish, NULL};
