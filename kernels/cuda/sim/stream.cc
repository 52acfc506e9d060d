/*
 * kernels/cuda/sim/stream.cc - streams are queues in which nothing moves until somebody waits.
 *
 * Then one step at a time: a stream whose first operation can run is drawn, and it runs, or some of its blocks do.
 * An operation's number in its stream is all that events are: a record remembers (stream, number), a wait is done when
 * that stream has done that number.  Streams live until the reset, so that such a pair never dangles.
 *
 * When nothing can move, another thread may still set a flag or queue work: the mutex is let go for a while.  After
 * options.patience_ms it is a deadlock, told with what each stream waits for, and the program aborts.
 */
#include "kernels/cuda/sim/private.h"

#include <stdio.h>
#include <time.h>

enum { MOST_QUEUED = 65536 };

static CUstream_st legacy = {nullptr, 0, true, true, false, nullptr, nullptr, 0, 0, nullptr, false, {}};
CUstream_st *sim_streams = &legacy; /* newest first, the default stream last */
static CUevent_st *events;
static uint32_t n_queued, n_streams;

/* ---- operations ---- */

sim_op *sim_op_new(sim_op_kind kind, size_t extra)
{
    static_assert(sizeof(sim_op) % 16 == 0, "arguments follow an op");
    sim_op *op = static_cast<sim_op *>(sim_alloc(sizeof *op + extra));
    op->kind = kind;
    op->extra = extra;
    return op;
}

void sim_op_free(sim_op *op)
{
    if (op->kind == SIM_KERNEL)
        sim_launch_drop(&op->launch);
    if (op->kind == SIM_GRAPH) {
        op->exec->queued--;
        if (op->exec->running == op)
            op->exec->running = nullptr;
        sim_exec_unused(op->exec);
        free(op->node_done);
    }
    free(op);
}

