/*
 * Fitted codes: what fitting says it leaves is what the file holds, it is less than rounding leaves, it makes up for
 * what it is told of, and neither threads nor widths of registers show.
 */
#include "kernels/fit.h"
#include "kernels/gram.h"
#include "tests/support/check.h"

#include <math.h>

enum { ROWS = 37, COLS = 256, TOKENS = 512 };

static uint64_t state = 1;

static float gauss(void)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(state >> 40) / 16777216.0f;
    }
    return sum - 6.0f;
}

typedef struct setting {
    hs_pool *pool;
    hs_dtype dtype;
    hs_codebook book;
    hs_planes planes;
    float w[ROWS * COLS], x[TOKENS * COLS], other[TOKENS * COLS]; /* other: what the source would have read */
    float *h, *t, *d, *shift;
    uint8_t *part;
    void *scratch;
} setting;

static setting *open_setting(uint32_t threads, hs_dtype dtype)
{
    const uint32_t bits = hs_dtype_rotated(dtype) ? hs_dtype_bits(dtype) : 4;
    setting *s = calloc(1, sizeof *s);
    float level[64];
    state = 7;
    assert_int_equal(hs_pool_open(threads, &s->pool, NULL), HLWQ_OK);
    hs_book_levels(HS_BOOK_CONVERGED, bits, level);
    assert_int_equal(hs_codebook_init(&s->book, bits, level, NULL), HLWQ_OK);
    assert_true(hs_planes_of(dtype, ROWS, COLS, &s->planes));
    s->dtype = dtype;
    for (int i = 0; i < ROWS * COLS; i++)
        s->w[i] = gauss();
    for (int t = 0; t < TOKENS; t++) { /* inputs that go together, as activations do */
        float common = 3 * gauss(), slow = 0;
        for (int i = 0; i < COLS; i++) {
            slow = 0.9f * slow + gauss();
            s->x[t * COLS + i] = common * (float)(i % 5 == 0) + slow;
            s->other[t * COLS + i] = s->x[t * COLS + i] + 0.3f * common;
        }
    }
    s->h = aligned_alloc(64, COLS * COLS * 4);
    s->t = aligned_alloc(64, COLS * COLS * 4);
    s->shift = aligned_alloc(64, COLS * COLS * 4);
    s->d = aligned_alloc(64, COLS * 4);
    s->part = calloc(1, s->planes.bytes);
    s->scratch = aligned_alloc(64, hs_fit_scratch_bytes(COLS, hs_pool_threads(s->pool)));
    return s;
}

static void close_setting(setting *s)
{
    hs_pool_close(s->pool);
    free(s->h);
    free(s->t);
    free(s->shift);
    free(s->d);
    free(s->part);
    free(s->scratch);
    free(s);
}

static void gather(setting *s)
{
    float *a = malloc(TOKENS * COLS * 4), *b = malloc(TOKENS * COLS * 4);
    memset(s->h, 0, COLS * COLS * 4);
    memset(s->shift, 0, COLS * COLS * 4);
    for (int t = 0; t < TOKENS; t++) {
        (hs_dtype_rotated(s->dtype) ? hs_gram_rotate : hs_gram_pad)(s->x + t * COLS, COLS, 1.0f, a + t * COLS);
        (hs_dtype_rotated(s->dtype) ? hs_gram_rotate : hs_gram_pad)(s->other + t * COLS, COLS, 1.0f, b + t * COLS);
    }
    hs_gram_add(s->pool, s->h, COLS, a, a, TOKENS);
    hs_gram_add(s->pool, s->shift, COLS, a, b, TOKENS);
    hs_gram_mirror(s->h, COLS);
    for (int i = 0; i < COLS * COLS; i++)
        s->shift[i] -= s->h[i];
    assert_true(hs_gram_factor(s->pool, s->h, COLS, 1e-3f, s->t, s->d) == 1e-3f);
    free(a);
    free(b);
}

/* Squared error of the packed matrix's outputs on x, the wanted ones being w times `target`. */
static double left(const setting *s, const float *target)
{
    double sum = 0;
    float row[COLS];
    for (int r = 0; r < ROWS; r++) {
        hs_decode_row(s->dtype, &s->book, s->part, ROWS, COLS, (uint64_t)r, row);
        for (int t = 0; t < TOKENS; t++) {
            double y = 0;
            for (int i = 0; i < COLS; i++)
                y += (double)s->w[r * COLS + i] * target[t * COLS + i] - (double)row[i] * s->x[t * COLS + i];
            sum += y * y;
        }
    }
    return sum;
}

static double fitted(setting *s, uint32_t sweeps, bool follow, hs_fit_error *e)
{
    hs_matrix source = {.dtype = HS_F32, .rows = ROWS, .cols = COLS, .low = (const uint8_t *)s->w};
    hs_fit f = {.source = &source,
                .h = s->h,
                .t = s->t,
                .d = s->d,
                .shift = follow ? s->shift : NULL,
                .sweeps = sweeps,
                .dtype = s->dtype,
                .book = &s->book,
                .part = s->part};
    assert_int_equal(hs_fit_matrix(&f, s->pool, s->scratch, e, NULL), HLWQ_OK);
    return left(s, follow ? s->other : s->x);
}

