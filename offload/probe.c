/*
 * offload/probe.c - measures a volume with the reads that streaming makes.
 */
#include "offload/probe.h"

#include "base/clock.h"

#include <stdio.h>
#include <sys/stat.h>

enum { PAGE = 4096, AT_ONCE = 8 };

static hlwq_status measure(hs_stream *s, hs_mem *mem, uint64_t file, uint64_t extent, uint64_t bytes, double *rate,
                           hlwq_error *err)
{
    hs_transfer t[AT_ONCE];
    void *p;
    uint64_t places = file / extent, asked = 0, done = 0, n = bytes / extent < places ? bytes / extent : places;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, AT_ONCE * extent + PAGE, "disk measurement", &p, err));
    uint8_t *to = (uint8_t *)(((uintptr_t)p + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    hlwq_status st = HLWQ_OK;
    double start = hs_now_seconds();
    for (uint32_t i = 0; done < n; i++) {
        hs_transfer *next = i < AT_ONCE ? &t[i] : hs_stream_next(s, true);
        if (!next)
            break;
        if (i >= AT_ONCE) {
            done++;
            if (next->status != HLWQ_OK && st == HLWQ_OK) {
                st = next->status;
                *err = next->error;
            }
        }
        if (asked < n && st == HLWQ_OK) { /* a stride that visits every place once, far from the last */
            uint64_t at = asked++ * 7919 % places;
            *next = (hs_transfer){.offset = at * extent, .bytes = extent, .to = to + (uint64_t)(next - t) * extent};
            hs_stream_read(s, next);
        } else if (hs_stream_pending(s) == 0 && i >= AT_ONCE)
            break;
    }
    while (hs_stream_next(s, true))
        ;
    if (st == HLWQ_OK && done)
        *rate = (double)(done * extent) / (hs_now_seconds() - start);
    hs_mem_free(mem, p);
    return st;
}

hlwq_status hs_probe_disk(const char *path, hs_io io, uint64_t extent, uint64_t bytes, hs_disk *disk, hlwq_error *err)
{
    struct stat st;
    hs_stream *s;
    hs_stream_options o = hs_stream_options_default();
    *disk = (hs_disk){0};
    o.io = io;
    hs_mem *mem = hs_mem_open(0);
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to measure");
    hlwq_status result = hs_stream_open(&s, mem, path, &o, err);
    if (result == HLWQ_OK) {
        disk->engine = hs_stream_engine(s);
        disk->direct = hs_stream_is_direct(s);
        snprintf(disk->reason, sizeof disk->reason, "%s", hs_stream_reason(s));
        extent = extent / PAGE * PAGE;
        if (stat(path, &st) == 0 && extent && (uint64_t)st.st_size >= 16 * extent)
            result = measure(s, mem, (uint64_t)st.st_size, extent, bytes, &disk->bytes_per_second, err);
        hs_stream_close(s);
    }
    hs_mem_close(mem);
    return result;
}
