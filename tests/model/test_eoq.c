/* loader/formats/eoq.c, offload/store_codes.c: layers of EOQ v3, where their levels are, and which bits come first. */
#include "offload/store_codes.h"
#include "tests/support/hf_folder.h"

enum { ROWS = 4, COLS = 256, BLOCKS = ROWS * COLS / 128, BITS = 5 };

typedef struct layer {
    uint8_t packed[BLOCKS * 16 * BITS];
    uint16_t norms[BLOCKS], awq[COLS];
    float level[32];
    bool in_metadata;
} layer;

/* Codes of weights drawn at random, packed from either end. */
static void make_layer(layer *l, bool msb)
{
    static uint8_t code[BLOCKS * 128];
    hs_codebook book;
    *l = (layer){0};
    hs_book_levels(HS_BOOK_A, BITS, l->level);
    CHECK_OK(hs_codebook_init(&book, BITS, l->level, &err), err);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        float v[128];
        for (uint32_t i = 0; i < 128; i++)
            v[i] = tiny_weight(b + 1, i, 1.0f, 0) + tiny_weight(b + 99, i, 1.0f, 0);
        CHECK_OK(hs_encode_block(&book, v, false, code + b * 128, &l->norms[b], &err), err);
    }
    (msb ? hs_pack_msb : hs_pack_lsb)(code, BITS, sizeof code, l->packed);
    for (uint32_t i = 0; i < COLS; i++)
        l->awq[i] = hs_f32_to_f16(0.25f + (float)i / COLS);
}

static hlwq_status list(const layer *l)
{
    folder_st f = {0};
    hs_text_format(&f.header, "{\"__metadata__\":{\"format\":\"pt\"");
    if (l->in_metadata) {
        hs_text_format(&f.header, ",\"centroids\":\"[");
        for (int i = 0; i < 32; i++)
            hs_text_format(&f.header, "%s%.9g", i ? "," : "", (double)l->level[i]);
        hs_text_format(&f.header, "]\"");
    }
    hs_text_format(&f.header, "}");
    folder_put(&f, "model.layers.0.mlp.up_proj.packed", "U8", "[640]", l->packed, sizeof l->packed);
    folder_put(&f, "model.layers.0.mlp.up_proj.norms", "F16", "[8]", l->norms, sizeof l->norms);
    folder_put(&f, "model.layers.0.mlp.up_proj.awq_scales", "F16", "[256]", l->awq, sizeof l->awq);
    folder_write(&f);
    return folder_list();
}

/* As the store does it. */
static hlwq_status settle(void)
{
    hs_levels book = hf.book[0];
    if (book.author)
        hs_book_levels(book.author == 'A' ? HS_BOOK_A : HS_BOOK_B, book.bits, book.level);
    return hs_store_settle_order(&hf, &book, &err);
}

static void codes_tell_from_which_end_they_are_read(void **state)
{
    (void)state;
    for (int msb = 0; msb < 2; msb++) {
        layer l;
        make_layer(&l, msb);
        CHECK_OK(list(&l), err);
        assert_int_equal(hf.n_tensors, 1);
        assert_string_equal(hf.tensor[0].name, "layers.0.mlp.up_proj.weight");
        assert_int_equal(hf.book[0].author, 'A'); /* no levels anywhere */
        CHECK_OK(settle(), err);
        assert_int_equal(hf.tensor[0].packing, msb ? HS_PACK_MSB : HS_PACK_LSB);
    }
}

static void codes_that_are_noise_either_way_are_refused(void **state)
{
    (void)state;
    layer l;
    make_layer(&l, false);
    for (size_t i = 0; i < sizeof l.packed; i++)
        l.packed[i] = (uint8_t)(i * 167 + i / 3 * 29);
    CHECK_OK(list(&l), err);
    CHECK_FAILS(settle(), HLWQ_ERR_FORMAT, err, "layers.0.mlp.up_proj");
    assert_non_null(strstr(err.message, "model.safetensors"));
}

static void levels_of_the_metadata_are_taken_and_checked(void **state)
{
    (void)state;
    layer l;
    make_layer(&l, false);
    l.in_metadata = true;
    CHECK_OK(list(&l), err);
    assert_int_equal(hf.book[0].author, 0);
    assert_memory_equal(hf.book[0].level, l.level, sizeof l.level);
    l.level[3] = l.level[4];
    CHECK_FAILS(list(&l), HLWQ_ERR_FORMAT, err, "ascending");
    assert_non_null(strstr(err.message, "model.safetensors"));
}

static void scales_must_be_above_zero_and_finite(void **state)
{
    (void)state;
    static const uint16_t bad[] = {0, 0x8000, 0xBC00, 0x7C00, 0x7E00};
    float factor[COLS];
    layer l;
    make_layer(&l, false);
    CHECK_OK(list(&l), err);
    CHECK_OK(hs_hf_read_factors(&hf, &hf.tensor[0], COLS, factor, &err), err);
    for (uint32_t i = 0; i < COLS; i++)
        assert_true(factor[i] == 1.0f / hs_f16_to_f32(l.awq[i]));
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        l.awq[77] = bad[k];
        CHECK_OK(list(&l), err);
        CHECK_FAILS(hs_hf_read_factors(&hf, &hf.tensor[0], COLS, factor, &err), HLWQ_ERR_FORMAT, err, "awq_scales[77]");
        assert_non_null(strstr(err.message, "model.safetensors"));
    }
}

static void sizes_that_do_not_agree_are_refused(void **state)
{
    (void)state;
    static const char *const c[][3] = {
        {"packed\":{\"dtype\":\"U8\"", "packed\":{\"dtype\":\"I8\"", "should be U8"},
        {"norms\":{\"dtype\":\"F16\"", "norms\":{\"dtype\":\"BF16\"", "should be F16"},
        {"up_proj.norms", "up_proj.nroms", "norms"},
        {"\"F16\",\"shape\":[256]", "\"F16\",\"shape\":[2,128]", "vector of F16"},
        {"up_proj.packed", "up_proj.pakced", "no .packed"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        layer l;
        make_layer(&l, false);
        CHECK_OK(list(&l), err);
        edit_header(dir, "model.safetensors", c[i][0], c[i][1]);
        CHECK_FAILS(folder_list(), HLWQ_ERR_FORMAT, err, c[i][2]);
        assert_non_null(strstr(err.message, "up_proj"));
    }
}

static int setup(void **state)
{
    (void)state;
    return folder_open("eoq", 64u << 20);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, folder_teardown)
    const struct CMUnitTest tests[] = {
        TEST(codes_tell_from_which_end_they_are_read),      TEST(codes_that_are_noise_either_way_are_refused),
        TEST(levels_of_the_metadata_are_taken_and_checked), TEST(scales_must_be_above_zero_and_finite),
        TEST(sizes_that_do_not_agree_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
