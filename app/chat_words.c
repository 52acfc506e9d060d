/*
 * app/chat_words.c - lines, commands and settings of a chat.
 */
#include "app/chat_words.h"

#include "app/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char quotes[] = "\"\"\"";

static bool ends_with(const char *s, size_t n, const char *end)
{
    size_t m = strlen(end);
    return n >= m && memcmp(s + n - m, end, m) == 0;
}

bool chat_input_add(chat_input *in, const char *line)
{
    size_t n = strlen(line);
    in->literal |= strchr(line, '\n') != NULL;
    if (!in->open && strncmp(line, quotes, 3) == 0) {
        in->open = in->block = in->literal = true;
        line += 3;
        n -= 3;
        if (!n)
            return false; /* the text begins on the next line */
    }
    if (in->block) {
        in->open = in->block = !ends_with(line, n, quotes);
        hs_text_add(&in->text, line, in->open ? n : n - 3);
    } else {
        in->open = ends_with(line, n, "\\");
        in->literal |= in->open;
        hs_text_add(&in->text, line, in->open ? n - 1 : n);
    }
    if (in->open)
        hs_text_add(&in->text, "\n", 1);
    return !in->open;
}

void chat_input_clear(chat_input *in)
{
    hs_text_close(&in->text);
    *in = (chat_input){0};
}

/* ---- commands -------------------------------------------------------------------------------- */

const chat_command chat_command_table[CHAT_COMMANDS] = {
    [CHAT_HELP] = {"/help", "", "this list"},
    [CHAT_SET_SYSTEM] = {"/system", "[TEXT]", "what the model is told before everything else; without TEXT: nothing"},
    [CHAT_RESET] = {"/reset", "", "forget the conversation, but not /system"},
    [CHAT_SAVE] = {"/save", "FILE", "write the conversation to FILE as JSON"},
    [CHAT_LOAD] = {"/load", "FILE", "go on with the conversation in FILE"},
    [CHAT_REGEN] = {"/regen", "", "another answer to the last message"},
    [CHAT_UNDO] = {"/undo", "", "take the last message and its answer back"},
    [CHAT_STATS] = {"/stats", "", "speed, context, memory, streaming"},
    [CHAT_SET] = {"/set", "NAME VALUE", "temperature, top_p, top_k, min_p, seed, or n: tokens of an answer, -1 = any"},
    [CHAT_QUIT] = {"/quit", "", "end; so does Ctrl-D"},
};

static char *trim(char *s)
{
    static const char white[] = " \t\r\n";
    s += strspn(s, white);
    size_t n = strlen(s);
    while (n && strchr(white, s[n - 1]))
        s[--n] = 0;
    return s;
}

static hlwq_status unknown(const char *name, hlwq_error *err)
{
    int best = -1;
    unsigned least = 3; /* further away is another word */
    for (int i = 0; i < CHAT_COMMANDS; i++) {
        unsigned d = strlen(name) < 32 ? app_distance(name, chat_command_table[i].name) : least;
        if (d < least) {
            least = d;
            best = i;
        }
    }
    if (best >= 0)
        return hs_fail(err, HLWQ_ERR_ARG, "there is no command %s; did you mean %s?", name,
                       chat_command_table[best].name);
    return hs_fail(err, HLWQ_ERR_ARG, "there is no command %.40s; /help lists them", name);
}

hlwq_status chat_parse_command(char *line, chat_command_id *id, char **rest, hlwq_error *err)
{
    line = trim(line);
    size_t n = strcspn(line, " \t\n");
    *rest = trim(line + n);
    if (line[n])
        line[n] = 0;
    for (int i = 0; i < CHAT_COMMANDS; i++) {
        const chat_command *c = &chat_command_table[i];
        if (strcmp(line, c->name) != 0 && !(i == CHAT_QUIT && strcmp(line, "/exit") == 0))
            continue;
        if (!*c->argument && **rest)
            return hs_fail(err, HLWQ_ERR_ARG, "%s takes nothing after it", c->name);
        if (*c->argument && *c->argument != '[' && !**rest)
            return hs_fail(err, HLWQ_ERR_ARG, "%s needs more: %s %s", c->name, c->name, c->argument);
        *id = (chat_command_id)i;
        return HLWQ_OK;
    }
    return unknown(line, err);
}

/* ---- settings -------------------------------------------------------------------------------- */

typedef enum setting { TEMPERATURE, TOP_P, TOP_K, MIN_P, SEED, LIMIT, SETTINGS } setting;

static const struct {
    const char *name;
    bool whole;
    double min, max;
} settings[SETTINGS] = {
    [TEMPERATURE] = {"temperature", false, 0, 100}, [TOP_P] = {"top_p", false, 0, 1},
    [TOP_K] = {"top_k", true, 0, 2147483647.0},     [MIN_P] = {"min_p", false, 0, 1},
    [SEED] = {"seed", true, 0, 9007199254740992.0}, [LIMIT] = {"n", true, -1, 2147483647.0},
};

/* Dashes are as good as underscores. */
static int find_setting(const char *text, size_t n)
{
    for (int i = 0; i < SETTINGS; i++) {
        const char *name = settings[i].name;
        size_t k = 0;
        while (k < n && name[k] && (text[k] == '-' ? '_' : text[k]) == name[k])
            k++;
        if (k == n && !name[k])
            return i;
    }
    return -1;
}

hlwq_status chat_parse_setting(const char *text, hlwq_sampling *sampling, int64_t *limit, hlwq_error *err)
{
    size_t n = strcspn(text, " \t=");
    const char *value = text + n + strspn(text + n, " \t=");
    int i = find_setting(text, n);
    if (i < 0)
        return hs_fail(err, HLWQ_ERR_ARG, "/set knows temperature, top_p, top_k, min_p, seed and n, not \"%.*s\"",
                       (int)(n < 40 ? n : 40), text);
    char *end;
    double x = strtod(value, &end);
    bool plain = *value && !value[strspn(value, "0123456789.eE+-")] && !*end;
    if (!plain || !(x >= settings[i].min && x <= settings[i].max) || (settings[i].whole && x != floor(x)))
        return hs_fail(err, HLWQ_ERR_ARG, "/set %s needs %s from %.17g to %.17g, not \"%.40s\"", settings[i].name,
                       settings[i].whole ? "a whole number" : "a number", settings[i].min, settings[i].max, value);
    switch (i) {
    case TEMPERATURE: sampling->temperature = (float)x; break;
    case TOP_P: sampling->top_p = (float)x; break;
    case TOP_K: sampling->top_k = (uint32_t)x; break;
    case MIN_P: sampling->min_p = (float)x; break;
    case SEED: sampling->seed = (uint64_t)x; break;
    default: *limit = (int64_t)x; break;
    }
    return HLWQ_OK;
}
