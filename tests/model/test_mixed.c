/* A model whose matrices are of every packed type, side by side in each stage: one input is read in several forms. */
#define _POSIX_C_SOURCE 200809L
#include "model/engine.h"
#include "tests/support/tiny_model.h"

#include <math.h>

enum { TOKENS = 11, VOCAB = 40 };
static const int32_t ids[TOKENS] = {3, 17, 29, 8, 8, 0, 39, 21, 5, 14, 33};

/* One extent of the source, whose parts are fp32, as `group` wants it. */
static void encode(hs_store *store, const hs_codebook *book, uint32_t g, uint32_t e, const hs_group *group,
                   uint8_t *out)
{
    hlwq_error err;
    const hs_group *source = &hs_store_table(store)->group[g];
    uint8_t *data = aligned_alloc(64, source->bytes);
    CHECK_OK(hs_store_load(store, g, e, NULL, false, data, &err), err);
    memset(out, 0, group->bytes);
    for (uint32_t i = 0; i < group->n_parts; i++) {
        const hs_part *p = &group->part[i];
        const float *w = (const float *)(const void *)(data + source->part[i].offset);
        assert_int_equal(source->part[i].dtype, HS_F32);
        if (hs_dtype_packed(p->dtype))
            CHECK_OK(hs_encode_rows(p->dtype, book, w, 0, p->rows, p->rows, p->cols, out + p->offset, &err), err);
        else
            memcpy(out + p->offset, w, (size_t)p->rows * p->cols * 4);
    }
    free(data);
}

/* The tiny model as a container at `path`; matrix i of a group has a type of its own, another in each group. */
static void write_mixed(const char *path, bool moe, uint32_t turn)
{
    static const hs_dtype type[] = {HS_Q5, HS_I4, HS_I4G64, HS_I4Z, HS_I4G64Z, HS_F32};
    char dir[64], file[128];
    hlwq_error err;
    hs_store *store;
    hs_codebook book;
    hs_mem *mem = hs_mem_open(0);
    snprintf(dir, sizeof dir, "/tmp/hlwq-mixed-%d", (int)getpid());
    tiny_model_write(dir, moe);
    CHECK_OK(hs_store_open(&store, mem, dir, NULL, NULL, &err), err);
    hs_table t = *hs_store_table(store);
    t.group = malloc(t.n_groups * sizeof *t.group);
    memcpy(t.group, hs_store_table(store)->group, t.n_groups * sizeof *t.group);
    t.n_books = 1;
    t.book[0].bits = 5;
    hs_book_levels(HS_BOOK_CONVERGED, 5, t.book[0].level);
    CHECK_OK(hs_codebook_init(&book, 5, t.book[0].level, &err), err);
    uint64_t largest = 0;
    for (uint32_t g = 0; g < t.n_groups; g++) {
        for (uint32_t i = 0; i < t.group[g].n_parts; i++)
            if (hs_role_class_of(t.group[g].part[i].role) != HS_CLASS_VECTOR)
                t.group[g].part[i].dtype = type[(turn + g + i) % 6];
        CHECK_OK(hs_group_place(&t.group[g], &err), err);
        largest = t.group[g].bytes > largest ? t.group[g].bytes : largest;
    }
    hs_container_writer *w;
    hs_container_blobs blobs = {.provenance = "every type"};
    blobs.data[HS_BLOB_CONFIG] = hs_store_blob(store, HS_BLOB_CONFIG, &blobs.bytes[HS_BLOB_CONFIG]);
    CHECK_OK(hs_container_create(&w, mem, path, true, &t, &blobs, &err), err);
    uint8_t *extent = aligned_alloc(64, largest);
    for (uint32_t g = 0; g < t.n_groups; g++)
        for (uint32_t e = 0; e < t.group[g].count; e++) {
            encode(store, &book, g, e, &t.group[g], extent);
            CHECK_OK(hs_container_append(w, extent, false, &err), err);
        }
    CHECK_OK(hs_container_commit(w, &err), err);
    free(extent);
    free(t.group);
    hs_store_close(store);
    hs_mem_close(mem);
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "%s/%s", dir, i ? "config.json" : "model.safetensors");
        unlink(file);
    }
    rmdir(dir);
}

/* Logits of all positions, 5 tokens at once, then one by one. False where this machine lacks the set. */
static bool run(const char *path, const char *set, uint32_t threads, bool exact, float *logits)
{
    hlwq_error err;
    hlwq_engine *engine;
    hs_states s;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = test_device();
    o.model = path;
    o.threads = threads;
    o.exact = exact;
    setenv("HLWQ_CPU", set, 1);
    hlwq_status st = hlwq_engine_open(&o, &engine, &err);
    unsetenv("HLWQ_CPU");
    if (st == HLWQ_ERR_UNSUPPORTED)
        return false;
    CHECK_OK(st, err);
    CHECK_OK(hs_states_init(&s, engine->net.config, engine->mem, engine->backend, (hs_kv_format){HS_F32, HS_F32}, 64,
                            engine->net.batch, &err),
             err);
    for (uint32_t at = 0, n = 5; at < TOKENS; at += n, n = 1)
        CHECK_OK(hs_forward(&engine->net, &s, ids + at, at, n, HS_LOGITS_ALL, logits + at * VOCAB, NULL, &err), err);
    hs_states_close(&s);
    hlwq_engine_close(engine);
    return true;
}

static void forms_do_not_disturb_each_other(void **state)
{
    (void)state;
    static const char *const set[] = {"avx2", "avx512"};
    char path[64];
    snprintf(path, sizeof path, "/tmp/hlwq-mixed-%d.hlwq", (int)getpid());
    for (uint32_t turn = 0; turn < 6; turn++)
        for (int moe = 0; moe < 2; moe++) {
            float base[TOKENS * VOCAB], exact[TOKENS * VOCAB], other[TOKENS * VOCAB];
            double square = 0, off = 0;
            write_mixed(path, moe, turn);
            assert_true(run(path, "ref", 1, false, base));
            assert_true(run(path, "ref", 1, true, exact));
            for (int i = 0; i < TOKENS * VOCAB; i++) {
                square += (double)exact[i] * exact[i];
                off += ((double)base[i] - exact[i]) * ((double)base[i] - exact[i]);
            }
            /* Eight-bit activations: two hundredths at most; a form taken for another gives four tenths. */
            if (!(off < 0.05 * square))
                fail_msg("turn %u, %s: %.4f of the exact logits' square", turn, moe ? "mixture" : "dense",
                         off / square);
            for (uint32_t k = 0; k < 2; k++)
                for (uint32_t threads = 1; threads < 4; threads += 2)
                    if (run(path, set[k], threads, false, other))
                        assert_memory_equal(other, base, sizeof base);
            unlink(path);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_do_not_disturb_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