bool sim_op_can_run(const sim_op *op)
{
    switch (op->kind) {
    case SIM_KERNEL: return !op->begun || sim_launch_can_run(&op->launch);
    case SIM_WAIT: return op->other->done >= op->other_seq;
    case SIM_GRAPH: return sim_graph_can_run(op);
    default: return true;
    }
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void run_copy(const sim_op *op)
{
    sim_where to = sim_where_is(op->to, op->bytes), from = sim_where_is(op->from, op->bytes);
    uint64_t *count = to == SIM_DEVICE     ? from == SIM_DEVICE ? &sim_stats.d2d_bytes : &sim_stats.h2d_bytes
                      : from == SIM_DEVICE ? &sim_stats.d2h_bytes
                                           : &sim_stats.h2h_bytes;
    *count += op->bytes;
    memmove(op->to, op->from, op->bytes);
}

/* Without the mutex and without device memory: it is host code. */
static void run_host_func(const sim_op *op)
{
    sim_arena_close();
    sim_unlock();
    sim_in_host_func = true;
    op->fn(op->user);
    sim_in_host_func = false;
    sim_lock();
    sim_arena_open();
}

bool sim_op_run(sim_op *op, cudaStream_t s)
{
    switch (op->kind) {
    case SIM_KERNEL:
        if (!op->begun)
            sim_launch_begin(&op->launch);
        op->begun = true;
        /* Often only some of its blocks, so that two kernels which nothing orders mix. */
        return sim_launch_run(&op->launch, sim_random_below(2) ? UINT64_MAX : 1 + sim_random() % op->launch.n_blocks);
    case SIM_COPY: run_copy(op); return true;
    case SIM_SET:
        sim_stats.set_bytes += op->bytes;
        memset(op->to, op->value, op->bytes);
        return true;
    case SIM_RECORD:
        if (op->event->stream == s && op->event->seq == op->seq)
            op->event->ms = now_ms();
        return true;
    case SIM_WAIT: return true;
    case SIM_HOST: run_host_func(op); return true;
    case SIM_GRAPH: return sim_graph_run(op, s);
    }
    return true;
}

/* ---- the scheduler ---- */

static void pop(cudaStream_t s)
{
    sim_op *op = s->head;
    s->head = op->next;
    if (!s->head)
        s->tail = nullptr;
    s->done = op->seq;
    n_queued--;
    sim_op_free(op);
}

/* After an error nothing runs any more. */
static void drop_queues(void)
{
    for (CUstream_st *s = sim_streams; s; s = s->next)
        while (s->head && !s->busy)
            pop(s);
}

/* Three seeds of four have a stream that moves only when no other can: what nobody waits for comes late then. */
static bool is_slow(const CUstream_st *s)
{
    return s->id && s->id == sim_options.seed % 4;
}

/* One step of one stream. False if none can move, or only one that waits for all others. Device memory is open. */
static bool move_any(bool slow_too)
{
    if (sim_sticky) {
        drop_queues();
        return false;
    }
    CUstream_st *pick = nullptr, *slow = nullptr;
    uint32_t n = 0;
    for (CUstream_st *s = sim_streams; s; s = s->next) {
        if (!s->head || s->busy || !sim_op_can_run(s->head))
            continue;
        if (is_slow(s))
            slow = s;
        else if (sim_random_below(++n) == 0)
            pick = s;
    }
    pick = pick || !slow_too ? pick : slow;
    if (!pick)
        return false;
    pick->busy = true;
    bool done = sim_op_run(pick->head, pick);
    pick->busy = false;
    if (done || sim_sticky)
        pop(pick);
    if (sim_sticky)
        drop_queues();
    return true;
}

static bool move_one(void)
{
    return move_any(true);
}

static bool anyone_busy(void)
{
    for (CUstream_st *s = sim_streams; s; s = s->next)
        if (s->busy)
            return true;
    return false;
}

[[noreturn]] static void die_of_deadlock(const char *doing)
{
    fprintf(stderr, "hlwq-stream: gpusim: deadlock: the host waits for %s, and nothing on the device can move\n",
            doing);
    for (CUstream_st *s = sim_streams; s; s = s->next) {
        const sim_op *op = s->head;
        if (!op)
            continue;
        fprintf(stderr, "  stream %u: ", s->id);
        if (op->kind == SIM_WAIT) {
            fprintf(stderr, "an event of stream %u\n", op->other->id);
        } else if (op->kind == SIM_KERNEL && op->launch.suspended) {
            const sim_block *b = op->launch.suspended;
            for (uint32_t i = 0; i < b->n; i++)
                if (b->thread[i].state == SIM_AT_FLAG) {
                    fprintf(stderr, "kernel %s, line %d: flag %p is %u, wanted %u\n", op->launch.name,
                            b->thread[i].line, static_cast<const void *>(b->thread[i].flag),
                            __atomic_load_n(b->thread[i].flag, __ATOMIC_ACQUIRE), b->thread[i].flag_at_least);
                    break;
                }
        } else {
            fprintf(stderr, "%s\n", op->kind == SIM_GRAPH ? "a graph" : "an operation that could run");
        }
    }
    abort();
}

static cudaError_t wait_until(bool (*done)(const void *what), const void *what, const char *doing)
{
    double since = 0;
    sim_arena_open();
    while (!done(what)) {
        if (move_one()) {
            since = 0;
            continue;
        }
        if (done(what) || sim_sticky)
            break;
        sim_arena_close();
        if (anyone_busy())
            since = 0;
        else if (since == 0)
            since = now_ms();
        else if (now_ms() - since > sim_options.patience_ms)
            die_of_deadlock(doing);
        sim_wait_a_little();
        sim_arena_open();
    }
    sim_arena_close();
    return sim_sticky;
}

static bool all_done(const void *)
{
    return n_queued == 0;
}

struct position {
    cudaStream_t s;
    uint64_t seq;
};

static bool position_done(const void *what)
{
    const position *p = static_cast<const position *>(what);
    return p->s->done >= p->seq;
}

cudaError_t sim_drain(cudaStream_t s, uint64_t seq)
{
    if (!s)
        return wait_until(all_done, nullptr, "everything");
    position p = {s, seq};
    char doing[40];
    snprintf(doing, sizeof doing, "stream %u", s->id);
    return wait_until(position_done, &p, doing);
}

struct flag_wish {
    const uint32_t *flag;
    uint32_t at_least;
    cudaStream_t s;
};

static bool flag_done(const void *what)
{
    const flag_wish *f = static_cast<const flag_wish *>(what);
    return __atomic_load_n(f->flag, __ATOMIC_ACQUIRE) >= f->at_least;
}

static bool flag_or_all_done(const void *what)
{
    const flag_wish *f = static_cast<const flag_wish *>(what);
    return flag_done(what) || f->s->done >= f->s->queued;
}

/* A device does not stop where the host looks: it may have gone on from there, by some steps. */
static void go_on(void)
{
    uint32_t steps = sim_random_below(64);
    sim_arena_open();
    while (steps-- && !sim_sticky && move_any(false))
        continue;
    sim_arena_close();
}

cudaError_t hs_gpu_host_flag_wait(const uint32_t *flag, uint32_t at_least, cudaStream_t s)
{
    flag_wish f = {flag, at_least, s};
    cudaError_t e = sim_enter(SIM_CALL_ASK);
    e = e ? e : sim_stream_of(&f.s);
    e = e ? e : wait_until(flag_or_all_done, &f, "a flag");
    if (!e)
        go_on();
    return sim_leave(e || flag_done(&f) ? e : cudaErrorUnknown);
}

void hs_gpu_host_flag_set(uint32_t *flag, uint32_t v)
{
    __atomic_store_n(flag, v, __ATOMIC_RELEASE);
    sim_wake();
}

/* ---- queueing ---- */

static void append(cudaStream_t s, sim_op *op)
{
    op->seq = ++s->queued;
    op->next = nullptr;
    if (s->tail)
        s->tail->next = op;
    else
        s->head = op;
    s->tail = op;
    n_queued++;
}

static void append_wait(cudaStream_t s, cudaStream_t other, uint64_t seq)
{
    if (other == s || other->done >= seq)
        return;
    sim_op *op = sim_op_new(SIM_WAIT, 0);
    op->other = other;
    op->other_seq = seq;
    append(s, op);
}

cudaError_t sim_stream_of(cudaStream_t *s)
{
    if (!*s || *s == cudaStreamLegacy) {
        *s = &legacy;
        return cudaSuccess;
    }
    for (CUstream_st *t = sim_streams; t; t = t->next)
        if (t == *s && t->live)
            return cudaSuccess;
    return cudaErrorInvalidResourceHandle;
}

cudaError_t sim_enqueue(cudaStream_t s, sim_op *op)
{
    if (s->capture)
        return sim_capture_op(s, op);
    /* The default stream waits for the blocking ones, and they for it. */
    if (s == &legacy) {
        for (CUstream_st *t = sim_streams; t; t = t->next)
            if (t->blocking)
                append_wait(s, t, t->queued);
    } else if (s->blocking) {
        append_wait(s, &legacy, legacy.queued);
    }
    append(s, op);
    sim_wake();
    while (n_queued > MOST_QUEUED) {
        sim_arena_open();
        bool moved = move_one();
        sim_arena_close();
        if (!moved)
            break;
    }
    return sim_sticky;
}

static cudaError_t queue_move(sim_op_kind kind, void *to, const void *from, int value, size_t bytes, cudaStream_t s,
                              bool wait)
{
    if (!bytes)
        return cudaSuccess;
    sim_op *op = sim_op_new(kind, 0);
    op->to = to;
    op->from = from;
    op->value = value;
    op->bytes = bytes;
    cudaError_t e = sim_enqueue(s, op);
    return e || !wait || s->capture ? e : sim_drain(s, s->queued);
}

static cudaError_t check_copy(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind, bool *pageable)
{
    sim_where a = sim_where_is(to, bytes), b = sim_where_is(from, bytes);
    *pageable = a == SIM_PAGEABLE || b == SIM_PAGEABLE;
    if (!bytes)
        return cudaSuccess;
    if (a == SIM_NOWHERE || b == SIM_NOWHERE || kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidValue;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && (to_device != (a == SIM_DEVICE) || from_device != (b == SIM_DEVICE)))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    bool pageable = false;
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e)
        e = sim_stream_of(&s);
    if (!e)
        e = check_copy(to, from, bytes, kind, &pageable);
    return sim_leave(e ? e : queue_move(SIM_COPY, to, from, 0, bytes, s, pageable));
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    bool pageable;
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e && sim_capture_forbids())
        e = cudaErrorStreamCaptureImplicit;
    if (!e)
        e = check_copy(to, from, bytes, kind, &pageable);
    return sim_leave(e ? e : queue_move(SIM_COPY, to, from, 0, bytes, &legacy, true));
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e)
        e = sim_stream_of(&s);
    if (!e && bytes && sim_where_is(p, bytes) != SIM_DEVICE && sim_where_is(p, bytes) != SIM_PINNED)
        e = cudaErrorInvalidValue;
    return sim_leave(e ? e : queue_move(SIM_SET, p, nullptr, value, bytes, s, false));
}

cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    return cudaMemsetAsync(p, value, bytes, nullptr);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *user)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e)
        e = fn ? sim_stream_of(&s) : cudaErrorInvalidValue;
    if (e)
        return sim_leave(e);
    sim_op *op = sim_op_new(SIM_HOST, 0);
    op->fn = fn;
    op->user = user;
    return sim_leave(sim_enqueue(s, op));
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && (!s || flags > 1))
        e = cudaErrorInvalidValue;
    if (e)
        return sim_leave(e);
    *s = static_cast<cudaStream_t>(sim_alloc(sizeof **s));
    (*s)->id = ++n_streams;
    (*s)->live = true;
    (*s)->blocking = flags == cudaStreamDefault;
    (*s)->next = sim_streams;
    sim_streams = *s;
    sim_stats.streams++;
    return sim_leave(cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    return cudaStreamCreateWithPriority(s, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    return cudaStreamCreateWithPriority(s, cudaStreamDefault, 0);
}

/* What is queued still runs, as on a device. */
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    cudaError_t e = sim_enter(SIM_CALL_FREE);
    if (sim_stream_of(&s) || s == &legacy)
        return sim_leave(e ? e : cudaErrorInvalidResourceHandle);
    if (s->capture)
        s->capture->broken = true;
    s->live = false;
    sim_stats.streams--;
    return sim_leave(e);
}

