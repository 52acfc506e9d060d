/* model/forward.c against transformers: logits, hidden states, caches, routing and greedy text of whole small models.
 */
#include "model/engine.h"
#include "tests/support/safetensors.h"

#include <math.h>

typedef struct run {
    hlwq_engine *engine;
    const hs_config *config;
    st_file *want;
    const char *prompt; /* "p0" */
    int32_t *ids;
    uint32_t n;
    float *logits;
    hs_states states;
} run;

static hlwq_engine *open_engine(const char *name, bool exact, uint32_t threads)
{
    hlwq_error err;
    hlwq_engine *engine;
    char config[256];
    snprintf(config, sizeof config, "%s/config.json", name);
    const char *path = golden(config);
    if (!path)
        return NULL;
    char dir[4096];
    snprintf(dir, sizeof dir, "%.*s", (int)(strlen(path) - strlen("/config.json")), path);
    hlwq_engine_options o = hlwq_engine_options_default();
    o.device = test_device();
    o.model = dir;
    o.exact = exact;
    o.threads = threads;
    CHECK_OK(hlwq_engine_open(&o, &engine, &err), err);
    return engine;
}

static const char *expected_path(const char *name)
{
    char file[256];
    snprintf(file, sizeof file, "%s/expected.safetensors", name);
    return golden(file);
}

static float largest_difference(const float *a, const float *b, uint64_t n)
{
    float worst = 0;
    for (uint64_t i = 0; i < n; i++) {
        float d = fabsf(a[i] - b[i]);
        if (!(d <= worst))
            worst = d;
    }
    return worst;
}

static void within(const float *got, const float *want, uint64_t n, float limit, const char *what)
{
    float d = largest_difference(got, want, n);
    if (!(d <= limit))
        fail_msg("%s differs by %g, limit %g", what, (double)d, (double)limit);
}

static const char *key(const run *r, const char *name)
{
    static char k[4][128];
    static int turn;
    char *p = k[turn++ % 4];
    snprintf(p, 128, "%s.%s", r->prompt, name);
    return p;
}

/* Feeds the prompt in pieces of at most `piece` tokens after a first one of `first`, ending on the grid as a session
 * does. */
static void feed(run *r, uint32_t first, uint32_t piece, const hs_tap *tap)
{
    hlwq_error err;
    CHECK_OK(hs_states_init(&r->states, r->config, r->engine->mem, r->engine->backend, (hs_kv_format){HS_F32, HS_F32},
                            r->n + 40, r->engine->net.batch, &err),
             err);
    for (uint32_t at = 0, n = first; at < r->n; at += n, n = piece) {
        n = n < r->n - at ? n : r->n - at;
        CHECK_OK(hs_forward(&r->engine->net, &r->states, r->ids + at, at, n, HS_LOGITS_ALL,
                            r->logits + (size_t)at * r->config->vocab, tap, &err),
                 err);
    }
}

/* A copy of what the backend holds, to be freed. */
static void *fetched(const run *r, const void *from, uint64_t bytes)
{
    hlwq_error err;
    void *p = malloc(bytes);
    CHECK_OK(r->engine->backend->ops->get(r->engine->backend, p, from, bytes, &err), err);
    return p;
}

