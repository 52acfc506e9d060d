/* app/options.c */
#define _GNU_SOURCE
#include "app/options.h"
#include "tests/support/check.h"

#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static hlwq_error err;
static app_args args;

/* Parses "hlwq-stream COMMAND words..." with words split at spaces. */
static hlwq_status parse(app_command_id command, const char *line)
{
    static char text[1024], *argv[64];
    int argc = 2;
    app_args_close(&args);
    snprintf(text, sizeof text, "%s", line);
    argv[0] = argv[1] = "";
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return app_parse(&args, command, argc, argv, &err);
}

static void config(const char *text)
{
    char path[256];
    assert_true(app_config_path(path, sizeof path));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int clean(void **state)
{
    (void)state;
    config("{}");
    unsetenv("HLWQ_TOP_K");
    unsetenv("HLWQ_QUIET");
    unsetenv("HLWQ_FILE");
    return 0;
}

static void sizes_are_binary_and_checked(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"1K", 1024},
        {"1k", 1024},
        {"512Mi", UINT64_C(512) << 20},
        {"8G", UINT64_C(8) << 30},
        {"8GiB", UINT64_C(8) << 30},
        {"8GB", UINT64_C(8) << 30},
        {"1.5G", UINT64_C(3) << 29},
        {"7500M", UINT64_C(7500) << 20},
        {"2Ti", UINT64_C(2) << 40},
        {"18446744073709551615", UINT64_MAX},
    };
    static const char *const bad[] = {"",
                                      "G",
                                      "-1",
                                      "+1",
                                      "1X",
                                      "1.5",
                                      "1 G",
                                      "1Gi8",
                                      "0x10",
                                      "1e9",
                                      "nan",
                                      "16777216T",
                                      "18446744073709551616",
                                      "1,5G",
                                      "1.5.5G",
                                      "1GGi"};
    uint64_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!app_parse_size(good[i].text, &bytes))
            fail_msg("%s was refused", good[i].text);
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (app_parse_size(bad[i], &bytes))
            fail_msg("\"%s\" was taken for %llu", bad[i], (unsigned long long)bytes);
}

static void flags_take_their_values_in_every_spelling(void **state)
{
    (void)state;
    CHECK_OK(parse(APP_RUN, "-n5 --top-k=7 --temp 0.5 -c=100 -qv --kv f32 --ram 1G -m x one --echo two"), err);
    assert_int_equal(app_number(&args, OPT_PREDICT, 0), 5);
    assert_int_equal(app_number(&args, OPT_TOP_K, 0), 7);
    assert_true(args.value[OPT_TEMPERATURE].real == 0.5);
    assert_int_equal(app_number(&args, OPT_CTX, 0), 100);
    assert_true(app_flag(&args, OPT_QUIET) && app_flag(&args, OPT_VERBOSE) && app_flag(&args, OPT_ECHO));
    assert_int_equal(args.value[OPT_KV].number, 1);
    assert_int_equal(args.value[OPT_RAM].bytes, 1 << 30);
    assert_string_equal(app_text(&args, OPT_MODEL, ""), "x");
    assert_int_equal(args.n_operands, 2);
    assert_string_equal(args.operand[0], "one");
    assert_string_equal(args.operand[1], "two");
    CHECK_OK(parse(APP_RUN, "-n -1 --max-tokens 9 -- --echo -n"), err);
    assert_int_equal(app_number(&args, OPT_PREDICT, 0), 9);
    assert_int_equal(args.n_operands, 2);
    CHECK_OK(parse(APP_RUN, "--echo=off -vv"), err);
    assert_false(app_flag(&args, OPT_ECHO));
    assert_int_equal(app_number(&args, OPT_VERBOSE, 0), 2);
    CHECK_OK(parse(APP_RUN, ""), err);
    assert_false(args.value[OPT_CTX].set);
    assert_int_equal(app_number(&args, OPT_CTX, 42), 42);
}

