/*
 * backend_cuda.cu - the stages of a network on a graphics card: what runs in which order on its streams.
 *
 * Weights, states, pages and x are on the card; embeddings are read in ordinary memory, and experts that are not on the
 * card are computed by the CPU while the card computes those that are.  The host waits once a layer of experts, for the
 * router's choice and, of few tokens, the activations that the CPU may need; the card computes the shared expert
 * meanwhile.  Staging memory is free to be written again after that.
 */
#include "kernels/cuda/backend.h"

extern "C" {
#include "kernels/hlwq.h"
}

#include <assert.h>
#include <stdlib.h>

hlwq_status gpu_embed(hs_backend *be, const hs_matrix *table, const int32_t *ids, uint32_t n, float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    HS_TRY(gpu_wait(c, err)); /* the last step may still read the staging memory */
    HS_TRY(c->cpu->ops->embed(c->cpu, table, ids, n, c->host_x, err));
    CUDA_DO("embeddings", cudaMemcpyAsync(x, c->host_x, (size_t)n * c->lim.hidden * sizeof(float),
                                          cudaMemcpyHostToDevice, c->stream));
    return HLWQ_OK;
}

/* ---- feed-forward ---------------------------------------------------------------------------- */

/* y [n][hidden] (+)= down(silu(gate u) * up u); rows of gate, up and hq from `row` on are scratch. `list` as above. */
static hlwq_status ffn(hs_cuda *c, const hs_ffn *w, const float *u, const uint32_t *list, gpu_q8 *uq, uint32_t n,
                       uint64_t row, float *y, bool add, hlwq_error *err)
{
    uint32_t width = w->gate.rows;
    float *gate = c->gate + row * c->lim.ffn_width, *up = c->up_rows + row * c->lim.ffn_width;
    c->hq.form = gpu_form_of(&w->down);
    gpu_q8 hq = gpu_rows_from(&c->hq, row, c->lim.ffn_width);
    const gpu_part in[] = {{&w->gate, gate, width}, {&w->up, up, width}};
    HS_TRY(gpu_products_of(c, in, 2, u, list, uq, n, false, err));
    if (gpu_form_of(&w->down) != GPU_NO_FORM)
        CUDA_DO("a feed-forward", gpu_run_q8(gate, up, width, n, hq, c->stream));
    else
        CUDA_DO("a feed-forward", gpu_run_swiglu(gate, up, (uint64_t)n * width, c->stream));
    return gpu_product_of(c, &w->down, gate, &hq, n, y, c->lim.hidden, add, err);
}

static hlwq_status cuda_dense(hs_backend *be, const float *norm_weight, float eps, const hs_ffn *w, uint32_t n,
                              float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    HS_TRY(gpu_norm(c, x, norm_weight, eps, n, gpu_form_of(&w->gate), err));
    return ffn(c, w, c->u, NULL, &c->uq, n, 0, x, true, err);
}

enum {
    BESIDE_TOKENS = 8 /* more than these are rarely computed by the CPU: their activations come when it wants them */
};

/* On `back`, so that the card goes on while the host waits. */
static hlwq_status fetch_u(hs_cuda *c, uint32_t n, hlwq_error *err)
{
    CUDA_DO("activations", cudaMemcpyAsync(c->host_u, c->u, (size_t)n * c->lim.hidden * sizeof(float),
                                           cudaMemcpyDeviceToHost, c->back));
    c->have_u = true;
    return HLWQ_OK;
}

