/*
 * loader/container_index.c - the JSON index, compared entry by entry with what the config asks for.
 *
 * Shapes are not believed from the index: the schema of the config says them, and the index must say the same.  What is
 * believed, after checking, is each part's dtype and codebook, and where the extents lie.
 */
#include "loader/container_private.h"

#include "base/json.h"
#include "base/size.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct hs_index {
    hs_container *c;
    hs_json *root;
    uint64_t data_offset, data_end; /* where blobs and extents may lie */
};

static hlwq_status read_books(hs_index *x, hlwq_error *err)
{
    hs_table *t = &x->c->table;
    const hs_json *books = hs_json_get(x->root, "books");
    size_t n = hs_json_count(books);
    if (hs_json_type_of(books) != HS_JSON_ARRAY || n > sizeof t->book / sizeof *t->book)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: \"books\" is not an array of at most 16 codebooks",
                       x->c->path);
    for (size_t i = 0; i < n; i++) {
        const hs_json *b = hs_json_at(books, i), *levels = hs_json_get(b, "levels");
        hs_levels *out = &t->book[i];
        HS_TRY(hs_json_take_u32(b, "bits", HS_REQUIRED, 2, 6, &out->bits, x->c->path, err));
        if (hs_json_type_of(levels) != HS_JSON_ARRAY || hs_json_count(levels) != 1u << out->bits)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: codebook %zu has %zu levels, %u bits need %u", x->c->path,
                           i, hs_json_count(levels), out->bits, 1u << out->bits);
        for (uint32_t k = 0; k < 1u << out->bits; k++) {
            const hs_json *v = hs_json_at(levels, k);
            hs_json_type type = hs_json_type_of(v);
            if ((type != HS_JSON_REAL && type != HS_JSON_INTEGER) || !(fabs(hs_json_real(v)) < 1e6))
                return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: codebook %zu, level %u is not a finite number",
                               x->c->path, i, k);
            out->level[k] = (float)hs_json_real(v);
        }
    }
    t->n_books = (uint32_t)n;
    return HLWQ_OK;
}

static bool inside(const hs_index *x, uint64_t offset, uint64_t bytes)
{
    uint64_t end;
    return offset >= x->data_offset && hs_add_u64(offset, bytes, &end) && end <= x->data_end;
}

/* 16 hexadecimal digits. */
static bool read_hex(const char *text, uint64_t *out)
{
    *out = 0;
    for (int i = 0; i < 16; i++) {
        char c = text[i];
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0)
            return false;
        *out = *out << 4 | (uint64_t)v;
    }
    return true;
}

static hlwq_status read_blobs(hs_index *x, hs_blob_range *blob, hlwq_error *err)
{
    const char *path = x->c->path;
    const hs_json *blobs = hs_json_get(x->root, "blobs");
    for (int i = 0; i < HS_BLOB_COUNT; i++) {
        const hs_json *b = hs_json_get(blobs, hs_blob_name[i]);
        hs_blob_range *r = &blob[i];
        const char *hash = "";
        if (!b)
            continue;
        HS_TRY(hs_json_take_u64(b, "offset", HS_REQUIRED, 0, INT64_MAX, &r->offset, path, err));
        HS_TRY(hs_json_take_u64(b, "bytes", HS_REQUIRED, 0, HS_BLOB_MAX, &r->bytes, path, err));
        HS_TRY(hs_json_take_u64(b, "stored", HS_REQUIRED, 0, HS_BLOB_MAX, &r->stored, path, err));
        HS_TRY(hs_json_take_bool(b, "lz4", HS_REQUIRED, &r->lz4, path, err));
        HS_TRY(hs_json_take_string(b, "xxh3", HS_REQUIRED, &hash, path, err));
        /* lz4 expands at most 255 times, so a small file cannot ask for a large buffer. */
        if (!inside(x, r->offset, r->stored) || strlen(hash) != 16 || !read_hex(hash, &r->hash) ||
            (r->lz4 ? r->bytes > r->stored * 255 + 64 : r->bytes != r->stored))
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: index: blob %s (%" PRIu64 " bytes stored at %" PRIu64
                           ") is outside the file or has a wrong size",
                           path, hs_blob_name[i], r->stored, r->offset);
        r->present = true;
    }
    return HLWQ_OK;
}

