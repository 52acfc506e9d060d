/*
 * base/threads.c - the pool.  Workers spin for a short while after each run, then sleep.
 *
 * A run is published by raising `generation`; items are claimed from `next`, and `busy` counts workers
 * that may still touch the run's fields, so the caller leaves only when it is zero.
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

struct hs_pool {
    uint32_t threads; /* with the caller */
    pthread_t *thread;
    pthread_mutex_t lock; /* only for sleeping and waking */
    pthread_cond_t wake;
    atomic_uint generation;
    atomic_uint asleep;
    atomic_bool stop;

    /* The current run; written before `generation` rises. */
    hs_pool_fn fn;
    void *user;
    uint32_t n, band;
    atomic_uint next;
    atomic_uint busy;
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

static void take_bands(hs_pool *p, uint32_t worker)
{
    for (;;) {
        uint32_t first = atomic_fetch_add_explicit(&p->next, p->band, memory_order_relaxed);
        if (first >= p->n)
            return;
        uint32_t last = p->n - first < p->band ? p->n : first + p->band;
        p->fn(p->user, first, last, worker);
    }
}

static void *worker_main(void *arg)
{
    start s = *(start *)arg;
    free(arg);
    hs_pool *p = s.pool;
    unsigned seen = 0;
    for (;;) {
        unsigned now;
        int spins = 0;
        while ((now = atomic_load_explicit(&p->generation, memory_order_acquire)) == seen) {
            if (++spins < SPIN) {
                relax();
                continue;
            }
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->asleep, 1);
            while ((now = atomic_load(&p->generation)) == seen)
                pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->asleep, 1);
            pthread_mutex_unlock(&p->lock);
            break;
        }
        seen = now;
        if (atomic_load(&p->stop))
            return NULL;
        take_bands(p, s.worker);
        atomic_fetch_sub_explicit(&p->busy, 1, memory_order_release);
    }
}

static void publish(hs_pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->asleep)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

hlwq_status hs_pool_open(uint32_t threads, hs_pool **out, hlwq_error *err)
{
    *out = NULL;
    if (threads == 0)
        threads = hs_usable_cores();
    if (threads > THREADS_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "%u threads, limit %d", threads, THREADS_MAX);
    hs_pool *p = calloc(1, sizeof *p);
    pthread_t *t = calloc(threads, sizeof *t);
    if (!p || !t) {
        free(p);
        free(t);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %u threads", threads);
    }
    p->thread = t;
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
    p->n = n;
    p->band = band;
    atomic_store(&p->next, 0);
    atomic_store(&p->busy, p->threads - 1);
    publish(p);
    take_bands(p, 0);
    for (int spins = 0; atomic_load_explicit(&p->busy, memory_order_acquire); spins++) {
        if (spins < SPIN)
            relax();
        else
            sched_yield(); /* more threads than cores: let them run */
    }
}

/* cgroup v2 "max period" or "quota period"; 0 = no limit. */
static uint32_t quota_cores(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    double quota, period;
    uint32_t cores = 0;
    if (f) {
        if (fscanf(f, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0)
            cores = quota < period ? 1 : (uint32_t)(quota / period);
        fclose(f);
    }
    return cores;
}

uint32_t hs_usable_cores(void)
{
    cpu_set_t set;
    uint32_t cores = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cores = (uint32_t)CPU_COUNT(&set);
    uint32_t quota = quota_cores();
    if (quota && quota < cores)
        cores = quota;
    return cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : cores;
}