static hlwq_status cuda_route(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                              hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    size_t picks = (size_t)n * w->used;
    HS_TRY(
        gpu_norm(c, x, w->norm, w->eps, n, w->shared.gate.rows ? gpu_form_of(&w->shared.gate) : c->expert_form, err));
    HS_TRY(gpu_product_of(c, &w->router, c->u, &c->uq, n, c->logit, w->experts, false, err));
    CUDA_DO("the router", gpu_run_top_k(c->logit, w->experts, w->used, n, c->id, c->weight, c->stream));
    CUDA_DO("the router", cudaEventRecord(c->chosen, c->stream));
    CUDA_DO("the router", cudaStreamWaitEvent(c->back, c->chosen, 0));
    CUDA_DO("the router", cudaMemcpyAsync(c->host_weight, c->weight, (uint8_t *)(c->id + picks) - (uint8_t *)c->weight,
                                          cudaMemcpyDeviceToHost, c->back));
    c->have_u = false;
    if (n <= BESIDE_TOKENS)
        HS_TRY(fetch_u(c, n, err));
    if (w->shared.gate.rows) { /* what does not depend on the choice */
        HS_TRY(gpu_product_of(c, &w->shared_mix, c->u, &c->uq, n, c->shared, 1, false, err));
        HS_TRY(ffn(c, &w->shared, c->u, NULL, &c->uq, n, picks, c->expert_y + picks * c->lim.hidden, false, err));
    }
    CUDA_DO("the router", cudaStreamSynchronize(c->back));
    c->stages.done = c->stages.made; /* all marks so far came before `chosen` */
    memcpy(routing->id, c->host_id, picks * sizeof(int32_t));
    memcpy(routing->weight, c->host_weight, picks * sizeof(float));
    return HLWQ_OK;
}

/* The activations and the choice of the layer in hand stay as they are: what this needs of its own lies in y. */
static hlwq_status cuda_guess(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                              hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_q8 none = {};
    int32_t *id = reinterpret_cast<int32_t *>(c->out);
    float *weight = c->out + (size_t)n * w->used;
    size_t picks = (size_t)n * w->used;
    CUDA_DO("a guess", gpu_run_norm(x, w->norm, c->lim.hidden, n, w->eps, c->y, c->lim.hidden, none, c->stream));
    c->outq.form = GPU_NO_FORM;
    HS_TRY(gpu_product_of(c, &w->router, c->y, &c->outq, n, c->logit, w->experts, false, err));
    CUDA_DO("a guess", gpu_run_top_k(c->logit, w->experts, w->used, n, id, weight, c->stream));
    HS_TRY(gpu_get(be, routing->id, id, picks * sizeof(int32_t), err));
    return gpu_get(be, routing->weight, weight, picks * sizeof(float), err);
}

/* A feed-forward and the rows of the list that it gets; its results go to the same rows of expert_y. */
typedef struct visit {
    const hs_ffn *w;
    uint32_t from, m;
} visit;

static hlwq_status grouped(hs_cuda *c, const hs_matrix *w, const gpu_job *job, uint32_t jobs, uint32_t most,
                           const uint32_t *list, const gpu_q8 *a, hlwq_error *err)
{
    gpu_product p = {};
    assert(a->form == gpu_form_of(w));
    p.w = gpu_format_of(w);
    p.job = job;
    p.jobs = jobs;
    p.m = most;
    p.rows = w->rows;
    p.list = list;
    p.a = *a;
    CUDA_DO("experts", gpu_run_product(&p, c->stream));
    return HLWQ_OK;
}

/* Feed-forwards that are alike, in three launches; `first` jobs of this layer are taken. */
static hlwq_status visit_all(hs_cuda *c, const visit *v, uint32_t n, uint32_t first, hlwq_error *err)
{
    const hs_ffn *any = v[0].w;
    uint32_t most = 0, low = v[0].from, high = 0, width = any->gate.rows, hidden = c->lim.hidden;
    gpu_job *job = c->host_job + 3 * first, *there = c->job + 3 * first;
    for (uint32_t i = 0; i < n; i++) {
        most = v[i].m > most ? v[i].m : most;
        low = v[i].from < low ? v[i].from : low;
        high = v[i].from + v[i].m > high ? v[i].from + v[i].m : high;
        job[i] = gpu_job_of(&v[i].w->gate, c->gate, width, v[i].from, v[i].m, v[i].from);
        job[n + i] = gpu_job_of(&v[i].w->up, c->up_rows, width, v[i].from, v[i].m, v[i].from);
        job[2 * n + i] = gpu_job_of(&v[i].w->down, c->expert_y, hidden, v[i].from, v[i].m, v[i].from);
    }
    CUDA_DO("experts", cudaMemcpyAsync(there, job, 3 * n * sizeof(gpu_job), cudaMemcpyHostToDevice, c->stream));
    c->expert_form = gpu_form_of(&any->gate);
    HS_TRY(gpu_in_form(c, c->expert_form, c->u, hidden, c->u_rows, &c->uq, err));
    if (gpu_alike(&any->gate, &any->up)) {
        HS_TRY(grouped(c, &any->gate, there, 2 * n, most, c->list, &c->uq, err));
    } else {
        HS_TRY(grouped(c, &any->gate, there, n, most, c->list, &c->uq, err));
        HS_TRY(gpu_in_form(c, gpu_form_of(&any->up), c->u, hidden, c->u_rows, &c->uq, err));
        HS_TRY(grouped(c, &any->up, there + n, n, most, c->list, &c->uq, err));
    }
    /* Rows between these may be another visit's: before it they hold nothing, after it nothing that is needed. */
    c->hq.form = gpu_form_of(&any->down);
    gpu_q8 hq = gpu_rows_from(&c->hq, low, width);
    CUDA_DO("experts", gpu_run_q8(c->gate + (size_t)low * width, c->up_rows + (size_t)low * width, width, high - low,
                                  hq, c->stream));
    return grouped(c, &any->down, there + 2 * n, n, most, NULL, &c->hq, err);
}

