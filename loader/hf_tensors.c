/*
 * loader/hf_tensors.c - from file tensors to the parameters of the model, under canonical names.
 */
#include "loader/formats/compressed.h"
#include "loader/formats/gptq.h"
#include "loader/formats/hlwq_packed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_raw_name(const void *a, const void *b)
{
    return strcmp(((const hs_raw *)a)->entry.name, ((const hs_raw *)b)->entry.name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const hs_tensor *)a)->name, ((const hs_tensor *)b)->name);
}

static bool begins(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* Without the prefix of the checkpoint's class. */
static const char *canonical(const char *name)
{
    static const char *const prefix[] = {"model.language_model.", "model."};
    for (int i = 0; i < 2; i++)
        if (begins(name, prefix[i]))
            return name + strlen(prefix[i]);
    return name;
}

/* Formats known by a prefix or by their companions' suffixes, not read by this version. */
static const char *foreign_format(const char *name)
{
    static const char *const suffix[][2] = {
        {".qzeros", "GPTQ"}, /* without a .qweight; so too the next one */
        {".weight_scale", "compressed-tensors or scaled FP8"},
        {".weight_scale_inv", "block-scaled FP8"},
        {".absmax", "bitsandbytes"},
        {".biases", "MLX"},
        {".codes", "PolarEngine"},
        {".codes_packed", "PolarEngine"},
        {".ct_scaled", "PolarEngine"},
        {".packed", "EOQ v3"},
        {"__codes", "HLWQ int8"},
        {"__packed", "PQ-multi"}, /* those with dots in front never come here */
    };
    if (begins(name, "language_model.model.")) /* its norms have 1 added: right shapes, wrong numbers */
        return "MLX";
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        size_t s = strlen(suffix[i][0]);
        if (n > s && strcmp(name + n - s, suffix[i][0]) == 0)
            return suffix[i][1];
    }
    return NULL;
}

static const hs_raw *find_raw(const hs_raw *raw, uint32_t n, const char *base, size_t base_bytes, const char *suffix)
{
    char name[HS_SAFETENSORS_NAME_MAX + 16];
    hs_raw key = {.entry = {.name = name}};
    snprintf(name, sizeof name, "%.*s%s", (int)base_bytes, base, suffix);
    return bsearch(&key, raw, n, sizeof *raw, by_raw_name);
}

static hlwq_status plain_tensor(const hs_hf *hf, const hs_raw *r, hs_tensor *t, hlwq_error *err)
{
    const hs_st_entry *e = &r->entry;
    if (e->rank > 4)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has %u dimensions, limit 4", hf->path[r->file], e->name,
                       e->rank);
    *t = (hs_tensor){
        .dtype = e->dtype, .encoding = HS_ENC_PLAIN, .rank = e->rank, .data = {r->file, e->offset, e->bytes}};
    memcpy(t->dim, e->dim, e->rank * sizeof *t->dim);
    return HLWQ_OK;
}

static bool ends(const char *name, const char *suffix, size_t *base)
{
    size_t n = strlen(name), s = strlen(suffix);
    if (n <= s || strcmp(name + n - s, suffix) != 0)
        return false;
    *base = n - s;
    return true;
}

/* True for a tensor that belongs to a matrix of integers: itself, which *made says, or beside it. */
static bool int_companion(const hs_raw *raw, uint32_t n, const char *name, size_t *base, bool *gptq, bool *made)
{
    static const char *const suffix[][2] = {
        {".qweight", ".qweight"},
        {".qzeros", ".qweight"},
        {".scales", ".qweight"},
        {".g_idx", ".qweight"},
        {".weight_packed", ".weight_packed"},
        {".weight_scale", ".weight_packed"},
        {".weight_shape", ".weight_packed"},
        {".weight_zero_point", ".weight_packed"},
        {".weight_g_idx", ".weight_packed"},
    };
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++)
        if (ends(name, suffix[i][0], base) && find_raw(raw, n, name, *base, suffix[i][1])) {
            *made = strcmp(suffix[i][0], suffix[i][1]) == 0;
            *gptq = i < 4;
            return true;
        }
    return false;
}

static hlwq_status int_tensor(hs_hf *hf, const hs_int_config *config, const hs_raw *raw, uint32_t n, uint32_t i,
                              size_t base, bool gptq, hs_tensor *t, hlwq_error *err)
{
    const char *name = raw[i].entry.name;
    if (gptq)
        HS_TRY(hs_gptq_tensor(hf, config, &raw[i], find_raw(raw, n, name, base, ".qzeros"),
                              find_raw(raw, n, name, base, ".scales"), find_raw(raw, n, name, base, ".g_idx"), t, err));
    else
        HS_TRY(hs_compressed_tensor(hf, config, &raw[i], find_raw(raw, n, name, base, ".weight_scale"),
                                    find_raw(raw, n, name, base, ".weight_shape"),
                                    find_raw(raw, n, name, base, ".weight_zero_point"),
                                    find_raw(raw, n, name, base, ".weight_g_idx"), t, err));
    char full[HS_SAFETENSORS_NAME_MAX + 16], *copy;
    size_t short_base;
    snprintf(full, sizeof full, "%.*s", (int)base, canonical(name));
    full[base - (size_t)(canonical(name) - name)] = 0;
    if (!ends(full, ".weight", &short_base)) /* some exporters write M.weight.weight_packed */
        strcat(full, ".weight");
    HS_TRY(hs_arena_text(&hf->arena, full, strlen(full), &copy, err));
    t->name = copy;
    return HLWQ_OK;
}

