/*
 * kernels/cuda/sim/graph.cc - what a stream is told while it captures becomes nodes; a launch replays them.
 *
 * Each capturing stream knows the nodes its next one comes after; recording an event copies that set, waiting for the
 * event adds it.  A replay draws any node whose predecessors are done, so an edge that was forgotten shows.
 */
#include "kernels/cuda/sim/private.h"

enum { EXEC_BYTES = 8192 }; /* and options.node_bytes for each node */

static CUgraph_st *graphs;
static CUgraphExec_st *execs;

void sim_ids_add(sim_ids *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->at[i] == id)
            return;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 4;
        s->at = static_cast<uint32_t *>(realloc(s->at, s->cap * sizeof *s->at));
        if (!s->at)
            abort();
    }
    s->at[s->n++] = id;
}

void sim_ids_join(sim_ids *s, const sim_ids *more)
{
    for (uint32_t i = 0; i < more->n; i++)
        sim_ids_add(s, more->at[i]);
}

void sim_ids_free(sim_ids *s)
{
    free(s->at);
    *s = {};
}

/* ---- capture ---- */

bool sim_capture_forbids(void)
{
    bool any = false;
    for (CUgraph_st *g = graphs; g; g = g->next)
        if (g->capturing && (g->mode == cudaStreamCaptureModeGlobal ||
                             (g->mode == cudaStreamCaptureModeThreadLocal && pthread_equal(g->thread, pthread_self()))))
            any = g->broken = true;
    return any;
}

static void add_node(CUgraph_st *g, sim_op *op, const sim_ids *after)
{
    if (g->n == g->cap) {
        g->cap = g->cap ? 2 * g->cap : 16;
        g->node = static_cast<sim_node *>(realloc(g->node, g->cap * sizeof *g->node));
        if (!g->node)
            abort();
    }
    sim_node *node = &g->node[g->n++];
    *node = {op, {}};
    sim_ids_join(&node->after, after);
}

cudaError_t sim_capture_op(cudaStream_t s, sim_op *op)
{
    CUgraph_st *g = s->capture;
    if (g->broken || op->kind == SIM_GRAPH) {
        g->broken = true;
        sim_op_free(op);
        return cudaErrorStreamCaptureInvalidated;
    }
    add_node(g, op, &s->last);
    s->last.n = 0;
    sim_ids_add(&s->last, g->n - 1);
    return cudaSuccess;
}

static void free_nodes(sim_node *node, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        sim_op_free(node[i].op);
        sim_ids_free(&node[i].after);
    }
    free(node);
}

static void drop_graph(CUgraph_st *g)
{
    if (g->live)
        sim_stats.graphs--;
    free_nodes(g->node, g->n);
    g->node = nullptr;
    g->n = g->cap = 0;
    g->live = false;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e)
        e = s && s != cudaStreamLegacy ? sim_stream_of(&s) : cudaErrorStreamCaptureUnsupported;
    if (!e && s->capture)
        e = cudaErrorStreamCaptureUnsupported;
    if (e)
        return sim_leave(e);
    CUgraph_st *g = static_cast<CUgraph_st *>(sim_alloc(sizeof *g));
    g->capturing = true;
    g->mode = mode;
    g->thread = pthread_self();
    g->next = graphs;
    graphs = g;
    s->capture = g;
    s->capture_origin = true;
    s->last.n = 0;
    return sim_leave(cudaSuccess);
}

/* Every node comes before the end of the stream that began. Nodes are in an order that edges respect. */
static bool joined(const CUgraph_st *g, const sim_ids *last)
{
    uint8_t *seen = static_cast<uint8_t *>(sim_alloc(g->n));
    for (uint32_t i = 0; i < last->n; i++)
        seen[last->at[i]] = 1;
    bool all = true;
    for (uint32_t i = g->n; i-- > 0;) {
        all &= seen[i] != 0;
        for (uint32_t k = 0; k < g->node[i].after.n; k++)
            seen[g->node[i].after.at[k]] |= seen[i];
    }
    free(seen);
    return all;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (graph)
        *graph = nullptr;
    cudaError_t bad = sim_stream_of(&s);
    if (bad || !s->capture)
        return sim_leave(e ? e : bad ? bad : cudaErrorIllegalState);
    CUgraph_st *g = s->capture;
    if (!s->capture_origin)
        e = cudaErrorStreamCaptureUnmatched;
    else if (!e && (g->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(g->thread, pthread_self())))
        e = cudaErrorStreamCaptureWrongThread;
    else if (!e && g->broken)
        e = cudaErrorStreamCaptureInvalidated;
    else if (!e && !joined(g, &s->last))
        e = cudaErrorStreamCaptureUnjoined;
    for (CUstream_st *t = sim_streams; t; t = t->next)
        if (t->capture == g) {
            t->capture = nullptr;
            t->capture_origin = false;
            t->last.n = 0;
        }
    g->capturing = false;
    if (e || !graph) {
        drop_graph(g);
        return sim_leave(e ? e : cudaErrorInvalidValue);
    }
    g->live = true;
    sim_stats.graphs++;
    *graph = g;
    return sim_leave(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e)
        e = status ? sim_stream_of(&s) : cudaErrorInvalidValue;
    if (!e)
        *status = !s->capture          ? cudaStreamCaptureStatusNone
                  : s->capture->broken ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
    return sim_leave(e);
}

