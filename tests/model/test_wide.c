/*
 * loader/formats/wide.c: FP8 in squares and EOQ's absmax codes.  EOQ's are the author's; FP8 is compared with its
 * definition, written out once more.
 */
#include "offload/store_wide.h"
#include "tests/support/safetensors.h"

#include "tests/support/hf_folder.h" /* after it: has names of its own */

#include <math.h>

static void read_matrix(const hs_tensor *t, uint64_t rows, uint64_t cols, float *out)
{
    hs_source s = {t, 0, rows, cols};
    uint64_t step = hs_hf_wide_bytes(t, cols);
    uint8_t *raw = malloc(rows * step);
    float *row = malloc(2 * cols * sizeof *row);
    CHECK_OK(hs_hf_read_wide(&hf, &s, 0, rows, raw, &err), err);
    for (uint64_t r = 0; r < rows; r++) {
        hs_hf_widen(&s, r, raw + r * step, row);
        memcpy(out + r * cols, row, cols * sizeof *row);
    }
    free(row);
    free(raw);
}

/* Every matrix of the mixed-bit file that is whole blocks, and two that are not. */
static void eoq_codes_are_what_the_author_makes_of_them(void **state)
{
    (void)state;
    size_t bytes;
    uint32_t compared = 0;
    char *data = edit_read("tests/golden/hlwq", "eoq_mixed.safetensors", &bytes);
    tiny_file(dir, "model.safetensors", data, bytes);
    free(data);
    st_file *want = st_open("tests/golden/hlwq/eoq_mixed.safetensors");
    /* Streams that end inside a block do not say how long they are. */
    edit_header(dir, "model.safetensors", "model.layers.0.mlp.down_proj.weight.codes", "model.visual.d.codes");
    edit_header(dir, "model.safetensors", "model.layers.0.mlp.down_proj.weight.scales", "model.visual.d.scales");
    CHECK_OK(folder_list(), err);
    for (uint32_t i = 0; i < hf.n_tensors; i++) {
        const hs_tensor *t = &hf.tensor[i];
        char key[200];
        if (!hs_tensor_widened(t))
            continue;
        snprintf(key, sizeof key, "expected.%s%s", strncmp(t->name, "lm_head", 7) == 0 ? "" : "model.", t->name);
        const hs_st_entry *e = st_need(want, key);
        uint64_t n;
        float *right = st_f32(want, key, &n), *got = malloc(n * sizeof *got);
        assert_int_equal(t->dim[0], n);
        read_matrix(t, e->dim[0], e->dim[1], got);
        for (uint64_t k = 0; k < n; k++)
            if (got[k] != right[k])
                fail_msg("%s weight %u is %g, should be %g", t->name, (unsigned)k, (double)got[k], (double)right[k]);
        free(right);
        free(got);
        compared++;
    }
    assert_int_equal(compared, 9);
    st_close(want);
}

/* M.weight of 200 x 300, every byte in use, and its scales; `shape` is of those. */
static void write_fp8(const char *dtype, const char *shape, const float *scale, size_t n_scales)
{
    static uint8_t w[200 * 300];
    folder_st f = {0};
    for (size_t i = 0; i < sizeof w; i++)
        w[i] = (uint8_t)((i * 7 + i / 300) % 127 + (i % 2 ? 128 : 0)); /* all but the NaNs */
    folder_put(&f, "model.layers.0.mlp.up_proj.weight", dtype, "[200, 300]", w, sizeof w);
    folder_put(&f, "model.layers.0.mlp.up_proj.weight_scale_inv", "F32", shape, scale, n_scales * sizeof(float));
    folder_write(&f);
}

