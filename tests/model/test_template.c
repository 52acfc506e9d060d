/* The official Qwen3.5 template to the byte, and what surrounds a template: variables, continued messages, limits. */
#include "tests/support/check.h"

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <time.h>
#include <unistd.h>

#define QWEN "chat/Qwen3.5-4B.jinja"

static char temporary[64];

/* The template `text` in a file of its own. */
static hlwq_template *template_of(const char *text, hlwq_error *err)
{
    hlwq_template *chat = NULL;
    FILE *f = fopen(temporary, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
    if (hlwq_template_open(temporary, &chat, err) != HLWQ_OK)
        fail_msg("%s", err->message);
    return chat;
}

/* JSON as it was written, from a tree. */
static void write_json(hs_text *t, const hs_json *node)
{
    size_t n;
    const char *s;
    switch (hs_json_type_of(node)) {
    case HS_JSON_BOOL: hs_text_format(t, hs_json_bool(node) ? "true" : "false"); break;
    case HS_JSON_INTEGER: hs_text_format(t, "%lld", (long long)hs_json_int(node)); break;
    case HS_JSON_REAL:
        hs_text_format(t, "%.17g", hs_json_real(node));
        if (!strpbrk(t->data + t->bytes - (t->bytes < 24 ? t->bytes : 24), ".e"))
            hs_text_format(t, ".0");
        else if (hs_json_real(node) == (double)(int64_t)hs_json_real(node) && hs_json_real(node) < 1e15)
            hs_text_format(t, "e0");
        break;
    case HS_JSON_STRING:
        s = hs_json_string(node, &n);
        hs_text_json(t, s, n);
        break;
    case HS_JSON_ARRAY:
        hs_text_format(t, "[");
        for (size_t i = 0; i < hs_json_count(node); i++) {
            hs_text_format(t, i ? "," : "");
            write_json(t, hs_json_at(node, i));
        }
        hs_text_format(t, "]");
        break;
    case HS_JSON_OBJECT:
        hs_text_format(t, "{");
        for (hs_json_iter *first = hs_json_first(node), *it = first; it; it = hs_json_next(node, it)) {
            hs_text_format(t, it == first ? "" : ",");
            s = hs_json_key(it, &n);
            hs_text_json(t, s, n);
            hs_text_format(t, ":");
            write_json(t, hs_json_value(it));
        }
        hs_text_format(t, "}");
        break;
    default: hs_text_format(t, "null");
    }
}

static void check_case(const hlwq_template *chat, const hs_json *one)
{
    hlwq_error err = {0};
    hs_text request = {0};
    char *prompt;
    size_t n, wanted_bytes = 0;
    const hs_json *kwargs = hs_json_get(one, "kwargs"), *error = hs_json_get(one, "error");
    const char *name = hs_json_string(hs_json_get(one, "name"), NULL);
    hs_text_format(&request, "{\"messages\":");
    write_json(&request, hs_json_get(one, "messages"));
    hs_text_format(&request, ",\"tools\":");
    write_json(&request, hs_json_get(one, "tools"));
    for (hs_json_iter *it = hs_json_first(kwargs); it; it = hs_json_next(kwargs, it)) {
        hs_text_format(&request, ",\"%s\":", hs_json_key(it, NULL));
        write_json(&request, hs_json_value(it));
    }
    hs_text_format(&request, "}");
    hlwq_status st = hlwq_template_apply(chat, request.data, request.bytes, &prompt, &n, &err);
    if (error) {
        const char *message = hs_json_string(hs_json_get(error, "message"), NULL);
        if (st != HLWQ_ERR_ARG || !strstr(err.message, message))
            fail_msg("%s: status %d \"%s\", wanted \"%s\"", name, st, err.message, message);
    } else {
        const char *wanted = hs_json_string(hs_json_get(one, "expected"), &wanted_bytes);
        if (st != HLWQ_OK)
            fail_msg("%s: %s", name, err.message);
        if (n != wanted_bytes || memcmp(prompt, wanted, n) != 0)
            fail_msg("%s: got\n%s\nwanted\n%s", name, prompt, wanted);
    }
    hlwq_free(prompt);
    hs_text_close(&request);
}

static void official_template_agrees_with_transformers(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_template *chat;
    hs_json *cases;
    char *text;
    uint64_t bytes;
    hs_arena arena;
    hs_mem *mem = hs_mem_open(0);
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    CHECK_OK(hs_file_text(&arena, golden("chat/cases.json"), 1u << 20, &text, &bytes, &err), err);
    CHECK_OK(hs_json_parse(text, bytes, "cases.json", &cases, &err), err);
    CHECK_OK(hlwq_template_open(golden(QWEN), &chat, &err), err);
    assert_int_equal(hs_json_count(cases), 68);
    for (size_t i = 0; i < hs_json_count(cases); i++)
        check_case(chat, hs_json_at(cases, i));
    hlwq_template_close(chat);
    hs_json_free(cases);
    hs_arena_close(&arena);
    hs_mem_close(mem);
}

/* What `text` makes of `request` must be `wanted`; or fail with `status`, saying it. */
static void check(const char *text, const char *request, hlwq_status status, const char *wanted)
{
    hlwq_error err = {0};
    char *prompt;
    size_t n;
    hlwq_template *chat = template_of(text, &err);
    hlwq_status st = hlwq_template_apply(chat, request, strlen(request), &prompt, &n, &err);
    if (st != status)
        fail_msg("%s: status %d (%s), wanted %d", text, st, err.message, status);
    if (st == HLWQ_OK)
        assert_string_equal(prompt, wanted);
    else if (!strstr(err.message, wanted))
        fail_msg("%s: \"%s\" does not mention \"%s\"", text, err.message, wanted);
    hlwq_free(prompt);
    hlwq_template_close(chat);
}

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"

static void variables_of_the_request_reach_the_template(void **state)
{
    (void)state;
    check("{{ a }} {{ tools }} {{ documents }} {{ add_generation_prompt }} {{ messages[0].content }}",
          "{" HI ",\"a\":[1,null]}", HLWQ_OK, "[1, None] None None False Hi");
    check("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}",
          "{\"messages\":[{\"role\":\"user\",\"reasoning\":\"r\"}]}", HLWQ_OK, "rr");
}

static void wrong_requests_are_refused_with_a_sentence(void **state)
{
    (void)state;
    check("x", "[]", HLWQ_ERR_ARG, "not a JSON object");
    check("x", "{", HLWQ_ERR_ARG, "JSON line 1");
    check("x", "{}", HLWQ_ERR_ARG, "\"messages\" is missing");
    check("x", "{\"messages\":{}}", HLWQ_ERR_ARG, "not an array");
    check("x", "{\"messages\":[1]}", HLWQ_ERR_ARG, "message 0 is not an object");
    check("x", "{" HI ",\"chat_template\":\"y\"}", HLWQ_ERR_ARG, "not taken from requests");
    check("x", "{" HI ",\"continue_final_message\":1}", HLWQ_ERR_ARG, "not true or false");
    check("content", "{" HI ",\"continue_final_message\":true}", HLWQ_ERR_ARG, "leaves the last message out");
    check("x", "{" HI ",\"continue_final_message\":true}", HLWQ_ERR_ARG, "does not read");
    check("x", "{" HI ",\"continue_final_message\":true,\"add_generation_prompt\":true}", HLWQ_ERR_ARG, "exclude");
    check("\n\n{{ raise_exception('no ' ~ 1) }}", "{" HI "}", HLWQ_ERR_ARG, "line 3: no 1");
}

static void hostile_templates_end_soon_with_a_limit(void **state)
{
    (void)state;
    clock_t start = clock();
    const char *request = "{" HI "}";
    check("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", request, HLWQ_ERR_FORMAT,
          "takes more than 10000000 steps");
    check("{% for i in range(10**9) %}{% endfor %}", request, HLWQ_ERR_FORMAT, "100000 numbers");
    check("{% set s = 'a' * 3000000 %}{% set x = 'a' * 1500000 %}{{ s.find(x ~ 'b') }}{{ s.rfind('b' ~ x) }}"
          "{{ s.count(x ~ 'b') }}{{ (x ~ 'b') in s }}{{ s.split(x ~ 'b')|length }}{{ s.rsplit(x)|length }}",
          request, HLWQ_OK, "-1-10False13");
    check("{{ 'x' * 10**9 }}", request, HLWQ_ERR_FORMAT, "MiB of memory");
    check("{{ ['x'] * 10**9 }}", request, HLWQ_ERR_FORMAT, "MiB of memory");
    check("{{ '%1000000000s' % 1 }}", request, HLWQ_ERR_FORMAT, "field of");
    check("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", request, HLWQ_ERR_FORMAT, "nested deeper than 400");
    check("{% set ns = namespace(x='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}"
          "{% endfor %}",
          request, HLWQ_ERR_FORMAT, "MiB of memory");
    check("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
          request, HLWQ_ERR_FORMAT, "nested deeper");
    check("{% set x = 'x' * 10000000 %}{% for i in range(100) %}{{ x }}{% endfor %}", request, HLWQ_ERR_FORMAT,
          "longer than 67108864 bytes");
    if ((double)(clock() - start) / CLOCKS_PER_SEC > 20)
        fail_msg("took %.1f s", (double)(clock() - start) / CLOCKS_PER_SEC);
}

static void templates_that_do_not_parse_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } bad[] = {
        {"a\n{% if x %}", "endif"},          {"{{ 1 + }}", "unexpected '}}'"},
        {"{% include 'x' %}", "one file"},   {"\n\n{% frob %}", "line 3"},
        {"{# x", "comment has no end"},      {"{% raw %}x", "endraw"},
        {"{{ 'abc }}", "string has no end"}, {"{{ (1] }}", "expected ')'"},
        {"{% endif %}", "no tag"},           {"{{ a b }}", "'b'"},
        {"{% set true = 1 %}", "assign"},    {"{% break %}", "outside of a loop"},
        {"{{ x \xff }}", "not UTF-8"},       {"{% for x in y recursive %}{% endfor %}", "recursive"},
        {"{{ f(a=1, 2) }}", "positional"},   {"{{ 99999999999999999999 }}", "64 bits"},
        {"{{ '\\ud' }}", "hexadecimal"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        hlwq_error err;
        hlwq_template *chat;
        FILE *f = fopen(temporary, "wb");
        fputs(bad[i].text, f);
        fclose(f);
        CHECK_FAILS(hlwq_template_open(temporary, &chat, &err), HLWQ_ERR_FORMAT, err, bad[i].word);
        assert_non_null(strstr(err.message, "line "));
    }
}

