/*
 * stage_mixers.cu - attention and DeltaNet on a graphics card: where their operands lie, and what is launched for them.
 */
#include "kernels/cuda/backend.h"

extern "C" {
#include "kernels/hlwq.h"
#include "kernels/kv_codec.h"
}

#include <assert.h>

gpu_kv_side gpu_side_of(const hs_kv_planes *p)
{
    gpu_kv_side side = {};
    side.low = p->low;
    side.high = p->high;
    side.norms = p->norms;
    side.low_bytes = hs_kv_low_bytes(p->dtype);
    side.bits = p->dtype == HS_I8 ? 8 : hs_dtype_bits(p->dtype);
    if (side.bits < 8) {
        hs_book_levels(HS_BOOK_CONVERGED, side.bits, side.ascending);
        hs_kv_levels(p->dtype, side.stored);
    }
    return side;
}

/* How pages are kept. */
static void form_of_pages(gpu_attention *a, const hs_kv_view *kv)
{
    a->half = kv->dtype == HS_F16;
    a->table_step = kv->table ? kv->table_step : 0;
    if (!kv->coded)
        return;
    a->coded_bytes = kv->layout.bytes;
    a->side[0] = gpu_side_of(&kv->layout.k);
    a->side[1] = gpu_side_of(&kv->layout.v);
}

/*
 * Where the pages of a layer are: those that grow where the table says, or in a row; the plain ones of a coded cache in
 * a ring.
 */
static hlwq_status place_pages(gpu_attention *a, const hs_kv_view *kv, hlwq_error *err)
{
    uint64_t bytes = 2ull * HS_GRID * a->kv_heads * a->head_dim * (a->half ? 2 : 4);
    uint32_t last = a->first + a->n - 1, pages = last / HS_GRID + 1, before = a->first ? a->first - 1 : 0;
    uint32_t made = hs_kv_coded_count(last), oldest = kv->coded ? hs_kv_coded_count(before) : 0;
    bool scattered = false;
    a->table = static_cast<const uint64_t *>(kv->table);
    a->ring = kv->ring ? kv->ring : 1;
    if (kv->coded || !kv->table) {
        a->page = static_cast<uint8_t *>(kv->page[0]);
        while (!kv->ring && a->ring < pages && kv->page[a->ring] != a->page)
            a->ring++;
        for (uint32_t i = oldest; i < pages; i++)
            scattered |= kv->page[i] != a->page + i % a->ring * bytes;
    }
    if (kv->coded) {
        a->coded_first = oldest;
        a->coded_pages = made - oldest;
    }
    if (kv->coded && !kv->table) {
        a->coded = static_cast<uint8_t *>(kv->coded[0]);
        for (uint32_t i = 0; i < made; i++)
            scattered |= kv->coded[i] != a->coded + i * a->coded_bytes;
    }
    return scattered ? hs_fail(err, HLWQ_ERR_UNSUPPORTED, "pages of the cache are scattered") : HLWQ_OK;
}

/*
 * The same in a step, as what lies behind what the card was told of the text: alike for all texts whose cache has one
 * form.  Plain pages that do not grow are a coded cache's, in a ring, or all there will be.
 */
static void pages_behind(const hs_cuda *c, gpu_attention *a, const hs_kv_view *kv, uint32_t row)
{
    const hs_bases *text = &c->steps.text[row];
    a->table = NULL;
    a->page = a->coded = NULL;
    a->ring = kv->coded ? kv->ring : UINT32_MAX;
    if (kv->table)
        a->table = gpu_distance(c, text->pages, static_cast<const uint64_t *>(kv->table));
    else if (kv->coded)
        a->coded = gpu_distance(c, text->pages, static_cast<uint8_t *>(kv->coded[0]));
    if (kv->coded || !kv->table)
        a->page = gpu_distance(c, text->ring, static_cast<uint8_t *>(kv->page[0]));
}

