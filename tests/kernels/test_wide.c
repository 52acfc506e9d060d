/* kernels/cpu/wide.c and wide_mixer.c: every loop gives the bits of ref.c, on every set that this machine has. */
#define _POSIX_C_SOURCE 200809L
#include "kernels/cpu/ops.h"
#include "kernels/kv_codec.h"
#include "kernels/numeric.h"
#include "tests/support/check.h"
#include "tests/support/noise.h"

#include <math.h>

static const hs_cpu_ops *const ref = &hs_cpu_ref_base;

/* Values of ordinary size; with `wild`, zeros of both signs, infinities, NaN, subnormals and large ones among them. */
static float *values(size_t n, float size, bool wild)
{
    static const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, -3e38f, 100.0f, -100.0f, 88.7f, -87.4f};
    float *v = malloc((n + 16) * sizeof *v);
    for (size_t i = 0; i < n + 16; i++)
        v[i] = wild && i % 7 == 3 ? odd[i / 7 % 11] : uniform() * size;
    return v;
}

static float *copy(const float *v, size_t n)
{
    float *c = malloc(n * sizeof *c);
    memcpy(c, v, n * sizeof *c);
    return c;
}

static void same(const char *what, const char *set, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (hs_float_bits(got[i]) != hs_float_bits(want[i]) && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s, %s: [%zu] of %zu is %a, ref.c says %a", set, what, i, n, (double)got[i], (double)want[i]);
}

static void check_rows(const hs_cpu_ops *set)
{
    static const uint32_t width[] = {1, 15, 16, 32, 40, 64, 128, 256, 300, 2048};
    for (size_t k = 0; k < 10; k++)
        for (int wild = 0; wild < 2; wild++) {
            uint32_t n = width[k];
            float *x = values(n, 3, wild), *w = values(n, 1, false), *z = values(n, 20, wild);
            float *a = copy(z, n), *b = copy(z, n);
            ref->rms_norm(x, w, n, 1e-6f, a), set->rms_norm(x, w, n, 1e-6f, b);
            same("rms_norm", set->name, b, a, n);
            ref->l2_norm(x, n, 1e-6f, 0.25f, a), set->l2_norm(x, n, 1e-6f, 0.25f, b);
            same("l2_norm", set->name, b, a, n);
            ref->gated_norm(x, w, z, n, 1e-6f, a), set->gated_norm(x, w, z, n, 1e-6f, b);
            same("gated_norm", set->name, b, a, n);
            ref->swiglu(z, x, n, a), set->swiglu(z, x, n, b);
            same("swiglu", set->name, b, a, n);
            ref->gate(a, z, n), set->gate(b, z, n);
            same("gate", set->name, b, a, n);
            const float *y[5] = {x, w, z, w, x};
            memcpy(a, w, n * sizeof *a), memcpy(b, w, n * sizeof *b);
            ref->combine(a, y, w, n < 5 ? 1 : 5, n), set->combine(b, y, w, n < 5 ? 1 : 5, n);
            same("combine", set->name, b, a, n);
            if (n % 2 == 0) {
                memcpy(a, x, n * sizeof *a), memcpy(b, x, n * sizeof *b);
                ref->rotate(a, w, n), set->rotate(b, w, n);
                same("rotate", set->name, b, a, n);
            }
            uint16_t *g = malloc(4 * n), *h = g + n;
            ref->to_half(g, w, n), set->to_half(h, w, n);
            assert_memory_equal(g, h, 2 * n);
            free(g);
            free(x), free(w), free(z), free(a), free(b);
        }
}

static void check_q8(const hs_cpu_ops *set)
{
    static const uint32_t cols[] = {128, 96, 384, 300, 2048};
    for (size_t k = 0; k < 5; k++)
        for (int kind = 0; kind < 5; kind++) {
            static const float size[] = {1, 1e4f, 1e-38f, 1e30f, 3};
            uint32_t n = cols[k], blocks = (n + 127) / 128;
            float *x = values(n, size[kind], kind == 4);
            int8_t *q[2] = {malloc(blocks * 128), malloc(blocks * 128)};
            float scale[2][16];
            int32_t sum[2][16];
            ref->q8(x, n, q[0], scale[0], sum[0]);
            set->q8(x, n, q[1], scale[1], sum[1]);
            assert_memory_equal(q[0], q[1], blocks * 128);
            assert_memory_equal(sum[0], sum[1], blocks * 4);
            same("q8 scale", set->name, scale[1], scale[0], blocks);
            free(q[0]), free(q[1]), free(x);
        }
}

static void check_plain(const hs_cpu_ops *set)
{
    static const uint32_t cols[] = {16, 100, 128, 1024, 1040, 2048, 3000}, tokens[] = {1, 2, 3, 4, 5, 7, 8, 31};
    static const hs_dtype dtype[] = {HS_F32, HS_F16, HS_BF16};
    for (uint32_t k = 0; k < 7; k++)
        for (uint32_t t = 0; t < 8; t++) {
            hs_dtype d = dtype[(k + t) % 3];
            uint32_t rows = 1 + (5 * k + 3 * t) % 19, n = tokens[t], held = n + 2, list[40];
            size_t at = (size_t)rows * cols[k];
            float *w = values(at, 1, false), *x = values((size_t)held * cols[k], 2, false);
            uint16_t *half = malloc(at * 2);
            for (size_t i = 0; i < at; i++)
                half[i] = d == HS_BF16 ? hs_f32_to_bf16(w[i]) : hs_f32_to_f16(w[i]);
            hs_matrix m = {
                .dtype = d, .rows = rows, .cols = cols[k], .low = d == HS_F32 ? (uint8_t *)w : (uint8_t *)half};
            hs_act a = {.cols = cols[k], .blocks = (cols[k] + 127) / 128, .x = x};
            for (uint32_t i = 0; i < n; i++)
                list[i] = (i * 3 + 1) % held;
            size_t stride = rows + 3;
            float *want = values(n * stride, 1, false), *got = copy(want, n * stride);
            ref->gemm_plain(&m, &a, t % 2 ? list : NULL, n, 0, rows, want, stride);
            set->gemm_plain(&m, &a, t % 2 ? list : NULL, n, 0, rows / 2, got, stride);
            set->gemm_plain(&m, &a, t % 2 ? list : NULL, n, rows / 2, rows, got, stride);
            same("gemm_plain", set->name, got, want, n * stride);
            free(w), free(x), free(half), free(want), free(got);
        }
}

static void check_conv(const hs_cpu_ops *set)
{
    for (uint32_t taps = 2; taps <= 5; taps++)
        for (uint32_t n = 1; n < 9; n += n < 5 ? 1 : 3) {
            uint32_t channels = 100, first = taps == 4 ? 4 : 3, last = 84;
            float *c = values((size_t)n * channels, 2, false), *w = values((size_t)channels * taps, 1, false);
            float *s0 = values((size_t)(taps - 1) * channels, 1, false), *s1 = copy(s0, (size_t)(taps - 1) * channels);
            float *y0 = values((size_t)n * channels, 1, false), *y1 = copy(y0, (size_t)n * channels);
            ref->conv(c, w, taps, channels, first, last, n, s0, y0);
            set->conv(c, w, taps, channels, first, last, n, s1, y1);
            same("conv", set->name, y1, y0, (size_t)n * channels);
            same("conv state", set->name, s1, s0, (size_t)(taps - 1) * channels);
            free(c), free(w), free(s0), free(s1), free(y0), free(y1);
        }
}

static void check_delta(const hs_cpu_ops *set)
{
    static const uint32_t dims[][2] = {{16, 16}, {32, 64}, {64, 32}, {128, 128}, {20, 24}, {128, 192}};
    static const uint32_t count[] = {1, 2, 3, 4, 5, 17, 63, 64};
    for (size_t k = 0; k < 6; k++)
        for (size_t c = 0; c < 8; c++) {
            uint32_t kd = dims[k][0], vd = dims[k][1], n = count[c];
            size_t qk_stride = 2 * kd + 3, v_stride = vd + 5, g_stride = 3, o_stride = vd + 1;
            float *s0 = values((size_t)kd * vd, 1, false), *s1 = copy(s0, (size_t)kd * vd);
            float *qk = values(n * qk_stride, 0.2f, false), *v = values(n * v_stride, 1, false);
            float *g = values(n * g_stride, 0.5f, false), *beta = values(n * g_stride, 0.5f, false);
            float *o0 = values(n * o_stride, 1, false), *o1 = copy(o0, n * o_stride);
            size_t room = hs_delta_chunk_floats(kd, vd);
            float *scratch = values(room, NAN, false);
            for (size_t i = 0; i < n * g_stride; i++) {
                g[i] = -fabsf(g[i]) * (i % 5 == 0 ? 40.0f : 1.0f);
                beta[i] = fabsf(beta[i]);
            }
            if (n == 1) {
                ref->delta_step(s0, qk, qk + kd, v, g[0], beta[0], kd, vd, o0, scratch);
                set->delta_step(s1, qk, qk + kd, v, g[0], beta[0], kd, vd, o1, scratch);
            } else {
                ref->delta_chunk(s0, qk, qk + kd, v, g, beta, qk_stride, v_stride, g_stride, n, kd, vd, o0, o_stride,
                                 scratch);
                for (size_t i = 0; i < room; i++)
                    scratch[i] = NAN;
                set->delta_chunk(s1, qk, qk + kd, v, g, beta, qk_stride, v_stride, g_stride, n, kd, vd, o1, o_stride,
                                 scratch);
            }
            same("delta output", set->name, o1, o0, n * o_stride);
            same("delta state", set->name, s1, s0, (size_t)kd * vd);
            free(s0), free(s1), free(qk), free(v), free(g), free(beta), free(o0), free(o1), free(scratch);
        }
}

/* One token's attention, page by page and folded afterwards; pages in two pieces. `coded` of them are in codes. */
static void by_pages(const hs_cpu_ops *set, const hs_kv_view *kv, uint32_t heads, uint32_t dim, uint32_t group,
                     uint32_t position, uint32_t coded, const float *q, float scale, float *out, float *scratch)
{
    uint32_t n = position / HS_GRID + 1, all = heads * group, cut = n / 2;
    size_t floats = 2 + (size_t)dim, page = all * floats;
    float *tiles = malloc(2 * sizeof(float) * all * dim), *part = malloc(n * page * sizeof(float)), state[2];
    for (uint32_t i = 0; i < 2; i++)
        set->attend_lay(all, group, dim, q, 2 * (size_t)dim, i == 0, tiles + (size_t)i * all * dim, scratch);
    for (uint32_t i = 0; i < 2; i++)
        set->attend_pages(kv, heads, dim, group, position, i ? 0 : cut, i ? cut : n, tiles, tiles + (size_t)all * dim,
                          scale, part + (i ? 0 : cut * page), scratch);
    for (uint32_t h = 0; h < all; h++, out += dim) {
        for (uint32_t b = 0; b < n; b++) {
            if (coded && b == coded)
                hs_kv_rotate(out, dim);
            set->attend_fold(part + b * page + h * floats, dim, b == 0, state, out);
        }
        for (uint32_t d = 0; d < dim; d++)
            out[d] /= state[1];
    }
    free(tiles), free(part);
}

/* The same from ref.c. */
static void check_by_pages(const hs_cpu_ops *set, const hs_kv_view *kv, uint32_t heads, uint32_t dim, uint32_t group,
                           uint32_t position, uint32_t coded, float *scratch)
{
    if (!set->attend_pages || dim % 32)
        return;
    size_t width = (size_t)heads * group * dim;
    float *q = values(2 * width, 0.5f, false), *o0 = values(width, 1, false), *o1 = values(width, 1, false);
    for (uint32_t h = 0; h < heads; h++)
        ref->attend(kv, heads, h, dim, group, position, 1, q + 2 * (size_t)h * group * dim, 2 * width, 2 * (size_t)dim,
                    o0 + (size_t)h * group * dim, width, 0.3f, scratch);
    by_pages(set, kv, heads, dim, group, position, coded, q, 0.3f, o1, scratch);
    same("attend by pages", set->name, o1, o0, width);
    free(q), free(o0), free(o1);
}

static void check_attention(const hs_cpu_ops *set)
{
    static const uint32_t shape[][3] = {
        {16, 1, 3}, {32, 2, 2}, {64, 1, 4}, {128, 2, 5}, {256, 2, 8}}; /* dim, kv heads, group */
    static const uint32_t place[][2] = {{0, 1}, {0, 16}, {63, 1}, {64, 1}, {60, 9}, {129, 16}, {191, 2}};
    for (size_t k = 0; k < 5; k++)
        for (size_t c = 0; c < 14; c++) {
            uint32_t dim = shape[k][0], heads = shape[k][1], group = shape[k][2], first = place[c / 2][0],
                     n = place[c / 2][1];
            hs_dtype dtype = c % 2 ? HS_F32 : HS_F16;
            size_t page_values = 2 * (size_t)HS_GRID * heads * dim, stride = (size_t)group * dim * 2 + 7;
            void *page[4];
            for (int p = 0; p < 4; p++) {
                float *v = values(page_values, 1, false);
                uint16_t *h = malloc(page_values * 2);
                for (size_t i = 0; i < page_values; i++)
                    h[i] = hs_f32_to_f16(v[i]);
                page[p] = dtype == HS_F32 ? (void *)v : (void *)h;
                free(dtype == HS_F32 ? (void *)h : (void *)v);
            }
            hs_kv_view kv = {.page = page, .dtype = dtype};
            float *q = values(n * stride, 1, false), *o0 = values(n * stride, 1, false), *o1 = copy(o0, n * stride);
            float *scratch = values(hs_attend_floats(dim, group), NAN, false);
            for (uint32_t h = 0; h < heads; h++) {
                ref->attend(&kv, heads, h, dim, group, first, n, q, stride, 2 * (size_t)dim, o0, stride, 0.3f, scratch);
                set->attend(&kv, heads, h, dim, group, first, n, q, stride, 2 * (size_t)dim, o1, stride, 0.3f, scratch);
                same("attend", set->name, o1, o0, n * stride);
            }
            check_by_pages(set, &kv, heads, dim, group, first + n - 1, 0, scratch);
            for (int p = 0; p < 4; p++)
                free(page[p]);
            free(q), free(o0), free(o1), free(scratch);
        }
}

/* Random bytes are codes; norms of every kind. Pages in codes and plain ones in one call. */
static void check_coded_attention(const hs_cpu_ops *set)
{
    static const hs_dtype type[] = {HS_I8, HS_Q4, HS_Q3, HS_Q2};
    static const uint32_t shape[][3] = {{128, 1, 2}, {128, 2, 5}, {256, 2, 3}, {256, 1, 12}}; /* dim, kv heads, group */
    static const uint32_t place[][2] = {{130, 1}, {192, 16}, {303, 16}, {319, 1}, {100, 3}};
    for (uint32_t c = 0; c < 16 * 4 * 5; c++) {
        const uint32_t *s = shape[c % 4], *at = place[c / 4 % 5];
        uint32_t dim = s[0], heads = s[1], group = s[2], first = at[0], n = group == 12 ? 1 : at[1];
        hs_kv_format format = {type[c / 20 % 4], type[c / 80]};
        size_t page_values = 2 * (size_t)HS_GRID * heads * dim, stride = (size_t)group * dim * 2 + 7;
        void *page[5], *coded[5];
        hs_kv_view kv = {.page = page, .dtype = HS_F16, .coded = coded, .layout = hs_kv_layout_of(format, heads * dim)};
        for (int p = 0; p < 5; p++) {
            uint16_t *h = page[p] = malloc(page_values * 2);
            for (size_t i = 0; i < page_values; i++)
                h[i] = hs_f32_to_f16(uniform());
            uint8_t *bytes = coded[p] = malloc(kv.layout.bytes);
            for (size_t i = 0; i < kv.layout.bytes; i++)
                bytes[i] = (uint8_t)(uniform() * 128 + 128);
            for (uint32_t i = 0; i < HS_GRID * heads * dim / HS_BLOCK; i++) {
                ((uint16_t *)(void *)(bytes + kv.layout.k.norms))[i] = hs_f32_to_f16(i % 9 ? uniform() : 1e-6f);
                ((uint16_t *)(void *)(bytes + kv.layout.v.norms))[i] = hs_f32_to_f16(i % 9 ? uniform() * 4 : 0);
            }
        }
        float *q = values(n * stride, 0.1f, false), *o0 = values(n * stride, 1, false), *o1 = copy(o0, n * stride);
        float *scratch = values(hs_attend_floats(dim, group), NAN, false);
        for (uint32_t h = 0; h < heads; h++) {
            ref->attend(&kv, heads, h, dim, group, first, n, q, stride, 2 * (size_t)dim, o0, stride, 0.3f, scratch);
            set->attend(&kv, heads, h, dim, group, first, n, q, stride, 2 * (size_t)dim, o1, stride, 0.3f, scratch);
            same("attend coded", set->name, o1, o0, n * stride);
        }
        check_by_pages(set, &kv, heads, dim, group, first, hs_kv_coded_count(first), scratch);
        for (int p = 0; p < 5; p++)
            free(page[p]), free(coded[p]);
        free(q), free(o0), free(o1), free(scratch);
    }
}

static void check_top_k(const hs_cpu_ops *set)
{
    static const uint32_t experts[] = {8, 16, 60, 64, 256, 2048};
    for (size_t k = 0; k < 6; k++)
        for (int kind = 0; kind < 4; kind++) {
            uint32_t n = experts[k], used = n < 10 ? 4 : 10;
            float *l = values(n, 3, kind == 3), w0[10], w1[10];
            int32_t i0[10], i1[10];
            for (uint32_t e = 0; kind == 1 && e < n; e++)
                l[e] = (float)(e % 3) * (e & 4 ? -0.0f : 1.0f); /* ties */
            for (uint32_t e = 0; kind == 2 && e < n; e++)
                l[e] = e & 1 ? 0.0f : -0.0f;
            for (uint32_t e = 0; kind == 3 && e < n; e++)
                l[e] = isnan(l[e]) || l[e] == INFINITY ? -INFINITY : l[e];
            ref->top_k(l, n, used, i0, w0);
            set->top_k(l, n, used, i1, w1);
            assert_memory_equal(i0, i1, used * sizeof *i0);
            same("top_k", set->name, w1, w0, used);
            free(l);
        }
}

static void faster_loops_give_the_bits_of_the_plain_ones(void **state)
{
    (void)state;
    static const char *const name[] = {"avx2", "avx512"};
    for (int i = 0; i < 2; i++) {
        hs_cpu_ops set;
        hlwq_error err;
        setenv("HLWQ_CPU", name[i], 1);
        hlwq_status st = hs_cpu_choose(&set, NULL, &err);
        unsetenv("HLWQ_CPU");
        if (st != HLWQ_OK) {
            print_message("skipped %s: %s\n", name[i], err.message);
            continue;
        }
        check_rows(&set);
        check_q8(&set);
        check_plain(&set);
        check_conv(&set);
        check_delta(&set);
        check_attention(&set);
        check_coded_attention(&set);
        check_top_k(&set);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faster_loops_give_the_bits_of_the_plain_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
