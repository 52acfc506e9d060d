/*
 * A whole model as an .eoq file: by its name and by its folder, run, converted, and described, it is the model whose
 * weights the codes stand for.
 */
#include "tests/support/edit_model.h"
#include "tests/support/eoq_file.h"
#include "tests/support/run_model.h"
#include "tests/support/tiny_model.h"

enum { TOKENS = 24, VOCAB = 40 };

static char eoq[64], plain[64]; /* folders: config.json with model.eoq, and with the same weights as fp32 */
static char file[100], container[100];
static hlwq_error err;

/* The tiny model as codes of 4, 5 and 8 bits, and with what these stand for in place of its weights. */
static void write_models(bool moe)
{
    char path[100], shape[100];
    eoq_writer f = {0};
    hs_text out = {0};
    uint64_t header;
    tiny_model_write(plain, moe);
    tiny_model_write(eoq, moe);
    snprintf(path, sizeof path, "%s/model.safetensors", plain);
    st_file *st = st_open(path);
    memcpy(&header, st->text, 8);
    for (uint32_t i = 0; i < st->n; i++) {
        const hs_st_entry *e = &st->entry[i];
        uint64_t n;
        float *w = st_f32(st, e->name, &n);
        hs_shape_text(shape, sizeof shape, e->dim, e->rank);
        eoq_put(&f, e->name, shape, w, (uint32_t)n, e->rank == 1 ? 8 : 4 + i % 2, 128);
        memcpy(st->text + e->offset, w, e->bytes);
        free(w);
    }
    uint64_t bytes = 8 + header;
    for (uint32_t i = 0; i < st->n; i++)
        bytes += st->entry[i].bytes;
    tiny_file(plain, "model.safetensors", st->text, bytes);
    st_close(st);
    snprintf(path, sizeof path, "%s/model.safetensors", eoq);
    unlink(path);
    out = eoq_finish(&f);
    tiny_file(eoq, "model.eoq", out.data, out.bytes);
    hs_text_close(&out);
}

static int teardown(void **state)
{
    (void)state;
    unlink(file);
    unlink(container);
    tiny_model_remove(eoq);
    tiny_model_remove(plain);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    snprintf(eoq, sizeof eoq, "/tmp/hlwq-eoq-%d", (int)getpid());
    snprintf(plain, sizeof plain, "/tmp/hlwq-plain-%d", (int)getpid());
    snprintf(file, sizeof file, "%s/model.eoq", eoq);
    snprintf(container, sizeof container, "%s/model.hlwq", eoq);
    return 0;
}

static void logits_of(const char *model, float logits[TOKENS * VOCAB])
{
    int32_t ids[TOKENS];
    run r;
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (i * 7 + 3) % VOCAB;
    open_run(&r, model, false, TOKENS);
    step(&r, ids, 0, TOKENS, logits);
    close_run(&r);
}

static void it_runs_as_the_model_its_codes_stand_for(void **state)
{
    (void)state;
    static float want[TOKENS * VOCAB], got[TOKENS * VOCAB];
    for (int moe = 0; moe < 2; moe++) {
        write_models(moe);
        logits_of(plain, want);
        logits_of(file, got);
        assert_memory_equal(got, want, sizeof want);
        logits_of(eoq, got);
        assert_memory_equal(got, want, sizeof want);
    }
}

static void convert(const char *source, uint32_t bits)
{
    hlwq_convert_options o = hlwq_convert_options_default();
    o.source = source;
    o.output = container;
    o.bits = bits;
    o.overwrite = true;
    o.verify = true;
    CHECK_OK(hlwq_convert(&o, &err), err);
}

static void a_container_of_it_holds_the_same(void **state)
{
    (void)state;
    static float want[TOKENS * VOCAB], got[TOKENS * VOCAB];
    for (int moe = 0; moe < 2; moe++) {
        write_models(moe);
        logits_of(plain, want);
        convert(file, 0); /* as it is */
        logits_of(container, got);
        assert_memory_equal(got, want, sizeof want);
        convert(plain, 5);
        logits_of(container, want);
        convert(eoq, 5);
        logits_of(container, got);
        assert_memory_equal(got, want, sizeof want);
    }
}

