/*
 * sample.cu - draws a token from the logits on the card (kernels/sample.h has what is drawn).
 *
 * Blocks of 4,096 values each keep the best 256 of theirs, and sum up what all of theirs weigh; one block keeps the
 * best 256 of those, puts them in order and draws.  A candidate is a key: its value's bits so that larger values are
 * larger numbers, above the complement of its id, so no two are equal and the best ones are those from some key on.
 * That key is found bit by bit, with all keys in registers.  Sums are of whole numbers: their order does not show.
 */
#include "kernels/cuda/backend.h"

enum {
    MOST = HS_SAMPLE_MOST,
    LOCAL_THREADS = 256,
    LOCAL_KEYS = 16, /* of a thread */
    LOCAL_VALUES = LOCAL_THREADS * LOCAL_KEYS,
    LAST_THREADS = 512,
    LAST_KEYS = GPU_SAMPLE_MOST / LOCAL_VALUES * MOST / LAST_THREADS
};

static __device__ __forceinline__ uint64_t key_of(float value, uint32_t id)
{
    uint32_t u = hs_float_bits(value + 0.0f); /* zero has one sign */
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return value == value ? (uint64_t)u << 32 | (uint32_t)~id : 0;
}

static __device__ __forceinline__ float value_of(uint64_t key)
{
    uint32_t u = (uint32_t)(key >> 32);
    return hs_bits_float(u & 0x80000000u ? u & 0x7FFFFFFFu : ~u);
}

/* The sum of a block's numbers, in each of its threads. All threads come. */
template <int THREADS> static __device__ __forceinline__ uint32_t block_sum(uint32_t v, uint32_t *room)
{
    uint32_t sum = 0, mine = (uint32_t)gpu_warp_sum_int((int)v);
    if (threadIdx.x % WARP == 0)
        room[threadIdx.x / WARP] = mine;
    __syncthreads();
    for (uint32_t w = 0; w < THREADS / WARP; w++)
        sum += room[w];
    __syncthreads();
    return sum;
}

/* The key from which on there are `want` ones, of at least as many that are not 0. All threads come. */
template <int THREADS, int KEYS>
static __device__ __forceinline__ uint64_t best_from(const uint64_t (&key)[KEYS], uint32_t want, uint32_t *room)
{
    uint64_t from = 0;
    for (int bit = 63; bit >= 0; bit--) {
        uint64_t with = from | 1ull << bit;
        uint32_t count = 0;
        for (int i = 0; i < KEYS; i++)
            count += key[i] >= with;
        count = block_sum<THREADS>(count, room);
        from = count >= want ? with : from;
        if (count == want)
            break;
    }
    return from;
}

static __global__ void __launch_bounds__(LOCAL_THREADS) sample_local_kernel(gpu_sample c)
{
    __shared__ uint32_t room[LOCAL_THREADS / WARP], taken;
    __shared__ uint64_t mass[LOCAL_THREADS];
    float largest = hs_bits_float(c.best->x) * c.scale;
    uint64_t key[LOCAL_KEYS], sum = 0;
    uint32_t numbers = 0;
    for (int i = 0; i < LOCAL_KEYS; i++) {
        uint32_t id = blockIdx.x * LOCAL_VALUES + i * LOCAL_THREADS + threadIdx.x;
        float value = id < c.n ? c.x[id] * c.scale : NAN;
        key[i] = key_of(value, id);
        numbers += key[i] != 0;
        sum += key[i] && c.top_k == 0 ? hs_sample_weight(value, largest) : 0;
    }
    mass[threadIdx.x] = sum;
    if (threadIdx.x == 0)
        taken = 0;
    numbers = block_sum<LOCAL_THREADS>(numbers, room);
    uint32_t want = numbers < MOST ? numbers : (uint32_t)MOST;
    uint64_t from = want == numbers ? 1 : best_from<LOCAL_THREADS, LOCAL_KEYS>(key, want, room);
    for (int i = 0; i < LOCAL_KEYS; i++)
        if (key[i] >= from)
            c.key[blockIdx.x * MOST + atomicAdd(&taken, 1u)] = key[i];
    if (threadIdx.x)
        return;
    for (int i = 1; i < LOCAL_THREADS; i++)
        sum += mass[i];
    c.info[blockIdx.x].mass = sum;
    c.info[blockIdx.x].numbers = numbers;
    c.info[blockIdx.x].kept = want;
}

/* Of the best `want` of m candidates, one. All threads come. */
static __device__ __forceinline__ void draw(const gpu_sample *c, const uint64_t (&key)[LAST_KEYS], uint64_t from,
                                            uint32_t want, uint32_t m, uint64_t total)
{
    __shared__ uint64_t unsorted[MOST], weight[MOST];
    __shared__ uint32_t taken, id[MOST];
    float largest = hs_bits_float(c->best->x) * c->scale;
    if (threadIdx.x == 0)
        taken = 0;
    __syncthreads();
    for (int i = 0; i < LAST_KEYS; i++)
        if (key[i] >= from)
            unsorted[atomicAdd(&taken, 1u)] = key[i];
    __syncthreads();
    if (threadIdx.x < want) {
        uint64_t mine = unsorted[threadIdx.x];
        uint32_t rank = 0;
        for (uint32_t i = 0; i < want; i++)
            rank += unsorted[i] > mine;
        weight[rank] = hs_sample_weight(value_of(mine), largest);
        id[rank] = ~(uint32_t)mine;
    }
    __syncthreads();
    if (threadIdx.x)
        return;
    if (want == m) {
        total = 0;
        for (uint32_t i = 0; i < m; i++)
            total += weight[i];
    }
    int32_t at = hs_sample_pick(&c->rule, weight, want, m, total);
    *c->id = at < 0 ? (int32_t)HS_UNDECIDED : (int32_t)id[at];
}

