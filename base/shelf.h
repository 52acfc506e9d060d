/*
 * base/shelf.h - buffers that are needed again and again, without fetching clean pages from the system each time.
 *
 * Clearing a page costs about as much as copying it.  What is on the shelf stays charged to its tag.  May be used by
 * several threads at once.
 */
#ifndef HS_BASE_SHELF_H
#define HS_BASE_SHELF_H

#include "base/mem.h"

#include <pthread.h>

enum { HS_SHELF_ROOM = 64 };

typedef struct hs_shelf {
    hs_mem *mem;
    hs_mem_tag tag;
    pthread_mutex_t lock;
    uint64_t keep_bytes, kept_bytes;
    uint32_t n;
    struct {
        void *data;
        uint64_t bytes;
    } kept[HS_SHELF_ROOM];
} hs_shelf;

/* At most `keep_bytes` stay on the shelf; 0 = nothing does. `mem` must outlive it. */
void hs_shelf_open(hs_shelf *shelf, hs_mem *mem, hs_mem_tag tag, uint64_t keep_bytes);
void hs_shelf_close(hs_shelf *shelf); /* with everything given back */

/* At least `bytes` bytes, as hs_mem_alloc aligns them, but with anything in them; *got is what to give back. */
hlwq_status hs_shelf_take(hs_shelf *shelf, uint64_t bytes, const char *what, void **out, uint64_t *got,
                          hlwq_error *err);
void hs_shelf_give(hs_shelf *shelf, void *data, uint64_t got); /* NULL is fine */

#endif
