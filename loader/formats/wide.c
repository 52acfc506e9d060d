/*
 * loader/formats/wide.c - rows of such tensors: where they lie, and what they are as fp32.
 *
 * A row in the caller's buffer is the bytes of its codes, to a multiple of 4, and then the scales that it needs as they
 * are in the file.
 */
#include "loader/formats/wide.h"

#include "base/size.h"
#include "loader/formats/eoq_file.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- tensors -------------------------------------------------------------------------------- */

static hlwq_status bad_shape(const hs_hf *hf, const hs_raw *r, const char *want, hlwq_error *err)
{
    char got[200];
    hs_shape_text(got, sizeof got, r->entry.dim, r->entry.rank);
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is %s %s, should be %s", hf->path[r->file], r->entry.name,
                   hs_dtype_name(r->entry.dtype), got, want);
}

hlwq_status hs_fp8_tensor(hs_hf *hf, const hs_raw *w, const hs_raw *scale, hs_tensor *t, hlwq_error *err)
{
    const hs_st_entry *e = &w->entry, *s = &scale->entry;
    char want[100];
    if (e->dtype != HS_F8_E4M3 || e->rank != 2 || e->dim[0] < 1 || e->dim[1] < 1)
        return bad_shape(hf, w, "a matrix of F8_E4M3, having a weight_scale_inv", err);
    snprintf(want, sizeof want, "BF16 or F32 [%" PRIu64 ", %" PRIu64 "], one a square of 128",
             hs_ceil_div(e->dim[0], HS_BLOCK), hs_ceil_div(e->dim[1], HS_BLOCK));
    if (!hs_dtype_float(s->dtype) || s->rank != 2 || s->dim[0] != hs_ceil_div(e->dim[0], HS_BLOCK) ||
        s->dim[1] != hs_ceil_div(e->dim[1], HS_BLOCK))
        return bad_shape(hf, scale, want, err);
    *t = (hs_tensor){.dtype = HS_F32,
                     .encoding = HS_ENC_FP8,
                     .rank = 2,
                     .dim = {e->dim[0], e->dim[1]},
                     .family = "FP8 in squares of 128",
                     .data = {w->file, e->offset, e->bytes},
                     .norms = {scale->file, s->offset, s->bytes},
                     .ints = {.scale = s->dtype}};
    return HLWQ_OK;
}

hlwq_status hs_eoq_tensor(hs_hf *hf, const hs_raw *codes, const hs_raw *scales, hs_tensor *t, hlwq_error *err)
{
    const hs_st_entry *e = &codes->entry, *s = &scales->entry;
    if (s->dtype != HS_F16 || s->bytes == 0)
        return bad_shape(hf, scales, "F16, one a block of 128", err);
    if (e->dtype != HS_I8 && e->dtype != HS_U8)
        return bad_shape(hf, codes, "I8 or U8", err);
    const uint64_t blocks = s->bytes / 2;
    const uint64_t bits = e->dtype == HS_I8 ? 8 : e->bytes / (blocks * 16);
    if (blocks > INT64_MAX / HS_BLOCK || bits < 2 || bits > 8 || e->bytes != blocks * 16 * bits)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: %" PRIu64 " bytes for the %" PRIu64
                       " blocks of 128 of its scales are not codes of 2 to 8 bits",
                       hf->path[codes->file], e->name, e->bytes, blocks);
    *t = (hs_tensor){.dtype = HS_F32,
                     .encoding = HS_ENC_EOQ,
                     .rank = 1,
                     .dim = {blocks * HS_BLOCK},
                     .flat = true,
                     .family = e->dtype == HS_I8 ? "EOQ v1" : "EOQ v2",
                     .data = {codes->file, e->offset, e->bytes},
                     .norms = {scales->file, s->offset, s->bytes},
                     .ints = {.bits = (uint32_t)bits, .group = HS_BLOCK, .symmetric = e->dtype == HS_I8}};
    return HLWQ_OK;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Of EOQ's codes in the buffer. */
static uint32_t code_bits(const hs_tensor *t)
{
    return t->encoding == HS_ENC_RANS ? 8 : t->ints.bits;
}

