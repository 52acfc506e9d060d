/*
 * loader/formats/gguf.c, wide.c: files written by the gguf package, in llama.cpp's order of heads, give the model they
 * were made from; blocks of every type are what that package makes of them.
 */
#include "loader/formats/gguf.h"
#include "loader/formats/wide.h"
#include "model/engine.h"
#include "tests/support/edit_model.h"
#include "tests/support/safetensors.h"

#include <math.h>

static hs_mem *mem;
static hlwq_error err;

static void every_block_type_is_what_the_gguf_package_makes_of_it(void **state)
{
    (void)state;
    static const uint32_t type[] = {2, 3, 6, 7, 8, 12, 13, 14};
    st_file *f = st_open("tests/golden/gguf/blocks.safetensors");
    for (size_t i = 0; i < sizeof type / sizeof *type; i++) {
        char key[32];
        uint64_t bytes, n;
        uint32_t weights, block;
        const char *name;
        snprintf(key, sizeof key, "%u.raw", type[i]);
        const uint8_t *raw = st_raw(f, key, &bytes);
        snprintf(key, sizeof key, "%u.f32", type[i]);
        float *want = st_f32(f, key, &n), *got = malloc(n * sizeof *got);
        assert_true(hs_ggml_type(type[i], &weights, &block, &name));
        assert_int_equal(bytes / block * weights, n);
        hs_ggml_widen(type[i], raw, n, got);
        for (uint64_t k = 0; k < n; k++)
            if (!(fabsf(got[k] - want[k]) <= 1e-6f * fabsf(want[k]) + 1e-7f))
                fail_msg("%s weight %u is %g, should be %g", name, (unsigned)k, (double)got[k], (double)want[k]);
        free(want);
        free(got);
    }
    st_close(f);
}

/* Row r of a part as fp32. */
static void row_of(const hs_part *p, const uint8_t *data, uint32_t r, float *row)
{
    hs_to_f32(row, data + p->offset + (size_t)r * p->cols * hs_dtype_bytes(p->dtype), p->dtype, p->cols);
}

/* What rounding to the file's types may move a weight of the largest magnitude by. */
static void same_model(const char *gguf, bool moe, float limit)
{
    char dir[64];
    hs_store *a, *b;
    snprintf(dir, sizeof dir, "/tmp/hlwq-gguf-%d", (int)getpid());
    tiny_model_write(dir, moe);
    CHECK_OK(hs_store_open(&a, mem, dir, NULL, NULL, &err), err);
    CHECK_OK(hs_store_open(&b, mem, gguf, NULL, NULL, &err), err);
    const hs_table *t = hs_store_table(a), *u = hs_store_table(b);
    assert_int_equal(t->n_groups, u->n_groups);
    for (uint32_t g = 0; g < t->n_groups; g++) {
        assert_int_equal(t->group[g].count, u->group[g].count);
        uint8_t *x = aligned_alloc(4096, t->group[g].bytes), *y = aligned_alloc(4096, u->group[g].bytes);
        for (uint32_t e = 0; e < t->group[g].count; e++) {
            CHECK_OK(hs_store_load(a, g, e, NULL, false, x, &err), err);
            CHECK_OK(hs_store_load(b, g, e, NULL, false, y, &err), err);
            for (uint32_t k = 0; k < t->group[g].n_parts; k++) {
                const hs_part *p = &t->group[g].part[k], *q = &u->group[g].part[k];
                float v[512], w[512];
                assert_true(p->cols <= 512);
                for (uint32_t r = 0; r < p->rows; r++) {
                    row_of(p, x, r, v);
                    row_of(q, y, r, w);
                    for (uint32_t c = 0; c < p->cols; c++)
                        if (!(fabsf(v[c] - w[c]) <= limit))
                            fail_msg("%s: %s of layer %u [%u, %u] is %g, should be %g", gguf, hs_role_name(p->role),
                                     t->group[g].layer, r, c, (double)w[c], (double)v[c]);
                }
            }
        }
        free(x);
        free(y);
    }
    hs_store_close(a);
    hs_store_close(b);
    tiny_model_remove(dir);
}

static void heads_norms_and_names_are_put_back(void **state)
{
    (void)state;
    same_model("tests/golden/gguf/tiny-dense.gguf", false, 5e-4f); /* F16: half a unit of 1.0 */
    same_model("tests/golden/gguf/tiny-moe.gguf", true, 4.5e-3f);  /* Q8_0: half of 1 / 127, and of its scale */
}

