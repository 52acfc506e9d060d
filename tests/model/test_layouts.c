/*
 * loader/formats: the layouts of HLWQ codes.  A golden checkpoint is written again in every other layout, with the same
 * codes; what is made of it must be the same to the byte.  The author's own files are decoded and compared.
 */
#include "loader/hf_private.h"
#include "model/engine.h"
#include "offload/store_codes.h"
#include "tests/support/edit_model.h"
#include "tests/support/safetensors.h"

#include <math.h>

#define DENSE "tests/golden/hlwq-models/hlwq-q5-dense"
#define SQRT_128 11.313708498984761

static char root[64], dir[80], reference[80];
static hs_mem *mem;
static hlwq_error err;

typedef enum layout { MSB, PACKAGE, V4, V5, DUNDER, MULTI } layout;

typedef struct writer {
    hs_text header, data;
} writer;

static void put(writer *w, const char *name, const char *dtype, const char *shape, const void *data, size_t bytes)
{
    size_t from = w->data.bytes;
    hs_text_add(&w->data, data, bytes);
    hs_text_format(&w->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                   w->header.bytes ? "," : "{", name, dtype, shape, from, w->data.bytes);
}

static void finish(writer *w, const char *file)
{
    hs_text out = {0};
    hs_text_add(&w->header, "}", 1);
    uint64_t n = w->header.bytes;
    hs_text_add(&out, (const char *)&n, 8);
    hs_text_add(&out, w->header.data, w->header.bytes);
    hs_text_add(&out, w->data.data, w->data.bytes);
    tiny_file(dir, file, out.data, out.bytes);
    hs_text_close(&out);
    hs_text_close(&w->header);
    hs_text_close(&w->data);
}

/* The codes of one matrix in a layout; name is the parameter's. */
static void put_codes(writer *w, layout how, const char *name, uint32_t bits, uint8_t *code, uint64_t rows,
                      uint64_t blocks, const void *norms, const int64_t *meta)
{
    char key[300], module[256], shape[64];
    uint64_t n = rows * blocks * 128, bytes = n;
    float level[64];
    uint8_t *stream = malloc(n);
    snprintf(module, sizeof module, "%.*s", (int)strlen(name) - (how == MSB || how >= DUNDER ? 0 : 7), name);
    for (char *dot; how >= DUNDER && (dot = strchr(module, '.'));) {
        memmove(dot + 2, dot + 1, strlen(dot));
        memcpy(dot, "__", 2);
    }
    const char *join = how == MSB || how >= DUNDER ? "__" : ".";
    memcpy(stream, code, n);
    if (how == MSB || how == MULTI) {
        hs_pack_msb(code, bits, n, stream);
        bytes = n / 8 * bits;
    } else if (how == PACKAGE && bits == 5) {
        hs_pack_lsb(code, bits, n, stream);
        bytes = n / 8 * bits;
    } else if ((how == PACKAGE || how == V4) && bits <= 4) {
        bytes = n / 2;
        for (uint64_t b = 0; b < rows * blocks; b++)
            for (int i = 0; i < 64; i++)
                stream[b * 64 + i] = (uint8_t)(code[b * 128 + 64 + i] << 4 | code[b * 128 + i]);
    }
    bool is_nibbles = bytes == n / 2 && how == V4;
    snprintf(key, sizeof key, "%s%s%s", module, join,
             how == MSB || how == MULTI ? "packed"
             : is_nibbles               ? "codes_packed"
                                        : "codes");
    if (how == MSB || how == MULTI)
        snprintf(shape, sizeof shape, "[%zu]", (size_t)bytes);
    else
        snprintf(shape, sizeof shape, "[%zu,%zu]", (size_t)rows, (size_t)(bytes / rows));
    put(w, key, how == MSB || how == MULTI || bytes < n ? "U8" : "I8", shape, stream, bytes);
    snprintf(key, sizeof key, "%s%snorms", module, join);
    snprintf(shape, sizeof shape, "[%zu,%zu]", (size_t)rows, (size_t)blocks);
    put(w, key, "F16", shape, norms, rows * blocks * 2);
    if (how == MSB || how == MULTI) {
        snprintf(key, sizeof key, "%s__meta", module);
        put(w, key, "I64", how == MSB ? "[5]" : "[4]", meta, how == MSB ? 40 : 32);
    } else if (how != DUNDER) {
        hs_book_levels(HS_BOOK_B, bits, level);
        for (int i = 0; how != V5 && i < 1 << bits; i++)
            level[i] = (float)(level[i] / SQRT_128);
        snprintf(key, sizeof key, "%s.%s", module, how == V5 ? "ct" : "ct_scaled");
        snprintf(shape, sizeof shape, "[%d]", 1 << bits);
        put(w, key, "F32", shape, level, sizeof(float) << bits);
    }
    free(stream);
}

