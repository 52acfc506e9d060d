/*
 * Whole safetensors files of any family: their tensors are listed, and every row of every matrix is read and widened or
 * unpacked, as if a model had such a part.
 */
#define _GNU_SOURCE
#include "loader/hf_private.h"
#include "offload/store_codes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 4096, COLS = 4096 };

static void read_codes(const hs_hf *hf, const hs_tensor *t)
{
    const uint64_t cols = t->flat ? HS_BLOCK : t->dim[1], rows = t->flat ? t->dim[0] / HS_BLOCK : t->dim[0];
    const uint64_t blocks = (cols + HS_BLOCK - 1) / HS_BLOCK;
    if (rows == 0 || rows > ROWS || cols > COLS)
        return;
    hs_source s = {t, 0, rows, cols};
    uint8_t *codes = malloc(rows * blocks * hs_hf_block_bytes(t));
    uint16_t *norms = malloc(rows * blocks * 2);
    if (hs_hf_read_packed(hf, &s, 0, rows, codes, norms, NULL) == HLWQ_OK)
        for (uint64_t b = 0; b < rows * blocks; b++) {
            uint8_t code[HS_BLOCK];
            hs_store_unpack_codes(t, codes + b * hs_hf_block_bytes(t), code);
            for (int i = 0; i < HS_BLOCK; i++)
                if (code[i] >> hs_dtype_bits(t->dtype))
                    abort(); /* a reader would look beyond the levels */
        }
    free(codes);
    free(norms);
}

static void read_ints(const hs_hf *hf, const hs_tensor *t)
{
    hs_int_rows rows;
    if (t->dim[0] > ROWS || t->dim[1] > COLS)
        return;
    void *buffer = malloc(hs_hf_ints_bytes(t, t->dim[0]));
    uint8_t *code = malloc(t->dim[1]);
    if (hs_hf_read_ints(hf, t, 0, t->dim[0], buffer, &rows, NULL) == HLWQ_OK)
        for (uint64_t r = 0; r < t->dim[0]; r++)
            hs_int_codes(t, &rows, r, code);
    free(code);
    free(buffer);
}

static void read_wide(const hs_hf *hf, const hs_tensor *t)
{
    const uint64_t cols = t->flat ? 96 : t->dim[1],
                   rows = t->flat ? t->dim[0] / 96 : t->dim[0]; /* rows that blocks cross */
    if (rows == 0 || rows > ROWS || cols > COLS)
        return;
    hs_source s = {t, 0, rows, cols};
    uint64_t step = hs_hf_wide_bytes(t, cols);
    uint8_t *raw = malloc(rows * step);
    float *row = malloc(2 * cols * sizeof *row);
    if (hs_hf_read_wide(hf, &s, 0, rows, raw, NULL) == HLWQ_OK)
        for (uint64_t r = 0; r < rows; r++)
            hs_hf_widen(&s, r, raw + r * step, row);
    free(row);
    free(raw);
}

static void read_all(const hs_hf *hf)
{
    for (uint32_t i = 0; i < hf->n_tensors; i++) {
        const hs_tensor *t = &hf->tensor[i];
        if (t->encoding == HS_ENC_HLWQ)
            read_codes(hf, t);
        else if (t->encoding == HS_ENC_GPTQ || t->encoding == HS_ENC_COMPRESSED)
            read_ints(hf, t);
        else if (hs_tensor_widened(t))
            read_wide(hf, t);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64], *paths[1] = {path},
                   config[] = "{\"quantization_config\":{\"quant_method\":\"gptq\",\"group_size\":128}}";
    uint64_t header;
    hs_st_entry *entry;
    uint32_t n;
    hs_file file;
    if (size < 16)
        return 0;
    memcpy(&header, data, 8);
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || header > size - 8 || write(fd, data, size) != (ssize_t)size) {
        close(fd);
        return 0;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    hs_mem *mem = hs_mem_open(64u << 20);
    hs_hf hf = {.dir = "/nonexistent", .text_dir = "/nonexistent", .config_text = config, .file = &file, .path = paths};
    bool gptq = data[size - 1] & 1; /* the config names a method or none */
    hf.config_bytes = gptq ? strlen(config) : 2;
    if (!gptq)
        memcpy(config, "{}", 2);
    hs_arena_init(&hf.arena, mem, HS_MEM_TABLE);
    if (hs_file_open(&file, path, NULL) == HLWQ_OK) {
        hf.n_files = 1;
        hlwq_status st = hs_safetensors_parse_noted((const char *)data + 8, header, size, "fuzz", &hf.arena, &entry, &n,
                                                    &hf.centroids, NULL);
        hf.centroids_path = "fuzz";
        hs_raw *raw = malloc((n + 1) * sizeof *raw);
        for (uint32_t i = 0; st == HLWQ_OK && i < n; i++)
            raw[i] = (hs_raw){entry[i], 0};
        if (st == HLWQ_OK)
            st = hs_hf_list_tensors(&hf, raw, n, NULL, NULL);
        if (st == HLWQ_OK)
            read_all(&hf);
        free(raw);
        hs_hf_close(&hf);
    }
    close(fd);
    hs_mem_close(mem);
    return 0;
}
