/* kernels/kv_codec.c: blocks against their definition, and attention over codes against attention over what they mean.
 */
#include "kernels/cpu/ops.h"
#include "kernels/hlwq.h"
#include "kernels/kv_codec.h"
#include "kernels/numeric.h"
#include "tests/support/check.h"

#include <math.h>

static const hs_dtype type[] = {HS_I8, HS_Q4, HS_Q3, HS_Q2};
static uint64_t seed = 88172645463325252u;

static float uniform(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (float)(seed >> 40) * 0x1p-23f - 1.0f;
}

static float gaussian(void)
{
    float s = 0;
    for (int i = 0; i < 12; i++)
        s += uniform();
    return s * 0.5f;
}

/* One block alone in its planes. */
typedef struct block {
    uint8_t bytes[256];
    hs_kv_planes planes;
} block;

static block encode(hs_dtype dtype, const float *x)
{
    block b = {.planes = hs_kv_planes_of(dtype, 0, 1)};
    float copy[HS_BLOCK];
    memcpy(copy, x, sizeof copy);
    hs_kv_encode_block(dtype, copy, b.bytes + b.planes.low, b.bytes + b.planes.high,
                       (uint16_t *)(void *)(b.bytes + b.planes.norms));
    return b;
}

static void a_block_is_nearest_levels_and_the_least_squares_norm(void **state)
{
    (void)state;
    for (int trial = 0; trial < 200; trial++)
        for (int d = 0; d < 4; d++) {
            float x[HS_BLOCK], r[HS_BLOCK], u[HS_BLOCK], level[16];
            float size = trial % 3 == 0 ? 1e-3f : trial % 3 == 1 ? 1.0f : 50.0f;
            for (int j = 0; j < HS_BLOCK; j++)
                x[j] = gaussian() * size;
            memcpy(r, x, sizeof r);
            hs_wht(r, HS_BLOCK);
            block b = encode(type[d], x);
            hs_kv_decode(b.bytes, &b.planes, 0, 1, u);
            double square = 0, rc = 0, cc = 0, top = 0;
            for (int j = 0; j < HS_BLOCK; j++) {
                square += (double)r[j] * r[j];
                top = fmax(top, fabs((double)r[j]));
            }
            double s = sqrt(square / HS_BLOCK), norm;
            if (type[d] == HS_I8) {
                for (int j = 0; j < HS_BLOCK; j++)
                    assert_true(fabs((double)u[j] - (double)r[j]) <= top / 127 * 0.502);
                continue;
            }
            uint32_t bits = hs_dtype_bits(type[d]);
            hs_book_levels(HS_BOOK_CONVERGED, bits, level);
            for (int j = 0; j < HS_BLOCK; j++) {
                double best = INFINITY, c = 0;
                for (uint32_t i = 0; i < 1u << bits; i++)
                    if (fabs((double)r[j] / s - (double)level[i]) < best) {
                        best = fabs((double)r[j] / s - (double)level[i]);
                        c = (double)level[i];
                    }
                rc += (double)r[j] * c;
                cc += c * c;
            }
            norm = rc / cc;
            for (int j = 0; j < HS_BLOCK; j++) { /* the level read back is the nearest one, to rounding at edges */
                double c = (double)u[j] / norm, nearest = INFINITY;
                for (uint32_t i = 0; i < 1u << bits; i++)
                    nearest = fmin(nearest, fabs((double)r[j] / s - (double)level[i]));
                assert_true(fabs((double)r[j] / s - c) <= nearest + 2e-3);
            }
        }
}

static void a_block_that_is_not_finite_reads_as_nan(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (int i = 0; i < 4; i++)
        for (int d = 0; d < 4; d++) {
            float x[HS_BLOCK] = {1.0f}, u[HS_BLOCK];
            x[77] = bad[i];
            block b = encode(type[d], x);
            hs_kv_decode(b.bytes, &b.planes, 0, 1, u);
            assert_true(isnan(u[0]) && isnan(u[127]));
        }
    for (int d = 0; d < 4; d++) { /* nothing is nothing */
        float x[HS_BLOCK] = {0}, u[HS_BLOCK];
        block b = encode(type[d], x);
        hs_kv_decode(b.bytes, &b.planes, 0, 1, u);
        for (int j = 0; j < HS_BLOCK; j++)
            assert_true(u[j] == 0.0f);
    }
}

