/*
 * product.cu - y = W a for packed matrices: one to eight tokens (GEMV), or many (int8 MMA).
 *
 * Both give the bits of docs/numerics.md: exact integers in a block, fma over the eight blocks of a segment, segments
 * added in ascending order.
 *
 * GEMV: four lanes own a segment, each a quarter of every block; a row of more segments has as many groups of four, up
 * to the whole warp.  Bound by reading the codes once: 80 + 2 bytes for 128 weights of Q5.
 *
 * MMA: a warp takes 16 rows and 32 tokens.  m16n8k32 wants from lane 4g + t four bytes of row g and of row g + 8 at the
 * same columns as of token g; which columns these are is up to us, so each lane decodes chunk t of its two rows and
 * reads chunk t of its token, and four MMAs make a block.  sm_75 has m8n8k16: eight for each half of the rows.
 */
#include "kernels/cuda/decode.h"

enum { GEMV_THREADS = 128, AT_ONCE = 4 /* blocks, unrolled */, MMA_WARPS = 4, MMA_ROWS = 16, MMA_TOKENS = 32 };

static __device__ __forceinline__ gpu_job job_of(const gpu_product &p, uint32_t i)
{
    return p.job ? p.job[i] : p.own[i];
}

/* What an expert of the table is to be: nothing, where it is not on the card. */
static __device__ __forceinline__ gpu_job found_job(const gpu_product &p, uint32_t i)
{
    gpu_job j = p.own[i / p.picks];
    uint64_t where = p.where[i % p.picks], by = where - p.base;
    j.low = reinterpret_cast<const uint8_t *>(reinterpret_cast<uint64_t>(j.low) + by);
    j.high = reinterpret_cast<const uint8_t *>(reinterpret_cast<uint64_t>(j.high) + by);
    j.norms = reinterpret_cast<const uint16_t *>(reinterpret_cast<uint64_t>(j.norms) + by);
    if (j.zeros)
        j.zeros = reinterpret_cast<const uint8_t *>(reinterpret_cast<uint64_t>(j.zeros) + by);
    j.row = p.to[i % p.picks];
    j.first = p.spread ? j.row : 0;
    j.rows = where ? j.rows : 0;
    return j;
}

static __device__ __forceinline__ uint64_t token_row(const gpu_product &p, const gpu_job &j, uint32_t t)
{
    return p.list ? p.list[j.first + t] : j.first + t;
}

static __device__ __forceinline__ void store(const gpu_product &p, float *at, float v)
{
    *at = p.add ? *at + v : v;
}

static __device__ __forceinline__ float whole(int dot, int low, int sum, int bits)
{
    return (float)(bits == 6 ? 2 * (128 * dot + low) + sum : 2 * dot + sum);
}

/* What a lane needs of M tokens: where its chunk of a block is, and the blocks' scales and sums. */
template <int M> struct gemv_tokens {
    const uint4 *q[M];
    const uint2 *of[M];
};

/* On to the block after the next COUNT. */
template <int BITS, int ROWS, int M>
static __device__ __forceinline__ void advance(gpu_place (&row)[ROWS], gemv_tokens<M> &x, uint32_t count)
{
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        row[r].low += count * low_bytes<BITS>();
        row[r].high += count * high_bytes<BITS>();
        row[r].norm += count * groups_of<BITS>();
        if (BITS >= GPU_I4)
            row[r].zero += row[r].zero ? count * groups_of<BITS>() : 0;
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        x.q[m] += count * 8;
        x.of[m] += count * units_of<BITS>();
    }
}

