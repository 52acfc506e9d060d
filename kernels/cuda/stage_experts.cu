/*
 * stage_experts.cu - a layer of experts on a graphics card: the router's choice, and who computes which.
 *
 * Experts that are not on the card are computed by the CPU while the card computes those that are, or are copied up.
 * Where the CPU computes all of them the host has its turns (turns.cu).  Otherwise it waits once a layer, for the
 * router's choice and, of few tokens, the activations that the CPU may need; the card goes on with what does not depend
 * on the host meanwhile: the shared expert, and in a step the experts that it finds in its table.  What the host is told
 * then includes which these were, so it never computes them again.
 */
#include "kernels/cuda/backend.h"

#include <assert.h>

enum {
    BESIDE_TOKENS = 8 /* more than these are rarely computed by the CPU: their activations come when it wants them */
};

/* On `back`, so that the card goes on while the host waits. */
static hlwq_status fetch_u(hs_cuda *c, uint32_t n, hlwq_error *err)
{
    CUDA_DO("activations", cudaMemcpyAsync(c->host_u, c->u, (size_t)n * c->lim.hidden * sizeof(float),
                                           cudaMemcpyDeviceToHost, c->back));
    c->have_u = true;
    return HLWQ_OK;
}

/* What the host waits for, on its way on `back`: the choice, and activations that the CPU may need. */
static hlwq_status fetch_choice(hs_cuda *c, void *to, const void *from, uint64_t bytes, uint32_t n, hlwq_error *err)
{
    CUDA_DO("the router", cudaEventRecord(c->chosen, c->stream));
    CUDA_DO("the router", cudaStreamWaitEvent(c->back, c->chosen, 0));
    CUDA_DO("the router", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->back));
    c->have_u = false;
    return n <= BESIDE_TOKENS ? fetch_u(c, n, err) : HLWQ_OK;
}

static hlwq_status wait_for_choice(hs_cuda *c, const int32_t *id, const float *weight, uint64_t picks,
                                   hs_routing *routing, hlwq_error *err)
{
    CUDA_DO("the router", cudaStreamSynchronize(c->back));
    c->stages.done = c->stages.made; /* all marks so far came before `chosen` */
    memcpy(routing->id, id, picks * sizeof(int32_t));
    memcpy(routing->weight, weight, picks * sizeof(float));
    return HLWQ_OK;
}

static hlwq_status score(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, gpu_form experts, hlwq_error *err)
{
    HS_TRY(gpu_norm(c, x, w->norm, w->eps, n, w->shared.gate.rows ? gpu_form_of(&w->shared.gate) : experts, err));
    return gpu_product_of(c, &w->router, c->u, &c->uq, n, c->logit, w->experts, false, err);
}

/* Its results come behind those of `picks` experts. */
static hlwq_status shared_expert(hs_cuda *c, const hs_mixture *w, uint32_t n, size_t picks, hlwq_error *err)
{
    if (w->shared.gate.rows == 0)
        return HLWQ_OK;
    HS_TRY(gpu_product_of(c, &w->shared_mix, c->u, &c->uq, n, c->shared, 1, false, err));
    return gpu_ffn(c, &w->shared, c->u, NULL, &c->uq, n, picks, c->expert_y + picks * c->lim.hidden, false, err);
}

static bool ffn_alike(const hs_ffn *a, const hs_ffn *b)
{
    return gpu_alike(&a->gate, &b->gate) && gpu_alike(&a->up, &b->up) && gpu_alike(&a->down, &b->down) &&
           a->gate.rows == b->gate.rows;
}

/* ---- experts that the card finds by itself, in a step ---------------------------------------- */

static bool in_table(const hs_cuda *c, const hs_mixture *w)
{
    return c->steps.on && w->base && ffn_alike(&w->each, &w->each);
}

