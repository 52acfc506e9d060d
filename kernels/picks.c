/*
 * kernels/picks.c - the choices of a batch, by expert.
 */
#include "kernels/backend.h"

void hs_sort_picks(const int32_t *id, uint32_t picks, uint32_t used, uint32_t experts, uint32_t *start, uint32_t *list,
                   uint32_t *slot)
{
    memset(start, 0, (experts + 2) * sizeof *start);
    uint32_t *next = start + 1; /* shifted by one, so that counting up leaves the starts behind */
    for (uint32_t i = 0; i < picks; i++)
        next[id[i] + 1]++;
    for (uint32_t e = 0; e < experts; e++)
        next[e + 1] += next[e];
    for (uint32_t i = 0; i < picks; i++) {
        uint32_t at = next[id[i]]++;
        list[at] = i / used;
        slot[i] = at;
    }
}