/* To wait for it, or to ask: not while it is captured. */
static cudaError_t enter_stream(cudaStream_t *s)
{
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e)
        e = sim_stream_of(s);
    if (!e && (*s)->capture) {
        (*s)->capture->broken = true;
        e = cudaErrorStreamCaptureUnsupported;
    }
    return e;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    cudaError_t e = enter_stream(&s);
    if (!e && sim_forgets(HS_SIM_FORGET_SYNCS, s->id))
        return sim_leave(cudaSuccess);
    return sim_leave(e ? e : sim_drain(s, s->queued));
}

/* Asking lets something happen, or a loop around it would never end. */
static cudaError_t ask(cudaStream_t s, uint64_t seq)
{
    sim_arena_open();
    (void)move_one();
    sim_arena_close();
    return sim_sticky ? sim_sticky : s->done >= seq ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    cudaError_t e = enter_stream(&s);
    return sim_leave(e ? e : ask(s, s->queued));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t event, unsigned)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e)
        e = sim_stream_of(&s);
    if (!e && (!event || !event->live))
        e = cudaErrorInvalidResourceHandle;
    if (e)
        return sim_leave(e);
    if (event->capture) {
        if (!event->capture->capturing)
            return sim_leave(cudaErrorCapturedEvent);
        if (s->capture && s->capture != event->capture)
            return sim_leave(cudaErrorStreamCaptureMerge);
        s->capture = event->capture;
        sim_ids_join(&s->last, &event->last);
    } else if (s->capture && event->stream) {
        s->capture->broken = true;
        return sim_leave(cudaErrorStreamCaptureIsolation);
    } else if (event->stream && !sim_forgets(HS_SIM_FORGET_WAITS, s->id)) {
        append_wait(s, event->stream, event->seq);
    }
    return sim_leave(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e && sim_capture_forbids())
        e = cudaErrorStreamCaptureUnsupported;
    return sim_leave(e ? e : sim_drain(nullptr, 0));
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && (!event || flags > 3))
        e = cudaErrorInvalidValue;
    if (e)
        return sim_leave(e);
    *event = static_cast<cudaEvent_t>(sim_alloc(sizeof **event));
    (*event)->live = true;
    (*event)->timing = !(flags & cudaEventDisableTiming);
    (*event)->next = events;
    events = *event;
    sim_stats.events++;
    return sim_leave(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t e = sim_enter(SIM_CALL_FREE);
    if (!event || !event->live)
        return sim_leave(e ? e : cudaErrorInvalidResourceHandle);
    event->live = false; /* the struct stays: queued records still name it */
    sim_ids_free(&event->last);
    sim_stats.events--;
    return sim_leave(e);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e)
        e = sim_stream_of(&s);
    if (!e && (!event || !event->live))
        e = cudaErrorInvalidResourceHandle;
    if (e)
        return sim_leave(e);
    sim_ids_free(&event->last);
    event->capture = s->capture;
    if (s->capture) {
        sim_ids_join(&event->last, &s->last);
        return sim_leave(cudaSuccess);
    }
    sim_op *op = sim_op_new(SIM_RECORD, 0);
    op->event = event;
    e = sim_enqueue(s, op);
    event->stream = s;
    event->seq = s->queued;
    return sim_leave(e);
}

