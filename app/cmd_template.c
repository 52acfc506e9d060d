/*
 * app/cmd_template.c - messages to a prompt, to look at or to tokenise.
 */
#include "app/commands.h"
#include "app/open.h"

#include <stdlib.h>

enum { REQUEST_MAX = 256 << 20 };

static hlwq_status apply(const app_args *args, hlwq_error *err)
{
    hlwq_template *chat = NULL;
    char *path = NULL, *request = NULL, *prompt = NULL;
    size_t bytes = 0, n = 0;
    const char *file = app_text(args, OPT_TEMPLATE, NULL);
    hlwq_status st = file ? HLWQ_OK : app_model_path(args, &path, err);
    if (st == HLWQ_OK)
        st = hlwq_template_open(file ? file : path, &chat, err);
    if (st == HLWQ_OK)
        st = app_read(NULL, REQUEST_MAX, &request, &bytes, err);
    if (st == HLWQ_OK)
        st = hlwq_template_apply(chat, request, bytes, &prompt, &n, err);
    if (st == HLWQ_OK)
        st = app_out(prompt, n, err);
    hlwq_free(prompt);
    hlwq_template_close(chat);
    free(request);
    free(path);
    return st;
}

int app_cmd_template(const app_args *args)
{
    hlwq_error err;
    hlwq_status st = apply(args, &err);
    return app_finish(st, &err);
}
