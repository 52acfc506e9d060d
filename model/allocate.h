/*
 * model/allocate.h - which matrices get how many bits, so that the sum of costs is least within a number of bytes.
 */
#ifndef HS_MODEL_ALLOCATE_H
#define HS_MODEL_ALLOCATE_H

#include "base/error.h"

enum { HS_WIDTH_LEAST = 2, HS_WIDTH_MOST = 6, HS_WIDTHS = HS_WIDTH_MOST - HS_WIDTH_LEAST + 1 };

/* One choice: what each width costs and takes, [0] of HS_WIDTH_LEAST bits. Bytes ascend. */
typedef struct hs_choice {
    double cost[HS_WIDTHS];
    uint64_t bytes[HS_WIDTHS];
} hs_choice;

/*
 * The best widths for n choices, to within n / 65536 of the budget (bytes are counted in that many parts of it, rounded
 * up, so the budget holds).  HLWQ_ERR_BUDGET where even the least widths take more, with the number of bytes they take.
 */
hlwq_status hs_allocate(const hs_choice *choice, uint32_t n, uint64_t budget_bytes, uint8_t *width, hlwq_error *err);

#endif