static void fp8_is_sign_exponent_and_mantissa_times_the_scale_of_its_square(void **state)
{
    (void)state;
    static const float scale[6] = {0.5f, 0.03125f, 1.7f, 3e-5f, 2.0f, 0.011f};
    static float got[200 * 300];
    write_fp8("F8_E4M3", "[2, 3]", scale, 6);
    CHECK_OK(folder_list(), err);
    assert_int_equal(hf.n_tensors, 1);
    assert_string_equal(hf.tensor[0].name, "layers.0.mlp.up_proj.weight");
    assert_string_equal(hf.format, "FP8 in squares of 128");
    read_matrix(&hf.tensor[0], 200, 300, got);
    for (uint32_t i = 0; i < 200 * 300; i++) {
        uint32_t v = (i * 7 + i / 300) % 127, r = i / 300, c = i % 300;
        double m = v < 8 ? v / 8.0 / 64 : (1 + v % 8 / 8.0) * pow(2, (int)(v / 8) - 7);
        float right = (float)(i % 2 ? -m : m) * scale[r / 128 * 3 + c / 128];
        if (got[i] != right)
            fail_msg("[%u, %u] is %g, should be %g", r, c, (double)got[i], (double)right);
    }
}

static void shapes_that_do_not_agree_are_refused(void **state)
{
    (void)state;
    static const float scale[6] = {1, 1, 1, 1, 1, 1};
    write_fp8("F8_E4M3", "[3, 2]", scale, 6);
    CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, "up_proj.weight_scale_inv");
    assert_non_null(strstr(err.message, "model.safetensors"));
    write_fp8("F8_E4M3", "[6]", scale, 6);
    CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, "[2, 3]");
    write_fp8("I8", "[2, 3]", scale, 6);
    CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, "F8_E4M3");
    write_fp8("F8_E4M3", "[2, 3]", scale, 6);
    edit_header(dir, "model.safetensors", "up_proj.weight\"", "up_proj.weigth\"");
    CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, "FP8");
}

/* The first tensor as a part of rows x cols; a failure names it and its file. */
static void is_not_finite(uint32_t rows, uint32_t cols)
{
    const hs_part part = {.role = HS_UP, .rows = rows, .cols = cols, .dtype = HS_F32};
    const hs_source source = {&hf.tensor[0], 0, rows, cols};
    hs_shelf shelf;
    uint8_t *out = malloc((size_t)rows * cols * sizeof(float));
    hs_shelf_open(&shelf, mem, HS_MEM_IO, 0);
    CHECK_FAILS(hs_store_wide(&hf, &shelf, &source, &part, NULL, NULL, out, &err), HLWQ_ERR_FORMAT, err, "not finite");
    assert_non_null(strstr(err.message, "model.safetensors: tensor layers.0.mlp.up_proj.weight"));
    hs_shelf_close(&shelf);
    free(out);
}

static void scales_and_weights_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static uint8_t code[256];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const float scale[6] = {1, 1, 1, 1, bad[i], 1};
        write_fp8("F8_E4M3", "[2, 3]", scale, 6);
        CHECK_OK(folder_list(), err);
        is_not_finite(200, 300);
    }
    static const float ones[6] = {1, 1, 1, 1, 1, 1};
    write_fp8("F8_E4M3", "[2, 3]", ones, 6);
    folder_patch(folder_offset("up_proj.weight") + 777, &(const uint8_t){0x7F}, 1); /* the type's own NaN */
    CHECK_OK(folder_list(), err);
    is_not_finite(200, 300);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const uint16_t scales[2] = {0x3C00, hs_f32_to_f16(bad[i])};
        folder_st f = {0};
        memset(code, 3, sizeof code);
        folder_put(&f, "model.layers.0.mlp.up_proj.weight.codes", "I8", "[256]", code, sizeof code);
        folder_put(&f, "model.layers.0.mlp.up_proj.weight.scales", "F16", "[2]", scales, sizeof scales);
        folder_write(&f);
        CHECK_OK(folder_list(), err);
        is_not_finite(2, 128);
    }
}

static int setup(void **state)
{
    (void)state;
    return folder_open("wide", 64u << 20);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, folder_teardown)
    const struct CMUnitTest tests[] = {
        TEST(eoq_codes_are_what_the_author_makes_of_them),
        TEST(fp8_is_sign_exponent_and_mantissa_times_the_scale_of_its_square),
        TEST(shapes_that_do_not_agree_are_refused),
        TEST(scales_and_weights_that_are_not_finite_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
