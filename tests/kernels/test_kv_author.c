/* kernels/kv_author.c against the author's own output. */
#include "kernels/kv_author.h"
#include "tests/support/safetensors.h"

/* Vectors first.. of x [..][dim] are what `packed`, `norms` say, and come back as `back` has them. */
static void check(const char *what, uint32_t bits, uint32_t dim, uint32_t n, const uint16_t *x, const uint8_t *packed,
                  const uint16_t *norms, const uint16_t *back)
{
    uint32_t bytes = dim * bits / 8;
    for (uint32_t i = 0; i < n; i++) {
        float v[256];
        uint8_t got[128];
        uint16_t norm, decoded[256];
        hs_to_f32(v, x + (size_t)i * dim, HS_BF16, dim);
        hs_kv_author_encode(bits, dim, v, got, &norm);
        if (norm != norms[i] || memcmp(got, packed + (size_t)i * bytes, bytes) != 0)
            fail_msg("%s: vector %u is coded otherwise, norm %04x against %04x", what, i, norm, norms[i]);
        hs_kv_author_decode(bits, dim, packed + (size_t)i * bytes, norms[i], decoded);
        for (uint32_t j = 0; j < dim; j++)
            if (decoded[j] != back[(size_t)i * dim + j])
                fail_msg("%s: vector %u comes back as %04x at %u, wanted %04x", what, i, decoded[j], j,
                         back[(size_t)i * dim + j]);
    }
}

static void every_width_and_format_equals_the_authors(void **state)
{
    (void)state;
    st_file *f = st_open(golden("hlwq/kv_cache.safetensors"));
    for (uint32_t dim = 64; dim <= 256; dim *= 2)
        for (uint32_t bits = 2; bits <= 4; bits++) {
            char name[4][64];
            snprintf(name[0], 64, "hd%u.x_bf16", dim);
            snprintf(name[1], 64, "hd%u.q%u.packed", dim, bits);
            snprintf(name[2], 64, "hd%u.q%u.norms_bf16", dim, bits);
            snprintf(name[3], 64, "hd%u.q%u.deq_bf16", dim, bits);
            check(name[1], bits, dim, 12, st_raw(f, name[0], NULL), st_raw(f, name[1], NULL), st_raw(f, name[2], NULL),
                  st_raw(f, name[3], NULL));
        }
    st_close(f);
}

/* A window of 4: of 10 tokens the first 6 are coded, in order, the others stay. */
static void what_left_the_window_is_coded_in_order(void **state)
{
    (void)state;
    st_file *f = st_open(golden("hlwq/kv_cache.safetensors"));
    const uint16_t *seq = st_raw(f, "residual.seq_bf16", NULL), *out = st_raw(f, "residual.after_all10_bf16", NULL);
    check("residual", 3, 128, 6, seq, st_raw(f, "residual.packed", NULL), st_raw(f, "residual.norms_bf16", NULL), out);
    assert_memory_equal(out + 6 * 128, seq + 6 * 128, 4 * 128 * sizeof *seq);
    st_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_width_and_format_equals_the_authors),
        cmocka_unit_test(what_left_the_window_is_coded_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
