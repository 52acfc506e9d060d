/*
 * base/threads.c - the pool.  Workers spin for a short while after each run, then sleep.
 *
 * A run is open from when it is published until the caller finds nothing left to take.  A worker enters an open run,
 * and the caller leaves only when none is inside.  One that comes too late is not waited for: where other programs
 * keep it off its core, the caller has done its share by then.
 */
#define _GNU_SOURCE
#include "base/threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPIN = 20000, THREADS_MAX = 256 };
#define RUN_OPEN (UINT64_C(1) << 31)

/* The items that a worker has left: first in the low half, end in the high one. On a cache line of its own. */
typedef struct share {
    _Alignas(64) atomic_uint_fast64_t left;
} share;

struct hs_pool {
    share *share;
    uint32_t threads; /* with the caller */
    pthread_t *thread;
    pthread_mutex_t lock; /* only for sleeping and waking */
    pthread_cond_t wake;
    atomic_uint_fast64_t run; /* its number << 32 | RUN_OPEN | workers inside */
    atomic_uint asleep;
    atomic_bool stop;

    /* The current run; written while no run is open and nobody inside. */
    hs_pool_fn fn;
    void *user;
    uint32_t band;
};

typedef struct start {
    hs_pool *pool;
    uint32_t worker;
} start;

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* A band from the front of one's own share, or from the back of another's; false where nothing is left. */
static bool take(share *s, uint32_t band, bool front, uint32_t *first, uint32_t *last)
{
    uint_fast64_t now = atomic_load_explicit(&s->left, memory_order_relaxed), then;
    do {
        uint32_t from = (uint32_t)now, to = (uint32_t)(now >> 32), n = to - from < band ? to - from : band;
        if (n == 0)
            return false;
        *first = front ? from : to - n;
        *last = *first + n;
        then = front ? (uint_fast64_t)to << 32 | *last : (uint_fast64_t)*first << 32 | from;
    } while (!atomic_compare_exchange_weak_explicit(&s->left, &now, then, memory_order_relaxed, memory_order_relaxed));
    return true;
}

static void take_bands(hs_pool *p, uint32_t worker)
{
    uint32_t first, last;
    for (uint32_t i = 0; i < p->threads; i++)
        while (take(&p->share[(worker + i) % p->threads], p->band, i == 0, &first, &last))
            p->fn(p->user, first, last, worker);
}

/* Into the run that is open, if one is; *seen = the latest. */
static bool enter(hs_pool *p, uint32_t *seen)
{
    uint_fast64_t now = atomic_load_explicit(&p->run, memory_order_acquire);
    do {
        *seen = (uint32_t)(now >> 32);
        if (!(now & RUN_OPEN))
            return false;
    } while (
        !atomic_compare_exchange_weak_explicit(&p->run, &now, now + 1, memory_order_acquire, memory_order_acquire));
    return true;
}

static bool is_new(hs_pool *p, uint32_t seen)
{
    return (uint32_t)(atomic_load(&p->run) >> 32) != seen;
}

static void *worker_main(void *arg)
{
    start s = *(start *)arg;
    free(arg);
    hs_pool *p = s.pool;
    for (uint32_t seen = 0;;) {
        for (int spins = 0; !is_new(p, seen); spins++) {
            if (spins < SPIN) {
                relax();
                continue;
            }
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->asleep, 1);
            while (!is_new(p, seen))
                pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->asleep, 1);
            pthread_mutex_unlock(&p->lock);
            break;
        }
        if (atomic_load(&p->stop))
            return NULL;
        if (!enter(p, &seen))
            continue;
        take_bands(p, s.worker);
        atomic_fetch_sub_explicit(&p->run, 1, memory_order_release);
    }
}

static void publish(hs_pool *p)
{
    uint_fast64_t number = (uint32_t)(atomic_load_explicit(&p->run, memory_order_relaxed) >> 32) + 1u;
    atomic_store(&p->run, number << 32 | RUN_OPEN);
    if (atomic_load(&p->asleep)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

/*
 * Keeps a worker on the cores of its kind, one processor of each.  Not on one of them: the caller, who is not bound,
 * would come back from waiting for a read on the core that a worker spins on, and stay there.
 */
static void keep_on(pthread_t thread, const hs_cores *cores)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (uint32_t i = 0; i < cores->n; i++)
        if (cores->cpu[i] < CPU_SETSIZE)
            CPU_SET(cores->cpu[i], &set);
    (void)pthread_setaffinity_np(thread, sizeof set, &set); /* where that fails, the scheduler decides */
}

hlwq_status hs_pool_open(uint32_t threads, hs_pool **out, hlwq_error *err)
{
    *out = NULL;
    if (threads == 0)
        threads = hs_usable_cores();
    hs_cores cores = hs_cores_find(NULL);
    if (threads > THREADS_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "%u threads, limit %d", threads, THREADS_MAX);
    hs_pool *p = calloc(1, sizeof *p);
    pthread_t *t = calloc(threads, sizeof *t);
    share *left = aligned_alloc(sizeof *left, threads * sizeof *left);
    if (!p || !t || !left) {
        free(p);
        free(t);
        free(left);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %u threads", threads);
    }
    p->thread = t;
    p->share = left;
    p->threads = 1;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (uint32_t i = 1; i < threads; i++) {
        start *s = malloc(sizeof *s);
        int e = ENOMEM;
        if (s) {
            *s = (start){p, i};
            e = pthread_create(&t[i], NULL, worker_main, s);
        }
        if (e) {
            free(s);
            hs_pool_close(p);
            return hs_fail(err, HLWQ_ERR_NOMEM, "cannot start thread %u of %u: %s", i + 1, threads, strerror(e));
        }
        if (threads <= cores.n)
            keep_on(t[i], &cores);
        p->threads = i + 1;
    }
    *out = p;
    return HLWQ_OK;
}

void hs_pool_close(hs_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    publish(p);
    for (uint32_t i = 1; i < p->threads; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->thread);
    free(p->share);
    free(p);
}

uint32_t hs_pool_threads(const hs_pool *p)
{
    return p->threads;
}

void hs_pool_run(hs_pool *p, uint32_t n, uint32_t band, hs_pool_fn fn, void *user)
{
    if (n == 0)
        return;
    if (band == 0)
        band = 1;
    if (p->threads == 1 || n <= band) {
        fn(user, 0, n, 0);
        return;
    }
    p->fn = fn;
    p->user = user;
    p->band = band;
    uint64_t bands = (n + (uint64_t)band - 1) / band;
    for (uint32_t i = 0; i < p->threads; i++) {
        uint64_t from = bands * i / p->threads * band, to = bands * (i + 1) / p->threads * band;
        to = to < n ? to : n;
        atomic_store_explicit(&p->share[i].left, to << 32 | from, memory_order_relaxed);
    }
    publish(p);
    take_bands(p, 0);
    atomic_fetch_and(&p->run, ~RUN_OPEN);
    for (int spins = 0; (uint32_t)atomic_load_explicit(&p->run, memory_order_acquire); spins++) {
        if (spins < SPIN)
            relax();
        else
            sched_yield(); /* more threads than cores: let them run */
    }
}
