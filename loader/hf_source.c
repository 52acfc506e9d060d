/*
 * loader/hf_source.c - which tensor, or slice of one, a part of the schema comes from; and reading it.
 */
#include "loader/hf_private.h"

#include "base/size.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_expert_group(const hs_group *g)
{
    return g->kind == HS_GROUP_EXPERTS || g->kind == HS_GROUP_MTP_EXPERTS;
}

/* The tensor seen as a matrix; false if its shape is not one of the spellings of [rows][cols]. */
static bool same_shape(const hs_tensor *t, uint64_t rows, uint64_t cols)
{
    const uint64_t *d = t->dim;
    if (t->awq.bytes && t->awq.bytes != cols * 2)
        return false;
    if (t->flat)
        return (cols % HS_BLOCK == 0 || hs_tensor_widened(t)) && d[0] == rows * cols;
    if (t->encoding == HS_ENC_HLWQ) /* most files do not say how wide, only how many blocks */
        return d[0] == rows && (d[1] == cols || d[1] == hs_align_up(cols, HS_BLOCK));
    if (t->rank == 1)
        return rows == 1 && d[0] == cols;
    if (t->rank == 2)
        return d[0] == rows && d[1] == cols;
    return t->rank == 3 && d[0] == rows && d[1] == 1 && d[2] == cols; /* conv1d */
}

static hlwq_status wrong_shape(const hs_hf *hf, const hs_tensor *t, uint64_t rows, uint64_t cols, hlwq_error *err)
{
    char got[200];
    hs_shape_text(got, sizeof got, t->dim, t->rank);
    if (t->flat && cols % HS_BLOCK && !hs_tensor_widened(t))
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s has blocks that run over rows of %" PRIu64 " inputs, which is not read",
                       hf->path[t->data.file], t->name, cols);
    if (t->awq.bytes && t->awq.bytes != cols * 2)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s has %" PRIu64 " awq_scales, the config asks for %" PRIu64 " inputs",
                       hf->path[t->awq.file], t->name, t->awq.bytes / 2, cols);
    return hs_fail(err, HLWQ_ERR_FORMAT,
                   "%s: tensor %.200s has the shape %s, the config asks for [%" PRIu64 ", %" PRIu64 "]",
                   hf->path[t->data.file], t->name, got, rows, cols);
}

/* GGUF's: a tensor of all gates, one of all ups, one of all downs. */
static const hs_tensor *gguf_experts(const hs_hf *hf, const hs_group *g, hs_role role)
{
    char name[100];
    snprintf(name, sizeof name, "layers.%u.mlp.experts.%s_exps", g->layer,
             role == HS_GATE ? "gate"
             : role == HS_UP ? "up"
                             : "down");
    return g->kind == HS_GROUP_EXPERTS ? hs_hf_find(hf, name) : NULL;
}

/* Fused experts: gate rows, then up rows, in gate_up_proj; slice e of the tensor, or tensor number e. */
static hlwq_status fused_source(const hs_hf *hf, const hs_group *g, uint32_t extent, const hs_part *part, hs_source *s,
                                hlwq_error *err)
{
    char name[256], base[200];
    bool down = part->role == HS_DOWN;
    uint64_t rows = down ? part->rows : 2 * (uint64_t)part->rows, from = part->role == HS_UP ? part->rows : 0;
    if (g->kind == HS_GROUP_EXPERTS)
        snprintf(base, sizeof base, "layers.%u.mlp.experts.%s", g->layer, down ? "down_proj" : "gate_up_proj");
    else
        snprintf(base, sizeof base, "mtp.layers.0.mlp.experts.%s", down ? "down_proj" : "gate_up_proj");
    const hs_tensor *t = gguf_experts(hf, g, part->role);
    if (t) {
        if (t->rank != 3 || t->dim[0] != g->count || t->dim[1] != part->rows || t->dim[2] != part->cols)
            return wrong_shape(hf, t, (uint64_t)part->rows * g->count, part->cols, err);
        *s = (hs_source){t, (uint64_t)extent * part->rows, part->rows, part->cols};
        return HLWQ_OK;
    }
    t = hs_hf_find(hf, base);
    if (t) {
        bool fits = t->flat ? same_shape(t, rows * g->count, part->cols)
                            : t->rank == 3 && t->dim[0] == g->count && t->dim[1] == rows && t->dim[2] == part->cols;
        if (!fits)
            return wrong_shape(hf, t, rows * g->count, part->cols, err);
        *s = (hs_source){t, extent * rows + from, part->rows, part->cols};
        return HLWQ_OK;
    }
    snprintf(name, sizeof name, "%s_e%u", base, extent);
    t = hs_hf_find(hf, name);
    if (!t) {
        hs_part_name(name, sizeof name, g, extent, part->role);
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %s is missing, and so is %s", hf->dir, name, base);
    }
    if (!same_shape(t, rows, part->cols))
        return wrong_shape(hf, t, rows, part->cols, err);
    *s = (hs_source){t, from, part->rows, part->cols};
    return HLWQ_OK;
}

