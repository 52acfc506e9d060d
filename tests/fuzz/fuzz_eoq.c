/*
 * .eoq files: the input is one without its last four bytes, the checksum, which is made right here, so that mutations
 * reach the checks behind it.  Rows are read as they stand, and a few at a time.
 */
#define _GNU_SOURCE
#include "loader/formats/eoq_file.h"
#include "loader/formats/wide.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WEIGHTS = 1 << 16, INPUT_MAX = 32 << 10 };

static uint32_t crc_of(const uint8_t *data, size_t size)
{
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        c ^= data[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    }
    return ~c;
}

static void read_tensor(const hs_hf *hf, const hs_tensor *t)
{
    const uint64_t cols = t->dim[t->rank - 1];
    uint64_t rows = 1;
    for (uint32_t i = 0; i + 1 < t->rank; i++)
        rows *= t->dim[i];
    if (rows * cols > WEIGHTS)
        return;
    const hs_source s = {t, 0, rows, cols};
    const uint64_t step = hs_hf_wide_bytes(t, cols);
    for (uint64_t together = rows; together; together = together > 3 ? 3 : 0) {
        uint8_t *raw = malloc(together * step);
        float *row = malloc(2 * cols * sizeof *row);
        hlwq_status st = HLWQ_OK;
        for (uint64_t r = 0; st == HLWQ_OK && r + together <= rows; r += together) {
            st = hs_hf_read_wide(hf, &s, r, together, raw, NULL);
            for (uint64_t i = 0; st == HLWQ_OK && i < together; i++)
                hs_hf_widen(&s, r + i, raw + i * step, row);
        }
        free(row);
        free(raw);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    if (size < 16 || size > INPUT_MAX)
        return 0;
    const uint32_t crc = crc_of(data, size);
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size || write(fd, &crc, 4) != 4) {
        close(fd);
        return 0;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    hs_mem *mem = hs_mem_open(64u << 20);
    hs_hf hf = {.dir = path, .text_dir = path};
    hs_arena_init(&hf.arena, mem, HS_MEM_TABLE);
    if (hs_eoq_file_list(&hf, path, NULL, NULL) == HLWQ_OK)
        for (uint32_t i = 0; i < hf.n_tensors; i++)
            read_tensor(&hf, &hf.tensor[i]);
    hs_hf_close(&hf);
    hs_mem_close(mem);
    close(fd);
    return 0;
}
