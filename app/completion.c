/*
 * app/completion.c - completion for bash, zsh and fish, written from the tables.
 */
#include "app/options.h"

#include <string.h>

/* "--model -m" and so on for one command. */
static void print_words(FILE *out, int command)
{
    for (int id = 0; id < OPT_COUNT; id++) {
        const app_option *o = &app_option_table[id];
        if (!(o->commands & 1u << command))
            continue;
        fprintf(out, " --%s", o->name);
        if (o->letter)
            fprintf(out, " -%c", o->letter);
    }
}

static void print_commands(FILE *out)
{
    for (int i = 0; i < APP_COMMAND_COUNT; i++)
        fprintf(out, "%s ", app_command_table[i].name);
}

static void print_bash(FILE *out)
{
    fputs("# bash completion for hlwq-stream, written from its option table\n_hlwq_stream()\n{\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words=\n"
          "    COMPREPLY=()\n    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words=\"",
          out);
    print_commands(out);
    fputs("--help --version --completion\"\n"
          "        COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n        return\n    fi\n"
          "    case $previous in\n",
          out);
    for (int id = 0; id < OPT_COUNT; id++) {
        const app_option *o = &app_option_table[id];
        if (o->kind == APP_FLAG)
            continue;
        fprintf(out, "    --%s", o->name);
        if (o->letter)
            fprintf(out, " | -%c", o->letter);
        fputs(")\n        ", out);
        if (o->kind == APP_CHOICE) {
            fputs("COMPREPLY=($(compgen -W \"", out);
            for (const char *p = o->argument; *p; p++)
                fputc(*p == '|' ? ' ' : *p, out);
            fputs("\" -- \"$word\"))\n        ", out);
        } else if (o->kind == APP_PATH) {
            fputs("COMPREPLY=($(compgen -f -- \"$word\"))\n        ", out);
        }
        fputs("return\n        ;;\n", out);
    }
    fputs("    esac\n    case ${COMP_WORDS[1]} in\n", out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++) {
        fprintf(out, "    %s)\n        words=\"", app_command_table[i].name);
        print_words(out, i);
        fputs("\"\n        ;;\n", out);
    }
    fputs("    esac\n    if [ \"${COMP_WORDS[1]}\" = help ]; then\n        words=\"$words ", out);
    print_commands(out);
    fputs("\"\n        COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n        return\n    fi\n"
          "    case $word in\n    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$word\")) ;;\n"
          "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n    esac\n}\n"
          "complete -o filenames -F _hlwq_stream hlwq-stream\n",
          out);
}

/* `text` as part of a word in single quotes; `special` characters get a backslash first. */
static void quoted(FILE *out, const char *text, const char *special)
{
    for (; *text; text++) {
        if (strchr(special, *text))
            fputc('\\', out);
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    }
}

/* A choice's words, separated by spaces. */
static void print_choices(FILE *out, const app_option *o)
{
    for (const char *p = o->argument; *p; p++)
        fputc(*p == '|' ? ' ' : *p, out);
}

static void print_fish(FILE *out)
{
    fputs("# fish completion for hlwq-stream, written from its option table\n"
          "complete -c hlwq-stream -n __fish_use_subcommand -f\n",
          out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++) {
        fprintf(out, "complete -c hlwq-stream -n __fish_use_subcommand -a %s -d '", app_command_table[i].name);
        quoted(out, app_command_table[i].summary, "\\");
        fputs("'\n", out);
    }
    for (int id = 0; id < OPT_COUNT; id++) {
        const app_option *o = &app_option_table[id];
        fputs("complete -c hlwq-stream -n '__fish_seen_subcommand_from", out);
        for (int i = 0; i < APP_COMMAND_COUNT; i++)
            if (o->commands & 1u << i)
                fprintf(out, " %s", app_command_table[i].name);
        fprintf(out, "' -l %s", o->name);
        if (o->letter)
            fprintf(out, " -s %c", o->letter);
        if (o->kind == APP_PATH)
            fputs(" -r -F", out);
        else if (o->kind != APP_FLAG)
            fputs(" -x", out);
        if (o->kind == APP_CHOICE) {
            fputs(" -a '", out);
            print_choices(out, o);
            fputc('\'', out);
        }
        fputs(" -d '", out);
        quoted(out, o->help, "\\");
        fputs("'\n", out);
    }
}

/* One name of an option as _arguments takes it: '--top-k[help]:N:'. */
static void print_zsh_name(FILE *out, const app_option *o, const char *name)
{
    fprintf(out, " \\\n            '%s%s[", o->kind == APP_FLAG ? "*" : "", name);
    quoted(out, o->help, "[]\\:");
    fputc(']', out);
    if (o->kind != APP_FLAG) {
        fputs(":", out);
        quoted(out, o->kind == APP_CHOICE ? "one of them" : o->argument, "[]\\:");
        fputs(":", out);
    }
    if (o->kind == APP_PATH)
        fputs("_files", out);
    if (o->kind == APP_CHOICE) {
        fputc('(', out);
        print_choices(out, o);
        fputc(')', out);
    }
    fputc('\'', out);
}

static void print_zsh(FILE *out)
{
    fputs("#compdef hlwq-stream\n# zsh completion for hlwq-stream, written from its option table\n_hlwq_stream()\n{\n"
          "    local -a commands\n    if (( CURRENT == 2 )); then\n        commands=(\n",
          out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++) {
        fprintf(out, "            '%s:", app_command_table[i].name);
        quoted(out, app_command_table[i].summary, "\\:");
        fputs("'\n", out);
    }
    fputs("        )\n        _describe command commands\n        return\n    fi\n"
          "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n",
          out);
    for (int i = 0; i < APP_COMMAND_COUNT; i++) {
        fprintf(out, "    %s)\n        _arguments -s", app_command_table[i].name);
        for (int id = 0; id < OPT_COUNT; id++) {
            const app_option *o = &app_option_table[id];
            char name[80], letter[3] = {'-', o->letter, 0};
            if (!(o->commands & 1u << i))
                continue;
            snprintf(name, sizeof name, "--%s", o->name);
            print_zsh_name(out, o, name);
            if (o->letter)
                print_zsh_name(out, o, letter);
        }
        fputs(" \\\n            '*:file:_files'\n        ;;\n", out);
    }
    fputs("    esac\n}\n_hlwq_stream \"$@\"\n", out);
}

app_printer app_completion(const char *shell)
{
    static const struct {
        const char *name;
        app_printer print;
    } shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (strcmp(shells[i].name, shell) == 0)
            return shells[i].print;
    return NULL;
}
