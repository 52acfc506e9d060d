/* What a model writes, cut into text, thoughts and calls: the same however it comes. */
#include "app/serve_split.h"
#include "tests/support/check.h"

static const char tools_json[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"s\":{\"type\":\"string\"},"
    "\"n\":{\"type\":\"integer\"},\"o\":{\"type\":\"object\"},\"b\":{\"type\":\"boolean\"},"
    "\"t\":{\"type\":[\"string\",\"null\"]},\"e\":{\"enum\":[\"1\",\"2\"]},\"r\":{\"$ref\":\"#/$defs/i\"},"
    "\"a\":{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}]}},\"$defs\":{\"i\":{\"type\":\"integer\"}}}}}]";

static void take(void *user, serve_piece kind, const char *text, size_t bytes)
{
    static const char *const mark[] = {"", "", "\n[call ", ""};
    hs_text *out = user;
    if (kind == SERVE_PIECE_CALL)
        hs_text_format(out, "%s", mark[kind]);
    hs_text_add(out, text, bytes);
    if (kind == SERVE_PIECE_CALL)
        hs_text_format(out, "] ");
}

/* `text` in pieces of `size` bytes; "|" stands for </think>. */
static char *cut(const char *text, size_t size, const char *const *stop, uint32_t stops, const hs_json *tools, bool one,
                 bool thinks)
{
    hs_text out = {0};
    serve_split s = {.stop = stop, .stops = stops, .tools = tools, .one_call = one, .take = take, .user = &out};
    hs_text_add(&out, "", 0);
    if (thinks)
        serve_split_think(&s, true);
    for (size_t n = strlen(text), at = 0; at < n;) {
        size_t m = n - at < size ? n - at : size;
        const char *bar = memchr(text + at, '|', m);
        if (bar == text + at) {
            serve_split_think(&s, false);
            hs_text_format(&out, "|");
            at++;
            continue;
        }
        m = bar ? (size_t)(bar - text) - at : m;
        serve_split_text(&s, text + at, m);
        at += m;
    }
    serve_split_end(&s);
    serve_split_close(&s);
    return hs_text_take(&out);
}

typedef struct row {
    const char *text, *want;
    bool tools, one, thinks;
} row;

static const char *const stops[] = {"STOP", "\n\nEnd", "aab"};

static const row rows[] = {
    {"plain", "plain", false, false, false},
    {"one STOP two", "one ", false, false, false},
    {"aaab", "a", false, false, false},
    {"a\n\nEn", "a\n\nEn", false, false, false},
    {"S\nSTOP", "S\n", false, false, false},
    {"\n\nthought\nmore\n\n|\n\nanswer STOP", "thought\nmore|answer ", false, false, true},
    {"STOP in a thought|x", "STOP in a thought|x", false, false, true},
    {"<tool_call> is text", "<tool_call> is text", false, false, false},
    {"Let me see.\n\n<tool_call>\n<function=f>\n<parameter=s>\nOslo\n</parameter>\n<parameter=n>\n3\n</parameter>\n"
     "</function>\n</tool_call>",
     "Let me see.\n[call f] {\"s\":\"Oslo\",\"n\":3}", true, false, false},
    {"<tool_call>\n<function=f>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n<parameter=x>\na\nb\n</parameter>\n"
     "</function>\n</tool_call>",
     "\n[call f] {}\n[call g] {\"x\":\"a\\nb\"}", true, false, false},
    {"<tool_call>\n<function=f>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>",
     "\n[call f] {}", true, true, false},
    {"<tool_call><function=f><parameter=s>12</parameter><parameter=n>x</parameter><parameter=b>True</parameter>"
     "<parameter=o>{\"k\": [1]}</parameter></function></tool_call>",
     "\n[call f] {\"s\":\"12\",\"n\":\"x\",\"b\":true,\"o\":{\"k\": [1]}}", true, false, false},
    {"<tool_call><function=f><parameter=o>{\"k\": 1}, 2</parameter></function></tool_call>",
     "\n[call f] {\"o\":\"{\\\"k\\\": 1}, 2\"}", true, false, false},
    {"<tool_call><function=f><parameter=t>null</parameter><parameter=e>1</parameter><parameter=r>1</parameter>"
     "<parameter=a>null</parameter></function></tool_call>",
     "\n[call f] {\"t\":null,\"e\":\"1\",\"r\":1,\"a\":null}", true, false, false},
    {"<tool_call><function=f><parameter=t>5</parameter><parameter=u>5</parameter></function></tool_call>",
     "\n[call f] {\"t\":\"5\",\"u\":\"5\"}", true, false, false},
    {"<tool_call>\nno function</tool_call>", "<tool_call>\nno function</tool_call>", true, false, false},
    {"<tool_call>\n<function=", "<tool_call>\n<function=", true, false, false},
    {"<tool_call>\n<function=f>\n<parameter=s>\nhalf", "\n[call f] {\"s\":\"half\"}", true, false, false},
    {"<tool_call>\n<function=f>\n<parameter=s", "\n[call f] {}", true, false, false},
    {"<tool_call>\n<function=f>\nnonsense", "\n[call f] {}nonsense", true, false, false},
    {"a <tool_cal", "a <tool_cal", true, false, false},
    {"white \n\n", "white \n\n", true, false, false},
};

static void pieces_are_the_same_however_they_come(void **state)
{
    (void)state;
    hlwq_error err;
    hs_json *tools;
    CHECK_OK(hs_json_parse(tools_json, sizeof tools_json - 1, "tools", &tools, &err), err);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t size = 1; size < 200; size += size < 12 ? 1 : 37) {
            const row *r = &rows[i];
            char *got = cut(r->text, size, stops, 3, r->tools ? tools : NULL, r->one, r->thinks);
            if (strcmp(got, r->want) != 0)
                fail_msg("row %zu in pieces of %zu:\n%s\nwanted:\n%s", i, size, got, r->want);
            free(got);
        }
    hs_json_free(tools);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_are_the_same_however_they_come)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
