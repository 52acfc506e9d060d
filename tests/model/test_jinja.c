/* The Jinja subset against what Jinja2 itself makes of some hundred snippets (tests/golden/jinja), and what only we
 * have. */
#include "tests/support/check.h"

#include "base/file.h"
#include "model/jinja.h"

/* A rendering of `text` with limits; on success *out holds it (malloc'ed). */
static hlwq_status render(const char *text, size_t bytes, const hs_json *context, const hs_jinja_limits *limits,
                          char **out, size_t *n, hlwq_error *err)
{
    hs_jinja *jinja;
    hs_jvm *vm = NULL;
    hs_jv variables;
    hs_text result = {0};
    hs_mem *mem = hs_mem_open(0);
    *out = NULL;
    hlwq_status st = hs_jinja_parse(&jinja, mem, text, bytes, "t", err);
    if (st == HLWQ_OK)
        st = hs_jvm_open(&vm, limits, 0, err);
    if (st == HLWQ_OK)
        st = hs_jvm_value(vm, context, &variables);
    if (st == HLWQ_OK)
        st = hs_jvm_render(vm, jinja, variables.dict, &result);
    hs_jvm_close(vm);
    hs_jinja_free(jinja);
    hs_mem_close(mem);
    *n = result.bytes;
    if (st == HLWQ_OK)
        *out = hs_text_take(&result);
    hs_text_close(&result);
    return st;
}

static void snippets_agree_with_jinja2(void **state)
{
    (void)state;
    hlwq_error err;
    hs_json *root;
    char *text, *got;
    uint64_t bytes;
    size_t n, wanted_bytes, template_bytes;
    uint32_t differ = 0;
    const hs_jinja_limits limits = hs_jinja_limits_default();
    hs_arena arena;
    hs_mem *mem = hs_mem_open(0);
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    CHECK_OK(hs_file_text(&arena, golden("jinja/cases.json"), 1u << 20, &text, &bytes, &err), err);
    CHECK_OK(hs_json_parse(text, bytes, "cases.json", &root, &err), err);
    const hs_json *cases = hs_json_get(root, "cases");
    assert_true(hs_json_count(cases) >= 400);
    for (size_t i = 0; i < hs_json_count(cases); i++) {
        const hs_json *one = hs_json_at(cases, i), *expected = hs_json_get(one, "expected");
        const char *template = hs_json_string(hs_json_get(one, "template"), &template_bytes);
        err.message[0] = 0;
        hlwq_status st = render(template, template_bytes, hs_json_get(root, "context"), &limits, &got, &n, &err);
        const char *wanted = expected ? hs_json_string(expected, &wanted_bytes) : NULL;
        bool same = wanted ? st == HLWQ_OK && n == wanted_bytes && memcmp(got, wanted, n) == 0
                           : st != HLWQ_OK && strstr(err.message, "line ");
        if (!same) {
            print_error("%s\n  wanted %s\n  got    %s\n", template, wanted ? wanted : "an error",
                        st == HLWQ_OK ? got : err.message);
            differ++;
        }
        free(got);
    }
    hs_json_free(root);
    hs_arena_close(&arena);
    hs_mem_close(mem);
    if (differ)
        fail_msg("%u snippets differ", differ);
}

/* Each step, byte and level less than enough is an error, and nothing is lost on the way. */
static void every_limit_is_an_error_and_leaks_nothing(void **state)
{
    (void)state;
    static const char text[] =
        "{% macro m(a, b=[1, 2]) %}{{ a|tojson(indent=1) }}{{ b|join(',') }}{% endmacro %}"
        "{% set ns = namespace(x='') %}{% for k, v in {'a': 1, 'b': {'c': 'd'}}|dictsort(by='key') %}"
        "{% set ns.x = ns.x ~ m(v) ~ '%5d|{:>4}'|format(3) %}{{ ns.x|upper|replace('A', 'bb')|indent }}"
        "{{ '{:>4}'.format(k)|e }}{{ ['x', 'y']|map('title')|list }}{{ ns.x|title }}{% endfor %}";
    hlwq_error err;
    hs_json *context;
    char *got;
    size_t n;
    hs_jinja_limits limits = hs_jinja_limits_default();
    CHECK_OK(hs_json_parse("{}", 2, "x", &context, &err), err);
    CHECK_OK(render(text, sizeof text - 1, context, &limits, &got, &n, &err), err);
    free(got);
    uint64_t enough = 0;
    for (uint64_t steps = 0; !enough && steps < 5000; steps++) {
        limits.steps = steps;
        if (render(text, sizeof text - 1, context, &limits, &got, &n, &err) == HLWQ_OK)
            enough = steps;
        else
            assert_non_null(strstr(err.message, "steps"));
        free(got);
    }
    assert_true(enough > 100);
    limits = hs_jinja_limits_default();
    for (limits.depth = 0; limits.depth < 12; limits.depth++) {
        if (render(text, sizeof text - 1, context, &limits, &got, &n, &err) != HLWQ_OK)
            assert_non_null(strstr(err.message, "nested deeper"));
        free(got);
    }
    limits = hs_jinja_limits_default();
    for (limits.output_bytes = 0; limits.output_bytes < n + 1; limits.output_bytes++) {
        hlwq_status st = render(text, sizeof text - 1, context, &limits, &got, &n, &err);
        assert_true(st == HLWQ_OK || strstr(err.message, "text longer"));
        free(got);
        if (st == HLWQ_OK)
            break;
    }
    limits = hs_jinja_limits_default();
    limits.memory_bytes = 1 << 12; /* less than one chunk of an arena */
    CHECK_FAILS(render(text, sizeof text - 1, context, &limits, &got, &n, &err), HLWQ_ERR_FORMAT, err, "memory");
    hs_json_free(context);
}

/* Text collected in a loop costs its length: 20,000 pieces would be 2 GB if each step copied what there is. */
static void collecting_text_is_linear(void **state)
{
    (void)state;
    static const char text[] = "{% set ns = namespace(a='', b='') %}{% for i in range(20000) %}"
                               "{% set ns.a = ns.a + '0123456789' %}{% set ns.b = ns.b ~ i ~ ',' %}{% endfor %}"
                               "{{ ns.a|length }} {{ ns.b|length }}";
    hlwq_error err;
    hs_json *context;
    char *got;
    size_t n;
    const hs_jinja_limits limits = hs_jinja_limits_default();
    CHECK_OK(hs_json_parse("{}", 2, "x", &context, &err), err);
    CHECK_OK(render(text, sizeof text - 1, context, &limits, &got, &n, &err), err);
    assert_string_equal(got, "200000 108890");
    free(got);
    hs_json_free(context);
}

static void the_time_is_the_one_given(void **state)
{
    (void)state;
    hlwq_error err;
    hs_json *context;
    char *got;
    size_t n;
    static const char text[] = "{{ strftime_now('%Y-%m') }}";
    const hs_jinja_limits limits = hs_jinja_limits_default();
    CHECK_OK(hs_json_parse("{}", 2, "x", &context, &err), err);
    CHECK_OK(render(text, sizeof text - 1, context, &limits, &got, &n, &err), err);
    assert_true(strcmp(got, "1970-01") == 0 || strcmp(got, "1969-12") == 0); /* as the time zone has it */
    free(got);
    hs_json_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snippets_agree_with_jinja2),
        cmocka_unit_test(every_limit_is_an_error_and_leaks_nothing),
        cmocka_unit_test(collecting_text_is_linear),
        cmocka_unit_test(the_time_is_the_one_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
