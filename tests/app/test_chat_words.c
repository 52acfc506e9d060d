/* app/chat_words.c: lines, commands, settings. */
#include "app/chat_words.h"
#include "tests/support/check.h"

static hlwq_error err;

/* The message that `lines`, each ended by a |, make; "..." while more is wanted. */
static const char *message(const char *lines, bool *literal)
{
    static char out[256];
    char text[256], *at = text;
    chat_input in = {0};
    bool done = false;
    snprintf(text, sizeof text, "%s", lines);
    for (char *end; (end = strchr(at, '|')); at = end + 1) {
        *end = 0;
        assert_false(done);
        done = chat_input_add(&in, at);
        assert_int_equal(done, !in.open);
    }
    snprintf(out, sizeof out, "%s", done ? in.text.data : "...");
    *literal = in.literal;
    chat_input_clear(&in);
    assert_null(in.text.data);
    return out;
}

static void lines_become_messages(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *text;
        bool literal;
    } cases[] = {
        {"hello|", "hello", false},
        {"|", "", false},
        {"/help|", "/help", false},
        {"one\\|two|", "one\ntwo", true},
        {"\\|/help|", "\n/help", true},
        {"one\\|", "...", true},
        {"\"\"\"|a\\|/b|c\"\"\"|", "a\\\n/b\nc", true},
        {"\"\"\"a|b|\"\"\"|", "a\nb\n", true},
        {"\"\"\"one line\"\"\"|", "one line", true},
        {"\"\"\"\"\"\"|", "", true},
        {"\"\"\"|", "...", true},
        {"say \"\"\"|", "say \"\"\"", false},
        {"/paste\nof lines|", "/paste\nof lines", true},
        {"\"\"|", "\"\"", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool literal;
        assert_string_equal(message(cases[i].lines, &literal), cases[i].text);
        if (literal != cases[i].literal)
            fail_msg("%s: literal %d", cases[i].lines, literal);
    }
}

static hlwq_status command(const char *line, chat_command_id *id, const char **rest)
{
    static char text[256];
    char *r;
    snprintf(text, sizeof text, "%s", line);
    hlwq_status st = chat_parse_command(text, id, &r, &err);
    *rest = r;
    return st;
}

static void commands_are_found_or_explained(void **state)
{
    (void)state;
    chat_command_id id;
    const char *rest;
    CHECK_OK(command("  /save  my file.json ", &id, &rest), err);
    assert_int_equal(id, CHAT_SAVE);
    assert_string_equal(rest, "my file.json");
    CHECK_OK(command("/system", &id, &rest), err);
    assert_int_equal(id, CHAT_SET_SYSTEM);
    assert_string_equal(rest, "");
    CHECK_OK(command("/system\tBe brief.", &id, &rest), err);
    assert_string_equal(rest, "Be brief.");
    CHECK_OK(command("/exit", &id, &rest), err);
    assert_int_equal(id, CHAT_QUIT);
    CHECK_FAILS(command("/sav x", &id, &rest), HLWQ_ERR_ARG, err, "did you mean /save?");
    CHECK_FAILS(command("/frobnicate", &id, &rest), HLWQ_ERR_ARG, err, "/help");
    CHECK_FAILS(command("/", &id, &rest), HLWQ_ERR_ARG, err, "/help");
    CHECK_FAILS(command("/load", &id, &rest), HLWQ_ERR_ARG, err, "/load FILE");
    CHECK_FAILS(command("/undo 2", &id, &rest), HLWQ_ERR_ARG, err, "/undo takes nothing");
    for (int i = 0; i < CHAT_COMMANDS; i++)
        assert_true(chat_command_table[i].name[0] == '/' && chat_command_table[i].help);
}

static void settings_are_checked(void **state)
{
    (void)state;
    hlwq_sampling s = {.temperature = 1, .top_p = 1};
    int64_t limit = -1;
    CHECK_OK(chat_parse_setting("temperature 0.5", &s, &limit, &err), err);
    CHECK_OK(chat_parse_setting("top-p=0.25", &s, &limit, &err), err);
    CHECK_OK(chat_parse_setting("top_k   7", &s, &limit, &err), err);
    CHECK_OK(chat_parse_setting("min_p 1e-1", &s, &limit, &err), err);
    CHECK_OK(chat_parse_setting("seed 9007199254740991", &s, &limit, &err), err);
    CHECK_OK(chat_parse_setting("n 12", &s, &limit, &err), err);
    assert_true(s.temperature == 0.5f && s.top_p == 0.25f && s.top_k == 7 && s.min_p == 0.1f);
    assert_true(s.seed == UINT64_C(9007199254740991) && limit == 12);
    CHECK_OK(chat_parse_setting("n -1", &s, &limit, &err), err);
    assert_int_equal(limit, -1);
    static const char *const bad[] = {"temperature",     "temperature -1", "temperature hot", "temperature nan",
                                      "temperature inf", "top_p 1.5",      "top_k 1.5",       "top_k -1",
                                      "seed 0x10",       "n -2",           "n 1 2",           "min_p 0,5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(bad[i], " "), bad[i]);
        CHECK_FAILS(chat_parse_setting(bad[i], &s, &limit, &err), HLWQ_ERR_ARG, err, name);
    }
    CHECK_FAILS(chat_parse_setting("colour red", &s, &limit, &err), HLWQ_ERR_ARG, err, "colour");
    CHECK_FAILS(chat_parse_setting("", &s, &limit, &err), HLWQ_ERR_ARG, err, "temperature");
    assert_true(s.temperature == 0.5f && s.top_p == 0.25f && s.top_k == 7 && limit == -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_become_messages),
        cmocka_unit_test(commands_are_found_or_explained),
        cmocka_unit_test(settings_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
