/*
 * tests/support/run_model.h - a whole model fed with the ids of a fixture: its logits, its greedy text, its matrices.
 */
#ifndef HS_TESTS_RUN_MODEL_H
#define HS_TESTS_RUN_MODEL_H

#include "base/json.h"
#include "model/engine.h"
#include "tests/support/safetensors.h"

#include <math.h>

/* The folder of a golden, or a skip. */
static inline void find(const char *model, const char *file, char out[4096])
{
    char probe[256];
    snprintf(probe, sizeof probe, "%s/%s", model, file);
    const char *path = golden(probe);
    if (!path)
        skip();
    snprintf(out, 4096, "%.*s", (int)(strlen(path) - strlen(file) - 1), path);
}

/* Row r of a part as fp32 in the order of the inputs. */
static inline void row_of(const hs_part *p, const hs_codebook *book, const uint8_t *data, uint32_t r, float *row)
{
    hs_matrix m = hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, data + p->offset, book);
    float *columns = malloc(p->cols * sizeof *columns);
    if (hs_dtype_packed(p->dtype))
        hs_decode_row(p->dtype, book, m.low, p->rows, p->cols, r, columns);
    else
        hs_to_f32(columns, m.low + (size_t)r * p->cols * hs_dtype_bytes(p->dtype), p->dtype, p->cols);
    for (uint32_t c = 0; c < p->cols; c++)
        row[m.order ? m.order[c] : c] = columns[c] * (m.factor ? m.factor[c] : 1.0f);
    free(columns);
}

/* Every part of a model with what its fixture, expected.json, says below `key`; the number that `check` found there. */
typedef uint32_t (*part_check)(hs_store *store, const hs_json *said, const st_file *want, const hs_group *g,
                               uint32_t extent, const hs_part *p, const uint8_t *data);

static inline uint32_t check_parts(const char *model, const char *format, const char *key, part_check check)
{
    char dir[4096], path[4200], *text;
    hlwq_error err;
    hs_store *store;
    hs_json *root;
    uint64_t bytes;
    uint32_t compared = 0;
    hs_arena arena;
    find(model, "config.json", dir);
    hs_mem *mem = hs_mem_open(0);
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    snprintf(path, sizeof path, "%s/expected.json", dir);
    CHECK_OK(hs_file_text(&arena, path, 1u << 20, &text, &bytes, &err), err);
    CHECK_OK(hs_json_parse(text, bytes, path, &root, &err), err);
    snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    st_file *want = st_open(path);
    const hs_json *said = hs_json_get(root, key);
    CHECK_OK(hs_store_open(&store, mem, dir, NULL, NULL, &err), err);
    if (strncmp(hs_store_format(store), format, strlen(format)) != 0)
        fail_msg("%s is called \"%s\"", model, hs_store_format(store));
    const hs_table *t = hs_store_table(store);
    for (uint32_t g = 0; g < t->n_groups; g++) {
        uint8_t *data = aligned_alloc(4096, t->group[g].bytes);
        for (uint32_t e = 0; e < t->group[g].count; e++) {
            CHECK_OK(hs_store_load(store, g, e, NULL, false, data, &err), err);
            for (uint32_t k = 0; k < t->group[g].n_parts; k++)
                compared += check(store, said, want, &t->group[g], e, &t->group[g].part[k], data);
        }
        free(data);
    }
    assert_int_equal(compared, hs_json_count(said)); /* all of them */
    st_close(want);
    hs_store_close(store);
    hs_json_free(root);
    hs_arena_close(&arena);
    hs_mem_close(mem);
    return compared;
}

typedef struct run {
    hlwq_engine *engine;
    hs_states states;
    uint32_t vocab;
} run;

static inline void open_run(run *r, const char *dir, bool exact, uint32_t n)
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

static inline void close_run(run *r)
{
    hs_states_close(&r->states);
    hlwq_engine_close(r->engine);
}

static inline void step(run *r, const int32_t *ids, uint32_t at, uint32_t n, float *logits)
{
    hlwq_error err;
    CHECK_OK(hs_forward(&r->engine->net, &r->states, ids, at, n, HS_LOGITS_ALL, logits, NULL, &err), err);
}

static inline void check_greedy(run *r, const st_file *want, const float *last, uint32_t at)
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

static inline void check_logits(const char *model, const char *dir, uint32_t n, const st_file *want, bool greedy)
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

/* Mean over positions of the divergence of q's choice from p's. */
static inline double divergence(const float *p, const float *q, uint32_t n, uint32_t vocab)
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

static inline bool same_set(const int32_t *a, const int32_t *b, uint32_t n)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            found += a[i] == b[k];
    return found == n;
}

/* Tokens before the first for which eight-bit activations choose other experts; all of them in dense models. */
static inline uint32_t first_flip(const char *dir, const int32_t *ids, uint32_t n)
{
    int32_t *pick[2];
    uint32_t picks = 0, used = 1, layers = 0;
    for (int k = 0; k < 2; k++) {
        hlwq_error err;
        run r;
        open_run(&r, dir, k, n);
        used = r.engine->net.config->experts_used;
        layers = r.engine->net.config->layers;
        picks = layers * n * used;
        pick[k] = calloc(picks + 1, sizeof(int32_t));
        float *logits = malloc((size_t)n * r.vocab * sizeof *logits);
        hs_tap tap = {.pick = pick[k]};
        CHECK_OK(hs_forward(&r.engine->net, &r.states, ids, 0, n, HS_LOGITS_ALL, logits, &tap, &err), err);
        free(logits);
        close_run(&r);
    }
    uint32_t first = n;
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t t = 0; t < first; t++)
            if (!same_set(pick[0] + (l * n + t) * used, pick[1] + (l * n + t) * used, used))
                first = t;
    free(pick[0]);
    free(pick[1]);
    return first;
}

#endif
