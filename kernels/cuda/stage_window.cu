/*
 * stage_window.cu - what speculation asks of a graphics card: DeltaNet steps that can be taken back, and the input of a
 * draft head.
 *
 * A window goes through the kernels that a prompt does, token by token with the bits of a lone one.  The state is
 * written after the first token and stays in registers from there on; the convolution's state is left alone.  Inputs of
 * the convolution, queries, keys, values and gates go to the window's own memory, so what is kept takes its steps again
 * without a product.
 */
#include "kernels/cuda/backend.h"

#include <assert.h>

/* Where the parts of a window's tokens are kept; gates are [tokens][write strength, log-decay][v_heads]. */
static void keep_in_window(const hs_cuda *c, const hs_delta *w, const hs_delta_window *window, gpu_delta *d)
{
    const void *base = c->steps.text[0].window;
    d->windowed = true;
    d->raw = gpu_distance(c, base, window->raw + (uint64_t)(w->taps - 1) * w->qkv.rows);
    d->mix = gpu_distance(c, base, window->mix);
    d->strength = gpu_distance(c, base, window->gates);
    d->decay = gpu_distance(c, base, window->gates + w->v_heads);
    d->gate_stride = 2 * w->v_heads;
}

/* The stage of a window, by where its parts are. */
static uint64_t operands_of(const gpu_delta *d, uint64_t what)
{
    uint64_t kept = GPU_OPERANDS(d->raw, d->mix, d->strength);
    return GPU_OPERANDS(what, gpu_operands(0, (uint64_t)d->state, (uint64_t)d->conv_state, kept), 0);
}

static hlwq_status unsure(hs_cuda *c, const hs_delta *w, const hs_delta_state *state, const hs_delta_window *window,
                          uint32_t n, float *x, hlwq_error *err)
{
    gpu_delta d = {};
    HS_TRY(gpu_delta_products(c, w, n, x, &d, err));
    gpu_delta_state(c, state, &d);
    keep_in_window(c, w, window, &d);
    d.n = n;
    d.unsure = true;
    CUDA_DO("DeltaNet", gpu_run_delta(&d, c->stream));
    return gpu_mixer_out(c, &w->out, n, x, err);
}

hlwq_status gpu_stage_deltanet_window(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                      const hs_delta_window *window, uint32_t n, float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_delta at = {};
    assert(n <= HS_WINDOW_MAX);
    gpu_delta_state(c, state, &at);
    keep_in_window(c, w, window, &at);
    return gpu_recorded(
        c, GPU_OPERANDS(w, operands_of(&at, n), x),
        [=](hlwq_error *why) { return unsure(c, w, state, window, n, x, why); }, err);
}

hlwq_status gpu_stage_deltanet_keep(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                    const hs_delta_window *window, uint32_t kept, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    gpu_delta d = {};
    assert(kept >= 1 && kept <= HS_WINDOW_MAX);
    gpu_delta_state(c, state, &d);
    keep_in_window(c, w, window, &d);
    gpu_delta_weights(w, &d);
    d.out = c->out;
    d.n = kept;
    return gpu_recorded(
        c, GPU_OPERANDS(w, operands_of(&d, kept), 0),
        [=](hlwq_error *why) {
            cudaError_t code = gpu_run_delta_keep(&d, c->stream);
            return code == cudaSuccess ? HLWQ_OK : gpu_failed(code, "DeltaNet", why);
        },
        err);
}

hlwq_status gpu_stage_norm(hs_backend *be, const float *norm, float eps, uint32_t n, const float *x, float *y,
                           hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    if (!gpu_in_draft(c))
        gpu_end_run(c); /* whether it comes after a step's stages is not known before */
    auto stage = [=](hlwq_error *why) {
        gpu_q8 none = {};
        cudaError_t code = gpu_run_norm(x, norm, c->lim.hidden, n, eps, y, c->lim.hidden, none, c->stream);
        return code == cudaSuccess ? HLWQ_OK : gpu_failed(code, "a norm", why);
    };
    return gpu_in_draft(c) ? gpu_recorded(c, GPU_OPERANDS(norm, x, y), stage, err) : stage(err);
}

/* Rows of proj are [embedding, hidden state], each normed. */
static hlwq_status join(hs_cuda *c, const hs_joint *w, uint32_t n, const float *h, float *x, hlwq_error *err)
{
    uint32_t hidden = c->lim.hidden;
    gpu_q8 none = {};
    CUDA_DO("a draft", gpu_run_norm(x, w->embed_norm, hidden, n, w->eps, c->proj, 2 * hidden, none, c->stream));
    CUDA_DO("a draft",
            gpu_run_norm(h, w->hidden_norm, hidden, n, w->eps, c->proj + hidden, 2 * hidden, none, c->stream));
    c->outq.form = GPU_NO_FORM;
    return gpu_product_of(c, &w->fc, c->proj, &c->outq, n, x, hidden, false, err);
}

hlwq_status gpu_stage_join(hs_backend *be, const hs_joint *w, uint32_t n, const float *h, float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    assert(c->lim.joins && n <= c->lim.batch && w->fc.cols == 2 * c->lim.hidden);
    return gpu_recorded(
        c, GPU_OPERANDS(w, h, x), [=](hlwq_error *why) { return join(c, w, n, h, x, why); }, err);
}