/* INT4: the same over COUNT blocks, half by half; sums do without the zero points of the one or two groups. */
template <int BITS, int ROWS, int M, int COUNT>
static __device__ __forceinline__ void int4_blocks(const gpu_place (&row)[ROWS], const gemv_tokens<M> &x,
                                                   float (&seg)[ROWS][M])
{
    enum { PER = groups_of<BITS>() };
#pragma unroll
    for (uint32_t k = 0; k < COUNT; k++) {
        uint32_t v[ROWS][8], none[8];
        float norm[ROWS][PER];
        int zero[ROWS][PER];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            decode<BITS>(NULL, load_codes<BITS>(row[r], k), v[r], none);
#pragma unroll
            for (uint32_t g = 0; g < PER; g++) {
                norm[r][g] = load_norm(row[r], k * PER + g);
                zero[r][g] = load_zero(row[r], k * PER + g);
            }
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
            uint4 x0 = x.q[m][k * 8], x1 = x.q[m][k * 8 + 1];
            const uint32_t q[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
            const uint4 halves = reinterpret_cast<const uint4 *>(x.of[m])[k];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint2 of = h ? make_uint2(halves.z, halves.w) : make_uint2(halves.x, halves.y);
                const int g = h * PER / 2;
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    int dot = 0;
#pragma unroll
                    for (int i = 4 * h; i < 4 * h + 4; i++)
                        dot = __dp4a((int)v[r][i], (int)q[i], dot);
                    dot += __shfl_xor_sync(0xFFFFFFFFu, dot, 1);
                    dot += __shfl_xor_sync(0xFFFFFFFFu, dot, 2);
                    float isum = (float)(dot - zero[r][g] * (int)of.y);
                    seg[r][m] = fmaf(norm[r][g] * __uint_as_float(of.x), isum, seg[r][m]);
                }
            }
        }
    }
}

/* seg[r][m] += the products of COUNT blocks from the places on. HLWQ; then any. */
template <int BITS, int ROWS, int M, int COUNT>
static __device__ __forceinline__ void hlwq_blocks(const uint32_t *table, const gpu_place (&row)[ROWS],
                                                   const gemv_tokens<M> &x, float (&seg)[ROWS][M])
{
#pragma unroll
    for (uint32_t k = 0; k < COUNT; k++) {
        uint32_t v[ROWS][8], lo[ROWS][8];
        float norm[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            decode<BITS>(table, load_codes<BITS>(row[r], k), v[r], lo[r]);
            norm[r] = load_norm(row[r], k);
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
            uint4 x0 = x.q[m][k * 8], x1 = x.q[m][k * 8 + 1];
            uint2 of = x.of[m][k];
            const uint32_t q[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int dot = 0, low = 0;
#pragma unroll
                for (int i = 0; i < 8; i++)
                    dot = __dp4a((int)v[r][i], (int)q[i], dot);
                dot += __shfl_xor_sync(0xFFFFFFFFu, dot, 1);
                dot += __shfl_xor_sync(0xFFFFFFFFu, dot, 2);
                if (BITS == 6) {
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        low = __dp4a((int)lo[r][i], (int)q[i], low);
                    low += __shfl_xor_sync(0xFFFFFFFFu, low, 1);
                    low += __shfl_xor_sync(0xFFFFFFFFu, low, 2);
                }
                float isum = whole(dot, low, (int)of.y, BITS);
                seg[r][m] = fmaf(norm[r] * __uint_as_float(of.x), isum, seg[r][m]);
            }
        }
    }
}

template <int BITS, int ROWS, int M, int COUNT>
static __device__ __forceinline__ void gemv_blocks(const uint32_t *table, const gpu_place (&row)[ROWS],
                                                   const gemv_tokens<M> &x, float (&seg)[ROWS][M])
{
    if (BITS >= GPU_I4)
        int4_blocks<BITS, ROWS, M, COUNT>(row, x, seg);
    else
        hlwq_blocks<BITS, ROWS, M, COUNT>(table, row, x, seg);
}

/*
 * groups: of four lanes that share a row's segments, a power of two.  A warp has 8 / groups times ROWS rows.  Groups
 * that are left over, where segments are no multiple of them, go through the last segment beside the one that owns it:
 * the same addresses, so nothing more is read.  Where the last segment is not whole, each group takes its blocks one at
 * a time, the others repeating the last.
 */
