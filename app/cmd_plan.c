/*
 * app/cmd_plan.c - what would be held in memory, before a weight is read.
 */
#include "app/commands.h"
#include "app/open.h"
#include "app/plan_text.h"

#include <stdlib.h>

static hlwq_status plan(const app_args *args, hlwq_error *err)
{
    char *path;
    hlwq_engine_options o;
    hlwq_plan p;
    hs_text t = {0};
    HS_TRY(app_model_path(args, &path, err));
    hlwq_status st = app_engine_options(args, path, &o, err);
    if (st == HLWQ_OK)
        st = hlwq_make_plan(&o, &p, err);
    if (st == HLWQ_OK) {
        if (app_flag(args, OPT_JSON)) {
            app_plan_json(&t, &p);
            hs_text_format(&t, "\n");
        } else
            app_plan_table(&t, &p);
        st = app_out_text(&t, err);
    }
    free(path);
    return st;
}

int app_cmd_plan(const app_args *args)
{
    hlwq_error err;
    return app_finish(plan(args, &err), &err);
}
