/* kernels/cuda/attention.cu: near the reference for every form of the cache, the codec's bits, and blind to batches. */
#include "kernels/cuda/backend.h"
#include "tests/cuda/sim_test.h"
#include "tests/support/noise.h"

extern "C" {
#include "kernels/cpu/ops.h"
#include "kernels/hlwq.h"
#include "kernels/kv_codec.h"
}

#include <math.h>

static const hs_cpu_ops *const ref = &hs_cpu_ref_base;

typedef struct shape {
    uint32_t q_heads, kv_heads, head_dim, rotary_dims;
    hs_dtype k, v; /* both F16, both F32, or codes */
} shape;

/* A cache of so many pages, on the host page after page, on the card as cache/kv.c would have it. */
typedef struct fixture {
    shape s;
    uint32_t pages, ring, width;
    uint64_t plain_bytes;
    bool coded;
    hs_kv_layout layout;
    uint8_t **plain, **codes; /* [pages] */
    float *proj, *q_norm, *k_norm, *rope;
    uint8_t *d_plain, *d_codes;
    float *d_proj, *d_out, *d_rope, *d_part;
    gpu_attention a;
} fixture;

/* Positions 0..first - 1 hold random keys and values; n tokens come after them. */
static fixture make(const shape *s, uint32_t first, uint32_t n)
{
    fixture f = {};
    f.s = *s;
    uint32_t d = s->head_dim, dim = s->kv_heads * d, last = first + n - 1;
    f.coded = s->k != HS_F16 && s->k != HS_F32;
    f.pages = last / HS_GRID + 1;
    f.ring = f.coded && f.pages > 4 ? 4 : f.pages;
    f.width = 2 * s->q_heads * d + 2 * dim;
    f.plain_bytes = 2ull * HS_GRID * dim * (s->k == HS_F32 ? 4 : 2);
    f.plain = static_cast<uint8_t **>(calloc(f.pages, sizeof *f.plain));
    f.codes = static_cast<uint8_t **>(calloc(f.pages, sizeof *f.codes));
    if (f.coded) {
        hs_kv_format format = {s->k, s->v};
        f.layout = hs_kv_layout_of(format, dim);
    }
    f.d_plain = device<uint8_t>(f.ring * f.plain_bytes);
    f.d_codes = device<uint8_t>(f.pages * f.layout.bytes + 1);
    uint32_t before = f.coded ? hs_kv_coded_count(first ? first - 1 : 0) : 0;
    for (uint32_t b = 0; b < f.pages; b++) {
        f.plain[b] = static_cast<uint8_t *>(calloc(1, f.plain_bytes));
        f.codes[b] = static_cast<uint8_t *>(calloc(1, f.layout.bytes + 1));
        for (uint32_t j = 0; j < HS_GRID && b * HS_GRID + j < first; j++)
            for (uint32_t i = 0; i < 2 * dim; i++) {
                uint64_t at = (i / dim * HS_GRID + j) * (uint64_t)dim + i % dim;
                float v = uniform() * (i % dim < 5 ? 6.0f : 1.0f);
                if (s->k == HS_F32)
                    reinterpret_cast<float *>(f.plain[b])[at] = v;
                else
                    reinterpret_cast<uint16_t *>(f.plain[b])[at] = hs_f32_to_f16(v);
            }
        if (b < before) {
            for (uint32_t j = 0; j < HS_GRID; j++)
                hs_kv_encode_position(f.plain[b], f.codes[b], &f.layout, s->kv_heads, d, j);
            OK(cudaMemcpy(f.d_codes + b * f.layout.bytes, f.codes[b], f.layout.bytes, cudaMemcpyHostToDevice));
        }
        if (b + f.ring >= f.pages)
            OK(cudaMemcpy(f.d_plain + b % f.ring * f.plain_bytes, f.plain[b], f.plain_bytes, cudaMemcpyHostToDevice));
    }
    f.proj = static_cast<float *>(malloc((size_t)n * f.width * sizeof(float)));
    for (size_t i = 0; i < (size_t)n * f.width; i++)
        f.proj[i] = uniform() * 2.0f;
    f.q_norm = static_cast<float *>(malloc(d * sizeof(float)));
    for (uint32_t i = 0; i < d; i++)
        f.q_norm[i] = uniform() * 0.3f;
    f.rope = static_cast<float *>(malloc((size_t)n * s->rotary_dims * sizeof(float)));
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < s->rotary_dims / 2; i++) {
            f.rope[t * s->rotary_dims + i] = cosf((float)(first + t) * 0.1f * (float)(i + 1));
            f.rope[t * s->rotary_dims + s->rotary_dims / 2 + i] = sinf((float)(first + t) * 0.1f * (float)(i + 1));
        }
    f.d_proj = device<float>((size_t)n * f.width);
    f.d_out = device<float>((size_t)n * s->q_heads * d);
    f.d_rope = to_device(f.rope, (size_t)n * s->rotary_dims);
    f.d_part = device<float>((size_t)GPU_SPAN_TOKENS * GPU_SPANS * s->q_heads * (d + 2));
    gpu_attention *a = &f.a;
    a->q_norm = a->k_norm = to_device(f.q_norm, d);
    a->q_heads = s->q_heads;
    a->kv_heads = s->kv_heads;
    a->head_dim = d;
    a->rotary_dims = s->rotary_dims;
    a->width = f.width;
    a->out = f.d_out;
    a->page = f.d_plain;
    a->ring = f.ring;
    a->half = s->k != HS_F32;
    a->part = f.d_part;
    a->eps = 1e-6f;
    if (f.coded) {
        a->coded = f.d_codes;
        a->coded_bytes = f.layout.bytes;
        a->side[0] = gpu_side_of(&f.layout.k);
        a->side[1] = gpu_side_of(&f.layout.v);
    }
    return f;
}