template <int BITS, int ROWS, int M>
static __global__ void __launch_bounds__(GEMV_THREADS) gemv_kernel(gpu_product p, uint32_t groups)
{
    const gpu_job j = p.where ? found_job(p, blockIdx.y) : job_of(p, blockIdx.y);
    uint32_t lane = threadIdx.x % WARP, t = lane % 4, group = lane / 4 % groups;
    uint32_t rows = ROWS * (8 / groups), first = (blockIdx.x * (GEMV_THREADS / WARP) + threadIdx.x / WARP) * rows;
    uint32_t row0 = first + lane / (4 * groups) * ROWS;
    uint32_t blocks = p.w.blocks, segments = (blocks + SEGMENT_BLOCKS - 1) / SEGMENT_BLOCKS;
    if (first >= j.rows)
        return; /* the whole warp: jobs have different numbers of rows */
    uint32_t table[17];
    load_table<BITS>(p.w, table);

    for (uint32_t t0 = 0; t0 < j.m; t0 += M) {
        float total[ROWS][M];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int m = 0; m < M; m++)
                total[r][m] = 0.0f;
        for (uint32_t s0 = 0; s0 < segments; s0 += groups) {
            uint32_t from = (s0 + group) * SEGMENT_BLOCKS;
            bool all_whole = blocks % SEGMENT_BLOCKS == 0 || (s0 + groups) * SEGMENT_BLOCKS <= blocks;
            gpu_place row[ROWS];
            gemv_tokens<M> x;
            float seg[ROWS][M];
            uint32_t start = from < blocks ? from : (segments - 1) * SEGMENT_BLOCKS;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                uint32_t mine = row0 + r < j.rows ? row0 + r : j.rows - 1; /* all lanes stay to the end */
                row[r] = place_of<BITS>(j, (uint64_t)mine * blocks + start, (int)t);
#pragma unroll
                for (int m = 0; m < M; m++)
                    seg[r][m] = 0.0f;
            }
#pragma unroll
            for (int m = 0; m < M; m++) {
                uint64_t at = token_row(p, j, t0 + m < j.m ? t0 + m : j.m - 1) * blocks + start;
                x.q[m] = reinterpret_cast<const uint4 *>(p.a.q + at * 32 + t * 8);
                x.of[m] = p.a.of + at * units_of<BITS>();
            }
            uint32_t count = SEGMENT_BLOCKS;
            if (groups == 1 && blocks - s0 * SEGMENT_BLOCKS < count)
                count = blocks - s0 * SEGMENT_BLOCKS;
            if (all_whole || groups == 1) {
                for (; count >= AT_ONCE; count -= AT_ONCE) {
                    gemv_blocks<BITS, ROWS, M, AT_ONCE>(table, row, x, seg);
                    advance<BITS, ROWS, M>(row, x, AT_ONCE);
                }
                for (; count; count--) {
                    gemv_blocks<BITS, ROWS, M, 1>(table, row, x, seg);
                    advance<BITS, ROWS, M>(row, x, 1);
                }
            } else {
                for (uint32_t k = 0; k < SEGMENT_BLOCKS; k++) {
                    float next[ROWS][M];
                    bool there = from + k < blocks;
#pragma unroll
                    for (int r = 0; r < ROWS; r++)
#pragma unroll
                        for (int m = 0; m < M; m++)
                            next[r][m] = seg[r][m];
                    gemv_blocks<BITS, ROWS, M, 1>(table, row, x, next);
#pragma unroll
                    for (int r = 0; r < ROWS; r++)
#pragma unroll
                        for (int m = 0; m < M; m++)
                            seg[r][m] = there ? next[r][m] : seg[r][m];
                    advance<BITS, ROWS, M>(row, x, from + k + 1 < blocks ? 1 : 0);
                }
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int m = 0; m < M; m++)
                    for (uint32_t g = 0; g < groups; g++) {
                        int of = (int)(lane / (4 * groups) * 4 * groups + 4 * g);
                        float part = __shfl_sync(0xFFFFFFFFu, seg[r][m], of);
                        total[r][m] = s0 + g < segments ? total[r][m] + part : total[r][m];
                    }
        }
        if (t == 0 && group == 0)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int m = 0; m < M; m++)
                    if (row0 + r < j.rows && t0 + m < j.m)
                        store(p, j.y + (uint64_t)(j.row + t0 + m) * j.stride + row0 + r, total[r][m] * p.w.scale);
    }
}

