/*
 * The simulator finds mistakes: each test plants one and expects it to show, beside the right version, which must not.
 *
 * What depends on an order is tried with many seeds: a wrong program has to fail with some of them.
 */
#include "tests/cuda/sim_test.h"

#include <pthread.h>
#include <signal.h>

enum { SEEDS = 24 };

static const hs_sim_order orders[] = {HS_SIM_UP, HS_SIM_DOWN, HS_SIM_SHUFFLE};

/* ---- kernels ------------------------------------------------------------------------------------------------ */

static __global__ void reverse_kernel(float *x, int with_barrier)
{
    __shared__ float s[256];
    int t = threadIdx.x;
    s[t] = x[t];
    if (with_barrier)
        __syncthreads();
    x[t] = s[255 - t];
}

static void a_missing_barrier_shows(void **)
{
    for (hs_sim_order order : orders)
        for (int good = 0; good < 2; good++) {
            start(1, order);
            float x[256];
            for (int i = 0; i < 256; i++)
                x[i] = (float)i;
            float *d = to_device(x, 256);
            OK(gpu_launch(reverse_kernel, 1, 256, 0, nullptr, d, good));
            to_host(x, d, 256);
            int nan = 0, wrong = 0;
            for (int i = 0; i < 256; i++) {
                nan += x[i] != x[i];
                wrong += x[i] != (float)(255 - i);
            }
            assert_true(good ? wrong == 0 : nan > 0);
            OK(cudaFree(d));
        }
}

/* Each round overwrites what a slower thread has not read yet. */
static __global__ void rounds_kernel(int *x, int with_second)
{
    __shared__ int s[64];
    int t = threadIdx.x, v = t;
    for (int i = 0; i < 4; i++) {
        s[t] = v;
        __syncthreads();
        v = s[(t + 1) % 64] + i;
        if (with_second)
            __syncthreads();
    }
    x[t] = v;
}

static void a_missing_second_barrier_shows_in_the_order(void **)
{
    for (int good = 0; good < 2; good++) {
        int wrong = 0;
        for (uint64_t seed = 0; seed < 6; seed++) {
            start(seed, orders[seed % 3]);
            int *d = device<int>(64), x[64];
            OK(gpu_launch(rounds_kernel, 1, 64, 0, nullptr, d, good));
            to_host(x, d, 64);
            for (int i = 0; i < 64; i++)
                wrong += x[i] != (i + 4) % 64 + 6;
            OK(cudaFree(d));
        }
        assert_true(good ? wrong == 0 : wrong > 0);
    }
}

static __global__ void async_kernel(uint4 *out, const uint4 *in, int wait)
{
    __shared__ uint4 s[32];
    int t = threadIdx.x;
    gpu_cp_async16(&s[t], &in[t]);
    gpu_cp_async_commit();
    if (wait)
        gpu_cp_async_wait<0>();
    __syncthreads();
    out[t] = s[31 - t];
}

static void a_missing_cp_async_wait_shows(void **)
{
    for (int good = 0; good < 2; good++) {
        start(0, HS_SIM_UP);
        uint32_t in[128], got[128];
        for (uint32_t i = 0; i < 128; i++)
            in[i] = i;
        uint4 *a = reinterpret_cast<uint4 *>(to_device(in, 128)), *b = device<uint4>(32);
        OK(gpu_launch(async_kernel, 1, 32, 0, nullptr, b, a, good));
        to_host(got, reinterpret_cast<uint32_t *>(b), 128);
        for (uint32_t i = 0; i < 128; i++)
            assert_int_equal(got[i], good ? (31 - i / 4) * 4 + i % 4 : 0xFFFFFFFFu);
        hs_sim_reset();
    }
}

enum plan {
    GOOD,
    DIVERGENT_BARRIER,
    BARRIER_SKIPPED,
    LEAVES_BEFORE_BARRIER,
    LEAVES_BEFORE_SHUFFLE,
    OTHER_SHUFFLE,
    NOT_IN_MASK,
    READS_OUTSIDE_MASK,
    BARRIER_AGAINST_WARP,
    MISALIGNED_COPY,
};

static __global__ void plan_kernel(int *out, int what)
{
    __shared__ uint4 s[2];
    int t = threadIdx.x, v = t;
    if (what == DIVERGENT_BARRIER) {
        if (t % 2)
            __syncthreads();
        else
            __syncthreads();
    }
    if (what == BARRIER_SKIPPED && t >= 32)
        __syncthreads();
    if (what == LEAVES_BEFORE_BARRIER && t == 40)
        return;
    if (what == LEAVES_BEFORE_SHUFFLE && t == 7)
        return;
    if (what == OTHER_SHUFFLE && t == 3)
        v += __shfl_xor_sync(0xFFFFFFFFu, v, 2);
    if (what == NOT_IN_MASK)
        v += __shfl_xor_sync(0x7FFFFFFFu, v, 0);
    if (what == READS_OUTSIDE_MASK && t < 16)
        v += __shfl_xor_sync(0x0000FFFFu, v, 16);
    if (what == BARRIER_AGAINST_WARP && t % 32 < 5)
        __syncwarp();
    else if (what == BARRIER_AGAINST_WARP)
        __syncthreads();
    if (what == MISALIGNED_COPY)
        gpu_cp_async16(reinterpret_cast<char *>(s) + 4, out);
    v = __shfl_xor_sync(0xFFFFFFFFu, v, 1);
    __syncthreads();
    out[t] = v;
}

