/* kernels/int4.c, and the products of its formats: by the page, near the exact ones, and the same bits on every set. */
#define _POSIX_C_SOURCE 200809L
#include "kernels/cpu/ops.h"
#include "kernels/int4.h"
#include "kernels/numeric.h"
#include "tests/support/check.h"

#include <math.h>

static uint64_t seed = 88172645463325252u;

static uint64_t bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static float uniform(void)
{
    return (float)(bits() >> 40) * 0x1p-23f - 1.0f;
}

/* ---- the codec ------------------------------------------------------------------------------ */

static void every_weight_gets_its_nearest_code(void **state)
{
    (void)state;
    hlwq_error err;
    for (int round = 0; round < 2000; round++) {
        bool zeros = round & 1;
        uint32_t n = round & 2 ? 64 : 128;
        float w[128], size = powf(10.0f, (float)(round % 13) - 7.0f), off = round % 5 ? uniform() * size : 0.0f;
        uint8_t code[128], zero;
        uint16_t scale;
        for (uint32_t j = 0; j < n; j++)
            w[j] = j % 11 == 3 ? 0.0f : uniform() * size + off;
        CHECK_OK(hs_int4_encode_group(zeros, w, n, code, &scale, &zero, &err), err);
        assert_true(zeros ? zero <= 15 : zero == 8);
        float s = hs_half(scale);
        for (uint32_t j = 0; j < n; j++) {
            float best = INFINITY, got = fabsf(s * (float)(code[j] - zero) - w[j]);
            for (int c = 0; c < 16; c++)
                best = fminf(best, fabsf(s * (float)(c - zero) - w[j]));
            if (!(got <= best + 2e-7f * fabsf(w[j])))
                fail_msg("round %d: weight %g has code %u of scale %g, zero %u: off by %g, could be %g", round,
                         (double)w[j], code[j], (double)s, zero, (double)got, (double)best);
            /* Half a step; a whole one at the ends, where the zero point is rounded or there is no sixteenth code. */
            if (fabsf(s) > 1e-3f)
                assert_true(got <= fabsf(s) * 1.01f);
        }
    }
}

static void extremes_and_zero_are_exact(void **state)
{
    (void)state;
    hlwq_error err;
    float w[128] = {0};
    uint8_t code[128], zero;
    uint16_t scale;
    for (int sign = -1; sign <= 1; sign += 2) { /* the largest magnitude has the code 0, whichever its sign */
        w[70] = (float)sign * 8.0f;
        w[71] = (float)sign * -7.0f;
        CHECK_OK(hs_int4_encode_group(false, w, 128, code, &scale, &zero, &err), err);
        assert_true(hs_half(scale) == (float)-sign);
        assert_int_equal(code[70], 0);
        assert_int_equal(code[71], 15);
        assert_int_equal(code[0], 8);
    }
    w[70] = 10.0f; /* with zeros: 0..15 steps of 1 */
    w[71] = -5.0f;
    CHECK_OK(hs_int4_encode_group(true, w, 128, code, &scale, &zero, &err), err);
    assert_true(hs_half(scale) == 1.0f && zero == 5);
    assert_int_equal(code[70], 15);
    assert_int_equal(code[71], 0);
    assert_int_equal(code[0], 5);
    memset(w, 0, sizeof w);
    for (int zeros = 0; zeros < 2; zeros++) {
        CHECK_OK(hs_int4_encode_group(zeros, w, 64, code, &scale, &zero, &err), err);
        assert_int_equal(scale, 0);
        assert_int_equal(code[63], zero);
    }
    w[3] = 1e-9f; /* below every scale */
    CHECK_OK(hs_int4_encode_group(true, w, 64, code, &scale, &zero, &err), err);
    assert_int_equal(code[3], zero);
    w[3] = 9e5f;
    CHECK_FAILS(hs_int4_encode_group(false, w, 64, code, &scale, &zero, &err), HLWQ_ERR_FORMAT, err, "65504");
    w[3] = NAN;
    CHECK_FAILS(hs_int4_encode_group(false, w, 64, code, &scale, &zero, &err), HLWQ_ERR_FORMAT, err, "not finite");
    w[3] = -INFINITY;
    CHECK_FAILS(hs_int4_encode_group(true, w, 64, code, &scale, &zero, &err), HLWQ_ERR_FORMAT, err, "not finite");
}

