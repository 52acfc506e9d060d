/* kernels/codebook.c and kernels/hlwq.c against the author's own output, and against themselves. */
#include "kernels/hlwq.h"
#include "kernels/numeric.h"
#include "tests/support/safetensors.h"

#include <math.h>

static hs_codebook book_of(hs_book_kind kind, uint32_t bits)
{
    hs_codebook book;
    hlwq_error err;
    float level[256];
    hs_book_levels(kind, bits, level);
    CHECK_OK(hs_codebook_init(&book, bits, level, &err), err);
    return book;
}

static void books_equal_the_authors(void **state)
{
    (void)state;
    st_file *f = st_open(golden("hlwq/codebooks.safetensors"));
    for (uint32_t bits = 1; bits <= 8; bits++)
        for (int kind = 0; kind < 2; kind++) {
            char name[64];
            uint64_t bytes;
            float level[256];
            snprintf(name, sizeof name, "variant%c_f32_q%u", kind ? 'B' : 'A', bits);
            const float *want = st_raw(f, name, &bytes);
            hs_book_levels(kind ? HS_BOOK_B : HS_BOOK_A, bits, level);
            for (uint32_t i = 0; i < 1u << bits; i++)
                if (level[i] != want[i])
                    fail_msg("%s[%u] is %a, wanted %a", name, i, (double)level[i], (double)want[i]);
        }
    for (uint32_t bits = 1; bits <= 6; bits++) {
        char name[64];
        float level[256];
        snprintf(name, sizeof name, "converged_f64_q%u", bits);
        const double *want = st_raw(f, name, NULL);
        hs_book_levels(HS_BOOK_CONVERGED, bits, level);
        for (uint32_t i = 0; i < 1u << bits; i++)
            assert_true(fabs(level[i] - want[i]) < 1e-6);
    }
    st_close(f);
}

static void rotation_is_the_sylvester_hadamard_matrix(void **state)
{
    (void)state;
    st_file *f = st_open(golden("hlwq/codebooks.safetensors"));
    for (uint32_t n = 64; n <= 256; n *= 2) {
        char name[64];
        snprintf(name, sizeof name, "hadamard_sign_n%u", n);
        const uint8_t *want = st_raw(f, name, NULL);
        for (uint32_t i = 0; i < n; i++) {
            float x[256] = {0};
            x[i] = 1.0f;
            hs_wht(x, n);
            for (uint32_t j = 0; j < n; j++) {
                bool negative = __builtin_popcount(i & j) & 1;
                assert_true(x[j] == (negative ? -1.0f : 1.0f));
                assert_int_equal(want[i * (n / 8) + j / 8] >> (j % 8) & 1, !negative);
            }
        }
    }
    st_close(f);
}

/* Published half-integer tables of the converged books (specs/performance.md 7.1). */
static void integer_tables_are_the_published_ones(void **state)
{
    (void)state;
    static const uint16_t k[4][16] = {{35, 118},
                                      {12, 38, 68, 109},
                                      {5, 16, 27, 39, 52, 67, 86, 114},
                                      {2, 7, 12, 17, 22, 28, 33, 39, 45, 52, 59, 67, 76, 87, 101, 122}};
    static const double step[4] = {0.012747, 0.019635, 0.023900, 0.026523};
    for (uint32_t bits = 2; bits <= 5; bits++) {
        hs_codebook b = book_of(HS_BOOK_CONVERGED, bits);
        for (uint32_t m = 0; m < 1u << (bits - 1); m++)
            assert_int_equal(b.k[m], k[bits - 2][m]);
        assert_true(fabs(b.step - step[bits - 2]) < 1.1e-6);
    }
    hs_codebook b = book_of(HS_BOOK_CONVERGED, 6);
    for (uint32_t m = 0; m < 32; m++)
        assert_true(fabs((b.k[m] + 0.5) * b.step - b.level[32 + m]) <
                    1.5e-4); /* half a step, and the rounding of the step at the top */
}

