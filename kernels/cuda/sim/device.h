/*
 * kernels/cuda/sim/device.h - what a kernel sees in the simulator: CUDA's keywords, its built-in variables and
 * functions, and the gpu_ wrappers.  Include kernels/cuda/gpu.h instead.
 *
 * A CUDA thread is a fiber; hs_sim_self is the running one.  Whatever lanes do together goes through
 * hs_sim_warp_meet: each lane brings a record on its own stack, the last to come computes for all of them.
 */
#ifndef HS_KERNELS_CUDA_SIM_DEVICE_H
#define HS_KERNELS_CUDA_SIM_DEVICE_H

#include "kernels/cuda/sim/cuda_api.h"

#include <math.h>
#include <string.h>
#ifdef __SSE4_1__
#include <immintrin.h>
#endif

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))

/*
 * All shared variables lie in one linker section, which is poisoned before each block.  GCC will not mix variables
 * of templates (which it wants in COMDAT groups) with others in a section of one name, so every variable gets a name
 * of its own, of which the assembler sees only the part before '#'.  Needs -fno-gnu-unique.
 */
#define HS_SIM_TEXT_(x) #x
#define HS_SIM_TEXT(x) HS_SIM_TEXT_(x)
#if defined(__clang__)
#define __shared__ static __attribute__((section("hs_shared")))
#elif defined(__x86_64__)
#define __shared__ static __attribute__((section("hs_shared,\"aw\",@nobits#" HS_SIM_TEXT(__COUNTER__))))
#else
#define __shared__ static __attribute__((section("hs_shared,\"aw\",%nobits//" HS_SIM_TEXT(__COUNTER__))))
#endif

/* ---- the running thread ------------------------------------------------------------------------------------ */

struct hs_sim_grid {
    dim3 grid, block;
    uint3 block_index;
    void *dynamic;
    int arch;
};

struct hs_sim_thread {
    uint3 index;
    uint32_t lane;
    const hs_sim_grid *at;
};

/* One lane's part of a warp collective; more, such as fragments, may follow it. */
struct hs_sim_meeting {
    uint32_t mask;
    int line;
    void (*combine)(hs_sim_meeting *const *lane, uint32_t mask); /* run once, by the last to come */
    const char *what;
    uint32_t value, argument, result;
};

enum hs_sim_vote { HS_SIM_VOTE_NONE, HS_SIM_VOTE_OR, HS_SIM_VOTE_AND, HS_SIM_VOTE_COUNT };

extern "C" {
extern hs_sim_thread *hs_sim_self;
uint32_t hs_sim_shuffle(uint32_t mask, uint32_t value, uint32_t from_lane, int line, const char *what);
uint32_t hs_sim_ballot(uint32_t mask, bool predicate, int line, const char *what);
uint32_t hs_sim_warp_add(uint32_t mask, uint32_t value, int line);
void hs_sim_warp_sync(uint32_t mask, int line);
int hs_sim_block_sync(hs_sim_vote vote, bool predicate, int line);
void hs_sim_copy_async(void *shared, const void *global, int line);
void hs_sim_copy_commit(void);
void hs_sim_copy_wait(uint32_t newest_left);
void hs_sim_flag_wait(const uint32_t *flag, uint32_t at_least, int line);
void hs_sim_mma_s8(int *d, const uint32_t *a, const uint32_t *b, int m, int line);
void hs_sim_mma_f16(float *d, const uint32_t *a, const uint32_t *b, int line);
uint16_t hs_sim_float_to_half(float f);
float hs_sim_half_to_float(uint16_t h);
}

#define threadIdx (hs_sim_self->index)
#define blockIdx (hs_sim_self->at->block_index)
#define blockDim (hs_sim_self->at->block)
#define gridDim (hs_sim_self->at->grid)
static constexpr int warpSize = 32;
#define GPU_DYNAMIC_SHARED(T, name) T *name = static_cast<T *>(hs_sim_self->at->dynamic)

static inline int gpu_arch()
{
    return hs_sim_self->at->arch;
}

/* ---- launch ------------------------------------------------------------------------------------------------ */

/* Arguments as the kernel's parameters, by value, from the launch on. */
struct hs_sim_argument {
    const void *at;
    uint32_t bytes, align;
};
template <class... P> struct hs_sim_args;
template <> struct hs_sim_args<> {
    void list(hs_sim_argument *) const
    {
    }
    template <class F, class... D> void call(F f, const D &...done) const
    {
        f(done...);
    }
};
template <class H, class... T> struct hs_sim_args<H, T...> {
    H head;
    hs_sim_args<T...> tail;
    void list(hs_sim_argument *to) const
    {
        *to = {&head, sizeof(H), alignof(H)};
        tail.list(to + 1);
    }
    template <class F, class... D> void call(F f, const D &...done) const
    {
        tail.call(f, done..., head);
    }
};

