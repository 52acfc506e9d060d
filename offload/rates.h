/*
 * offload/rates.h - how fast this machine moves and multiplies weights: what plans and first shares are reckoned with.
 */
#ifndef HS_OFFLOAD_RATES_H
#define HS_OFFLOAD_RATES_H

#include "base/threads.h"
#include "offload/beside.h"
#include "offload/split.h"

/*
 * Of the card that plans reckon with where there is none: the slowest of those with 8 GB that the project is for (an
 * RTX 4060 on PCIe 4.0 x8).  Exchanges with the CPU within a layer, and what each of them takes.
 */
#define HS_RATE_CARD_ASSUMED 272e9
#define HS_RATE_UPLOAD_ASSUMED 12.8e9
#define HS_RATE_EXCHANGE_SECONDS 15e-6
enum { HS_RATE_EXCHANGES = 4 };

/* What a layer takes on a card whatever it reads, a mixture's and another's: assumed until one is measured. */
#define HS_RATE_MIXTURE_SECONDS 25e-6
#define HS_RATE_LAYER_SECONDS 12e-6

/*
 * What a layer takes more where some of its experts are copied up while it waits: the host then has to hear from the
 * card in the middle of it.  Assumed as well.
 */
#define HS_RATE_WAIT_SECONDS 22e-6

/*
 * Weights a second, in bytes, that the CPU multiplies with for so many tokens at once, of the kind that streamed groups
 * have most of.  0 if nothing of them can be split.
 */
hlwq_status hs_rates_product(hs_mem *mem, hs_pool *pool, const hs_table *table, uint32_t tokens, uint64_t bytes,
                             double *rate, hlwq_error *err);

/* Bytes a second; 0 = not known. */
typedef struct hs_rates {
    double product; /* weights that the CPU multiplies with */
    double memory;  /* ordinary memory is read at: copies are taken of the same */
    double upload;  /* copies to the card */
    double card;    /* the card reads its memory at */
    double eight;   /* as `product`, for eight tokens at once: of experts, for prompts */
} hs_rates;

/*
 * Those that a share is reckoned from, from measurements over `bytes` bytes at most, charged to `mem` and `vram` (which
 * hold little yet) while they last.  The card's are assumed where they cannot be measured.
 */
hs_rates hs_rates_measure(hs_mem *mem, hs_mem *vram, hs_pool *pool, const hs_table *table, uint64_t bytes);

/* A token of a dense model whose layers do not all stay on the card: seconds of who is busy, and in all. */
typedef struct hs_split_time {
    double share; /* of what can be shared of the other layers: the CPU's */
    double cpu, copies, card, all;
} hs_split_time;

/*
 * Copies go on beside all else; the CPU and the card wait for each other.  `kept` layers stay, and the card reads
 * `trunk_bytes` more.  A share below 0 is chosen: with it the copies take as long as all else.
 */
hs_split_time hs_rates_split(const hs_table *table, const hs_rates *rates, uint32_t kept, uint64_t trunk_bytes,
                             double share);

/* What an expert of the table takes; zeros where its rates are not known. */
hs_beside_rates hs_rates_beside(const hs_table *table, const hs_rates *rates);

/* Experts of a layer that are not among `kept` of all, if a token chooses by chance. */
double hs_rates_missing(const hs_table *table, uint32_t kept);

#endif