static bool ffn_alike(const hs_ffn *a, const hs_ffn *b)
{
    return gpu_alike(&a->gate, &b->gate) && gpu_alike(&a->up, &b->up) && gpu_alike(&a->down, &b->down) &&
           a->gate.rows == b->gate.rows;
}

/* Experts that are on the card. */
static hlwq_status experts_here(hs_cuda *c, const hs_ffn *expert, const int32_t *id, uint32_t n_ids, uint32_t *first,
                                hlwq_error *err)
{
    uint32_t visits = 0;
    size_t hidden = c->lim.hidden;
    for (uint32_t i = 0; i < n_ids; i++) {
        const hs_ffn *w = &expert[id[i]];
        uint32_t from = c->host_start[id[i]], to = c->host_start[id[i] + 1];
        if (ffn_alike(w, w)) {
            c->visit[visits++] = visit{w, from, to - from};
            continue;
        }
        gpu_q8 q = gpu_rows_from(&c->outq, 0, c->lim.hidden);
        q.form = GPU_NO_FORM;
        if (hs_matrix_gathers(&w->gate) && hs_matrix_gathers(&w->up)) { /* which takes rows from anywhere */
            HS_TRY(ffn(c, w, c->u, c->list + from, &q, to - from, from, c->expert_y + from * hidden, false, err));
            continue;
        }
        for (uint32_t k = from; k < to; k++, q.form = GPU_NO_FORM) /* plain weights: a token at a time */
            HS_TRY(ffn(c, w, c->u + c->host_list[k] * hidden, NULL, &q, 1, k, c->expert_y + k * hidden, false, err));
    }
    if (visits == 0)
        return HLWQ_OK;
    HS_TRY(visit_all(c, c->visit, visits, *first, err));
    *first += visits;
    return HLWQ_OK;
}

/* Experts in ordinary memory: the CPU computes them, from the activations that the card has. */
static hlwq_status experts_beside(hs_cuda *c, const hs_ffn *expert, const int32_t *id, uint32_t n_ids, uint32_t n,
                                  hlwq_error *err)
{
    size_t hidden = c->lim.hidden;
    if (!c->have_u) {
        HS_TRY(fetch_u(c, n, err));
        CUDA_DO("activations", cudaStreamSynchronize(c->back));
    }
    hs_backend_cpu_lane(c->cpu, c->host_u, n, expert, id, n_ids, c->host_start, c->host_list, c->host_y);
    for (uint32_t i = 0; i < n_ids; i++) {
        size_t from = c->host_start[id[i]], m = c->host_start[id[i] + 1] - from;
        CUDA_DO("experts", cudaMemcpyAsync(c->expert_y + from * hidden, c->host_y + from * hidden,
                                           m * hidden * sizeof(float), cudaMemcpyHostToDevice, c->stream));
    }
    return HLWQ_OK;
}

