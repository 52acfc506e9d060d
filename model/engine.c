/*
 * model/engine.c - opens a model: budget, table, weights, backend, tokenizer; and takes it down again.
 */
#include "model/prefix.h"

#include "base/available.h"
#include "base/clock.h"
#include "base/size.h"
#include "kernels/measure.h"
#include "model/draft_vocab.h"
#include "offload/rates.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STR2(x) #x
#define STR(x) STR2(x)

enum {
    DRAFT_DEPTH = 3,     /* where none is asked for */
    DRAFT_VOCAB = 32768, /* likewise, of large vocabularies: their head is most of a draft */
    DRAFT_TEXT_MAX = 16 << 20,
    RATES_BYTES = 64 << 20 /* that are multiplied with, read and copied, to know how fast that is */
};

const char *hlwq_version(void)
{
    return STR(HLWQ_VERSION_MAJOR) "." STR(HLWQ_VERSION_MINOR) "." STR(HLWQ_VERSION_PATCH);
}

void hlwq_free(void *p)
{
    free(p);
}

hlwq_engine_options hlwq_engine_options_default(void)
{
    return (hlwq_engine_options){.verify = HLWQ_VERIFY_FIRST, .adapt = true, .cpu_share = -1};
}

hlwq_status hs_store_tokenizer(hs_tokenizer **out, hs_mem *mem, const hs_store *store, hlwq_error *err)
{
    uint64_t bytes, config_bytes;
    const char *text = hs_store_blob(store, HS_BLOB_TOKENIZER, &bytes);
    const char *config = hs_store_blob(store, HS_BLOB_TOKENIZER_CONFIG, &config_bytes);
    char what[4096];
    *out = NULL;
    if (!text)
        return HLWQ_OK;
    snprintf(what, sizeof what, "%s%s", hs_store_path(store),
             hs_path_is_directory(hs_store_path(store)) ? "/tokenizer.json" : " (tokenizer)");
    return hs_tokenizer_parse(out, mem, text, bytes, config, config_bytes, hs_store_table(store)->config.vocab, what,
                              err);
}

enum { SESSIONS_MAX = 64 };

static uint64_t rows_bytes(const hs_config *c)
{
    return (uint64_t)HLWQ_ROWS_MAX * c->vocab * sizeof(float);
}

hlwq_status hs_engine_rows(hlwq_engine *e, hlwq_error *err)
{
    void *p;
    if (e->rows)
        return HLWQ_OK;
    HS_TRY(hs_mem_alloc(e->mem, HS_MEM_ACT, rows_bytes(e->net.config), "logits of several sessions", &p, err));
    e->rows = p;
    return HLWQ_OK;
}

/* What the sessions of the plan have where stages compute. */
static uint64_t state_bytes(const hlwq_engine *e, uint32_t batch)
{
    const hs_config *c = &hs_store_table(e->store)->config;
    return e->planned * (hs_states_bytes(c, e->kv, e->context, batch) +
                         hs_speculate_state_bytes(&e->draft, c, e->kv, e->context, batch));
}

/* And what that takes more where it is a card. */
static uint64_t beyond_bytes(const hlwq_engine *e, uint32_t batch)
{
    const hs_config *c = &hs_store_table(e->store)->config;
    return !e->vram ? 0
                    : e->planned * (hs_states_beyond_bytes(c, e->kv, e->context, batch, 0) +
                                    hs_speculate_beyond_bytes(&e->draft, c, e->kv, e->context, batch));
}

/* What the sessions of the plan take more for a batch of `batch` than for the smallest one. */
static uint64_t tail_bytes(const hlwq_engine *e, uint32_t batch)
{
    uint64_t all = state_bytes(e, batch) + beyond_bytes(e, batch),
             least = state_bytes(e, HS_GRID) + beyond_bytes(e, HS_GRID);
    return all > least ? all - least : 0;
}