hlwq_status hs_hf_source(const hs_hf *hf, const hs_group *g, uint32_t extent, const hs_part *part, hs_source *s,
                         hlwq_error *err)
{
    char name[256];
    hs_part_name(name, sizeof name, g, extent, part->role);
    const hs_tensor *t = hs_hf_find(hf, name);
    if (!t && is_expert_group(g))
        return fused_source(hf, g, extent, part, s, err);
    if (!t)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %s is missing", hf->dir, name);
    if (!same_shape(t, part->rows, part->cols))
        return wrong_shape(hf, t, part->rows, part->cols, err);
    *s = (hs_source){t, 0, part->rows, part->cols};
    return HLWQ_OK;
}

/* ---- checks --------------------------------------------------------------------------------- */

static bool any_mtp(const hs_hf *hf)
{
    for (uint32_t i = 0; i < hf->n_tensors; i++)
        if (strncmp(hf->tensor[i].name, "mtp.", 4) == 0)
            return true;
    return false;
}

/* Finds every part of a group and ticks its tensor off. */
static hlwq_status check_group(const hs_hf *hf, const hs_group *g, bool *used, hlwq_error *err)
{
    for (uint32_t e = 0; e < g->count; e++)
        for (uint32_t i = 0; i < g->n_parts; i++) {
            hs_source s;
            HS_TRY(hs_hf_source(hf, g, e, &g->part[i], &s, err));
            if (!hs_dtype_packed(s.tensor->dtype) && !hs_dtype_float(s.tensor->dtype) && s.tensor->dtype != HS_F64)
                return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s holds %s, not weights",
                               hf->path[s.tensor->data.file], s.tensor->name, hs_dtype_name(s.tensor->dtype));
            if (hs_role_class_of(g->part[i].role) == HS_CLASS_VECTOR && s.tensor->encoding != HS_ENC_PLAIN &&
                !hs_tensor_widened(s.tensor))
                return hs_fail(err, HLWQ_ERR_FORMAT,
                               "%s: tensor %.200s is quantised, which norms and vectors cannot be",
                               hf->path[s.tensor->data.file], s.tensor->name);
            used[s.tensor - hf->tensor] = true;
        }
    return HLWQ_OK;
}

static bool is_mtp_group(const hs_group *g)
{
    return g->kind == HS_GROUP_MTP_LAYER || g->kind == HS_GROUP_MTP_EXPERTS;
}

static void settle_tying(hs_hf *hf, const hs_log *log)
{
    bool head = hs_hf_find(hf, "lm_head.weight") != NULL;
    if (!hf->config.tied && !head) {
        hs_log_line(log, HLWQ_LOG_WARN, "%s: lm_head.weight is absent, the embedding takes its place", hf->dir);
        hf->config.tied = true;
    }
}

static hlwq_status check_left_over(const hs_hf *hf, const bool *used, hlwq_error *err)
{
    for (uint32_t i = 0; i < hf->n_tensors; i++) {
        const char *name = hf->tensor[i].name;
        bool spare_head = hf->config.tied && strcmp(name, "lm_head.weight") == 0;
        bool spare_mtp = !hf->has_mtp && strncmp(name, "mtp.", 4) == 0;
        if (!used[i] && !spare_head && !spare_mtp)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is unknown", hf->path[hf->tensor[i].data.file],
                           name);
    }
    return HLWQ_OK;
}

hlwq_status hs_hf_check(hs_hf *hf, const hs_log *log, hlwq_error *err)
{
    hs_table t;
    void *p;
    settle_tying(hf, log);
    HS_TRY(hs_arena_array(&hf->arena, hf->n_tensors + 1, sizeof(bool), &p, err));
    bool *used = p;
    bool mtp = any_mtp(hf);
    HS_TRY(hs_schema_build(&t, &hf->config, mtp, &hf->arena, err));
    for (uint32_t g = 0; g < t.n_groups; g++)
        if (!is_mtp_group(&t.group[g]))
            HS_TRY(check_group(hf, &t.group[g], used, err));
    hf->has_mtp = mtp;
    hlwq_error why;
    for (uint32_t g = 0; g < t.n_groups && hf->has_mtp; g++)
        if (is_mtp_group(&t.group[g]) && check_group(hf, &t.group[g], used, &why) != HLWQ_OK) {
            hs_log_line(log, HLWQ_LOG_WARN, "the draft head is left out: %s", why.message);
            hf->has_mtp = false;
        }
    return check_left_over(hf, used, err);
}

