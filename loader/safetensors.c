/*
 * loader/safetensors.c - checks a header; reads no data.
 */
#include "loader/safetensors.h"

#include "base/json.h"
#include "base/size.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void hs_shape_text(char *out, size_t capacity, const uint64_t *dim, uint32_t rank)
{
    size_t n = (size_t)snprintf(out, capacity, "[");
    for (uint32_t i = 0; i < rank && n < capacity; i++)
        n += (size_t)snprintf(out + n, capacity - n, "%s%" PRIu64, i ? ", " : "", dim[i]);
    if (n < capacity)
        snprintf(out + n, capacity - n, "]");
}

typedef struct context {
    const char *path;
    uint64_t data, data_bytes; /* where the data begins, how long it is */
    hs_arena *arena;
    hlwq_error *err;
} context;

static hlwq_status bad(const context *c, const char *name, const char *why)
{
    return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: %s", c->path, name, why);
}

static hlwq_status read_shape(const context *c, const hs_json *j, hs_st_entry *e, uint64_t *elements)
{
    const hs_json *shape = hs_json_get(j, "shape");
    if (hs_json_type_of(shape) != HS_JSON_ARRAY)
        return bad(c, e->name, "shape is missing or not an array");
    if (hs_json_count(shape) > HS_SAFETENSORS_RANK_MAX)
        return bad(c, e->name, "shape has more than 8 dimensions");
    e->rank = (uint32_t)hs_json_count(shape);
    *elements = 1;
    for (uint32_t i = 0; i < e->rank; i++) {
        const hs_json *d = hs_json_at(shape, i);
        if (hs_json_type_of(d) != HS_JSON_INTEGER || hs_json_int(d) < 0)
            return bad(c, e->name, "shape has a dimension that is not a whole number >= 0");
        e->dim[i] = (uint64_t)hs_json_int(d);
        if (!hs_mul_u64(*elements, e->dim[i], elements) && e->dim[i])
            return bad(c, e->name, "shape overflows 64 bits");
    }
    return HLWQ_OK;
}

static hlwq_status read_range(const context *c, const hs_json *j, hs_st_entry *e, uint64_t elements)
{
    const hs_json *range = hs_json_get(j, "data_offsets"), *a = hs_json_at(range, 0), *b = hs_json_at(range, 1);
    if (hs_json_count(range) != 2 || hs_json_type_of(a) != HS_JSON_INTEGER || hs_json_type_of(b) != HS_JSON_INTEGER)
        return bad(c, e->name, "data_offsets is not a pair of whole numbers");
    int64_t begin = hs_json_int(a), end = hs_json_int(b);
    if (begin < 0 || end < begin || (uint64_t)end > c->data_bytes)
        return hs_fail(c->err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: data_offsets %" PRId64 "..%" PRId64
                       " are out of range, the file has %" PRIu64 " bytes of data",
                       c->path, e->name, begin, end, c->data_bytes);
    uint64_t bytes;
    if (!hs_mul_u64(elements, hs_dtype_bytes(e->dtype), &bytes) || bytes != (uint64_t)(end - begin)) {
        char shape[200];
        hs_shape_text(shape, sizeof shape, e->dim, e->rank);
        return hs_fail(c->err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: size mismatch, %s of shape %s does not take the %" PRId64
                       " bytes of data_offsets",
                       c->path, e->name, hs_dtype_name(e->dtype), shape, end - begin);
    }
    e->offset = c->data + (uint64_t)begin;
    e->bytes = bytes;
    return HLWQ_OK;
}

static hlwq_status read_entry(const context *c, const char *name, size_t name_bytes, const hs_json *j, hs_st_entry *e)
{
    char *copy;
    uint64_t elements = 0;
    if (name_bytes == 0 || name_bytes > HS_SAFETENSORS_NAME_MAX)
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: a tensor name has %zu bytes, limit 1..%d", c->path, name_bytes,
                       HS_SAFETENSORS_NAME_MAX);
    HS_TRY(hs_arena_text(c->arena, name, name_bytes, &copy, c->err));
    e->name = copy;
    if (hs_json_type_of(j) != HS_JSON_OBJECT)
        return bad(c, name, "header entry is not an object");
    const hs_json *type = hs_json_get(j, "dtype");
    if (hs_json_type_of(type) != HS_JSON_STRING)
        return bad(c, name, "dtype is missing");
    if (!hs_dtype_parse(hs_json_string(type, NULL), &e->dtype) || hs_dtype_packed(e->dtype))
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: dtype \"%.50s\" is unknown", c->path, name,
                       hs_json_string(type, NULL));
    HS_TRY(read_shape(c, j, e, &elements));
    return read_range(c, j, e, elements);
}

