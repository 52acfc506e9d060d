/*
 * app/cmd_quantize.c - a Hugging Face directory and a text into one container.
 */
#include "app/commands.h"
#include "app/console.h"

#include <stdlib.h>

static double real(const app_args *args, app_option_id id, double fallback)
{
    return args->value[id].set ? args->value[id].real : fallback;
}

/* --bits: a number, or an INT4 format. */
static hlwq_status width(const app_args *args, hlwq_quantize_options *o, hlwq_error *err)
{
    const char *text = app_text(args, OPT_RATE, NULL);
    char *end = NULL;
    if (!text)
        return HLWQ_OK;
    if (*text == 'i' || *text == 'I') {
        o->format = text;
        return HLWQ_OK;
    }
    o->bits = strtod(text, &end);
    return end == text || *end ? hs_fail(err, HLWQ_ERR_ARG, "--bits: \"%.40s\" is neither 2 to 6 nor i4 or i4g64", text)
                               : HLWQ_OK;
}

static hlwq_status quantize(const app_args *args, hlwq_error *err)
{
    app_progress progress = {.label = "quantizing"};
    hlwq_quantize_options o = hlwq_quantize_options_default();
    o.source = args->operand[0];
    o.output = app_text(args, OPT_OUTPUT, NULL);
    o.calibration = app_text(args, OPT_CALIB, NULL);
    if (!o.output)
        return hs_fail(err, HLWQ_ERR_ARG, "quantize needs the file to write: -o FILE");
    if (!o.calibration)
        return hs_fail(err, HLWQ_ERR_ARG, "quantize needs a text like what the model will read: --calib FILE");
    HS_TRY(width(args, &o, err));
    if (args->value[OPT_TARGET_BYTES].set)
        o.target_bytes = args->value[OPT_TARGET_BYTES].bytes;
    o.head_bits = (uint32_t)app_number(args, OPT_HEAD_BITS, o.head_bits);
    o.embed_bits = (uint32_t)app_number(args, OPT_EMBED_BITS, o.embed_bits);
    o.tokens = (uint32_t)app_number(args, OPT_CALIB_TOKENS, o.tokens);
    o.window = (uint32_t)app_number(args, OPT_CALIB_WINDOW, o.window);
    o.sweeps = (uint32_t)app_number(args, OPT_SWEEPS, o.sweeps);
    o.damping = (float)real(args, OPT_DAMPING, o.damping);
    o.follow = (float)real(args, OPT_FOLLOW, o.follow);
    o.catch_up = (float)real(args, OPT_CATCH_UP, o.catch_up);
    if (args->value[OPT_AWQ].set)
        o.awq = (hlwq_awq)args->value[OPT_AWQ].number;
    o.blend_tokens = (float)real(args, OPT_BLEND, o.blend_tokens);
    o.threads = (uint32_t)app_number(args, OPT_THREADS, o.threads);
    o.overwrite = app_flag(args, OPT_FORCE);
    o.log = app_log;
    o.progress = app_progress_step;
    o.user = &progress;
    hlwq_status st = hlwq_quantize(&o, err);
    app_progress_end(&progress);
    if (st == HLWQ_OK)
        app_note_written(o.output);
    return st;
}

int app_cmd_quantize(const app_args *args)
{
    hlwq_error err;
    app_watch(NULL);
    hlwq_status st = quantize(args, &err);
    return app_finish(st, &err);
}
