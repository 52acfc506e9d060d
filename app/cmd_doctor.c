/*
 * app/cmd_doctor.c - what this machine offers a model, and the flags that follow.
 */
#include "app/commands.h"
#include "app/open.h"
#include "app/plan_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void print_json(hs_text *t, const hlwq_diagnosis *d)
{
    hs_text_format(t,
                   "{\"isa\": \"%s\", \"cores\": %u, \"memory_available_bytes\": %" PRIu64
                   ", \"huge_pages\": \"%s\", \"locked_limit_bytes\": %" PRIu64
                   ", \"memory_bytes_per_second\": [%.0f, %.0f], \"io\": ",
                   d->isa, d->cores, d->memory_available, d->huge_pages, d->locked_limit,
                   d->memory_bytes_per_second_one, d->memory_bytes_per_second);
    hs_text_json(t, d->io, strlen(d->io));
    hs_text_format(t, ", \"card\": ");
    hs_text_json(t, d->card, strlen(d->card));
    hs_text_format(t,
                   ", \"card_bytes\": %" PRIu64 ", \"card_bytes_per_second\": %.0f, \"upload_bytes_per_second\": %.0f",
                   d->card_bytes, d->card_bytes_per_second, d->upload_bytes_per_second);
    hs_text_format(t,
                   ", \"disk_bytes_per_second\": %.0f, \"missed_bytes_per_token\": %.0f, \"tok_per_s\": %.2f, "
                   "\"bottleneck\": \"%s\", \"full_tok_per_s\": %.2f, \"full_bottleneck\": \"%s\", \"plan\": ",
                   d->disk_bytes_per_second, d->missed_bytes_per_token, d->tok_per_s, d->bottleneck, d->full_tok_per_s,
                   d->full_bottleneck);
    app_plan_json(t, &d->plan);
    hs_text_format(t, "}\n");
}

static void print_text(hs_text *t, const hlwq_diagnosis *d, const char *path)
{
    hs_text_format(t, "processor      %s kernels; %u cores to compute on\n", d->isa, d->cores);
    hs_text_format(t,
                   "memory         %.1f GiB available; read at %.1f GB/s by one thread, %.1f by all; huge pages: %s\n",
                   (double)d->memory_available / 1073741824.0, d->memory_bytes_per_second_one * 1e-9,
                   d->memory_bytes_per_second * 1e-9, d->huge_pages);
    if (d->locked_limit == UINT64_MAX)
        hs_text_format(t, "locked memory  no limit\n");
    else
        hs_text_format(t, "locked memory  %.1f MiB; slots beyond it are read into without being registered\n",
                       (double)d->locked_limit / 1048576.0);
    if (d->card_bytes)
        hs_text_format(t, "graphics card  %s: %.1f GiB, read at %.1f GB/s, written to at %.1f GB/s\n", d->card,
                       (double)d->card_bytes / 1073741824.0, d->card_bytes_per_second * 1e-9,
                       d->upload_bytes_per_second * 1e-9);
    else
        hs_text_format(t, "graphics card  %s\n", d->card);
    hs_text_format(t, "reading        %s\n", d->io);
    if (d->disk_bytes_per_second > 0)
        hs_text_format(t, "disk           %.2f GB/s in pieces of %.2f MiB from all over the model\n",
                       d->disk_bytes_per_second * 1e-9, (double)d->plan.slot_bytes / 1048576.0);
    hs_text_format(t, "model          %s\n", path);
    app_plan_table(t, &d->plan);
    app_prediction(t, d);
    hs_text_format(t, "flags          ");
    if (!d->plan.slots)
        hs_text_format(t, "none are needed: everything is resident\n");
    else if (d->plan.total_bytes < d->memory_available / 10 * 9)
        hs_text_format(t, "--ram %" PRIu64 "M: more memory is available than was given\n",
                       d->memory_available / 10 * 9 >> 20);
    else
        hs_text_format(t, "as they are\n");
}

static hlwq_status doctor(const app_args *args, hlwq_error *err)
{
    char *path;
    hlwq_engine_options o;
    hlwq_diagnosis d;
    hs_text t = {0};
    HS_TRY(app_model_path(args, &path, err));
    hlwq_status st = app_engine_options(args, path, &o, err);
    if (st == HLWQ_OK)
        st = hlwq_diagnose(&o, &d, err);
    if (st == HLWQ_OK) {
        if (app_flag(args, OPT_JSON))
            print_json(&t, &d);
        else
            print_text(&t, &d, path);
        st = app_out_text(&t, err);
    }
    free(path);
    return st;
}

int app_cmd_doctor(const app_args *args)
{
    hlwq_error err;
    return app_finish(doctor(args, &err), &err);
}