/* That as an operand, and the form: where it is the same one launch takes rows of several texts. */
static uint64_t pages_of(const hs_cuda *c, const hs_kv_view *kv, uint32_t row)
{
    gpu_attention a = {};
    if (!c->steps.on)
        return 0;
    pages_behind(c, &a, kv, row);
    const hs_kv_layout *l = &kv->layout;
    uint64_t form = kv->coded ? GPU_OPERANDS(l->k.dtype, l->v.dtype, l->bytes) : 0;
    return GPU_OPERANDS(GPU_OPERANDS(a.table, a.page, a.coded), GPU_OPERANDS(a.ring, kv->table_step, kv->dtype), form);
}

/* Queries, keys and values of n rows: [n][q, k, v]. */
static hlwq_status project(hs_cuda *c, const hs_attention *w, uint32_t n, const float *x, hlwq_error *err)
{
    uint32_t width = w->q.rows + w->k.rows + w->v.rows;
    HS_TRY(gpu_norm(c, x, w->norm, w->eps, n, gpu_form_of(&w->q), err));
    const gpu_part qkv[] = {
        {&w->q, c->proj, width}, {&w->k, c->proj + w->q.rows, width}, {&w->v, c->proj + w->q.rows + w->k.rows, width}};
    return gpu_mixer_in(c, qkv, 3, n, err);
}

/* The rotations of positions first.. for rows `row`.. of the table. */
static hlwq_status rotations(hs_cuda *c, const hs_attention *w, uint32_t row, uint32_t first, uint32_t n,
                             hlwq_error *err)
{
    float *freq = c->rope + (uint64_t)c->lim.batch * c->lim.head_dim, copy[128];
    uint64_t bytes = w->rotary_dims / 2 * sizeof(float);
    if (c->rope_freq != w->inv_freq) {
        memcpy(copy, w->inv_freq, bytes);
        HS_TRY(gpu_put(&c->base, freq, copy, bytes, err));
    }
    CUDA_DO("a rotation table", gpu_run_rope_table(freq, w->rope_scale, w->rotary_dims, first, n,
                                                   c->rope + (uint64_t)row * w->rotary_dims, c->stream));
    c->rope_freq = w->inv_freq;
    c->rope_scale = w->rope_scale;
    c->rope_dims = w->rotary_dims;
    return HLWQ_OK;
}

/*
 * Pages that are not on the card come some at a time, the oldest first, and are attended to as they come: each time for
 * as many tokens as can wait in `part` for what follows.
 */
static hlwq_status attend_apart(hs_cuda *c, const gpu_attention *whole, const hs_kv_view *kv, hlwq_error *err)
{
    for (uint32_t t = 0, n; t < whole->n; t += n) {
        gpu_attention a = *whole;
        n = whole->n - t < (uint32_t)GPU_PARTS ? whole->n - t : (uint32_t)GPU_PARTS;
        a.first += t;
        a.n = n;
        a.proj += t * a.width;
        a.out += (uint64_t)t * a.q_heads * a.head_dim;
        a.more = true;
        for (a.from = 0; a.from < kv->away; a.from = a.end) {
            HS_TRY(kv->next(kv->user, a.from, &a.end, err));
            a.window = static_cast<const uint8_t *>(kv->coded ? kv->coded[a.from] : kv->page[a.from]);
            CUDA_DO("attention", gpu_run_attend(&a, c->stream));
        }
        a.end = 0;
        a.window = NULL;
        a.more = false;
        CUDA_DO("attention", gpu_run_attend(&a, c->stream));
    }
    return HLWQ_OK;
}

/*
 * Attention of the rows from `row` on, which are one text's from position `first` on, or `alike`: of a step, whose
 * positions and texts the card knows.
 */
