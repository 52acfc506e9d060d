/*
 * app/plan_text.c - prints plans.
 */
#include "app/plan_text.h"

#include "app/open.h"

#include <inttypes.h>
#include <string.h>

static void row(hs_text *t, const char *name, uint64_t bytes)
{
    hs_text_format(t, "  %-34s %10.1f MiB\n", name, (double)bytes / 1048576.0);
}

static void card_table(hs_text *t, const hlwq_plan *p)
{
    hs_text_format(t, "graphics card%s: %.1f MiB; the least that works is %" PRIu64 "M\n",
                   p->card_imagined ? " (this machine has none that can be used)" : "",
                   (double)p->vram_bytes / 1048576.0, (p->card_smallest_bytes + 1048575) / 1048576);
    row(t, "CUDA itself, other programs", p->card_reserve_bytes);
    row(t, "weights needed for every token", p->card_trunk_bytes);
    if (p->card_slots)
        hs_text_format(t, "  %-34s %10.1f MiB  %u of %u, %.2f MiB each; the others are below\n", "cache",
                       (double)p->card_slots_bytes / 1048576.0, p->card_slots, p->streamed,
                       (double)p->slot_bytes / 1048576.0);
    else
        row(t, "other weights", p->card_slots_bytes);
    row(t, "context: states, keys and values", p->card_state_bytes);
    if (p->kv_bytes || p->kv_file_bytes)
        hs_text_format(t, "  %-34s %10.1f MiB  of it for the newest keys and values, the others are below\n", "",
                       (double)p->card_kv_bytes / 1048576.0);
    row(t, "activations", p->card_activation_bytes);
    row(t, "recorded steps", p->card_recorded_bytes);
    row(t, "together, with a margin", p->card_total_bytes);
    hs_text_format(t, "memory: ");
}

void app_plan_table(hs_text *t, const hlwq_plan *p)
{
    if (p->card)
        card_table(t, p);
    if (p->ram_bytes)
        hs_text_format(t, "budget %.1f MiB; the least that works is %" PRIu64 "M\n", (double)p->ram_bytes / 1048576.0,
                       (p->smallest_bytes + 1048575) / 1048576);
    else
        hs_text_format(t, "no budget; the least that works is %" PRIu64 "M\n", (p->smallest_bytes + 1048575) / 1048576);
    row(t, p->card ? "embeddings" : "weights needed for every token", p->card ? p->embed_bytes : p->trunk_bytes);
    if (p->card && !p->card_slots)
        row(t, "other weights: all on the card", 0);
    else if (p->slots)
        hs_text_format(t, "  %-34s %10.1f MiB  %u of %u, %.2f MiB each; the rest of %.1f MiB is streamed\n", "cache",
                       (double)p->slots_bytes / 1048576.0, p->slots, p->streamed, (double)p->slot_bytes / 1048576.0,
                       (double)p->streamed_bytes / 1048576.0);
    else
        row(t, "other weights, all resident", p->slots_bytes);
    row(t,
        !p->card      ? "context: states, keys and values"
        : p->kv_bytes ? "context: old keys, values; tokens"
                      : "context: tokens, logits",
        p->session_bytes);
    if (p->kv_bytes && p->slots)
        hs_text_format(t, "  %-34s %10.1f MiB  of it are lent to the cache until a text needs them\n", "",
                       (double)p->kv_bytes / 1048576.0);
    if (p->kv_file_bytes)
        hs_text_format(t, "  %-34s %10.1f MiB  more, old ones, in a file\n", "", (double)p->kv_file_bytes / 1048576.0);
    hs_text_format(t, "  %-34s %10.1f MiB  %u prompt tokens at once\n", "activations",
                   (double)p->activation_bytes / 1048576.0, p->batch);
    if (p->staging_bytes)
        hs_text_format(t, "  %-34s %10.1f MiB  of it, pinned, for what the card exchanges with the CPU\n", "",
                       (double)p->staging_bytes / 1048576.0);
    row(t, "tables, tokenizer", p->fixed_bytes);
    row(t, "together, with a margin", p->total_bytes);
}