/* The golden's codes, made as wide or as narrow as `bits`, in `how`; into `dir`. */
static void write_model(layout how, uint32_t bits)
{
    st_file *f = st_open(DENSE "/model.safetensors");
    writer w = {0}, plain = {0};
    char text[64];
    mkdir(root, 0777);
    mkdir(dir, 0777);
    for (uint32_t i = 0; i < f->n; i++) {
        const hs_st_entry *e = &f->entry[i];
        char name[256], shape[200], key[300];
        size_t base;
        if (hs_hf_ends(e->name, "__norms", &base) || hs_hf_ends(e->name, "__meta", &base))
            continue;
        if (!hs_hf_ends(e->name, "__packed", &base)) {
            hs_shape_text(shape, sizeof shape, e->dim, e->rank);
            put(how == MULTI ? &plain : &w, e->name, hs_dtype_name(e->dtype), shape, f->text + e->offset, e->bytes);
            continue;
        }
        snprintf(name, sizeof name, "%.*s", (int)base, e->name);
        snprintf(key, sizeof key, "%s__meta", name);
        const int64_t *meta = st_raw(f, key, NULL);
        snprintf(key, sizeof key, "%s__norms", name);
        const void *norms = st_raw(f, key, NULL);
        uint8_t *code = malloc((size_t)meta[3]);
        hs_unpack_msb((const uint8_t *)f->text + e->offset, 5, (uint64_t)meta[3], code);
        for (int64_t k = 0; k < meta[3]; k++)
            code[k] = (uint8_t)(bits > 5 ? 2 * code[k] + k % 2 : code[k] >> (5 - bits));
        put_codes(&w, how, name, bits, code, (uint64_t)meta[0], (uint64_t)meta[1], norms, meta);
        free(code);
    }
    finish(&w, how == MULTI ? "codes.safetensors" : "model-00000-of-00001.safetensors");
    if (how == MULTI)
        finish(&plain, "bf16.safetensors");
    size_t bytes;
    char *config = edit_read(DENSE, "config.json", &bytes);
    tiny_file(how == MULTI ? root : dir, "config.json", config, bytes);
    free(config);
    snprintf(text, sizeof text, "{\"bits\":%u}", bits);
    tiny_file(how == MULTI ? root : dir, "polar_config.json", text, strlen(text));
    st_close(f);
}

static void clear(void)
{
    static const char *const file[] = {"model-00000-of-00001.safetensors", "codes.safetensors", "bf16.safetensors",
                                       "config.json", "polar_config.json"};
    char path[200];
    const char *const where[] = {dir, reference, root};
    for (int d = 0; d < 3; d++) {
        for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
            snprintf(path, sizeof path, "%s/%s", where[d], file[i]);
            unlink(path);
        }
        rmdir(where[d]);
    }
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/hlwq-layouts-%d", (int)getpid());
    snprintf(dir, sizeof dir, "%s/PQ", root);
    snprintf(reference, sizeof reference, "%s/reference", root);
    mem = hs_mem_open(0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    hs_mem_close(mem);
    clear();
    return 0;
}

