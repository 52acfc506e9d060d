/*
 * kernels/cuda/sim/block.cc - one block: its threads take turns on fibers until each has ended.
 *
 * A thread runs until it must wait for others; then the next ready one gets the processor, directly.  A thread that
 * ends hands its stack to the next one that has not begun, so a kernel without barriers is a loop of calls.
 * The last thread to reach a meeting point makes the others ready and goes on itself.
 *
 * A block in which all threads wait, some of them for a flag, is suspended: it keeps its fibers and a copy of the
 * shared variables, and other work goes on.  If none waits for a flag it is a deadlock.
 */
#include "kernels/cuda/sim/private.h"

#include <stdarg.h>
#include <stdio.h>

hs_sim_thread *hs_sim_self;
sim_block *sim_running;

extern "C" {
extern char __start_hs_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_hs_shared[] __attribute__((weak, visibility("hidden")));
}

enum { MAX_THREADS = 1024, GUARD = 256, POISON = 0xFF };

static sim_block *unused;
static cudaError_t fault_error;

uint64_t sim_static_shared_bytes(void)
{
    return __start_hs_shared ? (uint64_t)(__stop_hs_shared - __start_hs_shared) : 0;
}

/* ---- who is next ---- */

void sim_make_ready(sim_block *b, sim_thread *t)
{
    t->state = t->state == SIM_FRESH ? SIM_FRESH : SIM_READY;
    b->ready[(b->ready_first + b->n_ready++) % MAX_THREADS] = t;
}

/* Before all others: this warp runs ahead of the rest, and its stacks are still in the cache. */
void sim_make_ready_first(sim_block *b, sim_thread *t)
{
    t->state = SIM_READY;
    b->ready_first = (b->ready_first + MAX_THREADS - 1) % MAX_THREADS;
    b->ready[b->ready_first] = t;
    b->n_ready++;
}

static sim_thread *take_ready(sim_block *b)
{
    if (!b->n_ready)
        return nullptr;
    uint32_t first = b->ready_first;
    if (sim_options.order == HS_SIM_SHUFFLE) {
        uint32_t pick = (first + sim_random_below(b->n_ready)) % MAX_THREADS;
        sim_thread *t = b->ready[pick];
        b->ready[pick] = b->ready[first];
        b->ready[first] = t;
    }
    b->ready_first = (first + 1) % MAX_THREADS;
    b->n_ready--;
    return b->ready[first];
}

static void thread_main(void);

/* From `from`'s stack to the next thread, or to the host when there is none. */
static void go_on(sim_stack *from, sim_thread *next, bool from_ends)
{
    sim_stack *to = &sim_host_stack;
    if (next) {
        hs_sim_self = &next->seen;
        if (!next->stack)
            next->stack = sim_stack_take(thread_main);
        to = next->stack;
    }
    sim_stats.switches++;
    sim_stack_switch(from, to, from_ends);
}

void sim_pause(sim_thread *t, sim_thread_state state, int line, const char *what)
{
    t->state = state;
    t->line = line;
    t->what = what;
    go_on(t->stack, take_ready(sim_running), false);
}

/* ---- the life of a thread ---- */

static void end_thread(sim_block *b, sim_thread *t)
{
    sim_warp *w = &b->warp[t->id / 32];
    uint32_t me = 1u << (t->id % 32);
    t->state = SIM_ENDED;
    t->n_copies = 0;
    w->ended |= me;
    b->n_ended++;
    for (uint32_t rest = w->waiting; rest; rest &= rest - 1) {
        hs_sim_meeting *m = w->lane[__builtin_ctz(rest)];
        if (m->mask & me)
            sim_fault(cudaErrorLaunchFailure, m->line, "lane %u left while lane %d waits for it at line %d (%s)",
                      t->id % 32, __builtin_ctz(rest), m->line, m->what);
    }
    if (b->n_at_barrier)
        sim_fault(cudaErrorLaunchFailure, b->barrier_line,
                  "the thread left while %u others wait for it at the barrier in line %d", b->n_at_barrier,
                  b->barrier_line);
}