static hlwq_status cuda_experts(hs_backend *be, const hs_mixture *w, const hs_ffn *expert,
                                const hs_expert_source *source, uint32_t n, const hs_routing *routing, float *x,
                                hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    uint32_t picks = n * w->used, first = 0, computed = 0, ready;
    hs_sort_picks(routing->id, picks, w->used, w->experts, c->host_start, c->host_list, c->host_slot);
    CUDA_DO("experts",
            cudaMemcpyAsync(c->list, c->host_list, (uint8_t *)(c->host_slot + picks) - (uint8_t *)c->host_list,
                            cudaMemcpyHostToDevice, c->stream));
    do {
        const int32_t *id;
        hs_place place;
        HS_TRY(source->next(source->user, &id, &ready, &place, err));
        for (uint32_t i = 0; i < ready; i++)
            computed += c->host_start[id[i] + 1] - c->host_start[id[i]];
        if (place == HS_PLACE_HERE)
            HS_TRY(experts_here(c, expert, id, ready, &first, err));
        else if (ready)
            HS_TRY(experts_beside(c, expert, id, ready, n, err));
    } while (ready);
    assert(computed == picks);
    CUDA_DO("experts", gpu_run_combine(x, c->expert_y, c->slot, c->weight, w->used,
                                       w->shared.gate.rows ? c->shared : NULL, picks, c->lim.hidden, n, c->stream));
    return HLWQ_OK;
}

static hlwq_status cuda_head(hs_backend *be, const float *norm_weight, float eps, const hs_matrix *head, uint32_t n,
                             const float *x, float *hidden, float *logits, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    HS_TRY(gpu_norm(c, x, norm_weight, eps, n, gpu_form_of(head), err));
    if (hidden)
        HS_TRY(gpu_get(be, hidden, c->u, (uint64_t)n * c->lim.hidden * sizeof(float), err));
    uint64_t vocab = head->rows;
    for (uint32_t t = 0; t < n; t += c->logits_rows) {
        uint32_t m = n - t < c->logits_rows ? n - t : c->logits_rows;
        gpu_q8 q = gpu_rows_from(&c->uq, t, c->lim.hidden);
        HS_TRY(gpu_product_of(c, head, c->u + (size_t)t * c->lim.hidden, &q, m, c->logits, vocab, false, err));
        if (logits)
            HS_TRY(gpu_get(be, logits + t * vocab, c->logits, m * vocab * sizeof(float), err));
    }
    return HLWQ_OK;
}

