/*
 * app/cmd_info.c - what a model is: the library's description as a table, or passed through as JSON.
 */
#include "app/hub.h"
#include "app/commands.h"
#include "app/open.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MODULES_MAX = 64 };

/* Groups that look alike, added up. */
typedef struct module {
    char name[48], format[48];
    uint64_t count, bytes, parameters;
} module;

static uint64_t take(const hs_json *object, const char *key)
{
    const hs_json *node = hs_json_get(object, key);
    return hs_json_type_of(node) == HS_JSON_INTEGER && hs_json_int(node) > 0 ? (uint64_t)hs_json_int(node) : 0;
}

/* Escaped for the terminal: names may come from a file. */
static void take_text(const hs_json *object, const char *key, char *out, size_t capacity)
{
    const hs_json *node = hs_json_get(object, key);
    hs_escape(out, capacity, hs_json_type_of(node) == HS_JSON_STRING ? hs_json_string(node, NULL) : "");
}

static bool take_bool(const hs_json *object, const char *key)
{
    const hs_json *node = hs_json_get(object, key);
    return hs_json_type_of(node) == HS_JSON_BOOL && hs_json_bool(node);
}

/* The last row takes what finds no place. */
static uint32_t fold(const hs_json *groups, module row[MODULES_MAX])
{
    uint32_t n = 0;
    for (size_t g = 0; g < hs_json_count(groups); g++) {
        const hs_json *group = hs_json_at(groups, g);
        char kind[24], mixer[24];
        module m = {.count = 0};
        take_text(group, "kind", kind, sizeof kind);
        take_text(group, "mixer", mixer, sizeof mixer);
        take_text(group, "format", m.format, sizeof m.format);
        snprintf(m.name, sizeof m.name, *mixer ? "%s, %s" : "%s", kind, mixer);
        uint32_t i = 0;
        while (i < n && (strcmp(row[i].name, m.name) != 0 || strcmp(row[i].format, m.format) != 0))
            i++;
        if (i == MODULES_MAX)
            i--;
        else if (i == n)
            row[n++] = m;
        row[i].count += take(group, "count");
        row[i].bytes += take(group, "bytes");
        row[i].parameters += take(group, "parameters");
    }
    return n;
}

static void print_modules(hs_text *t, const hs_json *root)
{
    module row[MODULES_MAX];
    char size[32];
    uint32_t n = fold(hs_json_get(root, "groups"), row);
    uint64_t all = take(root, "bytes"), bytes = 0, parameters = 0;
    if (n == 0)
        return;
    hs_text_format(t, "\n  %-22s %6s  %-16s %12s %12s %7s\n", "module", "count", "format", "parameters", "size",
                   "share");
    for (uint32_t i = 0; i < n; i++) {
        bytes += row[i].bytes;
        parameters += row[i].parameters;
        hs_text_format(t, "  %-22s %6" PRIu64 "  %-16s %10.2f M %12s %5.1f %%\n", row[i].name, row[i].count,
                       row[i].format, (double)row[i].parameters * 1e-6, app_size_text(size, row[i].bytes),
                       all ? 100.0 * (double)row[i].bytes / (double)all : 0.0);
    }
    hs_text_format(t, "  %-22s %6s  %-16s %10.2f M %12s\n", "together", "", "", (double)parameters * 1e-6,
                   app_size_text(size, bytes));
}

static void print_needs(hs_text *t, const hs_json *root)
{
    const hs_json *needs = hs_json_get(root, "needs");
    char weights[32], kv[32], state[32], all[32];
    uint64_t w = take(needs, "weights_bytes"), k = take(needs, "kv_bytes_per_token"), s = take(needs, "state_bytes");
    if (hs_json_count(needs) == 0)
        return;
    hs_text_format(t, "\n  needs %s of memory for weights, %s for state, %s for each token of context (f16)\n",
                   app_size_text(weights, w), app_size_text(state, s), app_size_text(kv, k));
    static const uint64_t contexts[] = {2048, 8192, 32768};
    for (size_t i = 0; i < 3; i++)
        if (i == 0 || contexts[i] <= take(root, "context_max"))
            hs_text_format(t, "  --ctx %-6" PRIu64 " %10s\n", contexts[i], app_size_text(all, w + s + k * contexts[i]));
}

static void print_table(hs_text *t, const hs_json *root)
{
    char path[1024], kind[24], format[256], from[512], architecture[24], size[32];
    take_text(root, "path", path, sizeof path);
    take_text(root, "kind", kind, sizeof kind);
    take_text(root, "format", format, sizeof format);
    take_text(root, "made_from", from, sizeof from);
    take_text(root, "architecture", architecture, sizeof architecture);
    hs_text_format(t, "%s\n", path);
    hs_text_format(t, "  %-14s%s, %s\n", "kind", kind, format);
    if (*from)
        hs_text_format(t, "  %-14s%s\n", "made from", from);
    hs_text_format(t, "  %-14s%s, %" PRIu64 " layers, hidden %" PRIu64 ", vocabulary %" PRIu64, "model", architecture,
                   take(root, "layers"), take(root, "hidden"), take(root, "vocab"));
    if (take(root, "experts"))
        hs_text_format(t, ", %" PRIu64 " of %" PRIu64 " experts a token", take(root, "experts_used"),
                       take(root, "experts"));
    hs_text_format(t, "\n  %-14s%" PRIu64 " tokens at most\n", "context", take(root, "context_max"));
    hs_text_format(t, "  %-14s%.2f M\n", "parameters", (double)take(root, "parameters") * 1e-6);
    hs_text_format(t, "  %-14s%s; %.2f MB read for one token\n", "weights", app_size_text(size, take(root, "bytes")),
                   (double)take(root, "bytes_per_token") * 1e-6);
    hs_text_format(t, "  %-14s%s\n", "MTP head", take_bool(root, "mtp") ? "present" : "none");
    if (take(root, "skipped_vision_tensors"))
        hs_text_format(t, "  %-14s%" PRIu64 " tensors left out\n", "vision", take(root, "skipped_vision_tensors"));
    print_modules(t, root);
    print_needs(t, root);
}

static hlwq_status info(const app_args *args, hlwq_error *err)
{
    char *path = NULL, *json = NULL;
    hs_json *root = NULL;
    hs_text t = {0};
    hlwq_status st = HLWQ_OK;
    st = args->n_operands ? app_hub_path(args->operand[0], &path, err) : app_model_path(args, &path, err);
    const char *model = path;
    if (st == HLWQ_OK)
        st = hlwq_describe(model, &json, err);
    if (st == HLWQ_OK && app_flag(args, OPT_JSON)) {
        hs_text_format(&t, "%s\n", json);
        st = app_out_text(&t, err);
    } else if (st == HLWQ_OK) {
        st = hs_json_parse(json, strlen(json), model, &root, err);
        if (st == HLWQ_OK) {
            print_table(&t, root);
            st = app_out_text(&t, err);
        }
    }
    hs_json_free(root);
    hlwq_free(json);
    free(path);
    return st;
}

int app_cmd_info(const app_args *args)
{
    hlwq_error err;
    hlwq_status st = info(args, &err);
    return app_finish(st, &err);
}