static void wrong_words_are_refused_with_the_nearest_right_one(void **state)
{
    (void)state;
    app_command_id command;
    CHECK_FAILS(parse(APP_RUN, "--temprature 1"), HLWQ_ERR_ARG, err, "did you mean --temperature?");
    CHECK_FAILS(parse(APP_RUN, "--sede=1"), HLWQ_ERR_ARG, err, "did you mean --seed?");
    CHECK_FAILS(parse(APP_RUN, "--max-token 1"), HLWQ_ERR_ARG, err, "did you mean --max-tokens?");
    CHECK_FAILS(parse(APP_RUN, "--zzzzzzzz"), HLWQ_ERR_ARG, err, "unknown option --zzzzzzzz");
    CHECK_FAILS(parse(APP_INFO, "--seed 1"), HLWQ_ERR_ARG, err, "--seed");
    CHECK_FAILS(parse(APP_RUN, "-Z"), HLWQ_ERR_ARG, err, "-Z");
    CHECK_FAILS(app_find_command("conver", &command, &err), HLWQ_ERR_ARG, err, "did you mean convert?");
    CHECK_FAILS(app_find_command("\x1b[2Jx", &command, &err), HLWQ_ERR_ARG, err, "\\x1b");
    CHECK_OK(app_find_command("info", &command, &err), err);
    assert_int_equal(command, APP_INFO);
}

static void wrong_values_are_refused_with_the_flag(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "--top-p 1.5", "--top-p nan", "--top-p",    "--top-k 1.5",  "--top-k -1", "--top-k 99999999999999999999",
        "--top-k=",    "--top-p 0,5", "--temp inf", "--kv q5",      "--kv f",     "--ram -1",
        "--ram 1Q",    "-n -2",       "-t 257",     "--echo=maybe", "--model=",   "--verify fir",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char flag[32];
        snprintf(flag, sizeof flag, "%.*s", (int)strcspn(lines[i], " ="), lines[i]);
        CHECK_FAILS(parse(APP_RUN, lines[i]), HLWQ_ERR_ARG, err, flag);
    }
}

static void operands_are_counted(void **state)
{
    (void)state;
    CHECK_FAILS(parse(APP_CONVERT, "-o x"), HLWQ_ERR_ARG, err, "SOURCE");
    CHECK_FAILS(parse(APP_CONVERT, "a b -o x"), HLWQ_ERR_ARG, err, "\"b\"");
    CHECK_FAILS(parse(APP_LOGITS, "a"), HLWQ_ERR_ARG, err, "\"a\"");
    CHECK_OK(parse(APP_CONVERT, "--help"), err);
}

static void flag_beats_environment_beats_config(void **state)
{
    (void)state;
    config("{\"top-k\": 1}");
    CHECK_OK(parse(APP_RUN, ""), err);
    assert_int_equal(app_number(&args, OPT_TOP_K, 0), 1);
    setenv("HLWQ_TOP_K", "2", 1);
    CHECK_OK(parse(APP_RUN, ""), err);
    assert_int_equal(app_number(&args, OPT_TOP_K, 0), 2);
    CHECK_OK(parse(APP_RUN, "--top-k 3"), err);
    assert_int_equal(app_number(&args, OPT_TOP_K, 0), 3);
    setenv("HLWQ_TOP_K", "", 1); /* as good as unset */
    CHECK_OK(parse(APP_RUN, ""), err);
    assert_int_equal(app_number(&args, OPT_TOP_K, 0), 1);
    setenv("HLWQ_TOP_K", "many", 1);
    CHECK_FAILS(parse(APP_RUN, ""), HLWQ_ERR_ARG, err, "HLWQ_TOP_K");
    CHECK_OK(parse(APP_CONVERT, "a -o b"), err); /* not this command's */
    unsetenv("HLWQ_TOP_K");
    setenv("HLWQ_QUIET", "on", 1);
    CHECK_OK(parse(APP_RUN, "--quiet=off"), err);
    assert_false(app_flag(&args, OPT_QUIET));
    CHECK_OK(parse(APP_RUN, ""), err);
    assert_true(app_flag(&args, OPT_QUIET));
}

static void config_sections_belong_to_commands(void **state)
{
    (void)state;
    config(
        "{\"bench\": {\"ctx\": 100}, \"run\": {\"ctx\": \"200\", \"seed\": 2, \"temperature\": 0.5}, \"threads\": 3,\n"
        "\"ctx\": 50, \"kv\": \"f32\", \"quiet\": true, \"ram\": \"2G\"}");
    CHECK_OK(parse(APP_RUN, ""), err);
    assert_int_equal(app_number(&args, OPT_THREADS, 0), 3);
    assert_int_equal(app_number(&args, OPT_CTX, 0), 200);
    assert_int_equal(app_number(&args, OPT_SEED, 0), 2);
    assert_int_equal(args.value[OPT_KV].number, 1);
    assert_true(app_flag(&args, OPT_QUIET));
    assert_true(args.value[OPT_TEMPERATURE].real == 0.5);
    assert_string_equal(app_text(&args, OPT_SEED, ""), "2");
    assert_true(args.value[OPT_RAM].bytes == UINT64_C(2) << 30);
    CHECK_OK(parse(APP_BENCH, ""), err);
    assert_int_equal(app_number(&args, OPT_CTX, 0), 100);
    CHECK_OK(parse(APP_BENCH, "-c 7"), err);
    assert_int_equal(app_number(&args, OPT_CTX, 0), 7);
}

