/*
 * quantize on a tiny checkpoint: closer to it than rounding, the same file for any number of threads and after an
 * interruption, widths of one's own, and refusals.
 */
#define _GNU_SOURCE
#include "model/allocate.h"
#include "model/engine.h"
#include "tests/support/tiny_model.h"

#include "base/file.h"
#include "loader/safetensors.h"

#include <math.h>

enum { VOCAB = 256, N = 96 };

static char dir[] = "/tmp/hlwq-quantize-XXXXXX";
static char source[2][64], text[64];

static void in_dir(char out[64], const char *name)
{
    snprintf(out, 64, "%s/%s", dir, name);
}

/* A token for each byte, in the alphabet of byte-level BPE, and no merges. */
static void write_tokenizer(const char *model)
{
    hs_text t = {0};
    hs_text_format(&t, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int b = 0, others = 256; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        hs_text_format(&t, "%s\"\\u%04x\":%d", b ? "," : "", itself ? b : others, b);
        others += !itself;
    }
    hs_text_format(&t,
                   "},\"merges\":[]},\"added_tokens\":[],\"normalizer\":{\"type\":\"NFC\"},"
                   "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"
                   "\"Regex\":\"[a-z]+| +\"},\"behavior\":\"Isolated\",\"invert\":false},"
                   "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,\"use_regex\":false}]},"
                   "\"decoder\":{\"type\":\"ByteLevel\"}}");
    tiny_file(model, "tokenizer.json", t.data, t.bytes);
    hs_text_close(&t);
}

static int set_up(void **unused)
{
    (void)unused;
    assert_non_null(mkdtemp(dir));
    hs_text words = {0};
    uint32_t x = 1;
    for (int i = 0; i < 30000; i++) {
        x = x * 1664525u + 1013904223u;
        char c = (char)(x >> 24 < 40 ? ' ' : 'a' + (x >> 24) % 26);
        hs_text_add(&words, &c, 1);
    }
    tiny_file(dir, "text", words.data, words.bytes);
    hs_text_close(&words);
    in_dir(text, "text");
    tiny_vocab = VOCAB;
    for (int moe = 0; moe < 2; moe++) {
        in_dir(source[moe], moe ? "moe" : "dense");
        tiny_model_write(source[moe], moe);
        write_tokenizer(source[moe]);
    }
    return 0;
}