/* acc += the products of words FROM.. of the chunks of 16 rows and 8 tokens, WORDS of them: a block, or half of one. */
template <int FROM = 0, int WORDS = 8>
static __device__ __forceinline__ void mma_block(int (&acc)[4], const uint32_t (&g)[8], const uint32_t (&g8)[8],
                                                 const uint32_t (&q)[8])
{
    if (gpu_arch() >= 80) {
#pragma unroll
        for (int s = FROM / 2; s < (FROM + WORDS) / 2; s++) {
            const uint32_t a[4] = {g[2 * s], g8[2 * s], g[2 * s + 1], g8[2 * s + 1]};
            const uint32_t b[2] = {q[2 * s], q[2 * s + 1]};
            gpu_mma_s8_16832(acc, a, b);
        }
        return;
    }
    int upper[2] = {acc[0], acc[1]}, lower[2] = {acc[2], acc[3]};
#pragma unroll
    for (int i = FROM; i < FROM + WORDS; i++) {
        gpu_mma_s8_8816(upper, g[i], q[i]);
        gpu_mma_s8_8816(lower, g8[i], q[i]);
    }
    acc[0] = upper[0];
    acc[1] = upper[1];
    acc[2] = lower[0];
    acc[3] = lower[1];
}

/* seg += a block of INT4, half by half. */
template <int BITS>
static __device__ __forceinline__ void mma_int4(const gpu_place (&place)[2], uint32_t b, const uint32_t (&v)[8],
                                                const uint32_t (&v8)[8], const uint32_t (&q)[8], const uint2 *of,
                                                const uint32_t (&column)[2], float (&seg)[4])
{
    enum { PER = groups_of<BITS>() };
    const uint4 *pairs = reinterpret_cast<const uint4 *>(of) + b;
    const uint4 halves[2] = {pairs[column[0]], pairs[column[1]]};
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t g = b * PER + h * PER / 2;
        int acc[4] = {0, 0, 0, 0};
        if (h == 0)
            mma_block<0, 4>(acc, v, v8, q);
        else
            mma_block<4, 4>(acc, v, v8, q);
        const float norm[2] = {load_norm(place[0], g), load_norm(place[1], g)};
        const int zero[2] = {load_zero(place[0], g), load_zero(place[1], g)};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint4 &x = halves[k % 2];
            float isum = (float)(acc[k] - zero[k / 2] * (int)(h ? x.w : x.y));
            seg[k] = fmaf(norm[k / 2] * __uint_as_float(h ? x.z : x.x), isum, seg[k]);
        }
    }
}

/*
 * Blocks of the same rows follow each other, 32 tokens after 32: they run at about the same time, so the card's memory
 * gives weights once and its cache the other times, and what all blocks read again and again is activations.  Four on
 * a multiprocessor: 128 registers are enough.
 */
