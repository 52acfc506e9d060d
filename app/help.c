/*
 * app/help.c - help and manual, written from the tables.
 */
#include "app/options.h"

#include <string.h>

enum { WIDTH = 80, HELP_COLUMN = 30 };

/* `text` in lines of at most WIDTH columns, the first one starting at `column`, the others at `indent`. */
static void wrap(FILE *out, const char *text, int column, int indent)
{
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column > indent && column + 1 + n > WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", n, text);
        column += n;
        text += n;
        text += *text == ' ';
    }
    fputc('\n', out);
}

static void print_option(FILE *out, const app_option *o)
{
    char left[128], right[512];
    int n = o->letter ? snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof left, "      --%s", o->name);
    if (o->argument)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", o->argument);
    snprintf(right, sizeof right, "%s%s%s%s", o->help, o->fallback ? " [" : "", o->fallback ? o->fallback : "",
             o->fallback ? "]" : "");
    if (n + 2 > HELP_COLUMN)
        fprintf(out, "%s\n%*s", left, HELP_COLUMN, "");
    else
        fprintf(out, "%-*s", HELP_COLUMN, left);
    wrap(out, right, HELP_COLUMN, HELP_COLUMN);
}

void app_print_overview(FILE *out)
{
    fputs("hlwq-stream runs Qwen3.5-family models under a hard memory budget.\n\n"
          "usage: hlwq-stream COMMAND [options]\n\n",
          out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", app_command_table[i].name, app_command_table[i].summary);
    fputs("\nhlwq-stream COMMAND --help says more; --completion bash|zsh|fish prints a completion script.\n"
          "Each option is also an environment variable (--top-k: HLWQ_TOP_K) and a key in\n"
          "$XDG_CONFIG_HOME/hlwq-stream/config.json; a flag wins over both, the variable over the file.\n"
          "Exit codes: 0 ok, 1 failed, 2 usage, 3 does not fit the budget, 130 interrupted.\n",
          out);
}

void app_print_help(FILE *out, app_command_id command)
{
    const app_command *c = &app_command_table[command];
    fprintf(out, "usage: hlwq-stream %s [options]%s%s\n\n", c->name, *c->operands ? " " : "", c->operands);
    char summary[1024];
    snprintf(summary, sizeof summary, "%s.%s%s", c->summary, c->details ? " " : "", c->details ? c->details : "");
    if (summary[0] >= 'a' && summary[0] <= 'z')
        summary[0] = (char)(summary[0] - 'a' + 'A');
    wrap(out, summary, 0, 0);
    fputc('\n', out);
    for (int id = 0; id < OPT_COUNT; id++)
        if (app_option_table[id].commands & 1u << command)
            print_option(out, &app_option_table[id]);
}

/* Text for troff: a leading dot or quote would be a request, a backslash an escape, a plain - a hyphen. */
static void roff(FILE *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", out);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else
            fputc(*text, out);
    }
}

static void roff_option(FILE *out, const app_option *o)
{
    char env[64];
    fputs(".TP\n", out);
    if (o->letter)
        fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
    fputs("\\fB\\-\\-", out);
    roff(out, o->name);
    fputs("\\fR", out);
    if (o->argument) {
        fputs(" \\fI", out);
        roff(out, o->argument);
        fputs("\\fR", out);
    }
    fputc('\n', out);
    roff(out, o->help);
    if (o->fallback) {
        fputs(" [", out);
        roff(out, o->fallback);
        fputc(']', out);
    }
    fputs(".\n", out);
    fputs("Commands:", out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++)
        if (o->commands & 1u << i)
            fprintf(out, " %s", app_command_table[i].name);
    if (!o->line_only) {
        app_env_name(env, sizeof env, o->name);
        fprintf(out, ". Environment: %s", env);
    }
    fputs(".\n", out);
}

void app_print_manual(FILE *out)
{
    fprintf(out, ".TH HLWQ\\-STREAM 1 \"\" \"hlwq\\-stream %s\"\n", hlwq_version());
    fputs(".SH NAME\nhlwq\\-stream \\- run Qwen3.5\\-family models under a hard memory budget\n.SH SYNOPSIS\n", out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++) {
        fprintf(out, ".B hlwq\\-stream %s\n[options] ", app_command_table[i].name);
        roff(out, app_command_table[i].operands);
        fputs(i + 1 < APP_COMMAND_COUNT ? "\n.br\n" : "\n", out);
    }
    fputs(".SH COMMANDS\n", out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++) {
        fprintf(out, ".TP\n.B %s\n", app_command_table[i].name);
        roff(out, app_command_table[i].summary);
        fputs(".\n", out);
        if (app_command_table[i].details) {
            roff(out, app_command_table[i].details);
            fputc('\n', out);
        }
    }
    fputs(".SH OPTIONS\n", out);
    for (int id = 0; id < OPT_COUNT; id++)
        roff_option(out, &app_option_table[id]);
    fputs(".SH ENVIRONMENT\nSwitches are 1, on, true or yes, and 0, off, false or no. NO_COLOR turns colour off.\n"
          ".SH FILES\n$XDG_CONFIG_HOME/hlwq\\-stream/config.json is an object whose members are long option names;\n"
          "values are strings, numbers, true or false. An object named after a command holds for that command only.\n"
          ".SH EXIT STATUS\n0 ok, 1 failed, 2 usage, 3 does not fit the budget, 130 interrupted.\n",
          out);
}