hlwq_status hs_index_parse(hs_index **index, hs_container *c, const char *text, uint64_t bytes, uint64_t data_offset,
                           uint64_t data_end, hs_blob_range *blob, hlwq_error *err)
{
    const char *provenance = "";
    hs_index *x = calloc(1, sizeof *x);
    *index = x;
    if (!x)
        return hs_fail(err, HLWQ_ERR_NOMEM, "%s: no memory for the index", c->path);
    *x = (hs_index){c, NULL, data_offset, data_end};
    while (bytes && text[bytes - 1] == ' ') /* room that was not needed */
        bytes--;
    HS_TRY(hs_json_parse(text, bytes, c->path, &x->root, err));
    HS_TRY(hs_json_take_string(x->root, "provenance", HS_OPTIONAL, &provenance, c->path, err));
    char *copy;
    HS_TRY(hs_arena_text(&c->arena, provenance, strlen(provenance), &copy, err));
    c->provenance = copy;
    HS_TRY(hs_json_take_bool(x->root, "mtp", HS_REQUIRED, &c->table.has_mtp, c->path, err));
    return read_blobs(x, blob, err);
}

void hs_index_free(hs_index *x)
{
    if (!x)
        return;
    hs_json_free(x->root);
    free(x);
}

/* ---- groups --------------------------------------------------------------------------------- */

static hlwq_status mismatch(const hs_index *x, uint32_t g, const char *what, hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: group %u: %s is not what the config asks for", x->c->path, g,
                   what);
}

static hlwq_status read_part(hs_index *x, uint32_t g, const hs_json *j, hs_part *part, uint64_t *offset,
                             hlwq_error *err)
{
    const char *path = x->c->path, *name = "", *dtype = "";
    uint32_t rows = 0, cols = 0;
    HS_TRY(hs_json_take_string(j, "name", HS_REQUIRED, &name, path, err));
    HS_TRY(hs_json_take_string(j, "dtype", HS_REQUIRED, &dtype, path, err));
    HS_TRY(hs_json_take_u32(j, "rows", HS_REQUIRED, 1, UINT32_MAX, &rows, path, err));
    HS_TRY(hs_json_take_u32(j, "cols", HS_REQUIRED, 1, UINT32_MAX, &cols, path, err));
    HS_TRY(hs_json_take_u64(j, "offset", HS_REQUIRED, 0, INT64_MAX, offset, path, err));
    if (strcmp(name, hs_role_name(part->role)) != 0 || rows != part->rows || cols != part->cols)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: index: group %u holds %.60s of %u x %u, the config asks for %s of %u x %u", path, g, name,
                       rows, cols, hs_role_name(part->role), part->rows, part->cols);
    bool known = hs_part_parse_format(part, dtype), vector = hs_role_class_of(part->role) == HS_CLASS_VECTOR;
    if (!known || (!hs_dtype_packed(part->dtype) && !hs_dtype_float(part->dtype)) ||
        (vector && part->dtype != HS_F32) ||
        ((part->ordered || part->scaled) && part->role == HS_EMBED)) /* whose rows are taken as they are */
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: %s has the dtype \"%.20s\", which it cannot have", path,
                       hs_role_name(part->role), dtype);
    part->book = 0;
    if (hs_dtype_rotated(part->dtype)) {
        const hs_table *t = &x->c->table;
        HS_TRY(hs_json_take_u32(j, "book", HS_REQUIRED, 0, 15, &part->book, path, err));
        if (part->book >= t->n_books || t->book[part->book].bits != hs_dtype_bits(part->dtype))
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: %s is %s with codebook %u, which is not of that width",
                           path, hs_role_name(part->role), dtype, part->book);
    }
    return HLWQ_OK;
}

