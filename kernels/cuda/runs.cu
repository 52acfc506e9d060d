/*
 * runs.cu - steps that are recorded as graphs and played back.
 *
 * A step is one token of one text, or what else hs_step_kind names.  Its stages are the same for every token of every
 * text but for what lies on the card: x; positions, their rotations and where the texts' states and pages are, which
 * `step` writes; these states and pages; and the table of experts.  What lies between two points at which the host has
 * to do something is a run: the whole network, or where experts are copied up in the middle of it two a layer, up to the
 * router's choice and from there to what the card computes by itself.
 *
 * The first time a run is asked for plainly: it may not come again; the second time its stages are also told to a
 * stream that records; from the third on the host makes one call.  A run that cannot be recorded is asked for
 * plainly from then on, so recording never costs a token.  Attention's grid is the one argument that follows the
 * position: runs differ by its size, which is one of six.
 *
 * Whatever gives memory of the card back forgets all runs, since they may name it, but for memory of texts, which they
 * do not; so does memory that runs out.
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

/* Of the card; 0 if it does not say. */
static uint64_t free_now(void)
{
    size_t now = 0, total = 0;
    if (cudaMemGetInfo(&now, &total) == cudaSuccess)
        return now;
    (void)cudaGetLastError();
    return 0;
}

/* Waits for launches that are queued: what they take is free only then. */
static void drop(hs_cuda *c, gpu_run *r)
{
    if (r->exec) {
        (void)gpu_wait(c, NULL);
        (void)cudaGraphExecDestroy(r->exec);
    }
    c->steps.bytes -= r->bytes;
    *r = gpu_run{};
}

bool gpu_forget_runs(hs_cuda *c)
{
    gpu_steps *s = &c->steps;
    bool any = false;
    gpu_end_run(c);
    for (uint32_t i = 0; i < s->n; i++) {
        any |= s->run[i].exec != NULL;
        drop(c, &s->run[i]);
    }
    s->n = s->cursor = 0;
    return any;
}

/* Nothing is allocated for them here: it is kept free of everything else. */
hlwq_status gpu_open_runs(hs_cuda *c, hlwq_error *err)
{
    uint64_t bytes = hs_backend_cuda_recorded_bytes(&c->lim);
    HS_TRY(hs_mem_charge(c->vram, HS_MEM_ACT, bytes, "recorded steps", err));
    c->steps.room_bytes = bytes;
    return HLWQ_OK;
}

void gpu_close_runs(hs_cuda *c)
{
    gpu_end_step(c);
    (void)gpu_forget_runs(c);
    if (c->steps.room_bytes)
        hs_mem_discharge(c->vram, HS_MEM_ACT, c->steps.room_bytes);
    c->steps.room_bytes = 0;
}

/* Runs come in the order in which they came before: mostly it is the one after the last. */
static bool alike(const gpu_step *a, const gpu_step *b)
{
    return a->kind == b->kind && a->n == b->n && a->spans == b->spans && a->beside == b->beside &&
           a->guesses == b->guesses;
}

static gpu_run *run_of(hs_cuda *c, uint64_t first)
{
    gpu_steps *s = &c->steps;
    gpu_run *oldest = &s->run[0];
    for (uint32_t i = 0; i < s->n; i++) {
        gpu_run *r = &s->run[(s->cursor + i) % s->n];
        if (r->first == first && r->number == s->number && alike(&r->step, &s->step)) {
            s->cursor = (uint32_t)(r - s->run) + 1;
            return r;
        }
        oldest = r->used < oldest->used ? r : oldest;
    }
    gpu_run *r = s->n < GPU_RUNS ? &s->run[s->n++] : oldest;
    drop(c, r);
    r->first = first;
    r->number = s->number;
    r->step = s->step;
    s->cursor = (uint32_t)(r - s->run) + 1;
    return r;
}