static void it_is_named_and_its_texts_lie_beside_it(void **state)
{
    (void)state;
    char *json, path[100];
    hlwq_tokenizer *t;
    write_models(true);
    CHECK_OK(hlwq_describe(file, &json, &err), err);
    assert_non_null(strstr(json, "EOQ file, 4/5/8 bits"));
    hlwq_free(json);
    CHECK_FAILS(hlwq_tokenizer_open(file, &t, &err), HLWQ_ERR_IO, err, "tokenizer.json");
    snprintf(path, sizeof path, "%s/config.json", eoq);
    unlink(path);
    CHECK_FAILS(hlwq_describe(file, &json, &err), HLWQ_ERR_IO, err, "weights only");
    assert_non_null(strstr(err.message, path));
}

static void folders_with_more_than_one_or_other_weights_are_told_apart(void **state)
{
    (void)state;
    char *json, path[100];
    write_models(false);
    snprintf(path, sizeof path, "%s/other.eoq", eoq);
    assert_int_equal(link(file, path), 0);
    hlwq_status st = hlwq_describe(eoq, &json, &err);
    hlwq_status named = hlwq_describe(path, &json, &err);
    unlink(path);
    assert_int_equal(named, HLWQ_OK);
    assert_non_null(strstr(json, "EOQ file"));
    hlwq_free(json);
    assert_int_equal(st, HLWQ_ERR_FORMAT);
    tiny_model_write(eoq, false); /* safetensors come first */
    CHECK_OK(hlwq_describe(eoq, &json, &err), err);
    assert_null(strstr(json, "EOQ file"));
    hlwq_free(json);
}

static void a_parameter_that_is_missing_or_of_another_shape_is_named(void **state)
{
    (void)state;
    char *json;
    eoq_writer f = {0};
    float w[40 * 32] = {1};
    write_models(false);
    eoq_put(&f, "embed_tokens", "[40,32]", w, 40 * 32, 4, 128);
    hs_text out = eoq_finish(&f);
    tiny_file(eoq, "model.eoq", out.data, out.bytes);
    hs_text_close(&out);
    CHECK_FAILS(hlwq_describe(file, &json, &err), HLWQ_ERR_FORMAT, err, "norm.weight is missing");
    assert_non_null(strstr(err.message, "model.eoq"));
    eoq_put(&f, "final_layernorm", "[33]", w, 33, 4, 128); /* a name of the writer's own */
    out = eoq_finish(&f);
    tiny_file(eoq, "model.eoq", out.data, out.bytes);
    hs_text_close(&out);
    CHECK_FAILS(hlwq_describe(file, &json, &err), HLWQ_ERR_FORMAT, err, "norm.weight has the shape [33]");
}

static void a_scale_that_is_not_finite_is_found_when_read(void **state)
{
    (void)state;
    static const uint16_t bad = 0x7E00;
    uint32_t json;
    size_t bytes;
    hs_store *s;
    write_models(false);
    char *data = edit_read(eoq, "model.eoq", &bytes);
    memcpy(&json, data + 12, 4);
    memcpy(data + 16 + json + 4, &bad, 2); /* the first of the first tensor, the embedding */
    const uint32_t crc = eoq_crc(data, bytes - 4);
    memcpy(data + bytes - 4, &crc, 4);
    tiny_file(eoq, "model.eoq", data, bytes);
    free(data);
    hs_mem *mem = hs_mem_open(0);
    CHECK_OK(hs_store_open(&s, mem, file, NULL, NULL, &err), err);
    hlwq_status st = HLWQ_OK;
    for (uint32_t g = 0; st == HLWQ_OK && g < hs_store_table(s)->n_groups; g++) {
        uint8_t *x = aligned_alloc(4096, hs_store_table(s)->group[g].bytes);
        st = hs_store_load(s, g, 0, NULL, false, x, &err);
        free(x);
    }
    hs_store_close(s);
    hs_mem_close(mem);
    assert_int_equal(st, HLWQ_ERR_FORMAT);
    assert_non_null(strstr(err.message, "model.eoq: tensor embed_tokens.weight: a scale or a weight is not finite"));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(it_runs_as_the_model_its_codes_stand_for),
        TEST(a_container_of_it_holds_the_same),
        TEST(it_is_named_and_its_texts_lie_beside_it),
        TEST(folders_with_more_than_one_or_other_weights_are_told_apart),
        TEST(a_scale_that_is_not_finite_is_found_when_read),
        TEST(a_parameter_that_is_missing_or_of_another_shape_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
