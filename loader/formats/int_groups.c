/*
 * loader/formats/int_groups.c - reads rows of integer codes with their scales and zero points.
 *
 * Both families are streams of fields in 32-bit words.  GPTQ has its words at [word][row], zero points at [group][word]
 * along the rows; compressed-tensors has words at [row][word], zero points at [word][group].
 */
#include "loader/formats/int_groups.h"

#include "base/fields.h"
#include "base/json.h"
#include "base/size.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the stated format ---------------------------------------------------------------------- */

static hlwq_status take_size(hs_int_config *c, const hs_json *object, const char *path, hlwq_error *err)
{
    const hs_json *size = hs_json_get(object, "group_size");
    if (hs_json_type_of(size) == HS_JSON_MISSING || hs_json_type_of(size) == HS_JSON_NULL)
        return HLWQ_OK;
    if (hs_json_type_of(size) != HS_JSON_INTEGER || hs_json_int(size) == 0 || hs_json_int(size) < -1 ||
        hs_json_int(size) > INT32_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"group_size\" is not a number from 1 to %d, or -1", path, INT32_MAX);
    if (hs_json_int(size) > 0 && c->n_sizes < sizeof c->size / sizeof *c->size)
        c->size[c->n_sizes++] = (uint32_t)hs_json_int(size);
    return HLWQ_OK;
}

/* Some of these have tensors that are named as GPTQ's are, and mean something else. */
static hlwq_status refuse_method(const char *method, const char *path, hlwq_error *err)
{
    static const char *const not_read[] = {"torchao", "bitsandbytes", "awq", "hqq", "quanto", "aqlm", "mxfp4", "exl2"};
    for (size_t i = 0; i < sizeof not_read / sizeof *not_read; i++)
        if (strcmp(method, not_read[i]) == 0)
            return hs_fail(
                err, HLWQ_ERR_FORMAT,
                "%s: the weights are of the %s format, which is not read; read are GPTQ, compressed-tensors, "
                "FP8, HLWQ and EOQ, BF16, and GGUF",
                path, method);
    return HLWQ_OK;
}

static hlwq_status take_config(hs_int_config *c, const hs_json *q, const char *path, hlwq_error *err)
{
    const char *method = "", *format = "gptq";
    if (hs_json_type_of(q) != HS_JSON_OBJECT)
        return HLWQ_OK;
    HS_TRY(hs_json_take_string(q, "quant_method", HS_OPTIONAL, &method, path, err));
    HS_TRY(refuse_method(method, path, err));
    snprintf(c->method, sizeof c->method, "%s", method);
    HS_TRY(take_size(c, q, path, err));
    if (strcmp(method, "gptq") == 0) {
        HS_TRY(hs_json_take_string(q, "format", HS_OPTIONAL, &format, path, err)); /* the older key */
        HS_TRY(hs_json_take_string(q, "checkpoint_format", HS_OPTIONAL, &format, path, err));
        HS_TRY(hs_json_take_u32(q, "bits", HS_OPTIONAL, 2, 8, &c->bits, path, err));
        if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: GPTQ in the form \"%.40s\" is not read, only gptq and gptq_v2",
                           path, format);
        c->less_one = strcmp(format, "gptq") == 0;
    }
    if (strcmp(method, "compressed-tensors") == 0) {
        const hs_json *groups = hs_json_get(q, "config_groups");
        for (hs_json_iter *it = hs_json_first(groups); it; it = hs_json_next(groups, it)) {
            const hs_json *weights = hs_json_get(hs_json_value(it), "weights");
            HS_TRY(hs_json_take_u32(weights, "num_bits", HS_OPTIONAL, 1, 64, &c->bits, path, err));
            HS_TRY(take_size(c, weights, path, err));
        }
    }
    return HLWQ_OK;
}

