/*
 * model/export.c - lists the tensors of a directory, writes their headers, then streams them: one extent in memory.
 *
 * Matrices of a packed type are decoded and, for the integer formats, coded to the nearest integers; those that are
 * such integers already keep them.  Routers, gates and what does not divide into groups stays 16-bit, and the config
 * says so.
 */
#include "model/export.h"

#include "base/json.h"
#include "base/size.h"
#include "base/text.h"
#include "kernels/int4.h"
#include "kernels/matrix.h"
#include "loader/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SHARD_BYTES (5ull << 30)
enum { NAME_BYTES = 200, SHARDS_MAX = 1024 };

/* What a tensor of the directory holds of its part. */
typedef enum content { PLAIN, FUSED, CODES, SCALES, SHAPE, ZEROS, INDEX } content;

typedef struct item {
    char name[NAME_BYTES];
    const char *dtype;
    uint64_t dim[3];
    uint32_t rank;
    uint64_t bytes;
    uint32_t group, extent, part;
    content content;
    uint32_t shard;
} item;

/* A matrix as integers, in the order of its inputs: what both formats are written from. */
typedef struct ints {
    uint32_t rows, cols, groups, group;
    bool zeros, ordered;
    uint8_t *code;                         /* [rows][cols] */
    uint16_t *scale;                       /* [rows][groups] */
    uint8_t *zero;                         /* likewise */
    uint32_t *index;                       /* [cols] */
    uint32_t of_group, of_extent, of_part; /* what it is now; of_group UINT32_MAX: nothing */
} ints;

typedef struct writer {
    hs_store *store;
    const hs_table *table;
    hs_mem *mem;
    hs_pool *pool;
    const hs_export *o;
    hlwq_error *err;
    const char *dir, *prefix;
    hs_arena arena;
    item *list;
    uint32_t n, room, shards;
    uint8_t *extent;
    uint32_t in_group, in_extent;
    float *row;
    ints now;
    uint64_t done, total;
} writer;

/* ---- which tensors -------------------------------------------------------------------------- */

static bool is_experts(const hs_group *g)
{
    return g->kind == HS_GROUP_EXPERTS || g->kind == HS_GROUP_MTP_EXPERTS;
}

/* The integer type that a part is written in, F32 for none. */
static hs_dtype ints_of(const writer *w, const hs_group *g, const hs_part *p)
{
    if (w->o->kind == HS_EXPORT_BF16 || hs_role_class_of(p->role) != HS_CLASS_MATRIX || g->kind == HS_GROUP_MTP_LAYER ||
        g->kind == HS_GROUP_MTP_EXPERTS)
        return HS_F32;
    hs_dtype d = hs_dtype_int4(p->dtype) && !(w->o->kind == HS_EXPORT_GPTQ && hs_dtype_zeros(p->dtype)) ? p->dtype
                                                                                                        : w->o->format;
    return p->cols % hs_dtype_group(d) == 0 && p->rows % 8 == 0 ? d : HS_F32;
}

static item *add(writer *w, uint32_t g, uint32_t e, uint32_t p, content what, const char *dtype, uint32_t item_bytes,
                 uint64_t rows, uint64_t cols)
{
    item *i = &w->list[w->n++];
    *i = (item){.dtype = dtype,
                .dim = {rows, cols},
                .rank = cols ? 2 : 1,
                .bytes = rows * (cols ? cols : 1) * item_bytes,
                .group = g,
                .extent = e,
                .part = p,
                .content = what};
    return i;
}

/* "model.layers.0.mlp.up_proj" + ending, in place of ".weight" where the ending is of a module. */
static void name_item(const writer *w, item *i, const char *ending)
{
    const hs_group *g = &w->table->group[i->group];
    char own[NAME_BYTES - 40];
    hs_part_name(own, sizeof own, g, i->extent, g->part[i->part].role);
    size_t n = strlen(own);
    if (ending && n > 7 && strcmp(own + n - 7, ".weight") == 0)
        own[n - 7] = 0;
    bool bare = strncmp(own, "lm_head", 7) == 0 || strncmp(own, "mtp.", 4) == 0;
    snprintf(i->name, sizeof i->name, "%s%s%s", bare ? "" : w->prefix, own, ending ? ending : "");
}

