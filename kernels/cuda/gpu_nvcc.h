/*
 * kernels/cuda/gpu_nvcc.h - the gpu_ wrappers on the device.  Include kernels/cuda/gpu.h instead.
 */
#ifndef HS_KERNELS_CUDA_GPU_NVCC_H
#define HS_KERNELS_CUDA_GPU_NVCC_H

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <time.h>

template <class... P, class... A>
static inline cudaError_t gpu_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t s,
                                     A... args)
{
    static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
    kernel<<<grid, block, shared_bytes, s>>>(static_cast<P>(args)...);
    return cudaGetLastError();
}

#define GPU_DYNAMIC_SHARED(T, name)                                                                                    \
    extern __shared__ __align__(16) unsigned char hs_dynamic_shared[];                                                 \
    T *name = reinterpret_cast<T *>(hs_dynamic_shared)

static __device__ __forceinline__ constexpr int gpu_arch()
{
#ifdef __CUDA_ARCH__
    return __CUDA_ARCH__ / 10;
#else
    return 0;
#endif
}

static __device__ __forceinline__ uint32_t gpu_prmt(uint32_t a, uint32_t b, uint32_t selector)
{
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

static __device__ __forceinline__ int gpu_dp4a_us(uint32_t a, uint32_t b, int c)
{
    int d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

static __device__ __forceinline__ int gpu_warp_sum_int(int v)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xFFFFFFFFu, v);
#else
    for (int m = 16; m; m /= 2)
        v += __shfl_xor_sync(0xFFFFFFFFu, v, m);
    return v;
#endif
}

static __device__ __forceinline__ float gpu_half_to_float(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}

static __device__ __forceinline__ uint16_t gpu_float_to_half(float f)
{
    return __half_as_ushort(__float2half_rn(f));
}

static __device__ __forceinline__ void gpu_mma_s8_16832(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    __trap();
#endif
}

static __device__ __forceinline__ void gpu_mma_s8_8816(int (&d)[2], uint32_t a, uint32_t b)
{
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a), "r"(b));
}

static __device__ __forceinline__ void gpu_mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    __trap();
#endif
}

static __device__ __forceinline__ void gpu_cp_async16(void *shared, const void *global)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
    *static_cast<uint4 *>(shared) = *static_cast<const uint4 *>(global);
#endif
}

static __device__ __forceinline__ void gpu_cp_async_commit()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int N> static __device__ __forceinline__ void gpu_cp_async_wait()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

static __device__ __forceinline__ uint4 gpu_load_stream(const uint4 *p)
{
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
}

static __device__ __forceinline__ uint2 gpu_load_stream(const uint2 *p)
{
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

static __device__ __forceinline__ uint32_t gpu_load_stream(const uint32_t *p)
{
    uint32_t v;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

static __device__ __forceinline__ void gpu_flag_set(uint32_t *flag, uint32_t v)
{
    __threadfence_system();
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(v) : "memory");
}

static __device__ __forceinline__ void gpu_flag_wait(const uint32_t *flag, uint32_t at_least)
{
    for (;;) {
        uint32_t v;
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
        if (v >= at_least)
            return;
        __nanosleep(200);
    }
}

static inline void hs_gpu_host_flag_set(uint32_t *flag, uint32_t v)
{
    __atomic_store_n(flag, v, __ATOMIC_RELEASE);
}

/* Spins. About once a millisecond it asks whether anybody is left to set the flag. */
static inline cudaError_t hs_gpu_host_flag_wait(const uint32_t *flag, uint32_t at_least, cudaStream_t s)
{
    for (uint32_t spins = 1;; spins++) {
        if (__atomic_load_n(flag, __ATOMIC_ACQUIRE) >= at_least)
            return cudaSuccess;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        if (spins % 32768 == 0) {
            cudaError_t e = cudaStreamQuery(s);
            if (e == cudaErrorNotReady) {
                (void)cudaGetLastError();
                continue;
            }
            bool set = __atomic_load_n(flag, __ATOMIC_ACQUIRE) >= at_least;
            return set ? cudaSuccess : e != cudaSuccess ? e : cudaErrorUnknown;
        }
    }
}

#endif