static __global__ void __launch_bounds__(LAST_THREADS) sample_last_kernel(gpu_sample c, uint32_t parts)
{
    __shared__ uint32_t room[LAST_THREADS / WARP];
    float largest = hs_bits_float(c.best->x) * c.scale;
    if (!isfinite(largest) || (int32_t)c.best->y < 0) { /* the same in all threads */
        if (threadIdx.x == 0)
            *c.id = (int32_t)c.best->y;
        return;
    }
    uint64_t key[LAST_KEYS], total = 0;
    uint32_t m = 0;
    for (uint32_t p = 0; p < parts; p++) {
        m += c.info[p].numbers;
        total += c.info[p].mass;
    }
    for (int i = 0; i < LAST_KEYS; i++) {
        uint32_t at = i * LAST_THREADS + threadIdx.x, p = at / MOST;
        key[i] = p < parts && at % MOST < c.info[p].kept ? c.key[at] : 0;
    }
    uint32_t kept = 0;
    for (int i = 0; i < LAST_KEYS; i++)
        kept += key[i] != 0;
    kept = block_sum<LAST_THREADS>(kept, room);
    m = c.top_k && c.top_k < m ? c.top_k : m;
    uint32_t want = m < MOST ? m : (uint32_t)MOST;
    uint64_t from = want == kept ? 1 : best_from<LAST_THREADS, LAST_KEYS>(key, want, room);
    draw(&c, key, from, want, m, total);
}

cudaError_t gpu_run_sample(const gpu_sample *c, cudaStream_t s)
{
    uint32_t parts = (c->n + LOCAL_VALUES - 1) / LOCAL_VALUES;
    GPU_TRY(gpu_launch(sample_local_kernel, dim3(parts), dim3(LOCAL_THREADS), 0, s, *c));
    return gpu_launch(sample_last_kernel, dim3(1), dim3(LAST_THREADS), 0, s, *c, parts);
}

static __global__ void penalties_kernel(const float *x, float *y, const hs_repeat *repeat, uint32_t n, uint32_t usable,
                                        float repetition, float presence, float frequency)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || (uint32_t)repeat[i].id >= usable)
        return;
    y[repeat[i].id] = hs_sample_penalised(x[repeat[i].id], repeat[i].count, repetition, presence, frequency);
}

cudaError_t gpu_run_penalties(const float *x, float *y, const hs_repeat *repeat, const hs_selection *c, cudaStream_t s)
{
    return gpu_launch(penalties_kernel, dim3((c->n_repeats + 255) / 256), dim3(256), 0, s, x, y, repeat, c->n_repeats,
                      c->usable, c->repetition, c->presence, c->frequency);
}

cudaError_t gpu_load_sample(void)
{
    return gpu_load(sample_local_kernel, sample_last_kernel, penalties_kernel);
}

/* ---- stages ---------------------------------------------------------------------------------- */

/*
 * Only the first row of logits is in use: behind it there is room for those with penalties (row 1), for what occurs
 * (2, 3), for keys (4, 5) and what is known of their blocks (6).
 */
hlwq_status gpu_stage_choose(hs_backend *be, const hs_selection *choice, int32_t *id, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    uint64_t vocab = c->lim.vocab;
    uint2 *part = reinterpret_cast<uint2 *>(c->gate);
    float *logits = c->logits;
    static_assert(HS_CARD_LOGITS >= 8, "rows for all of it");
    if (choice->scale != 0.0f && choice->usable > GPU_SAMPLE_MOST) {
        *id = HS_UNDECIDED;
        return HLWQ_OK;
    }
    if (choice->n_repeats) {
        logits += vocab;
        hs_repeat *repeat = reinterpret_cast<hs_repeat *>(c->logits + 2 * vocab);
        CUDA_DO("penalties", cudaMemcpyAsync(logits, c->logits, choice->usable * sizeof(float),
                                             cudaMemcpyDeviceToDevice, c->stream));
        CUDA_DO("penalties", cudaMemcpyAsync(repeat, choice->repeat, choice->n_repeats * sizeof *repeat,
                                             cudaMemcpyHostToDevice, c->stream));
        CUDA_DO("penalties", gpu_run_penalties(c->logits, logits, repeat, choice, c->stream));
    }
    CUDA_DO("a choice", gpu_run_best(logits, choice->usable, part, c->stream));
    const int32_t *chosen = reinterpret_cast<int32_t *>(&part[GPU_BEST_PARTS].y);
    if (choice->scale != 0.0f) {
        gpu_sample g = {};
        g.x = logits;
        g.n = choice->usable;
        g.top_k = choice->top_k;
        g.scale = choice->scale;
        g.rule = choice->rule;
        g.best = &part[GPU_BEST_PARTS];
        g.key = reinterpret_cast<uint64_t *>(c->logits + 4 * vocab);
        g.info = reinterpret_cast<gpu_sample_info *>(c->logits + 6 * vocab);
        g.id = reinterpret_cast<int32_t *>(part);
        CUDA_DO("a choice", gpu_run_sample(&g, c->stream));
        chosen = g.id;
    }
    return gpu_get(be, id, chosen, sizeof *id, err);
}

hlwq_status gpu_stage_logits(hs_backend *be, uint32_t n, float *logits, hlwq_error *err)
{
    return gpu_get(be, logits, cuda_of(be)->logits, n * sizeof(float), err);
}
