/* base/json.c and base/text.c */
#include "base/json.h"
#include "base/text.h"
#include "tests/support/check.h"

static hlwq_status parse(const char *text, hlwq_error *err)
{
    hs_json *root;
    hlwq_status st = hs_json_parse(text, strlen(text), "x.json", &root, err);
    hs_json_free(root);
    return st;
}

static void hostile_texts_are_refused(void **state)
{
    (void)state;
    hlwq_error err;
    static const char *const bad[] = {"",
                                      "{",
                                      "{\"a\":1,\"a\":2}",
                                      "[1] x",
                                      "\"\xff\"",
                                      "[1e999]",
                                      "[NaN]",
                                      "[01]",
                                      "[18446744073709551616]",
                                      "{\"a\\u0000b\":1}",
                                      "[1,]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_FAILS(parse(bad[i], &err), HLWQ_ERR_FORMAT, err, "x.json");
    char deep[400] = {0};
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    CHECK_FAILS(parse(deep, &err), HLWQ_ERR_FORMAT, err, "65 deep");
    deep[64] = ' ';
    deep[65] = ' ';
    CHECK_OK(parse(deep, &err), err);
    CHECK_OK(
        parse("{\"brackets in text\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"}",
              &err),
        err);
}

static void getters_name_key_and_range(void **state)
{
    (void)state;
    hlwq_error err;
    hs_json *r;
    const char *text =
        "{\"n\":12,\"neg\":-1,\"big\":9007199254740993,\"r\":2.5,\"s\":\"t\",\"z\":null,\"b\":true,\"nul\":\"a\\u0000b\"}";
    CHECK_OK(hs_json_parse(text, strlen(text), "c.json", &r, &err), err);
    uint32_t n = 5;
    uint64_t big = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    CHECK_OK(hs_json_take_u32(r, "n", HS_REQUIRED, 1, 12, &n, "c", &err), err);
    assert_int_equal(n, 12);
    CHECK_FAILS(hs_json_take_u32(r, "n", HS_REQUIRED, 1, 11, &n, "c", &err), HLWQ_ERR_FORMAT, err, "12");
    CHECK_FAILS(hs_json_take_u32(r, "neg", HS_REQUIRED, 0, 11, &n, "c", &err), HLWQ_ERR_FORMAT, err, "-1");
    CHECK_FAILS(hs_json_take_u32(r, "r", HS_REQUIRED, 0, 11, &n, "c", &err), HLWQ_ERR_FORMAT, err, "2.5");
    CHECK_FAILS(hs_json_take_u32(r, "s", HS_REQUIRED, 0, 11, &n, "c", &err), HLWQ_ERR_FORMAT, err, "\"s\"");
    CHECK_FAILS(hs_json_take_u32(r, "none", HS_REQUIRED, 0, 11, &n, "c", &err), HLWQ_ERR_FORMAT, err, "missing");
    CHECK_OK(hs_json_take_u32(r, "none", HS_OPTIONAL, 0, 11, &n, "c", &err), err);
    CHECK_OK(hs_json_take_u32(r, "z", HS_OPTIONAL, 0, 11, &n, "c", &err), err);
    assert_int_equal(n, 12);
    CHECK_OK(hs_json_take_u64(r, "big", HS_REQUIRED, 0, INT64_MAX, &big, "c", &err), err);
    assert_true(big == 9007199254740993u);
    CHECK_OK(hs_json_take_real(r, "r", HS_REQUIRED, 0, 3, &d, "c", &err), err);
    CHECK_FAILS(hs_json_take_real(r, "r", HS_REQUIRED, 0, 2, &d, "c", &err), HLWQ_ERR_FORMAT, err, "2.5");
    CHECK_OK(hs_json_take_bool(r, "b", HS_REQUIRED, &b, "c", &err), err);
    assert_true(b);
    CHECK_OK(hs_json_take_string(r, "s", HS_REQUIRED, &s, "c", &err), err);
    assert_string_equal(s, "t");
    CHECK_FAILS(hs_json_take_string(r, "nul", HS_REQUIRED, &s, "c", &err), HLWQ_ERR_FORMAT, err, "NUL");
    hs_json_free(r);
}

static void written_strings_are_read_back(void **state)
{
    (void)state;
    hs_text t = {0};
    hlwq_error err;
    hs_json *r;
    static const char text[] = "q\"b\\n\n\x01\x7f caf\xc3\xa9 \xff \xf0\x9f\x9a\x80";
    hs_text_json(&t, text, sizeof text - 1);
    CHECK_OK(hs_json_parse(t.data, t.bytes, "t", &r, &err), err);
    assert_string_equal(hs_json_string(r, NULL), "q\"b\\n\n\x01\x7f caf\xc3\xa9 \xef\xbf\xbd \xf0\x9f\x9a\x80");
    hs_json_free(r);
    hs_text_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_texts_are_refused),
        cmocka_unit_test(getters_name_key_and_range),
        cmocka_unit_test(written_strings_are_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