static void bad_levels_are_refused(void **state)
{
    (void)state;
    hs_codebook b;
    hlwq_error err;
    float level[64];
    hs_book_levels(HS_BOOK_CONVERGED, 3, level);
    level[2] = NAN;
    CHECK_FAILS(hs_codebook_init(&b, 3, level, &err), HLWQ_ERR_FORMAT, err, "level 2");
    hs_book_levels(HS_BOOK_CONVERGED, 3, level);
    level[7] = 2.0f;
    CHECK_FAILS(hs_codebook_init(&b, 3, level, &err), HLWQ_ERR_FORMAT, err, "mirror");
    hs_book_levels(HS_BOOK_CONVERGED, 3, level);
    level[5] = level[6];
    level[2] = level[1];
    CHECK_FAILS(hs_codebook_init(&b, 3, level, &err), HLWQ_ERR_FORMAT, err, "not above");
    CHECK_FAILS(hs_codebook_init(&b, 7, level, &err), HLWQ_ERR_FORMAT, err, "7 bits");
}

/* Structured rows (constant, alternating) rotate to exact zeros, where the sum's rounding noise decides between two
 * levels. */
static bool tied(const hs_codebook *book, const float *v, int j, uint8_t a, uint8_t b)
{
    float r[128];
    double square = 0;
    memcpy(r, v, sizeof r);
    for (int i = 0; i < 128; i++)
        square += (double)v[i] * v[i];
    hs_wht(r, 128);
    double x = r[j] / sqrt(square);
    return fabs(fabs(x - book->level[a]) - fabs(x - book->level[b])) < 1e-5;
}

/* Encodes a fixture matrix and compares codes, norms and decoded values with what the author's quantiser made of it. */
static void compare(st_file *in, st_file *out, const char *matrix, uint32_t bits, hs_book_kind kind, const char *tag,
                    const char *codes_suffix, const char *norms_suffix)
{
    char name[96];
    const hs_st_entry *shape = st_need(in, matrix);
    uint64_t rows = shape->dim[0], cols = shape->dim[1], blocks = (cols + 127) / 128;
    const float *w = st_raw(in, matrix, NULL);
    hs_codebook book = book_of(kind, bits);
    snprintf(name, sizeof name, "%s.%s%u%s", matrix, tag, bits, codes_suffix);
    if (!st_find(out, name))
        return;
    const uint8_t *codes = st_raw(out, name, NULL);
    snprintf(name, sizeof name, "%s.%s%u%s", matrix, tag, bits, norms_suffix);
    const uint16_t *norms = st_raw(out, name, NULL);
    snprintf(name, sizeof name, "%s.%s%u.deq_f32", matrix, tag, bits);
    const float *deq = st_find(out, name) ? st_raw(out, name, NULL) : NULL; /* not for the edge cases */
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t b = 0; b < blocks; b++) {
            float v[128] = {0}, back[128];
            uint8_t code[128];
            uint16_t norm;
            hlwq_error err;
            uint64_t n = cols - b * 128 < 128 ? cols - b * 128 : 128;
            memcpy(v, w + r * cols + b * 128, n * 4);
            CHECK_OK(hs_encode_block(&book, v, false, code, &norm, &err), err);
            const uint8_t *want = codes + (r * blocks + b) * 128;
            for (int j = 0; j < 128; j++)
                if (code[j] != want[j] && !tied(&book, v, j, code[j], want[j]))
                    fail_msg("%s %s%u row %d block %d code %d is %d, wanted %d", matrix, tag, bits, (int)r, (int)b, j,
                             code[j], want[j]);
            assert_int_equal(norm, norms[r * blocks + b]);
            if (!deq)
                continue;
            hs_decode_block(&book, code, norm, back);
            float limit = 1e-6f * hs_f16_to_f32(norm);
            for (uint64_t j = 0; j < 128; j++) {
                float wanted = deq[(r * blocks + b) * 128 + j];
                if (!(fabsf(back[j] - wanted) <= limit) && !(isnan(back[j]) && isnan(wanted)) && isfinite(wanted))
                    fail_msg("%s %s%u value %d is %g, wanted %g", matrix, tag, bits, (int)j, (double)back[j],
                             (double)wanted);
            }
        }
}

