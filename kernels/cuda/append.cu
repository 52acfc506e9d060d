/*
 * append.cu - what attention finds in the cache: rotations of positions, keys and values appended, pages coded.
 *
 * Codes have the bits of kernels/kv_codec.c: the same sums in the same orders.  A warp takes a head of a token, or a
 * block of 128 of a head of a position.  Of a step, whose positions and texts are data, the kernel that appends also
 * looks whether a page begins, and then codes the one that queries read in codes from there on.
 */
#include "kernels/cuda/pages.h"

enum {
    HEAD_PER_LANE = 8, /* head dims up to 256 */
    APPEND_WARPS = 4,
    CODE_BLOCKS = 32 /* of threads, in a step: all but one token in 64 have them leave at once */
};

/* row: cosines, then sines. */
static __device__ __forceinline__ void rotation(float inv_freq, float scale, uint32_t half, uint32_t position,
                                                uint32_t j, float *row)
{
    double angle = (double)((float)position * inv_freq);
    row[j] = (float)cos(angle) * scale;
    row[half + j] = (float)sin(angle) * scale;
}

static __global__ void rope_kernel(const float *inv_freq, float scale, uint32_t half, uint32_t first, uint32_t n,
                                   float *table)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n * half)
        rotation(inv_freq[i % half], scale, half, first + i / half, i % half, table + (uint64_t)(i / half) * 2 * half);
}

cudaError_t gpu_run_rope_table(const float *inv_freq, float scale, uint32_t rotary_dims, uint32_t first, uint32_t n,
                               float *table, cudaStream_t s)
{
    uint32_t half = rotary_dims / 2;
    return gpu_launch(rope_kernel, dim3((n * half + 127) / 128), dim3(128), 0, s, inv_freq, scale, half, first, n,
                      table);
}

/* A block a row. */
static __global__ void tell_kernel(const float *inv_freq, float scale, uint32_t half, gpu_told told, float *table,
                                   uint32_t *at, hs_bases *text)
{
    uint32_t t = blockIdx.x, position = told.at[t];
    if (threadIdx.x == 0) {
        at[t] = position;
        text[t] = told.text[t];
    }
    for (uint32_t j = threadIdx.x; j < half; j += blockDim.x)
        rotation(inv_freq[j], scale, half, position, j, table + (uint64_t)t * 2 * half);
}

cudaError_t gpu_run_tell(const float *inv_freq, float scale, uint32_t rotary_dims, const gpu_told *told, float *table,
                         uint32_t *at, hs_bases *text, cudaStream_t s)
{
    return gpu_launch(tell_kernel, dim3(told->n), dim3(128), 0, s, inv_freq, scale, rotary_dims / 2, *told, table, at,
                      text);
}

static __device__ __forceinline__ void append(const gpu_attention &a, const gpu_row &r, uint64_t at, bool values,
                                              float v)
{
    uint64_t dim = (uint64_t)a.kv_heads * a.head_dim;
    uint8_t *page = gpu_plain_page(a, r, r.position / HS_GRID);
    uint64_t i = (values ? HS_GRID * dim : 0) + r.position % HS_GRID * dim + at;
    if (a.half)
        reinterpret_cast<uint16_t *>(page)[i] = gpu_float_to_half(v);
    else
        reinterpret_cast<float *>(page)[i] = v;
}