/* Four bytes come back. */
static hlwq_status cuda_best(hs_backend *be, uint32_t usable, int32_t *id, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    uint2 *part = reinterpret_cast<uint2 *>(c->gate);
    CUDA_DO("a choice", gpu_run_best(c->logits, usable, part, c->stream));
    return gpu_get(be, id, &part[GPU_BEST_PARTS].y, sizeof *id, err);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Hands out pieces of a block, or only counts them while it is NULL. */
typedef struct carve {
    uint8_t *base;
    uint64_t bytes;
} carve;

template <class T> static void take(carve *k, uint64_t n, T **out)
{
    *out = reinterpret_cast<T *>(k->base ? k->base + k->bytes : NULL);
    k->bytes += (n * sizeof(T) + 255) / 256 * 256;
}

static void take_q8(carve *k, uint64_t rows, uint64_t cols, gpu_q8 *q)
{
    uint64_t blocks = rows * ((cols + HS_BLOCK - 1) / HS_BLOCK);
    take(k, blocks * 32, &q->q);
    take(k, 2 * blocks, &q->of);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t rows_of_ffn(const hs_limits *m)
{
    return (uint64_t)m->batch * m->ffn_rows;
}

static void lay_out(hs_cuda *c, carve *k)
{
    const hs_limits *m = &c->lim;
    uint64_t b = m->batch, picks = b * m->used, wide = larger(m->v_width, m->q_width / 2);
    uint64_t q_heads = m->head_dim ? m->q_width / 2 / m->head_dim : 0, joint = m->joins ? 2ull * m->hidden : 0;
    uint64_t proj = larger(m->q_width + 2ull * m->kv_width, m->channels + m->v_width + 2ull * m->v_heads);
    c->logits_rows = HS_CARD_LOGITS;
    take(k, b * m->hidden, &c->u);
    take_q8(k, b, m->hidden, &c->uq);
    take(k, b * larger(proj, joint), &c->proj);
    take(k, b * m->channels, &c->mix);
    take(k, b * larger(wide, 2 * m->used), &c->out);
    take_q8(k, b, larger(wide, larger(m->hidden, joint)), &c->outq);
    take_q8(k, m->ordered ? b : 0, larger(larger(wide, m->ffn_width), larger(m->hidden, joint)), &c->ownq);
    take(k, b * m->hidden, &c->y);
    take(k, rows_of_ffn(m) * m->ffn_width, &c->gate);
    take(k, rows_of_ffn(m) * m->ffn_width, &c->up_rows);
    take_q8(k, rows_of_ffn(m), m->ffn_width, &c->hq);
    take(k, m->experts ? rows_of_ffn(m) * m->hidden : 0, &c->expert_y);
    take(k, b * m->experts, &c->logit);
    take(k, b, &c->shared);
    take(k, picks, &c->weight); /* and behind it, so that one copy takes both: */
    take(k, picks, &c->id);
    take(k, picks, &c->list); /* and behind it, so that one copy takes both: */
    take(k, picks, &c->slot);
    take(k, 3 * (uint64_t)m->experts, &c->job);
    take(k, (b + 1) * m->head_dim, &c->rope);
    take(k, GPU_SPAN_TOKENS * GPU_SPANS * (uint64_t)(m->q_width / 2 + 2 * q_heads), &c->part);
    take(k, (uint64_t)c->logits_rows * m->vocab, &c->logits);
}

static void lay_out_staging(hs_cuda *c, carve *k)
{
    const hs_limits *m = &c->lim;
    uint64_t b = m->batch, picks = b * m->used;
    take(k, b * m->hidden, &c->host_x);
    take(k, m->experts ? b * m->hidden : 0, &c->host_u);
    take(k, m->experts ? picks * m->hidden : 0, &c->host_y);
    take(k, picks, &c->host_weight);
    take(k, picks, &c->host_id);
    take(k, picks, &c->host_list);
    take(k, picks, &c->host_slot);
    take(k, m->experts + 2, &c->host_start);
    take(k, 3 * (uint64_t)m->experts, &c->host_job);
    take(k, m->experts, &c->visit);
}

static hs_limits limits_of(const hs_limits *limits)
{
    hs_limits m = *limits;
    if (m.batch == 0 || m.batch > HS_BATCH_MAX)
        m.batch = HS_BATCH_MAX;
    return m;
}

static uint64_t staging_bytes(const hs_cuda *c)
{
    hs_cuda copy = *c;
    carve k = {};
    lay_out_staging(&copy, &k);
    return k.bytes;
}

static void cuda_close(hs_backend *be)
{
    hs_cuda *c = cuda_of(be);
    if (c->stream)
        (void)cudaStreamSynchronize(c->stream);
    if (c->back)
        (void)cudaStreamSynchronize(c->back);
    gpu_free(be, c->scratch);
    if (c->staging) {
        (void)cudaFreeHost(c->staging);
        hs_mem_discharge(c->mem, HS_MEM_IO, staging_bytes(c));
    }
    gpu_close_streams(c);
    free(c->held);
    free(c);
}

static hlwq_status open_parts(hs_cuda *c, hlwq_error *err)
{
    carve k = {}, h = {};
    HS_TRY(gpu_open_streams(c, err));
    lay_out(c, &k);
    assert(sizeof(gpu_job) == HS_CARD_JOB_BYTES && k.bytes == hs_backend_cuda_bytes(&c->lim));
    HS_TRY(gpu_alloc(&c->base, HS_MEM_ACT, k.bytes, "activations", &c->scratch, err));
    k = carve{static_cast<uint8_t *>(c->scratch), 0};
    lay_out(c, &k);
    uint64_t bytes = staging_bytes(c);
    HS_TRY(hs_mem_charge(c->mem, HS_MEM_IO, bytes, "pinned staging memory", err));
    cudaError_t code = cudaHostAlloc(&c->staging, bytes, cudaHostAllocDefault);
    if (code != cudaSuccess) {
        hs_mem_discharge(c->mem, HS_MEM_IO, bytes);
        c->staging = NULL;
        return hs_fail(err, HLWQ_ERR_NOMEM, "the system gives no %.1f MiB of pinned memory: %s",
                       (double)bytes / 1048576.0, cudaGetErrorString(code));
    }
    h.base = static_cast<uint8_t *>(c->staging);
    lay_out_staging(c, &h);
    return HLWQ_OK;
}

static const hs_backend_ops *cuda_ops()
{
    static hs_backend_ops o;
    o.name = "cuda";
    o.kv_formats = 1u << HS_F16 | 1u << HS_F32 | 1u << HS_I8 | 1u << HS_Q4 | 1u << HS_Q3 | 1u << HS_Q2;
    o.close = cuda_close;
    o.alloc = gpu_alloc;
    o.free = gpu_free;
    o.put = gpu_put;
    o.get = gpu_get;
    o.clear = gpu_clear;
    o.lend = gpu_lend;
    o.take_back = gpu_take_back;
    o.mark = gpu_mark;
    o.upload = gpu_upload;
    o.await = gpu_await;
    o.uploaded = gpu_uploaded;
    o.embed = gpu_embed;
    o.attention = gpu_stage_attention;
    o.deltanet = gpu_stage_deltanet;
    o.attention_rows = gpu_stage_attention_rows;
    o.deltanet_rows = gpu_stage_deltanet_rows;
    o.dense = cuda_dense;
    o.route = cuda_route;
    o.guess = cuda_guess;
    o.experts = cuda_experts;
    o.head = cuda_head;
    o.best = cuda_best;
    o.deltanet_window = gpu_stage_deltanet_window;
    o.deltanet_keep = gpu_stage_deltanet_keep;
    o.norm = gpu_stage_norm;
    o.join = gpu_stage_join;
    return &o;
}

extern "C" const bool hs_backend_cuda_built = true;

extern "C" hlwq_status hs_backend_cuda_probe(const hs_limits *limits, hlwq_error *err)
{
    int devices = 0;
    if (limits->experts > 512 || limits->head_dim > 256)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "the CUDA backend takes at most 512 experts and heads of 256, this model has %u and %u",
                       limits->experts, limits->head_dim);
    cudaError_t code = cudaGetDeviceCount(&devices);
    if (code == cudaSuccess && devices > 0)
        return HLWQ_OK;
    (void)cudaGetLastError();
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "there is no graphics card that CUDA can use: this machine has no NVIDIA driver");
    return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "there is no graphics card that CUDA can use: %s",
                   code != cudaSuccess ? cudaGetErrorString(code) : "none was found");
}

