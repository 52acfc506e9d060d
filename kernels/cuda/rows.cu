/*
 * rows.cu - what is done to rows of activations: norm, Walsh-Hadamard, q8, SwiGLU, and the experts' weighted sum.
 *
 * q8 and SwiGLU are movable work: the bits of kernels/cpu/ref.c.  A warp rotates a block of 128: four values a lane,
 * two steps of the butterfly in registers, five by shuffles.
 */
#include "kernels/cuda/device.h"

enum { ROW_THREADS = 256 };

/*
 * A block of a row: v[i] is element 4 lane + i. Lanes below 16 hold the lower half of what chunk order pairs up, and
 * what has a scale of its own where nothing is rotated.
 */
static __device__ __forceinline__ void q8_block(float (&v)[4], const gpu_q8 &q, uint64_t block, uint32_t lane)
{
    const bool halves = q.form == GPU_FLAT;
    if (q.form == GPU_ROTATED)
        warp_wht(v, lane);
    float amax = 0.0f;
    int bad = 0;
    for (int i = 0; i < 4; i++) {
        float a4 = fabsf(v[i]);
        bad |= !(a4 <= 3.4e38f);
        amax = a4 > amax ? a4 : amax;
    }
    for (int m = 8; m; m /= 2)
        amax = fmaxf(amax, __shfl_xor_sync(0xFFFFFFFFu, amax, m));
    float beside = __shfl_xor_sync(0xFFFFFFFFu, amax, 16);
    amax = halves ? amax : fmaxf(amax, beside);
    uint32_t all_bad = __ballot_sync(0xFFFFFFFFu, bad);
    bad = ((halves ? all_bad >> (lane & 16) & 0xFFFF : all_bad) != 0);
    bool tiny = amax < 1e-30f;
    float inverse = bad || tiny ? 0.0f : 127.0f / amax;
    uint32_t mine = 0;
    int sum = 0;
    for (int i = 0; i < 4; i++) {
        float r = bad ? 0.0f : v[i] * inverse;
        int k = (int)((r + 0x1.8p23f) - 0x1.8p23f); /* nearest even */
        mine |= (uint32_t)(k & 255) << 8 * i;
        sum += k;
    }
    int whole = gpu_warp_sum_int(lane < 16 || !halves ? sum : 0), rest = 0;
    if (halves)
        rest = gpu_warp_sum_int(lane < 16 ? 0 : sum);
    const uint32_t scale = hs_float_bits(bad ? NAN : tiny ? 0.0f : amax / 127.0f);
    if (halves) {
        q.q[block * 32 + lane % 16 / 4 * 8 + lane / 16 * 4 + lane % 4] = mine;
        if (lane % 16 == 0)
            q.of[2 * block + lane / 16] = make_uint2(scale, (uint32_t)(lane ? rest : whole));
        return;
    }
    uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, mine, 16);
    bool upper = lane >= 16;
    uint32_t low = upper ? other : mine, high = upper ? mine : other, at = lane % 16;
    uint32_t word = gpu_prmt(low, high, upper ? 0x7362 : 0x5140);
    q.q[block * 32 + at / 4 * 8 + 2 * (at % 4) + upper] = word;
    if (lane == 0)
        q.of[block] = make_uint2(scale, (uint32_t)whole);
}

/* A block a token. Fixed work: sums have an order of their own. */
static __global__ void __launch_bounds__(ROW_THREADS)
    norm_kernel(const float *x, const float *w, uint32_t cols, float eps, float *u, uint64_t stride, gpu_q8 q)
{
    __shared__ float part[ROW_THREADS / WARP];
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, blocks = (cols + HS_BLOCK - 1) / HS_BLOCK;
    const float *row = x + (uint64_t)blockIdx.x * cols;
    float *out = u + blockIdx.x * stride, sum = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += ROW_THREADS)
        sum = fmaf(row[c], row[c], sum);
    sum = warp_sum(sum);
    if (lane == 0)
        part[warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < ROW_THREADS / WARP; i++)
        sum += part[i];
    float r = 1.0f / sqrtf(sum / (float)cols + eps);
    for (uint32_t b = warp; b < blocks; b += ROW_THREADS / WARP) {
        float v[4];
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t c = b * HS_BLOCK + 4 * lane + i;
            v[i] = c < cols ? row[c] * r * (1.0f + w[c]) : 0.0f;
            if (c < cols)
                out[c] = v[i];
        }
        if (q.q)
            q8_block(v, q, (uint64_t)blockIdx.x * blocks + b, lane);
    }
}

