/*
 * delta.cu - Gated DeltaNet: convolution, the recurrence, gated norm.
 *
 * Fixed work: it runs where the states are, in orders of its own.  It is the recurrence, token by token, also for
 * prompts, so how tokens were batched cannot show.
 */
#include "kernels/cuda/device.h"

enum { TAPS_MAX = 8, CONV_TOKENS = 16, ROW_LANES = 4, DELTA_COLUMNS = 32, DELTA_THREADS = ROW_LANES * DELTA_COLUMNS };

/* The part of text blockIdx.z, and where it has what it remembers. */
static __device__ __forceinline__ gpu_delta text_of(gpu_delta d)
{
    uint64_t row = (uint64_t)blockIdx.z * d.n;
    if (d.text) {
        const hs_bases text = d.text[row];
        d.state = gpu_behind(text.states, d.state);
        d.conv_state = gpu_behind(text.states, d.conv_state);
        if (d.windowed) {
            d.raw = gpu_behind(text.window, d.raw);
            d.mix = gpu_behind(text.window, d.mix);
            d.strength = gpu_behind(text.window, d.strength);
            d.decay = gpu_behind(text.window, d.decay);
        }
    }
    d.qkv += row * d.channels;
    d.mix += row * d.channels;
    d.b += row * d.v_heads;
    d.a += row * d.v_heads;
    d.strength += row * d.gate_stride;
    d.decay += row * d.gate_stride;
    d.z += row * d.v_heads * d.v_dim;
    d.out += row * d.v_heads * d.v_dim;
    return d;
}

/*
 * A thread a channel of `each` tokens: the causal convolution, SiLU.  Where one has all tokens, the last inputs stay in
 * conv_state; where more have, all of them read it, and conv_keep_kernel writes it when they are done.  TAPS: as many,
 * or TAPS_MAX for any number, of which the last d.taps are in use; known to the compiler they stay in registers.
 */
template <int TAPS> static __global__ void __launch_bounds__(128) conv_kernel(gpu_delta all, uint32_t each)
{
    const gpu_delta d = text_of(all);
    uint32_t ch = blockIdx.x * blockDim.x + threadIdx.x, kept = d.taps - 1;
    if (ch >= d.channels)
        return;
    uint32_t unused = TAPS == TAPS_MAX ? TAPS - d.taps : 0, from = blockIdx.y * each;
    const uint32_t end = d.n - from < each ? d.n : from + each;
    float past[TAPS], w[TAPS];
#pragma unroll
    for (uint32_t i = 0; i < TAPS; i++)
        w[i] = i < unused ? 0.0f : d.conv[(uint64_t)ch * d.taps + i - unused];
#pragma unroll
    for (uint32_t i = 0; i < TAPS - 1; i++) {
        uint32_t at = from + i - unused; /* of what is kept and the tokens behind it */
        past[i] = 0.0f;
        if (i >= unused)
            past[i] = at < kept ? d.conv_state[(uint64_t)at * d.channels + ch]
                                : d.qkv[(uint64_t)(at - kept) * d.channels + ch];
    }
#pragma unroll 4
    for (uint32_t t = from; t < end; t++) {
        past[TAPS - 1] = d.qkv[(uint64_t)t * d.channels + ch];
        if (d.windowed)
            d.raw[(uint64_t)t * d.channels + ch] = past[TAPS - 1];
        float sum = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < TAPS; i++)
            sum = i < unused ? 0.0f : fmaf(w[i], past[i], sum);
        d.mix[(uint64_t)t * d.channels + ch] = hs_silu(sum);
#pragma unroll
        for (uint32_t i = 0; i < TAPS - 1; i++)
            past[i] = past[i + 1];
    }
    if (gridDim.y > 1 || d.unsure)
        return;
#pragma unroll
    for (uint32_t i = 0; i < TAPS - 1; i++)
        if (i >= unused)
            d.conv_state[(uint64_t)(i - unused) * d.channels + ch] = past[i];
}

