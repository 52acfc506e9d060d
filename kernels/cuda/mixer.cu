/*
 * mixer.cu - what mixes tokens: attention over the cache, and Gated DeltaNet.
 *
 * Fixed work: it runs where the cache and the states are, in orders of its own that depend on positions alone.
 * Positions are cut into blocks of 64 on the absolute grid, folded in ascending order; DeltaNet is the recurrence,
 * token by token, also for prompts, so how tokens were batched cannot show.
 */
#include "kernels/cuda/device.h"

enum { ATTEND_THREADS = 128, HEAD_PER_LANE = 8 /* head dims up to 256 */ };

/* ---- attention ------------------------------------------------------------------------------- */

static __global__ void rope_kernel(const float *inv_freq, uint32_t half, uint32_t first, uint32_t n, float *table)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * half)
        return;
    uint32_t t = i / half, j = i % half;
    double angle = (double)((float)(first + t) * inv_freq[j]);
    table[(uint64_t)t * 2 * half + j] = (float)cos(angle);
    table[(uint64_t)t * 2 * half + half + j] = (float)sin(angle);
}

cudaError_t gpu_run_rope_table(const float *inv_freq, uint32_t rotary_dims, uint32_t first, uint32_t n, float *table,
                               cudaStream_t s)
{
    uint32_t half = rotary_dims / 2;
    return gpu_launch(rope_kernel, dim3((n * half + 127) / 128), dim3(128), 0, s, inv_freq, half, first, n, table);
}

static __device__ __forceinline__ void append(const gpu_attention &a, uint32_t position, uint64_t at, bool values,
                                              float v)
{
    uint64_t dim = (uint64_t)a.kv_heads * a.head_dim, element = a.half ? 2 : 4;
    uint8_t *page = a.page + position / HS_GRID * (2 * HS_GRID * dim * element);
    uint64_t i = (values ? HS_GRID * dim : 0) + position % HS_GRID * dim + at;
    if (a.half)
        reinterpret_cast<uint16_t *>(page)[i] = gpu_float_to_half(v);
    else
        reinterpret_cast<float *>(page)[i] = v;
}

/* A warp a head of a token: queries are normed and rotated in place, keys too and then appended, values appended. */
static __global__ void prepare_kernel(gpu_attention a)
{
    uint32_t lane = threadIdx.x % WARP, heads = a.q_heads + a.kv_heads, d = a.head_dim;
    uint32_t head = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, t = blockIdx.y;
    if (head >= heads)
        return; /* whole warps */
    bool key = head >= a.q_heads;
    uint32_t h = key ? head - a.q_heads : head;
    float *row = a.proj + t * a.width, *k = row + (uint64_t)a.q_heads * 2 * d;
    float *v = key ? k + (uint64_t)h * d : row + (uint64_t)h * 2 * d;
    const float *norm = key ? a.k_norm : a.q_norm, *table = a.rope + (uint64_t)t * a.rotary_dims;
    float x[HEAD_PER_LANE], sum = 0.0f;
    for (uint32_t i = 0; i < HEAD_PER_LANE; i++) {
        uint32_t c = i * WARP + lane;
        x[i] = c < d ? v[c] : 0.0f;
        sum = fmaf(x[i], x[i], sum);
    }
    float r = 1.0f / sqrtf(warp_sum(sum) / (float)d + a.eps);
    for (uint32_t i = 0; i < HEAD_PER_LANE; i++) {
        uint32_t c = i * WARP + lane;
        if (c < d)
            v[c] = x[i] * r * (1.0f + norm[c]);
    }
    __syncwarp();
    uint32_t half = a.rotary_dims / 2;
    for (uint32_t j = lane; j < half; j += WARP) {
        float lo = v[j], hi = v[j + half], c = table[j], s = table[half + j];
        v[j] = fmaf(lo, c, -(hi * s));
        v[j + half] = fmaf(hi, c, lo * s);
    }
    __syncwarp();
    if (!key)
        return;
    const float *value = k + (uint64_t)a.kv_heads * d + (uint64_t)h * d;
    for (uint32_t c = lane; c < d; c += WARP) {
        append(a, a.first + t, (uint64_t)h * d + c, false, v[c]);
        append(a, a.first + t, (uint64_t)h * d + c, true, value[c]);
    }
}