static void bad_kernel(int what, cudaError_t want, const char *says)
{
    for (hs_sim_order order : orders) {
        start(5, order);
        int *d = device<int>(64), x[64];
        OK(gpu_launch(plan_kernel, 1, 64, 0, nullptr, d, GOOD));
        to_host(x, d, 64);
        assert_int_equal(x[6], 7);

        OK(gpu_launch(plan_kernel, 1, 64, 0, nullptr, d, what));
        assert_int_equal(cudaDeviceSynchronize(), want);
        assert_true(fault_says(says) && fault_says("kernel plan_kernel") && fault_says("block (0,0,0)"));
        assert_int_equal(cudaMemset(d, 0, 4), want); /* the error stays */
        assert_int_equal(cudaGetLastError(), want);
        assert_int_equal(cudaGetLastError(), want);
        assert_int_equal(cudaFree(d), want);
        assert_int_equal(hs_sim_leaks(), 0);
    }
}

static void barrier_divergence_is_diagnosed(void **)
{
    bad_kernel(DIVERGENT_BARRIER, cudaErrorLaunchFailure, "wait at another one");
    bad_kernel(BARRIER_SKIPPED, cudaErrorLaunchFailure, "line");
    bad_kernel(BARRIER_AGAINST_WARP, cudaErrorLaunchFailure, "deadlock");
}

static void leaving_while_others_wait_is_diagnosed(void **)
{
    bad_kernel(LEAVES_BEFORE_BARRIER, cudaErrorLaunchFailure, "left");
    bad_kernel(LEAVES_BEFORE_SHUFFLE, cudaErrorLaunchFailure, "left");
}

static void wrong_masks_are_diagnosed(void **)
{
    bad_kernel(OTHER_SHUFFLE, cudaErrorLaunchFailure, "waits at line");
    bad_kernel(NOT_IN_MASK, cudaErrorLaunchFailure, "does not name lane 31");
    bad_kernel(READS_OUTSIDE_MASK, cudaErrorLaunchFailure, "which mask 0x0000ffff does not name");
    bad_kernel(MISALIGNED_COPY, cudaErrorMisalignedAddress, "not multiples of 16");
}

static void absent_lanes_are_diagnosed(void **)
{
    start(0, HS_SIM_UP);
    int *d = device<int>(64);
    OK(gpu_launch(plan_kernel, 1, 40, 0, nullptr, d, GOOD));
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    assert_true(fault_says("names absent lane 8"));
    hs_sim_reset();
}

static __global__ void dynamic_kernel(int *out, int past)
{
    GPU_DYNAMIC_SHARED(int, s);
    s[threadIdx.x + (unsigned)past] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}

static __global__ void big_static_kernel(int *out)
{
    __shared__ int s[10240];
    s[threadIdx.x] = 1;
    __syncthreads();
    out[0] = s[0];
}

static void limits_of_a_launch_are_checked(void **)
{
    start(0, HS_SIM_UP);
    int *d = device<int>(2048);
    OK(gpu_launch(dynamic_kernel, 1, 1024, 48 << 10, nullptr, d, 0));
    assert_int_equal(gpu_launch(dynamic_kernel, 1, 1025, 48 << 10, nullptr, d, 0), cudaErrorInvalidConfiguration);
    assert_int_equal(gpu_launch(dynamic_kernel, 1, dim3(64, 32), 0, nullptr, d, 0), cudaErrorInvalidConfiguration);
    assert_int_equal(gpu_launch(dynamic_kernel, dim3(1, 65536), 32, 128, nullptr, d, 0), cudaErrorInvalidConfiguration);
    assert_int_equal(gpu_launch(dynamic_kernel, 0, 32, 128, nullptr, d, 0), cudaErrorInvalidConfiguration);
    assert_int_equal(gpu_launch(dynamic_kernel, 1, 32, (48 << 10) + 4, nullptr, d, 0), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess); /* none of these is sticky, and a launch asks itself */
    OK(cudaFuncSetAttribute(dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 << 10));
    assert_int_equal(cudaFuncSetAttribute(dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10),
                     cudaErrorInvalidValue);
    assert_int_equal(gpu_launch(dynamic_kernel, 1, 32, 128, nullptr, d, 0), cudaErrorInvalidValue); /* of that call */
    OK(gpu_launch(dynamic_kernel, 1, 32, 99 << 10, nullptr, d, 0));
    assert_int_equal(gpu_launch(dynamic_kernel, 1, 32, (99 << 10) + 4, nullptr, d, 0), cudaErrorInvalidValue);
    /* 40 KiB of its own and 8 KiB fit, a byte more does not. */
    OK(gpu_launch(big_static_kernel, 1, 32, 8 << 10, nullptr, d));
    assert_int_equal(gpu_launch(big_static_kernel, 1, 32, (8 << 10) + 1, nullptr, d), cudaErrorInvalidValue);
    OK(cudaDeviceSynchronize());
    OK(cudaFree(d));
}