static void codes_and_norms_equal_the_authors(void **state)
{
    (void)state;
    static const char *const matrix[] = {"w8x256", "w5x300", "wedge8x256"};
    st_file *in = st_open(golden("hlwq/weights_in.safetensors"));
    st_file *a = st_open(golden("hlwq/polarengine_quant.safetensors"));
    st_file *b = st_open(golden("hlwq/pq_multi.safetensors"));
    for (int m = 0; m < 3; m++)
        for (uint32_t bits = 2; bits <= 6; bits++) {
            compare(in, a, matrix[m], bits, HS_BOOK_A, "q", ".codes", ".norms");
            compare(in, b, matrix[m], bits, HS_BOOK_B, "pq", ".codes_u8", "__norms");
        }
    st_close(in);
    st_close(a);
    st_close(b);
}

static void bit_streams_equal_the_authors(void **state)
{
    (void)state;
    st_file *b = st_open(golden("hlwq/pq_multi.safetensors"));
    for (uint32_t bits = 2; bits <= 6; bits++) {
        char name[64];
        uint64_t n, bytes;
        snprintf(name, sizeof name, "w8x256.pq%u.codes_u8", bits);
        const uint8_t *codes = st_raw(b, name, &n);
        snprintf(name, sizeof name, "w8x256.pq%u__packed", bits);
        const uint8_t *packed = st_raw(b, name, &bytes);
        uint8_t out[4096], back[4096];
        assert_int_equal(bytes, n * bits / 8);
        hs_pack_msb(codes, bits, n, out);
        assert_memory_equal(out, packed, bytes);
        hs_unpack_msb(packed, bits, n, back);
        assert_memory_equal(back, codes, n);
    }
    st_close(b);
    st_file *a = st_open(golden("hlwq/polarengine_quant.safetensors"));
    uint64_t n, bytes;
    const uint8_t *codes = st_raw(a, "w8x256.q5.codes", &n), *lsb = st_raw(a, "w8x256.q5.codes_q5_lsb", &bytes);
    uint8_t out[4096], back[4096];
    hs_pack_lsb(codes, 5, n, out);
    assert_memory_equal(out, lsb, bytes);
    hs_unpack_lsb(lsb, 5, n, back);
    assert_memory_equal(back, codes, n);
    st_close(a);
}

static uint64_t seed = 0x9E3779B97F4A7C15u;

static uint32_t random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}

static float gaussian(void)
{
    float s = 0;
    for (int i = 0; i < 12; i++)
        s += (float)(random_bits() >> 8) * 0x1p-24f;
    return s - 6.0f;
}

/* Any number of codes, from a buffer that ends with them. */
static void bit_streams_of_any_length_come_back(void **state)
{
    (void)state;
    for (uint32_t bits = 1; bits <= 8; bits++)
        for (uint64_t n = 0; n < 200; n += n < 40 ? 1 : 7) {
            uint8_t code[200], back[200];
            const uint64_t bytes = (n * bits + 7) / 8;
            uint8_t *stream = malloc(bytes ? bytes : 1);
            assert_non_null(stream);
            for (uint64_t i = 0; i < n; i++)
                code[i] = (uint8_t)(random_bits() & ((1u << bits) - 1));
            hs_pack_msb(code, bits, n, stream);
            hs_unpack_msb(stream, bits, n, back);
            assert_memory_equal(back, code, n);
            hs_pack_lsb(code, bits, n, stream);
            hs_unpack_lsb(stream, bits, n, back);
            assert_memory_equal(back, code, n);
            free(stream);
        }
}

static void packing_is_a_bijection(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++)
        for (uint32_t bits = 2; bits <= 6; bits++) {
            uint8_t code[128], low[64], high[32], back[128];
            for (int j = 0; j < 128; j++)
                code[j] = (uint8_t)(random_bits() & ((1u << bits) - 1));
            hs_pack_block(hs_dtype_of_bits(bits), code, low, high);
            hs_unpack_block(hs_dtype_of_bits(bits), low, high, back);
            assert_memory_equal(code, back, 128);
        }
    /* One weight at a time, at the documented place. */
    for (uint32_t j = 0; j < 128; j++) {
        uint8_t code[128], low[64], high[32];
        memset(code, 16, sizeof code); /* magnitude 0, positive */
        code[j] = 0;                   /* magnitude 15, negative */
        hs_pack_block(HS_Q5, code, low, high);
        for (uint32_t b = 0; b < 64; b++)
            assert_int_equal(low[b], b == j % 64 ? (j < 64 ? 0x0F : 0xF0) : 0);
        uint32_t i = j % 64 / 16, c = j % 16, byte = 4 * i + 2 * (c & 1) + (j >= 64);
        for (uint32_t b = 0; b < 16; b++)
            assert_int_equal(high[b], b == byte ? 1u << (7 - (c >> 1)) : 0);
    }
}