/* All extents of both, byte for byte; and the levels, to the last bits that a division cost. */
static void same_extents(const char *a, const char *b, const char *format)
{
    hs_store *s[2];
    CHECK_OK(hs_store_open(&s[0], mem, a, NULL, NULL, &err), err);
    CHECK_OK(hs_store_open(&s[1], mem, b, NULL, NULL, &err), err);
    assert_string_equal(hs_store_format(s[1]), format);
    const hs_table *t = hs_store_table(s[0]), *u = hs_store_table(s[1]);
    assert_int_equal(t->n_books, 1);
    assert_int_equal(u->n_books, 1);
    for (uint32_t i = 0; i < 1u << t->book[0].bits; i++)
        if (!(fabsf(t->book[0].level[i] - u->book[0].level[i]) <= 2e-7f * fabsf(t->book[0].level[i])))
            fail_msg("%s: level %u is %g, should be %g", format, i, (double)u->book[0].level[i],
                     (double)t->book[0].level[i]);
    assert_int_equal(t->n_groups, u->n_groups);
    for (uint32_t g = 0; g < t->n_groups; g++) {
        assert_int_equal(t->group[g].bytes, u->group[g].bytes);
        uint8_t *x = aligned_alloc(4096, t->group[g].bytes), *y = aligned_alloc(4096, t->group[g].bytes);
        for (uint32_t e = 0; e < t->group[g].count; e++) {
            CHECK_OK(hs_store_load(s[0], g, e, NULL, false, x, &err), err);
            CHECK_OK(hs_store_load(s[1], g, e, NULL, false, y, &err), err);
            assert_memory_equal(x, y, t->group[g].bytes);
        }
        free(x);
        free(y);
    }
    hs_store_close(s[0]);
    hs_store_close(s[1]);
}

