/*
 * attention.cu - attention over the cache: rotations, appending, codes, and the weighted sum of values.
 *
 * Fixed work: it runs where the cache is, in an order that depends on positions alone.  Positions are cut into pages of
 * 64; a query at position p folds so many neighbouring pages into a span that there are at most SPANS of them, and then
 * the spans, both in ascending order.  A few tokens have a block of threads for each span, and their spans are folded
 * by a second launch; of many tokens a block goes through all spans, with the same roundings.
 *
 * A block serves up to GROUP query heads of one key head, so a page is read once for all of them.  Scores: eight lanes
 * share a position, each 32 dimensions as a chunk of a coded block holds them (decode.h).  Values: a thread owns
 * dimensions.  Pages in codes come first; in them queries are rotated, and their sum is un-rotated when the last of a
 * span is done.
 */
#include "kernels/cuda/device.h"

enum {
    ATTEND_THREADS = 128,
    WARPS = ATTEND_THREADS / WARP,
    HEAD_PER_LANE = 8, /* head dims up to 256 */
    HEAD_MAX = HEAD_PER_LANE * WARP,
    PER_THREAD = HEAD_MAX / ATTEND_THREADS,
    GROUP = 8,
    SPANS = GPU_SPANS,
    SPAN_MIN = 2 /* pages */
};

static __global__ void rope_kernel(const float *inv_freq, float scale, uint32_t half, uint32_t first, uint32_t n,
                                   float *table, uint32_t *at)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (at && i == 0)
        *at = first;
    if (i >= n * half)
        return;
    uint32_t t = i / half, j = i % half;
    double angle = (double)((float)(first + t) * inv_freq[j]);
    table[(uint64_t)t * 2 * half + j] = (float)cos(angle) * scale;
    table[(uint64_t)t * 2 * half + half + j] = (float)sin(angle) * scale;
}

cudaError_t gpu_run_rope_table(const float *inv_freq, float scale, uint32_t rotary_dims, uint32_t first, uint32_t n,
                               float *table, uint32_t *at, cudaStream_t s)
{
    uint32_t half = rotary_dims / 2;
    return gpu_launch(rope_kernel, dim3((n * half + 127) / 128), dim3(128), 0, s, inv_freq, scale, half, first, n,
                      table, at);
}

/* The position of the first query. */
static __device__ __forceinline__ uint32_t first_of(const gpu_attention &a)
{
    return a.at ? *a.at : a.first;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint8_t *plain_page(const gpu_attention &a, uint32_t page)
{
    uint64_t dim = (uint64_t)a.kv_heads * a.head_dim;
    return a.page + page % a.ring * (2 * HS_GRID * dim * (a.half ? 2 : 4));
}

static __device__ __forceinline__ void append(const gpu_attention &a, uint32_t position, uint64_t at, bool values,
                                              float v)
{
    uint64_t dim = (uint64_t)a.kv_heads * a.head_dim;
    uint8_t *page = plain_page(a, position / HS_GRID);
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
    uint32_t first = first_of(a);
    for (uint32_t c = lane; c < d; c += WARP) {
        append(a, first + t, (uint64_t)h * d + c, false, v[c]);
        append(a, first + t, (uint64_t)h * d + c, true, value[c]);
    }
}

/* ---- codes: the bits of kernels/kv_codec.c --------------------------------------------------- */

/* Sums of products over a block; element 4 lane + i is v[i]. In 16 lanes by ascending position, then as a tree. */
static __device__ __forceinline__ float block_sum(const float (&a)[4], const float (&b)[4], uint32_t lane)
{
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t s = 0; s < 8; s++)
        for (int i = 0; i < 4; i++) {
            float term = a[i] * b[i];
            sum[i] += __shfl_sync(0xFFFFFFFFu, term, (int)(4 * s + lane % 4));
        }
    for (int m = 2; m; m /= 2)
        for (int i = 0; i < 4; i++)
            sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], m);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