static void rows_come_back_and_padding_is_zero(void **state)
{
    (void)state;
    static const uint32_t cols[] = {1, 63, 64, 65, 128, 192, 300};
    for (hs_dtype d = HS_I4; d <= HS_I4G64Z; d++)
        for (size_t k = 0; k < 7; k++) {
            hs_planes p;
            hlwq_error err;
            uint32_t n = cols[k], rows = 3;
            assert_true(hs_planes_of(d, rows, n, &p));
            float w[3 * 300], back[300];
            for (uint32_t i = 0; i < rows * n; i++)
                w[i] = uniform();
            uint8_t *data = malloc(p.bytes), code[128];
            CHECK_OK(hs_encode_rows(d, NULL, w, 0, 2, rows, n, data, &err), err);
            CHECK_OK(hs_encode_rows(d, NULL, w + 2 * (size_t)n, 2, 1, rows, n, data, &err), err);
            for (uint32_t r = 0; r < rows; r++) {
                hs_decode_row(d, NULL, data, rows, n, r, back);
                for (uint32_t i = 0; i < n; i++)
                    if (fabsf(back[i] - w[r * n + i]) > 0.14f)
                        fail_msg("%s: %f came back as %f", hs_dtype_name(d), (double)w[r * n + i], (double)back[i]);
                hs_int4_unpack_block(data + p.low + ((r + 1) * (size_t)p.blocks - 1) * 64, code);
                for (uint32_t j = (n - 1) % 128 + 1; j < 128; j++) {
                    size_t g = r * (size_t)p.groups + (p.blocks - 1) * (p.groups / p.blocks) + j / hs_dtype_group(d);
                    assert_int_equal(code[j], p.zeros_bytes ? data[p.zeros + g] : 8);
                }
            }
            free(data);
        }
}

/* ---- products ------------------------------------------------------------------------------- */

typedef struct weights {
    hs_planes planes;
    uint8_t *data;
    hs_matrix m;
} weights;

typedef enum wild { SENSIBLE, ADVERSARIAL, SATURATED } wild;

/* Planes of random bytes. Adversarial scales: zero, subnormal, negative, the largest; zero points 0, 16 and 255. */
static weights make(hs_dtype d, uint32_t rows, uint32_t cols, wild kind)
{
    static const uint16_t odd_scale[] = {0, 1, 0x03FF, 0x8400, 0x7BFF, 0x8000, 0xB800, 0x3C00};
    static const uint8_t odd_zero[] = {0, 16, 255, 15, 8};
    weights w;
    assert_true(hs_planes_of(d, rows, cols, &w.planes));
    w.data = aligned_alloc(64, w.planes.bytes);
    for (uint64_t i = 0; i < w.planes.bytes; i++)
        w.data[i] = (uint8_t)(bits() >> 20);
    if (kind == SATURATED)
        memset(w.data + w.planes.low, 0xFF, w.planes.low_bytes);
    for (uint64_t i = 0; i < w.planes.norms_bytes / 2; i++) {
        uint16_t h = kind == ADVERSARIAL ? odd_scale[bits() >> 30 & 7] : (uint16_t)(0x2000 | (bits() >> 30 & 0x83FF));
        memcpy(w.data + w.planes.norms + 2 * i, &h, 2);
    }
    for (uint64_t i = 0; i < w.planes.zeros_bytes; i++)
        w.data[w.planes.zeros + i] = kind == SENSIBLE    ? (uint8_t)((bits() >> 30) % 17)
                                     : kind == SATURATED ? 0
                                                         : odd_zero[(bits() >> 30) % 5];
    w.m = hs_matrix_at(d, rows, cols, &w.planes, w.data, NULL);
    return w;
}

typedef struct act {
    hs_act a;
    float *x, *scale;
    int8_t *q;
    int32_t *sum;
} act;

/* Exactly sized, so that a sanitizer sees a kernel that reads on. */
static act activations(const hs_cpu_ops *ops, uint32_t cols, uint32_t n, int kind)
{
    uint32_t blocks = (cols + 127) / 128, halves = 2 * blocks;
    act t = {.x = malloc((size_t)n * cols * 4), .scale = malloc((size_t)n * halves * 4)};
    t.q = malloc((size_t)n * blocks * 128);
    t.sum = malloc((size_t)n * halves * 4);
    for (size_t i = 0; i < (size_t)n * cols; i++)
        t.x[i] = kind == 0   ? uniform()
                 : kind == 1 ? (i % 300 < 128  ? 0.0f
                                : i % 131 == 0 ? 1e4f
                                               : uniform() * 1e-3f)
                 : kind == 2 ? uniform() * 1e-38f
                             : 1.0f;
    for (uint32_t r = 0; r < n; r++)
        ops->q8_flat(t.x + (size_t)r * cols, cols, t.q + (size_t)r * blocks * 128, t.scale + (size_t)r * halves,
                     t.sum + (size_t)r * halves);
    t.a = (hs_act){cols, blocks, t.x, t.q, t.scale, t.sum};
    return t;
}

