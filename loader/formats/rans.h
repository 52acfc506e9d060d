/*
 * loader/formats/rans.h - entropy-coded integers of .eoq files, a block at a time.
 *
 * A stream has a header of 32 bytes ("RANS", version, symbols, symbols of a block, blocks, size of the alphabet, bits
 * of precision, bytes of data), how often each symbol occurs, where each block begins, and the blocks.  A block is the
 * length of its state, the state from its highest byte down, and the bytes that follow it.  Blocks are decoded by
 * themselves; the table of frequencies is common to all.
 */
#ifndef HS_LOADER_FORMATS_RANS_H
#define HS_LOADER_FORMATS_RANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HS_RANS_HEADER = 32,
    HS_RANS_ALPHABET_MAX = 255,
    HS_RANS_PRECISION_MIN = 8,
    HS_RANS_PRECISION_MAX = 16, /* states then fit 32 bits */
    HS_RANS_BLOCK_MAX = 65536
};

typedef struct hs_rans_header {
    uint32_t symbols, block, blocks, alphabet, precision, data_bytes;
} hs_rans_header;

/* What is wrong with it as words, NULL if nothing is; `bytes` is all that the stream has. */
const char *hs_rans_parse(hs_rans_header *h, const uint8_t raw[HS_RANS_HEADER], uint64_t bytes);

/* Where in the stream the offsets of the blocks begin, and the blocks. */
static inline uint64_t hs_rans_offsets_at(const hs_rans_header *h)
{
    return HS_RANS_HEADER + (uint64_t)h->alphabet * 4;
}

static inline uint64_t hs_rans_data_at(const hs_rans_header *h)
{
    return hs_rans_offsets_at(h) + (uint64_t)h->blocks * 4;
}

/* The most bytes that a block takes: its state, and two for each symbol of the least frequency. */
static inline uint64_t hs_rans_block_bytes(const hs_rans_header *h)
{
    return 5 + (uint64_t)h->block * 2;
}

typedef struct hs_rans_table {
    uint32_t precision;
    uint16_t frequency[HS_RANS_ALPHABET_MAX], first[HS_RANS_ALPHABET_MAX]; /* of 2^precision */
    uint8_t symbol[1u << HS_RANS_PRECISION_MAX];
} hs_rans_table;

/*
 * Frequencies of 2^precision from how often each symbol occurs, [alphabet], as the writer makes them: at least 1 each,
 * what is left over or too much by ones, from the most frequent symbol down.  False if `count` does not sum up to
 * the header's symbols.
 *
 * Not understood: symbols of equal frequency are taken in their own order here. The writer sorts them with a sort that
 * is not stable, so a file could have been made with others; its blocks would then not end as they should.
 */
bool hs_rans_prepare(hs_rans_table *t, const hs_rans_header *h, const uint32_t *count);

/* n symbols of one block; false if the block is not exactly those. `out` is written in either case. */
bool hs_rans_decode(const hs_rans_table *t, const uint8_t *block, size_t bytes, uint8_t *out, uint32_t n);

#endif
