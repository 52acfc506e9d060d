/*
 * model/allocate.c - dynamic programming: the least cost of the first i choices within b parts of the budget.
 */
#include "model/allocate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { PARTS = 65536 };

/* Takes choice `c` on top of what `best` [PARTS + 1] has; took[b] = the width it gets where b parts may be used. */
static void add_choice(const hs_choice *c, double unit, double *best, double *next, uint8_t *took)
{
    uint32_t parts[HS_WIDTHS];
    for (int w = 0; w < HS_WIDTHS; w++) {
        double p = ceil((double)c->bytes[w] / unit);
        parts[w] = p > PARTS ? PARTS + 1 : (uint32_t)p;
    }
    for (uint32_t b = 0; b <= PARTS; b++) {
        next[b] = INFINITY;
        took[b] = 0;
        for (int w = 0; w < HS_WIDTHS && parts[w] <= b; w++)
            if (best[b - parts[w]] + c->cost[w] < next[b]) {
                next[b] = best[b - parts[w]] + c->cost[w];
                took[b] = (uint8_t)w;
            }
    }
}

static void walk_back(const hs_choice *choice, uint32_t n, double unit, const uint8_t *took, uint8_t *width)
{
    uint32_t b = PARTS;
    for (uint32_t i = n; i-- > 0;) {
        uint8_t w = took[(size_t)i * (PARTS + 1) + b];
        width[i] = (uint8_t)(HS_WIDTH_LEAST + w);
        b -= (uint32_t)ceil((double)choice[i].bytes[w] / unit);
    }
}

hlwq_status hs_allocate(const hs_choice *choice, uint32_t n, uint64_t budget, uint8_t *width, hlwq_error *err)
{
    uint64_t least = 0;
    for (uint32_t i = 0; i < n; i++)
        least += choice[i].bytes[0];
    double *best = calloc(2 * (PARTS + 1), sizeof *best), unit = (double)budget / PARTS;
    uint8_t *took = malloc((size_t)n * (PARTS + 1) + 1);
    hlwq_status st = best && took ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to distribute bits");
    if (st == HLWQ_OK) {
        double *now = best, *next = best + PARTS + 1;
        for (uint32_t i = 0; i < n && budget > 0; i++) {
            add_choice(&choice[i], unit, now, next, took + (size_t)i * (PARTS + 1));
            double *swap = now;
            now = next;
            next = swap;
        }
        if (budget == 0 || isinf(now[PARTS]))
            st = hs_fail(err, HLWQ_ERR_BUDGET,
                         "the matrices take %" PRIu64 " bytes with %d bits each, and %" PRIu64 " are left for them",
                         least, HS_WIDTH_LEAST, budget);
        else
            walk_back(choice, n, unit, took, width);
    }
    free(best);
    free(took);
    return st;
}