static void add_ints(writer *w, uint32_t g, uint32_t e, uint32_t k, hs_dtype d)
{
    const hs_part *p = &w->table->group[g].part[k];
    const uint64_t groups = p->cols / hs_dtype_group(d);
    const bool gptq = w->o->kind == HS_EXPORT_GPTQ;
    if (gptq) {
        name_item(w, add(w, g, e, k, CODES, "I32", 4, p->cols / 8, p->rows), ".qweight");
        name_item(w, add(w, g, e, k, ZEROS, "I32", 4, groups, p->rows / 8), ".qzeros");
        name_item(w, add(w, g, e, k, SCALES, "F16", 2, groups, p->rows), ".scales");
        name_item(w, add(w, g, e, k, INDEX, "I32", 4, p->cols, 0), ".g_idx");
        return;
    }
    name_item(w, add(w, g, e, k, CODES, "I32", 4, p->rows, p->cols / 8), ".weight_packed");
    name_item(w, add(w, g, e, k, SCALES, "F16", 2, p->rows, groups), ".weight_scale");
    name_item(w, add(w, g, e, k, SHAPE, "I64", 8, 2, 0), ".weight_shape");
    if (hs_dtype_zeros(d))
        name_item(w, add(w, g, e, k, ZEROS, "I32", 4, p->rows / 8, groups), ".weight_zero_point");
    if (p->ordered && hs_dtype_int4(p->dtype))
        name_item(w, add(w, g, e, k, INDEX, "I32", 4, p->cols, 0), ".weight_g_idx");
}

/* Vectors keep fp32; other matrices BF16, or F16 where they are that. */
static void add_plain(writer *w, uint32_t g, uint32_t e, uint32_t k)
{
    const hs_part *p = &w->table->group[g].part[k];
    const bool vector = hs_role_class_of(p->role) == HS_CLASS_VECTOR;
    const char *dtype = vector ? "F32" : p->dtype == HS_F16 ? "F16" : "BF16";
    item *i = add(w, g, e, k, PLAIN, dtype, vector ? 4 : 2, p->rows, p->cols);
    if (p->role == HS_CONV) {
        i->rank = 3;
        i->dim[1] = 1;
        i->dim[2] = p->cols;
    } else if (vector) {
        i->rank = 1;
        i->dim[0] = p->cols;
    }
    name_item(w, i, NULL);
}

/* gate_up_proj [experts][2 * width][hidden] and down_proj, as transformers has them. */
static void add_fused(writer *w, uint32_t g)
{
    const hs_group *group = &w->table->group[g];
    for (uint32_t k = 0; k < group->n_parts; k++) {
        const hs_part *p = &group->part[k];
        if (p->role == HS_UP)
            continue;
        uint64_t rows = p->role == HS_GATE ? 2 * (uint64_t)p->rows : p->rows;
        item *i = add(w, g, 0, k, FUSED, "BF16", 2, group->count * rows, p->cols);
        i->rank = 3;
        i->dim[0] = group->count;
        i->dim[1] = rows;
        i->dim[2] = p->cols;
        char at[60];
        snprintf(at, sizeof at, group->kind == HS_GROUP_EXPERTS ? "layers.%u" : "mtp.layers.0", group->layer);
        snprintf(i->name, sizeof i->name, "%s%s.mlp.experts.%s", group->kind == HS_GROUP_EXPERTS ? w->prefix : "", at,
                 p->role == HS_GATE ? "gate_up_proj" : "down_proj");
    }
}