static hlwq_status attend(hs_cuda *c, const hs_attention *w, const hs_kv_view *kv, uint32_t row, uint32_t first,
                          uint32_t n, bool alike, hlwq_error *err)
{
    gpu_attention a = {};
    form_of_pages(&a, kv);
    a.q_heads = w->q_heads;
    a.kv_heads = w->kv_heads;
    a.head_dim = w->head_dim;
    a.first = first;
    a.n = n;
    if (alike) {
        pages_behind(c, &a, kv, row);
        a.at = c->position + row;
        a.text = c->text + row;
        a.spans = c->steps.step.spans;
    } else {
        HS_TRY(place_pages(&a, kv, err));
    }
    a.q_norm = w->q_norm;
    a.k_norm = w->k_norm;
    a.rope = c->rope + (uint64_t)row * w->rotary_dims;
    a.rotary_dims = w->rotary_dims;
    a.width = (uint64_t)w->q.rows + w->k.rows + w->v.rows;
    a.proj = c->proj + row * a.width;
    a.out = c->out + (uint64_t)row * w->q_heads * w->head_dim;
    a.part = c->part;
    a.eps = w->eps;
    CUDA_DO("attention", gpu_run_append(&a, c->stream));
    if (kv->away)
        return attend_apart(c, &a, kv, err);
    CUDA_DO("attention", gpu_run_attend(&a, c->stream));
    return HLWQ_OK;
}

static hlwq_status attention(hs_cuda *c, const hs_attention *w, const hs_kv_view *kv, uint32_t first, uint32_t n,
                             float *x, bool alike, hlwq_error *err)
{
    HS_TRY(project(c, w, n, x, err));
    if (c->rope_freq != w->inv_freq || c->rope_first != first || c->rope_n != n) {
        HS_TRY(rotations(c, w, 0, first, n, err));
        c->rope_first = first;
        c->rope_n = n;
    }
    HS_TRY(attend(c, w, kv, 0, first, n, alike, err));
    return gpu_mixer_out(c, &w->o, n, x, err);
}

hlwq_status gpu_stage_attention(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, uint32_t first, uint32_t n,
                                float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    /* Which pages come in between only the host knows; and of several texts the card was told as of rows. */
    bool apart = kv->next || c->steps.step.kind == HS_STEP_TEXTS;
    if (!c->steps.on || apart) {
        gpu_end_run(c);
        return attention(c, w, kv, first, n, x, false, err);
    }
    return gpu_recorded(
        c, GPU_OPERANDS(w, pages_of(c, kv, 0), x),
        [=](hlwq_error *why) { return attention(c, w, kv, first, n, x, true, why); }, err);
}

/* How many rows from the first on have caches of one form. */
static uint32_t rows_alike(const hs_cuda *c, const hs_kv_view *kv, uint32_t row, uint32_t n)
{
    uint32_t m = 1;
    while (row + m < n && pages_of(c, &kv[row + m], row + m) == pages_of(c, &kv[row], row))
        m++;
    return m;
}

/* Weights are read once for all texts; what lies between the products is each text's own, in a step in one launch. */
static hlwq_status attention_rows(hs_cuda *c, const hs_attention *w, const hs_kv_view *kv, const uint32_t *position,
                                  uint32_t n, float *x, bool alike, hlwq_error *err)
{
    HS_TRY(project(c, w, n, x, err));
    c->rope_n = 0; /* its table is written over */
    for (uint32_t t = 0, m; t < n; t += m) {
        m = alike ? rows_alike(c, kv, t, n) : 1;
        if (!c->steps.on) /* whose table is there */
            HS_TRY(rotations(c, w, t, position[t], 1, err));
        HS_TRY(attend(c, w, &kv[t], t, position[t], m, alike, err));
    }
    return gpu_mixer_out(c, &w->o, n, x, err);
}

hlwq_status gpu_stage_attention_rows(hs_backend *be, const hs_attention *w, const hs_kv_view *kv,
                                     const uint32_t *position, uint32_t n, float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    uint64_t texts = 0;
    bool apart = false;
    for (uint32_t t = 0; t < n; t++) {
        texts = gpu_operands(t, texts, pages_of(c, &kv[t], t), 0);
        apart = apart || kv[t].next;
    }
    if (!c->steps.on || apart) {
        gpu_end_run(c);
        return attention_rows(c, w, kv, position, n, x, false, err);
    }
    return gpu_recorded(
        c, GPU_OPERANDS(w, texts, x),
        [=](hlwq_error *why) { return attention_rows(c, w, kv, position, n, x, true, why); }, err);
}