hlwq_status hs_int_config_read(hs_hf *hf, hs_int_config *c, hlwq_error *err)
{
    char *path, *text = hf->config_text;
    uint64_t bytes = hf->config_bytes;
    hs_json *root;
    *c = (hs_int_config){.less_one = true};
    HS_TRY(hs_path_join(&hf->arena, hf->text_dir, "config.json", &path, err));
    HS_TRY(hs_json_parse(text, bytes, path, &root, err));
    bool there = hs_json_type_of(hs_json_get(root, "quantization_config")) == HS_JSON_OBJECT;
    hlwq_status st = take_config(c, hs_json_get(root, "quantization_config"), path, err);
    hs_json_free(root);
    if (st != HLWQ_OK || there)
        return st;
    HS_TRY(hs_path_join(&hf->arena, hf->dir, "quantize_config.json", &path, err));
    if (!hs_path_exists(path))
        return HLWQ_OK;
    HS_TRY(hs_file_text(&hf->arena, path, 16u << 20, &text, &bytes, err));
    HS_TRY(hs_json_parse(text, bytes, path, &root, err));
    st = take_config(c, root, path, err);
    hs_json_free(root);
    return st;
}

hlwq_status hs_int_wrong(const hs_hf *hf, const hs_raw *r, const char *what, uint64_t got, uint64_t want,
                         hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: %s is %" PRIu64 ", should be %" PRIu64, hf->path[r->file],
                   r->entry.name, what, got, want);
}

/* ---- fields --------------------------------------------------------------------------------- */

/* Field i of a stream whose words stand `stride` apart. */
static inline uint32_t field(const uint32_t *word, size_t stride, uint64_t i, uint32_t bits)
{
    uint64_t at = i * bits / 32;
    uint32_t off = (uint32_t)(i * bits % 32), v = word[at * stride] >> off;
    if (off + bits > 32)
        v |= word[(at + 1) * stride] << (32 - off);
    return v & ((1u << bits) - 1);
}

/*
 * What GPTQModel adds to word number `word` of a row of zero points of the first version, as it subtracted it: carries
 * between fields undo the borrows.  Its three-bit constants are not ones in every field, but what it writes itself.
 */
static uint32_t plus_one(uint32_t bits, uint64_t word)
{
    static const uint32_t three[] = {0x24924924u, 0x92492492u, 0x49249249u};
    return bits == 2 ? 0x55555555u : bits == 3 ? three[word % 3] : bits == 4 ? 0x11111111u : 0x01010101u;
}

static hlwq_status read_range(const hs_hf *hf, const hs_range *r, uint64_t offset, void *out, uint64_t bytes,
                              hlwq_error *err)
{
    assert(offset + bytes <= r->bytes);
    return hs_file_read(&hf->file[r->file], r->offset + offset, out, bytes, hf->path[r->file], err);
}

/* ---- index ---------------------------------------------------------------------------------- */

hlwq_status hs_hf_read_index(const hs_hf *hf, const hs_tensor *t, uint32_t *group_of, hlwq_error *err)
{
    const hs_range *r = &t->ints.index;
    uint64_t cols = t->dim[1];
    if (r->bytes == 0) {
        for (uint64_t c = 0; c < cols; c++)
            group_of[c] = (uint32_t)hs_min_u64(c / t->ints.group, t->ints.groups - 1);
        return HLWQ_OK;
    }
    HS_TRY(read_range(hf, r, 0, group_of, cols * 4, err));
    for (uint64_t c = 0; c < cols; c++)
        if (group_of[c] >= t->ints.groups)
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s: g_idx of input %" PRIu64 " is %" PRId32 ", but there are %u groups",
                           hf->path[r->file], t->name, c, (int32_t)group_of[c], t->ints.groups);
    return HLWQ_OK;
}

/* Sizes of the groups: one for all but a shorter last one, or none; every group has an input. */
static hlwq_status judge_index(const hs_hf *hf, hs_tensor *t, const uint32_t *group_of, uint32_t *count,
                               hlwq_error *err)
{
    hs_ints *q = &t->ints;
    q->ordered = false;
    for (uint64_t c = 0; c < t->dim[1]; c++) {
        count[group_of[c]]++;
        q->ordered = q->ordered || (c && group_of[c] < group_of[c - 1]);
    }
    q->group = count[0];
    for (uint32_t g = 0; g < q->groups; g++) {
        if (count[g] == 0)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: g_idx gives group %u of %u no input",
                           hf->path[q->index.file], t->name, g, q->groups);
        if (g + 1 < q->groups ? count[g] != count[0] : count[g] > count[0])
            q->group = 0;
    }
    return HLWQ_OK;
}

