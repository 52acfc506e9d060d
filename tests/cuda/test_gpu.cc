/* kernels/cuda/gpu.h on the simulator: each function against an obvious version of it. */
#include "tests/cuda/sim_test.h"

extern "C" {
#include "base/dtype.h"
#include "kernels/hlwq.h"
}

static uint32_t noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) ^ (uint32_t)(*state >> 11);
}

static const hs_sim_order orders[] = {HS_SIM_UP, HS_SIM_DOWN, HS_SIM_SHUFFLE, HS_SIM_SHUFFLE};

/* ---- a real kernel: the Walsh-Hadamard transform of 128, five steps by shuffle, two by shared memory ---- */

static __global__ void __launch_bounds__(128) wht_kernel(float *x)
{
    __shared__ float s[128];
    int t = threadIdx.x;
    float v = x[blockIdx.x * 128 + t];
    for (int h = 1; h < 32; h *= 2) {
        float other = __shfl_xor_sync(0xFFFFFFFFu, v, h);
        v = t & h ? other - v : v + other;
    }
    for (int h = 32; h < 128; h *= 2) {
        s[t] = v;
        __syncthreads();
        float other = s[t ^ h];
        __syncthreads();
        v = t & h ? other - v : v + other;
    }
    x[blockIdx.x * 128 + t] = v;
}

static void wht_equals_the_cpus(void **)
{
    enum { BLOCKS = 9 };
    float want[BLOCKS * 128], got[BLOCKS * 128], in[BLOCKS * 128];
    uint64_t r = 1;
    for (float &v : in)
        v = (float)(int32_t)noise(&r) * 0x1p-20f;
    memcpy(want, in, sizeof in);
    for (int b = 0; b < BLOCKS; b++)
        hs_wht(want + 128 * b, 128);
    for (int i = 0; i < 4; i++) {
        start((uint64_t)i, orders[i]);
        float *x = to_device(in, BLOCKS * 128);
        OK(gpu_launch(wht_kernel, BLOCKS, 128, 0, nullptr, x));
        to_host(got, x, BLOCKS * 128);
        assert_memory_equal(got, want, sizeof got); /* the same additions in the same order: the same bits */
        OK(cudaFree(x));
        assert_int_equal(hs_sim_leaks(), 0);
    }
}

/* ---- shuffles, votes, barriers ---- */

static __global__ void shuffle_kernel(int *out)
{
    int lane = threadIdx.x;
    int *o = out + lane * 10;
    o[0] = __shfl_sync(0xFFFFFFFFu, lane * 3, 5);
    o[1] = __shfl_sync(0xFFFFFFFFu, lane, 3, 8);
    o[2] = __shfl_xor_sync(0xFFFFFFFFu, lane, 9);
    o[3] = __shfl_up_sync(0xFFFFFFFFu, lane, 2);
    o[4] = __shfl_down_sync(0xFFFFFFFFu, lane, 3, 16);
    o[5] = (int)__ballot_sync(0xFFFFFFFFu, lane % 3 == 0);
    o[6] = __any_sync(0xFFFFFFFFu, lane == 31) + 2 * __all_sync(0xFFFFFFFFu, lane < 31);
    o[7] = gpu_warp_sum_int(lane - 7);
    if (lane < 16)
        o[8] = __shfl_xor_sync(0x0000FFFFu, lane, 1);
    else
        o[8] = __shfl_xor_sync(0xFFFF0000u, lane, 2);
    o[9] = (int)(__shfl_xor_sync(0xFFFFFFFFu, (float)lane, 16) * 2.0f);
}

static void shuffles_and_votes_follow_their_definitions(void **)
{
    for (int i = 0; i < 4; i++) {
        start((uint64_t)i, orders[i]);
        int *d = device<int>(320), got[320];
        OK(gpu_launch(shuffle_kernel, 1, 32, 0, nullptr, d));
        to_host(got, d, 320);
        for (int lane = 0; lane < 32; lane++) {
            const int *o = got + lane * 10;
            assert_int_equal(o[0], 15);
            assert_int_equal(o[1], (lane & ~7) + 3);
            assert_int_equal(o[2], lane ^ 9);
            assert_int_equal(o[3], lane < 2 ? lane : lane - 2);
            assert_int_equal(o[4], (lane % 16) + 3 < 16 ? lane + 3 : lane);
            assert_int_equal(o[5], 0x49249249);
            assert_int_equal(o[6], 1);
            assert_int_equal(o[7], 31 * 16 - 7 * 32);
            assert_int_equal(o[8], lane < 16 ? lane ^ 1 : lane ^ 2);
            assert_int_equal(o[9], 2 * (lane ^ 16));
        }
        OK(cudaFree(d));
    }
}

