/*
 * kernels/cuda/sim/private.h - what the simulator's files share.  All of it is used under the one mutex.
 *
 *   options.cc  options, environment, counters        fiber.cc    stacks and switching
 *   block.cc    one block: threads, barriers, faults  warp.cc     collectives of a warp, mma
 *   launch.cc   a kernel's limits and blocks          symbols.cc  how much shared memory a kernel declares
 *   memory.cc   the arena, pinned memory              stream.cc   queues, events, waiting
 *   graph.cc    capture and replay                    runtime.cc  the device, errors
 *   crash.cc    whose access ended in a SIGSEGV
 */
#ifndef HS_KERNELS_CUDA_SIM_PRIVATE_H
#define HS_KERNELS_CUDA_SIM_PRIVATE_H

#include "kernels/cuda/sim/cuda_api.h"
#include "kernels/cuda/sim/device.h"
#include "kernels/cuda/sim/sim.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ASAN 1
#endif
#endif
#ifdef SIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

/* ---- options.cc ---- */
extern hs_sim_options sim_options;
extern hs_sim_stats sim_stats;
uint64_t sim_random(void);
uint32_t sim_random_below(uint32_t n);
void *sim_alloc(size_t bytes);                        /* zeroed; never NULL */
bool sim_forgets(hs_sim_forget what, uint32_t which); /* and counts it */

/* ---- runtime.cc: every API function is sim_enter, work, sim_leave ---- */
enum sim_call {
    SIM_CALL_FREE,  /* gives back; never made to fail, works after an error too */
    SIM_CALL_ASK,   /* cannot fail */
    SIM_CALL_ALLOC, /* can fail for want of memory */
    SIM_CALL_QUEUE, /* can fail */
    SIM_CALL_WAIT,  /* can bring the device's own errors */
};
cudaError_t sim_enter(sim_call kind);
cudaError_t sim_leave(cudaError_t e);
extern cudaError_t sim_sticky; /* the device is lost */
void sim_forget_error(void);
void sim_wait_a_little(void); /* for another thread to act */
void sim_unlock(void);
void sim_lock(void);
void sim_wake(void);
extern __thread bool sim_in_host_func;

/* ---- fiber.cc ---- */
struct sim_stack {
    void *sp;
    char *base;
    size_t bytes;
    void *fake; /* AddressSanitizer's */
    bool dirty; /* left in the middle of something */
    sim_stack *next;
};
extern sim_stack sim_host_stack; /* whoever runs the engine */
sim_stack *sim_stack_take(void (*entry)(void));
void sim_stack_give(sim_stack *s);
void sim_stack_switch(sim_stack *from, sim_stack *to, bool from_ends);
void sim_stack_entered(void); /* first thing on a new stack */

/* ---- launch.cc ---- */
struct sim_block;
struct ptx_function;
struct ptx_block;
struct sim_launch {
    hs_sim_place place;
    char name[96];
    const void *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    const void *args;
    void (*call)(const void *kernel, const void *args);
    const ptx_function *ptx;                                /* runs instead; args are as it has its parameters */
    uint64_t n_blocks, next_block, order_step, order_first; /* of this run */
    sim_block *suspended;
    uint32_t n_suspended;
};
void sim_launch_begin(sim_launch *l);
bool sim_launch_can_run(const sim_launch *l);
bool sim_launch_run(sim_launch *l, uint64_t max_blocks); /* true when all blocks have ended */
void sim_launch_drop(sim_launch *l);

/* ---- symbols.cc ---- */
uint64_t sim_static_shared_of(const void *kernel); /* 0 if it cannot be known */
bool sim_symbol_of(const void *kernel, char *name, size_t room);

/* ---- ptx_load.cc, ptx_run.cc: ptx.h ---- */
bool ptx_is_on(void);
const ptx_function *ptx_find(const char *symbol, const char *file, char *why, size_t room);
uint64_t ptx_parameter_bytes(const ptx_function *f);
/* Each argument where the function has its parameter; false and why if they differ in number, size or alignment. */
bool ptx_pack(const ptx_function *f, const hs_sim_argument *arg, uint32_t n, void *to, char *why, size_t room);