/* Weights of blocks of all sorts: ordinary, tiny, zero, large, of a few values on the bounds of levels. */
static float some_weight(uint32_t block)
{
    switch (block % 7) {
    case 0: return 0.0f;
    case 1: return gaussian() * 1e-12f;
    case 2: return gaussian() * 100.0f;
    case 3: return (float)(random_bits() % 3) - 1.0f;
    default: return gaussian() * 0.02f;
    }
}

static void rows_are_encoded_as_their_blocks_are(void **state)
{
    (void)state;
    static const uint32_t width[] = {64, 128, 200, 384, 512, 1000, 2048, 2304};
    static float w[5 * 2304];
    static uint8_t got[16384], want[16384];
    for (uint32_t bits = 2; bits <= 6; bits++) {
        hs_codebook book = book_of(bits == 5 ? HS_BOOK_B : HS_BOOK_CONVERGED, bits);
        hs_dtype dtype = hs_dtype_of_bits(bits);
        for (size_t k = 0; k < sizeof width / sizeof *width; k++) {
            const uint32_t cols = width[k], rows = 5;
            hs_planes p;
            hlwq_error err;
            assert_true(hs_planes_of(dtype, rows, cols, &p) && p.bytes <= sizeof got);
            memset(got, 0, sizeof got);
            memset(want, 0, sizeof want);
            for (uint32_t i = 0; i < rows * cols; i++)
                w[i] = some_weight(i / cols * p.blocks + i % cols / 128);
            CHECK_OK(hs_encode_rows(dtype, &book, w, 0, 2, rows, cols, got, &err), err);
            CHECK_OK(hs_encode_rows(dtype, &book, w + 2 * cols, 2, 3, rows, cols, got, &err), err);
            for (uint64_t at = 0; at < rows * p.blocks; at++) {
                const uint64_t c = at % p.blocks * 128, n = cols - c < 128 ? cols - c : 128;
                float v[128] = {0};
                uint8_t code[128];
                uint16_t norm;
                memcpy(v, w + at / p.blocks * cols + c, n * sizeof *v);
                CHECK_OK(hs_encode_block(&book, v, true, code, &norm, &err), err);
                hs_pack_block(dtype, code, want + p.low + at * p.low_block, want + p.high + at * p.high_block);
                memcpy(want + p.norms + at * 2, &norm, 2);
            }
            assert_memory_equal(got, want, p.bytes);
        }
    }
}

/* In whichever of sixteen blocks it is. */
static void a_weight_that_is_no_number_is_found_among_others(void **state)
{
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e9f};
    static float w[2048];
    static uint8_t part[4096];
    hs_codebook book = book_of(HS_BOOK_CONVERGED, 5);
    for (uint32_t block = 0; block < 16; block++)
        for (size_t k = 0; k < sizeof odd / sizeof *odd; k++) {
            hlwq_error err;
            for (uint32_t i = 0; i < 2048; i++)
                w[i] = gaussian();
            w[block * 128 + random_bits() % 128] = odd[k];
            CHECK_FAILS(hs_encode_rows(HS_Q5, &book, w, 0, 1, 1, 2048, part, &err), HLWQ_ERR_FORMAT, err, "norm");
        }
}

