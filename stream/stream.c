/*
 * stream/stream.c - splits transfers into requests, keeps the engine busy, resumes and retries.
 */
#define _GNU_SOURCE
#include "stream/stream.h"

#include "base/clock.h"
#include "base/file.h"
#include "stream/engine.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, DEPTH_MAX = 256, TRIES_MAX = 5 };

struct hs_stream {
    hs_mem *mem;
    int fd;
    hs_io io;
    bool direct;
    hs_stream_options o;
    const hs_engine_ops *ops;
    hs_engine *engine;
    uint64_t file_bytes;
    hs_transfer *waiting, **waiting_last; /* not wholly asked for */
    hs_transfer *done, **done_last;       /* finished, not given back */
    uint32_t pending, in_flight;
    hs_request *spare;
    uint64_t started_ns, random;
    hs_stream_stats stats;
    uint64_t fail_at; /* completions until the planted failure; UINT64_MAX = never */
    int fail_result;
    uint64_t refuse_at; /* likewise submissions */
    int refuse_code;
    bool has_buffers, is_cached;
    char path[512], reason[160];
    hs_request request[];
};

static const char *const io_name[HS_IO_COUNT] = {"auto", "uring", "pread", "mmap"};

const char *hs_io_name(hs_io io)
{
    return io_name[io];
}

bool hs_io_of(const char *name, hs_io *io)
{
    for (int i = 0; i < HS_IO_COUNT; i++)
        if (strcasecmp(name, io_name[i]) == 0) {
            *io = (hs_io)i;
            return true;
        }
    return false;
}

hs_stream_options hs_stream_options_default(void)
{
    return (hs_stream_options){.io = HS_IO_AUTO, .file = -1, .depth = 32, .request_bytes = 512 << 10};
}

/* ---- opening -------------------------------------------------------------------------------- */

/* The path, or another descriptor of the very file that `o.file` is. */
static int open_again(const hs_stream *s, const char *path, int flags)
{
    return s->o.file < 0 ? open(path, flags) : hs_open_again(s->o.file, path, flags);
}