static hlwq_status read_hashes(hs_index *x, uint32_t g, const hs_json *j, hs_group *group, hlwq_error *err)
{
    const char *text = "";
    void *p;
    HS_TRY(hs_json_take_string(j, "xxh3", HS_REQUIRED, &text, x->c->path, err));
    if (strlen(text) != 16 * (size_t)group->count)
        return mismatch(x, g, "the number of checksums", err);
    HS_TRY(hs_arena_array(&x->c->arena, group->count, sizeof(uint64_t), &p, err));
    group->xxh = p;
    for (uint32_t e = 0; e < group->count; e++)
        if (!read_hex(text + 16 * (size_t)e, &group->xxh[e]))
            return mismatch(x, g, "a checksum", err);
    return HLWQ_OK;
}

static hlwq_status read_group(hs_index *x, uint32_t g, const hs_json *j, hs_group *group, hlwq_error *err)
{
    const char *path = x->c->path, *kind = "";
    uint32_t layer = 0, count = 0;
    uint64_t bytes = 0, offset[HS_PARTS_MAX];
    const hs_json *parts = hs_json_get(j, "parts");
    HS_TRY(hs_json_take_string(j, "kind", HS_REQUIRED, &kind, path, err));
    HS_TRY(hs_json_take_u32(j, "layer", HS_REQUIRED, 0, HS_LAYERS_MAX, &layer, path, err));
    HS_TRY(hs_json_take_u32(j, "count", HS_REQUIRED, 1, HS_EXPERTS_MAX, &count, path, err));
    HS_TRY(hs_json_take_u64(j, "offset", HS_REQUIRED, 0, INT64_MAX, &group->file_offset, path, err));
    HS_TRY(hs_json_take_u64(j, "bytes", HS_REQUIRED, 0, INT64_MAX, &bytes, path, err));
    if (strcmp(kind, hs_group_kind_name(group->kind)) != 0 || layer != group->layer || count != group->count)
        return mismatch(x, g, "its kind, layer or count", err);
    if (hs_json_type_of(parts) != HS_JSON_ARRAY || hs_json_count(parts) != group->n_parts)
        return mismatch(x, g, "the number of parts", err);
    for (uint32_t i = 0; i < group->n_parts; i++)
        HS_TRY(read_part(x, g, hs_json_at(parts, i), &group->part[i], &offset[i], err));
    HS_TRY(hs_group_place(group, err));
    for (uint32_t i = 0; i < group->n_parts; i++)
        if (offset[i] != group->part[i].offset)
            return mismatch(x, g, "the offset of a part", err);
    if (bytes != group->bytes)
        return mismatch(x, g, "its size", err);
    uint64_t all; /* both factors are capped: hs_group_place refuses products that overflow */
    all = group->bytes * group->count;
    if (group->file_offset % HS_EXTENT_ALIGN || !inside(x, group->file_offset, all))
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: index: group %u, %" PRIu64 " bytes at %" PRIu64
                       ", is outside the file or not on a 4096-byte boundary",
                       path, g, all, group->file_offset);
    return read_hashes(x, g, j, group, err);
}

hlwq_status hs_index_groups(hs_index *x, hlwq_error *err)
{
    hs_table *t = &x->c->table;
    const hs_json *groups = hs_json_get(x->root, "groups");
    hs_config config = t->config;
    /* The index settles what the config leaves to the files: an absent head ties. */
    HS_TRY(hs_json_take_bool(x->root, "tied", HS_REQUIRED, &config.tied, x->c->path, err));
    if (hs_json_type_of(groups) != HS_JSON_ARRAY || hs_json_count(groups) > 2 * (HS_LAYERS_MAX + 2))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: \"groups\" is not an array of groups", x->c->path);
    HS_TRY(hs_schema_build(t, &config, t->has_mtp, &x->c->arena, err));
    HS_TRY(read_books(x, err));
    if (hs_json_count(groups) != t->n_groups)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index: %zu groups, the config asks for %u", x->c->path,
                       hs_json_count(groups), t->n_groups);
    uint64_t before = 0;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        HS_TRY(read_group(x, g, hs_json_at(groups, g), &t->group[g], err));
        if (t->group[g].file_offset < before)
            return mismatch(x, g, "its place, it overlaps the one before, which", err);
        before = t->group[g].file_offset + t->group[g].bytes * t->group[g].count;
    }
    return HLWQ_OK;
}