static void drop(fixture *f)
{
    for (uint32_t b = 0; b < f->pages; b++) {
        free(f->plain[b]);
        free(f->codes[b]);
    }
    free(f->plain);
    free(f->codes);
    free(f->proj);
    free(f->q_norm);
    free(f->rope);
    float *all[] = {f->d_proj, f->d_out, f->d_rope, f->d_part, const_cast<float *>(f->a.q_norm)};
    for (float *p : all)
        OK(cudaFree(p));
    OK(cudaFree(f->d_plain));
    OK(cudaFree(f->d_codes));
}

/* Pages that grow where a table says, but for the first ones, which come in windows. */
typedef struct apart {
    uint32_t away, window; /* pages */
    uint8_t *page[128];
    uint64_t *table; /* [pages][2], of which the second ones */
} apart;

/* Tokens t.. t + m - 1 of those after `first`; their results to out. */
static void run(fixture *f, uint32_t first, uint32_t t, uint32_t m, float *out, cudaStream_t s,
                const apart *pages = nullptr)
{
    uint32_t heads = f->s.q_heads * f->s.head_dim, at = first + t;
    gpu_attention a = f->a;
    OK(cudaMemcpy(f->d_proj, f->proj + (size_t)t * f->width, m * (size_t)f->width * sizeof(float),
                  cudaMemcpyHostToDevice));
    a.proj = f->d_proj;
    a.rope = f->d_rope + (size_t)t * f->s.rotary_dims;
    a.first = at;
    a.n = m;
    if (f->coded) {
        a.coded_first = hs_kv_coded_count(at ? at - 1 : 0);
        a.coded_pages = hs_kv_coded_count(at + m - 1) - a.coded_first;
    }
    if (pages) {
        a.table = pages->table + 1;
        a.table_step = 2;
    }
    OK(gpu_run_append(&a, s));
    const uint8_t *row = f->coded ? f->d_codes : f->d_plain;
    for (a.more = true; pages && a.from < pages->away; a.from = a.end) {
        a.end = a.from + pages->window < pages->away ? a.from + pages->window : pages->away;
        a.window = row + a.from * (f->coded ? f->layout.bytes : f->plain_bytes);
        OK(gpu_run_attend(&a, s));
    }
    a.end = 0;
    a.window = nullptr;
    a.more = false;
    OK(gpu_run_attend(&a, s));
    OK(cudaStreamSynchronize(s));
    to_host(out, f->d_out, (size_t)m * heads);
}