static void a_page_takes_the_bytes_of_the_formula(void **state)
{
    (void)state;
    static const double bits[] = {8, 4, 3, 2};
    for (int k = 0; k < 4; k++)
        for (int v = 0; v < 4; v++) {
            hs_kv_layout l = hs_kv_layout_of((hs_kv_format){type[k], type[v]}, 1024);
            double want = HS_KV_PAGE * 1024 * ((bits[k] + bits[v]) / 8 + 2 * 2.0 / 128);
            assert_true((double)l.bytes == want);
            assert_true(l.k.norms % 64 == 0 && l.v.low % 64 == 0 && l.v.high % 64 == 0);
        }
    /* Q3 against fp16, norms and all. */
    assert_true(2.0 * HS_KV_PAGE * 1024 * 2 / (double)hs_kv_layout_of((hs_kv_format){HS_Q3, HS_Q3}, 1024).bytes >=
                5.119);
}

/* The rule of base/kv_format.h without rotated space: each page dequantised to vectors, softmax in double. */
static void attend_plainly(void *const *page, void *const *coded, const hs_kv_layout *l, uint32_t heads, uint32_t head,
                           uint32_t dim, uint32_t position, const float *q, double scale, double *out)
{
    double total = 0, *weight = calloc(position + 1, sizeof *weight);
    float *row = malloc(dim * sizeof *row);
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t p = 0; p <= position; p++) {
            if (p / HS_GRID + 2 <= position / HS_GRID) {
                size_t first = ((size_t)head * HS_GRID + p % HS_GRID) * (dim / HS_BLOCK);
                hs_kv_decode(coded[p / HS_GRID], pass ? &l->v : &l->k, first, dim / HS_BLOCK, row);
                hs_kv_rotate(row, dim);
            } else {
                const uint16_t *h = page[p / HS_GRID];
                h += ((size_t)pass * HS_GRID + p % HS_GRID) * heads * dim + (size_t)head * dim;
                for (uint32_t d = 0; d < dim; d++)
                    row[d] = hs_f16_to_f32(h[d]);
            }
            if (pass) {
                for (uint32_t d = 0; d < dim; d++)
                    out[d] += weight[p] / total * (double)row[d];
                continue;
            }
            for (uint32_t d = 0; d < dim; d++)
                weight[p] += (double)q[d] * (double)row[d];
            weight[p] = exp(weight[p] * scale);
            total += weight[p];
        }
    free(weight);
    free(row);
}

static void attention_in_rotated_space_is_attention(void **state)
{
    (void)state;
    static const uint32_t place[][2] = {{127, 1}, {128, 1}, {130, 16}, {190, 2}, {255, 1}, {256, 16}};
    for (uint32_t c = 0; c < 4 * 6 * 2; c++) {
        uint32_t dim = c % 2 ? 256 : 128, heads = 2, group = 3, first = place[c / 2 % 6][0], n = place[c / 2 % 6][1];
        hs_kv_format format = {type[c / 12], type[(c / 12 + 1) % 4]};
        hs_kv_layout layout = hs_kv_layout_of(format, heads * dim);
        void *page[5], *coded[5];
        for (int p = 0; p < 5; p++) {
            uint16_t *h = page[p] = malloc(2 * HS_GRID * heads * dim * 2);
            for (uint32_t i = 0; i < 2 * HS_GRID * heads * dim; i++)
                h[i] = hs_f32_to_f16(gaussian());
            coded[p] = malloc(layout.bytes);
            for (uint32_t i = 0; i < HS_GRID; i++)
                hs_kv_encode_position(page[p], coded[p], &layout, heads, dim, i);
        }
        hs_kv_view kv = {.page = page, .dtype = HS_F16, .coded = coded, .layout = layout};
        size_t stride = (size_t)group * dim;
        float *q = malloc(n * stride * sizeof *q), *out = malloc(n * stride * sizeof *out);
        float *scratch = malloc(hs_attend_floats(dim, group) * sizeof *scratch);
        for (size_t i = 0; i < n * stride; i++)
            q[i] = gaussian();
        float scale = 1.0f / sqrtf((float)dim);
        for (uint32_t h = 0; h < heads; h++) {
            hs_cpu_ref_base.attend(&kv, heads, h, dim, group, first, n, q, stride, dim, out, stride, scale, scratch);
            for (uint32_t i = 0; i < n * group; i++) {
                double want[256] = {0};
                attend_plainly(page, coded, &layout, heads, h, dim, first + i / group, q + (size_t)i * dim,
                               (double)scale, want);
                for (uint32_t d = 0; d < dim; d++)
                    if (!(fabs((double)out[(size_t)i * dim + d] - want[d]) <= 1e-5))
                        fail_msg("position %u, [%u] is %g, wanted %g", first + i / group, d,
                                 (double)out[(size_t)i * dim + d], want[d]);
            }
        }
        for (int p = 0; p < 5; p++)
            free(page[p]), free(coded[p]);
        free(q), free(out), free(scratch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_is_nearest_levels_and_the_least_squares_norm),
        cmocka_unit_test(a_block_that_is_not_finite_reads_as_nan),
        cmocka_unit_test(a_page_takes_the_bytes_of_the_formula),
        cmocka_unit_test(attention_in_rotated_space_is_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
