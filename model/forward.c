/*
 * model/forward.c - the network: what happens to a token between its id and its logits.
 *
 *   x = embedding
 *   for each layer:   x += mixer(norm x)      gated attention, or Gated DeltaNet
 *                     x += ffn(norm x)        dense, or the experts that a router picks
 *   logits = head(norm x)
 *
 * Arithmetic is the backend's, weights are leased from residency; this file is only the order of things.
 */
#include "model/network.h"

#include "base/clock.h"

#include <string.h>

/* Books the time since *mark on a stage. */
static void spent(hs_network *net, hlwq_stage stage, uint64_t *mark)
{
    uint64_t now = hs_now_ns();
    net->stage_ns[stage] += now - *mark;
    *mark = now;
}

static hlwq_status mixer(hs_network *net, hs_states *states, uint32_t i, uint32_t first, uint32_t n, hlwq_error *err)
{
    const hs_layer *layer = &net->layer[i];
    const hs_backend_ops *ops = net->backend->ops;
    if (layer->full) {
        hs_kv_view kv = hs_states_kv(states, states->index[i]);
        return ops->attention(net->backend, &layer->attention, &kv, first, n, net->x, err);
    }
    uint32_t l = states->index[i];
    if (states->window && n > 1)
        return ops->deltanet_window(net->backend, &layer->delta, &states->delta[l], &states->window[l], n, net->x, err);
    return ops->deltanet(net->backend, &layer->delta, &states->delta[l], first, n, net->x, err);
}

/* What takes a step: n tokens of one text from position first[0] on, or with `rows` one token of each of n texts. */
typedef struct step {
    hs_states *const *states;
    const uint32_t *first;
    uint32_t n;
    bool rows;
    bool alike; /* the backend was told that this one is like others (hs_backend_ops.step) */
} step;

/* Rows of several texts through a backend that takes them one at a time. */
static hlwq_status mixer_each(hs_network *net, const step *s, uint32_t i, hlwq_error *err)
{
    const hs_layer *layer = &net->layer[i];
    const hs_backend_ops *ops = net->backend->ops;
    for (uint32_t t = 0; t < s->n; t++) {
        uint32_t at = s->states[t]->index[i];
        float *x = net->x + (size_t)t * net->config->hidden;
        if (layer->full) {
            hs_kv_view kv = hs_states_kv(s->states[t], at);
            HS_TRY(ops->attention(net->backend, &layer->attention, &kv, s->first[t], 1, x, err));
        } else {
            HS_TRY(ops->deltanet(net->backend, &layer->delta, &s->states[t]->delta[at], s->first[t], 1, x, err));
        }
    }
    return HLWQ_OK;
}

static hlwq_status mixer_rows(hs_network *net, const step *s, uint32_t i, hlwq_error *err)
{
    const hs_layer *layer = &net->layer[i];
    const hs_backend_ops *ops = net->backend->ops;
    hs_kv_view kv[HS_ROWS_MAX];
    hs_delta_state delta[HS_ROWS_MAX];
    bool away = false;
    for (uint32_t t = 0; t < s->n; t++)
        away |= s->states[t]->low > 0;
    if (layer->full ? !ops->attention_rows || away : !ops->deltanet_rows)
        return mixer_each(net, s, i, err);
    for (uint32_t t = 0; t < s->n; t++) {
        uint32_t at = s->states[t]->index[i];
        if (layer->full)
            kv[t] = hs_states_kv(s->states[t], at);
        else
            delta[t] = s->states[t]->delta[at];
    }
    return layer->full ? ops->attention_rows(net->backend, &layer->attention, kv, s->first, s->n, net->x, err)
                       : ops->deltanet_rows(net->backend, &layer->delta, delta, s->n, net->x, err);
}

/* The routed experts of one layer, as they come into memory. */
typedef struct arrivals {
    hs_network *net;
    uint32_t group;
    const hs_layer *next; /* whose experts are guessed once this layer's are asked for; NULL = none */
    const hs_routing *routing;
} arrivals;

/* What the next layer's router would choose now: mostly what it will. */
static hlwq_status expect_next(arrivals *a, hlwq_error *err)
{
    hs_network *net = a->net;
    const hs_mixture *m = &a->next->mixture;
    const int32_t *id = a->routing->guess;
    if (!a->routing->found) {
        hs_routing guess = {.id = net->guess, .weight = net->guess_weight};
        HS_TRY(net->backend->ops->guess(net->backend, m, 1, net->x, &guess, err));
        id = guess.id;
    }
    if (id)
        hs_residency_expect(net->residency, a->next->experts_group, id, m->used);
    a->next = NULL;
    return HLWQ_OK;
}

