/*
 * kernels/cuda/sim/ptx_*.cc: each family of instructions by hand-written PTX against a plain version, mistakes that
 * must be named, and two kernels of this file as nvcc translates them.
 */
#include "tests/cuda/sim_test.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

/* What the PTX below stands in for: 64 words in and out a thread, and one number. */
static __global__ void hand_kernel(uint64_t *out, const uint64_t *in, uint32_t n)
{
    out[threadIdx.x] = in[threadIdx.x] + n;
}

/* Nvcc's code of these two is in the folder that HLWQ_SIM_PTX names. */
static __global__ void product_kernel(int *d, const uint32_t *a, const uint32_t *b)
{
    int lane = threadIdx.x, c[4] = {0, 0, 0, 0};
    const uint32_t fa[4] = {a[4 * lane], a[4 * lane + 1], a[4 * lane + 2], a[4 * lane + 3]};
    const uint32_t fb[2] = {b[2 * lane], b[2 * lane + 1]};
    gpu_mma_s8_16832(c, fa, fb);
    for (int i = 0; i < 4; i++)
        d[4 * lane + i] = c[i];
}

static __global__ void turn_kernel(uint32_t *x)
{
    __shared__ uint32_t s[256];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[255 - threadIdx.x];
}

#ifndef __CUDACC__

static char folder[256];