static cudaError_t enter_event(cudaEvent_t event)
{
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e && (!event || !event->live))
        e = cudaErrorInvalidResourceHandle;
    if (!e && event->capture)
        e = cudaErrorCapturedEvent;
    return e;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t e = enter_event(event);
    if (!e && event->stream && sim_forgets(HS_SIM_FORGET_EVENTS, event->stream->id))
        return sim_leave(cudaSuccess);
    return sim_leave(e || !event->stream ? e : sim_drain(event->stream, event->seq));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t e = enter_event(event);
    return sim_leave(e || !event->stream ? e : ask(event->stream, event->seq));
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    cudaError_t e = enter_event(from);
    if (!e && (!ms || !to || !to->live || !from->timing || !to->timing || !from->stream || !to->stream))
        e = cudaErrorInvalidResourceHandle;
    if (!e && (from->stream->done < from->seq || to->stream->done < to->seq))
        e = cudaErrorNotReady;
    if (!e)
        *ms = (float)(to->ms - from->ms);
    return sim_leave(e);
}

void sim_streams_reset(void)
{
    for (CUstream_st *s = sim_streams; s; s = s->next) {
        while (s->head)
            pop(s);
        sim_ids_free(&s->last);
        s->capture = nullptr;
    }
    while (sim_streams != &legacy) {
        CUstream_st *s = sim_streams;
        sim_streams = s->next;
        free(s);
    }
    while (events) {
        CUevent_st *e = events;
        events = e->next;
        sim_ids_free(&e->last);
        free(e);
    }
    n_streams = 0;
}