/* The codec makes of the pages what the card made; the reference attends over them as the card did. */
static void check_last(fixture *f, uint32_t first, uint32_t n, const float *out, float tolerance)
{
    uint32_t d = f->s.head_dim, heads = f->s.q_heads * d, last = first + n - 1, of = f->s.q_heads / f->s.kv_heads;
    for (uint32_t b = first / HS_GRID; b < f->pages; b++)
        to_host(f->plain[b], f->d_plain + b % f->ring * f->plain_bytes, f->plain_bytes);
    uint32_t made = f->coded ? hs_kv_coded_count(last) : 0;
    uint8_t *got = static_cast<uint8_t *>(malloc(f->layout.bytes + 1));
    for (uint32_t b = hs_kv_coded_count(first ? first - 1 : 0); b < made; b++) {
        memset(f->codes[b], 0, f->layout.bytes);
        for (uint32_t j = 0; j < HS_GRID; j++)
            hs_kv_encode_position(f->plain[b], f->codes[b], &f->layout, f->s.kv_heads, d, j);
        to_host(got, f->d_codes + b * f->layout.bytes, f->layout.bytes);
        assert_memory_equal(got, f->codes[b], f->layout.bytes);
    }
    free(got);
    float *row = static_cast<float *>(malloc(f->width * sizeof(float)));
    float *want = static_cast<float *>(malloc(heads * sizeof(float)));
    float *scratch = static_cast<float *>(malloc((1 << 20) * sizeof(float)));
    to_host(row, f->d_proj + (size_t)(n - 1) * f->width, f->width); /* normed and rotated */
    hs_kv_view kv = {};
    kv.page = reinterpret_cast<void *const *>(f->plain);
    kv.dtype = f->s.k == HS_F32 ? HS_F32 : HS_F16;
    kv.coded = f->coded ? reinterpret_cast<void *const *>(f->codes) : nullptr;
    kv.layout = f->layout;
    for (uint32_t k = 0; k < f->s.kv_heads; k++)
        ref->attend(&kv, f->s.kv_heads, k, d, of, last, 1, row + (size_t)k * of * 2 * d, f->width, 2 * d,
                    want + (size_t)k * of * d, heads, 1.0f / sqrtf((float)d), scratch);
    for (uint32_t i = 0; i < heads; i++) {
        float w = want[i] * hs_sigmoid(row[(size_t)(i / d) * 2 * d + d + i % d]), g = out[(n - 1) * heads + i];
        if (!(fabsf(g - w) <= tolerance))
            fail_msg("head %u, dimension %u at %u: %g, ref.c says %g", i / d, i % d, last, (double)g, (double)w);
    }
    free(row);
    free(want);
    free(scratch);
}

static void it_is_near_the_reference_and_blind_to_batches(void **state)
{
    (void)state;
    static const shape shapes[] = {
        {4, 2, 32, 8, HS_F32, HS_F32},  {3, 1, 40, 12, HS_F16, HS_F16}, {16, 2, 256, 64, HS_F16, HS_F16},
        {8, 2, 128, 32, HS_Q4, HS_Q3},  {4, 1, 256, 64, HS_Q3, HS_Q4},  {10, 1, 128, 32, HS_I8, HS_Q2},
        {2, 2, 128, 128, HS_Q2, HS_I8},
    };
    static const uint32_t firsts[] = {0, 61, 250, 380, 4473};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
            if (firsts[i] > 1000 && k != 3 && k != 0)
                continue; /* slow here */
            const uint32_t n = 9, first = firsts[i], heads = shapes[k].q_heads * shapes[k].head_dim;
            start(k * 10 + i, (hs_sim_order)(k % 3));
            cudaStream_t s = stream();
            fixture f = make(&shapes[k], first, n);
            float *all = static_cast<float *>(malloc(n * heads * sizeof(float)));
            float *one = static_cast<float *>(malloc(n * heads * sizeof(float)));
            run(&f, first, 0, n, all, s); /* all spans in one block */
            check_last(&f, first, n, all, 2e-5f);
            for (uint32_t t = 0; t < n; t += 8) /* spans apart */
                run(&f, first, t, t ? 1 : 8, one + t * heads, s);
            for (uint32_t t = 0; t < n * heads; t++)
                if (hs_float_bits(all[t]) != hs_float_bits(one[t]))
                    fail_msg("shape %zu at %u: token %u differs from itself in another batch", k, first, t / heads);
            free(all);
            free(one);
            drop(&f);
            OK(cudaStreamDestroy(s));
            assert_int_equal(hs_sim_leaks(), 0);
        }
}