/* A part's dtype as the source has it: vectors are widened, F64 too, and an embedding with its columns out of order. */
static hlwq_status part_dtype(const hs_hf *hf, const hs_group *g, uint32_t extent, const hs_part *part, hs_part *out,
                              hlwq_error *err)
{
    hs_source s;
    HS_TRY(hs_hf_source(hf, g, extent, part, &s, err));
    out->dtype = s.tensor->dtype;
    out->book = s.tensor->book;
    out->ordered = hs_dtype_int4(out->dtype) && s.tensor->ints.ordered;
    out->scaled = hs_dtype_rotated(out->dtype) && s.tensor->awq.bytes;
    if (hs_role_class_of(part->role) == HS_CLASS_VECTOR || out->dtype == HS_F64 ||
        (part->role == HS_EMBED && (out->ordered || out->scaled))) {
        out->dtype = HS_F32;
        out->ordered = out->scaled = false;
    }
    return HLWQ_OK;
}

/* One form for a part of all experts: integers that differ get the wider of two forms, or else are dequantised. */
static bool unite(hs_part *part, const hs_part *other)
{
    bool same_group = hs_dtype_int4(part->dtype) && hs_dtype_int4(other->dtype) &&
                      hs_dtype_group(part->dtype) == hs_dtype_group(other->dtype);
    part->ordered = part->ordered || other->ordered;
    part->scaled = part->scaled || other->scaled;
    if (part->dtype == other->dtype)
        return part->book == other->book;
    if (same_group)
        part->dtype = hs_dtype_zeros(part->dtype) ? part->dtype : other->dtype;
    else if ((hs_dtype_int4(part->dtype) || part->dtype == HS_F32) &&
             (hs_dtype_int4(other->dtype) || other->dtype == HS_F32)) {
        part->dtype = HS_F32;
        part->ordered = false;
    } else
        return false;
    return true;
}

hlwq_status hs_hf_table(const hs_hf *hf, hs_table *t, hs_arena *arena, hlwq_error *err)
{
    HS_TRY(hs_schema_build(t, &hf->config, hf->has_mtp, arena, err));
    t->n_books = hf->n_books;
    memcpy(t->book, hf->book, sizeof t->book);
    for (uint32_t g = 0; g < t->n_groups; g++) {
        hs_group *group = &t->group[g];
        for (uint32_t i = 0; i < group->n_parts; i++) {
            hs_part *part = &group->part[i];
            HS_TRY(part_dtype(hf, group, 0, part, part, err));
            for (uint32_t e = 1; e < group->count; e++) {
                hs_part other = *part;
                hs_dtype dtype = part->dtype;
                HS_TRY(part_dtype(hf, group, e, part, &other, err));
                if (!unite(part, &other))
                    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: experts 0 and %u of layer %u are stored as %s and %s",
                                   hf->dir, e, group->layer, hs_dtype_name(dtype), hs_dtype_name(other.dtype));
            }
        }
        HS_TRY(hs_group_place(group, err));
    }
    return HLWQ_OK;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* The source's share of a range that goes with all weights of its tensor. */
static uint64_t range_ahead(const hs_hf *hf, const hs_range *r, double from, double share)
{
    const uint64_t at = (uint64_t)((double)r->bytes * from);
    const uint64_t bytes = hs_min_u64((uint64_t)((double)r->bytes * share) + 4096, r->bytes - at);
    hs_file_ahead(&hf->file[r->file], r->offset + at, bytes);
    return bytes;
}

uint64_t hs_hf_ahead(const hs_hf *hf, const hs_source *s)
{
    const hs_tensor *t = s->tensor;
    double all = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        all *= (double)t->dim[i];
    double share = fmin((double)s->rows * (double)s->cols / all, 1),
           from = (double)s->first_row * (double)s->cols / all;
    return range_ahead(hf, &t->data, fmin(from, 1 - share), share) +
           range_ahead(hf, &t->norms, fmin(from, 1 - share), share);
}

hlwq_status hs_hf_read_rows(const hs_hf *hf, const hs_source *s, uint64_t first, uint64_t rows, void *out,
                            hlwq_error *err)
{
    const hs_range *d = &s->tensor->data;
    uint64_t row = s->cols * hs_dtype_bytes(s->tensor->dtype), at = (s->first_row + first) * row;
    assert(s->tensor->encoding == HS_ENC_PLAIN && first + rows <= s->rows && at + rows * row <= d->bytes);
    return hs_file_read(&hf->file[d->file], d->offset + at, out, rows * row, hf->path[d->file], err);
}