/* Of row t: queries are normed and rotated in place, keys too and then appended, values appended. */
static __device__ __forceinline__ void prepare_head(const gpu_attention &a, uint32_t t, uint32_t head, uint32_t lane)
{
    uint32_t d = a.head_dim;
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
    const gpu_row at = gpu_row_of(a, t);
    for (uint32_t c = lane; c < d; c += WARP) {
        append(a, at, (uint64_t)h * d + c, false, v[c]);
        append(a, at, (uint64_t)h * d + c, true, value[c]);
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

/* Codes of a block of 128 of keys, or values, from their fp16 form; `block` of [kv_heads][HS_GRID][head_dim / 128]. */
static __device__ __forceinline__ void code_block(const gpu_attention &a, const gpu_row &row, uint32_t page,
                                                  uint32_t values, uint32_t block, uint32_t lane)
{
    uint32_t of = a.head_dim / HS_BLOCK, head = block / (HS_GRID * of), position = block / of % HS_GRID,
             part = block % of;
    const gpu_kv_side &side = a.side[values];
    uint64_t dim = (uint64_t)a.kv_heads * a.head_dim;
    const uint16_t *plain = reinterpret_cast<const uint16_t *>(gpu_plain_page(a, row, page)) + values * HS_GRID * dim +
                            position * dim + head * a.head_dim + part * HS_BLOCK;
    float r[4];
    for (uint32_t i = 0; i < 4; i++)
        r[i] = gpu_half_to_float(plain[4 * lane + i]);
    warp_wht(r, lane);
    uint8_t *to = gpu_coded_page(a, row, page), *low = to + side.low + block * (uint64_t)side.low_bytes;
    uint16_t norm =
        side.bits == 8 ? integer_codes(r, lane, low) : level_codes(side, r, lane, low, to + side.high + block * 16ull);
    if (lane == 0)
        reinterpret_cast<uint16_t *>(to + side.norms)[block] = (norm & 0x7C00) == 0x7C00 ? 0x7E00 : norm;
}

/* A warp a block: pages a.coded_first.. are coded. */
static __global__ void code_kernel(gpu_attention a, uint32_t blocks)
{
    uint32_t block = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (block < blocks) /* whole warps */
        code_block(a, gpu_row_of(a, 0), a.coded_first + blockIdx.y, blockIdx.z, block, threadIdx.x % WARP);
}

/* Of a step, some blocks of threads code the page that row t makes, if its position begins one: whole warps leave. */
static __device__ __forceinline__ void code_begun(const gpu_attention &a, uint32_t t, uint32_t warp, uint32_t lane)
{
    const gpu_row row = gpu_row_of(a, t);
    uint32_t blocks = a.kv_heads * HS_GRID * (a.head_dim / HS_BLOCK), begun = row.position / HS_GRID;
    if (row.position % HS_GRID || begun < 2)
        return;
    for (uint32_t i = warp; i < 2 * blocks; i += CODE_BLOCKS * APPEND_WARPS)
        code_block(a, row, begun - 2, i / blocks, i % blocks, lane);
}

/*
 * A warp a head of a row; and for those of a step's rows that begin a page, CODE_BLOCKS more.  What these read was
 * appended long ago: the page before the one before.
 */
static __global__ void prepare_kernel(gpu_attention a, uint32_t head_blocks)
{
    uint32_t lane = threadIdx.x % WARP, warp = blockIdx.x * APPEND_WARPS + threadIdx.x / WARP;
    if (blockIdx.x >= head_blocks)
        code_begun(a, blockIdx.y, warp - head_blocks * APPEND_WARPS, lane);
    else if (warp < a.q_heads + a.kv_heads) /* whole warps */
        prepare_head(a, blockIdx.y, warp, lane);
}

cudaError_t gpu_run_append(const gpu_attention *a, cudaStream_t s)
{
    uint32_t heads = (a->q_heads + a->kv_heads + APPEND_WARPS - 1) / APPEND_WARPS;
    uint32_t more = a->at && a->coded_bytes ? CODE_BLOCKS : 0;
    GPU_TRY(gpu_launch(prepare_kernel, dim3(heads + more, a->n), dim3(APPEND_WARPS * WARP), 0, s, *a, heads));
    if (a->at || a->coded_pages == 0)
        return cudaSuccess;
    uint32_t each = a->kv_heads * HS_GRID * (a->head_dim / HS_BLOCK);
    return gpu_launch(code_kernel, dim3((each + APPEND_WARPS - 1) / APPEND_WARPS, a->coded_pages, 2),
                      dim3(APPEND_WARPS * WARP), 0, s, *a, each);
}

cudaError_t gpu_load_append(void)
{
    return gpu_load(rope_kernel, tell_kernel, prepare_kernel, code_kernel);
}