static inline hs_sim_args<> hs_sim_pack()
{
    return {};
}
template <class H, class... T> static inline hs_sim_args<H, T...> hs_sim_pack(H head, T... tail)
{
    return {head, hs_sim_pack(tail...)};
}

struct hs_sim_place {
    const char *text, *file; /* what stood in gpu_launch's parentheses; the kernel comes first */
    int line;
};

struct hs_sim_arguments { /* all of them as the C++ compiler has them, and one by one */
    const void *at;
    size_t bytes;
    const hs_sim_argument *one;
    uint32_t n;
};
extern "C" cudaError_t hs_sim_enqueue_kernel(hs_sim_place place, const void *kernel, dim3 grid, dim3 block,
                                             size_t shared_bytes, cudaStream_t s, const hs_sim_arguments *args,
                                             void (*call)(const void *kernel, const void *args));

template <class... P> static void hs_sim_call(const void *kernel, const void *args)
{
    static_cast<const hs_sim_args<P...> *>(args)->call(reinterpret_cast<void (*)(P...)>(const_cast<void *>(kernel)));
}

template <class... P, class... A>
static inline cudaError_t hs_sim_launch(hs_sim_place place, void (*kernel)(P...), dim3 grid, dim3 block,
                                        size_t shared_bytes, cudaStream_t s, A... args)
{
    static_assert(sizeof...(P) == sizeof...(A), "one argument for each parameter");
    hs_sim_args<P...> packed = hs_sim_pack(static_cast<P>(args)...);
    static_assert(__is_trivially_copyable(decltype(packed)) && sizeof packed <= 4096, "kernel parameters are plain");
    hs_sim_argument one[sizeof...(P) + 1];
    packed.list(one);
    const hs_sim_arguments all = {&packed, sizeof packed, one, (uint32_t)sizeof...(P)};
    (void)hs_sim_enqueue_kernel(place, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, s, &all,
                                hs_sim_call<P...>);
    return cudaGetLastError(); /* a launch says nothing by itself, and this also tells what came before it */
}

#define gpu_launch(...) hs_sim_launch(hs_sim_place{#__VA_ARGS__, __FILE__, __LINE__}, __VA_ARGS__)

/* ---- barriers, votes, shuffles ------------------------------------------------------------------------------ */

static inline void __syncthreads(int line = __builtin_LINE())
{
    hs_sim_block_sync(HS_SIM_VOTE_NONE, false, line);
}
static inline int __syncthreads_or(int predicate, int line = __builtin_LINE())
{
    return hs_sim_block_sync(HS_SIM_VOTE_OR, predicate != 0, line);
}
static inline int __syncthreads_and(int predicate, int line = __builtin_LINE())
{
    return hs_sim_block_sync(HS_SIM_VOTE_AND, predicate != 0, line);
}
static inline int __syncthreads_count(int predicate, int line = __builtin_LINE())
{
    return hs_sim_block_sync(HS_SIM_VOTE_COUNT, predicate != 0, line);
}
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, int line = __builtin_LINE())
{
    hs_sim_warp_sync(mask, line);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return hs_sim_ballot(mask, predicate != 0, line, "__ballot_sync");
}
static inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return hs_sim_ballot(mask, predicate != 0, line, "__any_sync") != 0;
}
static inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return hs_sim_ballot(mask, predicate != 0, line, "__all_sync") == mask;
}

template <class T> static inline uint32_t hs_sim_bits(T v)
{
    static_assert(sizeof(T) == 4, "int, unsigned or float");
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}
template <class T> static inline T hs_sim_from_bits(uint32_t u)
{
    T v;
    memcpy(&v, &u, 4);
    return v;
}

