/*
 * base/ahead.c - windows of files, and the threads that fill them.
 */
#define _GNU_SOURCE
#include "base/ahead.h"

#include "base/clock.h"
#include "base/size.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 3, WINDOWS_MAX = 256, WANTED_MAX = 1024, PAGE = 4096 };

typedef enum state { EMPTY, READING, READY } state;

typedef struct window {
    state state;
    int fd;
    uint64_t number;      /* of the window in its file */
    uint64_t have, taken; /* bytes; taken counts those of every take */
    uint64_t stamp;       /* when it was last of use */
    uint32_t users;       /* copying out of it */
} window;

typedef struct wish {
    int fd;
    uint64_t number, bytes;
} wish;

struct hs_ahead {
    hs_mem *mem;
    uint8_t *data;
    uint32_t n;
    pthread_t thread[THREADS];
    uint32_t threads;
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t work, moved;
    window window[WINDOWS_MAX];
    wish wanted[WANTED_MAX]; /* a ring */
    uint64_t first, last;    /* its ends, counted on */
    uint64_t now;
    uint32_t reading; /* windows */
    uint32_t waiting; /* threads, for windows that nobody reads yet */
    uint64_t busy_since, busy_ns, read_bytes;
    bool over;
};

static window *find(hs_ahead *a, int fd, uint64_t number)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->window[i].state != EMPTY && a->window[i].fd == fd && a->window[i].number == number)
            return &a->window[i];
    return NULL;
}

static bool is_wanted(const hs_ahead *a, int fd, uint64_t number)
{
    for (uint64_t i = a->first; i < a->last; i++)
        if (a->wanted[i % WANTED_MAX].fd == fd && a->wanted[i % WANTED_MAX].number == number)
            return true;
    return false;
}

/*
 * What was read and not taken whole is to be taken yet, as more than there is room for may be asked at once; unless
 * nobody has come for long, or someone waits for another window.
 */
static bool is_awaited(const hs_ahead *a, const window *w)
{
    return w->taken < w->have && a->waiting == 0 && a->now - w->stamp < 4 * a->n;
}

/* An empty one, else one that was taken whole, else the one longest of no use. NULL: all are in use. */
static window *find_room(hs_ahead *a)
{
    window *best = NULL;
    for (uint32_t i = 0; i < a->n; i++) {
        window *w = &a->window[i];
        if (w->state == EMPTY)
            return w;
        if (w->state == READING || w->users || is_awaited(a, w))
            continue;
        const uint64_t age = w->taken >= w->have ? 0 : w->stamp;
        if (!best || age < (best->taken >= best->have ? 0 : best->stamp))
            best = w;
    }
    return best;
}

/* Bytes read, all that the file has there unless something went wrong. */
static uint64_t fill(int fd, uint64_t offset, uint8_t *data, uint64_t bytes)
{
    uint64_t have = 0;
    while (have < bytes && have % PAGE == 0) {
        const ssize_t n = pread(fd, data + have, HS_AHEAD_WINDOW - have, (off_t)(offset + have));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        have += (uint64_t)n;
    }
    return have;
}

static void *read_all(void *user)
{
    hs_ahead *a = user;
    pthread_mutex_lock(&a->lock);
    while (!a->over) {
        window *w = a->first < a->last ? find_room(a) : NULL;
        if (!w) {
            pthread_cond_wait(&a->work, &a->lock);
            continue;
        }
        const wish next = a->wanted[a->first++ % WANTED_MAX];
        *w = (window){.state = READING, .fd = next.fd, .number = next.number};
        if (a->reading++ == 0)
            a->busy_since = hs_now_ns();
        pthread_mutex_unlock(&a->lock);
        const uint64_t have = fill(next.fd, next.number * HS_AHEAD_WINDOW,
                                   a->data + (uint64_t)(w - a->window) * HS_AHEAD_WINDOW, next.bytes);
        pthread_mutex_lock(&a->lock);
        if (--a->reading == 0)
            a->busy_ns += hs_now_ns() - a->busy_since;
        a->read_bytes += have;
        w->state = have >= next.bytes ? READY : EMPTY; /* whoever needs it tries himself, and tells why not */
        w->have = next.bytes;
        w->stamp = ++a->now;
        pthread_cond_broadcast(&a->moved);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

hlwq_status hs_ahead_open(hs_ahead **out, hs_mem *mem, uint64_t bytes, hlwq_error *err)
{
    void *p, *data;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, sizeof(hs_ahead), "windows", &p, err));
    hs_ahead *a = p;
    a->mem = mem;
    a->n = (uint32_t)hs_min_u64(hs_max_u64(bytes / HS_AHEAD_WINDOW, 4), WINDOWS_MAX);
    hlwq_status st = hs_mem_alloc(mem, HS_MEM_IO, a->n * HS_AHEAD_WINDOW, "windows", &data, err);
    if (st != HLWQ_OK) {
        hs_mem_free(mem, a);
        return st;
    }
    a->data = data;
    assert((uintptr_t)data % PAGE == 0);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->work, NULL);
    pthread_cond_init(&a->moved, NULL);
    while (a->threads < THREADS && pthread_create(&a->thread[a->threads], NULL, read_all, a) == 0)
        a->threads++;
    if (a->threads == 0) {
        hs_ahead_close(a);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a thread that reads");
    }
    *out = a;
    return HLWQ_OK;
}

