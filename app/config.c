/*
 * app/config.c - the config file: one JSON object.
 *
 * A member named after an option is its value: a string as on the command line, a number, true or false.  A member
 * named after a command is an object of the same kind for that command only, and wins over what stands outside.
 */
#include "app/options_private.h"

#include "base/file.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 20, NUMBER_MAX = 32 };

bool app_config_path(char *out, size_t capacity)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = -1;
    if (xdg && *xdg == '/') /* the specification ignores relative ones */
        n = snprintf(out, capacity, "%s/hlwq-stream/config.json", xdg);
    else if (home && *home)
        n = snprintf(out, capacity, "%s/.config/hlwq-stream/config.json", home);
    return n > 0 && (size_t)n < capacity;
}

/* The value as text; numbers are written to `number`, strings are those of the tree. NULL for what is no value. */
static const char *value_text(const hs_json *value, char number[NUMBER_MAX])
{
    size_t bytes;
    switch (hs_json_type_of(value)) {
    case HS_JSON_STRING:
        return hs_json_string(value, &bytes),
               strlen(hs_json_string(value, NULL)) == bytes ? hs_json_string(value, NULL) : NULL;
    case HS_JSON_BOOL: return hs_json_bool(value) ? "on" : "off";
    case HS_JSON_INTEGER: snprintf(number, NUMBER_MAX, "%" PRId64, hs_json_int(value)); return number;
    case HS_JSON_REAL: snprintf(number, NUMBER_MAX, "%.17g", hs_json_real(value)); return number;
    default: return NULL;
    }
}

/* Options of one object. Those of other commands are fine; flags and the environment came first and win. */
static hlwq_status take_object(app_args *args, const hs_json *object, bool from_file[OPT_COUNT], const char *where,
                               hlwq_error *err)
{
    char name[4300];
    for (hs_json_iter *it = hs_json_first(object); it; it = hs_json_next(object, it)) {
        size_t bytes;
        const char *key = hs_json_key(it, &bytes);
        const hs_json *value = hs_json_value(it);
        if (hs_json_type_of(value) == HS_JSON_OBJECT)
            continue; /* a command's */
        int id = app_find_option(key, bytes, ~0u);
        if (id < 0)
            return app_unknown_option(key, bytes, ~0u, where, err);
        if (app_option_table[id].line_only)
            return hs_fail(err, HLWQ_ERR_ARG, "%s%s can only be given on the command line", where, key);
        char number[NUMBER_MAX];
        const char *text = value_text(value, number);
        if (!text)
            return hs_fail(err, HLWQ_ERR_ARG, "%s%s is neither a string nor a number, true or false", where, key);
        if (!(app_option_table[id].commands & 1u << args->command) || (args->value[id].set && !from_file[id]))
            continue;
        from_file[id] = true;
        char *kept = args->config_text + id * NUMBER_MAX;
        if (text == number)
            text = memcpy(kept, number, NUMBER_MAX);
        snprintf(name, sizeof name, "%s%s", where, key);
        HS_TRY(app_parse_value(&app_option_table[id], &args->value[id], text, name, err));
    }
    return HLWQ_OK;
}

static hlwq_status take_all(app_args *args, const char *path, hlwq_error *err)
{
    bool from_file[OPT_COUNT] = {false};
    char where[4200];
    const hs_json *section = NULL;
    snprintf(where, sizeof where, "%s: ", path);
    if (hs_json_type_of(args->config) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_ARG, "%sis not a JSON object", where);
    HS_TRY(take_object(args, args->config, from_file, where, err));
    for (hs_json_iter *it = hs_json_first(args->config); it; it = hs_json_next(args->config, it)) {
        app_command_id command;
        if (hs_json_type_of(hs_json_value(it)) != HS_JSON_OBJECT)
            continue;
        if (app_find_command(hs_json_key(it, NULL), &command, err) != HLWQ_OK)
            return hs_fail_in(err, HLWQ_ERR_ARG, "%s", path);
        if (command == args->command)
            section = hs_json_value(it);
    }
    if (!section)
        return HLWQ_OK;
    snprintf(where, sizeof where, "%s: %s: ", path, app_command_table[args->command].name);
    return take_object(args, section, from_file, where, err);
}

hlwq_status app_parse_config(app_args *args, hlwq_error *err)
{
    char path[4096];
    hs_file f;
    if (!app_config_path(path, sizeof path) || !hs_path_exists(path))
        return HLWQ_OK;
    HS_TRY(hs_file_open(&f, path, err));
    hlwq_status st = HLWQ_OK;
    char *text = f.bytes <= CONFIG_MAX ? malloc(f.bytes + 1) : NULL;
    args->config_text = calloc(OPT_COUNT, NUMBER_MAX);
    if (f.bytes > CONFIG_MAX)
        st = hs_fail(err, HLWQ_ERR_IO, "%s: %" PRIu64 " bytes, limit %d", path, f.bytes, CONFIG_MAX);
    else if (!text || !args->config_text)
        st = hs_fail(err, HLWQ_ERR_NOMEM, "%s: no memory", path);
    else
        st = hs_file_read(&f, 0, text, f.bytes, path, err);
    if (st == HLWQ_OK && hs_json_parse(text, f.bytes, path, &args->config, err) != HLWQ_OK)
        st = err ? err->status = HLWQ_ERR_ARG : HLWQ_ERR_ARG; /* the user's, not a model's */
    free(text);
    hs_file_close(&f);
    return st == HLWQ_OK ? take_all(args, path, err) : st;
}

void app_args_close(app_args *args)
{
    hs_json_free(args->config);
    free(args->config_text);
    args->config = NULL;
    args->config_text = NULL;
}
