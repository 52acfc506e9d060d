/*
 * app/serve_state.c - what the server says of itself: model, settings, counts.
 */
#include "app/serve.h"

#include <inttypes.h>
#include <string.h>

static void json(hs_text *out, const char *text)
{
    hs_text_json(out, text, strlen(text));
}

void serve_say_health(serve *s, serve_reply *r)
{
    pthread_mutex_lock(&s->lock);
    bool draining = s->draining;
    pthread_mutex_unlock(&s->lock);
    r->status = draining ? 503 : 200;
    hs_text_format(&r->body, "{\"status\":\"%s\"}", draining ? "stopping" : "ok");
}

void serve_say_models(serve *s, serve_reply *r)
{
    hs_text_format(&r->body, "{\"object\":\"list\",\"data\":[{\"id\":");
    json(&r->body, s->name);
    hs_text_format(&r->body,
                   ",\"object\":\"model\",\"created\":%" PRId64
                   ",\"owned_by\":\"hlwq-stream\",\"meta\":{\"n_vocab\":%" PRIu32 ",\"n_ctx\":%" PRIu32
                   ",\"n_ctx_train\":%" PRIu32 ",\"n_embd\":%" PRIu32 ",\"size\":%" PRIu64 "}}]}",
                   (int64_t)s->opened, s->facts.vocab, s->defaults.context, s->facts.context_max, s->facts.hidden,
                   s->facts.weight_bytes);
}

static void copy_state(serve *s, serve_counts *c, serve_view *v)
{
    pthread_mutex_lock(&s->lock);
    *c = s->counts;
    *v = s->view;
    pthread_mutex_unlock(&s->lock);
}

void serve_say_props(serve *s, serve_reply *r)
{
    hs_text *o = &r->body;
    serve_counts c;
    serve_view v;
    copy_state(s, &c, &v);
    const hlwq_sampling *d = &s->defaults.sampling;
    hs_text_format(o, "{\"version\":\"%s\",\"model\":", hlwq_version());
    json(o, s->name);
    hs_text_format(o, ",\"n_ctx\":%" PRIu32 ",\"total_slots\":%" PRIu32 ",\"running\":%" PRIu32 ",\"waiting\":%" PRIu32,
                   s->defaults.context, s->slots, c.running, c.waiting);
    hs_text_format(o, ",\"chat_template\":%s,\"thinks\":%s", s->chat ? "true" : "false",
                   s->think_open >= 0 ? "true" : "false");
    hs_text_format(o,
                   ",\"default_generation_settings\":{\"temperature\":%g,\"top_p\":%g,\"top_k\":%" PRIu32
                   ",\"min_p\":%g,\"repeat_penalty\":%g}",
                   (double)d->temperature, (double)d->top_p, d->top_k, (double)d->min_p, (double)d->repetition_penalty);
    hs_text_format(o, ",\"memory\":{\"budget\":%" PRIu64 ",\"now\":%" PRIu64 ",\"peak\":%" PRIu64 ",\"kinds\":{",
                   s->plan.ram_bytes, v.memory_now, v.memory_peak);
    for (uint32_t i = 0; i < v.kinds; i++)
        hs_text_format(o, "%s\"%s\":%" PRIu64, i ? "," : "", v.kind_name[i], v.kind_bytes[i]);
    hs_text_format(o, "},\"vram_budget\":%" PRIu64 ",\"vram_now\":%" PRIu64 "}", s->plan.vram_bytes, v.vram_now);
    hs_text_format(o,
                   ",\"streaming\":{\"slots\":%" PRIu32 ",\"extents\":%" PRIu32 ",\"lookups\":%" PRIu64
                   ",\"hits\":%" PRIu64 ",\"bytes_read\":%" PRIu64 ",\"card_slots\":%" PRIu32 ",\"engine\":",
                   v.streaming.slots, s->plan.streamed, v.streaming.lookups, v.streaming.hits, v.streaming.bytes_read,
                   v.streaming.card_slots);
    json(o, v.streaming.engine ? v.streaming.engine : "none");
    hs_text_format(
        o, "},\"tokens\":{\"prompt\":%" PRIu64 ",\"cached\":%" PRIu64 ",\"made\":%" PRIu64 ",\"steps\":%" PRIu64 "}}",
        c.prompt_tokens, c.cached_tokens, c.made_tokens, c.rows);
}