static void free_act(act *t)
{
    free(t->x), free(t->q), free(t->scale), free(t->sum);
}

/* The formula of docs/numerics.md, written once more from the page; and the same sum in double. */
static float by_the_page(const weights *w, const act *t, uint32_t row, uint32_t token, double *real)
{
    uint32_t group = hs_dtype_group(w->m.dtype), groups = w->planes.groups, halves = 2 * w->planes.blocks;
    float total = 0.0f;
    *real = 0;
    for (uint32_t s = 0; s < halves; s += 16) {
        float seg = 0.0f;
        for (uint32_t g = s; g < halves && g < s + 16; g++) {
            size_t at = (size_t)row * groups + g * 64 / group, from = (size_t)token * halves + g;
            uint16_t h;
            int64_t isum = 0, sum = 0;
            memcpy(&h, w->data + w->planes.norms + 2 * at, 2);
            for (uint32_t j = 0; j < 64; j++) {
                uint32_t i = g * 64 + j;
                uint8_t byte = w->data[w->planes.low + ((size_t)row * w->planes.blocks + i / 128) * 64 + i % 64];
                int64_t q = t->q[(size_t)token * halves * 64 + i];
                isum += (i % 128 < 64 ? byte & 15 : byte >> 4) * q;
                sum += q;
            }
            isum -= sum * (hs_dtype_zeros(w->m.dtype) ? w->data[w->planes.zeros + at] : 8);
            seg = fmaf(hs_f16_to_f32(h) * t->scale[from], (float)isum, seg);
            *real += (double)hs_f16_to_f32(h) * t->scale[from] * (double)isum;
        }
        total += seg;
    }
    return total;
}

static void products_follow_the_page(void **state)
{
    (void)state;
    static const uint32_t shape[][2] = {{3, 128}, {17, 300}, {5, 1024}, {33, 1152}, {2, 2560}, {4, 64}};
    for (hs_dtype d = HS_I4; d <= HS_I4G64Z; d++)
        for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
            for (int kind = 0; kind < 12; kind++) {
                uint32_t rows = shape[s][0], cols = shape[s][1], n = 3;
                weights w = make(d, rows, cols, (wild)(kind / 4));
                act t = activations(&hs_cpu_ref_base, cols, n, kind % 4);
                float *y = malloc((size_t)n * rows * sizeof *y);
                memset(y, 0xFF, (size_t)n * rows * sizeof *y);
                hs_cpu_ref_base.gemm(&w.m, &t.a, NULL, n, 0, rows, y, rows);
                for (uint32_t r = 0; r < rows; r++)
                    for (uint32_t k = 0; k < n; k++) {
                        double real;
                        float want = by_the_page(&w, &t, r, k, &real), got = y[k * rows + r];
                        if (hs_float_bits(got) != hs_float_bits(want))
                            fail_msg("%s %u x %u kind %d row %u token %u: %a, the page says %a", hs_dtype_name(d), rows,
                                     cols, kind, r, k, (double)got, (double)want);
                        if (kind == 0 && !(fabs(got - real) <= 1e-5 * fabs(real) + 1e-3))
                            fail_msg("%s: %g, in double %g", hs_dtype_name(d), (double)got, real);
                    }
                free(y), free_act(&t), free(w.data);
            }
}

/* What the whole is for: the product of the weights that were encoded, within what eight bits of activations cost. */
static void products_are_near_those_of_decoded_weights(void **state)
{
    (void)state;
    enum { ROWS = 9, COLS = 1480 };
    hlwq_error err;
    float w[ROWS * COLS], row[COLS];
    for (hs_dtype d = HS_I4; d <= HS_I4G64Z; d++) {
        hs_planes p;
        assert_true(hs_planes_of(d, ROWS, COLS, &p));
        uint8_t *data = aligned_alloc(64, p.bytes);
        for (int i = 0; i < ROWS * COLS; i++)
            w[i] = uniform() + 0.3f;
        CHECK_OK(hs_encode_rows(d, NULL, w, 0, ROWS, ROWS, COLS, data, &err), err);
        hs_matrix m = hs_matrix_at(d, ROWS, COLS, &p, data, NULL);
        act t = activations(&hs_cpu_ref_base, COLS, 2, 0);
        float y[2 * ROWS], exact[2 * ROWS];
        hs_cpu_ref_base.gemm(&m, &t.a, NULL, 2, 0, ROWS, y, ROWS);
        hs_cpu_ref_base.gemm_exact(&m, &t.a, NULL, 2, 0, ROWS, exact, ROWS, row);
        for (int i = 0; i < 2 * ROWS; i++) {
            double real = 0;
            hs_decode_row(d, NULL, data, ROWS, COLS, (uint64_t)(i % ROWS), row);
            for (int c = 0; c < COLS; c++)
                real += (double)row[c] * t.x[i / ROWS * COLS + c];
            assert_true(fabs(exact[i] - real) < 1e-3);
            if (!(fabs(y[i] - real) < 0.3))
                fail_msg("%s: %f, wanted %f", hs_dtype_name(d), (double)y[i], real);
        }
        free_act(&t), free(data);
    }
}