/* Lanes are dealt into groups of `width`; a source outside the group is the lane itself. */
template <class T>
static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, int line = __builtin_LINE())
{
    uint32_t lane = hs_sim_self->lane, w = (uint32_t)width;
    uint32_t source = (lane & ~(w - 1)) | ((uint32_t)from & (w - 1));
    return hs_sim_from_bits<T>(hs_sim_shuffle(mask, hs_sim_bits(v), source, line, "__shfl_sync"));
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, int line = __builtin_LINE())
{
    uint32_t lane = hs_sim_self->lane, w = (uint32_t)width, source = lane ^ (uint32_t)with;
    if (source >= (lane & ~(w - 1)) + w) /* an earlier group may be read */
        source = lane;
    return hs_sim_from_bits<T>(hs_sim_shuffle(mask, hs_sim_bits(v), source, line, "__shfl_xor_sync"));
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, int line = __builtin_LINE())
{
    uint32_t lane = hs_sim_self->lane, first = lane & ~((uint32_t)width - 1);
    uint32_t source = lane >= first + by ? lane - by : lane;
    return hs_sim_from_bits<T>(hs_sim_shuffle(mask, hs_sim_bits(v), source, line, "__shfl_up_sync"));
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, int line = __builtin_LINE())
{
    uint32_t lane = hs_sim_self->lane, end = (lane & ~((uint32_t)width - 1)) + (uint32_t)width;
    uint32_t source = lane + by < end ? lane + by : lane;
    return hs_sim_from_bits<T>(hs_sim_shuffle(mask, hs_sim_bits(v), source, line, "__shfl_down_sync"));
}

static inline int gpu_warp_sum_int(int v, int line = __builtin_LINE())
{
    return (int)hs_sim_warp_add(0xFFFFFFFFu, (uint32_t)v, line);
}
/* __reduce_add_sync is left out: sm_75 has none. */

/* ---- memory ------------------------------------------------------------------------------------------------- */

static inline void __threadfence()
{
}
static inline void __threadfence_block()
{
}
static inline void __threadfence_system()
{
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
static inline uint4 gpu_load_stream(const uint4 *p)
{
    return *p;
}
static inline uint2 gpu_load_stream(const uint2 *p)
{
    return *p;
}
static inline uint32_t gpu_load_stream(const uint32_t *p)
{
    return *p;
}

/* Real atomics, because the host may look at the same memory. Unsigned arithmetic: CUDA's wraps. */
#define HS_SIM_ATOMICS(T, U)                                                                                           \
    static inline T atomicAdd(T *p, T v)                                                                               \
    {                                                                                                                  \
        return (T)__atomic_fetch_add(reinterpret_cast<U *>(p), (U)v, __ATOMIC_RELAXED);                                \
    }                                                                                                                  \
    static inline T atomicOr(T *p, T v)                                                                                \
    {                                                                                                                  \
        return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);                                                              \
    }                                                                                                                  \
    static inline T atomicAnd(T *p, T v)                                                                               \
    {                                                                                                                  \
        return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);                                                             \
    }                                                                                                                  \
    static inline T atomicExch(T *p, T v)                                                                              \
    {                                                                                                                  \
        return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);                                                            \
    }                                                                                                                  \
    static inline T atomicCAS(T *p, T expected, T v)                                                                   \
    {                                                                                                                  \
        __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                       \
        return expected;                                                                                               \
    }                                                                                                                  \
    static inline T atomicMax(T *p, T v)                                                                               \
    {                                                                                                                  \
        T old = *p;                                                                                                    \
        *p = old > v ? old : v;                                                                                        \
        return old;                                                                                                    \
    }                                                                                                                  \
    static inline T atomicMin(T *p, T v)                                                                               \
    {                                                                                                                  \
        T old = *p;                                                                                                    \
        *p = old < v ? old : v;                                                                                        \
        return old;                                                                                                    \
    }
HS_SIM_ATOMICS(int, unsigned)
HS_SIM_ATOMICS(unsigned, unsigned)
HS_SIM_ATOMICS(unsigned long long, unsigned long long)
#undef HS_SIM_ATOMICS

static inline void gpu_cp_async16(void *shared, const void *global, int line = __builtin_LINE())
{
    hs_sim_copy_async(shared, global, line);
}
static inline void gpu_cp_async_commit()
{
    hs_sim_copy_commit();
}
template <int N> static inline void gpu_cp_async_wait()
{
    hs_sim_copy_wait(N);
}

static inline void gpu_flag_set(uint32_t *flag, uint32_t v)
{
    __atomic_store_n(flag, v, __ATOMIC_RELEASE);
}
static inline void gpu_flag_wait(const uint32_t *flag, uint32_t at_least, int line = __builtin_LINE())
{
    if (__atomic_load_n(flag, __ATOMIC_ACQUIRE) < at_least)
        hs_sim_flag_wait(flag, at_least, line);
}

extern "C" void hs_gpu_host_flag_set(uint32_t *flag, uint32_t v);
extern "C" cudaError_t hs_gpu_host_flag_wait(const uint32_t *flag, uint32_t at_least, cudaStream_t s);

/* ---- arithmetic --------------------------------------------------------------------------------------------- */

