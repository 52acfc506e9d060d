/*
 * kernels/card.c - what the CUDA backend takes on a card: known also where there is none, so that it can be planned.
 */
#include "kernels/backend.h"

static uint64_t piece(uint64_t n, uint64_t item)
{
    return (n * item + 255) / 256 * 256;
}

static uint64_t q8(uint64_t rows, uint64_t cols)
{
    uint64_t blocks = rows * ((cols + HS_BLOCK - 1) / HS_BLOCK);
    return piece(blocks, HS_BLOCK) + piece(2 * blocks, 8);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t pages(uint64_t bytes)
{
    return (bytes + HS_CARD_PAGE_BYTES - 1) / HS_CARD_PAGE_BYTES * HS_CARD_PAGE_BYTES;
}

uint64_t hs_card_block_bytes(uint64_t bytes)
{
    return bytes > HS_CARD_PAGE_BYTES / 2 ? pages(bytes) : (bytes + 511) / 512 * 512;
}

uint64_t hs_card_shared_bytes(uint64_t bytes)
{
    return pages(bytes);
}

static uint64_t batch_of(const hs_limits *m)
{
    return m->batch && m->batch < HS_BATCH_MAX ? m->batch : HS_BATCH_MAX;
}

/* Inputs of a mixer, its output, or what gate and up make. */
uint64_t hs_split_width(const hs_limits *m)
{
    uint64_t in = larger(m->q_width + 2ull * m->kv_width, (uint64_t)m->channels + m->v_width);
    return larger(larger(in, m->ffn_width), m->hidden);
}

/* As lay_out_staging there has it. */
uint64_t hs_backend_cuda_staging_bytes(const hs_limits *m)
{
    uint64_t b = batch_of(m), picks = b * m->used, f = sizeof(float), some = HS_SPLIT_TOKENS;
    uint64_t sums = m->experts ? picks * m->hidden : some * m->hidden;
    uint64_t steps = (uint64_t)HS_CARD_STEP_TOKENS * m->used; /* picks of a step */
    return piece(b * m->hidden, f) + piece((m->experts ? b : some) * m->hidden, f) +
           piece(m->experts ? 0 : some * hs_split_width(m), f) + piece(sums, f) + 4 * piece(picks, 4) +
           piece(m->experts + 2, 4) + piece(3 * (uint64_t)m->experts, HS_CARD_JOB_BYTES) +
           piece(m->mixtures * steps, HS_CARD_CHOICE_BYTES) + piece((uint64_t)m->mixtures * m->used, 4) +
           2 * piece(1, 4) + piece(m->mixtures, 4) + piece(m->mixtures, sizeof(void *)) +
           piece(m->experts, HS_CARD_VISIT_BYTES) + piece(m->experts, 4) + HS_CARD_RING_BYTES;
}

/* In the order of lay_out in kernels/cuda/backend_cuda.cu, which asserts that it comes to the same. */
uint64_t hs_backend_cuda_bytes(const hs_limits *m)
{
    uint64_t b = batch_of(m), f = sizeof(float);
    uint64_t picks = b * m->used, wide = larger(m->v_width, m->q_width / 2), rows = b * m->ffn_rows;
    uint64_t q_heads = m->head_dim ? m->q_width / 2 / m->head_dim : 0;
    uint64_t steps = (uint64_t)HS_CARD_STEP_TOKENS * m->used; /* picks of a step */
    uint64_t joint = m->joins ? 2ull * m->hidden : 0;
    uint64_t proj =
        larger(larger(m->q_width + 2ull * m->kv_width, m->channels + m->v_width + 2ull * m->v_heads), joint);
    uint64_t own = m->ordered ? b : 0, widest = larger(larger(wide, m->ffn_width), larger(m->hidden, joint));
    return piece(b * m->hidden, f) + q8(b, m->hidden) + piece(b * proj, f) + piece(b * m->channels, f) +
           piece(b * larger(wide, 2ull * m->used), f) + q8(b, larger(wide, larger(m->hidden, joint))) +
           q8(own, widest) + piece(b * m->hidden, f) + 2 * piece(rows * m->ffn_width, f) + q8(rows, m->ffn_width) +
           piece(m->experts ? rows * m->hidden : 0, f) + piece(b * m->experts, f) + piece(b, f) + 2 * piece(picks, f) +
           2 * piece(picks, f) + piece(3 * larger(m->experts, steps), HS_CARD_JOB_BYTES) +
           piece((b + 1) * m->head_dim, f) + piece((uint64_t)m->mixtures * m->experts, 8) + piece(m->mixtures, 4) +
           piece(steps, HS_CARD_CHOICE_BYTES) + piece(1, 4) + piece(HS_CARD_STEP_TOKENS, 4) +
           piece(HS_CARD_STEP_TOKENS, sizeof(hs_bases)) +
           piece((uint64_t)HS_CARD_SPANS * (m->q_width / 2 + 2 * q_heads), f) +
           piece((uint64_t)HS_CARD_LOGITS * m->vocab, f);
}

/* Four steps of one token, whose layers have up to 24 launches, and a few besides: what is used most is kept. */
uint64_t hs_backend_cuda_recorded_bytes(const hs_limits *m)
{
    return 4 * (24ull * m->layers + 8) * HS_CARD_NODE_BYTES;
}
