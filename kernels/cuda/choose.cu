/*
 * choose.cu - the largest of the logits, so that four bytes leave the card instead of all of them.
 *
 * Blocks take turns over the values, and a last one takes the best of theirs.  Which is best does not depend on the
 * order in which they are compared: the larger, of equal ones the lower id, of what is no number none.
 */
#include "kernels/cuda/device.h"

enum { BEST_THREADS = 256, BEST_WARPS = BEST_THREADS / WARP, NONE = -1 };

static __device__ __forceinline__ void take_better(float &value, int32_t &id, float v, int32_t other)
{
    bool take = other != NONE && (id == NONE || v > value || (v == value && other < id));
    value = take ? v : value;
    id = take ? other : id;
}

/* The block's best goes to *out. All threads come. */
static __device__ __forceinline__ void best_of_block(float value, int32_t id, uint2 *out)
{
    __shared__ float values[BEST_WARPS];
    __shared__ int32_t ids[BEST_WARPS];
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int m = 16; m; m /= 2) {
        float v = __shfl_xor_sync(0xFFFFFFFFu, value, m);
        int32_t other = __shfl_xor_sync(0xFFFFFFFFu, id, m);
        take_better(value, id, v, other);
    }
    if (lane == 0) {
        values[warp] = value;
        ids[warp] = id;
    }
    __syncthreads();
    if (threadIdx.x)
        return;
    for (uint32_t w = 1; w < BEST_WARPS; w++)
        take_better(value, id, values[w], ids[w]);
    *out = make_uint2(hs_float_bits(value), (uint32_t)id);
}

static __global__ void __launch_bounds__(BEST_THREADS) best_kernel(const float *x, uint32_t n, uint2 *part)
{
    float value = 0.0f;
    int32_t id = NONE;
    for (uint32_t i = blockIdx.x * BEST_THREADS + threadIdx.x; i < n; i += gridDim.x * BEST_THREADS)
        take_better(value, id, x[i], x[i] == x[i] ? (int32_t)i : (int32_t)NONE);
    best_of_block(value, id, &part[blockIdx.x]);
}

static __global__ void __launch_bounds__(BEST_THREADS) best_part_kernel(uint2 *part, uint32_t parts)
{
    bool there = threadIdx.x < parts;
    uint2 p = part[there ? threadIdx.x : 0];
    best_of_block(hs_bits_float(p.x), there ? (int32_t)p.y : (int32_t)NONE, &part[GPU_BEST_PARTS]);
}

cudaError_t gpu_run_best(const float *x, uint32_t n, uint2 *part, cudaStream_t s)
{
    uint32_t parts = (n + BEST_THREADS - 1) / BEST_THREADS;
    parts = parts < GPU_BEST_PARTS ? parts : (uint32_t)GPU_BEST_PARTS;
    GPU_TRY(gpu_launch(best_kernel, dim3(parts), dim3(BEST_THREADS), 0, s, x, n, part));
    return gpu_launch(best_part_kernel, dim3(1), dim3(BEST_THREADS), 0, s, part, parts);
}

cudaError_t gpu_load_choose(void)
{
    return gpu_load(best_kernel, best_part_kernel);
}