/* True if all of the words are zero points of 8. */
static hlwq_status all_eight(const hs_hf *hf, const hs_tensor *t, uint32_t *word, uint64_t room, bool *yes,
                             hlwq_error *err)
{
    const hs_range *r = &t->ints.zeros;
    *yes = true;
    for (uint64_t at = 0; *yes && at < r->bytes; at += room) {
        uint64_t n = hs_min_u64(room, r->bytes - at);
        HS_TRY(read_range(hf, r, at, word, n, err));
        for (uint64_t i = 0; i < n / 4; i++)
            *yes = *yes && word[i] + (t->ints.less_one ? plus_one(4, 0) : 0) == 0x88888888u;
    }
    return HLWQ_OK;
}

/* The packed type with the same numbers, if there is one. */
static hs_dtype native(const hs_ints *q)
{
    if (q->bits != 4 || q->scale == HS_F32 || q->group == 0)
        return HS_F32;
    if (q->group % 128 == 0 || q->groups == 1)
        return q->symmetric ? HS_I4 : HS_I4Z;
    if (q->group % 64 == 0)
        return q->symmetric ? HS_I4G64 : HS_I4G64Z;
    return HS_F32;
}

hlwq_status hs_int_settle(hs_hf *hf, hs_tensor *t, hlwq_error *err)
{
    hs_ints *q = &t->ints;
    uint64_t cols = t->dim[1], room = 65536;
    void *p;
    HS_TRY(hs_mem_alloc(hf->arena.mem, HS_MEM_TABLE, cols * 4 + (uint64_t)q->groups * 4 + room, "index", &p, err));
    uint32_t *group_of = p, *count = group_of + cols, *word = count + q->groups;
    memset(count, 0, (size_t)q->groups * 4);
    hlwq_status st = HLWQ_OK;
    if (q->index.bytes) {
        st = hs_hf_read_index(hf, t, group_of, err);
        if (st == HLWQ_OK)
            st = judge_index(hf, t, group_of, count, err);
    }
    q->symmetric = q->zeros.bytes == 0;
    if (st == HLWQ_OK && q->zeros.bytes && q->bits == 4)
        st = all_eight(hf, t, word, room, &q->symmetric, err);
    hs_mem_free(hf->arena.mem, p);
    t->dtype = native(q);
    return st;
}

/* ---- rows ----------------------------------------------------------------------------------- */

static uint64_t words_of(const hs_tensor *t)
{
    return hs_ceil_div(t->dim[1] * t->ints.bits, 32);
}

uint64_t hs_hf_ints_bytes(const hs_tensor *t, uint64_t rows)
{
    const uint64_t groups = t->ints.groups;
    return words_of(t) * rows * 4 + (rows + 32) * groups * 4 + rows * groups * 5 + 64;
}

/* Bytes first..first + bytes - 1 of each of n lines, one behind the other. */
static hlwq_status read_columns(const hs_hf *hf, const hs_range *r, uint64_t n, uint64_t line, uint64_t first,
                                uint64_t bytes, void *out, hlwq_error *err)
{
    if (bytes == line)
        return read_range(hf, r, 0, out, n * line, err);
    for (uint64_t i = 0; i < n; i++)
        HS_TRY(read_range(hf, r, i * line + first, (uint8_t *)out + i * bytes, bytes, err));
    return HLWQ_OK;
}

/* The scales of a group, one a row, to where rows are `stride` apart. */
static void turn_scales(hs_dtype dtype, const uint8_t *raw, uint64_t rows, uint64_t stride, float *scale)
{
    float some[64];
    for (uint64_t r = 0; r < rows; r += 64) {
        const uint64_t n = hs_min_u64(64, rows - r);
        hs_to_f32(some, raw + r * hs_dtype_bytes(dtype), dtype, n);
        for (uint64_t i = 0; i < n; i++)
            scale[(r + i) * stride] = some[i];
    }
}