static __global__ void vote_kernel(int *out)
{
    int t = threadIdx.x + blockDim.x * threadIdx.y;
    int any = __syncthreads_or(t == 77);
    int all = __syncthreads_and(t < 1000);
    int n = __syncthreads_count(t % 2);
    if (t == 0)
        out[blockIdx.x + gridDim.x * blockIdx.y] = any + 10 * all + 100 * n;
}

static void barriers_count_votes(void **)
{
    start(3, HS_SIM_SHUFFLE);
    int *d = device<int>(6), got[6];
    OK(gpu_launch(vote_kernel, dim3(3, 2), dim3(50, 3), 0, nullptr, d));
    to_host(got, d, 6);
    for (int v : got)
        assert_int_equal(v, 1 + 10 + 100 * 75);
    OK(cudaFree(d));
}

template <int N> static __global__ void sum_kernel(int *out, const int *in, int n)
{
    __shared__ int part[N];
    GPU_DYNAMIC_SHARED(int, more);
    int t = threadIdx.x;
    part[t] = 0;
    for (int i = t; i < n; i += N)
        part[t] += in[i];
    more[t] = part[t];
    __syncthreads();
    for (int h = N / 2; h; h /= 2) {
        if (t < h)
            more[t] += more[t + h];
        __syncthreads();
    }
    if (t == 0)
        atomicAdd(out, more[0]);
}

static void templates_have_shared_memory_of_their_own(void **)
{
    start(4, HS_SIM_DOWN);
    int in[1000], sum = 0, zero = 0, got;
    for (int i = 0; i < 1000; i++)
        sum += in[i] = i * i % 97 - 40;
    int *d = to_device(in, 1000), *out = to_device(&zero, 1);
    OK(gpu_launch(sum_kernel<64>, 1, 64, 64 * sizeof(int), nullptr, out, d, 1000));
    OK(gpu_launch((sum_kernel<256>), 2, 256, 256 * sizeof(int), nullptr, out, d, 1000));
    to_host(&got, out, 1);
    assert_int_equal(got, 3 * sum);
    OK(cudaFree(d));
    OK(cudaFree(out));
}

/* ---- arithmetic ---- */

/* In the words of the PTX manual: b3..b0 of b and a are bytes 7..0; msb of a selector nibble replicates the sign. */
static void prmt_follows_the_ptx_manual(void **)
{
    assert_int_equal(gpu_prmt(0x33221100u, 0x77665544u, 0x3210), 0x33221100u);
    assert_int_equal(gpu_prmt(0x33221100u, 0x77665544u, 0x7654), 0x77665544u);
    assert_int_equal(gpu_prmt(0x33221100u, 0x77665544u, 0x0123), 0x00112233u);
    assert_int_equal(gpu_prmt(0x33221100u, 0x77665544u, 0x5140), 0x55114400u);
    assert_int_equal(gpu_prmt(0x80FF7F01u, 0u, 0xBA98), 0xFFFF0000u);
    assert_int_equal(gpu_prmt(0u, 0x80FF7F01u, 0xFEDC), 0xFFFF0000u);
    assert_int_equal(gpu_prmt(0x80000000u, 0x000000FFu, 0xC3B4), 0xFF80FFFFu);
    uint64_t r = 5;
    for (int n = 0; n < 100000; n++) {
        uint32_t v[2] = {noise(&r), noise(&r)}, selector = noise(&r), got = gpu_prmt(v[0], v[1], selector);
        for (int i = 0; i < 4; i++) {
            uint32_t s = selector >> (4 * i) & 15;
            int8_t byte = (int8_t)(v[(s & 7) / 4] >> (8 * (s & 3)));
            uint8_t want = s & 8 ? (uint8_t)(byte < 0 ? -1 : 0) : (uint8_t)byte;
            assert_int_equal((uint8_t)(got >> (8 * i)), want);
        }
    }
    assert_int_equal(__byte_perm(0x80FF7F01u, 0u, 0xBA98), 0x80FF7F01u);
}