/* A folder with `text` as the PTX of this file, after the head of a module. */
static void write_ptx(const char *text)
{
    char path[300];
    strcpy(folder, "/tmp/hlwq-ptx-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/80", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/80/test_ptx.ptx", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, ".version 9.0\n.target sm_80\n.address_size 64\n%s", text);
    assert_int_equal(fclose(f), 0);
}

static void drop_ptx(void)
{
    char path[300];
    snprintf(path, sizeof path, "%s/80/test_ptx.ptx", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/80", folder);
    rmdir(path);
    rmdir(folder);
}

/* Registers, %rd1 = out + 8 t, %rd2 = in + 8 t, %r1 = n, %r2 = t, then `body`. */
static void write_kernel(const char *outside, const char *body)
{
    static char text[1 << 16];
    snprintf(text, sizeof text,
             "%s\n.visible .entry _Z11hand_kernelPmPKmj(\n.param .u64 p0,\n.param .u64 p1,\n.param .u32 p2\n)\n{\n"
             ".reg .pred %%p<9>; .reg .b16 %%rs<9>; .reg .b32 %%r<40>; .reg .f32 %%f<9>; .reg .b64 %%rd<20>;\n"
             ".reg .f64 %%fd<9>;\n"
             "ld.param.u64 %%rd1, [p0]; ld.param.u64 %%rd2, [p1]; ld.param.u32 %%r1, [p2];\n"
             "mov.u32 %%r2, %%tid.x; mul.wide.u32 %%rd3, %%r2, 8; add.s64 %%rd1, %%rd1, %%rd3;\n"
             "add.s64 %%rd2, %%rd2, %%rd3;\n%s\nret;\n}\n",
             outside, body);
    write_ptx(text);
}

static uint64_t in[1024], out[1024];

static cudaError_t run_hand(uint32_t threads, uint32_t n, hs_sim_order order)
{
    hs_sim_options o = plain_options();
    o.ptx = folder;
    o.order = order;
    o.seed = n;
    o.quiet = true;
    hs_sim_configure(&o);
    uint64_t *d = to_device(in, 1024), *r = device<uint64_t>(1024);
    cudaError_t e = gpu_launch(hand_kernel, 1, threads, 256, nullptr, r, d, n);
    if (!e)
        e = cudaDeviceSynchronize();
    if (!e)
        to_host(out, r, 1024);
    return e;
}

/* ---- arithmetic: two numbers in, one out, over corners and noise ---- */

struct sum {
    const char *code; /* %rd4, %rd5 -> %rd6 */
    uint64_t (*want)(uint64_t a, uint64_t b);
};
static float as_float(uint64_t v)
{
    return hs_sim_from_bits<float>((uint32_t)v);
}
static uint64_t of_float(float f)
{
    return f == f ? hs_sim_bits(f) : 0x7FFFFFFFu;
}
#define W32 "cvt.u32.u64 %r4, %rd4; cvt.u32.u64 %r5, %rd5;\n"
#define F32 W32 "mov.b32 %f4, %r4; mov.b32 %f5, %r5;\n"
#define OUT32 " cvt.u64.u32 %rd6, %r6;"
#define OUTF " mov.b32 %r6, %f6;" OUT32
#define SUM(code, expression)                                                                                          \
    {                                                                                                                  \
        code, [](uint64_t a, uint64_t b) -> uint64_t {                                                                 \
            (void)a, (void)b;                                                                                          \
            return expression;                                                                                         \
        }                                                                                                              \
    }
#define A32 ((uint32_t)a)
#define B32 ((uint32_t)b)
#define S32 ((int32_t)a)
#define T32 ((int32_t)b)
#define FA as_float(a)
#define FB as_float(b)

static uint64_t permuted(uint32_t a, uint32_t b, uint32_t s)
{
    uint8_t bytes[8], r[4];
    memcpy(bytes, &a, 4);
    memcpy(bytes + 4, &b, 4);
    for (int i = 0; i < 4; i++, s >>= 4)
        r[i] = s & 8 ? (bytes[s & 7] & 128 ? 255 : 0) : bytes[s & 7];
    uint32_t v;
    memcpy(&v, r, 4);
    return v;
}

static const sum sums[] = {
    SUM(W32 "add.s32 %r6, %r4, %r5;" OUT32, (uint32_t)(A32 + B32)),
    SUM(W32 "sub.s32 %r6, %r4, %r5;" OUT32, (uint32_t)(A32 - B32)),
    SUM(W32 "mul.lo.s32 %r6, %r4, %r5;" OUT32, (uint32_t)(A32 *B32)),
    SUM(W32 "mul.hi.u32 %r6, %r4, %r5;" OUT32, (uint64_t)A32 *B32 >> 32),
    SUM(W32 "mul.hi.s32 %r6, %r4, %r5;" OUT32, (uint32_t)((int64_t)S32 *T32 >> 32)),
    SUM("mul.hi.u64 %rd6, %rd4, %rd5;", (uint64_t)((unsigned __int128)a *b >> 64)),
    SUM(W32 "mul.wide.s32 %rd6, %r4, %r5;", (uint64_t)((int64_t)S32 *T32)),
    SUM(W32 "mad.lo.s32 %r6, %r4, %r5, 7;" OUT32, (uint32_t)(A32 *B32 + 7)),
    SUM(W32 "or.b32 %r5, %r5, 1; div.u32 %r6, %r4, %r5;" OUT32, A32 / (B32 | 1)),
    SUM(W32 "or.b32 %r5, %r5, 1; rem.s32 %r6, %r4, %r5;" OUT32, (uint32_t)((T32 | 1) == -1 ? 0 : S32 % (T32 | 1))),
    SUM(W32 "min.s32 %r6, %r4, %r5;" OUT32, (uint32_t)(S32 < T32 ? S32 : T32)),
    SUM(W32 "max.u32 %r6, %r4, %r5;" OUT32, A32 > B32 ? A32 : B32),
    SUM(W32 "and.b32 %r5, %r5, 63; shl.b32 %r6, %r4, %r5;" OUT32, (b & 63) < 32 ? (uint32_t)(A32 << (b & 31)) : 0),
    SUM(W32 "and.b32 %r5, %r5, 63; shr.s32 %r6, %r4, %r5;" OUT32,
        (uint32_t)((b & 63) < 32 ? S32 >> (b & 31) : S32 >> 31)),
    SUM(W32 "shf.l.wrap.b32 %r6, %r4, %r5, 9;" OUT32, (uint32_t)(B32 << 9 | A32 >> 23)),
    SUM(W32 "bfi.b32 %r6, %r4, %r5, 5, 11;" OUT32, (B32 & ~(2047u << 5)) | (A32 & 2047) << 5),
    SUM(W32 "bfe.s32 %r6, %r4, 5, 11;" OUT32, (uint32_t)((int32_t)(A32 << 16) >> 21)),
    SUM(W32 "lop3.b32 %r6, %r4, %r5, 255, 0xEA;" OUT32, ((A32 & B32) | 255)),
    SUM(W32 "prmt.b32 %r6, %r4, %r5, %r5;" OUT32, permuted(A32, B32, B32)),
    SUM(W32 "prmt.b32 %r6, %r4, %r5, 0x8E05;" OUT32, permuted(A32, B32, 0x8E05)),
    SUM(W32 "clz.b32 %r6, %r4; popc.b32 %r7, %r5; add.s32 %r6, %r6, %r7;" OUT32,
        (uint64_t)((A32 ? __builtin_clz(A32) : 32) + __builtin_popcount(B32))),
    SUM("{ .reg .b32 lo, hi; mov.b64 {lo, hi}, %rd4; mov.b64 %rd6, {hi, lo}; }", a << 32 | a >> 32),
    SUM("{ .reg .b32 %c<4>; mov.b64 {%c0, %c1}, %rd4; mov.b64 {%c2, %c3}, %rd5; add.cc.u32 %c0, %c0, %c2;\n"
        "addc.u32 %c1, %c1, %c3; mov.b64 %rd6, {%c0, %c1}; }",
        a + b),
    SUM("cvt.u16.u64 %rs1, %rd4; cvt.s32.s16 %r6, %rs1;" OUT32, (uint32_t)(int16_t)a),
    SUM("setp.lt.s64 %p1, %rd4, %rd5; selp.b64 %rd6, %rd4, %rd5, %p1;", (int64_t)a < (int64_t)b ? a : b),
    SUM(W32 "setp.ge.u32 %p1, %r4, %r5; setp.eq.s32 %p2, %r2, 3; or.pred %p3, %p1, %p2; not.pred %p3, %p3;\n"
            "mov.u64 %rd6, 1; @%p3 mov.u64 %rd6, 2; @!%p3 add.s64 %rd6, %rd6, 4;",
        A32 >= B32 ? 5 : 2),
    SUM(F32 "add.rn.f32 %f6, %f4, %f5;" OUTF, of_float(FA + FB)),
    SUM(F32 "mul.rn.f32 %f6, %f4, %f5;" OUTF, of_float(FA *FB)),
    SUM(F32 "fma.rn.f32 %f6, %f4, %f5, 0f3F800000;" OUTF, of_float(fmaf(FA, FB, 1.0f))),
    SUM(F32 "div.rn.f32 %f6, %f4, %f5;" OUTF, of_float(FA / FB)),
    SUM(F32 "sqrt.rn.f32 %f6, %f4;" OUTF, of_float(sqrtf(FA))),
    SUM(F32 "rcp.rn.f32 %f6, %f5;" OUTF, of_float(1.0f / FB)),
    SUM(F32 "max.f32 %f6, %f4, %f5;" OUTF, of_float(FA != FA                                ? FB
                                                    : FB != FB                              ? FA
                                                    : FA > FB || (FA == FB && !signbit(FA)) ? FA
                                                                                            : FB)),
    SUM(F32 "setp.neu.f32 %p1, %f4, %f5; selp.u64 %rd6, 1, 0, %p1;", FA != FB),
    SUM(F32 "setp.ge.f32 %p1, %f4, %f5; selp.u64 %rd6, 1, 0, %p1;", FA >= FB),
    SUM(F32 "setp.nan.f32 %p1, %f4, %f5; selp.u64 %rd6, 1, 0, %p1;", FA != FA || FB != FB),
    SUM(W32 "cvt.rn.f32.s32 %f6, %r4;" OUTF, of_float((float)S32)),
    SUM(F32 "cvt.rzi.s32.f32 %r6, %f4;" OUT32, (uint32_t)(FA != FA               ? 0
                                                          : FA >= 2147483648.0f  ? INT32_MAX
                                                          : FA <= -2147483648.0f ? INT32_MIN
                                                                                 : (int32_t)FA)),
    SUM(F32 "cvt.f64.f32 %fd1, %f4; cvt.rn.f32.f64 %f6, %fd1;" OUTF, of_float(FA)),
    SUM(F32 "cvt.rn.f16.f32 %rs1, %f4; cvt.u64.u16 %rd6, %rs1;", hs_sim_float_to_half(FA)),
    SUM("cvt.u16.u64 %rs1, %rd4; cvt.f32.f16 %f6, %rs1;" OUTF, of_float(hs_sim_half_to_float((uint16_t)a))),
};

static void arithmetic_is_as_the_manual_says(void **)
{
    static const uint64_t corner[] = {
        0,          1,          2,          0x7FFFFFFF,         0x80000000,         0xFFFFFFFF,
        0x3F800000, 0xBF800000, 0x7F800000, 0x7FC00000,         0x00000001,         0x80000001,
        0x7F7FFFFF, 0x47800000, 0x33800000, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000, 0x7C01,
        0xFC00,     0x8001};
    const int corners = (int)(sizeof corner / sizeof *corner);
    uint64_t r = 7;
    for (int i = 0; i < 1024; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        in[i] = i < 512 ? corner[i % corners] : r ^ r >> 29;
    }
    for (const sum &s : sums) {
        char body[1024];
        /* in[t + n] beside in[t], so that corners meet corners; threads that are not whole warps too */
        snprintf(body, sizeof body,
                 "ld.global.u64 %%rd4, [%%rd2]; mul.wide.u32 %%rd7, %%r1, 8; add.s64 %%rd7, %%rd2, %%rd7;\n"
                 "ld.global.u64 %%rd5, [%%rd7];\n%s\nst.global.u64 [%%rd1], %%rd6;",
                 s.code);
        write_kernel("", body);
        for (uint32_t n = 1; n < 24; n++) {
            uint32_t threads = n % 2 ? 992 : 507;
            cudaError_t e = run_hand(threads, n, (hs_sim_order)(n % 3));
            if (e) {
                hs_sim_stats stats = hs_sim_read_stats();
                fail_msg("%s: %s", s.code, stats.last_fault);
            }
            for (uint32_t t = 0; t < threads; t++)
                if (out[t] != s.want(in[t], in[t + n]) && !(t == 3 && strstr(s.code, "or.pred")))
                    fail_msg("%s: of %llx and %llx: %llx, wanted %llx", s.code, (unsigned long long)in[t],
                             (unsigned long long)in[t + n], (unsigned long long)out[t],
                             (unsigned long long)s.want(in[t], in[t + n]));
        }
        drop_ptx();
    }
}

/* ---- control, memory, warps: what comes out of each thread ---- */

#define STORE "\ncvt.u64.u32 %rd6, %r6; st.global.u64 [%rd1], %rd6;"
static const struct {
    const char *outside, *body;
    uint64_t (*want)(uint32_t t);
} programs[] = {
    /* A loop of as many turns as the thread's number says, with a branch in it. */
    {"",
     "mov.u32 %r6, 0; mov.u32 %r7, 0;\nL1: setp.ge.u32 %p1, %r7, %r2; @%p1 bra L3;\n"
     "and.b32 %r8, %r7, 1; setp.eq.s32 %p2, %r8, 0; @%p2 bra L2; add.s32 %r6, %r6, 10;\n"
     "L2: add.s32 %r6, %r6, 1; add.s32 %r7, %r7, 1; bra.uni L1;\nL3:" STORE,
     [](uint32_t t) -> uint64_t { return t + t / 2 * 10; }},
    /* A function with parameters and a result, memory of the thread, a table of the module. */
    {".global .align 4 .u32 table[4] = {3, 5, 0x7, 11};\n"
     ".func (.param .b32 result) twice(.param .b32 a)\n{\n.local .align 4 .b8 depot[8]; .reg .b64 %rd<4>; .reg .b32 %r<5>;\n"
     "mov.u64 %rd1, depot; ld.param.u32 %r1, [a]; st.local.u32 [%rd1+4], %r1; cvta.local.u64 %rd2, %rd1;\n"
     "ld.u32 %r2, [%rd2+4]; add.s32 %r3, %r2, %r1; st.param.b32 [result], %r3; ret;\n}\n",
     "{ .param .b32 x; .param .b32 y; st.param.b32 [x], %r2; call.uni (y), twice, (x); ld.param.b32 %r6, [y]; }\n"
     "mov.u64 %rd8, table; and.b32 %r9, %r2, 3; mul.wide.u32 %rd9, %r9, 4; add.s64 %rd8, %rd8, %rd9;\n"
     "ld.global.u32 %r10, [%rd8]; add.s32 %r6, %r6, %r10;" STORE,
     [](uint32_t t) -> uint64_t {
         return 2 * t + (t % 4 == 0 ? 3 : t % 4 == 1 ? 5 : t % 4 == 2 ? 7 : 11);
     }},
    /* Shared memory across a barrier, by its own address and by a generic one; an atomic. */
    {".shared .align 16 .b8 s[1024]; .shared .align 4 .u32 count;\n",
     "mov.u32 %r7, s; shl.b32 %r8, %r2, 2; add.s32 %r7, %r7, %r8; st.shared.u32 [%r7], %r2;\n"
     "setp.eq.s32 %p1, %r2, 0; @%p1 st.shared.u32 [count], 0; bar.sync 0; mov.u64 %rd8, s; cvta.shared.u64 %rd8, %rd8;\n"
     "xor.b32 %r9, %r2, 77; and.b32 %r9, %r9, 127; mul.wide.u32 %rd9, %r9, 4; add.s64 %rd8, %rd8, %rd9;\n"
     "ld.u32 %r6, [%rd8]; atom.shared.add.u32 %r11, [count], 2; bar.sync 0; ld.shared.u32 %r12, [count];\n"
     "add.s32 %r6, %r6, %r12;" STORE,
     [](uint32_t t) -> uint64_t { return ((t ^ 77) & 127) + 256; }},
    /* Votes of a block and of a warp, a shuffle with a bound, a sum, all in parts of warps too. */
    {"",
     "and.b32 %r7, %r2, 1; setp.eq.s32 %p1, %r7, 1; bar.red.popc.u32 %r6, 0, %p1;\n"
     "vote.sync.ballot.b32 %r8, %p1, 0xffffffff; and.b32 %r8, %r8, 15; add.s32 %r6, %r6, %r8;\n"
     "shfl.sync.up.b32 %r9|%p2, %r2, 3, 0, 0xffffffff; @%p2 add.s32 %r6, %r6, 1000;\n"
     "redux.sync.add.s32 %r10, %r7, 0xffffffff; add.s32 %r6, %r6, %r10;\n"
     "and.b32 %r11, %r2, 16; setp.ne.s32 %p3, %r11, 0; @%p3 bra L1;\n"
     "shfl.sync.idx.b32 %r12, %r2, 2, 31, 0x0000ffff; bra.uni L2;\n"
     "L1: shfl.sync.bfly.b32 %r12, %r2, 1, 31, 0xffff0000;\nL2: add.s32 %r6, %r6, %r12;" STORE,
     [](uint32_t t) -> uint64_t {
         return 64 + 10 + (t % 32 >= 3 ? 1000 : 0) + 16 + (t % 32 < 16 ? (t & ~31u) + 2 : t ^ 1);
     }},
    /* cp.async: what lies there before the wait is what lay there before. */
    {".extern .shared .align 16 .b8 dynamic[];\n",
     "and.b32 %r8, %r2, 127; setp.ge.u32 %p1, %r2, 16; mov.u32 %r6, 0; @%p1 bra L1; shl.b32 %r9, %r8, 4;\n"
     "mov.u32 %r7, dynamic; add.s32 %r7, %r7, %r9; add.s64 %rd8, %rd2, %rd3;\n"
     "cp.async.cg.shared.global [%r7], [%rd8], 16; cp.async.commit_group; cp.async.wait_group 0;\n"
     "ld.shared.u32 %r6, [%r7]; L1:" STORE,
     [](uint32_t t) -> uint64_t { return t < 16 ? (uint32_t)in[2 * t] : 0; }},
};

static void programs_do_what_they_say(void **)
{
    for (int i = 0; i < 1024; i++)
        in[i] = (uint64_t)i * 1000003;
    for (const auto &p : programs) {
        write_kernel(p.outside, p.body);
        for (int order = 0; order < 3; order++) {
            cudaError_t e = run_hand(128, (uint32_t)order, (hs_sim_order)order);
            if (e)
                fail_msg("%s: %s", p.body, hs_sim_read_stats().last_fault);
            for (uint32_t t = 0; t < 128; t++)
                if (out[t] != p.want(t))
                    fail_msg("%s: thread %u: %llu, wanted %llu", p.body, t, (unsigned long long)out[t],
                             (unsigned long long)p.want(t));
            assert_int_equal(hs_sim_read_stats().ptx_launches, 1);
        }
        drop_ptx();
    }
}

/* ---- mistakes ---- */

static const struct {
    const char *outside, *body, *says;
    cudaError_t error;
} mistakes[] = {
    {"", "ld.global.v2.u64 {%rd4, %rd5}, [%rd2];", "which is no multiple of 16", cudaErrorMisalignedAddress},
    {"", "st.global.u32 [%rd1+2], %r2;", "which is no multiple of 4", cudaErrorMisalignedAddress},
    {"", "ld.global.u64 %rd4, [%rd2+20000];", "in no block of device or pinned memory", cudaErrorIllegalAddress},
    {"", "st.global.u64 [%rd1+-16384], %rd1;", "in no block of device or pinned memory", cudaErrorIllegalAddress},
    {".shared .align 4 .b8 s[64];",
     "mov.u32 %r4, s; shl.b32 %r5, %r2, 4; add.s32 %r4, %r4, %r5; st.shared.u32 [%r4], 1;", "of shared memory",
     cudaErrorIllegalAddress},
    {".shared .align 4 .b8 s[512];",
     "shl.b32 %r5, %r2, 2; mov.u32 %r4, s; add.s32 %r4, %r4, %r5; ld.shared.u32 %r6, [%r4];"
     "add.s32 %r6, %r6, 1;",
     "no value", cudaErrorLaunchFailure},
    {"", "add.s32 %r6, %r30, 1;", "no value", cudaErrorLaunchFailure},
    {"", "setp.eq.s32 %p1, %r2, 5; @%p1 bra L1; mov.u32 %r6, 1; L1: add.s32 %r6, %r6, 1;", "no value",
     cudaErrorLaunchFailure},
    {"", "@%p5 add.s32 %r6, %r2, 1;", "no value", cudaErrorLaunchFailure},
    {"", "setp.lt.u32 %p1, %r2, 7; @%p1 bra L1; bar.sync 0; bra.uni L2; L1: bar.sync 0; L2:", "a barrier, but lane",
     cudaErrorLaunchFailure},
    {"", "setp.lt.u32 %p1, %r2, 7; @%p1 ret; bar.sync 0;", "left", cudaErrorLaunchFailure},
    {"", "setp.lt.u32 %p1, %r2, 7; @%p1 bra L1; bar.sync 0; L1: ret;", "", cudaErrorLaunchFailure},
    {"", "setp.lt.u32 %p1, %r2, 7; @%p1 ret; shfl.sync.bfly.b32 %r6, %r2, 1, 31, 0xffffffff;", "lane",
     cudaErrorLaunchFailure},
    {"", "shfl.sync.bfly.b32 %r6, %r2, 1, 31, 0x55555555;", "does not name lane", cudaErrorLaunchFailure},
    {"", "mov.u32 %r4, 1; shl.b32 %r4, %r4, %r2; shfl.sync.idx.b32 %r6, %r2, 1, 31, %r4;", "does not name",
     cudaErrorLaunchFailure},
    {".shared .align 4 .b8 s[512];",
     "shl.b32 %r5, %r2, 2; mov.u32 %r4, s; add.s32 %r4, %r4, %r5; st.shared.u32 [%r4], %r2; xor.b32 %r5, %r5, 256;\n"
     "mov.u32 %r4, s; add.s32 %r4, %r4, %r5; ld.shared.u32 %r6, [%r4];",
     "a race", cudaErrorLaunchFailure},
    {".shared .align 4 .b8 s[512];",
     "shl.b32 %r5, %r2, 2; mov.u32 %r4, s; add.s32 %r4, %r4, %r5; st.shared.u32 [%r4], %r2; xor.b32 %r5, %r5, 4;\n"
     "shfl.sync.bfly.b32 %r8, %r2, 1, 31, 0xffffffff;\n"
     "mov.u32 %r4, s; add.s32 %r4, %r4, %r5; ld.shared.u32 %r6, [%r4];",
     "a race", cudaErrorLaunchFailure},
    {".shared .align 4 .b8 s[512];",
     "shl.b32 %r5, %r2, 2; mov.u32 %r4, s; add.s32 %r4, %r4, %r5; st.shared.u32 [%r4], %r2; bar.sync 0;\n"
     "xor.b32 %r5, %r5, 4; mov.u32 %r9, s; add.s32 %r9, %r9, %r5; ld.shared.u32 %r6, [%r9]; st.shared.u32 [%r4], 5;",
     "a race", cudaErrorLaunchFailure},
    {".shared .align 4 .b8 s[512];", "mov.u32 %r4, s; st.shared.u32 [%r4], %r2;", "a race", cudaErrorLaunchFailure},
    {".extern .shared .align 16 .b8 dynamic[];",
     "setp.ge.u32 %p1, %r2, 1; @%p1 ret; mov.u32 %r4, dynamic; cp.async.cg.shared.global [%r4], [%rd2], 16;\n"
     "cp.async.commit_group; ld.shared.u32 %r6, [%r4];",
     "waits for a cp.async", cudaErrorLaunchFailure},
    {".extern .shared .align 16 .b8 dynamic[];",
     "setp.ge.u32 %p1, %r2, 1; @%p1 ret; mov.u32 %r4, dynamic; cp.async.cg.shared.global [%r4], [%rd2], 16;\n"
     "cp.async.wait_group 0; ld.shared.u32 %r6, [%r4];",
     "waits for a cp.async", cudaErrorLaunchFailure},
    {"", "cvt.rn.f32.s32 %f1, %r2; ex2.approx.f32 %f2, %f1;", "what it gives is written down nowhere",
     cudaErrorLaunchFailure},
    {"", "add.ftz.f32 %f1, %f2, %f3;", "does not know this instruction", cudaErrorLaunchFailure},
    {"", "trap;", "gives up", cudaErrorLaunchFailure},
};

static void mistakes_are_named(void **)
{
    for (const auto &m : mistakes) {
        write_kernel(m.outside, m.body);
        for (int order = 0; order < 3; order++) {
            cudaError_t e = run_hand(128, 1, (hs_sim_order)order);
            hs_sim_stats s = hs_sim_read_stats();
            if (e != m.error || !strstr(s.last_fault, m.says) || !strstr(s.last_fault, "kernel hand_kernel"))
                fail_msg("%s: %d, wanted %d with \"%s\": \"%s\"", m.body, e, m.error, m.says, s.last_fault);
        }
        drop_ptx();
    }
}

/* The same with the order that was missing is none. */
static void order_within_a_warp_is_enough(void **)
{
    write_kernel(".shared .align 4 .b8 s[512];",
                 "shl.b32 %r5, %r2, 2; mov.u32 %r4, s; add.s32 %r4, %r4, %r5; st.shared.u32 [%r4], %r2;\n"
                 "xor.b32 %r5, %r5, 4; bar.warp.sync 0xffffffff; mov.u32 %r4, s; add.s32 %r4, %r4, %r5;\n"
                 "ld.shared.u32 %r6, [%r4]; bar.warp.sync -1; st.shared.u32 [%r4], 5;" STORE);
    for (int order = 0; order < 3; order++) {
        OK(run_hand(128, 1, (hs_sim_order)order));
        for (uint32_t t = 0; t < 128; t++)
            assert_int_equal(out[t], t ^ 1);
    }
    drop_ptx();
}

static void what_is_not_there_is_an_error(void **)
{
    write_ptx(".entry _Z12other_kernelPmPKmj(.param .u64 p0, .param .u64 p1, .param .u32 p2)\n{ ret; }\n");
    assert_int_equal(run_hand(32, 0, HS_SIM_UP), cudaErrorInvalidDeviceFunction);
    assert_true(fault_says("has no kernel _Z11hand_kernelPmPKmj"));
    assert_int_equal(hs_sim_read_stats().launches, 0);
    drop_ptx();
    write_ptx(".entry _Z11hand_kernelPmPKmj(.param .u64 p0, .param .u64 p1, .param .u64 p2)\n{ ret; }\n");
    assert_int_equal(run_hand(32, 0, HS_SIM_UP), cudaErrorInvalidValue);
    assert_true(fault_says("parameter 2 has 4 bytes in multiples of 4, nvcc's has 8 in multiples of 8"));
    drop_ptx();
    write_ptx(".entry _Z11hand_kernelPmPKmj(\n{ ret; }\n");
    assert_int_equal(run_hand(32, 0, HS_SIM_UP), cudaErrorInvalidDeviceFunction);
    assert_true(fault_says("test_ptx.ptx:"));
    drop_ptx();
    strcpy(folder, "/nowhere");
    assert_int_equal(run_hand(32, 0, HS_SIM_UP), cudaErrorInvalidDeviceFunction);
    assert_true(fault_says("has no folder for sm_89"));
}

/* ---- nvcc's own ---- */

/* The text of this file's kernels; NULL where there is none. */
static char *nvccs_text(void)
{
    static char text[1 << 20];
    char path[1024];
    const char *from = hs_sim_from_environment().ptx;
    snprintf(path, sizeof path, "%s/80/test_ptx.ptx", from ? from : "");
    FILE *f = from ? fopen(path, "r") : nullptr;
    if (!f) {
        assert_null(from);
        print_message("HLWQ_SIM_PTX is not set: there is nothing of nvcc's\n");
        return nullptr;
    }
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    return text;
}

static void product_of(const char *ptx, uint64_t seed, int *got)
{
    hs_sim_options o = plain_options();
    o.ptx = ptx;
    o.seed = seed;
    hs_sim_configure(&o);
    uint32_t a[128], b[64];
    uint64_t r = 3;
    for (uint32_t &v : a)
        v = (uint32_t)((r = r * 6364136223846793005u + 1) >> 32);
    for (uint32_t &v : b)
        v = (uint32_t)((r = r * 6364136223846793005u + 1) >> 32);
    int *d = device<int>(128);
    OK(gpu_launch(product_kernel, 1, 32, 0, nullptr, d, to_device(a, 128), to_device(b, 64)));
    OK(cudaDeviceSynchronize());
    to_host(got, d, 128);
}

/* Replaces in the statement that begins with `opcode`; what does not occur in it is a failure. */
static void spoil(char *text, const char *opcode, const char *(*change)(char *statement))
{
    char *at = strstr(text, opcode);
    assert_non_null(at);
    const char *trouble = change(at);
    if (trouble)
        fail_msg("%s: %s", opcode, trouble);
    write_ptx(strstr(text, ".address_size 64") + 16);
}

static void two_registers_swapped_in_nvccs_code_show(void **)
{
    char *text = nvccs_text();
    if (!text)
        return;
    int ours[128], nvccs[128], swapped[128];
    product_of(nullptr, 1, ours);
    product_of(hs_sim_from_environment().ptx, 1, nvccs);
    assert_memory_equal(nvccs, ours, sizeof ours);
    spoil(text, "mma.sync", [](char *s) -> const char * {
        char *a = strstr(s, ", {"); /* {d..}, {a0,a1,..} become {a1,a0,..} */
        unsigned first, second;
        int n = 0;
        if (!a || sscanf(a, ", {%%r%u,%%r%u%n", &first, &second, &n) != 2 || !n)
            return "no fragments";
        char other[64];
        snprintf(other, sizeof other, ", {%%r%u,%%r%u", second, first);
        if ((int)strlen(other) != n)
            return "another length";
        memcpy(a, other, (size_t)n);
        return nullptr;
    });
    product_of(folder, 1, swapped);
    drop_ptx();
    assert_memory_not_equal(swapped, ours, sizeof ours);
}

static void a_barrier_left_out_of_nvccs_code_is_a_race(void **)
{
    char *text = nvccs_text();
    if (!text)
        return;
    for (int left_out = 0; left_out < 2; left_out++) {
        if (left_out)
            spoil(text, "bar.sync", [](char *s) -> const char * {
                memset(s, ' ', (size_t)(strchr(s, ';') - s + 1));
                return nullptr;
            });
        hs_sim_options o = plain_options();
        o.quiet = true;
        o.ptx = left_out ? folder : o.ptx;
        hs_sim_configure(&o);
        uint32_t x[256];
        for (uint32_t i = 0; i < 256; i++)
            x[i] = i;
        uint32_t *d = to_device(x, 256);
        OK(gpu_launch(turn_kernel, 1, 256, 0, nullptr, d));
        cudaError_t e = cudaDeviceSynchronize();
        assert_int_equal(e, left_out ? cudaErrorLaunchFailure : cudaSuccess);
        if (left_out) {
            /* the lane of the source file is known, too */
            assert_true(fault_says("a race") || fault_says("no value"));
            assert_false(fault_says("source line 0"));
            drop_ptx();
        } else {
            to_host(x, d, 256);
            for (uint32_t i = 0; i < 256; i++)
                assert_int_equal(x[i], 255 - i);
        }
    }
}

/* Everything nvcc makes of our kernels is understood, and nothing of it is approximate. */
static void every_instruction_of_ours_is_known(void **)
{
    hs_sim_options o = plain_options();
    if (!o.ptx) {
        print_message("HLWQ_SIM_PTX is not set: there is no PTX to look at\n");
        return;
    }
    static const int archs[] = {75, 80};
    for (int arch : archs) {
        o.arch = arch;
        hs_sim_configure(&o);
        uint32_t instructions, unknown;
        char first[256];
        uint32_t kernels = hs_sim_ptx_survey(&instructions, &unknown, first, sizeof first);
        print_message("sm_%d: %u kernels, %u instructions\n", arch, kernels, instructions);
        if (unknown)
            fail_msg("sm_%d: %u instructions are not known; the first: %s", arch, unknown, first);
        assert_true(kernels > 50);
    }
}
#endif

int main(void)
{
    const CMUnitTest tests[] = {
#ifndef __CUDACC__
        TEST(arithmetic_is_as_the_manual_says),
        TEST(programs_do_what_they_say),
        TEST(mistakes_are_named),
        TEST(order_within_a_warp_is_enough),
        TEST(what_is_not_there_is_an_error),
        TEST(two_registers_swapped_in_nvccs_code_show),
        TEST(a_barrier_left_out_of_nvccs_code_is_a_race),
        TEST(every_instruction_of_ours_is_known),
#endif
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