static void metric(hs_text *o, const char *name, const char *type, const char *help, double value)
{
    hs_text_format(o, "# HELP hlwq_%s %s\n# TYPE hlwq_%s %s\nhlwq_%s %.17g\n", name, help, name, type, name, value);
}

const double serve_bounds[SERVE_BOUNDS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                           2.5,   5,      10,    25,   50,    100,  250, 500,  1000};

void serve_histogram_add(serve_histogram *h, double value)
{
    int i = 0;
    while (i < SERVE_BOUNDS && value > serve_bounds[i])
        i++;
    h->count[i]++;
    h->sum += value;
}

static void histogram(hs_text *o, const char *name, const char *help, const serve_histogram *h)
{
    uint64_t n = 0;
    hs_text_format(o, "# HELP hlwq_%s %s\n# TYPE hlwq_%s histogram\n", name, help, name);
    for (int i = 0; i < SERVE_BOUNDS; i++)
        hs_text_format(o, "hlwq_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, serve_bounds[i], n += h->count[i]);
    n += h->count[SERVE_BOUNDS];
    hs_text_format(o, "hlwq_%s_bucket{le=\"+Inf\"} %" PRIu64 "\nhlwq_%s_sum %.17g\nhlwq_%s_count %" PRIu64 "\n", name,
                   n, name, h->sum, name, n);
}

static void draft_metrics(hs_text *o, const hlwq_speculation *d)
{
    uint64_t drafted = d->drafted[0] + d->drafted[1], accepted = d->accepted[0] + d->accepted[1];
    metric(o, "draft_windows_total", "counter", "Passes of texts that draft, with drafts or without.",
           (double)d->passes);
    metric(o, "draft_windows_plain_total", "counter", "Of them without drafts.", (double)d->plain);
    metric(o, "drafted_tokens_total", "counter", "Tokens drafted.", (double)drafted);
    metric(o, "draft_tokens_accepted_total", "counter", "Of them right.", (double)accepted);
    metric(o, "draft_tokens_rejected_total", "counter", "Of them computed in vain.", (double)(drafted - accepted));
    metric(o, "draft_seconds_total", "counter", "Time to make drafts.", d->draft_seconds);
    metric(o, "draft_depth", "gauge", "Drafts at once that pay best now; 0 = none.", d->depth);
    metric(o, "draft_expected_gain", "gauge", "Tokens a second at that depth over those without drafts.",
           d->expected_gain);
}

static void tier_metrics(hs_text *o, const hlwq_streaming *s)
{
    static const char *const tier[HLWQ_TIER_COUNT] = {"card", "upload", "memory", "file"};
    hs_text_format(o,
                   "# HELP hlwq_tier_bytes_total Weights read, by where from: by the card, copied to it, by the CPU, "
                   "from the file.\n# TYPE hlwq_tier_bytes_total counter\n");
    for (int i = 0; i < HLWQ_TIER_COUNT; i++)
        hs_text_format(o, "hlwq_tier_bytes_total{tier=\"%s\"} %" PRIu64 "\n", tier[i], s->tier_bytes[i]);
}

void serve_say_metrics(serve *s, serve_reply *r)
{
    hs_text *o = &r->body;
    serve_counts c;
    serve_view v;
    copy_state(s, &c, &v);
    r->type = "text/plain; version=0.0.4; charset=utf-8";
    metric(o, "requests_total", "counter", "Requests for answers.", (double)c.requests);
    metric(o, "answers_finished_total", "counter", "Texts made to their end.", (double)c.finished);
    metric(o, "answers_cancelled_total", "counter", "Texts given up because the client left.", (double)c.cancelled);
    metric(o, "answers_failed_total", "counter", "Texts that failed.", (double)c.refused);
    metric(o, "prompt_tokens_total", "counter", "Prompt tokens evaluated.", (double)c.prompt_tokens);
    metric(o, "prompt_tokens_cached_total", "counter", "Prompt tokens that needed no evaluation.",
           (double)c.cached_tokens);
    metric(o, "prompt_seconds_total", "counter", "Time from a slot to the first token.", c.prompt_seconds);
    metric(o, "tokens_predicted_total", "counter", "Tokens made.", (double)c.made_tokens);
    metric(o, "tokens_predicted_seconds_total", "counter", "Time from the first token to the last.", c.made_seconds);
    metric(o, "decode_steps_total", "counter", "Passes over the weights that made tokens.", (double)c.steps);
    metric(o, "decode_rows_total", "counter", "Tokens that these made, before the end of a text.", (double)c.rows);
    histogram(o, "time_to_first_token_seconds", "From a request to its first token, waiting included.", &c.first_token);
    histogram(o, "inter_token_seconds", "From a token to the next of its text.", &c.gap);
    histogram(o, "answer_tokens_per_second", "Of texts with two tokens or more, after the first.", &c.speed);
    metric(o, "requests_processing", "gauge", "Texts being made.", c.running);
    metric(o, "requests_deferred", "gauge", "Texts that wait for a slot.", c.waiting);
    metric(o, "slots", "gauge", "Texts that can be made at once.", s->slots);
    metric(o, "memory_budget_bytes", "gauge", "The cap given by --ram; 0 = none.", (double)s->plan.ram_bytes);
    metric(o, "memory_peak_bytes", "gauge", "Most memory held so far.", (double)v.memory_peak);
    hs_text_format(o, "# HELP hlwq_memory_bytes Memory held, by what it is for.\n# TYPE hlwq_memory_bytes gauge\n");
    for (uint32_t i = 0; i < v.kinds; i++)
        hs_text_format(o, "hlwq_memory_bytes{tag=\"%s\"} %" PRIu64 "\n", v.kind_name[i], v.kind_bytes[i]);
    metric(o, "vram_budget_bytes", "gauge", "The cap given by --vram; 0 = none.", (double)s->plan.vram_bytes);
    metric(o, "vram_bytes", "gauge", "Memory held on the graphics card.", (double)v.vram_now);
    metric(o, "expert_cache_lookups_total", "counter", "Experts asked for.", (double)v.streaming.lookups);
    metric(o, "expert_cache_hits_total", "counter", "Of them in memory.", (double)v.streaming.hits);
    metric(o, "card_cache_lookups_total", "counter", "Experts looked for on the card.",
           (double)v.streaming.card_lookups);
    metric(o, "card_cache_hits_total", "counter", "Of them there.", (double)v.streaming.card_hits);
    tier_metrics(o, &v.streaming);
    metric(o, "weights_read_bytes_total", "counter", "Weights read from storage.", (double)v.streaming.bytes_read);
    metric(o, "io_requests_total", "counter", "Reads asked of the system.", (double)v.streaming.requests);
    metric(o, "io_wait_seconds_total", "counter", "Time with nothing to compute.", v.streaming.wait_seconds);
    draft_metrics(o, &v.drafts);
}

/* In the shape of vLLM: what clients that count in tokens ask for before they send ids. */
void serve_say_tokenizer(serve *s, serve_reply *r)
{
    const char *end = NULL;
    size_t bytes;
    for (int i = 0; i < SERVE_ENDS && !end; i++)
        end = s->end[i] >= 0 ? hlwq_token_bytes(s->tokenizer, s->end[i], &bytes) : NULL;
    hs_text_format(&r->body,
                   "{\"tokenizer_class\":\"hlwq-stream\",\"vocab_size\":%" PRIu32 ",\"model_max_length\":%" PRIu32
                   ",\"bos_token\":null,\"eos_token\":",
                   s->facts.vocab, s->defaults.context);
    if (end)
        hs_text_json(&r->body, end, bytes);
    else
        hs_text_format(&r->body, "null");
    hs_text_format(&r->body, "}");
}
