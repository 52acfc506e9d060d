/*
 * offload/lower.h - keys and values that are not in a backend's own memory: in ordinary memory, the oldest in a file.
 *
 * Rows (a page of every layer) come down in order, the oldest first.  Attention asks for the pages of a layer in order
 * and gets some of them in the backend's memory: while it computes on these, the next are copied up.
 */
#ifndef HS_OFFLOAD_LOWER_H
#define HS_OFFLOAD_LOWER_H

#include "kernels/backend.h"
#include "offload/spill.h"

/* Who makes room for `bytes` that are about to be taken, and hears of those that were given back. */
typedef struct hs_room {
    hlwq_status (*take)(void *user, uint64_t bytes, hlwq_error *err);
    void (*give)(void *user, uint64_t bytes);
    void *user;
} hs_room;

typedef struct hs_lower_options {
    uint32_t layers, rows; /* that may come down at most */
    uint32_t memory_rows;  /* of them in ordinary memory, the newest; at least 1 */
    uint32_t step_rows;    /* for which memory is taken at once */
    uint64_t page_bytes;
    const char *dir; /* of the file; NULL = none, if memory_rows are all */
} hs_lower_options;

typedef struct hs_lower hs_lower;

hlwq_status hs_lower_open(hs_lower **lower, hs_mem *mem, hs_backend *backend, const hs_lower_options *options,
                          hlwq_error *err);
void hs_lower_close(hs_lower *l); /* NULL is fine */

/* Asked before memory for rows is taken; until it is set nobody is. */
void hs_lower_set_room(hs_lower *l, const hs_room *room);

extern uint64_t hs_lower_copy_bytes; /* that are copied up at once, about; tests have their own */

/* Bytes of the windows in the backend's memory; of the rest beside rows in ordinary memory, about. */
uint64_t hs_lower_window_bytes(uint64_t page_bytes);
uint64_t hs_lower_bytes(const hs_lower_options *options);

/* The next row comes down from page[layers] in the backend's memory. */
hlwq_status hs_lower_take(hs_lower *l, void *const *page, hlwq_error *err);

/* Only the first `rows` are left; the last one first goes back up to page[layers], if that is not NULL. */
hlwq_status hs_lower_cut(hs_lower *l, uint32_t rows, void *const *page, hlwq_error *err);

uint32_t hs_lower_memory_rows(const hs_lower *l); /* at most */

/* A part of a page. */
hlwq_status hs_lower_put(hs_lower *l, uint32_t layer, uint32_t row, uint64_t offset, const void *data, uint64_t bytes,
                         hlwq_error *err);
hlwq_status hs_lower_get(hs_lower *l, uint32_t layer, uint32_t row, uint64_t offset, void *out, uint64_t bytes,
                         hlwq_error *err);

/*
 * Pages from..*end-1 of a layer, one after another at *data in the backend's memory, for stages asked for until the
 * next call.
 */
hlwq_status hs_lower_window(hs_lower *l, uint32_t layer, uint32_t from, uint32_t *end, uint8_t **data, hlwq_error *err);

typedef struct hs_lower_stats {
    uint64_t down_bytes, up_bytes; /* to ordinary memory; copied up to windows */
    hs_spill_stats file;
} hs_lower_stats;

hs_lower_stats hs_lower_get_stats(const hs_lower *l);

#endif