static hlwq_status list_items(writer *w)
{
    uint64_t room = 0, in_shard = 0;
    void *p;
    for (uint32_t g = 0; g < w->table->n_groups; g++)
        room += (uint64_t)w->table->group[g].count * w->table->group[g].n_parts * 5;
    HS_TRY(hs_arena_array(&w->arena, room, sizeof(item), &p, w->err));
    w->list = p;
    for (uint32_t g = 0; g < w->table->n_groups; g++) {
        const hs_group *group = &w->table->group[g];
        if (is_experts(group) && (w->o->kind == HS_EXPORT_BF16 || group->kind == HS_GROUP_MTP_EXPERTS)) {
            add_fused(w, g);
            continue;
        }
        for (uint32_t e = 0; e < group->count; e++)
            for (uint32_t k = 0; k < group->n_parts; k++) {
                hs_dtype d = ints_of(w, group, &group->part[k]);
                if (d == HS_F32)
                    add_plain(w, g, e, k);
                else
                    add_ints(w, g, e, k, d);
            }
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (in_shard && in_shard + w->list[i].bytes > SHARD_BYTES) {
            w->shards++;
            in_shard = 0;
        }
        w->list[i].shard = w->shards;
        in_shard += w->list[i].bytes;
        w->total += w->list[i].bytes;
    }
    w->shards++;
    return HLWQ_OK;
}

/* ---- numbers -------------------------------------------------------------------------------- */

static hlwq_status need_extent(writer *w, uint32_t g, uint32_t e)
{
    if (w->in_group == g && w->in_extent == e)
        return HLWQ_OK;
    w->in_group = UINT32_MAX;
    HS_TRY(hs_store_load(w->store, g, e, w->pool, true, w->extent, w->err));
    w->in_group = g;
    w->in_extent = e;
    return HLWQ_OK;
}

/* Row r of a part as fp32, in the order of its inputs. `row` has room for twice as many. */
static void decode_row(const writer *w, const hs_part *p, uint32_t r, float *row)
{
    const hs_codebook *book = hs_dtype_rotated(p->dtype) ? hs_store_book(w->store, p->book) : NULL;
    hs_matrix m = hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, w->extent + p->offset, book);
    float *columns = m.order ? row + p->cols : row;
    if (hs_dtype_packed(p->dtype))
        hs_decode_row(p->dtype, book, m.low, p->rows, p->cols, r, columns);
    else
        hs_to_f32(columns, m.low + (size_t)r * p->cols * hs_dtype_bytes(p->dtype), p->dtype, p->cols);
    for (uint32_t c = 0; m.factor && c < p->cols; c++)
        columns[c] *= m.factor[c];
    for (uint32_t c = 0; m.order && c < p->cols; c++)
        row[hs_input_of(&m, c)] = columns[c];
}

/* Integers that are there: taken as they are, put back into the order of the inputs. */
static void take_ints(writer *w, const hs_part *p)
{
    ints *n = &w->now;
    hs_matrix m = hs_matrix_at(p->dtype, p->rows, p->cols, &p->planes, w->extent + p->offset, NULL);
    for (uint32_t c = 0; c < n->cols; c++)
        n->index[m.order ? hs_input_of(&m, c) : c] = c / n->group;
    for (uint32_t r = 0; r < n->rows; r++) {
        for (uint32_t b = 0; b < m.blocks; b++) {
            uint8_t code[HS_BLOCK];
            hs_int4_unpack_block(m.low + ((size_t)r * m.blocks + b) * m.low_block, code);
            for (uint32_t i = 0; i < HS_BLOCK && b * HS_BLOCK + i < n->cols; i++) {
                uint32_t c = b * HS_BLOCK + i;
                n->code[(size_t)r * n->cols + (m.order ? hs_input_of(&m, c) : c)] = code[i];
            }
        }
        for (uint32_t g = 0; g < n->groups; g++) {
            memcpy(&n->scale[(size_t)r * n->groups + g], m.norms + ((size_t)r * m.groups + g) * 2, 2);
            n->zero[(size_t)r * n->groups + g] = m.zeros ? m.zeros[(size_t)r * m.groups + g] : HS_INT4_ZERO;
        }
    }
}

static hlwq_status make_ints(writer *w, const hs_part *p, bool zeros)
{
    ints *n = &w->now;
    for (uint32_t c = 0; c < n->cols; c++)
        n->index[c] = c / n->group;
    for (uint32_t r = 0; r < n->rows; r++) {
        decode_row(w, p, r, w->row);
        for (uint32_t g = 0; g < n->groups; g++) {
            size_t at = (size_t)r * n->groups + g;
            HS_TRY(hs_int4_encode_group(zeros, w->row + (size_t)g * n->group, n->group,
                                        n->code + (size_t)r * n->cols + (size_t)g * n->group, &n->scale[at],
                                        &n->zero[at], w->err));
            if (!zeros)
                n->zero[at] = HS_INT4_ZERO;
        }
    }
    return HLWQ_OK;
}