static __device__ __forceinline__ uint16_t integer_codes(const float (&r)[4], uint32_t lane, uint8_t *low)
{
    float top = 0.0f;
    int bad = 0;
    for (int i = 0; i < 4; i++) {
        float m = fabsf(r[i]);
        top = m > top ? m : top;
        bad |= !(m < INFINITY);
    }
    top = warp_max(top);
    bad = __any_sync(0xFFFFFFFFu, bad);
    uint16_t norm = bad ? 0x7E00 : gpu_float_to_half(top * (8.0f / 127.0f));
    float step = gpu_half_to_float(norm) * 0.125f, inverse = step > 0.0f && step < INFINITY ? 1.0f / step : 0.0f;
    uint32_t word = 0;
    for (int i = 0; i < 4; i++) {
        float k = inverse > 0.0f ? (r[i] * inverse + 0x1.8p23f) - 0x1.8p23f : 0.0f; /* nearest even */
        k = k > 127.0f ? 127.0f : k < -127.0f ? -127.0f : k;
        word |= (uint32_t)((int)k & 255) << 8 * i;
    }
    reinterpret_cast<uint32_t *>(low)[lane] = word;
    return norm;
}

static __device__ __forceinline__ uint16_t level_codes(const gpu_kv_side &side, const float (&r)[4], uint32_t lane,
                                                       uint8_t *low, uint8_t *high)
{
    uint32_t n = 1u << side.bits, half = n / 2, word = 0, code[4] = {0, 0, 0, 0};
    float s = sqrtf(block_sum(r, r, lane) * (1.0f / HS_BLOCK)), chosen[4];
    for (uint32_t e = 0; e + 1 < n; e++) {
        float edge = (side.ascending[e] + side.ascending[e + 1]) * 0.5f * s;
        for (int i = 0; i < 4; i++)
            code[i] += r[i] > edge;
    }
    for (int i = 0; i < 4; i++) {
        chosen[i] = side.ascending[code[i]];
        uint32_t sm = code[i] >= half ? code[i] - half : half | (half - 1 - code[i]); /* the sign above the magnitude */
        word |= sm << 8 * i;
    }
    float rc = block_sum(r, chosen, lane), cc = block_sum(chosen, chosen, lane);
    uint32_t upper = __shfl_xor_sync(0xFFFFFFFFu, word, 16); /* what lies 64 further on, for the lower half of lanes */
    if (side.bits == 4) {
        if (lane < 16)
            reinterpret_cast<uint32_t *>(low)[lane] = word | upper << 4;
    } else {
        uint32_t two = (word & 0x03030303u) | (upper & 0x03030303u) << 4;
        uint32_t after = __shfl_down_sync(0xFFFFFFFFu, two, 2);
        if (lane < 16 && lane % 4 < 2)
            reinterpret_cast<uint32_t *>(low)[lane / 4 * 2 + lane % 4] = two | after << 2;
    }
    if (side.bits == 3) {
        uint32_t sign[4];
        sign[0] = __ballot_sync(0xFFFFFFFFu, (int)(word >> 2 & 1));
        sign[1] = __ballot_sync(0xFFFFFFFFu, (int)(word >> 10 & 1));
        sign[2] = __ballot_sync(0xFFFFFFFFu, (int)(word >> 18 & 1));
        sign[3] = __ballot_sync(0xFFFFFFFFu, (int)(word >> 26 & 1));
        uint32_t odd = lane / 2 % 2, from = 16 * (lane % 2) + lane % 16 / 4 * 4, byte = 0; /* lane: the byte it makes */
        for (uint32_t q = 0; q < 4; q++)
            byte |= ((odd ? sign[1] : sign[0]) >> (from + q) & 1) << (7 - 2 * q) |
                    ((odd ? sign[3] : sign[2]) >> (from + q) & 1) << (6 - 2 * q);
        if (lane < 16)
            high[lane] = (uint8_t)byte;
    }
    return s < INFINITY ? gpu_float_to_half(rc / cc) : 0x7E00;
}