/* Brackets, signs, nots, tags: `open` a million bytes long, then up to the limit. */
static void deep_templates_are_refused(void **state)
{
    (void)state;
    static const char *const deep[] = {"(", "[", "-", "not ", "{'a':", "x if x else ", "x(", "x["};
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        hlwq_error err;
        hlwq_template *chat;
        FILE *f = fopen(temporary, "wb");
        fputs("{{ ", f);
        for (size_t n = 0; n < 1000000; n += strlen(deep[i]))
            fputs(deep[i], f);
        fclose(f);
        CHECK_FAILS(hlwq_template_open(temporary, &chat, &err), HLWQ_ERR_FORMAT, err, "nested deeper than");
    }
    hlwq_error err;
    hlwq_template *chat;
    FILE *f = fopen(temporary, "wb");
    for (int n = 0; n < 200; n++)
        fputs("{% if 1 %}", f);
    fclose(f);
    CHECK_FAILS(hlwq_template_open(temporary, &chat, &err), HLWQ_ERR_FORMAT, err, "nested deeper than");
    f = fopen(temporary, "wb");
    for (int n = 0; n < 10000000; n++)
        fputc('(', f);
    fclose(f);
    CHECK_FAILS(hlwq_template_open(temporary, &chat, &err), HLWQ_ERR_FORMAT, err, "1048576");
}