/* Before a context there is nothing to ask; what one takes is the difference that making it makes. */
extern "C" void hs_backend_cuda_room(uint64_t *free_bytes, uint64_t *context_bytes)
{
    enum { CONTEXT_BYTES = 350 << 20 /* of a card of 8 GB, when another program takes memory in the same moment */ };
    size_t now = 0, total = 0;
    *free_bytes = *context_bytes = 0;
    if (cudaMemGetInfo(&now, &total) != cudaSuccess) {
        (void)cudaGetLastError();
        return;
    }
    *free_bytes = now;
    *context_bytes = total - now;
    if (*context_bytes > CONTEXT_BYTES)
        *context_bytes = CONTEXT_BYTES;
}

extern "C" hlwq_status hs_backend_cuda_open(hs_backend **be, const hs_limits *limits, const hs_cuda_options *options,
                                            hlwq_error *err)
{
    *be = NULL;
    HS_TRY(hs_backend_cuda_probe(limits, err));
    hs_cuda *c = static_cast<hs_cuda *>(calloc(1, sizeof *c));
    if (!c)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a backend");
    c->base.ops = cuda_ops();
    c->mem = options->mem;
    c->vram = options->vram;
    c->cpu = options->cpu;
    c->lim = limits_of(limits);
    hlwq_status st = open_parts(c, err);
    if (st != HLWQ_OK) {
        cuda_close(&c->base);
        return st;
    }
    *be = &c->base;
    return HLWQ_OK;
}
