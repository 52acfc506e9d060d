/*
 * app/options.c - reads the command line and the environment against the tables.
 */
#define _GNU_SOURCE
#include "app/options_private.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- words ---------------------------------------------------------------------------------- */

unsigned app_distance(const char *a, const char *b)
{
    enum { WORD_MAX = 40 };
    unsigned d[WORD_MAX + 1][WORD_MAX + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n > WORD_MAX || m > WORD_MAX)
        return WORD_MAX;
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (unsigned)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

/* The candidate seen so far that is nearest to `word`. A longer name that starts with `word` is near. */
typedef struct nearest {
    const char *word;
    char name[64]; /* "" = none is near */
    unsigned distance;
} nearest;

static void consider(nearest *best, const char *name)
{
    size_t n = strlen(best->word);
    unsigned d = n >= 2 && strncmp(best->word, name, n) == 0 ? 1 : app_distance(best->word, name);
    if (d <= 1 + n / 4 && (!*best->name || d < best->distance)) {
        snprintf(best->name, sizeof best->name, "%s", name);
        best->distance = d;
    }
}

hlwq_status app_find_command(const char *name, app_command_id *command, hlwq_error *err)
{
    nearest best = {.word = name};
    for (int i = 0; i < APP_COMMAND_COUNT; i++) {
        if (strcmp(app_command_table[i].name, name) == 0) {
            *command = (app_command_id)i;
            return HLWQ_OK;
        }
        consider(&best, app_command_table[i].name);
    }
    if (*best.name)
        return hs_fail(err, HLWQ_ERR_ARG, "unknown command %s; did you mean %s?", name, best.name);
    return hs_fail(err, HLWQ_ERR_ARG, "unknown command %s; hlwq-stream --help lists them", name);
}

/* The i-th name of an option, its aliases following its own; false when there is none. */
static bool nth_name(const app_option *o, int i, char *out, size_t capacity)
{
    if (i == 0) {
        snprintf(out, capacity, "%s", o->name);
        return true;
    }
    const char *p = o->alias;
    for (int k = 1; p && *p; k++) {
        size_t n = strcspn(p, " ");
        if (k == i) {
            snprintf(out, capacity, "%.*s", (int)n, p);
            return true;
        }
        p += n;
        p += *p == ' ';
    }
    return false;
}

int app_find_option(const char *name, size_t bytes, unsigned commands)
{
    char candidate[64];
    for (int id = 0; id < OPT_COUNT; id++)
        for (int i = 0; nth_name(&app_option_table[id], i, candidate, sizeof candidate); i++)
            if ((app_option_table[id].commands & commands) && strlen(candidate) == bytes &&
                memcmp(candidate, name, bytes) == 0)
                return id;
    return -1;
}

hlwq_status app_unknown_option(const char *name, size_t bytes, unsigned commands, const char *where, hlwq_error *err)
{
    char word[64], candidate[64];
    snprintf(word, sizeof word, "%.*s", (int)bytes, name);
    nearest best = {.word = word};
    for (int id = 0; id < OPT_COUNT; id++)
        for (int i = 0; nth_name(&app_option_table[id], i, candidate, sizeof candidate); i++)
            if (app_option_table[id].commands & commands)
                consider(&best, candidate);
    const char *dashes = *where ? "" : "--";
    if (*best.name)
        return hs_fail(err, HLWQ_ERR_ARG, "%sunknown option %s%s; did you mean %s%s?", where, dashes, word, dashes,
                       best.name);
    return hs_fail(err, HLWQ_ERR_ARG, "%sunknown option %s%s", where, dashes, word);
}

/* ---- values --------------------------------------------------------------------------------- */

bool app_parse_size(const char *text, uint64_t *bytes)
{
    const char *p = text;
    uint64_t whole = 0;
    double part = 0, place = 0.1;
    if (!isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(whole, 10u, &whole) || __builtin_add_overflow(whole, (unsigned)(*p - '0'), &whole))
            return false;
    if (*p == '.')
        for (p++; isdigit((unsigned char)*p); p++, place /= 10)
            part += (*p - '0') * place;
    static const char letters[] = "KMGT";
    unsigned shift = 0;
    const char *letter = *p ? strchr(letters, toupper((unsigned char)*p)) : NULL;
    if (letter) {
        shift = 10 * (unsigned)(letter - letters + 1);
        p++;
        p += *p == 'i';
    }
    p += *p == 'B' || *p == 'b';
    if (*p || (part != 0 && shift == 0) || whole > UINT64_MAX >> shift)
        return false;
    return !__builtin_add_overflow(whole << shift, (uint64_t)(part * (double)(UINT64_C(1) << shift)), bytes);
}

static bool parse_switch(const char *text, bool *on)
{
    static const char *const yes[] = {"1", "on", "true", "yes"}, *const no[] = {"0", "off", "false", "no"};
    for (size_t i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *on = strcasecmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static int parse_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (int i = 0;; i++) {
        size_t m = strcspn(choices, "|");
        if (m == n && memcmp(choices, text, n) == 0)
            return i;
        if (!choices[m])
            return -1;
        choices += m + 1;
    }
}

hlwq_status app_parse_value(const app_option *o, app_value *v, const char *text, const char *where, hlwq_error *err)
{
    app_value w = {.set = true, .text = text};
    char *end = NULL;
    bool on = false;
    errno = 0;
    switch (o->kind) {
    case APP_FLAG:
        if (!parse_switch(text, &on))
            return hs_fail(err, HLWQ_ERR_ARG, "%s: \"%s\" is neither on nor off", where, text);
        w.number = on;
        break;
    case APP_TEXT:
    case APP_PATH:
        if (!*text)
            return hs_fail(err, HLWQ_ERR_ARG, "%s needs a value, not an empty one", where);
        break;
    case APP_NUMBER:
        w.number = strtoll(text, &end, 10);
        if (isspace((unsigned char)*text) || end == text || *end)
            return hs_fail(err, HLWQ_ERR_ARG, "%s: \"%s\" is not a whole number", where, text);
        if (errno || (double)w.number < o->min || (double)w.number > o->max)
            return hs_fail(err, HLWQ_ERR_ARG, "%s: %s is outside %.0f to %.0f", where, text, o->min, o->max);
        break;
    case APP_SIZE:
        if (!app_parse_size(text, &w.bytes))
            return hs_fail(err, HLWQ_ERR_ARG, "%s: \"%s\" is not a size; write 512M or 1.5G", where, text);
        break;
    case APP_REAL:
        w.real = strtod(text, &end);
        if (isspace((unsigned char)*text) || end == text || *end)
            return hs_fail(err, HLWQ_ERR_ARG, "%s: \"%s\" is not a number", where, text);
        if (!(w.real >= o->min && w.real <= o->max))
            return hs_fail(err, HLWQ_ERR_ARG, "%s: %s is outside %g to %g", where, text, o->min, o->max);
        break;
    case APP_CHOICE:
        w.number = parse_choice(o->argument, text);
        if (w.number < 0)
            return hs_fail(err, HLWQ_ERR_ARG, "%s: \"%s\" is none of %s", where, text, o->argument);
        break;
    }
    *v = w;
    return HLWQ_OK;
}

bool app_flag(const app_args *args, app_option_id id)
{
    return args->value[id].number > 0;
}

int64_t app_number(const app_args *args, app_option_id id, int64_t fallback)
{
    return args->value[id].set ? args->value[id].number : fallback;
}

const char *app_text(const app_args *args, app_option_id id, const char *fallback)
{
    return args->value[id].set ? args->value[id].text : fallback;
}

/* ---- the command line ------------------------------------------------------------------------ */

/* Flag `id` with `attached` text ("=..." already removed, NULL = none), else the next argument. */
static hlwq_status take(app_args *args, int id, const char *shown, const char *attached, int argc, char **argv, int *i,
                        hlwq_error *err)
{
    const app_option *o = &app_option_table[id];
    app_value *v = &args->value[id];
    if (o->kind == APP_FLAG && !attached) {
        v->number = v->set ? v->number + 1 : 1;
        v->set = true;
        return HLWQ_OK;
    }
    if (!attached && *i + 1 >= argc)
        return hs_fail(err, HLWQ_ERR_ARG, "%s needs a value: %s %s", shown, shown, o->argument);
    return app_parse_value(o, v, attached ? attached : argv[++*i], shown, err);
}

/* "-q", "-n5", "-n=5", "-qv". */
static hlwq_status take_letters(app_args *args, int argc, char **argv, int *i, hlwq_error *err)
{
    const char *p = argv[*i] + 1;
    while (*p) {
        char shown[3] = {'-', *p, 0};
        int id = 0;
        while (id < OPT_COUNT &&
               (app_option_table[id].letter != *p || !(app_option_table[id].commands & 1u << args->command)))
            id++;
        if (id == OPT_COUNT)
            return hs_fail(err, HLWQ_ERR_ARG, "unknown option %s of \"%s\"", shown,
                           app_command_table[args->command].name);
        p++;
        if (app_option_table[id].kind == APP_FLAG) {
            HS_TRY(take(args, id, shown, NULL, argc, argv, i, err));
            continue;
        }
        return take(args, id, shown, *p ? p + (*p == '=') : NULL, argc, argv, i, err);
    }
    return HLWQ_OK;
}

static hlwq_status parse_line(app_args *args, int argc, char **argv, hlwq_error *err)
{
    const app_command *command = &app_command_table[args->command];
    args->operand = argv + (argc < 2 ? argc : 2);
    bool options = true;
    for (int i = 2; i < argc; i++) {
        char *a = argv[i];
        if (!options || a[0] != '-' || !a[1]) {
            args->operand[args->n_operands++] = a; /* never ahead of i */
        } else if (strcmp(a, "--") == 0) {
            options = false;
        } else if (a[1] == '-') {
            size_t n = strcspn(a + 2, "=");
            int id = app_find_option(a + 2, n, 1u << args->command);
            if (id < 0)
                return app_unknown_option(a + 2, n, 1u << args->command, "", err);
            char shown[80];
            snprintf(shown, sizeof shown, "%.*s", (int)n + 2, a);
            HS_TRY(take(args, id, shown, a[2 + n] ? a + 3 + n : NULL, argc, argv, &i, err));
        } else {
            HS_TRY(take_letters(args, argc, argv, &i, err));
        }
    }
    if (app_flag(args, OPT_HELP))
        return HLWQ_OK;
    if (args->n_operands < command->min_operands)
        return hs_fail(err, HLWQ_ERR_ARG, "%s needs more: hlwq-stream %s %s", command->name, command->name,
                       command->operands);
    if (command->max_operands >= 0 && args->n_operands > command->max_operands)
        return hs_fail(err, HLWQ_ERR_ARG, "%s does not know what to do with \"%s\"", command->name,
                       args->operand[command->max_operands]);
    return HLWQ_OK;
}

/* ---- environment ------------------------------------------------------------- */

void app_env_name(char *out, size_t capacity, const char *name)
{
    snprintf(out, capacity, "HLWQ_%s", name);
    for (char *p = out; *p; p++)
        *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

static hlwq_status parse_environment(app_args *args, hlwq_error *err)
{
    for (int id = 0; id < OPT_COUNT; id++) {
        const app_option *o = &app_option_table[id];
        if (o->line_only || args->value[id].set || !(o->commands & 1u << args->command))
            continue;
        char name[64], where[96];
        app_env_name(name, sizeof name, o->name);
        const char *text = getenv(name);
        if (!text || !*text)
            continue;
        snprintf(where, sizeof where, "environment variable %s", name);
        HS_TRY(app_parse_value(o, &args->value[id], text, where, err));
    }
    return HLWQ_OK;
}

hlwq_status app_parse(app_args *args, app_command_id command, int argc, char **argv, hlwq_error *err)
{
    *args = (app_args){.command = command};
    HS_TRY(parse_line(args, argc, argv, err));
    if (app_flag(args, OPT_HELP) || command == APP_HELP || command == APP_VERSION)
        return HLWQ_OK; /* help works whatever the environment says */
    HS_TRY(parse_environment(args, err));
    return app_parse_config(args, err);
}