/* Products spend their time in these two: with SSE4.1 a few instructions each. */
static __forceinline__ uint32_t gpu_prmt(uint32_t a, uint32_t b, uint32_t selector)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t d = 0;
#ifdef __SSE4_1__
    uint32_t at = selector & 0xFFFF;
    at = (at | at << 8) & 0x00FF00FF;
    at = (at | at << 4) & 0x0F0F0F0F;
    __m128i all = _mm_cvtsi64_si128((long long)bytes), which = _mm_cvtsi32_si128((int)(at & 0x07070707));
    d = (uint32_t)_mm_cvtsi128_si32(_mm_shuffle_epi8(all, which));
    uint32_t signs = (at >> 3 & 0x01010101) * 0xFF;
    return (d & ~signs) | ((d >> 7 & 0x01010101) * 0xFF & signs);
#endif
    for (int i = 0; i < 4; i++) {
        uint32_t s = selector >> (4 * i) & 15;
        uint32_t byte = (uint32_t)(bytes >> (8 * (s & 7))) & 0xFF;
        if (s & 8)
            byte = byte & 0x80 ? 0xFF : 0;
        d |= byte << (8 * i);
    }
    return d;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    return gpu_prmt(a, b, selector & 0x7777);
}
static __forceinline__ int __dp4a(int a, int b, int c)
{
#ifdef __SSE4_1__
    __m128i two = _mm_madd_epi16(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(a)), _mm_cvtepi8_epi16(_mm_cvtsi32_si128(b)));
    uint64_t sums = (uint64_t)_mm_cvtsi128_si64(two);
    return (int)((uint32_t)c + (uint32_t)sums + (uint32_t)(sums >> 32));
#endif
    for (int i = 0; i < 4; i++)
        c = (int)((uint32_t)c + (uint32_t)((int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i))));
    return c;
}
static inline int gpu_dp4a_us(uint32_t a, uint32_t b, int c)
{
    for (int i = 0; i < 4; i++)
        c = (int)((uint32_t)c + (uint32_t)((uint8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i))));
    return c;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31)) >> 32);
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}
static inline unsigned __brev(unsigned v)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (v >> i & 1) << (31 - i);
    return r;
}

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
/* To nearest even; beyond int's range its ends, NaN is 0. */
static inline int __float2int_rn(float f)
{
    if (f != f)
        return 0;
    if (f >= 2147483648.0f)
        return 2147483647;
    if (f < -2147483648.0f)
        return -2147483647 - 1;
    return (int)nearbyintf(f);
}
static inline float __int2float_rn(int i)
{
    return (float)i;
}
static inline unsigned __float_as_uint(float f)
{
    return hs_sim_bits(f);
}
static inline float __uint_as_float(unsigned u)
{
    return hs_sim_from_bits<float>(u);
}
static inline int __float_as_int(float f)
{
    return (int)hs_sim_bits(f);
}
static inline float __int_as_float(int i)
{
    return hs_sim_from_bits<float>((uint32_t)i);
}
static inline float gpu_half_to_float(uint16_t h)
{
    return hs_sim_half_to_float(h);
}
static inline uint16_t gpu_float_to_half(float f)
{
    return hs_sim_float_to_half(f);
}

static inline void gpu_mma_s8_16832(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    int line = __builtin_LINE())
{
    hs_sim_mma_s8(d, a, b, 16, line);
}
static inline void gpu_mma_s8_8816(int (&d)[2], uint32_t a, uint32_t b, int line = __builtin_LINE())
{
    hs_sim_mma_s8(d, &a, &b, 8, line);
}
static inline void gpu_mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     int line = __builtin_LINE())
{
    hs_sim_mma_f16(d, a, b, line);
}

#define HS_SIM_MAKE2(T, E)                                                                                             \
    static inline T make_##T(E x, E y)                                                                                 \
    {                                                                                                                  \
        return {x, y};                                                                                                 \
    }
#define HS_SIM_MAKE4(T, E)                                                                                             \
    static inline T make_##T(E x, E y, E z, E w)                                                                       \
    {                                                                                                                  \
        return {x, y, z, w};                                                                                           \
    }
HS_SIM_MAKE2(uint2, unsigned)
HS_SIM_MAKE2(int2, int)
HS_SIM_MAKE2(float2, float)
HS_SIM_MAKE4(uint4, unsigned)
HS_SIM_MAKE4(int4, int)
HS_SIM_MAKE4(float4, float)
#undef HS_SIM_MAKE2
#undef HS_SIM_MAKE4

#endif
