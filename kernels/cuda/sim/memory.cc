/*
 * kernels/cuda/sim/memory.cc - device memory, pinned memory, and whose an address is.
 *
 * Device memory is one reserved range of addresses.  It is PROT_NONE but for the time in which device work runs, and
 * then only as far as something was ever allocated.  First fit, 512-byte blocks, so that fragmentation is real.  As
 * drivers do, a large block takes whole pages of its own, and small ones share pages: whole pages are what is counted.
 * Bytes between the end of a request and its block's end are poisoned and looked at when it is freed; under
 * AddressSanitizer a kernel that touches them, or freed memory, is stopped at once.
 */
#include "kernels/cuda/sim/ptx.h"

#include <stdio.h>
#include <sys/mman.h>

enum { ALIGN = 512, PAGE = 4096, POISON = 0xFF };

struct block {
    uint64_t offset, bytes, room; /* room: bytes rounded up */
    block *next;                  /* by offset */
};
struct pinned {
    uintptr_t at;
    size_t bytes;
    bool registered;
    pinned *next;
};

static char *arena;
static uint64_t arena_bytes, arena_high; /* beyond `high` nothing was ever allocated */
static block *blocks;
static pinned *pins;
static uint32_t open_depth;
uint64_t ptx_memory_version;

static void protect(uint64_t from, uint64_t to, int prot)
{
    if (to > from && mprotect(arena + from, to - from, prot) != 0) {
        fprintf(stderr, "hlwq-stream: the GPU simulator cannot change the protection of its device memory\n");
        abort();
    }
}

void sim_arena_open(void)
{
    if (open_depth++ == 0 && sim_options.protect)
        protect(0, arena_high, PROT_READ | PROT_WRITE);
}

void sim_arena_close(void)
{
    assert(open_depth);
    if (--open_depth == 0 && sim_options.protect)
        protect(0, arena_high, PROT_NONE);
}

static bool have_arena(void)
{
    if (arena)
        return true;
    arena_bytes = sim_options.vram_bytes / PAGE * PAGE;
    if (!arena_bytes)
        return false;
    void *p = mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    arena = p == MAP_FAILED ? nullptr : static_cast<char *>(p);
    sim_watch_crashes();
    return arena;
}

bool sim_in_arena(const void *p)
{
    return arena && static_cast<const char *>(p) >= arena && static_cast<const char *>(p) < arena + arena_bytes;
}

void sim_memory_reset(void)
{
    while (blocks) {
        block *b = blocks;
        blocks = b->next;
        free(b);
    }
    while (pins) {
        pinned *p = pins;
        pins = p->next;
        if (!p->registered)
            free(reinterpret_cast<void *>(p->at));
        free(p);
    }
    if (arena) {
        ASAN_UNPOISON_MEMORY_REGION(arena, arena_high);
        munmap(arena, arena_bytes);
    }
    arena = nullptr;
    arena_bytes = arena_high = 0;
    ptx_memory_version++;
}

static void fill(uint64_t offset, uint64_t bytes)
{
    ASAN_UNPOISON_MEMORY_REGION(arena + offset, bytes);
    memset(arena + offset, POISON, bytes);
}

static bool is_large(uint64_t bytes)
{
    return sim_options.page_bytes && bytes > sim_options.page_bytes / 2;
}

static uint64_t grain(uint64_t bytes)
{
    return is_large(bytes) ? sim_options.page_bytes : (uint64_t)ALIGN;
}

static uint64_t up_to(uint64_t bytes, uint64_t step)
{
    return (bytes + step - 1) / step * step;
}

/* What all blocks take; `blocks` is in order. */
static uint64_t taken(void)
{
    uint64_t sum = 0, end = 0, page = sim_options.page_bytes ? sim_options.page_bytes : (uint64_t)ALIGN;
    for (const block *b = blocks; b; b = b->next) {
        uint64_t from = b->offset / page * page, to = up_to(b->offset + b->room, page);
        from = from > end ? from : end;
        sum += to > from ? to - from : 0;
        end = to;
    }
    return sum;
}