#ifndef __SANITIZE_ADDRESS__ /* which finds these by itself, and stops */
static void writing_past_shared_memory_is_diagnosed(void **)
{
    start(0, HS_SIM_UP);
    int *d = device<int>(64);
    OK(gpu_launch(dynamic_kernel, 1, 32, 128, nullptr, d, 1));
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    assert_true(fault_says("byte 128 of 128 of dynamic shared memory"));
    hs_sim_reset();
}

static __global__ void fill_kernel(uint8_t *x, int n)
{
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        x[i] = 3;
}

static void writing_past_a_block_is_found_when_it_is_freed(void **)
{
    start(0, HS_SIM_UP);
    uint8_t *d = device<uint8_t>(1000);
    OK(gpu_launch(fill_kernel, 1, 32, 0, nullptr, d, 1000));
    OK(cudaDeviceSynchronize());
    OK(gpu_launch(fill_kernel, 1, 32, 0, nullptr, d, 1001));
    assert_int_equal(cudaFree(d), cudaErrorIllegalAddress);
    assert_true(fault_says("1000 bytes of device memory was written at byte 1000"));
    hs_sim_reset();
}
#endif

/* ---- streams ------------------------------------------------------------------------------------------------ */

static __global__ void add_kernel(int *out, const int *in, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n)
        out[i] += in[i];
}

enum { N = 1024 };

/* Eight chunks through one staging buffer; `wait` is the right thing to do before it is filled again. */
static bool sums_are_right(bool wait)
{
    cudaStream_t s = stream();
    cudaEvent_t e = event();
    int *staging = host_pinned<int>(N), *in = device<int>(N), *out = device<int>(N), got[N];
    OK(cudaMemsetAsync(out, 0, N * sizeof(int), s));
    for (int chunk = 0; chunk < 8; chunk++) {
        if (wait)
            OK(cudaEventSynchronize(e));
        for (int i = 0; i < N; i++)
            staging[i] = i + chunk;
        OK(cudaMemcpyAsync(in, staging, N * sizeof(int), cudaMemcpyHostToDevice, s));
        OK(cudaEventRecord(e, s));
        OK(gpu_launch(add_kernel, N / 128, 128, 0, s, out, in, N));
    }
    OK(cudaMemcpyAsync(got, out, sizeof got, cudaMemcpyDeviceToHost, s));
    bool right = true;
    for (int i = 0; i < N; i++)
        right &= got[i] == 8 * i + 28;
    OK(cudaFree(in));
    OK(cudaFree(out));
    OK(cudaFreeHost(staging));
    OK(cudaEventDestroy(e));
    OK(cudaStreamDestroy(s));
    assert_int_equal(hs_sim_leaks(), 0);
    return right;
}

static void a_staging_buffer_refilled_too_early_shows(void **)
{
    start(0, HS_SIM_UP);
    assert_true(sums_are_right(true));
    assert_false(sums_are_right(false));
}

/* Uploads on one stream, kernels on another, one device buffer. */
static bool overlapped_sums_are_right(bool wait_for_upload, bool wait_for_kernel)
{
    cudaStream_t up = stream(), work = stream();
    cudaEvent_t uploaded = event(), used = event();
    int *staging = host_pinned<int>(4 * N), *in = device<int>(N), *out = device<int>(N), got[N];
    for (int i = 0; i < 4 * N; i++)
        staging[i] = i;
    OK(cudaMemsetAsync(out, 0, N * sizeof(int), work));
    for (int chunk = 0; chunk < 4; chunk++) {
        if (wait_for_kernel)
            OK(cudaStreamWaitEvent(up, used, 0));
        OK(cudaMemcpyAsync(in, staging + chunk * N, N * sizeof(int), cudaMemcpyHostToDevice, up));
        OK(cudaEventRecord(uploaded, up));
        if (wait_for_upload)
            OK(cudaStreamWaitEvent(work, uploaded, 0));
        OK(gpu_launch(add_kernel, N / 128, 128, 0, work, out, in, N));
        OK(cudaEventRecord(used, work));
    }
    OK(cudaMemcpyAsync(got, out, sizeof got, cudaMemcpyDeviceToHost, work));
    bool right = true;
    for (int i = 0; i < N; i++)
        right &= got[i] == 4 * i + 6 * N;
    hs_sim_reset();
    return right;
}

