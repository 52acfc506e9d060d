/*
 * app/cmd_convert.c - a Hugging Face directory into one container.
 */
#include "app/commands.h"
#include "app/console.h"
#include "app/hub.h"
#include "app/open.h"

#include <stdlib.h>
#include <string.h>

/* 0, 2..6 or 16: the table's range alone would let others through. */
static hlwq_status check_bits(const app_args *args, app_option_id id, hlwq_error *err)
{
    int64_t n = app_number(args, id, 0);
    if (n == 0 || (n >= 2 && n <= 6) || n == 16)
        return HLWQ_OK;
    return hs_fail(err, HLWQ_ERR_ARG, "--%s: %d bits cannot be had; choose 2 to 6 or 16", app_option_table[id].name,
                   (int)n);
}

/* What a comparison finds is an answer, whatever else is said. */
static void say_findings(void *user, hlwq_log_level level, const char *line)
{
    if (level == HLWQ_LOG_INFO)
        app_note("%s", line);
    else
        app_log(user, level, line);
}

static double mebibytes(uint64_t bytes, double seconds)
{
    return seconds > 0 ? (double)bytes / 1048576.0 / seconds : 0;
}

static void say_rates(const hlwq_convert_report *r)
{
    char read[32], written[32], peak[32];
    app_note("%.1f s: read %s at %.0f MiB/s, wrote %s at %.0f MiB/s; read alone %.0f MiB/s, written alone %.0f MiB/s, "
             "%.1f s of making; at most %s of memory",
             r->seconds, app_size_text(read, r->read_bytes), mebibytes(r->read_bytes, r->seconds),
             app_size_text(written, r->written_bytes), mebibytes(r->written_bytes, r->seconds),
             mebibytes(r->read_bytes, r->read_seconds), mebibytes(r->written_bytes, r->write_seconds),
             r->make_seconds, app_size_text(peak, r->peak_bytes));
}

static hlwq_status convert(const app_args *args, hlwq_error *err)
{
    app_progress progress = {.label = "converting"};
    hlwq_convert_options o = hlwq_convert_options_default();
    o.output = app_text(args, OPT_OUTPUT, NULL);
    if (!o.output)
        return hs_fail(err, HLWQ_ERR_ARG, "convert needs the file to write: -o FILE");
    HS_TRY(check_bits(args, OPT_HEAD_BITS, err));
    HS_TRY(check_bits(args, OPT_EMBED_BITS, err));
    app_weight_format(args, &o.bits, &o.format);
    const char *to = app_text(args, OPT_TO, "hlwq");
    o.to = strcmp(to, "hlwq") == 0 ? NULL : to;
    o.head_bits = (uint32_t)app_number(args, OPT_HEAD_BITS, o.head_bits);
    o.embed_bits = (uint32_t)app_number(args, OPT_EMBED_BITS, o.embed_bits);
    o.threads = (uint32_t)app_number(args, OPT_THREADS, o.threads);
    o.overwrite = app_flag(args, OPT_FORCE);
    o.verify = app_flag(args, OPT_COMPARE);
    hlwq_convert_report report;
    o.report = &report;
    o.log = o.verify ? say_findings : app_log;
    o.progress = app_progress_step;
    o.user = &progress;
    char *source;
    HS_TRY(app_hub_path(args->operand[0], &source, err));
    o.source = source;
    hlwq_status st = hlwq_convert(&o, err);
    app_progress_end(&progress);
    free(source);
    if (st == HLWQ_OK && o.to)
        app_note("%s: written as %s", o.output, to);
    else if (st == HLWQ_OK) {
        app_note_written(o.output);
        say_rates(&report);
    }
    return st;
}

int app_cmd_convert(const app_args *args)
{
    hlwq_error err;
    app_watch(NULL);
    hlwq_status st = convert(args, &err);
    return app_finish(st, &err);
}
