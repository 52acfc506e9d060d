/*
 * tests/support/safetensors.h - named tensors of a fixture file, as floats or integers.
 */
#ifndef HS_TESTS_SAFETENSORS_H
#define HS_TESTS_SAFETENSORS_H

#include "base/file.h"
#include "loader/safetensors.h"
#include "tests/support/check.h"

typedef struct st_file {
    hs_mem *mem;
    hs_arena arena;
    char *text;
    hs_st_entry *entry;
    uint32_t n;
} st_file;

static inline st_file *st_open(const char *path)
{
    st_file *f = calloc(1, sizeof *f);
    hlwq_error err = {0};
    uint64_t bytes, header;
    f->mem = hs_mem_open(0);
    hs_arena_init(&f->arena, f->mem, HS_MEM_OTHER);
    CHECK_OK(hs_file_text(&f->arena, path, 1u << 30, &f->text, &bytes, &err), err);
    memcpy(&header, f->text, 8);
    CHECK_OK(hs_safetensors_parse(f->text + 8, header, bytes, path, &f->arena, &f->entry, &f->n, &err), err);
    return f;
}

static inline void st_close(st_file *f)
{
    hs_arena_close(&f->arena);
    hs_mem_close(f->mem);
    free(f);
}

static inline const hs_st_entry *st_find(const st_file *f, const char *name)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (strcmp(f->entry[i].name, name) == 0)
            return &f->entry[i];
    return NULL;
}

static inline const hs_st_entry *st_need(const st_file *f, const char *name)
{
    const hs_st_entry *e = st_find(f, name);
    if (!e)
        fail_msg("the fixture has no tensor %s", name);
    return e;
}

/* The bytes as stored, aligned; they live as long as the file. */
static inline const void *st_raw(st_file *f, const char *name, uint64_t *bytes)
{
    const hs_st_entry *e = st_need(f, name);
    hlwq_error err = {0};
    void *p;
    if (bytes)
        *bytes = e->bytes;
    CHECK_OK(hs_arena_alloc(&f->arena, e->bytes, &p, &err), err);
    memcpy(p, f->text + e->offset, e->bytes);
    return p;
}

static inline uint64_t st_count(const hs_st_entry *e)
{
    return e->bytes / hs_dtype_bytes(e->dtype);
}

/* Any float type as malloc'ed fp32. */
static inline float *st_f32(const st_file *f, const char *name, uint64_t *count)
{
    const hs_st_entry *e = st_need(f, name);
    float *out = malloc(st_count(e) * sizeof *out + 1);
    hs_to_f32(out, f->text + e->offset, e->dtype, st_count(e));
    if (count)
        *count = st_count(e);
    return out;
}

/* An I32 tensor, malloc'ed. */
static inline int32_t *st_i32(const st_file *f, const char *name, uint64_t *count)
{
    const hs_st_entry *e = st_need(f, name);
    assert_int_equal(e->dtype, HS_I32);
    int32_t *out = malloc(e->bytes + 1);
    memcpy(out, f->text + e->offset, e->bytes);
    if (count)
        *count = st_count(e);
    return out;
}

#endif
