/*
 * Input: the text of an index.  It is wrapped in a file whose header and both copies are right, with a sound config
 * where the index says one lies, so that mutations reach the checks behind the checksums.
 */
#define _GNU_SOURCE
#include "loader/container_private.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_BYTES = 256 << 10, TEXT_MAX = 32 << 10 };

static void write_at(int fd, uint64_t at, const void *p, size_t n)
{
    if (pwrite(fd, p, n, (off_t)at) != (ssize_t)n)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > TEXT_MAX)
        return 0;
    uint8_t page[HS_HEADER_BYTES];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, FILE_BYTES) != 0)
        return 0;
    hs_header h = {HS_CONTAINER_VERSION, FILE_BYTES, HS_HEADER_BYTES, size, hs_hash(data, size), FILE_BYTES - size};
    hs_header_encode(&h, page);
    write_at(fd, 0, page, sizeof page);
    write_at(fd, HS_HEADER_BYTES, data, size);
    static const char config[] =
        "{\"model_type\":\"qwen3_5_text\",\"vocab_size\":16,\"hidden_size\":128,\"num_hidden_layers\":1,"
        "\"layer_types\":[\"full_attention\"],\"num_attention_heads\":1,\"head_dim\":16,\"intermediate_size\":128,"
        "\"rope_theta\":10000000}";
    write_at(fd, 65536, config, sizeof config - 1);
    write_at(fd, h.tail_offset, data, size);

    char path[64];
    hs_container c;
    hs_mem *mem = hs_mem_open(256u << 20);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (hs_container_open(&c, mem, path, NULL, NULL) == HLWQ_OK) {
        for (uint32_t g = 0; g < c.table.n_groups; g++)
            if (hs_container_offset(&c, g, c.table.group[g].count - 1) + c.table.group[g].bytes > FILE_BYTES)
                __builtin_trap();
        hs_container_close(&c);
    }
    hs_mem_close(mem);
    close(fd);
    return 0;
}
