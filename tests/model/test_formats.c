/* Checkpoints of other programs against what those programs make of them: every weight bit for bit, and the logits. */
#include "tests/support/run_model.h"
#include "tests/support/sha256.h"

#include <unistd.h>

static const char *const name[] = {
    "gptq/dense-g128-actorder-sym",
    "gptq/dense-g64-foem-sym",
    "gptq/dense-g64-sequential-sym-v2",
    "gptq/dense-g64-asym-v1",
    "gptq/dense-dynamic",
    "gptq/moe-g64-sym",
    "compressed-tensors/dense-g128-sym",
    "compressed-tensors/dense-g128-asym",
    "compressed-tensors/dense-g128-sym-export",
    "compressed-tensors/moe-g128-sym-export",
};
static const char *const format[] = {
    "GPTQ 4 bit, group 128, desc_act, symmetric",
    "GPTQ 4 bit, group 64, desc_act, symmetric",
    "GPTQ v2 4 bit, group 64, symmetric",
    "GPTQ 4 bit, group 64, desc_act, zero points",
    "GPTQ 4 bit, group 128, desc_act, symmetric and others; ",
    "GPTQ 4 bit, group 64, desc_act, symmetric",
    "compressed-tensors 4 bit, group 128, symmetric",
    "compressed-tensors 4 bit, group 128, zero points",
    "compressed-tensors 4 bit, group 128, symmetric",
    "compressed-tensors 4 bit, group 128, symmetric",
};
enum { N_MODELS = sizeof name / sizeof *name };

/* Compares the SHA-256 of the whole matrix with the one that the fixture has. */
static uint32_t check_part(hs_store *store, const hs_json *hashes, const st_file *file, const hs_group *g,
                           uint32_t extent, const hs_part *p, const uint8_t *data)
{
    (void)store;
    (void)file;
    char key[300], got[65];
    hs_part_name(key, sizeof key, g, extent, p->role);
    const hs_json *want = hs_json_get(hashes, key);
    if (!want)
        return 0;
    float *w = malloc((size_t)p->rows * p->cols * sizeof *w);
    for (uint32_t r = 0; r < p->rows; r++)
        row_of(p, NULL, data, r, w + (size_t)r * p->cols);
    sha256_hex(w, (size_t)p->rows * p->cols * sizeof *w, got);
    free(w);
    if (strcmp(got, hs_json_string(want, NULL)) != 0)
        fail_msg("%s has the hash %s, should be %s", key, got, hs_json_string(want, NULL));
    return 1;
}

static void every_weight_is_what_its_own_program_reads(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        assert_true(check_parts(name[i], format[i], "sha256_of_dequantised_float32_row_major_out_in", check_part) > 20);
}

static void logits_and_greedy_text_are_those_of_transformers(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        char dir[4096], path[4200];
        find(name[i], "config.json", dir);
        snprintf(path, sizeof path, "%s/expected.safetensors", dir);
        st_file *want = st_open(path);
        check_logits(name[i], dir, 37, want, true);
        check_logits(name[i], dir, 100, want, false);
        st_close(want);
    }
}

static double error_by_spread(const float *want, const float *got, uint64_t n)
{
    double mean = 0, spread = 0, error = 0;
    for (uint64_t i = 0; i < n; i++)
        mean += (double)want[i] / (double)n;
    for (uint64_t i = 0; i < n; i++) {
        spread += ((double)want[i] - mean) * ((double)want[i] - mean);
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    }
    return sqrt(error / spread);
}

/*
 * The 8-bit path beside --exact, whole and cut up: gathered activations do not depend on the batch.  Of mixtures the
 * tokens before a router flips count: their weights are random, so all after it follow other experts.
 */
static void eight_bit_activations_stay_near_the_exact_path(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        char dir[4096], path[4200];
        uint64_t n, count;
        run r;
        find(name[i], "config.json", dir);
        snprintf(path, sizeof path, "%s/expected.safetensors", dir);
        st_file *want = st_open(path);
        int32_t *ids = st_i32(want, "ids_100", &n);
        float *logits = st_f32(want, "logits_100", &count), *got[2];
        float *cut = malloc(count * sizeof *cut);
        for (int exact = 0; exact < 2; exact++) {
            got[exact] = malloc(count * sizeof *cut);
            open_run(&r, dir, exact, (uint32_t)n);
            step(&r, ids, 0, (uint32_t)n, got[exact]);
            close_run(&r);
        }
        const bool mixture = strstr(name[i], "/moe");
        const uint32_t sure = mixture ? first_flip(dir, ids, (uint32_t)n) : (uint32_t)n;
        const double kl = divergence(got[1], got[0], sure, r.vocab), limit = mixture ? 0.009 : 0.005;
        const double all = divergence(logits, got[0], (uint32_t)n, r.vocab);
        fprintf(stderr,
                "%s: divergence from --exact %.5f of %u tokens before a router flips, from transformers %.5f of all, "
                "error / spread %.3f\n",
                name[i], kl, sure, all, error_by_spread(logits, got[0], count));
        if (!(kl < limit) || !(all < 0.03))
            fail_msg("%s: divergence %g before a flip and %g, limits %g and 0.03", name[i], kl, all, limit);
        open_run(&r, dir, false, (uint32_t)n);
        step(&r, ids, 0, 64, cut);
        step(&r, ids + 64, 64, (uint32_t)n - 64, cut + (size_t)64 * r.vocab);
        close_run(&r);
        assert_memory_equal(got[0], cut, count * sizeof *cut);
        free(cut);
        free(got[0]);
        free(got[1]);
        free(logits);
        free(ids);
        st_close(want);
    }
}

/* As a container the same bits come out: the orders of columns are in its extents. */
static void a_container_computes_what_the_directory_does(void **state)
{
    (void)state;
    static const int which[] = {0, 3, 4, 5, 7, 9};
    for (size_t k = 0; k < sizeof which / sizeof *which; k++) {
        char dir[4096], path[4200], file[64];
        uint64_t n;
        hlwq_error err;
        run r;
        find(name[which[k]], "config.json", dir);
        snprintf(path, sizeof path, "%s/expected.safetensors", dir);
        snprintf(file, sizeof file, "/tmp/hlwq-formats-%d.hlwq", (int)getpid());
        st_file *want = st_open(path);
        int32_t *ids = st_i32(want, "ids_37", &n);
        hlwq_convert_options o = hlwq_convert_options_default();
        o.source = dir;
        o.output = file;
        o.bits = 0;
        o.overwrite = true;
        CHECK_OK(hlwq_convert(&o, &err), err);
        float *logits[2];
        for (int i = 0; i < 2; i++) {
            open_run(&r, i ? file : dir, false, (uint32_t)n);
            logits[i] = malloc(n * r.vocab * sizeof(float));
            step(&r, ids, 0, (uint32_t)n, logits[i]);
            close_run(&r);
        }
        unlink(file);
        assert_memory_equal(logits[0], logits[1], n * r.vocab * sizeof(float));
        free(logits[0]);
        free(logits[1]);
        free(ids);
        st_close(want);
    }
}

int main(void)
{
    if (!golden("gptq/README.md")) {
        fprintf(stderr, "skipped: no golden/gptq; HLWQ_GOLDEN names its folder\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_weight_is_what_its_own_program_reads),
        cmocka_unit_test(logits_and_greedy_text_are_those_of_transformers),
        cmocka_unit_test(eight_bit_activations_stay_near_the_exact_path),
        cmocka_unit_test(a_container_computes_what_the_directory_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
