/*
 * loader/formats/polar.c - checks codes, norms and levels against each other.
 */
#include "loader/formats/polar.h"

#include "base/size.h"
#include "loader/formats/hlwq_packed.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SQRT_128 11.313708498984761

static hlwq_status bad_shape(const hs_hf *hf, const hs_raw *r, const char *want, hlwq_error *err)
{
    char got[200];
    hs_shape_text(got, sizeof got, r->entry.dim, r->entry.rank);
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is %s %s, should be %s", hf->path[r->file], r->entry.name,
                   hs_dtype_name(r->entry.dtype), got, want);
}

/* Levels of a file: 2^bits of them, ascending, each with its mirror image. */
static hlwq_status read_levels(hs_hf *hf, const hs_raw *r, hs_levels *out, hlwq_error *err)
{
    const hs_st_entry *e = &r->entry;
    size_t base;
    *out = (hs_levels){0};
    for (uint32_t bits = 2; bits <= 6 && e->rank == 1; bits++)
        if (e->dim[0] == 1u << bits)
            out->bits = bits;
    if (e->dtype != HS_F32 || out->bits == 0)
        return bad_shape(hf, r, "F32 [4], [8], [16], [32] or [64]", err);
    HS_TRY(hs_file_read(&hf->file[r->file], e->offset, out->level, e->bytes, hf->path[r->file], err));
    double factor = hs_hf_ends(e->name, ".ct_scaled", &base) ? SQRT_128 : 1.0;
    uint32_t n = 1u << out->bits;
    for (uint32_t i = 0; i < n; i++)
        out->level[i] = (float)(out->level[i] * factor);
    for (uint32_t i = 0; i < n; i++) {
        float v = out->level[i], mirror = out->level[n - 1 - i];
        if (!(fabsf(v) < 1e6f) || (i && !(v > out->level[i - 1])) || !(fabsf(v + mirror) <= 1e-6f * fabsf(v) * 8))
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s: level %u is %g, but levels are finite, ascending and symmetric",
                           hf->path[r->file], e->name, i, (double)v);
    }
    return HLWQ_OK;
}

static hlwq_status check_norms(const hs_hf *hf, const hs_raw *codes, const hs_raw *norms, hlwq_error *err)
{
    if (!norms)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s of the PolarEngine format has no norms beside it",
                       hf->path[codes->file], codes->entry.name);
    if (norms->entry.dtype != HS_F16 || norms->entry.rank != 2)
        return bad_shape(hf, norms, "a matrix of F16", err);
    if (codes->entry.rank != 2 || (codes->entry.dtype != HS_I8 && codes->entry.dtype != HS_U8))
        return bad_shape(hf, codes, "a matrix of I8 or U8", err);
    if (norms->entry.dim[0] != codes->entry.dim[0] || norms->entry.dim[0] < 1 || norms->entry.dim[1] < 1)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s has norms of %" PRIu64 " rows, but the codes have %" PRIu64,
                       hf->path[norms->file], norms->entry.name, norms->entry.dim[0], codes->entry.dim[0]);
    return HLWQ_OK;
}

/* Decided by the length of a row alone: what configs say of it differs from writer to writer. */
static hlwq_status find_packing(const hs_hf *hf, const hs_raw *codes, uint64_t blocks, uint32_t bits,
                                hs_packing *packing, hlwq_error *err)
{
    const uint64_t row = codes->entry.dim[1];
    *packing = row == blocks * 128 ? HS_PACK_BYTES : row == blocks * 64 ? HS_PACK_HALVES : HS_PACK_LSB;
    if (*packing == HS_PACK_BYTES || (*packing == HS_PACK_HALVES && bits <= 4) || (row == blocks * 80 && bits == 5))
        return HLWQ_OK;
    return hs_fail(err, HLWQ_ERR_FORMAT,
                   "%s: tensor %.200s: %" PRIu64 " bytes a row are not the codes of %" PRIu64
                   " blocks of 128 at %u bits (bytes, nibbles or five bits)",
                   hf->path[codes->file], codes->entry.name, row, blocks, bits);
}

static hlwq_status fill(hs_hf *hf, const hs_raw *codes, const hs_raw *norms, const hs_levels *levels, hs_tensor *t,
                        hlwq_error *err)
{
    const uint64_t blocks = norms->entry.dim[1];
    *t = (hs_tensor){.dtype = hs_dtype_of_bits(levels->bits),
                     .encoding = HS_ENC_HLWQ,
                     .rank = 2,
                     .dim = {norms->entry.dim[0]},
                     .name = codes->entry.name,
                     .data = {codes->file, codes->entry.offset, codes->entry.bytes},
                     .norms = {norms->file, norms->entry.offset, norms->entry.bytes}};
    if (blocks > INT32_MAX / HS_BLOCK)
        return bad_shape(hf, norms, "smaller", err);
    t->dim[1] = blocks * HS_BLOCK; /* narrowed when the schema says how wide it is */
    HS_TRY(find_packing(hf, codes, blocks, levels->bits, &t->packing, err));
    return hs_hf_book(hf, levels, &t->book, err);
}

hlwq_status hs_polar_tensor(hs_hf *hf, const hs_raw *codes, const hs_raw *norms, const hs_raw *levels, hs_tensor *out,
                            hlwq_error *err)
{
    hs_levels book;
    size_t base;
    HS_TRY(check_norms(hf, codes, norms, err));
    if (!levels)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has no levels (ct_scaled or ct) beside it",
                       hf->path[codes->file], codes->entry.name);
    HS_TRY(read_levels(hf, levels, &book, err));
    HS_TRY(fill(hf, codes, norms, &book, out, err));
    out->family = hs_hf_ends(levels->entry.name, ".ct", &base)            ? "PolarEngine v5 notebook"
                  : hs_hf_ends(codes->entry.name, ".codes_packed", &base) ? "PolarEngine v4 notebook"
                                                                          : "PolarEngine";
    return HLWQ_OK;
}

/* layers[parameter].bits, else bits, else 5. */
static hlwq_status dunder_bits(hs_hf *hf, const char *parameter, uint32_t *bits, hlwq_error *err)
{
    char *path, module[HS_SAFETENSORS_NAME_MAX + 16];
    size_t base;
    const hs_json *root;
    *bits = 5;
    HS_TRY(hs_polar_config(hf, &root, &path, err));
    if (!root)
        return HLWQ_OK;
    HS_TRY(hs_json_take_u32(root, "bits", HS_OPTIONAL, 2, 6, bits, path, err));
    snprintf(module, sizeof module, "%s", parameter);
    if (hs_hf_ends(parameter, ".weight", &base))
        module[base] = 0;
    const hs_json *layers = hs_json_get(root, "layers"), *layer = hs_json_get(layers, module);
    if (hs_json_type_of(layer) != HS_JSON_OBJECT)
        layer = hs_json_get(layers, parameter);
    return hs_json_type_of(layer) == HS_JSON_OBJECT
               ? hs_json_take_u32(layer, "bits", HS_OPTIONAL, 2, 6, bits, path, err)
               : HLWQ_OK;
}

hlwq_status hs_polar_dunder_tensor(hs_hf *hf, const hs_raw *codes, const hs_raw *norms, const char *parameter,
                                   hs_tensor *out, hlwq_error *err)
{
    hs_levels book = {.author = 'B'};
    HS_TRY(check_norms(hf, codes, norms, err));
    HS_TRY(dunder_bits(hf, parameter, &book.bits, err));
    HS_TRY(fill(hf, codes, norms, &book, out, err));
    out->family = "HLWQ int8";
    return HLWQ_OK;
}