static uint64_t activation_bytes(const void *user, uint32_t batch)
{
    const hlwq_engine *e = user;
    const hs_table *t = hs_store_table(e->store);
    hs_limits limits = hs_network_limits(t, batch);
    return hs_backend_cpu_bytes(&limits, hs_pool_threads(e->pool)) + hs_network_bytes(t, batch) +
           (e->vram ? hs_backend_cuda_staging_bytes(&limits) : tail_bytes(e, batch));
}

static uint64_t card_bytes(const void *user, uint32_t batch)
{
    const hlwq_engine *e = user;
    hs_limits limits = hs_network_limits(hs_store_table(e->store), batch);
    uint64_t row = limits.hidden * sizeof(float); /* as hs_network_init has it */
    return hs_card_block_bytes(hs_backend_cuda_bytes(&limits)) + hs_card_block_bytes(batch * row) +
           (limits.joins ? hs_card_block_bytes((batch + HS_WINDOW_MAX) * row) : 0) + tail_bytes(e, batch);
}

static uint64_t recorded_bytes(const hlwq_engine *e)
{
    hs_limits limits = hs_network_limits(hs_store_table(e->store), HS_GRID);
    return hs_backend_cuda_recorded_bytes(&limits);
}

/* A mapping costs page tables, and pages of the file that the system has not let go of yet. */
static uint64_t mapping_bytes(const hs_table *t)
{
    return hs_footprint_of(t).streamed_bytes / 128;
}

static hlwq_status make_plan(hlwq_engine *e, const hlwq_engine_options *o, hlwq_error *err)
{
    const hs_table *t = hs_store_table(e->store);
    uint32_t context = o->context ? o->context : (uint32_t)hs_min_u64(t->config.context_max, 8192);
    if (o->batch % HS_GRID || o->batch > HS_BATCH_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "a batch of %u tokens; it must be a multiple of %d, at most %d", o->batch,
                       HS_GRID, HS_BATCH_MAX);
    HS_TRY(hs_kv_format_named(&e->kv, o->kv, &t->config, err));
    if (o->sessions > SESSIONS_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "%u sessions, at most %d", o->sessions, SESSIONS_MAX);
    e->context = context;
    e->planned = o->sessions ? o->sessions : 1;
    if (o->constraints && e->text.inner)
        HS_TRY(hs_constraints_reserve(&e->text, e->mem, err));
    hs_plan_input in = {.table = t,
                        .ram_bytes = o->ram_bytes,
                        .fixed_bytes = hs_mem_now_bytes(e->mem) + (o->io == HLWQ_IO_MMAP ? mapping_bytes(t) : 0),
                        .session_bytes = e->planned * hs_session_bytes(&t->config, e->kv, context, HS_GRID) +
                                         (e->planned > 1 ? rows_bytes(&t->config) : 0),
                        .slots = o->slots,
                        .batch = o->batch,
                        .activation_bytes = activation_bytes,
                        .user = e};
    e->prefix.budget_bytes = hs_prefix_bytes(o->prefix_bytes, hs_mark_bytes(&t->config, e->kv), o->ram_bytes);
    if (e->vram) {
        /* On a card of 8 GB: CUDA's context and the kernels' code, a desktop. */
        uint64_t free_bytes = UINT64_MAX / 2, reserve = (350ull + 64 + 350) << 20;
        if (!e->imagined)
            hs_backend_cuda_room(&free_bytes, &reserve);
        in.card = true;
        in.vram_bytes = o->vram_bytes ? hs_min_u64(o->vram_bytes, free_bytes + reserve) : free_bytes + reserve;
        in.reserve_bytes = reserve;
        in.state_bytes = state_bytes(e, HS_GRID);
        in.recorded_bytes = recorded_bytes(e);
        in.session_bytes -= in.state_bytes; /* what of it is for drafts comes with them below */
        in.state_bytes += beyond_bytes(e, HS_GRID);
        in.session_bytes += e->planned * hs_states_table_bytes(&t->config, e->kv, context);
        in.card_slots = o->card_slots;
        in.card_bytes = card_bytes;
    }
    if (e->draft.mtp) {
        uint64_t copies = hs_draft_vocab_bytes(t, e->draft_vocab, o->draft_text != NULL);
        in.fixed_bytes += copies;
        in.state_bytes += e->vram && copies ? hs_card_block_bytes(copies) : 0;
    }
    in.session_bytes += e->planned * hs_speculate_bytes(&e->draft, &t->config, e->kv, context, HS_GRID);
    in.session_bytes += e->prefix.budget_bytes;
    if (!in.ram_bytes) { /* a model that fits needs no cap; one that does not gets what there is, less a tenth */
        uint64_t available = hs_memory_available();
        hs_footprint f = hs_footprint_of(t);
        if (f.trunk_bytes + f.streamed_bytes > available / 10 * 9 && hs_store_is_container(e->store))
            in.ram_bytes = available / 10 * 9;
    }
    HS_TRY(hs_engine_fit(e, &in, o->kv_spill, err));
    uint64_t tail = tail_bytes(e, e->plan.batch); /* counted with what grows with the batch, but it is the session's */
    e->plan.session_bytes += e->vram ? 0 : tail;
    e->plan.activation_bytes -= e->vram ? 0 : tail; /* on a card it stays there */
    hs_mem_set_cap(e->mem, in.ram_bytes);
    hs_engine_begin_lending(e, o->slots);
    if (e->vram)
        hs_mem_set_cap(e->vram, in.vram_bytes - in.reserve_bytes);
    return HLWQ_OK;
}