hlwq_status hs_hf_read_bytes(const hs_hf *hf, const hs_source *s, uint64_t first, uint64_t bytes, uint64_t ahead,
                             void *out, hlwq_error *err)
{
    const hs_range *d = &s->tensor->data;
    const uint64_t row = s->cols * hs_dtype_bytes(s->tensor->dtype), at = s->first_row * row + first;
    assert(s->tensor->encoding == HS_ENC_PLAIN && first + bytes <= s->rows * row && at + bytes <= d->bytes);
    hs_file_ahead(&hf->file[d->file], d->offset + at, bytes + hs_min_u64(ahead, s->rows * row - first - bytes));
    return hs_file_read(&hf->file[d->file], d->offset + at, out, bytes, hf->path[d->file], err);
}

uint32_t hs_hf_block_bytes(const hs_tensor *t)
{
    switch (t->packing) {
    case HS_PACK_HALVES: return HS_BLOCK / 2;
    case HS_PACK_BYTES: return HS_BLOCK;
    default: return HS_BLOCK / 8 * hs_dtype_bits(t->dtype);
    }
}

/* Packings with more room than their codes need can hold codes that mean nothing. */
static hlwq_status check_codes(const hs_hf *hf, const hs_tensor *t, const uint8_t *codes, uint64_t bytes,
                               hlwq_error *err)
{
    const uint32_t bits = hs_dtype_bits(t->dtype), levels = 1u << bits;
    const uint32_t above = t->packing == HS_PACK_BYTES ? 0xFF & ~(levels - 1) : 0x11 * (0xF & ~(levels - 1));
    uint8_t any = 0;
    if (t->packing == HS_PACK_MSB || t->packing == HS_PACK_LSB || above == 0)
        return HLWQ_OK;
    for (uint64_t i = 0; i < bytes; i++)
        any |= codes[i];
    for (uint64_t i = 0; (any & above) && i < bytes; i++)
        if (codes[i] & above)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: code 0x%02x is out of range, there are %u levels",
                           hf->path[t->data.file], t->name, codes[i], levels);
    return HLWQ_OK;
}

static hlwq_status check_norms(const hs_hf *hf, const hs_tensor *t, const uint16_t *norms, uint64_t from, uint64_t rows,
                               uint64_t blocks, hlwq_error *err)
{
    for (uint64_t i = 0; i < rows * blocks; i++)
        if ((norms[i] & 0x7C00) == 0x7C00)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: norm %" PRIu64 " of row %" PRIu64 " is not finite",
                           hf->path[t->norms.file], t->name, i % blocks, from + i / blocks);
    return HLWQ_OK;
}

hlwq_status hs_hf_read_packed(const hs_hf *hf, const hs_source *s, uint64_t first, uint64_t rows, uint8_t *codes,
                              uint16_t *norms, hlwq_error *err)
{
    const hs_tensor *t = s->tensor;
    uint64_t blocks = hs_ceil_div(s->cols, HS_BLOCK), row = blocks * hs_hf_block_bytes(t);
    uint64_t from = s->first_row + first;
    assert(t->encoding == HS_ENC_HLWQ && first + rows <= s->rows && (from + rows) * row <= t->data.bytes);
    assert((from + rows) * blocks * 2 <= t->norms.bytes);
    HS_TRY(hs_file_read(&hf->file[t->data.file], t->data.offset + from * row, codes, rows * row, hf->path[t->data.file],
                        err));
    HS_TRY(hs_file_read(&hf->file[t->norms.file], t->norms.offset + from * blocks * 2, norms, rows * blocks * 2,
                        hf->path[t->norms.file], err));
    HS_TRY(check_codes(hf, t, codes, rows * row, err));
    return check_norms(hf, t, norms, from, rows, blocks, err);
}

hlwq_status hs_hf_read_factors(const hs_hf *hf, const hs_tensor *t, uint32_t cols, float *factor, hlwq_error *err)
{
    const hs_range *r = &t->awq;
    uint8_t *raw = (uint8_t *)factor + (size_t)cols * 2; /* the upper half of the room */
    assert(r->bytes == 0 || r->bytes == (uint64_t)cols * 2);
    if (r->bytes)
        HS_TRY(hs_file_read(&hf->file[r->file], r->offset, raw, r->bytes, hf->path[r->file], err));
    for (uint32_t i = 0; i < cols; i++) {
        uint16_t half = 0x3C00;
        if (r->bytes)
            memcpy(&half, raw + (size_t)i * 2, 2);
        float scale = hs_f16_to_f32(half);
        if (!(scale > 0) || half >= 0x7C00)
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s: awq_scales[%u] is %g, should be above 0 and finite", hf->path[r->file],
                           t->name, i, (double)scale);
        factor[i] = 1.0f / scale;
    }
    return HLWQ_OK;
}