static void check_states(run *r)
{
    const hs_config *c = r->config;
    uint64_t n;
    uint32_t linear = 0, full = 0;
    while (c->full[linear])
        linear++;
    while (!c->full[full])
        full++;
    const hs_delta_state *s = &r->states.delta[r->states.index[linear]];
    float *want = st_f32(r->want, key(r, "delta_state"), &n);
    float *state = fetched(r, s->s, n * sizeof(float));
    within(state, want, n, 1e-5f, "delta state");
    free(state);
    free(want);
    want = st_f32(r->want, key(r, "conv_state"), &n);
    uint32_t kept = c->conv_taps - 1, channels = (uint32_t)(n / kept);
    state = fetched(r, s->conv, n * sizeof(float));
    for (uint32_t ch = 0; ch < channels; ch++)
        for (uint32_t i = 0; i < kept; i++)
            within(&state[(size_t)i * channels + ch], &want[(size_t)ch * kept + i], 1, 5e-5f, "conv state");
    free(state);
    free(want);
    if (!st_find(r->want, key(r, "k")))
        return;
    float *k = st_f32(r->want, key(r, "k"), &n), *v = st_f32(r->want, key(r, "v"), &n);
    void *const *page = hs_kv_pages(r->states.kv, r->states.index[full]);
    size_t page_floats = 2 * (size_t)HS_GRID * c->kv_heads * c->head_dim;
    for (uint32_t h = 0; h < c->kv_heads; h++)
        for (uint32_t t = 0; t < r->n; t++) {
            float *held = fetched(r, page[t / HS_GRID], page_floats * sizeof(float));
            const float *row = held + (size_t)(t % HS_GRID * c->kv_heads + h) * c->head_dim;
            within(row, k + ((size_t)h * r->n + t) * c->head_dim, c->head_dim, 1e-4f, "K");
            within(row + (size_t)HS_GRID * c->kv_heads * c->head_dim, v + ((size_t)h * r->n + t) * c->head_dim,
                   c->head_dim, 1e-4f, "V");
            free(held);
        }
    free(k);
    free(v);
}

static void check_greedy(run *r, const char *name)
{
    hlwq_error err;
    uint64_t n;
    int32_t *want = st_i32(r->want, name, &n);
    size_t vocab = r->config->vocab;
    const float *l = r->logits + (r->n - 1) * vocab;
    float *next = malloc(vocab * sizeof *next);
    for (uint64_t i = 0; i < n; i++) {
        int32_t best = 0;
        for (size_t k = 1; k < vocab; k++)
            best = l[k] > l[best] ? (int32_t)k : best;
        assert_int_equal(best, want[i]);
        CHECK_OK(hs_forward(&r->engine->net, &r->states, &best, r->n + (uint32_t)i, 1, HS_LOGITS_ALL, next, NULL, &err),
                 err);
        l = next;
    }
    free(next);
    free(want);
}

static void check_routing(run *r, const hs_tap *tap)
{
    uint64_t n;
    int32_t *id = st_i32(r->want, key(r, "router_ids"), &n);
    float *weight = st_f32(r->want, key(r, "router_weights"), &n);
    assert_memory_equal(tap->pick, id, n * sizeof *id);
    within(tap->weight, weight, n, 1e-4f, "router weights");
    free(id);
    free(weight);
}

static void open_run(run *r, hlwq_engine *engine, st_file *want, const char *prompt)
{
    uint64_t n;
    *r = (run){.engine = engine, .config = engine->net.config, .want = want, .prompt = prompt};
    r->ids = st_i32(want, key(r, "input_ids"), &n);
    r->n = (uint32_t)n;
    r->logits = malloc((size_t)r->n * r->config->vocab * sizeof(float));
}

static void close_run(run *r)
{
    hs_states_close(&r->states);
    free(r->ids);
    free(r->logits);
}

