/* Checkpoints of other programs against what those programs make of them: every weight bit for bit, and the logits. */
#include "base/json.h"
#include "model/engine.h"
#include "tests/support/safetensors.h"
#include "tests/support/sha256.h"

#include <math.h>
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

/* The folder of a golden, or a skip. */
static void find(const char *model, const char *file, char out[4096])
{
    char probe[256];
    snprintf(probe, sizeof probe, "%s/%s", model, file);
    const char *path = golden(probe);
    if (!path)
        skip();
    snprintf(out, 4096, "%.*s", (int)(strlen(path) - strlen(file) - 1), path);
}

/* Row r of a part as fp32 in the order of the inputs. */
static void row_of(const hs_part *p, const uint8_t *data, uint32_t r, float *row)
{
    hs_matrix m = hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, data + p->offset, NULL);
    float *columns = malloc(p->cols * sizeof *columns);
    if (hs_dtype_packed(p->dtype))
        hs_decode_row(p->dtype, NULL, m.low, p->rows, p->cols, r, columns);
    else
        hs_to_f32(columns, m.low + (size_t)r * p->cols * hs_dtype_bytes(p->dtype), p->dtype, p->cols);
    for (uint32_t c = 0; c < p->cols; c++)
        row[m.order ? m.order[c] : c] = columns[c];
    free(columns);
}

/* Compares the SHA-256 of the whole matrix with the one that the fixture has. */
static uint32_t check_part(const hs_json *hashes, const hs_group *g, uint32_t extent, const hs_part *p,
                           const uint8_t *data)
{
    char key[300], got[65];
    hs_part_name(key, sizeof key, g, extent, p->role);
    const hs_json *want = hs_json_get(hashes, key);
    if (!want)
        return 0;
    float *w = malloc((size_t)p->rows * p->cols * sizeof *w);
    for (uint32_t r = 0; r < p->rows; r++)
        row_of(p, data, r, w + (size_t)r * p->cols);
    sha256_hex(w, (size_t)p->rows * p->cols * sizeof *w, got);
    free(w);
    if (strcmp(got, hs_json_string(want, NULL)) != 0)
        fail_msg("%s has the hash %s, should be %s", key, got, hs_json_string(want, NULL));
    return 1;
}

static void every_weight_is_what_its_own_program_reads(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        char dir[4096], path[4200];
        hlwq_error err;
        hs_store *store;
        size_t compared = 0;
        char *text;
        uint64_t bytes;
        hs_json *root;
        hs_arena arena;
        find(name[i], "config.json", dir);
        snprintf(path, sizeof path, "%s/expected.json", dir);
        hs_mem *mem = hs_mem_open(0);
        hs_arena_init(&arena, mem, HS_MEM_OTHER);
        CHECK_OK(hs_file_text(&arena, path, 1u << 20, &text, &bytes, &err), err);
        CHECK_OK(hs_json_parse(text, bytes, path, &root, &err), err);
        const hs_json *hashes = hs_json_get(root, "sha256_of_dequantised_float32_row_major_out_in");
        CHECK_OK(hs_store_open(&store, mem, dir, NULL, NULL, &err), err);
        if (strncmp(hs_store_format(store), format[i], strlen(format[i])) != 0)
            fail_msg("%s is called \"%s\"", name[i], hs_store_format(store));
        const hs_table *t = hs_store_table(store);
        for (uint32_t g = 0; g < t->n_groups; g++) {
            uint8_t *data = aligned_alloc(4096, t->group[g].bytes);
            for (uint32_t e = 0; e < t->group[g].count; e++) {
                CHECK_OK(hs_store_load(store, g, e, NULL, false, data, &err), err);
                for (uint32_t k = 0; k < t->group[g].n_parts; k++)
                    compared += check_part(hashes, &t->group[g], e, &t->group[g].part[k], data);
            }
            free(data);
        }
        assert_true(compared > 20);
        assert_int_equal(compared, hs_json_count(hashes)); /* all of them */
        hs_store_close(store);
        hs_json_free(root);
        hs_arena_close(&arena);
        hs_mem_close(mem);
    }
}

typedef struct run {
    hlwq_engine *engine;
    hs_states states;
    uint32_t vocab;
} run;