static hlwq_status read_scales(const hs_hf *hf, const hs_tensor *t, uint64_t first, uint64_t rows, uint8_t *raw,
                               float *scale, hlwq_error *err)
{
    const uint64_t groups = t->ints.groups, item = hs_dtype_bytes(t->ints.scale), all = t->dim[0];
    if (t->encoding == HS_ENC_COMPRESSED) {
        HS_TRY(read_range(hf, &t->norms, first * groups * item, raw, rows * groups * item, err));
        hs_to_f32(scale, raw, t->ints.scale, rows * groups);
    } else {
        HS_TRY(read_columns(hf, &t->norms, groups, all * item, first * item, rows * item, raw, err));
        for (uint64_t g = 0; g < groups; g++)
            turn_scales(t->ints.scale, raw + g * rows * item, rows, groups, scale + g);
    }
    float limit = hs_dtype_packed(t->dtype) ? 65504.0f : 3e38f;
    for (uint64_t i = 0; i < rows * groups; i++)
        if (!(fabsf(scale[i]) <= limit))
            return hs_fail(
                err, HLWQ_ERR_FORMAT,
                "%s: tensor %.200s: the scale of row %" PRIu64 ", group %" PRIu64 " is %g, not finite or above %g",
                hf->path[t->norms.file], t->name, first + i / groups, i % groups, (double)scale[i], (double)limit);
    return HLWQ_OK;
}

static hlwq_status read_zeros(const hs_hf *hf, const hs_tensor *t, uint64_t first, uint64_t rows, uint32_t *raw,
                              uint8_t *zero, hlwq_error *err)
{
    const hs_ints *q = &t->ints;
    const uint64_t groups = q->groups, from = first * q->bits / 32, to = hs_ceil_div((first + rows) * q->bits, 32);
    if (q->zeros.bytes == 0) {
        memset(zero, 1 << (q->bits - 1), rows * groups);
        return HLWQ_OK;
    }
    if (t->encoding == HS_ENC_COMPRESSED) {
        HS_TRY(read_range(hf, &q->zeros, from * groups * 4, raw, (to - from) * groups * 4, err));
        for (uint64_t i = 0; i < rows * groups; i++)
            zero[i] = (uint8_t)field(raw + i % groups, groups, i / groups, q->bits);
        return HLWQ_OK;
    }
    const uint64_t line = t->dim[0] * q->bits / 32;
    HS_TRY(read_columns(hf, &q->zeros, groups, line * 4, from * 4, (to - from) * 4, raw, err));
    for (uint64_t g = 0; g < groups; g++, raw += to - from) {
        for (uint64_t i = 0; q->less_one && i < to - from; i++)
            raw[i] += plus_one(q->bits, from + i);
        for (uint64_t r = 0; r < rows; r++)
            zero[r * groups + g] = (uint8_t)field(raw, 1, r, q->bits);
    }
    return HLWQ_OK;
}

hlwq_status hs_hf_read_ints(const hs_hf *hf, const hs_tensor *t, uint64_t first, uint64_t rows, void *buffer,
                            hs_int_rows *out, hlwq_error *err)
{
    const uint64_t words = words_of(t), all = t->dim[0], groups = t->ints.groups;
    assert(first % 32 == 0 && first + rows <= all); /* so that fields of zero points begin with a word */
    uint32_t *word = buffer, *raw = word + words * rows;
    float *scale = (float *)(void *)(raw + (rows + 32) * groups);
    uint8_t *zero = (uint8_t *)(scale + rows * groups);
    *out = (hs_int_rows){.word = word, .scale = scale, .zero = zero};
    if (t->encoding == HS_ENC_COMPRESSED)
        HS_TRY(read_range(hf, &t->data, first * words * 4, word, words * rows * 4, err));
    else
        HS_TRY(read_columns(hf, &t->data, words, all * 4, first * 4, rows * 4, word, err));
    out->row_stride = t->encoding == HS_ENC_COMPRESSED ? words : 1;
    out->word_stride = t->encoding == HS_ENC_COMPRESSED ? 1 : rows;
    HS_TRY(read_scales(hf, t, first, rows, (uint8_t *)raw, scale, err));
    return read_zeros(hf, t, first, rows, raw, zero, err);
}