void sim_device_took(uint64_t bytes)
{
    sim_stats.device_bytes += bytes;
    if (sim_stats.device_bytes > sim_stats.device_peak_bytes)
        sim_stats.device_peak_bytes = sim_stats.device_bytes;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    cudaError_t e = sim_enter(SIM_CALL_ALLOC);
    if (!e && (!p || sim_capture_forbids()))
        e = p ? cudaErrorStreamCaptureUnsupported : cudaErrorInvalidValue;
    if (e)
        return sim_leave(e);
    *p = nullptr;
    if (!bytes)
        return sim_leave(cudaSuccess);
    if (bytes > sim_options.vram_bytes || !have_arena())
        return sim_leave(cudaErrorMemoryAllocation);
    const uint64_t step = grain(bytes), room = up_to(bytes, step), before = taken();
    uint64_t at = 0;
    block **link = &blocks;
    while (*link && (*link)->offset < at + room) {
        at = up_to((*link)->offset + (*link)->room, step);
        link = &(*link)->next;
    }
    if (at + room > arena_bytes)
        return sim_leave(cudaErrorMemoryAllocation);

    block *b = static_cast<block *>(sim_alloc(sizeof *b));
    *b = {at, bytes, room, *link};
    *link = b;
    const uint64_t more = taken() - before;
    if (sim_stats.device_bytes + more > sim_options.vram_bytes) {
        *link = b->next;
        free(b);
        return sim_leave(cudaErrorMemoryAllocation);
    }
    ptx_memory_version++;
    uint64_t high = (at + room + PAGE - 1) / PAGE * PAGE;
    if (high > arena_high) {
        protect(arena_high, high, sim_options.protect && !open_depth ? PROT_NONE : PROT_READ | PROT_WRITE);
        arena_high = high;
    }
    sim_arena_open();
    fill(at, room);
    ASAN_POISON_MEMORY_REGION(arena + at + bytes, room - bytes);
    sim_arena_close();
    sim_stats.device_blocks++;
    sim_device_took(more);
    *p = arena + at;
    return sim_leave(cudaSuccess);
}

/* Something wrote into the bytes that nobody asked for. */
static bool overrun(const block *b)
{
#ifndef SIM_ASAN
    for (uint64_t i = b->bytes; i < b->room; i++)
        if ((uint8_t)arena[b->offset + i] != POISON) {
            snprintf(sim_stats.last_fault, sizeof sim_stats.last_fault,
                     "a block of %llu bytes of device memory was written at byte %llu", (unsigned long long)b->bytes,
                     (unsigned long long)i);
            sim_stats.faults++;
            if (!sim_options.quiet)
                fprintf(stderr, "hlwq-stream: gpusim: %s\n", sim_stats.last_fault);
            return true;
        }
#else
    (void)b;
#endif
    return false;
}

