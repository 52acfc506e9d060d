/*
 * The draft head: its logits against those that transformers' formulas give, how often its first draft is what the
 * trunk then chooses, and a head over some tokens only.  HLWQ_LONG=1 counts over all the windows that the demo model's
 * README counts over, with its BF16 weights.
 */
#include "model/engine.h"
#include "tests/support/safetensors.h"

#include <math.h>
#include <unistd.h>

static const char demo[] = "models/demo-q5.hlwq";

typedef struct head {
    hlwq_engine *e;
    hs_states states;
    hs_kv *kv;
    void *pages;
    hs_kv_view view;
    float *trunk, *logits, *hidden; /* [n][vocab], [n][hidden] */
} head;

static void open_head(head *m, const char *model, hs_dtype kv, uint32_t n, uint32_t vocab_rows, const char *text)
{
    hlwq_error err;
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = HLWQ_DEVICE_CPU;
    o.model = model;
    o.threads = 1;
    o.context = n + 8;
    o.draft = HLWQ_DRAFT_MTP;
    o.draft_vocab = vocab_rows;
    o.draft_text = text;
    *m = (head){0};
    CHECK_OK(hlwq_engine_open(&o, &m->e, &err), err);
    const hs_config *c = m->e->net.config;
    hs_kv_shape shape = {1, c->kv_heads * c->head_dim, {kv, kv}, n + 8, m->e->net.batch};
    CHECK_OK(
        hs_states_init(&m->states, c, m->e->mem, m->e->backend, (hs_kv_format){kv, kv}, n + 8, m->e->net.batch, &err),
        err);
    CHECK_OK(m->e->backend->ops->alloc(m->e->backend, HS_MEM_KV, hs_kv_block_bytes(&shape), "pages", &m->pages, &err),
             err);
    CHECK_OK(hs_kv_open(&m->kv, m->e->mem, &shape, m->pages, &err), err);
    m->view = hs_kv_view_of(m->kv, 0, shape.width);
    m->trunk = malloc((size_t)n * c->vocab * sizeof(float));
    m->logits = malloc((size_t)n * c->vocab * sizeof(float));
    m->hidden = malloc((size_t)n * c->hidden * sizeof(float));
}

static void close_head(head *m)
{
    hs_kv_close(m->kv);
    m->e->backend->ops->free(m->e->backend, m->pages);
    hs_states_close(&m->states);
    free(m->trunk);
    free(m->logits);
    free(m->hidden);
    hlwq_engine_close(m->e);
}

/* A text from its beginning: the trunk's logits of every token, and the head's of every pair. */
static void feed(head *m, const int32_t *ids, uint32_t n)
{
    hlwq_error err;
    hs_network *net = &m->e->net;
    const hs_backend_ops *ops = net->backend->ops;
    assert_true(n <= net->batch);
    CHECK_OK(hs_states_reset(&m->states, &err), err);
    CHECK_OK(hs_forward(net, &m->states, ids, 0, n, HS_LOGITS_ALL, m->trunk, NULL, &err), err);
    CHECK_OK(ops->norm(net->backend, net->final_norm, net->config->eps, n, net->x, net->h, &err), err);
    CHECK_OK(hs_forward_draft(net, &m->view, ids + 1, net->h, 0, n - 1, NULL, NULL, &err), err);
    CHECK_OK(ops->head(net->backend, net->draft_norm, net->config->eps, &net->draft_head, n - 1, net->x, m->hidden,
                       m->logits, &err),
             err);
}

static uint32_t best_of(const float *row, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        best = row[i] > row[best] ? i : best;
    return best;
}

static void within(const float *got, const float *want, uint64_t n, float limit, const char *what)
{
    for (uint64_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= limit))
            fail_msg("%s: %g at %u, wanted %g", what, (double)got[i], (unsigned)i, (double)want[i]);
}

/* ---- goldens -------------------------------------------------------------------------------- */

