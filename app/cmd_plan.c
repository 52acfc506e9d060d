/*
 * app/cmd_plan.c - what would be held in memory, before a weight is read, and how fast that can be.
 */
#include "app/commands.h"
#include "app/open.h"
#include "app/plan_text.h"

#include <stdlib.h>

static hlwq_status plan(const app_args *args, hlwq_error *err)
{
    char *path;
    hlwq_engine_options o;
    hlwq_diagnosis d;
    hs_text t = {0};
    HS_TRY(app_model_path(args, &path, err));
    hlwq_status st = app_engine_options(args, path, &o, err);
    if (st == HLWQ_OK)
        st = hlwq_predict(&o, &d, err);
    if (st == HLWQ_OK) {
        if (app_flag(args, OPT_JSON)) {
            app_prediction_json(&t, &d);
            hs_text_format(&t, "\n");
        } else {
            app_plan_table(&t, &d.plan);
            app_prediction(&t, &d);
        }
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