static void integer_intrinsics_follow_their_definitions(void **)
{
    uint64_t r = 6;
    for (int n = 0; n < 20000; n++) {
        uint32_t a = noise(&r), b = noise(&r), shift = noise(&r) % 40;
        int ss = -17, us = -17;
        for (int i = 0; i < 4; i++) {
            ss += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
            us += (uint8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
        }
        assert_int_equal(__dp4a((int)a, (int)b, -17), ss);
        assert_int_equal(gpu_dp4a_us(a, b, -17), us);
        uint32_t s = shift & 31;
        assert_int_equal(__funnelshift_r(a, b, shift), s ? a >> s | b << (32 - s) : a);
        assert_int_equal(__funnelshift_l(a, b, shift), s ? b << s | a >> (32 - s) : b);
    }
    assert_int_equal(__popc(0xF0F00001u), 9);
    assert_int_equal(__ffs(0x50), 5);
    assert_int_equal(__ffs(0), 0);
    assert_int_equal(__clz(1), 31);
    assert_int_equal(__clz(0), 32);
    assert_int_equal(__brev(0x80000001u), 0x80000001u);
    assert_int_equal(__brev(0x00000013u), 0xC8000000u);
    assert_int_equal(__float2int_rn(2.5f), 2);
    assert_int_equal(__float2int_rn(-3.5f), -4);
    assert_int_equal(__float2int_rn(NAN), 0);
    assert_int_equal(__float2int_rn(1e20f), 2147483647);
    assert_int_equal(__float2int_rn(-1e20f), -2147483647 - 1);
}

static bool both_nan(float a, float b)
{
    return a != a && b != b;
}

static void halves_agree_with_dtype(void **)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float got = gpu_half_to_float((uint16_t)h), want = hs_f16_to_f32((uint16_t)h);
        assert_true(both_nan(got, want) || __float_as_uint(got) == __float_as_uint(want));
        if (got == got)
            assert_int_equal(gpu_float_to_half(got), h);
    }
    uint64_t r = 7;
    for (int n = 0; n < 2000000; n++) {
        uint32_t u = noise(&r);
        if (n % 2) /* where halves live, and ties among them */
            u = (u & 0x8000FFFFu) | (90 + u % 60) << 23 | (u & 0x00700000u) | (n % 4 == 1 ? 0x1000 : 0);
        float f = __uint_as_float(u);
        if (f != f)
            assert_int_equal(gpu_float_to_half(f), 0x7FFF);
        else
            assert_int_equal(gpu_float_to_half(f), hs_f32_to_f16(f));
    }
}

static void atomics_return_what_was_there(void **)
{
    unsigned u = 5;
    assert_int_equal(atomicAdd(&u, 3u), 5);
    assert_int_equal(atomicMax(&u, 20u), 8);
    assert_int_equal(atomicMin(&u, 7u), 20);
    assert_int_equal(atomicExch(&u, 1u), 7);
    assert_int_equal(atomicCAS(&u, 2u, 9u), 1);
    assert_int_equal(atomicCAS(&u, 1u, 9u), 1);
    assert_int_equal(atomicOr(&u, 6u), 9);
    assert_int_equal(u, 15);
    unsigned long long big = 1ull << 40;
    assert_true(atomicAdd(&big, 1ull) == 1ull << 40 && atomicMax(&big, 1ull << 41) == (1ull << 40) + 1);
    int i = 2147483647;
    assert_int_equal(atomicAdd(&i, 1), 2147483647);
    assert_int_equal(i, -2147483647 - 1);
}

/* ---- matrix fragments, filled element by element as the PTX manual's tables say ---- */

