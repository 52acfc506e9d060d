/* kernels/cuda: movable work gives the bits of kernels/cpu/ref.c in every shape, the rest is close to it. */
#include "kernels/cuda/device.h"
#include "tests/cuda/sim_test.h"
#include "tests/support/noise.h"

extern "C" {
#include "kernels/cpu/ops.h"
#include "kernels/measure.h"
}

#include <math.h>

static const hs_cpu_ops *const ref = &hs_cpu_ref_base;

static float *values(size_t n, float size)
{
    float *v = static_cast<float *>(malloc(n * sizeof(float)));
    for (size_t i = 0; i < n; i++)
        v[i] = uniform() * size;
    return v;
}

static void same(const char *what, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (hs_float_bits(got[i]) != hs_float_bits(want[i]) && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s: [%zu] of %zu is %a, ref.c says %a", what, i, n, (double)got[i], (double)want[i]);
}

static void near(const char *what, const float *got, const float *want, size_t n, float tolerance)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= tolerance))
            fail_msg("%s: [%zu] of %zu is %g, ref.c says %g", what, i, n, (double)got[i], (double)want[i]);
}

/* ---- fixtures -------------------------------------------------------------------------------- */

typedef struct acts {
    uint32_t rows, cols, blocks;
    float *x, *scale;
    int8_t *q;
    int32_t *sum;
    float *dx;
    gpu_q8 d;
} acts;

static acts make_acts(uint32_t rows, uint32_t cols, gpu_form form, cudaStream_t s)
{
    acts a = {};
    uint32_t per = form == GPU_FLAT ? 2 : 1;
    a.rows = rows;
    a.cols = cols;
    a.blocks = (cols + HS_BLOCK - 1) / HS_BLOCK;
    a.d.form = form;
    size_t all = (size_t)rows * a.blocks;
    a.x = values((size_t)rows * cols, 4);
    if (rows > 1) /* a row of zeros, a row with damage, tiny and huge values */
        for (uint32_t c = 0; c < cols; c++)
            a.x[cols + c] = c % 64 == 9 ? 3e30f : c % 64 == 11 ? 1e-38f : 0.0f;
    if (rows > 2)
        a.x[2 * cols] = NAN;
    a.q = static_cast<int8_t *>(malloc(all * HS_BLOCK));
    a.scale = static_cast<float *>(malloc(per * all * sizeof(float)));
    a.sum = static_cast<int32_t *>(malloc(per * all * sizeof(int32_t)));
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * a.blocks;
        const float *x = a.x + (size_t)r * cols;
        (form == GPU_ROTATED ? ref->q8 : ref->q8_flat)(x, cols, a.q + at * HS_BLOCK, a.scale + at * per,
                                                       a.sum + at * per);
    }
    a.dx = to_device(a.x, (size_t)rows * cols);
    a.d.q = device<uint32_t>(all * 32);
    a.d.of = device<uint2>(per * all);
    OK(gpu_run_q8(a.dx, nullptr, cols, rows, a.d, s));
    OK(cudaStreamSynchronize(s));
    return a;
}

static void check_q8(const acts *a)
{
    size_t all = (size_t)a->rows * a->blocks, groups = a->d.form == GPU_FLAT ? 2 * all : all;
    uint8_t *q = static_cast<uint8_t *>(malloc(all * HS_BLOCK));
    uint2 *of = static_cast<uint2 *>(malloc(groups * sizeof(uint2)));
    to_host(q, reinterpret_cast<uint8_t *>(a->d.q), all * HS_BLOCK);
    to_host(of, a->d.of, groups);
    for (size_t b = 0; b < groups; b++) {
        float scale = hs_bits_float(of[b].x);
        same("q8 scales", &scale, &a->scale[b], 1);
        assert_int_equal((int32_t)of[b].y, a->sum[b]);
    }
    for (size_t b = 0; b < all; b++)
        for (uint32_t j = 0; j < HS_BLOCK; j++) {
            uint32_t k = j % 64, at = k / 16 * 32 + k % 16 / 2 * 4 + k % 2 * 2 + j / 64;
            if (a->d.form != GPU_ROTATED)
                at = k / 16 * 32 + j / 64 * 16 + k % 16;
            assert_int_equal((int8_t)q[b * HS_BLOCK + at], a->q[b * HS_BLOCK + j]);
        }
    free(q);
    free(of);
}

