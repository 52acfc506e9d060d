/*
 * stream/engine_mmap.c - copies out of a mapping of the file, to compare with: page faults and the page cache do the
 * work.  The copy is the system's (process_vm_readv on ourselves), so that a file cut short is an error and no signal.
 */
#define _GNU_SOURCE
#include "stream/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

struct hs_engine {
    int fd;
    uint8_t *map;
    uint64_t bytes;
    hs_request *first, **last;
};

static hlwq_status mmap_open(hs_engine **out, int fd, uint64_t file_bytes, uint32_t depth, hlwq_error *err)
{
    (void)depth;
    hs_engine *e = calloc(1, sizeof *e);
    if (!e)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a mapping");
    void *map = mmap(NULL, file_bytes ? file_bytes : 1, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        int code = errno;
        free(e);
        return hs_fail(err, HLWQ_ERR_IO, "cannot map the model: %s", strerror(code));
    }
    e->fd = fd;
    e->map = map;
    e->bytes = file_bytes;
    e->last = &e->first;
    *out = e;
    return HLWQ_OK;
}

static void mmap_close(hs_engine *e)
{
    munmap(e->map, e->bytes ? e->bytes : 1);
    free(e);
}

static int mmap_start(hs_engine *e, hs_request *r)
{
    r->next = NULL;
    *e->last = r;
    e->last = &r->next;
    return 0;
}

static hs_request *mmap_finish(hs_engine *e, bool block, int *failure)
{
    hs_request *r = e->first;
    (void)block;
    *failure = 0;
    if (!r)
        return NULL;
    if (!(e->first = r->next))
        e->last = &e->first;
    uint64_t left = r->offset < e->bytes ? e->bytes - r->offset : 0;
    struct iovec to = {r->to, r->bytes < left ? r->bytes : left}, from = {e->map + r->offset, to.iov_len};
    ssize_t n = to.iov_len ? process_vm_readv(getpid(), &to, 1, &from, 1, 0) : 0;
    if (n < 0 && (errno == EPERM || errno == ENOSYS)) /* a sandbox that knows no process_vm_readv */
        n = pread(e->fd, r->to, to.iov_len, (off_t)r->offset);
    r->result = n < 0 ? (errno == EFAULT ? 0 : -errno) : (int)n; /* EFAULT: the file ends before here now */
    return r;
}

const hs_engine_ops hs_engine_mmap = {mmap_open, mmap_close, mmap_start, mmap_finish, NULL};