static hlwq_status next_experts(void *user, const int32_t **id, uint32_t *n, hs_place *place, hlwq_error *err)
{
    arrivals *a = user;
    HS_TRY(hs_residency_next(a->net->residency, id, n, place, err));
    if (a->next && hs_residency_wants_guesses(a->net->residency)) /* all of this layer is there: the disk is idle */
        HS_TRY(expect_next(a, err));
    hs_network_bind_experts(a->net, a->group, *id, *n);
    return HLWQ_OK;
}

static hlwq_status mixture(hs_network *net, const hs_layer *layer, uint32_t n, hlwq_error *err)
{
    const hs_mixture *m = &layer->mixture;
    const hs_backend_ops *ops = net->backend->ops;
    hs_routing routing = {.id = net->pick, .weight = net->weight};
    bool guess = n == 1 && layer + 1 < net->layer + net->config->layers && !net->routes;
    arrivals a = {net, layer->experts_group, guess ? layer + 1 : NULL, &routing};
    hs_expert_source source = {next_experts, &a};
    uint64_t mark = hs_now_ns();
    HS_TRY(ops->route(net->backend, m, n, net->x, &routing, err));
    if (net->routes)
        hs_routes_choose(net->routes, (uint32_t)(layer - net->layer), n, net->pick);
    spent(net, HLWQ_STAGE_ROUTER, &mark);
    hs_residency_begin(net->residency, a.group, net->pick, routing.found, n * m->used);
    hlwq_status st = ops->experts(net->backend, m, net->expert, &source, n, &routing, net->x, err);
    hs_residency_end(net->residency);
    spent(net, HLWQ_STAGE_EXPERTS, &mark);
    return st;
}

/* A layer whose experts are all with the backend, in a step that it knows: nobody asks which were chosen. */
static hlwq_status whole_mixture(hs_network *net, hs_layer *layer, uint32_t n, bool *done, hlwq_error *err)
{
    uint64_t mark = hs_now_ns();
    *done = false;
    if (net->trace || hs_residency_streams(net->residency, layer->experts_group))
        return HLWQ_OK;
    hlwq_status st = net->backend->ops->mixture(net->backend, &layer->mixture, n, net->x, &layer->visited, done, err);
    spent(net, HLWQ_STAGE_EXPERTS, &mark);
    return st;
}

static hlwq_status feed_forward(hs_network *net, hs_layer *layer, uint32_t n, bool alike, hlwq_error *err)
{
    bool done = false;
    if (layer->moe && alike)
        HS_TRY(whole_mixture(net, layer, n, &done, err));
    if (layer->moe)
        return done ? HLWQ_OK : mixture(net, layer, n, err);
    uint64_t mark = hs_now_ns();
    const hs_backend_ops *ops = net->backend->ops;
    float eps = net->config->eps;
    hlwq_status st = ops->dense(net->backend, layer->ffn_norm, eps, &layer->dense, n, net->x, err);
    spent(net, HLWQ_STAGE_DENSE, &mark);
    return st;
}

static hlwq_status tap_layer(const hs_network *net, const hs_tap *tap, uint32_t row, uint32_t n, hlwq_error *err)
{
    size_t floats = (size_t)n * net->config->hidden;
    if (!tap || !tap->layer)
        return HLWQ_OK;
    return net->backend->ops->get(net->backend, tap->layer + row * floats, net->x, floats * sizeof(float), err);
}

static void tap_routing(const hs_network *net, const hs_tap *tap, uint32_t layer, uint32_t n)
{
    size_t picks = (size_t)n * net->config->experts_used;
    if (tap && tap->pick)
        memcpy(tap->pick + layer * picks, net->pick, picks * sizeof(int32_t));
    if (tap && tap->weight)
        memcpy(tap->weight + layer * picks, net->weight, picks * sizeof(float));
}

static hlwq_status layer_body(hs_network *net, const step *s, uint32_t i, hlwq_error *err)
{
    uint64_t mark = hs_now_ns();
    HS_TRY(s->rows ? mixer_rows(net, s, i, err) : mixer(net, s->states[0], i, s->first[0], s->n, err));
    spent(net, net->layer[i].full ? HLWQ_STAGE_ATTENTION : HLWQ_STAGE_DELTANET, &mark);
    return feed_forward(net, &net->layer[i], s->n, s->alike, err);
}

