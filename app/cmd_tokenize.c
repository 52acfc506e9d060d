/*
 * app/cmd_tokenize.c - text to ids and back.
 */
#include "app/commands.h"
#include "app/ids.h"
#include "app/open.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 1 << 30 };

/* The operands joined by spaces, else standard input to the byte. */
static hlwq_status read_text(const app_args *args, char **text, size_t *bytes, hlwq_error *err)
{
    if (!args->n_operands)
        return app_read(NULL, TEXT_MAX, text, bytes, err);
    *text = app_operands(args);
    *bytes = *text ? strlen(*text) : 0;
    return *text ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the text");
}

static hlwq_status encode(const app_args *args, const hlwq_tokenizer *tokenizer, const char *text, size_t bytes,
                          hlwq_error *err)
{
    int32_t *ids = NULL;
    size_t count = 0;
    bool json = app_flag(args, OPT_JSON);
    HS_TRY(hlwq_tokenize(tokenizer, text, bytes, !app_flag(args, OPT_NO_SPECIAL), &ids, &count, err));
    hs_text t = {0};
    if (json)
        hs_text_format(&t, "{\"schema\":1,\"count\":%zu,\"ids\":[", count);
    for (size_t i = 0; i < count; i++)
        hs_text_format(&t, "%s%" PRId32, i == 0 ? "" : json ? "," : " ", ids[i]);
    hs_text_format(&t, "%s", json ? "]}\n" : "\n");
    hlwq_free(ids);
    return app_out_text(&t, err);
}

static hlwq_status decode(const app_args *args, const hlwq_tokenizer *tokenizer, const char *text, size_t bytes,
                          hlwq_error *err)
{
    int32_t *ids = NULL;
    size_t count = 0, n = 0;
    char *out = NULL;
    const char *what = args->n_operands ? "the ids" : "standard input";
    HS_TRY(app_parse_ids(text, bytes, what, 0, &ids, &count, err));
    hlwq_status st = hlwq_detokenize(tokenizer, ids, count, app_flag(args, OPT_NO_SPECIAL), &out, &n, err);
    free(ids);
    HS_TRY(st);
    hs_text t = {0};
    if (app_flag(args, OPT_JSON)) {
        hs_text_format(&t, "{\"schema\":1,\"count\":%zu,\"text\":", count);
        hs_text_json(&t, out, n);
        hs_text_format(&t, "}\n");
    } else {
        hs_text_add(&t, out, n);
    }
    hlwq_free(out);
    return app_out_text(&t, err);
}

static hlwq_status tokenize(const app_args *args, hlwq_error *err)
{
    hlwq_tokenizer *tokenizer = NULL;
    char *path = NULL, *text = NULL;
    size_t bytes = 0;
    hlwq_status st = app_model_path(args, &path, err);
    if (st == HLWQ_OK)
        st = hlwq_tokenizer_open(path, &tokenizer, err);
    if (st == HLWQ_OK)
        st = read_text(args, &text, &bytes, err);
    if (st == HLWQ_OK)
        st = app_flag(args, OPT_DECODE) ? decode(args, tokenizer, text, bytes, err)
                                        : encode(args, tokenizer, text, bytes, err);
    if (tokenizer)
        hlwq_tokenizer_close(tokenizer);
    free(text);
    free(path);
    return st;
}

int app_cmd_tokenize(const app_args *args)
{
    hlwq_error err;
    hlwq_status st = tokenize(args, &err);
    return app_finish(st, &err);
}