static void drop_acts(acts *a)
{
    free(a->x);
    free(a->q);
    free(a->scale);
    free(a->sum);
    OK(cudaFree(a->dx));
    OK(cudaFree(a->d.q));
    OK(cudaFree(a->d.of));
}

typedef struct weights {
    hs_codebook book;
    hs_planes planes;
    uint8_t *bytes, *d;
    hs_matrix m;
} weights;

static void make_weights(weights *w, hs_dtype dtype, uint32_t rows, uint32_t cols)
{
    float level[64];
    if (hs_dtype_rotated(dtype)) {
        hs_book_levels(HS_BOOK_CONVERGED, hs_dtype_bits(dtype), level);
        assert_int_equal(hs_codebook_init(&w->book, hs_dtype_bits(dtype), level, nullptr), HLWQ_OK);
    }
    assert_true(hs_planes_of(dtype, rows, cols, &w->planes));
    w->bytes = static_cast<uint8_t *>(malloc(w->planes.bytes));
    for (uint64_t i = 0; i < w->planes.bytes; i++)
        w->bytes[i] = (uint8_t)random_bits();
    uint16_t *norm = reinterpret_cast<uint16_t *>(w->bytes + w->planes.norms);
    for (uint64_t i = 0; i < w->planes.norms_bytes / 2; i++)
        norm[i] = i % 11 == 3 ? (uint16_t)(i % 1024) : hs_f32_to_f16(0.5f + uniform() / 3); /* subnormal ones too */
    w->d = to_device(w->bytes, w->planes.bytes);
    w->m = hs_matrix_at(dtype, rows, cols, &w->planes, w->bytes, &w->book);
}

static void drop_weights(weights *w)
{
    free(w->bytes);
    OK(cudaFree(w->d));
}

/* What backend_cuda.cu makes of a matrix, said again. */
static gpu_format layout(const weights *w)
{
    gpu_format g = {};
    uint8_t byte[64] = {};
    if (hs_dtype_int4(w->m.dtype)) {
        g.blocks = w->m.blocks;
        g.bits = hs_dtype_group(w->m.dtype) == 64 ? GPU_I4G64 : GPU_I4;
        g.scale = 1.0f;
        return g;
    }
    uint32_t bits = w->book.bits;
    for (uint32_t i = 0; i < 1u << (bits - 1); i++) {
        byte[i] = (uint8_t)(bits == 6 ? w->book.k[i] / 128 : w->book.k[i]);
        byte[32 + i] = (uint8_t)(w->book.k[i] % 128);
    }
    if (bits == 2) {
        byte[2] = (uint8_t)~byte[0];
        byte[3] = (uint8_t)~byte[1];
    }
    memcpy(g.table, byte, sizeof byte);
    g.blocks = w->m.blocks;
    g.bits = bits;
    g.scale = w->book.scale;
    return g;
}

static gpu_job job_for(const weights *w, float *y, uint32_t stride, uint32_t first, uint32_t m)
{
    gpu_job j = {};
    j.low = w->d + w->planes.low;
    j.high = w->d + w->planes.high;
    j.norms = reinterpret_cast<const uint16_t *>(w->d + w->planes.norms);
    j.zeros = w->m.zeros ? w->d + w->planes.zeros : nullptr;
    j.y = y;
    j.stride = stride;
    j.rows = w->m.rows;
    j.first = j.row = first;
    j.m = m;
    return j;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static const uint32_t shape[][2] = {{1, 128},   {7, 300},  {64, 512}, {33, 1152},
                                    {19, 2048}, {5, 4200}, {3, 9000}, {131, 256}, /* three blocks' rows */
                                    {5, 3072},  {3, 9216}}; /* whole segments, no power of two of them */
static const uint32_t tokens[] = {1, 2, 3, 8, 9, 41};

static void products_are_those_of_the_reference(void **state)
{
    (void)state;
    int turn = 0;
    for (int dtype = HS_Q2; dtype <= HS_I4G64Z; dtype++)
        for (size_t k = 0; k < sizeof shape / sizeof *shape; k++, turn++) {
            hs_sim_options o = plain_options();
            o.seed = (uint64_t)turn + 1;
            o.order = (hs_sim_order)(turn % 3);
            o.arch = turn % 2 ? 75 : 86;
            hs_sim_configure(&o);
            cudaStream_t s = stream();
            uint32_t rows = shape[k][0], cols = shape[k][1];
            weights w;
            make_weights(&w, (hs_dtype)dtype, rows, cols);
            gpu_form form = dtype <= HS_Q6 ? GPU_ROTATED : GPU_FLAT;
            for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
                uint32_t n = tokens[i];
                if (n > 9 && cols > 3000)
                    continue; /* the same code, and slow here */
                acts a = make_acts(n, cols, form, s);
                check_q8(&a);
                size_t stride = rows + 3;
                float *want = values(n * stride, 1), *got = static_cast<float *>(malloc(n * stride * sizeof(float)));
                gpu_product p = {};
                p.w = layout(&w);
                p.own[0] = job_for(&w, to_device(want, n * stride), (uint32_t)stride, 0, n);
                p.m = n;
                p.rows = rows;
                p.jobs = 1;
                p.a = a.d;
                p.add = i % 2;
                OK(gpu_run_product(&p, s));
                OK(cudaStreamSynchronize(s));
                to_host(got, p.own[0].y, n * stride);
                hs_act act = {};
                act.cols = cols;
                act.blocks = a.blocks;
                act.q = a.q;
                act.scale = a.scale;
                act.sum = a.sum;
                float *y = static_cast<float *>(malloc(n * stride * sizeof(float)));
                ref->gemm(&w.m, &act, nullptr, n, 0, rows, y, stride);
                for (uint32_t t = 0; t < n; t++)
                    for (uint32_t r = 0; r < rows; r++)
                        want[t * stride + r] = p.add ? want[t * stride + r] + y[t * stride + r] : y[t * stride + r];
                same("product", got, want, n * stride);
                free(want);
                free(got);
                free(y);
                OK(cudaFree(p.own[0].y));
                drop_acts(&a);
            }
            drop_weights(&w);
            OK(cudaStreamDestroy(s));
            assert_int_equal(hs_sim_leaks(), 0);
        }
}