/* Whether a card is to be used; one that was not asked for may be missing. */
static hlwq_status find_card(hlwq_engine *e, const hlwq_engine_options *o, hlwq_error *err)
{
    hlwq_error why;
    bool asked = o->device == HLWQ_DEVICE_CUDA || o->vram_bytes;
    if (o->device == HLWQ_DEVICE_CPU)
        return HLWQ_OK;
    hs_limits limits = hs_network_limits(hs_store_table(e->store), HS_GRID);
    hlwq_status st = hs_backend_cuda_probe(&limits, &why);
    if (st == HLWQ_OK && o->exact)
        st = hs_fail(&why, HLWQ_ERR_UNSUPPORTED, "the graphics card has no exact mode");
    e->imagined = st != HLWQ_OK && e->planning && o->vram_bytes;
    if (st != HLWQ_OK && !e->imagined && o->device == HLWQ_DEVICE_CUDA) {
        if (err)
            *err = why;
        return st;
    }
    if (st != HLWQ_OK && !e->imagined) {
        if (asked || hs_backend_cuda_built) /* else there is nothing to wonder about */
            hs_log_line(&e->log, HLWQ_LOG_WARN, "running on the CPU: %s", why.message);
        return HLWQ_OK;
    }
    e->vram = hs_mem_open(o->vram_bytes);
    if (!e->vram)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for an engine");
    hs_mem_set_option(e->vram, "--vram");
    return HLWQ_OK;
}

/* What sessions will draft with; decided before anything is planned, because it takes memory. */
static hlwq_status choose_drafts(hlwq_engine *e, const hlwq_engine_options *o, hlwq_error *err)
{
    const char *why = NULL;
    if (o->draft == HLWQ_DRAFT_OFF)
        return HLWQ_OK;
    if (o->draft_depth >= HS_WINDOW_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "%u drafts at once; the most is %d", o->draft_depth, HS_WINDOW_MAX - 1);
    if (o->trace || o->routing)
        why = "the choices of experts are recorded or replayed token by token";
    if (why) {
        hs_log_line(&e->log, HLWQ_LOG_WARN, "running without drafts: %s", why);
        return HLWQ_OK;
    }
    e->draft = (hs_draft_mode){.lookup = o->draft != HLWQ_DRAFT_MTP,
                               .priced = !o->draft_always,
                               .pretend = o->draft_pretend,
                               .depth = o->draft_depth ? o->draft_depth : DRAFT_DEPTH};
    if (o->draft != HLWQ_DRAFT_LOOKUP)
        e->draft.mtp = hs_store_use_drafts(e->store);
    e->draft_vocab = o->draft_vocab;
    if (!o->draft_vocab && hs_store_table(e->store)->config.vocab > 2 * DRAFT_VOCAB)
        e->draft_vocab = DRAFT_VOCAB;
    if (o->draft == HLWQ_DRAFT_MTP && !e->draft.mtp)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s has no MTP head to draft with; lookup needs none",
                       hs_store_path(e->store));
    return HLWQ_OK;
}

