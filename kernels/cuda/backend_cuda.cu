/*
 * backend_cuda.cu - a graphics card: embeddings, dense feed-forwards and the head; opening and closing.
 *
 * Weights, states, pages and x are on the card; embeddings are read in ordinary memory.
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
    gpu_end_step(c);
    HS_TRY(gpu_wait(c, err)); /* the last step may still read the staging memory */
    HS_TRY(c->cpu->ops->embed(c->cpu, table, ids, n, c->host_x, err));
    CUDA_DO("embeddings", cudaMemcpyAsync(x, c->host_x, (size_t)n * c->lim.hidden * sizeof(float),
                                          cudaMemcpyHostToDevice, c->stream));
    return HLWQ_OK;
}

/* ---- feed-forward ---------------------------------------------------------------------------- */

hlwq_status gpu_ffn(hs_cuda *c, const hs_ffn *w, const float *u, const uint32_t *list, gpu_q8 *uq, uint32_t n,
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
    if (c->split)
        return gpu_dense_split(c, norm_weight, eps, w, n, x, err);
    return gpu_recorded(
        c, GPU_OPERANDS(w, x, n),
        [=](hlwq_error *why) {
            HS_TRY(gpu_norm(c, x, norm_weight, eps, n, gpu_form_of(&w->gate), why));
            return gpu_ffn(c, w, c->u, NULL, &c->uq, n, 0, x, true, why);
        },
        err);
}

/* Its logits always follow, so they belong to its run. */
static hlwq_status draft_head(hs_cuda *c, const float *norm, float eps, const hs_matrix *head, const float *x,
                              hlwq_error *err)
{
    return gpu_recorded(
        c, GPU_OPERANDS(head, x, norm),
        [=](hlwq_error *why) {
            HS_TRY(gpu_norm(c, x, norm, eps, 1, gpu_form_of(head), why));
            return gpu_product_of(c, head, c->u, &c->uq, 1, c->logits, head->rows, false, why);
        },
        err);
}

static hlwq_status cuda_head(hs_backend *be, const float *norm_weight, float eps, const hs_matrix *head, uint32_t n,
                             const float *x, float *hidden, float *logits, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    uint64_t vocab = head->rows;
    bool within = gpu_in_draft(c) && n == 1;
    if (within)
        HS_TRY(draft_head(c, norm_weight, eps, head, x, err));
    gpu_end_step(c);
    if (!within)
        HS_TRY(gpu_norm(c, x, norm_weight, eps, n, gpu_form_of(head), err));
    if (hidden)
        HS_TRY(gpu_get(be, hidden, c->u, (uint64_t)n * c->lim.hidden * sizeof(float), err));
    HS_TRY(gpu_fetch_visited(c, err));
    for (uint32_t t = 0; t < n; t += c->logits_rows) {
        uint32_t m = n - t < c->logits_rows ? n - t : c->logits_rows;
        gpu_q8 q = gpu_rows_from(&c->uq, t, c->lim.hidden);
        if (!within)
            HS_TRY(gpu_product_of(c, head, c->u + (size_t)t * c->lim.hidden, &q, m, c->logits, vocab, false, err));
        if (logits)
            HS_TRY(gpu_get(be, logits + t * vocab, c->logits, m * vocab * sizeof(float), err));
    }
    gpu_tell_visited(c);
    return HLWQ_OK;
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
    uint64_t steps = (uint64_t)HS_CARD_STEP_TOKENS * m->used;
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
    take(k, 3 * larger(m->experts, steps), &c->job);
    take(k, (b + 1) * m->head_dim, &c->rope);
    take(k, (uint64_t)m->mixtures * m->experts, &c->table);
    take(k, m->mixtures, &c->visited);
    take(k, steps * HS_CARD_CHOICE_BYTES, reinterpret_cast<uint8_t **>(&c->choice));
    take(k, 1, &c->turns.turn);
    take(k, (uint64_t)HS_CARD_STEP_TOKENS, &c->position);
    take(k, (uint64_t)HS_CARD_STEP_TOKENS, &c->text);
    take(k, GPU_SPAN_TOKENS * GPU_SPANS * (uint64_t)(m->q_width / 2 + 2 * q_heads), &c->part);
    take(k, (uint64_t)c->logits_rows * m->vocab, &c->logits);
}