/* Inputs in an order of their own, scaled, from rows of a list: q8 of what stands there. */
static void gathered_activations_are_those_of_the_reference(void **state)
{
    (void)state;
    static const gpu_form forms[] = {GPU_ROTATED, GPU_FLAT};
    static const uint32_t from[] = {3, 0, 4};
    const uint32_t n = 3, held = 5, cols = 300;
    for (int k = 0; k < 16; k++) {
        bool listed = k & 2, ordered = k & 4 || listed, scaled = !(k & 8);
        start((uint64_t)k, (hs_sim_order)(k % 3));
        cudaStream_t s = stream();
        acts a = make_acts(n, cols, forms[k % 2], s); /* what is to come of it; its own q8 goes */
        float *x = values(held * cols, 1), *factor = values(cols, 1);
        uint32_t *order = static_cast<uint32_t *>(malloc(cols * sizeof(uint32_t)));
        for (uint32_t c = 0; c < cols; c++) {
            order[c] = ordered ? c * 7 % cols : c;
            factor[c] = scaled ? 1.0f / (float)(1 << c % 4) : 1.0f;
            for (uint32_t t = 0; t < n; t++)
                x[(listed ? from[t] : t) * cols + order[c]] = a.x[t * cols + c] * (1.0f / factor[c]);
            order[c] = order[c] == cols - 1 ? 0xFFFFF000u + c : order[c]; /* a damaged file's */
        }
        float *dx = to_device(x, held * cols), *df = to_device(factor, cols);
        uint32_t *d_order = to_device(order, cols), *d_list = to_device(from, n);
        OK(cudaMemsetAsync(a.d.q, 0, n * a.blocks * HS_BLOCK, s));
        OK(cudaMemsetAsync(a.d.of, 0, n * a.blocks * sizeof(uint2), s));
        OK(gpu_run_gather_q8(dx, listed ? d_list : nullptr, ordered ? d_order : nullptr, scaled ? df : nullptr, cols, n,
                             a.d, s));
        OK(cudaStreamSynchronize(s));
        check_q8(&a);
        free(x);
        free(factor);
        free(order);
        OK(cudaFree(dx));
        OK(cudaFree(df));
        OK(cudaFree(d_order));
        OK(cudaFree(d_list));
        drop_acts(&a);
        OK(cudaStreamDestroy(s));
        assert_int_equal(hs_sim_leaks(), 0);
    }
}

