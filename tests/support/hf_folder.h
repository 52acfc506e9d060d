/*
 * tests/support/hf_folder.h - a model directory of a test's own, and the parts of the loader that read it.
 *
 * For tests that put a few files there, make one of them wrong, and look at what the loader says.
 */
#ifndef HS_TESTS_HF_FOLDER_H
#define HS_TESTS_HF_FOLDER_H

#include "loader/hf_private.h"
#include "loader/safetensors.h"
#include "tests/support/edit_model.h"

#include <dirent.h>

static char dir[64];
static hs_mem *mem;
static hlwq_error err;
static hs_hf hf;

/* `cap_bytes`: nothing out of proportion is allocated; 0 = no cap. */
static inline int folder_open(const char *label, uint64_t cap_bytes)
{
    snprintf(dir, sizeof dir, "/tmp/hlwq-%s-%d", label, (int)getpid());
    mem = hs_mem_open(cap_bytes);
    return mkdir(dir, 0777);
}

static inline void folder_remove(const char *name)
{
    char path[320];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
}

static inline int folder_teardown(void **state)
{
    (void)state;
    hs_hf_close(&hf);
    hs_mem_close(mem);
    DIR *d = opendir(dir);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
        if (e->d_name[0] != '.')
            folder_remove(e->d_name);
    if (d)
        closedir(d);
    return rmdir(dir);
}

/* A safetensors file in the making. */
typedef struct folder_st {
    hs_text header, data;
} folder_st;

static inline void folder_put(folder_st *f, const char *name, const char *dtype, const char *shape, const void *bytes,
                              size_t n)
{
    size_t from = f->data.bytes;
    hs_text_add(&f->data, bytes, n);
    hs_text_format(&f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                   f->header.bytes ? "," : "{", name, dtype, shape, from, f->data.bytes);
}

/* Writes model.safetensors; f is empty afterwards. */
static inline void folder_write(folder_st *f)
{
    hs_text file = {0};
    hs_text_add(&f->header, "}", 1);
    uint64_t bytes = f->header.bytes;
    hs_text_add(&file, (const char *)&bytes, 8);
    hs_text_add(&file, f->header.data, f->header.bytes);
    hs_text_add(&file, f->data.data, f->data.bytes);
    tiny_file(dir, "model.safetensors", file.data, file.bytes);
    hs_text_close(&f->header);
    hs_text_close(&f->data);
    hs_text_close(&file);
}

static inline void folder_copy(const char *from, const char *name)
{
    size_t bytes;
    char *data = edit_read(from, name, &bytes);
    tiny_file(dir, name, data, bytes);
    free(data);
}

/* The tensors of what lies there, without a config. */
static inline hlwq_status folder_list(void)
{
    hs_raw *raw = NULL;
    uint32_t n = 0;
    hs_hf_close(&hf);
    hf = (hs_hf){.dir = dir, .text_dir = dir, .config_text = (char *)"{}", .config_bytes = 2};
    hs_arena_init(&hf.arena, mem, HS_MEM_TABLE);
    hlwq_status st = hs_hf_read_shards(&hf, &raw, &n, &err);
    return st == HLWQ_OK ? hs_hf_list_tensors(&hf, raw, n, NULL, &err) : st;
}

/* Where the first tensor of that name's ending lies in model.safetensors. */
static inline uint64_t folder_offset(const char *ending)
{
    size_t bytes;
    uint64_t length, found = 0;
    char *data = edit_read(dir, "model.safetensors", &bytes);
    hs_arena arena;
    hs_st_entry *e;
    uint32_t n;
    memcpy(&length, data, 8);
    hs_arena_init(&arena, mem, HS_MEM_TABLE);
    CHECK_OK(hs_safetensors_parse(data + 8, length, bytes, "model.safetensors", &arena, &e, &n, &err), err);
    for (uint32_t i = 0; i < n && !found; i++) {
        size_t len = strlen(e[i].name);
        if (len >= strlen(ending) && strcmp(e[i].name + len - strlen(ending), ending) == 0)
            found = e[i].offset;
    }
    hs_arena_close(&arena);
    free(data);
    assert_true(found);
    return found;
}

static inline void folder_patch(uint64_t offset, const void *value, size_t bytes)
{
    char path[320];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, (long)offset, SEEK_SET);
    assert_int_equal(fwrite(value, 1, bytes, f), bytes);
    fclose(f);
}

#endif
