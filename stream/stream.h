/*
 * stream/stream.h - reads extents of one file into memory, many at a time.
 *
 * A transfer is split into requests of at most `request_bytes`, of which `depth` are in flight.  Short reads are
 * resumed, transient failures tried again up to a limit.  One thread at a time may use a stream; engines that need
 * threads keep them to themselves.  All engines give the same bytes.
 */
#ifndef HS_STREAM_STREAM_H
#define HS_STREAM_STREAM_H

#include "base/mem.h"

#include <sys/uio.h>

typedef enum hs_io { HS_IO_AUTO, HS_IO_URING, HS_IO_PREAD, HS_IO_MMAP, HS_IO_COUNT } hs_io;

const char *hs_io_name(hs_io io);
bool hs_io_of(const char *name, hs_io *io);

/* Past the page cache, or through it. AUTO: through it where the file is in it already, which a few pages tell. */
typedef enum hs_direct { HS_DIRECT_AUTO, HS_DIRECT_ON, HS_DIRECT_OFF } hs_direct;

typedef struct hs_stream_options {
    hs_io io; /* AUTO: the ring, else threads */
    hs_direct direct;
    int file;               /* a descriptor of the file, whose inode is the one to read; -1 = whatever is at the path */
    uint32_t depth;         /* requests in flight, 1..256 */
    uint32_t request_bytes; /* a multiple of 4096 */
} hs_stream_options;

hs_stream_options hs_stream_options_default(void);

typedef struct hs_transfer {
    uint64_t offset, bytes; /* multiples of 4096 */
    uint8_t *to;            /* 4096-byte aligned */
    uint32_t buffer;        /* 1 + the number of the registered buffer that holds `to`; 0 = none */
    uint64_t user;          /* the caller's */
    hlwq_status status;     /* once finished */
    hlwq_error error;
    uint64_t asked, finished_bytes; /* the stream's */
    struct hs_transfer *next;
} hs_transfer;

typedef struct hs_stream_stats {
    uint64_t bytes, requests, retries;
    uint64_t busy_ns; /* with at least one request in flight */
} hs_stream_stats;

typedef struct hs_stream hs_stream;

hlwq_status hs_stream_open(hs_stream **stream, hs_mem *mem, const char *path, const hs_stream_options *options,
                           hlwq_error *err);
void hs_stream_close(hs_stream *s); /* waits for what is in flight, and drops it; NULL is fine */

hs_io hs_stream_engine(const hs_stream *s);
bool hs_stream_is_direct(const hs_stream *s);
const char *hs_stream_reason(const hs_stream *s); /* why this engine and mode: one sentence, never NULL */

/*
 * Memory that transfers will name by number from now on, so that its pages are looked up once; replaces what was there.
 * Nothing may be in flight.  False where the engine or the system does not do it: then numbers are ignored.
 */
bool hs_stream_buffers(hs_stream *s, const struct iovec *buffer, uint32_t n);

/* `t` belongs to the stream until hs_stream_next gives it back. */
void hs_stream_read(hs_stream *s, hs_transfer *t);

/* A finished transfer; NULL when nothing is in flight, or, without `block`, when nothing has finished. */
hs_transfer *hs_stream_next(hs_stream *s, bool block);

uint32_t hs_stream_pending(const hs_stream *s); /* transfers not given back yet */

hs_stream_stats hs_stream_get_stats(const hs_stream *s);

/* Tests: the n-th completed request from now (0 = the next) reads as `result`: -errno, or a byte count. */
void hs_stream_fail_at(hs_stream *s, uint64_t n, int result);

/* Tests: the n-th submission from now is refused with -code. */
void hs_stream_refuse_at(hs_stream *s, uint64_t n, int code);

/* Tests: finished transfers come back in an order made from `seed`; 0 = as they finish. */
void hs_stream_shuffle(hs_stream *s, uint64_t seed);

#endif
