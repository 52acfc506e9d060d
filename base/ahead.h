/*
 * base/ahead.h - files read ahead past the page cache, for those who read all of a large file once.
 *
 * What hs_file_ahead asks for is read in windows of 1 MiB by threads of its own into memory that is kept, and
 * hs_file_read takes it from there; what was not asked for, or pushed out since, it reads as ever.  Copying out of the
 * page cache and finding pages for it would cost more time of a core than a fast disk takes to read.
 */
#ifndef HS_BASE_AHEAD_H
#define HS_BASE_AHEAD_H

#include "base/mem.h"

#define HS_AHEAD_WINDOW (1ull << 20)

typedef struct hs_ahead hs_ahead;

/* `bytes` of windows, at least four of them and at most 256, charged as HS_MEM_IO. */
hlwq_status hs_ahead_open(hs_ahead **ahead, hs_mem *mem, uint64_t bytes, hlwq_error *err);
void hs_ahead_close(hs_ahead *ahead); /* after all files that read with it are closed; NULL is fine */

/* `fd` is open with O_DIRECT; bytes offset..offset + bytes - 1 of its `file_bytes` will be read, in about this order.
 */
void hs_ahead_ask(hs_ahead *ahead, int fd, uint64_t file_bytes, uint64_t offset, uint64_t bytes);

/* Forgets what was asked of it and waits for what is under way; before it is closed. */
void hs_ahead_forget(hs_ahead *ahead, int fd);

/*
 * Copies what a window has from `offset` on, at most `bytes`, and waits for one that is to come.  Returns how much that
 * was; 0 where there is none.
 */
uint64_t hs_ahead_take(hs_ahead *ahead, int fd, uint64_t offset, void *out, uint64_t bytes);

/* Bytes read since the last call, and for how long at least one read was under way. */
void hs_ahead_tally(hs_ahead *ahead, uint64_t *bytes, uint64_t *ns);

#endif