static __global__ void mma_16832_kernel(int *d, const int8_t *a, const int8_t *b)
{
    int lane = threadIdx.x, group = lane >> 2, tig = lane & 3;
    uint32_t fa[4] = {}, fb[2] = {};
    for (int i = 0; i < 16; i++) {
        int row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
        int col = i < 8 ? tig * 4 + (i & 3) : tig * 4 + (i & 3) + 16;
        fa[i / 4] |= (uint32_t)(uint8_t)a[row * 32 + col] << (8 * (i % 4));
    }
    for (int i = 0; i < 8; i++) {
        int row = i < 4 ? tig * 4 + (i & 3) : tig * 4 + (i & 3) + 16;
        fb[i / 4] |= (uint32_t)(uint8_t)b[row * 8 + group] << (8 * (i % 4));
    }
    int acc[4];
    for (int i = 0; i < 4; i++)
        acc[i] = d[(i < 2 ? group : group + 8) * 8 + tig * 2 + (i & 1)];
    gpu_mma_s8_16832(acc, fa, fb);
    for (int i = 0; i < 4; i++)
        d[(i < 2 ? group : group + 8) * 8 + tig * 2 + (i & 1)] = acc[i];
}

static __global__ void mma_8816_kernel(int *d, const int8_t *a, const int8_t *b)
{
    int lane = threadIdx.x, group = lane >> 2, tig = lane & 3;
    uint32_t fa = 0, fb = 0;
    for (int i = 0; i < 4; i++) {
        fa |= (uint32_t)(uint8_t)a[group * 16 + tig * 4 + i] << (8 * i);
        fb |= (uint32_t)(uint8_t)b[(tig * 4 + i) * 8 + group] << (8 * i);
    }
    int acc[2] = {d[group * 8 + tig * 2], d[group * 8 + tig * 2 + 1]};
    gpu_mma_s8_8816(acc, fa, fb);
    d[group * 8 + tig * 2] = acc[0];
    d[group * 8 + tig * 2 + 1] = acc[1];
}

static __global__ void mma_f16_kernel(float *d, const uint16_t *a, const uint16_t *b)
{
    int lane = threadIdx.x, group = lane >> 2, tig = lane & 3;
    uint32_t fa[4] = {}, fb[2] = {};
    for (int i = 0; i < 8; i++) {
        int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        int col = i < 4 ? tig * 2 + (i & 1) : tig * 2 + (i & 1) + 8;
        fa[i / 2] |= (uint32_t)a[row * 16 + col] << (16 * (i % 2));
    }
    for (int i = 0; i < 4; i++) {
        int row = i < 2 ? tig * 2 + (i & 1) : tig * 2 + (i & 1) + 8;
        fb[i / 2] |= (uint32_t)b[row * 8 + group] << (16 * (i % 2));
    }
    float acc[4];
    for (int i = 0; i < 4; i++)
        acc[i] = d[(i < 2 ? group : group + 8) * 8 + tig * 2 + (i & 1)];
    gpu_mma_f16_16816(acc, fa, fb);
    for (int i = 0; i < 4; i++)
        d[(i < 2 ? group : group + 8) * 8 + tig * 2 + (i & 1)] = acc[i];
}

static void mma_s8_multiplies_matrices(void **)
{
    for (int shape = 0; shape < 2; shape++) {
        int m = shape ? 8 : 16, k = shape ? 16 : 32;
        for (uint64_t seed = 0; seed < 8; seed++) {
            start(seed, orders[seed % 4]);
            uint64_t r = seed + 8;
            int8_t a[16 * 32], b[32 * 8];
            int d[16 * 8], got[16 * 8];
            for (int8_t &v : a)
                v = (int8_t)(seed ? noise(&r) : 0x80);
            for (int8_t &v : b)
                v = (int8_t)(seed ? noise(&r) : 0x80);
            for (int &v : d)
                v = (int)noise(&r) / 4;
            int8_t *da = to_device(a, sizeof a), *db = to_device(b, sizeof b);
            int *dd = to_device(d, 128);
            OK(gpu_launch(shape ? mma_8816_kernel : mma_16832_kernel, 1, 32, 0, nullptr, dd, da, db));
            to_host(got, dd, (size_t)m * 8);
            for (int i = 0; i < m; i++)
                for (int j = 0; j < 8; j++) {
                    int want = d[i * 8 + j];
                    for (int q = 0; q < k; q++)
                        want += a[i * k + q] * b[q * 8 + j];
                    assert_int_equal(got[i * 8 + j], want);
                }
            hs_sim_reset();
        }
    }
}