/* Everything that comes before the first weight. */
static hlwq_status open_table(hlwq_engine *e, const hlwq_engine_options *o, hlwq_error *err)
{
    HS_TRY(hs_pool_open(o->threads, &e->pool, err));
    HS_TRY(hs_store_open(&e->store, e->mem, o->model, NULL, &e->log, err));
    HS_TRY(hs_store_tokenizer(&e->text.inner, e->mem, e->store, err));
    HS_TRY(find_card(e, o, err));
    HS_TRY(choose_drafts(e, o, err));
    return make_plan(e, o, err);
}

static hlwq_status open_draft_vocab(hlwq_engine *e, const char *path, hlwq_error *err)
{
    hs_arena arena;
    char *text = NULL;
    uint64_t bytes = 0;
    hs_arena_init(&arena, e->mem, HS_MEM_OTHER);
    hlwq_status st = path ? hs_file_text(&arena, path, DRAFT_TEXT_MAX, &text, &bytes, err) : HLWQ_OK;
    if (st == HLWQ_OK)
        st = hs_draft_vocab_open(&e->net, e->mem, e->text.inner, e->draft_vocab, text, bytes, err);
    hs_arena_close(&arena);
    return st;
}

/* Where not all is on the card: what the CPU's share of the rest begins with, measured unless it was given. */
static void share_out(hlwq_engine *e, const hlwq_engine_options *o, hs_residency_options *r)
{
    const hs_table *t = hs_store_table(e->store);
    const uint32_t slots = e->plan.card.slots;
    r->beside = o->cpu_share;
    if (!e->vram || !slots || o->cpu_share >= 0)
        return;
    hs_rates rates = hs_rates_measure(e->mem, e->vram, e->pool, t, RATES_BYTES);
    if (t->config.experts) {
        r->rates = hs_rates_beside(t, &rates);
        r->missing = hs_rates_missing(t, slots);
    } else
        r->first_share = hs_rates_split(t, &rates, hs_residency_kept(slots), e->plan.card.trunk_bytes, -1).share;
}

