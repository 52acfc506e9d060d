/*
 * stream/engine_uring.c - reads through an io_uring.  The only file that knows liburing.
 */
#define _GNU_SOURCE
#include "stream/engine.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

struct hs_engine {
    struct io_uring ring;
    int fd;
    bool fixed;       /* the file is registered as number 0 */
    bool has_buffers; /* and memory: the kernel need not look up its pages at every read */
};

static hlwq_status uring_open(hs_engine **out, int fd, uint64_t file_bytes, uint32_t depth, hlwq_error *err)
{
    (void)file_bytes;
    hs_engine *e = calloc(1, sizeof *e);
    if (!e)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a ring");
    e->fd = fd;
    int r = io_uring_queue_init(depth, &e->ring, IORING_SETUP_COOP_TASKRUN);
    if (r == -EINVAL) /* before Linux 5.19 */
        r = io_uring_queue_init(depth, &e->ring, 0);
    if (r < 0) {
        free(e);
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "the system refuses io_uring: %s", strerror(-r));
    }
    e->fixed = io_uring_register_files(&e->ring, &fd, 1) == 0;
    *out = e;
    return HLWQ_OK;
}

static void uring_close(hs_engine *e)
{
    io_uring_queue_exit(&e->ring);
    free(e);
}

static int uring_start(hs_engine *e, hs_request *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&e->ring);
    if (!sqe)
        return -EAGAIN;
    if (e->has_buffers && r->buffer)
        io_uring_prep_read_fixed(sqe, e->fixed ? 0 : e->fd, r->to, r->bytes, r->offset, (int)r->buffer - 1);
    else
        io_uring_prep_read(sqe, e->fixed ? 0 : e->fd, r->to, r->bytes, r->offset);
    if (e->fixed)
        sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, r);
    while (io_uring_submit(&e->ring) == -EINTR)
        ;
    return 0; /* an entry that the kernel did not take stays queued, and goes with the next submission */
}

static hs_request *uring_finish(hs_engine *e, bool block, int *failure)
{
    struct io_uring_cqe *cqe = NULL;
    int n;
    *failure = 0;
    do
        n = block ? io_uring_submit_and_wait(&e->ring, 1) : io_uring_submit(&e->ring);
    while (n == -EINTR);
    if (io_uring_peek_cqe(&e->ring, &cqe) != 0 || !cqe) {
        if (block && n < 0 && n != -EAGAIN && n != -EBUSY)
            *failure = n;
        return NULL;
    }
    hs_request *r = io_uring_cqe_get_data(cqe);
    r->result = cqe->res;
    io_uring_cqe_seen(&e->ring, cqe);
    return r;
}

static int uring_buffers(hs_engine *e, const struct iovec *buffer, uint32_t n)
{
    if (e->has_buffers)
        io_uring_unregister_buffers(&e->ring);
    int code = n ? io_uring_register_buffers(&e->ring, buffer, n) : 0;
    e->has_buffers = n && code == 0;
    return code;
}

const hs_engine_ops hs_engine_uring = {uring_open, uring_close, uring_start, uring_finish, uring_buffers};