static void config_mistakes_name_file_and_key(void **state)
{
    (void)state;
    static const char *const texts[][2] = {
        {"{\"top-q\": 1}", "config.json: unknown option top-q"},
        {"{\"top-k\": null}", "config.json: top-k"},
        {"{\"top-k\": [1]}", "config.json: top-k"},
        {"{\"top-k\": \"x\"}", "config.json: top-k"},
        {"{\"top-k\": 1.5}", "config.json: top-k"},
        {"{\"run\": {\"top-k\": -1}}", "config.json: run: top-k"},
        {"{\"rnu\": {}}", "config.json: unknown command rnu"},
        {"{\"file\": \"x\"}", "command line"},
        {"{\n\"top-k\": 1,\n}", "line 3"},
        {"{\"top-k\": 1, \"top-k\": 2}", "duplicate"},
        {"{\"kv\": \"f1\\u00006\"}", "config.json: kv"},
        {"top-k = 1", "config.json"},
        {"[]", "not a JSON object"},
        {"", "config.json"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        config(texts[i][0]);
        CHECK_FAILS(parse(APP_RUN, ""), HLWQ_ERR_ARG, err, texts[i][1]);
    }
}

static void every_option_is_usable_and_named_once(void **state)
{
    (void)state;
    for (int i = 0; i < OPT_COUNT; i++) {
        const app_option *o = &app_option_table[i];
        assert_non_null(o->name);
        assert_non_null(o->help);
        assert_true(o->commands != 0);
        assert_true(o->kind == APP_FLAG || o->argument);
        for (int k = 0; k < APP_COMMAND_COUNT; k++)
            if (o->commands & 1u << k)
                assert_int_equal(app_find_option(o->name, strlen(o->name), 1u << k), i);
        for (int j = 0; j < i; j++)
            if (app_option_table[j].letter && (app_option_table[j].commands & o->commands))
                assert_int_not_equal(app_option_table[j].letter, o->letter);
    }
}

static void distance_counts_edits(void **state)
{
    (void)state;
    assert_int_equal(app_distance("seed", "seed"), 0);
    assert_int_equal(app_distance("sede", "seed"), 1);
    assert_int_equal(app_distance("kitten", "sitting"), 3);
    assert_int_equal(app_distance("", "abc"), 3);
}

int main(void)
{
    char path[128];
    snprintf(folder, sizeof folder, "/tmp/hlwq-test-options-%ld", (long)getpid());
    snprintf(path, sizeof path, "%s/hlwq-stream", folder);
    if (mkdir(folder, 0700) != 0 || mkdir(path, 0700) != 0)
        return 1;
    setenv("XDG_CONFIG_HOME", folder, 1);
    for (int i = 0; i < OPT_COUNT; i++) {
        char name[64];
        app_env_name(name, sizeof name, app_option_table[i].name);
        unsetenv(name);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(sizes_are_binary_and_checked, clean),
        cmocka_unit_test_setup(flags_take_their_values_in_every_spelling, clean),
        cmocka_unit_test_setup(wrong_words_are_refused_with_the_nearest_right_one, clean),
        cmocka_unit_test_setup(wrong_values_are_refused_with_the_flag, clean),
        cmocka_unit_test_setup(operands_are_counted, clean),
        cmocka_unit_test_setup(flag_beats_environment_beats_config, clean),
        cmocka_unit_test_setup(config_sections_belong_to_commands, clean),
        cmocka_unit_test_setup(config_mistakes_name_file_and_key, clean),
        cmocka_unit_test_setup(every_option_is_usable_and_named_once, clean),
        cmocka_unit_test_setup(distance_counts_edits, clean),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    app_args_close(&args);
    app_config_path(path, sizeof path);
    unlink(path);
    snprintf(path, sizeof path, "%s/hlwq-stream", folder);
    rmdir(path);
    rmdir(folder);
    return failed;
}
