/*
 * tests/support/edit_model.h - a sound model directory, made wrong in one place.
 */
#ifndef HS_TESTS_EDIT_MODEL_H
#define HS_TESTS_EDIT_MODEL_H

#include "tests/support/tiny_model.h"

static inline char *edit_read(const char *dir, const char *name, size_t *bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is missing", path);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*bytes + 1);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    data[*bytes] = 0;
    fclose(f);
    return data;
}

/* Every `from` in the text becomes `to`; at least one there must be. */
static inline void edit_text(hs_text *out, const char *text, size_t bytes, const char *from, const char *to)
{
    size_t n = strlen(from), hits = 0;
    for (size_t i = 0; i < bytes;) {
        bool hit = i + n <= bytes && memcmp(text + i, from, n) == 0;
        hs_text_add(out, hit ? to : text + i, hit ? strlen(to) : 1);
        i += hit ? n : 1;
        hits += hit;
    }
    if (!hits)
        fail_msg("there is no %s to replace", from);
}

/* In the header of a safetensors file; the data moves with it. */
static inline void edit_header(const char *dir, const char *name, const char *from, const char *to)
{
    size_t bytes;
    uint64_t length;
    char *data = edit_read(dir, name, &bytes);
    hs_text header = {0}, out = {0};
    memcpy(&length, data, 8);
    edit_text(&header, data + 8, length, from, to);
    uint64_t changed = header.bytes;
    hs_text_add(&out, (const char *)&changed, 8);
    hs_text_add(&out, header.data, header.bytes);
    hs_text_add(&out, data + 8 + length, bytes - 8 - length);
    tiny_file(dir, name, out.data, out.bytes);
    hs_text_close(&header);
    hs_text_close(&out);
    free(data);
}

static inline void edit_file(const char *dir, const char *name, const char *from, const char *to)
{
    size_t bytes;
    char *data = edit_read(dir, name, &bytes);
    hs_text out = {0};
    edit_text(&out, data, bytes, from, to);
    tiny_file(dir, name, out.data, out.bytes);
    hs_text_close(&out);
    free(data);
}

#endif