static void missing_events_show(void **)
{
    int wrong_upload = 0, wrong_reuse = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        start(seed, orders[seed % 3]);
        assert_true(overlapped_sums_are_right(true, true));
        start(seed, HS_SIM_UP);
        wrong_upload += !overlapped_sums_are_right(false, true);
        start(seed, HS_SIM_UP);
        wrong_reuse += !overlapped_sums_are_right(true, false);
    }
    assert_true(wrong_upload > SEEDS / 2 && wrong_reuse > SEEDS / 2);
}

static void pageable_memory_makes_a_copy_synchronous(void **)
{
    start(0, HS_SIM_UP);
    cudaStream_t s = stream();
    int x[4] = {1, 2, 3, 4}, got[4], *d = device<int>(4);
    OK(cudaMemcpyAsync(d, x, sizeof x, cudaMemcpyHostToDevice, s));
    memset(x, 0, sizeof x);
    OK(cudaMemcpyAsync(got, d, sizeof got, cudaMemcpyDeviceToHost, s));
    assert_int_equal(got[3], 4);
    int *pinned = host_pinned<int>(4);
    pinned[0] = 0;
    OK(cudaMemcpyAsync(pinned, d, sizeof got, cudaMemcpyDeviceToHost, s));
    assert_int_equal(pinned[0], 0); /* nobody has waited */
    assert_int_equal(cudaStreamQuery(nullptr), cudaSuccess);
    OK(cudaStreamSynchronize(s));
    assert_int_equal(pinned[0], 1);
    hs_sim_stats st = hs_sim_read_stats();
    assert_int_equal(st.h2d_bytes, 16);
    assert_int_equal(st.d2h_bytes, 32);
    hs_sim_reset();
}

static void the_default_stream_waits_for_blocking_ones(void **)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        start(seed, HS_SIM_UP);
        cudaStream_t a, b;
        OK(cudaStreamCreate(&a));
        OK(cudaStreamCreate(&b));
        int *d = device<int>(N), got[N];
        OK(cudaMemsetAsync(d, 1, N * sizeof(int), a));
        OK(cudaMemset(d, 2, N * sizeof(int)));
        OK(cudaMemsetAsync(d, 3, N * sizeof(int), b));
        OK(cudaStreamSynchronize(b));
        OK(cudaMemcpy(got, d, sizeof got, cudaMemcpyDeviceToHost));
        assert_int_equal(got[N - 1], 0x03030303);
        hs_sim_reset();
    }
}

static void queries_make_progress(void **)
{
    start(7, HS_SIM_UP);
    cudaStream_t s = stream();
    cudaEvent_t e = event();
    int *d = device<int>(N);
    for (int i = 0; i < 10; i++)
        OK(cudaMemsetAsync(d, i, N * sizeof(int), s));
    OK(cudaEventRecord(e, s));
    int asked = 0;
    for (cudaError_t r; (r = cudaEventQuery(e)) != cudaSuccess; asked++)
        assert_int_equal(r, cudaErrorNotReady);
    assert_true(asked >= 5);
    OK(cudaStreamQuery(s));
    assert_int_equal(cudaGetLastError(), cudaErrorNotReady); /* it stays until somebody asks */
    OK(cudaGetLastError());
    hs_sim_reset();
}

static void host_functions_run_in_their_turn(void **)
{
    start(0, HS_SIM_UP);
    cudaStream_t s = stream();
    int *d = device<int>(1), *pinned = host_pinned<int>(1);
    struct seen {
        const int *pinned;
        int value;
        cudaError_t call;
    } seen = {pinned, 0, cudaSuccess};
    OK(cudaMemsetAsync(d, 1, sizeof(int), s));
    OK(cudaMemcpyAsync(pinned, d, sizeof(int), cudaMemcpyDeviceToHost, s));
    OK(cudaLaunchHostFunc(
        s,
        [](void *user) {
            struct seen *w = static_cast<struct seen *>(user);
            w->value = *w->pinned;
            w->call = cudaDeviceSynchronize();
        },
        &seen));
    OK(cudaMemsetAsync(pinned, 2, sizeof(int), s));
    OK(cudaStreamSynchronize(s));
    assert_int_equal(seen.value, 0x01010101);
    assert_int_equal(seen.call, cudaErrorNotPermitted);
    assert_int_equal(*pinned, 0x02020202);
    hs_sim_reset();
}

/* ---- flags -------------------------------------------------------------------------------------------------- */

static __global__ void wait_kernel(int *out, const int *data, const uint32_t *flag, uint32_t *ready)
{
    __shared__ int s[32];
    int t = threadIdx.x;
    s[t] = t;
    if (t == 0) {
        gpu_flag_set(&ready[blockIdx.x], 1);
        gpu_flag_wait(&flag[blockIdx.x], 5);
    }
    __syncthreads();
    out[blockIdx.x * 32 + t] = s[31 - t] + data[blockIdx.x];
}

