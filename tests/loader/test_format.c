/* docs/format.md: its worked examples, read out of the page. */
#include "kernels/hlwq.h"
#include "kernels/int4.h"
#include "loader/container_private.h"
#include "tests/support/check.h"

#include <math.h>

static char page[64 << 10];

/* The text of the fenced block that begins with ```LABEL. */
static const char *block(const char *label)
{
    if (!*page) {
        FILE *f = fopen("docs/format.md", "rb");
        assert_non_null(f);
        page[fread(page, 1, sizeof page - 1, f)] = 0;
        fclose(f);
    }
    char fence[64];
    snprintf(fence, sizeof fence, "```%s\n", label);
    const char *at = strstr(page, fence);
    if (!at)
        fail_msg("docs/format.md has no block %s", label);
    return at + strlen(fence);
}

static size_t hex(const char *label, uint8_t *out, size_t max)
{
    const char *p = block(label);
    size_t n = 0;
    for (unsigned v; *p != '`' && n < max && sscanf(p, " %2x", &v) == 1; n++) {
        out[n] = (uint8_t)v;
        p += strspn(p, " \n") + 2;
        p += strspn(p, " \n");
    }
    return n;
}

static void header_example_is_what_the_program_writes(void **state)
{
    (void)state;
    uint8_t want[64], got[HS_HEADER_BYTES];
    assert_int_equal(hex("hex header", want, 64), 64);
    hs_header h = {1, 999424, 4096, 3072, 0x0123456789abcdefu, 999424 - 3072}, back;
    hlwq_error err;
    hs_header_encode(&h, got);
    assert_memory_equal(got, want, 64);
    CHECK_OK(hs_header_decode(&back, got, "example", &err), err);
    assert_true(back.version == h.version && back.file_bytes == h.file_bytes && back.index_offset == h.index_offset &&
                back.index_bytes == h.index_bytes && back.index_hash == h.index_hash &&
                back.tail_offset == h.tail_offset);
}

static void block_example_decodes_to_the_printed_weights(void **state)
{
    (void)state;
    uint8_t low[64], high[16], code[HS_BLOCK];
    float level[64], w[HS_BLOCK];
    hs_codebook book;
    hlwq_error err;
    assert_int_equal(hex("hex q5-low", low, 64), 64);
    assert_int_equal(hex("hex q5-high", high, 16), 16);
    hs_unpack_block(HS_Q5, low, high, code);
    for (int j = 0; j < HS_BLOCK; j++)
        assert_int_equal(code[j], (7 * j + j / 3) % 32);
    hs_book_levels(HS_BOOK_CONVERGED, 5, level);
    CHECK_OK(hs_codebook_init(&book, 5, level, &err), err);
    hs_decode_block(&book, code, 0x3e00, w);
    char *p = (char *)(uintptr_t)block("text q5-weights");
    for (int j = 0; j < 16; j++) {
        double want = strtod(p, &p);
        if (fabs(w[j] - want) > 1e-6)
            fail_msg("weight %d is %f, the page says %f", j, (double)w[j], want);
    }
}

static void int4_example_decodes_to_the_printed_weights(void **state)
{
    (void)state;
    uint8_t part[192] = {0}, code[HS_BLOCK];
    float w[HS_BLOCK];
    hs_planes p;
    assert_true(hs_planes_of(HS_I4G64Z, 1, HS_BLOCK, &p) && p.bytes == sizeof part);
    assert_int_equal(hex("hex i4-low", part, 64), 64);
    assert_int_equal(hex("hex i4-scales", part + p.norms, 4), 4);
    assert_int_equal(hex("hex i4-zeros", part + p.zeros, 2), 2);
    hs_int4_unpack_block(part, code);
    for (int j = 0; j < HS_BLOCK; j++)
        assert_int_equal(code[j], (5 * j + j / 7) % 16);
    hs_decode_row(HS_I4G64Z, NULL, part, 1, HS_BLOCK, 0, w);
    char *at = (char *)(uintptr_t)block("text i4-weights");
    for (int j = 0; j < 16; j++) {
        double want = strtod(at, &at);
        assert_true(w[j < 8 ? j : 56 + j] == (float)want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_example_is_what_the_program_writes),
        cmocka_unit_test(block_example_decodes_to_the_printed_weights),
        cmocka_unit_test(int4_example_decodes_to_the_printed_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