template <int BITS>
static __global__ void __launch_bounds__(MMA_WARPS *WARP, 4) mma_kernel(gpu_product p, uint32_t token_tiles)
{
    enum { TILES = MMA_TOKENS / 8 };
    const gpu_job j = job_of(p, blockIdx.y);
    uint32_t first_token = blockIdx.x % token_tiles * MMA_TOKENS, tile = blockIdx.x / token_tiles;
    if (first_token >= j.m || tile * MMA_WARPS * MMA_ROWS >= j.rows)
        return; /* the whole block */
    uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, blocks = p.w.blocks;
    uint32_t first_row = (tile * MMA_WARPS + threadIdx.x / WARP) * MMA_ROWS;
    uint32_t token[TILES], column[TILES][2]; /* blocks of activations: there are fewer than 2^32 */
    gpu_place place[2];
    for (int h = 0; h < 2; h++) {
        uint32_t r = first_row + g + 8 * h;
        place[h] = place_of<BITS>(j, (uint64_t)(r < j.rows ? r : j.rows - 1) * blocks, (int)t);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        uint32_t mine = first_token + 8 * i + g;
        token[i] = (uint32_t)token_row(p, j, mine < j.m ? mine : j.m - 1) * blocks;
        for (int h = 0; h < 2; h++) {
            uint32_t out = first_token + 8 * i + 2 * t + h;
            column[i][h] = (uint32_t)token_row(p, j, out < j.m ? out : j.m - 1) * blocks;
        }
    }
    uint32_t table[17];
    load_table<BITS>(p.w, table);
    float seg[TILES][4], total[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            seg[i][k] = total[i][k] = 0.0f;

    for (uint32_t b = 0; b < blocks; b++) {
        uint32_t v[8], v8[8], lo[8], lo8[8];
        decode<BITS>(table, load_codes<BITS>(place[0], b), v, lo);
        decode<BITS>(table, load_codes<BITS>(place[1], b), v8, lo8);
        const float norm[2] = {load_norm(place[0], b * groups_of<BITS>()), load_norm(place[1], b * groups_of<BITS>())};
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const uint4 *x = reinterpret_cast<const uint4 *>(p.a.q + (uint64_t)(token[i] + b) * 32 + t * 8);
            uint4 x0 = x[0], x1 = x[1];
            const uint32_t q[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
            int acc[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
            if (BITS >= GPU_I4) {
                mma_int4<BITS>(place, b, v, v8, q, p.a.of, column[i], seg[i]);
                continue;
            }
            mma_block(acc, v, v8, q);
            if (BITS == 6)
                mma_block(low, lo, lo8, q);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                uint2 of = p.a.of[column[i][k % 2] + b];
                float isum = whole(acc[k], low[k], (int)of.y, BITS);
                seg[i][k] = fmaf(norm[k / 2] * __uint_as_float(of.x), isum, seg[i][k]);
            }
        }
        if (b % SEGMENT_BLOCKS == SEGMENT_BLOCKS - 1 || b + 1 == blocks)
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    total[i][k] += seg[i][k];
                    seg[i][k] = 0.0f;
                }
    }
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t r = first_row + g + 8 * (k / 2), out = first_token + 8 * i + 2 * t + k % 2;
            if (r < j.rows && out < j.m)
                store(p, j.y + (uint64_t)(j.row + out) * j.stride + r, total[i][k] * p.w.scale);
        }
}

template <int BITS, int ROWS, int M> static cudaError_t run_gemv(const gpu_product &p, uint32_t groups, cudaStream_t s)
{
    uint32_t rows = GEMV_THREADS / WARP * (8 / groups) * ROWS;
    dim3 grid((p.rows + rows - 1) / rows, p.jobs);
    return gpu_launch((gemv_kernel<BITS, ROWS, M>), grid, dim3(GEMV_THREADS), 0, s, p, groups);
}

template <int BITS> static cudaError_t run_bits(const gpu_product &p, cudaStream_t s)
{
    if (p.m > GEMV_TOKENS) {
        uint32_t tiles = (p.m + MMA_TOKENS - 1) / MMA_TOKENS;
        dim3 grid((p.rows + MMA_WARPS * MMA_ROWS - 1) / (MMA_WARPS * MMA_ROWS) * tiles, p.jobs);
        return gpu_launch(mma_kernel<BITS>, grid, dim3(MMA_WARPS * WARP), 0, s, p, tiles);
    }
    uint32_t segments = (p.w.blocks + SEGMENT_BLOCKS - 1) / SEGMENT_BLOCKS, groups = 1;
    while (groups < segments && groups < 8)
        groups *= 2;
    if (p.m == 1)
        return run_gemv<BITS, 2, 1>(p, groups, s);
    if (p.m == 2)
        return run_gemv<BITS, 2, 2>(p, groups, s);
    return run_gemv<BITS, 1, 4>(p, groups, s);
}

