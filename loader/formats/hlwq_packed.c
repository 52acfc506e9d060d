/*
 * loader/formats/hlwq_packed.c - checks the three tensors against each other.
 */
#include "loader/formats/hlwq_packed.h"

#include "base/json.h"
#include "base/size.h"

#include <inttypes.h>
#include <string.h>

void hs_hlwq_slice_name(char *name)
{
    size_t n = strlen(name);
    if (n > 7 && strcmp(name + n - 7, ".weight") == 0 && strstr(name, "_proj_e")) {
        name[n - 7] = 0;
        return;
    }
    char *slice = strstr(name, ".weight_e");
    if (slice)
        memmove(slice, slice + 7, strlen(slice + 7) + 1);
}

static hlwq_status bad(const hs_hf *hf, const hs_raw *r, const char *why, uint64_t got, uint64_t want, hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: %s is %" PRIu64 ", should be %" PRIu64, hf->path[r->file],
                   r->entry.name, why, got, want);
}

hlwq_status hs_hlwq_packed_tensor(hs_hf *hf, const hs_raw *packed, const hs_raw *norms, const hs_raw *meta,
                                  hs_tensor *out, hlwq_error *err)
{
    const hs_st_entry *p = &packed->entry;
    const char *path = hf->path[packed->file];
    if (!norms || !meta)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has no %s beside it", path, p->name,
                       norms ? "__meta" : "__norms");
    const hs_st_entry *m = &meta->entry, *q = &norms->entry;
    int64_t value[5] = {0};
    if (p->dtype != HS_U8 || p->rank != 1 || q->dtype != HS_F16 || m->dtype != HS_I64 || m->rank != 1 ||
        (m->dim[0] != 4 && m->dim[0] != 5))
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s and its norms and meta are not U8, F16 and I64 [4 or 5]", path, p->name);
    HS_TRY(hs_file_read(&hf->file[meta->file], m->offset, value, m->bytes, hf->path[meta->file], err));
    uint64_t rows = (uint64_t)value[0], blocks = (uint64_t)value[1], codes, n_norms;
    if (value[2] != HS_BLOCK)
        return bad(hf, meta, "block size", (uint64_t)value[2], HS_BLOCK, err);
    if (value[0] < 1 || value[1] < 1 || !hs_mul_u64(rows, blocks, &n_norms) || !hs_mul_u64(n_norms, HS_BLOCK, &codes))
        return bad(hf, meta, "number of rows", rows, 1, err);
    if ((uint64_t)value[3] != codes)
        return bad(hf, meta, "number of codes", (uint64_t)value[3], codes, err);
    if (q->bytes != n_norms * 2)
        return bad(hf, norms, "size", q->bytes, n_norms * 2, err);
    uint64_t bits = p->bytes / (codes / 8);
    if (bits < 2 || bits > 6 || bits * (codes / 8) != p->bytes)
        return bad(hf, packed, "size", p->bytes, codes / 8 * 5, err);
    if (m->dim[0] == 5 && (value[4] < 1 || hs_ceil_div((uint64_t)value[4], HS_BLOCK) != blocks))
        return bad(hf, meta, "blocks per row", blocks, hs_ceil_div((uint64_t)value[4], HS_BLOCK), err);
    *out = (hs_tensor){.dtype = hs_dtype_of_bits((uint32_t)bits),
                       .encoding = HS_ENC_HLWQ,
                       .packing = HS_PACK_MSB,
                       .family = strchr(p->name, '.') ? "HLWQ packed" : "PQ-multi",
                       .rank = 2,
                       .dim = {rows, (uint64_t)value[4]},
                       .data = {packed->file, p->offset, p->bytes},
                       .norms = {norms->file, q->offset, q->bytes}};
    if (out->dim[1] == 0)
        out->dim[1] = blocks * HS_BLOCK; /* narrowed when the schema says how wide it is */
    const hs_levels book = {.bits = (uint32_t)bits, .author = 'B'};
    return hs_hf_book(hf, &book, &out->book, err);
}

/* The width that the config states, 0 if none. */
static hlwq_status stated_bits(const hs_json *root, uint32_t *bits, const char *path, hlwq_error *err)
{
    const char *format = "";
    uint32_t in_format = 0, block = HS_BLOCK;
    *bits = 0;
    if (hs_json_type_of(root) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: not a JSON object", path);
    HS_TRY(hs_json_take_u32(root, "block_size", HS_OPTIONAL, HS_BLOCK, HS_BLOCK, &block, path, err));
    HS_TRY(hs_json_take_u32(root, "bits", HS_OPTIONAL, 2, 6, bits, path, err));
    HS_TRY(hs_json_take_string(root, "format", HS_OPTIONAL, &format, path, err));
    if (strlen(format) == 7 && memcmp(format, "hlwq-q", 6) == 0 && format[6] >= '2' && format[6] <= '6')
        in_format = (uint32_t)(format[6] - '0');
    if (*bits && in_format && *bits != in_format)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"format\" is %s, but \"bits\" is %" PRIu32, path, format, *bits);
    if (in_format)
        *bits = in_format;
    return HLWQ_OK;
}

hlwq_status hs_polar_config(hs_hf *hf, const hs_json **root, char **path, hlwq_error *err)
{
    char *text;
    uint64_t bytes;
    HS_TRY(hs_path_join(&hf->arena, hf->text_dir, "polar_config.json", path, err));
    if (!hf->polar && hs_path_exists(*path)) {
        HS_TRY(hs_file_text(&hf->arena, *path, HS_POLAR_CONFIG_MAX, &text, &bytes, err));
        HS_TRY(hs_json_parse(text, bytes, *path, &hf->polar, err));
    }
    *root = hf->polar;
    return HLWQ_OK;
}

hlwq_status hs_hlwq_check_config(hs_hf *hf, hlwq_error *err)
{
    char *path;
    uint32_t bits;
    const hs_json *root;
    if (hf->n_books == 0)
        return HLWQ_OK;
    HS_TRY(hs_polar_config(hf, &root, &path, err));
    if (!root)
        return HLWQ_OK;
    HS_TRY(stated_bits(root, &bits, path, err));
    for (uint32_t i = 0; bits && i < hf->n_tensors; i++) {
        const hs_tensor *t = &hf->tensor[i];
        if (t->encoding == HS_ENC_HLWQ && t->packing == HS_PACK_MSB && hs_dtype_bits(t->dtype) != bits)
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s has codes of %" PRIu32 " bits, but %s states %" PRIu32,
                           hf->path[t->data.file], t->name, hs_dtype_bits(t->dtype), path, bits);
    }
    return HLWQ_OK;
}
