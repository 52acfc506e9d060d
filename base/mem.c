/*
 * base/mem.c - the accounted allocator.
 *
 * A 64-byte header before each block holds its tag and size.  Blocks of 1 MiB and more come from
 * mmap: they go back to the system at once when freed, and huge pages can be asked for.
 */
#define _GNU_SOURCE
#include "base/mem.h"

#include "base/size.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HEADER = 64, PAGE = 4096 };
#define MAPPED_FROM (1u << 20)
#define HUGE (2u << 20)
#define HUGE_FROM (4u << 20)
#define LIVE 0x6d656d5f6c697665u

typedef struct block {
    uint64_t magic;
    uint64_t bytes;        /* charged */
    uint64_t mapped_bytes; /* 0 = from malloc */
    uint32_t tag;
} block;

_Static_assert(sizeof(block) <= HEADER, "block header");

struct hs_mem {
    pthread_mutex_t lock; /* sessions and loaders of several threads charge the same budget */
    uint64_t cap, now, peak, blocks;
    uint64_t tag[HS_MEM_TAG_COUNT];
    uint64_t fail_in;
    const char *option;
};

/* Counts down over every hs_mem; for tests, which allocate from one thread. */
static uint64_t fail_in_all = UINT64_MAX;
static bool failed_in_all;

hs_mem *hs_mem_open(uint64_t cap_bytes)
{
    hs_mem *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->cap = cap_bytes ? cap_bytes : UINT64_MAX;
    m->fail_in = UINT64_MAX;
    m->option = "--ram";
    return m;
}

void hs_mem_close(hs_mem *m)
{
    if (!m)
        return;
    assert(m->blocks == 0 && m->now == 0);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const char *const tag_name[HS_MEM_TAG_COUNT] = {
    "weights", "experts", "kv", "state", "activations", "io", "tokenizer", "table", "other",
};

const char *hs_mem_tag_name(hs_mem_tag tag)
{
    return tag_name[tag];
}

/* Charges under the lock, so that two threads cannot pass the cap together. */
hlwq_status hs_mem_charge(hs_mem *m, hs_mem_tag tag, uint64_t bytes, const char *what, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    pthread_mutex_lock(&m->lock);
    bool fails = m->fail_in != UINT64_MAX && m->fail_in-- == 0;
    if (fail_in_all != UINT64_MAX && fail_in_all-- == 0)
        fails = failed_in_all = true;
    if (fails) {
        m->fail_in = UINT64_MAX;
        st = hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %s (%" PRIu64 " bytes)", what, bytes);
    } else if (bytes > (m->cap > m->now ? m->cap - m->now : 0)) {
        st = hs_fail(err, HLWQ_ERR_BUDGET, "%s needs %.1f MiB, but the budget of %.1f MiB has %.1f MiB left%s%s", what,
                     (double)bytes / 1048576.0, (double)m->cap / 1048576.0,
                     (double)(m->cap > m->now ? m->cap - m->now : 0) / 1048576.0, m->option ? "; raise " : "",
                     m->option ? m->option : "");
    } else {
        m->now += bytes;
        m->tag[tag] += bytes;
        m->blocks++;
        m->peak = hs_max_u64(m->peak, m->now);
    }
    pthread_mutex_unlock(&m->lock);
    return st;
}

void hs_mem_discharge(hs_mem *m, hs_mem_tag tag, uint64_t bytes)
{
    pthread_mutex_lock(&m->lock);
    assert(m->now >= bytes && m->tag[tag] >= bytes && m->blocks > 0);
    m->now -= bytes;
    m->tag[tag] -= bytes;
    m->blocks--;
    pthread_mutex_unlock(&m->lock);
}

static uint8_t *map(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* From a boundary of huge pages on: +15 % read bandwidth where the system agrees. */
static uint8_t *map_huge(uint64_t bytes)
{
    uint8_t *p = map(bytes + HUGE);
    if (!p)
        return map(bytes);
    const uint64_t before = hs_align_up((uintptr_t)p, HUGE) - (uintptr_t)p;
    if (before)
        (void)munmap(p, before);
    if (before < HUGE)
        (void)munmap(p + before + bytes, HUGE - before);
    (void)madvise(p + before, bytes, MADV_HUGEPAGE);
    return p + before;
}

hlwq_status hs_mem_alloc(hs_mem *m, hs_mem_tag tag, uint64_t bytes, const char *what, void **out, hlwq_error *err)
{
    *out = NULL;
    uint64_t total;
    if (!hs_add_u64(bytes, PAGE + HEADER, &total) || total > SIZE_MAX / 2)
        return hs_fail(err, HLWQ_ERR_NOMEM, "%s of %" PRIu64 " bytes is larger than any memory", what, bytes);

    bool mapped = bytes >= MAPPED_FROM;
    /* A mapped block starts on its second page: data page-aligned, header at the end of the first. */
    uint64_t charged = mapped ? hs_align_up(bytes, PAGE) + PAGE : hs_align_up(bytes + HEADER, 64);
    HS_TRY(hs_mem_charge(m, tag, charged, what, err));

    uint8_t *data = NULL;
    if (mapped) {
        uint8_t *p = bytes >= HUGE_FROM ? map_huge(charged) : map(charged);
        data = p ? p + PAGE : NULL;
    } else {
        uint8_t *p = aligned_alloc(64, charged);
        if (p) {
            memset(p, 0, charged);
            data = p + HEADER;
        }
    }
    if (!data) {
        hs_mem_discharge(m, tag, charged);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %s (%" PRIu64 " bytes)", what, bytes);
    }
    *(block *)(void *)(data - HEADER) =
        (block){.magic = LIVE, .bytes = charged, .mapped_bytes = mapped ? charged : 0, .tag = (uint32_t)tag};
    *out = data;
    return HLWQ_OK;
}

void hs_mem_free(hs_mem *m, void *data)
{
    if (!data)
        return;
    block *b = (block *)(void *)((uint8_t *)data - HEADER);
    assert(b->magic == LIVE);
    b->magic = 0;
    uint64_t bytes = b->bytes, mapped = b->mapped_bytes;
    hs_mem_tag tag = (hs_mem_tag)b->tag;
    if (mapped)
        munmap((uint8_t *)data - PAGE, mapped);
    else
        free(b);
    hs_mem_discharge(m, tag, bytes);
}

void hs_mem_set_option(hs_mem *m, const char *option)
{
    m->option = option;
}

uint64_t hs_mem_tag_bytes(const hs_mem *m, hs_mem_tag tag)
{
    return m->tag[tag];
}

uint64_t hs_mem_now_bytes(const hs_mem *m)
{
    return m->now;
}

uint64_t hs_mem_peak_bytes(const hs_mem *m)
{
    return m->peak;
}

uint64_t hs_mem_cap_bytes(const hs_mem *m)
{
    return m->cap;
}

void hs_mem_fail_at(hs_mem *m, uint64_t n)
{
    if (m) {
        m->fail_in = n;
        return;
    }
    fail_in_all = n;
    failed_in_all = false;
}

bool hs_mem_has_failed(void)
{
    return failed_in_all;
}

void hs_mem_set_cap(hs_mem *m, uint64_t cap_bytes)
{
    pthread_mutex_lock(&m->lock);
    m->cap = cap_bytes ? cap_bytes : UINT64_MAX;
    pthread_mutex_unlock(&m->lock);
}