/* A warp a block of 128 of a head of a position: pages a.coded_first.. are coded from their fp16 form. */
static __global__ void code_kernel(gpu_attention a, uint32_t blocks)
{
    uint32_t lane = threadIdx.x % WARP, of = a.head_dim / HS_BLOCK;
    uint32_t block = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, page = a.coded_first + blockIdx.y;
    if (block >= blocks)
        return; /* whole warps */
    const gpu_kv_side &side = a.side[blockIdx.z];
    uint32_t head = block / (HS_GRID * of), position = block / of % HS_GRID, part = block % of;
    uint64_t dim = (uint64_t)a.kv_heads * a.head_dim;
    const uint16_t *plain = reinterpret_cast<const uint16_t *>(plain_page(a, page)) + blockIdx.z * HS_GRID * dim +
                            position * dim + head * a.head_dim + part * HS_BLOCK;
    float r[4];
    for (uint32_t i = 0; i < 4; i++)
        r[i] = gpu_half_to_float(plain[4 * lane + i]);
    warp_wht(r, lane);
    uint8_t *to = a.coded + page * a.coded_bytes, *low = to + side.low + block * (uint64_t)side.low_bytes;
    uint16_t norm =
        side.bits == 8 ? integer_codes(r, lane, low) : level_codes(side, r, lane, low, to + side.high + block * 16ull);
    if (lane == 0)
        reinterpret_cast<uint16_t *>(to + side.norms)[block] = (norm & 0x7C00) == 0x7C00 ? 0x7E00 : norm;
}

/* ---- scores and sums ------------------------------------------------------------------------- */

/* Where a dimension of a query lies, so that lanes which share a position read side by side. */
static __device__ __forceinline__ uint32_t query_place(uint32_t c)
{
    uint32_t lane = c / HS_BLOCK * 4 + c % 64 / 16, mine = c % HS_BLOCK / 64 * 16 + c % 16;
    return (mine / 4 * 8 + lane) * 4 + mine % 4;
}

/* Sixteen neighbours of a plain page from element i on; zeros past `count`. */
static __device__ __forceinline__ void load_plain(const gpu_attention &a, const uint8_t *page, uint64_t i,
                                                  uint32_t count, float *v)
{
    if (a.half && count >= 16 && i % 8 == 0) {
        const uint4 *p = reinterpret_cast<const uint4 *>(page + 2 * i);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint4 four = p[k];
            const uint32_t word[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int w = 0; w < 4; w++) {
                v[8 * k + 2 * w] = gpu_half_to_float((uint16_t)word[w]);
                v[8 * k + 2 * w + 1] = gpu_half_to_float((uint16_t)(word[w] >> 16));
            }
        }
        return;
    }
#pragma unroll
    for (uint32_t k = 0; k < 16; k++) {
        v[k] = 0.0f;
        if (k < count)
            v[k] = a.half ? gpu_half_to_float(reinterpret_cast<const uint16_t *>(page)[i + k])
                          : reinterpret_cast<const float *>(page)[i + k];
    }
}