static void check_prompt(hlwq_engine *engine, st_file *want, const char *prompt)
{
    run r;
    uint64_t count;
    open_run(&r, engine, want, prompt);
    const hs_config *c = r.config;
    hs_tap tap = {.layer = malloc((size_t)(c->layers + 1) * r.n * c->hidden * sizeof(float)),
                  .hidden = malloc((size_t)r.n * c->hidden * sizeof(float)),
                  .pick = malloc((size_t)c->layers * r.n * (c->experts_used + 1) * sizeof(int32_t)),
                  .weight = malloc((size_t)c->layers * r.n * (c->experts_used + 1) * sizeof(float))};
    float *logits = st_f32(want, key(&r, "logits"), &count);

    feed(&r, r.n, r.n, &tap); /* one chunk */
    within(r.logits, logits, count, 5e-4f, "logits");
    float *hidden = st_f32(want, key(&r, "final_hidden"), &count);
    within(tap.hidden, hidden, count, 1e-4f, "final hidden");
    free(hidden);
    if (st_find(want, key(&r, "layer_hidden"))) {
        hidden = st_f32(want, key(&r, "layer_hidden"), &count);
        within(tap.layer, hidden, count, 1e-4f, "layer hidden");
        free(hidden);
    }
    if (st_find(want, key(&r, "router_ids")))
        check_routing(&r, &tap);
    check_states(&r);
    check_greedy(&r, key(&r, "greedy_ids"));
    float *whole = r.logits;
    count = (uint64_t)r.n * c->vocab;

    static const uint32_t cut[][2] = {{1, 1}, {5, 1000}, {64, 64}, {128, 64}};
    for (int i = 0; i < (test_device() == HLWQ_DEVICE_CUDA ? 2 : 4); i++) { /* the simulator is slow */
        hs_states_close(&r.states);
        r.logits = malloc(count * sizeof(float));
        feed(&r, cut[i][0], cut[i][1] < HS_BATCH_MAX ? cut[i][1] : HS_BATCH_MAX, NULL);
        within(r.logits, logits, count, 5e-4f, "logits of another cut");
        within(r.logits, whole, count, 2e-4f, "another cut");
        if (cut[i][0] % HS_GRID == 0)
            assert_memory_equal(r.logits, whole, count * sizeof(float)); /* on the grid: the same bits */
        check_states(&r);
        free(r.logits);
    }
    r.logits = whole;
    free(logits);
    free(tap.layer);
    free(tap.hidden);
    free(tap.pick);
    free(tap.weight);
    close_run(&r);
}

static void check_model(const char *name)
{
    hlwq_engine *engine = open_engine(name, false, 2);
    if (!engine)
        skip();
    st_file *want = st_open(expected_path(name));
    check_prompt(engine, want, "p0");
    check_prompt(engine, want, "p1");
    st_close(want);
    hlwq_engine_close(engine);
}

static void dense_tied_equals_transformers(void **state)
{
    (void)state;
    check_model("qwen35/dense-tied");
}

static void dense_equals_transformers(void **state)
{
    (void)state;
    check_model("qwen35/dense");
}

static void mixture_equals_transformers(void **state)
{
    (void)state;
    check_model("qwen35/moe");
}

/* A packed checkpoint through dequantised fp32 weights. */
static void check_packed(const char *name)
{
    if (test_device() != HLWQ_DEVICE_CPU) /* which alone has an exact mode */
        skip();
    hlwq_engine *engine = open_engine(name, true, 2);
    if (!engine)
        skip();
    st_file *want = st_open(expected_path(name));
    static const uint32_t length[] = {37, 100};
    for (int i = 0; i < 2; i++) {
        char name_of[32];
        uint64_t count, n;
        run r = {.engine = engine, .config = engine->net.config, .want = want, .n = length[i]};
        snprintf(name_of, sizeof name_of, "ids_%u", r.n);
        r.ids = st_i32(want, name_of, &n);
        assert_int_equal(n, r.n);
        snprintf(name_of, sizeof name_of, "logits_%u", r.n);
        float *logits = st_f32(want, name_of, &count);
        r.logits = malloc(count * sizeof(float));
        feed(&r, r.n, r.n, NULL);
        within(r.logits, logits, count, 1e-3f, name_of);
        if (i == 0)
            check_greedy(&r, "greedy_37");
        free(logits);
        close_run(&r);
    }
    st_close(want);
    hlwq_engine_close(engine);
}

static void packed_dense_checkpoint_is_read_as_written(void **state)
{
    (void)state;
    check_packed("hlwq-models/hlwq-q5-dense");
}

static void packed_mixture_checkpoint_is_read_as_written(void **state)
{
    (void)state;
    check_packed("hlwq-models/hlwq-q5-moe");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_tied_equals_transformers),
        cmocka_unit_test(dense_equals_transformers),
        cmocka_unit_test(mixture_equals_transformers),
        cmocka_unit_test(packed_dense_checkpoint_is_read_as_written),
        cmocka_unit_test(packed_mixture_checkpoint_is_read_as_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
