/*
 * offload/spill.h - keys and values that are not in memory: in a file without a name, from which attention reads them.
 *
 * A page goes there once, when newer ones need its place.  Attention asks for the pages of a layer in order and gets
 * windows of HS_SPILL_WINDOW; while it is busy with one, the next is read.  The file is gone with the program, however
 * that ends.
 */
#ifndef HS_OFFLOAD_SPILL_H
#define HS_OFFLOAD_SPILL_H

#include "base/mem.h"

enum { HS_SPILL_WINDOW = 16 /* pages: as many of any --kv are a multiple of 4096 bytes */ };

typedef struct hs_spill hs_spill;

typedef struct hs_spill_stats {
    uint64_t written_bytes, read_bytes, wait_ns; /* wait: nothing to attend to until a read was done */
} hs_spill_stats;

/* In the folder `dir`, for `pages` pages of `page_bytes` of each of `layers` layers. */
hlwq_status hs_spill_open(hs_spill **spill, hs_mem *mem, const char *dir, uint32_t layers, uint32_t pages,
                          uint64_t page_bytes, hlwq_error *err);
void hs_spill_close(hs_spill *s); /* NULL is fine */

/* Memory that it takes, about. */
uint64_t hs_spill_bytes(uint64_t page_bytes);

/* A part of a page. */
hlwq_status hs_spill_put(hs_spill *s, uint32_t layer, uint32_t page, uint64_t offset, const void *data, uint64_t bytes,
                         hlwq_error *err);
hlwq_status hs_spill_get(hs_spill *s, uint32_t layer, uint32_t page, uint64_t offset, void *out, uint64_t bytes,
                         hlwq_error *err);

/*
 * Pages from..*end-1 of a layer, one after another at *data until the next call; `from` is a multiple of the window,
 * and pages from `pages` on are not in the file.
 */
hlwq_status hs_spill_window(hs_spill *s, uint32_t layer, uint32_t from, uint32_t pages, uint32_t *end, uint8_t **data,
                            hlwq_error *err);

hs_spill_stats hs_spill_get_stats(const hs_spill *s);

#endif
