/*
 * loader/formats/rans.c - a decoder with one state and steps of a byte.
 */
#include "loader/formats/rans.h"

#include <string.h>

static uint32_t word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

const char *hs_rans_parse(hs_rans_header *h, const uint8_t raw[HS_RANS_HEADER], uint64_t bytes)
{
    *h =
        (hs_rans_header){word(raw + 8), word(raw + 12), word(raw + 16), word(raw + 20), word(raw + 24), word(raw + 28)};
    if (memcmp(raw, "RANS", 4) != 0)
        return "the stream does not begin with RANS";
    if (word(raw + 4) != 1)
        return "the stream is not of version 1";
    if (h->alphabet < 2 || h->alphabet > HS_RANS_ALPHABET_MAX)
        return "the alphabet does not have 2 to 255 symbols";
    if (h->precision < HS_RANS_PRECISION_MIN || h->precision > HS_RANS_PRECISION_MAX)
        return "the precision is not 8 to 16 bits";
    if (h->block < 1 || h->block > HS_RANS_BLOCK_MAX)
        return "blocks do not have 1 to 65536 symbols";
    if (h->symbols < 1 || h->blocks != (h->symbols - 1) / h->block + 1)
        return "the number of blocks is not that of the symbols";
    if (hs_rans_data_at(h) + h->data_bytes != bytes)
        return "header, counts, offsets and data do not add up to its size";
    return NULL;
}

/* Symbols by falling frequency; of equal ones the lower first. */
static void sort_symbols(const uint32_t *frequency, uint32_t n, uint8_t *order)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i;
        for (; k > 0 && frequency[order[k - 1]] < frequency[i]; k--)
            order[k] = order[k - 1];
        order[k] = (uint8_t)i;
    }
}

bool hs_rans_prepare(hs_rans_table *t, const hs_rans_header *h, const uint32_t *count)
{
    const uint32_t n = h->alphabet, all = 1u << h->precision;
    uint32_t frequency[HS_RANS_ALPHABET_MAX], sum = 0, at = 0;
    uint64_t counted = 0, total = 0;
    uint8_t order[HS_RANS_ALPHABET_MAX];
    for (uint32_t i = 0; i < n; i++) {
        counted += count[i];
        total += count[i] ? count[i] : 1;
    }
    if (counted != h->symbols)
        return false;
    for (uint32_t i = 0; i < n; i++) { /* in doubles, as the writer does: the product of integers can differ by one */
        uint32_t f = (uint32_t)((double)(count[i] ? count[i] : 1) / (double)total * (double)all);
        frequency[i] = f ? f : 1;
        sum += frequency[i];
    }
    sort_symbols(frequency, n, order);
    for (uint32_t k = 0; sum != all; k = (k + 1) % n) {
        uint32_t *f = &frequency[order[k]];
        if (sum < all) {
            ++*f;
            sum++;
        } else if (*f > 1) {
            --*f;
            sum--;
        }
    }
    t->precision = h->precision;
    for (uint32_t i = 0; i < n; at += frequency[i++]) {
        t->frequency[i] = (uint16_t)frequency[i]; /* of two symbols or more neither has all */
        t->first[i] = (uint16_t)at;
        memset(t->symbol + at, (int)i, frequency[i]);
    }
    return true;
}

bool hs_rans_decode(const hs_rans_table *t, const uint8_t *block, size_t bytes, uint8_t *out, uint32_t n)
{
    const uint32_t bits = t->precision, mask = (1u << bits) - 1, least = 1u << (bits + 8);
    const uint8_t *p = block, *end = block + bytes;
    const uint32_t length = bytes ? *p++ : 0;
    uint32_t x = 0;
    bool whole = length >= 1 && length <= 4 && length < bytes;
    for (uint32_t i = 0; whole && i < length; i++)
        x = x << 8 | *p++;
    whole = whole && x >= least && (x >> bits) >> 16 == 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = x & mask, s = t->symbol[slot];
        out[i] = (uint8_t)s;
        x = t->frequency[s] * (x >> bits) + slot - t->first[s];
        while (x < least && p < end)
            x = x << 8 | *p++;
    }
    return whole && x == least && p == end;
}
