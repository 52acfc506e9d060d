/*
 * kernels/cuda/sim/sim.h - what tests set and read of the GPU simulator.
 *
 * The simulator runs the CUDA sources of this program without a GPU, on one core, and is built to find mistakes:
 *
 *   kernels    a fiber per CUDA thread, a block at a time; threads and blocks in ascending, descending or shuffled
 *              order.  Shared memory is 0xFF (NaN) before each block.  cp.async copies when it is waited for.
 *              Diagnosed, with kernel, block, thread and source line: masks that name absent lanes, lanes or threads
 *              that meet at different lines, leaving while others wait, deadlock, writing past dynamic shared memory.
 *   streams    run nothing until somebody waits; then any order that streams and events allow, drawn by the seed.
 *              Copies read pinned memory when they run; pageable memory makes them synchronous.
 *   memory     device memory is one arena which only device work can touch; the host's access is a SIGSEGV.
 *              Fresh and freed bytes are 0xFF.  Caps for device and pinned memory.
 *   faults     every call that can fail can be made to; errors of kernels are sticky, as on a device.
 *
 * It knows no time, no occupancy, no memory model and no tensor-core rounding.
 *
 * One mutex guards everything; any thread may call anything.  The environment (HLWQ_SIM_*, docs/testing.md) gives the
 * first options; hs_sim_configure replaces them and starts afresh.
 */
#ifndef HS_KERNELS_CUDA_SIM_SIM_H
#define HS_KERNELS_CUDA_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum hs_sim_order { HS_SIM_UP, HS_SIM_DOWN, HS_SIM_SHUFFLE } hs_sim_order;

/*
 * A mistake that is planted, so that tests show that they would see it: what is left undone while success is said.
 * `forget_which` is the stream, counted from 1 in the order of opening, or the barrier, counted from 1 in the order in
 * which places with one are first met.
 */
typedef enum hs_sim_forget {
    HS_SIM_FORGET_NOTHING,
    HS_SIM_FORGET_WAITS,  /* cudaStreamWaitEvent of that stream */
    HS_SIM_FORGET_SYNCS,  /* cudaStreamSynchronize of that stream */
    HS_SIM_FORGET_EVENTS, /* cudaEventSynchronize of events of that stream */
    HS_SIM_FORGET_BARRIER /* __syncthreads at that place */
} hs_sim_forget;

typedef struct hs_sim_options {
    uint64_t vram_bytes;
    uint64_t pinned_bytes; /* cap of what is allocated and registered */
    uint64_t seed;
    hs_sim_order order;
    uint64_t fail_at; /* the call, counted from 1, that fails; 0 is none */
    uint64_t *site;   /* [site_room], lent: which place each call that can fail came from; NULL is unwanted */
    uint64_t site_room;
    uint64_t node_bytes;  /* of device memory that a node of a graph takes */
    uint64_t page_bytes;  /* of device memory; 0 = blocks take what they are */
    int arch;             /* 75, 80, 86, 89, 90 or 120 */
    int devices;          /* 0 or 1 */
    uint32_t patience_ms; /* a wait that nothing can end aborts after this long: another thread may still act */
    bool protect;         /* the host cannot touch device memory */
    bool register_fails;  /* cudaHostRegister, as where memory may not be locked */
    bool quiet;           /* diagnoses are not printed */
    bool report;          /* a line of counts at exit */
    hs_sim_forget forget;
    uint32_t forget_which;
    const char *ptx; /* a folder of PTX, lent: kernels run from there and nowhere else; NULL = none */
} hs_sim_options;

typedef struct hs_sim_stats {
    uint64_t device_blocks, device_bytes, device_peak_bytes;
    uint64_t pinned_blocks, pinned_bytes, pinned_peak_bytes; /* allocated and registered */
    uint64_t streams, events, graphs, graph_execs;
    uint64_t h2d_bytes, d2h_bytes, d2d_bytes, h2h_bytes, set_bytes;
    uint64_t calls;                         /* that can fail */
    uint64_t launches, blocks, switches;    /* of kernels, those of graphs too */
    uint64_t ptx_launches, ptx_steps;       /* of launches, those of PTX; its instructions, of whole warps */
    uint64_t graph_launches, graphs_made;   /* made: instantiated, in all */
    uint64_t graph_bytes, graph_peak_bytes; /* of device_bytes: what graphs take */
    uint64_t forgotten;                     /* times that something was left undone */
    uint32_t barriers;                      /* places with a barrier that were met */
    uint64_t unloaded;    /* launches of kernels whose code nobody had asked for before (cudaFuncGetAttributes) */
    uint64_t faults;      /* diagnoses of kernels */
    bool failed_at;       /* fail_at has struck */
    char last_fault[512]; /* the last diagnosis */
    char last_unloaded[96];
} hs_sim_stats;

/* What the environment says. Exits with 2 and a sentence if a value makes no sense. */
hs_sim_options hs_sim_from_environment(void);

/* Drops everything there is, as a new process would, and goes on with `options`. */
void hs_sim_configure(const hs_sim_options *options);
void hs_sim_reset(void);

hs_sim_stats hs_sim_read_stats(void);

/* Reads all PTX there is for options.arch: how many kernels; `first`: an instruction that the executor does not know.
 */
uint32_t hs_sim_ptx_survey(uint32_t *instructions, uint32_t *unknown, char *first, size_t room);

/* Device blocks, pinned blocks, streams, events, graphs that nobody has given back. */
uint64_t hs_sim_leaks(void);

#ifdef __cplusplus
}
#endif
#endif