/* Bytes of the codes of a row in the buffer, and of its scales. */
static void row_parts(const hs_tensor *t, uint64_t cols, uint64_t *codes, uint64_t *scales)
{
    uint32_t weights = 1, bytes = 1;
    const char *name;
    *scales = 0;
    if (t->encoding == HS_ENC_GGML) {
        (void)hs_ggml_type(t->ggml, &weights, &bytes, &name);
        *codes = hs_align_up(cols / weights * bytes, 4);
    } else if (t->encoding == HS_ENC_FP8) {
        *codes = hs_align_up(cols, 4);
        *scales = hs_ceil_div(cols, HS_BLOCK) * hs_dtype_bytes(t->ints.scale);
    } else {
        *codes = hs_align_up(hs_ceil_div(cols * code_bits(t), 8) + 1, 4); /* rows may begin inside a byte */
        *scales = (hs_ceil_div(cols, t->ints.group) + 1) * 2;
    }
}

uint64_t hs_hf_wide_bytes(const hs_tensor *t, uint64_t cols)
{
    uint64_t codes, scales;
    row_parts(t, cols, &codes, &scales);
    return hs_align_up(codes + scales, 4);
}

/* The row of the file that holds row r: of value heads that GGUF has in another order. */
static uint64_t file_row(const hs_tensor *t, uint64_t r)
{
    const hs_regroup *h = &t->heads;
    if (!h->rows || r < h->first)
        return r;
    uint64_t head = (r - h->first) / h->size;
    return h->first + (head % h->repeat * h->k_heads + head / h->repeat) * h->size + (r - h->first) % h->size;
}

static hlwq_status read_at(const hs_hf *hf, const hs_range *r, uint64_t offset, void *out, uint64_t bytes,
                           hlwq_error *err)
{
    assert(offset + bytes <= r->bytes);
    return hs_file_read(&hf->file[r->file], r->offset + offset, out, bytes, hf->path[r->file], err);
}

static hlwq_status read_row(const hs_hf *hf, const hs_tensor *t, uint64_t row, uint64_t cols, uint8_t *out,
                            hlwq_error *err)
{
    uint64_t codes, scales;
    row_parts(t, cols, &codes, &scales);
    if (t->encoding == HS_ENC_EOQ) {
        const uint64_t bits = t->ints.bits, first = row * cols, last = first + cols - 1;
        const uint64_t from = first * bits / 8, to = hs_ceil_div((last + 1) * bits, 8);
        HS_TRY(read_at(hf, &t->data, from, out, to - from, err));
        return read_at(hf, &t->norms, first / HS_BLOCK * 2, out + codes, (last / HS_BLOCK - first / HS_BLOCK + 1) * 2,
                       err);
    }
    uint32_t weights, bytes;
    const char *name;
    (void)hs_ggml_type(t->ggml, &weights, &bytes, &name);
    const uint64_t length = cols / weights * bytes;
    return read_at(hf, &t->data, file_row(t, row) * length, out, length, err);
}

/* All codes in one piece, which begins where the last row's place leaves room for it; then every row to its place. */
static hlwq_status read_fp8(const hs_hf *hf, const hs_tensor *t, uint64_t from, uint64_t rows, uint64_t cols,
                            uint8_t *out, hlwq_error *err)
{
    uint64_t codes, scales;
    row_parts(t, cols, &codes, &scales);
    const uint64_t step = hs_hf_wide_bytes(t, cols);
    uint8_t *piece = out + rows * (step - cols);
    HS_TRY(read_at(hf, &t->data, from * cols, piece, rows * cols, err));
    for (uint64_t r = 0; r < rows; r++) {
        uint8_t *row = out + r * step;
        memmove(row, piece + r * cols, cols);
        if (r && (from + r) % HS_BLOCK)
            memcpy(row + codes, row + codes - step, scales);
        else
            HS_TRY(read_at(hf, &t->norms, (from + r) / HS_BLOCK * scales, row + codes, scales, err));
    }
    return HLWQ_OK;
}

hlwq_status hs_hf_read_wide(const hs_hf *hf, const hs_source *s, uint64_t first, uint64_t rows, uint8_t *out,
                            hlwq_error *err)
{
    const hs_tensor *t = s->tensor;
    const uint64_t step = hs_hf_wide_bytes(t, s->cols), from = s->first_row + first;
    uint32_t weights, bytes;
    const char *name;
    assert(first + rows <= s->rows);
    if (t->encoding == HS_ENC_GGML && !t->heads.rows && hs_ggml_type(t->ggml, &weights, &bytes, &name) &&
        s->cols / weights * bytes == step) /* the rows stand in the file as they should in the buffer */
        return read_at(hf, &t->data, from * step, out, rows * step, err);
    if (t->encoding == HS_ENC_FP8)
        return read_fp8(hf, t, from, rows, s->cols, out, err);
    if (t->encoding == HS_ENC_RANS) {
        uint64_t codes, scales;
        row_parts(t, s->cols, &codes, &scales);
        return hs_eoq_file_read(hf, s, first, rows, step, codes, out, err);
    }
    for (uint64_t r = 0; r < rows; r++)
        HS_TRY(read_row(hf, t, from + r, s->cols, out + r * step, err));
    return HLWQ_OK;
}

