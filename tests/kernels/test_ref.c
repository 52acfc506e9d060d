/* kernels/cpu/ref.c: the packed product follows the contract's formula, and both builds of the file give the same bits.
 */
#define _POSIX_C_SOURCE 200809L
#include "kernels/cpu/ops.h"
#include "kernels/numeric.h"
#include "tests/support/check.h"

#include <math.h>

static uint64_t seed = 88172645463325252u;

static float uniform(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (float)(seed >> 40) * 0x1p-23f - 1.0f;
}

typedef struct packed {
    hs_codebook book;
    hs_planes planes;
    uint8_t *data;
    hs_matrix m;
} packed;

static packed make(hs_dtype dtype, uint32_t rows, uint32_t cols, float size)
{
    packed p;
    float level[64];
    hlwq_error err;
    hs_book_levels(HS_BOOK_CONVERGED, hs_dtype_bits(dtype), level);
    CHECK_OK(hs_codebook_init(&p.book, hs_dtype_bits(dtype), level, &err), err);
    assert_true(hs_planes_of(dtype, rows, cols, &p.planes));
    p.data = aligned_alloc(64, p.planes.bytes);
    float *w = malloc((size_t)rows * cols * sizeof *w);
    for (size_t i = 0; i < (size_t)rows * cols; i++)
        w[i] = i % 977 < 128 ? 0.0f : uniform() * size;
    CHECK_OK(hs_encode_rows(dtype, &p.book, w, 0, rows, rows, cols, p.data, &err), err);
    free(w);
    p.m = hs_matrix_at(dtype, rows, cols, &p.planes, p.data, NULL);
    return p;
}

typedef struct act {
    hs_act a;
    float *x;
    int8_t *q;
    float *scale;
    int32_t *sum;
} act;

/* Activations with everything that is awkward: zeros, one large value, subnormals, saturating blocks. */
static act activations(const hs_cpu_ops *ops, uint32_t cols, uint32_t n, int kind)
{
    act t;
    uint32_t blocks = (cols + 127) / 128;
    t.x = malloc((size_t)n * cols * sizeof(float));
    t.q = malloc((size_t)n * blocks * 128);
    t.scale = malloc((size_t)n * blocks * sizeof(float));
    t.sum = malloc((size_t)n * blocks * sizeof(int32_t));
    for (size_t i = 0; i < (size_t)n * cols; i++)
        t.x[i] = kind == 0   ? uniform()
                 : kind == 1 ? (i % 300 < 128  ? 0.0f
                                : i % 131 == 0 ? 1e4f
                                               : uniform() * 1e-3f)
                 : kind == 2 ? uniform() * 1e-38f
                             : (i & 1 ? 1.0f : -1.0f);
    for (uint32_t r = 0; r < n; r++)
        ops->q8(t.x + (size_t)r * cols, cols, t.q + (size_t)r * blocks * 128, t.scale + r * blocks, t.sum + r * blocks);
    t.a = (hs_act){cols, blocks, t.x, t.q, t.scale, t.sum};
    return t;
}

static void free_act(act *t)
{
    free(t->x);
    free(t->q);
    free(t->scale);
    free(t->sum);
}

/* The formula of docs/numerics.md, written once more from the page. */
static float by_the_page(const hs_matrix *m, const hs_codebook *book, const hs_act *a, uint32_t row, uint32_t token)
{
    float total = 0.0f;
    int half = 1 << (book->bits - 1);
    for (uint32_t b0 = 0; b0 < m->blocks; b0 += 8) {
        float seg = 0.0f;
        for (uint32_t b = b0; b < m->blocks && b < b0 + 8; b++) {
            size_t at = (size_t)row * m->blocks + b, act_at = (size_t)token * m->blocks + b;
            uint8_t code[128];
            uint16_t norm;
            int64_t isum = 0;
            hs_unpack_block(m->dtype, m->low + at * m->low_block, m->high + at * m->high_block, code);
            memcpy(&norm, m->norms + 2 * at, 2);
            for (int j = 0; j < 128; j++) {
                int k = code[j] >= half ? book->k[code[j] - half] : ~(int)book->k[half - 1 - code[j]];
                isum += (2 * k + 1) * (int64_t)a->q[act_at * 128 + j];
            }
            seg = fmaf(hs_f16_to_f32(norm) * a->scale[act_at], (float)isum, seg);
        }
        total += seg;
    }
    return total * (book->step / 256.0f);
}