/* Waits for the device, as the real one does. */
cudaError_t cudaFree(void *p)
{
    cudaError_t e = sim_enter(SIM_CALL_FREE);
    if (!p)
        return sim_leave(e);
    if (!e && sim_capture_forbids())
        return sim_leave(cudaErrorStreamCaptureUnsupported);
    cudaError_t before = sim_drain(nullptr, 0);
    if (!e)
        e = before;
    for (block **link = &blocks; *link; link = &(*link)->next) {
        block *b = *link;
        if (arena + b->offset != p)
            continue;
        sim_arena_open();
        if (overrun(b) && !e)
            e = sim_sticky = cudaErrorIllegalAddress;
        fill(b->offset, b->room);
        ASAN_POISON_MEMORY_REGION(arena + b->offset, b->room);
        sim_arena_close();
        const uint64_t all = taken();
        *link = b->next;
        sim_stats.device_blocks--;
        sim_stats.device_bytes -= all - taken();
        free(b);
        ptx_memory_version++;
        return sim_leave(e);
    }
    return sim_leave(e ? e : cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (e)
        return sim_leave(e);
    *free_bytes = sim_options.vram_bytes - sim_stats.device_bytes;
    *total_bytes = sim_options.vram_bytes;
    return sim_leave(cudaSuccess);
}

/* ---- pinned ---- */

static void add_pin(void *p, size_t bytes, bool registered)
{
    pinned *pin = static_cast<pinned *>(sim_alloc(sizeof *pin));
    *pin = {reinterpret_cast<uintptr_t>(p), bytes, registered, pins};
    pins = pin;
    sim_stats.pinned_blocks++;
    sim_stats.pinned_bytes += bytes;
    if (sim_stats.pinned_bytes > sim_stats.pinned_peak_bytes)
        sim_stats.pinned_peak_bytes = sim_stats.pinned_bytes;
}

static bool drop_pin(void *p, bool registered)
{
    for (pinned **link = &pins; *link; link = &(*link)->next) {
        pinned *pin = *link;
        if (pin->at != reinterpret_cast<uintptr_t>(p) || pin->registered != registered)
            continue;
        sim_stats.pinned_blocks--;
        sim_stats.pinned_bytes -= pin->bytes;
        *link = pin->next;
        free(pin);
        ptx_memory_version++;
        return true;
    }
    return false;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    cudaError_t e = sim_enter(SIM_CALL_ALLOC);
    if (!e && (!p || flags > 7))
        e = cudaErrorInvalidValue;
    if (e)
        return sim_leave(e);
    *p = nullptr;
    if (!bytes)
        return sim_leave(cudaSuccess);
    if (bytes > sim_options.pinned_bytes - sim_stats.pinned_bytes)
        return sim_leave(cudaErrorMemoryAllocation);
    /* As long as asked, so that AddressSanitizer sees the first byte too far. */
    void *m = nullptr;
    if (posix_memalign(&m, PAGE, bytes) != 0)
        return sim_leave(cudaErrorMemoryAllocation);
    memset(m, POISON, bytes);
    add_pin(m, bytes, false);
    *p = m;
    return sim_leave(cudaSuccess);
}

cudaError_t cudaMallocHost(void **p, size_t bytes, unsigned flags)
{
    return cudaHostAlloc(p, bytes, flags);
}

cudaError_t cudaFreeHost(void *p)
{
    cudaError_t e = sim_enter(SIM_CALL_FREE);
    if (!p)
        return sim_leave(e);
    cudaError_t before = sim_drain(nullptr, 0);
    if (!e)
        e = before;
    if (!drop_pin(p, false))
        return sim_leave(e ? e : cudaErrorInvalidValue);
    free(p);
    return sim_leave(e);
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags)
{
    cudaError_t e = sim_enter(SIM_CALL_ALLOC);
    if (!e && (!p || !bytes || flags > 15))
        e = cudaErrorInvalidValue;
    if (!e && sim_options.register_fails)
        e = cudaErrorMemoryAllocation;
    if (!e && bytes > sim_options.pinned_bytes - sim_stats.pinned_bytes)
        e = cudaErrorMemoryAllocation;
    uintptr_t at = reinterpret_cast<uintptr_t>(p);
    for (const pinned *pin = pins; pin && !e; pin = pin->next)
        if (at < pin->at + pin->bytes && pin->at < at + bytes)
            e = cudaErrorHostMemoryAlreadyRegistered;
    if (!e)
        add_pin(p, bytes, true);
    return sim_leave(e);
}

cudaError_t cudaHostUnregister(void *p)
{
    cudaError_t e = sim_enter(SIM_CALL_FREE);
    cudaError_t before = sim_drain(nullptr, 0);
    if (!e)
        e = before;
    if (!drop_pin(p, true) && !e)
        e = cudaErrorHostMemoryNotRegistered;
    return sim_leave(e);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && (!device || flags || sim_where_is(host, 1) != SIM_PINNED))
        e = cudaErrorInvalidValue;
    if (!e)
        *device = host;
    return sim_leave(e);
}

sim_where sim_where_is(const void *p, size_t bytes)
{
    uintptr_t at = reinterpret_cast<uintptr_t>(p), base = reinterpret_cast<uintptr_t>(arena);
    if (arena && at >= base && at < base + arena_bytes) {
        for (const block *b = blocks; b; b = b->next)
            if (at - base >= b->offset && at - base - b->offset <= b->bytes &&
                bytes <= b->offset + b->bytes - (at - base))
                return SIM_DEVICE;
        return SIM_NOWHERE;
    }
    for (const pinned *pin = pins; pin; pin = pin->next)
        if (at >= pin->at && at - pin->at < pin->bytes && bytes <= pin->bytes - (at - pin->at))
            return SIM_PINNED;
    return p ? SIM_PAGEABLE : SIM_NOWHERE;
}

/* The block of device or pinned memory in which all of it lies. */
bool ptx_memory_range(uint64_t at, uint64_t bytes, uint64_t *from, uint64_t *end)
{
    uint64_t base = reinterpret_cast<uint64_t>(arena);
    for (const block *b = blocks; b; b = b->next) {
        *from = base + b->offset;
        *end = *from + b->bytes;
        if (at >= *from && at < *end && bytes <= *end - at)
            return true;
    }
    for (const pinned *pin = pins; pin; pin = pin->next) {
        *from = pin->at;
        *end = *from + pin->bytes;
        if (at >= *from && at < *end && bytes <= *end - at)
            return true;
    }
    return false;
}