static bool choose(hs_cpu_ops *set, const char *name)
{
    hlwq_error err;
    hlwq_status st = hs_cpu_choose(set, name, &err);
    if (st == HLWQ_ERR_UNSUPPORTED)
        print_message("skipped %s: %s\n", name, err.message);
    else
        assert_int_equal(st, HLWQ_OK);
    return st == HLWQ_OK;
}

static void check_products(const char *name, const hs_cpu_ops *set, hs_dtype d, uint32_t rows, uint32_t cols,
                           uint32_t n, int kind)
{
    uint32_t held = n + 3, *list = malloc(n * sizeof *list);
    weights w = make(d, rows, cols, (wild)(kind % 3));
    act t = activations(&hs_cpu_ref_base, cols, held, kind % 4);
    size_t stride = rows + 5, floats = n * stride;
    float *want = malloc(floats * sizeof *want), *got = malloc(floats * sizeof *got);
    for (uint32_t i = 0; i < n; i++)
        list[i] = (i * 5 + 2) % held;
    for (int indirect = 0; indirect < 2; indirect++) {
        memset(want, 0xEE, floats * sizeof *want);
        memset(got, 0xEE, floats * sizeof *got);
        hs_cpu_ref_base.gemm(&w.m, &t.a, indirect ? list : NULL, n, 0, rows, want, stride);
        set->gemm(&w.m, &t.a, indirect ? list : NULL, n, 0, rows / 2, got, stride);
        set->gemm(&w.m, &t.a, indirect ? list : NULL, n, rows / 2, rows, got, stride);
        for (size_t i = 0; i < floats; i++)
            if (hs_float_bits(got[i]) != hs_float_bits(want[i]) && !(isnan(got[i]) && isnan(want[i])))
                fail_msg("%s %s %u x %u, %u tokens, kind %d: y[%zu] is %a, ref.c says %a", name, hs_dtype_name(d), rows,
                         cols, n, kind, i, (double)got[i], (double)want[i]);
    }
    free(want), free(got), free(list), free_act(&t), free(w.data);
}

static void every_set_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const name[] = {"ref", "avx2", "avx512"};
    static const uint32_t rows[] = {1, 15, 16, 17, 33, 64, 100};
    static const uint32_t cols[] = {128, 64, 96, 200, 256, 384, 512, 640, 1024, 1152, 2048, 2176, 8320, 9344, 17408};
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 31, 64};
    for (int i = 0; i < 3; i++) {
        hs_cpu_ops set;
        if (!choose(&set, name[i]))
            continue;
        for (hs_dtype d = HS_I4; d <= HS_I4G64Z; d++)
            for (uint32_t c = 0; c < 15; c++)
                for (uint32_t v = 0; v < (cols[c] <= 2176 ? 6u : 1u); v++)
                    check_products(name[i], &set, d, rows[(c + d + 3 * v) % 7], cols[c],
                                   tokens[(2 * c + d + 5 * v) % 12], (int)(c + v + d));
    }
}

/* The same integers in groups of 64, each scale and zero point of the groups of 128 written twice. */
static weights halved(const weights *w, uint32_t rows, uint32_t cols)
{
    const hs_dtype d = w->m.dtype == HS_I4 ? HS_I4G64 : HS_I4G64Z;
    weights two;
    assert_true(hs_planes_of(d, rows, cols, &two.planes) && two.planes.groups == 2 * w->planes.groups);
    two.data = aligned_alloc(64, two.planes.bytes);
    memset(two.data, 0xEE, two.planes.bytes);
    memcpy(two.data + two.planes.low, w->data + w->planes.low, w->planes.low_bytes);
    for (uint64_t i = 0; i < two.planes.norms_bytes / 2; i++)
        memcpy(two.data + two.planes.norms + 2 * i, w->data + w->planes.norms + i / 2 * 2, 2);
    for (uint64_t i = 0; i < two.planes.zeros_bytes; i++)
        two.data[two.planes.zeros + i] = w->data[w->planes.zeros + i / 2];
    two.m = hs_matrix_at(d, rows, cols, &two.planes, two.data, NULL);
    return two;
}