static hlwq_status check_metadata(const context *c, const hs_json *meta)
{
    if (hs_json_type_of(meta) != HS_JSON_OBJECT)
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: header __metadata__ is not an object", c->path);
    for (hs_json_iter *it = hs_json_first(meta); it; it = hs_json_next(meta, it))
        if (hs_json_type_of(hs_json_value(it)) != HS_JSON_STRING)
            return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: header __metadata__ holds something other than text", c->path);
    return HLWQ_OK;
}

static int by_offset(const void *x, const void *y)
{
    const hs_st_entry *a = x, *b = y;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static hlwq_status read_entries(const context *c, const hs_json *root, hs_st_entry **entry, uint32_t *n)
{
    void *p;
    if (hs_json_type_of(root) != HS_JSON_OBJECT)
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: header is not a JSON object", c->path);
    HS_TRY(hs_arena_array(c->arena, hs_json_count(root), sizeof(hs_st_entry), &p, c->err));
    hs_st_entry *e = p;
    *n = 0;
    for (hs_json_iter *it = hs_json_first(root); it; it = hs_json_next(root, it)) {
        size_t bytes;
        const char *name = hs_json_key(it, &bytes);
        if (strcmp(name, "__metadata__") == 0)
            HS_TRY(check_metadata(c, hs_json_value(it)));
        else
            HS_TRY(read_entry(c, name, bytes, hs_json_value(it), &e[(*n)++]));
    }
    qsort(e, *n, sizeof *e, by_offset);
    for (uint32_t i = 1; i < *n; i++)
        if (e[i].offset < e[i - 1].offset + e[i - 1].bytes)
            return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: tensors %.200s and %.200s overlap", c->path, e[i - 1].name,
                           e[i].name);
    uint64_t end = *n ? e[*n - 1].offset + e[*n - 1].bytes : c->data, file_end = c->data + c->data_bytes;
    if (end != file_end) /* a header of another file, or a file with another appended */
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " bytes lie beyond the last tensor", c->path,
                       file_end - end);
    *entry = e;
    return HLWQ_OK;
}

hlwq_status hs_safetensors_parse(const char *header, uint64_t header_bytes, uint64_t file_bytes, const char *path,
                                 hs_arena *arena, hs_st_entry **entry, uint32_t *n, hlwq_error *err)
{
    return hs_safetensors_parse_noted(header, header_bytes, file_bytes, path, arena, entry, n, NULL, err);
}

static hlwq_status note_centroids(const hs_json *root, hs_arena *arena, const char **centroids, hlwq_error *err)
{
    const hs_json *c = hs_json_get(hs_json_get(root, "__metadata__"), "centroids");
    size_t bytes;
    char *copy;
    if (!centroids || hs_json_type_of(c) != HS_JSON_STRING)
        return HLWQ_OK;
    const char *text = hs_json_string(c, &bytes);
    HS_TRY(hs_arena_text(arena, text, bytes, &copy, err));
    *centroids = copy;
    return HLWQ_OK;
}

hlwq_status hs_safetensors_parse_noted(const char *header, uint64_t header_bytes, uint64_t file_bytes, const char *path,
                                       hs_arena *arena, hs_st_entry **entry, uint32_t *n, const char **centroids,
                                       hlwq_error *err)
{
    hs_json *root;
    *entry = NULL;
    *n = 0;
    if (header_bytes > HS_SAFETENSORS_HEADER_MAX || header_bytes + 8 > file_bytes)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: header of %" PRIu64 " bytes, but the file has %" PRIu64 " and the limit is %u", path,
                       header_bytes, file_bytes, HS_SAFETENSORS_HEADER_MAX);
    if (header_bytes < 2 || header[0] != '{')
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: header does not begin with '{': not a safetensors file", path);
    uint64_t last = header_bytes - 1;
    while (header[last] == ' ') /* stops at the '{' at the latest */
        last--;
    if (header[last] != '}')
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: header JSON does not end with '}' and spaces", path);
    HS_TRY(hs_json_parse(header, header_bytes, path, &root, err));
    context c = {path, 8 + header_bytes, file_bytes - 8 - header_bytes, arena, err};
    hlwq_status st = read_entries(&c, root, entry, n);
    if (st == HLWQ_OK)
        st = note_centroids(root, arena, centroids, err);
    hs_json_free(root);
    return st;
}