/* Three experts with one, none and several tokens of a list, in one launch. */
static void jobs_take_their_tokens_from_a_list(void **state)
{
    (void)state;
    for (uint32_t most = 2; most <= 12; most += 10) {
        start(most, HS_SIM_SHUFFLE);
        cudaStream_t s = stream();
        const uint32_t rows = 20, cols = 384, n = 14;
        weights w[3];
        const uint32_t count[3] = {1, 0, most};
        uint32_t list[16], total = 0;
        gpu_job job[3];
        float *y = device<float>(16 * rows);
        for (int e = 0; e < 3; e++) {
            make_weights(&w[e], HS_Q5, rows, cols);
            job[e] = job_for(&w[e], y, rows, total, count[e]);
            for (uint32_t i = 0; i < count[e]; i++)
                list[total++] = (uint32_t)(i * 5 + (uint32_t)e) % n;
        }
        acts a = make_acts(n, cols, GPU_ROTATED, s);
        gpu_product p = {};
        p.w = layout(&w[0]);
        p.job = to_device(job, 3);
        p.jobs = 3;
        p.m = most;
        p.rows = rows;
        p.list = to_device(list, total);
        p.a = a.d;
        OK(gpu_run_product(&p, s));
        OK(cudaStreamSynchronize(s));
        float got[16 * 20], want[16 * 20];
        to_host(got, y, total * rows);
        hs_act act = {};
        act.cols = cols;
        act.blocks = a.blocks;
        act.q = a.q;
        act.scale = a.scale;
        act.sum = a.sum;
        for (int e = 0; e < 3; e++)
            if (count[e])
                ref->gemm(&w[e].m, &act, list + job[e].first, count[e], 0, rows, want + job[e].row * rows, rows);
        same("grouped product", got, want, total * rows);
        for (int e = 0; e < 3; e++)
            drop_weights(&w[e]);
        OK(cudaFree(const_cast<gpu_job *>(p.job)));
        OK(cudaFree(const_cast<uint32_t *>(p.list)));
        OK(cudaFree(y));
        drop_acts(&a);
        OK(cudaStreamDestroy(s));
    }
}

static void swiglu_and_the_weighted_sum_are_those_of_the_reference(void **state)
{
    (void)state;
    start(3, HS_SIM_DOWN);
    cudaStream_t s = stream();
    const uint32_t cols = 300, rows = 5, used = 3, n = 2;
    float *gate = values(rows * cols, 20), *up = values(rows * cols, 3), *h = values(rows * cols, 1), got[rows * cols];
    float *dg = to_device(gate, rows * cols), *du = to_device(up, rows * cols);
    for (uint32_t r = 0; r < rows; r++)
        ref->swiglu(gate + r * cols, up + r * cols, cols, h + r * cols);
    gpu_q8 q = {device<uint32_t>(rows * 3 * 32), device<uint2>(rows * 3), GPU_ROTATED};
    OK(gpu_run_q8(dg, du, cols, rows, q, s));
    OK(cudaStreamSynchronize(s));
    to_host(got, dg, rows * cols);
    same("swiglu", got, h, rows * cols);
    float want_scale[3];
    uint2 of[rows * 3];
    int8_t code[3 * HS_BLOCK];
    int32_t sum[3];
    to_host(of, q.of, rows * 3);
    ref->q8(h + 2 * cols, cols, code, want_scale, sum);
    for (int b = 0; b < 3; b++) {
        float scale = hs_bits_float(of[6 + b].x);
        same("q8 of swiglu", &scale, &want_scale[b], 1);
    }

    /* rows 0..n * used - 1 are experts', then the shared one's */
    const uint32_t slot[n * used] = {2, 0, 1, 2, 1, 0};
    float weight[n * used] = {0.5f, 0.3f, 0.2f, 0.6f, 0.25f, 0.15f}, mix[n] = {0.3f, -2.0f}, *x = values(n * cols, 2);
    float *dx = to_device(x, n * cols), *dw = to_device(weight, n * used), *dm = to_device(mix, n);
    uint32_t *ds = to_device(slot, n * used);
    OK(gpu_run_combine(dx, dg, ds, dw, used, dm, 3, cols, n, nullptr, s));
    OK(cudaStreamSynchronize(s));
    for (uint32_t t = 0; t < n; t++) {
        const float *y[4] = {h + slot[t * used] * cols, h + slot[t * used + 1] * cols, h + slot[t * used + 2] * cols,
                             h + (3 + t) * cols};
        const float p[4] = {weight[t * used], weight[t * used + 1], weight[t * used + 2], hs_sigmoid(mix[t])};
        ref->combine(x + t * cols, y, p, 4, cols);
    }
    to_host(got, dx, n * cols);
    same("weighted sum", got, x, n * cols);
    free(gate);
    free(up);
    free(h);
    free(x);
}