/* w->now becomes the part's integers. */
static hlwq_status need_ints(writer *w, const item *i)
{
    const hs_group *g = &w->table->group[i->group];
    const hs_part *p = &g->part[i->part];
    const hs_dtype d = ints_of(w, g, p);
    ints *n = &w->now;
    if (n->of_group == i->group && n->of_extent == i->extent && n->of_part == i->part)
        return HLWQ_OK;
    n->of_group = UINT32_MAX;
    HS_TRY(need_extent(w, i->group, i->extent));
    n->rows = p->rows;
    n->cols = p->cols;
    n->group = hs_dtype_group(d);
    n->groups = p->cols / n->group;
    if (d == p->dtype)
        take_ints(w, p);
    else
        HS_TRY(make_ints(w, p, hs_dtype_zeros(d)));
    n->of_group = i->group;
    n->of_extent = i->extent;
    n->of_part = i->part;
    return HLWQ_OK;
}

/* ---- writing -------------------------------------------------------------------------------- */

static hlwq_status write_rows(writer *w, hs_output *out, const hs_part *p, const char *dtype)
{
    const bool wide = strcmp(dtype, "F32") == 0, half = strcmp(dtype, "F16") == 0;
    for (uint32_t r = 0; r < p->rows; r++) {
        decode_row(w, p, r, w->row);
        uint16_t *narrow = (uint16_t *)(void *)w->row; /* behind the reader */
        for (uint32_t c = 0; !wide && c < p->cols; c++) {
            float v = w->row[c];
            narrow[c] = half ? hs_f32_to_f16(v) : hs_f32_to_bf16(v);
        }
        HS_TRY(hs_output_write(out, w->row, (uint64_t)p->cols * (wide ? 4 : 2), w->err));
    }
    return HLWQ_OK;
}

static hlwq_status write_fused(writer *w, hs_output *out, const item *i)
{
    const hs_group *g = &w->table->group[i->group];
    for (uint32_t e = 0; e < g->count; e++) {
        HS_TRY(need_extent(w, i->group, e));
        HS_TRY(write_rows(w, out, &g->part[i->part], i->dtype));
        if (g->part[i->part].role == HS_GATE)
            HS_TRY(write_rows(w, out, hs_group_find(g, HS_UP), i->dtype));
    }
    return HLWQ_OK;
}

/* Eight codes a word, from the lowest bits up; `stride` from one to the next. */
static uint32_t word_of(const uint8_t *code, size_t stride)
{
    uint32_t v = 0;
    for (int k = 7; k >= 0; k--)
        v = v << 4 | (code[(size_t)k * stride] & 15u);
    return v;
}

static hlwq_status write_words(writer *w, hs_output *out, const item *i)
{
    const ints *n = &w->now;
    const bool gptq = w->o->kind == HS_EXPORT_GPTQ;
    uint32_t *line = (uint32_t *)(void *)w->row;
    for (uint64_t r = 0; r < i->dim[0]; r++) {
        for (uint64_t c = 0; c < i->dim[1]; c++)
            line[c] = gptq ? word_of(n->code + c * n->cols + r * 8, 1) : word_of(n->code + r * n->cols + c * 8, 1);
        HS_TRY(hs_output_write(out, line, i->dim[1] * 4, w->err));
    }
    return HLWQ_OK;
}

/* GPTQ's first version stores them less one. */
static hlwq_status write_zeros(writer *w, hs_output *out, const item *i)
{
    const ints *n = &w->now;
    uint32_t *line = (uint32_t *)(void *)w->row;
    for (uint64_t r = 0; r < i->dim[0]; r++) {
        for (uint64_t c = 0; c < i->dim[1]; c++)
            line[c] = w->o->kind == HS_EXPORT_GPTQ ? 0x77777777u : word_of(n->zero + r * 8 * n->groups + c, n->groups);
        HS_TRY(hs_output_write(out, line, i->dim[1] * 4, w->err));
    }
    return HLWQ_OK;
}

