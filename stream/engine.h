/*
 * stream/engine.h - what an engine does: carries out single reads. Splitting, resuming and retrying are stream.c's.
 */
#ifndef HS_STREAM_ENGINE_H
#define HS_STREAM_ENGINE_H

#include "base/error.h"

#include <sys/uio.h>

typedef struct hs_request {
    uint64_t offset;
    uint8_t *to;
    uint32_t bytes;
    uint32_t buffer; /* 1 + number of the registered buffer it reads into; 0 = none */
    int result;      /* bytes read or -errno */
    uint32_t tries;
    void *transfer;
    struct hs_request *next;
} hs_request;

typedef struct hs_engine hs_engine;

typedef struct hs_engine_ops {
    hlwq_status (*open)(hs_engine **e, int fd, uint64_t file_bytes, uint32_t depth, hlwq_error *err);
    void (*close)(hs_engine *e);               /* nothing is in flight */
    int (*start)(hs_engine *e, hs_request *r); /* 0, or -errno with nothing started; never more than depth */
    hs_request *(*finish)(hs_engine *e, bool block, int *failure); /* NULL: none yet, or -errno in *failure */
    /* Replaces the registered buffers while nothing is in flight; 0 or -errno, with none registered. May be NULL. */
    int (*buffers)(hs_engine *e, const struct iovec *buffer, uint32_t n);
} hs_engine_ops;

extern const hs_engine_ops hs_engine_uring, hs_engine_pread, hs_engine_mmap;

#endif
