/*
 * offload/store_codes.c - the ways in which writers of HLWQ lay their codes down.
 */
#include "offload/store_codes.h"

#include <math.h>
#include <string.h>

void hs_store_unpack_codes(const hs_tensor *t, const uint8_t *raw, uint8_t *code)
{
    switch (t->packing) {
    case HS_PACK_MSB: hs_unpack_msb(raw, hs_dtype_bits(t->dtype), HS_BLOCK, code); return;
    case HS_PACK_LSB: hs_unpack_lsb(raw, hs_dtype_bits(t->dtype), HS_BLOCK, code); return;
    case HS_PACK_HALVES:
        for (uint32_t i = 0; i < HS_BLOCK / 2; i++) {
            code[i] = raw[i] & 15;
            code[i + HS_BLOCK / 2] = raw[i] >> 4;
        }
        return;
    case HS_PACK_BYTES: memcpy(code, raw, HS_BLOCK);
    }
}

enum { LOOKED_AT = 64 /* blocks of a tensor, and tensors */ };

/* Mean over the blocks of the mean square of their levels; blocks without a norm do not count. */
static double mean_square(const hs_tensor *t, const hs_levels *book, const uint8_t *raw, const uint16_t *norm,
                          uint32_t blocks)
{
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t b = 0; b < blocks; b++) {
        uint8_t code[HS_BLOCK];
        if (norm[b] == 0)
            continue;
        hs_store_unpack_codes(t, raw + (size_t)b * hs_hf_block_bytes(t), code);
        for (int i = 0; i < HS_BLOCK; i++)
            sum += (double)book->level[code[i]] * book->level[code[i]];
        n++;
    }
    return n ? sum / ((double)n * HS_BLOCK) : 1.0;
}

/* How far from 1 a tensor is, read in one order and in the other. */
static hlwq_status look_at(const hs_hf *hf, const hs_tensor *t, const hs_levels *book, double off[2], hlwq_error *err)
{
    uint8_t raw[LOOKED_AT * HS_BLOCK];
    uint16_t norm[LOOKED_AT];
    uint64_t blocks = t->norms.bytes / 2;
    hs_tensor view = *t;
    blocks = blocks < LOOKED_AT ? blocks : LOOKED_AT;
    hs_source s = {&view, 0, 1, blocks * HS_BLOCK};
    HS_TRY(hs_hf_read_packed(hf, &s, 0, 1, raw, norm, err));
    for (int way = 0; way < 2; way++) {
        view.packing = way ? HS_PACK_MSB : HS_PACK_LSB;
        off[way] = fabs(mean_square(&view, book, raw, norm, (uint32_t)blocks) - 1.0);
    }
    return HLWQ_OK;
}

hlwq_status hs_store_settle_order(hs_hf *hf, const hs_levels *book, hlwq_error *err)
{
    uint32_t looked = 0;
    bool msb = false;
    for (uint32_t i = 0; i < hf->n_tensors && looked < LOOKED_AT; i++) {
        const hs_tensor *t = &hf->tensor[i];
        double off[2];
        if (!t->unsure)
            continue;
        HS_TRY(look_at(hf, t, &book[t->book], off, err));
        int way = off[1] < off[0];
        if (off[way] > 0.2)
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s: its codes do not fit its levels: their mean square is off by %.2f read "
                           "from the lowest bit up and by %.2f from the highest down, which should be 0",
                           hf->path[t->data.file], t->name, off[0], off[1]);
        if (looked++ && msb != (bool)way)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has its bits in another order than the others",
                           hf->path[t->data.file], t->name);
        msb = way;
    }
    for (uint32_t i = 0; msb && i < hf->n_tensors; i++)
        if (hf->tensor[i].unsure)
            hf->tensor[i].packing = HS_PACK_MSB;
    return HLWQ_OK;
}