/* Sets *made false for file tensors that are only a companion of another. */
static hlwq_status make_tensor(hs_hf *hf, const hs_int_config *config, const hs_raw *raw, uint32_t n, uint32_t i,
                               hs_tensor *t, bool *made, hlwq_error *err)
{
    const char *name = raw[i].entry.name;
    size_t base = strlen(name);
    bool gptq;
    if (int_companion(raw, n, name, &base, &gptq, made))
        return *made ? int_tensor(hf, config, raw, n, i, base, gptq, t, err) : HLWQ_OK;
    base = strlen(name);
    *made = true;
    if (hs_hlwq_packed_name(name, &base) && strchr(name, '.')) {
        *made = strcmp(name + base, "__packed") == 0;
        if (!*made) {
            if (!find_raw(raw, n, name, base, "__packed"))
                return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has no __packed beside it",
                               hf->path[raw[i].file], name);
            return HLWQ_OK;
        }
        HS_TRY(hs_hlwq_packed_tensor(hf, &raw[i], find_raw(raw, n, name, base, "__norms"),
                                     find_raw(raw, n, name, base, "__meta"), t, err));
    } else {
        const char *format = foreign_format(name);
        if (format)
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s is of the %s format, which this version does not read",
                           hf->path[raw[i].file], name, format);
        HS_TRY(plain_tensor(hf, &raw[i], t, err));
    }
    char *copy;
    const char *short_name = canonical(name);
    HS_TRY(hs_arena_text(&hf->arena, short_name, base - (size_t)(short_name - name), &copy, err));
    if (t->encoding == HS_ENC_HLWQ_PACKED)
        hs_hlwq_slice_name(copy);
    t->name = copy;
    return HLWQ_OK;
}

static hlwq_status name_format(hs_hf *hf, const hs_log *log, hlwq_error *err)
{
    HS_TRY(hs_int_describe(hf, log, &hf->format, err));
    if (hf->format)
        return HLWQ_OK;
    uint64_t bytes[HS_DTYPE_COUNT] = {0};
    hs_dtype most = HS_F32;
    for (uint32_t i = 0; i < hf->n_tensors; i++)
        bytes[hf->tensor[i].dtype] += hf->tensor[i].data.bytes;
    for (int d = 0; d < HS_DTYPE_COUNT; d++)
        if (bytes[d] > bytes[most])
            most = (hs_dtype)d;
    static const char *const packed[] = {"HLWQ packed Q2", "HLWQ packed Q3", "HLWQ packed Q4", "HLWQ packed Q5",
                                         "HLWQ packed Q6"};
    hf->format = hs_dtype_rotated(most) ? packed[most - HS_Q2] : hs_dtype_name(most);
    return HLWQ_OK;
}

hlwq_status hs_hf_list_tensors(hs_hf *hf, const hs_raw *unsorted, uint32_t n, const hs_log *log, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_arena_array(&hf->arena, n, sizeof(hs_raw), &p, err));
    hs_raw *raw = p;
    if (n)
        memcpy(raw, unsorted, n * sizeof *raw);
    qsort(raw, n, sizeof *raw, by_raw_name);
    HS_TRY(hs_arena_array(&hf->arena, n, sizeof(hs_tensor), &p, err));
    hf->tensor = p;
    hs_int_config config;
    HS_TRY(hs_int_config_read(hf, &config, err));
    for (uint32_t i = 0; i < n; i++) {
        const char *name = raw[i].entry.name;
        if (i && strcmp(name, raw[i - 1].entry.name) == 0)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is a duplicate, it is also in %s",
                           hf->path[raw[i].file], name, hf->path[raw[i - 1].file]);
        if (begins(name, "model.visual.") || begins(name, "visual.")) {
            hf->n_skipped++;
            hf->skipped_bytes += raw[i].entry.bytes;
            continue;
        }
        bool made;
        HS_TRY(make_tensor(hf, &config, raw, n, i, &hf->tensor[hf->n_tensors], &made, err));
        hf->n_tensors += made;
    }
    if (hf->n_skipped)
        hs_log_line(log, HLWQ_LOG_INFO, "%s: %u vision tensors (%.1f MiB) are skipped", hf->dir, hf->n_skipped,
                    (double)hf->skipped_bytes / 1048576.0);
    qsort(hf->tensor, hf->n_tensors, sizeof *hf->tensor, by_name);
    for (uint32_t i = 1; i < hf->n_tensors; i++)
        if (strcmp(hf->tensor[i].name, hf->tensor[i - 1].name) == 0)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is a duplicate under two prefixes", hf->dir,
                           hf->tensor[i].name);
    HS_TRY(name_format(hf, log, err));
    return hs_hlwq_check_config(hf, err);
}

const hs_tensor *hs_hf_find(const hs_hf *hf, const char *name)
{
    hs_tensor key = {.name = name};
    return hf->n_tensors ? bsearch(&key, hf->tensor, hf->n_tensors, sizeof key, by_name) : NULL;
}