static void refit_never_makes_a_block_worse(void **state)
{
    (void)state;
    for (uint32_t bits = 2; bits <= 6; bits++) {
        hs_codebook book = book_of(HS_BOOK_CONVERGED, bits);
        for (int round = 0; round < 100; round++) {
            float v[128], plain[128], fitted[128];
            uint8_t code[128];
            uint16_t norm;
            hlwq_error err;
            double e0 = 0, e1 = 0;
            for (int j = 0; j < 128; j++)
                v[j] = gaussian() * 0.02f;
            CHECK_OK(hs_encode_block(&book, v, false, code, &norm, &err), err);
            hs_decode_block(&book, code, norm, plain);
            CHECK_OK(hs_encode_block(&book, v, true, code, &norm, &err), err);
            hs_decode_block(&book, code, norm, fitted);
            for (int j = 0; j < 128; j++) {
                e0 += (v[j] - plain[j]) * (double)(v[j] - plain[j]);
                e1 += (v[j] - fitted[j]) * (double)(v[j] - fitted[j]);
            }
            assert_true(e1 <= e0 * 1.0005); /* rounding of the norm to fp16 may cost that much */
        }
    }
}

static void weights_that_are_not_numbers_are_refused(void **state)
{
    (void)state;
    hs_codebook book = book_of(HS_BOOK_CONVERGED, 5);
    float v[128] = {0};
    uint8_t code[128];
    uint16_t norm;
    hlwq_error err;
    CHECK_OK(hs_encode_block(&book, v, true, code, &norm, &err), err);
    assert_int_equal(norm, 0);
    assert_int_equal(code[0], 15);
    v[3] = NAN;
    CHECK_FAILS(hs_encode_block(&book, v, true, code, &norm, &err), HLWQ_ERR_FORMAT, err, "norm");
    v[3] = INFINITY;
    CHECK_FAILS(hs_encode_block(&book, v, true, code, &norm, &err), HLWQ_ERR_FORMAT, err, "norm");
    v[3] = 1e6f;
    CHECK_FAILS(hs_encode_block(&book, v, true, code, &norm, &err), HLWQ_ERR_FORMAT, err, "65504");
}

/* The definition, by walking over all levels. */
static uint8_t walk(const hs_codebook *book, float r)
{
    uint32_t i = 0, last = (1u << book->bits) - 1;
    while (i < last && fabsf(r - book->level[i + 1]) < fabsf(r - book->level[i]))
        i++;
    return (uint8_t)i;
}

static void the_nearest_level_is_found_at_every_bound(void **state)
{
    (void)state;
    static const float far[] = {0.0f, -0.0f, 1e-30f, -1e-30f, 11.4f, -11.4f}; /* a block of norm 1 has no more */
    for (int kind = HS_BOOK_A; kind <= HS_BOOK_CONVERGED; kind++)
        for (uint32_t bits = 2; bits <= 6; bits++) {
            float level[64];
            hs_codebook book;
            hlwq_error e;
            hs_book_levels((hs_book_kind)kind, bits, level);
            CHECK_OK(hs_codebook_init(&book, bits, level, &e), e);
            for (uint32_t i = 0; i + 1 < 1u << bits; i++) {
                float r = level[i] / 2 + level[i + 1] / 2;
                for (int k = 0; k < 8; k++)
                    r = nextafterf(r, -INFINITY);
                for (int k = 0; k < 16; k++, r = nextafterf(r, INFINITY))
                    assert_int_equal(hs_nearest_level(&book, r), walk(&book, r));
            }
            for (size_t i = 0; i < sizeof far / sizeof *far; i++)
                assert_int_equal(hs_nearest_level(&book, far[i]), walk(&book, far[i]));
            for (int i = -40000; i <= 40000; i++)
                assert_int_equal(hs_nearest_level(&book, (float)i * 1e-4f), walk(&book, (float)i * 1e-4f));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nearest_level_is_found_at_every_bound),
        cmocka_unit_test(books_equal_the_authors),
        cmocka_unit_test(rotation_is_the_sylvester_hadamard_matrix),
        cmocka_unit_test(integer_tables_are_the_published_ones),
        cmocka_unit_test(bad_levels_are_refused),
        cmocka_unit_test(codes_and_norms_equal_the_authors),
        cmocka_unit_test(bit_streams_equal_the_authors),
        cmocka_unit_test(bit_streams_of_any_length_come_back),
        cmocka_unit_test(packing_is_a_bijection),
        cmocka_unit_test(rows_are_encoded_as_their_blocks_are),
        cmocka_unit_test(a_weight_that_is_no_number_is_found_among_others),
        cmocka_unit_test(refit_never_makes_a_block_worse),
        cmocka_unit_test(weights_that_are_not_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