/* Where the chosen are, as products of several tokens want it: see gpu_grouping. */
static hlwq_status group(hs_cuda *c, const hs_mixture *w, const gpu_choice *choice, uint32_t n, const uint64_t *table,
                         hlwq_error *err)
{
    const hs_ffn *e = &w->each;
    gpu_grouping g = {};
    g.own[0] = gpu_job_of(&e->gate, c->gate, e->gate.rows, 0, 1, 0);
    g.own[1] = gpu_job_of(&e->up, c->up_rows, e->gate.rows, 0, 1, 0);
    g.own[2] = gpu_job_of(&e->down, c->expert_y, c->lim.hidden, 0, 1, 0);
    g.job = c->job;
    g.choice = *choice;
    g.table = table;
    g.list = c->list;
    g.visited = c->visited + w->row;
    g.base = (uint64_t)w->base;
    g.n = n;
    g.used = w->used;
    CUDA_DO("the router", gpu_run_grouping(&g, c->stream));
    return HLWQ_OK;
}

static hlwq_status choose(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hlwq_error *err)
{
    gpu_choice choice = gpu_choice_at(c->choice, n * w->used);
    const uint64_t *table = c->table + (uint64_t)w->row * c->lim.experts;
    HS_TRY(score(c, w, n, x, gpu_form_of(&w->each.gate), err));
    if (n == 1) {
        CUDA_DO("the router", gpu_run_choose(c->logit, w->experts, w->used, table, &choice, c->stream));
        return HLWQ_OK;
    }
    CUDA_DO("the router", gpu_run_top_k(c->logit, w->experts, w->used, n, choice.id, choice.weight, c->stream));
    return group(c, w, &choice, n, table, err);
}

/* One or two kinds of products of all that were chosen; those that are not here do nothing. */
static hlwq_status found_products(hs_cuda *c, const hs_mixture *w, const gpu_part *part, uint32_t kinds,
                                  const gpu_q8 *a, bool spread, hlwq_error *err)
{
    gpu_product p = {};
    assert(a->form == gpu_form_of(part->w));
    p.w = gpu_format_of(part->w);
    for (uint32_t i = 0; i < kinds; i++) {
        p.own[i] = gpu_job_of(part[i].w, part[i].y, part[i].stride, 0, 1, 0);
        p.rows = part[i].w->rows > p.rows ? part[i].w->rows : p.rows;
    }
    p.picks = w->used;
    p.jobs = kinds * p.picks;
    p.m = 1;
    p.a = *a;
    const gpu_choice choice = gpu_choice_at(c->choice, w->used);
    p.where = choice.where;
    p.to = choice.slot;
    p.base = (uint64_t)w->base;
    p.spread = spread;
    CUDA_DO("experts", gpu_run_product(&p, c->stream));
    return HLWQ_OK;
}

/* Products of jobs that the card has, of tokens that `list` names; NULL = rows. */
static hlwq_status grouped(hs_cuda *c, const hs_matrix *w, const gpu_job *job, uint32_t jobs, uint32_t most,
                           const uint32_t *list, const gpu_q8 *a, hlwq_error *err)
{
    gpu_product p = {};
    assert(a->form == gpu_form_of(w));
    p.w = gpu_format_of(w);
    p.job = job;
    p.jobs = jobs;
    p.m = most;
    p.rows = w->rows;
    p.list = list;
    p.a = *a;
    CUDA_DO("experts", gpu_run_product(&p, c->stream));
    return HLWQ_OK;
}

/* gate and up u: jobs [2][n] of at most `most` tokens, in one launch if they are alike. */
static hlwq_status gate_and_up(hs_cuda *c, const hs_ffn *e, const gpu_job *job, uint32_t n, uint32_t most,
                               const uint32_t *list, hlwq_error *err)
{
    uint32_t together = gpu_alike(&e->gate, &e->up) ? 2 : 1;
    for (uint32_t i = 0; i < 2; i += together) {
        const hs_matrix *w = i ? &e->up : &e->gate;
        HS_TRY(gpu_in_form(c, gpu_form_of(w), c->u, c->lim.hidden, c->u_rows, &c->uq, err));
        HS_TRY(grouped(c, w, job + i * n, together * n, most, list, &c->uq, err));
    }
    return HLWQ_OK;
}