/* A thread a channel: the last inputs, when d.n more belong to the text. */
static __global__ void conv_keep_kernel(gpu_delta all)
{
    const gpu_delta d = text_of(all);
    uint32_t ch = blockIdx.x * blockDim.x + threadIdx.x, kept = d.taps - 1;
    if (ch >= d.channels)
        return;
    const float *in = d.windowed ? d.raw : d.qkv;
    for (uint32_t i = 0; i < kept; i++) { /* ascending, so that none is overwritten unread */
        uint32_t from = i + d.n;
        d.conv_state[(uint64_t)i * d.channels + ch] = from < kept ? d.conv_state[(uint64_t)from * d.channels + ch]
                                                                  : in[(uint64_t)(from - kept) * d.channels + ch];
    }
}

/* A warp a key or query head of a token: unit length. Value heads: beta, log-decay. */
static __global__ void delta_prepare_kernel(gpu_delta all)
{
    const gpu_delta d = text_of(all);
    uint32_t lane = threadIdx.x % WARP, warp = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, t = blockIdx.y;
    if (warp < 2 * d.k_heads) {
        float *x = d.mix + (uint64_t)t * d.channels + (uint64_t)warp * d.k_dim, sum = 0.0f;
        for (uint32_t c = lane; c < d.k_dim; c += WARP)
            sum = fmaf(x[c], x[c], sum);
        float r = 1.0f / sqrtf(warp_sum(sum) + 1e-6f), scale = warp < d.k_heads ? 1.0f / sqrtf((float)d.k_dim) : 1.0f;
        for (uint32_t c = lane; c < d.k_dim; c += WARP)
            x[c] = x[c] * r * scale;
        return;
    }
    uint32_t h = (warp - 2 * d.k_heads) * WARP + lane;
    if (h >= d.v_heads)
        return;
    uint64_t from = (uint64_t)t * d.v_heads + h, to = (uint64_t)t * d.gate_stride + h;
    float s = d.a[from] + d.dt_bias[h], softplus = s > 20.0f ? s : hs_log1p(hs_exp(s));
    d.strength[to] = hs_sigmoid(d.b[from]);
    d.decay[to] = -hs_exp(d.a_log[h]) * softplus;
}

/* Looks again where that is, so that no register holds it meanwhile. */
template <int ROWS>
static __device__ __forceinline__ void put_column(const gpu_delta &all, uint64_t first, const float (&s)[ROWS])
{
    float *to = text_of(all).state + first;
#pragma unroll
    for (int i = 0; i < ROWS; i++, to += ROW_LANES * all.v_dim)
        *to = s[i];
}

/*
 * A block takes 32 columns of a head's state through all tokens: four lanes a column, each every fourth row, which stay
 * in registers.  The state is read once and written once.
 */
template <int ROWS> static __global__ void __launch_bounds__(DELTA_THREADS) delta_kernel(gpu_delta all)
{
    const gpu_delta d = text_of(all);
    uint32_t part = threadIdx.x % ROW_LANES, column = blockIdx.x * DELTA_COLUMNS + threadIdx.x / ROW_LANES,
             h = blockIdx.y;
    uint32_t kh = h / (d.v_heads / d.k_heads);
    bool there = column < d.v_dim;
    uint32_t c = there ? column : d.v_dim - 1;
    uint64_t first = ((uint64_t)h * d.k_dim + part) * d.v_dim + c;
    float s[ROWS];
    const float *from = d.state + first;
#pragma unroll
    for (int i = 0; i < ROWS; i++, from += ROW_LANES * d.v_dim)
        s[i] = *from;
    for (uint32_t t = 0; t < d.n; t++) {
        const float *row = d.mix + (uint64_t)t * d.channels;
        const float *q = row + (uint64_t)kh * d.k_dim, *k = q + (uint64_t)d.k_heads * d.k_dim;
        float v = row[2 * (uint64_t)d.k_heads * d.k_dim + (uint64_t)h * d.v_dim + c];
        uint64_t at = (uint64_t)t * d.gate_stride + h;
        float decay = hs_exp(d.decay[at]), beta = d.strength[at], sum = 0.0f, out = 0.0f;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] *= decay;
            sum = fmaf(k[i * ROW_LANES + part], s[i], sum);
        }
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        float delta = beta * (v - sum);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            s[i] = fmaf(k[i * ROW_LANES + part], delta, s[i]);
            out = fmaf(q[i * ROW_LANES + part], s[i], out);
        }
        out += __shfl_xor_sync(0xFFFFFFFFu, out, 1);
        out += __shfl_xor_sync(0xFFFFFFFFu, out, 2);
        if (there && part == 0)
            d.out[(uint64_t)t * d.v_heads * d.v_dim + (uint64_t)h * d.v_dim + c] = out;
        if (there && t + 1 == (d.unsure ? 1 : d.n))
            put_column<ROWS>(all, first, s);
    }
}