/* ---- widening ------------------------------------------------------------------------------- */

/*
 * Sign, four bits of exponent with bias 7, three of mantissa; no infinities, and all ones is NaN.  The bits stand as
 * those of an fp32 that is 2^120 too small, also where they are subnormal.
 */
static inline float e4m3(uint8_t v)
{
    uint32_t bits = (uint32_t)(v & 0x7F) << 20 | (uint32_t)(v & 0x80) << 24;
    float f;
    memcpy(&f, &bits, 4);
    f *= 0x1p120f;
    memcpy(&bits, &f, 4);
    bits |= (v & 0x7F) == 0x7F ? 0x7FC00000u : 0; /* without a branch, so that many are done at once */
    memcpy(&f, &bits, 4);
    return f;
}

static void widen_fp8(const hs_tensor *t, uint64_t cols, const uint8_t *raw, float *out)
{
    uint64_t codes, scales;
    row_parts(t, cols, &codes, &scales);
    for (uint64_t c = 0; c < cols; c += HS_BLOCK) {
        float scale;
        hs_to_f32(&scale, raw + codes + c / HS_BLOCK * hs_dtype_bytes(t->ints.scale), t->ints.scale, 1);
        const uint64_t n = hs_min_u64(HS_BLOCK, cols - c);
        for (uint64_t k = 0; k < n; k++)
            out[c + k] = e4m3(raw[c + k]) * scale;
    }
}

static void widen_eoq(const hs_tensor *t, uint64_t row, uint64_t cols, const uint8_t *raw, float *out)
{
    uint64_t codes, scales;
    const uint64_t bits = code_bits(t), block = t->ints.group, first = row * cols;
    row_parts(t, cols, &codes, &scales);
    for (uint64_t c = 0; c < cols; c++) {
        uint64_t bit = first * bits % 8 + c * bits;
        uint32_t v = raw[bit / 8];
        uint16_t half;
        if (bit % 8 + bits > 8)
            v |= (uint32_t)raw[bit / 8 + 1] << 8;
        v = v >> bit % 8 & ((1u << bits) - 1);
        int code = t->ints.symmetric ? (int8_t)v : (int)v - (1 << (bits - 1));
        memcpy(&half, raw + codes + ((first + c) / block - first / block) * 2, 2);
        out[c] = hs_f16_to_f32(half) * (float)code;
    }
}

/* Columns of value heads into the order of Hugging Face; `row` comes with its copy behind it. */
static void regroup_columns(const hs_regroup *h, uint64_t cols, float *row)
{
    float *copy = row + cols;
    memcpy(copy, row, cols * sizeof *row);
    for (uint64_t c = h->first; c < cols; c++) {
        uint64_t head = (c - h->first) / h->size;
        uint64_t from = (head % h->repeat * h->k_heads + head / h->repeat) * h->size + (c - h->first) % h->size;
        row[c] = copy[h->first + from];
    }
}

void hs_hf_widen(const hs_source *s, uint64_t row, const uint8_t *raw, float *out)
{
    const hs_tensor *t = s->tensor;
    const uint64_t cols = s->cols;
    if (t->encoding == HS_ENC_FP8) {
        widen_fp8(t, cols, raw, out);
        return;
    }
    if (t->encoding == HS_ENC_EOQ || t->encoding == HS_ENC_RANS) {
        widen_eoq(t, s->first_row + row, cols, raw, out);
        return;
    }
    hs_ggml_widen(t->ggml, raw, cols, out);
    if (t->heads.columns)
        regroup_columns(&t->heads, cols, out);
    if (t->change == HS_CHANGE_LESS_ONE)
        for (uint64_t c = 0; c < cols; c++)
            out[c] -= 1.0f;
    if (t->change == HS_CHANGE_LOG_NEGATED)
        for (uint64_t c = 0; c < cols; c++)
            out[c] = logf(-out[c]);
}
