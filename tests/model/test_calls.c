/* Calls of tools as constraints: their arguments, and whole answers that call. */
#include "tests/support/constraint.h"

static hlwq_status open_call(const char *schema, hlwq_constraint **c, hlwq_error *err)
{
    return hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_CALL, schema, strlen(schema), c, err);
}

static void arguments_of_a_call_are_of_their_schema(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *text;
        bool good;
    } rows[] = {
#define ONE(schema)                                                                                                    \
    "{\"type\":\"object\",\"properties\":{\"x\":" schema "},\"required\":[\"x\"],\"additionalProperties\":false}"
#define X(value) "\n<parameter=x>\n" value "\n</parameter>\n</function>"
        {"{}", "\n</function>", true},
        {"{}", "\n</function>\n", true},
        {"{}", "</function>", false},
        {ONE("{\"type\":\"string\"}"), X("any <b> \"text\"\n, more </param"), true},
        {ONE("{\"type\":\"string\"}"), X(""), true},
        {ONE("{\"type\":\"string\"}"), X("a</parameter>b"), false},
        {ONE("{\"type\":\"string\"}"), X("a<</parameter>b"), false},
        {ONE("{\"type\":\"string\"}"), "\n</function>", false},
        {ONE("{\"type\":\"string\",\"maxLength\":3}"), X("a\xC3\xA4 "), true},
        {ONE("{\"type\":\"string\",\"maxLength\":3}"), X("abcd"), false},
        {ONE("{\"type\":\"string\",\"minLength\":2}"), X("a"), false},
        {ONE("{\"type\":\"string\",\"pattern\":\"^[^x]+$\"}"), X("quote \" is as it is"), true},
        {ONE("{\"type\":\"string\",\"pattern\":\"^[^x]+$\"}"), X("a<b"), false},
        {ONE("{\"type\":\"string\",\"pattern\":\"b\"}"), X("abc"), true},
        {ONE("{\"type\":\"string\",\"format\":\"date\"}"), X("2024-02-28"), true},
        {ONE("{\"type\":\"integer\",\"minimum\":3,\"maximum\":20}"), X("17"), true},
        {ONE("{\"type\":\"integer\",\"minimum\":3,\"maximum\":20}"), X("21"), false},
        {ONE("{\"enum\":[\"red\",\"reed\"]}"), X("reed"), true},
        {ONE("{\"enum\":[\"red\",\"reed\"]}"), X("ree"), false},
        {ONE("{\"enum\":[\"red\",\"reed\"]}"), X("\"red\""), false},
        {ONE("{\"enum\":[1,null]}"), X("null"), true},
        {ONE("{\"type\":[\"integer\",\"null\"]}"), X("null"), true},
        {ONE("{\"anyOf\":[{\"type\":\"string\",\"maxLength\":5},{\"type\":\"null\"}]}"), X("null"), true},
        {ONE("{\"anyOf\":[{\"type\":\"string\",\"maxLength\":5},{\"type\":\"null\"}]}"), X("abcde"), true},
        {ONE("{\"anyOf\":[{\"type\":\"string\",\"maxLength\":5},{\"type\":\"null\"}]}"), X("abcdef"), false},
        {ONE("{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"string\"}},\"required\":[\"k\"]}"),
         X("{\"k\": \"a\\u003cb\"}"), true},
        {ONE("{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"string\"}},\"required\":[\"k\"]}"),
         X("{\"k\": \"a<b\"}"), false},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"},\"b\":{\"$ref\":\"#/$defs/n\"}},"
         "\"required\":[\"b\"],\"$defs\":{\"n\":{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}}}",
         "\n<parameter=b>\n[1, 2]\n</parameter>\n</function>", true},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"},\"b\":{}},\"required\":[\"b\"]}",
         "\n<parameter=b>\nx\n</parameter>\n<parameter=a>\ntrue\n</parameter>\n</function>", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hlwq_error err;
        hlwq_constraint *c;
        if (open_call(rows[i].schema, &c, &err) != HLWQ_OK)
            fail_msg("%s: %s", rows[i].schema, err.message);
        if (accepts(c, rows[i].text) != rows[i].good)
            fail_msg("%s: %s: %d", rows[i].schema, rows[i].text, rows[i].good);
        hlwq_constraint_close(c);
    }
    static const char *const refusals[][2] = {
        {"{\"type\":\"string\"}", "must be an object"},
        {ONE("{\"type\":[\"string\",\"integer\"]}"), "other than null"},
        {ONE("{\"not\":{}}"), "\"not\""},
        {ONE("{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"number\"}]}"), "other than null"},
        {ONE("{\"enum\":[\"a\",1]}"), "one of several texts"},
        {ONE("{\"enum\":[\"<\"]}"), "no text"},
        {"{\"properties\":{\"a>b\":{}}}", "a name without"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        hlwq_error err;
        hlwq_constraint *c;
        hlwq_status st = open_call(refusals[i][0], &c, &err);
        if (st == HLWQ_OK || !strstr(err.message, refusals[i][1]))
            fail_msg("%s: %d, %s", refusals[i][0], st, st ? err.message : "");
    }
}