/* A warp a value head of a token: w * (o / rms(o)) * silu(z). */
static __global__ void gated_norm_kernel(gpu_delta all)
{
    const gpu_delta d = text_of(all);
    uint32_t lane = threadIdx.x % WARP, h = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (h >= d.v_heads)
        return; /* whole warps */
    uint64_t at = ((uint64_t)blockIdx.y * d.v_heads + h) * d.v_dim;
    float *o = d.out + at, sum = 0.0f;
    for (uint32_t c = lane; c < d.v_dim; c += WARP)
        sum = fmaf(o[c], o[c], sum);
    float r = 1.0f / sqrtf(warp_sum(sum) / (float)d.v_dim + d.eps);
    for (uint32_t c = lane; c < d.v_dim; c += WARP)
        o[c] = d.out_norm[c] * (o[c] * r) * hs_silu(d.z[at + c]);
}

static uint32_t texts_of(const gpu_delta *d)
{
    return d->texts ? d->texts : 1;
}

static cudaError_t run_recurrence(const gpu_delta *d, cudaStream_t s)
{
    dim3 grid((d->v_dim + DELTA_COLUMNS - 1) / DELTA_COLUMNS, d->v_heads, texts_of(d)), block(DELTA_THREADS);
    switch (d->k_dim / ROW_LANES) {
    case 4: return gpu_launch(delta_kernel<4>, grid, block, 0, s, *d);
    case 8: return gpu_launch(delta_kernel<8>, grid, block, 0, s, *d);
    case 16: return gpu_launch(delta_kernel<16>, grid, block, 0, s, *d);
    case 32: return gpu_launch(delta_kernel<32>, grid, block, 0, s, *d);
    default: return cudaErrorInvalidValue;
    }
}

/* Tokens of a prompt are many threads' work: of one thread each would wait for the memory once for every token. */
static cudaError_t run_conv(const gpu_delta *d, cudaStream_t s)
{
    uint32_t each = d->n < 2 * CONV_TOKENS ? d->n : (uint32_t)CONV_TOKENS, parts = (d->n + each - 1) / each;
    dim3 grid((d->channels + 127) / 128, parts, texts_of(d)), block(128);
    if (d->taps == 4)
        GPU_TRY(gpu_launch(conv_kernel<4>, grid, block, 0, s, *d, each));
    else
        GPU_TRY(gpu_launch(conv_kernel<TAPS_MAX>, grid, block, 0, s, *d, each));
    return parts == 1 ? cudaSuccess : gpu_launch(conv_keep_kernel, dim3(grid.x, 1, grid.z), block, 0, s, *d);
}

cudaError_t gpu_run_delta(const gpu_delta *d, cudaStream_t s)
{
    uint32_t texts = texts_of(d);
    GPU_TRY(run_conv(d, s));
    uint32_t warps = 2 * d->k_heads + (d->v_heads + WARP - 1) / WARP;
    GPU_TRY(gpu_launch(delta_prepare_kernel, dim3((warps + 3) / 4, d->n, texts), dim3(128), 0, s, *d));
    GPU_TRY(run_recurrence(d, s));
    return gpu_launch(gated_norm_kernel, dim3((d->v_heads + 3) / 4, d->n, texts), dim3(128), 0, s, *d);
}

cudaError_t gpu_run_delta_keep(const gpu_delta *d, cudaStream_t s)
{
    gpu_delta rest = *d;
    GPU_TRY(gpu_launch(conv_keep_kernel, dim3((d->channels + 127) / 128), dim3(128), 0, s, *d));
    if (--rest.n == 0)
        return cudaSuccess; /* the first one's step was taken at once */
    rest.mix += d->channels;
    rest.strength += d->gate_stride;
    rest.decay += d->gate_stride;
    return run_recurrence(&rest, s);
}

cudaError_t gpu_load_delta(void)
{
    return gpu_load(conv_kernel<4>, conv_kernel<TAPS_MAX>, conv_keep_kernel, delta_prepare_kernel, delta_kernel<4>,
                    delta_kernel<8>, delta_kernel<16>, delta_kernel<32>, gated_norm_kernel);
}