/* The pages of a cache that was filled, those from `away` on scattered. */
static apart scatter(const fixture *f, uint32_t away, uint32_t window)
{
    apart p = {};
    uint64_t bytes = f->coded ? f->layout.bytes : f->plain_bytes, listed[256] = {};
    p.away = away;
    p.window = window;
    assert_true(f->pages <= 128);
    for (uint32_t b = away; b < f->pages; b++) {
        p.page[b] = device<uint8_t>(bytes);
        OK(cudaMemcpy(p.page[b], (f->coded ? f->d_codes : f->d_plain) + b * bytes, bytes, cudaMemcpyDeviceToDevice));
        listed[2 * b + 1] = reinterpret_cast<uint64_t>(p.page[b]);
    }
    p.table = to_device(listed, 256);
    return p;
}

static void where_pages_are_changes_no_bit(void **state)
{
    (void)state;
    static const shape shapes[] = {{2, 1, 32, 8, HS_F32, HS_F32},
                                   {3, 1, 40, 12, HS_F16, HS_F16},
                                   {18, 2, 128, 32, HS_Q4, HS_Q3},
                                   {2, 1, 256, 64, HS_I8, HS_Q2}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (uint32_t turn = 0; turn < 3; turn++) {
            /* Windows end within spans, whose length changes between the tokens of turn 0. */
            const uint32_t n = 9, first = turn ? 891 : 64 * 64 - 5, heads = shapes[k].q_heads * shapes[k].head_dim;
            if (!turn && k)
                continue; /* slow here */
            start(k * 10 + turn, (hs_sim_order)turn);
            cudaStream_t s = stream();
            fixture f = make(&shapes[k], first, n);
            float *want = static_cast<float *>(malloc(n * heads * sizeof(float)));
            float *got = static_cast<float *>(malloc(n * heads * sizeof(float)));
            run(&f, first, 0, n, want, s);
            apart p = scatter(&f, turn == 2 ? 11 : turn ? 0 : 50, turn == 2 ? 3 : 7);
            for (uint32_t m = n; m; m = m == n ? 8 : 0) {
                memset(got, 0, n * heads * sizeof(float));
                for (uint32_t t = 0; t < n; t += m)
                    run(&f, first, t, t + m < n ? m : n - t, got + t * heads, s, &p);
                for (uint32_t i = 0; i < n * heads; i++)
                    if (hs_float_bits(want[i]) != hs_float_bits(got[i]))
                        fail_msg("shape %zu, turn %u, %u at once: token %u is another", k, turn, m, i / heads);
            }
            free(want);
            free(got);
            for (uint8_t *page : p.page)
                OK(cudaFree(page));
            OK(cudaFree(p.table));
            drop(&f);
            OK(cudaStreamDestroy(s));
            assert_int_equal(hs_sim_leaks(), 0);
        }
}

/* A value that is not finite, or too large for a norm, shows. */
static void damage_is_coded_as_damage(void **state)
{
    (void)state;
    static const shape s[] = {{2, 1, 128, 32, HS_Q4, HS_I8}, {2, 1, 128, 32, HS_I8, HS_Q3}};
    for (int k = 0; k < 2; k++) {
        const uint32_t first = 127;
        start((uint64_t)k + 1, HS_SIM_SHUFFLE);
        cudaStream_t st = stream();
        fixture f = make(&s[k], first, 2);
        for (uint32_t i = 0; i < 3; i++) { /* page 0 is coded by this token */
            uint16_t *at = reinterpret_cast<uint16_t *>(f.plain[0]) + (7 + i) * 128 + (i == 2 ? HS_GRID * 128 : 0);
            at[i] = i == 1 ? 0x7BFF : 0x7E00;
        }
        for (uint32_t c = 0; c < 128; c++) /* and zeros */
            reinterpret_cast<uint16_t *>(f.plain[0])[20 * 128 + c] = 0;
        OK(cudaMemcpy(f.d_plain, f.plain[0], f.plain_bytes, cudaMemcpyHostToDevice));
        float out[2 * 256];
        run(&f, first, 0, 2, out, st);
        uint8_t *got = static_cast<uint8_t *>(malloc(f.layout.bytes));
        to_host(got, f.d_codes, f.layout.bytes);
        for (uint32_t j = 0; j < HS_GRID; j++)
            hs_kv_encode_position(f.plain[0], f.codes[0], &f.layout, 1, 128, j);
        const hs_kv_planes *p[] = {&f.layout.k, &f.layout.v};
        for (const hs_kv_planes *side : p)
            assert_memory_equal(got + side->norms, f.codes[0] + side->norms, side->end - side->norms);
        free(got);
        drop(&f);
        OK(cudaStreamDestroy(st));
    }
}

#ifndef __CUDACC__
enum { HEADS_MOST = 8 * 128, LATE = 9 };

/* Nine tokens over several spans of a cache in codes, in a batch and in a smaller one; then one whose span is alone. */
static void a_round(const hs_sim_options *o, float *out)
{
    static const shape s = {8, 2, 128, 32, HS_Q4, HS_Q3};
    hs_sim_configure(o);
    cudaStream_t st = stream();
    noise_seed = 99;
    fixture f = make(&s, 380, LATE);
    run(&f, 380, 0, LATE, out, st);
    run(&f, 380, 0, 8, out + LATE * HEADS_MOST, st);
    run(&f, 380, 8, 1, out + (LATE + 8) * HEADS_MOST, st);
    drop(&f);
    OK(cudaStreamDestroy(st));
}

static void nvccs_code_gives_the_same_bits(void **state)
{
    (void)state;
    static float want[2 * LATE * HEADS_MOST], got[2 * LATE * HEADS_MOST];
    hs_sim_options o = plain_options(), nvccs = o;
    if (!o.ptx) {
        print_message("HLWQ_SIM_PTX is not set\n");
        return;
    }
    o.ptx = NULL;
    a_round(&o, want);
    a_round(&nvccs, got);
    assert_memory_equal(got, want, sizeof got);
}

static void every_barrier_is_missed(void **state)
{
    (void)state;
    static float want[2 * LATE * HEADS_MOST], got[2 * LATE * HEADS_MOST];
    hs_sim_options o = plain_options();
    if (o.ptx) { /* a missing one is a race there, and a fault; test_ptx.cc */
        print_message("nothing is left out of nvcc's code\n");
        return;
    }
    a_round(&o, want);
    const uint32_t barriers = hs_sim_read_stats().barriers;
    assert_true(barriers > 7);
    for (uint32_t i = 1; i <= barriers; i++) {
        bool shows = false;
        for (uint64_t turn = 0; turn < 9 && !shows; turn++) {
            o.seed = turn;
            o.order = (hs_sim_order)(turn % 3);
            o.forget = HS_SIM_FORGET_BARRIER;
            o.forget_which = i;
            a_round(&o, got);
            shows = memcmp(got, want, sizeof got) != 0;
        }
        if (!shows)
            fail_msg("without barrier %u of %u everything is the same", i, barriers);
    }
}
#endif

int main(void)
{
    const CMUnitTest tests[] = {
#ifndef __CUDACC__
        TEST(every_barrier_is_missed),
        TEST(nvccs_code_gives_the_same_bits),
#endif
        TEST(it_is_near_the_reference_and_blind_to_batches),
        TEST(where_pages_are_changes_no_bit),
        TEST(damage_is_coded_as_damage),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