static void lay_out_staging(hs_cuda *c, carve *k)
{
    const hs_limits *m = &c->lim;
    uint64_t b = m->batch, picks = b * m->used, steps = (uint64_t)HS_CARD_STEP_TOKENS * m->used;
    take(k, b * m->hidden, &c->host_x);
    take(k, m->experts ? b * m->hidden : HS_SPLIT_TOKENS * (uint64_t)m->hidden, &c->host_u);
    take(k, m->experts ? 0 : HS_SPLIT_TOKENS * hs_split_width(m), &c->host_h);
    take(k, m->experts ? picks * m->hidden : HS_SPLIT_TOKENS * (uint64_t)m->hidden, &c->host_y);
    take(k, picks, &c->host_weight);
    take(k, picks, &c->host_id);
    take(k, picks, &c->host_list);
    take(k, picks, &c->host_slot);
    take(k, m->experts + 2, &c->host_start);
    take(k, 3 * (uint64_t)m->experts, &c->host_job);
    take(k, m->mixtures * steps * HS_CARD_CHOICE_BYTES, &c->host_choices);
    take(k, (uint64_t)m->mixtures * m->used, &c->host_guesses);
    take(k, 1, &c->turns.told);
    take(k, 1, &c->turns.answered);
    take(k, m->mixtures, &c->host_visited);
    take(k, m->mixtures, &c->tell_visited);
    take(k, m->experts, &c->visits);
    take(k, m->experts, &c->left);
    take(k, (uint64_t)GPU_RING_BYTES, &c->ring);
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
    gpu_end_turns(c);
    if (c->stream)
        (void)cudaStreamSynchronize(c->stream);
    if (c->back)
        (void)cudaStreamSynchronize(c->back);
    gpu_close_runs(c);
    gpu_close_pins(c);
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
    HS_TRY(gpu_open_pins(c, err));
    HS_TRY(gpu_open_runs(c, err));
    lay_out(c, &k);
    assert(sizeof(gpu_job) == HS_CARD_JOB_BYTES && k.bytes == hs_backend_cuda_bytes(&c->lim));
    HS_TRY(gpu_alloc(&c->base, HS_MEM_ACT, k.bytes, "activations", &c->scratch, err));
    k = carve{static_cast<uint8_t *>(c->scratch), 0};
    lay_out(c, &k);
    uint64_t bytes = staging_bytes(c);
    assert(sizeof(visit) == HS_CARD_VISIT_BYTES && bytes == hs_backend_cuda_staging_bytes(&c->lim));
    HS_TRY(hs_mem_charge(c->mem, HS_MEM_IO, bytes, "pinned staging memory", err));
    cudaError_t code = cudaHostAlloc(&c->staging, bytes, cudaHostAllocMapped);
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        hs_mem_discharge(c->mem, HS_MEM_IO, bytes);
        c->staging = NULL;
        return hs_fail(err, HLWQ_ERR_NOMEM, "the system gives no %.1f MiB of pinned memory: %s",
                       (double)bytes / 1048576.0, cudaGetErrorString(code));
    }
    h.base = static_cast<uint8_t *>(c->staging);
    lay_out_staging(c, &h);
    memset(c->tell_visited, 0, c->lim.mixtures * sizeof *c->tell_visited);
    return gpu_open_turns(c, err);
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
    o.split = gpu_split;
    o.place = gpu_place;
    o.step = gpu_stage_step;
    o.route = gpu_stage_route;
    o.guess = gpu_stage_guess;
    o.experts = gpu_stage_experts;
    o.mixture = gpu_stage_mixture;
    o.head = cuda_head;
    o.choose = gpu_stage_choose;
    o.logits = gpu_stage_logits;
    o.deltanet_window = gpu_stage_deltanet_window;
    o.deltanet_keep = gpu_stage_deltanet_keep;
    o.norm = gpu_stage_norm;
    o.join = gpu_stage_join;
    return &o;
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
    const char *steps = getenv("HLWQ_CUDA_STEPS");
    c->steps.never = steps && strcmp(steps, "0") == 0;
    hlwq_status st = open_parts(c, err);
    if (st != HLWQ_OK) {
        cuda_close(&c->base);
        return st;
    }
    *be = &c->base;
    return HLWQ_OK;
}