/* ---- pieces --------------------------------------------------------------------------------- */

static void put_split(hs_text *t, const char *key, uint32_t v)
{
    uint64_t n = strlen(key);
    uint32_t type = 2;
    hs_text_add(t, (const char *)&n, 8);
    hs_text_add(t, key, n);
    hs_text_add(t, (const char *)&type, 4);
    hs_text_add(t, (const char *)&v, 2);
}

/* One of `count` pieces of the file: its share of the tensors; the first has all values. */
static void write_piece(const char *name, const hs_gguf *g, const char *data, uint32_t no, uint32_t count,
                        uint32_t says)
{
    hs_text t = {0}, body = {0};
    uint32_t from = g->n_tensors * no / count, to = g->n_tensors * (no + 1) / count;
    uint64_t counts[2] = {to - from, 2 + (no ? 0 : g->n_values)};
    hs_text_add(&t, "GGUF\3\0\0\0", 8);
    hs_text_add(&t, (const char *)counts, 16);
    put_split(&t, "split.no", says);
    put_split(&t, "split.count", count);
    for (uint32_t i = 0; !no && i < g->n_values; i++) {
        const hs_gguf_value *v = &g->value[i];
        uint64_t n = strlen(v->key);
        hs_text_add(&t, (const char *)&n, 8);
        hs_text_add(&t, v->key, n);
        hs_text_add(&t, (const char *)&v->type, 4);
        if (v->type == 9)
            hs_text_add(&t, (const char *)&v->item, 4);
        if (v->type == 8 || v->type == 9)
            hs_text_add(&t, (const char *)&v->n, 8);
        hs_text_add(&t, (const char *)v->data, v->bytes);
    }
    for (uint32_t i = from; i < to; i++) {
        const hs_gguf_tensor *x = &g->tensor[i];
        uint64_t n = strlen(x->name), at = body.bytes;
        hs_text_add(&t, (const char *)&n, 8);
        hs_text_add(&t, x->name, n);
        hs_text_add(&t, (const char *)&x->rank, 4);
        for (uint32_t d = x->rank; d-- > 0;)
            hs_text_add(&t, (const char *)&x->dim[d], 8);
        hs_text_add(&t, (const char *)&x->type, 4);
        hs_text_add(&t, (const char *)&at, 8);
        hs_text_add(&body, data + x->offset, x->bytes);
        while (body.bytes % 32)
            hs_text_add(&body, "", 1);
    }
    while (t.bytes % 32)
        hs_text_add(&t, "", 1);
    hs_text_add(&t, body.data, body.bytes);
    tiny_file("/tmp", name, t.data, t.bytes);
    hs_text_close(&t);
    hs_text_close(&body);
}

static void a_file_in_pieces_is_the_same_model(void **state)
{
    (void)state;
    enum { PIECES = 3 };
    char name[PIECES][64], path[256];
    size_t bytes;
    char *data = edit_read("tests/golden/gguf", "tiny-moe.gguf", &bytes);
    hs_gguf g;
    hs_arena arena;
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    CHECK_OK(hs_gguf_parse(&g, (const uint8_t *)data, bytes, bytes, "x", &arena, &err), err);
    for (uint32_t i = 0; i < PIECES; i++) {
        snprintf(name[i], sizeof name[i], "hlwq-piece-%d-%05u-of-%05u.gguf", (int)getpid(), i + 1, PIECES);
        write_piece(name[i], &g, data, i, PIECES, i);
    }
    for (int i = 0; i < 2; i++) { /* any piece names all */
        snprintf(path, sizeof path, "/tmp/%s", name[i]);
        same_model(path, true, 4.5e-3f);
    }
    hs_store *s;
    write_piece(name[2], &g, data, 2, PIECES, 1);
    CHECK_FAILS(hs_store_open(&s, mem, path, NULL, NULL, &err), HLWQ_ERR_FORMAT, err, "piece 2 of 3");
    snprintf(path, sizeof path, "/tmp/%s", name[2]);
    unlink(path);
    snprintf(path, sizeof path, "/tmp/%s", name[0]);
    CHECK_FAILS(hs_store_open(&s, mem, path, NULL, NULL, &err), HLWQ_ERR_IO, err, "00003-of-00003");
    for (uint32_t i = 0; i < PIECES; i++) {
        snprintf(path, sizeof path, "/tmp/%s", name[i]);
        unlink(path);
    }
    hs_arena_close(&arena);
    free(data);
}

