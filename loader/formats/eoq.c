/*
 * loader/formats/eoq.c - the tensors of an EOQ v3 layer, and where its levels are.
 */
#include "loader/formats/eoq.h"

#include "base/size.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { CENTROIDS_MAX = 16384 };

/* Levels must be what a codebook can be made of. */
static hlwq_status check_levels(const hs_levels *book, const char *path, hlwq_error *err)
{
    uint32_t n = 1u << book->bits;
    for (uint32_t i = 0; i < n; i++) {
        float v = book->level[i], mirror = book->level[n - 1 - i];
        if (!(fabsf(v) < 1e6f) || (i && !(v > book->level[i - 1])) || !(fabsf(v + mirror) <= 8e-6f * fabsf(v)))
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: centroids: level %u is %g, but levels are finite, ascending and symmetric", path, i,
                           (double)v);
    }
    return HLWQ_OK;
}

/* A list of numbers, or lists by width ("5"), as long as the width asks for; `bits` 0 where there is none. */
static hlwq_status levels_of_json(const hs_json *j, uint32_t bits, hs_levels *book, const char *path, hlwq_error *err)
{
    char width[2] = {(char)('0' + bits), 0};
    if (hs_json_type_of(j) == HS_JSON_OBJECT)
        j = hs_json_get(j, width);
    if (hs_json_type_of(j) != HS_JSON_ARRAY || hs_json_count(j) != 1u << bits)
        return HLWQ_OK;
    book->bits = bits;
    for (uint32_t i = 0; i < 1u << bits; i++) {
        hs_json_type type = hs_json_type_of(hs_json_at(j, i));
        if (type != HS_JSON_REAL && type != HS_JSON_INTEGER)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: centroids: level %u is not a number", path, i);
        book->level[i] = (float)hs_json_real(hs_json_at(j, i));
    }
    return check_levels(book, path, err);
}

static hlwq_status levels_of_text(const char *text, uint32_t bits, hs_levels *book, const char *path, hlwq_error *err)
{
    hs_json *root;
    if (strlen(text) > CENTROIDS_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: centroids: a text of %zu bytes, limit %d", path, strlen(text),
                       CENTROIDS_MAX);
    HS_TRY(hs_json_parse(text, strlen(text), path, &root, err));
    hlwq_status st = levels_of_json(root, bits, book, path, err);
    hs_json_free(root);
    return st;
}

static hlwq_status levels_of_tensor(const hs_hf *hf, const hs_raw *r, uint32_t bits, hs_levels *book, hlwq_error *err)
{
    const hs_st_entry *e = &r->entry;
    if (e->dtype != HS_F32)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor centroids is %s, should be F32", hf->path[r->file],
                       hs_dtype_name(e->dtype));
    if (e->bytes != sizeof(float) << bits)
        return HLWQ_OK;
    book->bits = bits;
    HS_TRY(hs_file_read(&hf->file[r->file], e->offset, book->level, e->bytes, hf->path[r->file], err));
    return check_levels(book, hf->path[r->file], err);
}

static hlwq_status levels_of_file(hs_hf *hf, uint32_t bits, hs_levels *book, hlwq_error *err)
{
    char *path, *text;
    uint64_t bytes;
    hs_json *root;
    HS_TRY(hs_path_join(&hf->arena, hf->dir, "eoq_metadata.json", &path, err));
    if (!hs_path_exists(path))
        return HLWQ_OK;
    HS_TRY(hs_file_text(&hf->arena, path, 16u << 20, &text, &bytes, err));
    HS_TRY(hs_json_parse(text, bytes, path, &root, err));
    const hs_json *c = hs_json_get(root, "centroids");
    hlwq_status st = hs_json_type_of(c) == HS_JSON_STRING
                         ? levels_of_text(hs_json_string(c, NULL), bits, book, path, err)
                         : levels_of_json(c, bits, book, path, err);
    hs_json_free(root);
    return st;
}

/* The book of a width, looked for once. */
static hlwq_status find_book(hs_hf *hf, const hs_raw *raw, uint32_t n, uint32_t bits, uint32_t *book, hlwq_error *err)
{
    hs_levels levels = {0};
    if (hf->eoq_book[bits]) {
        *book = hf->eoq_book[bits] - 1;
        return HLWQ_OK;
    }
    const hs_raw *tensor = hs_hf_raw(raw, n, "centroids", 9, "");
    if (hf->centroids)
        HS_TRY(levels_of_text(hf->centroids, bits, &levels, hf->centroids_path, err));
    if (levels.bits == 0 && tensor)
        HS_TRY(levels_of_tensor(hf, tensor, bits, &levels, err));
    if (levels.bits == 0)
        HS_TRY(levels_of_file(hf, bits, &levels, err));
    if (levels.bits == 0)
        levels = (hs_levels){.bits = bits, .author = 'A'};
    HS_TRY(hs_hf_book(hf, &levels, book, err));
    hf->eoq_book[bits] = *book + 1;
    return HLWQ_OK;
}

static hlwq_status bad_shape(const hs_hf *hf, const hs_raw *r, const char *want, hlwq_error *err)
{
    char got[200];
    hs_shape_text(got, sizeof got, r->entry.dim, r->entry.rank);
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is %s %s, should be %s", hf->path[r->file], r->entry.name,
                   hs_dtype_name(r->entry.dtype), got, want);
}

hlwq_status hs_eoq3_tensor(hs_hf *hf, const hs_raw *raw, uint32_t n, const hs_raw *p, const hs_raw *norms,
                           const hs_raw *awq, hs_tensor *t, hlwq_error *err)
{
    if (!norms)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s of the EOQ v3 format has no norms beside it",
                       hf->path[p->file], p->entry.name);
    if (p->entry.dtype != HS_U8)
        return bad_shape(hf, p, "U8", err);
    if (norms->entry.dtype != HS_F16 || norms->entry.bytes == 0)
        return bad_shape(hf, norms, "F16", err);
    if (awq && (awq->entry.dtype != HS_F16 || awq->entry.rank != 1))
        return bad_shape(hf, awq, "a vector of F16", err);
    const uint64_t blocks = norms->entry.bytes / 2, bits = p->entry.bytes / (blocks * 16);
    if (bits < 2 || bits > 6 || p->entry.bytes != blocks * 16 * bits || blocks > INT64_MAX / HS_BLOCK)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: %" PRIu64 " bytes for the %" PRIu64
                       " blocks of its norms are not codes of 2 to 6 bits",
                       hf->path[p->file], p->entry.name, p->entry.bytes, blocks);
    *t = (hs_tensor){.dtype = hs_dtype_of_bits((uint32_t)bits),
                     .encoding = HS_ENC_HLWQ,
                     .packing = HS_PACK_LSB,
                     .family = "EOQ v3",
                     .unsure = true,
                     .flat = true,
                     .rank = 1,
                     .dim = {blocks * HS_BLOCK},
                     .name = p->entry.name,
                     .data = {p->file, p->entry.offset, p->entry.bytes},
                     .norms = {norms->file, norms->entry.offset, norms->entry.bytes}};
    if (awq)
        t->awq = (hs_range){awq->file, awq->entry.offset, awq->entry.bytes};
    return find_book(hf, raw, n, (uint32_t)bits, &t->book, err);
}