/* q8 of silu(gate) * up for rows low..high - 1, and down of it: rows between may be others', who need it no more. */
static hlwq_status down_of(hs_cuda *c, const hs_ffn *e, const gpu_job *job, uint32_t n, uint32_t most, uint32_t low,
                           uint32_t high, hlwq_error *err)
{
    uint32_t width = e->gate.rows;
    c->hq.form = gpu_form_of(&e->down);
    gpu_q8 hq = gpu_rows_from(&c->hq, low, width);
    CUDA_DO("experts", gpu_run_q8(c->gate + (size_t)low * width, c->up_rows + (size_t)low * width, width, high - low,
                                  hq, c->stream));
    return grouped(c, &e->down, job, n, most, NULL, &c->hq, err);
}

/* Of several tokens an expert is read once. */
static hlwq_status found_together(hs_cuda *c, const hs_mixture *w, uint32_t n, hlwq_error *err)
{
    uint32_t picks = n * w->used;
    HS_TRY(gate_and_up(c, &w->each, c->job, picks, n, c->list, err));
    return down_of(c, &w->each, c->job + 2 * picks, picks, n, 0, picks, err);
}

/* Rows of results of those that are not here keep what they had: others write them before the sum. */
static hlwq_status found_experts(hs_cuda *c, const hs_mixture *w, hlwq_error *err)
{
    const hs_ffn *e = &w->each;
    uint32_t width = e->gate.rows;
    const gpu_part in[] = {{&e->gate, c->gate, width}, {&e->up, c->up_rows, width}};
    const gpu_part out = {&e->down, c->expert_y, c->lim.hidden};
    uint32_t together = gpu_alike(&e->gate, &e->up) ? 2 : 1;
    for (uint32_t i = 0; i < 2; i += together) {
        HS_TRY(gpu_in_form(c, gpu_form_of(in[i].w), c->u, c->lim.hidden, c->u_rows, &c->uq, err));
        HS_TRY(found_products(c, w, in + i, together, &c->uq, false, err));
    }
    c->hq.form = gpu_form_of(&e->down);
    CUDA_DO("experts", gpu_run_q8(c->gate, c->up_rows, width, w->used, c->hq, c->stream));
    return found_products(c, w, &out, 1, &c->hq, true, err);
}

static hlwq_status choose_stage(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hlwq_error *err)
{
    return gpu_recorded(
        c, GPU_OPERANDS(w, x, n), [=](hlwq_error *why) { return choose(c, w, n, x, why); }, err);
}

static hlwq_status found_stage(hs_cuda *c, const hs_mixture *w, uint32_t n, hlwq_error *err)
{
    return gpu_recorded(
        c, GPU_OPERANDS(w, 0, n),
        [=](hlwq_error *why) {
            HS_TRY(shared_expert(c, w, n, n * w->used, why));
            return n == 1 ? found_experts(c, w, why) : found_together(c, w, n, why);
        },
        err);
}

static hlwq_status sum_up(hs_cuda *c, const hs_mixture *w, bool found, uint32_t n, float *x, hlwq_error *err)
{
    const gpu_choice choice = gpu_choice_at(c->choice, n * w->used);
    const uint32_t *slot = found ? choice.slot : c->slot;
    const float *weight = found ? choice.weight : c->weight;
    const gpu_answers answers = gpu_answers_to(c, &choice);
    CUDA_DO("experts", gpu_run_combine(x, c->expert_y, slot, weight, w->used, w->shared.gate.rows ? c->shared : NULL,
                                       n * w->used, c->lim.hidden, n, &answers, c->stream));
    return HLWQ_OK;
}

static hlwq_status sum_stage(hs_cuda *c, const hs_mixture *w, uint32_t n, float *x, hlwq_error *err)
{
    return gpu_recorded(
        c, GPU_OPERANDS(w, x, n), [=](hlwq_error *why) { return sum_up(c, w, true, n, x, why); }, err);
}

