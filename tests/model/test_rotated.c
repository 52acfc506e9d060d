/* HLWQ and EOQ v3 checkpoints of whole models: every weight by its sums, rows one by one, logits, greedy text. */
#include "tests/support/run_model.h"

#include <unistd.h>

static const struct {
    const char *name, *format;
    uint32_t matrices;
    double limit; /* of the divergence from transformers' logits, eight-bit activations */
} model[] = {
    {"hlwq-models/hlwq-q5-dense", "HLWQ packed Q5", 26, 0.005},
    {"hlwq-models/hlwq-q5-moe", "HLWQ packed Q5", 132, 0.005},
    {"hlwq-models/eoq3-dense", "EOQ v3 Q5, AWQ scales", 27, 0.005},
    {"hlwq-models/eoq3-moe", "EOQ v3 Q5, AWQ scales", 123, 0.02},
};
enum { N_MODELS = sizeof model / sizeof *model };

/* Sums of a whole matrix, and where the fixture has it, every weight. */
static uint32_t check_part(hs_store *store, const hs_json *sums, const st_file *want, const hs_group *g,
                           uint32_t extent, const hs_part *p, const uint8_t *data)
{
    char key[300], whole[320];
    hs_part_name(key, sizeof key, g, extent, p->role);
    const hs_json *expected = hs_json_get(sums, key);
    if (!expected)
        return 0;
    const hs_codebook *book = hs_dtype_rotated(p->dtype) ? hs_store_book(store, p->book) : NULL;
    float *row = malloc(p->cols * sizeof *row), *right = NULL;
    double sum = 0, sum_abs = 0, largest = 0;
    snprintf(whole, sizeof whole, "deq.%s", key);
    if (st_find(want, whole))
        right = st_f32(want, whole, NULL);
    for (uint64_t i = 0; right && i < (uint64_t)p->rows * p->cols; i++)
        largest = fmax(largest, fabs((double)right[i]));
    for (uint32_t r = 0; r < p->rows; r++) {
        row_of(p, book, data, r, row);
        for (uint32_t c = 0; c < p->cols; c++) {
            sum += (double)row[c];
            sum_abs += fabs((double)row[c]);
            if (right && !(fabs((double)row[c] - (double)right[(uint64_t)r * p->cols + c]) <= 2e-6 * largest))
                fail_msg("%s [%u, %u] is %g, should be %g", key, r, c, (double)row[c],
                         (double)right[(uint64_t)r * p->cols + c]);
        }
    }
    double want_sum = hs_json_real(hs_json_get(expected, "sum"));
    double want_abs = hs_json_real(hs_json_get(expected, "sum_abs"));
    if (!(fabs(sum - want_sum) <= 1e-6 * want_abs) || !(fabs(sum_abs - want_abs) <= 1e-6 * want_abs))
        fail_msg("%s: sums %g and %g, should be %g and %g", key, sum, sum_abs, want_sum, want_abs);
    free(row);
    free(right);
    return 1;
}

static void every_matrix_has_its_sums(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        assert_int_equal(check_parts(model[i].name, model[i].format, "sums_of_dequantised_float32", check_part),
                         model[i].matrices);
}

static void logits_and_greedy_text_are_those_of_transformers(void **state)
{
    (void)state;
    for (int i = 2; i < N_MODELS; i++) { /* model.golden has the first two */
        char dir[4096], path[4200];
        find(model[i].name, "config.json", dir);
        snprintf(path, sizeof path, "%s/expected.safetensors", dir);
        st_file *want = st_open(path);
        check_logits(model[i].name, dir, 37, want, true);
        check_logits(model[i].name, dir, 100, want, false);
        st_close(want);
    }
}

/* Scaled activations in eight bits; and the same from a container, bit for bit. */
static void the_eight_bit_path_is_near_and_a_container_has_its_bits(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        char dir[4096], path[4200], file[64];
        uint64_t n, count;
        hlwq_error err;
        run r;
        find(model[i].name, "config.json", dir);
        snprintf(path, sizeof path, "%s/expected.safetensors", dir);
        snprintf(file, sizeof file, "/tmp/hlwq-rotated-%d.hlwq", (int)getpid());
        st_file *want = st_open(path);
        int32_t *ids = st_i32(want, "ids_100", &n);
        float *logits = st_f32(want, "logits_100", &count), *got[2];
        hlwq_convert_options o = hlwq_convert_options_default();
        o.source = dir;
        o.output = file;
        o.bits = 0;
        o.overwrite = true;
        CHECK_OK(hlwq_convert(&o, &err), err);
        for (int k = 0; k < 2; k++) {
            got[k] = malloc(count * sizeof(float));
            open_run(&r, k ? file : dir, false, (uint32_t)n);
            step(&r, ids, 0, (uint32_t)n, got[k]);
            close_run(&r);
        }
        unlink(file);
        assert_memory_equal(got[0], got[1], count * sizeof(float));
        /* A router's choice that flips moves all tokens after it, in weights drawn at random: those before it count. */
        uint32_t sure = first_flip(dir, ids, (uint32_t)n);
        double kl = sure ? divergence(logits, got[0], sure, 512) : 0,
               all = divergence(logits, got[0], (uint32_t)n, 512);
        fprintf(stderr, "%s: divergence %.5f of %u tokens before a router flips, %.5f of all %u\n", model[i].name, kl,
                sure, all, (unsigned)n);
        if (!(kl < model[i].limit) || !(all < 0.15))
            fail_msg("%s: divergence %g before a flip and %g, limits %g and 0.15", model[i].name, kl, all,
                     model[i].limit);
        free(got[0]);
        free(got[1]);
        free(logits);
        free(ids);
        st_close(want);
    }
}

int main(void)
{
    if (!golden("hlwq-models/eoq3-moe/config.json")) {
        fprintf(stderr, "skipped: no golden/hlwq-models; HLWQ_GOLDEN names its folder\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_matrix_has_its_sums),
        cmocka_unit_test(logits_and_greedy_text_are_those_of_transformers),
        cmocka_unit_test(the_eight_bit_path_is_near_and_a_container_has_its_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