static hlwq_status open_file(hs_stream *s, const char *path, hlwq_error *err)
{
    struct stat st;
    s->fd = open_again(s, path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", path, strerror(errno));
    if (fstat(s->fd, &st) != 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", path, strerror(errno));
    s->file_bytes = (uint64_t)st.st_size;
    if (s->o.io == HS_IO_MMAP || s->o.direct == HS_DIRECT_OFF)
        return HLWQ_OK;
    s->is_cached = s->o.direct == HS_DIRECT_AUTO && hs_in_page_cache(s->fd, s->file_bytes);
    int direct = s->is_cached ? -1 : open_again(s, path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (direct >= 0) { /* else tmpfs, or another that does not know O_DIRECT */
        close(s->fd);
        s->fd = direct;
        s->direct = true;
    }
    return HLWQ_OK;
}

static hlwq_status open_engine(hs_stream *s, hlwq_error *err)
{
    static const hs_engine_ops *const ops[HS_IO_COUNT] = {
        [HS_IO_URING] = &hs_engine_uring, [HS_IO_PREAD] = &hs_engine_pread, [HS_IO_MMAP] = &hs_engine_mmap};
    hlwq_error refused = {0};
    s->io = s->o.io == HS_IO_AUTO ? HS_IO_URING : s->o.io;
    hlwq_status st = ops[s->io]->open(&s->engine, s->fd, s->file_bytes, s->o.depth, err);
    if (st != HLWQ_OK && s->o.io == HS_IO_AUTO) {
        refused = *err;
        s->io = HS_IO_PREAD;
        st = ops[s->io]->open(&s->engine, s->fd, s->file_bytes, s->o.depth, err);
    }
    if (st != HLWQ_OK)
        return st;
    s->ops = ops[s->io];
    snprintf(s->reason, sizeof s->reason, "%s%s%s, %s", s->o.io == HS_IO_AUTO ? "" : "asked for: ",
             s->io == HS_IO_URING   ? "io_uring"
             : s->io == HS_IO_PREAD ? "pread by threads"
                                    : "a mapping",
             refused.message[0] ? " because the system refuses io_uring" : "",
             s->direct      ? "past the page cache (O_DIRECT)"
             : s->is_cached ? "from the page cache, where the file is already"
                            : "through the page cache");
    return HLWQ_OK;
}

hlwq_status hs_stream_open(hs_stream **out, hs_mem *mem, const char *path, const hs_stream_options *o, hlwq_error *err)
{
    void *p;
    *out = NULL;
    if (o->depth == 0 || o->depth > DEPTH_MAX || o->request_bytes == 0 || o->request_bytes % PAGE)
        return hs_fail(err, HLWQ_ERR_ARG, "%u requests of %u bytes; limits 1..%d requests of whole pages", o->depth,
                       o->request_bytes, DEPTH_MAX);
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, sizeof(hs_stream) + o->depth * sizeof(hs_request), "stream", &p, err));
    hs_stream *s = p;
    s->mem = mem;
    s->o = *o;
    s->waiting_last = &s->waiting;
    s->done_last = &s->done;
    s->fail_at = s->refuse_at = UINT64_MAX;
    s->fd = -1;
    snprintf(s->path, sizeof s->path, "%s", path);
    for (uint32_t i = 0; i < o->depth; i++) {
        s->request[i].next = s->spare;
        s->spare = &s->request[i];
    }
    hlwq_status st = open_file(s, path, err);
    if (st == HLWQ_OK)
        st = open_engine(s, err);
    if (st != HLWQ_OK) {
        if (s->fd >= 0)
            close(s->fd);
        hs_mem_free(mem, s);
        return st;
    }
    *out = s;
    return HLWQ_OK;
}

hs_io hs_stream_engine(const hs_stream *s)
{
    return s->io;
}

bool hs_stream_is_direct(const hs_stream *s)
{
    return s->direct;
}

const char *hs_stream_reason(const hs_stream *s)
{
    return s->reason;
}

bool hs_stream_buffers(hs_stream *s, const struct iovec *buffer, uint32_t n)
{
    assert(s->in_flight == 0);
    s->has_buffers = s->ops->buffers && s->ops->buffers(s->engine, buffer, n) == 0 && n;
    return s->has_buffers;
}

/* ---- transfers ------------------------------------------------------------------------------ */

static void finish(hs_stream *s, hs_transfer *t)
{
    t->next = NULL;
    *s->done_last = t;
    s->done_last = &t->next;
}

/* The first failure of a transfer stays; the rest of it is not asked for any more. */
static void fail(hs_stream *s, hs_transfer *t, uint64_t offset, int code)
{
    if (t->status != HLWQ_OK)
        return;
    if (code == 0)
        t->status = hs_fail(&t->error, HLWQ_ERR_IO, "%s: the file ends before byte %" PRIu64 ": it was cut short",
                            s->path, offset);
    else
        t->status = hs_fail(&t->error, HLWQ_ERR_IO, "%s: reading at byte %" PRIu64 " failed: %s", s->path, offset,
                            strerror(code));
}

static bool transient(int code)
{
    return code == EAGAIN || code == EINTR || code == EIO || code == EBUSY || code == ENOMEM;
}

static void give_back(hs_stream *s, hs_request *r)
{
    r->next = s->spare;
    s->spare = r;
}

/* Settles `bytes` of a transfer, read or given up. */
static void settle(hs_stream *s, hs_transfer *t, uint64_t bytes)
{
    t->finished_bytes += bytes;
    if (t->finished_bytes == t->bytes)
        finish(s, t);
}

static int submit(hs_stream *s, hs_request *r)
{
    if (s->refuse_at == UINT64_MAX || s->refuse_at-- > 0)
        return s->ops->start(s->engine, r);
    return -s->refuse_code;
}

static void start(hs_stream *s, hs_request *r)
{
    hs_transfer *t = r->transfer;
    int code = submit(s, r);
    while (transient(-code) && ++r->tries < TRIES_MAX) {
        s->stats.retries++;
        code = submit(s, r);
    }
    if (code == 0) {
        if (s->in_flight++ == 0)
            s->started_ns = hs_now_ns();
        s->stats.requests++;
        return;
    }
    fail(s, t, r->offset, -code);
    settle(s, t, r->bytes);
    give_back(s, r);
}

/* Asks for more as long as there are requests to spare. */
static void pump(hs_stream *s)
{
    while (s->spare && s->waiting) {
        hs_transfer *t = s->waiting;
        uint64_t left = t->bytes - t->asked;
        if (t->status != HLWQ_OK || left <= s->o.request_bytes) {
            s->waiting = t->next;
            if (!s->waiting)
                s->waiting_last = &s->waiting;
        }
        if (t->status != HLWQ_OK) {
            t->asked = t->bytes;
            settle(s, t, left);
            continue;
        }
        hs_request *r = s->spare;
        s->spare = r->next;
        *r = (hs_request){.offset = t->offset + t->asked,
                          .to = t->to + t->asked,
                          .bytes = left < s->o.request_bytes ? (uint32_t)left : s->o.request_bytes,
                          .buffer = s->has_buffers ? t->buffer : 0,
                          .transfer = t};
        t->asked += r->bytes;
        start(s, r);
    }
}

void hs_stream_read(hs_stream *s, hs_transfer *t)
{
    assert(t->bytes > 0 && t->bytes % PAGE == 0 && t->offset % PAGE == 0 && (uintptr_t)t->to % PAGE == 0);
    t->status = HLWQ_OK;
    t->error = (hlwq_error){0};
    t->asked = t->finished_bytes = 0;
    t->next = NULL;
    *s->waiting_last = t;
    s->waiting_last = &t->next;
    s->pending++;
    pump(s);
}

static void completed(hs_stream *s, hs_request *r)
{
    hs_transfer *t = r->transfer;
    if (--s->in_flight == 0)
        s->stats.busy_ns += hs_now_ns() - s->started_ns;
    if (s->fail_at != UINT64_MAX && s->fail_at-- == 0) {
        r->result = s->fail_result;
        s->fail_at = UINT64_MAX;
    }
    if (r->result > (int)r->bytes)
        r->result = (int)r->bytes;
    if (r->result < 0 && transient(-r->result) && ++r->tries < TRIES_MAX && t->status == HLWQ_OK) {
        s->stats.retries++;
        start(s, r);
        return;
    }
    if (r->result > 0 && r->result < (int)r->bytes && t->status == HLWQ_OK) { /* short: the rest, from a page's start */
        uint32_t got = s->direct ? (uint32_t)r->result / PAGE * PAGE : (uint32_t)r->result;
        s->stats.bytes += got;
        r->offset += got;
        r->to += got;
        r->bytes -= got;
        if (got || ++r->tries < TRIES_MAX) {
            if (got)
                settle(s, t, got);
            s->stats.retries++;
            start(s, r);
            return;
        }
        r->result = 0;
    }
    if (r->result <= 0)
        fail(s, t, r->offset, -r->result);
    else
        s->stats.bytes += r->bytes;
    settle(s, t, r->bytes);
    give_back(s, r);
}

/* Takes completions; with `block` until a transfer is done, or with `all` every one. */
static void reap(hs_stream *s, bool block, bool all)
{
    pump(s);
    for (;;) {
        int failure = 0;
        bool must = block && s->in_flight && (all || !s->done);
        hs_request *r = s->in_flight ? s->ops->finish(s->engine, must, &failure) : NULL;
        if (!r && (!must || failure))
            return;
        if (r)
            completed(s, r);
        pump(s);
    }
}

static hs_transfer *pop(hs_stream *s, uint32_t n)
{
    hs_transfer **at = &s->done;
    while (n-- && (*at)->next)
        at = &(*at)->next;
    hs_transfer *t = *at;
    *at = t->next;
    if (!t->next)
        s->done_last = at;
    s->pending--;
    t->next = NULL;
    return t;
}

hs_transfer *hs_stream_next(hs_stream *s, bool block)
{
    uint32_t n = 0, pick = 0;
    reap(s, block, s->random != 0);
    for (hs_transfer *t = s->done; s->random && t; t = t->next)
        n++;
    if (n) {
        s->random = s->random * 6364136223846793005u + 1442695040888963407u;
        pick = (uint32_t)(s->random >> 33) % n;
    }
    return s->done ? pop(s, pick) : NULL;
}

uint32_t hs_stream_pending(const hs_stream *s)
{
    return s->pending;
}

void hs_stream_close(hs_stream *s)
{
    if (!s)
        return;
    for (hs_transfer *t = s->waiting; t; t = t->next) /* no more of these */
        fail(s, t, t->offset, ECANCELED);
    while (hs_stream_next(s, true))
        ;
    s->ops->close(s->engine);
    close(s->fd);
    hs_mem_free(s->mem, s);
}

hs_stream_stats hs_stream_get_stats(const hs_stream *s)
{
    hs_stream_stats now = s->stats;
    if (s->in_flight)
        now.busy_ns += hs_now_ns() - s->started_ns;
    return now;
}

void hs_stream_fail_at(hs_stream *s, uint64_t n, int result)
{
    s->fail_at = n;
    s->fail_result = result;
}

void hs_stream_refuse_at(hs_stream *s, uint64_t n, int code)
{
    s->refuse_at = n;
    s->refuse_code = code;
}

void hs_stream_shuffle(hs_stream *s, uint64_t seed)
{
    s->random = seed;
}