static void thread_main(void)
{
    sim_stack_entered();
    sim_block *b = sim_running;
    sim_stack *stack = sim_self()->stack;
    for (;;) {
        sim_thread *t = sim_self();
        t->state = SIM_READY;
        b->launch->call(b->launch->kernel, b->launch->args);
        end_thread(b, t);
        t->stack = nullptr;
        sim_thread *next = take_ready(b);
        if (!next || next->stack) {
            sim_stack_give(stack); /* nobody takes it before we have left */
            go_on(stack, next, true);
        }
        next->stack = stack;
        hs_sim_self = &next->seen;
    }
}

/* ---- barriers ---- */

/* Places with a barrier, in the order in which they were met: a line of a file that launches its own kernels. */
static struct {
    const char *file;
    int line;
} place[256];

void sim_barriers_reset(void)
{
    memset(place, 0, sizeof place);
}

/* From 1 on. */
static uint32_t barrier_number(const sim_block *b, int line)
{
    const char *file = b->launch->place.file;
    uint32_t i = 0;
    while (i < sim_stats.barriers && (place[i].line != line || strcmp(place[i].file, file)))
        i++;
    if (i == sim_stats.barriers && i < sizeof place / sizeof *place) {
        place[i].file = file;
        place[i].line = line;
        sim_stats.barriers++;
    }
    return i + 1;
}

int hs_sim_block_sync(hs_sim_vote vote, bool predicate, int line)
{
    sim_block *b = sim_running;
    sim_thread *t = sim_self();
    uint32_t number = barrier_number(b, line);
    if (vote == HS_SIM_VOTE_NONE && sim_forgets(HS_SIM_FORGET_BARRIER, number))
        return 0;
    if (b->n_ended)
        sim_fault(cudaErrorLaunchFailure, line, "a barrier, but %u threads of the block have left", b->n_ended);
    if (b->n_at_barrier && (b->barrier_line != line || b->barrier_vote != vote))
        sim_fault(cudaErrorLaunchFailure, line, "a barrier, but %u threads wait at another one, in line %d",
                  b->n_at_barrier, b->barrier_line);
    if (!b->n_at_barrier)
        b->barrier_count = 0;
    b->barrier_line = line;
    b->barrier_vote = vote;
    b->barrier_count += predicate;
    if (++b->n_at_barrier < b->n) {
        sim_pause(t, SIM_AT_BARRIER, line, "__syncthreads");
    } else {
        int n = b->barrier_count;
        b->barrier_result = vote == HS_SIM_VOTE_OR ? n > 0 : vote == HS_SIM_VOTE_AND ? n == (int)b->n : n;
        b->n_at_barrier = 0;
        for (uint32_t i = 0; i < b->n; i++) {
            sim_thread *other = &b->thread[sim_options.order == HS_SIM_DOWN ? b->n - 1 - i : i];
            if (other != t)
                sim_make_ready(b, other);
        }
    }
    return b->barrier_result; /* nobody reaches the next barrier's end before all have read it */
}

/* ---- flags ---- */

void hs_sim_flag_wait(const uint32_t *flag, uint32_t at_least, int line)
{
    sim_thread *t = sim_self();
    t->flag = flag;
    t->flag_at_least = at_least;
    sim_running->n_at_flag++;
    sim_pause(t, SIM_AT_FLAG, line, "gpu_flag_wait");
}

static bool flag_is_there(const sim_thread *t)
{
    return t->state == SIM_AT_FLAG && __atomic_load_n(t->flag, __ATOMIC_ACQUIRE) >= t->flag_at_least;
}

bool sim_block_can_run(const sim_block *b)
{
    if (b->ptx)
        return ptx_block_can_run(b->ptx);
    for (uint32_t i = 0; i < b->n; i++)
        if (flag_is_there(&b->thread[i]))
            return true;
    return false;
}

static void look_at_flags(sim_block *b)
{
    for (uint32_t i = 0; i < b->n && b->n_at_flag; i++)
        if (flag_is_there(&b->thread[i])) {
            b->n_at_flag--;
            sim_make_ready(b, &b->thread[i]);
        }
}

/* ---- faults ---- */