/* The text, in which tags are tokens, from its beginning; and every token's bit on the way. */
static bool tools_accept(hlwq_constraint *c, const char *text)
{
    hlwq_error err;
    int32_t *ids;
    size_t n;
    uint32_t place = hs_constraint_start(c);
    bool good = true;
    CHECK_OK(hlwq_tokenize(tokenizer, text, strlen(text), true, &ids, &n, &err), err);
    for (size_t i = 0; i < n && good; i++) {
        const uint64_t *allowed;
        CHECK_OK(hs_constraint_allowed(c, place, NULL, 0, &allowed, &err), err);
        good = allowed[ids[i] / 64] >> ids[i] % 64 & 1;
        assert_int_equal(good, hs_constraint_advance(c, &place, ids[i], &err) == HLWQ_OK);
    }
    hlwq_free(ids);
    return good && hs_constraint_complete(c, place);
}

static void answers_that_call_tools(void **state)
{
    (void)state;
#define TWO "{\"tools\":[{\"name\":\"get\",\"parameters\":" ONE("{\"type\":\"integer\"}") "},{\"name\":\"get_all\"}]"
#define CALL(name, rest) "<tool_call>\n<function=" name ">" rest "</tool_call>"
    static const struct {
        const char *tools, *text;
        bool good;
    } rows[] = {
        {TWO "}", CALL("get", X("5") "\n"), true},
        {TWO "}", CALL("get", X("5")), true},
        {TWO "}", CALL("get", X("five") "\n"), false},
        {TWO "}", CALL("get", "\n</function>\n"), false},
        {TWO "}", CALL("get_all", "\n</function>\n"), true},
        {TWO "}", CALL("get_all", X("five\nor <so>") "\n"), true},
        {TWO "}", CALL("get_all", X("<tool_call>") "\n"), false}, /* there is no text for the token */
        {TWO "}", CALL("get_any", "\n</function>\n"), false},
        {TWO "}", CALL("get_all", "\n<parameter=a<b>\nx\n</parameter>\n</function>\n"), false},
        {TWO "}", CALL("get", X("5") "\n") "\n" CALL("get_all", "\n</function>\n"), true},
        {TWO "}", CALL("get", X("5") "\n") "\n", false},
        {TWO "}", "Well, " CALL("get", X("5") "\n"), false},
        {TWO "}", "true", false},
        {TWO ",\"answer\":{\"type\":\"boolean\"}}", "true", true},
        {TWO ",\"answer\":{\"type\":\"boolean\"}}", CALL("get", X("5") "\n"), true},
        {TWO ",\"answer\":{\"type\":\"string\"}}", "\"a < b\"", true},
        {TWO ",\"answer\":true}", "{\"a\": 1}", true},
        {TWO ",\"answer\":true}", "[]", false},
    };
    hlwq_error err;
    hlwq_constraint *c;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_OK(hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_TOOLS, rows[i].tools, strlen(rows[i].tools), &c, &err),
                 err);
        if (tools_accept(c, rows[i].text) != rows[i].good)
            fail_msg("%s: %s: %d", rows[i].tools, rows[i].text, rows[i].good);
        uint32_t place = hs_constraint_start(c);
        bool follows = hs_constraint_follow(c, &place, rows[i].text, strlen(rows[i].text), &err) == HLWQ_OK;
        if (rows[i].good && !(follows && hs_constraint_complete(c, place)))
            fail_msg("%s: %s is not followed", rows[i].tools, rows[i].text);
        hlwq_constraint_close(c);
    }
    static const char *const bad[][2] = {
        {"{}", "no tools"},
        {"{\"tools\":[]}", "no tools"},
        {"{\"tools\":[{}]}", "tool 1 has no"},
        {"{\"tools\":[{\"name\":\"a\"},{\"name\":\"b>\"}]}", "tool 2 has no"},
        {"{\"tools\":[{\"name\":\"a\",\"parameters\":{\"properties\":{\"x\":{\"not\":{}}}}}]}", "a#/properties/x"},
        {"{\"tools\":[{\"name\":\"a\"}],\"answer\":{\"not\":{}}}", "\"not\""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        hlwq_status st = hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_TOOLS, bad[i][0], strlen(bad[i][0]), &c, &err);
        if (st == HLWQ_OK || !strstr(err.message, bad[i][1]))
            fail_msg("%s: %d, %s", bad[i][0], st, st ? err.message : "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arguments_of_a_call_are_of_their_schema),
        cmocka_unit_test(answers_that_call_tools),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