cudaError_t gpu_run_norm(const float *x, const float *w, uint32_t cols, uint32_t n, float eps, float *u,
                         uint64_t stride, gpu_q8 q, cudaStream_t s)
{
    return gpu_launch(norm_kernel, dim3(n), dim3(ROW_THREADS), 0, s, x, w, cols, eps, u, stride, q);
}

/* A warp a block of a row. */
static __global__ void q8_kernel(float *x, const float *up, uint32_t cols, uint64_t all, gpu_q8 q)
{
    uint32_t lane = threadIdx.x % WARP, blocks = (cols + HS_BLOCK - 1) / HS_BLOCK;
    uint64_t block = (uint64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (block >= all)
        return; /* whole warps */
    uint64_t row = block / blocks * cols;
    float v[4];
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t c = (uint32_t)(block % blocks) * HS_BLOCK + 4 * lane + i;
        v[i] = c < cols ? x[row + c] : 0.0f;
        if (up && c < cols) {
            v[i] = hs_silu(v[i]) * up[row + c];
            x[row + c] = v[i];
        }
    }
    q8_block(v, q, block, lane);
}

cudaError_t gpu_run_q8(float *x, const float *up, uint32_t cols, uint64_t rows, gpu_q8 q, cudaStream_t s)
{
    uint64_t all = rows * ((cols + HS_BLOCK - 1) / HS_BLOCK);
    return gpu_launch(q8_kernel, dim3((uint32_t)((all + 3) / 4)), dim3(128), 0, s, x, up, cols, all, q);
}

/* A warp a block of a row; an order that only a damaged file has reads the last input, as ref.c does. */
static __global__ void gather_q8_kernel(const float *x, const uint32_t *list, const uint32_t *order,
                                        const float *factor, uint32_t cols, uint64_t all, gpu_q8 q)
{
    uint32_t lane = threadIdx.x % WARP, blocks = (cols + HS_BLOCK - 1) / HS_BLOCK;
    uint64_t block = (uint64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (block >= all)
        return; /* whole warps */
    uint64_t at = block / blocks, row = (list ? list[at] : at) * cols;
    float v[4];
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t c = (uint32_t)(block % blocks) * HS_BLOCK + 4 * lane + i, from = order && c < cols ? order[c] : c;
        from = order && from >= cols ? cols - 1 : from;
        v[i] = c < cols ? x[row + from] : 0.0f;
        if (factor && c < cols)
            v[i] *= factor[c];
    }
    q8_block(v, q, block, lane);
}

cudaError_t gpu_run_gather_q8(const float *x, const uint32_t *list, const uint32_t *order, const float *factor,
                              uint32_t cols, uint32_t n, gpu_q8 q, cudaStream_t s)
{
    uint64_t all = (uint64_t)n * ((cols + HS_BLOCK - 1) / HS_BLOCK);
    return gpu_launch(gather_q8_kernel, dim3((uint32_t)((all + 3) / 4)), dim3(128), 0, s, x, list, order, factor, cols,
                      all, q);
}

static __global__ void swiglu_kernel(float *x, const float *up, uint64_t n)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = hs_silu(x[i]) * up[i];
}

cudaError_t gpu_run_swiglu(float *x, const float *up, uint64_t n, cudaStream_t s)
{
    return gpu_launch(swiglu_kernel, dim3((uint32_t)((n + 255) / 256)), dim3(256), 0, s, x, up, n);
}

/* ---- experts --------------------------------------------------------------------------------- */

enum { PER_LANE = 16 }; /* 512 experts at most */

/* A warp: the largest of a token's logits, ties to the lower id, one after another; softmax over them. */
static __device__ void choose(const float *l, uint32_t experts, uint32_t used, uint32_t lane, int32_t *id,
                              float *weight)
{
    float v[PER_LANE], top = 0.0f, total = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; i++)
        v[i] = i * WARP + lane < experts ? l[i * WARP + lane] : -INFINITY;
    uint32_t taken = 0; /* a bit for each of v */
    for (uint32_t r = 0; r < used; r++) {
        float best = -INFINITY;
        uint32_t who = 0xFFFFFFFFu;
#pragma unroll
        for (uint32_t i = 0; i < PER_LANE; i++) {
            uint32_t e = i * WARP + lane;
            if (e < experts && !(taken >> i & 1) && (who == 0xFFFFFFFFu || v[i] > best)) {
                best = v[i];
                who = e;
            }
        }
        for (int m = 16; m; m /= 2) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, best, m);
            uint32_t other_who = __shfl_xor_sync(0xFFFFFFFFu, who, m);
            bool take =
                other_who != 0xFFFFFFFFu && (who == 0xFFFFFFFFu || other > best || (other == best && other_who < who));
            best = take ? other : best;
            who = take ? other_who : who;
        }
        if (who % WARP == lane)
            taken |= 1u << who / WARP;
        top = r == 0 ? best : top;
        float p = hs_exp(best - top);
        total += p;
        if (lane == 0) {
            id[r] = (int32_t)who;
            weight[r] = p;
        }
    }
    for (uint32_t r = 0; lane == 0 && r < used; r++)
        weight[r] /= total;
}