static void plan_fields(hs_text *t, const hlwq_plan *p)
{
    hs_text_format(t,
                   "\"ram_bytes\": %" PRIu64 ", \"smallest_bytes\": %" PRIu64 ", \"total_bytes\": %" PRIu64
                   ", \"trunk_bytes\": %" PRIu64 ", \"slots_bytes\": %" PRIu64 ", \"session_bytes\": %" PRIu64
                   ", \"kv_bytes\": %" PRIu64 ", \"kv_file_bytes\": %" PRIu64 ", \"activation_bytes\": %" PRIu64
                   ", \"fixed_bytes\": %" PRIu64 ", \"slots\": %u, \"streamed\": %u, \"slot_bytes\": %" PRIu64
                   ", \"streamed_bytes\": %" PRIu64 ", \"batch\": %u"
                   ", \"context\": %u",
                   p->ram_bytes, p->smallest_bytes, p->total_bytes, p->trunk_bytes, p->slots_bytes, p->session_bytes,
                   p->kv_bytes, p->kv_file_bytes, p->activation_bytes, p->fixed_bytes, p->slots, p->streamed,
                   p->slot_bytes, p->streamed_bytes, p->batch, p->context);
    if (p->card)
        hs_text_format(t,
                       ", \"card\": {\"vram_bytes\": %" PRIu64 ", \"smallest_bytes\": %" PRIu64
                       ", \"total_bytes\": %" PRIu64 ", \"reserve_bytes\": %" PRIu64 ", \"trunk_bytes\": %" PRIu64
                       ", \"state_bytes\": %" PRIu64 ", \"activation_bytes\": %" PRIu64 ", \"staging_bytes\": %" PRIu64
                       ", \"recorded_bytes\": %" PRIu64 ", \"slots_bytes\": %" PRIu64
                       ", \"slots\": %u, \"kv_bytes\": %" PRIu64 "}",
                       p->vram_bytes, p->card_smallest_bytes, p->card_total_bytes, p->card_reserve_bytes,
                       p->card_trunk_bytes, p->card_state_bytes, p->card_activation_bytes, p->staging_bytes,
                       p->card_recorded_bytes, p->card_slots_bytes, p->card_slots, p->card_kv_bytes);
}

void app_plan_json(hs_text *t, const hlwq_plan *p)
{
    hs_text_format(t, "{");
    plan_fields(t, p);
    hs_text_format(t, "}");
}

/* As it stands after "limited by". */
static const char *article(const char *bottleneck)
{
    static const char *const bare[] = {"the ", "uploads", "launches", "keys and values"};
    for (size_t i = 0; i < sizeof bare / sizeof *bare; i++)
        if (strncmp(bottleneck, bare[i], strlen(bare[i])) == 0)
            return "";
    return "the ";
}

void app_prediction(hs_text *t, const hlwq_diagnosis *d)
{
    if (d->card_assumed)
        hs_text_format(t, "with a card that reads its memory at %.0f GB/s and is written to at %.1f (assumed): ",
                       d->card_bytes_per_second * 1e-9, d->upload_bytes_per_second * 1e-9);
    hs_text_format(t, "decode at most %.1f tok/s while the text is short, limited by %s%s", d->tok_per_s,
                   article(d->bottleneck), d->bottleneck);
    bool layers = d->product_bytes_per_second > 0 && !d->experts;
    if (d->missed_bytes_per_token > 0)
        hs_text_format(t, "; %.1f MB/token from the disk at %.2f GB/s%s", d->missed_bytes_per_token * 1e-6,
                       d->disk_bytes_per_second * 1e-9,
                       layers ? "" : " if experts are chosen by chance, less for real text");
    hs_text_format(t, "\nafter %u tokens at most %.1f tok/s, limited by %s%s\n", d->plan.context, d->full_tok_per_s,
                   article(d->full_bottleneck), d->full_bottleneck);
    if (d->cpu_share > 0)
        hs_text_format(
            t, "%s: the CPU computes %.0f %% of them, at %.1f GB/s%s\n",
            d->experts ? "experts that are not on the card, chosen by chance" : "layers that do not stay on the card",
            d->cpu_share * 100, d->product_bytes_per_second * 1e-9, d->cpu_share < 1 ? "; the rest is copied up" : "");
}

void app_prediction_json(hs_text *t, const hlwq_diagnosis *d)
{
    hs_text_format(
        t,
        "{\"predicted\": {\"tok_per_s\": %.2f, \"bottleneck\": \"%s\", \"missed_bytes_per_token\": %.0f, "
        "\"memory_bytes_per_second\": %.0f, \"disk_bytes_per_second\": %.0f, \"card_bytes_per_second\": %.0f, "
        "\"upload_bytes_per_second\": %.0f, \"card_assumed\": %s, \"cpu_share\": %.4f, "
        "\"product_bytes_per_second\": %.0f, \"full_tok_per_s\": %.2f, \"full_bottleneck\": \"%s\"}, ",
        d->tok_per_s, d->bottleneck, d->missed_bytes_per_token, d->memory_bytes_per_second, d->disk_bytes_per_second,
        d->card_bytes_per_second, d->upload_bytes_per_second, d->card_assumed ? "true" : "false", d->cpu_share,
        d->product_bytes_per_second, d->full_tok_per_s, d->full_bottleneck);
    plan_fields(t, &d->plan);
    hs_text_format(t, "}");
}