static __device__ __forceinline__ float cached(const gpu_attention &a, uint64_t block, uint64_t i)
{
    uint64_t dim = (uint64_t)a.kv_heads * a.head_dim;
    const uint8_t *page = a.page + block * (2 * HS_GRID * dim * (a.half ? 2 : 4));
    return a.half ? gpu_half_to_float(reinterpret_cast<const uint16_t *>(page)[i])
                  : reinterpret_cast<const float *>(page)[i];
}

/* A block a query head of a token. Threads own dimensions of the result, warps the scores of a position in turn. */
static __global__ void __launch_bounds__(ATTEND_THREADS) attend_kernel(gpu_attention a)
{
    __shared__ float weight[HS_GRID], query[HEAD_PER_LANE * WARP];
    enum { PER_THREAD = HEAD_PER_LANE * WARP / ATTEND_THREADS };
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, d = a.head_dim, t = blockIdx.y, head = blockIdx.x;
    uint32_t kv_head = head / (a.q_heads / a.kv_heads), position = a.first + t;
    uint64_t dim = (uint64_t)a.kv_heads * d, at = (uint64_t)kv_head * d;
    const float *q = a.proj + t * a.width + (uint64_t)head * 2 * d;
    float scale = 1.0f / sqrtf((float)d), top = -INFINITY, total = 0.0f, acc[PER_THREAD];
    for (uint32_t c = threadIdx.x; c < d; c += ATTEND_THREADS)
        query[c] = q[c];
    for (int i = 0; i < PER_THREAD; i++)
        acc[i] = 0.0f;
    for (uint32_t b = 0; b <= position / HS_GRID; b++) {
        uint32_t seen = position - b * HS_GRID + 1;
        if (seen > HS_GRID)
            seen = HS_GRID;
        __syncthreads();
        for (uint32_t j = warp; j < seen; j += ATTEND_THREADS / WARP) {
            float dot = 0.0f;
            for (uint32_t c = lane; c < d; c += WARP)
                dot = fmaf(query[c], cached(a, b, j * dim + at + c), dot);
            dot = warp_sum(dot);
            if (lane == 0)
                weight[j] = dot * scale;
        }
        __syncthreads();
        float m = -INFINITY, sum = 0.0f, part[PER_THREAD];
        for (uint32_t j = 0; j < seen; j++)
            m = fmaxf(m, weight[j]);
        for (int i = 0; i < PER_THREAD; i++)
            part[i] = 0.0f;
        for (uint32_t j = 0; j < seen; j++) {
            float p = hs_exp(weight[j] - m);
            sum += p;
            for (int i = 0; i < PER_THREAD; i++) {
                uint32_t c = i * ATTEND_THREADS + threadIdx.x;
                if (c < d)
                    part[i] = fmaf(p, cached(a, b, HS_GRID * dim + j * dim + at + c), part[i]);
            }
        }
        float larger = top > m ? top : m, old = b ? hs_exp(top - larger) : 0.0f, now = hs_exp(m - larger);
        top = larger;
        total = fmaf(total, old, sum * now);
        for (int i = 0; i < PER_THREAD; i++)
            acc[i] = fmaf(acc[i], old, part[i] * now);
    }
    for (int i = 0; i < PER_THREAD; i++) {
        uint32_t c = i * ATTEND_THREADS + threadIdx.x;
        if (c < d)
            a.out[(uint64_t)t * a.q_heads * d + (uint64_t)head * d + c] = acc[i] / total * hs_sigmoid(q[d + c]);
    }
}

cudaError_t gpu_run_attention(const gpu_attention *a, cudaStream_t s)
{
    dim3 heads((a->q_heads + a->kv_heads + 3) / 4, a->n);
    GPU_TRY(gpu_launch(prepare_kernel, heads, dim3(128), 0, s, *a));
    return gpu_launch(attend_kernel, dim3(a->q_heads, a->n), dim3(ATTEND_THREADS), 0, s, *a);
}

/* ---- Gated DeltaNet -------------------------------------------------------------------------- */

enum { TAPS_MAX = 8, ROW_LANES = 4, DELTA_COLUMNS = 32, DELTA_THREADS = ROW_LANES * DELTA_COLUMNS };