cudaError_t gpu_run_product(const gpu_product *p, cudaStream_t s)
{
    if (p->jobs == 0 || p->m == 0)
        return cudaSuccess;
    switch (p->w.bits) {
    case 2: return run_bits<2>(*p, s);
    case 3: return run_bits<3>(*p, s);
    case 4: return run_bits<4>(*p, s);
    case 5: return run_bits<5>(*p, s);
    case GPU_I4: return run_bits<GPU_I4>(*p, s);
    case GPU_I4G64: return run_bits<GPU_I4G64>(*p, s);
    default: return run_bits<6>(*p, s);
    }
}

/* ---- plain matrices -------------------------------------------------------------------------- */

enum { PLAIN_AHEAD = 16 };

template <int DTYPE> static __device__ __forceinline__ float plain_element(const uint8_t *w, uint64_t at)
{
    if (DTYPE == HS_F32)
        return reinterpret_cast<const float *>(w)[at];
    uint16_t half = reinterpret_cast<const uint16_t *>(w)[at];
    return DTYPE == HS_F16 ? gpu_half_to_float(half) : hs_bits_float((uint32_t)half << 16);
}

/*
 * A warp an output: elements go to lanes in turn, lanes are added as a tree. Fixed work: its own order of summing.
 * These matrices have few rows: how long one takes is how often a warp waits for memory, so it asks for much at once.
 */
template <int DTYPE>
static __global__ void __launch_bounds__(128)
    plain_kernel(const uint8_t *w, uint32_t rows, uint32_t cols, const float *x, float *y, uint64_t stride, bool add)
{
    uint32_t lane = threadIdx.x % WARP, row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows)
        return; /* whole warps */
    const float *xt = x + (uint64_t)blockIdx.y * cols;
    uint64_t at = (uint64_t)row * cols;
    uint32_t c = lane;
    float sum = 0.0f;
    for (; c + (PLAIN_AHEAD - 1) * WARP < cols; c += PLAIN_AHEAD * WARP) {
        float v[PLAIN_AHEAD], u[PLAIN_AHEAD];
#pragma unroll
        for (uint32_t k = 0; k < PLAIN_AHEAD; k++) {
            v[k] = plain_element<DTYPE>(w, at + c + k * WARP);
            u[k] = xt[c + k * WARP];
        }
#pragma unroll
        for (uint32_t k = 0; k < PLAIN_AHEAD; k++)
            sum = fmaf(v[k], u[k], sum);
    }
    for (; c < cols; c += WARP)
        sum = fmaf(plain_element<DTYPE>(w, at + c), xt[c], sum);
    sum = warp_sum(sum);
    if (lane == 0) {
        float *out = y + blockIdx.y * stride + row;
        *out = add ? *out + sum : sum;
    }
}

cudaError_t gpu_run_plain(const hs_matrix *w, const float *x, uint32_t n, float *y, uint64_t stride, bool add,
                          cudaStream_t s)
{
    dim3 grid((w->rows + 3) / 4, n), block(128);
    switch (w->dtype) {
    case HS_F32:
        return gpu_launch(plain_kernel<HS_F32>, grid, block, 0, s, w->low, w->rows, w->cols, x, y, stride, add);
    case HS_F16:
        return gpu_launch(plain_kernel<HS_F16>, grid, block, 0, s, w->low, w->rows, w->cols, x, y, stride, add);
    default: return gpu_launch(plain_kernel<HS_BF16>, grid, block, 0, s, w->low, w->rows, w->cols, x, y, stride, add);
    }
}

template <int BITS> static cudaError_t load_bits(void)
{
    return gpu_load(gemv_kernel<BITS, 2, 1>, gemv_kernel<BITS, 2, 2>, gemv_kernel<BITS, 1, 4>, mma_kernel<BITS>);
}

cudaError_t gpu_load_product(void)
{
    GPU_TRY(load_bits<2>());
    GPU_TRY(load_bits<3>());
    GPU_TRY(load_bits<4>());
    GPU_TRY(load_bits<5>());
    GPU_TRY(load_bits<6>());
    GPU_TRY(load_bits<GPU_I4>());
    GPU_TRY(load_bits<GPU_I4G64>());
    return gpu_load(plain_kernel<HS_F32>, plain_kernel<HS_F16>, plain_kernel<HS_BF16>);
}