static hlwq_status open_parts(hlwq_engine *e, const hlwq_engine_options *o, hlwq_error *err)
{
    HS_TRY(open_table(e, o, err));
    hs_engine_lend(e);
    hs_residency_options r = hs_residency_options_default();
    r.verify = o->verify != HLWQ_VERIFY_OFF;
    r.always = o->verify == HLWQ_VERIFY_ALWAYS;
    r.progress = o->progress;
    r.user = o->user;
    r.slots = e->plan.slots;
    r.policy = (hs_policy)o->policy;
    r.admit = o->admit;
    r.stream.io = (hs_io)o->io;
    r.stream.direct = (hs_direct)o->direct;
    hs_limits limits = hs_network_limits(hs_store_table(e->store), e->plan.batch);
    share_out(e, o, &r); /* before anything else is on the card */
    e->exact = o->exact;
    hs_cpu_options cpu = {.exact = o->exact};
    HS_TRY(hs_backend_cpu_open(e->vram ? &e->cpu : &e->backend, e->mem, e->pool, &limits, &cpu, err));
    if (e->vram) {
        hs_cuda_options cuda = {.mem = e->mem, .vram = e->vram, .cpu = e->cpu};
        HS_TRY(hs_backend_cuda_open(&e->backend, &limits, &cuda, err));
    }
    r.own_memory = e->vram != NULL;
    r.upper_slots = e->plan.card.slots;
    r.upper_most = o->card_slots ? 0 : hs_engine_slots_above(e);
    HS_TRY(hs_residency_open(&e->residency, e->store, e->mem, e->pool, e->backend, &r, err));
    HS_TRY(hs_network_init(&e->net, e->store, e->residency, e->backend, e->mem, e->plan.batch, err));
    hs_engine_lend_above(e);
    if (e->planned > 1)
        HS_TRY(hs_engine_rows(e, err));
    if (e->draft.mtp)
        HS_TRY(open_draft_vocab(e, o->draft_text, err));
    const hs_config *c = e->net.config;
    if (o->routing)
        HS_TRY(hs_routes_open(&e->net.routes, e->mem, o->routing, c->layers, c->experts, c->experts_used, err));
    return o->trace ? hs_trace_create(&e->net.trace, o->trace, c->layers, c->experts, err) : HLWQ_OK;
}

hlwq_status hlwq_engine_end_trace(hlwq_engine *e, hlwq_error *err)
{
    hs_trace_writer *w = e->net.trace;
    e->net.trace = NULL;
    return hs_trace_commit(w, err);
}

hlwq_status hlwq_engine_open(const hlwq_engine_options *options, hlwq_engine **engine, hlwq_error *err)
{
    *engine = NULL;
    if (!options || !options->model)
        return hs_fail(err, HLWQ_ERR_ARG, "no model was named");
    double start = hs_now_seconds();
    hlwq_engine *e = calloc(1, sizeof *e);
    if (e)
        e->mem = hs_mem_open(options->ram_bytes);
    if (!e || !e->mem) {
        free(e);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for an engine");
    }
    e->log = (hs_log){options->log, options->user};
    hlwq_status st = open_parts(e, options, err);
    if (st != HLWQ_OK) {
        hlwq_engine_close(e);
        return st;
    }
    e->load_seconds = hs_now_seconds() - start;
    e->adapt = (hs_adapt){.on = options->adapt && e->plan.slots, .wanted_bytes = e->plan.ram_bytes};
    e->adapt.room_bytes = hs_memory_available() + hs_mem_now_bytes(e->mem);
    hs_strain_init(&e->adapt.strain, NULL);
    *engine = e;
    return HLWQ_OK;
}

void hlwq_engine_close(hlwq_engine *e)
{
    if (!e)
        return;
    assert(e->sessions == 0);
    hlwq_error ignored;
    (void)hlwq_engine_end_trace(e, &ignored);
    hs_routes_close(e->net.routes);
    hs_mem_free(e->mem, e->rows);
    hs_draft_vocab_close(&e->net, e->mem);
    if (e->net.config)
        hs_network_close(&e->net);
    hs_residency_close(e->residency);
    if (e->backend)
        e->backend->ops->close(e->backend);
    if (e->cpu)
        e->cpu->ops->close(e->cpu);
    hs_constraints_forget(&e->text);
    hs_tokenizer_free(e->text.inner);
    hs_store_close(e->store);
    hs_pool_close(e->pool);
    hs_mem_close(e->mem);
    hs_mem_close(e->vram);
    free(e->spill_dir);
    free(e);
}

void hlwq_engine_facts(const hlwq_engine *e, hlwq_model_facts *facts)
{
    const hs_table *t = hs_store_table(e->store);
    *facts = (hlwq_model_facts){
        .vocab = t->config.vocab,
        .hidden = t->config.hidden,
        .layers = t->config.layers,
        .context_max = t->config.context_max,
        .weight_bytes = e->plan.weights.trunk_bytes + e->plan.weights.streamed_bytes,
        .bytes_per_token = hs_network_token_bytes(t),
        .load_seconds = e->load_seconds,
    };
}

