/*
 * runs.cu - steps that are recorded as graphs and played back.
 *
 * A step is one token of one text.  Its stages are the same for every token but for what lies on the card: x, the
 * position and its rotations, which `step` writes; states and pages; and the table of experts.  What lies between two
 * points at which the host has to do something is a run: with all experts on the card the whole network, otherwise two
 * a layer, up to the router's choice and from there to what the card computes by itself.
 *
 * The first time a run is asked for plainly, so that its kernels are loaded; the second time its stages are also told
 * to a stream that records; from the third on the host makes one call.  A run that cannot be recorded is asked for
 * plainly from then on, so recording never costs a token.  Attention's grid is the one argument that follows the
 * position: runs differ by its size, which is one of six.
 *
 * Anything that gives memory of the card back forgets all runs, since they may name it; so does memory that runs out.
 */
#include "kernels/cuda/backend.h"

#include <assert.h>

uint64_t gpu_operands(uint64_t line, uint64_t a, uint64_t b, uint64_t c)
{
    const uint64_t all[] = {line, a, b, c};
    uint64_t h = 0x9E3779B97F4A7C15u;
    for (uint64_t v : all) {
        h = (h ^ v) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
    }
    return h;
}

static void drop(gpu_run *r)
{
    if (r->exec)
        (void)cudaGraphExecDestroy(r->exec); /* launches that are queued still run */
    *r = gpu_run{};
}

bool gpu_forget_runs(hs_cuda *c)
{
    gpu_steps *s = &c->steps;
    bool any = false;
    gpu_end_run(c);
    for (uint32_t i = 0; i < s->n; i++) {
        any |= s->run[i].exec != NULL;
        drop(&s->run[i]);
    }
    s->n = s->cursor = 0;
    return any;
}

void gpu_close_runs(hs_cuda *c)
{
    gpu_end_step(c);
    (void)gpu_forget_runs(c);
}

/* Runs come in the order in which they came before: mostly it is the one after the last. */
static gpu_run *run_of(gpu_steps *s, uint64_t first)
{
    gpu_run *oldest = &s->run[0];
    for (uint32_t i = 0; i < s->n; i++) {
        gpu_run *r = &s->run[(s->cursor + i) % s->n];
        if (r->first == first && r->number == s->number && r->spans == s->spans) {
            s->cursor = (uint32_t)(r - s->run) + 1;
            return r;
        }
        oldest = r->used < oldest->used ? r : oldest;
    }
    gpu_run *r = s->n < GPU_RUNS ? &s->run[s->n++] : oldest;
    drop(r);
    r->first = first;
    r->number = s->number;
    r->spans = s->spans;
    s->cursor = (uint32_t)(r - s->run) + 1;
    return r;
}

static hlwq_status begin_run(hs_cuda *c, uint64_t first, hlwq_error *err)
{
    gpu_steps *s = &c->steps;
    HS_TRY(gpu_tell_changes(c, err));
    gpu_run *r = run_of(s, first);
    r->used = ++s->clock;
    s->now = r;
    s->all = s->stages = 0;
    s->broken = false;
    if (r->exec) {
        CUDA_DO("a step", cudaGraphLaunch(r->exec, c->stream));
        s->mode = GPU_REPLAYED;
        return HLWQ_OK;
    }
    s->mode = GPU_PLAINLY;
    if (r->seen++ == 0 || r->refused)
        return HLWQ_OK;
    if (cudaStreamBeginCapture(c->recorder, cudaStreamCaptureModeThreadLocal) == cudaSuccess) {
        s->mode = GPU_RECORDING;
        return HLWQ_OK;
    }
    (void)cudaGetLastError();
    r->refused = true;
    return HLWQ_OK;
}

hlwq_status gpu_begin_stage(hs_cuda *c, uint64_t operands, bool *done, hlwq_error *err)
{
    gpu_steps *s = &c->steps;
    *done = false;
    if (!s->on)
        return HLWQ_OK;
    if (s->mode == GPU_NO_RUN)
        HS_TRY(begin_run(c, operands, err));
    s->stages++;
    s->all = gpu_operands(s->stages, s->all, operands, 0);
    *done = s->mode == GPU_REPLAYED;
    return HLWQ_OK;
}

/* Stages ask c->stream: for a while that is the one that records. */
static void swap_streams(hs_cuda *c)
{
    cudaStream_t other = c->recorder;
    c->recorder = c->stream;
    c->stream = other;
}

bool gpu_begin_recording(hs_cuda *c)
{
    if (c->steps.mode != GPU_RECORDING || c->steps.broken)
        return false;
    swap_streams(c);
    return true;
}

void gpu_end_recording(hs_cuda *c, hlwq_status st)
{
    swap_streams(c);
    c->steps.broken |= st != HLWQ_OK;
}

/* A graph of what was recorded; without one the run is asked for plainly. */
static void keep(hs_cuda *c)
{
    gpu_steps *s = &c->steps;
    gpu_run *r = s->now;
    cudaGraph_t graph = NULL;
    bool whole = cudaStreamEndCapture(c->recorder, &graph) == cudaSuccess && !s->broken;
    if (!whole || cudaGraphInstantiate(&r->exec, graph, 0) != cudaSuccess) {
        (void)cudaGetLastError();
        r->exec = NULL;
        r->refused = true;
    }
    if (graph)
        (void)cudaGraphDestroy(graph);
    r->all = s->all;
    r->stages = s->stages;
    r->u_form = c->uq.form;
    r->u_rows = c->u_rows;
}

void gpu_end_run(hs_cuda *c)
{
    gpu_steps *s = &c->steps;
    if (s->mode == GPU_NO_RUN)
        return;
    if (s->mode == GPU_RECORDING)
        keep(c);
    if (s->mode == GPU_REPLAYED) {
        assert(s->all == s->now->all && s->stages == s->now->stages); /* what was played back is what was asked for */
        c->uq.form = s->now->u_form;
        c->u_rows = s->now->u_rows;
    }
    s->mode = GPU_NO_RUN;
    s->number++;
}

void gpu_end_step(hs_cuda *c)
{
    gpu_end_run(c);
    c->steps.on = false;
}

/* Where a page of the cache ends attention may have pages to code, whose number is an argument: one token in 64. */
hlwq_status gpu_stage_step(hs_backend *be, uint32_t first, bool *on, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_end_step(c);
    *on = false;
    if (c->steps.never || !c->rope_freq || first % HS_GRID == 0)
        return HLWQ_OK;
    float *freq = c->rope + (uint64_t)c->lim.batch * c->lim.head_dim;
    CUDA_DO("a rotation table",
            gpu_run_rope_table(freq, c->rope_scale, c->rope_dims, first, 1, c->rope, c->position, c->stream));
    c->rope_first = first;
    c->rope_n = 1;
    c->steps.spans = gpu_spans_about(first);
    c->steps.number = 0;
    *on = c->steps.on = true;
    return HLWQ_OK;
}
