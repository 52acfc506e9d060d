/*
 * model/lookup.c - one pass over the text, from its end.
 */
#include "model/lookup.h"

uint32_t hs_lookup(const int32_t *text, uint32_t n, uint32_t *at)
{
    uint32_t best = 0;
    for (uint32_t end = n; end-- > HS_LOOKUP_MIN && best < HS_LOOKUP_MAX;) { /* a place that ends before text[end] */
        if (text[end - 1] != text[n - 1])
            continue;
        uint32_t length = 1;
        while (length < HS_LOOKUP_MAX && length < end && text[end - 1 - length] == text[n - 1 - length])
            length++;
        if (length > best) {
            best = length;
            *at = end;
        }
    }
    return best >= HS_LOOKUP_MIN ? best : 0;
}