static void packed_products_follow_the_page(void **state)
{
    (void)state;
    static const uint32_t shape[][2] = {{3, 128}, {17, 300}, {5, 1024}, {66, 1152}, {2, 2560}};
    for (uint32_t bits = 2; bits <= 6; bits++)
        for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
            for (int kind = 0; kind < 4; kind++) {
                uint32_t rows = shape[s][0], cols = shape[s][1], n = 3;
                packed p = make(hs_dtype_of_bits(bits), rows, cols, 0.05f);
                p.m.book = &p.book;
                act t = activations(&hs_cpu_ref_base, cols, n, kind);
                float *y = malloc((size_t)n * rows * sizeof *y);
                memset(y, 0xFF, (size_t)n * rows * sizeof *y);
                hs_cpu_ref_base.gemm(&p.m, &t.a, NULL, n, 0, rows, y, rows);
                for (uint32_t r = 0; r < rows; r++)
                    for (uint32_t k = 0; k < n; k++) {
                        float want = by_the_page(&p.m, &p.book, &t.a, r, k);
                        if (hs_float_bits(y[k * rows + r]) != hs_float_bits(want))
                            fail_msg("Q%u %u x %u kind %d row %u token %u: %a, the page says %a", bits, rows, cols,
                                     kind, r, k, (double)y[k * rows + r], (double)want);
                    }
                free(y);
                free_act(&t);
                free(p.data);
            }
}

static void both_builds_give_the_same_bits(void **state)
{
    (void)state;
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        skip();
#endif
    const hs_cpu_ops *set[2] = {&hs_cpu_ref_base, &hs_cpu_ref_fma};
    for (uint32_t cols = 96; cols < 2600; cols = cols * 2 + 32) {
        packed p = make(HS_Q5, 70, cols, 0.1f);
        p.m.book = &p.book;
        float *y[2], *z[2], *row = malloc(cols * sizeof *row);
        act t[2];
        for (int i = 0; i < 2; i++) {
            seed = 4711;
            t[i] = activations(set[i], cols, 5, 1);
            y[i] = calloc(5 * 70, sizeof(float));
            z[i] = calloc(5 * 70 + cols, sizeof(float));
            set[i]->gemm(&p.m, &t[i].a, NULL, 5, 0, 70, y[i], 70);
            set[i]->gemm_exact(&p.m, &t[i].a, NULL, 5, 0, 70, z[i], 70, row);
            set[i]->rms_norm(t[i].x, t[i].x + cols, cols, 1e-6f, z[i] + 5 * 70);
        }
        assert_memory_equal(t[0].q, t[1].q, 5 * t[0].a.blocks * 128);
        assert_memory_equal(y[0], y[1], 5 * 70 * sizeof(float));
        assert_memory_equal(z[0], z[1], (5 * 70 + cols) * sizeof(float));
        for (int i = 0; i < 2; i++) {
            free(y[i]);
            free(z[i]);
            free_act(&t[i]);
        }
        free(row);
        free(p.data);
    }
}

static void check_product(const hs_cpu_ops *set, uint32_t bits, uint32_t r, uint32_t cols, uint32_t n, uint32_t kind,
                          float norm)
{
    packed p = make(hs_dtype_of_bits(bits), r, cols, norm);
    p.m.book = &p.book;
    uint32_t held = n + 3, list[40];
    act t = activations(&hs_cpu_ref_base, cols, held, (int)kind);
    for (uint32_t i = 0; i < n; i++)
        list[i] = (i * 5 + 2) % held;
    size_t stride = r + 5, floats = n * stride;
    float *want = malloc(floats * sizeof *want), *got = malloc(floats * sizeof *got);
    for (int indirect = 0; indirect < 2; indirect++) {
        memset(want, 0xEE, floats * sizeof *want);
        memset(got, 0xEE, floats * sizeof *got);
        hs_cpu_ref_base.gemm(&p.m, &t.a, indirect ? list : NULL, n, 0, r, want, stride);
        set->gemm(&p.m, &t.a, indirect ? list : NULL, n, 0, r / 2, got, stride);
        set->gemm(&p.m, &t.a, indirect ? list : NULL, n, r / 2, r, got, stride);
        for (size_t i = 0; i < floats; i++)
            if (hs_float_bits(got[i]) != hs_float_bits(want[i]))
                fail_msg("%s Q%u %u x %u, %u tokens, kind %u: y[%zu] is %a, ref.c says %a", set->name, bits, r, cols, n,
                         kind, i, (double)got[i], (double)want[i]);
    }
    free(want);
    free(got);
    free_act(&t);
    free(p.data);
}