/* A chunk of a coded block: its elements 16 t.., and 64 + 16 t... */
static __device__ __forceinline__ void load_coded(const gpu_kv_side &side, const float *level, const uint8_t *page,
                                                  uint64_t block, uint32_t t, float *v)
{
    const uint8_t *low = page + side.low + block * side.low_bytes;
    float norm = gpu_half_to_float(reinterpret_cast<const uint16_t *>(page + side.norms)[block]);
    if (side.bits == 8) {
#pragma unroll
        for (uint32_t k = 0; k < 32; k++)
            v[k] = (float)(int8_t)low[k / 16 * 64 + 16 * t + k % 16] * (norm * 0.125f);
        return;
    }
    if (side.bits == 4) {
        uint4 four = *reinterpret_cast<const uint4 *>(low + 16 * t);
        const uint32_t word[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (uint32_t k = 0; k < 32; k++)
            v[k] = level[word[k % 16 / 4] >> (k % 4 * 8 + k / 16 * 4) & 15] * norm;
        return;
    }
    uint2 two = *reinterpret_cast<const uint2 *>(low + 8 * t);
    uint32_t sign = side.bits == 3 ? *reinterpret_cast<const uint32_t *>(page + side.high + block * 16 + 4 * t) : 0;
#pragma unroll
    for (uint32_t k = 0; k < 32; k++) {
        uint32_t c = k % 16, word = c % 8 / 4 ? two.y : two.x, code = word >> (c % 4 * 8 + k / 16 * 4 + c / 8 * 2) & 3;
        uint32_t bit = (c & 1) * 16 + k / 16 * 8 + 7 - c / 2;
        v[k] = level[code | (sign >> bit & 1) << 2] * norm;
    }
}

static __device__ __forceinline__ float coded_value(const gpu_kv_side &side, const float *level, const uint8_t *page,
                                                    uint64_t block, uint32_t j)
{
    const uint8_t *low = page + side.low + block * side.low_bytes;
    float norm = gpu_half_to_float(reinterpret_cast<const uint16_t *>(page + side.norms)[block]);
    uint32_t c = j % 16, chunk = j % 64 / 16, upper = j / 64;
    if (side.bits == 8)
        return (float)(int8_t)low[j] * (norm * 0.125f);
    if (side.bits == 4)
        return level[low[j % 64] >> 4 * upper & 15] * norm;
    uint32_t code = low[8 * chunk + c % 8] >> (4 * upper + c / 8 * 2) & 3;
    if (side.bits == 3)
        code |= (page[side.high + block * 16 + 4 * chunk + 2 * (c & 1) + upper] >> (7 - c / 2) & 1u) << 2;
    return level[code] * norm;
}

/* What the threads of a block share. */
typedef struct attend_shared {
    float query[GROUP][HEAD_MAX], rotated[GROUP][HEAD_MAX], turn[GROUP][HEAD_MAX];
    float weight[HS_GRID][GROUP], level[2][16];
    float top[GROUP], total[GROUP], old[GROUP], now[GROUP]; /* of the span: its state, and the last fold's factors */
    float all_top[GROUP], all_total[GROUP];
} attend_shared;

/* weight[j][g] = the scaled scores of a page. */
static __device__ __forceinline__ void score_page(const gpu_attention &a, attend_shared &s, uint32_t page, bool coded,
                                                  uint32_t seen, uint32_t kv_head, uint32_t groups, float scale)
{
    uint32_t lane = threadIdx.x % WARP, eighth = lane % 8, part = eighth / 4, t = eighth % 4, d = a.head_dim;
    const uint8_t *at = coded ? a.coded + page * a.coded_bytes : plain_page(a, page);
    for (uint32_t j0 = threadIdx.x / WARP * 4; j0 < seen; j0 += 4 * WARPS) {
        uint32_t j = j0 + lane / 8 < seen ? j0 + lane / 8 : seen - 1; /* all lanes stay for the sums */
        float u[32];
        if (coded && part < d / HS_BLOCK) {
            uint64_t block = ((uint64_t)kv_head * HS_GRID + j) * (d / HS_BLOCK) + part;
            load_coded(a.side[0], s.level[0], at, block, t, u);
        } else {
            uint64_t i = ((uint64_t)j * a.kv_heads + kv_head) * d;
#pragma unroll
            for (uint32_t h = 0; h < 2; h++) {
                uint32_t c = part * HS_BLOCK + 64 * h + 16 * t;
                load_plain(a, at, i + c, coded || c >= d ? 0 : d - c, u + 16 * h);
            }
        }
        const float(*q)[HEAD_MAX] = coded ? s.rotated : s.query;
        for (uint32_t g = 0; g < groups; g++) {
            float dot = 0.0f;
#pragma unroll
            for (uint32_t k = 0; k < 8; k++) {
                const float4 four = *reinterpret_cast<const float4 *>(&q[g][(k * 8 + eighth) * 4]);
                dot = fmaf(four.x, u[4 * k], dot);
                dot = fmaf(four.y, u[4 * k + 1], dot);
                dot = fmaf(four.z, u[4 * k + 2], dot);
                dot = fmaf(four.w, u[4 * k + 3], dot);
            }
            dot += __shfl_xor_sync(0xFFFFFFFFu, dot, 1);
            dot += __shfl_xor_sync(0xFFFFFFFFu, dot, 2);
            dot += __shfl_xor_sync(0xFFFFFFFFu, dot, 4);
            if (eighth == 0 && j0 + lane / 8 < seen)
                s.weight[j][g] = dot * scale;
        }
    }
}

/* Scores become weights; the span's largest score and sum take them in. A warp a head. */
static __device__ __forceinline__ void weigh_page(attend_shared &s, uint32_t seen, uint32_t groups, bool first)
{
    uint32_t lane = threadIdx.x % WARP;
    for (uint32_t g = threadIdx.x / WARP; g < groups; g += WARPS) {
        bool two = lane + WARP < seen, one = lane < seen;
        float s0 = one ? s.weight[lane][g] : -INFINITY, s1 = two ? s.weight[lane + WARP][g] : -INFINITY;
        float m = warp_max(fmaxf(s0, s1)), e0 = one ? hs_exp(s0 - m) : 0.0f, e1 = two ? hs_exp(s1 - m) : 0.0f;
        float sum = warp_sum(e0 + e1);
        s.weight[lane][g] = e0;
        s.weight[lane + WARP][g] = e1;
        if (lane == 0) {
            float top = first ? m : s.top[g], larger = top > m ? top : m;
            s.old[g] = first ? 0.0f : hs_exp(top - larger);
            s.now[g] = hs_exp(m - larger);
            s.total[g] = fmaf(first ? 0.0f : s.total[g], s.old[g], sum * s.now[g]);
            s.top[g] = larger;
        }
    }
}

static __device__ __forceinline__ void add_values(const gpu_attention &a, const attend_shared &s, uint32_t page,
                                                  bool coded, uint32_t seen, uint32_t kv_head, uint32_t groups,
                                                  float (&acc)[GROUP][PER_THREAD])
{
    uint32_t d = a.head_dim;
    uint64_t dim = (uint64_t)a.kv_heads * d;
    const uint8_t *at = coded ? a.coded + page * a.coded_bytes : plain_page(a, page);
#pragma unroll
    for (uint32_t i = 0; i < PER_THREAD; i++) {
        uint32_t c = i * ATTEND_THREADS + threadIdx.x;
        float part[GROUP];
#pragma unroll
        for (uint32_t g = 0; g < GROUP; g++)
            part[g] = 0.0f;
        for (uint32_t j = 0; c < d && j < seen; j++) {
            float v;
            if (coded) {
                uint64_t block = ((uint64_t)kv_head * HS_GRID + j) * (d / HS_BLOCK) + c / HS_BLOCK;
                v = coded_value(a.side[1], s.level[1], at, block, c % HS_BLOCK);
            } else {
                uint64_t e = HS_GRID * dim + j * dim + (uint64_t)kv_head * d + c;
                v = a.half ? gpu_half_to_float(reinterpret_cast<const uint16_t *>(at)[e])
                           : reinterpret_cast<const float *>(at)[e];
            }
#pragma unroll
            for (uint32_t g = 0; g < GROUP; g++)
                if (g < groups)
                    part[g] = fmaf(s.weight[j][g], v, part[g]);
        }
#pragma unroll
        for (uint32_t g = 0; g < GROUP; g++)
            if (g < groups)
                acc[g][i] = fmaf(acc[g][i], s.old[g], part[g] * s.now[g]);
    }
}

/* x = H x / 128 for blocks of rows [groups][d]; all threads come. */
static __device__ __forceinline__ void rotate_rows(float (*x)[HEAD_MAX], uint32_t groups, uint32_t d, bool placed)
{
    uint32_t lane = threadIdx.x % WARP, of = d / HS_BLOCK;
    for (uint32_t k = threadIdx.x / WARP; k < groups * of; k += WARPS) {
        float v[4], *row = x[k / of];
        uint32_t c = k % of * HS_BLOCK + 4 * lane, at = placed ? query_place(c) : c;
        for (int i = 0; i < 4; i++)
            v[i] = row[at + (uint32_t)i];
        warp_wht(v, lane);
        for (int i = 0; i < 4; i++)
            row[at + (uint32_t)i] = v[i] * (1.0f / HS_BLOCK);
    }
}

static __device__ __forceinline__ void unrotate(attend_shared &s, uint32_t groups, uint32_t d,
                                                float (&acc)[GROUP][PER_THREAD])
{
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++)
            s.turn[g][i * ATTEND_THREADS + threadIdx.x] = acc[g][i];
    __syncthreads();
    rotate_rows(s.turn, groups, d, false);
    __syncthreads();
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++)
            acc[g][i] = s.turn[g][i * ATTEND_THREADS + threadIdx.x];
}