/* A thread a channel: the causal convolution over all tokens, SiLU; the last inputs stay in conv_state. */
static __global__ void conv_kernel(gpu_delta d)
{
    uint32_t ch = blockIdx.x * blockDim.x + threadIdx.x, kept = d.taps - 1;
    if (ch >= d.channels)
        return;
    float past[TAPS_MAX], w[TAPS_MAX];
    for (uint32_t i = 0; i < d.taps; i++)
        w[i] = d.conv[(uint64_t)ch * d.taps + i];
    for (uint32_t i = 0; i < kept; i++)
        past[i] = d.conv_state[(uint64_t)i * d.channels + ch];
    for (uint32_t t = 0; t < d.n; t++) {
        past[kept] = d.qkv[(uint64_t)t * d.channels + ch];
        float sum = 0.0f;
        for (uint32_t i = 0; i < d.taps; i++)
            sum = fmaf(w[i], past[i], sum);
        d.mix[(uint64_t)t * d.channels + ch] = hs_silu(sum);
        for (uint32_t i = 0; i < kept; i++)
            past[i] = past[i + 1];
    }
    for (uint32_t i = 0; i < kept; i++)
        d.conv_state[(uint64_t)i * d.channels + ch] = past[i];
}

/* A warp a key or query head of a token: unit length. Value heads: beta, log-decay. */
static __global__ void delta_prepare_kernel(gpu_delta d)
{
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
    uint64_t at = (uint64_t)t * d.v_heads + h;
    float s = d.a[at] + d.dt_bias[h], softplus = s > 20.0f ? s : log1pf(hs_exp(s));
    d.b[at] = hs_sigmoid(d.b[at]);
    d.a[at] = -hs_exp(d.a_log[h]) * softplus;
}

/*
 * A block takes 32 columns of a head's state through all tokens: four lanes a column, each every fourth row, which stay
 * in registers.  The state is read once and written once.
 */
template <int ROWS> static __global__ void __launch_bounds__(DELTA_THREADS) delta_kernel(gpu_delta d)
{
    uint32_t part = threadIdx.x % ROW_LANES, column = blockIdx.x * DELTA_COLUMNS + threadIdx.x / ROW_LANES,
             h = blockIdx.y;
    uint32_t kh = h / (d.v_heads / d.k_heads);
    bool there = column < d.v_dim;
    uint32_t c = there ? column : d.v_dim - 1;
    float *state = d.state + (uint64_t)h * d.k_dim * d.v_dim + c, s[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        s[i] = state[(uint64_t)(i * ROW_LANES + part) * d.v_dim];
    for (uint32_t t = 0; t < d.n; t++) {
        const float *row = d.mix + (uint64_t)t * d.channels;
        const float *q = row + (uint64_t)kh * d.k_dim, *k = q + (uint64_t)d.k_heads * d.k_dim;
        float v = row[2 * (uint64_t)d.k_heads * d.k_dim + (uint64_t)h * d.v_dim + c];
        uint64_t at = (uint64_t)t * d.v_heads + h;
        float decay = hs_exp(d.a[at]), beta = d.b[at], sum = 0.0f, out = 0.0f;
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
    }
    if (there)
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            state[(uint64_t)(i * ROW_LANES + part) * d.v_dim] = s[i];
}

/* A warp a value head of a token: w * (o / rms(o)) * silu(z). */
static __global__ void gated_norm_kernel(gpu_delta d)
{
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

cudaError_t gpu_run_delta(const gpu_delta *d, cudaStream_t s)
{
    GPU_TRY(gpu_launch(conv_kernel, dim3((d->channels + 127) / 128), dim3(128), 0, s, *d));
    uint32_t warps = 2 * d->k_heads + (d->v_heads + WARP - 1) / WARP;
    GPU_TRY(gpu_launch(delta_prepare_kernel, dim3((warps + 3) / 4, d->n), dim3(128), 0, s, *d));
    dim3 grid((d->v_dim + DELTA_COLUMNS - 1) / DELTA_COLUMNS, d->v_heads), block(DELTA_THREADS);
    switch (d->k_dim / ROW_LANES) {
    case 4: GPU_TRY(gpu_launch(delta_kernel<4>, grid, block, 0, s, *d)); break;
    case 8: GPU_TRY(gpu_launch(delta_kernel<8>, grid, block, 0, s, *d)); break;
    case 16: GPU_TRY(gpu_launch(delta_kernel<16>, grid, block, 0, s, *d)); break;
    case 32: GPU_TRY(gpu_launch(delta_kernel<32>, grid, block, 0, s, *d)); break;
    default: return cudaErrorInvalidValue;
    }
    return gpu_launch(gated_norm_kernel, dim3((d->v_heads + 3) / 4, d->n), dim3(128), 0, s, *d);
}
