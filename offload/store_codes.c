/*
 * offload/store_codes.c - the ways in which writers of HLWQ lay their codes down.
 */
#include "offload/store_codes.h"

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