void hs_int_codes(const hs_tensor *t, const hs_int_rows *rows, uint64_t row, uint8_t *code)
{
    const uint32_t *word = rows->word + row * rows->row_stride, bits = t->ints.bits;
    uint64_t cols = t->dim[1], c = 0;
    if (bits == 4)
        for (; c + 8 <= cols; c += 8, word += rows->word_stride) {
            const uint64_t eight = hs_spread_fields(*word, 4);
            memcpy(code + c, &eight, 8);
        }
    word = rows->word + row * rows->row_stride;
    for (; c < cols; c++)
        code[c] = (uint8_t)field(word, rows->word_stride, c, bits);
}

/* ---- what to call it ------------------------------------------------------------------------ */

static bool is_ints(const hs_tensor *t)
{
    return t->encoding == HS_ENC_GPTQ || t->encoding == HS_ENC_COMPRESSED;
}

static uint64_t parameters(const hs_tensor *t)
{
    return t->dim[0] * t->dim[1];
}

static bool same_form(const hs_tensor *a, const hs_tensor *b)
{
    return a->encoding == b->encoding && a->ints.bits == b->ints.bits && a->ints.group == b->ints.group &&
           (a->ints.groups > 1) == (b->ints.groups > 1) && a->ints.ordered == b->ints.ordered &&
           a->ints.symmetric == b->ints.symmetric && a->ints.less_one == b->ints.less_one;
}

static void say_form(char *out, size_t capacity, const hs_tensor *t)
{
    const hs_ints *q = &t->ints;
    char group[40];
    snprintf(group, sizeof group,
             q->groups == 1 ? "per channel"
             : q->group     ? "group %u"
                            : "irregular groups",
             q->group);
    const char *zeros = q->bits != 4 ? "" : q->symmetric ? ", symmetric" : ", zero points";
    if (t->encoding == HS_ENC_GPTQ)
        snprintf(out, capacity, "GPTQ%s %u bit, %s%s%s", q->less_one ? "" : " v2", q->bits, group,
                 q->ordered ? ", desc_act" : "", zeros);
    else
        snprintf(out, capacity, "compressed-tensors %u bit, %s%s%s", q->bits, group, q->ordered ? ", actorder" : "",
                 zeros);
}

/* Of at most 16 forms, the one with most parameters. */
static const hs_tensor *main_form(const hs_hf *hf, bool *several)
{
    const hs_tensor *form[16] = {NULL};
    uint64_t size[16] = {0};
    uint32_t n = 0, most = 0;
    for (uint32_t i = 0; i < hf->n_tensors; i++) {
        uint32_t k = 0;
        if (!is_ints(&hf->tensor[i]))
            continue;
        while (k < n && !same_form(form[k], &hf->tensor[i]))
            k++;
        if (k == 16)
            continue;
        n = k == n ? n + 1 : n;
        form[k] = form[k] ? form[k] : &hf->tensor[i];
        size[k] += parameters(&hf->tensor[i]);
        most = size[k] > size[most] ? k : most;
    }
    *several = n > 1;
    return form[most];
}

hlwq_status hs_int_describe(hs_hf *hf, const hs_log *log, const char **format, hlwq_error *err)
{
    char text[240], form[120], *copy;
    bool several;
    uint32_t all = 0, widened = 0;
    const hs_tensor *most = main_form(hf, &several), *wide = NULL;
    *format = NULL;
    if (!most)
        return HLWQ_OK;
    for (uint32_t i = 0; i < hf->n_tensors; i++) {
        const hs_tensor *t = &hf->tensor[i];
        all += is_ints(t);
        widened += is_ints(t) && !hs_dtype_packed(t->dtype);
        if (is_ints(t) && !hs_dtype_packed(t->dtype))
            wide = t;
    }
    say_form(form, sizeof form, most);
    int n = snprintf(text, sizeof text, "%s%s", form, several ? " and others" : "");
    if (widened) {
        snprintf(text + n, sizeof text - (size_t)n, "; %u of %u matrices dequantised", widened, all);
        say_form(form, sizeof form, wide);
        hs_log_line(log, HLWQ_LOG_WARN,
                    "%s: %u of %u quantised matrices have no packed form here and are dequantised,"
                    " as %s (%s)",
                    hf->dir, widened, all, wide->name, form);
    }
    HS_TRY(hs_arena_text(&hf->arena, text, strlen(text), &copy, err));
    *format = copy;
    return HLWQ_OK;
}