static hlwq_status write_scales(writer *w, hs_output *out, const item *i)
{
    const ints *n = &w->now;
    uint16_t *line = (uint16_t *)(void *)w->row;
    if (w->o->kind != HS_EXPORT_GPTQ)
        return hs_output_write(out, n->scale, i->bytes, w->err);
    for (uint32_t g = 0; g < n->groups; g++) {
        for (uint32_t r = 0; r < n->rows; r++)
            line[r] = n->scale[(size_t)r * n->groups + g];
        HS_TRY(hs_output_write(out, line, (uint64_t)n->rows * 2, w->err));
    }
    return HLWQ_OK;
}

static hlwq_status write_item(writer *w, hs_output *out, const item *i)
{
    const hs_part *p = &w->table->group[i->group].part[i->part];
    const int64_t shape[2] = {p->rows, p->cols};
    if (i->content == FUSED)
        return write_fused(w, out, i);
    if (i->content == PLAIN) {
        HS_TRY(need_extent(w, i->group, i->extent));
        return write_rows(w, out, p, i->dtype);
    }
    HS_TRY(need_ints(w, i));
    switch (i->content) {
    case CODES: return write_words(w, out, i);
    case SCALES: return write_scales(w, out, i);
    case ZEROS: return write_zeros(w, out, i);
    case INDEX: return hs_output_write(out, w->now.index, i->bytes, w->err);
    default: return hs_output_write(out, shape, sizeof shape, w->err);
    }
}