/* Of one token it is clear; of several the host hears of it with the logits. */
hlwq_status gpu_fetch_visited(hs_cuda *c, hlwq_error *err)
{
    if (c->anyone_to_tell)
        CUDA_DO("experts", cudaMemcpyAsync(c->host_visited, c->visited, c->lim.mixtures * sizeof(uint32_t),
                                           cudaMemcpyDeviceToHost, c->stream));
    return HLWQ_OK;
}

void gpu_tell_visited(hs_cuda *c)
{
    for (uint32_t i = 0; c->anyone_to_tell && i < c->lim.mixtures; i++) {
        if (c->tell_visited[i])
            *c->tell_visited[i] = c->host_visited[i];
        c->tell_visited[i] = NULL;
    }
    c->anyone_to_tell = false;
}

hlwq_status gpu_stage_mixture(hs_backend *be, const hs_mixture *w, uint32_t n, float *x, uint32_t *visited, bool *done,
                              hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    *done = in_table(c, w);
    if (!*done)
        return HLWQ_OK;
    *visited = n == 1 ? w->used : 0;
    if (n > 1) {
        c->tell_visited[w->row] = visited;
        c->anyone_to_tell = true;
    }
    HS_TRY(choose_stage(c, w, n, x, err));
    c->turns.now = false;
    HS_TRY(found_stage(c, w, n, err));
    return sum_stage(c, w, n, x, err);
}

/* The host learns of the choice while the card computes what it found. */
static hlwq_status route_in_table(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                                  hlwq_error *err)
{
    uint32_t picks = n * w->used;
    const gpu_choice host = gpu_host_choice(c, w, n);
    HS_TRY(choose_stage(c, w, n, x, err));
    gpu_end_run(c);
    HS_TRY(fetch_choice(c, host.where, c->choice, (uint64_t)picks * HS_CARD_CHOICE_BYTES, n, err));
    HS_TRY(found_stage(c, w, n, err));
    gpu_end_run(c);
    c->found = true;
    return wait_for_choice(c, host.id, host.weight, picks, routing, err);
}

/* The card goes on with what it has of the layer, and will wait for the rest at the sum. */
static hlwq_status route_by_turns(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                                  hlwq_error *err)
{
    c->found = c->turns.now = true;
    HS_TRY(choose_stage(c, w, n, x, err));
    HS_TRY(gpu_ask(c, w, n, x, err));
    HS_TRY(found_stage(c, w, n, err));
    return gpu_hear(c, w, n, routing, err);
}

hlwq_status gpu_stage_route(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                            hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    size_t picks = (size_t)n * w->used;
    c->found = c->turns.now = false;
    if (in_table(c, w) && c->steps.step.beside)
        return route_by_turns(c, w, n, x, routing, err);
    if (in_table(c, w))
        return route_in_table(c, w, n, x, routing, err);
    gpu_end_run(c);
    HS_TRY(score(c, w, n, x, c->expert_form, err));
    CUDA_DO("the router", gpu_run_top_k(c->logit, w->experts, w->used, n, c->id, c->weight, c->stream));
    HS_TRY(fetch_choice(c, c->host_weight, c->weight, (uint64_t)((uint8_t *)(c->id + picks) - (uint8_t *)c->weight), n,
                        err));
    HS_TRY(shared_expert(c, w, n, picks, err)); /* what does not depend on the choice */
    return wait_for_choice(c, c->host_id, c->host_weight, picks, routing, err);
}

/* The activations and the choice of the layer in hand stay as they are: what this needs of its own lies in y. */
hlwq_status gpu_guess(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hs_routing *there, hlwq_error *err)
{
    gpu_q8 none = {};
    there->id = reinterpret_cast<int32_t *>(c->out);
    there->weight = c->out + (size_t)n * w->used;
    CUDA_DO("a guess", gpu_run_norm(x, w->norm, c->lim.hidden, n, w->eps, c->y, c->lim.hidden, none, c->stream));
    c->outq.form = GPU_NO_FORM;
    HS_TRY(gpu_product_of(c, &w->router, c->y, &c->outq, n, c->logit, w->experts, false, err));
    CUDA_DO("a guess", gpu_run_top_k(c->logit, w->experts, w->used, n, there->id, there->weight, c->stream));
    return HLWQ_OK;
}