/* ---- damage --------------------------------------------------------------------------------- */

static hlwq_status parse(const uint8_t *data, uint64_t bytes, uint64_t file_bytes)
{
    hs_gguf g;
    hs_arena arena;
    uint8_t *exact = malloc(bytes ? bytes : 1); /* so that a sanitizer sees the end */
    memcpy(exact, data, bytes);
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    hlwq_status st = hs_gguf_parse(&g, exact, bytes, file_bytes, "x.gguf", &arena, &err);
    hs_arena_close(&arena);
    free(exact);
    return st;
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    size_t bytes;
    uint8_t *data = (uint8_t *)edit_read("tests/golden/gguf", "tiny-dense.gguf", &bytes);
    uint64_t header = 0;
    CHECK_OK(parse(data, bytes, bytes), err);
    for (uint64_t n = 1; n <= 8192; n++) /* the header ends somewhere below */
        if (parse(data, n, bytes) == HLWQ_OK) {
            header = n;
            break;
        }
    assert_true(header > 1000);
    for (uint64_t n = 0; n < header; n += 1 + n / 64) {
        assert_true(parse(data, n, bytes) != HLWQ_OK);
        assert_non_null(strstr(err.message, "x.gguf"));
    }
    for (uint64_t file = header; file < bytes; file += 997) /* data cut off */
        CHECK_FAILS(parse(data, header, file), HLWQ_ERR_FORMAT, err, "beyond the end");
    free(data);
}

static void damaged_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint64_t at;
        uint32_t value;
        const char *word;
    } c[] = {
        {4, 1, "version 1"},         {4, 4, "version 4"}, {8, 0x7FFFFFFF, "do not fit"}, {12, 0x7FFFFFFF, "do not fit"},
        {16, 1 << 20, "do not fit"},
    };
    size_t bytes;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        uint8_t *data = (uint8_t *)edit_read("tests/golden/gguf", "tiny-dense.gguf", &bytes);
        memcpy(data + c[i].at, &c[i].value, 4);
        CHECK_FAILS(parse(data, bytes, bytes), HLWQ_ERR_FORMAT, err, c[i].word);
        free(data);
    }
}

/* One text of the header made another of the same length. */
static void refuses(const char *from, const char *to, const char *word)
{
    char dir[64], path[100];
    size_t bytes;
    hs_store *s;
    snprintf(dir, sizeof dir, "/tmp/hlwq-gguf-%d", (int)getpid());
    mkdir(dir, 0777);
    char *data = edit_read("tests/golden/gguf", "tiny-dense.gguf", &bytes);
    tiny_file(dir, "x.gguf", data, bytes);
    free(data);
    edit_file(dir, "x.gguf", from, to);
    snprintf(path, sizeof path, "%s/x.gguf", dir);
    hlwq_status st = hs_store_open(&s, mem, path, NULL, NULL, &err);
    if (st == HLWQ_OK)
        fail_msg("%s instead of %s should be refused", to, from);
    if (!strstr(err.message, word) || !strstr(err.message, "x.gguf"))
        fail_msg("\"%s\" does not mention %s and the file", err.message, word);
    unlink(path);
    rmdir(dir);
}

static void what_is_missing_or_unknown_is_named(void **state)
{
    (void)state;
    refuses("blk.1.ssm_a", "blk.1.ssm_b", "blk.1.ssm_b is unknown");
    refuses("blk.2.ffn_up.weight", "blk.3.ffn_up.weight", "duplicate");
    refuses("token_embd.weight", "token_embx.weight", "token_embd");
    refuses("qwen35.block_count", "qwen35.block_xount", "block_count");
    refuses("qwen35.ssm.group_count", "qwen35.ssm.group_xount", "group_count");
    refuses("general.architecture", "general.architexture", "architecture");
    refuses("blk.0.attn_qkv.weight", "blk.7.attn_qkv.weight", "in_proj_qkv");
}

static int setup(void **state)
{
    (void)state;
    mem = hs_mem_open(0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    hs_mem_close(mem);
    return 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_block_type_is_what_the_gguf_package_makes_of_it),
        TEST(heads_norms_and_names_are_put_back),
        TEST(a_file_in_pieces_is_the_same_model),
        TEST(every_truncation_is_refused),
        TEST(damaged_headers_are_refused),
        TEST(what_is_missing_or_unknown_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