static void shard_file(const writer *w, uint32_t shard, char name[64])
{
    if (w->shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05u-of-%05u.safetensors", shard + 1, w->shards);
}

static void header_text(const writer *w, uint32_t shard, hs_text *t)
{
    uint64_t at = 0;
    hs_text_format(t, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = 0; i < w->n; i++) {
        const item *k = &w->list[i];
        char shape[200];
        if (k->shard != shard)
            continue;
        hs_shape_text(shape, sizeof shape, k->dim, k->rank);
        hs_text_format(t, ",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", k->name,
                       k->dtype, shape, at, at + k->bytes);
        at += k->bytes;
    }
    hs_text_add(t, "}", 1);
    while (t->bytes % 8 && !t->failed)
        hs_text_add(t, " ", 1);
}

static hlwq_status write_shard(writer *w, uint32_t shard)
{
    char name[64], *path;
    hs_output out;
    hs_text t = {0};
    shard_file(w, shard, name);
    HS_TRY(hs_path_join(&w->arena, w->dir, name, &path, w->err));
    HS_TRY(hs_output_open(&out, path, w->o->overwrite, w->err));
    header_text(w, shard, &t);
    uint64_t bytes = t.bytes;
    hlwq_status st = t.failed ? hs_fail(w->err, HLWQ_ERR_NOMEM, "no memory for the header of %s", path)
                              : hs_output_write(&out, &bytes, 8, w->err);
    if (st == HLWQ_OK)
        st = hs_output_write(&out, t.data, bytes, w->err);
    hs_text_close(&t);
    for (uint32_t i = 0; i < w->n && st == HLWQ_OK; i++) {
        if (w->list[i].shard != shard)
            continue;
        st = write_item(w, &out, &w->list[i]);
        w->done += w->list[i].bytes;
        if (st == HLWQ_OK && w->o->progress && !w->o->progress(w->o->user, w->done, w->total))
            st = hs_fail(w->err, HLWQ_ERR_CANCELLED, "convert was stopped; %s has no config.json yet", w->dir);
    }
    if (st == HLWQ_OK)
        return hs_output_commit(&out, w->err);
    hs_output_drop(&out);
    return st;
}

static hlwq_status write_text(writer *w, const char *name, const char *text, uint64_t bytes)
{
    char *path;
    hs_output out;
    HS_TRY(hs_path_join(&w->arena, w->dir, name, &path, w->err));
    HS_TRY(hs_output_open(&out, path, w->o->overwrite, w->err));
    hlwq_status st = hs_output_write(&out, text, bytes, w->err);
    if (st == HLWQ_OK)
        return hs_output_commit(&out, w->err);
    hs_output_drop(&out);
    return st;
}

static hlwq_status write_index(writer *w)
{
    hs_text t = {0};
    char name[64];
    if (w->shards == 1)
        return HLWQ_OK;
    hs_text_format(&t, "{\"metadata\":{\"total_size\":%" PRIu64 "},\"weight_map\":{", w->total);
    for (uint32_t i = 0; i < w->n; i++) {
        shard_file(w, w->list[i].shard, name);
        hs_text_format(&t, "%s\"%s\":\"%s\"", i ? "," : "", w->list[i].name, name);
    }
    hs_text_format(&t, "}}");
    hlwq_status st = t.failed ? hs_fail(w->err, HLWQ_ERR_NOMEM, "no memory for an index")
                              : write_text(w, "model.safetensors.index.json", t.data, t.bytes);
    hs_text_close(&t);
    return st;
}

/* ---- config --------------------------------------------------------------------------------- */

/* Modules that the integer formats leave alone, by the end of their names and, if they have to be, one by one. */
static void add_ignored(const writer *w, hs_text *t)
{
    hs_text_format(t, "\"ignore\":[\"lm_head\",\"re:.*in_proj_[ab]$\",\"re:.*mlp.gate$\",\"re:.*shared_expert_gate$\","
                      "\"re:.*mtp.*\",\"re:.*visual.*\"");
    for (uint32_t i = 0; i < w->n; i++) {
        const item *k = &w->list[i];
        const hs_group *g = &w->table->group[k->group];
        if (k->content == PLAIN && hs_role_class_of(g->part[k->part].role) == HS_CLASS_MATRIX &&
            g->kind != HS_GROUP_MTP_LAYER)
            hs_text_format(t, ",\"%.*s\"", (int)strlen(k->name) - 7, k->name);
    }
    hs_text_add(t, "]", 1);
}

static void add_quantization(const writer *w, hs_text *t)
{
    const hs_dtype d = w->o->format;
    const uint32_t group = hs_dtype_group(d);
    bool ordered = false;
    for (uint32_t i = 0; i < w->n; i++)
        ordered = ordered || w->list[i].content == INDEX;
    if (w->o->kind == HS_EXPORT_GPTQ)
        hs_text_format(t,
                       ",\"quantization_config\":{\"quant_method\":\"gptq\",\"checkpoint_format\":\"gptq\",\"bits\":4,"
                       "\"group_size\":%u,\"desc_act\":false,\"sym\":true,\"lm_head\":false,\"pack_dtype\":\"int32\"}",
                       group);
    else if (w->o->kind == HS_EXPORT_COMPRESSED) {
        hs_text_format(
            t,
            ",\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
            "\"quantization_status\":\"compressed\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],"
            "\"weights\":{\"num_bits\":4,\"type\":\"int\",\"symmetric\":%s,\"strategy\":\"group\","
            "\"group_size\":%u,\"actorder\":%s}}},",
            hs_dtype_zeros(d) ? "false" : "true", group, ordered ? "\"group\"" : "null");
        add_ignored(w, t);
        hs_text_add(t, "}", 1);
    }
}

/* The source's config with our quantization_config in the place of its own. */
static hlwq_status write_config(writer *w, const char *text, uint64_t bytes)
{
    hs_json *root;
    hs_text t = {0};
    HS_TRY(hs_json_parse(text, bytes, "config.json", &root, w->err));
    hs_text_add(&t, "{", 1);
    const char *comma = "";
    for (hs_json_iter *it = hs_json_first(root); it; it = hs_json_next(root, it)) {
        size_t n;
        const char *key = hs_json_key(it, &n);
        if (strcmp(key, "quantization_config") == 0)
            continue;
        hs_text_add(&t, comma, strlen(comma));
        hs_text_json(&t, key, n);
        hs_text_add(&t, ":", 1);
        hs_json_write(&t, hs_json_value(it));
        comma = ",";
    }
    hs_json_free(root);
    add_quantization(w, &t);
    hs_text_add(&t, "}\n", 2);
    hlwq_status st = t.failed ? hs_fail(w->err, HLWQ_ERR_NOMEM, "no memory for a config")
                              : write_text(w, "config.json", t.data, t.bytes);
    hs_text_close(&t);
    return st;
}

static hlwq_status write_texts(writer *w)
{
    static const struct {
        hs_blob blob;
        const char *name;
    } file[] = {{HS_BLOB_GENERATION, "generation_config.json"},
                {HS_BLOB_TOKENIZER, "tokenizer.json"},
                {HS_BLOB_TOKENIZER_CONFIG, "tokenizer_config.json"},
                {HS_BLOB_TEMPLATE, "chat_template.jinja"}};
    uint64_t bytes;
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        const char *text = hs_store_blob(w->store, file[i].blob, &bytes);
        if (text)
            HS_TRY(write_text(w, file[i].name, text, bytes));
    }
    const char *config = hs_store_blob(w->store, HS_BLOB_CONFIG, &bytes);
    return write_config(w, config, bytes);
}