/* ---- block.cc ---- */
enum sim_thread_state { SIM_FRESH, SIM_READY, SIM_AT_WARP, SIM_AT_BARRIER, SIM_AT_FLAG, SIM_ENDED };
struct sim_copy {
    void *shared;
    const void *global;
    uint32_t group;
};
struct sim_thread {
    hs_sim_thread seen; /* first: hs_sim_self points here */
    sim_stack *stack;
    sim_thread_state state;
    uint32_t id;
    int line; /* where it waits */
    const char *what;
    const uint32_t *flag;
    uint32_t flag_at_least;
    sim_copy *copy; /* cp.async begun and not waited for */
    uint32_t n_copies, copies_cap, copy_group;
};
struct sim_warp {
    uint32_t present, ended, waiting;
    hs_sim_meeting *lane[32];
};
struct sim_block {
    hs_sim_grid at;
    sim_launch *launch;
    sim_thread *thread;
    sim_warp *warp;
    sim_thread **ready; /* ring */
    uint32_t n, ready_first, n_ready, n_ended, n_at_barrier, n_at_flag;
    hs_sim_vote barrier_vote;
    int barrier_line, barrier_count, barrier_result;
    bool faulted;
    void *dynamic; /* shared_bytes, then guard bytes */
    size_t dynamic_cap;
    void *static_copy; /* shared variables of a suspended block */
    ptx_block *ptx;    /* NULL: fibers */
    sim_block *next;
};
enum sim_block_end { SIM_BLOCK_DONE, SIM_BLOCK_SUSPENDED, SIM_BLOCK_FAULT };
ptx_block *ptx_block_begin(sim_block *b);
sim_block_end ptx_block_run(ptx_block *b);
bool ptx_block_can_run(const ptx_block *b);
void ptx_block_drop(ptx_block *b);
extern sim_block *sim_running;
sim_block *sim_block_begin(sim_launch *l, uint64_t index);
sim_block_end sim_block_run(sim_block *b);
bool sim_block_can_run(const sim_block *b);
void sim_block_drop(sim_block *b);
uint64_t sim_static_shared_bytes(void); /* of all kernels */
static inline sim_thread *sim_self(void)
{
    return reinterpret_cast<sim_thread *>(hs_sim_self);
}
void sim_barriers_reset(void);
void sim_kernels_reset(void);
void sim_pause(sim_thread *t, sim_thread_state state, int line, const char *what);
void sim_make_ready(sim_block *b, sim_thread *t);
void sim_make_ready_first(sim_block *b, sim_thread *t);
void sim_note_fault(cudaError_t e, sim_block *b, const sim_thread *t, const char *what);
[[noreturn]] void sim_fault(cudaError_t e, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- memory.cc ---- */
enum sim_where { SIM_PAGEABLE, SIM_PINNED, SIM_DEVICE, SIM_NOWHERE };
sim_where sim_where_is(const void *p, size_t bytes);
void sim_arena_open(void); /* nests */
void sim_arena_close(void);
bool sim_in_arena(const void *p);
void sim_memory_reset(void);

/* ---- crash.cc ---- */
void sim_watch_crashes(void); /* at the first device memory after each reset */

/* ---- stream.cc ---- */
struct sim_ids {
    uint32_t *at;
    uint32_t n, cap;
};
void sim_ids_add(sim_ids *s, uint32_t id);
void sim_ids_join(sim_ids *s, const sim_ids *more);
void sim_ids_free(sim_ids *s);

enum sim_op_kind { SIM_KERNEL, SIM_COPY, SIM_SET, SIM_RECORD, SIM_WAIT, SIM_HOST, SIM_GRAPH };
struct alignas(16) sim_op {
    sim_op_kind kind;
    sim_op *next;
    uint64_t seq;
    size_t extra; /* bytes that follow the op */
    bool begun;
    sim_launch launch; /* KERNEL; its arguments follow the op */
    void *to;          /* COPY, SET */
    const void *from;
    size_t bytes;
    int value;
    cudaEvent_t event;  /* RECORD */
    cudaStream_t other; /* WAIT: until that stream has done other_seq */
    uint64_t other_seq;
    cudaHostFn_t fn;
    void *user;
    cudaGraphExec_t exec; /* GRAPH */
    uint8_t *node_done;
    uint32_t n_nodes_left;
};
struct CUstream_st {
    CUstream_st *next;
    uint32_t id;
    bool live, blocking, busy;
    sim_op *head, *tail;
    uint64_t queued, done; /* sequence numbers */
    cudaGraph_t capture;   /* the graph that is being recorded */
    bool capture_origin;
    sim_ids last; /* nodes that the next one comes after */
};
struct CUevent_st {
    CUevent_st *next;
    bool live, timing;
    cudaStream_t stream; /* recorded there, as its seq-th op */
    uint64_t seq;
    double ms;
    cudaGraph_t capture; /* or recorded while capturing */
    sim_ids last;
};
struct sim_node {
    sim_op *op;
    sim_ids after;
};
struct CUgraph_st {
    CUgraph_st *next;
    sim_node *node;
    uint32_t n, cap;
    bool capturing, broken, live;
    cudaStreamCaptureMode mode;
    pthread_t thread;
};
struct CUgraphExec_st {
    CUgraphExec_st *next;
    sim_node *node;
    uint32_t n;
    uint32_t queued;       /* launches that still need it */
    uint64_t bytes;        /* of device memory */
    const sim_op *running; /* one at a time */
    bool live;
};
sim_op *sim_op_new(sim_op_kind kind, size_t extra);
void sim_device_took(uint64_t bytes); /* memory.cc */
void sim_op_free(sim_op *op);
bool sim_op_can_run(const sim_op *op);
bool sim_op_run(sim_op *op, cudaStream_t s); /* true when done */
cudaError_t sim_stream_of(cudaStream_t *s);
cudaError_t sim_enqueue(cudaStream_t s, sim_op *op); /* takes op, also when it fails */
cudaError_t sim_drain(cudaStream_t s, uint64_t seq); /* s NULL: everything */
extern CUstream_st *sim_streams;
void sim_streams_reset(void);

/* ---- graph.cc ---- */
bool sim_capture_forbids(void); /* and breaks the capture */
cudaError_t sim_capture_op(cudaStream_t s, sim_op *op);
bool sim_graph_can_run(const sim_op *op);
bool sim_graph_run(sim_op *op, cudaStream_t s);
void sim_graphs_reset(void);
void sim_exec_unused(cudaGraphExec_t exec);

#endif
