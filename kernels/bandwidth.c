/*
 * kernels/bandwidth.c - what this machine's memory gives when it is only read: the yardstick of every speed we print.
 */
#include "kernels/bandwidth.h"

#include "base/clock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { BAND = 1 << 20 };

typedef struct reading {
    const uint8_t *data;
    atomic_uint_fast64_t sum; /* used, so that the reads are */
} reading;

typedef uint64_t vec __attribute__((vector_size(64)));

static void read_bands(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    reading *r = user;
    vec a = {0}, b = {0}, c = {0}, d = {0};
    (void)worker;
    for (uint32_t i = first; i < last; i++) {
        const uint8_t *p = r->data + (size_t)i * BAND;
        for (size_t k = 0; k < BAND; k += 256) {
            const vec *v = (const vec *)(const void *)(p + k);
            __builtin_prefetch(p + k + 8192);
            __builtin_prefetch(p + k + 8256);
            __builtin_prefetch(p + k + 8320);
            __builtin_prefetch(p + k + 8384);
            a ^= v[0];
            b ^= v[1];
            c ^= v[2];
            d ^= v[3];
        }
    }
    a ^= b ^ c ^ d;
    atomic_fetch_add(&r->sum, a[0] ^ a[7]);
}

static int ascending(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

hlwq_status hs_read_bandwidth(hs_mem *mem, hs_pool *pool, uint64_t bytes, double *rate, hlwq_error *err)
{
    enum { ROUNDS = 7 };
    double seconds[ROUNDS];
    void *p;
    bytes = bytes / BAND * BAND;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, bytes + 65536, "bandwidth measurement", &p, err));
    memset(p, 1, bytes);
    reading r = {.data = p};
    for (int i = 0; i < ROUNDS; i++) {
        double start = hs_now_seconds();
        hs_pool_run(pool, (uint32_t)(bytes / BAND), 8, read_bands, &r);
        seconds[i] = hs_now_seconds() - start;
    }
    qsort(seconds, ROUNDS, sizeof *seconds, ascending);
    *rate = (double)bytes / seconds[ROUNDS / 2];
    hs_mem_free(mem, p);
    return HLWQ_OK;
}