/* Every set that this machine has, every format, sizes off every boundary, one to many tokens: the bits of the plain
 * one. */
static void check_set(const char *name)
{
    static const uint32_t rows[] = {1, 15, 16, 17, 33, 64, 100}, cols[] = {128, 96, 384, 1024, 1152, 2048, 8320, 17408};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 8, 9, 15, 31};
    hs_cpu_ops set;
    hlwq_error err;
    setenv("HLWQ_CPU", name, 1);
    hlwq_status st = hs_cpu_choose(&set, NULL, &err);
    unsetenv("HLWQ_CPU");
    if (st == HLWQ_ERR_UNSUPPORTED) {
        print_message("skipped %s: %s\n", name, err.message);
        return;
    }
    assert_int_equal(st, HLWQ_OK);
    assert_string_equal(set.name, name);
    for (uint32_t bits = 2; bits <= 6; bits++) {
        for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
            check_product(&set, bits, rows[(c + bits) % 7], cols[c], tokens[(2 * c + bits) % 9], (c + bits) % 4,
                          c % 3 ? 0.05f : 3e-6f); /* subnormal norms too */
        for (uint32_t n = 2; n <= 8; n++) /* as windows of drafts have them; 18,944 columns are more than one span */
            check_product(&set, bits, rows[(n + bits) % 7] + 20, n % 3 == bits % 3 ? 18944 : 512 * (n % 4 + 1), n,
                          (n + bits) % 4, 0.05f);
    }
}

static void faster_sets_give_the_bits_of_the_plain_one(void **state)
{
    (void)state;
    check_set("ref");
    check_set("avx2");
    check_set("avx512");
    setenv("HLWQ_CPU", "mmx", 1);
    hs_cpu_ops set;
    hlwq_error err;
    CHECK_FAILS(hs_cpu_choose(&set, NULL, &err), HLWQ_ERR_ARG, err, "mmx");
    unsetenv("HLWQ_CPU");
}

static void batches_do_not_change_a_token(void **state)
{
    (void)state;
    packed p = make(HS_Q4, 33, 640, 0.1f);
    p.m.book = &p.book;
    act t = activations(&hs_cpu_ref_base, 640, 9, 0);
    float whole[9 * 33], one[33];
    hs_cpu_ref_base.gemm(&p.m, &t.a, NULL, 9, 0, 33, whole, 33);
    for (uint32_t k = 0; k < 9; k++) {
        hs_cpu_ref_base.gemm(&p.m, &t.a, &k, 1, 0, 20, one, 33);
        hs_cpu_ref_base.gemm(&p.m, &t.a, &k, 1, 20, 33, one, 33);
        assert_memory_equal(one, whole + k * 33, sizeof one);
    }
    free_act(&t);
    free(p.data);
}

static void values_that_are_not_numbers_show_in_the_scale(void **state)
{
    (void)state;
    float x[128] = {0}, scale;
    int8_t q[128];
    int32_t sum;
    for (int kind = 0; kind < 2; kind++) {
        x[5] = kind ? INFINITY : NAN;
        hs_cpu_ref_base.q8(x, 128, q, &scale, &sum);
        assert_true(isnan(scale));
        assert_int_equal(sum, 0);
    }
}