static int tear_down(void **unused)
{
    char command[128];
    (void)unused;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static hlwq_quantize_options options(int moe, const char *output, double bits)
{
    hlwq_quantize_options o = hlwq_quantize_options_default();
    o.source = source[moe];
    o.calibration = text;
    o.output = output;
    o.bits = bits;
    o.head_bits = o.embed_bits = 16;
    o.tokens = 512;
    o.window = 64;
    o.threads = 1;
    o.overwrite = true;
    return o;
}

/* Logits [N][VOCAB] of a fixed text. */
static float *logits_of(const char *path)
{
    hlwq_error err;
    hlwq_engine *engine;
    hlwq_session *session;
    int32_t ids[N];
    hlwq_engine_options eo = hlwq_engine_options_default();
    eo.model = path;
    eo.exact = true;
    eo.device = HLWQ_DEVICE_CPU;
    eo.threads = 1;
    CHECK_OK(hlwq_engine_open(&eo, &engine, &err), err);
    hlwq_session_options so = hlwq_session_options_default(engine);
    CHECK_OK(hlwq_session_open(engine, &so, &session, &err), err);
    float *out = calloc(N * VOCAB, sizeof *out);
    for (int i = 0; i < N; i++)
        ids[i] = (i * i * 7 + i) % 27 + 'a';
    CHECK_OK(hlwq_session_eval(session, ids, N, out, &err), err);
    hlwq_session_close(session);
    hlwq_engine_close(engine);
    return out;
}

static double distance(const char *a, const char *b)
{
    float *x = logits_of(a), *y = logits_of(b);
    double sum = 0;
    for (int i = 0; i < N * VOCAB; i++)
        sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    free(x);
    free(y);
    return sum;
}

static bool same_bytes(const char *a, const char *b)
{
    char command[256];
    snprintf(command, sizeof command, "cmp -s %s %s", a, b);
    return system(command) == 0;
}

/* How much nearer the fitted file comes to its source than the rounded one of the same format. */
static double fitted_to_rounded(int moe, double bits, const char *format)
{
    hlwq_error err;
    char fitted[64], rounded[64];
    in_dir(fitted, "fitted.hlwq");
    in_dir(rounded, "rounded.hlwq");
    hlwq_quantize_options q = options(moe, fitted, bits);
    q.format = format;
    CHECK_OK(hlwq_quantize(&q, &err), err);
    hlwq_convert_options c = hlwq_convert_options_default();
    c.source = source[moe];
    c.output = rounded;
    c.format = format;
    c.bits = (uint32_t)bits;
    c.head_bits = c.embed_bits = 16;
    c.overwrite = true;
    CHECK_OK(hlwq_convert(&c, &err), err);
    double f = distance(source[moe], fitted), r = distance(source[moe], rounded);
    print_message("%s, %s: fitted %.4g, rounded %.4g\n", moe ? "mixture" : "dense", format ? format : "HLWQ", f, r);
    return f / r;
}

static void is_closer_than_rounding(void **unused)
{
    (void)unused;
    for (int moe = 0; moe < 2; moe++)
        assert_true(fitted_to_rounded(moe, 3, NULL) < 0.7);
}

/* Integers, as GPTQ would choose them: uniform weights, as these are, suit integers rounded or not. */
static void fits_integers(void **unused)
{
    (void)unused;
    hlwq_error err;
    char fitted[64];
    in_dir(fitted, "fitted.hlwq");
    assert_true(fitted_to_rounded(0, 4, "i4") < 0.95);
    assert_true(fitted_to_rounded(0, 4, "i4g64") < 0.95);
    hlwq_quantize_options q = options(0, fitted, 4);
    q.format = "i4z";
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_ARG, err, "without zero points");
    q.format = "i4";
    q.target_bytes = 1 << 20;
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_ARG, err, "target-bytes");
}

static bool stop_after(void *user, uint64_t done, uint64_t total)
{
    (void)total;
    return done < *(uint64_t *)user;
}

/* Four inputs of what each layer reads become some times larger than the others, as in trained models. */
static void make_uneven(const char *model)
{
    char path[96], header[65536];
    uint64_t bytes;
    hs_arena arena;
    hs_st_entry *e;
    uint32_t n;
    hlwq_error err;
    hs_mem *mem = hs_mem_open(0);
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fread(&bytes, 1, 8, f), 8);
    assert_true(bytes < sizeof header && fread(header, 1, bytes, f) == bytes);
    fseek(f, 0, SEEK_END);
    CHECK_OK(hs_safetensors_parse(header, bytes, (uint64_t)ftell(f), path, &arena, &e, &n, &err), err);
    for (uint32_t i = 0; i < n; i++)
        if (strstr(e[i].name, "layernorm.weight")) {
            const float large[4] = {6, 7, 8, 9};
            fseek(f, (long)e[i].offset + 20, SEEK_SET);
            assert_int_equal(fwrite(large, 1, sizeof large, f), sizeof large);
        }
    assert_int_equal(fclose(f), 0);
    hs_arena_close(&arena);
    hs_mem_close(mem);
}

/* How many matrices have factors for their inputs that are not all one. */
static uint32_t scaled_parts(const char *path)
{
    hlwq_error err;
    hs_store *s;
    uint32_t found = 0;
    hs_mem *mem = hs_mem_open(0);
    CHECK_OK(hs_store_open(&s, mem, path, NULL, NULL, &err), err);
    const hs_table *t = hs_store_table(s);
    for (uint32_t g = 0; g < t->n_groups; g++)
        for (uint32_t e = 0; e < t->group[g].count; e++) {
            uint8_t *data = aligned_alloc(4096, t->group[g].bytes);
            CHECK_OK(hs_store_load(s, g, e, NULL, true, data, &err), err);
            for (uint32_t k = 0; k < t->group[g].n_parts; k++) {
                const hs_part *p = &t->group[g].part[k];
                const float *factor = (const float *)(const void *)(data + p->offset + p->planes.factor);
                bool others = false;
                for (uint32_t c = 0; p->scaled && c < p->cols; c++)
                    others = others || factor[c] != 1.0f;
                found += others;
            }
            free(data);
        }
    hs_store_close(s);
    hs_mem_close(mem);
    return found;
}