/* Pages of a span of a query at a position; spans there are. */
static __host__ __device__ __forceinline__ uint32_t span_pages(uint32_t position)
{
    uint32_t pages = position / HS_GRID + 1, span = (pages + SPANS - 1) / SPANS;
    return span < SPAN_MIN ? (uint32_t)SPAN_MIN : span;
}

static __host__ __device__ __forceinline__ uint32_t span_count(uint32_t position)
{
    return (position / HS_GRID + span_pages(position)) / span_pages(position);
}

/* The span's state: top and total in shared memory, the weighted values in acc. */
static __device__ __forceinline__ void attend_span(const gpu_attention &a, attend_shared &s, uint32_t position,
                                                   uint32_t span, uint32_t kv_head, uint32_t groups,
                                                   float (&acc)[GROUP][PER_THREAD])
{
    uint32_t from = span * span_pages(position), to = from + span_pages(position), last = position / HS_GRID;
    uint32_t coded = a.coded && last >= 2 ? last - 1 : 0; /* pages that this query reads in codes */
    to = to > last ? last + 1 : to;
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++)
            acc[g][i] = 0.0f;
    for (uint32_t b = from; b < to; b++) {
        uint32_t seen = b == last ? position % HS_GRID + 1 : (uint32_t)HS_GRID;
        __syncthreads();
        score_page(a, s, b, b < coded, seen, kv_head, groups, 1.0f / sqrtf((float)a.head_dim));
        __syncthreads();
        weigh_page(s, seen, groups, b == from);
        __syncthreads();
        add_values(a, s, b, b < coded, seen, kv_head, groups, acc);
        if (b < coded && (b + 1 == coded || b + 1 == to))
            unrotate(s, groups, a.head_dim, acc);
    }
}