static void mma_f16_multiplies_matrices(void **)
{
    start(1, HS_SIM_SHUFFLE);
    uint64_t r = 9;
    float fa[16 * 16], fb[16 * 8], d[128], got[128];
    uint16_t a[16 * 16], b[16 * 8];
    for (int i = 0; i < 256; i++)
        a[i] = gpu_float_to_half(fa[i] = (float)((int)(noise(&r) % 65) - 32) / 8);
    for (int i = 0; i < 128; i++)
        b[i] = gpu_float_to_half(fb[i] = (float)((int)(noise(&r) % 65) - 32) / 8);
    for (float &v : d)
        v = (float)(noise(&r) % 100);
    float *dd = to_device(d, 128);
    OK(gpu_launch(mma_f16_kernel, 1, 32, 0, nullptr, dd, to_device(a, 256), to_device(b, 128)));
    to_host(got, dd, 128);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float want = d[i * 8 + j]; /* multiples of 1/64: exact in any order */
            for (int q = 0; q < 16; q++)
                want += fa[i * 16 + q] * fb[q * 8 + j];
            assert_true(got[i * 8 + j] == want);
        }
    hs_sim_reset();
}

static void mma_is_refused_where_there_is_none(void **)
{
    hs_sim_options o = plain_options();
    o.arch = 75;
    hs_sim_configure(&o);
    int *d = device<int>(128);
    int8_t *ab = device<int8_t>(512);
    OK(gpu_launch(mma_8816_kernel, 1, 32, 0, nullptr, d, ab, ab));
    OK(cudaDeviceSynchronize());
    OK(gpu_launch(mma_16832_kernel, 1, 32, 0, nullptr, d, ab, ab));
    /* nvcc leaves a trap in its place. */
    assert_int_equal(cudaDeviceSynchronize(), o.ptx ? cudaErrorLaunchFailure : cudaErrorIllegalInstruction);
    assert_true(fault_says(o.ptx ? "gives up" : "needs sm_80"));
    hs_sim_reset();
}

/* ---- cp.async ---- */

static __global__ void pipeline_kernel(uint4 *out, const uint4 *in, int stages)
{
    __shared__ uint4 buffer[2][32];
    int t = threadIdx.x;
    gpu_cp_async16(&buffer[0][t], &in[t]);
    gpu_cp_async_commit();
    for (int i = 0; i < stages; i++) {
        if (i + 1 < stages)
            gpu_cp_async16(&buffer[(i + 1) % 2][t], &in[(i + 1) * 32 + t]);
        gpu_cp_async_commit();
        gpu_cp_async_wait<1>();
        __syncthreads();
        out[i * 32 + t] = buffer[i % 2][31 - t];
        __syncthreads();
    }
}

static void cp_async_groups_arrive_in_turn(void **)
{
    for (int n = 0; n < 4; n++) {
        start((uint64_t)n, orders[n]);
        uint32_t in[7 * 32 * 4], got[7 * 32 * 4];
        for (uint32_t i = 0; i < 7 * 32 * 4; i++)
            in[i] = i * 2654435761u;
        uint32_t *d = to_device(in, 7 * 32 * 4), *out = device<uint32_t>(7 * 32 * 4);
        OK(gpu_launch(pipeline_kernel, 1, 32, 0, nullptr, reinterpret_cast<uint4 *>(out), reinterpret_cast<uint4 *>(d),
                      7));
        to_host(got, out, 7 * 32 * 4);
        for (int s = 0; s < 7; s++)
            for (int t = 0; t < 32; t++)
                assert_memory_equal(&got[(s * 32 + t) * 4], &in[(s * 32 + 31 - t) * 4], 16);
        hs_sim_reset();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(wht_equals_the_cpus),
        TEST(shuffles_and_votes_follow_their_definitions),
        TEST(barriers_count_votes),
        TEST(templates_have_shared_memory_of_their_own),
        TEST(prmt_follows_the_ptx_manual),
        TEST(integer_intrinsics_follow_their_definitions),
        TEST(halves_agree_with_dtype),
        TEST(atomics_return_what_was_there),
        TEST(mma_s8_multiplies_matrices),
        TEST(mma_f16_multiplies_matrices),
        TEST(mma_is_refused_where_there_is_none),
        TEST(cp_async_groups_arrive_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