static void groups_of_128_are_two_of_64_with_one_scale(void **state)
{
    (void)state;
    static const char *const name[] = {"ref", "avx2", "avx512"};
    static const uint32_t shape[][2] = {{3, 64}, {17, 128}, {64, 256}, {33, 512}, {40, 1152}, {65, 2176}};
    for (int i = 0; i < 3; i++) {
        hs_cpu_ops set;
        if (!choose(&set, name[i]))
            continue;
        for (int k = 0; k < 36; k++) {
            uint32_t rows = shape[k % 6][0], cols = shape[k % 6][1], n = (uint32_t)(k * 5 % 13 + 1);
            weights w = make(k / 6 % 2 ? HS_I4Z : HS_I4, rows, cols, (wild)(k / 12)), two = halved(&w, rows, cols);
            act t = activations(&set, cols, n, k % 4);
            size_t floats = (size_t)n * rows;
            float *y[2] = {malloc(floats * sizeof(float)), malloc(floats * sizeof(float))};
            memset(y[0], 0xFF, floats * sizeof(float));
            set.gemm(&w.m, &t.a, NULL, n, 0, rows, y[0], rows);
            set.gemm(&two.m, &t.a, NULL, n, 0, rows, y[1], rows);
            for (size_t f = 0; f < floats; f++)
                if (hs_float_bits(y[0][f]) != hs_float_bits(y[1][f]))
                    fail_msg("%s %u x %u, %u tokens: y[%zu] is %a, in groups of 64 %a", name[i], rows, cols, n, f,
                             (double)y[0][f], (double)y[1][f]);
            free(y[0]), free(y[1]), free_act(&t), free(w.data), free(two.data);
        }
    }
}

static void every_set_quantises_alike(void **state)
{
    (void)state;
    static const char *const name[] = {"ref", "avx2", "avx512"};
    static const uint32_t cols[] = {1, 63, 64, 65, 96, 128, 129, 192, 300, 2048};
    static const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, -3e38f, 88.7f};
    for (int i = 0; i < 3; i++) {
        hs_cpu_ops set;
        if (!choose(&set, name[i]))
            continue;
        for (int kind = 0; kind < 5; kind++)
            for (size_t k = 0; k < sizeof cols / sizeof *cols; k++) {
                static const float size[] = {1, 1e4f, 1e-38f, 1e30f, 3};
                uint32_t n = cols[k], blocks = (n + 127) / 128, halves = 2 * blocks;
                float *x = malloc(n * sizeof *x), scale[2][32];
                int8_t *q[2] = {malloc(blocks * 128), malloc(blocks * 128)};
                int32_t sum[2][32];
                for (uint32_t j = 0; j < n; j++)
                    x[j] = kind == 4 && j % 41 == 7 ? odd[j / 41 % 8] : uniform() * size[kind];
                hs_cpu_ref_base.q8_flat(x, n, q[0], scale[0], sum[0]);
                set.q8_flat(x, n, q[1], scale[1], sum[1]);
                assert_memory_equal(q[0], q[1], blocks * 128);
                assert_memory_equal(sum[0], sum[1], halves * 4);
                for (uint32_t g = 0; g < halves; g++) {
                    assert_true(hs_float_bits(scale[0][g]) == hs_float_bits(scale[1][g]) ||
                                (isnan(scale[0][g]) && isnan(scale[1][g])));
                    if (g * 64 >= n) /* nothing there */
                        assert_true(scale[0][g] == 0.0f && sum[0][g] == 0);
                    for (uint32_t j = g * 64; j < (g + 1) * 64 && j < n && kind < 2; j++)
                        assert_true(fabsf(scale[0][g] * q[0][j] - x[j]) <= 0.501f * scale[0][g]);
                }
                free(x), free(q[0]), free(q[1]);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_weight_gets_its_nearest_code),         cmocka_unit_test(extremes_and_zero_are_exact),
        cmocka_unit_test(rows_come_back_and_padding_is_zero),         cmocka_unit_test(products_follow_the_page),
        cmocka_unit_test(products_are_near_those_of_decoded_weights), cmocka_unit_test(every_set_gives_the_same_bits),
        cmocka_unit_test(groups_of_128_are_two_of_64_with_one_scale), cmocka_unit_test(every_set_quantises_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