static void open_run(run *r, const char *dir, bool exact, uint32_t n)
{
    hlwq_error err;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.model = dir;
    o.exact = exact;
    o.threads = 2;
    CHECK_OK(hlwq_engine_open(&o, &r->engine, &err), err);
    r->vocab = r->engine->net.config->vocab;
    CHECK_OK(hs_states_init(&r->states, r->engine->net.config, r->engine->mem, r->engine->backend,
                            (hs_kv_format){HS_F32, HS_F32}, n + 40, r->engine->net.batch, &err),
             err);
}

static void close_run(run *r)
{
    hs_states_close(&r->states);
    hlwq_engine_close(r->engine);
}

static void step(run *r, const int32_t *ids, uint32_t at, uint32_t n, float *logits)
{
    hlwq_error err;
    CHECK_OK(hs_forward(&r->engine->net, &r->states, ids, at, n, HS_LOGITS_ALL, logits, NULL, &err), err);
}

static void check_greedy(run *r, const st_file *want, const float *last, uint32_t at)
{
    uint64_t n;
    int32_t *id = st_i32(want, "greedy_37", &n);
    float *next = malloc(r->vocab * sizeof *next);
    for (uint64_t i = 0; i < n; i++, last = next) {
        int32_t best = 0;
        for (uint32_t k = 1; k < r->vocab; k++)
            best = last[k] > last[best] ? (int32_t)k : best;
        assert_int_equal(best, id[i]);
        step(r, &best, at + (uint32_t)i, 1, next);
    }
    free(next);
    free(id);
}

static void check_logits(const char *model, const char *dir, uint32_t n, const st_file *want, bool greedy)
{
    char key[32];
    uint64_t count;
    run r;
    snprintf(key, sizeof key, "ids_%u", n);
    int32_t *ids = st_i32(want, key, &count);
    snprintf(key, sizeof key, "logits_%u", n);
    float *logits = st_f32(want, key, &count), *got = malloc(count * sizeof *got), worst = 0;
    open_run(&r, dir, true, n);
    step(&r, ids, 0, n, got);
    for (uint64_t i = 0; i < count; i++)
        worst = fabsf(got[i] - logits[i]) <= worst ? worst : fabsf(got[i] - logits[i]);
    if (!(worst < 1e-3f))
        fail_msg("%s: %s differ by %g, limit 1e-3", model, key, (double)worst);
    if (greedy)
        check_greedy(&r, want, got + (size_t)(n - 1) * r.vocab, n);
    close_run(&r);
    free(ids);
    free(logits);
    free(got);
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

/* Mean over positions of the divergence of q's choice from p's. */
static double divergence(const float *p, const float *q, uint32_t n, uint32_t vocab)
{
    double sum = 0;
    for (uint32_t t = 0; t < n; t++, p += vocab, q += vocab) {
        double a = 0, b = 0, kl = 0;
        for (uint32_t k = 0; k < vocab; k++) {
            a += exp((double)p[k]);
            b += exp((double)q[k]);
        }
        for (uint32_t k = 0; k < vocab; k++)
            kl += exp((double)p[k]) / a * ((double)p[k] - log(a) - (double)q[k] + log(b));
        sum += kl;
    }
    return sum / n;
}

/* The 8-bit path, whole and cut up: gathered activations do not depend on the batch. */
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
        float *logits = st_f32(want, "logits_100", &count), *got = malloc(count * sizeof *got);
        float *cut = malloc(count * sizeof *got);
        open_run(&r, dir, false, (uint32_t)n);
        step(&r, ids, 0, (uint32_t)n, got);
        close_run(&r);
        double kl = divergence(logits, got, (uint32_t)n, r.vocab);
        /* Random weights: eight bits of activations cost more than in a trained model, and a router's choices flip. */
        double limit = strstr(name[i], "/moe") ? 0.03 : 0.007;
        if (!(kl < limit))
            fail_msg("%s: divergence %g, limit %g", name[i], kl, limit);
        open_run(&r, dir, false, (uint32_t)n);
        step(&r, ids, 0, 64, cut);
        step(&r, ids + 64, 64, (uint32_t)n - 64, cut + (size_t)64 * r.vocab);
        close_run(&r);
        assert_memory_equal(got, cut, count * sizeof *got);
        free(cut);
        free(got);
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