hlwq_status gpu_stage_guess(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                            hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    size_t picks = (size_t)n * w->used;
    hs_routing there;
    gpu_end_run(c);
    HS_TRY(gpu_guess(c, w, n, x, &there, err));
    HS_TRY(gpu_get(be, routing->id, there.id, picks * sizeof(int32_t), err));
    return gpu_get(be, routing->weight, there.weight, picks * sizeof(float), err);
}

/* Feed-forwards that are alike, in three launches; `first` jobs of this layer are taken. */
static hlwq_status visit_all(hs_cuda *c, const visit *v, uint32_t n, uint32_t first, hlwq_error *err)
{
    const hs_ffn *any = v[0].w;
    uint32_t most = 0, low = v[0].from, high = 0, width = any->gate.rows, hidden = c->lim.hidden;
    const uint32_t *list = c->found && c->steps.step.n == 1 ? NULL : c->list; /* of one token there is one row */
    gpu_job *job = c->host_job + 3 * first, *there = c->job + 3 * first;
    for (uint32_t i = 0; i < n; i++) {
        most = v[i].m > most ? v[i].m : most;
        low = v[i].from < low ? v[i].from : low;
        high = v[i].from + v[i].m > high ? v[i].from + v[i].m : high;
        uint32_t from = list ? v[i].from : 0;
        job[i] = gpu_job_of(&v[i].w->gate, c->gate, width, from, v[i].m, v[i].from);
        job[n + i] = gpu_job_of(&v[i].w->up, c->up_rows, width, from, v[i].m, v[i].from);
        job[2 * n + i] = gpu_job_of(&v[i].w->down, c->expert_y, hidden, v[i].from, v[i].m, v[i].from);
    }
    CUDA_DO("experts", cudaMemcpyAsync(there, job, 3 * n * sizeof(gpu_job), cudaMemcpyHostToDevice, c->stream));
    c->expert_form = gpu_form_of(&any->gate);
    HS_TRY(gate_and_up(c, any, there, n, most, list, err));
    return down_of(c, any, there + 2 * n, n, most, low, high, err);
}

/* Experts that are on the card, and that it has not found by itself. */
static hlwq_status experts_here(hs_cuda *c, const hs_ffn *expert, const int32_t *id, uint32_t n_ids, uint32_t *first,
                                hlwq_error *err)
{
    uint32_t visits = 0;
    size_t hidden = c->lim.hidden;
    for (uint32_t i = 0; i < n_ids; i++) {
        const hs_ffn *w = &expert[id[i]];
        uint32_t from = c->host_start[id[i]], to = c->host_start[id[i] + 1];
        if (ffn_alike(w, w)) {
            c->visits[visits++] = visit{w, from, to - from};
            continue;
        }
        gpu_q8 q = gpu_rows_from(&c->outq, 0, c->lim.hidden);
        q.form = GPU_NO_FORM;
        if (hs_matrix_gathers(&w->gate) && hs_matrix_gathers(&w->up)) { /* which takes rows from anywhere */
            HS_TRY(gpu_ffn(c, w, c->u, c->list + from, &q, to - from, from, c->expert_y + from * hidden, false, err));
            continue;
        }
        for (uint32_t k = from; k < to; k++, q.form = GPU_NO_FORM) /* plain weights: a token at a time */
            HS_TRY(
                gpu_ffn(c, w, c->u + c->host_list[k] * hidden, NULL, &q, 1, k, c->expert_y + k * hidden, false, err));
    }
    if (visits == 0)
        return HLWQ_OK;
    HS_TRY(visit_all(c, c->visits, visits, *first, err));
    *first += visits;
    return HLWQ_OK;
}

