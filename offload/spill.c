/*
 * offload/spill.c - a file [layer][page], two windows of memory, reads through a stream.
 *
 * Reads go through the page cache: what the system can spare of it makes them quicker, and it takes that back by
 * itself.
 */
#define _GNU_SOURCE
#include "offload/spill.h"

#include "base/clock.h"
#include "base/size.h"
#include "stream/stream.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, PATH_MAX_BYTES = 4096 };

/* One of the two. */
typedef struct window {
    hs_transfer transfer;
    uint8_t *data;
    uint32_t layer, from;
    bool asked, there;
} window;

struct hs_spill {
    hs_mem *mem;
    hs_stream *stream;
    void *block;
    int fd;
    uint32_t layers, pages; /* pages: a multiple of the window */
    uint64_t page_bytes;
    window window[2];
    hs_spill_stats stats;
    char dir[256];
};

uint64_t hs_spill_bytes(uint64_t page_bytes)
{
    return 2 * HS_SPILL_WINDOW * page_bytes + 64 * 1024;
}

static uint64_t offset_of(const hs_spill *s, uint32_t layer, uint32_t page)
{
    return ((uint64_t)layer * s->pages + page) * s->page_bytes;
}

/* ---- opening -------------------------------------------------------------------------------- */

static int nameless_file(const char *dir)
{
    char path[PATH_MAX_BYTES];
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT))
        return fd;
    if (snprintf(path, sizeof path, "%s/hlwq-XXXXXX", dir) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC); /* a file system that knows no files without a name */
    if (fd >= 0)
        (void)unlink(path);
    return fd;
}

static hlwq_status open_parts(hs_spill *s, hlwq_error *err)
{
    char path[64];
    uint64_t window_bytes = HS_SPILL_WINDOW * s->page_bytes;
    s->fd = nameless_file(s->dir);
    if (s->fd < 0)
        return hs_fail(err, HLWQ_ERR_IO, "no file for keys and values in %s: %s", s->dir, strerror(errno));
    uint64_t bytes = offset_of(s, s->layers, 0);
    if (ftruncate(s->fd, (off_t)bytes) != 0)
        return hs_fail(err, HLWQ_ERR_IO, "a file of %" PRIu64 " bytes for keys and values in %s: %s", bytes, s->dir,
                       strerror(errno));
    HS_TRY(hs_mem_alloc(s->mem, HS_MEM_IO, 2 * window_bytes + PAGE, "keys and values from the file", &s->block, err));
    s->window[0].data = (uint8_t *)hs_align_up((uintptr_t)s->block, PAGE);
    s->window[1].data = s->window[0].data + window_bytes;
    hs_stream_options o = hs_stream_options_default();
    o.direct = HS_DIRECT_OFF;
    o.file = s->fd;
    o.depth = 8;
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
    return hs_stream_open(&s->stream, s->mem, path, &o, err);
}

hlwq_status hs_spill_open(hs_spill **out, hs_mem *mem, const char *dir, uint32_t layers, uint32_t pages,
                          uint64_t page_bytes, hlwq_error *err)
{
    void *p;
    *out = NULL;
    assert(HS_SPILL_WINDOW * page_bytes % PAGE == 0);
    if (strlen(dir) >= sizeof((hs_spill *)0)->dir)
        return hs_fail(err, HLWQ_ERR_ARG, "the name of the folder for keys and values is longer than %zu bytes",
                       sizeof((hs_spill *)0)->dir - 1);
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, sizeof(hs_spill), "file of keys and values", &p, err));
    hs_spill *s = p;
    *s = (hs_spill){.mem = mem,
                    .fd = -1,
                    .layers = layers,
                    .pages = (uint32_t)hs_align_up(pages, HS_SPILL_WINDOW),
                    .page_bytes = page_bytes};
    memcpy(s->dir, dir, strlen(dir) + 1);
    hlwq_status st = open_parts(s, err);
    if (st != HLWQ_OK) {
        hs_spill_close(s);
        return st;
    }
    *out = s;
    return HLWQ_OK;
}

