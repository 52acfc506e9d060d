/*
 * app/main.c - chooses the command.  setlocale is never called (app/line.c has a
 * locale of its own while a line is edited), so numbers look the same everywhere.
 */
#include "app/commands.h"
#include "app/console.h"

#include <string.h>

static int version(void)
{
    hlwq_error err;
    hs_text t = {0};
    hs_text_format(&t, "hlwq-stream %s\n", hlwq_version());
    return app_finish(app_out_text(&t, &err), &err);
}

static app_command_id help_for; /* for app_out_file, which takes no argument */

static void print_help(FILE *out)
{
    app_print_help(out, help_for);
}

static int help(const app_args *args)
{
    hlwq_error err;
    hlwq_status st;
    if (app_flag(args, OPT_MAN))
        st = app_out_file(app_print_manual, &err);
    else if (!args->n_operands)
        st = app_out_file(app_print_overview, &err);
    else if ((st = app_find_command(args->operand[0], &help_for, &err)) == HLWQ_OK)
        st = app_out_file(print_help, &err);
    return app_finish(st, &err);
}

static int dispatch(const app_args *args)
{
    app_console_level(args);
    switch (args->command) {
    case APP_RUN: return app_cmd_run(args);
    case APP_CHAT: return app_cmd_chat(args);
    case APP_SERVE: return app_cmd_serve(args);
    case APP_CONVERT: return app_cmd_convert(args);
    case APP_QUANTIZE: return app_cmd_quantize(args);
    case APP_INFO: return app_cmd_info(args);
    case APP_LOGITS: return app_cmd_logits(args);
    case APP_TOKENIZE: return app_cmd_tokenize(args);
    case APP_TEMPLATE: return app_cmd_template(args);
    case APP_BENCH: return app_cmd_bench(args);
    case APP_SYNTH: return app_cmd_synth(args);
    case APP_PLAN: return app_cmd_plan(args);
    case APP_SIM: return app_cmd_sim(args);
    case APP_DOCTOR: return app_cmd_doctor(args);
    case APP_VERSION: return version();
    default: return help(args);
    }
}

/* What may stand in the place of a command. */
static bool main_option(int argc, char **argv, int *code)
{
    hlwq_error err;
    hlwq_status st;
    const char *a = argv[1];
    if (strcmp(a, "--version") == 0) {
        *code = version();
        return true;
    }
    if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
        st = app_out_file(app_print_overview, &err);
    } else if (strncmp(a, "--completion", 12) == 0) {
        const char *shell = a[12] == '=' ? a + 13 : a[12] == '-' ? a + 13 : argc > 2 ? argv[2] : "";
        app_printer print = app_completion(shell);
        st = print ? app_out_file(print, &err)
                   : hs_fail(&err, HLWQ_ERR_ARG, "--completion knows bash, zsh and fish, not \"%s\"", shell);
    } else if (a[0] == '-') {
        st = hs_fail(&err, HLWQ_ERR_ARG, "%s stands where a command should; hlwq-stream --help lists them", a);
    } else {
        return false;
    }
    *code = app_finish(st, &err);
    return true;
}

int main(int argc, char **argv)
{
    hlwq_error err;
    app_args args;
    app_command_id command;
    int code;
    app_console_init();
    if (argc < 2) {
        app_print_overview(stderr);
        return APP_EXIT_USAGE;
    }
    if (main_option(argc, argv, &code))
        return code;
    hlwq_status st = app_find_command(argv[1], &command, &err);
    if (st != HLWQ_OK)
        return app_finish(st, &err);
    st = app_parse(&args, command, argc, argv, &err);
    if (st != HLWQ_OK) {
        code = app_finish(st, &err);
    } else if (app_flag(&args, OPT_HELP)) {
        help_for = command;
        st = app_out_file(print_help, &err);
        code = app_finish(st, &err);
    } else {
        code = dispatch(&args);
    }
    app_args_close(&args);
    return code;
}