static void every_truncation_of_the_official_template_is_safe(void **state)
{
    (void)state;
    hlwq_error err;
    char *text;
    uint64_t bytes;
    hs_arena arena;
    hs_mem *mem = hs_mem_open(0);
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    CHECK_OK(hs_file_text(&arena, golden(QWEN), 1u << 20, &text, &bytes, &err), err);
    for (uint64_t n = 0; n < bytes; n += 7) {
        hlwq_template *chat;
        char *prompt;
        size_t made;
        FILE *f = fopen(temporary, "wb");
        fwrite(text, 1, n, f);
        fclose(f);
        if (hlwq_template_open(temporary, &chat, &err) != HLWQ_OK)
            continue;
        hlwq_template_apply(chat, "{" HI "}", strlen("{" HI "}"), &prompt, &made, &err);
        hlwq_free(prompt);
        hlwq_template_close(chat);
    }
    hs_arena_close(&arena);
    hs_mem_close(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(official_template_agrees_with_transformers),
        cmocka_unit_test(variables_of_the_request_reach_the_template),
        cmocka_unit_test(wrong_requests_are_refused_with_a_sentence),
        cmocka_unit_test(hostile_templates_end_soon_with_a_limit),
        cmocka_unit_test(templates_that_do_not_parse_name_the_line),
        cmocka_unit_test(deep_templates_are_refused),
        cmocka_unit_test(every_truncation_of_the_official_template_is_safe),
    };
    snprintf(temporary, sizeof temporary, "/tmp/hlwq-template-%ld", (long)getpid());
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(temporary);
    return failed;
}