/* Nothing is being read any more. */
static void settle(hs_spill *s)
{
    while (s->stream && hs_stream_pending(s->stream)) {
        hs_transfer *t = hs_stream_next(s->stream, true);
        window *w = &s->window[t->user];
        w->there = t->status == HLWQ_OK;
    }
}

void hs_spill_close(hs_spill *s)
{
    if (!s)
        return;
    settle(s);
    hs_stream_close(s->stream);
    hs_mem_free(s->mem, s->block);
    if (s->fd >= 0)
        close(s->fd);
    hs_mem_free(s->mem, s);
}

/* ---- parts of pages ------------------------------------------------------------------------- */

hlwq_status hs_spill_put(hs_spill *s, uint32_t layer, uint32_t page, uint64_t offset, const void *data, uint64_t bytes,
                         hlwq_error *err)
{
    assert(layer < s->layers && page < s->pages && offset + bytes <= s->page_bytes);
    const uint8_t *from = data;
    off_t at = (off_t)(offset_of(s, layer, page) + offset);
    settle(s);
    for (int i = 0; i < 2; i++) /* what was read ahead of this is old now */
        if (s->window[i].asked && s->window[i].layer == layer && page - s->window[i].from < HS_SPILL_WINDOW)
            s->window[i].asked = false;
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pwrite(s->fd, from + done, bytes - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return hs_fail(err, HLWQ_ERR_IO, "keys and values could not be written to the file in %s: %s", s->dir,
                           n ? strerror(errno) : "nothing was taken");
        done += (uint64_t)n;
    }
    s->stats.written_bytes += bytes;
    return HLWQ_OK;
}

hlwq_status hs_spill_get(hs_spill *s, uint32_t layer, uint32_t page, uint64_t offset, void *out, uint64_t bytes,
                         hlwq_error *err)
{
    assert(layer < s->layers && page < s->pages && offset + bytes <= s->page_bytes);
    off_t at = (off_t)(offset_of(s, layer, page) + offset);
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(s->fd, (uint8_t *)out + done, bytes - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return hs_fail(err, HLWQ_ERR_IO, "keys and values could not be read from the file in %s: %s", s->dir,
                           n ? strerror(errno) : "it ends before");
        done += (uint64_t)n;
    }
    s->stats.read_bytes += bytes;
    return HLWQ_OK;
}

/* ---- windows -------------------------------------------------------------------------------- */

static void ask(hs_spill *s, uint32_t i, uint32_t layer, uint32_t from)
{
    window *w = &s->window[i];
    w->layer = layer;
    w->from = from;
    w->asked = true;
    w->there = false;
    w->transfer = (hs_transfer){
        .offset = offset_of(s, layer, from), .bytes = HS_SPILL_WINDOW * s->page_bytes, .to = w->data, .user = i};
    hs_stream_read(s->stream, &w->transfer);
}

hlwq_status hs_spill_window(hs_spill *s, uint32_t layer, uint32_t from, uint32_t pages, uint32_t *end, uint8_t **data,
                            hlwq_error *err)
{
    assert(from % HS_SPILL_WINDOW == 0 && from < pages && pages <= s->pages);
    uint64_t start = hs_now_ns();
    settle(s);
    uint32_t i = 0;
    while (i < 2 && !(s->window[i].asked && s->window[i].layer == layer && s->window[i].from == from))
        i++;
    if (i == 2)
        ask(s, i = 0, layer, from);
    settle(s);
    window *w = &s->window[i];
    s->stats.wait_ns += hs_now_ns() - start;
    if (!w->there) {
        w->asked = false;
        if (w->transfer.status == HLWQ_OK)
            return hs_fail(err, HLWQ_ERR_IO, "keys and values could not be read from the file in %s", s->dir);
        if (err)
            *err = w->transfer.error;
        return w->transfer.status;
    }
    s->stats.read_bytes += w->transfer.bytes;
    *end = pages - from < HS_SPILL_WINDOW ? pages : from + HS_SPILL_WINDOW;
    *data = w->data;
    ask(s, 1 - i, *end < pages ? layer : (layer + 1) % s->layers, *end < pages ? *end : 0);
    return HLWQ_OK;
}

hs_spill_stats hs_spill_get_stats(const hs_spill *s)
{
    return s->stats;
}
