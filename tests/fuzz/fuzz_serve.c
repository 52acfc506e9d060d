/* Requests from the network, and text from a model: nothing crashes, and pieces of a text never show in what is made.
 */
#include "app/serve_split.h"

#include <stdlib.h>
#include <string.h>

static void take(void *user, serve_piece kind, const char *text, size_t bytes)
{
    char tag = (char)('0' + kind);
    hs_text_add(user, &tag, kind == SERVE_PIECE_CALL);
    hs_text_add(user, text, bytes);
}

static char *cut(const char *text, size_t bytes, size_t size, const hs_json *tools, bool thinks)
{
    static const char *const stop[] = {"ab", "</x>"};
    hs_text out = {0};
    serve_split s = {.stop = stop, .stops = 2, .tools = tools, .take = take, .user = &out};
    hs_text_add(&out, "", 0);
    if (thinks)
        serve_split_think(&s, true);
    for (size_t at = 0; at < bytes; at += size)
        serve_split_text(&s, text + at, bytes - at < size ? bytes - at : size);
    serve_split_end(&s);
    serve_split_close(&s);
    return hs_text_take(&out);
}

static void fuzz_text(const char *text, size_t bytes)
{
    static const char tools_json[] = "[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"s\":{\"type\":"
                                     "\"string\"},\"n\":{\"type\":\"integer\"}}}}}]";
    hs_json *tools;
    if (bytes < 2 || hs_json_parse(tools_json, sizeof tools_json - 1, "tools", &tools, NULL) != HLWQ_OK)
        return;
    char *whole = cut(text + 1, bytes - 1, bytes, *text & 1 ? tools : NULL, *text & 2);
    char *parts = cut(text + 1, bytes - 1, 1 + (size_t)(*text >> 2 & 7), *text & 1 ? tools : NULL, *text & 2);
    if (!whole || !parts || strcmp(whole, parts) != 0)
        abort();
    free(whole);
    free(parts);
    hs_json_free(tools);
}

static void fuzz_request(const char *text, size_t bytes, serve_kind kind)
{
    const hlwq_sampling defaults = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    serve_params p;
    serve_fault f;
    hs_json *root;
    if (hs_json_parse(text, bytes, "the body", &root, NULL) != HLWQ_OK)
        return;
    if (!serve_parse(root, kind, &defaults, &p, &f) && (f.status != 400 || !*f.message))
        abort();
    hs_json_free(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (!bytes)
        return 0;
    const char *text = (const char *)data + 1;
    switch (*data) {
    case 'c': fuzz_request(text, bytes - 1, SERVE_CHAT); break;
    case 'p': fuzz_request(text, bytes - 1, SERVE_COMPLETION); break;
    default: fuzz_text(text, bytes - 1); break;
    }
    return 0;
}