/* A layer that is not always in memory: a dense model's that is larger than the budget. */
static hlwq_status streamed_layer(hs_network *net, const step *s, uint32_t i, hlwq_error *err)
{
    static const int32_t only = 0;
    const int32_t *extent;
    uint32_t got, group = net->layer[i].group;
    hs_place place;
    uint64_t mark = hs_now_ns();
    hs_residency_begin(net->residency, group, &only, NULL, 1);
    hlwq_status st = hs_residency_next(net->residency, &extent, &got, &place, err);
    spent(net, HLWQ_STAGE_WAIT, &mark);
    if (st == HLWQ_OK) {
        hs_split split;
        hs_network_bind_layer(net, group);
        bool shared = hs_network_bind_split(net, group, &split);
        if (shared)
            net->backend->ops->split(net->backend, &split);
        st = layer_body(net, s, i, err);
        if (shared)
            net->backend->ops->split(net->backend, NULL);
    }
    hs_residency_end(net->residency);
    return st;
}

/*
 * One token after another is the same to the backend, and so is one window of drafts after another and a token of each
 * of several texts, but for layers that are elsewhere each time and for those who look at what is in between.
 */
static hlwq_status begin_step(hs_network *net, step *s, const hs_tap *tap, hlwq_error *err)
{
    const hs_backend *be = net->backend;
    bool streams = hs_residency_streams(net->residency, net->layer[0].group);
    bool again = s->n == 1 || s->rows || s->states[0]->window;
    hs_bases text[HS_ROWS_MAX];
    if (!be->ops->step || !again || tap || net->routes || streams)
        return HLWQ_OK;
    for (uint32_t t = 0; t < (s->rows ? s->n : 1); t++)
        text[t] = hs_states_bases(s->states[t]);
    const hs_step told = {.kind = s->rows ? HS_STEP_TEXTS : HS_STEP_TOKENS,
                          .n = s->n,
                          .position = s->first,
                          .text = text,
                          .beside = hs_residency_all_beside(net->residency, s->n),
                          .guesses = hs_residency_guesses(net->residency)};
    return be->ops->step(net->backend, &told, &s->alike, err);
}

/* From ids to the residual stream after the last layer. */
static hlwq_status layers(hs_network *net, step *s, const int32_t *ids, const hs_tap *tap, hlwq_error *err)
{
    uint32_t n = s->n;
    for (uint32_t t = 0; t < (s->rows ? n : 1); t++)
        HS_TRY(hs_states_reach(s->states[t], s->first[t] + (s->rows ? 1 : n), err));
    uint64_t mark = hs_now_ns();
    HS_TRY(net->backend->ops->embed(net->backend, &net->embed, ids, n, net->x, err));
    spent(net, HLWQ_STAGE_EMBED, &mark);
    HS_TRY(tap_layer(net, tap, 0, n, err));
    hs_residency_tokens(net->residency, n);
    HS_TRY(begin_step(net, s, tap, err));
    for (uint32_t i = 0; i < net->config->layers; i++) {
        bool streams = hs_residency_streams(net->residency, net->layer[i].group);
        HS_TRY(streams ? streamed_layer(net, s, i, err) : layer_body(net, s, i, err));
        HS_TRY(tap_layer(net, tap, i + 1, n, err));
        if (net->layer[i].moe)
            tap_routing(net, tap, i, n);
        if (net->trace && net->layer[i].moe && !s->rows)
            hs_trace_add(net->trace, i, s->first[0], n, net->config->experts_used, net->pick, net->weight);
    }
    return hs_residency_settle(net->residency, err);
}

static void book_visited(hs_network *net, hs_layer *layer)
{
    if (layer->visited)
        hs_residency_used(net->residency, layer->experts_group, layer->visited);
    layer->visited = 0;
}

hlwq_status hs_forward_head(hs_network *net, uint32_t from, uint32_t n, float *logits, const hs_tap *tap,
                            hlwq_error *err)
{
    size_t hidden = net->config->hidden;
    uint64_t mark = hs_now_ns();
    hlwq_status st =
        net->backend->ops->head(net->backend, net->final_norm, net->config->eps, &net->head, n, net->x + from * hidden,
                                tap && tap->hidden ? tap->hidden + from * hidden : NULL, logits, err);
    for (uint32_t i = 0; i < net->config->layers; i++) /* known by now */
        book_visited(net, &net->layer[i]);
    spent(net, HLWQ_STAGE_HEAD, &mark);
    return st;
}

