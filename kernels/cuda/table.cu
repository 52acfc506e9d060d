/*
 * table.cu - the card's own table of experts: where each one's extent is, or that it is not there.
 *
 * The router's kernel looks its choice up and the products go where it says, so that nothing of a layer's launches
 * depends on the choice, and nobody waits for it.  Changes are collected and told to the compute stream before the next
 * run of stages, never by the stream that copies: so a run sees the table as it was when the run was asked for, and the
 * host knows what that was.  Whoever fills slots (offload/upper.c) says that one holds an expert when the copy is known
 * to be done or the stream waits for it, and takes that back before the slot is copied over.
 */
#include "kernels/cuda/backend.h"

#include <assert.h>

enum { CHANGE_THREADS = 256, GROUP_THREADS = 128, PICKS_MOST = HS_CARD_STEP_TOKENS * 32 /* of a step */ };

/* One block: a later change is of the same entry, perhaps. */
static __global__ void changes_kernel(uint64_t *table, gpu_changes changes)
{
    for (uint32_t k = 0; k < changes.n; k++) {
        gpu_entries e = changes.one[k];
        for (uint32_t i = threadIdx.x; i < e.count; i += CHANGE_THREADS)
            table[e.first + i] = e.at ? e.at + i * e.stride : 0;
        __syncthreads();
    }
}

cudaError_t gpu_run_changes(uint64_t *table, const gpu_changes *changes, cudaStream_t s)
{
    return gpu_launch(changes_kernel, dim3(1), dim3(CHANGE_THREADS), 0, s, table, *changes);
}

static __device__ __forceinline__ gpu_job moved(gpu_job j, uint64_t by)
{
    j.low += by;
    j.high += by;
    j.norms += by / sizeof *j.norms;
    if (j.zeros)
        j.zeros += by;
    return j;
}

/* One block; a thread a pick. */
static __global__ void __launch_bounds__(GROUP_THREADS) grouping_kernel(gpu_grouping g)
{
    __shared__ int32_t id[PICKS_MOST];
    uint32_t picks = g.n * g.used;
    for (uint32_t i = threadIdx.x; i < picks; i += GROUP_THREADS)
        id[i] = g.choice.id[i];
    if (threadIdx.x == 0)
        *g.visited = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < picks; i += GROUP_THREADS) {
        uint32_t lower = 0, before = 0, all = 0;
        for (uint32_t k = 0; k < picks; k++) {
            lower += id[k] < id[i];
            before += id[k] == id[i] && k < i;
            all += id[k] == id[i];
        }
        uint32_t row = lower + before, first = before == 0;
        uint64_t where = g.table[id[i]], by = where - g.base;
        g.choice.where[i] = where;
        g.choice.slot[i] = row;
        g.list[row] = i / g.used;
        if (first)
            atomicAdd(g.visited, 1u);
        for (uint32_t kind = 0; kind < 3; kind++) {
            gpu_job j = moved(g.own[kind], by);
            j.first = j.row = row;
            j.m = all;
            j.rows = where && first ? j.rows : 0;
            g.job[kind * picks + row] = j;
        }
    }
}

cudaError_t gpu_run_grouping(const gpu_grouping *g, cudaStream_t s)
{
    if (g->n * g->used > PICKS_MOST)
        return cudaErrorInvalidValue;
    return gpu_launch(grouping_kernel, dim3(1), dim3(GROUP_THREADS), 0, s, *g);
}

cudaError_t gpu_load_table(void)
{
    return gpu_load(changes_kernel, grouping_kernel);
}

hlwq_status gpu_tell_changes(hs_cuda *c, hlwq_error *err)
{
    gpu_untold *u = &c->untold;
    if (u->n == 0)
        return HLWQ_OK;
    gpu_end_run(c);
    for (uint32_t first = 0; first < u->n; first += GPU_ENTRIES) {
        gpu_changes some = {};
        some.n = u->n - first < GPU_ENTRIES ? u->n - first : (uint32_t)GPU_ENTRIES;
        memcpy(some.one, u->one + first, some.n * sizeof *some.one);
        CUDA_DO("the table of experts", gpu_run_changes(c->table, &some, c->stream));
    }
    u->n = 0;
    return HLWQ_OK;
}

hlwq_status gpu_place(hs_backend *be, uint32_t row, uint32_t first, uint32_t count, const void *at, uint64_t stride,
                      hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    assert(row < c->lim.mixtures && first + count <= c->lim.experts);
    if (c->untold.n == GPU_UNTOLD) /* never between a question and its answer: fewer copies than that end there */
        HS_TRY(gpu_tell_changes(c, err));
    c->untold.one[c->untold.n++] = gpu_entries{(uint64_t)at, stride, row * c->lim.experts + first, count};
    return HLWQ_OK;
}