static void check_chain(head *m, const st_file *want, const char *prompt, uint32_t n)
{
    hlwq_error err;
    char key[96];
    uint64_t count, n_greedy;
    hs_network *net = &m->e->net;
    uint32_t vocab = net->config->vocab, hidden = net->config->hidden;
    snprintf(key, sizeof key, "%s.mtp_chain_ids", prompt);
    int32_t *ids = st_i32(want, key, &count);
    snprintf(key, sizeof key, "%s.mtp_chain_logits", prompt);
    float *logits = st_f32(want, key, NULL);
    snprintf(key, sizeof key, "%s.greedy_ids", prompt);
    int32_t *greedy = st_i32(want, key, &n_greedy);
    int32_t id = greedy[0];
    const float *h = net->h + (size_t)(n - 1) * hidden;
    for (uint32_t i = 0; i < count; i++) {
        CHECK_OK(hs_forward_draft(net, &m->view, &id, h, n - 1 + i, 1, net->h, m->logits, &err), err);
        within(m->logits, logits + (size_t)i * vocab, vocab, 5e-4f, "chained logits");
        id = (int32_t)best_of(m->logits, vocab);
        assert_int_equal(id, ids[i]);
        h = net->h;
    }
    free(ids);
    free(logits);
    free(greedy);
}

static void check_golden(const char *name)
{
    char path[4096], key[64];
    const char *root = large_golden();
    if (!root)
        skip();
    snprintf(path, sizeof path, "%s/qwen35/%s/expected.safetensors", root, name);
    st_file *want = st_open(path);
    snprintf(path, sizeof path, "%s/qwen35/%s", root, name);
    for (int p = 0; p < 8; p++) {
        head m;
        uint64_t n, count;
        snprintf(key, sizeof key, "p%d.mtp_logits", p);
        if (!st_find(want, key)) {
            assert_true(p > 0);
            break;
        }
        float *logits = st_f32(want, key, &count);
        snprintf(key, sizeof key, "p%d.input_ids", p);
        int32_t *ids = st_i32(want, key, &n);
        open_head(&m, path, HS_F32, (uint32_t)n, 0, NULL);
        feed(&m, ids, (uint32_t)n);
        within(m.logits, logits, count, 5e-4f, "logits");
        snprintf(key, sizeof key, "p%d", p);
        check_chain(&m, want, key, (uint32_t)n);
        close_head(&m);
        free(logits);
        free(ids);
    }
    st_close(want);
}

static void drafts_of_a_dense_model_are_the_formulas(void **state)
{
    (void)state;
    check_golden("dense");
}

static void drafts_of_a_mixture_are_the_formulas(void **state)
{
    (void)state;
    check_golden("moe");
}

/* ---- acceptance ----------------------------------------------------------------------------- */

static char *read_all(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *text = malloc(4 << 20);
    *bytes = fread(text, 1, 4 << 20, f);
    fclose(f);
    return text;
}

static void first_drafts_are_what_the_trunk_chooses(void **state)
{
    (void)state;
    enum { CTX = 256 };
    bool all = getenv("HLWQ_LONG") != NULL;
    const char *model = all ? "../shared/models/demo" : demo;
    uint32_t windows = all ? 96 : getenv("HLWQ_SANITIZE") ? 1 : 4, right = 0, asked = 0;
    size_t bytes = 0, n;
    int32_t *ids;
    hlwq_error err;
    char *text = read_all("../shared/corpus/books-test.txt", &bytes);
    if (!text || access(model, R_OK) != 0) {
        free(text);
        skip();
    }
    head m;
    open_head(&m, model, HS_F16, CTX, 0, NULL);
    CHECK_OK(hs_tokenizer_encode(m.e->text.inner, text, bytes, false, &ids, &n, &err), err);
    free(text);
    assert_true(n >= windows * CTX);
    uint32_t vocab = m.e->net.config->vocab;
    for (uint32_t w = 0; w < windows; w++) {
        feed(&m, ids + (size_t)w * CTX, CTX);
        for (uint32_t t = 0; t + 1 < CTX; t++, asked++)
            right += best_of(m.logits + (size_t)t * vocab, vocab) == best_of(m.trunk + (size_t)(t + 1) * vocab, vocab);
    }
    printf("first drafts right at %u of %u positions: %.2f %%\n", right, asked, 100.0 * right / asked);
    if (all && abs((int)right - 16586) > 12) /* the reference computes in another order: near ties may fall otherwise */
        fail_msg("%u of %u, the reference has 16586 of 24480", right, asked);
    assert_true(right * 100ull > asked * 60ull);
    free(ids);
    close_head(&m);
}

