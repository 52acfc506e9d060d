/*
 * attention.cu - attention over the cache: scores, and the weighted sum of values.
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
 *
 * A launch may be for some pages only (a.from, a.end), the first ones first: what it stops in the middle of waits in
 * a.part, and the next one goes on from there, with the bits of a launch for all of them.
 */
#include "kernels/cuda/pages.h"

enum {
    ATTEND_THREADS = 128,
    WARPS = ATTEND_THREADS / WARP,
    HEAD_MAX = 256,
    PER_THREAD = HEAD_MAX / ATTEND_THREADS,
    GROUP = 8,
    SPANS = GPU_SPANS,
    SPAN_MIN = 2, /* pages */
    VALUES_AHEAD = 16
};

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

/*
 * Values of dimension c at positions j.. of a page, those past `last` more like that one.  All of them are asked for
 * before one is used, and nothing of their format is asked in between: a warp that waits for each in turn would read at
 * a tenth of the memory's rate.  A page has less than 4 GiB.
 */
template <int BITS>
static __device__ __forceinline__ void load_coded_values(const gpu_attention &a, const float *level,
                                                         const uint8_t *page, uint32_t j, uint32_t last,
                                                         uint32_t kv_head, uint32_t c, float (&v)[VALUES_AHEAD])
{
    const gpu_kv_side &side = a.side[1];
    const uint8_t *low = page + side.low, *high = page + side.high;
    const uint16_t *norms = reinterpret_cast<const uint16_t *>(page + side.norms);
    uint32_t i = c % HS_BLOCK, t = i % 16, chunk = i % 64 / 16, upper = i / 64; /* element i: chunk and half of it */
#pragma unroll
    for (uint32_t k = 0; k < VALUES_AHEAD; k++) {
        uint32_t at = j + (k < last ? k : last);
        uint32_t block = (kv_head * HS_GRID + at) * (a.head_dim / HS_BLOCK) + c / HS_BLOCK;
        float norm = gpu_half_to_float(norms[block]);
        if (BITS == 8) {
            v[k] = (float)(int8_t)low[block * HS_BLOCK + i] * (norm * 0.125f);
        } else if (BITS == 4) {
            v[k] = level[low[block * 64 + i % 64] >> 4 * upper & 15] * norm;
        } else {
            uint32_t code = low[block * 32 + 8 * chunk + t % 8] >> (4 * upper + t / 8 * 2) & 3;
            if (BITS == 3)
                code |= (high[block * 16 + 4 * chunk + 2 * (t & 1) + upper] >> (7 - t / 2) & 1u) << 2;
            v[k] = level[code] * norm;
        }
    }
}

template <class T>
static __device__ __forceinline__ void load_plain_values(const gpu_attention &a, const uint8_t *page, uint32_t j,
                                                         uint32_t last, uint32_t kv_head, uint32_t c,
                                                         T (&v)[VALUES_AHEAD])
{
    uint32_t dim = a.kv_heads * a.head_dim;
    const T *value = reinterpret_cast<const T *>(page) + (HS_GRID + j) * dim + kv_head * a.head_dim + c;
#pragma unroll
    for (uint32_t k = 0; k < VALUES_AHEAD; k++)
        v[k] = value[(k < last ? k : last) * dim];
}

static __device__ __forceinline__ void load_values(const gpu_attention &a, const float *level, const uint8_t *page,
                                                   bool coded, uint32_t j, uint32_t last, uint32_t kv_head, uint32_t c,
                                                   float (&v)[VALUES_AHEAD])
{
    uint16_t halves[VALUES_AHEAD];
    if (!coded && !a.half) {
        load_plain_values(a, page, j, last, kv_head, c, v);
        return;
    }
    switch (coded ? a.side[1].bits : 16) {
    case 2: load_coded_values<2>(a, level, page, j, last, kv_head, c, v); return;
    case 3: load_coded_values<3>(a, level, page, j, last, kv_head, c, v); return;
    case 4: load_coded_values<4>(a, level, page, j, last, kv_head, c, v); return;
    case 8: load_coded_values<8>(a, level, page, j, last, kv_head, c, v); return;
    }
    load_plain_values(a, page, j, last, kv_head, c, halves);
#pragma unroll
    for (uint32_t k = 0; k < VALUES_AHEAD; k++)
        v[k] = gpu_half_to_float(halves[k]);
}