/* ---- replay ---- */

static sim_op *copy_of(const sim_op *op)
{
    sim_op *copy = sim_op_new(op->kind, op->extra);
    memcpy(copy, op, sizeof *op + op->extra);
    if (op->kind == SIM_KERNEL)
        copy->launch.args = copy + 1;
    return copy;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && (!exec || !graph || !graph->live))
        e = cudaErrorInvalidValue;
    uint64_t bytes = e ? 0 : EXEC_BYTES + graph->n * sim_options.node_bytes;
    if (!e && sim_stats.device_bytes + bytes > sim_options.vram_bytes)
        e = cudaErrorMemoryAllocation;
    if (e)
        return sim_leave(e);
    sim_device_took(bytes);
    sim_stats.graph_bytes += bytes;
    if (sim_stats.graph_bytes > sim_stats.graph_peak_bytes)
        sim_stats.graph_peak_bytes = sim_stats.graph_bytes;
    CUgraphExec_st *x = static_cast<CUgraphExec_st *>(sim_alloc(sizeof *x));
    x->bytes = bytes;
    x->node = static_cast<sim_node *>(sim_alloc(graph->n * sizeof *x->node));
    x->n = graph->n;
    for (uint32_t i = 0; i < x->n; i++) {
        x->node[i].op = copy_of(graph->node[i].op);
        sim_ids_join(&x->node[i].after, &graph->node[i].after);
    }
    x->live = true;
    x->next = execs;
    execs = x;
    sim_stats.graph_execs++;
    sim_stats.graphs_made++;
    *exec = x;
    return sim_leave(cudaSuccess);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void **nodes, size_t *n)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && (!graph || !graph->live || nodes || !n))
        e = cudaErrorInvalidValue;
    if (!e)
        *n = graph->n;
    return sim_leave(e);
}

/* Its memory is there from the beginning. */
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e)
        e = sim_stream_of(&s);
    if (!e && (!exec || !exec->live))
        e = cudaErrorInvalidValue;
    return sim_leave(e);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e)
        e = sim_stream_of(&s);
    if (!e && (!exec || !exec->live))
        e = cudaErrorInvalidValue;
    if (e)
        return sim_leave(e);
    sim_op *op = sim_op_new(SIM_GRAPH, 0);
    op->exec = exec;
    exec->queued++;
    sim_stats.graph_launches++;
    return sim_leave(sim_enqueue(s, op));
}

static bool node_can_run(const sim_op *op, uint32_t i)
{
    const sim_node *node = &op->exec->node[i];
    if (op->begun && op->node_done[i])
        return false;
    for (uint32_t k = 0; k < node->after.n; k++)
        if (!op->begun || !op->node_done[node->after.at[k]])
            return false;
    return sim_op_can_run(node->op);
}

bool sim_graph_can_run(const sim_op *op)
{
    if (op->exec->running && op->exec->running != op)
        return false; /* launches of one graph do not overlap */
    if (!op->begun)
        return true;
    for (uint32_t i = 0; i < op->exec->n; i++)
        if (node_can_run(op, i))
            return true;
    return false;
}

/* One node, or some blocks of it. */
bool sim_graph_run(sim_op *op, cudaStream_t s)
{
    CUgraphExec_st *x = op->exec;
    if (!op->begun) {
        op->begun = true;
        op->node_done = static_cast<uint8_t *>(sim_alloc(x->n));
        op->n_nodes_left = x->n;
        x->running = op;
    }
    if (!op->n_nodes_left)
        return true;
    uint32_t pick = 0, n = 0;
    for (uint32_t i = 0; i < x->n; i++)
        if (node_can_run(op, i) && sim_random_below(++n) == 0)
            pick = i;
    sim_op *node = x->node[pick].op;
    if (sim_op_run(node, s)) {
        node->begun = false;
        op->node_done[pick] = 1;
        op->n_nodes_left--;
    }
    return !op->n_nodes_left;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    cudaError_t e = sim_enter(SIM_CALL_FREE);
    if (!graph || !graph->live)
        return sim_leave(e ? e : cudaErrorInvalidValue);
    drop_graph(graph);
    return sim_leave(e);
}

/* Queued launches still run. */
void sim_exec_unused(cudaGraphExec_t x)
{
    if (x->live || x->queued)
        return;
    sim_stats.device_bytes -= x->bytes;
    sim_stats.graph_bytes -= x->bytes;
    x->bytes = 0;
    free_nodes(x->node, x->n);
    x->node = nullptr;
    x->n = 0;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    cudaError_t e = sim_enter(SIM_CALL_FREE);
    if (!exec || !exec->live)
        return sim_leave(e ? e : cudaErrorInvalidValue);
    exec->live = false;
    sim_stats.graph_execs--;
    sim_exec_unused(exec);
    return sim_leave(e);
}

void sim_graphs_reset(void)
{
    while (graphs) {
        CUgraph_st *g = graphs;
        graphs = g->next;
        free_nodes(g->node, g->n);
        free(g);
    }
    while (execs) {
        CUgraphExec_st *x = execs;
        execs = x->next;
        free_nodes(x->node, x->n);
        free(x);
    }
}