static void the_router_chooses_as_the_reference_does(void **state)
{
    (void)state;
    start(4, HS_SIM_SHUFFLE);
    cudaStream_t s = stream();
    static const uint32_t experts[] = {4, 32, 100, 256, 512};
    for (size_t k = 0; k < sizeof experts / sizeof *experts; k++) {
        const uint32_t n = 3, used = experts[k] < 8 ? experts[k] : 8;
        float *l = values(n * experts[k], 5);
        for (uint32_t e = 0; e < experts[k]; e += 3) /* ties */
            l[experts[k] + e] = 1.5f;
        for (uint32_t e = 0; e < experts[k]; e++)
            l[2 * experts[k] + e] = -7.0f;
        float *dl = to_device(l, n * experts[k]), *dw = device<float>(n * used), weight[24], want_weight[8];
        int32_t *di = device<int32_t>(n * used), id[24], want_id[8];
        OK(gpu_run_top_k(dl, experts[k], used, n, di, dw, s));
        OK(cudaStreamSynchronize(s));
        to_host(id, di, n * used);
        to_host(weight, dw, n * used);
        for (uint32_t t = 0; t < n; t++) {
            ref->top_k(l + t * experts[k], experts[k], used, want_id, want_weight);
            assert_memory_equal(id + t * used, want_id, used * sizeof(int32_t));
            same("routing weights", weight + t * used, want_weight, used);
        }
        free(l);
    }
}

static void the_largest_is_found_wherever_it_is(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 31, 257, 5000, 40000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int kind = 0; kind < 4; kind++) {
            uint32_t n = sizes[k];
            start(k * 4 + (uint64_t)kind, (hs_sim_order)(kind % 3));
            cudaStream_t s = stream();
            float *x = values(n, 5);
            for (uint32_t i = 0; i < n; i++) /* some are no numbers; ties; infinities; none is a number */
                x[i] = i % 3 == 1 || kind == 3 ? NAN : kind == 1 ? (float)(i % 7) : kind == 2 ? -INFINITY : x[i];
            int32_t want = -1, got;
            for (uint32_t i = 0; i < n; i++)
                if (x[i] == x[i] && (want < 0 || x[i] > x[want]))
                    want = (int32_t)i;
            float *dx = to_device(x, n);
            uint2 *part = device<uint2>(GPU_BEST_PARTS + 1);
            OK(gpu_run_best(dx, n, part, s));
            OK(cudaStreamSynchronize(s));
            to_host(&got, reinterpret_cast<int32_t *>(&part[GPU_BEST_PARTS].y), 1);
            assert_int_equal(got, want);
            free(x);
            OK(cudaFree(dx));
            OK(cudaFree(part));
            OK(cudaStreamDestroy(s));
            assert_int_equal(hs_sim_leaks(), 0);
        }
}

static void norms_and_plain_products_are_near_the_reference(void **state)
{
    (void)state;
    start(5, HS_SIM_UP);
    cudaStream_t s = stream();
    static const uint32_t width[] = {40, 128, 300, 2048};
    for (size_t k = 0; k < 4; k++) {
        const uint32_t n = 3, cols = width[k], rows = 9;
        float *x = values(n * cols, 3), *w = values(cols, 0.3f), *u = values(n * cols, 1), *got = values(n * cols, 1);
        float *m = values(rows * cols, 1), y[27], want[27];
        gpu_q8 none = {};
        float *dx = to_device(x, n * cols), *dw = to_device(w, cols), *du = device<float>(n * cols);
        float *dm = to_device(m, rows * cols), *dy = device<float>(n * rows);
        OK(gpu_run_norm(dx, dw, cols, n, 1e-6f, du, cols, none, s));
        OK(cudaStreamSynchronize(s));
        to_host(got, du, n * cols);
        for (uint32_t t = 0; t < n; t++)
            ref->rms_norm(x + t * cols, w, cols, 1e-6f, u + t * cols);
        near("norm", got, u, n * cols, 1e-5f);
        hs_matrix plain = {};
        plain.dtype = HS_F32;
        plain.rows = rows;
        plain.cols = cols;
        plain.low = reinterpret_cast<const uint8_t *>(dm);
        OK(gpu_run_plain(&plain, du, n, dy, rows, false, s));
        OK(cudaStreamSynchronize(s));
        to_host(y, dy, n * rows);
        plain.low = reinterpret_cast<const uint8_t *>(m);
        hs_act act = {};
        act.cols = cols;
        act.x = got;
        ref->gemm_plain(&plain, &act, nullptr, n, 0, rows, want, rows);
        near("plain product", y, want, n * rows, 2e-4f);
        free(x);
        free(w);
        free(u);
        free(got);
        free(m);
    }
}