hlwq_status hs_forward_choose(hs_network *net, const hs_selection *choice, int32_t *id, float *logits, hlwq_error *err)
{
    uint64_t mark = hs_now_ns();
    const hs_backend_ops *ops = net->backend->ops;
    hlwq_status st = ops->choose(net->backend, choice, id, err);
    if (st == HLWQ_OK && *id == HS_UNDECIDED)
        st = ops->logits(net->backend, net->config->vocab, logits, err);
    spent(net, HLWQ_STAGE_HEAD, &mark);
    return st;
}

hlwq_status hs_forward(hs_network *net, hs_states *states, const int32_t *ids, uint32_t first, uint32_t n,
                       hs_logits_mode mode, float *logits, const hs_tap *tap, hlwq_error *err)
{
    step s = {&states, &first, n, false, false};
    HS_TRY(layers(net, &s, ids, tap, err));
    if (mode == HS_LOGITS_NONE)
        return HLWQ_OK;
    uint32_t from = mode == HS_LOGITS_LAST ? n - 1 : 0;
    return hs_forward_head(net, from, n - from, logits, tap, err);
}

hlwq_status hs_forward_rows(hs_network *net, hs_states *const *states, const int32_t *ids, const uint32_t *position,
                            uint32_t n, float *logits, hlwq_error *err)
{
    step s = {states, position, n, true, false};
    HS_TRY(layers(net, &s, ids, NULL, err));
    return hs_forward_head(net, 0, n, logits, NULL, err);
}

/* The draft head has one layer of its own, so what it sees of that is where the text's is. */
static hlwq_status begin_draft(hs_network *net, const hs_kv_view *kv, uint32_t first, uint32_t n, bool *alike,
                               hlwq_error *err)
{
    const hs_backend *be = net->backend;
    const hs_bases text = {.pages = kv->coded ? kv->coded[0] : kv->page[0], .ring = kv->page[0]};
    const hs_step told = {.kind = HS_STEP_DRAFT, .n = n, .position = &first, .text = &text};
    return be->ops->step && !net->routes ? be->ops->step(net->backend, &told, alike, err) : HLWQ_OK;
}

static hlwq_status draft(hs_network *net, const hs_kv_view *kv, const int32_t *ids, const float *h, uint32_t first,
                         uint32_t n, float *next, float *logits, hlwq_error *err)
{
    hs_backend *be = net->backend;
    hs_layer *layer = &net->layer[net->config->layers];
    bool alike = false;
    HS_TRY(be->ops->embed(be, &net->embed, ids, n, net->x, err));
    if (logits)
        HS_TRY(begin_draft(net, kv, first, n, &alike, err));
    HS_TRY(be->ops->join(be, &net->joint, n, h, net->x, err));
    HS_TRY(be->ops->attention(be, &layer->attention, kv, first, n, net->x, err));
    HS_TRY(feed_forward(net, layer, n, alike, err));
    if (!logits)
        return HLWQ_OK;
    const float *last = net->x + (size_t)(n - 1) * net->config->hidden;
    float *out = net->draft_id ? net->draft_logits : logits;
    HS_TRY(be->ops->norm(be, net->draft_norm, net->config->eps, 1, last, next, err));
    HS_TRY(be->ops->head(be, net->draft_norm, net->config->eps, &net->draft_head, 1, last, NULL, out, err));
    book_visited(net, layer);
    for (uint32_t i = 0; net->draft_id && i < net->draft_head.rows; i++)
        logits[net->draft_id[i]] = out[i];
    return HLWQ_OK;
}

hlwq_status hs_forward_draft(hs_network *net, const hs_kv_view *kv, const int32_t *ids, const float *h, uint32_t first,
                             uint32_t n, float *next, float *logits, hlwq_error *err)
{
    uint64_t before[HLWQ_STAGE_COUNT], mark = hs_now_ns();
    memcpy(before, net->stage_ns, sizeof before);
    hlwq_status st = draft(net, kv, ids, h, first, n, next, logits, err);
    memcpy(net->stage_ns, before, sizeof before); /* one stage, whatever it is made of */
    spent(net, HLWQ_STAGE_DRAFT, &mark);
    return st;
}