/* Experts in ordinary memory: the CPU computes them, from the activations that the card has. */
static hlwq_status experts_beside(hs_cuda *c, const hs_ffn *expert, const int32_t *id, uint32_t n_ids, uint32_t n,
                                  hlwq_error *err)
{
    size_t hidden = c->lim.hidden;
    if (!c->have_u) {
        HS_TRY(fetch_u(c, n, err));
        CUDA_DO("activations", cudaStreamSynchronize(c->back));
    }
    hs_backend_cpu_lane(c->cpu, c->host_u, n, expert, id, n_ids, c->host_start, c->host_list, c->host_y);
    for (uint32_t i = 0; i < n_ids; i++) {
        size_t from = c->host_start[id[i]], m = c->host_start[id[i] + 1] - from;
        CUDA_DO("experts", cudaMemcpyAsync(c->expert_y + from * hidden, c->host_y + from * hidden,
                                           m * hidden * sizeof(float), cudaMemcpyHostToDevice, c->stream));
    }
    return HLWQ_OK;
}

/* Sorts by expert, and tells the card which rows are whose where it does not know yet. */
static hlwq_status sort_picks(hs_cuda *c, const hs_mixture *w, uint32_t picks, const hs_routing *routing,
                              hlwq_error *err)
{
    hs_sort_picks(routing->id, picks, w->used, w->experts, c->host_start, c->host_list, c->host_slot);
    if (c->found)
        return HLWQ_OK;
    CUDA_DO("experts",
            cudaMemcpyAsync(c->list, c->host_list, (uint8_t *)(c->host_slot + picks) - (uint8_t *)c->host_list,
                            cudaMemcpyHostToDevice, c->stream));
    return HLWQ_OK;
}

/* Whether the card has computed it by itself: so much is certain, whatever has changed since. */
static bool was_found(const hs_cuda *c, const hs_mixture *w, uint32_t n, const hs_routing *routing, int32_t id)
{
    const gpu_choice host = gpu_host_choice(c, w, n);
    for (uint32_t r = 0; c->found && r < n * w->used; r++)
        if (routing->id[r] == id)
            return host.where[r] != 0;
    return false;
}

/* Those that were not found, each once, as they come into ordinary memory; then the card hears that all are there. */
static hlwq_status take_turn(hs_cuda *c, const hs_mixture *w, const hs_ffn *expert, const hs_expert_source *source,
                             uint32_t n, const hs_routing *routing, float *x, hlwq_error *err)
{
    HS_TRY(sum_stage(c, w, n, x, err));
    hs_sort_picks(routing->id, n * w->used, w->used, w->experts, c->host_start, c->host_list, c->host_slot);
    for (;;) {
        const int32_t *id;
        uint32_t ready;
        hs_place place;
        HS_TRY(source->next(source->user, &id, &ready, &place, err));
        if (ready == 0)
            break;
        assert(place == HS_PLACE_HOST);
        hs_backend_cpu_lane(c->cpu, c->host_u, n, expert, id, ready, c->host_start, c->host_list, c->host_y);
    }
    gpu_answer(c);
    return HLWQ_OK;
}

hlwq_status gpu_stage_experts(hs_backend *be, const hs_mixture *w, const hs_ffn *expert, const hs_expert_source *source,
                              uint32_t n, const hs_routing *routing, float *x, hlwq_error *err)
{
    hs_cuda *c = cuda_of(be);
    uint32_t picks = n * w->used, first = 0, computed = 0, ready;
    if (c->turns.now)
        return take_turn(c, w, expert, source, n, routing, x, err);
    gpu_end_run(c);
    HS_TRY(sort_picks(c, w, picks, routing, err));
    do {
        const int32_t *id;
        uint32_t left = 0;
        hs_place place;
        HS_TRY(source->next(source->user, &id, &ready, &place, err));
        for (uint32_t i = 0; i < ready; i++) {
            computed += c->host_start[id[i] + 1] - c->host_start[id[i]];
            if (!was_found(c, w, n, routing, id[i]))
                c->left[left++] = id[i];
        }
        if (place == HS_PLACE_HERE)
            HS_TRY(experts_here(c, expert, c->left, left, &first, err));
        else if (left)
            HS_TRY(experts_beside(c, expert, c->left, left, n, err));
    } while (ready);
    assert(computed == picks);
    return sum_up(c, w, c->found, n, x, err);
}