/* ---- some tokens only ----------------------------------------------------------------------- */

static void trimmed_rows_are_rows_of_the_head(void **state)
{
    (void)state;
    hlwq_error err;
    head all, some;
    char path[64];
    int32_t ids[24], *words;
    size_t n_words;
    static const char text[] = "the sea, the sea, the old sea and the man; Zanzibar";
    if (access(demo, R_OK) != 0)
        skip();
    snprintf(path, sizeof path, "draft-text-%d.txt", (int)getpid());
    FILE *f = fopen(path, "wb");
    fwrite(text, 1, sizeof text - 1, f);
    fclose(f);
    for (int i = 0; i < 24; i++)
        ids[i] = 40 + i * 53;
    open_head(&all, demo, HS_F16, 24, 0, NULL);
    open_head(&some, demo, HS_F16, 24, 300, path);
    unlink(path);
    hs_network *net = &some.e->net;
    uint32_t vocab = net->config->vocab, rows = net->draft_head.rows;
    assert_int_equal(rows, 300);
    feed(&all, ids, 24);
    feed(&some, ids, 24);
    for (uint32_t t = 0; t < 23; t++)
        for (uint32_t i = 0; i < rows; i++) {
            assert_true(i == 0 || net->draft_id[i] > net->draft_id[i - 1]);
            float want = all.logits[(size_t)t * vocab + (size_t)net->draft_id[i]], got = some.logits[t * rows + i];
            assert_memory_equal(&want, &got, sizeof want);
        }
    CHECK_OK(hs_tokenizer_encode(some.e->text.inner, text, sizeof text - 1, false, &words, &n_words, &err), err);
    for (size_t w = 0; w < n_words; w++) { /* all of the text's tokens, and for the rest the lowest ids */
        bool found = false;
        for (uint32_t i = 0; i < rows; i++)
            found = found || net->draft_id[i] == words[w];
        assert_true(found);
    }
    assert_int_equal(net->draft_id[0], 0);
    free(words);
    close_head(&all);
    close_head(&some);
    open_head(&all, demo, HS_F16, 24, 0, NULL);
    open_head(&some, demo, HS_F16, 24, 300, NULL); /* without a text the first ones, which take no memory */
    net = &some.e->net;
    assert_int_equal(net->draft_head.rows, 300);
    assert_null(net->draft_id);
    assert_ptr_equal(net->draft_head.low, net->head.low);
    assert_true(hs_mem_now_bytes(some.e->mem) <= hs_mem_now_bytes(all.e->mem));
    feed(&all, ids, 24);
    feed(&some, ids, 24);
    for (uint32_t t = 0; t < 23; t++)
        assert_memory_equal(some.logits + t * 300, all.logits + (size_t)t * vocab, 300 * sizeof(float));
    close_head(&all);
    close_head(&some);
    open_head(&all, demo, HS_F16, 24, vocab + 5, NULL); /* more than there are: all */
    assert_int_equal(all.e->net.draft_head.rows, vocab);
    assert_null(all.e->net.draft_id);
    close_head(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drafts_of_a_dense_model_are_the_formulas),
        cmocka_unit_test(drafts_of_a_mixture_are_the_formulas),
        cmocka_unit_test(first_drafts_are_what_the_trunk_chooses),
        cmocka_unit_test(trimmed_rows_are_rows_of_the_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