static hlwq_status begin_run(hs_cuda *c, uint64_t first, hlwq_error *err)
{
    gpu_steps *s = &c->steps;
    HS_TRY(gpu_tell_changes(c, err));
    gpu_run *r = run_of(c, first);
    r->used = ++s->clock;
    s->now = r;
    s->all = s->stages = s->turns = 0;
    s->broken = false;
    if (r->exec) {
        CUDA_DO("a step", cudaGraphLaunch(r->exec, c->stream));
        c->turns.asked += r->turns;
        if (r->turns && cudaStreamQuery(c->stream) != cudaSuccess) /* some drivers hold work back until then */
            (void)cudaGetLastError();
        s->mode = GPU_REPLAYED;
        return HLWQ_OK;
    }
    s->mode = GPU_PLAINLY;
    if (r->seen++ == 0 || r->refused || s->clock < r->not_before)
        return HLWQ_OK;
    /* Relaxed: what is asked of other streams meanwhile, such as whether a copy is done, breaks no recording. */
    if (cudaStreamBeginCapture(c->recorder, cudaStreamCaptureModeRelaxed) == cudaSuccess) {
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

/*
 * Whether `bytes` more fit, when those that were not used for longest are gone.  Runs that are still in use stay: where
 * there are more of them than fit, some are asked for plainly, and none is recorded again and again.
 */
static bool make_room(hs_cuda *c, uint64_t bytes)
{
    gpu_steps *s = &c->steps;
    while (s->bytes + bytes > s->room_bytes) {
        gpu_run *oldest = NULL;
        for (uint32_t i = 0; i < s->n; i++)
            if (s->run[i].exec && (!oldest || s->run[i].used < oldest->used))
                oldest = &s->run[i];
        if (!oldest || s->clock - oldest->used <= 2 * s->n)
            return false;
        drop(c, oldest); /* its place is found again as one that was never used */
    }
    return true;
}

/*
 * What a graph takes of the card is known when it is there, and only if nobody else takes or gives back memory in that
 * moment: until then, and at least, it is what its launches are thought to take.
 */
static bool make_graph(hs_cuda *c, gpu_run *r, cudaGraph_t graph)
{
    size_t launches = 0;
    if (cudaGraphGetNodes(graph, NULL, &launches) != cudaSuccess)
        return false;
    uint64_t thought = launches * HS_CARD_NODE_BYTES;
    if (!make_room(c, thought)) {
        r->not_before = c->steps.clock + 32 * GPU_RUNS;
        return true;
    }
    uint64_t before = free_now();
    if (cudaGraphInstantiate(&r->exec, graph, 0) != cudaSuccess) {
        r->exec = NULL;
        return false;
    }
    bool there = cudaGraphUpload(r->exec, c->stream) == cudaSuccess; /* it takes what it needs now */
    uint64_t after = free_now(), took = before > after && after ? before - after : 0;
    r->bytes = took > thought ? took : thought;
    c->steps.bytes += r->bytes;
    return there && c->steps.bytes <= c->steps.room_bytes;
}

/* A graph of what was recorded; without one the run is asked for plainly. */
static void keep(hs_cuda *c)
{
    gpu_steps *s = &c->steps;
    gpu_run *r = s->now;
    cudaGraph_t graph = NULL;
    bool whole = cudaStreamEndCapture(c->recorder, &graph) == cudaSuccess && !s->broken;
    if (!whole || !make_graph(c, r, graph)) {
        (void)cudaGetLastError();
        if (r->exec)
            (void)cudaGraphExecDestroy(r->exec);
        s->bytes -= r->bytes;
        r->bytes = 0;
        r->exec = NULL;
        r->refused = true;
    }
    if (graph)
        (void)cudaGraphDestroy(graph);
    r->all = s->all;
    r->stages = s->stages;
    r->turns = s->turns;
    r->u_form = c->uq.form;
    r->u_rows = c->u_rows;
}

void gpu_end_run(hs_cuda *c)
{
    gpu_steps *s = &c->steps;
    if (s->mode == GPU_NO_RUN)
        return;
    bool whole = c->turns.said == c->turns.asked; /* or something has failed in the middle */
    gpu_end_turns(c);
    if (s->mode == GPU_RECORDING) {
        s->broken |= !whole;
        keep(c);
    }
    if (s->mode == GPU_REPLAYED && whole) {
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

/* Its rows; the last position. */
static gpu_told told_of(const hs_step *step, uint32_t *last)
{
    gpu_told told = {};
    bool texts = step->kind == HS_STEP_TEXTS;
    *last = 0;
    told.n = step->n;
    for (uint32_t t = 0; t < step->n; t++) {
        told.text[t] = step->text[texts ? t : 0];
        if (step->position)
            told.at[t] = texts ? step->position[t] : step->position[0] + t;
        *last = told.at[t] > *last ? told.at[t] : *last;
    }
    return told;
}

hlwq_status gpu_stage_step(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_steps *s = &c->steps;
    uint32_t last;
    gpu_end_step(c);
    *on = false;
    if (s->never || step->n > HS_CARD_STEP_TOKENS || (step->position && !c->rope_freq))
        return HLWQ_OK;
    const gpu_told told = told_of(step, &last);
    float *freq = c->rope + (uint64_t)c->lim.batch * c->lim.head_dim;
    CUDA_DO("a step", gpu_run_tell(freq, c->rope_scale, step->position ? c->rope_dims : 0, &told, c->rope, c->position,
                                   c->text, c->stream));
    if (step->position) {
        c->rope_first = step->position[0];
        c->rope_n = step->kind == HS_STEP_TEXTS ? 0 : step->n; /* as one text's */
    }
    memcpy(s->text, told.text, sizeof s->text);
    s->step = gpu_step{step->n, gpu_spans_about(last), step->kind, step->beside,
                       step->beside && step->guesses && step->n == 1};
    s->number = 0;
    s->on = *on = true;
    return step->beside ? gpu_begin_turns(c, err) : HLWQ_OK;
}