static void describe(char *text, size_t room, const sim_block *b, const sim_thread *t, const char *what)
{
    const sim_launch *l = b->launch;
    uint3 at = b->at.block_index;
    int n = snprintf(text, room, "kernel %s (launched at %s:%d): block (%u,%u,%u)", l->name, l->place.file,
                     l->place.line, at.x, at.y, at.z);
    if (t && n > 0 && (size_t)n < room)
        n += snprintf(text + n, room - (size_t)n, " thread (%u,%u,%u)", t->seen.index.x, t->seen.index.y,
                      t->seen.index.z);
    if (n > 0 && (size_t)n < room)
        snprintf(text + n, room - (size_t)n, "%s", what);
}

void sim_note_fault(cudaError_t e, sim_block *b, const sim_thread *t, const char *what)
{
    b->faulted = true;
    fault_error = e;
    sim_stats.faults++;
    describe(sim_stats.last_fault, sizeof sim_stats.last_fault, b, t, what);
    if (!sim_options.quiet)
        fprintf(stderr, "hlwq-stream: gpusim: %s\n", sim_stats.last_fault);
}

void sim_fault(cudaError_t e, int line, const char *format, ...)
{
    char said[256], what[320];
    va_list args;
    va_start(args, format);
    vsnprintf(said, sizeof said, format, args);
    va_end(args);
    snprintf(what, sizeof what, " line %d: %s", line, said);
    sim_thread *t = sim_self();
    sim_note_fault(e, sim_running, t, what);
    go_on(t->stack, nullptr, true);
    abort(); /* nobody comes back */
}

static void note_deadlock(sim_block *b)
{
    char what[320];
    int n = snprintf(what, sizeof what, ": deadlock:");
    uint32_t said = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        const sim_thread *t = &b->thread[i], *before = i ? t - 1 : nullptr;
        if (t->state == SIM_ENDED || (before && before->state == t->state && before->line == t->line))
            continue;
        if (said++ < 4)
            n += snprintf(what + n, sizeof what - (size_t)n, "%s thread %u waits at line %d (%s)", said > 1 ? "," : "", i,
                          t->line, t->what);
    }
    sim_note_fault(cudaErrorLaunchFailure, b, nullptr, what);
}

/* ---- a block from begin to end ---- */

static sim_block *block_new(void)
{
    sim_block *b = static_cast<sim_block *>(sim_alloc(sizeof *b));
    b->thread = static_cast<sim_thread *>(sim_alloc(MAX_THREADS * sizeof *b->thread));
    b->warp = static_cast<sim_warp *>(sim_alloc(MAX_THREADS / 32 * sizeof *b->warp));
    b->ready = static_cast<sim_thread **>(sim_alloc(MAX_THREADS * sizeof *b->ready));
    return b;
}

static void fresh_dynamic(sim_block *b, size_t bytes)
{
    size_t room = (bytes + 15) / 16 * 16 + GUARD;
    if (b->dynamic_cap < room) {
        free(b->dynamic);
        b->dynamic = aligned_alloc(128, (room + 127) / 128 * 128);
        if (!b->dynamic)
            abort();
        b->dynamic_cap = room;
    }
    ASAN_UNPOISON_MEMORY_REGION(b->dynamic, b->dynamic_cap);
    memset(b->dynamic, POISON, b->dynamic_cap);
    ASAN_POISON_MEMORY_REGION(static_cast<char *>(b->dynamic) + bytes, b->dynamic_cap - bytes);
    b->at.dynamic = b->dynamic;
}