/* all and s.all_*: the spans so far; takes in the one in acc, s.top and s.total. */
static __device__ __forceinline__ void fold_span(attend_shared &s, bool first, uint32_t groups,
                                                 const float (&acc)[GROUP][PER_THREAD], float (&all)[GROUP][PER_THREAD])
{
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++) {
        if (g >= groups)
            continue;
        float top = first ? s.top[g] : s.all_top[g], larger = top > s.top[g] ? top : s.top[g];
        float old = first ? 0.0f : hs_exp(top - larger), now = hs_exp(s.top[g] - larger);
        for (uint32_t i = 0; i < PER_THREAD; i++)
            all[g][i] = fmaf(all[g][i], old, acc[g][i] * now);
    }
    __syncthreads();
    if (threadIdx.x < groups) {
        uint32_t g = threadIdx.x;
        float top = first ? s.top[g] : s.all_top[g], larger = top > s.top[g] ? top : s.top[g];
        float old = first ? 0.0f : hs_exp(top - larger), now = hs_exp(s.top[g] - larger);
        s.all_total[g] = fmaf(first ? 0.0f : s.all_total[g], old, s.total[g] * now);
        s.all_top[g] = larger;
    }
    __syncthreads();
}

/* A block: GROUP query heads of a key head of a token; one span for the second launch to fold, or all of them. */
template <bool ALL> static __global__ void __launch_bounds__(ATTEND_THREADS) attend_kernel(gpu_attention a)
{
    __shared__ __align__(16) attend_shared s;
    uint32_t d = a.head_dim, t = blockIdx.y, position = first_of(a) + t, of = a.q_heads / a.kv_heads;
    uint32_t chunks = (of + GROUP - 1) / GROUP, kv_head = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    uint32_t head0 = kv_head * of + chunk * GROUP, left = of - chunk * GROUP,
             groups = left < GROUP ? left : (uint32_t)GROUP;
    uint32_t spans = span_count(position);
    if (!ALL && blockIdx.z >= spans)
        return; /* the whole block */
    for (uint32_t i = threadIdx.x; i < groups * HEAD_MAX; i += ATTEND_THREADS) {
        uint32_t g = i / HEAD_MAX, c = i % HEAD_MAX;
        float v = c < d ? a.proj[t * a.width + (uint64_t)(head0 + g) * 2 * d + c] : 0.0f;
        s.query[g][query_place(c)] = v;
        s.rotated[g][query_place(c)] = v;
    }
    if (a.coded && threadIdx.x < 32)
        s.level[threadIdx.x / 16][threadIdx.x % 16] = a.side[threadIdx.x / 16].stored[threadIdx.x % 16];
    if (a.coded) {
        __syncthreads();
        rotate_rows(s.rotated, groups, d, true);
    } /* the first span begins with a barrier */
    float acc[GROUP][PER_THREAD], all[GROUP][PER_THREAD];
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++)
            all[g][i] = 0.0f;
    for (uint32_t span = ALL ? 0 : blockIdx.z; span < (ALL ? spans : blockIdx.z + 1); span++) {
        attend_span(a, s, position, span, kv_head, groups, acc);
        if (ALL)
            fold_span(s, span == 0, groups, acc, all);
    }
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++) {
            uint32_t c = i * ATTEND_THREADS + threadIdx.x, head = head0 + g;
            if (g >= groups || c >= d)
                continue;
            if (ALL) {
                float gate = a.proj[t * a.width + (uint64_t)head * 2 * d + d + c];
                a.out[((uint64_t)t * a.q_heads + head) * d + c] = all[g][i] / s.all_total[g] * hs_sigmoid(gate);
                continue;
            }
            float *part = a.part + (((uint64_t)t * a.q_heads + head) * SPANS + blockIdx.z) * (d + 2);
            part[2 + c] = acc[g][i];
            if (c == 0) {
                part[0] = s.top[g];
                part[1] = s.total[g];
            }
        }
}