void hs_ahead_close(hs_ahead *a)
{
    if (!a)
        return;
    pthread_mutex_lock(&a->lock);
    a->over = true;
    pthread_cond_broadcast(&a->work);
    pthread_mutex_unlock(&a->lock);
    for (uint32_t i = 0; i < a->threads; i++)
        pthread_join(a->thread[i], NULL);
    pthread_cond_destroy(&a->moved);
    pthread_cond_destroy(&a->work);
    pthread_mutex_destroy(&a->lock);
    hs_mem_free(a->mem, a->data);
    hs_mem_free(a->mem, a);
}

void hs_ahead_ask(hs_ahead *a, int fd, uint64_t file_bytes, uint64_t offset, uint64_t bytes)
{
    if (offset >= file_bytes)
        return;
    const uint64_t end = offset + hs_min_u64(bytes, file_bytes - offset);
    pthread_mutex_lock(&a->lock);
    for (uint64_t n = offset / HS_AHEAD_WINDOW; n * HS_AHEAD_WINDOW < end; n++) {
        window *w = find(a, fd, n);
        if (w)
            w->stamp = ++a->now;
        else if (a->last - a->first < WANTED_MAX && !is_wanted(a, fd, n))
            a->wanted[a->last++ % WANTED_MAX] =
                (wish){fd, n, hs_min_u64(HS_AHEAD_WINDOW, file_bytes - n * HS_AHEAD_WINDOW)};
    }
    pthread_cond_broadcast(&a->work);
    pthread_mutex_unlock(&a->lock);
}

void hs_ahead_forget(hs_ahead *a, int fd)
{
    pthread_mutex_lock(&a->lock);
    uint64_t kept = a->first;
    for (uint64_t i = a->first; i < a->last; i++)
        if (a->wanted[i % WANTED_MAX].fd != fd)
            a->wanted[kept++ % WANTED_MAX] = a->wanted[i % WANTED_MAX];
    a->last = kept;
    for (uint32_t i = 0; i < a->n; i++) {
        window *w = &a->window[i];
        while (w->fd == fd && w->state == READING)
            pthread_cond_wait(&a->moved, &a->lock);
        if (w->fd == fd)
            w->state = EMPTY;
    }
    pthread_mutex_unlock(&a->lock);
}

uint64_t hs_ahead_take(hs_ahead *a, int fd, uint64_t offset, void *out, uint64_t bytes)
{
    const uint64_t number = offset / HS_AHEAD_WINDOW, from = offset % HS_AHEAD_WINDOW;
    window *w;
    pthread_mutex_lock(&a->lock);
    while ((w = find(a, fd, number)) ? w->state == READING : is_wanted(a, fd, number)) {
        a->waiting += !w;
        if (!w)
            pthread_cond_signal(&a->work);
        pthread_cond_wait(&a->moved, &a->lock);
        a->waiting -= !w;
    }
    if (!w || from >= w->have) {
        pthread_mutex_unlock(&a->lock);
        return 0;
    }
    const uint64_t n = hs_min_u64(bytes, w->have - from);
    w->users++;
    pthread_mutex_unlock(&a->lock);
    memcpy(out, a->data + (uint64_t)(w - a->window) * HS_AHEAD_WINDOW + from, n);
    pthread_mutex_lock(&a->lock);
    w->users--;
    w->taken += n;
    w->stamp = ++a->now;
    if (a->first < a->last)
        pthread_cond_signal(&a->work); /* there may be room now */
    pthread_mutex_unlock(&a->lock);
    return n;
}

void hs_ahead_tally(hs_ahead *a, uint64_t *bytes, uint64_t *ns)
{
    pthread_mutex_lock(&a->lock);
    *bytes = a->read_bytes;
    *ns = a->busy_ns;
    a->read_bytes = a->busy_ns = 0;
    pthread_mutex_unlock(&a->lock);
}