void hlwq_engine_memory(const hlwq_engine *e, uint64_t *now_bytes, uint64_t *peak_bytes)
{
    *now_bytes = hs_mem_now_bytes(e->mem);
    *peak_bytes = hs_mem_peak_bytes(e->mem);
}

void hlwq_engine_vram(const hlwq_engine *e, uint64_t *now_bytes, uint64_t *peak_bytes)
{
    *now_bytes = e->vram ? hs_mem_now_bytes(e->vram) : 0;
    *peak_bytes = e->vram ? hs_mem_peak_bytes(e->vram) : 0;
}

bool hlwq_engine_memory_kind(const hlwq_engine *e, uint32_t i, const char **name, uint64_t *now_bytes)
{
    if (i >= HS_MEM_TAG_COUNT)
        return false;
    *name = hs_mem_tag_name((hs_mem_tag)i);
    *now_bytes = hs_mem_tag_bytes(e->mem, (hs_mem_tag)i);
    return true;
}

void hlwq_engine_plan(const hlwq_engine *e, hlwq_plan *plan)
{
    const hs_plan *p = &e->plan;
    *plan = (hlwq_plan){.ram_bytes = p->ram_bytes,
                        .trunk_bytes = p->weights.trunk_bytes,
                        .session_bytes = p->session_bytes,
                        .kv_bytes = e->lending.planned_bytes,
                        .kv_file_bytes = hs_engine_filed_bytes(e),
                        .activation_bytes = p->activation_bytes,
                        .fixed_bytes = p->fixed_bytes,
                        .slots_bytes = p->slots_bytes,
                        .total_bytes = p->total_bytes,
                        .smallest_bytes = p->smallest_bytes,
                        .slot_bytes = p->weights.slot_bytes,
                        .streamed_bytes = p->weights.streamed_bytes,
                        .slots = p->slots,
                        .streamed = p->weights.streamed,
                        .batch = p->batch,
                        .context = e->context,
                        .sessions = e->planned};
    if (!p->on_card)
        return;
    plan->card = true;
    plan->embed_bytes = p->weights.embed_bytes;
    plan->vram_bytes = p->card.vram_bytes;
    plan->card_reserve_bytes = p->card.reserve_bytes;
    plan->card_trunk_bytes = p->card.trunk_bytes;
    plan->card_state_bytes = p->card.state_bytes;
    plan->card_activation_bytes = p->card.activation_bytes;
    plan->card_recorded_bytes = p->card.recorded_bytes;
    plan->card_slots_bytes = p->card.slots_bytes;
    plan->card_total_bytes = p->card.total_bytes;
    plan->card_smallest_bytes = p->card.smallest_bytes;
    plan->card_slots = p->card.slots;
    hs_limits limits = hs_network_limits(hs_store_table(e->store), p->batch);
    plan->staging_bytes = hs_backend_cuda_staging_bytes(&limits);
    plan->card_kv_bytes = e->lending.above_planned_bytes;
}

hlwq_status hlwq_make_plan(const hlwq_engine_options *options, hlwq_plan *plan, hlwq_error *err)
{
    if (!options->model)
        return hs_fail(err, HLWQ_ERR_ARG, "no model was named");
    hlwq_engine *e = calloc(1, sizeof *e);
    if (e)
        e->mem = hs_mem_open(options->ram_bytes);
    if (e) {
        e->log = (hs_log){options->log, options->user};
        e->planning = true;
    }
    hlwq_status st = e && e->mem ? open_table(e, options, err) : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to plan");
    if (st == HLWQ_OK) {
        hlwq_engine_plan(e, plan);
        plan->card_imagined = e->imagined;
    }
    if (e && e->mem)
        hlwq_engine_close(e);
    else
        free(e);
    return st;
}