/* Fibers see their shared variables only while their block runs, so the poison waits for the first run. */
sim_block *sim_block_begin(sim_launch *l, uint64_t index)
{
    sim_block *b = unused;
    if (b)
        unused = b->next;
    else
        b = block_new();
    b->launch = l;
    b->at.grid = l->grid;
    b->at.block = l->block;
    b->at.block_index = {(unsigned)(index % l->grid.x), (unsigned)(index / l->grid.x % l->grid.y),
                         (unsigned)(index / l->grid.x / l->grid.y)};
    b->at.arch = sim_options.arch;
    b->n = l->block.x * l->block.y * l->block.z;
    b->n_ended = b->n_at_barrier = b->n_at_flag = 0;
    b->ready_first = b->n_ready = 0;
    b->faulted = false;
    b->next = nullptr;
    fresh_dynamic(b, l->shared_bytes);
    uint3 at = {0, 0, 0};
    for (uint32_t i = 0; i < b->n; i++) {
        sim_thread *t = &b->thread[i];
        t->seen.index = at;
        t->seen.lane = i % 32;
        t->seen.at = &b->at;
        t->id = i;
        t->state = SIM_FRESH;
        t->stack = nullptr;
        t->n_copies = t->copy_group = 0;
        if (++at.x == l->block.x) {
            at.x = 0;
            if (++at.y == l->block.y) {
                at.y = 0;
                at.z++;
            }
        }
    }
    for (uint32_t i = 0; i < (b->n + 31) / 32; i++) {
        uint32_t lanes = b->n - 32 * i;
        b->warp[i].present = lanes >= 32 ? 0xFFFFFFFFu : (1u << lanes) - 1;
        b->warp[i].ended = b->warp[i].waiting = 0;
    }
    b->ptx = l->ptx ? ptx_block_begin(b) : nullptr;
    for (uint32_t i = 0; i < b->n && !b->ptx; i++)
        sim_make_ready(b, &b->thread[sim_options.order == HS_SIM_DOWN ? b->n - 1 - i : i]);
    sim_stats.blocks++;
    return b;
}

static void check_guard(sim_block *b)
{
#ifndef SIM_ASAN
    const uint8_t *p = static_cast<const uint8_t *>(b->dynamic);
    for (size_t i = b->launch->shared_bytes; i < b->launch->shared_bytes + GUARD; i++)
        if (p[i] != POISON) {
            char what[160];
            snprintf(what, sizeof what, ": byte %zu of %zu of dynamic shared memory was written", i,
                     b->launch->shared_bytes);
            sim_note_fault(cudaErrorIllegalAddress, b, nullptr, what);
            return;
        }
#else
    (void)b;
#endif
}

sim_block_end sim_block_run(sim_block *b)
{
    if (b->ptx) {
        sim_block_end end = ptx_block_run(b->ptx);
        if (end == SIM_BLOCK_FAULT)
            sim_sticky = fault_error;
        return end;
    }
    size_t shared = sim_static_shared_bytes();
    if (shared && b->static_copy)
        memcpy(__start_hs_shared, b->static_copy, shared);
    else if (shared)
        memset(__start_hs_shared, POISON, shared);
    sim_running = b;
    look_at_flags(b);
    for (;;) {
        sim_thread *next = take_ready(b);
        if (next)
            go_on(&sim_host_stack, next, false);
        if (b->faulted || b->n_ended == b->n)
            break;
        if (!b->n_at_flag) {
            note_deadlock(b);
            break;
        }
        look_at_flags(b);
        if (!b->n_ready)
            break;
    }
    sim_running = nullptr;
    hs_sim_self = nullptr;
    if (!b->faulted && b->n_ended == b->n)
        check_guard(b);
    if (b->faulted) {
        sim_sticky = fault_error;
        return SIM_BLOCK_FAULT;
    }
    if (b->n_ended == b->n)
        return SIM_BLOCK_DONE;
    if (shared) {
        if (!b->static_copy)
            b->static_copy = sim_alloc(shared);
        memcpy(b->static_copy, __start_hs_shared, shared);
    }
    return SIM_BLOCK_SUSPENDED;
}

/* Ended or not: what it holds goes back to the pools. */
void sim_block_drop(sim_block *b)
{
    if (b->ptx)
        ptx_block_drop(b->ptx);
    b->ptx = nullptr;
    for (uint32_t i = 0; i < b->n; i++) {
        sim_thread *t = &b->thread[i];
        if (t->stack) {
            t->stack->dirty = true;
            sim_stack_give(t->stack);
            t->stack = nullptr;
        }
        t->n_copies = 0;
    }
    free(b->static_copy);
    b->static_copy = nullptr;
    b->next = unused;
    unused = b;
}