static void every_layout_gives_the_same_extents(void **state)
{
    (void)state;
    static const struct {
        layout how;
        uint32_t bits;
        const char *format;
    } c[] = {
        {PACKAGE, 5, "PolarEngine Q5"},
        {V5, 5, "PolarEngine v5 notebook Q5"},
        {DUNDER, 5, "HLWQ int8 Q5"},
        {MULTI, 5, "PQ-multi Q5"},
        {PACKAGE, 4, "PolarEngine Q4"},
        {V4, 4, "PolarEngine v4 notebook Q4"},
        {PACKAGE, 3, "PolarEngine Q3"},
        {MULTI, 3, "PQ-multi Q3"},
        {PACKAGE, 2, "PolarEngine Q2"},
        {PACKAGE, 6, "PolarEngine Q6"},
        {V4, 6, "PolarEngine Q6"},
        {MULTI, 6, "PQ-multi Q6"},
        {V5, 3, "PolarEngine v5 notebook Q3"},
        {DUNDER, 4, "HLWQ int8 Q4"},
        {MULTI, 2, "PQ-multi Q2"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char keep[80];
        memcpy(keep, dir, sizeof keep);
        memcpy(dir, reference, sizeof dir);
        write_model(MSB, c[i].bits);
        memcpy(dir, keep, sizeof dir);
        write_model(c[i].how, c[i].bits);
        same_extents(reference, dir, c[i].format);
        clear();
    }
}

/* ---- the author's files --------------------------------------------------------------------- */

/* Tensors of a folder that is no whole model. */
static void list(hs_hf *hf, const char *where)
{
    hs_raw *raw;
    uint32_t n;
    *hf = (hs_hf){.dir = where, .text_dir = where, .config_text = (char *)"{}", .config_bytes = 2};
    hs_arena_init(&hf->arena, mem, HS_MEM_TABLE);
    CHECK_OK(hs_hf_read_shards(hf, &raw, &n, &err), err);
    CHECK_OK(hs_hf_list_tensors(hf, raw, n, NULL, &err), err);
}

/* Each matrix of `where` against the fixture's tensor of that name; `key` NULL: the parameter's own. */
static uint32_t compare(const char *where, const char *fixture, const char *(*key)(const char *name))
{
    hs_hf hf;
    uint32_t compared = 0;
    list(&hf, where);
    st_file *want = st_open(fixture);
    for (uint32_t i = 0; i < hf.n_tensors; i++) {
        const hs_tensor *t = &hf.tensor[i];
        if (t->encoding != HS_ENC_HLWQ)
            continue;
        const hs_st_entry *e = st_need(want, key(t->name));
        uint64_t n, blocks = (t->dim[1] + HS_BLOCK - 1) / HS_BLOCK, block = hs_hf_block_bytes(t);
        float *w = st_f32(want, e->name, &n), level[64];
        hs_source s = {t, 0, t->dim[0], t->dim[1]};
        uint8_t *codes = malloc(t->data.bytes);
        uint16_t *norms = malloc(t->norms.bytes);
        CHECK_OK(hs_hf_read_packed(&hf, &s, 0, t->dim[0], codes, norms, &err), err);
        const hs_levels *l = &hf.book[t->book];
        hs_codebook book;
        memcpy(level, l->level, sizeof level);
        if (l->author)
            hs_book_levels(HS_BOOK_B, l->bits, level);
        CHECK_OK(hs_codebook_init(&book, l->bits, level, &err), err);
        for (uint64_t r = 0; r < t->dim[0]; r++)
            for (uint64_t b = 0; b < blocks; b++) {
                uint8_t code[HS_BLOCK];
                float got[HS_BLOCK], norm = hs_f16_to_f32(norms[r * blocks + b]);
                hs_store_unpack_codes(t, codes + (r * blocks + b) * block, code);
                hs_decode_block(&book, code, norms[r * blocks + b], got);
                for (uint64_t k = 0; k < HS_BLOCK && b * HS_BLOCK + k < e->dim[1]; k++) {
                    float right = w[r * e->dim[1] + b * HS_BLOCK + k];
                    float limit = 2e-6f * norm + (e->dtype == HS_F32 ? 0 : fabsf(right) / 250);
                    if (!(fabsf(got[k] - right) <= limit))
                        fail_msg("%s %s row %u: %g, should be %g", where, t->name, (unsigned)r, (double)got[k],
                                 (double)right);
                }
            }
        compared++;
        free(w);
        free(codes);
        free(norms);
    }
    st_close(want);
    hs_hf_close(&hf);
    return compared;
}

static const char *own_name(const char *name)
{
    static char out[200];
    snprintf(out, sizeof out, "%s%s", strncmp(name, "lm_head", 7) == 0 ? "" : "model.", name);
    return out;
}

static uint32_t key_bits[2];
static const char *key_stem;
static const char *quant_key(const char *name)
{
    static char out[200];
    bool down = strstr(name, "down_proj") != NULL;
    snprintf(out, sizeof out, "%s%s%u.deq_f32", down ? "w8x256" : "w5x300", key_stem, key_bits[down]);
    return out;
}

static void the_authors_checkpoints_decode_as_he_decodes_them(void **state)
{
    (void)state;
#define G "tests/golden/hlwq/"
    assert_int_equal(compare(G "ckpt_polarengine_pkg", G "ckpt_polarengine_pkg_expected.safetensors", own_name), 8);
    key_stem = ".q";
    key_bits[0] = 5, key_bits[1] = 4;
    assert_int_equal(compare(G "ckpt_notebook_v4", G "polarengine_quant.safetensors", quant_key), 2);
    key_bits[1] = 5;
    assert_int_equal(compare(G "ckpt_notebook_v5", G "polarengine_quant.safetensors", quant_key), 2);
    key_stem = ".pq";
    for (uint32_t bits = 3; bits <= 5; bits++) {
        static const char *const ckpt[] = {G "ckpt_hlwq_q3", G "ckpt_hlwq_q4", G "ckpt_hlwq_q5"};
        key_bits[0] = key_bits[1] = bits;
        assert_int_equal(compare(ckpt[bits - 3], G "pq_multi.safetensors", quant_key), 2);
    }
}

/* ---- damage --------------------------------------------------------------------------------- */

static void refuses(const char *word, const char *tensor)
{
    hs_store *s;
    hlwq_status st = hs_store_open(&s, mem, dir, NULL, NULL, &err);
    for (uint32_t g = 0; st == HLWQ_OK && g < hs_store_table(s)->n_groups; g++) {
        uint8_t *x = aligned_alloc(4096, hs_store_table(s)->group[g].bytes);
        st = hs_store_load(s, g, 0, NULL, false, x, &err);
        free(x);
    }
    hs_store_close(s); /* NULL where it did not open */
    assert_int_equal(st, HLWQ_ERR_FORMAT);
    if (!strstr(err.message, "safetensors") || !strstr(err.message, word) || !strstr(err.message, tensor))
        fail_msg("\"%s\" does not name the file, %s and %s", err.message, tensor, word);
}

#define MODEL "model-00000-of-00001.safetensors"
#define Q "layers.3.self_attn.q_proj"

static void damaged_layouts_are_refused(void **state)
{
    (void)state;
    static const struct {
        layout how;
        uint32_t bits;
        const char *from, *to, *word;
    } c[] = {
        {V5, 5, Q ".norms", Q ".sums", "norms"},
        {V5, 5, Q ".ct", Q ".tc", "levels"},
        {V5, 5, Q ".codes", Q ".coeds", "PolarEngine"},
        {PACKAGE, 5, Q ".codes\":{\"dtype\":\"U8\",\"shape\":[1024,160]",
         Q ".codes\":{\"dtype\":\"U8\",\"shape\":[512,320]", "rows"},
        {PACKAGE, 5, Q ".norms\":{\"dtype\":\"F16\",\"shape\":[1024,2]",
         Q ".norms\":{\"dtype\":\"F16\",\"shape\":[1024,1,2]", "matrix of F16"},
        {PACKAGE, 5, Q ".norms\":{\"dtype\":\"F16\"", Q ".norms\":{\"dtype\":\"BF16\"", "matrix of F16"},
        {PACKAGE, 5, Q ".codes\":{\"dtype\":\"U8\",\"shape\":[1024,160]",
         Q ".codes\":{\"dtype\":\"U8\",\"shape\":[1024,1,160]", "matrix of I8 or U8"},
        {PACKAGE, 6, Q ".ct_scaled\":{\"dtype\":\"F32\",\"shape\":[64]",
         Q ".ct_scaled\":{\"dtype\":\"F32\",\"shape\":[8,8]", "[64]"},
        {PACKAGE, 4, Q ".ct_scaled\":{\"dtype\":\"F32\",\"shape\":[16]",
         Q ".ct_scaled\":{\"dtype\":\"I32\",\"shape\":[16]", "[64]"},
        {DUNDER, 5, "layers__3__self_attn__q_proj__weight__norms", "layers__3__self_attn__q_proj__weight__sums",
         "norms"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        write_model(c[i].how, c[i].bits);
        edit_header(dir, MODEL, c[i].from, c[i].to);
        refuses(c[i].word, c[i].how == DUNDER ? "q_proj" : Q);
        clear();
    }
}

/* Overwrites bytes of a tensor whose name ends so. */
static void patch(const char *ending, uint64_t at, const void *value, size_t bytes)
{
    char path[200];
    snprintf(path, sizeof path, "%s/" MODEL, dir);
    st_file *f = st_open(path);
    uint64_t offset = 0;
    size_t base;
    for (uint32_t i = 0; i < f->n; i++)
        if (hs_hf_ends(f->entry[i].name, ending, &base))
            offset = f->entry[i].offset + at;
    st_close(f);
    assert_true(offset);
    FILE *out = fopen(path, "r+b");
    fseek(out, (long)offset, SEEK_SET);
    assert_int_equal(fwrite(value, 1, bytes, out), bytes);
    fclose(out);
}

static void damaged_numbers_are_refused(void **state)
{
    (void)state;
    static const float nan_level = NAN, large = 40.0f;
    static const uint16_t infinite = 0x7C00;
    static const uint8_t code = 32, nibbles = 0x80;
    static const struct {
        uint32_t bits;
        layout how;
        const char *ending;
        uint64_t at;
        const void *value;
        size_t bytes;
        const char *word;
    } c[] = {
        {5, V5, Q ".ct", 0, &nan_level, 4, "ascending"},     {5, V5, Q ".ct", 124, &large, 4, "symmetric"},
        {5, V5, Q ".codes", 1000, &code, 1, "out of range"}, {3, PACKAGE, Q ".codes", 77, &nibbles, 1, "out of range"},
        {5, V5, Q ".norms", 20, &infinite, 2, "not finite"}, {5, PACKAGE, Q ".norms", 20, &infinite, 2, "not finite"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        write_model(c[i].how, c[i].bits);
        patch(c[i].ending, c[i].at, c[i].value, c[i].bytes);
        refuses(c[i].word, Q);
        clear();
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_layout_gives_the_same_extents),
        TEST(the_authors_checkpoints_decode_as_he_decodes_them),
        TEST(damaged_layouts_are_refused),
        TEST(damaged_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