hlwq_status gpu_delta_products(hs_cuda *c, const hs_delta *w, uint32_t rows, const float *x, gpu_delta *d,
                               hlwq_error *err)
{
    uint64_t batch = c->lim.batch;
    float *qkv = c->proj, *z = qkv + batch * w->qkv.rows, *b = z + batch * w->z.rows, *a = b + batch * w->v_heads;
    HS_TRY(gpu_norm(c, x, w->norm, w->eps, rows, gpu_form_of(&w->qkv), err));
    const gpu_part in[] = {
        {&w->qkv, qkv, w->qkv.rows}, {&w->z, z, w->z.rows}, {&w->b, b, w->v_heads}, {&w->a, a, w->v_heads}};
    HS_TRY(gpu_mixer_in(c, in, 4, rows, err));
    d->qkv = qkv;
    d->z = z;
    d->b = d->strength = b;
    d->a = d->decay = a;
    d->gate_stride = w->v_heads;
    d->mix = c->mix;
    d->out = c->out;
    gpu_delta_weights(w, d);
    return HLWQ_OK;
}

void gpu_delta_weights(const hs_delta *w, gpu_delta *d)
{
    d->conv = w->conv;
    d->a_log = w->a_log;
    d->dt_bias = w->dt_bias;
    d->out_norm = w->out_norm;
    d->k_heads = w->k_heads;
    d->v_heads = w->v_heads;
    d->k_dim = w->k_dim;
    d->v_dim = w->v_dim;
    d->taps = w->taps;
    d->channels = w->qkv.rows;
    d->eps = w->eps;
}

void gpu_delta_state(const hs_cuda *c, const hs_delta_state *state, gpu_delta *d)
{
    d->text = c->steps.on ? c->text : NULL;
    d->state = gpu_distance(c, c->steps.text[0].states, state->s);
    d->conv_state = gpu_distance(c, c->steps.text[0].states, state->conv);
}

/* Of n texts with a row each, or of one with n. */
static hlwq_status mix_states(hs_cuda *c, const hs_delta *w, const hs_delta_state *state, uint32_t texts, uint32_t n,
                              float *x, hlwq_error *err)
{
    uint32_t rows = texts * n, together = c->steps.on ? texts : 1;
    gpu_delta d = {};
    HS_TRY(gpu_delta_products(c, w, rows, x, &d, err));
    d.n = n;
    d.texts = together;
    for (uint32_t t = 0; t < texts; t += together) {
        gpu_delta_state(c, &state[t], &d);
        CUDA_DO("DeltaNet", gpu_run_delta(&d, c->stream));
        d.qkv += d.channels;
        d.mix += d.channels;
        d.z += w->z.rows;
        d.b += w->v_heads;
        d.a += w->v_heads;
        d.strength += w->v_heads;
        d.decay += w->v_heads;
        d.out += (uint64_t)w->v_heads * w->v_dim;
    }
    return gpu_mixer_out(c, &w->out, rows, x, err);
}

/* The stage, by where its state is; all texts of a step have theirs at the same distance. */
static uint64_t operands_of(const hs_cuda *c, const hs_delta *w, const hs_delta_state *state, const float *x)
{
    gpu_delta d = {};
    gpu_delta_state(c, state, &d);
    return GPU_OPERANDS(w, GPU_OPERANDS(d.state, d.conv_state, 0), x);
}

hlwq_status gpu_stage_deltanet(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t first,
                               uint32_t n, float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    (void)first;
    return gpu_recorded(
        c, operands_of(c, w, state, x), [=](hlwq_error *why) { return mix_states(c, w, state, 1, n, x, why); }, err);
}

hlwq_status gpu_stage_deltanet_rows(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t n,
                                    float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    for (uint32_t t = 1; t < n && c->steps.on; t++) {
        bool same =
            gpu_distance(c, c->steps.text[t].states, state[t].s) == gpu_distance(c, c->steps.text[0].states, state->s);
        assert(same);
        (void)same;
    }
    return gpu_recorded(
        c, operands_of(c, w, state, x), [=](hlwq_error *why) { return mix_states(c, w, state, n, 1, x, why); }, err);
}