/* ---- all of it ------------------------------------------------------------------------------ */

static hlwq_status make_room(writer *w)
{
    uint64_t extent = 0, weights = 1, widest = 1;
    void *p;
    for (uint32_t g = 0; g < w->table->n_groups; g++) {
        const hs_group *group = &w->table->group[g];
        extent = hs_max_u64(extent, group->bytes);
        for (uint32_t k = 0; k < group->n_parts; k++) {
            const hs_part *q = &group->part[k];
            widest = hs_max_u64(widest, hs_max_u64(q->rows, q->cols));
            if (ints_of(w, group, q) != HS_F32)
                weights = hs_max_u64(weights, (uint64_t)q->rows * q->cols);
        }
    }
    HS_TRY(hs_mem_alloc(w->mem, HS_MEM_IO, extent, "extent", &p, w->err));
    w->extent = p;
    HS_TRY(hs_arena_array(&w->arena, widest * 2, sizeof(float), &p, w->err));
    w->row = p;
    HS_TRY(hs_arena_array(&w->arena, weights, 1, &p, w->err));
    w->now.code = p;
    HS_TRY(hs_arena_array(&w->arena, weights / 64 + 1, 2, &p, w->err));
    w->now.scale = p;
    HS_TRY(hs_arena_array(&w->arena, weights / 64 + 1, 1, &p, w->err));
    w->now.zero = p;
    HS_TRY(hs_arena_array(&w->arena, widest, 4, &p, w->err));
    w->now.index = p;
    return HLWQ_OK;
}

static hlwq_status write_all(writer *w)
{
    uint64_t bytes;
    hs_json *root;
    const char *config = hs_store_blob(w->store, HS_BLOB_CONFIG, &bytes);
    HS_TRY(hs_json_parse(config, bytes, "config.json", &root, w->err));
    w->prefix = hs_json_get(root, "text_config") ? "model.language_model." : "model.";
    hs_json_free(root);
    if (mkdir(w->dir, 0777) != 0 && errno != EEXIST)
        return hs_fail(w->err, HLWQ_ERR_IO, "%s: %s", w->dir, strerror(errno));
    HS_TRY(list_items(w));
    HS_TRY(make_room(w));
    for (uint32_t s = 0; s < w->shards; s++)
        HS_TRY(write_shard(w, s));
    HS_TRY(write_index(w));
    return write_texts(w);
}

hlwq_status hs_export_write(hs_store *store, hs_mem *mem, hs_pool *pool, const char *dir, const hs_export *options,
                            hlwq_error *err)
{
    writer w = {.store = store,
                .table = hs_store_table(store),
                .mem = mem,
                .pool = pool,
                .o = options,
                .err = err,
                .dir = dir,
                .in_group = UINT32_MAX,
                .now = {.of_group = UINT32_MAX}};
    hs_arena_init(&w.arena, mem, HS_MEM_OTHER);
    hlwq_status st = write_all(&w);
    hs_mem_free(mem, w.extent);
    hs_arena_close(&w.arena);
    return st;
}