static void leaves_less_than_rounding(void **unused)
{
    static const hs_dtype dtype[] = {HS_Q2, HS_Q3, HS_Q4, HS_Q5, HS_I4, HS_I4G64};
    (void)unused;
    for (size_t i = 0; i < sizeof dtype / sizeof *dtype; i++) {
        setting *s = open_setting(2, dtype[i]);
        hs_fit_error e;
        gather(s);
        assert_int_equal(hs_encode_rows(dtype[i], &s->book, s->w, 0, ROWS, ROWS, COLS, s->part, NULL), HLWQ_OK);
        double rounded = left(s, s->x);
        double once = fitted(s, 0, false, &e), more = fitted(s, 3, false, &e);
        print_message("%s: rounded %.4g, one pass %.4g, with sweeps %.4g\n", hs_dtype_name(dtype[i]), rounded, once,
                      more);
        assert_true(once < 0.7 * rounded);
        assert_true(more < once);
        assert_true(fabs(e.left / more - 1) < 0.1); /* e.left counts the damping too */
        close_setting(s);
    }
}

static void makes_up_for_other_inputs(void **unused)
{
    (void)unused;
    setting *s = open_setting(2, HS_Q4);
    hs_fit_error e;
    gather(s);
    fitted(s, 2, false, &e);
    double without = left(s, s->other), with = fitted(s, 2, true, &e);
    print_message("without %.4g, with %.4g\n", without, with);
    assert_true(with < 0.5 * without);
    close_setting(s);
}

static void threads_do_not_show(void **unused)
{
    (void)unused;
    setting *a = open_setting(1, HS_Q3), *b = open_setting(3, HS_Q3);
    hs_fit_error e;
    gather(a);
    gather(b);
    assert_memory_equal(a->t, b->t, COLS * COLS * 4);
    fitted(a, 2, true, &e);
    fitted(b, 2, true, &e);
    assert_memory_equal(a->part, b->part, a->planes.bytes);
    close_setting(a);
    close_setting(b);
}

static void factor_is_of_the_matrix(void **unused)
{
    (void)unused;
    setting *s = open_setting(2, HS_Q2);
    gather(s);
    for (int i = 0; i < COLS; i += 17)
        for (int j = i; j < COLS; j += 13) { /* (M D M')_ij, M_ik = t[k][i] for i < k */
            double sum = 0;
            for (int k = j; k < COLS; k++)
                sum += (k == i ? 1.0 : s->t[k * COLS + i]) * s->d[k] * (k == j ? 1.0 : s->t[k * COLS + j]);
            double want = s->h[i * COLS + j], scale = sqrt((double)s->h[i * COLS + i] * s->h[j * COLS + j]);
            assert_true(fabs(sum - want) < 1e-4 * scale);
        }
    close_setting(s);
}

/* Products of inputs that come multiplied, from those of the inputs as they were. */
static void factors_of_inputs_go_into_the_products(void **unused)
{
    (void)unused;
    enum { SOME = 24 };
    static float plain[SOME][COLS], scaled[SOME][COLS], h[COLS * COLS], want[COLS * COLS], factor[COLS];
    hs_pool *pool;
    assert_int_equal(hs_pool_open(1, &pool, NULL), HLWQ_OK);
    for (int i = 0; i < COLS; i++)
        factor[i] = expf(gauss());
    for (int t = 0; t < SOME; t++) {
        float x[COLS];
        for (int i = 0; i < COLS; i++)
            x[i] = gauss();
        hs_gram_rotate(x, COLS, 1.0f, plain[t]);
        for (int i = 0; i < COLS; i++)
            x[i] *= factor[i];
        hs_gram_rotate(x, COLS, 1.0f, scaled[t]);
    }
    hs_gram_add(pool, h, COLS, plain[0], plain[0], SOME);
    hs_gram_add(pool, want, COLS, scaled[0], scaled[0], SOME);
    hs_gram_mirror(h, COLS);
    hs_gram_mirror(want, COLS);
    hs_gram_scale(h, COLS, COLS, factor);
    hs_gram_transpose(h, COLS);
    hs_gram_scale(h, COLS, COLS, factor);
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++) {
            const double size = sqrt((double)want[i * COLS + i] * want[j * COLS + j]);
            if (!(fabs((double)h[i * COLS + j] - want[i * COLS + j]) < 1e-5 * size))
                fail_msg("[%d, %d] is %g, should be %g", i, j, (double)h[i * COLS + j], (double)want[i * COLS + j]);
        }
    hs_pool_close(pool);
}

static void refuses_what_is_not_finite(void **unused)
{
    (void)unused;
    setting *s = open_setting(1, HS_Q4);
    hs_fit_error e;
    hlwq_error err;
    gather(s);
    s->w[5 * COLS + 3] = NAN;
    hs_matrix source = {.dtype = HS_F32, .rows = ROWS, .cols = COLS, .low = (const uint8_t *)s->w};
    hs_fit f = {&source, NULL, s->h, s->t, s->d, NULL, NULL, 0, HS_Q4, &s->book, s->part};
    assert_int_equal(hs_fit_matrix(&f, s->pool, s->scratch, &e, &err), HLWQ_ERR_FORMAT);
    close_setting(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_less_than_rounding),  cmocka_unit_test(makes_up_for_other_inputs),
        cmocka_unit_test(threads_do_not_show),        cmocka_unit_test(factor_is_of_the_matrix),
        cmocka_unit_test(refuses_what_is_not_finite), cmocka_unit_test(factors_of_inputs_go_into_the_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
