/* base/error.c: sentences that a terminal cannot be tricked with. */
#include "tests/support/check.h"

static hlwq_status inner(hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_IO, "it is %d", 7);
}

static hlwq_status outer(hlwq_error *err)
{
    HS_TRY(inner(err));
    return HLWQ_OK;
}

static void failures_pass_up_with_their_sentence(void **state)
{
    (void)state;
    hlwq_error err;
    CHECK_FAILS(outer(&err), HLWQ_ERR_IO, err, "it is 7");
    assert_int_equal(outer(NULL), HLWQ_ERR_IO);
    assert_int_equal(hs_fail_in(&err, HLWQ_ERR_IO, "file %s", "x"), HLWQ_ERR_IO);
    assert_string_equal(err.message, "file x: it is 7");
}

static void control_characters_are_escaped(void **state)
{
    (void)state;
    hlwq_error err;
    hs_fail(&err, HLWQ_ERR_FORMAT, "name %s", "a\x1b[31mb\nc\xff\xc3\xa9\xc2\x9b");
    assert_string_equal(err.message, "name a\\x1b[31mb\\x0ac\\xff\xc3\xa9\\xc2\\x9b");
}

static void long_sentences_are_cut_not_overrun(void **state)
{
    (void)state;
    hlwq_error err;
    char *text = malloc(5000);
    memset(text, 1, 4999); /* each byte becomes four */
    text[4999] = 0;
    hs_fail(&err, HLWQ_ERR_FORMAT, "%s", text);
    assert_true(strlen(err.message) < sizeof err.message);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_pass_up_with_their_sentence),
        cmocka_unit_test(control_characters_are_escaped),
        cmocka_unit_test(long_sentences_are_cut_not_overrun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