void app_streaming_json(hs_text *t, const hlwq_streaming *s)
{
    hs_text_format(t,
                   "\"cache\": {\"slots\": %u, \"lookups\": %" PRIu64 ", \"hits\": %" PRIu64 ", \"misses\": %" PRIu64
                   ", \"evictions\": %" PRIu64 ", \"guessed\": %" PRIu64 ", \"guessed_right\": %" PRIu64
                   ", \"hit_rate\": %.6f, \"watched\": %" PRIu64 ", \"watched_hits\": %" PRIu64
                   ", \"rival_hits\": %" PRIu64 ", \"policy_switches\": %u, \"fixed\": %s},\n",
                   s->slots, s->lookups, s->hits, s->misses, s->evictions, s->guessed, s->guessed_right,
                   s->lookups ? (double)s->hits / (double)s->lookups : 0.0, s->watched, s->watched_hits, s->rival_hits,
                   s->policy_switches, s->fixed ? "true" : "false");
    if (s->card_slots)
        hs_text_format(
            t,
            "  \"card\": {\"slots\": %u, \"lookups\": %" PRIu64 ", \"hits\": %" PRIu64 ", \"uploads\": %" PRIu64
            ", \"computed_beside\": %" PRIu64 ", \"policy_switches\": %u, \"cpu_share\": %.4f},\n",
            s->card_slots, s->card_lookups, s->card_hits, s->uploads, s->beside, s->card_switches, s->cpu_share);
    hs_text_format(t,
                   "  \"tiers\": {\"card_bytes\": %" PRIu64 ", \"upload_bytes\": %" PRIu64
                   ", \"memory_bytes\": %" PRIu64 ", \"file_bytes\": %" PRIu64 "},\n",
                   s->tier_bytes[HLWQ_TIER_CARD], s->tier_bytes[HLWQ_TIER_UPLOAD], s->tier_bytes[HLWQ_TIER_MEMORY],
                   s->tier_bytes[HLWQ_TIER_FILE]);
    hs_text_format(t,
                   "  \"io\": {\"engine\": \"%s\", \"reason\": \"%s\", \"bytes_read\": %" PRIu64
                   ", \"requests\": %" PRIu64 ", \"retries\": %" PRIu64 ", \"seconds\": %.6f, \"wait_seconds\": %.6f}",
                   s->engine ? s->engine : "none", s->reason ? s->reason : "", s->bytes_read, s->requests, s->retries,
                   s->io_seconds, s->wait_seconds);
}

void app_speculation_json(hs_text *t, const hlwq_speculation *s)
{
    hs_text_format(t,
                   "\"drafts\": {\"depth_max\": %u, \"depth\": %u, \"passes\": %" PRIu64
                   ", \"passes_without\": %" PRIu64 ", \"mtp\": {\"drafted\": %" PRIu64 ", \"accepted\": %" PRIu64
                   "}, \"lookup\": {\"drafted\": %" PRIu64 ", \"accepted\": %" PRIu64
                   "}, \"draft_seconds\": %.6f, \"pass_seconds\": %.6f, \"expected_gain\": %.4f}",
                   s->depth_max, s->depth, s->passes, s->plain, s->drafted[0], s->accepted[0], s->drafted[1],
                   s->accepted[1], s->draft_seconds, s->pass_seconds, s->expected_gain);
}

void app_note_drafts(const hlwq_speculation *s)
{
    char price[64] = "they do not pay now";
    uint64_t right = s->accepted[0] + s->accepted[1];
    if (s->depth_max == 0 || s->passes == 0)
        return;
    if (s->depth)
        snprintf(price, sizeof price, "%u at once pay best: %.2f times as fast", s->depth, s->expected_gain);
    app_note("drafts: %" PRIu64 " of %" PRIu64 " right (MTP), %" PRIu64 " of %" PRIu64
             " (repetitions) | %.2f tokens a pass | %s",
             s->accepted[0], s->drafted[0], s->accepted[1], s->drafted[1], 1 + app_rate(right, (double)s->passes),
             price);
}