/* What the threads of a block share. */
typedef struct attend_shared {
    float query[GROUP][HEAD_MAX], rotated[GROUP][HEAD_MAX], turn[GROUP][HEAD_MAX];
    float weight[HS_GRID][GROUP], level[2][16];
    float top[GROUP], total[GROUP], old[GROUP], now[GROUP]; /* of the span: its state, and the last fold's factors */
    float all_top[GROUP], all_total[GROUP];
} attend_shared;

/* weight[j][g] = the scaled scores of a page. */
static __device__ __forceinline__ void score_page(const gpu_attention &a, attend_shared &s, const uint8_t *at,
                                                  bool coded, uint32_t seen, uint32_t kv_head, uint32_t groups,
                                                  float scale)
{
    uint32_t lane = threadIdx.x % WARP, eighth = lane % 8, part = eighth / 4, t = eighth % 4, d = a.head_dim;
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

/* Scores become weights; the span's largest score and sum take them in. A warp a head; heads that are not there weigh
 * nothing. */
static __device__ __forceinline__ void weigh_page(attend_shared &s, uint32_t seen, uint32_t groups, bool first)
{
    uint32_t lane = threadIdx.x % WARP;
    for (uint32_t g = threadIdx.x / WARP; g < GROUP; g += WARPS) {
        if (g >= groups) { /* whole warps */
            s.weight[lane][g] = s.weight[lane + WARP][g] = 0.0f;
            continue;
        }
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

static __device__ __forceinline__ void add_values(const gpu_attention &a, const attend_shared &s, const uint8_t *at,
                                                  bool coded, uint32_t seen, uint32_t kv_head, uint32_t groups,
                                                  float (&acc)[GROUP][PER_THREAD])
{
    uint32_t d = a.head_dim;
#pragma unroll
    for (uint32_t i = 0; i < PER_THREAD; i++) {
        uint32_t c = i * ATTEND_THREADS + threadIdx.x;
        float part[GROUP];
#pragma unroll
        for (uint32_t g = 0; g < GROUP; g++)
            part[g] = 0.0f;
        for (uint32_t j = 0; c < d && j < seen; j += VALUES_AHEAD) {
            float v[VALUES_AHEAD];
            load_values(a, s.level[1], at, coded, j, seen - 1 - j, kv_head, c, v);
#pragma unroll
            for (uint32_t k = 0; k < VALUES_AHEAD; k++) {
                if (j + k >= seen)
                    break;
#pragma unroll
                for (uint32_t g = 0; g < GROUP; g++) /* also those that there are not: nobody's */
                    part[g] = fmaf(s.weight[j + k][g], v[k], part[g]);
            }
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

/* Pages from..to - 1 of a query are this launch's; all of its pages are those before `past`. */
typedef struct reach {
    uint32_t from, to, past;
} reach;

static __device__ __forceinline__ reach reach_of(const gpu_attention &a, uint32_t position)
{
    reach r = {a.from, a.end, position / HS_GRID + 1};
    r.to = r.to == 0 || r.to > r.past ? r.past : r.to;
    return r;
}

/* A state that waits: the largest score, the sum of weights, the weighted values; of a query head every `step`. */
static __device__ __forceinline__ void put_state(float *to, uint64_t step, uint32_t groups, uint32_t d,
                                                 const float *top, const float *total,
                                                 const float (&v)[GROUP][PER_THREAD])
{
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++) {
            uint32_t c = i * ATTEND_THREADS + threadIdx.x;
            if (g >= groups || c >= d)
                continue;
            to[g * step + 2 + c] = v[g][i];
            if (c == 0) {
                to[g * step] = top[g];
                to[g * step + 1] = total[g];
            }
        }
}

/* There is a barrier before anything reads top and total. */
static __device__ __forceinline__ void get_state(const float *from, uint64_t step, uint32_t groups, uint32_t d,
                                                 float *top, float *total, float (&v)[GROUP][PER_THREAD])
{
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++) {
            uint32_t c = i * ATTEND_THREADS + threadIdx.x;
            if (g >= groups || c >= d)
                continue;
            v[g][i] = from[g * step + 2 + c];
            if (c == 0) {
                top[g] = from[g * step];
                total[g] = from[g * step + 1];
            }
        }
}

/* The span's state: top and total in shared memory, the weighted values in acc; from `waits` on where it was begun. */
static __device__ __forceinline__ void attend_span(const gpu_attention &a, attend_shared &s, const gpu_row &row,
                                                   uint32_t span, uint32_t kv_head, uint32_t groups, const reach &r,
                                                   const float *waits, uint64_t step, float (&acc)[GROUP][PER_THREAD])
{
    uint32_t position = row.position;
    uint32_t begin = span * span_pages(position), end = begin + span_pages(position), last = r.past - 1;
    uint32_t coded = a.coded_bytes && last >= 2 ? last - 1 : 0; /* pages that this query reads in codes */
    end = end > r.past ? r.past : end;
    uint32_t from = begin > r.from ? begin : r.from, to = end < r.to ? end : r.to;
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++)
            acc[g][i] = 0.0f;
    if (from > begin)
        get_state(waits, step, groups, a.head_dim, s.top, s.total, acc);
    for (uint32_t b = from; b < to; b++) {
        uint32_t seen = b == last ? position % HS_GRID + 1 : (uint32_t)HS_GRID;
        const uint8_t *page = gpu_page_in(a, row, b, b < coded);
        __syncthreads();
        score_page(a, s, page, b < coded, seen, kv_head, groups, 1.0f / sqrtf((float)a.head_dim));
        __syncthreads();
        weigh_page(s, seen, groups, b == begin);
        __syncthreads();
        add_values(a, s, page, b < coded, seen, kv_head, groups, acc);
        if (b < coded && (b + 1 == coded || b + 1 == end))
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

/* out = the values of all spans, gated. */
static __device__ __forceinline__ void put_values(const gpu_attention &a, uint32_t t, uint32_t head0, uint32_t groups,
                                                  const float *total, const float (&all)[GROUP][PER_THREAD])
{
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++) {
            uint32_t c = i * ATTEND_THREADS + threadIdx.x, head = head0 + g, d = a.head_dim;
            if (g >= groups || c >= d)
                continue;
            float gate = a.proj[t * a.width + (uint64_t)head * 2 * d + d + c];
            a.out[((uint64_t)t * a.q_heads + head) * d + c] = all[g][i] / total[g] * hs_sigmoid(gate);
        }
}

/*
 * A block: GROUP query heads of a key head of a token; one span for the second launch to fold, or all of them.  Three
 * on a multiprocessor at least: told so, the compiler takes 168 registers and spills none.
 */
template <bool ALL> static __global__ void __launch_bounds__(ATTEND_THREADS, 3) attend_kernel(gpu_attention a)
{
    __shared__ __align__(16) attend_shared s;
    const gpu_row at = gpu_row_of(a, blockIdx.y);
    uint32_t d = a.head_dim, t = blockIdx.y, position = at.position, of = a.q_heads / a.kv_heads;
    uint32_t chunks = (of + GROUP - 1) / GROUP, kv_head = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    uint32_t head0 = kv_head * of + chunk * GROUP, left = of - chunk * GROUP,
             groups = left < GROUP ? left : (uint32_t)GROUP, each = span_pages(position);
    reach r = reach_of(a, position);
    if (!ALL && (blockIdx.z >= span_count(position) || blockIdx.z * each >= r.to || (blockIdx.z + 1) * each <= r.from))
        return; /* the whole block */
    for (uint32_t i = threadIdx.x; i < groups * HEAD_MAX; i += ATTEND_THREADS) {
        uint32_t g = i / HEAD_MAX, c = i % HEAD_MAX;
        float v = c < d ? a.proj[t * a.width + (uint64_t)(head0 + g) * 2 * d + c] : 0.0f;
        s.query[g][query_place(c)] = v;
        s.rotated[g][query_place(c)] = v;
    }
    if (a.coded_bytes && threadIdx.x < 32)
        s.level[threadIdx.x / 16][threadIdx.x % 16] = a.side[threadIdx.x / 16].stored[threadIdx.x % 16];
    if (a.coded_bytes) {
        __syncthreads();
        rotate_rows(s.rotated, groups, d, true);
    } /* the first span begins with a barrier */
    uint64_t row = (uint64_t)t * a.q_heads + head0, state = d + 2;
    float acc[GROUP][PER_THREAD];
    if (!ALL) {
        float *part = a.part + (row * SPANS + blockIdx.z) * state;
        attend_span(a, s, at, blockIdx.z, kv_head, groups, r, part, SPANS * state, acc);
        put_state(part, SPANS * state, groups, d, s.top, s.total, acc);
        return;
    }
    float *part = a.part + row * 2 * state, all[GROUP][PER_THREAD]; /* the span in hand; those before it */
#pragma unroll
    for (uint32_t g = 0; g < GROUP; g++)
        for (uint32_t i = 0; i < PER_THREAD; i++)
            all[g][i] = 0.0f;
    if (r.from)
        get_state(part + state, 2 * state, groups, d, s.all_top, s.all_total, all);
    for (uint32_t span = r.from / each; span * each < r.to; span++) {
        uint32_t end = (span + 1) * each;
        attend_span(a, s, at, span, kv_head, groups, r, part, 2 * state, acc);
        if (end <= r.to || r.to == r.past)
            fold_span(s, span == 0, groups, acc, all);
        else
            put_state(part, 2 * state, groups, d, s.top, s.total, acc);
    }
    if (a.more)
        put_state(part + state, 2 * state, groups, d, s.all_top, s.all_total, all);
    else
        put_values(a, t, head0, groups, s.all_total, all);
}

/* A block a query head of a token folds the spans that others made. */
static __global__ void __launch_bounds__(ATTEND_THREADS) fold_kernel(gpu_attention a)
{
    uint32_t d = a.head_dim, t = blockIdx.y, head = blockIdx.x, spans = span_count(gpu_position_of(a, t));
    const float *part = a.part + ((uint64_t)t * a.q_heads + head) * SPANS * (d + 2);
    float top = 0.0f, total = 0.0f, all[PER_THREAD] = {0.0f, 0.0f};
#pragma unroll 4 /* what four spans have is asked for at once */
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

cudaError_t gpu_run_attend(const gpu_attention *a, cudaStream_t s)
{
    uint32_t of = a->q_heads / a->kv_heads, spans = a->at ? a->spans : span_count(a->first);
    if (!a->at && span_count(a->first + a->n - 1) > spans) /* it may also be fewer: where spans become longer */
        spans = span_count(a->first + a->n - 1);
    dim3 blocks(a->kv_heads * ((of + GROUP - 1) / GROUP), a->n);
    if (spans == 1 || a->n > GPU_SPAN_TOKENS)
        return gpu_launch(attend_kernel<true>, blocks, dim3(ATTEND_THREADS), 0, s, *a);
    blocks.z = spans;
    GPU_TRY(gpu_launch(attend_kernel<false>, blocks, dim3(ATTEND_THREADS), 0, s, *a));
    if (a->more)
        return cudaSuccess;
    return gpu_launch(fold_kernel, dim3(a->q_heads, a->n), dim3(ATTEND_THREADS), 0, s, *a);
}

cudaError_t gpu_load_attention(void)
{
    return gpu_load(attend_kernel<false>, attend_kernel<true>, fold_kernel);
}