static void a_kernel_waits_for_the_host(void **)
{
    for (uint64_t seed = 0; seed < 9; seed++) {
        start(seed, orders[seed % 3]);
        cudaStream_t s = stream(), other = stream();
        int *out = device<int>(96), *side = device<int>(96), got[96];
        int *data = host_pinned<int>(3);
        uint32_t *flag = host_pinned<uint32_t>(3), *ready = host_pinned<uint32_t>(3);
        for (int i = 0; i < 3; i++)
            flag[i] = ready[i] = 0, data[i] = 0;
        OK(gpu_launch(wait_kernel, 3, 32, 0, s, out, data, flag, ready));
        OK(hs_gpu_host_flag_wait(&ready[2], 1, s));
        /* The kernel stands; another one with shared variables goes past it. */
        float *f = reinterpret_cast<float *>(device<float>(256));
        OK(gpu_launch(reverse_kernel, 1, 256, 0, other, f, 1));
        OK(cudaMemsetAsync(side, 0, 96 * sizeof(int), other));
        OK(cudaStreamSynchronize(other));
        assert_int_equal(cudaStreamQuery(s), cudaErrorNotReady);
        for (int i = 2; i >= 0; i--) {
            data[i] = 100 * i;
            hs_gpu_host_flag_set(&flag[i], (uint32_t)(5 + i));
        }
        OK(cudaMemcpyAsync(got, out, sizeof got, cudaMemcpyDeviceToHost, s));
        for (int i = 0; i < 96; i++)
            assert_int_equal(got[i], 31 - i % 32 + 100 * (i / 32));
        hs_sim_reset();
    }
}

static void *set_later(void *flag)
{
    usleep(20000);
    for (int i = 0; i < 3; i++)
        __atomic_store_n(static_cast<uint32_t *>(flag) + i, 5u, __ATOMIC_RELEASE);
    return nullptr;
}

static void another_thread_may_end_a_wait(void **)
{
    hs_sim_options o = plain_options();
    o.patience_ms = 20000;
    hs_sim_configure(&o);
    cudaStream_t s = stream();
    int *out = device<int>(96), *data = host_pinned<int>(3);
    uint32_t *flag = host_pinned<uint32_t>(3), *ready = host_pinned<uint32_t>(3);
    for (int i = 0; i < 3; i++)
        flag[i] = ready[i] = 0, data[i] = 0;
    OK(gpu_launch(wait_kernel, 3, 32, 0, s, out, data, flag, ready));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, nullptr, set_later, flag), 0);
    OK(cudaStreamSynchronize(s));
    pthread_join(thread, nullptr);
    hs_sim_reset();
}

static void wait_for_ever(void)
{
    start(0, HS_SIM_UP);
    cudaStream_t s = stream(), t = stream();
    cudaEvent_t e = event();
    int *out = device<int>(96), *data = host_pinned<int>(3);
    uint32_t *flag = host_pinned<uint32_t>(3);
    memset(flag, 0, 12);
    OK(gpu_launch(wait_kernel, 3, 32, 0, s, out, data, flag, flag));
    OK(cudaEventRecord(e, s));
    OK(cudaStreamWaitEvent(t, e, 0));
    OK(cudaStreamSynchronize(t));
}

static void a_deadlock_of_host_and_device_is_named(void **)
{
    char said[2048];
    int status = in_child(wait_for_ever, said, sizeof said);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(said, "deadlock: the host waits for stream 2"));
    assert_non_null(strstr(said, "stream 2: an event of stream 1"));
    assert_non_null(strstr(said, "kernel wait_kernel, line"));
    assert_non_null(strstr(said, "is 1, wanted 5"));
}

/* ---- memory ------------------------------------------------------------------------------------------------- */

static bool with_protection;

static void touch(void)
{
    hs_sim_options o = plain_options();
    o.protect = with_protection;
    hs_sim_configure(&o);
    int *d = device<int>(1);
    OK(cudaMemset(d, 0, sizeof(int)));
    OK(cudaDeviceSynchronize());
    *static_cast<volatile int *>(d) = 1;
}

static void the_host_cannot_touch_device_memory(void **)
{
    char said[4096];
    for (int protect = 0; protect < 2; protect++) {
        with_protection = protect;
        int status = in_child(touch, said, sizeof said);
#ifdef __SANITIZE_ADDRESS__
        assert_true(protect ? status != 0 : status == 0);
#else
        assert_true(protect ? WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV : status == 0);
        assert_true(!protect || strstr(said, "the host uses device memory at"));
#endif
    }
}

static __global__ void wild_kernel(int *p, int at)
{
    p[threadIdx.x == 3 ? at : 0] = 1;
}

static void run_wild(void)
{
    start(0, HS_SIM_UP);
    int *d = device<int>(4);
    OK(gpu_launch(wild_kernel, 1, 32, 0, nullptr, d, 8192));
    OK(cudaDeviceSynchronize());
}

/* Never allocated, so it is closed while kernels run too; AddressSanitizer has no poison there but sees the SIGSEGV. */
static void a_kernel_that_leaves_device_memory_is_named(void **)
{
    char said[4096];
    int status = in_child(run_wild, said, sizeof said);
    assert_int_not_equal(status, 0);
#ifndef __SANITIZE_ADDRESS__
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    assert_non_null(strstr(said, "kernel wild_kernel"));
    assert_non_null(strstr(said, "thread (3,0,0): illegal access"));
#endif
}