static __global__ void top_k_kernel(const float *logits, uint32_t experts, uint32_t used, int32_t *id, float *weight)
{
    uint64_t t = blockIdx.x;
    choose(logits + t * experts, experts, used, threadIdx.x, id + t * used, weight + t * used);
}

cudaError_t gpu_run_top_k(const float *logits, uint32_t experts, uint32_t used, uint32_t n, int32_t *id, float *weight,
                          cudaStream_t s)
{
    return gpu_launch(top_k_kernel, dim3(n), dim3(WARP), 0, s, logits, experts, used, id, weight);
}

/* One token's, and where they are. */
static __global__ void choose_kernel(const float *logits, uint32_t experts, uint32_t used, const uint64_t *table,
                                     gpu_choice out)
{
    choose(logits, experts, used, threadIdx.x, out.id, out.weight);
    __syncwarp();
    for (uint32_t r = threadIdx.x; r < used; r += WARP) {
        int32_t mine = out.id[r];
        uint32_t lower = 0;
        for (uint32_t k = 0; k < used; k++)
            lower += out.id[k] < mine;
        out.slot[r] = lower;
        out.where[r] = table[mine];
    }
}

cudaError_t gpu_run_choose(const float *logits, uint32_t experts, uint32_t used, const uint64_t *table,
                           const gpu_choice *out, cudaStream_t s)
{
    return gpu_launch(choose_kernel, dim3(1), dim3(WARP), 0, s, logits, experts, used, table, *out);
}

/* Until the host has answered, if there is anything to wait for: all threads of the block, for token t. */
static __device__ void wait_for_answers(const gpu_answers *e, uint32_t t, uint32_t used)
{
    bool any = false;
    for (uint32_t r = 0; r < used; r++)
        any |= e->where[t * used + r] == 0;
    if (!any)
        return;
    if (threadIdx.x == 0)
        gpu_flag_wait(e->answered, *e->turn);
    __syncthreads();
}

enum { AT_ONCE = 8 /* rows that are read before they are added: those of ordinary memory are far */ };

static __global__ void combine_kernel(float *x, const float *y, const uint32_t *slot, const float *weight,
                                      uint32_t used, const float *mix, uint64_t shared, uint32_t hidden,
                                      gpu_answers elsewhere)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (elsewhere.where)
        wait_for_answers(&elsewhere, t, used);
    if (i >= hidden)
        return;
    float sum = 0.0f, v[AT_ONCE] = {};
    for (uint32_t first = t * used, end = first + used; first < end; first += AT_ONCE) {
#pragma unroll
        for (uint32_t k = 0; k < AT_ONCE; k++)
            if (first + k < end) {
                const float *from = elsewhere.where && elsewhere.where[first + k] == 0 ? elsewhere.y : y;
                v[k] = from[(uint64_t)slot[first + k] * hidden + i];
            }
#pragma unroll
        for (uint32_t k = 0; k < AT_ONCE; k++)
            if (first + k < end)
                sum = fmaf(weight[first + k], v[k], sum);
    }
    if (mix)
        sum = fmaf(hs_sigmoid(mix[t]), y[(shared + t) * hidden + i], sum);
    x[(uint64_t)t * hidden + i] += sum;
}

cudaError_t gpu_run_combine(float *x, const float *y, const uint32_t *slot, const float *weight, uint32_t used,
                            const float *mix, uint64_t shared, uint32_t hidden, uint32_t n,
                            const gpu_answers *elsewhere, cudaStream_t s)
{
    return gpu_launch(combine_kernel, dim3((hidden + 255) / 256, n), dim3(256), 0, s, x, y, slot, weight, used, mix,
                      shared, hidden, elsewhere ? *elsewhere : gpu_answers{});
}

cudaError_t gpu_load_rows(void)
{
    return gpu_load(norm_kernel, q8_kernel, gather_q8_kernel, swiglu_kernel, top_k_kernel, choose_kernel,
                    combine_kernel);
}