/* A block a query head of a token folds the spans that others made. */
static __global__ void __launch_bounds__(ATTEND_THREADS) fold_kernel(gpu_attention a)
{
    uint32_t d = a.head_dim, t = blockIdx.y, head = blockIdx.x, spans = span_count(first_of(a) + t);
    const float *part = a.part + ((uint64_t)t * a.q_heads + head) * SPANS * (d + 2);
    float top = 0.0f, total = 0.0f, all[PER_THREAD] = {0.0f, 0.0f};
    for (uint32_t span = 0; span < spans; span++, part += d + 2) {
        float m = part[0], larger;
        top = span ? top : m;
        larger = top > m ? top : m;
        float old = span ? hs_exp(top - larger) : 0.0f, now = hs_exp(m - larger);
        total = fmaf(total, old, part[1] * now);
        top = larger;
        for (uint32_t i = 0; i < PER_THREAD; i++) {
            uint32_t c = i * ATTEND_THREADS + threadIdx.x;
            all[i] = c < d ? fmaf(all[i], old, part[2 + c] * now) : 0.0f;
        }
    }
    for (uint32_t i = 0; i < PER_THREAD; i++) {
        uint32_t c = i * ATTEND_THREADS + threadIdx.x;
        if (c < d)
            a.out[((uint64_t)t * a.q_heads + head) * d + c] =
                all[i] / total * hs_sigmoid(a.proj[t * a.width + (uint64_t)head * 2 * d + d + c]);
    }
}

uint32_t gpu_spans_about(uint32_t position)
{
    uint32_t spans = span_count(position), about = 1;
    while (about < spans)
        about *= 2;
    return about;
}

cudaError_t gpu_run_attention(const gpu_attention *a, cudaStream_t s)
{
    uint32_t of = a->q_heads / a->kv_heads, spans = a->at ? a->spans : span_count(a->first + a->n - 1);
    dim3 heads((a->q_heads + a->kv_heads + 3) / 4, a->n), blocks(a->kv_heads * ((of + GROUP - 1) / GROUP), a->n);
    GPU_TRY(gpu_launch(prepare_kernel, heads, dim3(128), 0, s, *a));
    if (a->coded_pages) {
        uint32_t each = a->kv_heads * HS_GRID * (a->head_dim / HS_BLOCK);
        GPU_TRY(gpu_launch(code_kernel, dim3((each + 3) / 4, a->coded_pages, 2), dim3(128), 0, s, *a, each));
    }
    if (spans == 1 || a->n > GPU_SPAN_TOKENS)
        return gpu_launch(attend_kernel<true>, blocks, dim3(ATTEND_THREADS), 0, s, *a);
    blocks.z = spans;
    GPU_TRY(gpu_launch(attend_kernel<false>, blocks, dim3(ATTEND_THREADS), 0, s, *a));
    return gpu_launch(fold_kernel, dim3(a->q_heads, a->n), dim3(ATTEND_THREADS), 0, s, *a);
}