static void vram_is_capped_and_fragments(void **)
{
    hs_sim_options o = plain_options();
    o.vram_bytes = 64 << 10;
    o.pinned_bytes = 1 << 20;
    o.page_bytes = 0;
    hs_sim_configure(&o);
    void *p[16], *big;
    for (void *&x : p)
        OK(cudaMalloc(&x, 4000)); /* takes 4096 */
    size_t unused, total;
    OK(cudaMemGetInfo(&unused, &total));
    assert_int_equal(unused, 0);
    assert_int_equal(total, 64 << 10);
    assert_int_equal(cudaMalloc(&big, 1), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    OK(cudaGetLastError());
    for (int i = 0; i < 16; i += 2)
        OK(cudaFree(p[i]));
    OK(cudaMemGetInfo(&unused, &total));
    assert_int_equal(unused, 32 << 10);
    assert_int_equal(cudaMalloc(&big, 4097), cudaErrorMemoryAllocation); /* free, but not in one piece */
    OK(cudaMalloc(&big, 4096));
    assert_ptr_equal(big, p[0]);
    OK(cudaFree(big));
    for (int i = 1; i < 16; i += 2)
        OK(cudaFree(p[i]));
    assert_int_equal(cudaFree(p[1]), cudaErrorInvalidValue); /* twice */
    OK(cudaMalloc(&big, 64 << 10));
    uint8_t got[16];
    OK(cudaMemcpy(got, big, 16, cudaMemcpyDeviceToHost));
    assert_int_equal(got[7], 0xFF);
    assert_int_equal(cudaMemcpy(got, static_cast<char *>(big) + (64 << 10) - 8, 16, cudaMemcpyDeviceToHost),
                     cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(got, big, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    OK(cudaFree(big));

    assert_int_equal(cudaHostAlloc(&big, (1 << 20) + 1, 0), cudaErrorMemoryAllocation);
    OK(cudaHostAlloc(&big, 1 << 20, 0));
    void *same;
    OK(cudaHostGetDevicePointer(&same, big, 0));
    assert_ptr_equal(same, big);
    OK(cudaFreeHost(big));
    assert_int_equal(cudaHostGetDevicePointer(&same, got, 0), cudaErrorInvalidValue);
    assert_int_equal(hs_sim_leaks(), 0);
    hs_sim_stats s = hs_sim_read_stats();
    assert_int_equal(s.device_peak_bytes, 64 << 10);
    assert_int_equal(s.pinned_peak_bytes, 1 << 20);
}

static uint64_t free_bytes(void)
{
    size_t now, total;
    OK(cudaMemGetInfo(&now, &total));
    return now;
}

/* A large block has pages to itself, small ones share them, and a page is free when the last of them is. */
static void whole_pages_are_counted(void **)
{
    hs_sim_options o = plain_options();
    const uint64_t page = 2 << 20;
    void *large, *small[3], *more;
    o.vram_bytes = 4 * page;
    hs_sim_configure(&o);
    OK(cudaMalloc(&small[0], 1));
    assert_int_equal(free_bytes(), 3 * page);
    OK(cudaMalloc(&large, page + 1));
    assert_int_equal(free_bytes(), page);
    OK(cudaMalloc(&small[1], page / 2));
    OK(cudaMalloc(&small[2], page / 2 - 512));
    assert_int_equal(free_bytes(), page);
    assert_int_equal(cudaMalloc(&more, page + 1), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    OK(cudaFree(large));
    assert_int_equal(free_bytes(), 3 * page);
    OK(cudaFree(small[0]));
    OK(cudaFree(small[2]));
    assert_int_equal(free_bytes(), 3 * page);
    OK(cudaFree(small[1]));
    assert_int_equal(free_bytes(), 4 * page);
    assert_int_equal(hs_sim_leaks(), 0);
}

static void registering_may_fail(void **)
{
    hs_sim_options o = plain_options();
    static char memory[8192];
    hs_sim_configure(&o);
    OK(cudaHostRegister(memory, 8192, cudaHostRegisterDefault));
    assert_int_equal(cudaHostRegister(memory + 4096, 100, 0), cudaErrorHostMemoryAlreadyRegistered);
    OK(cudaHostUnregister(memory));
    assert_int_equal(cudaHostUnregister(memory), cudaErrorHostMemoryNotRegistered);
    o.register_fails = true;
    hs_sim_configure(&o);
    assert_int_equal(cudaHostRegister(memory, 8192, 0), cudaErrorMemoryAllocation);
    assert_int_equal(hs_sim_leaks(), 0);
}

/* ---- graphs ------------------------------------------------------------------------------------------------- */

/* out += a on one branch, out2 += a on another, then out += out2; `joined` has the edges, or the last lacks one. */
static bool replayed_graph_is_right(bool edges)
{
    cudaStream_t s = stream(), t = stream();
    cudaEvent_t fork = event(), join = event();
    int ones[N], got[N];
    for (int &v : ones)
        v = 1;
    int *in = to_device(ones, N), *out = device<int>(N), *out2 = device<int>(N), parameter = N;
    OK(cudaMemset(out, 0, N * sizeof(int)));
    OK(cudaMemset(out2, 0, N * sizeof(int)));
    OK(cudaDeviceSynchronize());
    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    OK(cudaEventRecord(fork, s));
    OK(cudaStreamWaitEvent(t, fork, 0));
    OK(gpu_launch(add_kernel, N / 64, 64, 0, s, out, in, parameter));
    if (!edges)
        OK(cudaEventRecord(join, t)); /* too early */
    OK(gpu_launch(add_kernel, N / 64, 64, 0, t, out2, in, parameter));
    if (edges)
        OK(cudaEventRecord(join, t));
    OK(cudaStreamWaitEvent(s, join, 0));
    OK(gpu_launch(add_kernel, N / 64, 64, 0, s, out, out2, parameter));
    parameter = 0; /* the graph has its own */
    if (!edges) {
        OK(cudaEventRecord(join, t));
        OK(cudaStreamWaitEvent(s, join, 0));
    }
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamEndCapture(s, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    OK(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
    assert_int_equal(got[0], 0); /* capturing runs nothing */
    for (int i = 0; i < 3; i++)
        OK(cudaGraphLaunch(exec, i % 2 ? t : s));
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
    bool right = true;
    for (int v : got)
        right &= v == 3 + 1 + 2 + 3;
    OK(cudaGraphExecDestroy(exec));
    OK(cudaEventDestroy(fork));
    OK(cudaEventDestroy(join));
    OK(cudaStreamDestroy(s));
    OK(cudaStreamDestroy(t));
    OK(cudaFree(in));
    OK(cudaFree(out));
    OK(cudaFree(out2));
    assert_int_equal(hs_sim_leaks(), 0);
    return right;
}

static void graphs_replay_what_was_captured(void **)
{
    int wrong = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        start(seed, orders[seed % 3]);
        assert_true(replayed_graph_is_right(true));
        start(seed, orders[seed % 3]);
        wrong += !replayed_graph_is_right(false);
    }
    assert_true(wrong > SEEDS / 2);
}

static void broken_captures_are_refused(void **)
{
    start(0, HS_SIM_UP);
    cudaStream_t s = stream(), t = stream();
    cudaEvent_t e = event(), before = event();
    int *d = device<int>(N);
    void *p;
    cudaGraph_t graph;
    OK(cudaEventRecord(before, t));

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    OK(cudaEventRecord(e, s));
    OK(cudaStreamWaitEvent(t, e, 0));
    OK(cudaMemsetAsync(d, 0, 4, t)); /* never joined */
    assert_int_equal(cudaEventSynchronize(e), cudaErrorCapturedEvent);
    assert_int_equal(cudaStreamEndCapture(t, &graph), cudaErrorStreamCaptureUnmatched);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaErrorIllegalState); /* it has ended */

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    OK(cudaEventRecord(e, s));
    OK(cudaStreamWaitEvent(t, e, 0));
    OK(cudaMemsetAsync(d, 0, 4, t));
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureUnjoined);
    assert_null(graph);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    assert_int_equal(cudaMalloc(&p, 16), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    assert_int_equal(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    assert_int_equal(cudaStreamWaitEvent(s, before, 0), cudaErrorStreamCaptureIsolation);
    assert_int_equal(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    OK(cudaFree(d));
    hs_sim_reset();
}

/* ---- failing -------------------------------------------------------------------------------------------------- */

/* A little program that gives back whatever it got. */
static cudaError_t little_program(int *result)
{
    enum { DEVICE = 1, PINNED = 2, STREAM = 4, EVENT = 8, EXEC = 16 };
    int have = 0, *d = nullptr, *h = nullptr;
    cudaStream_t s = nullptr;
    cudaEvent_t e = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaError_t r;
#define TRY(call)                                                                                                      \
    if ((r = (call)) != cudaSuccess)                                                                                   \
    goto out
    TRY(cudaMalloc(&d, 4096));
    have |= DEVICE;
    TRY(cudaHostAlloc(&h, 4096, 0));
    have |= PINNED;
    TRY(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    have |= STREAM;
    TRY(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    have |= EVENT;
    for (int i = 0; i < 1024; i++)
        h[i] = i;
    TRY(cudaMemcpyAsync(d, h, 4096, cudaMemcpyHostToDevice, s));
    TRY(gpu_launch(add_kernel, 8, 128, 0, s, d, d, 1024));
    TRY(cudaEventRecord(e, s));
    TRY(cudaEventSynchronize(e));
    TRY(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    r = gpu_launch(add_kernel, 8, 128, 0, s, d, d, 1024);
    {
        cudaError_t end = cudaStreamEndCapture(s, &graph);
        if (r == cudaSuccess)
            r = end;
    }
    if (r != cudaSuccess)
        goto out;
    TRY(cudaGraphInstantiate(&exec, graph, 0));
    have |= EXEC;
    TRY(cudaGraphLaunch(exec, s));
    TRY(cudaMemcpyAsync(h, d, 4096, cudaMemcpyDeviceToHost, s));
    TRY(cudaStreamSynchronize(s));
    *result = h[1000];
out:
    if (have & EXEC)
        cudaGraphExecDestroy(exec);
    if (graph)
        cudaGraphDestroy(graph);
    if (have & EVENT)
        cudaEventDestroy(e);
    if (have & STREAM)
        cudaStreamDestroy(s);
    if (have & PINNED)
        cudaFreeHost(h);
    if (have & DEVICE)
        cudaFree(d);
    return r;
}

static void every_call_fails_once_and_nothing_leaks(void **)
{
    uint64_t n = 1;
    for (;; n++) {
        hs_sim_options o = plain_options();
        o.fail_at = n;
        o.seed = n;
        hs_sim_configure(&o);
        int result = 0;
        cudaError_t r = little_program(&result);
        assert_int_equal(hs_sim_leaks(), 0);
        if (!hs_sim_read_stats().failed_at) {
            assert_int_equal(r, cudaSuccess);
            assert_int_equal(result, 4000);
            break;
        }
        assert_int_not_equal(r, cudaSuccess);
        assert_int_equal(cudaGetLastError(), r);
    }
    assert_int_equal(n, 16); /* fifteen calls can fail */
}

static void without_a_device_there_is_none(void **)
{
    hs_sim_options o = plain_options();
    o.devices = 0;
    hs_sim_configure(&o);
    int n = 7;
    void *p;
    assert_int_equal(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    assert_int_equal(n, 0);
    assert_int_equal(cudaMalloc(&p, 1), cudaErrorNoDevice);
    assert_string_equal(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice");
    start(0, HS_SIM_UP);
}

static const char *bad_name, *bad_value;

static void read_environment(void)
{
    setenv(bad_name, bad_value, 1);
    (void)hs_sim_from_environment();
}

static void bad_environment_is_one_sentence_and_exit_2(void **)
{
    const char *cases[][3] = {
        {"HLWQ_SIM_VRAM", "2X", "a size such as 512M"}, {"HLWQ_SIM_VRAM", "-1", "a size"},
        {"HLWQ_SIM_ORDER", "sideways", "up, down"},     {"HLWQ_SIM_ARCH", "61", "75, 80, 86"},
        {"HLWQ_SIM_DEVICES", "2", "a number"},          {"HLWQ_SIM_SEED", "12a", "a number"},
        {"HLWQ_SIM_VRAM", "99999999999999G", "a size"},
    };
    char said[512];
    for (auto &c : cases) {
        bad_name = c[0];
        bad_value = c[1];
        int status = in_child(read_environment, said, sizeof said);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 2);
        assert_true(strstr(said, c[0]) && strstr(said, c[1]) && strstr(said, c[2]));
    }
    setenv("HLWQ_SIM_VRAM", "3M", 1);
    assert_int_equal(hs_sim_from_environment().vram_bytes, 3 << 20);
    unsetenv("HLWQ_SIM_VRAM");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_missing_barrier_shows),
        TEST(a_missing_second_barrier_shows_in_the_order),
        TEST(a_missing_cp_async_wait_shows),
        TEST(barrier_divergence_is_diagnosed),
        TEST(leaving_while_others_wait_is_diagnosed),
        TEST(wrong_masks_are_diagnosed),
        TEST(absent_lanes_are_diagnosed),
        TEST(limits_of_a_launch_are_checked),
#ifndef __SANITIZE_ADDRESS__
        TEST(writing_past_shared_memory_is_diagnosed),
        TEST(writing_past_a_block_is_found_when_it_is_freed),
#endif
        TEST(a_staging_buffer_refilled_too_early_shows),
        TEST(missing_events_show),
        TEST(pageable_memory_makes_a_copy_synchronous),
        TEST(the_default_stream_waits_for_blocking_ones),
        TEST(queries_make_progress),
        TEST(host_functions_run_in_their_turn),
        TEST(a_kernel_waits_for_the_host),
        TEST(another_thread_may_end_a_wait),
        TEST(a_deadlock_of_host_and_device_is_named),
        TEST(the_host_cannot_touch_device_memory),
        TEST(a_kernel_that_leaves_device_memory_is_named),
        TEST(vram_is_capped_and_fragments),
        TEST(whole_pages_are_counted),
        TEST(whole_pages_are_counted),
        TEST(registering_may_fail),
        TEST(graphs_replay_what_was_captured),
        TEST(broken_captures_are_refused),
        TEST(every_call_fails_once_and_nothing_leaks),
        TEST(without_a_device_there_is_none),
        TEST(bad_environment_is_one_sentence_and_exit_2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