static void exp_is_within_a_unit_in_the_last_place(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t i = 0; i < 0x42B20000u; i += 9973)
        for (int sign = 0; sign < 2; sign++) {
            float x = hs_bits_float(i | (uint32_t)sign << 31);
            if (x < -87.3f || x > 88.7f)
                continue;
            int e;
            double want = exp((double)x);
            frexp(want, &e);
            double d = fabs(hs_exp(x) - want) / ldexp(1, e - 24);
            worst = d > worst ? d : worst;
        }
    assert_true(worst < 0.99);
    assert_true(hs_exp(0.0f) == 1.0f && hs_exp(-200.0f) == 0.0f && isinf(hs_exp(200.0f)) && isnan(hs_exp(NAN)));
}

static void ties_go_to_the_lower_expert(void **state)
{
    (void)state;
    static const float l[6] = {1, 3, 3, 0, 3, 1};
    int32_t id[4];
    float w[4];
    hs_cpu_ref_base.top_k(l, 6, 4, id, w);
    static const int32_t want[4] = {1, 2, 4, 0};
    assert_memory_equal(id, want, sizeof want);
    assert_true(w[0] == w[1] && w[1] == w[2] && w[3] < w[2]);
}

/* Specs/qwen35 3.3: one head of two dimensions, three tokens, by recurrence and as a chunk. */
static void delta_rule_gives_the_published_vector(void **state)
{
    (void)state;
    static const float q[3][2] = {{1, 2}, {-1, 0.5f}, {0.3f, -0.7f}}, k[3][2] = {{0.5f, -1}, {2, 1}, {-0.2f, 0.4f}};
    static const float v[3][2] = {{1, 0.5f}, {-0.5f, 2}, {0.25f, -1}};
    static const float g[3] = {-0.986164277f, -0.397355764f, -3.079458556f},
                       beta[3] = {0.5f, 0.731058579f, 0.119202922f};
    static const float want[3][2] = {
        {-0.212131928f, -0.106065964f}, {-0.03501612f, -0.715371957f}, {-0.010730232f, 0.086155562f}};
    static const float end[4] = {-0.022274334f, 0.11648861f, 0.006963605f, -0.082636967f};
    float scratch[8192], qn[3][2], kn[3][2], s[4] = {0}, o[3][2];
    for (int t = 0; t < 3; t++) {
        hs_cpu_ref_base.l2_norm(q[t], 2, 1e-6f, 0.70710678f, qn[t]);
        hs_cpu_ref_base.l2_norm(k[t], 2, 1e-6f, 1.0f, kn[t]);
    }
    for (int form = 0; form < 2; form++) {
        memset(s, 0, sizeof s);
        if (form)
            hs_cpu_ref_base.delta_chunk(s, qn[0], kn[0], v[0], g, beta, 2, 2, 1, 3, 2, 2, o[0], 2, scratch);
        else
            for (int t = 0; t < 3; t++)
                hs_cpu_ref_base.delta_step(s, qn[t], kn[t], v[t], g[t], beta[t], 2, 2, o[t], scratch);
        for (int i = 0; i < 6; i++)
            assert_true(fabsf(o[i / 2][i % 2] - want[i / 2][i % 2]) < 2e-6f);
        for (int i = 0; i < 4; i++)
            assert_true(fabsf(s[i] - end[i]) < 2e-6f);
    }
    static const float z[3][2] = {{0.2f, -1.5f}, {1, 0.3f}, {-0.4f, 2}}, w[2] = {1.25f, 0.75f};
    static const float gated[3][2] = {
        {-0.173869686f, 0.129795728f}, {-0.063181918f, -0.182567556f}, {0.035066571f, 1.85388209f}};
    for (int t = 0; t < 3; t++) {
        float y[2];
        hs_cpu_ref_base.gated_norm(want[t], w, z[t], 2, 1e-6f, y);
        for (int i = 0; i < 2; i++)
            assert_true(fabsf(y[i] - gated[t][i]) < 5e-5f * (1 + fabsf(gated[t][i])));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_products_follow_the_page),
        cmocka_unit_test(both_builds_give_the_same_bits),
        cmocka_unit_test(faster_sets_give_the_bits_of_the_plain_one),
        cmocka_unit_test(batches_do_not_change_a_token),
        cmocka_unit_test(values_that_are_not_numbers_show_in_the_scale),
        cmocka_unit_test(exp_is_within_a_unit_in_the_last_place),
        cmocka_unit_test(ties_go_to_the_lower_expert),
        cmocka_unit_test(delta_rule_gives_the_published_vector),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