/* Inputs of which some are large: scales for them make up for much of what rounding loses, and fitting loses less yet.
 */
static void scales_of_inputs_help_where_they_are_uneven(void **unused)
{
    (void)unused;
    hlwq_error err;
    char file[64];
    in_dir(file, "scaled.hlwq");
    for (int moe = 0; moe < 2; moe++) {
        double left[3];
        make_uneven(source[moe]);
        const double fitted = fitted_to_rounded(moe, 3, NULL);
        char rounded[64];
        in_dir(rounded, "rounded.hlwq");
        left[0] = distance(source[moe], rounded);
        for (int how = HLWQ_AWQ_ROUND; how <= HLWQ_AWQ_FIT; how++) {
            hlwq_quantize_options q = options(moe, file, 3);
            q.awq = (hlwq_awq)how;
            CHECK_OK(hlwq_quantize(&q, &err), err);
            left[how] = distance(source[moe], file);
            assert_true(scaled_parts(file) >= 8);
        }
        print_message("%s: rounded %.4g, scaled and rounded %.4g, fitted %.4g, scaled and fitted %.4g\n",
                      moe ? "mixture" : "dense", left[0], left[1], fitted * left[0], left[2]);
        /* What a mixture loses is mostly the router's choice: with random weights a close one. */
        assert_true(left[1] < (moe ? 0.98 : 0.7) * left[0]);
        assert_true(left[2] < (moe ? 0.9 : 0.7) * left[1]);
        tiny_model_write(source[moe], moe);
    }
}

static void scaled_files_depend_on_neither_threads_nor_interruptions(void **unused)
{
    (void)unused;
    hlwq_error err;
    char whole[64], parts[64];
    uint64_t two = 2;
    in_dir(whole, "scaled.hlwq");
    in_dir(parts, "scaled-parts.hlwq");
    for (int how = HLWQ_AWQ_ROUND; how <= HLWQ_AWQ_FIT; how++) {
        hlwq_quantize_options q = options(1, whole, 4);
        q.awq = (hlwq_awq)how;
        CHECK_OK(hlwq_quantize(&q, &err), err);
        q.output = parts;
        q.threads = 2;
        q.progress = stop_after;
        q.user = &two;
        CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_CANCELLED, err, "goes on");
        q.progress = NULL;
        CHECK_OK(hlwq_quantize(&q, &err), err);
        assert_true(same_bytes(whole, parts));
    }
    hlwq_quantize_options q = options(1, parts, 3.5);
    q.awq = HLWQ_AWQ_FIT;
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_ARG, err, "--awq");
    q = options(1, parts, 4);
    q.awq = HLWQ_AWQ_ROUND;
    q.format = "i4";
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_ARG, err, "--awq");
}

static void threads_do_not_show(void **unused)
{
    (void)unused;
    hlwq_error err;
    char a[64], b[64];
    in_dir(a, "one.hlwq");
    in_dir(b, "three.hlwq");
    hlwq_quantize_options q = options(1, a, 3.5);
    q.threads = 1;
    CHECK_OK(hlwq_quantize(&q, &err), err);
    q = options(1, b, 3.5);
    q.threads = 2;
    CHECK_OK(hlwq_quantize(&q, &err), err);
    assert_true(same_bytes(a, b));
}