/* The convolution takes a prompt apart, the recurrence goes through it: one token after another has the same bits. */
static void a_prompt_of_deltanet_is_its_tokens_one_by_one(void **state)
{
    enum { K = 16, V = 20, HEADS = 2, CHANNELS = 2 * K + HEADS * V, TOKENS = 37 };
    (void)state;
    for (uint32_t taps = 2; taps <= 5; taps++) {
        start(taps, HS_SIM_SHUFFLE);
        cudaStream_t s = stream();
        const uint32_t kept = (taps - 1) * CHANNELS, cells = HEADS * K * V, width = HEADS * V;
        float *conv = values(CHANNELS * taps, 1), *log = values(HEADS, 1), *bias = values(HEADS, 1);
        float *norm = values(V, 1), *qkv = values(TOKENS * CHANNELS, 2), *z = values(TOKENS * width, 1);
        float *gate = values(TOKENS * HEADS, 1), *memory = values(kept + cells, 0.5f);
        float *now[2], *out[2], *got[2];
        for (int apart = 0; apart < 2; apart++) {
            gpu_delta d = {};
            d.conv = to_device(conv, CHANNELS * taps);
            d.a_log = to_device(log, HEADS);
            d.dt_bias = to_device(bias, HEADS);
            d.out_norm = to_device(norm, V);
            d.k_heads = 1;
            d.v_heads = d.gate_stride = HEADS;
            d.k_dim = K;
            d.v_dim = V;
            d.taps = taps;
            d.channels = CHANNELS;
            d.eps = 1e-6f;
            d.qkv = to_device(qkv, TOKENS * CHANNELS);
            d.mix = device<float>(TOKENS * CHANNELS);
            d.z = to_device(z, TOKENS * width);
            d.b = d.a = to_device(gate, TOKENS * HEADS);
            d.strength = device<float>(TOKENS * HEADS);
            d.decay = device<float>(TOKENS * HEADS);
            d.out = out[apart] = device<float>(TOKENS * width);
            d.conv_state = now[apart] = to_device(memory, kept + cells);
            d.state = d.conv_state + kept;
            d.n = apart ? 1 : TOKENS;
            for (uint32_t t = 0; t < TOKENS; t += d.n) {
                OK(gpu_run_delta(&d, s));
                d.qkv += CHANNELS;
                d.z += width;
                d.b += HEADS;
                d.a += HEADS;
                d.strength += HEADS;
                d.decay += HEADS;
                d.out += width;
            }
            OK(cudaStreamSynchronize(s));
            got[apart] = values(TOKENS * width + kept + cells, 1);
            to_host(got[apart], out[apart], TOKENS * width);
            to_host(got[apart] + TOKENS * width, now[apart], kept + cells);
        }
        same("DeltaNet", got[0], got[1], TOKENS * width + kept + cells);
        float *all[] = {conv, log, bias, norm, qkv, z, gate, memory, got[0], got[1]};
        for (float *p : all)
            free(p);
    }
}

static void products_can_be_measured(void **state)
{
    (void)state;
    hlwq_error err;
    double seconds, rate;
    uint64_t bytes;
    start(6, HS_SIM_UP);
    static const hs_dtype dtype[] = {HS_Q5, HS_I4G64Z};
    for (hs_dtype d : dtype) {
        hs_product_case c = {"cuda", d, 16, 256, 1, 4096};
        if (hs_measure_product_cuda(&c, &seconds, &bytes, &rate, &err) != HLWQ_OK)
            fail_msg("%s", err.message);
        assert_true(seconds > 0 && rate > 0 && bytes > 16 * 256 / 2);
        assert_int_equal(hs_sim_leaks(), 0);
    }
}

int main(void)
{
    const CMUnitTest tests[] = {
        TEST(products_are_those_of_the_reference),
        TEST(gathered_activations_are_those_of_the_reference),
        TEST(jobs_take_their_tokens_from_a_list),
        TEST(swiglu_and_the_weighted_sum_are_those_of_the_reference),
        TEST(the_router_chooses_as_the_reference_does),
        TEST(the_largest_is_found_wherever_it_is),
        TEST(norms_and_plain_products_are_near_the_reference),
        TEST(a_prompt_of_deltanet_is_its_tokens_one_by_one),
        TEST(products_can_be_measured),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