hlwq_status hs_engine_set_budget(hlwq_engine *e, uint64_t ram_bytes, hlwq_error *err)
{
    const hs_table *t = hs_store_table(e->store);
    uint32_t slots = hs_engine_slots(e, ram_bytes);
    if (!e->plan.slots)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s is resident as a whole: there is nothing to give up",
                       hs_store_path(e->store));
    if (hs_plan_slots(&e->plan, t, ram_bytes) < e->plan.weights.slots_min) /* once the context is full */
        return hs_fail(err, HLWQ_ERR_BUDGET, "%.1f MiB are too few; the smallest budget that works is %.0fM",
                       (double)ram_bytes / 1048576.0, (double)e->plan.smallest_bytes / 1048576.0 + 1.0);
    if (ram_bytes > hs_mem_cap_bytes(e->mem))
        hs_mem_set_cap(e->mem, ram_bytes);
    HS_TRY(hs_residency_resize(e->residency, slots, err));
    hs_mem_set_cap(e->mem, ram_bytes);
    e->plan.slots = slots;
    e->plan.slots_bytes = hs_residency_slots_bytes(t, slots);
    e->plan.ram_bytes = ram_bytes;
    return HLWQ_OK;
}

hlwq_status hlwq_engine_set_budget(hlwq_engine *e, uint64_t ram_bytes, hlwq_error *err)
{
    HS_TRY(hs_engine_set_budget(e, ram_bytes, err));
    e->adapt.wanted_bytes = ram_bytes;
    return HLWQ_OK;
}

void hlwq_engine_speculation(const hlwq_engine *e, hlwq_speculation *out)
{
    *out = e->net.speculated;
}

void hlwq_engine_streaming(const hlwq_engine *e, hlwq_streaming *out)
{
    hs_residency_stats s = hs_residency_get_stats(e->residency);
    *out = (hlwq_streaming){.slots = s.slots,
                            .lookups = s.cache.lookups,
                            .hits = s.cache.hits,
                            .misses = s.cache.misses,
                            .evictions = s.cache.evictions,
                            .bytes_read = s.io.bytes,
                            .requests = s.io.requests,
                            .retries = s.io.retries,
                            .guessed = s.guessed,
                            .guessed_right = s.guessed_right,
                            .watched = s.rival.lookups,
                            .watched_hits = s.rival.hits,
                            .rival_hits = s.rival.rival_hits,
                            .policy_switches = s.rival.switches,
                            .fixed = s.rival.fixed,
                            .io_seconds = (double)s.io.busy_ns * 1e-9,
                            .wait_seconds = (double)s.wait_ns * 1e-9,
                            .card_slots = s.upper_slots,
                            .card_lookups = s.upper.lookups,
                            .card_hits = s.upper.hits,
                            .uploads = s.uploads,
                            .beside = s.beside,
                            .card_switches = s.upper_rival.switches,
                            .cpu_share = s.share,
                            .engine = s.engine,
                            .reason = s.reason,
                            .tier_bytes = {s.card_bytes, s.upload_bytes, s.memory_bytes, s.io.bytes}};
}

const hlwq_tokenizer *hlwq_engine_tokenizer(const hlwq_engine *e)
{
    return e->text.inner ? &e->text : NULL;
}

hlwq_status hlwq_engine_bandwidth(hlwq_engine *e, double *bytes_per_second, hlwq_error *err)
{
    hs_mem *mem = hs_mem_open(0); /* for a moment, beside the budget */
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to measure");
    hlwq_status st = hs_read_bandwidth(mem, e->pool, 512u << 20, bytes_per_second, err);
    hs_mem_close(mem);
    return st;
}

void hlwq_engine_stages(hlwq_engine *e, double seconds[HLWQ_STAGE_COUNT], bool reset)
{
    for (int i = 0; i < HLWQ_STAGE_COUNT; i++) {
        seconds[i] = (double)e->net.stage_ns[i] * 1e-9;
        if (reset)
            e->net.stage_ns[i] = 0;
    }
}