static void goes_on_where_it_stopped(void **unused)
{
    (void)unused;
    hlwq_error err;
    char whole[64], parts[64], work[80];
    in_dir(whole, "whole.hlwq");
    in_dir(parts, "parts.hlwq");
    snprintf(work, sizeof work, "%s.work", parts);
    hlwq_quantize_options q = options(1, whole, 4.5);
    CHECK_OK(hlwq_quantize(&q, &err), err);
    for (uint64_t layers = 1; layers <= 3; layers += 2) {
        q = options(1, parts, 4.5);
        q.progress = stop_after;
        q.user = &layers;
        CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_CANCELLED, err, "goes on");
        assert_false(hs_path_exists(parts));
        assert_true(hs_path_is_directory(work));
    }
    q = options(1, parts, 4.5);
    CHECK_OK(hlwq_quantize(&q, &err), err);
    assert_true(same_bytes(whole, parts));
    assert_false(hs_path_exists(work));

    /* Another run's remains are not gone on from. */
    uint64_t one = 2;
    q = options(1, parts, 3);
    q.progress = stop_after;
    q.user = &one;
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_CANCELLED, err, "layer 1");
    q = options(1, parts, 4.5);
    CHECK_OK(hlwq_quantize(&q, &err), err);
    assert_true(same_bytes(whole, parts));
}

static void budgets_hold(void **unused)
{
    (void)unused;
    hs_choice c[30];
    uint8_t width[30];
    hlwq_error err;
    uint64_t least = 0, most = 0;
    for (int i = 0; i < 30; i++)
        for (int w = 0; w < HS_WIDTHS; w++) {
            c[i].bytes[w] = (uint64_t)(1000 + 137 * i) * (uint64_t)(w + 2);
            c[i].cost[w] = (1 + (i * 7) % 5) * pow(0.25, w);
            least += w == 0 ? c[i].bytes[w] : 0;
            most += w == HS_WIDTHS - 1 ? c[i].bytes[w] : 0;
        }
    double before = INFINITY;
    for (uint64_t budget = least + least / 100; budget < most + most / 10; budget += least / 7) {
        uint64_t bytes = 0;
        double cost = 0;
        CHECK_OK(hs_allocate(c, 30, budget, width, &err), err);
        for (int i = 0; i < 30; i++) {
            bytes += c[i].bytes[width[i] - HS_WIDTH_LEAST];
            cost += c[i].cost[width[i] - HS_WIDTH_LEAST];
        }
        assert_true(bytes <= budget && cost <= before);
        assert_true(budget > most || bytes > budget - budget / 10);
        before = cost;
    }
    CHECK_FAILS(hs_allocate(c, 30, least - 1, width, &err), HLWQ_ERR_BUDGET, err, "are left");
    CHECK_FAILS(hs_allocate(c, 30, 0, width, &err), HLWQ_ERR_BUDGET, err, "are left");
}

static void refuses_with_a_sentence(void **unused)
{
    (void)unused;
    hlwq_error err;
    char out[64], missing[64], brief[64];
    in_dir(out, "refused.hlwq");
    in_dir(missing, "missing");
    in_dir(brief, "brief");
    tiny_file(dir, "brief", "a b", 3);
    hlwq_quantize_options q = options(0, out, 7);
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_ARG, err, "--bits is 7");
    q = options(0, out, 4);
    q.calibration = missing;
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_IO, err, missing);
    q = options(0, out, 4);
    q.calibration = brief;
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_ARG, err, "64 tokens");
    q = options(0, out, 4);
    q.source = missing;
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_IO, err, "does not exist");
    q = options(0, out, 4);
    q.target_bytes = 1000;
    CHECK_FAILS(hlwq_quantize(&q, &err), HLWQ_ERR_BUDGET, err, "are left");
    assert_false(hs_path_exists(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_closer_than_rounding),
        cmocka_unit_test(fits_integers),
        cmocka_unit_test(scales_of_inputs_help_where_they_are_uneven),
        cmocka_unit_test(scaled_files_depend_on_neither_threads_nor_interruptions),
        cmocka_unit_test(threads_do_not_show),
        cmocka_unit_test(goes_on_where_it_stopped),
        cmocka_unit_test(budgets_hold),
        cmocka_unit_test(refuses_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
