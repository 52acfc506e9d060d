/*
 * app/ids.c - reads lists of token ids.
 */
#include "app/ids.h"

#include <inttypes.h>
#include <stdlib.h>

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

hlwq_status app_parse_ids(const char *text, size_t bytes, const char *what, uint32_t vocab, int32_t **ids,
                          size_t *count, hlwq_error *err)
{
    size_t words = 0, n = 0, i = 0;
    for (size_t k = 0; k < bytes; k++)
        words += !is_space(text[k]) && (k == 0 || is_space(text[k - 1]));
    *ids = NULL;
    int32_t *out = malloc((words + 1) * sizeof *out);
    if (!out)
        return hs_fail(err, HLWQ_ERR_NOMEM, "%s: no memory for %zu ids", what, words);
    for (;;) {
        while (i < bytes && is_space(text[i]))
            i++;
        if (i == bytes)
            break;
        size_t first = i;
        int64_t id = 0;
        for (; i < bytes && text[i] >= '0' && text[i] <= '9' && id <= INT32_MAX; i++)
            id = id * 10 + (text[i] - '0');
        bool number = i > first && (i == bytes || is_space(text[i]));
        if (!number || id > INT32_MAX || (vocab && id >= vocab)) {
            hlwq_status st = number && id <= INT32_MAX
                                 ? hs_fail(err, HLWQ_ERR_FORMAT, "%s: id %" PRId64 " is outside the vocabulary of %u",
                                           what, id, vocab)
                                 : hs_fail(err, HLWQ_ERR_FORMAT, "%s: no token id at byte %zu", what, first);
            free(out);
            return st;
        }
        out[n++] = (int32_t)id;
    }
    *ids = out;
    *count = n;
    return HLWQ_OK;
}
