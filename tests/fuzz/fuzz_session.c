/* A session file, read as a load reads it: its headers and hashes made right, so that what lies behind them is reached.
 */
#define _GNU_SOURCE
#include "model/session_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Hash of a block as docs/sessions.md has it. */
static uint64_t block_hash(uint32_t section, uint32_t block, const uint8_t *head, const uint8_t *data)
{
    uint32_t stored = get_u32(head);
    uint8_t place[24];
    uint64_t h = XXH3_64bits(data, stored);
    memcpy(place, &section, 4);
    memcpy(place + 4, &block, 4);
    memcpy(place + 8, head, 8);
    memcpy(place + 16, &h, 8);
    return XXH3_64bits(place, sizeof place);
}

/* Every hash that can be found gets the value it must have, as long as the numbers around it make sense. */
static void mend(uint8_t *p, size_t size)
{
    size_t at = HS_SESSION_HEADER;
    if (size < at)
        return;
    memcpy(p, "HLWQSES\n", 8);
    uint64_t h = XXH3_64bits(p, HS_SESSION_HEADER - 8);
    memcpy(p + HS_SESSION_HEADER - 8, &h, 8);
    for (uint32_t section = 1; size - at >= 32; section++) {
        uint64_t left;
        memcpy(p + at + 8, &section, 4);
        memcpy(&left, p + at + 16, 8);
        h = XXH3_64bits(p + at, 24);
        memcpy(p + at + 24, &h, 8);
        at += 32;
        for (uint32_t block = 0; left; block++) {
            if (size - at < 16 || get_u32(p + at) > size - at - 16 || get_u32(p + at + 4) > left ||
                !get_u32(p + at + 4))
                return;
            h = block_hash(section, block, p + at, p + at + 16);
            memcpy(p + at + 8, &h, 8);
            left -= get_u32(p + at + 4);
            at += 16 + get_u32(p + at);
        }
    }
}

static void read_all(const char *path, hs_mem *mem, const hs_session_identity *id)
{
    hs_session_reader r;
    if (hs_session_open_file(&r, mem, path, id, NULL) != HLWQ_OK)
        return;
    hs_session_rewind(&r);
    for (uint32_t n = 0;; n++) {
        hs_section kind;
        uint64_t bytes, sum = 0, got = 1;
        const void *block;
        if (hs_session_section(&r, &kind, &bytes, NULL) != HLWQ_OK || kind == HS_SECTION_END)
            break;
        if (n > HS_SESSION_SECTIONS_MAX)
            __builtin_trap();
        if (kind == HS_SECTION_SAMPLER) {
            uint8_t packed[44];
            if (hs_session_take(&r, packed, sizeof packed, NULL) != HLWQ_OK)
                break;
            continue;
        }
        hlwq_status st = HLWQ_OK;
        while (got && (st = hs_session_block(&r, &block, &got, NULL)) == HLWQ_OK)
            sum += got;
        if (st == HLWQ_OK && sum != bytes)
            __builtin_trap();
        if (st != HLWQ_OK)
            break;
    }
    hs_session_close_file(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    hs_session_identity id = {.model = 7};
    uint8_t *copy = malloc(size + 1);
    int fd = memfd_create("session", MFD_CLOEXEC);
    if (!copy || fd < 0)
        abort();
    memcpy(copy, data, size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int mended = 0; mended < 2; mended++) {
        hs_mem *mem = hs_mem_open(1u << 24);
        if (mended)
            mend(copy, size);
        if (pwrite(fd, copy, size, 0) == (ssize_t)size)
            read_all(path, mem, &id);
        hs_mem_close(mem);
    }
    close(fd);
    free(copy);
    return 0;
}
