/* tests/support/constraint.h - the demo model's tokenizer, and whether a constraint takes a text as a whole. */
#ifndef HS_TESTS_CONSTRAINT_H
#define HS_TESTS_CONSTRAINT_H

#include "model/constraint.h"
#include "tests/support/check.h"

#include <locale.h>

static hlwq_tokenizer *tokenizer;

/* Is `text`, given byte for byte, a whole text of the constraint? */
static bool accepts(hlwq_constraint *c, const char *text)
{
    hlwq_error err;
    uint32_t place = hs_constraint_start(c);
    for (const char *p = text; *p; p++) {
        int32_t *ids;
        size_t n;
        CHECK_OK(hlwq_tokenize(tokenizer, p, 1, false, &ids, &n, &err), err);
        hlwq_status st = hs_constraint_advance(c, &place, ids[0], &err);
        hlwq_free(ids);
        if (st != HLWQ_OK)
            return false;
    }
    return hs_constraint_complete(c, place);
}

static int open_tokenizer(void **state)
{
    hlwq_error err;
    (void)state;
    setlocale(LC_CTYPE, "C.UTF-8"); /* the judge's expressions are over characters */
    return hlwq_tokenizer_open("tests/golden/tokenizer/demo-tokenizer.json", &tokenizer, &err) != HLWQ_OK;
}

static int close_tokenizer(void **state)
{
    (void)state;
    hlwq_tokenizer_close(tokenizer);
    return 0;
}

#endif
