/*
 * app/cmd_synth.c - a container of real geometry with random weights.
 */
#include "app/commands.h"
#include "app/console.h"
#include "app/open.h"

static hlwq_status synth(const app_args *args, hlwq_error *err)
{
    app_progress progress = {.label = "writing"};
    hlwq_synth_options o = hlwq_synth_options_default();
    o.like = app_text(args, OPT_LIKE, NULL);
    o.output = app_text(args, OPT_OUTPUT, NULL);
    if (!o.like || !o.output)
        return hs_fail(err, HLWQ_ERR_ARG, "synth needs %s",
                       o.like ? "the file to write: -o FILE" : "a geometry: --like 9b|27b|35b-a3b");
    o.layers = (uint32_t)app_number(args, OPT_LAYERS, 0);
    o.vocab = (uint32_t)app_number(args, OPT_VOCAB, 0);
    app_weight_format(args, &o.bits, &o.format);
    o.seed = (uint64_t)app_number(args, OPT_SEED, 0);
    o.threads = (uint32_t)app_number(args, OPT_THREADS, 0);
    o.head_bits = (uint32_t)app_number(args, OPT_HEAD_BITS, 0);
    o.embed_bits = (uint32_t)app_number(args, OPT_EMBED_BITS, 0);
    o.mtp = app_flag(args, OPT_MTP);
    o.dry = app_flag(args, OPT_DRY);
    o.overwrite = app_flag(args, OPT_FORCE);
    o.progress = app_progress_step;
    o.user = &progress;
    hlwq_status st = hlwq_synth(&o, err);
    app_progress_end(&progress);
    if (st == HLWQ_OK)
        app_note_written(o.output);
    return st;
}

int app_cmd_synth(const app_args *args)
{
    hlwq_error err;
    app_watch(NULL);
    return app_finish(synth(args, &err), &err);
}
